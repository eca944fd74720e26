//! I6: epochs and marks never go back, but by a recorded cut.
//!
//! **Owns**: the marks that each core had last.
//! **Does not own**: cuts and installations, after which they begin anew (`node`).

use domicile_core::Partition;
use domicile_proto::{Epoch, PartitionId, Seq};

use crate::scene::Scene;

/// What a core was last seen to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Marks {
    epoch: Option<Epoch>,
    appended: Seq,
    durable: Seq,
    visible: Seq,
}

pub(crate) fn check(node: usize, core: &Partition, scene: &mut Scene) {
    let partition = core.config().partition;
    let now = Marks {
        epoch: core.epoch(),
        appended: core.appended_upto(),
        durable: core.durable_upto(),
        visible: core.visible_upto(),
    };
    let Some(before) = scene.truth.marks.insert((node, partition), now) else {
        return;
    };
    let grows = now.epoch >= before.epoch
        && now.appended >= before.appended
        && now.durable >= before.durable
        && now.visible >= before.visible;
    if !grows {
        let problem = format!("n{node} {partition:?} went from {before:?} to {now:?}");
        scene.fail("I6 monotone", problem);
    }
}

/// Another core took the place of the one that was there.
pub(crate) fn reseated(node: usize, partition: PartitionId, scene: &mut Scene) {
    scene.truth.marks.remove(&(node, partition));
}
