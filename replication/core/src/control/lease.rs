//! Leases at both ends: what a node may rely on, and what a leader must wait for.
//!
//! **Owns**: which grant counts from when and with which map; when the last one has run out.
//! **Does not own**: how long they last (`times`), confirming that the leader still is one.
//!
//! A lease is a node's, not a partition's: it says "the map as of this version, or a newer one, is
//! still what a majority goes by". Which partitions the node is home of, the map says. So a grant
//! counts only at a node that has applied the map of that version: a partition that was taken from
//! it in the meantime is not kept by a lease that comes after.

use std::collections::BTreeMap;

use domicile_proto::NodeId;

use super::times::ControlTimes;
use crate::moment::Moment;
use crate::planted::{Bug, is_planted};

/// Asks that were sent and not answered. Each lease is asked for four times; older ones are of no
/// use.
const ASKS_MAX: usize = 8;

/// A grant, as the leader answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// Which ask it answers.
    pub ask: u64,
    /// The map that the node must have applied.
    pub map_version: u64,
}

/// What one node knows of its lease.
#[derive(Debug, Clone, Default)]
pub struct LeaseHolder {
    next_ask: u64,
    asked: BTreeMap<u64, Moment>,
    /// (map version, until): grants that wait for the map.
    pending: BTreeMap<u64, Moment>,
    until: Option<Moment>,
}

impl LeaseHolder {
    /// A lease is asked for now; the number to ask with.
    pub fn ask(&mut self, now: Moment) -> u64 {
        self.next_ask += 1;
        self.asked.insert(self.next_ask, now);
        while self.asked.len() > ASKS_MAX {
            self.asked.pop_first();
        }
        self.next_ask
    }

    /// It was granted. An answer to nothing that was asked counts for nothing.
    pub fn granted(&mut self, grant: Grant, times: &ControlTimes, applied_version: u64) {
        let Some(asked) = self.asked.remove(&grant.ask) else {
            return;
        };
        let until = asked.plus(times.usable());
        let known = self.pending.entry(grant.map_version).or_insert(until);
        *known = (*known).max(until);
        while self.pending.len() > ASKS_MAX {
            self.pending.pop_first();
        }
        self.applied(applied_version);
    }

    /// The map of this version is applied here, to every partition.
    pub fn applied(&mut self, version: u64) {
        let version = match is_planted(Bug::GrantOfAnyMap) {
            true => u64::MAX - 1,
            false => version,
        };
        let later = self.pending.split_off(&version.saturating_add(1));
        let usable = std::mem::replace(&mut self.pending, later);
        self.until = self.until.max(usable.into_values().max());
    }

    /// Until when this node's homes may go on.
    #[must_use]
    pub fn until(&self) -> Option<Moment> {
        self.until
    }
}

/// What a leader granted.
#[derive(Debug, Clone)]
pub struct LeaseBook {
    /// Since when nobody else grants: an earlier leader may have until then.
    since: Moment,
    heard: BTreeMap<NodeId, Moment>,
}

impl LeaseBook {
    /// The book of a leader that begins now, with nothing in it.
    #[must_use]
    pub fn new(now: Moment) -> Self {
        Self {
            since: now,
            heard: BTreeMap::new(),
        }
    }

    /// A node asked, and is granted what it asked for.
    pub fn grant(&mut self, node: NodeId, heard: Moment) {
        let last = self.heard.entry(node).or_insert(heard);
        *last = (*last).max(heard);
    }

    /// When every lease that the node may hold has run out, if none is granted any more.
    #[must_use]
    pub fn ends(&self, node: NodeId, times: &ControlTimes) -> Moment {
        let heard = self.heard.get(&node).copied();
        let last = heard.map_or(self.since, |heard| heard.max(self.since));
        last.plus(times.waited_out())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::control::times::Haste;

    fn at(ms: u64) -> Moment {
        Moment::from_micros(ms * 1000)
    }

    fn times() -> ControlTimes {
        ControlTimes::of(Duration::from_millis(80), Haste::Default)
    }

    #[test]
    fn a_lease_counts_from_the_ask_and_once_the_map_is_there() {
        let mut holder = LeaseHolder::default();
        let ask = holder.ask(at(100));
        let map_version = 7;
        holder.granted(Grant { ask, map_version }, &times(), 6);
        assert_eq!(
            holder.until(),
            None,
            "its map is older than what was granted on"
        );
        holder.applied(7);
        assert_eq!(holder.until(), Some(at(100).plus(times().usable())));
        // Doubled, or never asked for.
        holder.granted(Grant { ask, map_version }, &times(), 7);
        let ask = 99;
        holder.granted(Grant { ask, map_version }, &times(), 7);
        assert_eq!(holder.until(), Some(at(100).plus(times().usable())));
        // An answer that comes late extends nothing.
        let (first, second) = (holder.ask(at(600)), holder.ask(at(1100)));
        holder.granted(
            Grant {
                ask: second,
                map_version,
            },
            &times(),
            7,
        );
        holder.granted(
            Grant {
                ask: first,
                map_version,
            },
            &times(),
            7,
        );
        assert_eq!(holder.until(), Some(at(1100).plus(times().usable())));
    }

    #[test]
    fn a_new_leader_waits_for_what_an_older_one_may_have_granted() {
        let node = NodeId::new(1).unwrap();
        let mut book = LeaseBook::new(at(5000));
        let wait = times().waited_out();
        assert_eq!(book.ends(node, &times()), at(5000).plus(wait));
        book.grant(node, at(5200));
        book.grant(node, at(5100));
        assert_eq!(book.ends(node, &times()), at(5200).plus(wait));
    }
}
