//! How much memory the cells of all partitions take.
//!
//! **Owns**: the counts shared by all partitions, and their snapshot.
//! **Does not own**: the bounds (`store`) and who keeps them (the driver pauses writes).
//!
//! Every count is raised and lowered by the same numbers, so that it is zero when nothing is held.

use std::sync::atomic::{AtomicU64, Ordering};

/// The cells of a node, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CellStats {
    /// Overlay that takes new cells.
    pub active_bytes: u64,
    /// Overlay that is being flushed.
    pub frozen_bytes: u64,
    /// Records that are not visible yet.
    pub unapplied_bytes: u64,
    /// How many they are.
    pub unapplied_records: u64,
    /// Records folded into the active overlay: what a replay after a crash would fold again.
    pub records_since_flush: u64,
    /// Flushes that succeeded.
    pub flushes: u64,
    /// Flushes that failed.
    pub flush_failures: u64,
}

/// One count. Relaxed: each is read alone, and what it counts is guarded by its own lock.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    pub(super) fn subtract(&self, amount: u64) {
        let before = self.0.fetch_sub(amount, Ordering::Relaxed);
        assert!(before >= amount, "count of {before} lowered by {amount}");
    }

    /// Moves the count from one value of a part to another.
    pub(super) fn change(&self, before: u64, after: u64) {
        if after >= before {
            self.add(after - before);
        } else {
            self.subtract(before - after);
        }
    }
}

/// The counts, shared by all partitions of a store.
#[derive(Debug, Default)]
pub(super) struct Occupancy {
    pub(super) active_bytes: Count,
    pub(super) frozen_bytes: Count,
    pub(super) unapplied_bytes: Count,
    pub(super) unapplied_records: Count,
    pub(super) records_since_flush: Count,
    pub(super) flushes: Count,
    pub(super) flush_failures: Count,
}

impl Occupancy {
    pub(super) fn overlay_bytes(&self) -> u64 {
        self.active_bytes.get() + self.frozen_bytes.get()
    }

    pub(super) fn stats(&self) -> CellStats {
        CellStats {
            active_bytes: self.active_bytes.get(),
            frozen_bytes: self.frozen_bytes.get(),
            unapplied_bytes: self.unapplied_bytes.get(),
            unapplied_records: self.unapplied_records.get(),
            records_since_flush: self.records_since_flush.get(),
            flushes: self.flushes.get(),
            flush_failures: self.flush_failures.get(),
        }
    }
}
