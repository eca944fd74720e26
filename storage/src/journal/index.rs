//! From a partition's sequence number to a place in the journal.
//!
//! **Owns**: the sparse index, its rows in the engine.
//! **Does not own**: when rows are saved (the store's flush), what is at the place (reader).
//!
//! An entry names the frame that holds a partition's segment: the first in each file, and then one
//! for each further mebibyte of journal. It lives in memory; its rows only save the scan at open.
//!
//! ```text
//! i | partition (8) | first seq, u64 big-endian     -> place (16, big-endian)
//! ```

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use domicile_proto::{PartitionId, Seq};

use super::{FileNumber, Place};
use crate::engine::{Direction, Engine, EngineError, RowChange};

const TAG: u8 = b'i';

/// A reader that starts at an entry skips at most this much of others' segments: 1 MiB, about a
/// millisecond. Half of it doubles the entries, of which each takes 24 bytes of memory.
const SPACING_BYTES: u64 = 1 << 20;

/// Rows read at once when the index is loaded; more would only hold more in memory.
const PAGE_ROWS: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct IndexEntry {
    first_seq: Seq,
    place: Place,
}

/// The sparse index of all partitions.
#[derive(Debug, Default)]
pub(crate) struct JournalIndex {
    partitions: BTreeMap<PartitionId, Vec<IndexEntry>>,
    unsaved: Vec<(PartitionId, IndexEntry)>,
    /// Entries whose rows are to be removed. A row that stays is forgotten again at the next open.
    forgotten: Vec<(PartitionId, Seq)>,
}

impl JournalIndex {
    /// Reads the rows.
    ///
    /// # Errors
    /// What the engine says; [`EngineError::Corrupt`] for rows that are none of the index.
    pub(crate) fn load(engine: &dyn Engine) -> Result<Self, EngineError> {
        let mut index = Self::default();
        let mut from = Bytes::from_static(&[TAG]);
        loop {
            let upto = [TAG + 1];
            let upto = Bound::Excluded(&upto[..]);
            let page = engine.scan(Bound::Excluded(&from), upto, Direction::Forward, PAGE_ROWS)?;
            for (row, value) in &page {
                let (partition, entry) = decode(row, value).ok_or_else(|| {
                    let detail = format!("row {row:02x?} with {} bytes", value.len());
                    EngineError::Corrupt {
                        what: "journal index",
                        detail,
                    }
                })?;
                index.partitions.entry(partition).or_default().push(entry);
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE_ROWS => from = last.clone(),
                _ => return Ok(index),
            }
        }
    }

    /// Takes note of a segment that lies in the frame at `place`.
    pub(crate) fn note(&mut self, partition: PartitionId, first_seq: Seq, place: Place) {
        let entries = self.partitions.entry(partition).or_default();
        let is_due = entries.last().is_none_or(|last| {
            first_seq > last.first_seq
                && (place.file > last.place.file
                    || place.offset >= last.place.offset + SPACING_BYTES)
        });
        if is_due {
            let entry = IndexEntry { first_seq, place };
            entries.push(entry);
            self.unsaved.push((partition, entry));
        }
    }

    /// Lets a partition's log begin anew with the record at `first_seq`, in the frame at `place`.
    pub(crate) fn rebase(&mut self, partition: PartitionId, first_seq: Seq, place: Place) {
        self.unsaved.retain(|(id, _)| *id != partition);
        let entries = self.partitions.entry(partition).or_default();
        let forgotten = entries.drain(..).map(|entry| (partition, entry.first_seq));
        self.forgotten.extend(forgotten);
        self.note(partition, first_seq, place);
    }

    /// Lets a partition's log go back to `seq`, as the frame at `place` says: entries above it and
    /// before that frame are forgotten.
    pub(crate) fn cut(&mut self, partition: PartitionId, seq: Seq, place: Place) {
        let is_void = |entry: &IndexEntry| entry.first_seq > seq && entry.place < place;
        self.unsaved
            .retain(|(id, entry)| *id != partition || !is_void(entry));
        if let Some(entries) = self.partitions.get_mut(&partition) {
            let void = entries.iter().filter(|entry| is_void(entry));
            let forgotten = void.map(|entry| (partition, entry.first_seq));
            self.forgotten.extend(forgotten);
            entries.retain(|entry| !is_void(entry));
        }
    }

    /// Forgets a partition's entries before `place`, where its log began anew.
    pub(crate) fn forget_before_place(&mut self, partition: PartitionId, place: Place) {
        if let Some(entries) = self.partitions.get_mut(&partition) {
            entries.retain(|entry| entry.place >= place);
        }
    }

    /// A place at or before the segment that holds `seq`.
    pub(crate) fn locate(&self, partition: PartitionId, seq: Seq) -> Option<Place> {
        let entries = self.partitions.get(&partition)?;
        let behind = entries.partition_point(|entry| entry.first_seq <= seq);
        entries.get(behind.checked_sub(1)?).map(|entry| entry.place)
    }

    /// Before where nothing that is left is of a partition's log: it began anew there, or the
    /// files begin there.
    pub(crate) fn begins_at(&self, partition: PartitionId) -> Option<Place> {
        let entries = self.partitions.get(&partition)?;
        entries.first().map(|entry| entry.place)
    }

    /// The first record of a partition that is in the files that are left, if one is.
    pub(crate) fn first_seq(&self, partition: PartitionId) -> Option<Seq> {
        let entries = self.partitions.get(&partition)?;
        entries.first().map(|entry| entry.first_seq)
    }

    /// Rows for the entries made and forgotten since the last call.
    pub(crate) fn take_unsaved(&mut self) -> Vec<RowChange> {
        let removed = self.forgotten.drain(..).map(|(partition, first_seq)| {
            let row = row(partition, first_seq);
            RowChange::Remove { row }
        });
        let made = self.unsaved.drain(..);
        let made = made.map(|(partition, entry)| encode(partition, entry));
        removed.chain(made).collect()
    }

    /// Forgets the entries of files before `first`, which are deleted.
    pub(crate) fn forget_before(&mut self, first: FileNumber) {
        for (partition, entries) in &mut self.partitions {
            let kept = entries.partition_point(|entry| entry.place.file < first);
            let forgotten = entries.drain(..kept);
            self.forgotten
                .extend(forgotten.map(|entry| (*partition, entry.first_seq)));
        }
        self.unsaved.retain(|(_, entry)| entry.place.file >= first);
    }

    /// All entries are to be saved again: rows that were taken may have got lost.
    pub(crate) fn save_again(&mut self) {
        let entries = self.partitions.iter();
        let entries = entries.flat_map(|(id, list)| list.iter().map(|entry| (*id, *entry)));
        self.unsaved = entries.collect();
    }
}

fn row(partition: PartitionId, first_seq: Seq) -> Bytes {
    let seq = first_seq.get().to_be_bytes();
    [&[TAG][..], &partition.to_bytes(), &seq].concat().into()
}

fn encode(partition: PartitionId, entry: IndexEntry) -> RowChange {
    RowChange::Set {
        row: row(partition, entry.first_seq),
        value: Bytes::copy_from_slice(&entry.place.to_bytes()),
    }
}

fn decode(row: &[u8], value: &[u8]) -> Option<(PartitionId, IndexEntry)> {
    let (partition, seq) = row
        .get(1..)?
        .split_first_chunk::<{ PartitionId::BYTES }>()?;
    let partition = PartitionId::from_bytes(*partition).ok()?;
    let first_seq = Seq::new(u64::from_be_bytes(seq.try_into().ok()?));
    Some((
        partition,
        IndexEntry {
            first_seq,
            place: Place::from_bytes(value)?,
        },
    ))
}

#[cfg(test)]
mod tests {
    use domicile_proto::{Bucket, KeyspaceId, RegionId};

    use super::*;
    use crate::engine::MemoryEngine;
    use crate::journal::FileNumber;

    fn partition(bucket: u16) -> PartitionId {
        let region = RegionId::new(7).unwrap();
        PartitionId {
            keyspace: KeyspaceId::new(1),
            region,
            bucket: Bucket::new(bucket),
        }
    }

    fn place(file: u64, offset: u64) -> Place {
        Place {
            file: FileNumber::new(file),
            offset,
        }
    }

    /// Two partitions over three files, a segment of 10 records each 100 KiB.
    fn filled() -> JournalIndex {
        let mut index = JournalIndex::default();
        for step in 0..300 {
            let at = place(1 + step / 100, 4096 + step % 100 * 100 * 1024);
            index.note(
                partition((step % 2) as u16),
                Seq::new(1 + step / 2 * 10),
                at,
            );
        }
        index
    }

    #[test]
    fn an_entry_lies_at_or_before_and_not_far_before() {
        let index = filled();
        for step in 0..300_u64 {
            let at = place(1 + step / 100, 4096 + step % 100 * 100 * 1024);
            for within in [0, 9] {
                let seq = Seq::new(1 + step / 2 * 10 + within);
                let found = index.locate(partition((step % 2) as u16), seq).unwrap();
                assert!(found <= at, "{seq}: {found} is behind {at}");
                let skipped = if found.file == at.file {
                    at.offset - found.offset
                } else {
                    0
                };
                assert!(
                    found.file == at.file && skipped < SPACING_BYTES,
                    "{seq}: {found}, {at}"
                );
            }
        }
        assert_eq!(index.locate(partition(0), Seq::NONE), None);
        assert_eq!(index.locate(partition(5), Seq::FIRST), None);
    }

    #[test]
    fn rows_bring_the_index_back_and_a_rescan_adds_nothing() {
        let engine = MemoryEngine::new();
        let mut index = filled();
        engine.apply(index.take_unsaved()).unwrap();
        assert!(index.take_unsaved().is_empty());
        let mut loaded = JournalIndex::load(&engine).unwrap();
        assert_eq!(loaded.partitions, index.partitions);
        for step in 0..300 {
            let at = place(1 + step / 100, 4096 + step % 100 * 100 * 1024);
            loaded.note(
                partition((step % 2) as u16),
                Seq::new(1 + step / 2 * 10),
                at,
            );
        }
        assert_eq!(loaded.partitions, index.partitions);
        assert!(loaded.take_unsaved().is_empty());
        loaded.save_again();
        assert_eq!(
            loaded.take_unsaved().len(),
            index.partitions.values().map(Vec::len).sum()
        );
    }

    #[test]
    fn a_log_that_goes_back_forgets_what_is_void_and_its_rows() {
        let engine = MemoryEngine::new();
        let mut index = filled();
        engine.apply(index.take_unsaved()).unwrap();
        let (id, behind) = (partition(0), place(4, 4096));
        let before = index.partitions[&id].len();
        index.cut(id, Seq::new(700), behind);
        assert!(index.partitions[&id].len() < before);
        let located = index.locate(id, Seq::new(1_400)).unwrap();
        assert_eq!(index.locate(id, Seq::new(700)), Some(located));
        // The same record comes again, behind the cut.
        index.note(id, Seq::new(701), behind);
        index.cut(id, Seq::new(700), behind);
        engine.apply(index.take_unsaved()).unwrap();
        let loaded = JournalIndex::load(&engine).unwrap();
        assert_eq!(loaded.partitions, index.partitions);
        assert_eq!(loaded.locate(id, Seq::new(701)), Some(behind));
    }

    #[test]
    fn rows_of_another_shape_are_damage() {
        for (row, value) in [(&b"i"[..], 16), (&[b'i'; 17], 15), (&[b'i'; 18], 16)] {
            let engine = MemoryEngine::new();
            let row = Bytes::copy_from_slice(&[row, b"x"].concat());
            let value = Bytes::from(vec![1; value]);
            engine.apply(vec![RowChange::Set { row, value }]).unwrap();
            assert!(JournalIndex::load(&engine).is_err());
        }
    }
}
