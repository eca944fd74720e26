//! A log that has left its home's finds back: what the home never had is sealed and cut.
//!
//! **Owns**: the order in a partition's life: nothing is taken, the fork, the cut, the cells healed
//! with what the home has, and a new hello.
//! **Does not own**: sealing and cutting (storage), where logs part (core).
//!
//! Safe to be broken off anywhere and begun again: every step of the store is, and the next hello
//! finds the same fork or none.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domicile_core::{Partition, fork};
use domicile_proto::{Epoch, PartitionId, Seq, v1};
use domicile_storage::cells::Cell;
use domicile_storage::{AfterCut, CutPlan, HealProgress, OrphanFile, PartitionTail, Store};

use super::seating::{blocking, recovered_copy, wait_quiet};
use crate::clock::Clock;
use crate::driver::{ClosedIntake, Slot};
use crate::node::{AHEAD, NodeCore};
use crate::peers::HomeLog;

/// Keys asked for at once: with values of usual size some hundred KiB. Doubled, half as many round
/// trips, and twice as much to hold.
pub(crate) const HEAL_KEYS_MAX: usize = 512;

/// How long the home may take to answer what it has of some keys.
const ANSWER_MAX: Duration = Duration::from_secs(10);

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What is said while the two logs differ.
const ALARM: &str = "its log has left its home's";

/// A partition that was not healed is tried again this much later.
const RETRY: Duration = Duration::from_secs(1);

/// Brings a partition's log back to its home's.
pub(crate) async fn rejoin(node: Arc<NodeCore>, slot: Arc<Slot>, home: HomeLog) {
    let partition = slot.partition;
    // One after the other: the fork is that of the log as it is then.
    let _one = tokio::select! {
        () = node.closed() => return,
        one = slot.mending.lock() => one,
    };
    // A snapshot on its way comes first. What is wounded is closed, and its log may be longer than
    // that of the home which is to heal it now.
    let is_wounded = || node.store.wound(partition).is_some();
    let closed = match node.driver.close_intake(&slot) {
        Some(closed) => closed,
        None if is_wounded() => ClosedIntake::of(&slot),
        None => return,
    };
    slot.set_alarm(Some(ALARM.to_owned()));
    let outcome = tokio::select! {
        () = node.closed() => return,
        outcome = cut(&node, &slot, &home) => outcome,
    };
    match outcome {
        Ok(AfterCut::Whole) => slot.clear_alarm(ALARM),
        Ok(AfterCut::Wounded) => {
            closed.stay();
            node.ownership.wounds.notify_one();
            return;
        }
        Ok(AfterCut::NeedsSnapshot) => {
            let damage = "its cells may hold records that its home never had";
            node.driver.quarantine(&slot, damage);
            node.wanted.want(partition, Seq::FIRST);
        }
        Err(error) => {
            tracing::error!(%partition, %error, "a log that has left its home's was not mended");
            slot.set_alarm(Some(format!("{ALARM}: {error}")));
            if is_wounded() {
                closed.stay();
                // The home tells of the fork once a stream begins.
                tokio::select! {
                    () = node.closed() => return,
                    () = tokio::time::sleep(RETRY) => {}
                }
                say_hello_again(&node, &slot);
                return;
            }
        }
    }
    drop(closed);
    say_hello_again(&node, &slot);
}

/// The cells of a copy are newer than its log by the word of a home that is succeeded: the present
/// one is asked of the same keys, or a snapshot takes their place.
pub(crate) async fn ask_again(node: Arc<NodeCore>, slot: Arc<Slot>) {
    let _one = tokio::select! {
        () = node.closed() => return,
        one = slot.mending.lock() => one,
    };
    let Some(closed) = node.driver.close_intake(&slot) else {
        return;
    };
    let is_wounded = tokio::select! {
        () = node.closed() => return,
        is_wounded = wound_again(&node, &slot) => is_wounded,
    };
    match is_wounded {
        Ok(true) => {
            closed.stay();
            node.ownership.wounds.notify_one();
        }
        Ok(false) => {
            closed.stay();
            node.driver.quarantine(&slot, AHEAD);
            node.wanted.want(slot.partition, Seq::FIRST);
        }
        Err(error) => {
            let partition = slot.partition;
            tracing::warn!(%partition, %error, "{AHEAD}, and that was not mended so far");
            tokio::select! {
                () = node.closed() => return,
                () = tokio::time::sleep(RETRY) => {}
            }
            drop(closed);
            say_hello_again(&node, &slot);
        }
    }
}

/// Whether a copy that is about to be opened is to be healed once more; if it is not ahead, or only
/// a snapshot mends it, it is not.
pub(crate) fn was_wounded_again(store: &Store, partition: PartitionId) -> bool {
    let outcome = store.wound_again(partition);
    outcome.unwrap_or_else(|error| {
        tracing::warn!(%partition, %error, "{AHEAD}, and that cannot be healed");
        false
    })
}

async fn wound_again(node: &Arc<NodeCore>, slot: &Slot) -> Result<bool, Failure> {
    if slot.is_home() || !wait_quiet(slot).await {
        return Err("it is not at rest".into());
    }
    if !slot.is_ahead_of(reign_of(node, slot.partition)) {
        return Err("its log has come meanwhile".into());
    }
    let (store, partition) = (Arc::clone(&node.store), slot.partition);
    Ok(blocking(move || store.wound_again(partition)).await?)
}

/// The home ships a partition from its hello on, and no more once something of it was refused.
pub(super) fn say_hello_again(node: &NodeCore, slot: &Slot) {
    if let Some(signal) = node.driver.peers.source(slot.home()) {
        signal.end_stream();
    }
}

async fn cut(node: &Arc<NodeCore>, slot: &Arc<Slot>, home: &HomeLog) -> Result<AfterCut, Failure> {
    let partition = slot.partition;
    if slot.is_home() || !wait_quiet(slot).await {
        return Err("it is not at rest".into());
    }
    let (superseded_by, _) = *home.reigns.last().ok_or("a home without a reign")?;
    // A home that has been succeeded, or is about to be, has no say: what is here may be what its
    // successor is chosen for. A promise made from now on is answered once the intake is open
    // again.
    if let Some(promised) = node.store.promised(partition)
        && promised > superseded_by
    {
        return Err(format!("{superseded_by} says so, and {promised} was promised").into());
    }
    let tail = node.store.tail(partition).ok_or("there is no log here")?;
    let at = fork(
        (&tail.epoch_history, tail.last_seq),
        (&home.reigns, home.last_seq),
    );
    let plan = CutPlan {
        superseded_by,
        now_ms: Clock::wall_ms(),
    };
    // Without its tail the log does not say any more that this node led in a later reign than a map
    // of before this one, as it may have after a restart, knows of.
    let driver = Arc::clone(&node.driver);
    blocking(move || driver.promise(&[(partition, superseded_by)])).await?;
    // What a snapshot of an older home stands for cannot be taken out of it again.
    let base = node.store.log_start(partition).previous();
    let store = Arc::clone(&node.store);
    let mut report = blocking(move || store.cut(partition, at.max(base), plan)).await;
    while let Err(error) = &report
        && is_cut(node, &tail, partition)
    {
        // What is left to be done of it is not left to the next hello, which finds no fork.
        tracing::warn!(%partition, %error, "a log is cut, and that not settled so far");
        slot.set_alarm(Some(format!("{ALARM}, cut and not settled: {error}")));
        tokio::time::sleep(RETRY).await;
        let store = Arc::clone(&node.store);
        report = blocking(move || store.finish_cut(partition)).await;
    }
    node.orphan_tally.changed();
    let report = report?;
    if slot.is_home() {
        return Err("it has become home meanwhile".into());
    }
    if let Some(OrphanFile {
        records,
        file_bytes: bytes,
        ..
    }) = report.orphans
    {
        let fork = report.fork.seq;
        tracing::warn!(
            %partition, %fork, records, bytes,
            "records that the new home never had were sealed as orphans"
        );
        node.ownership.cuts.notify_one();
    }
    reopen(node, slot)?;
    match base > at {
        true => Ok(AfterCut::NeedsSnapshot),
        false => Ok(report.cells),
    }
}

/// Whether a log that ended in `tail` has been cut, and what is left of it can be done.
fn is_cut(node: &NodeCore, tail: &PartitionTail, partition: PartitionId) -> bool {
    let left = node.store.tail(partition);
    let last_seq = left.map_or(Seq::NONE, |left| left.last_seq);
    last_seq < tail.last_seq && node.store.poison_cause().is_none()
}

/// The core believed in the log and the cells as they were.
fn reopen(node: &NodeCore, slot: &Slot) -> Result<(), Failure> {
    let core = Partition::copy(
        slot.config(),
        recovered_copy(node, slot.partition),
        node.clock.now(),
    )?;
    node.driver.reseat(slot, slot.keyspace(), core);
    Ok(())
}

/// Heals what is wounded, from the open on or from when it was cut, until the node closes.
pub(crate) async fn run_mender(node: Arc<NodeCore>) {
    loop {
        let copies = node.driver.slots().filter(|slot| !slot.is_home());
        let wounded = copies.filter(|slot| node.store.wound(slot.partition).is_some());
        let mut is_done = true;
        for slot in wounded {
            // Its log is being cut: that comes first.
            let Ok(_one) = slot.mending.try_lock() else {
                is_done = false;
                continue;
            };
            let outcome = tokio::select! {
                () = node.closed() => return,
                outcome = heal(&node, &slot) => outcome,
            };
            let partition = slot.partition;
            match outcome.and_then(|()| reopen(&node, &slot)) {
                Ok(()) => {
                    slot.clear_alarm(ALARM);
                    node.driver.open_intake(&slot);
                    say_hello_again(&node, &slot);
                }
                Err(error) => {
                    is_done = false;
                    tracing::warn!(%partition, %error, "cells were not healed so far");
                    slot.set_alarm(Some(format!("{ALARM}, cells not healed: {error}")));
                }
            }
        }
        tokio::select! {
            () = node.closed() => return,
            () = node.ownership.wounds.notified() => {}
            () = tokio::time::sleep(RETRY), if !is_done => {}
        }
    }
}

/// Gives every key that the cut records touched what the home has of it.
async fn heal(node: &Arc<NodeCore>, slot: &Arc<Slot>) -> Result<(), Failure> {
    let partition = slot.partition;
    // All of it is one home's word: another one may have another history.
    node.store.restart_heal(partition);
    let reign = reign_of(node, partition);
    loop {
        let store = Arc::clone(&node.store);
        let keys = blocking(move || store.wounded_keys(partition, HEAL_KEYS_MAX)).await?;
        let wound = node.store.wound(partition);
        let seq_min = wound.map_or(Seq::NONE, |wound| wound.ask_from);
        let (cells, at) = match keys.is_empty() {
            true => (Vec::new(), seq_min),
            false => ask_home(node, slot, keys, seq_min).await?,
        };
        if reign_of(node, partition) != reign {
            return Err("its home has changed meanwhile".into());
        }
        slot.set_ahead_by(reign);
        let store = Arc::clone(&node.store);
        let progress = blocking(move || store.heal(partition, &cells, at)).await?;
        if let HealProgress::Done { readable_from } = progress {
            tracing::info!(%partition, %readable_from, "its cells are healed");
            return Ok(());
        }
    }
}

/// The reign of a partition's home, as the map says; `None` where homes are static.
pub(crate) fn reign_of(node: &NodeCore, partition: PartitionId) -> Option<Epoch> {
    let assignment = node.plane.as_ref()?.map().assignment(partition)?;
    Some(assignment.epoch)
}

type Healed = (Vec<(Bytes, Option<Cell>)>, Seq);

async fn ask_home(
    node: &NodeCore,
    slot: &Slot,
    keys: Vec<Bytes>,
    seq_min: Seq,
) -> Result<Healed, Failure> {
    let link = node.link(slot.home()).ok_or("no link to its home")?;
    let mut client = link.forwarding().ok_or("its home has no address")?;
    let request = v1::ReadCellsRequest {
        partition: Bytes::copy_from_slice(&slot.partition.to_bytes()),
        region: node.topology.own.name.to_string(),
        keys: keys.clone(),
        seq_min: seq_min.get(),
    };
    let answer = tokio::time::timeout(ANSWER_MAX, client.read_cells(request)).await;
    let answer = answer.map_err(|_| format!("no answer within {ANSWER_MAX:?}"))??;
    let v1::ReadCellsResponse { applied_upto, rows } = answer.into_inner();
    let mut rows = rows.into_iter().peekable();
    let mut cells = Vec::with_capacity(keys.len());
    for key in keys {
        let row = rows.next_if(|row| row.key == key);
        let cell = row.map(crate::peers::cell_of_row).transpose()?;
        cells.push((key, cell));
    }
    if rows.next().is_some() {
        return Err("its home answered with keys that were not asked for".into());
    }
    Ok((cells, Seq::new(applied_upto)))
}
