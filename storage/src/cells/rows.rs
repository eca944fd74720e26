//! The rows that the cells keep in the engine.
//!
//! **Owns**: the row keys of cells and marks, the values of marks, the format's number.
//! **Does not own**: the values of cells (`cell`), rows under other tags (`journal`, `store`).
//!
//! ```text
//! c | partition (8) | key            -> a cell
//! t | partition (8) | a              -> applied mark: cells hold every record up to it
//! t | partition (8) | i              -> intent mark: cells hold no record above it
//! t | partition (8) | f              -> place of the rebase for which cells were filled (16)
//! m | "cells-format"                 -> number of this layout
//! ```
//! Numbers are u64, little-endian. Other suffixes under `t` and other names under `m` are others'.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use domicile_proto::{PartitionId, Seq};

use crate::engine::{Direction, Engine, EngineError, RowChange};
use crate::journal::Place;

const TAG_CELL: u8 = b'c';
const TAG_MARK: u8 = b't';
const SUFFIX_APPLIED: u8 = b'a';
const SUFFIX_INTENT: u8 = b'i';
const SUFFIX_FILLED: u8 = b'f';
const FORMAT_ROW: &[u8] = b"mcells-format";
const FORMAT: u64 = 1;

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
        let mut successor = self.0;
        for byte in successor.iter_mut().rev() {
            let (next, carried) = byte.overflowing_add(1);
            *byte = next;
            if !carried {
                break;
            }
        }
        Bytes::copy_from_slice(&successor)
    }
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
    let mut filled = BTreeMap::new();
    visit_marks(engine, &mut |partition, suffix, value| {
        if suffix == SUFFIX_FILLED {
            let place = Place::from_bytes(value).ok_or_else(|| EngineError::Corrupt {
                what: "place",
                detail: format!("{} bytes of {partition}", value.len()),
            })?;
            filled.insert(partition, place);
        }
        Ok(())
    })?;
    Ok(filled)
}

/// Checks that the rows are of this layout; marks an engine without rows as such.
pub(super) fn check_format(engine: &dyn Engine) -> Result<(), EngineError> {
    match engine.get(FORMAT_ROW)? {
        Some(value) => {
            let actual = read_number("cells format", &value)?;
            if actual != FORMAT {
                return Err(EngineError::UnknownFormat {
                    actual,
                    supported: FORMAT,
                });
            }
            Ok(())
        }
        None => {
            let row = Bytes::from_static(FORMAT_ROW);
            engine.apply(vec![RowChange::Set {
                row,
                value: number(FORMAT),
            }])
        }
    }
}

/// Reads the marks of one partition; both none if it has no rows.
pub(super) fn read_partition_marks(
    engine: &dyn Engine,
    partition: PartitionId,
) -> Result<PartitionMarks, EngineError> {
    let read = |suffix| {
        let value = engine.get(&mark_row(partition, suffix))?;
        let upto = value.map(|value| read_number("mark", &value)).transpose()?;
        Ok::<_, EngineError>(Seq::new(upto.unwrap_or(0)))
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
        let upto = Seq::new(read_number("mark", value)?);
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
        [suffix @ (SUFFIX_APPLIED | SUFFIX_INTENT | SUFFIX_FILLED)] => *suffix,
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
        let row = Bytes::from_static(FORMAT_ROW);
        engine
            .apply(vec![RowChange::Set {
                row,
                value: number(2),
            }])
            .unwrap();
        let error = check_format(&engine).unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown format of engine rows: 2, supported 1"
        );
        assert!(error.is_cured_by_rebuild());
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
}
