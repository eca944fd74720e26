//! What a step costs, printed: `cargo test --release -p domicile-core --test speed -- --ignored
//! --nocapture`. Nothing is asserted about time.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench prints its figures"
)]

use std::time::{Duration, Instant};

use bytes::Bytes;
use domicile_core::{
    EarlierTries, Effect, Input, KeyChange, LeaseNeed, Moment, Partition, PartitionConfig, Purpose,
    Recovered, Ticket, Window, Write,
};
use domicile_proto::{
    AckLevel, Bucket, ChainHash, Epoch, Hlc, KeyspaceId, NodeId, OnTimeout, PartitionId, RegionId,
    RequestId, RpoLimit, Seq,
};

const WRITES: u64 = 1_000_000;

fn region(number: u16) -> RegionId {
    RegionId::new(number).unwrap()
}

fn open(ack: AckLevel, max_rpo: RpoLimit) -> Partition {
    let config = PartitionConfig {
        partition: PartitionId {
            keyspace: KeyspaceId::new(1),
            region: region(1),
            bucket: Bucket::new(0),
        },
        regions: vec![region(1), region(2), region(3)],
        own_region: region(1),
        home_region: region(1),
        ack,
        on_timeout: OnTimeout::Fail,
        ack_timeout: Duration::from_secs(5),
        max_rpo,
        window: Window::default(),
        lease: LeaseNeed::Nothing,
        degrades_on_record: false,
        reign: None,
    };
    let epoch = Some(Epoch {
        counter: 1,
        node: NodeId::new(7).unwrap(),
    });
    Partition::home(
        config,
        Recovered {
            epoch,
            ..Recovered::default()
        },
        Moment::START,
    )
    .unwrap()
}

fn attached(ack: AckLevel, max_rpo: RpoLimit) -> Partition {
    let mut home = open(ack, max_rpo);
    let mut effects: Vec<Effect> = Vec::new();
    for number in [2, 3] {
        let none = Seq::NONE;
        let input = Input::CopyAttached {
            region: region(number),
            received_upto: none,
            durable_upto: none,
            epoch: None,
            chain: ChainHash::START,
            log_start: Seq::FIRST,
            own_chain: None,
        };
        home.step(Moment::START, input, &mut effects);
    }
    home
}

fn write(number: u64, keys: &[Bytes], now: Moment) -> Write {
    let key = keys[(number * 7_919 % 100_000) as usize].clone();
    Write {
        ticket: Ticket::new(number),
        purpose: Purpose::Request,
        request_id: RequestId::new((u128::from(number) << 64) | 1).unwrap(),
        fingerprint: number,
        bytes: 300,
        keys: vec![(key, KeyChange::Put)],
        preconditions: vec![],
        level: None,
        hlc: Hlc::at_ms(now.micros() / 1_000),
        deadline: now.plus(Duration::from_secs(30)),
        earlier_tries: EarlierTries::Remembered,
    }
}

/// Writes in commits of `batch`; the copies acknowledge `delay` commits later.
fn run(name: &str, ack: AckLevel, max_rpo: RpoLimit, batch: u64, delay: u64) {
    let (mut home, mut effects) = (attached(ack, max_rpo), Vec::new());
    let epoch = home.epoch().unwrap();
    let keys: Vec<Bytes> = (0..100_000_u64)
        .map(|key| Bytes::from(format!("user/{:08}/profile", key)))
        .collect();
    let (mut in_writes, mut in_acks, mut replies) = (Duration::ZERO, Duration::ZERO, 0);
    for commit in 0..WRITES / batch {
        let now = Moment::from_micros(commit * 1_000);
        let numbers = commit * batch..(commit + 1) * batch;
        let writes: Vec<Write> = numbers.map(|number| write(number, &keys, now)).collect();
        effects.clear();
        let start = Instant::now();
        for write in writes {
            home.step(now, Input::Write(write), &mut effects);
        }
        in_writes += start.elapsed();
        effects.clear();
        let start = Instant::now();
        home.step(
            now,
            Input::Durable {
                upto: Seq::new((commit + 1) * batch),
            },
            &mut effects,
        );
        let upto = Seq::new((commit + 1).saturating_sub(delay) * batch);
        for number in [2, 3] {
            let region = region(number);
            let (received_upto, durable_upto) = (upto, upto);
            let input = Input::Ack {
                region,
                epoch,
                received_upto,
                durable_upto,
            };
            home.step(now, input, &mut effects);
        }
        in_acks += start.elapsed();
        replies += effects
            .iter()
            .filter(|e| matches!(e, Effect::Reply { .. }))
            .count();
    }
    let each = |spent: Duration| spent.as_nanos() / u128::from(WRITES);
    println!(
        "{name:<28} batch {batch:>4}: write {:>5} ns, durable + 2 acks + replies {:>5} ns a write, \
         {replies} replies",
        each(in_writes),
        each(in_acks)
    );
}

#[test]
#[ignore = "prints figures"]
fn cost_of_a_write() {
    let free = RpoLimit::default();
    let limited = RpoLimit {
        writes: Some(1_000_000),
        ..free
    };
    run("async", AckLevel::Async, free, 1, 60);
    run("async", AckLevel::Async, free, 100, 60);
    run("async, max_rpo", AckLevel::Async, limited, 100, 60);
    run(
        "semi-sync, 6,000 in flight",
        AckLevel::SEMI_SYNC,
        free,
        100,
        60,
    );
    run("sync, 15,000 in flight", AckLevel::SYNC, free, 100, 150);
}
