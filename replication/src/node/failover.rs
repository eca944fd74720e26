//! What would become of a region's homes if it were lost now.
//!
//! **Owns**: the answer, as far as this node knows: who may follow, what would be lost, how long it
//! would take.
//! **Does not own**: deciding (the leader, the map), the numbers themselves (cores).

use domicile_core::control::{Assignment, ControlMap, Fencing};
use domicile_core::{Role, Rpo};
use domicile_proto::{Failover, Keyspace, Name, PartitionId, RegionId};
use std::time::Duration;

use super::homes::homes_are_static;
use super::interior::NodeCore;
use crate::driver::Slot;
use crate::error::Error;
use crate::ownership::Plane;

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
        Some(is_proven.then(|| longest(plane)))
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
        let obstacle = match (policy.failover, fencing, successors.is_empty()) {
            (_, _, true) => Some("no other region may hold it".to_owned()),
            (Failover::Buffer(_), _, _) => {
                Some("its policy is buffer: an operator decides".to_owned())
            }
            (Failover::ReadOnly, _, _) => {
                Some("its policy is read_only: an operator decides".to_owned())
            }
            (_, Fencing::Operator, _) => {
                Some("nothing proves that the old home is off: an operator must".to_owned())
            }
            _ => assignment
                .lost
                .map(|_| "it is being taken over now".to_owned()),
        };
        let is_automatic = obstacle.is_none();
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
            rto_max: is_automatic.then(|| longest(plane)),
            obstacle,
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

/// The longest that a takeover leaves a partition without a home.
fn longest(plane: &Plane) -> Duration {
    plane.times.waited_out() + plane.times.promise_patience
}
