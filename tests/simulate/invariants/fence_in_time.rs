//! I4: an old home acknowledges nothing once its successor was decided on.
//!
//! **Owns**: homes that are fenced by a lease. Those whose acknowledgements were revoked may still
//! be told of what was met before, which the successor has: `ack_truth` looks at that.
//! **Does not own**: leases (core).

use domicile_core::{LeaseNeed, Partition, Receipt};

use crate::scene::Scene;

pub(crate) fn acked(node: usize, core: &Partition, receipt: &Receipt, scene: &mut Scene) {
    let (partition, epoch) = (core.config().partition, core.epoch());
    let is_leased = core.config().lease == LeaseNeed::Everything;
    let ended = scene.truth.takeovers.iter().find(|it| {
        // A reign that was handed on, as the map may not know, ends with the one before it.
        let is_ended = Some(it.from) <= epoch && epoch < Some(it.to);
        it.partition == partition && is_ended && !it.is_unfenced && !it.is_planned
    });
    if let (true, Some(ended)) = (is_leased, ended) {
        let by_us = scene.now_us - ended.at_us;
        let position = receipt.position;
        let problem = format!("n{node} acknowledges {position} {by_us} us after it was succeeded");
        scene.fail("I4 fence in time", problem);
    }
}
