//! An engine filled from the snapshots of a data directory.
//!
//! **Owns**: the order that makes a restore whole or repeated.
//! **Does not own**: the replay of the journal over it (`recovery`).
//!
//! The rows that say where to replay from are written last. An engine without them is empty or was
//! left half filled, and is wiped first.

use std::collections::BTreeMap;

use bytes::Bytes;
use domicile_proto::PartitionId;

use super::format::{Block, SnapshotHeader};
use super::set::SnapshotSet;
use crate::cells::{cell_rows, mark_rows, wipe};
use crate::checkpoint;
use crate::engine::{Engine, RowChange};
use crate::error::StoreError;
use crate::journal::{PartitionTail, Place};
use crate::options::OnDamage;

/// Cells in one batch for the engine, as in a flush.
const BATCH_ROWS: usize = 64;

/// Fills an engine that has no checkpoint; how many cells that were. The journal is then to be
/// replayed from `start`. Damaged snapshots, where they are tolerated, are added to `lost`. `marks`
/// are rows that are true of an engine that is filled anew.
///
/// # Errors
/// [`StoreError::Corrupt`] for a damaged snapshot, what the engine or the operating system says.
pub(crate) fn restore(
    engine: &dyn Engine,
    snapshots: &SnapshotSet,
    start: Place,
    on_damage: OnDamage,
    marks: Vec<RowChange>,
    lost: &mut BTreeMap<PartitionId, StoreError>,
) -> Result<u64, StoreError> {
    if snapshots.is_empty() && marks.is_empty() {
        return Ok(0);
    }
    wipe(engine)?;
    let mut cells = 0;
    let mut tails = Vec::new();
    let mut rows = marks;
    for header in snapshots.iter() {
        let tail = match restore_partition(engine, snapshots, header) {
            Err(error @ StoreError::Corrupt { .. }) if on_damage == OnDamage::Quarantine => {
                tracing::error!(%error, "a snapshot is damaged");
                lost.insert(header.partition, error);
                continue;
            }
            restored => restored?,
        };
        tails.push((header.partition, tail));
        rows.extend(mark_rows(header.partition, header.seq, header.newest_seq));
        cells += header.cells;
    }
    let node = snapshots.node();
    rows.extend(checkpoint::rows_to_replay_from(node, start, &tails));
    engine.apply(rows)?;
    engine.sync()?;
    Ok(cells)
}

fn restore_partition(
    engine: &dyn Engine,
    snapshots: &SnapshotSet,
    header: &SnapshotHeader,
) -> Result<PartitionTail, StoreError> {
    let mut reader = snapshots.read(header)?;
    let mut epoch_history = Vec::new();
    while let Some(block) = reader.next()? {
        match block {
            Block::Reigns(reigns) => epoch_history = reigns,
            // Read when a home remembers, not by the engine.
            Block::Requests(_) => {}
            Block::Cells(cells) => apply(engine, header.partition, cells)?,
        }
    }
    if epoch_history.last().map(|(epoch, _)| *epoch) != Some(header.epoch) {
        let problem = format!("its last reign is not {}", header.epoch);
        return Err(StoreError::corrupt(reader.path(), 0, problem));
    }
    Ok(PartitionTail {
        epoch: header.epoch,
        last_seq: header.seq,
        chain: header.chain,
        visible_upto: header.seq,
        epoch_history,
    })
}

pub(super) fn apply(
    engine: &dyn Engine,
    partition: PartitionId,
    cells: Vec<(Bytes, Bytes)>,
) -> Result<(), StoreError> {
    let mut cells = cells.into_iter();
    loop {
        let mut batch: Vec<RowChange> = Vec::new();
        for (key, value) in cells.by_ref().take(BATCH_ROWS) {
            batch.extend(cell_rows(partition, &key, value)?);
        }
        if batch.is_empty() {
            return Ok(());
        }
        engine.apply(batch)?;
    }
}
