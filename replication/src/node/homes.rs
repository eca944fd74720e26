//! Homes as an operator sees them: what changed hands, what it cost, giving a home up by hand.
//!
//! **Owns**: the shapes shown, which partitions an operator's word is about.
//! **Does not own**: deciding (the leader), orphan files (storage).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use domicile_core::control::{Change, Command, ControlMap, Fencing, OperatorWord, Why};
use domicile_proto::{Epoch, Keyspace, Name, NodeId, PartitionId, Reason, RegionId};
use domicile_storage::{Orphan, OrphanFile, OrphanState};

use super::interior::NodeCore;
use crate::error::Error;
use crate::ownership::{GIVEN_UP_AT_ONCE, Plane, blocking, given_up};

/// How long it may take until what was agreed on is known here.
const HEARING_MAX: Duration = Duration::from_secs(2);

/// How long an operator's command may wait for a leader: as long as an election takes, and more.
const PROPOSAL_MAX: Duration = Duration::from_secs(10);

/// Partitions handed on at once: each stops for about a round trip, and they share a disk and a
/// link. Twice as many make the pause of each longer.
const SWITCHED_AT_ONCE: usize = 64;

/// A change of home, for people. Times are in ms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HomeChange {
    /// Of which partition.
    pub partition: PartitionId,
    /// The keyspace's name.
    pub keyspace: String,
    /// The region of the old home, and its reign.
    pub from: (String, String),
    /// The region of the new home, and its reign.
    pub to: (String, String),
    /// Whether it was planned.
    pub is_planned: bool,
    /// From when the home was last heard of until it was given up.
    pub detect_ms: Option<u64>,
    /// Until it could not acknowledge any more.
    pub fence_ms: Option<u64>,
    /// Until its successor served.
    pub promote_ms: Option<u64>,
    /// Until it acknowledged a write.
    pub route_ms: Option<u64>,
    /// When it was noticed or done, in ms since 1970; `None`: not known so far.
    pub at_ms: Option<u64>,
    /// Records that were known to be lost when the successor was chosen: the old home may have had
    /// more.
    pub estimated_writes_min: u64,
    /// Records that may be lost, by how fast the old home wrote and for how long it was not heard;
    /// `None`: nobody can tell.
    pub estimated_writes_max: Option<u64>,
    /// Records beyond the fork that the old home had; `None` until its journal was read.
    pub actual_writes: Option<u64>,
    /// Their bytes on disk.
    pub actual_bytes: Option<u64>,
    /// Since when the old home acknowledged with less than its level, in ms since 1970, if it did
    /// at its end.
    pub degraded_ms: Option<u64>,
}

/// What became of a planned change of homes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Switchover {
    /// These have their new home.
    pub moved: Vec<PartitionId>,
    /// These have not, and why.
    pub stayed: Vec<(PartitionId, String)>,
}

/// What became of an operator's word that homes are to be given up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GivenUp {
    /// How many partitions' reigns it ended.
    pub partitions: usize,
    /// Those for which somebody else was faster, and what stands against it.
    pub refused: Vec<(PartitionId, String)>,
}

/// A record that a new home never had.
#[derive(Debug, Clone)]
pub struct OrphanRecord {
    /// The file that keeps it.
    pub file: OrphanFile,
    /// The record, its place and what became of it.
    pub orphan: Orphan,
}

impl NodeCore {
    pub(super) fn home_changes(&self) -> Result<Vec<HomeChange>, Error> {
        let plane = self.plane.as_ref().ok_or_else(homes_are_static)?;
        let map = plane.map();
        let region = |node| {
            let id = map.node(node).map(|it| it.region);
            let spec = id.and_then(|id| self.topology.region(id));
            spec.map_or_else(String::new, |spec| spec.name.to_string())
        };
        let shown = |change: &Change| {
            let times = change.times();
            let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
            let keyspace = map.keyspace(change.partition.keyspace);
            let (estimated_min, estimated_max) = match change.why {
                Why::Lost(_, decision) => {
                    let known = decision.known_upto.since(decision.upto);
                    (known, decision.unheard_max.map(|unheard| known + unheard))
                }
                Why::Planned => (0, Some(0)),
            };
            HomeChange {
                partition: change.partition,
                keyspace: keyspace.map_or_else(String::new, |it| it.name.to_string()),
                from: (region(change.from.node), change.from.to_string()),
                to: (region(change.to.node), change.to.to_string()),
                is_planned: change.why == Why::Planned,
                detect_ms: times.map(|times| ms(times.detect)),
                fence_ms: times.map(|times| ms(times.fence)),
                promote_ms: times.map(|times| ms(times.promote)),
                route_ms: times.and_then(|times| times.route).map(ms),
                at_ms: match change.why {
                    Why::Lost(lost, _) => Some(lost.noticed_ms),
                    Why::Planned => change.opened_ms,
                },
                estimated_writes_min: estimated_min,
                estimated_writes_max: estimated_max,
                actual_writes: change.actual.map(|(records, _)| records),
                actual_bytes: change.actual.map(|(_, bytes)| bytes),
                degraded_ms: change.degraded_ms,
            }
        };
        Ok(map.history().iter().map(shown).collect())
    }

    pub(super) fn home_changes_forgotten(&self) -> Result<u64, Error> {
        let plane = self.plane.as_ref().ok_or_else(homes_are_static)?;
        Ok(plane.map().history().forgotten())
    }

    pub(super) async fn switch_over(
        &self,
        from: Option<RegionId>,
        to: RegionId,
        keyspace: Option<&Name>,
        within: Duration,
    ) -> Result<Switchover, Error> {
        let plane = self.plane.as_ref().ok_or_else(homes_are_static)?;
        let map = plane.map();
        let follower = self.node_at(&map, to).ok_or_else(|| {
            let message = format!("no node of region {to} is in the cluster");
            Error::new(Reason::InvalidArgument, message)
        })?;
        let moved = map.assignments().filter(|(partition, it)| {
            let home = map.node(it.home).map(|node| node.region);
            let policy = map.keyspace(partition.keyspace);
            let is_meant = policy.is_some_and(|policy| {
                let is_named = keyspace.is_none_or(|name| policy.name == *name);
                is_named && policy.regions.contains(&to)
            });
            is_meant && home != Some(to) && from.is_none_or(|from| home == Some(from))
        });
        let moved: Vec<(PartitionId, Epoch)> = moved.map(|(id, it)| (id, it.epoch)).collect();
        let begin = |(partition, from): &(PartitionId, Epoch)| Command::BeginSwitchover {
            partition: *partition,
            from: *from,
            to: follower,
        };
        let deadline = tokio::time::Instant::now() + within;
        let mut outcome = Switchover::default();
        for chunk in moved.chunks(SWITCHED_AT_ONCE) {
            let commands: Vec<Command> = chunk.iter().map(begin).collect();
            let refused = plane.propose(&commands, within).await?;
            let refused = chunk.iter().zip(refused).filter(|(_, why)| !why.is_empty());
            let refused: BTreeMap<PartitionId, String> =
                refused.map(|((id, _), why)| (*id, why)).collect();
            // All of them were agreed on at once: what is not known by then was called off since.
            let known_by = deadline.min(tokio::time::Instant::now() + HEARING_MAX);
            let due = (known_by, deadline);
            for (partition, from) in chunk.iter().filter(|(id, _)| !refused.contains_key(id)) {
                match switched(plane, *partition, *from, follower, due).await {
                    Ok(()) => outcome.moved.push(*partition),
                    Err(why) => outcome.stayed.push((*partition, why.to_owned())),
                }
            }
            outcome.stayed.extend(refused);
        }
        Ok(outcome)
    }

    /// The node of a region; where one takes another's place, the one that answers.
    fn node_at(&self, map: &ControlMap, region: RegionId) -> Option<NodeId> {
        let nodes = map.live_nodes().filter(|(_, at)| *at == region);
        let nodes: Vec<NodeId> = nodes.map(|(node, _)| node).collect();
        let known = match region == self.topology.own.id {
            true => Some(self.store.node_id()),
            false => self.links.of(region).and_then(|link| link.status().node),
        };
        let known = known.filter(|node| nodes.contains(node));
        known.or_else(|| nodes.first().copied())
    }

    pub(super) async fn give_up_homes(
        &self,
        region: RegionId,
        keyspace: Option<&Name>,
        word: OperatorWord,
    ) -> Result<GivenUp, Error> {
        let plane = self.plane.as_ref().ok_or_else(homes_are_static)?;
        let map = plane.map();
        check_word(&map, region, keyspace, word)?;
        let partitions = homes_in(&map, region, keyspace);
        let reigns = partitions.filter_map(|(id, _)| Some((id, map.assignment(id)?.epoch)));
        let reigns: Vec<(PartitionId, Epoch)> = reigns.collect();
        let mut given = GivenUp::default();
        for chunk in reigns.chunks(GIVEN_UP_AT_ONCE) {
            let commands = chunk.iter().map(|(id, from)| given_up(*id, *from, word));
            let commands: Vec<Command> = commands.collect();
            let answers = plane.propose(&commands, PROPOSAL_MAX).await?;
            for ((partition, _), why) in chunk.iter().zip(answers) {
                match why.is_empty() {
                    true => given.partitions += 1,
                    false => given.refused.push((*partition, why)),
                }
            }
        }
        Ok(given)
    }

    pub(super) async fn orphans(self: &Arc<Self>) -> Result<Vec<OrphanRecord>, Error> {
        let store = Arc::clone(&self.store);
        let read = blocking(move || {
            let mut all = Vec::new();
            for file in store.orphan_files()?.files {
                for orphan in store.orphan_records(file.id())? {
                    let orphan = orphan?;
                    all.push(OrphanRecord { file, orphan });
                }
            }
            Ok(all)
        });
        read.await
    }
}

/// The partitions that are homed in a region.
fn homes_in<'map>(
    map: &'map ControlMap,
    region: RegionId,
    keyspace: Option<&'map Name>,
) -> impl Iterator<Item = (PartitionId, &'map Keyspace)> {
    map.assignments().filter_map(move |(partition, it)| {
        let home = map.node(it.home).map(|node| node.region);
        let policy = map.keyspace(partition.keyspace)?;
        let is_meant = home == Some(region) && keyspace.is_none_or(|name| policy.name == *name);
        is_meant.then_some((partition, policy))
    })
}

/// Refuses what an operator has not said enough about.
fn check_word(
    map: &ControlMap,
    region: RegionId,
    keyspace: Option<&Name>,
    word: OperatorWord,
) -> Result<(), Error> {
    let invalid = |message: String| Err(Error::new(Reason::InvalidArgument, message));
    for (partition, policy) in homes_in(map, region, keyspace) {
        let name = &policy.name;
        if let Some(to) = word.to.filter(|to| !policy.regions.contains(to)) {
            let message = format!("region {to} may not hold keyspace {name}");
            return Err(Error::new(Reason::DataResidency, message));
        }
        let in_force = map.assignment(partition).into_iter();
        let mut in_force = in_force.flat_map(|it| map.policies_in_force(partition, it));
        let is_proven = in_force.all(|policy| policy.fencing != Fencing::Operator);
        if !(is_proven || word.is_fenced || word.accepts_split_brain) {
            return invalid(format!(
                "nothing proves that the home of {partition} ({name}) is off: say that you have \
                 seen it (fenced), or accept two homes at once (accept_split_brain)"
            ));
        }
    }
    Ok(())
}

/// Waits for the end of one switchover.
async fn switched(
    plane: &Plane,
    partition: PartitionId,
    from: Epoch,
    to: NodeId,
    (known_by, deadline): (tokio::time::Instant, tokio::time::Instant),
) -> Result<(), &'static str> {
    let mut maps = plane.maps.clone();
    // It was agreed on, which may be known elsewhere first.
    let is_known = |map: &Arc<ControlMap>| {
        let found = map.assignment(partition);
        found.is_none_or(|it| it.epoch != from || it.moving_to == Some(to))
    };
    let _ = tokio::time::timeout_at(known_by, maps.wait_for(is_known)).await;
    loop {
        let found = maps.borrow_and_update().assignment(partition);
        let Some(found) = found else {
            return Err("its keyspace is gone");
        };
        if found.epoch != from {
            let is_there = found.home == to;
            return is_there.then_some(()).ok_or("it has another home by now");
        }
        if found.lost.is_some() {
            return Err("its home was lost meanwhile");
        }
        if found.moving_to.is_none() {
            return Err("called off: the region does not keep up, or the home has no lease");
        }
        let changed = tokio::time::timeout_at(deadline, maps.changed()).await;
        match changed {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err("the node closes"),
            Err(_) => return Err("not done in time: it goes on"),
        }
    }
}

/// What became of an orphan, in a word.
#[must_use]
pub fn orphan_state(state: OrphanState) -> &'static str {
    match state {
        OrphanState::Open => "open",
        OrphanState::Replayed => "replayed",
        OrphanState::Discarded => "discarded",
    }
}

pub(super) fn homes_are_static() -> Error {
    let message = "homes are static here: set cluster.homes to agreed at every node";
    Error::new(Reason::InvalidArgument, message)
}
