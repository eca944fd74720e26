//! Range reads: active overlay, frozen overlay and engine merged into one order.
//!
//! **Owns**: the merge, its bounds.
//! **Does not own**: keeping the three of one moment (`partition`).

use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::cell::{Cell, CellScan};
use super::key::CellKey;
use super::overlay::{CellMap, Frozen};
use super::partition::{PartitionCells, View};
use crate::engine::{Direction, EngineError, is_empty_range};

/// Bytes of keys and values after which a scan ends: four of the largest values. A page of a
/// reply is of this order; a larger one only waits longer for its first row.
const SCAN_BYTES_MAX: usize = 4 << 20;

/// Cells looked at in one scan, deleted ones included: about 2 ms. Copied from the active overlay
/// under its lock, so that twice as many keep a fold waiting twice as long.
const SCAN_STEPS_MAX: usize = 8192;

/// Rows of the first page taken from the engine, from which their size is known: at the largest
/// values these are 16 MiB.
const ENGINE_PAGE_ROWS_MIN: usize = 16;

/// Rows of a later page: all that the scan still wants, while rows are small.
const ENGINE_PAGE_ROWS_MAX: usize = 512;

impl PartitionCells {
    /// The cells of a range of keys in the direction's order, at most `limit` of them, all as of
    /// one moment. An inverted range is empty.
    ///
    /// # Errors
    /// [`EngineError`] if the engine failed.
    ///
    /// # Panics
    /// As [`PartitionCells::enqueued_upto`].
    pub fn scan(
        &self,
        from: Bound<&[u8]>,
        upto: Bound<&[u8]>,
        direction: Direction,
        limit: usize,
    ) -> Result<CellScan, EngineError> {
        if is_empty_range(from, upto) || limit == 0 {
            let applied_upto = self.applied_upto();
            return Ok(CellScan {
                rows: Vec::new(),
                applied_upto,
                resume_after: None,
            });
        }
        let range = KeyRange {
            from,
            upto,
            direction,
        };
        self.read_consistently(|view| self.scan_view(view, range, limit))
    }

    fn scan_view(
        &self,
        view: &mut View<'_>,
        range: KeyRange<'_>,
        limit: usize,
    ) -> Result<CellScan, EngineError> {
        let overlay = view.overlay();
        let active = ActivePage::copy(&overlay.active, range, limit);
        let frozen: Option<Arc<Frozen>> = overlay.frozen.clone();
        view.release();
        let no_cells = CellMap::new();
        let frozen = range.walk(frozen.as_ref().map_or(&no_cells, |frozen| &frozen.cells));
        let merge = Merge {
            direction: range.direction,
            active: active.cells,
            frozen: frozen.peekable(),
            engine: EngineRows::new(self, range, limit),
        };
        let Merged { rows, resume_after } = merge.collect(limit, active.horizon)?;
        Ok(CellScan {
            rows,
            applied_upto: view.applied_upto,
            resume_after,
        })
    }
}

/// A range of keys and the way it is walked. Never inverted.
#[derive(Debug, Clone, Copy)]
struct KeyRange<'a> {
    from: Bound<&'a [u8]>,
    upto: Bound<&'a [u8]>,
    direction: Direction,
}

impl KeyRange<'_> {
    fn walk(self, cells: &CellMap) -> Walk<'_> {
        let range = cells.range::<[u8], _>((self.from, self.upto));
        match self.direction {
            Direction::Forward => Walk::Forward(range),
            Direction::Backward => Walk::Backward(range.rev()),
        }
    }
}

type CellRange<'a> = std::collections::btree_map::Range<'a, CellKey, Cell>;

/// A range of a map, either way.
enum Walk<'a> {
    Forward(CellRange<'a>),
    Backward(std::iter::Rev<CellRange<'a>>),
}

impl<'a> Iterator for Walk<'a> {
    type Item = (&'a CellKey, &'a Cell);

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Forward(range) => range.next(),
            Self::Backward(range) => range.next(),
        }
    }
}

/// The near end of the active overlay's range, copied so that its lock can be given back.
struct ActivePage {
    cells: VecDeque<(CellKey, Cell)>,
    /// The last key copied, if there are more: beyond it nothing is known.
    horizon: Option<Bytes>,
}

impl ActivePage {
    fn copy(active: &CellMap, range: KeyRange<'_>, limit: usize) -> Self {
        let mut cells = VecDeque::new();
        let (mut present, mut bytes) = (0, 0);
        for (key, cell) in range.walk(active) {
            if present > limit || bytes >= SCAN_BYTES_MAX || cells.len() == SCAN_STEPS_MAX {
                let horizon = cells
                    .back()
                    .map(|(key, _): &(CellKey, Cell)| key.to_bytes());
                return Self { cells, horizon };
            }
            if let Some(value) = &cell.value {
                present += 1;
                bytes += key.len() + value.len();
            }
            cells.push_back((key.clone(), cell.clone()));
        }
        Self {
            cells,
            horizon: None,
        }
    }
}

/// The cells of the engine in a range, page by page.
struct EngineRows<'a> {
    cells: &'a PartitionCells,
    from: Bound<Bytes>,
    upto: Bound<Bytes>,
    direction: Direction,
    page: VecDeque<(Bytes, Bytes)>,
    page_rows: usize,
    /// Rows that the scan still has use for, the one that tells of more included: a page of more
    /// would be read to be thrown away.
    wanted: usize,
    at_end: bool,
}

impl<'a> EngineRows<'a> {
    fn new(cells: &'a PartitionCells, range: KeyRange<'_>, limit: usize) -> Self {
        let wanted = limit.saturating_add(1);
        let (from, upto) = cells.prefix.range(range.from, range.upto);
        Self {
            cells,
            from,
            upto,
            direction: range.direction,
            page: VecDeque::new(),
            page_rows: ENGINE_PAGE_ROWS_MIN.min(wanted),
            wanted,
            at_end: false,
        }
    }

    /// The key of the next row.
    fn peek(&mut self) -> Result<Option<Bytes>, EngineError> {
        if self.page.is_empty() && !self.at_end {
            self.read_page()?;
        }
        Ok(self.page.front().map(|(row, _)| self.cells.prefix.key(row)))
    }

    fn pop(&mut self) -> Option<Bytes> {
        self.page.pop_front().map(|(_, stored)| stored)
    }

    fn read_page(&mut self) -> Result<(), EngineError> {
        let from = self.from.as_ref().map(|row| &row[..]);
        let upto = self.upto.as_ref().map(|row| &row[..]);
        let page = self
            .cells
            .engine
            .scan(from, upto, self.direction, self.page_rows)?;
        self.at_end = page.len() < self.page_rows;
        if let Some((last, _)) = page.last() {
            match self.direction {
                Direction::Forward => self.from = Bound::Excluded(last.clone()),
                Direction::Backward => self.upto = Bound::Excluded(last.clone()),
            }
        }
        let bytes: usize = page
            .iter()
            .map(|(row, stored)| row.len() + stored.len())
            .sum();
        self.wanted = self.wanted.saturating_sub(page.len());
        let row_bytes = (bytes / page.len().max(1)).max(1);
        let rows_max = (SCAN_BYTES_MAX / row_bytes).clamp(1, ENGINE_PAGE_ROWS_MAX);
        let next = match self.wanted {
            // Keys deleted in the overlay hid some of what was read.
            0 => 2 * self.page_rows,
            wanted => wanted,
        };
        self.page_rows = next.min(rows_max);
        self.page = page.into();
        Ok(())
    }
}

/// The three sources, each in the same order; the first that has a key decides.
struct Merge<'a> {
    direction: Direction,
    active: VecDeque<(CellKey, Cell)>,
    frozen: std::iter::Peekable<Walk<'a>>,
    engine: EngineRows<'a>,
}

/// What a merge came to.
struct Merged {
    rows: Vec<(Bytes, Cell)>,
    resume_after: Option<Bytes>,
}

impl Merge<'_> {
    /// Merges up to a bound; returns the rows, and the key to go on after if there may be more.
    fn collect(mut self, limit: usize, horizon: Option<Bytes>) -> Result<Merged, EngineError> {
        let mut rows = Vec::new();
        let mut bytes = 0;
        let mut last: Option<Bytes> = None;
        for _ in 0..SCAN_STEPS_MAX {
            if horizon.is_some() && last == horizon {
                return Ok(Merged {
                    rows,
                    resume_after: horizon,
                });
            }
            let Some(key) = self.next_key()? else {
                return Ok(Merged {
                    rows,
                    resume_after: None,
                });
            };
            if rows.len() == limit || bytes >= SCAN_BYTES_MAX {
                return Ok(Merged {
                    rows,
                    resume_after: last,
                });
            }
            let cell = self.take(&key)?;
            if let Some(value) = &cell.value {
                bytes += key.len() + value.len();
                rows.push((key.clone(), cell));
            }
            last = Some(key);
        }
        Ok(Merged {
            rows,
            resume_after: last,
        })
    }

    /// The nearest key of the three.
    fn next_key(&mut self) -> Result<Option<Bytes>, EngineError> {
        let engine = self.engine.peek()?;
        let active = self.active.front().map(|(key, _)| key);
        let frozen = self.frozen.peek().map(|(key, _)| *key);
        let overlay = self.nearest([active, frozen], CellKey::as_slice);
        let overlay = overlay.map(CellKey::to_bytes);
        Ok(self
            .nearest([engine.as_ref(), overlay.as_ref()], Bytes::as_ref)
            .cloned())
    }

    fn nearest<'k, K>(
        &self,
        keys: [Option<&'k K>; 2],
        order: impl Fn(&K) -> &[u8],
    ) -> Option<&'k K> {
        let keys = keys.into_iter().flatten();
        match self.direction {
            Direction::Forward => keys.min_by(|left, right| order(left).cmp(order(right))),
            Direction::Backward => keys.max_by(|left, right| order(left).cmp(order(right))),
        }
    }

    /// Takes the newest cell of a key and drops the older ones.
    fn take(&mut self, key: &Bytes) -> Result<Cell, EngineError> {
        let engine = match self.engine.peek()? {
            Some(found) if found == *key => self.engine.pop(),
            _ => None,
        };
        let is_key = |found: &CellKey| found.as_slice() == &key[..];
        let frozen = self.frozen.next_if(|(found, _)| is_key(found));
        if let Some((_, cell)) = self.active.pop_front_if(|(found, _)| is_key(found)) {
            return Ok(cell);
        }
        match (frozen, engine) {
            (Some((_, cell)), _) => Ok(cell.clone()),
            (None, Some(stored)) => Cell::decode(&stored),
            (None, None) => panic!("key {key:02x?} was in one of the three"),
        }
    }
}
