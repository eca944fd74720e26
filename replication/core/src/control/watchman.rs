//! Who is silent for too long to be waited for.
//!
//! **Owns**: when each node was last heard of; the patience that grows with a link that flaps.
//! **Does not own**: what is done about a lost node (`supervisor`).
//!
//! A node that is given up and then speaks again without having been restarted was not gone: its
//! link was. Each time that happens it is waited for twice as long, so that a link which comes and
//! goes moves its partitions a few times at most. A calm while earns the trust back.

use std::collections::BTreeMap;

use domicile_proto::NodeId;

use super::times::ControlTimes;
use crate::moment::Moment;

/// How often the patience is doubled at most: sixteen times the usual one, about half a minute.
const DOUBLINGS_MAX: u32 = 4;

/// How long without a silence worth giving up for halves the patience again, in patiences of the
/// usual length. Doubled, an hour's trouble is remembered for two.
const CALM: u32 = 40;

/// What is known of one node.
#[derive(Debug, Clone, Copy)]
struct Watched {
    heard: Moment,
    incarnation: u64,
    is_given_up: bool,
    doublings: u32,
    calm_since: Moment,
}

/// A leader's watch over all nodes.
#[derive(Debug, Clone)]
pub struct Watchman {
    since: Moment,
    nodes: BTreeMap<NodeId, Watched>,
}

impl Watchman {
    /// A watch that begins now: everybody counts as heard of.
    #[must_use]
    pub fn new(now: Moment) -> Self {
        Self {
            since: now,
            nodes: BTreeMap::new(),
        }
    }

    /// A node spoke; `incarnation` tells one start of its process from another.
    pub fn heard(&mut self, node: NodeId, incarnation: u64, now: Moment, times: &ControlTimes) {
        let known = self.nodes.entry(node).or_insert(Watched {
            heard: now,
            incarnation,
            is_given_up: false,
            doublings: 0,
            calm_since: now,
        });
        if known.incarnation != incarnation {
            (known.incarnation, known.is_given_up) = (incarnation, false);
        }
        if known.is_given_up {
            known.is_given_up = false;
            known.doublings = DOUBLINGS_MAX.min(known.doublings + 1);
        }
        if now.since(known.heard) >= times.lost_after {
            known.calm_since = now;
        }
        if known.doublings > 0 && now.since(known.calm_since) > times.lost_after * CALM {
            known.doublings -= 1;
            known.calm_since = now;
        }
        known.heard = known.heard.max(now);
    }

    /// When a node was last heard of; when the watch began, if it was not since.
    #[must_use]
    pub fn last_heard(&self, node: NodeId) -> Moment {
        let heard = self.nodes.get(&node).map(|known| known.heard);
        heard.unwrap_or(self.since)
    }

    /// Whether a node is silent for so long that it counts as lost.
    #[must_use]
    pub fn is_lost(&self, node: NodeId, now: Moment, times: &ControlTimes) -> bool {
        now >= self.lost_at(node, times)
    }

    /// When it counts as lost, if it stays silent.
    #[must_use]
    pub fn lost_at(&self, node: NodeId, times: &ControlTimes) -> Moment {
        let doublings = self.nodes.get(&node).map_or(0, |known| known.doublings);
        let patience = times.lost_after * (1 << doublings);
        self.last_heard(node).plus(patience)
    }

    /// A node is given up: if it speaks again, that is remembered.
    pub fn give_up(&mut self, node: NodeId) {
        self.nodes
            .entry(node)
            .and_modify(|known| known.is_given_up = true);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::control::times::Haste;

    /// How often a node whose link is cut just longer than the patience is given up in ten minutes.
    fn given_up(cut: Duration, heal: Duration, incarnations: bool) -> u32 {
        let times = ControlTimes::of(Duration::from_millis(80), Haste::Default);
        let node = NodeId::new(1).unwrap();
        let (mut now, mut count) = (Moment::from_micros(1), 0);
        let mut watchman = Watchman::new(now);
        while now.since(Moment::START) < Duration::from_secs(600) {
            let incarnation = if incarnations { u64::from(count) } else { 0 };
            let healed = now;
            while now.since(healed) < heal {
                watchman.heard(node, incarnation, now, &times);
                now = now.plus(times.ask_every);
            }
            now = now.plus(cut);
            if watchman.is_lost(node, now, &times) {
                watchman.give_up(node);
                count += 1;
            }
        }
        count
    }

    #[test]
    fn a_flapping_link_is_given_up_a_few_times_only() {
        let (short, four) = (Duration::from_millis(900), Duration::from_secs(4));
        assert_eq!(given_up(short, four, false), 0, "below the patience");
        let flapping = given_up(Duration::from_secs(2), four, false);
        assert!((1..=2).contains(&flapping), "given up {flapping} times");
        // A process that dies again and again is gone each time.
        let dying = given_up(Duration::from_secs(2), four, true);
        assert!(dying > 60, "given up {dying} times");
    }
}
