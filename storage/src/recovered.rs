//! What opening a store found.
//!
//! **Owns**: the report.
//! **Does not own**: finding it (`recovery`, `opening`).

use std::time::Duration;

use domicile_proto::{ChainHash, Epoch, NodeId, PartitionId, Seq};

use crate::error::StoreError;
use crate::journal::{Place, TornTail};

/// What opening a store found.
#[derive(Debug)]
pub struct Recovery {
    /// Whose directory it is.
    pub node_id: NodeId,
    /// Whether the directory was made just now.
    pub created: bool,
    /// Every partition with a record, in order.
    pub partitions: Vec<RecoveredPartition>,
    /// The remains of a commit that was never acknowledged; they are cut.
    pub torn_tail: Option<TornTail>,
    /// Records folded into the cells anew.
    pub replayed_records: u64,
    /// Bytes of the segments that were read.
    pub replayed_bytes: u64,
    /// Why the engine was put aside and filled anew, if it was.
    pub engine_rebuilt: Option<String>,
    /// Cells that came from snapshots instead of the journal.
    pub restored_cells: u64,
    /// Partitions that have lost something, and what: they are not to be served, and have to be
    /// filled from elsewhere. None of them is among the others.
    pub damaged: Vec<(PartitionId, StoreError)>,
    /// Partitions whose log was cut and whose cells may hold what was cut: no read of them is
    /// answered and nothing taken until they are healed. They are among the others as well.
    pub wounded: Vec<PartitionId>,
    /// Records of any partition that is in neither list may be missing: what was damaged.
    pub unknown_damage: Option<StoreError>,
    /// Where the journal ends.
    pub durable_end: Place,
    /// How long it took.
    pub elapsed: Duration,
}

/// A partition as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveredPartition {
    /// Whose log.
    pub partition: PartitionId,
    /// The reign of its last record.
    pub epoch: Epoch,
    /// Its last record.
    pub last_seq: Seq,
    /// The hash over its history.
    pub chain: ChainHash,
    /// Up to where its cells are folded now.
    pub applied_upto: Seq,
    /// Up to where records are known to have been visible.
    pub visible_upto: Seq,
    /// Every reign with its first record.
    pub epoch_history: Vec<(Epoch, Seq)>,
}
