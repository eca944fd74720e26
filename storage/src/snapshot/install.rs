//! A snapshot from another node in place of what a partition was here.
//!
//! **Owns**: the order of it, which survives an end anywhere.
//! **Does not own**: when it is allowed (the node, the core), receiving it (`incoming`).
//!
//! ```text
//! received | reads closed | rebase in the journal, synced | cells wiped, filled, marked | adopted
//! an end before the sync: nothing happened      an end after it: the next open fills them anew
//! ```

use domicile_proto::{Epoch, PartitionId, Seq};

use super::file::SnapshotReader;
use super::format::{Block, SnapshotHeader};
use super::incoming::IncomingSnapshot;
use super::restore::apply;
use super::set::SnapshotSet;
use crate::cells::{PartitionCells, filled_row, mark_rows, wipe_cells};
use crate::engine::Engine;
use crate::error::StoreError;
use crate::journal::Place;
use crate::journal::rebase::Rebase;
use crate::store::Store;

impl Store {
    /// Checks all of a snapshot that was received and keeps it to be installed.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if it is damaged or not whole; [`StoreError::Unfilled`] while
    /// another one is half installed; what the operating system says.
    pub fn finish_incoming(
        &self,
        incoming: IncomingSnapshot,
    ) -> Result<SnapshotHeader, StoreError> {
        self.check_open()?;
        let partition = incoming.header().partition;
        if self.published().unfilled.contains_key(&partition) {
            // The log begins anew with the one that was received before: it is still needed.
            return Err(StoreError::Unfilled { partition });
        }
        let header = incoming.finish(self.node_id())?;
        self.snapshots().add_received(header);
        Ok(header)
    }

    /// Puts the snapshot that was received in the place of everything that a partition has here:
    /// its log goes on after the snapshot's `seq`. Nothing of the partition may be submitted
    /// meanwhile, nor be queued. Reads are answered again once the log has reached the snapshot's
    /// `newest_seq`.
    ///
    /// # Errors
    /// [`StoreError::NoSnapshot`] if none was received, [`StoreError::Corrupt`] if it is damaged,
    /// [`StoreError::Engine`], what the operating system says. It may be called again.
    pub fn install_received(&self, partition: PartitionId) -> Result<SnapshotHeader, StoreError> {
        let _one = self.hold_snapshots();
        self.check_open()?;
        let (header, rebase) = {
            let snapshots = self.snapshots();
            let Some(header) = snapshots.received(partition).copied() else {
                return Err(StoreError::NoSnapshot { partition });
            };
            (header, rebase_of(&mut snapshots.read_received(partition)?)?)
        };
        let cells = self.cells(partition);
        let was_readable = cells.is_readable();
        cells.close();
        let place = match self.rebase(&cells, &header, rebase) {
            Ok(place) => place,
            Err(error) => {
                // Nothing has happened: what was there is there, if it was to be read.
                if was_readable {
                    cells.reopen();
                }
                return Err(error);
            }
        };
        let engine = self.cell_store().engine();
        let mut reader = self.snapshots().read_received(partition)?;
        fill(&**engine, &mut reader, place)?;
        self.adopt(partition, header.seq)?;
        self.absolve(partition)?;
        {
            let mut published = self.published();
            published.unfilled.remove(&partition);
            published.wounds.remove(&partition);
        }
        cells.mend();
        cells.reopen();
        Ok(header)
    }

    /// Lets a partition's log begin anew, durably; where that stands in the journal. Its cells are
    /// closed, and are not those of the snapshot yet.
    fn rebase(
        &self,
        cells: &PartitionCells,
        header: &SnapshotHeader,
        rebase: Rebase,
    ) -> Result<Place, StoreError> {
        let order = self.hold_flushing();
        // Nothing is left frozen.
        self.flush_in_order(&order)?;
        let partition = rebase.partition;
        self.queue().submit_rebase(rebase)?;
        self.commit_before_flush()?;
        cells.rebase(header.seq, header.newest_seq);
        let place = self.published().unfilled.get(&partition).copied();
        Ok(place.expect("published by the commit just made"))
    }

    /// The snapshot of a partition that was received and is to be installed.
    #[must_use]
    pub fn received_snapshot(&self, partition: PartitionId) -> Option<SnapshotHeader> {
        self.snapshots().received(partition).copied()
    }

    fn adopt(&self, partition: PartitionId, seq: Seq) -> Result<(), StoreError> {
        let mut snapshots = self.snapshots();
        self.files().lower_covered(partition, seq)?;
        snapshots.adopt(partition)
    }
}

/// The entry of the journal that stands for a snapshot.
pub(super) fn rebase_of(reader: &mut SnapshotReader) -> Result<Rebase, StoreError> {
    let header = *reader.header();
    let mut reigns: Vec<(Epoch, Seq)> = Vec::new();
    while let Some(Block::Reigns(more)) = reader.next()? {
        reigns.extend(more);
    }
    if reigns.last().map(|(epoch, _)| *epoch) != Some(header.epoch) {
        let problem = format!("its last reign is not {}", header.epoch);
        return Err(StoreError::corrupt(reader.path(), 0, problem));
    }
    let rebase = Rebase {
        partition: header.partition,
        seq: header.seq,
        chain: header.chain,
        reigns,
    };
    rebase
        .check()
        .map_err(|problem| StoreError::corrupt(reader.path(), 0, problem))?;
    Ok(rebase)
}

/// Replaces the engine's cells of a partition by those of a snapshot; the last batch says so.
pub(crate) fn fill(
    engine: &dyn Engine,
    reader: &mut SnapshotReader,
    place: Place,
) -> Result<(), StoreError> {
    let header = *reader.header();
    wipe_cells(engine, header.partition)?;
    while let Some(block) = reader.next()? {
        if let Block::Cells(cells) = block {
            apply(engine, header.partition, cells)?;
        }
    }
    let mut rows = mark_rows(header.partition, header.seq, header.newest_seq).to_vec();
    rows.push(filled_row(header.partition, place));
    Ok(engine.apply(rows)?)
}

/// Fills a partition anew while a journal is replayed: at `place` is a rebase whose snapshot the
/// engine does not have. `None` if no snapshot stands for it.
///
/// # Errors
/// [`StoreError::Corrupt`] for a damaged snapshot; what the engine or the operating system says.
pub(crate) fn fill_again(
    engine: &dyn Engine,
    cells: &PartitionCells,
    snapshots: &mut SnapshotSet,
    rebase: &Rebase,
    place: Place,
) -> Result<Option<SnapshotHeader>, StoreError> {
    let partition = rebase.partition;
    let is_its = |it: &&SnapshotHeader| it.seq == rebase.seq && it.chain == rebase.chain;
    let mut reader = if snapshots.received(partition).filter(is_its).is_some() {
        snapshots.read_received(partition)?
    } else if let Some(newer) = snapshots.get(partition).filter(|it| it.seq >= rebase.seq) {
        snapshots.read(newer)?
    } else {
        return Ok(None);
    };
    let header = *reader.header();
    cells.close();
    cells.rebase(header.seq, header.newest_seq);
    fill(engine, &mut reader, place)?;
    cells.reopen();
    Ok(Some(header))
}
