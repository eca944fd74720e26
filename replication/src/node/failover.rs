//! What would become of a region's homes if it were lost now.
//!
//! **Owns**: the answer, as far as this node knows: who may follow, what would be lost, how long it
//! would take.
//! **Does not own**: deciding (the leader, the map), the numbers themselves (cores).

use domicile_core::control::{Assignment, ControlMap, Fencing};
use domicile_core::{Role, Rpo};
use domicile_proto::{Failover, Keyspace, Name, NodeId, PartitionId, RegionId};
use std::time::Duration;

use super::homes::homes_are_static;
use super::interior::NodeCore;
use crate::driver::Slot;
use crate::error::Error;
use crate::ownership::{Plane, region_of};

/// One partition of a region that may be lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailoverPlan {
    /// Which.
    pub partition: PartitionId,
    /// Of which keyspace.
    pub keyspace: String,
    /// Its home's region, and the reign.
    pub home: (String, String),
    /// What keeps the old home from acknowledging.
    pub fencing: Fencing,
    /// Whether it happens by itself.
    pub is_automatic: bool,
    /// Regions that may take over and are in service, in the order in which they come among equals.
    pub successors: Vec<String>,
    /// What the best copy lacks of what is acknowledged, as far as this node knows; a copy knows of
    /// writes only.
    pub loss: Rpo,
    /// Whether that is exact: this node is the home.
    pub is_loss_exact: bool,
    /// The longest that writes would stop while a majority of voters is up; `None`: until an
    /// operator acts.
    pub rto_max: Option<Duration>,
    /// What stands against it.
    pub obstacle: Option<String>,
}

impl NodeCore {
    pub(super) fn failover_plan(
        &self,
        region: RegionId,
        keyspace: Option<&Name>,
    ) -> Result<Vec<FailoverPlan>, Error> {
        let plane = self.plane.as_ref().ok_or_else(homes_are_static)?;
        let map = plane.map();
        let mut plans = Vec::new();
        for (partition, assignment) in map.assignments() {
            let home = map.node(assignment.home).map(|node| node.region);
            let Some(policy) = map.keyspace(partition.keyspace) else {
                continue;
            };
            if home == Some(region) && keyspace.is_none_or(|name| policy.name == *name) {
                plans.push(self.plan_of(plane, &map, policy, partition, assignment));
            }
        }
        Ok(plans)
    }

    pub(super) fn takeover_max(&self, keyspace: &Keyspace) -> Option<Option<Duration>> {
        let plane = self.plane.as_ref()?;
        let is_proven = Fencing::of(keyspace, plane.map().voters()) != Fencing::Operator;
        // Whichever region is lost, the leader may be in it.
        Some(is_proven.then(|| longest(plane) + plane.election_max))
    }

    fn plan_of(
        &self,
        plane: &Plane,
        map: &ControlMap,
        policy: &Keyspace,
        partition: PartitionId,
        assignment: Assignment,
    ) -> FailoverPlan {
        let in_force = map.policy(partition, assignment.revision);
        let fencing = in_force.map_or(Fencing::Operator, |policy| policy.fencing);
        let home = map.node(assignment.home).map(|node| node.region);
        let name = |region: RegionId| {
            let spec = self.topology.region(region);
            spec.map_or_else(|| region.to_string(), |spec| spec.name.to_string())
        };
        let has_node = |region: RegionId| map.live_nodes().any(|(_, at)| at == region);
        let mut successors: Vec<RegionId> = Vec::new();
        for region in policy.successors.iter().chain(&policy.regions) {
            if Some(*region) != home && has_node(*region) && !successors.contains(region) {
                successors.push(*region);
            }
        }
        let obstacle = if successors.is_empty() {
            Some("no other region may hold it")
        } else if home.is_some_and(|home| !has_majority_without(plane, home)) {
            Some("without its region the voters have no majority: nothing could be decided")
        } else {
            obstacle_of(policy.failover, fencing, assignment)
        };
        let is_automatic = obstacle.is_none();
        let leader = plane.consensus.leader().map(|leader| leader.node);
        let leader = leader.and_then(|leader| region_of(plane, leader));
        // With the leader another one is elected first; unknown, it may be there.
        let election = match leader.is_some() && leader != home {
            true => Duration::ZERO,
            false => plane.election_max,
        };
        let (loss, is_loss_exact) = match self.driver.slot(partition) {
            Some(slot) => self.known_loss(&slot),
            None => (Rpo::default(), false),
        };
        FailoverPlan {
            partition,
            keyspace: policy.name.to_string(),
            home: (
                home.map_or_else(String::new, name),
                assignment.epoch.to_string(),
            ),
            fencing,
            is_automatic,
            successors: successors.into_iter().map(name).collect(),
            loss,
            is_loss_exact,
            rto_max: is_automatic.then(|| longest(plane) + election),
            obstacle: obstacle.map(str::to_owned),
        }
    }

    /// What the best copy lacks, and whether this node knows that: it does as the home.
    fn known_loss(&self, slot: &Slot) -> (Rpo, bool) {
        let (status, _) = slot.status(self.clock.now());
        let best = status.copies.iter().max_by_key(|copy| copy.durable_upto);
        match (status.role, best) {
            (Role::Home, Some(best)) => (best.potential, true),
            (Role::Home, None) => (Rpo::default(), true),
            _ => {
                let writes = slot.home_upto().since(status.durable_upto);
                let (bytes, age) = (0, Duration::ZERO);
                (Rpo { writes, bytes, age }, false)
            }
        }
    }
}

/// What stands against a takeover that somebody could carry out.
fn obstacle_of(
    failover: Failover,
    fencing: Fencing,
    assignment: Assignment,
) -> Option<&'static str> {
    if let Failover::Buffer(_) = failover {
        Some("its policy is buffer: an operator decides")
    } else if failover == Failover::ReadOnly {
        Some("its policy is read_only: an operator decides")
    } else if fencing == Fencing::Operator {
        Some("nothing proves that the old home is off: an operator must")
    } else if assignment.lost.is_some() {
        Some("it is being taken over now")
    } else if assignment.degraded_ms.is_some() {
        Some("it acknowledges alone, and what it did is nowhere else: an operator decides")
    } else {
        None
    }
}

/// Whether those who vote now could decide anything if a region were lost. One that was added
/// counts once its node votes: while members change, a majority of the former ones is needed, too.
fn has_majority_without(plane: &Plane, region: RegionId) -> bool {
    let members = plane.consensus.members();
    let is_left = |voter: &&NodeId| {
        let member = members.members.get(*voter);
        member.is_none_or(|member| member.region != region)
    };
    let left = members.voters.iter().filter(is_left).count();
    2 * left > members.voters.len() && !members.changing
}

/// The longest that a takeover by a leader leaves a partition without a home.
fn longest(plane: &Plane) -> Duration {
    plane.times.waited_out() + plane.times.promise_patience
}
