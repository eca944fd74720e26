//! A store with many keys is opened again, after an orderly end and after a kill.
//!
//! **Owns**: filling it, ending it, timing until it answers, looking whether the keys are there.
//! **Does not own**: the server (`rig`).

use std::sync::Arc;
use std::time::Duration;

use domicile_proto::v1::Consistency;
use serde::Serialize;

use super::acks::one_region;
use super::checks::{Bound, Check, Kind};
use super::load::{LoadPlan, Order, Shape, run_load};
use super::options::BenchOptions;
use super::report::{Header, Report};
use crate::rig::{
    Cluster, Console, Door, ExitOutcome, Keys, Random, Scratch, Stop, Table, resident_kib,
    thousands,
};

/// Writes outstanding while the store is filled.
const OUTSTANDING: usize = 4096;

/// How long filling may take.
const FILL_MAX: Duration = Duration::from_secs(600);

/// How long an opening may take.
const OPEN_S_MAX: f64 = 3.0;

/// Keys that are read afterwards, drawn at random.
const SAMPLES: usize = 200;

const REGION: &str = "a";
const KEYSPACE: &str = "bench-async";

#[derive(Serialize)]
struct ReopenRow {
    after: &'static str,
    open_s: f64,
    keys: u32,
    journal_bytes: u64,
    engine_bytes: u64,
    resident_kib: u64,
    samples_missing: usize,
}

pub(super) fn run(
    options: &BenchOptions,
    console: &Console,
    stop: &Stop,
) -> anyhow::Result<ExitOutcome> {
    let scratch = Scratch::make(options.dir.as_deref())?;
    let header = Header::measure(scratch.path(), options)?;
    let keys = Arc::new(Keys::new(options.keys, options.value_bytes, options.seed));
    let mut cluster = one_region(&scratch.sub("node")?, stop)?;
    let mut report = Report::new(options, header);
    let headings = [
        "opened after",
        "s",
        "keys",
        "journal MiB",
        "engine MiB",
        "resident MiB",
    ];
    let mut table = Table::new(&headings);
    let filled = u64::from(keys.count()) + 1;
    fill(&cluster, &keys, options, 1, filled, console, stop)?;
    for after in ["an orderly end", "a kill under load"] {
        if after == "an orderly end" {
            cluster.terminate(REGION)?;
        } else {
            // Fresh records that no checkpoint covers.
            let more = filled + u64::from(keys.count() / 10);
            fill(&cluster, &keys, options, filled, more, console, stop)?;
            cluster.kill(REGION)?;
        }
        cluster.start_server(REGION)?;
        let opened = cluster.wait_until_ready(REGION, stop)?;
        let row = look(&cluster, &keys, options, after, opened)?;
        let mib = |bytes: u64| format!("{}", bytes >> 20);
        table.row([
            after.to_owned(),
            format!("{:.2}", row.open_s),
            thousands(row.keys.into()),
            mib(row.journal_bytes),
            mib(row.engine_bytes),
            mib(row.resident_kib << 10),
        ]);
        let bound = Bound::AtMost(OPEN_S_MAX);
        let what = format!("opening after {after}");
        let check = Check::new(Kind::Speed, what, row.open_s, bound, "s");
        report.checks.push(check);
        let (missing, bound) = (row.samples_missing as f64, Bound::AtMost(0.0));
        let what = format!("keys missing after {after}, of {SAMPLES}");
        report
            .checks
            .push(Check::new(Kind::Safety, what, missing, bound, ""));
        report.row(&row);
    }
    report.table("Opening a store again", table);
    report.finish(options.out.as_deref(), console)
}

fn fill(
    cluster: &Cluster,
    keys: &Arc<Keys>,
    options: &BenchOptions,
    from: u64,
    end: u64,
    console: &Console,
    stop: &Stop,
) -> anyhow::Result<()> {
    let shape = Shape::Stream {
        outstanding: OUTSTANDING,
    };
    let endpoint = cluster.endpoint(REGION)?;
    let plan = LoadPlan::new(endpoint, KEYSPACE.to_owned(), Arc::clone(keys), shape);
    plan.numbers
        .store(from, std::sync::atomic::Ordering::Relaxed);
    let plan = LoadPlan {
        numbers_end: end,
        order: Order::Sequential,
        duration: FILL_MAX,
        seed: options.seed,
        stop: stop.clone(),
        ..plan
    };
    let mut written = 0;
    let result = run_load(&plan, &mut |second| {
        written += second.acked;
        console.progress(&format!("filling: {} writes", thousands(written)));
    })?;
    console.progress_ended();
    stop.check()?;
    let asked = end - from;
    anyhow::ensure!(
        result.acked == asked,
        "{} of {asked} writes acknowledged: {:?}",
        result.acked,
        result.errors
    );
    let rate = result.rate();
    console.talk(&format!("filled: {} at {rate:.0}/s", thousands(asked)));
    Ok(())
}

fn look(
    cluster: &Cluster,
    keys: &Keys,
    options: &BenchOptions,
    after: &'static str,
    opened: Duration,
) -> anyhow::Result<ReopenRow> {
    let door = Door::new(&cluster.endpoint(REGION)?)?;
    let (mut random, mut samples_missing) = (Random::new(options.seed), 0);
    for _ in 0..SAMPLES {
        let index = random.below(keys.count());
        let answer = door.get(KEYSPACE, keys.key(index), Consistency::Home)?;
        let entry = answer.entry;
        let number = entry.and_then(|entry| keys.number_of(index, &entry.value));
        samples_missing += usize::from(number.is_none());
    }
    let disk = door.status()?.disk.unwrap_or_default();
    let pid = cluster.pid(REGION)?;
    Ok(ReopenRow {
        after,
        open_s: opened.as_secs_f64(),
        keys: keys.count(),
        journal_bytes: disk.journal_bytes,
        engine_bytes: disk.engine_bytes,
        resident_kib: pid.and_then(resident_kib).unwrap_or(0),
        samples_missing,
    })
}
