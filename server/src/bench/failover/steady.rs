//! What agreed homes cost while nothing happens: puts with them against puts with static ones.
//!
//! **Owns**: the two clusters, the ratio and its promise.
//! **Does not own**: loads and turns (`series`).

use std::sync::Arc;

use crate::bench::acks::{keyspace_name, turn_plan};
use crate::bench::checks::{Bound, Check, Kind};
use crate::bench::options::BenchOptions;
use crate::bench::report::Report;
use crate::bench::series::{Series, SeriesRow, alternate};
use crate::rig::{
    Cluster, ClusterPlan, Console, HomePlan, HomesPlan, Keys, KeyspacePlan, Scratch, Stop, Table,
};

/// The level of the keyspace that is written to in both: what a put costs by itself.
const LEVEL: &str = "async";

/// What a put with agreed homes may take of one with static homes (p50).
const RATIO_MAX: f64 = 1.02;

/// Measures both in turn, and adds what that gave to the report.
///
/// # Errors
/// Servers that do not start or answer, or an interrupt.
pub(super) fn run(
    options: &BenchOptions,
    scratch: &Scratch,
    report: &mut Report,
    console: &Console,
    stop: &Stop,
) -> anyhow::Result<()> {
    let keys = Arc::new(Keys::new(options.keys, options.value_bytes, options.seed));
    let agreed = options.failover.homes(&options.rtts()?);
    let mut clusters = Vec::new();
    for (name, homes) in [("static", HomesPlan::Static), ("agreed", agreed)] {
        let dir = scratch.sub(&format!("steady-{name}"))?;
        let plan = ClusterPlan {
            rtts: options.rtts()?,
            program: options.program.clone(),
            homes,
            keyspaces: vec![KeyspacePlan {
                name: keyspace_name(LEVEL),
                ack: LEVEL.to_owned(),
                home: HomePlan::Pinned(options.home().to_owned()),
                buckets: None,
            }],
            dir,
        };
        clusters.push((name, Cluster::start(&plan, stop)?));
    }
    report.header.rtts = clusters[0].1.measured_rtts().to_vec();
    let headings: Vec<_> = ["homes", "load"]
        .into_iter()
        .chain(SeriesRow::HEADINGS)
        .collect();
    let mut table = Table::new(&headings).left(2);
    for shape in options.shapes() {
        console.talk(&format!("measuring {} with either", shape.label()));
        let series = clusters.iter().map(|(name, cluster)| {
            let endpoint = cluster.endpoint(options.home())?;
            let plan = turn_plan(options, &keys, endpoint, LEVEL, shape, stop);
            Ok(Series::new(
                format!("{name} homes, {}", shape.label()),
                plan,
            ))
        });
        let mut series = series.collect::<anyhow::Result<Vec<_>>>()?;
        alternate(&mut series, options.rounds, console, stop)?;
        for (each, (name, _)) in series.iter().zip(&clusters) {
            let mut cells = vec![(*name).to_owned(), shape.label()];
            cells.extend(each.row().cells());
            table.row(cells);
            report.row(&each.row());
            report.curve(each.label.clone(), &each.latencies);
        }
        let ratio = series[1].p50_ms() / series[0].p50_ms().max(f64::MIN_POSITIVE);
        let what = format!("{}: put p50, agreed homes over static", shape.label());
        let bound = Bound::AtMost(RATIO_MAX);
        let check = Check::new(Kind::Speed, what, ratio, bound, "");
        report.checks.push(check);
    }
    let rounds = options.rounds;
    report.table(format!("Nothing happens, {rounds} turns each"), table);
    Ok(())
}
