//! I8: what was cut from a log is in one orphan file, once for each time, and nothing else is.
//! A record that was cut may come back from a home that has it, and be cut again.
//!
//! **Owns**: the comparison of orphan files with what was cut.
//! **Does not own**: what the cells are after it (`state_is_fold`).

use std::collections::BTreeMap;

use domicile_proto::{Epoch, PartitionId, Seq};
use domicile_storage::Store;

use crate::scene::Scene;

pub(crate) fn cut(node: usize, partition: PartitionId, store: &Store, scene: &mut Scene) {
    let mut kept: BTreeMap<(Epoch, Seq), u64> = BTreeMap::new();
    let files = match store.orphan_files() {
        Ok(list) => list.files,
        Err(error) => return scene.fail("I8 tail kept", format!("n{node}: {error}")),
    };
    for file in files.iter().filter(|file| file.id().partition == partition) {
        let Ok(records) = store.orphan_records(file.id()) else {
            return scene.fail("I8 tail kept", format!("n{node}: unreadable orphans"));
        };
        for orphan in records {
            let Ok(orphan) = orphan else {
                return scene.fail("I8 tail kept", format!("n{node}: {orphan:?}"));
            };
            let position = orphan.position;
            *kept.entry((position.epoch, position.seq)).or_default() += 1;
        }
    }
    let log = scene.truth.log(node, partition);
    let mut expected = BTreeMap::new();
    for (_, piece) in &log.cut {
        for seq in piece.first.get()..=piece.last.get() {
            *expected.entry((piece.epoch, Seq::new(seq))).or_default() += 1;
        }
    }
    if kept != expected {
        let differs = |(at, count): &(&(Epoch, Seq), &u64)| expected.get(at) != Some(count);
        let more = kept.iter().find(differs);
        let lacks = expected.keys().find(|at| !kept.contains_key(at));
        let problem = format!("n{node} {partition:?}: {more:?} kept, {lacks:?} lacking");
        scene.fail("I8 tail kept", problem);
    }
}
