//! Every decoder of this crate under tampered bytes.
//!
//! **Owns**: what each must do with them: no panic, little memory, the same bytes back.
//! **Does not own**: the tampering (`hostile`).

use std::fmt::Display;
use std::str::FromStr;

use bytes::{Bytes, BytesMut};

use crate::hostile::{Target, seal_end, seal_segment, unsealed};
use crate::record::RecordBody;
use crate::{
    AckLevel, Bucket, ChainHash, Epoch, Expiry, Hlc, KeyspaceId, Name, NodeId, Operation,
    PartitionId, Position, Record, RecordHead, RecordKind, RegionId, RequestId, ResumeToken,
    Segment, SegmentBuilder, SegmentHeader, Seq, Version,
};

/// Cases of each target: half a second. A missing check of a number in a header takes some 10,000
/// to be noticed.
const CASES: u64 = 40_000;

/// Bytes of operations and records in memory for each of theirs: an operation of 9 bytes is 88.
const MEMORY_PER_BYTE: usize = 32;

/// Bytes for messages of errors.
const MEMORY_FLAT: usize = 4 << 10;

fn held(run: &mut dyn FnMut()) -> u64 {
    allocation_counter::measure(run).bytes_max
}

fn attack(valid: &[Vec<u8>], seal: &dyn Fn(&mut Vec<u8>), decode: &dyn Fn(&[u8])) {
    let target = Target {
        command: "cargo test -p domicile-proto fuzz",
        cases: CASES,
        valid,
        seal,
        memory_per_byte: MEMORY_PER_BYTE,
        memory_flat: MEMORY_FLAT,
    };
    target.attack(held, decode);
}

fn epoch(counter: u64) -> Epoch {
    let node = NodeId::new(9).unwrap();
    Epoch { counter, node }
}

fn partition(bucket: u16) -> PartitionId {
    PartitionId {
        keyspace: KeyspaceId::new(7),
        region: RegionId::new(1).unwrap(),
        bucket: Bucket::new(bucket),
    }
}

fn bodies() -> Vec<RecordBody> {
    let put = |key: &'static str, expiry| Operation::Put {
        key: Bytes::from_static(key.as_bytes()),
        value: Bytes::from_static(b"a value"),
        expiry,
    };
    let key = Bytes::from_static(b"alice/gone");
    let lists = [
        vec![put("alice", None)],
        vec![
            put("alice/pet", Some(Expiry::AfterMs(7))),
            Operation::Delete { key },
        ],
        vec![
            put("b", Some(Expiry::AtMs(u64::MAX))),
            put("c", None),
            put("d", None),
        ],
    ];
    lists
        .iter()
        .map(|list| RecordBody::encode(list).unwrap())
        .collect()
}

fn head(kind: RecordKind) -> RecordHead {
    RecordHead {
        kind,
        level: AckLevel::Async,
        hlc: Hlc::at_ms(5),
        generation: 3,
        request_id: RequestId::new(u128::MAX - 5).unwrap(),
    }
}

fn segments() -> Vec<Vec<u8>> {
    let mut segments = Vec::new();
    for count in 1..=3 {
        let mut builder = SegmentBuilder::new(partition(count as u16), epoch(2), Seq::new(6));
        for body in &bodies()[..count] {
            builder.push(&head(RecordKind::Write), body);
        }
        let segment = builder.finish(ChainHash::from_bits(4), Seq::new(3));
        segments.push(segment.bytes().to_vec());
    }
    segments
}

/// A segment that is accepted is written again as it was by who reads it.
#[test]
fn fuzz_segments() {
    let seal = |bytes: &mut Vec<u8>| seal_segment(bytes);
    attack(&segments(), &seal, &|bytes| {
        let _ = SegmentHeader::decode(bytes);
        let mut front = Bytes::copy_from_slice(bytes);
        let Ok(segment) = Segment::decode_front(&mut front) else {
            assert_eq!(front.len(), bytes.len(), "a refused segment was taken off");
            return;
        };
        assert_eq!(segment.bytes().len() + front.len(), bytes.len());
        let _ = segment.first_hlc();
        let header = *segment.header();
        assert!(header.last_seq() >= header.first_seq);
        let Ok(records) = segment.records() else {
            return;
        };
        let mut builder = SegmentBuilder::new(header.partition, header.epoch, header.first_seq);
        for (_, record) in &records {
            builder.push(&record.head, &record.body);
            let _ = record.body.operations();
        }
        let again = builder.finish(header.previous, header.visible_upto);
        assert_eq!(again, segment);
    });
}

#[test]
fn fuzz_records_and_their_bodies() {
    let mut valid = Vec::new();
    for body in bodies() {
        let mut bytes = BytesMut::new();
        Record::encode(&mut bytes, &head(RecordKind::Write), &body);
        valid.push(bytes.to_vec());
    }
    attack(&valid, &unsealed, &|bytes| {
        let mut front = Bytes::copy_from_slice(bytes);
        let Ok(record) = Record::decode_front(&mut front) else {
            return;
        };
        let mut again = BytesMut::new();
        Record::encode(&mut again, &record.head, &record.body);
        assert_eq!(again, bytes[..bytes.len() - front.len()]);
        let _ = record.body.operations();
    });
    let valid: Vec<_> = bodies().iter().map(|body| body.bytes().to_vec()).collect();
    attack(&valid, &unsealed, &|bytes| {
        let read = RecordBody::from_untrusted(Bytes::copy_from_slice(bytes));
        let Ok((body, operations)) = read else { return };
        assert_eq!(RecordBody::encode(&operations).unwrap(), body);
    });
}

#[test]
fn fuzz_resume_tokens() {
    let mut tokens = [0, 1, 3].map(|_| ResumeToken::new(KeyspaceId::new(7)));
    for (count, token) in tokens.iter_mut().enumerate() {
        for bucket in 0..2 * count as u16 {
            let position = Position {
                epoch: epoch(u64::from(bucket / 2)),
                seq: Seq::new(u64::from(bucket) << 20 | 1),
            };
            token.set(partition(bucket), (bucket != 1).then_some(position));
        }
    }
    let valid = tokens.each_ref().map(|token| token.to_bytes().to_vec());
    attack(&valid, &seal_end, &|bytes| {
        if let Ok(token) = ResumeToken::from_bytes(bytes) {
            assert_eq!(ResumeToken::from_bytes(&token.to_bytes()), Ok(token));
        }
    });
    let valid = tokens
        .each_ref()
        .map(|token| token.to_string().into_bytes());
    attack_text::<ResumeToken>(&valid);
}

/// What is read from a text is read from its own text, too.
fn attack_text<T: FromStr + Display + PartialEq>(valid: &[Vec<u8>]) {
    attack(valid, &unsealed, &|bytes| {
        let text = String::from_utf8_lossy(bytes);
        if let Ok(read) = text.parse::<T>() {
            let again = read.to_string();
            assert!(
                again.parse().is_ok_and(|again: T| again == read),
                "{text:?}, {again:?}"
            );
        }
    });
}

#[test]
fn fuzz_texts() {
    let version = Version {
        generation: 3,
        epoch: epoch(4),
        seq: Seq::new(5),
    };
    attack_text::<Version>(&[version.to_string().into_bytes()]);
    attack_text::<AckLevel>(&["async", "semi-sync", "sync"].map(|text| text.as_bytes().to_vec()));
    let request = RequestId::new(0x0102_0304).unwrap();
    attack_text::<RequestId>(&[request.to_string().into_bytes()]);
    attack_text::<Name>(&[b"eu-west".to_vec(), b"users_2".to_vec()]);
}

#[test]
fn fuzz_partitions() {
    attack(&[partition(3).to_bytes().to_vec()], &unsealed, &|bytes| {
        let Ok(array) = bytes.try_into() else { return };
        if let Ok(partition) = PartitionId::from_bytes(array) {
            assert_eq!(partition.to_bytes(), array);
        }
    });
}
