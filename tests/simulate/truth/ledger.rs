//! Every acknowledgement that a home gave, every call that a caller made.
//!
//! **Owns**: their shapes.
//! **Does not own**: judging them (`invariants`).

use domicile_core::Receipt;
use domicile_proto::{AckLevel, Epoch, PartitionId, Seq};

use crate::clients::{Op, Seen};

/// An acknowledgement, when it left the home.
#[derive(Debug, Clone)]
pub(crate) struct Acked {
    pub(crate) partition: PartitionId,
    pub(crate) receipt: Receipt,
    /// The keyspace's level.
    pub(crate) level: AckLevel,
    /// Nodes other than the home that had it then, at least in memory.
    pub(crate) received_at: Vec<usize>,
    /// Nodes that had it on disk, as the receipt says.
    pub(crate) durable_at: Vec<usize>,
}

impl Acked {
    pub(crate) fn epoch(&self) -> Epoch {
        self.receipt.position.epoch
    }

    pub(crate) fn seq(&self) -> Seq {
        self.receipt.position.seq
    }
}

/// What a caller knows of a call in the end.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    Wrote(Receipt),
    /// It was said that nothing was written, every time.
    Refused,
    Unknown,
    Read(Seen),
    /// What the caller's session had seen was said to be lost.
    SessionLost,
}

/// One call.
#[derive(Debug, Clone)]
pub(crate) struct Called {
    pub(crate) op: Op,
    pub(crate) began_us: u64,
    pub(crate) ended_us: u64,
    pub(crate) outcome: Outcome,
}
