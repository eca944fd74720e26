//! Where a shipper stands in the journal, and which record of each partition comes next.
//!
//! **Owns**: picking, from the journal's mix of partitions, what one peer still needs and may have.
//! **Does not own**: reading files (storage), sending (shipper).

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use domicile_proto::{Epoch, PartitionId, Seq};
use domicile_storage::{JournalChunk, Place, Store, StoreError};

/// Bytes that one read of the journal asks for, and so about the size of a frame in catch-up.
/// Larger frames keep a processor from writers for longer at both ends (256 KiB: 1.3 ms more of
/// their p99); smaller ones cost more calls a byte.
pub(super) const READ_BYTES: usize = 64 << 10;

/// A place in the journal and, per partition that the peer may have, the next record it lacks.
#[derive(Debug)]
pub(super) struct ShipCursor {
    place: Place,
    next: BTreeMap<PartitionId, ShipNext>,
    shipped: Shipped,
    /// Partitions that lack what is damaged here, from that record on.
    left_out: BTreeMap<PartitionId, Seq>,
}

/// What the peer lacks of a partition.
#[derive(Debug, Clone, Copy)]
pub(super) struct ShipNext {
    /// From this record on.
    pub(super) from: Seq,
    /// The home's reign when the stream began.
    pub(super) reign: Epoch,
}

/// Whether the peer gets all partitions that it is to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shipped {
    /// It does.
    All,
    /// Some were left out: the copy does not follow them or may not hold them.
    Some,
}

/// What one advance found.
#[derive(Debug, Default)]
pub(super) struct Picked {
    /// Whole segments, one after the other.
    pub(super) bytes: Bytes,
    /// How many records they hold.
    pub(super) records: u64,
    /// The home's reign, of partitions with segments of older ones.
    pub(super) older: BTreeMap<PartitionId, Epoch>,
    /// A partition whose records from here on are not where the cursor came by.
    pub(super) missing: Option<(PartitionId, Seq)>,
}

impl ShipCursor {
    /// A cursor at the first segment that any of `next` lacks.
    pub(super) fn new(
        store: &Store,
        next: BTreeMap<PartitionId, ShipNext>,
        shipped: Shipped,
    ) -> Self {
        // The end first: what becomes durable after it lies behind it. And the store's own tails: a
        // core hears of a commit a moment after the end has moved, and would hide its records.
        let end = store.durable_end();
        let last = |partition| {
            store
                .tail(partition)
                .map_or(Seq::NONE, |tail| tail.last_seq)
        };
        let lacking = next
            .iter()
            .filter(|(partition, next)| next.from <= last(**partition));
        let start = store.journal_start();
        let starts = lacking.map(|(id, next)| store.locate(*id, next.from).unwrap_or(start));
        let place = starts.min().unwrap_or(end).min(end);
        Self {
            place,
            next,
            shipped,
            left_out: BTreeMap::new(),
        }
    }

    /// Goes back for a partition whose copy lacks records from `seq` on.
    pub(super) fn rewind(&mut self, store: &Store, partition: PartitionId, seq: Seq) {
        if let Some(next) = self.next.get_mut(&partition) {
            next.from = seq;
            let place = store
                .locate(partition, seq)
                .unwrap_or(store.journal_start());
            self.place = self.place.min(place);
        }
    }

    /// Ships no more of a partition whose record at `seq` is damaged here.
    pub(super) fn leave_out(&mut self, partition: PartitionId, seq: Seq) {
        self.forget(partition);
        self.left_out.insert(partition, seq);
    }

    /// A partition that was left out, for which a snapshot stands by now.
    pub(super) fn can_be_helped(&self, store: &Store) -> Option<PartitionId> {
        let mut left_out = self.left_out.iter();
        let helped = left_out.find(|(id, seq)| store.log_start(**id) > **seq);
        helped.map(|(id, _)| *id)
    }

    /// Ships no more of a partition.
    pub(super) fn forget(&mut self, partition: PartitionId) {
        self.next.remove(&partition);
        self.shipped = Shipped::Some;
    }

    /// Whether no partition is left out.
    pub(super) fn shipped(&self) -> Shipped {
        self.shipped
    }

    /// Whether everything before `end` has been looked at.
    pub(super) fn is_at(&self, end: Place) -> bool {
        self.place >= end
    }

    /// Goes on behind what cannot be read; who lacks something of it is noticed by the gap.
    pub(super) fn skip_to(&mut self, place: Place) {
        self.place = self.place.max(place);
    }

    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// Takes what the peer lacks out of a chunk that was read at [`ShipCursor::place`].
    pub(super) fn pick(&mut self, chunk: &JournalChunk) -> Picked {
        let (mut wanted, mut missing) = (Vec::new(), None);
        let mut older = BTreeMap::new();
        for (_, segment) in &chunk.segments {
            let header = segment.header();
            let Some(next) = self.next.get_mut(&header.partition) else {
                continue;
            };
            // Not `!=`: after a rewind for one partition the others' segments come by again.
            if header.first_seq == next.from {
                next.from = header.last_seq().next();
                wanted.push(segment);
                if header.epoch != next.reign {
                    older.insert(header.partition, next.reign);
                }
            } else if header.first_seq > next.from {
                missing = Some((header.partition, next.from));
            }
        }
        self.place = chunk.next;
        let records = wanted
            .iter()
            .map(|segment| u64::from(segment.header().count))
            .sum();
        let bytes = match wanted.as_slice() {
            [only] => only.bytes().clone(),
            several => {
                let len = several.iter().map(|segment| segment.bytes().len()).sum();
                let mut bytes = BytesMut::with_capacity(len);
                several
                    .iter()
                    .for_each(|segment| bytes.extend_from_slice(segment.bytes()));
                bytes.freeze()
            }
        };
        Picked {
            bytes,
            records,
            older,
            missing,
        }
    }

    /// Reads the next chunk before `end`.
    pub(super) fn read(&self, store: &Store, end: Place) -> Result<JournalChunk, StoreError> {
        store.read(self.place, end, READ_BYTES)
    }
}
