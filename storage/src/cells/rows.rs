//! The rows that the cells keep in the engine.
//!
//! **Owns**: the row keys of cells and marks, the values of marks, the format's number.
//! **Does not own**: the values of cells (`cell`), rows under other tags (`journal`, `store`).
//!
//! ```text
//! c | partition (8) | key            -> a cell
//! x | partition (8) | expires at (8) | key -> nothing: the cell of that key expires then
//! t | partition (8) | a              -> applied mark: cells hold every record up to it
//! t | partition (8) | i              -> intent mark: cells hold no record above it
//! t | partition (8) | f              -> place of the rebase for which cells were filled (16)
//! t | partition (8) | h              -> place of the last cut of which cells hold no orphan (16)
//!                                       | for which they were healed up to here (0: no need)
//! m | "cells-format"                 -> number of this layout
//! ```
//! Numbers are u64, little-endian; in the key of `x`, ms since 1970, big-endian, so that the rows
//! lie in the order in which cells expire. Other suffixes under `t` and other names under `m` are
//! others'.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use domicile_proto::{Epoch, NodeId, PartitionId, Position, Seq};

use crate::engine::{Direction, Engine, EngineError, RowChange};
use crate::journal::Place;

const TAG_CELL: u8 = b'c';
const TAG_EXPIRY: u8 = b'x';
const TAG_MARK: u8 = b't';
const SUFFIX_APPLIED: u8 = b'a';
const SUFFIX_INTENT: u8 = b'i';
const SUFFIX_FILLED: u8 = b'f';
const SUFFIX_HEALED: u8 = b'h';
const SUFFIX_REFILLED: u8 = b'r';
const FORMAT_ROW: &[u8] = b"mcells-format";
/// With 2 came the index of expiries: rows of 1 lack it and are rebuilt. With 3 came packed cells,
/// which older versions do not read; this one reads theirs.
const FORMAT: u64 = 3;
// The one before.
const FORMAT_UNPACKED: u64 = 2;

const PREFIX_BYTES: usize = 1 + PartitionId::BYTES;

/// Rows read at once when the marks are loaded; more would only hold more in memory.
const MARK_PAGE_ROWS: usize = 1024;

/// How far the engine's cells of a partition are, as found when the engine was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionMarks {
    /// Whose.
    pub partition: PartitionId,
    /// Every record up to here is in the engine: replay starts after it.
    pub applied_upto: Seq,
    /// No record above here is in the engine. Everything up to here was visible, and must be
    /// applied again before a read is served. Never below `applied_upto`.
    pub intent_upto: Seq,
}

impl PartitionMarks {
    /// Those of a partition without rows.
    pub(super) fn none(partition: PartitionId) -> Self {
        Self {
            partition,
            applied_upto: Seq::NONE,
            intent_upto: Seq::NONE,
        }
    }
}

/// The first bytes of every cell row of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CellPrefix([u8; PREFIX_BYTES]);

impl CellPrefix {
    pub(super) fn of(partition: PartitionId) -> Self {
        Self(prefix(TAG_CELL, partition))
    }

    /// The row of a key.
    pub(super) fn row(&self, key: &[u8]) -> Bytes {
        [&self.0[..], key].concat().into()
    }

    /// The key of a row.
    pub(super) fn key(&self, row: &Bytes) -> Bytes {
        assert!(
            row.starts_with(&self.0),
            "row {row:02x?} outside of prefix {:02x?}",
            self.0
        );
        row.slice(PREFIX_BYTES..)
    }

    /// The rows of a range of keys.
    pub(super) fn range(
        &self,
        from: Bound<&[u8]>,
        upto: Bound<&[u8]>,
    ) -> (Bound<Bytes>, Bound<Bytes>) {
        let from = match from {
            Bound::Unbounded => Bound::Included(self.row(&[])),
            Bound::Included(key) => Bound::Included(self.row(key)),
            Bound::Excluded(key) => Bound::Excluded(self.row(key)),
        };
        let upto = match upto {
            Bound::Unbounded => Bound::Excluded(self.successor()),
            Bound::Included(key) => Bound::Included(self.row(key)),
            Bound::Excluded(key) => Bound::Excluded(self.row(key)),
        };
        (from, upto)
    }

    /// The lowest row above all that have this prefix.
    fn successor(&self) -> Bytes {
        successor(self.0)
    }
}

/// The first bytes of every row of a partition in the index of expiries.
///
/// After every batch the index holds one row for each cell of the engine that expires, no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ExpiryPrefix([u8; PREFIX_BYTES]);

impl ExpiryPrefix {
    pub(super) fn of(partition: PartitionId) -> Self {
        Self(prefix(TAG_EXPIRY, partition))
    }

    /// The row of a key that expires then.
    pub(super) fn row(&self, at_ms: u64, key: &[u8]) -> Bytes {
        [&self.0[..], &at_ms.to_be_bytes(), key].concat().into()
    }

    /// When a row's key expires, and the key.
    pub(super) fn split(&self, row: &Bytes) -> Result<(u64, Bytes), EngineError> {
        let rest = row.strip_prefix(&self.0[..]);
        match rest.and_then(|rest| rest.split_first_chunk::<8>()) {
            Some((at_ms, key)) => Ok((u64::from_be_bytes(*at_ms), row.slice_ref(key))),
            None => Err(EngineError::Corrupt {
                what: "expiry",
                detail: format!("row {row:02x?}"),
            }),
        }
    }

    /// The bounds of the rows.
    pub(super) fn range(&self) -> (Bytes, Bytes) {
        (Bytes::copy_from_slice(&self.0), successor(self.0))
    }

    /// At most `limit` rows after `after`, or from the first.
    pub(super) fn scan(
        &self,
        engine: &dyn Engine,
        after: Option<&Bytes>,
        limit: usize,
    ) -> Result<Vec<Bytes>, EngineError> {
        let from = after.map_or(Bound::Included(&self.0[..]), |row| {
            Bound::Excluded(&row[..])
        });
        let upto = successor(self.0);
        let rows = engine.scan(from, Bound::Excluded(&upto), Direction::Forward, limit)?;
        Ok(rows.into_iter().map(|(row, _)| row).collect())
    }
}

/// The lowest row above all that have a prefix.
fn successor(mut prefix: [u8; PREFIX_BYTES]) -> Bytes {
    for byte in prefix.iter_mut().rev() {
        let (next, carried) = byte.overflowing_add(1);
        *byte = next;
        if !carried {
            break;
        }
    }
    Bytes::copy_from_slice(&prefix)
}

/// What a cell's row and its place in the index become, in one batch. `before`: the expiry of the
/// engine's cell of that key, whose place is given up.
pub(super) fn cell_changes(
    partition: PartitionId,
    key: &[u8],
    before: Option<u64>,
    cell: Option<(Bytes, Option<u64>)>,
) -> impl Iterator<Item = RowChange> {
    let (row, index) = (
        CellPrefix::of(partition).row(key),
        ExpiryPrefix::of(partition),
    );
    let (value, after) = cell.unzip();
    let after = after.flatten();
    let left = before.filter(|_| before != after).map(|at_ms| {
        let row = index.row(at_ms, key);
        RowChange::Remove { row }
    });
    let entered = after.map(|at_ms| RowChange::Set {
        row: index.row(at_ms, key),
        value: Bytes::new(),
    });
    let cell = match value {
        Some(value) => RowChange::Set { row, value },
        None => RowChange::Remove { row },
    };
    [left, entered, Some(cell)].into_iter().flatten()
}

fn prefix(tag: u8, partition: PartitionId) -> [u8; PREFIX_BYTES] {
    let mut prefix = [tag; PREFIX_BYTES];
    prefix[1..].copy_from_slice(&partition.to_bytes());
    prefix
}

fn mark(partition: PartitionId, suffix: u8, upto: Seq) -> RowChange {
    RowChange::Set {
        row: mark_row(partition, suffix),
        value: number(upto.get()),
    }
}

fn mark_row(partition: PartitionId, suffix: u8) -> Bytes {
    [&prefix(TAG_MARK, partition)[..], &[suffix]]
        .concat()
        .into()
}

fn number(value: u64) -> Bytes {
    Bytes::copy_from_slice(&value.to_le_bytes())
}

/// The row that says that cells may hold records up to `upto`.
pub(super) fn intent_mark(partition: PartitionId, upto: Seq) -> RowChange {
    mark(partition, SUFFIX_INTENT, upto)
}

/// The row that says that cells hold all records up to `upto`.
pub(super) fn applied_mark(partition: PartitionId, upto: Seq) -> RowChange {
    mark(partition, SUFFIX_APPLIED, upto)
}

/// The row that says that cells were filled from the snapshot of the rebase at `place`.
pub(super) fn filled_mark(partition: PartitionId, place: Place) -> RowChange {
    RowChange::Set {
        row: mark_row(partition, SUFFIX_FILLED),
        value: Bytes::copy_from_slice(&place.to_bytes()),
    }
}

/// The place of the last rebase for which cells were filled, of every partition that has one.
pub(crate) fn read_filled(
    engine: &dyn Engine,
) -> Result<BTreeMap<PartitionId, Place>, EngineError> {
    read_all(engine, SUFFIX_FILLED, decode_place)
}

type Decode<T> = fn(PartitionId, &[u8]) -> Result<T, EngineError>;

/// One kind of mark of every partition that has it.
fn read_all<T>(
    engine: &dyn Engine,
    kind: u8,
    decode: Decode<T>,
) -> Result<BTreeMap<PartitionId, T>, EngineError> {
    let mut found = BTreeMap::new();
    visit_marks(engine, &mut |partition, suffix, value| {
        if suffix == kind {
            found.insert(partition, decode(partition, value)?);
        }
        Ok(())
    })?;
    Ok(found)
}

/// One kind of mark of one partition.
fn read_one<T>(
    engine: &dyn Engine,
    partition: PartitionId,
    kind: u8,
    decode: Decode<T>,
) -> Result<Option<T>, EngineError> {
    let value = engine.get(&mark_row(partition, kind))?;
    value.map(|it| decode(partition, &it)).transpose()
}

/// The row that says that cells hold no orphan of the cut at `place` or one before it, and may be
/// as new as `upto`, although the log may not reach so far yet.
pub(super) fn healed_mark(partition: PartitionId, place: Place, upto: Seq) -> RowChange {
    RowChange::Set {
        row: mark_row(partition, SUFFIX_HEALED),
        value: [&place.to_bytes()[..], &upto.get().to_le_bytes()]
            .concat()
            .into(),
    }
}

/// Of which cut the cells of a partition hold no orphan any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Healed {
    /// The last such cut.
    pub(crate) place: Place,
    /// They may be as new as this.
    pub(crate) upto: Seq,
}

/// The last cut of which cells hold no orphan, of every partition that has one.
pub(crate) fn read_healed(
    engine: &dyn Engine,
) -> Result<BTreeMap<PartitionId, Healed>, EngineError> {
    read_all(engine, SUFFIX_HEALED, decode_healed)
}

/// The row that says that a partition which had lost something was filled anew, and up to where it
/// may have had records before.
pub(crate) fn refilled_row(partition: PartitionId, had: Position) -> RowChange {
    let Position { epoch, seq } = had;
    let numbers = [epoch.counter, epoch.node.get(), seq.get()];
    let value: Vec<u8> = numbers.iter().flat_map(|it| it.to_le_bytes()).collect();
    RowChange::Set {
        row: mark_row(partition, SUFFIX_REFILLED),
        value: value.into(),
    }
}

/// Up to where partitions had records when they were last filled anew after a loss.
pub(crate) fn read_refilled(
    engine: &dyn Engine,
) -> Result<BTreeMap<PartitionId, Position>, EngineError> {
    read_all(engine, SUFFIX_REFILLED, decode_refilled)
}

fn decode_refilled(partition: PartitionId, value: &[u8]) -> Result<Position, EngineError> {
    let (numbers, rest) = value.as_chunks::<8>();
    let numbers = <[[u8; 8]; 3]>::try_from(numbers).ok();
    let found = numbers.filter(|_| rest.is_empty()).and_then(|numbers| {
        let [counter, node, seq] = numbers.map(u64::from_le_bytes);
        let node = NodeId::new(node).ok()?;
        Some(Position {
            epoch: Epoch { counter, node },
            seq: Seq::new(seq),
        })
    });
    found.ok_or_else(|| EngineError::Corrupt {
        what: "mark of a refill",
        detail: format!("{value:02x?} of {partition}"),
    })
}

/// The last cut of which the cells of one partition hold no orphan.
pub(crate) fn healed_of(
    engine: &dyn Engine,
    partition: PartitionId,
) -> Result<Option<Healed>, EngineError> {
    read_one(engine, partition, SUFFIX_HEALED, decode_healed)
}

fn decode_healed(partition: PartitionId, value: &[u8]) -> Result<Healed, EngineError> {
    let split = value.split_at_checked(Place::BYTES);
    let found = split.and_then(|(place, upto)| {
        let place = Place::from_bytes(place)?;
        let upto = read_mark(upto).ok()?;
        Some(Healed { place, upto })
    });
    found.ok_or_else(|| EngineError::Corrupt {
        what: "healed mark",
        detail: format!("{value:02x?} of {partition}"),
    })
}

/// The place of the last rebase for which the cells of one partition were filled.
pub(crate) fn filled_of(
    engine: &dyn Engine,
    partition: PartitionId,
) -> Result<Option<Place>, EngineError> {
    read_one(engine, partition, SUFFIX_FILLED, decode_place)
}

fn decode_place(partition: PartitionId, value: &[u8]) -> Result<Place, EngineError> {
    Place::from_bytes(value).ok_or_else(|| EngineError::Corrupt {
        what: "place",
        detail: format!("{} bytes of {partition}", value.len()),
    })
}

/// Checks that the rows are of this layout or one that is read as well; marks the engine as having
/// this one from now on.
pub(super) fn check_format(engine: &dyn Engine) -> Result<(), EngineError> {
    let found = engine.get(FORMAT_ROW)?;
    let found = found.map(|value| read_number("cells format", &value));
    match found.transpose()? {
        Some(FORMAT) => Ok(()),
        None | Some(FORMAT_UNPACKED) => {
            let row = Bytes::from_static(FORMAT_ROW);
            engine.apply(vec![RowChange::Set {
                row,
                value: number(FORMAT),
            }])
        }
        Some(actual) => Err(EngineError::UnknownFormat {
            actual,
            supported: FORMAT,
        }),
    }
}

/// Reads the marks of one partition; both none if it has no rows.
pub(super) fn read_partition_marks(
    engine: &dyn Engine,
    partition: PartitionId,
) -> Result<PartitionMarks, EngineError> {
    let read = |suffix| {
        let value = engine.get(&mark_row(partition, suffix))?;
        value.map_or(Ok(Seq::NONE), |value| read_mark(&value))
    };
    let applied_upto = read(SUFFIX_APPLIED)?;
    Ok(PartitionMarks {
        partition,
        applied_upto,
        // A flush without cells moves the applied mark alone.
        intent_upto: read(SUFFIX_INTENT)?.max(applied_upto),
    })
}

/// Reads the marks of all partitions.
pub(super) fn read_marks(engine: &dyn Engine) -> Result<Vec<PartitionMarks>, EngineError> {
    let mut marks: BTreeMap<PartitionId, PartitionMarks> = BTreeMap::new();
    visit_marks(engine, &mut |partition, suffix, value| {
        if !matches!(suffix, SUFFIX_APPLIED | SUFFIX_INTENT) {
            return Ok(());
        }
        let upto = read_mark(value)?;
        let none = PartitionMarks::none(partition);
        let found = marks.entry(partition).or_insert(none);
        // A flush without cells moves the applied mark alone.
        found.intent_upto = found.intent_upto.max(upto);
        if suffix == SUFFIX_APPLIED {
            found.applied_upto = upto;
        }
        Ok(())
    })?;
    Ok(marks.into_values().collect())
}

/// A record's number after which there is another one.
fn read_mark(value: &[u8]) -> Result<Seq, EngineError> {
    match read_number("mark", value)? {
        u64::MAX => Err(EngineError::Corrupt {
            what: "mark",
            detail: format!("record {}, the last number there is", u64::MAX),
        }),
        upto => Ok(Seq::new(upto)),
    }
}

type MarkVisitor<'a> = dyn FnMut(PartitionId, u8, &[u8]) -> Result<(), EngineError> + 'a;

fn visit_marks(engine: &dyn Engine, visit: &mut MarkVisitor<'_>) -> Result<(), EngineError> {
    let end = [TAG_MARK + 1];
    let mut from = Bytes::from_static(&[TAG_MARK]);
    loop {
        let page = engine.scan(
            Bound::Excluded(&from),
            Bound::Excluded(&end),
            Direction::Forward,
            MARK_PAGE_ROWS,
        )?;
        for (row, value) in &page {
            if let Some((partition, suffix)) = split_mark(row)? {
                visit(partition, suffix, value)?;
            }
        }
        match page.last() {
            Some((last, _)) if page.len() == MARK_PAGE_ROWS => from = last.clone(),
            _ => return Ok(()),
        }
    }
}

/// The partition and kind of a mark; `None` for rows of others under the same tag.
fn split_mark(row: &[u8]) -> Result<Option<(PartitionId, u8)>, EngineError> {
    let Some((prefix, suffix)) = row.split_first_chunk::<PREFIX_BYTES>() else {
        return Ok(None);
    };
    let suffix = match suffix {
        [
            suffix @ (SUFFIX_APPLIED | SUFFIX_INTENT | SUFFIX_FILLED | SUFFIX_HEALED
            | SUFFIX_REFILLED),
        ] => *suffix,
        _ => return Ok(None),
    };
    let mut partition = [0; PartitionId::BYTES];
    partition.copy_from_slice(&prefix[1..]);
    let damage = |error: domicile_proto::identity::IdentityError| EngineError::Corrupt {
        what: "mark",
        detail: error.to_string(),
    };
    Ok(Some((
        PartitionId::from_bytes(partition).map_err(damage)?,
        suffix,
    )))
}

fn read_number(what: &'static str, value: &[u8]) -> Result<u64, EngineError> {
    let bytes: Result<[u8; 8], _> = value.try_into();
    bytes
        .map(u64::from_le_bytes)
        .map_err(|_| EngineError::Corrupt {
            what,
            detail: format!("{} bytes instead of 8", value.len()),
        })
}

#[cfg(test)]
mod tests {
    use std::ops::RangeBounds;

    use domicile_proto::{Bucket, KeyspaceId, RegionId};

    use super::*;
    use crate::engine::MemoryEngine;

    fn partition(keyspace: u32, bucket: u16) -> PartitionId {
        PartitionId {
            keyspace: KeyspaceId::new(keyspace),
            region: RegionId::new(7).unwrap(),
            bucket: Bucket::new(bucket),
        }
    }

    #[test]
    fn the_range_of_a_partition_holds_its_keys_and_no_others() {
        for id in [
            partition(1, 2),
            partition(1, 0xffff),
            partition(u32::MAX, u16::MAX),
        ] {
            let prefix = CellPrefix::of(id);
            let range = prefix.range(Bound::Unbounded, Bound::Unbounded);
            let contains = |row: &Bytes| RangeBounds::<Bytes>::contains(&range, row);
            for key in [&b"\0"[..], b"k", &[0xff; 20]] {
                let row = prefix.row(key);
                assert!(contains(&row));
                assert_eq!(prefix.key(&row), key);
            }
            let bucket = Bucket::new(id.bucket.get().wrapping_add(1));
            assert!(!contains(
                &CellPrefix::of(PartitionId { bucket, ..id }).row(b"")
            ));
        }
    }

    #[test]
    fn expiries_lie_in_the_order_of_their_times() {
        let index = ExpiryPrefix::of(partition(1, 2));
        let mut entries = Vec::new();
        for at_ms in [0, 1, 0xff, 0x100, 1 << 40, u64::MAX] {
            for key in [&b"\0"[..], b"k", b"kk", &[0xff; 20]] {
                entries.push((at_ms, Bytes::copy_from_slice(key)));
            }
        }
        let rows = entries.iter().map(|(at_ms, key)| index.row(*at_ms, key));
        let rows: Vec<Bytes> = rows.collect();
        assert!(rows.is_sorted());
        let engine = MemoryEngine::new();
        for other in [partition(1, 1), partition(1, 3)] {
            let row = ExpiryPrefix::of(other).row(7, b"other");
            let value = Bytes::new();
            engine.apply(vec![RowChange::Set { row, value }]).unwrap();
        }
        let set = |row: &Bytes| RowChange::Set {
            row: row.clone(),
            value: Bytes::new(),
        };
        engine.apply(rows.iter().map(set).collect()).unwrap();
        let found = index.scan(&engine, None, 100).unwrap();
        let split: Result<Vec<_>, _> = found.iter().map(|row| index.split(row)).collect();
        assert_eq!(split.unwrap(), entries);
        assert_eq!(index.scan(&engine, Some(&rows[3]), 2).unwrap(), rows[4..6]);
        for bad in [&rows[0][..PREFIX_BYTES + 7], b"c"] {
            let bad = Bytes::copy_from_slice(bad);
            assert!(matches!(
                index.split(&bad),
                Err(EngineError::Corrupt { .. })
            ));
        }
    }

    #[test]
    fn a_cell_takes_its_place_in_the_index_along() {
        let id = partition(1, 2);
        let index = ExpiryPrefix::of(id);
        let changes =
            |before, cell| -> Vec<RowChange> { cell_changes(id, b"k", before, cell).collect() };
        let cell = |expiry| Some((Bytes::from_static(b"v"), expiry));
        let remove = |at_ms| RowChange::Remove {
            row: index.row(at_ms, b"k"),
        };
        let set = |at_ms| RowChange::Set {
            row: index.row(at_ms, b"k"),
            value: Bytes::new(),
        };
        let last = |changes: &[RowChange]| changes.last().map(|change| change.row().clone());
        let row = CellPrefix::of(id).row(b"k");
        for (before, after, expected) in [
            (None, cell(None), vec![]),
            (None, cell(Some(5)), vec![set(5)]),
            (Some(5), cell(Some(5)), vec![set(5)]),
            (Some(5), cell(Some(6)), vec![remove(5), set(6)]),
            (Some(5), cell(None), vec![remove(5)]),
            (Some(5), None, vec![remove(5)]),
            (None, None, vec![]),
        ] {
            let found = changes(before, after);
            assert_eq!(found[..found.len() - 1], expected);
            assert_eq!(last(&found), Some(row.clone()));
        }
    }

    #[test]
    fn marks_are_read_past_a_page_and_past_rows_of_others() {
        let engine = MemoryEngine::new();
        let count = MARK_PAGE_ROWS as u16 + 10;
        for bucket in 0..count {
            let id = partition(1, bucket);
            let upto = Seq::new(u64::from(bucket));
            let tail = [&prefix(TAG_MARK, id)[..], b"tail"].concat().into();
            let tail = RowChange::Set {
                row: tail,
                value: "of another".into(),
            };
            let rows = vec![intent_mark(id, upto.plus(5)), applied_mark(id, upto), tail];
            engine.apply(rows).unwrap();
        }
        engine
            .apply(vec![applied_mark(partition(2, 0), Seq::new(9))])
            .unwrap();
        let marks = read_marks(&engine).unwrap();
        assert_eq!(marks.len(), usize::from(count) + 1);
        for (index, mark) in marks[..usize::from(count)].iter().enumerate() {
            assert_eq!(mark.applied_upto, Seq::new(index as u64));
            assert_eq!(mark.intent_upto, Seq::new(index as u64 + 5));
        }
        assert_eq!(marks[usize::from(count)].intent_upto, Seq::new(9));
    }

    #[test]
    fn rows_of_another_format_are_refused() {
        let engine = MemoryEngine::new();
        check_format(&engine).unwrap();
        check_format(&engine).unwrap();
        let mark = |format| {
            let row = Bytes::from_static(FORMAT_ROW);
            let value = number(format);
            engine.apply(vec![RowChange::Set { row, value }]).unwrap();
        };
        for unknown in [FORMAT_UNPACKED - 1, FORMAT + 1] {
            mark(unknown);
            let error = check_format(&engine).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("unknown format of engine rows: {unknown}, supported 3")
            );
            assert!(error.is_cured_by_rebuild());
        }
        // What was written before cells were packed is read, and no older version reads it again.
        mark(FORMAT_UNPACKED);
        check_format(&engine).unwrap();
        let stored = engine.get(FORMAT_ROW).unwrap().unwrap();
        assert_eq!(stored, number(FORMAT));
    }

    #[test]
    fn a_damaged_mark_is_an_error() {
        let engine = MemoryEngine::new();
        let RowChange::Set { row, .. } = applied_mark(partition(1, 1), Seq::FIRST) else {
            unreachable!("marks are set")
        };
        engine
            .apply(vec![RowChange::Set {
                row,
                value: "short".into(),
            }])
            .unwrap();
        assert!(matches!(
            read_marks(&engine),
            Err(EngineError::Corrupt { .. })
        ));
    }

    /// Regression: the number after it was computed, and overflowed, while the store was opened.
    #[test]
    fn a_mark_at_the_last_number_there_is_is_damage() {
        for mark in [applied_mark, intent_mark] {
            let engine = MemoryEngine::new();
            let last = Seq::new(u64::MAX);
            engine.apply(vec![mark(partition(1, 1), last)]).unwrap();
            let error = read_marks(&engine).unwrap_err();
            assert!(error.is_cured_by_rebuild(), "{error}");
            assert!(read_partition_marks(&engine, partition(1, 1)).is_err());
        }
    }
}
