//! Which segments of the journal count for nothing, as their log went back to a fork behind them.
//!
//! **Owns**: the cuts that the journal has, where each one stands.
//! **Does not own**: the entry (`cut`), their list on disk (`orphans`).
//!
//! ```text
//! 8 9 10 | 11 12 13 | CUT after 10 | 11' 12'      11 to 13 are void, 11' is not: it stands behind
//! ```
//! A reader of the journal cannot tell such a segment by itself: only what follows says so. So the
//! cuts are known before the journal is read.

use std::collections::BTreeMap;
use std::fmt;

use domicile_proto::{PartitionId, Seq};

use super::{FileNumber, Place};

/// The number of an orphan file of its partition. The first is 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrphanNumber(u64);

impl OrphanNumber {
    /// The first one of a partition.
    pub const FIRST: Self = Self(1);

    /// The one with this number; `None` for 0, which no file has.
    #[must_use]
    pub fn new(number: u64) -> Option<Self> {
        (number > 0).then_some(Self(number))
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The one after it.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The one before it; `None` for the first.
    #[must_use]
    pub(crate) const fn previous(self) -> Option<Self> {
        match self.0 {
            0 | 1 => None,
            number => Some(Self(number - 1)),
        }
    }

    /// The first and all after it up to `last`.
    pub(crate) fn upto(last: Self) -> impl Iterator<Item = Self> {
        (1..=last.0).map(Self)
    }
}

impl fmt::Display for OrphanNumber {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0)
    }
}

impl fmt::Debug for OrphanNumber {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0)
    }
}

/// One cut of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CutMark {
    pub(crate) partition: PartitionId,
    /// Which orphan file has what is cut.
    pub(crate) number: OrphanNumber,
    /// The last record that stays.
    pub(crate) seq: Seq,
    /// The last record that is cut.
    pub(crate) end: Seq,
    /// The frame in which the entry stands.
    pub(crate) place: Place,
}

/// The cuts that the journal has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cuts {
    /// In the order of their places.
    partitions: BTreeMap<PartitionId, Vec<CutMark>>,
}

impl Cuts {
    pub(crate) fn add(&mut self, mark: CutMark) {
        let marks = self.partitions.entry(mark.partition).or_default();
        let at = marks.partition_point(|other| other.place < mark.place);
        if marks.get(at).is_none_or(|other| other.place != mark.place) {
            marks.insert(at, mark);
        }
    }

    /// Those of a partition, in the order of their places.
    pub(crate) fn of(&self, partition: PartitionId) -> &[CutMark] {
        self.partitions.get(&partition).map_or(&[], Vec::as_slice)
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &CutMark> {
        self.partitions.values().flatten()
    }

    /// Every partition that has one.
    pub(crate) fn partitions(&self) -> impl Iterator<Item = PartitionId> {
        self.partitions.keys().copied()
    }

    /// Whether the entry in the frame at `place` is one of them.
    pub(crate) fn knows(&self, partition: PartitionId, place: Place) -> bool {
        self.of(partition).iter().any(|mark| mark.place == place)
    }

    /// How far a log that is read without what is void leads before the cut at `place`: to its
    /// fork, or to that of a later cut that goes back further.
    pub(crate) fn leads_to(&self, partition: PartitionId, place: Place, fork: Seq) -> Seq {
        let later = self.of(partition).iter().filter(|mark| mark.place >= place);
        later.map(|mark| mark.seq).fold(fork, Seq::min)
    }

    /// Whether a segment that lies at `place` and begins with `first_seq` was cut behind it.
    pub(crate) fn is_void(&self, partition: PartitionId, place: Place, first_seq: Seq) -> bool {
        let mut marks = self.of(partition).iter();
        marks.any(|mark| place < mark.place && first_seq > mark.seq)
    }

    /// Forgets those in files before `first`, which are deleted with what they cut.
    pub(crate) fn forget_before(&mut self, first: FileNumber) {
        self.partitions.retain(|_, marks| {
            marks.retain(|mark| mark.place.file >= first);
            !marks.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use domicile_proto::{Bucket, KeyspaceId, RegionId};

    use super::*;

    fn partition(bucket: u16) -> PartitionId {
        PartitionId {
            keyspace: KeyspaceId::new(1),
            region: RegionId::new(7).unwrap(),
            bucket: Bucket::new(bucket),
        }
    }

    fn place(file: u64, offset: u64) -> Place {
        Place {
            file: FileNumber::new(file),
            offset,
        }
    }

    #[test]
    fn what_lies_before_a_cut_and_above_its_fork_is_void_and_nothing_else_is() {
        let mut cuts = Cuts::default();
        let mark = |seq, at| CutMark {
            partition: partition(1),
            number: OrphanNumber::FIRST,
            seq: Seq::new(seq),
            end: Seq::new(seq + 5),
            place: at,
        };
        // A second cut goes back further than the first.
        cuts.add(mark(8, place(2, 9_000)));
        cuts.add(mark(10, place(1, 9_000)));
        cuts.add(mark(10, place(1, 9_000)));
        assert_eq!(cuts.of(partition(1)).len(), 2);
        let is_void = |at, first| cuts.is_void(partition(1), at, Seq::new(first));
        assert!(is_void(place(1, 5_000), 11));
        assert!(is_void(place(1, 5_000), 9));
        assert!(!is_void(place(1, 5_000), 8));
        assert!(is_void(place(1, 9_500), 11));
        assert!(!is_void(place(2, 9_500), 11));
        assert!(!cuts.is_void(partition(2), place(1, 5_000), Seq::new(11)));
        let leads_to = |at| cuts.leads_to(partition(1), at, Seq::new(10)).get();
        assert_eq!(
            (leads_to(place(1, 9_000)), leads_to(place(2, 9_001))),
            (8, 10)
        );
        assert!(cuts.knows(partition(1), place(2, 9_000)));
        assert!(!cuts.knows(partition(1), place(2, 9_001)));
        cuts.forget_before(FileNumber::new(2));
        assert_eq!(cuts.iter().count(), 1);
        cuts.forget_before(FileNumber::new(3));
        assert_eq!(cuts.partitions().count(), 0);
    }
}
