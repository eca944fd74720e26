//! The deadlines of partitions, in one queue, so that an idle partition costs nothing.
//!
//! **Owns**: which partition wants a tick when.
//! **Does not own**: what a tick does (the core).

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Mutex;

use domicile_core::Moment;
use domicile_proto::PartitionId;
use tokio::sync::Notify;

use super::signals::lock;

/// A queue of (when, which). An entry may be early or doubled: a tick that finds nothing due does
/// nothing.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    queue: Mutex<BinaryHeap<Reverse<(Moment, PartitionId)>>>,
    pub(crate) earlier: Notify,
}

impl Timers {
    pub(crate) fn arm(&self, at: Moment, partition: PartitionId) {
        let mut queue = lock(&self.queue);
        let is_first = queue.peek().is_none_or(|Reverse((first, _))| at < *first);
        queue.push(Reverse((at, partition)));
        drop(queue);
        if is_first {
            self.earlier.notify_one();
        }
    }

    pub(crate) fn next(&self) -> Option<Moment> {
        lock(&self.queue).peek().map(|Reverse((at, _))| *at)
    }

    /// Takes everything due.
    pub(crate) fn due(&self, now: Moment) -> Vec<(Moment, PartitionId)> {
        let mut queue = lock(&self.queue);
        let mut due = Vec::new();
        while let Some(Reverse((at, partition))) = queue.peek() {
            if *at > now {
                break;
            }
            due.push((*at, *partition));
            queue.pop();
        }
        due
    }
}
