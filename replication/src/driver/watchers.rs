//! Who wants to know when a partition shows more.
//!
//! **Owns**: the signal of one watch, the signals that a partition wakes.
//! **Does not own**: what a watch does when it is woken (`watching`).

use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use super::signals::lock;

/// One watch is to look at its partitions again. Raised any number of times, it wakes once.
#[derive(Debug, Default)]
pub(crate) struct WatchSignal {
    pub(crate) news: Notify,
}

/// The watches of one partition. Their number is bounded by the node's limit of watches.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    count: AtomicUsize,
    signals: Mutex<Vec<Arc<WatchSignal>>>,
}

impl Watchers {
    /// From now on every change wakes `signal`. What changed before the call returns is for the
    /// caller to look at.
    pub(crate) fn add(&self, signal: &Arc<WatchSignal>) {
        let mut signals = lock(&self.signals);
        signals.push(Arc::clone(signal));
        self.count.store(signals.len(), Ordering::Relaxed);
        drop(signals);
        // With the fence in `wake`: either that sees this watch, or this watch what was changed.
        fence(Ordering::SeqCst);
    }

    pub(crate) fn remove(&self, signal: &Arc<WatchSignal>) {
        let mut signals = lock(&self.signals);
        signals.retain(|each| !Arc::ptr_eq(each, signal));
        self.count.store(signals.len(), Ordering::Relaxed);
    }

    /// Wakes them all. Without any it costs no lock.
    pub(crate) fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.count.load(Ordering::Relaxed) > 0 {
            lock(&self.signals)
                .iter()
                .for_each(|signal| signal.news.notify_one());
        }
    }
}
