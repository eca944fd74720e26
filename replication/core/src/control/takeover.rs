//! One takeover: promises are gathered, the old home is waited out, a successor is chosen.
//!
//! **Owns**: which copies are asked, when enough is known, which copy it is.
//! **Does not own**: minting the reign (map), when a home counts as lost (`watchman`).
//!
//! ```text
//! given up (in the map: its reign is over)
//!   -> every copy, and the old home if it is back, promises a floor and says what it has
//!   -> fenced: by the home's own promise, or enough copies' promises, or its lease has run out
//!   -> whoever has the highest (epoch, sequence number) takes over
//! ```
//! The floor is above the old reign and below every later one, so a copy that promised takes from
//! whoever is chosen and from nobody before.

use std::collections::BTreeMap;
use std::time::Duration;

use domicile_proto::{Epoch, Keyspace, NodeId, PartitionId, RegionId, Seq};

use super::command::{Command, Decision, Evidence, OperatorWord};
use super::fencing::{Fencing, revokes};
use super::map::{Assignment, ControlMap, Policy};
use super::times::ControlTimes;
use crate::moment::Moment;
use crate::planted::{Bug, is_planted};

/// What a node has of a partition, once it has promised: all of it durable, and final in every
/// reign below the floor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PromisedEnd {
    /// The reign of its last record; `None` if it has none.
    pub epoch: Option<Epoch>,
    /// Its last record.
    pub upto: Seq,
    /// The last record that it knows the old home to have had.
    pub known_upto: Seq,
    /// Whether it may become home: nothing of the partition is damaged there.
    pub is_sound: bool,
    /// What the old home may have written beyond that; `None` if this node cannot tell, as it has
    /// not heard of it since it started.
    pub unheard: Option<Unheard>,
}

/// What a copy knows of what it does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unheard {
    /// For how long it has not heard that it has everything, when it promised.
    pub silent: Duration,
    /// Records that came in the busiest of the last seconds.
    pub a_second: u64,
}

impl Unheard {
    /// How many records may have been written, if the silence lasted that much longer, and nothing
    /// came faster than before.
    fn most(self, longer: Duration) -> u64 {
        let silent = (self.silent + longer).as_secs_f64();
        (self.a_second as f64 * silent).ceil() as u64
    }
}

/// A takeover that is under way.
#[derive(Debug, Clone)]
pub(super) struct TakeOver {
    pub(super) from: Epoch,
    began: Moment,
    /// When the leases of all who may act as home have run out.
    leases_end: Moment,
    promised: BTreeMap<NodeId, (PromisedEnd, Moment)>,
    pub(super) asked: Option<Moment>,
    pub(super) proposed: Option<Moment>,
    /// When it was found to be fenced, in milliseconds since 1970.
    fenced_ms: Option<u64>,
}

/// What a takeover is decided upon.
pub(super) struct Scene<'scene> {
    pub(super) map: &'scene ControlMap,
    pub(super) partition: PartitionId,
    pub(super) assignment: Assignment,
    pub(super) keyspace: &'scene Keyspace,
    pub(super) times: &'scene ControlTimes,
    pub(super) now: Moment,
    pub(super) wall_ms: u64,
}

impl Scene<'_> {
    fn word(&self) -> Option<OperatorWord> {
        self.assignment.lost?.word
    }

    /// The nodes that hold the partition, the home too. A region that was added opens it once
    /// its home goes by that, and has nothing to promise before.
    pub(super) fn holders(&self) -> impl Iterator<Item = (NodeId, RegionId)> + '_ {
        let live = self.map.live_nodes();
        live.filter(|(_, region)| self.map.holds(self.partition, self.assignment, *region))
    }
}

impl TakeOver {
    pub(super) fn new(from: Epoch, now: Moment, leases_end: Moment) -> Self {
        Self {
            from,
            began: now,
            leases_end,
            promised: BTreeMap::new(),
            asked: None,
            proposed: None,
            fenced_ms: None,
        }
    }

    pub(super) fn promised(&mut self, node: NodeId, end: PromisedEnd, now: Moment) {
        self.promised.insert(node, (end, now));
    }

    fn end_of(&self, node: NodeId) -> Option<PromisedEnd> {
        self.promised.get(&node).map(|(end, _)| *end)
    }

    pub(super) fn has_promised(&self, node: NodeId) -> bool {
        self.promised.contains_key(&node)
    }

    /// The command that ends it, once enough is known; `is_alive` says who is still waited for.
    pub(super) fn decide(
        &mut self,
        scene: &Scene<'_>,
        is_alive: impl Fn(NodeId) -> bool,
    ) -> Option<Command> {
        let evidence = self.evidence(scene)?;
        let fenced_ms = *self.fenced_ms.get_or_insert(scene.wall_ms);
        let is_patient = scene.now < self.began.plus(scene.times.promise_patience);
        let is_awaited = |(node, _): (NodeId, RegionId)| !self.has_promised(node) && is_alive(node);
        if is_patient && scene.holders().any(is_awaited) {
            return None;
        }
        let (to, end) = self.successor(scene)?;
        let known = self.promised.values();
        let known = known.map(|(end, _)| end.known_upto.max(end.upto)).max();
        let known_upto = known.unwrap_or(end.upto);
        Some(Command::TakeOver {
            partition: scene.partition,
            from: self.from,
            to,
            evidence,
            decision: Decision {
                fenced_ms,
                decided_ms: scene.wall_ms,
                upto: end.upto,
                known_upto,
                unheard_max: self.unheard_max(scene, known_upto),
            },
        })
    }

    /// What the old home may have acknowledged beyond what anybody knows of: nothing where that
    /// takes a copy; `None`: nobody can tell.
    fn unheard_max(&self, scene: &Scene<'_>, known_upto: Seq) -> Option<u64> {
        let mut policies = scene
            .map
            .policies_in_force(scene.partition, scene.assignment);
        let acks_alone = scene.assignment.degraded_ms.is_some()
            || policies.any(|policy| {
                let keyspace = &policy.keyspace;
                keyspace.ack.received_needed(keyspace.copies()) == 0
            });
        if !acks_alone || self.has_promised(scene.assignment.home) {
            return Some(0);
        }
        // Of those who know of most, whoever heard last.
        let known = self.promised.values();
        let known = known.filter(|(end, _)| end.known_upto.max(end.upto) == known_upto);
        let most = known.filter_map(|(end, at)| Some(end.unheard?.most(scene.now.since(*at))));
        most.min()
    }

    /// Why nobody acknowledges in the old reign any more, if so.
    fn evidence(&self, scene: &Scene<'_>) -> Option<Evidence> {
        let Assignment {
            home, moving_to, ..
        } = scene.assignment;
        let is_handed_on = moving_to.is_some_and(|to| !self.has_promised(to));
        if self.has_promised(home) && !is_handed_on {
            return Some(Evidence::HomePromised);
        }
        let word = scene.word();
        if let Some(word) = word.filter(|word| word.is_fenced || word.accepts_split_brain) {
            return Some(Evidence::Operator {
                is_fenced: word.is_fenced,
                accepts_split_brain: word.accepts_split_brain,
            });
        }
        // Readers of the old home cannot see that its copies refuse it: its lease is waited for in
        // either case.
        let leases_are_over = scene.now >= self.leases_end || is_planted(Bug::LeaseNotWaitedOut);
        let policies = scene
            .map
            .policies_in_force(scene.partition, scene.assignment);
        let policies: Vec<&Policy> = policies.collect();
        let has = |fencing| policies.iter().any(|policy| policy.fencing == fencing);
        if has(Fencing::Operator) || !leases_are_over {
            return None;
        }
        if !has(Fencing::AckRevocation) {
            return Some(Evidence::LeaseRanOut);
        }
        let by = self.revoked_by(scene);
        let is_enough = policies.iter().all(|policy| {
            let keyspace = &policy.keyspace;
            let refuses = |region: &RegionId| {
                by.contains(region) || !scene.map.holds(scene.partition, scene.assignment, *region)
            };
            let refusing = keyspace.regions.iter().filter(|it| refuses(it));
            policy.fencing != Fencing::AckRevocation
                || revokes(keyspace.ack, keyspace.copies(), refusing.count())
        });
        let is_enough = is_enough && self.has_what_was_met_before(scene, &by);
        is_enough.then_some(Evidence::AcksRevoked { by })
    }

    /// Whether one of those that promised has what older reigns acknowledged. Whoever has the
    /// beginning of the reign that ends has it. Without, nothing was acknowledged in that reign,
    /// and what was before may have needed other copies, where the keyspace was altered since: all
    /// of them are asked then.
    fn has_what_was_met_before(&self, scene: &Scene<'_>, by: &[RegionId]) -> bool {
        let ends = self.promised.values().map(|(end, _)| end);
        let mut ends = ends.filter(|end| end.is_sound);
        if ends.any(|end| end.epoch >= Some(self.from)) || !scene.map.is_altered(scene.partition) {
            return true;
        }
        let mut copies = scene
            .holders()
            .filter(|(node, _)| *node != scene.assignment.home);
        is_planted(Bug::TrustUnbegun) || copies.all(|(_, region)| by.contains(&region))
    }

    /// The regions beside the home's that promised and hold what they ever acknowledged.
    fn revoked_by(&self, scene: &Scene<'_>) -> Vec<RegionId> {
        let home = scene.map.node(scene.assignment.home);
        let home_region = home.map(|node| node.region);
        let sound = scene.holders().filter(|(node, region)| {
            let end = self.end_of(*node);
            end.is_some_and(|end| end.is_sound) && Some(*region) != home_region
        });
        let mut by: Vec<RegionId> = sound.map(|(_, region)| region).collect();
        by.sort_unstable();
        by.dedup();
        by
    }

    /// Whoever has most; the old home among equals, as it is served already; then the keyspace's
    /// order. An operator's word comes first: whom they name, or not the region they take it from.
    /// Where nobody of these can lead and everybody has answered, it is whoever can, the old home
    /// too: copies that wait to be healed wait for a home, and would wait for ever without one.
    fn successor(&self, scene: &Scene<'_>) -> Option<(NodeId, PromisedEnd)> {
        let Keyspace {
            successors,
            regions,
            ..
        } = scene.keyspace;
        let rank = |region: RegionId| {
            let mut order = successors.iter().chain(regions);
            order.position(|each| *each == region)
        };
        let sound = scene.holders().filter_map(|(node, region)| {
            let end = self.end_of(node)?;
            end.is_sound.then_some((node, region, end))
        });
        // Whom an operator takes the partition from does not get it again if another one can lead.
        let word = scene.word();
        let home = scene.map.node(scene.assignment.home);
        let home_region = home.map(|node| node.region);
        let is_meant = |region: RegionId| match word.map(|word| word.to) {
            None => true,
            Some(None) => Some(region) != home_region,
            Some(Some(to)) => to == region,
        };
        if is_planted(Bug::PromoteAny) {
            let meant = sound.filter(|(_, region, _)| is_meant(*region));
            return meant.map(|(node, _, end)| (node, end)).last();
        }
        let has_everybody_promised = scene.holders().all(|(node, _)| self.has_promised(node));
        let able = sound.filter(|(_, region, _)| has_everybody_promised || is_meant(*region));
        let best = able.max_by_key(|(node, region, end)| {
            let is_home = *node == scene.assignment.home;
            (
                is_meant(*region),
                end.epoch,
                end.upto,
                is_home,
                std::cmp::Reverse(rank(*region)),
            )
        });
        best.map(|(node, _, end)| (node, end))
    }
}
