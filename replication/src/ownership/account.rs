//! What changes of home have cost, told to the map by the nodes whose logs were cut.
//!
//! **Owns**: which orphan files belong to which change, that each is told until the map knows it,
//! when an old home may say that it had nothing alone.
//! **Does not own**: sealing and cutting (storage), the report (the server).
//!
//! Nothing is remembered but the files and the map: whatever ends in between, the next process
//! tells what is left.
//!
//! ```text
//! change: reign 3 -> 5     file: 2 records, the last of reign 3     the map has no such count
//!   -> told: 2 records, of them those that their home may have acknowledged alone
//! change: reign 3 -> 5     no file, the own log leads from before reign 5 into it -> told: none
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use domicile_core::control::{Change, Command, ControlMap, History, Note, Why};
use domicile_proto::{Epoch, Keyspace, NodeId, OnTimeout, PartitionId, Record, RecordKind};
use domicile_storage::{OrphanFile, OrphanFileId, OrphanList, Store, StoreError};

use super::plane::{Plane, note_refused};
use super::seating::blocking;
use crate::driver::Slot;
use crate::node::NodeCore;

/// Notes told in one command: some tens of bytes each.
const NOTES_AT_ONCE: usize = 512;

/// How long telling them may take before it is tried anew.
const TELLING_MAX: Duration = Duration::from_secs(5);

/// How often it is looked whether there is something to tell, while something may come.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What an orphan file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Content {
    /// The reign of its last record.
    reign: Epoch,
    /// The writes that their home may have acknowledged when nobody else had them, and their bytes.
    alone: (u64, u64),
}

/// What a change has cost at this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Cost {
    records: u64,
    bytes: u64,
    alone: (u64, u64),
}

/// The changes of home, each by its partition and the reign that it began.
type Costs = BTreeMap<(PartitionId, Epoch), Cost>;

/// Tells what changes have cost here, until the node closes.
pub(crate) async fn run_accounts(node: Arc<NodeCore>, plane: Arc<Plane>) {
    let mut maps = plane.maps.clone();
    let mut ledger = Ledger::default();
    loop {
        let map = Arc::clone(&maps.borrow_and_update());
        let told = tokio::select! {
            () = node.closed() => return,
            told = tell(&node, &plane, map, ledger) => told,
        };
        let is_pending;
        (ledger, is_pending) = told;
        tokio::select! {
            () = node.closed() => return,
            () = node.ownership.cuts.notified() => ledger.files = None,
            // Not at once with each change of ten thousand.
            changed = later(&mut maps) => if !changed { return },
            () = tokio::time::sleep(LOOK_AGAIN), if is_pending => {}
        }
    }
}

/// Whether something is left to be told.
async fn tell(
    node: &Arc<NodeCore>,
    plane: &Plane,
    map: Arc<ControlMap>,
    mut ledger: Ledger,
) -> (Ledger, bool) {
    let core = Arc::clone(node);
    let looked = blocking(move || {
        let found = ledger.look(&core, &map);
        Ok((ledger, found))
    });
    let (ledger, found) = match looked.await {
        Ok(looked) => looked,
        Err(error) => {
            warn(&error);
            return (Ledger::default(), true);
        }
    };
    let found = match found {
        Ok(found) => found,
        Err(error) => {
            warn(&error);
            return (ledger, true);
        }
    };
    for chunk in found.commands.chunks(NOTES_AT_ONCE) {
        match plane.propose(chunk, TELLING_MAX).await {
            Ok(refused) => note_refused(&refused),
            Err(error) => {
                warn(&error);
                return (ledger, true);
            }
        }
    }
    (ledger, found.is_pending)
}

fn warn(error: &dyn std::error::Error) {
    tracing::warn!(%error, "the report of a takeover lacks what it has cost here so far");
}

async fn later(maps: &mut tokio::sync::watch::Receiver<Arc<ControlMap>>) -> bool {
    let changed = maps.changed().await.is_ok();
    tokio::time::sleep(LOOK_AGAIN).await;
    changed
}

/// What files hold; `None` of one that is damaged.
type Known = BTreeMap<OrphanFileId, Option<Content>>;

/// The changes of home that the map remembers, by their partitions, oldest first.
type Changes<'map> = BTreeMap<PartitionId, Vec<&'map Change>>;

/// What is known of the files here.
#[derive(Debug, Default)]
struct Ledger {
    /// `None`: they are to be listed.
    files: Option<OrphanList>,
    known: Known,
}

/// What one look at files and map came to.
#[derive(Debug, Default)]
struct Found {
    commands: Vec<Command>,
    /// Something may come without the map being changed.
    is_pending: bool,
}

impl Ledger {
    /// Finds what the map does not know. It reads files and waits for the disk.
    fn look(&mut self, node: &NodeCore, map: &ControlMap) -> Result<Found, StoreError> {
        let own = node.store.node_id();
        if self.files.is_none() {
            self.files = Some(node.store.orphan_files()?);
        }
        let list = self.files.get_or_insert_default();
        let changes = changes_of(map.history());
        for file in &list.files {
            let keyspace = node.topology.keyspace(file.partition.keyspace);
            if !self.known.contains_key(&file.id())
                && may_belong(&changes, file)
                && let Some(keyspace) = keyspace
            {
                let content = read(&node.store, *file, &keyspace);
                self.known.insert(file.id(), content);
            }
        }
        let is_unread = |file: &&OrphanFile| self.known.get(&file.id()).is_none_or(Option::is_none);
        let unread: Vec<&OrphanFile> = list.files.iter().filter(is_unread).collect();
        let is_clear = |change: &Change| {
            list.damaged.is_empty() && !unread.iter().any(|file| may_be_of(change, file))
        };
        let has_forgotten = map.history().forgotten() > 0;
        let costs = costs(&changes, has_forgotten, &list.files, &self.known);
        let mut found = Found {
            commands: untold(map.history(), &costs, own, &is_clear),
            is_pending: false,
        };
        found.is_pending = !found.commands.is_empty();
        let open = map.history().iter().filter(|it| is_open(it, own));
        for change in open.filter(|it| !costs.contains_key(&place(it)) && is_clear(it)) {
            let Some(slot) = node.driver.slot(change.partition) else {
                continue;
            };
            match is_intact(&node.store, &slot, change) {
                Some(true) => found.commands.push(note(change, Cost::default(), own)),
                Some(false) => {}
                None => found.is_pending = true,
            }
        }
        Ok(found)
    }
}

fn changes_of(history: &History) -> Changes<'_> {
    let mut changes = Changes::new();
    for change in history.iter() {
        changes.entry(change.partition).or_default().push(change);
    }
    changes
}

fn place(change: &Change) -> (PartitionId, Epoch) {
    (change.partition, change.to)
}

/// A takeover from this node of which nobody knows what it has cost.
fn is_open(change: &Change, own: NodeId) -> bool {
    let is_lost = matches!(change.why, Why::Lost(..));
    is_lost && change.from.node == own && change.actual.is_none()
}

/// Whether a file may be what a change that the map remembers has cost.
fn may_belong(changes: &Changes<'_>, file: &OrphanFile) -> bool {
    let own = changes.get(&file.partition).into_iter().flatten();
    own.into_iter().any(|it| may_be_of(it, file))
}

fn may_be_of(change: &Change, file: &OrphanFile) -> bool {
    change.partition == file.partition && change.to <= file.superseded_by
}

/// What the changes that the map remembers have cost here. A reign that was handed on and lost
/// before the map knew of it is ended by the next change that the map does know. Where the map has
/// forgotten changes, the first that it remembers need not be the next one.
fn costs(changes: &Changes<'_>, has_forgotten: bool, files: &[OrphanFile], known: &Known) -> Costs {
    let mut costs = Costs::new();
    for file in files {
        let (Some(Some(content)), Some(own)) =
            (known.get(&file.id()), changes.get(&file.partition))
        else {
            continue;
        };
        let Some(at) = own.iter().position(|it| it.to > content.reign) else {
            continue;
        };
        let change = own[at];
        let is_forgotten = has_forgotten && at == 0 && change.from > content.reign;
        if is_forgotten || !may_be_of(change, file) {
            continue;
        }
        let cost = costs.entry(place(change)).or_default();
        cost.records += file.records;
        cost.bytes += file.file_bytes;
        cost.alone.0 += content.alone.0;
        cost.alone.1 += content.alone.1;
    }
    costs
}

/// What the map does not know of it. What it was told once is not taken back: an operator removes
/// files that are dealt with.
fn untold(
    history: &History,
    costs: &Costs,
    own: NodeId,
    is_clear: &dyn Fn(&Change) -> bool,
) -> Vec<Command> {
    let mut commands = Vec::new();
    for change in history.iter() {
        let Some(cost) = costs.get(&place(change)) else {
            continue;
        };
        let mut told = change.orphaned.iter().filter(|(node, _, _)| *node == own);
        let is_told = told.any(|(_, records, _)| *records >= cost.records);
        if !is_told && is_clear(change) {
            commands.push(note(change, *cost, own));
        }
    }
    commands
}

fn note(change: &Change, cost: Cost, own: NodeId) -> Command {
    let note = Note::Orphaned {
        node: own,
        records: cost.records,
        bytes: cost.bytes,
        lost: (change.from.node == own).then_some(cost.alone),
    };
    Command::Note {
        partition: change.partition,
        epoch: change.to,
        note,
    }
}

/// Whether an old home had nothing alone: its log leads into the reign that began, or one behind
/// it, and nothing was cut from it. `None` before it has come so far.
fn is_intact(store: &Store, slot: &Slot, change: &Change) -> Option<bool> {
    if slot.is_damaged() {
        return None;
    }
    // What it had lost before it was filled anew may have been more.
    let refilled = store.refilled(change.partition);
    if refilled.is_some_and(|had| had.epoch >= change.from) {
        return Some(false);
    }
    let Some(tail) = store.tail(change.partition) else {
        return Some(true);
    };
    (tail.epoch >= change.to).then_some(true)
}

/// Reads a file to its end; `None` if that is not possible.
fn read(store: &Store, file: OrphanFile, keyspace: &Keyspace) -> Option<Content> {
    // While it is degraded a home acknowledges alone.
    let may_degrade = keyspace.on_timeout == OnTimeout::Degrade;
    let copies = keyspace.copies();
    let read = || {
        let (mut reign, mut alone) = (None, (0, 0));
        for orphan in store.orphan_records(file.id())? {
            let orphan = orphan?;
            reign = Some(orphan.position.epoch);
            let head = &orphan.record.head;
            // A copy that had one of the others would have been chosen, or have had it from
            // whoever was.
            let is_alone = head.level.received_needed(copies) == 0;
            if head.kind == RecordKind::Write && (is_alone || may_degrade) {
                alone.0 += 1;
                alone.1 += Record::encoded_len(&orphan.record.body) as u64;
            }
        }
        Ok::<_, StoreError>(reign.map(|reign| Content { reign, alone }))
    };
    read().unwrap_or_else(|error| {
        tracing::warn!(file = %file.id(), %error, "what was lost cannot be counted");
        None
    })
}

#[cfg(test)]
mod tests {
    use domicile_core::control::{Decision, Lost};
    use domicile_proto::{Bucket, ChainHash, KeyspaceId, RegionId, Seq};
    use domicile_storage::{OrphanFork, OrphanNumber};

    use super::*;

    fn partition(bucket: u16) -> PartitionId {
        PartitionId {
            keyspace: KeyspaceId::new(1),
            region: RegionId::new(1).unwrap(),
            bucket: Bucket::new(bucket),
        }
    }

    fn epoch(counter: u64, node: u64) -> Epoch {
        let node = NodeId::new(node).unwrap();
        Epoch { counter, node }
    }

    /// Node 11 lost its home to 12, got it back as planned, and lost it to 13.
    fn history() -> History {
        let change = |from, to, why| Change {
            partition: partition(0),
            from,
            to,
            why,
            opened_ms: None,
            served_ms: None,
            orphaned: Vec::new(),
            actual: None,
            degraded_ms: None,
        };
        let lost = Why::Lost(Lost::default(), Decision::default());
        let changes = vec![
            change(epoch(1, 11), epoch(2, 12), lost),
            change(epoch(2, 12), epoch(3, 11), Why::Planned),
            change(epoch(3, 11), epoch(5, 13), lost),
        ];
        History::restore(changes, 0)
    }

    fn file(number: u64, superseded_by: Epoch) -> OrphanFile {
        let fork = OrphanFork {
            epoch: None,
            seq: Seq::new(4),
            chain: ChainHash::START,
        };
        OrphanFile {
            node: epoch(1, 11).node,
            partition: partition(0),
            number: OrphanNumber::new(number).unwrap(),
            fork,
            last_seq: Seq::new(6),
            last_chain: ChainHash::START,
            superseded_by,
            sealed_at_ms: 1,
            segments: 1,
            records: 2,
            file_bytes: 100,
        }
    }

    fn holds(files: &[(OrphanFile, Epoch)]) -> (Vec<OrphanFile>, Known) {
        let known = files.iter().map(|(file, reign)| {
            let alone = (1, 10);
            (
                file.id(),
                Some(Content {
                    reign: *reign,
                    alone,
                }),
            )
        });
        (
            files.iter().map(|(file, _)| *file).collect(),
            known.collect(),
        )
    }

    fn told(history: &History, files: &[(OrphanFile, Epoch)], own: u64) -> Vec<(Epoch, Note)> {
        let (files, known) = holds(files);
        let own = NodeId::new(own).unwrap();
        let costs = costs(
            &changes_of(history),
            history.forgotten() > 0,
            &files,
            &known,
        );
        let commands = untold(history, &costs, own, &|_| true);
        let told = commands.into_iter().map(|command| match command {
            Command::Note { epoch, note, .. } => (epoch, note),
            other => panic!("{other:?}"),
        });
        told.collect()
    }

    fn orphaned(node: u64, records: u64, lost: Option<(u64, u64)>) -> Note {
        Note::Orphaned {
            node: NodeId::new(node).unwrap(),
            records,
            bytes: 50 * records,
            lost,
        }
    }

    #[test]
    fn a_file_counts_for_the_change_that_ended_the_reign_of_its_last_record() {
        let history = history();
        // Cut by a later home than the one that ended its reign.
        let files = [(file(1, epoch(5, 13)), epoch(1, 11))];
        let expected = (epoch(2, 12), orphaned(11, 2, Some((1, 10))));
        assert_eq!(told(&history, &files, 11), [expected]);
        let files = [(file(1, epoch(5, 13)), epoch(3, 11))];
        let expected = (epoch(5, 13), orphaned(11, 2, Some((1, 10))));
        assert_eq!(told(&history, &files, 11), [expected]);
        // The change that ended it is not remembered any more.
        let changes: Vec<Change> = history.iter().skip(1).cloned().collect();
        let short = History::restore(changes, 1);
        let older = [(file(1, epoch(5, 13)), epoch(1, 11))];
        assert_eq!(told(&short, &older, 11), []);
        // At a copy nothing was acknowledged.
        let expected = (epoch(5, 13), orphaned(12, 2, None));
        assert_eq!(told(&history, &files, 12), [expected]);
        // A reign that the map does not know to have ended.
        assert_eq!(
            told(&history, &[(file(1, epoch(7, 13)), epoch(5, 13))], 11),
            []
        );
    }

    #[test]
    fn what_was_cut_in_two_pieces_is_told_as_one_and_once() {
        let history = history();
        let files = [
            (file(1, epoch(5, 13)), epoch(3, 11)),
            (file(2, epoch(5, 13)), epoch(3, 11)),
        ];
        let expected = (epoch(5, 13), orphaned(11, 4, Some((2, 20))));
        assert_eq!(told(&history, &files, 11), [expected]);
        let mut changes: Vec<Change> = history.iter().cloned().collect();
        changes[2].orphaned = vec![(epoch(1, 11).node, 4, 200)];
        let history = History::restore(changes, 0);
        assert_eq!(told(&history, &files, 11), []);
        // One of the files was removed since.
        assert_eq!(told(&history, &files[..1], 11), []);
        // It was told that there is nothing before the process ended that cut the log.
        let mut changes: Vec<Change> = history.iter().cloned().collect();
        changes[2].orphaned = vec![(epoch(1, 11).node, 0, 0)];
        let history = History::restore(changes, 0);
        assert_eq!(told(&history, &files, 11).len(), 1);
    }
}
