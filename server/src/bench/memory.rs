//! What nodes hold in memory under full load while one copy is away.
//!
//! **Owns**: the load, the samples and the promised bound.
//! **Does not own**: what a node bounds how (the node).

use std::collections::BTreeMap;

use serde::Serialize;

use super::checks::{Bound, Check, Kind};
use super::load::{LoadPlan, Shape, run_load};
use super::options::BenchOptions;
use super::report::Report;
use super::stage::{Stage, cut_off};
use crate::rig::{Cluster, Console, ExitOutcome, Stop, Table, resident_kib, thousands};

/// What a node may hold, in MiB.
const RESIDENT_MIB_MAX: f64 = 512.0;

#[derive(Serialize)]
struct MemoryRow<'a> {
    region: &'a str,
    resident_kib_max: u64,
    resident_kib_last: u64,
}

pub(super) fn run(
    options: &BenchOptions,
    console: &Console,
    stop: &Stop,
) -> anyhow::Result<ExitOutcome> {
    let stage = Stage::set(options, stop)?;
    let (home, away, cluster) = (options.home(), cut_off(options)?, &stage.cluster);
    cluster.wan().isolate(away)?;
    console.talk(&format!(
        "{away} is cut off; full load for {:.0?}",
        options.duration
    ));
    let outstanding = options.outstanding.iter().copied().max().unwrap_or(1);
    let load = LoadPlan {
        pace: options.pace(),
        duration: options.duration,
        ..stage.load(options, Shape::Stream { outstanding }, stop)?
    };
    let mut resident: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let result = run_load(&load, &mut |second| {
        sample(cluster, &mut resident);
        let (seconds, rate) = (second.since_start.as_secs(), thousands(second.acked));
        let most = resident.get(home).map_or(0, |(most, _)| most >> 10);
        console.progress(&format!(
            "{seconds} s  {rate} writes/s  {home} {most} MiB at most"
        ));
    })?;
    console.progress_ended();
    stop.check()?;
    let mut report = Report::new(options, stage.header.clone());
    let mut table = Table::new(&["region", "most MiB", "at the end MiB"]);
    for (region, (most, last)) in &resident {
        let cells = [
            region.clone(),
            format!("{}", most >> 10),
            format!("{}", last >> 10),
        ];
        table.row(cells);
        report.row(&MemoryRow {
            region,
            resident_kib_max: *most,
            resident_kib_last: *last,
        });
        let (figure, bound) = (*most as f64 / 1024.0, Bound::Below(RESIDENT_MIB_MAX));
        let what = format!("{region}: resident memory");
        let check = Check::new(Kind::Speed, what, figure, bound, "MiB");
        report.checks.push(check);
    }
    let (time, rate) = (options.duration, thousands(result.rate() as u64));
    // A server that has stopped serving holds little memory.
    let failed: u64 = result.errors.values().sum();
    let what = format!("writes that failed {:?}", result.errors);
    let none = Bound::AtMost(0.0);
    let served = Check::new(Kind::Safety, what, failed as f64, none, "");
    report.checks.push(served);
    report.table(
        format!("Memory after {time:.0?} at {rate} writes/s, {away} away"),
        table,
    );
    report.finish(options.out.as_deref(), console)
}

/// Notes what every server holds now: the most so far, and the last.
fn sample(cluster: &Cluster, resident: &mut BTreeMap<String, (u64, u64)>) {
    for region in cluster.running() {
        let pid = cluster.pid(region).ok().flatten();
        if let Some(now) = pid.and_then(resident_kib) {
            let (most, last) = resident.entry(region.to_owned()).or_default();
            (*most, *last) = ((*most).max(now), now);
        }
    }
}
