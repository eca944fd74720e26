//! I12: a request is done once, or not at all if that was said; a condition held when it was done.
//!
//! **Owns**: the final log, read from its first record to its last.
//! **Does not own**: what the log comes to (`state_is_fold`).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use domicile_proto::{PartitionId, RecordKind, RequestId, Seq, Version};

use super::lineage::{self, Reigns};
use crate::clients::Kind;
use crate::scene::Scene;
use crate::truth::Outcome;

pub(crate) fn check(partition: PartitionId, reigns: &Reigns, upto: Seq, scene: &mut Scene) {
    let truth = &scene.truth;
    let swaps: BTreeMap<RequestId, Option<Version>> = truth
        .calls
        .iter()
        .filter_map(|call| match &call.op.kind {
            Kind::Swap(expected, _) => Some((call.op.request_id, *expected)),
            _ => None,
        })
        .collect();
    let refused = truth
        .calls
        .iter()
        .filter(|it| matches!(it.outcome, Outcome::Refused));
    let refused: BTreeSet<RequestId> = refused.map(|it| it.op.request_id).collect();
    let (mut seen, mut current) = (BTreeMap::new(), BTreeMap::<Bytes, Version>::new());
    let mut problem = None;
    for (epoch, seq, written) in lineage::records(truth, partition, reigns, upto) {
        let Some(written) = written else {
            problem = Some(format!("{partition:?} {epoch} {seq} was never written"));
            break;
        };
        if written.kind != RecordKind::Write {
            continue;
        }
        let id = written.request_id;
        if let Some(before) = seen.insert(id, seq) {
            problem = Some(format!(
                "{partition:?} {id:?} was done at {before} and {seq}"
            ));
        }
        if refused.contains(&id) {
            problem = Some(format!(
                "{partition:?} {id:?} at {seq} was said not to be done"
            ));
        }
        let version = Version {
            generation: 0,
            epoch,
            seq,
        };
        let found = current.get(&written.key).copied();
        if let Some(expected) = swaps.get(&id)
            && *expected != found
        {
            problem = Some(format!(
                "{partition:?} {id:?} wanted {expected:?}, was {found:?}"
            ));
        }
        match written.value {
            Some(_) => current.insert(written.key.clone(), version),
            None => current.remove(&written.key),
        };
    }
    if let Some(problem) = problem {
        scene.fail("I12 exactly once", problem);
    }
}
