//! A write as the core sees it: everything but the value.
//!
//! **Owns**: the request's shape.
//! **Does not own**: the record's body, which stays with the driver under the ticket.

use std::fmt;

use bytes::Bytes;
use domicile_proto::{AckLevel, Hlc, Position, RequestId, Version};

use crate::moment::Moment;

/// The driver's handle of one waiting caller; answered exactly once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

impl Ticket {
    /// The ticket with this number; the driver never uses a number twice.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "t{}", self.0)
    }
}

/// What a record does to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyChange {
    /// Sets its value.
    Put,
    /// Removes it.
    Delete,
}

/// What a key has to be for a write to take place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Not there.
    Absent,
    /// There, in any version.
    Present,
    /// There in exactly this version.
    Version(Version),
}

impl Expected {
    /// Whether a key whose newest version is `current` is as expected.
    #[must_use]
    pub fn holds(self, current: Option<Version>) -> bool {
        match self {
            Self::Absent => current.is_none(),
            Self::Present => current.is_some(),
            Self::Version(version) => current == Some(version),
        }
    }
}

/// One condition of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Precondition {
    /// The key it is about; need not be written by the same write.
    pub key: Bytes,
    /// What it has to be.
    pub expected: Expected,
    /// Its version among the applied cells, read under the lock under which this is stepped.
    pub observed: Option<Version>,
}

/// Who wants a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A caller: done at most once under its id.
    Request,
    /// The home itself, of keys whose time has come. Nobody repeats it, so its id is not
    /// remembered: a million keys that expire push no caller's id out.
    Expiry,
}

/// What is known of a write's earlier tries beside what its home remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EarlierTries {
    /// They lie within what a home remembers: who repeats a request does so in time.
    Remembered,
    /// The write was kept somewhere for its home, for however long. The log was searched for its
    /// id up to here (`None`: not at all), and does not have it.
    NotInLogUpto(Option<Position>),
}

/// One write. Its record's body stays with the driver, under the ticket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Whom to answer.
    pub ticket: Ticket,
    /// Who wants it.
    pub purpose: Purpose,
    /// The id under which it is done at most once.
    pub request_id: RequestId,
    /// The hash of its content: the same id with another one is an error.
    pub fingerprint: u64,
    /// Bytes of the encoded record.
    pub bytes: u32,
    /// The keys that it changes, in the order of its operations.
    pub keys: Vec<(Bytes, KeyChange)>,
    /// What has to hold.
    pub preconditions: Vec<Precondition>,
    /// The level asked for; `None`: the keyspace's.
    pub level: Option<AckLevel>,
    /// Its stamp, above every stamp given before.
    pub hlc: Hlc,
    /// Until when the caller waits.
    pub deadline: Moment,
    /// Whether it may have been done longer ago than requests are remembered.
    pub earlier_tries: EarlierTries,
}
