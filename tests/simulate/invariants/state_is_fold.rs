//! I7: cells are the fold of the log, at every node, and after they were rebuilt.
//!
//! **Owns**: the comparison key by key.
//! **Does not own**: whether the log is the right one (`ack_truth`, `log_matching`).

use domicile_proto::PartitionId;
use domicile_storage::Store;

use super::lineage;
use crate::scene::Scene;

pub(crate) fn check(node: usize, partition: PartitionId, store: &Store, scene: &mut Scene) {
    let cells = store.cells(partition);
    let Some(tail) = store.tail(partition) else {
        return;
    };
    if !cells.is_readable() || cells.is_wounded() {
        return;
    }
    let applied_upto = cells.applied_upto();
    let fold = lineage::fold(&scene.truth, partition, &tail.epoch_history, applied_upto);
    let plan = std::sync::Arc::clone(&scene.plan);
    for (_, key) in &plan.keys {
        let found = cells.get(key).ok().and_then(|read| read.cell);
        let found = found.and_then(|cell| Some((cell.version, cell.value?)));
        let expected = fold.get(key).cloned();
        if found != expected {
            let problem =
                format!("n{node} {partition:?} {key:?} at {applied_upto}: {found:?} {expected:?}");
            scene.fail("I7 state = fold(log)", problem);
        }
    }
}
