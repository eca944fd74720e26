//! Which journal files nobody needs any more.
//!
//! **Owns**: the one condition under which a file is deleted, and the order of its deletion.
//! **Does not own**: what copies still lack (the caller says).
//!
//! A file goes when every record in it is covered by a durable snapshot, is needed by nobody the
//! caller knows, and lies before the place from which the engine would be replayed.

use domicile_proto::{PartitionId, Seq};

use crate::error::StoreError;
use crate::journal::{FileNumber, Place};
use crate::planted::{Bug, is_planted};
use crate::store::Store;

/// Nothing of a log is needed.
pub const NOTHING: Seq = Seq::new(u64::MAX);

/// What a trim did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrimReport {
    /// Files deleted.
    pub files: u64,
    /// Their bytes, as near as their usual length says.
    pub bytes: u64,
    /// The file that the journal begins with now.
    pub first: FileNumber,
    /// What keeps that file; `None` if it is the engine, or that it is being written.
    pub pinned_by: Option<Pin>,
}

/// What keeps a journal file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pin {
    /// No snapshot covers this partition's records in it: a newer one may release it.
    Uncovered(PartitionId),
    /// Others need this partition's records in it.
    Needed(PartitionId),
}

impl Store {
    /// Deletes the journal files that nobody needs. `needed_from` says from which record on a
    /// partition's log is needed by others than this store: copies that may lack it.
    ///
    /// # Errors
    /// What the operating system says; what was not deleted is the next time.
    pub fn trim(&self, needed_from: &dyn Fn(PartitionId) -> Seq) -> Result<TrimReport, StoreError> {
        let mut limit = self.replay_place().file;
        let partitions: Vec<PartitionId> = {
            let published = self.published();
            // The place first: a partition that is new after the list lies behind it. And the last
            // frame stays, by which the next open knows that nothing is missing.
            limit = limit.min(published.end.file);
            limit = published
                .last
                .map_or(limit, |last| limit.min(last.place.file));
            published.tails.iter().map(|(id, _)| id).collect()
        };
        let covered = |partition| {
            let snapshots = self.snapshots();
            snapshots.get(partition).map_or(Seq::NONE, |it| it.seq)
        };
        // Asked without a lock: whoever answers may hold one of its own while it asks us.
        let wanted: Vec<(PartitionId, [Seq; 2])> = partitions
            .into_iter()
            .map(|id| (id, [covered(id).next(), needed_from(id)]))
            .collect();
        let start = self.journal_start();
        let mut pinned_by = None;
        {
            let published = self.published();
            for (partition, froms) in wanted {
                let last_seq = published.tails.end_of(partition).0;
                let file_of = |seq: Seq| {
                    let place: Option<Place> = published.index.locate(partition, seq);
                    (seq <= last_seq).then(|| place.unwrap_or(start).file)
                };
                let [uncovered, needed] = froms.map(file_of);
                // In a tie a snapshot would release nothing.
                let pins = [
                    (uncovered, Pin::Uncovered(partition)),
                    (needed, Pin::Needed(partition)),
                ];
                for (file, pin) in pins {
                    if let Some(file) = file.filter(|file| *file <= limit) {
                        (limit, pinned_by) = (file, Some(pin));
                    }
                }
            }
        }
        if is_planted(Bug::CutTooEarly) && limit < self.durable_end().file {
            limit = limit.next();
        }
        let files = limit.get().saturating_sub(start.file.get());
        if files > 0 {
            {
                let mut published = self.published();
                published.index.forget_before(limit);
                published.cuts.forget_before(limit);
            }
            let snapshots = self.snapshots();
            let covered = snapshots.iter().map(|it| (it.partition, it.seq)).collect();
            // Under the lock: one that is adopted meanwhile would be noted as older than it is.
            self.files().drop_before(limit, covered)?;
        }
        Ok(TrimReport {
            files,
            bytes: files * self.files().file_bytes(),
            first: limit.max(start.file),
            pinned_by,
        })
    }
}
