//! Taking a snapshot of one partition while it is written to.
//!
//! **Owns**: which position it is of, the walk over the engine's cells.
//! **Does not own**: when one is due (the node's keeper), the file (`file`).
//!
//! ```text
//! applied mark read | cells, page by page; flushes go on | intent mark read | header, rename
//!     seq <= mark                                            newest seq = mark
//! ```

use bytes::Bytes;
use domicile_proto::{ChainHash, PartitionId, Seq};

use super::file::SnapshotWriter;
use super::format::{KeptRequest, SnapshotHeader, SnapshotOrigin};
use crate::error::StoreError;
use crate::records::find_segment;
use crate::store::Store;

/// About the bytes read from the engine at once. Doubled, a page holds twice as much in memory.
const PAGE_BYTES: u64 = 1 << 20;

/// Cells read at once, however small: what keeps the engine's other readers waiting for a page.
const PAGE_CELLS_MAX: u64 = 512;

/// What a snapshot is to be besides its cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotPlan {
    /// The present, in ms since 1970.
    pub now_ms: u64,
    /// How many of the last requests it holds, so that the log before it is not needed for them.
    pub requests_max: usize,
}

impl Store {
    /// Takes a snapshot of what the engine holds of a partition, beside its writers: what it has is
    /// at most one flush behind. `None` if there is nothing newer than in the last one. `pace` is
    /// told the bytes written so far, may wait, and says whether to go on.
    ///
    /// # Errors
    /// [`StoreError::Engine`], what the operating system says: the last snapshot stays as it is.
    pub fn snapshot(
        &self,
        partition: PartitionId,
        plan: SnapshotPlan,
        pace: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Option<SnapshotHeader>, StoreError> {
        self.check_open()?;
        let _one = self.hold_snapshots();
        take(self, partition, plan, pace)
    }

    /// The last snapshot of a partition.
    #[must_use]
    pub fn last_snapshot(&self, partition: PartitionId) -> Option<SnapshotHeader> {
        self.snapshots().get(partition).copied()
    }

    /// The requests in the last snapshot of a partition, in order; none without one.
    ///
    /// # Errors
    /// What the operating system says. A damaged snapshot counts as missing from then on.
    pub fn snapshot_requests(
        &self,
        partition: PartitionId,
    ) -> Result<Vec<KeptRequest>, StoreError> {
        let mut snapshots = self.snapshots();
        match snapshots.requests(partition) {
            Err(error @ StoreError::Corrupt { .. }) => {
                tracing::error!(%error, "a snapshot is damaged, and counts as missing");
                snapshots.forget(partition);
                Ok(Vec::new())
            }
            requests => requests,
        }
    }
}

/// Takes a snapshot of what the engine holds of a partition. `None` if nothing is newer than the
/// last one, or `pace`, which is told the bytes so far, said to stop.
///
/// # Errors
/// What the engine, the journal or the operating system says; the last snapshot stays.
fn take(
    store: &Store,
    partition: PartitionId,
    plan: SnapshotPlan,
    pace: &mut dyn FnMut(u64) -> bool,
) -> Result<Option<SnapshotHeader>, StoreError> {
    if !store.cells(partition).is_readable() {
        // What the engine has is no state of the partition that its own log leads to yet.
        return Ok(None);
    }
    let applied = store.cell_store().stored_marks(partition)?.applied_upto;
    let (Some((seq, chain)), Some(tail)) =
        (end_at(store, partition, applied)?, store.tail(partition))
    else {
        return Ok(None);
    };
    let before = store.last_snapshot(partition);
    if before.is_some_and(|before| before.seq >= seq) {
        return Ok(None);
    }
    let mut reigns = tail.epoch_history;
    reigns.retain(|(_, first)| *first <= seq);
    let Some((epoch, _)) = reigns.last().copied() else {
        return Ok(None);
    };
    let dir = store.snapshots().make_dir()?;
    let requests = requests_upto(store, partition, seq, plan.requests_max)?;
    let mut writer = SnapshotWriter::begin(store.disk(), &dir, partition, &reigns, &requests)?;
    if !copy_cells(store, partition, &mut writer, pace)? {
        return Ok(None);
    }
    let newest = store.cell_store().stored_marks(partition)?.intent_upto;
    let header = writer.finish(SnapshotHeader {
        node: store.node_id(),
        origin: SnapshotOrigin::Taken,
        partition,
        epoch,
        seq,
        chain,
        newest_seq: newest.max(seq),
        blocks: 0,
        cells: 0,
        file_bytes: 0,
        taken_at_ms: plan.now_ms,
    })?;
    store.snapshots().add(header)?;
    Ok(Some(header))
}

/// Writes the engine's cells, page by page; `false` if `pace` said to stop.
fn copy_cells(
    store: &Store,
    partition: PartitionId,
    writer: &mut SnapshotWriter,
    pace: &mut dyn FnMut(u64) -> bool,
) -> Result<bool, StoreError> {
    let mut after: Option<Bytes> = None;
    let mut cells = 1;
    loop {
        let page = store
            .cell_store()
            .stored_page(partition, after.as_deref(), cells)?;
        let before = writer.bytes_pushed();
        for (key, value) in &page {
            writer.push(key, value)?;
        }
        if !pace(writer.bytes_pushed()) {
            return Ok(false);
        }
        match page.last() {
            Some((key, _)) if page.len() == cells => after = Some(key.clone()),
            _ => return Ok(true),
        }
        // As many as make a page of the wanted size, if the next ones are like these.
        let bytes = (writer.bytes_pushed() - before).max(1);
        let fitting = PAGE_BYTES * cells as u64 / bytes;
        cells = fitting.clamp(1, 2 * cells as u64).min(PAGE_CELLS_MAX) as usize;
    }
}

/// The last requests up to `seq`: those of the snapshot before, and the log from there.
fn requests_upto(
    store: &Store,
    partition: PartitionId,
    seq: Seq,
    requests_max: usize,
) -> Result<Vec<KeptRequest>, StoreError> {
    let first_wanted = Seq::new(seq.get().saturating_sub(requests_max as u64) + 1);
    let before = store.snapshot_requests(partition)?;
    let mut requests: Vec<KeptRequest> = before
        .into_iter()
        .filter(|request| request.seq >= first_wanted)
        .collect();
    let covered = requests.last().map_or(Seq::NONE, |request| request.seq);
    let from = first_wanted
        .max(covered.next())
        .max(store.log_start(partition));
    if from > seq {
        return Ok(requests);
    }
    // Of what is damaged the requests are lost; what is to stand for it must not wait for them.
    for record in store.records(partition, from).pass_holes() {
        let (_, at, record) = record?;
        requests.extend(KeptRequest::of(at, &record));
        // Not read on to a later one: that may be the journal's whole rest away.
        if at >= seq {
            break;
        }
    }
    Ok(requests)
}

/// The last end of a segment at or before `seq`, and the hash of the history up to it.
fn end_at(
    store: &Store,
    partition: PartitionId,
    seq: Seq,
) -> Result<Option<(Seq, ChainHash)>, StoreError> {
    if let Some(tail) = store.tail(partition)
        && tail.last_seq == seq
    {
        return Ok(Some((seq, tail.chain)));
    }
    let found = find_segment(store, partition, seq)?;
    Ok(found.and_then(|segment| {
        let header = segment.header();
        if header.last_seq() == seq {
            return Some((seq, segment.chain()));
        }
        let before = header.first_seq.get().checked_sub(1).map(Seq::new)?;
        (before > Seq::NONE).then_some((before, header.previous))
    }))
}
