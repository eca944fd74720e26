//! Encoding and decoding segments of 64 records with 16-byte keys and 128-byte values.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use domicile_proto::record::RecordBody;
use domicile_proto::{
    AckLevel, Bucket, ChainHash, Epoch, Hlc, KeyspaceId, NodeId, Operation, PartitionId,
    RecordHead, RecordKind, RegionId, RequestId, Segment, SegmentBuilder, Seq,
};

pub(crate) const RECORDS: u64 = 64;

pub(crate) fn partition(bucket: u16) -> PartitionId {
    PartitionId {
        keyspace: KeyspaceId::new(7),
        region: RegionId::new(1).expect("1 is not zero"),
        bucket: Bucket::new(bucket),
    }
}

pub(crate) fn epoch() -> Epoch {
    Epoch {
        counter: 1,
        node: NodeId::new(9).expect("9 is not zero"),
    }
}

pub(crate) fn head(seq: u64) -> RecordHead {
    RecordHead {
        kind: RecordKind::Write,
        level: AckLevel::Async,
        hlc: Hlc::at_ms(1_700_000_000_000 + seq),
        generation: 0,
        request_id: RequestId::new(u128::from(seq) + 1).expect("not zero"),
    }
}

pub(crate) fn operation(number: u64) -> Operation {
    Operation::Put {
        key: Bytes::from(format!("{:016}", number % 100_000)),
        value: Bytes::from(vec![b'v'; 128]),
        expiry: None,
    }
}

pub(crate) fn body(number: u64) -> RecordBody {
    RecordBody::encode(&[operation(number)]).expect("within the limits")
}

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("segment");
    group.throughput(Throughput::Elements(RECORDS));
    let bodies: Vec<RecordBody> = (0..RECORDS).map(body).collect();
    let encode = || {
        let mut builder = SegmentBuilder::new(partition(0), epoch(), Seq::FIRST);
        for (seq, body) in bodies.iter().enumerate() {
            builder.push(&head(seq as u64), body);
        }
        builder.finish(ChainHash::START, Seq::NONE)
    };
    group.bench_function("encode", |bencher| bencher.iter(|| black_box(encode())));
    let segment = encode();
    group.bench_function("decode", |bencher| {
        bencher.iter(|| {
            let mut bytes = segment.bytes().clone();
            let segment = Segment::decode_front(&mut bytes).expect("intact");
            black_box(segment.records().expect("records"))
        });
    });
    group.bench_function("chain", |bencher| {
        bencher.iter(|| black_box(segment.chain()))
    });
    group.finish();
}
