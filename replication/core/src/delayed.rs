//! Replies whose level is met and that are held for a few milliseconds to slow their callers.
//!
//! **Owns**: the queue, in the order in which replies are due.
//! **Does not own**: how long a reply is held (`rpo_guard`), its content (`home`).

use std::collections::VecDeque;

use crate::moment::Moment;
use crate::waiters::Waiter;

/// The queue. Bounded with the waiters: a caller is in one of the two.
#[derive(Debug, Clone, Default)]
pub(crate) struct Delayed {
    queue: VecDeque<(Moment, Waiter)>,
}

impl Delayed {
    /// Holds a reply until `due`, or until those before it have gone out if that is later: no reply
    /// overtakes another.
    pub(crate) fn hold(&mut self, due: Moment, waiter: Waiter) {
        let due = self.queue.back().map_or(due, |(last, _)| due.max(*last));
        self.queue.push_back((due, waiter));
    }

    /// Takes the next reply that is due.
    pub(crate) fn take_due(&mut self, now: Moment) -> Option<Waiter> {
        let (due, _) = self.queue.front()?;
        if *due > now {
            return None;
        }
        self.queue.pop_front().map(|(_, waiter)| waiter)
    }

    /// When the next one is due.
    pub(crate) fn next_due(&self) -> Option<Moment> {
        self.queue.front().map(|(due, _)| *due)
    }

    /// How many are held.
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether none is held.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}
