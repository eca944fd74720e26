//! Cells that may hold orphans, healed with what the partition's home says of them.
//!
//! **Owns**: which keys those are, that each of them is given, the order that makes it whole or
//! repeated, the log folded over it.
//! **Does not own**: asking the home (the node), how a partition came to be wounded (`cut`).
//!
//! ```text
//! keys that were cut, in order, page by page -> the home's cells of them -> the engine
//! last batch: applied mark = fork at most, intent mark = the newest position asked at, healed mark
//! then the own log from there is folded; reads are answered once it has reached that position
//! ```
//! Why that is the state of the log: a key that was not cut is as the log left it at the fork, or
//! behind, and the log is folded over it. A key that was cut is as the home had it at some
//! position; folding the log over that in order ends, from that position on, with the last record
//! that touched it, or with what the home said. Until the healed mark is in the engine the next
//! open finds the partition wounded, and everything is done again.

use std::collections::BTreeSet;

use bytes::Bytes;
use domicile_proto::{OperationRef, PartitionId, Seq};

use super::files::OrphanFileId;
use super::wound::{Wound, WoundKind};
use crate::cells::{Cell, heal_rows, healed_row, mark_rows};
use crate::engine::RowChange;
use crate::error::StoreError;
use crate::incoming::unapplied_records;
use crate::store::Store;

/// Keys in one batch for the engine, as in a flush.
const BATCH_KEYS: usize = 64;

/// Bytes of the journal read at once: 1 MiB. Less costs calls, more only holds more memory.
const CHUNK_BYTES: usize = 1 << 20;

/// What a wounded partition needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WoundReport {
    /// The last record that was never cut.
    pub fork: Seq,
    /// The home has to be asked at this position or later.
    pub ask_from: Seq,
    /// What was cut and is not healed yet, oldest first.
    pub orphans: Vec<OrphanFileId>,
}

/// How far a partition is healed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealProgress {
    /// There are further keys.
    More,
    /// All of it: the log goes on, and reads are answered once it has reached this record.
    Done {
        /// The newest position at which the home was asked.
        readable_from: Seq,
    },
}

impl Store {
    /// What a partition that is wounded needs; `None` if it is not.
    #[must_use]
    pub fn wound(&self, partition: PartitionId) -> Option<WoundReport> {
        let wound = self.open_wound_of(partition).ok()?;
        Some(WoundReport {
            fork: wound.fork(),
            ask_from: wound.ask_from(),
            orphans: wound.cuts().iter().map(Self::orphans_of).collect(),
        })
    }

    /// The next keys, at most `limit`, whose cells may be orphans, in order: those behind the last
    /// that were healed. None once all are. They are read from the orphan files.
    ///
    /// # Errors
    /// [`StoreError::BadHeal`] if the partition is not wounded; [`StoreError::Corrupt`] for a
    /// damaged orphan file: a snapshot from the home can take the partition's place.
    pub fn wounded_keys(
        &self,
        partition: PartitionId,
        limit: usize,
    ) -> Result<Vec<Bytes>, StoreError> {
        let wound = self.open_wound_of(partition)?;
        self.keys_of(&wound, limit)
    }

    /// What was healed so far is to be healed again: it was another home that said so.
    pub fn restart_heal(&self, partition: PartitionId) {
        let mut published = self.published();
        if let Some(wound) = published.wounds.get_mut(&partition) {
            (wound.healed_after, wound.healed_upto) = (None, Seq::NONE);
        }
    }

    /// Gives the next of [`Store::wounded_keys`] the cells that the home has of them, as it has
    /// applied `at`; `None` for a key that it does not have. With the last of them, or with none if
    /// there are none left, the partition is whole. An end of the process anywhere means that all
    /// of it is to be done again. Nothing of the partition may be submitted meanwhile.
    ///
    /// # Errors
    /// [`StoreError::BadHeal`] for other keys than those, a position before the fork, or a
    /// partition that is not wounded; as [`Store::wounded_keys`]; [`StoreError::Engine`]. It may be
    /// called again.
    pub fn heal(
        &self,
        partition: PartitionId,
        cells: &[(Bytes, Option<Cell>)],
        at: Seq,
    ) -> Result<HealProgress, StoreError> {
        let _one = self.hold_snapshots();
        self.check_open()?;
        let mut wound = self.open_wound_of(partition)?;
        self.check_heal(&wound, partition, cells, at)?;
        let engine = self.cell_store().engine();
        for page in cells.chunks(BATCH_KEYS) {
            let mut rows: Vec<RowChange> = Vec::new();
            for (key, cell) in page {
                rows.extend(heal_rows(&**engine, partition, key, cell.as_ref())?);
            }
            engine.apply(rows)?;
        }
        wound.healed_after = cells
            .last()
            .map(|(key, _)| key.clone())
            .or(wound.healed_after);
        wound.healed_upto = wound.healed_upto.max(at);
        self.remember(partition, &wound);
        if !self.keys_of(&wound, 1)?.is_empty() {
            return Ok(HealProgress::More);
        }
        let intent_upto = wound.healed_upto.max(wound.base());
        let mut rows = mark_rows(partition, wound.base(), intent_upto).to_vec();
        rows.push(healed_row(partition, wound.last().place, intent_upto));
        engine.apply(rows)?;
        engine.sync()?;
        self.refold(partition, &wound, intent_upto)?;
        Ok(HealProgress::Done {
            readable_from: intent_upto,
        })
    }

    fn remember(&self, partition: PartitionId, wound: &Wound) {
        self.published().wounds.insert(partition, wound.clone());
    }

    fn open_wound_of(&self, partition: PartitionId) -> Result<Wound, StoreError> {
        let wound = self.published().wounds.get(&partition).cloned();
        let is_condemned = || self.condemned().partitions().contains(&partition);
        let is_open = |wound: &Wound| wound.kind() == WoundKind::Open;
        let wound = wound.filter(is_open).filter(|_| !is_condemned());
        wound.ok_or_else(|| bad(partition, "it is not wounded".to_owned()))
    }

    /// The next keys that were cut, at most `limit`: only they are held, however many there are.
    pub(super) fn keys_of(&self, wound: &Wound, limit: usize) -> Result<Vec<Bytes>, StoreError> {
        let mut keys: BTreeSet<Bytes> = BTreeSet::new();
        for mark in wound.cuts() {
            for orphan in self.orphan_records(Self::orphans_of(mark))? {
                let orphan = orphan?;
                let (partition, seq) = (mark.partition, orphan.position.seq);
                let visited = orphan.record.body.visit_operations(|operation| {
                    let (OperationRef::Put { key, .. } | OperationRef::Delete { key }) = operation;
                    let is_done = wound
                        .healed_after
                        .as_ref()
                        .is_some_and(|done| key <= &done[..]);
                    let is_far = keys.len() >= limit && keys.last().is_none_or(|last| key >= last);
                    if is_done || is_far {
                        return;
                    }
                    keys.insert(Bytes::copy_from_slice(key));
                    if keys.len() > limit {
                        keys.pop_last();
                    }
                });
                visited.map_err(|source| StoreError::InvalidRecord {
                    partition,
                    seq,
                    source,
                })?;
            }
        }
        Ok(keys.into_iter().collect())
    }

    fn check_heal(
        &self,
        wound: &Wound,
        partition: PartitionId,
        cells: &[(Bytes, Option<Cell>)],
        at: Seq,
    ) -> Result<(), StoreError> {
        let least = wound.ask_from();
        if at < least || at == Seq::new(u64::MAX) {
            let problem = format!("the home was asked at {at}, {least} is the least");
            return Err(bad(partition, problem));
        }
        let expected = self.keys_of(wound, cells.len().max(1))?;
        let given = cells.iter().map(|(key, _)| key);
        if !given.eq(expected.iter()) {
            let (actual, count) = (cells.len(), expected.len());
            let problem = format!("{actual} cells given, not those of the next {count} keys");
            return Err(bad(partition, problem));
        }
        let newer = |(_, cell): &&(Bytes, Option<Cell>)| {
            let seq = cell.as_ref().map(|cell| cell.version.seq);
            seq.is_some_and(|seq| seq > at)
        };
        if let Some((key, _)) = cells.iter().find(newer) {
            let problem = format!("the cell of {key:?} is newer than position {at}");
            return Err(bad(partition, problem));
        }
        Ok(())
    }

    /// Folds the own log over an engine without orphans, whose cells are as new as `intent_upto` at
    /// most; the partition is whole then.
    ///
    /// # Errors
    /// What reading the log comes to: the partition stays closed, and it may be called again.
    pub(super) fn refold(
        &self,
        partition: PartitionId,
        wound: &Wound,
        intent_upto: Seq,
    ) -> Result<(), StoreError> {
        let cells = self.cells(partition);
        cells.rebase(wound.base(), intent_upto);
        let (last_seq, upto) = {
            let published = self.published();
            (published.tails.end_of(partition).0, published.end)
        };
        let mut next = wound.base().next();
        let mut cursor = self.locate(partition, next).unwrap_or(self.journal_start());
        while next <= last_seq {
            let chunk = self.read(cursor, upto, CHUNK_BYTES)?;
            for (_, segment) in &chunk.segments {
                let header = segment.header();
                let is_wanted = header.partition == partition && header.last_seq() >= next;
                if !is_wanted {
                    continue;
                }
                if header.first_seq > next {
                    return Err(self.gap(partition, next));
                }
                let records = unapplied_records(segment, next, CHUNK_BYTES, |_| ())?;
                cells.enqueue_all(header.epoch, next, records);
                next = header.last_seq().next();
            }
            cells.advance(wound.visible_upto);
            if chunk.next == cursor && next <= last_seq {
                return Err(self.gap(partition, next));
            }
            cursor = chunk.next;
            if self.needs_flush() {
                self.flush_once()?;
            }
        }
        self.published().wounds.remove(&partition);
        cells.mend();
        cells.reopen();
        Ok(())
    }

    fn gap(&self, partition: PartitionId, next: Seq) -> StoreError {
        let problem = format!("records of {partition} from {next} on are missing");
        StoreError::corrupt(self.files().dir(), 0, problem)
    }
}

pub(super) fn bad(partition: PartitionId, problem: String) -> StoreError {
    StoreError::BadHeal { partition, problem }
}
