//! What a write is told.
//!
//! **Owns**: the receipt's fields.
//! **Does not own**: what they come to (the core's ack tracker).

use domicile_proto::{AckLevel, PartitionId, Position, RegionId, RequestId, Version};

/// The receipt of a write: where it stands in its home's log and who held it when it was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Which partition sequenced it.
    pub partition: PartitionId,
    /// The version its keys have now.
    pub version: Version,
    /// The level asked for: the request's, else the keyspace's.
    pub asked: AckLevel,
    /// The level reached when it was answered.
    pub achieved: AckLevel,
    /// The regions that held it durably then, home included.
    pub durable_in: Vec<RegionId>,
    /// Under which id it was done.
    pub request_id: RequestId,
    /// Answered with less than the keyspace's level, in a recorded degraded state.
    pub degraded: bool,
    /// The id had been done before; this is its receipt.
    pub duplicate: bool,
}

impl Receipt {
    /// Its place in its partition's history.
    #[must_use]
    pub fn position(&self) -> Position {
        Position {
            epoch: self.version.epoch,
            seq: self.version.seq,
        }
    }
}
