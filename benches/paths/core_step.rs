//! The core's steps for one asynchronous write: sequence, durable, reply.

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use domicile_core::{
    EarlierTries, Effect, Input, KeyChange, Moment, Partition, PartitionConfig, Purpose, Recovered,
    Ticket, Write,
};
use domicile_proto::{Hlc, Keyspace, Name, RegionId, RequestId, Seq};

use crate::codec::{epoch, partition};

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("core");
    group.throughput(Throughput::Elements(1));
    let region = RegionId::new(1).expect("1 is not zero");
    let keyspace = Keyspace::new(Name::new("bench").expect("a name"), vec![region], region);
    let config = PartitionConfig::of(&keyspace, partition(0), region, region);
    let recovered = Recovered {
        epoch: Some(epoch()),
        ..Recovered::default()
    };
    let mut core = Partition::home(config, recovered, Moment::START).expect("a valid partition");
    let mut effects: Vec<Effect> = Vec::new();
    let mut number = 0_u64;
    group.bench_function("write and durable", |bencher| {
        bencher.iter(|| {
            number += 1;
            let now = Moment::from_micros(number * 10);
            let write = Write {
                ticket: Ticket::new(number),
                purpose: Purpose::Request,
                request_id: RequestId::new(number.into()).expect("not zero"),
                fingerprint: number,
                bytes: 200,
                keys: vec![(Bytes::from_static(b"0000000000000001"), KeyChange::Put)],
                preconditions: Vec::new(),
                level: None,
                hlc: Hlc::at_ms(1_700_000_000_000 + number),
                deadline: now.plus(Duration::from_secs(5)),
                earlier_tries: EarlierTries::Remembered,
            };
            core.step(now, Input::Write(write), &mut effects);
            core.step(
                now,
                Input::Durable {
                    upto: Seq::new(number),
                },
                &mut effects,
            );
            black_box(&effects);
            effects.clear();
        });
    });
    group.finish();
}
