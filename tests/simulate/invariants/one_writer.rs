//! I3: a reign has one writer, and nothing is taken of a reign below what was promised.
//!
//! **Owns**: both halves of it.
//! **Does not own**: who may reign when (`fence_in_time`).

use domicile_proto::{Epoch, PartitionId};

use crate::plan::node_id;
use crate::scene::Scene;

/// A home gave a record its place.
pub(crate) fn appended(node: usize, partition: PartitionId, epoch: Epoch, scene: &mut Scene) {
    let writer = *scene
        .truth
        .writers
        .entry((partition, epoch))
        .or_insert(node);
    if writer != node || epoch.node != node_id(node) {
        let problem = format!("n{node} appends to {partition:?} in {epoch}, as n{writer} did");
        scene.fail("I3 one writer", problem);
    }
    super::handing_on::appended(node, partition, epoch, scene);
    accepted(node, partition, epoch, scene);
}

/// A node took records that were sent in this reign.
pub(crate) fn accepted(node: usize, partition: PartitionId, reign: Epoch, scene: &mut Scene) {
    let promised = scene.truth.promises.get(&(node, partition)).copied();
    if promised.is_some_and(|promised| reign < promised) {
        let problem = format!("n{node} took {partition:?} in {reign}, {promised:?} was promised");
        scene.fail("I3 one writer", problem);
    }
}
