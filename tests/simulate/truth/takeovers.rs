//! One change of home, as it was decided.
//!
//! **Owns**: what the successor had then, who had promised.
//! **Does not own**: whether that was right (`invariants`).

use std::collections::BTreeMap;

use domicile_core::control::PromisedEnd;
use domicile_proto::{Epoch, NodeId, PartitionId, Seq};

/// A takeover that a majority has put down.
#[derive(Debug, Clone)]
pub(crate) struct TakenOver {
    pub(crate) at_us: u64,
    pub(crate) partition: PartitionId,
    pub(crate) from: Epoch,
    pub(crate) to: Epoch,
    /// An operator wanted it, and whoever they named, even if another copy had more.
    pub(crate) is_by_word: bool,
    /// Somebody only said that the old home is off.
    pub(crate) is_unfenced: bool,
    /// It was handed on: nothing may be lost.
    pub(crate) is_planned: bool,
    pub(crate) promised: BTreeMap<NodeId, PromisedEnd>,
    /// The successor's reigns, each with its first and last record.
    pub(crate) log: Vec<(Epoch, Seq, Seq)>,
}

impl TakenOver {
    pub(crate) fn has(&self, epoch: Epoch, seq: Seq) -> bool {
        let mut log = self.log.iter();
        log.any(|(it, first, last)| *it == epoch && *first <= seq && seq <= *last)
    }

    /// Whether a node promised and said what it has.
    pub(crate) fn is_promised_by(&self, node: NodeId) -> bool {
        self.promised.get(&node).is_some_and(|end| end.is_sound)
    }
}
