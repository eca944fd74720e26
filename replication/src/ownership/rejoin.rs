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
use domicile_core::control::{Change, Command, Note, Why};
use domicile_core::{Partition, Standing, fork};
use domicile_proto::{
    Epoch, NodeId, OnTimeout, PartitionId, Record, RecordKind, RegionId, Seq, v1,
};
use domicile_storage::cells::Cell;
use domicile_storage::{AfterCut, CutPlan, CutReport, HealProgress, OrphanFile};

use super::plane::tell;
use super::seating::{blocking, recovered_copy, wait_quiet};
use crate::clock::Clock;
use crate::driver::Slot;
use crate::node::NodeCore;
use crate::peers::HomeLog;

/// Keys asked for at once: with values of usual size some hundred KiB. Doubled, half as many round
/// trips, and twice as much to hold.
pub(crate) const HEAL_KEYS_MAX: usize = 512;

/// How long the home may take to answer what it has of some keys.
const ANSWER_MAX: Duration = Duration::from_secs(10);

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What is said while the two logs differ.
const ALARM: &str = "its log has left its home's";

/// Notes told in one command: some tens of bytes each.
const NOTES_AT_ONCE: usize = 512;

/// A partition that was not healed is tried again this much later.
const RETRY: Duration = Duration::from_secs(1);

/// Brings a partition's log back to its home's.
pub(crate) async fn rejoin(node: Arc<NodeCore>, slot: Arc<Slot>, home: HomeLog) {
    let partition = slot.partition;
    // Whoever is at it already, or a snapshot on its way, comes first.
    let Some(closed) = node.driver.close_intake(&slot) else {
        return;
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
        }
    }
    drop(closed);
    say_hello_again(&node, &slot);
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
    // What a snapshot of an older home stands for cannot be taken out of it again.
    let base = node.store.log_start(partition).previous();
    let store = Arc::clone(&node.store);
    let report = blocking(move || store.cut(partition, at.max(base), plan)).await;
    node.orphan_tally.changed();
    let report = report?;
    note(node, partition, tail.epoch, &report);
    reopen(node, slot)?;
    match base > at {
        true => Ok(AfterCut::NeedsSnapshot),
        false => Ok(report.cells),
    }
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

/// Tells the map what the change of home that ended `reign` has cost.
fn note(node: &Arc<NodeCore>, partition: PartitionId, reign: Epoch, report: &CutReport) {
    let Some(orphans) = &report.orphans else {
        return;
    };
    let (fork, records, bytes) = (report.fork.seq, orphans.records, orphans.file_bytes);
    tracing::warn!(
        %partition, %fork, records, bytes,
        "records that the new home never had were sealed as orphans"
    );
    let Some(plane) = node.plane.clone() else {
        return;
    };
    let map = plane.map();
    // The change that ended the reign. One that was handed on and lost before the map knew of it is
    // ended by the next change that the map does know.
    let changes = map.history().iter();
    let mut changes = changes.filter(|it| it.partition == partition && it.to > reign);
    let change = changes.next();
    let Some((epoch, old)) = change.map(|change| (change.to, change.from.node)) else {
        return;
    };
    let (node, file) = (Arc::clone(node), *orphans);
    tokio::spawn(async move {
        let own = node.store.node_id();
        let lost = match own == old {
            true => lost(&node, file).await,
            false => None,
        };
        let note = Note::Orphaned {
            node: own,
            records,
            bytes,
            lost,
        };
        let command = Command::Note {
            partition,
            epoch,
            note,
        };
        if let Err(error) = tell(&plane, command).await {
            tracing::warn!(%partition, %error, "the report of a takeover lacks these orphans");
        }
    });
}

/// Of a home's orphans, the writes that it may have acknowledged, and their bytes: those that
/// needed nobody else. A copy that had one of the others would have been chosen, or have had it
/// from whoever was.
async fn lost(node: &Arc<NodeCore>, file: OrphanFile) -> Option<(u64, u64)> {
    let keyspace = node.topology.keyspace(file.partition.keyspace)?;
    // While it is degraded a home acknowledges alone.
    let may_degrade = keyspace.on_timeout == OnTimeout::Degrade;
    let copies = keyspace.copies();
    let store = Arc::clone(&node.store);
    let counted = blocking(move || {
        let (mut writes, mut bytes) = (0, 0);
        for orphan in store.orphan_records(file.id())? {
            let record = orphan?.record;
            let is_write = record.head.kind == RecordKind::Write;
            let is_alone = record.head.level.received_needed(copies) == 0;
            if is_write && (is_alone || may_degrade) {
                writes += 1;
                bytes += Record::encoded_len(&record.body) as u64;
            }
        }
        Ok((writes, bytes))
    });
    let counted = counted.await;
    counted
        .inspect_err(|error| tracing::warn!(%error, "what was lost cannot be counted"))
        .ok()
}

/// Tells the map of changes of home that cost nothing: the old home is back, and its log is a
/// prefix of the new one's.
pub(crate) fn note_intact(node: &Arc<NodeCore>, region: RegionId, peer: NodeId) {
    let Some(plane) = node.plane.clone() else {
        return;
    };
    let map = plane.map();
    let is_open = |it: &&Change| {
        let is_lost = matches!(it.why, Why::Lost(..));
        is_lost && it.actual.is_none() && it.from.node == peer
    };
    let open = map.history().iter().filter(is_open);
    let intact = open.filter(|it| {
        let slot = node.driver.slot(it.partition);
        slot.is_some_and(|slot| {
            slot.epoch() == Some(it.to) && slot.standing(region) == Some(Standing::Attached)
        })
    });
    let note = |it: &Change| Command::Note {
        partition: it.partition,
        epoch: it.to,
        note: Note::Orphaned {
            node: peer,
            records: 0,
            bytes: 0,
            lost: Some((0, 0)),
        },
    };
    let commands: Vec<Command> = intact.map(note).collect();
    if commands.is_empty() {
        return;
    }
    tokio::spawn(async move {
        for chunk in commands.chunks(NOTES_AT_ONCE) {
            if let Err(error) = plane.propose(chunk, ANSWER_MAX).await {
                tracing::warn!(%error, "the report of a takeover lacks that it cost nothing");
            }
        }
    });
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
