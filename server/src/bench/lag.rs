//! How long an acknowledged write takes until a copy lets its readers see it.
//!
//! **Owns**: the probes, idle and under load.
//! **Does not own**: the load (`load`).
//!
//! A probe writes one key at home, and from the answer on reads that key at the copy, locally,
//! until the value is there. That time is also what a sudden loss of the home costs an asynchronous
//! keyspace.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use domicile_proto::v1::Consistency;
use serde::Serialize;

use super::checks::{Bound, Check, Kind};
use super::load::{LoadPlan, Shape, run_load};
use super::options::BenchOptions;
use super::pace::Pace;
use super::recorder::{Latencies, Summary, ms};
use super::report::Report;
use super::stage::{KEYSPACE, Stage};
use crate::rig::{Cluster, Console, Door, ExitOutcome, Stop, Table, thousands};

/// Probes of each row.
const PROBES: usize = 100;

/// How long a probe may take: far beyond any lag that is not a fault. Doubled, a fault is reported
/// twice as late.
const PROBE_MAX: Duration = Duration::from_secs(10);

/// The pause between probes, so that each meets another phase of a commit.
const PAUSE: Duration = Duration::from_millis(7);

/// How long before the earliest arrival a probe begins to read: reads cost the processors that the
/// servers need. Doubled, each probe costs twice the reads.
const LEAD: Duration = Duration::from_millis(3);

/// The load under which lag is promised.
const LOAD_PER_S: f64 = 10_000.0;

/// Writes that the load keeps outstanding at most.
const OUTSTANDING: usize = 4096;

/// What lag may add to the one-way delay (p50).
const LAG_EXTRA_MS: f64 = 2.0;

#[derive(Serialize)]
struct LagRow<'a> {
    load_per_s: f64,
    achieved_per_s: f64,
    to: &'a str,
    lag: Summary,
}

pub(super) fn run(
    options: &BenchOptions,
    console: &Console,
    stop: &Stop,
) -> anyhow::Result<ExitOutcome> {
    let stage = Stage::set(options, stop)?;
    let (home, rtts) = (options.home(), stage.cluster.rtts());
    let mut report = Report::new(options, stage.header.clone());
    let headings = [
        "writes/s", "achieved", "copy", "one way", "p50 ms", "p90 ms", "p99 ms", "max",
    ];
    let mut table = Table::new(&headings);
    for rate_per_s in [0.0, options.rate_per_s.unwrap_or(LOAD_PER_S)] {
        for copy in rtts.others(home) {
            console.talk(&format!("probing {copy} under {rate_per_s:.0} writes/s"));
            let (lag, achieved_per_s) = under_load(options, &stage, copy, rate_per_s, stop)?;
            let one_way_ms = ms(rtts.between(home, copy)) / 2.0;
            let (summary, load) = (lag.summary(), thousands(rate_per_s as u64));
            let cells = [
                load.clone(),
                format!("{achieved_per_s:.0}"),
                copy.to_owned(),
            ];
            let times = [one_way_ms, summary.p50_ms, summary.p90_ms, summary.p99_ms];
            let times = times.into_iter().chain([summary.max_ms]);
            table.row(
                cells
                    .into_iter()
                    .chain(times.map(|time| format!("{time:.2}"))),
            );
            report.row(&LagRow {
                load_per_s: rate_per_s,
                achieved_per_s,
                to: copy,
                lag: summary,
            });
            report.curve(format!("{copy} under {load} writes per s"), &lag);
            let bound = Bound::AtMost(one_way_ms + LAG_EXTRA_MS);
            let what = format!("{copy} under {load} writes/s: p50 from ack to readable");
            let check = Check::new(Kind::Speed, what, summary.p50_ms, bound, "ms");
            report.checks.push(check);
        }
    }
    report.table("From the acknowledgement to readable at a copy", table);
    report.finish(options.out.as_deref(), console)
}

/// Probes one copy while writes go on at a rate; says which rate was reached.
fn under_load(
    options: &BenchOptions,
    stage: &Stage,
    copy: &str,
    rate_per_s: f64,
    stop: &Stop,
) -> anyhow::Result<(Latencies, f64)> {
    if rate_per_s <= 0.0 {
        return Ok((probe(options, &stage.cluster, copy, stop)?, 0.0));
    }
    let shape = Shape::Stream {
        outstanding: OUTSTANDING,
    };
    let load = LoadPlan {
        pace: Pace::Open { rate_per_s },
        // Until the probes are done.
        duration: PROBE_MAX * 60,
        ..stage.load(options, shape, stop)?
    };
    thread::scope(|scope| {
        let loading = scope.spawn(|| run_load(&load, &mut |_| {}));
        let warm = stop.sleep(Duration::from_secs(1));
        let probed = warm
            .map_err(Into::into)
            .and_then(|()| probe(options, &stage.cluster, copy, stop));
        load.halt.store(true, Ordering::Relaxed);
        let loaded = loading.join().expect("a load does not panic")?;
        Ok((probed?, loaded.rate()))
    })
}

fn probe(
    options: &BenchOptions,
    cluster: &Cluster,
    copy: &str,
    stop: &Stop,
) -> anyhow::Result<Latencies> {
    let home = Door::new(&cluster.endpoint(options.home())?)?;
    let there = Door::new(&cluster.endpoint(copy)?)?;
    let one_way = cluster.rtts().between(options.home(), copy) / 2;
    let mut lag = Latencies::new();
    for number in 0..PROBES {
        stop.sleep(PAUSE)?;
        let key = Bytes::from(format!("probe-{:010}", number % 16));
        // Another value than any before, in any row.
        let value = Bytes::from(format!("{copy} {number} {:?}", Instant::now()));
        home.put(KEYSPACE, key.clone(), value.clone())?;
        let acked = Instant::now();
        thread::sleep(one_way.saturating_sub(LEAD));
        loop {
            let answer = there.get(KEYSPACE, key.clone(), Consistency::Local)?;
            if answer.entry.is_some_and(|entry| entry.value == value) {
                lag.record(acked.elapsed());
                break;
            }
            let waited = acked.elapsed();
            anyhow::ensure!(
                waited < PROBE_MAX,
                "not readable at {copy} after {waited:?}"
            );
            stop.check()?;
        }
    }
    Ok(lag)
}
