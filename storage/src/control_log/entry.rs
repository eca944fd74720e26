//! What the control log holds: entries by term, leader and index, and the vote.
//!
//! **Owns**: the words and their bounds.
//! **Does not own**: what a payload says (whoever appends it), their bytes on disk (frame, vote).

use std::fmt;

use bytes::Bytes;
use domicile_proto::NodeId;

/// Largest payload of one entry: 256 KiB. A command of the control plane has some hundred bytes; a
/// list of all members some thousand. All entries since the last snapshot are held in memory, so
/// doubling it doubles that bound.
pub const PAYLOAD_BYTES_MAX: usize = 256 << 10;

/// A period of leadership; only grows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(u64);

impl Term {
    /// The term of this number; 0 before the first election.
    #[must_use]
    pub fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Term {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "term {}", self.0)
    }
}

/// The place of an entry in the log, from 0, without holes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogIndex(u64);

impl LogIndex {
    /// The place of this number.
    #[must_use]
    pub fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }

    /// The place behind it.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for LogIndex {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "index {}", self.0)
    }
}

/// Which entry: two entries with one id are the same entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// The term in which it was written first.
    pub term: Term,
    /// The leader that wrote it; nobody wrote the very first one.
    pub leader: Option<NodeId>,
    /// Its place.
    pub index: LogIndex,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Which one.
    pub id: EntryId,
    /// What it says; at most [`PAYLOAD_BYTES_MAX`] bytes.
    pub payload: Bytes,
}

/// Whom this node has promised to follow, and in which term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vote {
    /// In which term.
    pub term: Term,
    /// For whom; `None` before the first election.
    pub candidate: Option<NodeId>,
    /// Whether a quorum is known to have voted the same way: the candidate is the leader.
    pub committed: bool,
}
