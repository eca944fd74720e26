//! What a caller asks of a node, and what reads answer.
//!
//! **Owns**: the plain structs of calls and answers.
//! **Does not own**: their execution (`node`), their wire form (server, client).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domicile_proto::{
    AckLevel, Keyspace, Operation, PartitionId, Position, RegionId, RequestId, Version,
};

use crate::buffer::Unapplied;

pub use domicile_storage::engine::Direction;

/// What must hold of a key before a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// The key has no value.
    Absent,
    /// The key's value has this version.
    Version(Version),
}

/// A condition on one key of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Precondition {
    /// The key; it must belong to the write's partition.
    pub key: Bytes,
    /// What must hold of it.
    pub expected: Expected,
}

/// Whether a node that is not the home may pass the call on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Forwarding {
    /// One hop to the home.
    #[default]
    Allowed,
    /// Refuse with `WRONG_HOME`.
    LocalOnly,
}

/// A write: operations that take effect together.
#[derive(Debug, Clone)]
pub struct WriteCall {
    /// Where.
    pub keyspace: Arc<Keyspace>,
    /// What; the keys must all belong to one partition.
    pub operations: Vec<Operation>,
    /// Only if these hold.
    pub preconditions: Vec<Precondition>,
    /// A level stronger than the keyspace's.
    pub level: Option<AckLevel>,
    /// Under which id it is done at most once; made here if absent.
    pub request_id: Option<RequestId>,
    /// How long the caller waits; 30 s if absent.
    pub timeout: Option<Duration>,
    /// Whether it may cross to another region.
    pub forwarding: Forwarding,
    /// What becomes of it where its home cannot be reached, if the keyspace's failover is `buffer`.
    pub unapplied: Unapplied,
}

impl WriteCall {
    /// A write with the keyspace's level and no conditions, which is applied or refused.
    #[must_use]
    pub fn new(keyspace: Arc<Keyspace>, operations: Vec<Operation>) -> Self {
        Self {
            keyspace,
            operations,
            preconditions: Vec::new(),
            level: None,
            request_id: None,
            timeout: None,
            forwarding: Forwarding::Allowed,
            unapplied: Unapplied::Refused,
        }
    }
}

/// A place that a session has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionMark {
    /// In which partition.
    pub partition: PartitionId,
    /// Up to where.
    pub position: Position,
}

/// How fresh a read must be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Consistency {
    /// Linearizable: answered by the home.
    #[default]
    Home,
    /// Not before what the session has seen; waits for it here.
    Session(Vec<SessionMark>),
    /// At most this stale, else answered by the home.
    Bounded(Duration),
    /// Whatever this node has.
    Local,
}

impl Consistency {
    /// What the session has seen of a partition, if it is one's.
    pub(crate) fn seen_of(&self, partition: PartitionId) -> Option<Position> {
        let Self::Session(marks) = self else {
            return None;
        };
        let marks = marks.iter().filter(|mark| mark.partition == partition);
        let places = marks.map(|mark| mark.position);
        places.max_by_key(|position| (position.epoch, position.seq))
    }
}

/// A read of one key.
#[derive(Debug, Clone)]
pub struct ReadCall {
    /// Where.
    pub keyspace: Arc<Keyspace>,
    /// Which key.
    pub key: Bytes,
    /// How fresh.
    pub consistency: Consistency,
    /// How long the caller waits; 30 s if absent.
    pub timeout: Option<Duration>,
    /// Whether it may cross to another region.
    pub forwarding: Forwarding,
}

/// A key's current value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
    /// Its version, for compare-and-set.
    pub version: Version,
    /// When its home sequenced it, in ms since 1970.
    pub written_at_ms: u64,
    /// When it ends, in ms since 1970; its home removes it within about a second after.
    pub expires_at_ms: Option<u64>,
}

/// What a read answers.
#[derive(Debug, Clone)]
pub struct ReadAnswer {
    /// The value, if there is one.
    pub entry: Option<Entry>,
    /// The key's partition.
    pub partition: PartitionId,
    /// Up to where the answering node had applied it; `None`: nothing yet.
    pub position: Option<Position>,
    /// How far behind the home that may be; zero from the home.
    pub staleness: Duration,
    /// Who answered.
    pub region: RegionId,
}

/// A read of a range, in key order.
#[derive(Debug, Clone)]
pub struct ScanCall {
    /// Where.
    pub keyspace: Arc<Keyspace>,
    /// From this key on; empty: from the first.
    pub from: Bytes,
    /// Before this key; empty: to the last.
    pub upto: Bytes,
    /// Only keys that start with this.
    pub prefix: Bytes,
    /// In which order.
    pub direction: Direction,
    /// Rows wanted, 1 to 10,000.
    pub limit: usize,
    /// The last key of the page before.
    pub resume_after: Option<Bytes>,
    /// How fresh.
    pub consistency: Consistency,
    /// How long the caller waits; 30 s if absent.
    pub timeout: Option<Duration>,
    /// Whether it may cross to another region.
    pub forwarding: Forwarding,
}

/// One page of a scan.
#[derive(Debug, Clone)]
pub struct ScanPage {
    /// The rows.
    pub entries: Vec<Entry>,
    /// Where the next page goes on; `None`: there is none.
    pub resume_after: Option<Bytes>,
    /// Up to where each partition read had been applied.
    pub positions: Vec<SessionMark>,
    /// The largest staleness among them.
    pub staleness: Duration,
}
