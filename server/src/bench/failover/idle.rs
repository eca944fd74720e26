//! What many partitions cost of which none is written: processor time and memory of each node.
//!
//! **Owns**: the cluster of many partitions, the readings and their promise.
//! **Does not own**: what a node does for a partition (the node).

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::bench::checks::{Bound, Check, Kind};
use crate::bench::options::BenchOptions;
use crate::bench::report::Report;
use crate::rig::{
    Cluster, ClusterPlan, Console, Door, HomePlan, KeyspacePlan, Scratch, Stop, Table,
    processor_time, resident_kib, thousands,
};

/// Partitions of a keyspace: near the most that are allowed, 1,024, and a round number.
const BUCKETS: u32 = 1000;

/// How long after the start nothing is read: engines are opened, logs begun, homes agreed on.
const SETTLE: Duration = Duration::from_secs(10);

/// How long it may take until each partition has its home.
const HOMED_MAX: Duration = Duration::from_secs(120);

/// How often it is looked whether they have: the answer names every partition.
const POLL: Duration = Duration::from_millis(500);

/// What a node may take of one processor, in percent.
const PROCESSOR_PERCENT_MAX: f64 = 3.0;

/// What a node may hold, in MiB.
const RESIDENT_MIB_MAX: f64 = 200.0;

/// What an idle node took.
#[derive(Debug, Serialize)]
struct IdleRow {
    region: String,
    partitions: u32,
    homes: usize,
    processor_percent: f64,
    resident_mib: f64,
}

/// Watches idle nodes, and adds what that gave to the report.
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
    let (partitions, time) = (options.failover.idle_partitions, options.failover.idle_time);
    console.talk(&format!(
        "starting regions of {} partitions",
        thousands(partitions.into())
    ));
    let rtts = options.rtts()?;
    let plan = ClusterPlan {
        homes: options.failover.homes(&rtts),
        rtts,
        program: options.program.clone(),
        keyspaces: keyspaces(partitions, options.home()),
        dir: scratch.sub("idle")?,
    };
    let started = Instant::now();
    let cluster = Cluster::start(&plan, stop)?;
    report.header.rtts = cluster.measured_rtts().to_vec();
    until_homed(&cluster, options.home(), partitions, stop)?;
    console.talk(&format!("all have a home after {:.1?}", started.elapsed()));
    stop.sleep(SETTLE)?;
    let regions: Vec<String> = cluster.running().map(str::to_owned).collect();
    let before = readings(&cluster, &regions)?;
    let since = Instant::now();
    console.talk(&format!("watching them for {time:.0?}"));
    stop.sleep(time)?;
    let (after, watched) = (readings(&cluster, &regions)?, since.elapsed());
    let mut rows = Vec::new();
    for (region, (begun, ended)) in regions.iter().zip(before.iter().zip(&after)) {
        rows.push(IdleRow {
            region: region.clone(),
            partitions,
            homes: homes_in(&cluster, region)?,
            processor_percent: percent(begun.processor, ended.processor, watched),
            resident_mib: ended.resident_kib as f64 / 1024.0,
        });
    }
    add_to(report, &rows, watched);
    Ok(())
}

/// Keyspaces of [`BUCKETS`] partitions each and one of the rest.
fn keyspaces(partitions: u32, home: &str) -> Vec<KeyspacePlan> {
    let full = (0..partitions / BUCKETS).map(|_| BUCKETS);
    let rest = Some(partitions % BUCKETS).filter(|rest| *rest > 0);
    let sizes = full.chain(rest).enumerate();
    let keyspace = |(number, buckets): (usize, u32)| KeyspacePlan {
        name: format!("bench-idle-{number}"),
        ack: "async".to_owned(),
        home: HomePlan::Pinned(home.to_owned()),
        buckets: u16::try_from(buckets).ok(),
    };
    sizes.map(keyspace).collect()
}

fn homes_in(cluster: &Cluster, region: &str) -> anyhow::Result<usize> {
    let status = Door::new(&cluster.endpoint(region)?)?.status()?;
    let homes = status.keyspaces.iter().map(|it| it.homes_here as usize);
    Ok(homes.sum())
}

fn until_homed(cluster: &Cluster, home: &str, partitions: u32, stop: &Stop) -> anyhow::Result<()> {
    let since = Instant::now();
    loop {
        let homes = homes_in(cluster, home)?;
        if homes == partitions as usize {
            return Ok(());
        }
        anyhow::ensure!(
            since.elapsed() < HOMED_MAX,
            "{homes} of {partitions} partitions are at home in {home} after {HOMED_MAX:?}"
        );
        stop.sleep(POLL)?;
    }
}

/// What a process has taken so far.
struct Reading {
    processor: Duration,
    resident_kib: u64,
}

fn readings(cluster: &Cluster, regions: &[String]) -> anyhow::Result<Vec<Reading>> {
    let read = |region: &String| {
        let pid = cluster.pid(region)?;
        let reading = pid.and_then(|pid| {
            Some(Reading {
                processor: processor_time(pid)?,
                resident_kib: resident_kib(pid)?,
            })
        });
        reading.ok_or_else(|| anyhow::anyhow!("the server of {region} is gone"))
    };
    regions.iter().map(read).collect()
}

/// Processor time in percent of one processor.
fn percent(begun: Duration, ended: Duration, watched: Duration) -> f64 {
    let took = ended.saturating_sub(begun).as_secs_f64();
    100.0 * took / watched.as_secs_f64().max(f64::MIN_POSITIVE)
}

fn add_to(report: &mut Report, rows: &[IdleRow], watched: Duration) {
    let headings = [
        "region",
        "partitions",
        "homes",
        "% of a processor",
        "resident MiB",
    ];
    let mut table = Table::new(&headings);
    for row in rows {
        table.row([
            row.region.clone(),
            thousands(row.partitions.into()),
            thousands(row.homes as u64),
            format!("{:.2}", row.processor_percent),
            format!("{:.1}", row.resident_mib),
        ]);
        report.row(row);
    }
    report.table(format!("Idle for {watched:.0?}"), table);
    let most = |figure: fn(&IdleRow) -> f64| rows.iter().map(figure).fold(f64::NAN, f64::max);
    let mut check = |what: &str, figure: f64, most: f64, unit: &str| {
        let bound = Bound::Below(most);
        let check = Check::new(Kind::Speed, what, figure, bound, unit);
        report.checks.push(check);
    };
    let processor = most(|row| row.processor_percent);
    check(
        "idle: % of one processor, the most of any node",
        processor,
        PROCESSOR_PERCENT_MAX,
        "%",
    );
    let resident = most(|row| row.resident_mib);
    check(
        "idle: memory, the most of any node",
        resident,
        RESIDENT_MIB_MAX,
        "MiB",
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_spread_over_keyspaces() {
        let sizes = |partitions| {
            let keyspaces = keyspaces(partitions, "a");
            let buckets = keyspaces.iter().map(|it| it.buckets.unwrap());
            buckets.collect::<Vec<_>>()
        };
        assert_eq!(sizes(10_000), [1000; 10]);
        assert_eq!(sizes(2500), [1000, 1000, 500]);
        assert_eq!(sizes(8), [8]);
    }

    #[test]
    fn processor_time_is_a_share_of_one_processor() {
        let (begun, ended) = (Duration::from_secs(10), Duration::from_millis(11_200));
        let share = percent(begun, ended, Duration::from_secs(60));
        assert!((share - 2.0).abs() < 1e-9, "{share}");
        assert!(percent(ended, begun, Duration::from_secs(60)).abs() < 1e-9);
    }
}
