//! The scenes before the loss: who is there, who writes what, who reads what.
//!
//! **Owns**: what is measured and shown in each.
//! **Does not own**: their order (`story`).

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use domicile_proto::v1::Consistency;

use super::workload::{USERS, Workload, rows_of, seed_rows};
use crate::bench::{LoadResult, ms};
use crate::rig::{Cluster, Console, Door, Stop, Table};

/// How long a fresh write may take to reach a copy before the scene ends without it.
const ARRIVAL_MAX: Duration = Duration::from_secs(5);

/// Shows the regions, their distances, and how to talk to them from a second terminal.
pub(super) fn introduce(
    cluster: &Cluster,
    dir: &Path,
    home: &str,
    console: &Console,
) -> anyhow::Result<()> {
    let mut links = Table::new(&["from", "to", "RTT ms", "as measured"]).left(2);
    for rtt in cluster.measured_rtts() {
        let (nominal, measured) = (
            format!("{:.1}", rtt.nominal_ms),
            format!("{:.2}", rtt.p50_ms),
        );
        links.row([rtt.from.clone(), rtt.to.clone(), nominal, measured]);
    }
    let mut regions = Table::new(&["region", "endpoint", "server"]).left(3);
    for region in cluster.rtts().regions() {
        let pid = cluster.pid(region)?.unwrap_or_default();
        regions.row([
            region.clone(),
            cluster.endpoint(region)?,
            format!("pid {pid}"),
        ]);
    }
    console.tell(&format!("{regions}\n\n{links}"));
    let (endpoint, dir) = (cluster.endpoint(home)?, dir.display());
    let row = String::from_utf8_lossy(&rows_of(home, 1).key(7)).into_owned();
    console.talk(&format!(
        "\nFrom a second terminal, while this runs:\n  \
         domicile kv get {USERS} {row} --endpoint {endpoint}\n  \
         domicile status --endpoint {endpoint}\n  \
         domicile demo ls --dir {dir}\n  \
         domicile demo cut {home} --dir {dir}      (heal, kill, restart, rtt A B MS)\n"
    ));
    Ok(())
}

/// Writes the first rows in every region, and lets every region go on writing its own.
pub(super) fn begin_workloads(
    cluster: &Cluster,
    seed: u64,
    console: &Console,
    stop: &Stop,
) -> anyhow::Result<Vec<Workload>> {
    let regions = cluster.rtts().regions();
    let seeded: Vec<(String, anyhow::Result<LoadResult>)> = thread::scope(|scope| {
        let seeding: Vec<_> = regions
            .iter()
            .map(|region| {
                let seeding = scope.spawn(|| seed_rows(cluster, region, seed, stop));
                (region.clone(), seeding)
            })
            .collect();
        let joined = seeding.into_iter().map(|(region, seeding)| {
            let result = seeding.join().expect("a load does not panic");
            (region, result)
        });
        joined.collect()
    });
    let mut table = Table::new(&["region", "rows written there", "p50 ms", "p99 ms"]);
    for (region, result) in seeded {
        let result = result?;
        let latency = result.latencies.summary();
        table.row([
            region,
            result.acked.to_string(),
            format!("{:.2}", latency.p50_ms),
            format!("{:.2}", latency.p99_ms),
        ]);
    }
    console.tell(&format!(
        "Each region writes its own rows of keyspace {USERS}, at local speed\n{table}\n"
    ));
    let workloads = regions
        .iter()
        .map(|region| Workload::start(cluster, region, seed, stop));
    workloads.collect()
}

/// Reads rows of `home` in every other region.
pub(super) fn read_across(
    cluster: &Cluster,
    home: &str,
    console: &Console,
    stop: &Stop,
) -> anyhow::Result<()> {
    let headings = [
        "reader",
        "its own copy ms",
        "stale by ms",
        "asking the home ms",
        "fresh after",
    ];
    let mut table = Table::new(&headings);
    let writer = Door::new(&cluster.endpoint(home)?)?;
    let key = Bytes::from(format!("{home}-hello"));
    for reader in cluster.rtts().others(home) {
        let door = Door::new(&cluster.endpoint(reader)?)?;
        let row = rows_of(home, 1).key(7);
        let read = |consistency| {
            // The first read of a connection also opens it.
            door.get(USERS, row.clone(), consistency)?;
            let since = Instant::now();
            let answer = door.get(USERS, row.clone(), consistency)?;
            anyhow::Ok((ms(since.elapsed()), answer))
        };
        let (here_ms, answer) = read(Consistency::Local)?;
        let (home_ms, _) = read(Consistency::Home)?;
        let value = Bytes::from(format!("hello, {reader}, it is {:?}", Instant::now()));
        writer.put(USERS, key.clone(), value.clone())?;
        let fresh = arrival(&door, &key, &value, stop)?;
        table.row([
            reader.to_owned(),
            format!("{here_ms:.2}"),
            answer.staleness_ms.to_string(),
            format!("{home_ms:.2}"),
            fresh.map_or_else(|| "-".to_owned(), |time| format!("{:.1} ms", ms(time))),
        ]);
    }
    console.tell(&format!(
        "Rows of {home}, read in the other regions\n{table}\n"
    ));
    Ok(())
}

/// How long after now a value is readable; `None` if it does not arrive.
fn arrival(
    door: &Door,
    key: &Bytes,
    value: &Bytes,
    stop: &Stop,
) -> anyhow::Result<Option<Duration>> {
    let since = Instant::now();
    while since.elapsed() < ARRIVAL_MAX {
        stop.check()?;
        let answer = door.get(USERS, key.clone(), Consistency::Local)?;
        if answer.entry.is_some_and(|entry| entry.value == *value) {
            return Ok(Some(since.elapsed()));
        }
    }
    Ok(None)
}
