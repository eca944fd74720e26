//! A partition at a glance.
//!
//! **Owns**: the shape of what `status` shows.
//! **Does not own**: gathering it (each part gives its own), showing it (server).

use std::time::Duration;

use domicile_proto::{AckLevel, Epoch, RegionId, Seq};

use crate::moment::Moment;

/// What a partition is on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The one that sequences.
    Home,
    /// One that follows.
    Copy,
}

/// What would be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rpo {
    /// Writes acknowledged here and not durable there; exact.
    pub writes: u64,
    /// Their bytes; off by at most the bytes of one checkpoint span (see [`Rpo::age`]).
    pub bytes: u64,
    /// The age of the oldest of them: never too small, too large by at most 1 ms and a twentieth.
    /// For records from before a restart it counts from the restart.
    pub age: Duration,
}

/// How a copy stands to its home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Not connected; what it had made durable counts.
    Detached,
    /// Connected and following.
    Attached,
    /// It has records that this home never wrote: nothing of it counts.
    Diverged,
    /// It lacks records that this home's log no longer has: it needs a snapshot, and until it has
    /// one nothing of it counts.
    Behind,
}

/// One copy, as its home sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyStatus {
    /// Which region.
    pub region: RegionId,
    /// How it stands.
    pub standing: Standing,
    /// The last record it has in memory or on disk.
    pub received_upto: Seq,
    /// The last record it has on disk.
    pub durable_upto: Seq,
    /// What would be lost if this copy took over now.
    pub potential: Rpo,
}

/// A stretch of the log that was acknowledged with less than the keyspace's level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DegradedRange {
    /// The begin mark.
    pub began: Seq,
    /// The end mark; `None` while it lasts.
    pub ended: Option<Seq>,
    /// When it began; after a restart, when the node started.
    pub since: Moment,
}

/// How the potential loss stands to its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RpoPressure {
    /// Below three quarters of every limit.
    Free,
    /// Replies are slowed.
    Slowed,
    /// Writes were refused, and the potential loss has not fallen below half of the limits since.
    Refusing,
}

/// How often what happened since the partition was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Writes appended.
    pub appended: u64,
    /// Writes acknowledged, duplicates included.
    pub acknowledged: u64,
    /// Of these, while degraded or with less than asked.
    pub degraded: u64,
    /// Writes whose request id was known.
    pub duplicates: u64,
    /// Writes answered indeterminate.
    pub indeterminate: u64,
    /// Writes refused for the window.
    pub overloaded: u64,
    /// Writes refused for the potential loss.
    pub rpo_exceeded: u64,
    /// Writes refused for a precondition.
    pub mismatched: u64,
    /// Writes refused for anything else.
    pub refused: u64,
    /// Acks that counted for nothing.
    pub acks_ignored: u64,
    /// Segments stored.
    pub stored: u64,
    /// Segments rejected.
    pub rejected: u64,
}

/// A partition at a glance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionStatus {
    /// What it is here.
    pub role: Role,
    /// Its reign; `None` at a copy that has no record yet.
    pub epoch: Option<Epoch>,
    /// The last record appended (home) or received (copy).
    pub appended_upto: Seq,
    /// The last record on disk here.
    pub durable_upto: Seq,
    /// The last record that readers may see here.
    pub visible_upto: Seq,
    /// Until where records have to be visible before a home serves reads; `None` once it does.
    pub recovering_upto: Option<Seq>,
    /// The copies, in the keyspace's order; empty at a copy.
    pub copies: Vec<CopyStatus>,
    /// The last degraded stretch, running or over.
    pub degraded: Option<DegradedRange>,
    /// A degraded stretch waits for its record.
    pub wants_degrade: bool,
    /// The level that acknowledgements have at present: the keyspace's, or `async` when degraded.
    pub effective_level: AckLevel,
    /// How the potential loss stands to its limits.
    pub rpo_pressure: RpoPressure,
    /// Records appended here and not yet visible.
    pub in_flight_records: u64,
    /// Their bytes.
    pub in_flight_bytes: u64,
    /// Callers that wait for an answer.
    pub waiters: usize,
    /// Requests remembered by their id.
    pub requests: usize,
    /// The store has failed.
    pub poisoned: bool,
    /// What happened since it was opened.
    pub counters: Counters,
}
