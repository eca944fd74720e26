//! A region is lost for real: the others take over, it returns, and what it had alone is counted.
//!
//! **Owns**: the order of events, the client's own figures of them.
//! **Does not own**: the loads and the loss (`bench`, `rig`), the words (`ending`).
//!
//! ```text
//! load ...... SIGKILL + links cut | others take over: the first answer by a new home
//!                                 | what the survivors show, against the client's list
//!                                 | region back: its orphans, against the same list
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use domicile_proto::Seq;
use domicile_proto::v1::{self, Consistency};

use crate::bench::{CrashPlan, LoadedLoss, load_until_lost};
use crate::rig::{Ack, Cluster, Comparison, Console, Door, Keys, Stop, compare, shown_when_quiet};

/// How long the others may take to take over: far above what the settings imply.
const TAKEOVER_MAX: Duration = Duration::from_secs(30);

/// How long the region may take to return, cut its logs and report.
const RETURN_MAX: Duration = Duration::from_secs(60);

/// How often it is looked whether it has.
const POLL: Duration = Duration::from_millis(50);

/// A key that no load writes.
const PROBE: &[u8] = b"probe/after-the-loss";

/// What the loss of a region came to at one level.
#[derive(Debug)]
pub(super) struct LevelLoss {
    /// Writes that had been acknowledged to the client.
    pub(super) acked: u64,
    /// The client's list against what the survivors show once they have taken over.
    pub(super) client: Comparison,
    /// From the last answer of the old home to the first of a new one.
    pub(super) rto: Duration,
    /// Whether the first answer was to a write: a level that needs all regions gives none.
    pub(super) is_written: bool,
    /// Parts of the longest takeover, in ms: detect, fence, promote, as the nodes report it.
    pub(super) parts_ms: [u64; 3],
    /// Writes beyond the fork that the home may have acknowledged, as it reports once it is back.
    pub(super) actual: u64,
    /// Orphans listed by the region.
    pub(super) orphans: u64,
    /// Of them, those of writes that had been acknowledged to the client.
    pub(super) orphans_acked: u64,
    /// Acknowledged writes that are lost and not among the orphans, or among them and not lost.
    pub(super) unaccounted: u64,
}

impl LevelLoss {
    /// Writes that were lost while their answer was on its way: the client does not know of them
    /// whether they were acknowledged. Where others are needed the home had not answered.
    pub(super) fn never_told(&self) -> u64 {
        match self.actual {
            0 => 0,
            _ => self.orphans - self.orphans_acked,
        }
    }
}

/// Loses the home under load and sees the regions through it.
pub(super) fn lose_and_recover(
    cluster: &mut Cluster,
    plan: &CrashPlan,
    stop: &Stop,
    console: &Console,
    aftermath: &mut dyn FnMut(&Cluster) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<LevelLoss>> {
    let loss = load_until_lost(cluster, plan, stop)?;
    let answers = first_answers(cluster, plan, stop)?;
    let survivors: Vec<String> = cluster.running().map(str::to_owned).collect();
    let mut levels = Vec::new();
    for ((load, result), answer) in plan.loads.iter().zip(&loss.results).zip(answers) {
        let mut shown = BTreeMap::new();
        for region in &survivors {
            let endpoint = cluster.endpoint(region)?;
            let rows = shown_when_quiet(&endpoint, &load.keyspace, &load.keys, stop)?;
            shown.insert(region.clone(), rows);
        }
        let client = compare(
            &result.acks,
            load.keys.write_bytes(),
            loss.crashed_at,
            &shown,
        );
        levels.push(LevelLoss {
            acked: result.acks.len() as u64,
            client,
            rto: answer.rto(&loss, &result.acks),
            is_written: answer.is_written,
            parts_ms: [0; 3],
            actual: 0,
            orphans: 0,
            orphans_acked: 0,
            unaccounted: 0,
        });
    }
    aftermath(cluster)?;
    console.talk(&format!("\n{} returns.", plan.home));
    cluster.start_server(&plan.home)?;
    cluster.wan().heal(&plan.home)?;
    cluster.wait_until_ready(&plan.home, stop)?;
    let changes = until_counted(cluster, plan, stop)?;
    let door = Door::new(&cluster.endpoint(&plan.home)?)?;
    for ((load, result), level) in plan.loads.iter().zip(&loss.results).zip(&mut levels) {
        report(level, &changes, &load.keyspace);
        let orphans = door.orphans(&load.keyspace)?;
        account(level, &orphans, &result.acks, &load.keys);
    }
    Ok(levels)
}

/// The first answer of a new home.
struct FirstAnswer {
    at: Instant,
    is_written: bool,
}

impl FirstAnswer {
    fn rto(&self, loss: &LoadedLoss, acks: &[Ack]) -> Duration {
        // What was read from the socket after the loss was sent before it.
        let last = acks.iter().map(|ack| ack.at.min(loss.crashed_at)).max();
        let last = loss.epoch + last.unwrap_or(loss.crashed_at);
        self.at.saturating_duration_since(last)
    }
}

/// Asks a survivor for each keyspace until a new home answers.
fn first_answers(
    cluster: &Cluster,
    plan: &CrashPlan,
    stop: &Stop,
) -> anyhow::Result<Vec<FirstAnswer>> {
    let survivor = cluster.running().next().context("no region is left")?;
    let endpoint = cluster.endpoint(survivor)?;
    thread::scope(|scope| {
        let asking: Vec<_> = plan
            .loads
            .iter()
            .map(|load| {
                let (endpoint, keyspace) = (&endpoint, &load.keyspace);
                scope.spawn(move || first_answer(endpoint, keyspace, stop))
            })
            .collect();
        asking
            .into_iter()
            .map(|asked| asked.join().expect("asking does not panic"))
            .collect()
    })
}

fn first_answer(endpoint: &str, keyspace: &str, stop: &Stop) -> anyhow::Result<FirstAnswer> {
    let (door, since) = (Door::new(endpoint)?, Instant::now());
    loop {
        let value = Bytes::from_static(b"written at a new home");
        let failed = match door.put(keyspace, Bytes::from_static(PROBE), value) {
            Ok(_) => {
                return Ok(FirstAnswer {
                    at: Instant::now(),
                    is_written: true,
                });
            }
            Err(error) => error,
        };
        // Where all regions are needed, the new home reads and cannot acknowledge.
        if door
            .get(keyspace, Bytes::from_static(PROBE), Consistency::Home)
            .is_ok()
        {
            return Ok(FirstAnswer {
                at: Instant::now(),
                is_written: false,
            });
        }
        anyhow::ensure!(
            since.elapsed() < TAKEOVER_MAX,
            "{keyspace} has no new home after {TAKEOVER_MAX:?}: {failed:#}"
        );
        stop.sleep(POLL)?;
    }
}

/// Waits until the region has said of every partition what it had beyond the fork.
fn until_counted(
    cluster: &Cluster,
    plan: &CrashPlan,
    stop: &Stop,
) -> anyhow::Result<Vec<v1::HomeChange>> {
    let door = Door::new(&cluster.endpoint(&plan.home)?)?;
    let since = Instant::now();
    loop {
        // The region itself learns of the changes by and by.
        let changes = door.home_changes().unwrap_or_default();
        let of = |it: &v1::HomeChange| {
            let mut loads = plan.loads.iter();
            !it.planned && loads.any(|load| load.keyspace == it.keyspace)
        };
        let changes: Vec<v1::HomeChange> = changes.into_iter().filter(of).collect();
        let left = changes.iter().filter(|it| it.actual_writes.is_none());
        let left = left.count();
        if !changes.is_empty() && left == 0 {
            return Ok(changes);
        }
        anyhow::ensure!(
            since.elapsed() < RETURN_MAX,
            "{left} of {} partitions are not accounted for after {RETURN_MAX:?}",
            changes.len()
        );
        stop.sleep(POLL)?;
    }
}

/// What the nodes report of a keyspace.
fn report(level: &mut LevelLoss, changes: &[v1::HomeChange], keyspace: &str) {
    let of: Vec<&v1::HomeChange> = changes
        .iter()
        .filter(|it| it.keyspace == keyspace)
        .collect();
    let parts = |it: &v1::HomeChange| {
        [it.detect_ms, it.fence_ms, it.promote_ms].map(|part| part.unwrap_or(0))
    };
    let longest = of.iter().copied().map(parts);
    let longest = longest.max_by_key(|parts| parts.iter().sum::<u64>());
    level.parts_ms = longest.unwrap_or_default();
    level.actual = of.iter().filter_map(|it| it.actual_writes).sum();
}

/// Holds the orphans against the client's list. A key has one partition, so key and place in its
/// log name a write.
fn account(level: &mut LevelLoss, orphans: &[(Bytes, Seq)], acks: &[Ack], keys: &Keys) {
    let listed = orphans
        .iter()
        .filter_map(|(key, seq)| Some((keys.index_of(key)?, *seq)));
    let listed: BTreeSet<(u32, Seq)> = listed.collect();
    let acked: BTreeSet<(u32, Seq)> = acks.iter().map(|ack| (ack.key, ack.seq)).collect();
    level.orphans = orphans.len() as u64;
    level.orphans_acked = listed.intersection(&acked).count() as u64;
    level.unaccounted = level.client.lost.writes.abs_diff(level.orphans_acked);
}
