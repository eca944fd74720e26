//! What a write is told when it is done.
//!
//! **Owns**: the receipt, and the answer to "what became of my request".
//! **Does not own**: refusals (`refusal`), counting who holds what (`ack_tracker`).

use domicile_proto::{Achieved, AckLevel, Position, Version};

use crate::region_set::RegionSet;

/// The truth about one write, as of the moment it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// Its place.
    pub position: Position,
    /// The version of the cells it wrote.
    pub version: Version,
    /// The level asked for.
    pub asked: AckLevel,
    /// In how many other regions it is.
    pub achieved: Achieved,
    /// The regions that hold it durably, the home included.
    pub durable_in: RegionSet,
    /// The home acknowledges with less than the keyspace's level at present, or this write has
    /// less than it asked for.
    pub degraded: bool,
    /// The write was done before, under the same request id.
    pub duplicate: bool,
}

/// What is known of a request id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// In the log, and visible.
    Known(Receipt),
    /// In the log, its keyspace's level not met so far. It is not undone.
    Pending(Receipt),
    /// Not among the requests remembered: never appended, or too long ago.
    Unknown,
}
