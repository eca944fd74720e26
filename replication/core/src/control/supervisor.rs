//! The leader's watch: leases are granted, lost homes are given up, takeovers are run.
//!
//! **Owns**: what a leader remembers while it leads; nothing of it outlives its lead but what is in
//! the map.
//! **Does not own**: the map, being leader, the promises themselves.
//!
//! A takeover begins and ends with a command in the map. In between everything may be done again:
//! a new leader finds the partition given up, gathers promises anew and waits out leases anew.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use domicile_proto::{Epoch, Failover, NodeId, PartitionId};

use super::command::{Command, Lost};
use super::fencing::{Fencing, revokes};
use super::lease::{Grant, LeaseBook};
use super::map::{Assignment, ControlMap, Policy};
use super::takeover::{PromisedEnd, Scene, TakeOver};
use super::times::ControlTimes;
use super::watchman::Watchman;
use crate::moment::Moment;

/// What was proposed or asked and not answered is repeated after this long, and two round trips.
const RETRY_MIN: Duration = Duration::from_millis(200);

/// New reigns that are proposed together: a pause of writes in each, for a few milliseconds.
/// Doubled, an alteration of many partitions is through sooner, and more of them pause at once.
const RENEWED_AT_ONCE: usize = 64;

/// How long a home that called a planned change off is left alone before it is to renew its reign:
/// it may have ended that in favour of another node, and says so within this. Twice the time in
/// which it looks; a renewal that comes first stands in the way of the other one.
const CALLED_OFF_REST: Duration = Duration::from_secs(4);

/// How long a home may take to call a switchover off, and twice as long as it does take: by then
/// it has ended its reign, or it goes on.
pub const SWITCH_PATIENCE: Duration = Duration::from_secs(20);

/// What a leader hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SupervisorInput {
    /// A node asked for a lease; whether it gets one is not said here.
    Heard {
        /// Which node.
        node: NodeId,
        /// Which start of its process.
        incarnation: u64,
    },
    /// That the leader still is one was confirmed by a majority after the node had asked: it is
    /// granted a lease on the map as it is now.
    Grant {
        /// Which node.
        node: NodeId,
        /// The number it asked with.
        ask: u64,
        /// When it was heard.
        heard: Moment,
    },
    /// A node has promised durably.
    Promised {
        /// Which node.
        node: NodeId,
        /// What.
        partition: PartitionId,
        /// The floor it promised.
        floor: Epoch,
        /// What it has.
        end: PromisedEnd,
    },
    /// Time has passed, or the map has changed.
    Tick,
}

/// What a leader does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SupervisorEffect {
    /// Put these before the map, in this order, at once.
    Propose(Vec<Command>),
    /// Answer a node that asked for a lease.
    Grant {
        /// Which node.
        node: NodeId,
        /// What it may count on.
        grant: Grant,
    },
    /// Ask a node to promise, and what it has.
    AskPromise {
        /// Which node.
        node: NodeId,
        /// What.
        partition: PartitionId,
        /// Nothing below it is to be taken any more.
        floor: Epoch,
    },
}

/// A leader's state, from when it began to lead.
#[derive(Debug, Clone)]
pub struct Supervisor {
    times: ControlTimes,
    watchman: Watchman,
    book: LeaseBook,
    takeovers: BTreeMap<PartitionId, TakeOver>,
    /// When giving up a home was last proposed.
    given_up: BTreeMap<PartitionId, Moment>,
    /// When a new reign of its home was last proposed.
    renewed: BTreeMap<PartitionId, Moment>,
    /// When a planned change of a partition was last seen to be under way.
    moving: BTreeMap<PartitionId, Moment>,
    map_version: u64,
    seen: Seen,
}

/// What a map comes to while nothing happens: a tick then costs nothing for each partition.
#[derive(Debug, Clone, Default)]
struct Seen {
    /// Of which map; `None`: of none so far.
    version: Option<u64>,
    /// The nodes that are homes, or are to be.
    homes: BTreeSet<NodeId>,
    /// Whether some partition is being taken over.
    is_any_lost: bool,
    /// Whether some home is to begin a new reign.
    is_any_outdated: bool,
}

impl Seen {
    fn of(map: &ControlMap) -> Self {
        let (mut homes, mut is_any_lost, mut is_any_outdated) = (BTreeSet::new(), false, false);
        for (partition, assignment) in map.assignments() {
            is_any_outdated |= map.is_outdated(partition, assignment);
            homes.extend(
                [Some(assignment.home), assignment.moving_to]
                    .into_iter()
                    .flatten(),
            );
            is_any_lost |= assignment.lost.is_some();
        }
        let version = Some(map.version());
        Self {
            version,
            homes,
            is_any_lost,
            is_any_outdated,
        }
    }
}

impl Supervisor {
    /// A leader that begins now, having heard of nobody.
    #[must_use]
    pub fn new(times: ControlTimes, now: Moment) -> Self {
        Self {
            times,
            watchman: Watchman::new(now),
            book: LeaseBook::new(now),
            takeovers: BTreeMap::new(),
            given_up: BTreeMap::new(),
            renewed: BTreeMap::new(),
            moving: BTreeMap::new(),
            map_version: 0,
            seen: Seen::default(),
        }
    }

    /// Takes one input and appends what is to be done about it. `wall_ms` is for people only.
    pub fn step(
        &mut self,
        now: Moment,
        wall_ms: u64,
        map: &ControlMap,
        input: SupervisorInput,
        effects: &mut Vec<SupervisorEffect>,
    ) {
        let (actual, last) = (map.version(), self.map_version);
        assert!(actual >= last, "the map went back from {last} to {actual}");
        self.map_version = actual;
        if self.seen.version != Some(actual) {
            self.seen = Seen::of(map);
        }
        match input {
            SupervisorInput::Heard { node, incarnation } => {
                self.watchman.heard(node, incarnation, now, &self.times);
                return;
            }
            SupervisorInput::Grant { node, ask, heard } => {
                // Whoever is given up is so in the map that the lease counts with, or is waited for
                // by the book: the map must not be older than the one a takeover was begun on.
                let map_version = map.version();
                self.book.grant(node, heard);
                let grant = Grant { ask, map_version };
                effects.push(SupervisorEffect::Grant { node, grant });
                return;
            }
            SupervisorInput::Promised {
                node,
                partition,
                floor,
                end,
            } => {
                let promised = (node, end);
                self.promised(now, map, promised, partition, floor);
            }
            SupervisorInput::Tick => {
                self.give_up_lost(now, wall_ms, map, effects);
                self.renew_reigns(now, map, effects);
            }
        }
        self.take_over(now, wall_ms, map, effects);
    }

    /// When to step [`SupervisorInput::Tick`] at the latest: often enough that a silence or the end
    /// of a lease is noticed within a hundredth of what is waited for.
    #[must_use]
    pub fn next_timeout(&self, now: Moment) -> Moment {
        now.plus((self.times.lease / 100).max(Duration::from_millis(10)))
    }

    fn retry(&self) -> Duration {
        RETRY_MIN.max(self.times.promise_patience)
    }

    fn lost(&self, home: NodeId, now: Moment, wall_ms: u64) -> Lost {
        let silence = now.since(self.watchman.last_heard(home)).as_millis();
        let silence_ms = u64::try_from(silence).unwrap_or(u64::MAX);
        Lost {
            heard_ms: wall_ms.saturating_sub(silence_ms),
            noticed_ms: wall_ms,
            word: None,
        }
    }

    /// Homes at nodes that are silent for too long are given up, where somebody can take over.
    fn give_up_lost(
        &mut self,
        now: Moment,
        wall_ms: u64,
        map: &ControlMap,
        effects: &mut Vec<SupervisorEffect>,
    ) {
        let mut homes = self.seen.homes.iter();
        if !homes.any(|home| self.watchman.is_lost(*home, now, &self.times)) {
            return;
        }
        let retry = self.retry();
        let mut commands = Vec::new();
        for (partition, assignment) in map.assignments() {
            let home = assignment.home;
            let is_silent = self.watchman.is_lost(home, now, &self.times)
                || assignment
                    .moving_to
                    .is_some_and(|to| self.is_stranded(to, now));
            if assignment.lost.is_some() || !is_silent {
                continue;
            }
            let asked = self.given_up.get(&partition);
            let is_asked = asked.is_some_and(|asked| now.since(*asked) < retry);
            if is_asked || !self.may_succeed(now, map, partition, assignment) {
                continue;
            }
            self.watchman.give_up(home);
            self.given_up.insert(partition, now);
            commands.push(Command::BeginTakeOver {
                partition,
                from: assignment.epoch,
                lost: self.lost(home, now, wall_ms),
            });
        }
        if !commands.is_empty() {
            effects.push(SupervisorEffect::Propose(commands));
        }
    }

    /// Homes that are heard of begin a new reign where their keyspace was altered.
    fn renew_reigns(&mut self, now: Moment, map: &ControlMap, effects: &mut Vec<SupervisorEffect>) {
        if !self.seen.is_any_outdated {
            self.moving.clear();
            return;
        }
        let moving = map.assignments().filter(|(_, it)| it.moving_to.is_some());
        self.moving.extend(moving.map(|(id, _)| (id, now)));
        let (watchman, times) = (&self.watchman, &self.times);
        let retry = self.retry();
        let due = map.assignments().filter_map(|(partition, assignment)| {
            let renewal = map.renewal(partition, assignment)?;
            let is_asked = self.renewed.get(&partition);
            let is_asked = is_asked.is_some_and(|asked| now.since(*asked) < retry);
            let is_heard = !watchman.is_lost(assignment.home, now, times);
            let moved = self.moving.get(&partition);
            let has_rested = moved.is_none_or(|at| now.since(*at) >= CALLED_OFF_REST);
            (is_heard && has_rested && !is_asked).then_some((partition, renewal))
        });
        let due: Vec<(PartitionId, Command)> = due.take(RENEWED_AT_ONCE).collect();
        self.renewed.retain(|_, asked| now.since(*asked) < retry);
        if due.is_empty() {
            return;
        }
        self.renewed.extend(due.iter().map(|(id, _)| (*id, now)));
        let commands = due.into_iter().map(|(_, renewal)| renewal);
        effects.push(SupervisorEffect::Propose(commands.collect()));
    }

    /// Whether a partition that is being handed to this node may have no home any more: the old one
    /// would have called it off by now, unless it had ended its reign.
    fn is_stranded(&self, to: NodeId, now: Moment) -> bool {
        let lost_at = self.watchman.lost_at(to, &self.times);
        now >= lost_at.plus(SWITCH_PATIENCE)
    }

    /// Whether giving the home up now could lead to a successor: else it would only stop a home
    /// that may be well and merely unheard of.
    fn may_succeed(
        &self,
        now: Moment,
        map: &ControlMap,
        partition: PartitionId,
        assignment: Assignment,
    ) -> bool {
        if assignment.degraded_ms.is_some() {
            return false;
        }
        let present = map.keyspace(partition.keyspace);
        if !present.is_some_and(|keyspace| keyspace.failover == Failover::Promote) {
            return false;
        }
        let mut policies = map.policies_in_force(partition, assignment);
        policies.all(
            |Policy {
                 keyspace, fencing, ..
             }| {
                let alive = map.live_nodes().filter(|(node, region)| {
                    *node != assignment.home
                        && keyspace.regions.contains(region)
                        && !self.watchman.is_lost(*node, now, &self.times)
                });
                let alive = alive.count();
                match fencing {
                    Fencing::Operator => false,
                    Fencing::Lease => alive > 0,
                    Fencing::AckRevocation => revokes(keyspace.ack, keyspace.copies(), alive),
                }
            },
        )
    }

    fn promised(
        &mut self,
        now: Moment,
        map: &ControlMap,
        (node, end): (NodeId, PromisedEnd),
        partition: PartitionId,
        floor: Epoch,
    ) {
        let Some(assignment) = map.assignment(partition) else {
            return;
        };
        // What was promised in answer to an older question may have been added to since.
        if let Some(takeover) = self.takeovers.get_mut(&partition)
            && takeover.from == assignment.epoch
            && floor == assignment.floor()
        {
            takeover.promised(node, end, now);
        }
    }

    fn take_over(
        &mut self,
        now: Moment,
        wall_ms: u64,
        map: &ControlMap,
        effects: &mut Vec<SupervisorEffect>,
    ) {
        let retry = self.retry();
        self.given_up.retain(|_, asked| now.since(*asked) < retry);
        if !self.seen.is_any_lost && self.takeovers.is_empty() {
            return;
        }
        self.takeovers.retain(|partition, takeover| {
            let assignment = map.assignment(*partition);
            assignment.is_some_and(|it| it.lost.is_some() && it.epoch == takeover.from)
        });
        let mut commands = Vec::new();
        for (partition, assignment) in map.assignments().filter(|(_, it)| it.lost.is_some()) {
            let Some(keyspace) = map.keyspace(partition.keyspace) else {
                continue;
            };
            let (watchman, book, times) = (&self.watchman, &self.book, &self.times);
            let takeover = self.takeovers.entry(partition).or_insert_with(|| {
                let homes = [Some(assignment.home), assignment.moving_to];
                let ends = homes.into_iter().flatten();
                let leases_end = ends.map(|node| book.ends(node, times)).max();
                TakeOver::new(assignment.epoch, now, leases_end.unwrap_or(now))
            });
            let scene = Scene {
                map,
                partition,
                assignment,
                keyspace,
                times,
                now,
                wall_ms,
            };
            if takeover.asked.is_none_or(|asked| now.since(asked) >= retry) {
                takeover.asked = Some(now);
                let floor = assignment.floor();
                let silent = scene
                    .holders()
                    .filter(|(node, _)| !takeover.has_promised(*node));
                effects.extend(silent.map(|(node, _)| SupervisorEffect::AskPromise {
                    node,
                    partition,
                    floor,
                }));
            }
            if takeover
                .proposed
                .is_some_and(|proposed| now.since(proposed) < retry)
            {
                continue;
            }
            let is_alive = |node| !watchman.is_lost(node, now, times);
            if let Some(command) = takeover.decide(&scene, is_alive) {
                takeover.proposed = Some(now);
                commands.push(command);
            }
        }
        if !commands.is_empty() {
            effects.push(SupervisorEffect::Propose(commands));
        }
    }
}
