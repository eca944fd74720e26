//! Up to which record a partition is restored.
//!
//! **Owns**: the words for it, whether a backup reaches it, where it cuts a segment.
//! **Does not own**: the restore (`restore`).

use domicile_proto::{Record, Seq};

use super::manifest::BackupPartition;
use crate::error::StoreError;

/// Up to which record a partition is restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestorePoint {
    /// All that the backup has.
    End,
    /// Up to this record, inclusive.
    Seq(Seq),
    /// Up to the last record before the first that was written later than this, in ms since 1970.
    Time(u64),
}

impl RestorePoint {
    /// Whether the backup can show the partition as it was then.
    ///
    /// # Errors
    /// [`StoreError::OutsideBackup`] with what it can show.
    pub(super) fn check(self, partition: &BackupPartition) -> Result<(), StoreError> {
        let (oldest, last) = (partition.oldest_seq(), partition.last_seq());
        let (oldest_ms, newest_ms) = (partition.oldest_ms, partition.newest_ms);
        let wanted = match self {
            Self::Seq(seq) if seq < oldest || seq > last => format!("record {seq}"),
            Self::Time(at_ms) if at_ms < oldest_ms => format!("time {at_ms}"),
            _ => return Ok(()),
        };
        Err(StoreError::OutsideBackup {
            partition: partition.partition,
            wanted,
            oldest: format!("record {oldest}, time {oldest_ms}"),
            newest: format!("record {last}, time {newest_ms}"),
        })
    }

    /// How many of these records, which follow each other, are up to it.
    pub(super) fn count_upto(self, records: &[(Seq, Record)]) -> usize {
        records
            .iter()
            .take_while(|(seq, record)| match self {
                Self::End => true,
                Self::Seq(upto) => *seq <= upto,
                Self::Time(at_ms) => record.head.hlc.wall_ms() <= at_ms,
            })
            .count()
    }

    /// Whether nothing of a stretch of the log from `first` on is wanted, as far as can be told
    /// without reading it.
    pub(super) fn is_before(self, first: Seq) -> bool {
        matches!(self, Self::Seq(upto) if upto < first)
    }
}
