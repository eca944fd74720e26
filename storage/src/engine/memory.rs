//! The engine in memory: for simulation and tests, and for a node without a data directory.
//!
//! **Owns**: a map behind a lock, images of it, and a planned stop.
//! **Does not own**: anything on a disk.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;

use super::error::EngineError;
use super::rows::{Direction, Engine, RowChange, check_row, is_empty_range};

/// The value of `batches_left` when no stop is planned.
const NO_STOP: u64 = u64::MAX;

/// Rows in a map. Its images stand for what an engine on disk has after a crash.
#[derive(Debug)]
pub struct MemoryEngine {
    rows: RwLock<BTreeMap<Bytes, Bytes>>,
    batches_left: AtomicU64,
}

impl Default for MemoryEngine {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryEngine {
    /// Without rows.
    #[must_use]
    pub fn new() -> Self {
        Self {
            rows: RwLock::new(BTreeMap::new()),
            batches_left: AtomicU64::new(NO_STOP),
        }
    }

    /// A copy of the rows as they are now, without the planned stop.
    #[must_use]
    pub fn image(&self) -> Self {
        let rows = self.read().clone();
        Self {
            rows: RwLock::new(rows),
            batches_left: AtomicU64::new(NO_STOP),
        }
    }

    /// Plans a stop: `batches` more are applied, then every further one fails with
    /// [`EngineError::Io`], as if the machine had ended there.
    pub fn stop_after(&self, batches: u64) {
        self.batches_left.store(batches, Ordering::Relaxed);
    }

    /// Lifts the planned stop.
    pub fn resume(&self) {
        self.batches_left.store(NO_STOP, Ordering::Relaxed);
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<Bytes, Bytes>> {
        self.rows.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_batch(&self) -> Result<(), EngineError> {
        let step = |left| match left {
            NO_STOP => Some(NO_STOP),
            0 => None,
            _ => Some(left - 1),
        };
        let taken = self
            .batches_left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, step);
        let stopped = |_| EngineError::Io {
            what: "apply",
            source: io::Error::other("planned stop"),
        };
        taken.map(|_| ()).map_err(stopped)
    }
}

impl Engine for MemoryEngine {
    fn get(&self, row: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.read().get(row).cloned())
    }

    fn apply(&self, batch: Vec<RowChange>) -> Result<(), EngineError> {
        batch.iter().for_each(|change| check_row(change.row()));
        self.take_batch()?;
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        for change in batch {
            match change {
                RowChange::Set { row, value } => rows.insert(row, value),
                RowChange::Remove { row } => rows.remove(&row),
            };
        }
        Ok(())
    }

    fn scan(
        &self,
        from: Bound<&[u8]>,
        upto: Bound<&[u8]>,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
        if is_empty_range(from, upto) {
            return Ok(Vec::new());
        }
        let rows = self.read();
        let range = rows.range::<[u8], _>((from, upto));
        let owned = |(row, value): (&Bytes, &Bytes)| (row.clone(), value.clone());
        Ok(match direction {
            Direction::Forward => range.take(limit).map(owned).collect(),
            Direction::Backward => range.rev().take(limit).map(owned).collect(),
        })
    }

    fn sync(&self) -> Result<(), EngineError> {
        Ok(())
    }

    fn bytes_on_disk(&self) -> u64 {
        0
    }

    fn name(&self) -> &'static str {
        "memory"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::conformance::{Subject, conformance_suite};

    impl Subject for MemoryEngine {
        fn engine(&self) -> &dyn Engine {
            self
        }

        fn reopen(self) -> Self {
            self.image()
        }

        fn rows_inside(&self) -> usize {
            self.read().len()
        }
    }

    conformance_suite!(MemoryEngine::new());

    #[test]
    fn a_planned_stop_fails_whole_batches() {
        let engine = MemoryEngine::new();
        let set = |row: &'static str| RowChange::Set {
            row: row.into(),
            value: "v".into(),
        };
        engine.stop_after(1);
        engine.apply(vec![set("a"), set("b")]).unwrap();
        assert!(matches!(
            engine.apply(vec![set("c"), set("d")]),
            Err(EngineError::Io { .. })
        ));
        assert_eq!(engine.read().len(), 2);
        engine.resume();
        engine.apply(vec![set("c")]).unwrap();
        assert_eq!(engine.image().read().len(), 3);
    }
}
