//! I18: a reign goes by one policy of its keyspace, from its beginning to its end, wherever it is.
//!
//! **Owns**: that homes of the same reign go by the same, and by what the map says of it.
//! **Does not own**: what follows from a policy (the other invariants).

use domicile_core::Partition;
use domicile_core::control::{ControlMap, Fencing};
use domicile_core::{LeaseNeed, PartitionConfig};
use domicile_proto::{AckLevel, Epoch, OnTimeout, PartitionId, RegionId};

use crate::scene::Scene;

/// What a reign goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) lease: LeaseNeed,
    ack: AckLevel,
    on_timeout: OnTimeout,
    regions: Vec<RegionId>,
}

/// A node leads in a reign.
pub(crate) fn leads(node: usize, core: &Partition, scene: &mut Scene) {
    let config = core.config();
    let Some(epoch) = core.epoch() else {
        return;
    };
    let terms = of_config(config);
    goes_by(config.partition, epoch, terms, &format!("n{node}"), scene);
}

/// The control plane has decided something.
pub(crate) fn decided(map: &ControlMap, scene: &mut Scene) {
    for (partition, assignment) in map.assignments() {
        let Some(policy) = map.policy(partition, assignment.revision) else {
            continue;
        };
        let terms = Terms {
            lease: match policy.fencing {
                Fencing::Lease => LeaseNeed::Everything,
                Fencing::AckRevocation => LeaseNeed::Reads,
                Fencing::Operator => LeaseNeed::Nothing,
            },
            ack: policy.keyspace.ack,
            on_timeout: policy.keyspace.on_timeout,
            regions: policy.keyspace.regions.clone(),
        };
        goes_by(partition, assignment.epoch, terms, "the map", scene);
    }
}

fn of_config(config: &PartitionConfig) -> Terms {
    Terms {
        lease: config.lease,
        ack: config.ack,
        on_timeout: config.on_timeout,
        regions: config.regions.clone(),
    }
}

fn goes_by(partition: PartitionId, epoch: Epoch, terms: Terms, who: &str, scene: &mut Scene) {
    let policies = &mut scene.truth.policies;
    let known = policies
        .entry((partition, epoch))
        .or_insert_with(|| terms.clone());
    if *known != terms {
        let problem = format!("{who} has {partition:?} in {epoch} go by {terms:?}, not {known:?}");
        scene.fail("I18 one policy", problem);
    }
}
