//! I3: a reign that was handed on has ended, and the next one begins with all of it.
//!
//! **Owns**: that nothing follows the last record of a reign, that the node which follows has it on
//! disk when it begins.
//! **Does not own**: that nothing is lost by it (`ack_truth`), that it comes to an end
//! (`liveness`).

use domicile_proto::{Epoch, PartitionId};

use crate::scene::Scene;

/// A home gave a record its place.
pub(crate) fn appended(node: usize, partition: PartitionId, epoch: Epoch, scene: &mut Scene) {
    if let Some((end, to)) = scene.truth.ended.get(&(partition, epoch)) {
        let problem =
            format!("n{node} appends to {partition:?} in {epoch}, ended at {end} for {to}");
        scene.fail("I3 one writer", problem);
    }
}

/// A node begins the reign that follows on one that was handed to it.
pub(crate) fn begun(node: usize, partition: PartitionId, epoch: Epoch, scene: &mut Scene) {
    let truth = &mut scene.truth;
    if { truth.takeovers.iter() }.any(|it| it.partition == partition && it.to == epoch) {
        // As before it restarted.
        return;
    }
    truth.handed_on(node, partition, epoch, scene.now_us);
    let ended = truth.ended.iter().find(|((id, from), (_, to))| {
        *id == partition && from.counter + 1 == epoch.counter && *to == epoch.node
    });
    let end = ended.map(|((_, from), (seq, _))| (*from, *seq));
    let log = truth.logs.get(&(node, partition));
    let has_it = |(from, seq)| log.is_some_and(|it| it.has_durable(from, seq) || it.base >= seq);
    if !end.is_some_and(has_it) {
        let problem = format!("n{node} begins {epoch} of {partition:?} without the end: {end:?}");
        scene.fail("I3 one writer", problem);
    }
}
