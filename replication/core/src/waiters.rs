//! Callers that wait for the level of their write.
//!
//! **Owns**: who waits for which record at which level until when.
//! **Does not own**: how far a level is met (`ack_tracker`), what is answered (`home`).
//!
//! Levels with equal needs wait together. A group is ordered by record, so that what a mark sets
//! free is always at its front.

use std::collections::{BTreeMap, BTreeSet};

use domicile_proto::{AckLevel, Seq};

use crate::ack_tracker::Needs;
use crate::home::Origin;
use crate::moment::Moment;
use crate::write::Ticket;

/// One caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Waiter {
    /// Whom to answer.
    pub(crate) ticket: Ticket,
    /// For which record.
    pub(crate) seq: Seq,
    /// The level asked for.
    pub(crate) level: AckLevel,
    /// Whether its request made the record or found it.
    pub(crate) origin: Origin,
    /// When to answer whatever holds by then.
    pub(crate) timeout: Moment,
}

#[derive(Debug, Clone)]
struct Group {
    needs: Needs,
    waiting: BTreeMap<(Seq, Ticket), Waiter>,
}

/// All callers of one home. Group 0 is that of the keyspace's level.
#[derive(Debug, Clone)]
pub(crate) struct Waiters {
    /// At most one for each pair of needs, which are fewer than twice the regions.
    groups: Vec<Group>,
    timeouts: BTreeSet<(Moment, usize, Seq, Ticket)>,
}

impl Waiters {
    /// Nobody waits.
    pub(crate) fn new(keyspace: Needs) -> Self {
        let group = Group {
            needs: keyspace,
            waiting: BTreeMap::new(),
        };
        Self {
            groups: vec![group],
            timeouts: BTreeSet::new(),
        }
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.timeouts.len()
    }

    /// Whether somebody waits for more than this home's own disk.
    pub(crate) fn await_copies(&self) -> bool {
        let mut groups = self.groups.iter();
        groups.any(|group| group.needs.received > 0 && !group.waiting.is_empty())
    }

    /// What each group needs, by its index.
    pub(crate) fn needs_of(&self, group: usize) -> Option<Needs> {
        self.groups.get(group).map(|group| group.needs)
    }

    /// Somebody starts to wait.
    pub(crate) fn insert(&mut self, needs: Needs, waiter: Waiter) {
        let index = match self.groups.iter().position(|group| group.needs == needs) {
            Some(index) => index,
            None => {
                self.groups.push(Group {
                    needs,
                    waiting: BTreeMap::new(),
                });
                self.groups.len() - 1
            }
        };
        let Waiter {
            seq,
            ticket,
            timeout,
            ..
        } = waiter;
        let before = self.groups[index].waiting.insert((seq, ticket), waiter);
        assert!(before.is_none(), "ticket {ticket:?} waits twice for {seq}");
        self.timeouts.insert((timeout, index, seq, ticket));
    }

    /// Takes the next waiter of a group whose record is covered by `upto`.
    pub(crate) fn take_met(&mut self, group: usize, upto: Seq) -> Option<Waiter> {
        let entry = self.groups[group].waiting.first_entry()?;
        if entry.key().0 > upto {
            return None;
        }
        let waiter = entry.remove();
        let timeout = (waiter.timeout, group, waiter.seq, waiter.ticket);
        assert!(
            self.timeouts.remove(&timeout),
            "no timeout for {:?}",
            waiter.ticket
        );
        Some(waiter)
    }

    /// Takes the next waiter whose time has come.
    pub(crate) fn take_expired(&mut self, now: Moment) -> Option<Waiter> {
        let (timeout, group, seq, ticket) = *self.timeouts.first()?;
        if timeout > now {
            return None;
        }
        self.timeouts.pop_first();
        let waiter = self.groups[group].waiting.remove(&(seq, ticket));
        Some(waiter.expect("a timeout belongs to a waiter"))
    }

    /// When the next one's time comes.
    pub(crate) fn next_timeout(&self) -> Option<Moment> {
        self.timeouts.first().map(|(timeout, ..)| *timeout)
    }
}
