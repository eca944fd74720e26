//! The engine's cells of one partition as they are, for snapshots, and back from one.
//!
//! **Owns**: which rows those are; what a partition's rows are after a restore.
//! **Does not own**: the snapshot's file (`snapshot`), the journal that makes them current.
//!
//! The engine changes while it is read. Whoever reads the applied mark before the first page and
//! the intent mark after the last knows: every record up to the one is in the pages, none above the
//! other is. Folding the log between the two over them, in order, gives the state at its end.

use std::ops::Bound;

use bytes::Bytes;
use domicile_proto::{PartitionId, Seq};

use super::cell::Cell;
use super::rows::{
    CellPrefix, ExpiryPrefix, PartitionMarks, applied_mark, cell_changes, filled_mark, healed_mark,
    intent_mark, read_partition_marks,
};
use super::store::CellStore;
use crate::engine::{Direction, Engine, EngineError, RowChange};
use crate::journal::Place;

/// Rows removed in one batch; more would keep readers out for longer.
const WIPE_ROWS: usize = 256;

impl CellStore {
    /// The marks as the engine has them now.
    ///
    /// # Errors
    /// What the engine says.
    pub fn stored_marks(&self, partition: PartitionId) -> Result<PartitionMarks, EngineError> {
        read_partition_marks(&**self.engine(), partition)
    }

    /// Up to `limit` cells of the engine with keys after `after`: key and row value.
    ///
    /// # Errors
    /// What the engine says.
    pub fn stored_page(
        &self,
        partition: PartitionId,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
        let prefix = CellPrefix::of(partition);
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let (from, upto) = prefix.range(from, Bound::Unbounded);
        let from = from.as_ref().map(|row| &row[..]);
        let upto = upto.as_ref().map(|row| &row[..]);
        let rows = self.engine().scan(from, upto, Direction::Forward, limit)?;
        let cells = rows
            .into_iter()
            .map(|(row, value)| (prefix.key(&row), value));
        Ok(cells.collect())
    }
}

/// The rows of a cell that was read by [`CellStore::stored_page`]: its own, and its place in the
/// index of expiries. For an engine that has no cell of that key.
///
/// # Errors
/// [`EngineError::Corrupt`] for a value that is no cell's.
pub(crate) fn cell_rows(
    partition: PartitionId,
    key: &[u8],
    value: Bytes,
) -> Result<impl Iterator<Item = RowChange>, EngineError> {
    let expires_at_ms = Cell::stored_expiry(&value)?;
    Ok(cell_changes(
        partition,
        key,
        None,
        Some((value, expires_at_ms)),
    ))
}

/// The marks of a partition whose rows hold every record up to `applied_upto` and none above
/// `intent_upto`.
pub(crate) fn mark_rows(
    partition: PartitionId,
    applied_upto: Seq,
    intent_upto: Seq,
) -> [RowChange; 2] {
    [
        intent_mark(partition, intent_upto),
        applied_mark(partition, applied_upto),
    ]
}

/// The row that says that cells were filled for the rebase at `place`.
pub(crate) fn filled_row(partition: PartitionId, place: Place) -> RowChange {
    filled_mark(partition, place)
}

/// The row that says that cells hold no orphan of the cut at `place`, and may be as new as `upto`.
pub(crate) fn healed_row(partition: PartitionId, place: Place, upto: Seq) -> RowChange {
    healed_mark(partition, place, upto)
}

/// The changes that give a key of an engine another cell, or none.
///
/// # Errors
/// What the engine says.
pub(crate) fn heal_rows(
    engine: &dyn Engine,
    partition: PartitionId,
    key: &[u8],
    cell: Option<&Cell>,
) -> Result<impl Iterator<Item = RowChange>, EngineError> {
    let before = engine.get(&CellPrefix::of(partition).row(key))?;
    let before = before.map(|stored| Cell::stored_expiry(&stored));
    let before = before.transpose()?.flatten();
    let after = cell.and_then(|cell| Some((cell.encode()?, cell.expires_at_ms)));
    Ok(cell_changes(partition, key, before, after))
}

/// Removes every row of an engine.
///
/// # Errors
/// What the engine says.
pub(crate) fn wipe(engine: &dyn Engine) -> Result<(), EngineError> {
    wipe_range(engine, Bound::Unbounded, Bound::Unbounded)
}

/// Removes the cells of one partition and their expiries; its marks stay.
///
/// # Errors
/// What the engine says.
pub(crate) fn wipe_cells(engine: &dyn Engine, partition: PartitionId) -> Result<(), EngineError> {
    let prefix = CellPrefix::of(partition);
    let (from, upto) = prefix.range(Bound::Unbounded, Bound::Unbounded);
    let (from, upto) = (from.as_ref(), upto.as_ref());
    wipe_range(engine, from.map(|row| &row[..]), upto.map(|row| &row[..]))?;
    let (from, upto) = ExpiryPrefix::of(partition).range();
    wipe_range(engine, Bound::Included(&from), Bound::Excluded(&upto))
}

fn wipe_range(
    engine: &dyn Engine,
    from: Bound<&[u8]>,
    upto: Bound<&[u8]>,
) -> Result<(), EngineError> {
    loop {
        let rows = engine.scan(from, upto, Direction::Forward, WIPE_ROWS)?;
        if rows.is_empty() {
            return Ok(());
        }
        let removals = rows.into_iter().map(|(row, _)| RowChange::Remove { row });
        engine.apply(removals.collect())?;
    }
}
