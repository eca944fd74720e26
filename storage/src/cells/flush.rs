//! One flush: the frozen overlays of all partitions written to the engine.
//!
//! **Owns**: the order of a flush's batches and their size.
//! **Does not own**: when to flush and what to do when it fails (`store` here, the driver).
//!
//! ```text
//! batch 1        intent marks          the engine may now hold cells up to here
//! batches 2..n   cells, in key order, each with its place in the index of expiries
//! last batch     cells, applied marks, checkpoint rows
//! ```
//! An engine that kept only the first batches of this has an old applied mark, so replay folds
//! the same records again, up to the intent mark, before anything is read.

use std::sync::Arc;

use super::cell::Cell;
use super::overlay::Frozen;
use super::partition::PartitionCells;
use super::rows::{ExpiryPrefix, applied_mark, cell_changes, intent_mark};
use crate::engine::{Engine, EngineError, RowChange};
use crate::planted::{Bug, is_planted};

/// Bytes in one batch, beside its last cell: keeps batches of large values as short.
const BATCH_BYTES_MAX: usize = 256 << 10;

/// Rows of the caller that become true with a flush.
///
/// Computed before the flush begins, so that they claim no more than it has: records applied
/// later are merely replayed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checkpoint {
    /// The changes, under tags other than those of cells.
    pub rows: Vec<RowChange>,
}

/// What a flush wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FlushReport {
    /// Cells, deleted ones included.
    pub cells: u64,
    /// What they counted for in the overlay.
    pub bytes: u64,
    /// Batches given to the engine.
    pub batches: u64,
    /// Partitions whose applied mark moved.
    pub partitions: u64,
    /// Records that these cells were folded from.
    pub records: u64,
    /// Whether this was the rest of an earlier flush that failed; the checkpoint given with this
    /// call was then not used.
    pub retried: bool,
}

/// A frozen generation, until all of it is in the engine.
pub(super) struct Generation {
    pub(super) parts: Vec<(Arc<PartitionCells>, Arc<Frozen>)>,
    pub(super) checkpoint: Checkpoint,
}

impl Generation {
    /// Freezes what the partitions have.
    pub(super) fn freeze(
        partitions: impl Iterator<Item = Arc<PartitionCells>>,
        checkpoint: Checkpoint,
    ) -> Self {
        let parts = partitions.filter_map(|cells| {
            let frozen = cells.freeze()?;
            Some((cells, frozen))
        });
        Self {
            parts: parts.collect(),
            checkpoint,
        }
    }

    /// Writes all of it. May be called again after an error: everything is then written anew.
    pub(super) fn write(
        &self,
        engine: &dyn Engine,
        batch_rows_max: usize,
    ) -> Result<FlushReport, EngineError> {
        let mut report = FlushReport::default();
        let mut batch = Batch {
            engine,
            rows_max: batch_rows_max,
            rows: Vec::new(),
            bytes: 0,
            applied: 0,
        };
        for (cells, frozen) in &self.parts {
            // Never lowered: a restored or replayed engine may hold newer cells already.
            let intent_upto = cells.raise_intent(frozen.applied_upto);
            batch.rows.push(intent_mark(cells.partition(), intent_upto));
            report.partitions += 1;
            report.records += frozen.records;
            report.bytes += frozen.bytes;
        }
        let marks = || {
            let parts = self.parts.iter();
            parts.map(|(cells, frozen)| applied_mark(cells.partition(), frozen.applied_upto))
        };
        if is_planted(Bug::MarkBeforeCells) {
            batch.rows.extend(marks());
        }
        batch.apply()?;
        for (cells, frozen) in &self.parts {
            // Cells of a partition in which nothing expires need not be read before they go.
            let index = ExpiryPrefix::of(cells.partition());
            let is_indexed = !index.scan(engine, None, 1)?.is_empty();
            for (key, cell) in &frozen.cells {
                let key = key.as_slice();
                let before = match is_indexed {
                    true => engine.get(&cells.prefix.row(key))?,
                    false => None,
                };
                let before = before.map(|stored| Cell::stored_expiry(&stored));
                let before = before.transpose()?.flatten();
                let cell = cell.encode().map(|value| (value, cell.expires_at_ms));
                batch.push(cell_changes(cells.partition(), key, before, cell))?;
            }
            report.cells += frozen.cells.len() as u64;
        }
        batch.rows.extend(marks());
        batch.rows.extend(self.checkpoint.rows.iter().cloned());
        batch.apply()?;
        report.batches = batch.applied;
        Ok(report)
    }

    /// Gives the memory back: the engine has everything.
    pub(super) fn thaw(self) {
        self.parts.iter().for_each(|(cells, _)| cells.thaw());
    }
}

/// Rows on their way to the engine.
struct Batch<'a> {
    engine: &'a dyn Engine,
    rows_max: usize,
    rows: Vec<RowChange>,
    bytes: usize,
    applied: u64,
}

impl Batch<'_> {
    /// Takes changes that must not be torn apart.
    fn push(&mut self, changes: impl Iterator<Item = RowChange>) -> Result<(), EngineError> {
        if self.rows.len() >= self.rows_max || self.bytes >= BATCH_BYTES_MAX {
            self.apply()?;
        }
        let before = self.rows.len();
        self.rows.extend(changes);
        self.bytes += self.rows[before..]
            .iter()
            .map(RowChange::bytes)
            .sum::<usize>();
        Ok(())
    }

    fn apply(&mut self) -> Result<(), EngineError> {
        if self.rows.is_empty() {
            return Ok(());
        }
        self.bytes = 0;
        self.applied += 1;
        self.engine.apply(std::mem::take(&mut self.rows))
    }
}
