//! Tests of the record and segment codecs, with the golden bytes that pin the format.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::{
    AckLevel, Bucket, Expiry, Hlc, KeyspaceId, Operation, RecordKind, RegionId, RequestId,
};

fn partition() -> PartitionId {
    PartitionId {
        keyspace: KeyspaceId::new(0x0102_0304),
        region: RegionId::new(0x0506).unwrap(),
        bucket: Bucket::new(7),
    }
}

fn epoch() -> Epoch {
    Epoch {
        counter: 1,
        node: NodeId::new(0x0a0b_0c0d).unwrap(),
    }
}

fn head(hlc: u64, level: AckLevel) -> RecordHead {
    RecordHead {
        kind: RecordKind::Write,
        level,
        hlc: Hlc::from_bits(hlc),
        generation: 0,
        request_id: RequestId::new(0x1111_2222).unwrap(),
    }
}

fn put(key: &str, value: &str, expires_at_ms: Option<u64>) -> Operation {
    let expiry = expires_at_ms.map(Expiry::AtMs);
    let (key, value) = (Bytes::from(key.to_owned()), Bytes::from(value.to_owned()));
    Operation::Put { key, value, expiry }
}

fn sample() -> Segment {
    let mut builder = SegmentBuilder::new(partition(), epoch(), Seq::new(41));
    let operations = [put("alice/name", "Ada", None)];
    builder.push(
        &head(99, AckLevel::Async),
        &RecordBody::encode(&operations).unwrap(),
    );
    let operations = [
        put("alice/pet", "cat", Some(1_700_000_000_000)),
        Operation::Delete {
            key: Bytes::from_static(b"alice/old"),
        },
    ];
    builder.push(
        &head(100, AckLevel::SYNC),
        &RecordBody::encode(&operations).unwrap(),
    );
    builder.finish(ChainHash::from_bits(0xfeed), Seq::new(40))
}

#[test]
fn golden_bytes_hold() {
    let hex: String = sample()
        .bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let golden = include_str!("golden/segment.hex");
    let golden: String = golden.split_whitespace().collect();
    assert_eq!(
        hex, golden,
        "the segment format changed: that needs a format version bump"
    );
}

#[test]
fn a_segment_reads_back() {
    let segment = sample();
    let mut bytes = Bytes::from([segment.bytes().as_ref(), b"rest"].concat());
    let read = Segment::decode_front(&mut bytes).unwrap();
    assert_eq!(read, segment);
    assert_eq!(bytes, Bytes::from_static(b"rest"));
    let records = read.records().unwrap();
    assert_eq!(records.len(), 2);
    assert_eq!((records[0].0, records[1].0), (Seq::new(41), Seq::new(42)));
    assert_eq!(records[1].1.body.operations().unwrap().len(), 2);
    assert_eq!(read.header().last_seq(), Seq::new(42));
    assert_eq!(read.first_hlc(), Some(Hlc::from_bits(99)));
}

#[test]
fn every_flipped_bit_is_noticed() {
    let segment = sample();
    for index in 0..segment.bytes().len() {
        for bit in 0..8 {
            let mut damaged = segment.bytes().to_vec();
            damaged[index] ^= 1 << bit;
            let mut damaged = Bytes::from(damaged);
            let read = Segment::decode_front(&mut damaged);
            assert!(read.is_err(), "bit {bit} of byte {index} went unnoticed");
        }
    }
}

#[test]
fn every_cut_is_noticed() {
    let segment = sample();
    for len in 0..segment.bytes().len() {
        let mut cut = segment.bytes().slice(..len);
        let error = Segment::decode_front(&mut cut).unwrap_err();
        assert!(
            matches!(error, WireError::Truncated { .. }),
            "{len}: {error}"
        );
        assert_eq!(cut.len(), len, "a failed decode consumed bytes");
    }
}

#[test]
fn bodies_outside_the_limits_are_refused() {
    let long_key = "k".repeat(crate::limits::KEY_BYTES_MAX + 1);
    let long_value = "v".repeat(crate::limits::VALUE_BYTES_MAX + 1);
    let refused =
        |operations: &[Operation]| RecordBody::encode(operations).unwrap_err().to_string();
    assert_eq!(
        refused(&[put(&long_key, "", None)]),
        "key too large: 1025 bytes, limit 1024"
    );
    assert_eq!(
        refused(&[put("k", &long_value, None)]),
        "value too large: 1048577 bytes, limit 1048576"
    );
    assert_eq!(refused(&[put("", "v", None)]), "invalid key length: 0");
    assert_eq!(refused(&[]), "invalid number of operations: 0");
    assert_eq!(
        refused(&vec![put("k", "v", None); 1025]),
        "invalid number of operations: 1025"
    );
    let megabyte = "v".repeat(1 << 20);
    assert!(refused(&vec![put("k", &megabyte, None); 7]).starts_with("record too large"));
}

/// The forms that the golden segment lacks: a time to live, and the home's own removal.
#[test]
fn a_time_to_live_and_its_end_have_fixed_bytes() {
    let put = Operation::Put {
        key: Bytes::from_static(b"k"),
        value: Bytes::from_static(b"v"),
        expiry: Some(Expiry::AfterMs(0x0102)),
    };
    let body = RecordBody::encode(std::slice::from_ref(&put)).unwrap();
    let expected = [
        &[1, 0, 1, 2, 1, 0, 1, 0, 0, 0][..],
        &[2, 1, 0, 0, 0, 0, 0, 0, b'k', b'v'],
    ];
    assert_eq!(body.bytes()[..], expected.concat());
    assert_eq!(body.operations().unwrap(), [put]);
    let key = Bytes::from_static(b"k");
    let body = RecordBody::encode(&[Operation::Delete { key }]).unwrap();
    let head = RecordHead {
        kind: RecordKind::Expiry,
        ..head(1, AckLevel::Async)
    };
    let mut buffer = bytes::BytesMut::new();
    Record::encode(&mut buffer, &head, &body);
    assert_eq!(buffer[4], 4, "the kind");
    let read = Record::decode_front(&mut buffer.freeze()).unwrap();
    assert_eq!(read, Record { head, body });
}

#[test]
fn a_time_to_live_outside_its_bounds_is_refused() {
    let put = |ttl_ms| Operation::Put {
        key: Bytes::from_static(b"k"),
        value: Bytes::new(),
        expiry: Some(Expiry::AfterMs(ttl_ms)),
    };
    let error = RecordBody::encode(&[put(0)]).unwrap_err();
    assert!(matches!(error, WireError::OutOfBounds { actual: 0, .. }));
    let mut bytes = RecordBody::encode(&[put(1)]).unwrap().bytes().to_vec();
    bytes[17] = 0xff;
    let error = RecordBody::from_untrusted(bytes.into()).unwrap_err();
    assert!(matches!(error, WireError::OutOfBounds { .. }), "{error}");
}

proptest! {
    #[test]
    fn any_bytes_are_refused_without_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        let mut front = Bytes::from(bytes.clone());
        prop_assert!(Segment::decode_front(&mut front).is_err());
        let mut payload = Bytes::from(bytes);
        if let Ok(record) = Record::decode_front(&mut payload) {
            let _ = record.body.operations();
        }
    }

    #[test]
    fn any_damaged_body_is_refused_without_panic(
        index in 0_usize..60, byte in any::<u8>(), cut in 0_usize..60,
    ) {
        let operations = [put("alice/pet", "a cat", Some(7)), put("b", "c", None)];
        let body = RecordBody::encode(&operations).unwrap();
        let mut bytes = body.bytes().to_vec();
        let len = bytes.len();
        bytes[index % len] = byte;
        bytes.truncate(len - cut % len);
        let _ = RecordBody::from_untrusted(Bytes::from(bytes));
    }
}
