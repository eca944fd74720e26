//! Calls that may never come back: a sync of a dying disk, an engine that hangs.
//!
//! **Owns**: since when one is under way.
//! **Does not own**: what is done about it (the store is poisoned, the sink is told).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::engine::{Direction, Engine, EngineError, RowChange};

/// Nothing is under way.
const IDLE: u64 = 0;

/// One call at a time, watched by others.
#[derive(Debug)]
pub(crate) struct Stall {
    base: Instant,
    /// Microseconds from `base`, and one more, at which it began.
    began_us: AtomicU64,
}

impl Default for Stall {
    fn default() -> Self {
        Self {
            base: Instant::now(),
            began_us: AtomicU64::new(IDLE),
        }
    }
}

impl Stall {
    /// Watches a call until it is done.
    pub(crate) fn watch<T>(&self, call: impl FnOnce() -> T) -> T {
        let now_us = self.base.elapsed().as_micros() as u64 + 1;
        self.began_us.store(now_us, Ordering::Release);
        let ended = Ended(&self.began_us);
        let done = call();
        drop(ended);
        done
    }

    /// How long the call under way has taken; `None` without one.
    pub(crate) fn elapsed(&self) -> Option<Duration> {
        let began_us = self.began_us.load(Ordering::Acquire).checked_sub(1)?;
        let elapsed = self.base.elapsed();
        Some(elapsed.saturating_sub(Duration::from_micros(began_us)))
    }
}

struct Ended<'a>(&'a AtomicU64);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(IDLE, Ordering::Release);
    }
}

/// The calls of a store that are watched.
#[derive(Debug, Default)]
pub(crate) struct Stalls {
    /// The write and sync of a commit.
    pub(crate) commit: Stall,
    /// A batch or sync of the engine.
    pub(crate) engine: Stall,
}

/// An engine whose writes are watched, and come one at a time: those of a flush, and of a snapshot
/// that is installed beside it.
pub(crate) struct WatchedEngine {
    engine: Arc<dyn Engine>,
    writing: Mutex<()>,
    stalls: Arc<Stalls>,
}

impl WatchedEngine {
    pub(crate) fn new(engine: Arc<dyn Engine>, stalls: Arc<Stalls>) -> Self {
        Self {
            engine,
            writing: Mutex::default(),
            stalls,
        }
    }

    fn write(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine for WatchedEngine {
    fn get(&self, row: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.engine.get(row)
    }

    fn apply(&self, batch: Vec<RowChange>) -> Result<(), EngineError> {
        let _one = self.write();
        self.stalls.engine.watch(|| self.engine.apply(batch))
    }

    fn scan(
        &self,
        from: std::ops::Bound<&[u8]>,
        upto: std::ops::Bound<&[u8]>,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
        self.engine.scan(from, upto, direction, limit)
    }

    fn sync(&self) -> Result<(), EngineError> {
        let _one = self.write();
        self.stalls.engine.watch(|| self.engine.sync())
    }

    fn tidy(&self) -> Result<(), EngineError> {
        let _one = self.write();
        self.stalls.engine.watch(|| self.engine.tidy())
    }

    fn bytes_on_disk(&self) -> u64 {
        self.engine.bytes_on_disk()
    }

    fn close(&self) {
        self.engine.close();
    }

    fn name(&self) -> &'static str {
        self.engine.name()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_seen_while_it_lasts_and_not_after() {
        let stall = Stall::default();
        assert_eq!(stall.elapsed(), None);
        let seen = stall.watch(|| stall.elapsed());
        assert!(seen.is_some());
        assert_eq!(stall.elapsed(), None);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            stall.watch(|| panic!("on purpose"));
        }));
        assert!(panicked.is_err());
        assert_eq!(stall.elapsed(), None);
    }
}
