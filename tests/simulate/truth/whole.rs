//! The whole truth of a run.
//!
//! **Owns**: taking note of what happens.
//! **Does not own**: judging it (`invariants`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use domicile_core::control::{Command, ControlMap, Evidence, PromisedEnd};
use domicile_core::handed_to;
use domicile_proto::{
    Epoch, NodeId, Operation, PartitionId, Record, RecordKind, RequestId, SegmentHeader, Seq,
};
use domicile_storage::{Committed, Store};

use super::ledger::{Acked, Called};
use super::logs::{Log, Piece};
use super::takeovers::TakenOver;
use crate::invariants::monotone::Marks;
use crate::invariants::policy::Terms;
use crate::packets::Body;
use crate::plan::index_of_node;

/// Questions that may come again: a few takeovers' worth.
const ASKED_MAX: usize = 16;

/// A record, when its home gave it its place.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    pub(crate) kind: RecordKind,
    pub(crate) request_id: RequestId,
    pub(crate) key: Bytes,
    pub(crate) value: Option<Bytes>,
}

#[derive(Debug, Default)]
pub(crate) struct Truth {
    pub(crate) records: BTreeMap<(PartitionId, Epoch, Seq), Written>,
    pub(crate) logs: BTreeMap<(usize, PartitionId), Log>,
    pub(crate) writers: BTreeMap<(PartitionId, Epoch), usize>,
    pub(crate) segments: BTreeMap<(PartitionId, Epoch, Seq), (Seq, domicile_proto::ChainHash)>,
    pub(crate) promises: BTreeMap<(usize, PartitionId), Epoch>,
    /// What each reign goes by.
    pub(crate) policies: BTreeMap<(PartitionId, Epoch), Terms>,
    pub(crate) takeovers: Vec<TakenOver>,
    /// The last record of each reign that was handed on, and to whom.
    pub(crate) ended: BTreeMap<(PartitionId, Epoch), (Seq, NodeId)>,
    pub(crate) proposed: BTreeMap<(PartitionId, Epoch, NodeId), BTreeMap<NodeId, PromisedEnd>>,
    /// Partitions whose homes an operator gave up.
    pub(crate) words: BTreeSet<PartitionId>,
    pub(crate) acked: Vec<Acked>,
    pub(crate) calls: Vec<Called>,
    pub(crate) marks: BTreeMap<(usize, PartitionId), Marks>,
    /// The last questions of leaders to others: who asked whom what.
    pub(crate) asked: VecDeque<(usize, usize, Body)>,
    /// Which node's disk is slow, and until when.
    pub(crate) slow_disk: (usize, u64),
    first_applied: usize,
}

impl Truth {
    pub(crate) fn appended(
        &mut self,
        (partition, epoch, seq): (PartitionId, Epoch, Seq),
        record: &Record,
    ) {
        let operations = record.body.operations().unwrap_or_default();
        let (key, value) = match operations.into_iter().next() {
            Some(Operation::Put { key, value, .. }) => (key, Some(value)),
            Some(Operation::Delete { key }) => (key, None),
            None => (Bytes::new(), None),
        };
        let written = Written {
            kind: record.head.kind,
            request_id: record.head.request_id,
            key,
            value,
        };
        self.records.insert((partition, epoch, seq), written);
        if let Some(to) = handed_to(&record.head) {
            self.ended.insert((partition, epoch), (seq, to.to));
        }
    }

    pub(crate) fn log(&mut self, node: usize, partition: PartitionId) -> &mut Log {
        self.logs.entry((node, partition)).or_default()
    }

    pub(crate) fn received(&mut self, node: usize, header: &SegmentHeader) {
        let piece = Piece {
            epoch: header.epoch,
            first: header.first_seq,
            last: header.last_seq(),
            chain: domicile_proto::ChainHash::START,
        };
        self.log(node, header.partition).memory.push(piece);
    }

    pub(crate) fn committed(&mut self, node: usize, commit: &Committed) {
        let piece = Piece {
            epoch: commit.epoch,
            first: commit.first_seq,
            last: commit.last_seq,
            chain: commit.chain,
        };
        let log = self.log(node, commit.partition);
        if piece.first > log.last_seq() {
            log.commit(piece);
        }
    }

    pub(crate) fn asks(&mut self, from: usize, to: usize, body: Body) {
        if self.asked.len() == ASKED_MAX {
            self.asked.pop_front();
        }
        self.asked.push_back((from, to, body));
    }

    pub(crate) fn promised(&mut self, node: usize, partition: PartitionId, epoch: Epoch) {
        let known = self.promises.entry((node, partition)).or_insert(epoch);
        *known = (*known).max(epoch);
    }

    pub(crate) fn cutting(&mut self, node: usize, partition: PartitionId, fork: Seq) {
        self.log(node, partition).cutting = Some(fork);
    }

    pub(crate) fn cut(&mut self, node: usize, partition: PartitionId, fork: Seq, at_us: u64) {
        let log = self.log(node, partition);
        log.cut_after(fork, at_us);
        log.cutting = None;
    }

    /// Whether a cut that came to an error has happened.
    pub(crate) fn is_cut(
        &mut self,
        node: usize,
        partition: PartitionId,
        store: &Store,
        at_us: u64,
    ) -> bool {
        let found = store.tail(partition);
        let found = found.map_or(Seq::NONE, |tail| tail.last_seq);
        let fork = self.log(node, partition).cutting;
        let is_cut = fork == Some(found);
        if is_cut {
            self.cut(node, partition, found, at_us);
        }
        is_cut
    }

    /// A snapshot took the place of a log.
    pub(crate) fn installed(&mut self, node: usize, partition: PartitionId, store: &Store) {
        let mut durable = Vec::new();
        if let Some(tail) = store.tail(partition) {
            let firsts = tail.epoch_history.iter().map(|(_, first)| *first);
            let nexts = firsts.skip(1).chain([tail.last_seq.next()]);
            let reigns = tail.epoch_history.iter().zip(nexts);
            durable = reigns
                .map(|((epoch, first), next)| Piece {
                    epoch: *epoch,
                    first: *first,
                    last: next.previous(),
                    chain: tail.chain,
                })
                .filter(|piece| piece.first <= piece.last)
                .collect();
        }
        let log = self.log(node, partition);
        let mut replaced = std::mem::take(&mut log.replaced);
        replaced.append(&mut log.durable);
        *log = Log {
            durable,
            replaced,
            lost: std::mem::take(&mut log.lost),
            cut: std::mem::take(&mut log.cut),
            ..Log::default()
        };
    }

    /// Whoever applies an entry of the control plane's log first tells of it.
    pub(crate) fn is_first_to_apply(&mut self, index: usize) -> bool {
        let is_first = index > self.first_applied;
        self.first_applied = self.first_applied.max(index);
        is_first
    }

    pub(crate) fn decided(
        &mut self,
        at_us: u64,
        before: &ControlMap,
        after: &ControlMap,
        command: &Command,
        is_done: bool,
    ) {
        if let (Command::CommitSwitchover { partition, .. }, true) = (command, is_done) {
            // Told by the old home: the new one has the end of the reign by a snapshot.
            let epoch = after.assignment(*partition).map(|it| it.epoch);
            let is_begun = |it: &TakenOver| it.partition == *partition && Some(it.to) == epoch;
            if let (Some(epoch), false) = (epoch, self.takeovers.iter().any(is_begun)) {
                self.handed_on(index_of_node(epoch.node), *partition, epoch, at_us);
            }
        }
        let Command::TakeOver {
            partition,
            from,
            to,
            evidence,
            ..
        } = command
        else {
            return;
        };
        let (partition, from, successor) = (*partition, *from, *to);
        let places = (before.assignment(partition), after.assignment(partition));
        let (Some(_), Some(new), true) = (places.0, places.1, is_done) else {
            return;
        };
        let proposed = self.proposed.get(&(partition, from, successor));
        let promised = proposed.cloned().unwrap_or_default();
        let log = self.reigns_of(index_of_node(successor), partition);
        self.takeovers.push(TakenOver {
            at_us,
            partition,
            from,
            to: new.epoch,
            is_by_word: self.words.remove(&partition),
            is_unfenced: matches!(evidence, Evidence::Operator { .. }),
            is_planned: false,
            promised,
            log,
        });
    }

    /// A node that was handed a partition begins to reign.
    pub(crate) fn handed_on(&mut self, node: usize, partition: PartitionId, to: Epoch, at_us: u64) {
        let log = self.reigns_of(node, partition);
        let same = |it: &&TakenOver| it.partition == partition;
        let begun = self.takeovers.iter().filter(same);
        // A takeover that it did not hear of may be above it already.
        let later = |it: &TakenOver| it.partition == partition && it.to > to;
        let at = self.takeovers.iter().position(later);
        let from = begun.map(|it| it.to).filter(|it| *it < to).max();
        let first = self.first_reign(partition);
        self.takeovers.insert(
            at.unwrap_or(self.takeovers.len()),
            TakenOver {
                at_us,
                partition,
                from: from.or(first).unwrap_or(to),
                to,
                is_by_word: false,
                is_unfenced: false,
                is_planned: true,
                promised: BTreeMap::new(),
                log,
            },
        );
    }

    fn first_reign(&self, partition: PartitionId) -> Option<Epoch> {
        let mut writers = self.writers.keys();
        writers.find(|(id, _)| *id == partition).map(|it| it.1)
    }

    /// The reigns of what a node has on disk, each with its first and last record.
    fn reigns_of(&mut self, node: usize, partition: PartitionId) -> Vec<(Epoch, Seq, Seq)> {
        let mut log: Vec<(Epoch, Seq, Seq)> = Vec::new();
        for piece in &self.log(node, partition).durable {
            match log.last_mut() {
                Some((epoch, _, last)) if *epoch == piece.epoch => *last = piece.last,
                _ => log.push((piece.epoch, piece.first, piece.last)),
            }
        }
        log
    }

    /// A process has ended: what was only in memory is not there any more. What a commit that was
    /// under way came to is found out when the directory is opened.
    pub(crate) fn reopened(
        &mut self,
        node: usize,
        store: &Store,
        partitions: &[PartitionId],
        at_us: u64,
    ) -> Result<(), String> {
        let known = self.logs.keys().filter(|(it, _)| *it == node);
        let mut all: Vec<PartitionId> = known.map(|(_, partition)| *partition).collect();
        all.extend(partitions);
        all.sort_unstable();
        all.dedup();
        self.marks.retain(|(it, _), _| *it != node);
        for partition in all {
            let begun = self.log(node, partition).installing.take();
            if begun.is_some_and(|upto| store.log_start(partition) == upto.next()) {
                self.installed(node, partition, store);
            }
            let found = store
                .tail(partition)
                .map_or(Seq::NONE, |tail| tail.last_seq);
            let log = self.log(node, partition);
            if let Some(fork) = log.cutting.take()
                && found == fork
            {
                log.cut_after(fork, at_us);
            }
            let known = log.last_seq();
            if found < known {
                return Err(format!(
                    "n{node} {partition:?} ends at {found}, had {known}"
                ));
            }
            for piece in pieces_from(store, partition, known.next()) {
                log.commit(piece);
            }
            log.forget_memory();
        }
        self.forget_ends(node);
        Ok(())
    }

    /// An end of a reign that never was on disk was told to nobody: the reign goes on.
    fn forget_ends(&mut self, node: usize) {
        let (writers, logs) = (&self.writers, &self.logs);
        self.ended.retain(|(partition, epoch), (seq, _)| {
            let is_its = writers.get(&(*partition, *epoch)) == Some(&node);
            let log = logs.get(&(node, *partition));
            !is_its || log.is_some_and(|it| it.had_durable(*epoch, *seq))
        });
    }
}

/// The segments of a log from a record on.
fn pieces_from(store: &Store, partition: PartitionId, from: Seq) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let end = store.durable_end();
    let Some(mut place) = store.locate(partition, from) else {
        return pieces;
    };
    while place < end {
        let Ok(chunk) = store.read(place, end, 1 << 20) else {
            break;
        };
        for (_, segment) in &chunk.segments {
            let header = segment.header();
            if header.partition == partition && header.first_seq >= from {
                pieces.push(Piece {
                    epoch: header.epoch,
                    first: header.first_seq,
                    last: header.last_seq(),
                    chain: segment.chain(),
                });
            }
        }
        if chunk.next == place {
            break;
        }
        place = chunk.next;
    }
    pieces
}
