//! Durable writes of a node in this process, without any network.
//!
//! **Owns**: the writers and the promised rate.
//! **Does not own**: the node (`domicile_replication`).

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use domicile_proto::{Keyspace, Name, Operation};
use domicile_replication::{Node, NodeOptions, WriteCall};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::acks::disk_rows;
use super::checks::{Bound, Check, Kind};
use super::load::{LoadPlan, LoadResult, Shape};
use super::options::BenchOptions;
use super::recorder::{Errors, Latencies};
use super::report::{Header, Report};
use super::series::{Series, SeriesRow, turn_time};
use crate::rig::{Console, ExitOutcome, Keys, Random, Scratch, Stop, Table};

/// Writes a second that concurrent writers reach.
const RATE_MIN: f64 = 80_000.0;

/// The writers for which that is promised.
const WRITERS_OF_PROMISE: usize = 256;

/// Histograms that the writers share. Doubled, they are less often in each other's way, which they
/// hardly are.
const SHARDS: usize = 8;

const KEYSPACE: &str = "bench";

/// What the writers of one turn share.
struct Turn {
    node: Node,
    keyspace: Arc<Keyspace>,
    keys: Arc<Keys>,
    numbers: AtomicU64,
    record_from: Instant,
    ends_at: Instant,
    stop: Stop,
    tallies: Vec<Mutex<(Latencies, Errors)>>,
}

pub(super) fn run(
    options: &BenchOptions,
    console: &Console,
    stop: &Stop,
) -> anyhow::Result<ExitOutcome> {
    let scratch = Scratch::make(options.dir.as_deref())?;
    let keys = Arc::new(Keys::new(options.keys, options.value_bytes, options.seed));
    let header = Header::measure(scratch.path(), options)?;
    let mut report = Report::new(options, header);
    for ceiling in disk_rows(&scratch, keys.write_bytes())? {
        report.row(&ceiling);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("no runtime")?;
    let node = runtime.block_on(open(&scratch.sub("node")?))?;
    let mut series = Vec::new();
    for &writers in &options.clients {
        // The plan only names the row: no connection is made.
        let shape = Shape::Unary { clients: writers };
        let plan = LoadPlan::new(String::new(), KEYSPACE.to_owned(), Arc::clone(&keys), shape);
        series.push((writers, Series::new(label_of(writers), plan)));
    }
    for round in 1..=options.rounds {
        for (writers, each) in &mut series {
            stop.check()?;
            let seed = options.seed.wrapping_add(round as u64);
            each.add(&one_turn(
                &runtime, &node, options, &keys, *writers, seed, stop,
            )?);
        }
        console.talk(&format!("round {round} of {}", options.rounds));
    }
    runtime.block_on(node.close())?;
    let headings: Vec<_> = ["load"].into_iter().chain(SeriesRow::HEADINGS).collect();
    let mut table = Table::new(&headings);
    for (writers, each) in &series {
        let mut cells = vec![each.label.clone()];
        cells.extend(each.row().cells());
        table.row(cells);
        report.row(&each.row());
        report.curve(each.label.clone(), &each.latencies);
        if *writers == WRITERS_OF_PROMISE {
            let (rate, bound) = (each.rate_per_s(), Bound::AtLeast(RATE_MIN));
            let what = format!("rate of {writers} writers");
            let check = Check::new(Kind::Speed, what, rate, bound, "writes/s");
            report.checks.push(check);
        }
    }
    report.table("Durable puts of an embedded node", table);
    report.finish(options.out.as_deref(), console)
}

fn label_of(writers: usize) -> String {
    match writers {
        1 => "1 writer".to_owned(),
        _ => format!("{writers} writers"),
    }
}

async fn open(data: &Path) -> anyhow::Result<Node> {
    let mut options = NodeOptions::single(data);
    let region = options.regions.first().context("a node has a region")?.id;
    let keyspace = Keyspace::new(Name::new(KEYSPACE)?, vec![region], region);
    options.keyspaces = vec![keyspace.validate()?];
    Ok(Node::open(options).await?)
}

fn one_turn(
    runtime: &Runtime,
    node: &Node,
    options: &BenchOptions,
    keys: &Arc<Keys>,
    writers: usize,
    seed: u64,
    stop: &Stop,
) -> anyhow::Result<LoadResult> {
    let record_from = Instant::now() + options.warmup;
    let time = turn_time(options.duration, options.rounds);
    let turn = Arc::new(Turn {
        node: node.clone(),
        keyspace: node.policy(KEYSPACE)?,
        keys: Arc::clone(keys),
        numbers: AtomicU64::new(1),
        record_from,
        ends_at: record_from + time,
        stop: stop.clone(),
        tallies: (0..SHARDS).map(|_| Mutex::default()).collect(),
    });
    runtime.block_on(async {
        let (mut all, random) = (JoinSet::new(), Random::new(seed));
        for writer in 0..writers {
            let turn = Arc::clone(&turn);
            all.spawn(write_until_end(turn, writer, random.fork(writer as u64)));
        }
        all.join_all().await;
    });
    Ok(added_up(&turn, time))
}

async fn write_until_end(turn: Arc<Turn>, writer: usize, mut random: Random) {
    loop {
        let since = Instant::now();
        if since >= turn.ends_at || turn.stop.is_set() {
            return;
        }
        let key = random.below(turn.keys.count());
        let number = turn.numbers.fetch_add(1, Ordering::Relaxed);
        let operation = Operation::Put {
            key: turn.keys.key(key),
            value: turn.keys.value(key, number),
            expiry: None,
        };
        let call = WriteCall::new(Arc::clone(&turn.keyspace), vec![operation]);
        let result = turn.node.write(call).await;
        let now = Instant::now();
        if now < turn.record_from || now >= turn.ends_at {
            continue;
        }
        let tally = &turn.tallies[writer % SHARDS];
        let (latencies, errors) = &mut *tally.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(_) => latencies.record(now.duration_since(since)),
            Err(error) => *errors.entry(format!("{:?}", error.reason())).or_default() += 1,
        }
    }
}

fn added_up(turn: &Turn, time: Duration) -> LoadResult {
    let (mut latencies, mut errors) = (Latencies::new(), Errors::new());
    for tally in &turn.tallies {
        let (times, failed) = &*tally.lock().unwrap_or_else(PoisonError::into_inner);
        latencies.add(times);
        for (reason, count) in failed {
            *errors.entry(reason.clone()).or_default() += count;
        }
    }
    LoadResult {
        acked: latencies.count(),
        latencies,
        time,
        errors,
        acks: Vec::new(),
    }
}
