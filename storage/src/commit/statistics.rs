//! What commits cost, counted without a lock.
//!
//! **Owns**: the counters.
//! **Does not own**: what becomes of them (metrics, the server's).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the counts of syncs, in µs; what took longer is counted behind the last. From
/// a drive with a protected cache up to one that stalls, at most 2.5-fold apart: twice as many
/// would double what every scrape carries.
pub const SYNC_BOUNDS_US: [u64; 16] = [
    50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000,
    1_000_000, 2_000_000, 5_000_000,
];

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
    /// How many syncs took up to each of [`SYNC_BOUNDS_US`] and longer than the one before; the
    /// last: longer than all.
    pub sync_counts: [u64; SYNC_BOUNDS_US.len() + 1],
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
    sync_counts: [AtomicU64; SYNC_BOUNDS_US.len() + 1],
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
        let bucket = SYNC_BOUNDS_US.partition_point(|bound_us| bound_us * 1_000 < sync_ns);
        self.sync_counts[bucket].fetch_add(1, Ordering::Relaxed);
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
            sync_counts: self
                .sync_counts
                .each_ref()
                .map(|count| count.load(Ordering::Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_is_counted_under_the_first_bound_that_it_does_not_exceed() {
        let statistic = CommitStatistic::default();
        for sync_us in [0, 50, 51, 1_000, 5_000_000, 5_000_001] {
            statistic.note(1, 1, Duration::from_micros(sync_us));
        }
        let counts = statistic.stats().sync_counts;
        let at = |bound_us| {
            SYNC_BOUNDS_US
                .iter()
                .position(|each| *each == bound_us)
                .unwrap()
        };
        assert_eq!(
            [counts[at(50)], counts[at(100)], counts[at(1_000)]],
            [2, 1, 1]
        );
        assert_eq!([counts[at(5_000_000)], counts[16]], [1, 1]);
        assert_eq!(counts.iter().sum::<u64>(), statistic.stats().commits);
    }
}
