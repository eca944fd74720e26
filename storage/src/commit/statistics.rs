//! What commits cost, counted without a lock.
//!
//! **Owns**: the counters.
//! **Does not own**: what becomes of them (metrics, the server's).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Commits since the store was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CommitStats {
    /// Frames written and synced.
    pub commits: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of the frames.
    pub bytes: u64,
    /// Time spent in syncs.
    pub sync_sum: Duration,
    /// The longest sync.
    pub sync_max: Duration,
    /// The last sync.
    pub sync_last: Duration,
}

/// The counters. Relaxed: each is read alone; a reader may see them a commit apart.
#[derive(Debug, Default)]
pub(crate) struct CommitStatistic {
    commits: AtomicU64,
    records: AtomicU64,
    bytes: AtomicU64,
    sync_sum_ns: AtomicU64,
    sync_max_ns: AtomicU64,
    sync_last_ns: AtomicU64,
}

impl CommitStatistic {
    pub(crate) fn note(&self, records: u64, bytes: u64, sync: Duration) {
        let sync_ns = u64::try_from(sync.as_nanos()).unwrap_or(u64::MAX);
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.records.fetch_add(records, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.sync_sum_ns.fetch_add(sync_ns, Ordering::Relaxed);
        self.sync_max_ns.fetch_max(sync_ns, Ordering::Relaxed);
        self.sync_last_ns.store(sync_ns, Ordering::Relaxed);
    }

    pub(crate) fn stats(&self) -> CommitStats {
        let time = |counter: &AtomicU64| Duration::from_nanos(counter.load(Ordering::Relaxed));
        CommitStats {
            commits: self.commits.load(Ordering::Relaxed),
            records: self.records.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            sync_sum: time(&self.sync_sum_ns),
            sync_max: time(&self.sync_max_ns),
            sync_last: time(&self.sync_last_ns),
        }
    }
}
