//! What a reader finds who wants a partition's log from one record on.
//!
//! **Owns**: whether the journal still has that record, where to look for it, and in which reign
//! the one before it was written.
//! **Does not own**: reading it (`records`, the readers' own cursors), cutting (`retention`).

use domicile_proto::{Epoch, PartitionId, Seq};

use crate::journal::Place;
use crate::store::Store;

/// The log of a partition, as one reader meets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogReach {
    /// The first record that the journal still has; the one after its last if it has none.
    pub oldest: Seq,
    /// The reign of the oldest record, or of the last if the journal has none; `None` if the log
    /// has none at all.
    pub oldest_epoch: Option<Epoch>,
    /// The last durable record.
    pub durable_upto: Seq,
    /// The reign of the record before the one wanted; `None` if that is not in the log, or so old
    /// that its reign is forgotten.
    pub epoch_before: Option<Epoch>,
    /// At or before the record wanted, or before where it will be.
    pub place: Place,
}

impl LogReach {
    /// Whether the record wanted was in the log and is no longer in the journal.
    #[must_use]
    pub fn is_cut(&self, wanted: Seq) -> bool {
        self.oldest > wanted
    }
}

impl Store {
    /// What is there for a reader of a partition's log who wants it from `from` on. All of it holds
    /// at one moment; a later cut shows as an error of [`Store::read`] or as a gap, and then here.
    #[must_use]
    pub fn reach(&self, partition: PartitionId, from: Seq) -> LogReach {
        let start = self.journal_start();
        let published = self.published();
        let (last_seq, _) = published.tails.end_of(partition);
        let oldest = published.index.first_seq(partition);
        let oldest = oldest.unwrap_or(last_seq.next());
        let epoch_of = |seq: Seq| {
            let tail = published.tails.get(partition)?;
            let reigns = tail.epoch_history.iter().rev();
            let mut begun = reigns.filter(|(_, first_seq)| *first_seq <= seq);
            begun.next().map(|(epoch, _)| *epoch)
        };
        let before = Seq::new(from.get().saturating_sub(1));
        let is_known = before > Seq::NONE && before <= last_seq;
        let place = published.index.locate(partition, from);
        LogReach {
            oldest,
            oldest_epoch: epoch_of(oldest.min(last_seq)),
            durable_upto: last_seq,
            epoch_before: is_known.then(|| epoch_of(before)).flatten(),
            place: place.unwrap_or(start).max(start),
        }
    }
}
