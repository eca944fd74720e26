//! How many watches a node has, and what they did.
//!
//! **Owns**: the bound on their number, the counters that status shows.
//! **Does not own**: the watches.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use domicile_proto::Reason;

use crate::error::Error;

/// The watches of a node.
#[derive(Debug)]
pub(crate) struct WatchCount {
    open: AtomicUsize,
    open_max: usize,
    wakeups: AtomicU64,
    cut_off: AtomicU64,
}

/// The watches of a node in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WatchStatus {
    /// Open ones.
    pub open: u64,
    /// Most at once; further ones are refused.
    pub open_max: u64,
    /// How often one was woken since the node was opened: an idle watch never is.
    pub wakeups: u64,
    /// How many were cut off since then: their consumers did not take what was there.
    pub cut_off: u64,
}

impl WatchCount {
    pub(crate) fn new(open_max: usize) -> Arc<Self> {
        Arc::new(Self {
            open: AtomicUsize::new(0),
            open_max,
            wakeups: AtomicU64::new(0),
            cut_off: AtomicU64::new(0),
        })
    }

    /// Takes one of the places, until the result is dropped.
    pub(super) fn enter(self: &Arc<Self>) -> Result<WatchPlace, Error> {
        let open = self.open.fetch_add(1, Ordering::AcqRel);
        let place = WatchPlace(Arc::clone(self));
        if open < self.open_max {
            return Ok(place);
        }
        let message = format!("{open} watches are open, limit {}", self.open_max);
        Err(Error::new(Reason::Overloaded, message))
    }

    pub(crate) fn status(&self) -> WatchStatus {
        WatchStatus {
            open: self.open.load(Ordering::Acquire) as u64,
            open_max: self.open_max as u64,
            wakeups: self.wakeups.load(Ordering::Relaxed),
            cut_off: self.cut_off.load(Ordering::Relaxed),
        }
    }
}

/// The place of one watch.
#[derive(Debug)]
pub(super) struct WatchPlace(Arc<WatchCount>);

impl WatchPlace {
    pub(super) fn count_wakeup(&self) {
        self.0.wakeups.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_cut_off(&self) {
        self.0.cut_off.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for WatchPlace {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_given_back() {
        let count = WatchCount::new(2);
        let first = count.enter().unwrap();
        let second = count.enter().unwrap();
        let refused = count.enter().unwrap_err();
        assert_eq!(refused.reason(), Reason::Overloaded);
        assert_eq!(refused.to_string(), "2 watches are open, limit 2");
        assert_eq!(count.status().open, 2);
        drop(first);
        let third = count.enter().unwrap();
        drop((second, third));
        assert_eq!(count.status().open, 0);
    }
}
