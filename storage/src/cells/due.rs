//! Cells that are past their time, found without holding all that will be.
//!
//! **Owns**: the walk over the expiries of overlay and engine, where it goes on.
//! **Does not own**: the index's rows (`rows`), keeping them with the cells (`flush`), what becomes
//! of a cell past its time (the home writes a record).
//!
//! ```text
//! active expiries        complete: a cell that is replaced or deleted leaves them at once
//! frozen expiries        of the last freeze: what the active map has replaced is passed over
//! index of the engine    of the last flush: what an overlay has replaced is passed over
//! ```
//! What has been passed over or handed out stays in the last two until the next flush. The cursor
//! remembers how far they were walked, or every call would begin with all that expired since.

use std::ops::Bound;

use bytes::Bytes;
use domicile_proto::Version;

use super::cell::Cell;
use super::key::CellKey;
use super::partition::PartitionCells;
use super::rows::ExpiryPrefix;
use crate::engine::EngineError;

/// Entries looked at in one call, those passed over included: some 10 ms. Doubled, the frozen ones
/// keep a fold waiting twice as long.
const STEPS_MAX: usize = 8192;

/// Rows of the index read at once. Doubled, a call that finds little reads twice as much for it.
const PAGE_ROWS: usize = 64;

/// A cell whose time has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueCell {
    /// Its key.
    pub key: Bytes,
    /// Its version: a later put has another.
    pub version: Version,
    /// When it was to end, in ms since 1970.
    pub expires_at_ms: u64,
}

/// How far the expiries of a partition have been walked. A new one begins at the front.
#[derive(Debug, Clone, Default)]
pub struct ExpiryCursor {
    generation: Option<u64>,
    frozen_after: Option<(u64, CellKey)>,
    index_after: Option<Bytes>,
    index_rest: Rest,
}

/// What is left of the index behind a cursor.
#[derive(Debug, Clone, Copy, Default)]
enum Rest {
    #[default]
    Unknown,
    /// Its first entry.
    From(u64),
    Nothing,
}

impl Rest {
    fn may_be_due(self, now_ms: u64) -> bool {
        match self {
            Self::Unknown => true,
            Self::From(at_ms) => at_ms <= now_ms,
            Self::Nothing => false,
        }
    }
}

impl ExpiryCursor {
    /// Begins at the front again: something that was handed out could not be removed.
    pub fn restart(&mut self) {
        *self = Self::default();
    }

    fn enter(&mut self, generation: u64) {
        if self.generation != Some(generation) {
            *self = Self {
                generation: Some(generation),
                ..Self::default()
            };
        }
    }
}

impl PartitionCells {
    /// Whether a cell may be due at `now_ms`. Works in memory alone; true if the engine has to be
    /// asked.
    ///
    /// # Panics
    /// As [`PartitionCells::enqueued_upto`].
    #[must_use]
    pub fn may_be_due(&self, cursor: &ExpiryCursor, now_ms: u64) -> bool {
        let Ok(view) = self.view() else {
            return false;
        };
        if cursor.generation != Some(view.generation()) || cursor.index_rest.may_be_due(now_ms) {
            return true;
        }
        let overlay = view.overlay();
        let active = overlay.expiries.first();
        let frozen = overlay.frozen.as_ref().and_then(|frozen| {
            let from = cursor.frozen_after.as_ref();
            let from = from.map_or(Bound::Unbounded, Bound::Excluded);
            frozen.expiries.range((from, Bound::Unbounded)).next()
        });
        let is_due = |entry: Option<&(u64, CellKey)>| entry.is_some_and(|(at, _)| *at <= now_ms);
        is_due(active) || is_due(frozen)
    }

    /// Up to `limit` visible cells that expire at or before `now_ms`, those of the active overlay
    /// first. An empty answer does not mean that there are none: ask
    /// [`may_be_due`](Self::may_be_due). The same cells may come again as long as they are there.
    ///
    /// # Errors
    /// [`EngineError`] if the engine failed.
    ///
    /// # Panics
    /// As [`PartitionCells::enqueued_upto`].
    pub fn due(
        &self,
        cursor: &mut ExpiryCursor,
        now_ms: u64,
        limit: usize,
    ) -> Result<Vec<DueCell>, EngineError> {
        let mut due = Vec::new();
        let steps = self.due_in_overlay(cursor, now_ms, limit, &mut due)?;
        self.due_in_index(cursor, now_ms, limit, steps, &mut due)?;
        Ok(due)
    }

    /// Returns how many entries it looked at.
    fn due_in_overlay(
        &self,
        cursor: &mut ExpiryCursor,
        now_ms: u64,
        limit: usize,
        due: &mut Vec<DueCell>,
    ) -> Result<usize, EngineError> {
        let view = self.view()?;
        cursor.enter(view.generation());
        let overlay = view.overlay();
        let is_due = |entry: &&(u64, CellKey)| entry.0 <= now_ms;
        for (_, key) in overlay.expiries.iter().take_while(is_due).take(limit) {
            due.extend(
                overlay
                    .active
                    .get(key.as_slice())
                    .and_then(|cell| due_cell(key, cell)),
            );
        }
        let mut steps = due.len();
        let Some(frozen) = &overlay.frozen else {
            return Ok(steps);
        };
        let from = cursor.frozen_after.take();
        let from = from.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut reached = None;
        for entry in frozen
            .expiries
            .range((from, Bound::Unbounded))
            .take_while(is_due)
        {
            if due.len() >= limit || steps >= STEPS_MAX {
                break;
            }
            steps += 1;
            let key = entry.1.as_slice();
            if !overlay.active.contains_key(key) {
                due.extend(
                    frozen
                        .cells
                        .get(key)
                        .and_then(|cell| due_cell(&entry.1, cell)),
                );
            }
            reached = Some(entry);
        }
        let before = match from {
            Bound::Excluded(entry) => Some(entry),
            _ => None,
        };
        cursor.frozen_after = reached.or(before).cloned();
        Ok(steps)
    }

    fn due_in_index(
        &self,
        cursor: &mut ExpiryCursor,
        now_ms: u64,
        limit: usize,
        mut steps: usize,
        due: &mut Vec<DueCell>,
    ) -> Result<(), EngineError> {
        let index = ExpiryPrefix::of(self.partition());
        while cursor.index_rest.may_be_due(now_ms) {
            let page = index.scan(&*self.engine, cursor.index_after.as_ref(), PAGE_ROWS)?;
            for row in &page {
                let (at_ms, key) = index.split(row)?;
                cursor.index_rest = Rest::From(at_ms);
                if at_ms > now_ms || due.len() >= limit || steps >= STEPS_MAX {
                    return Ok(());
                }
                steps += 1;
                due.extend(self.due_in_engine(key, at_ms)?);
                cursor.index_after = Some(row.clone());
            }
            cursor.index_rest = match page.len() < PAGE_ROWS {
                true => Rest::Nothing,
                false => Rest::Unknown,
            };
        }
        Ok(())
    }

    /// The engine's cell of a key, if it is the current one and expires then.
    fn due_in_engine(&self, key: Bytes, at_ms: u64) -> Result<Option<DueCell>, EngineError> {
        let cell = self.read_consistently(|view| {
            if view.overlay().find(&key).is_some() {
                return Ok(None);
            }
            view.release();
            let stored = self.engine.get(&self.prefix.row(&key))?;
            stored.map(|stored| Cell::decode(&stored)).transpose()
        })?;
        let cell = cell.filter(|cell| cell.expires_at_ms == Some(at_ms));
        Ok(cell.map(|cell| DueCell {
            key,
            version: cell.version,
            expires_at_ms: at_ms,
        }))
    }
}

fn due_cell(key: &CellKey, cell: &Cell) -> Option<DueCell> {
    cell.expires_at_ms.map(|expires_at_ms| DueCell {
        key: key.to_bytes(),
        version: cell.version,
        expires_at_ms,
    })
}
