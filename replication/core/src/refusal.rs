//! Why a write or a read was not served.
//!
//! **Owns**: the crate's one error of requests, and its reason codes.
//! **Does not own**: the mapping to a status on the wire (server).

use std::fmt;

use domicile_proto::{Achieved, AckLevel, Epoch, NodeId, Position, Reason, RegionId, Seq, Version};

use crate::region_set::RegionSet;

/// Which bound of the window was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// Records in flight.
    Records,
    /// Bytes in flight.
    Bytes,
    /// Callers that wait.
    Waiters,
}

impl fmt::Display for Bound {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Records => "records in flight",
            Self::Bytes => "bytes in flight",
            Self::Waiters => "waiting callers",
        })
    }
}

/// Which part of a potential loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RpoMeasure {
    /// Writes.
    Writes,
    /// Bytes.
    Bytes,
    /// The age of the oldest, in milliseconds.
    AgeMs,
}

impl fmt::Display for RpoMeasure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Writes => "writes",
            Self::Bytes => "bytes",
            Self::AgeMs => "ms",
        })
    }
}

/// Why a request was refused. All but [`Refusal::Indeterminate`] mean that it wrote nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// A precondition does not hold. Read again and decide.
    #[error("precondition {index} does not hold: current version {}", shown(.current))]
    VersionMismatch {
        /// Which precondition.
        index: usize,
        /// The key's newest version, in flight or applied; `None`: not there.
        current: Option<Version>,
    },
    /// Too much is in flight. Try again later.
    #[error("{bound} at the limit: {actual} with this write, limit {limit}")]
    Overloaded {
        /// Which bound.
        bound: Bound,
        /// How much there would be.
        actual: u64,
        /// The bound.
        limit: u64,
    },
    /// The potential loss is at the keyspace's limit. Try again when copies have caught up.
    #[error("potential loss of {actual} {what} with this write, limit {limit}")]
    RpoExceeded {
        /// Which part of it.
        what: RpoMeasure,
        /// The potential loss.
        actual: u64,
        /// The limit.
        limit: u64,
    },
    /// A level weaker than the keyspace's, or one that it cannot reach.
    #[error("level {asked} refused: the keyspace asks {keyspace} and has {copies} copies")]
    InvalidLevel {
        /// The level asked for.
        asked: AckLevel,
        /// The keyspace's.
        keyspace: AckLevel,
        /// Regions beside the home.
        copies: usize,
    },
    /// The request id was used for another content.
    #[error("request id was used for another content at {position}")]
    RequestIdReused {
        /// The other write.
        position: Position,
    },
    /// In the log, its level not met in time: neither failed nor done. Ask for the outcome.
    #[error(
        "at {position}, {asked} not met: received by {} and durable in {} of {} copies",
        .achieved.received, .achieved.durable, .achieved.copies
    )]
    Indeterminate {
        /// Its place.
        position: Position,
        /// The level asked for.
        asked: AckLevel,
        /// In how many other regions it is.
        achieved: Achieved,
        /// The regions that hold it durably; the home is missing while its own disk has not.
        durable_in: RegionSet,
    },
    /// The write was kept for its home longer than requests are remembered, and may have been done
    /// by another way. Search the log further for its id.
    #[error(
        "requests up to record {forgotten_upto} are forgotten, the log was searched up to {}",
        searched_text(.searched_upto)
    )]
    RequestsForgotten {
        /// Up to where it was searched, in this history.
        searched_upto: Option<Position>,
        /// Up to where it has to be.
        forgotten_upto: Seq,
    },
    /// The deadline had passed before the write was sequenced.
    #[error("deadline passed {late_ms} ms before the write was sequenced")]
    DeadlineExceeded {
        /// By how much.
        late_ms: u64,
    },
    /// Another region is home.
    #[error("not the home: that is region {home_region}")]
    NotHome {
        /// The home.
        home_region: RegionId,
    },
    /// A later reign was promised here: another home takes this one's place.
    #[error("fenced: a home in {epoch}, and {promised} was promised to a successor")]
    Fenced {
        /// The reign of this home.
        epoch: Epoch,
        /// The one promised.
        promised: Epoch,
    },
    /// It has ended its reign in favour of another node.
    #[error("handed on to {to}")]
    HandedOn {
        /// The node that follows.
        to: NodeId,
    },
    /// The home's lease has run out, or it has none yet: another may be home by now.
    #[error("{}", lease_text(.late_ms))]
    NoLease {
        /// For how long it has been over; `None`: there was none since the start.
        late_ms: Option<u64>,
    },
    /// The store has failed.
    #[error("the store has failed")]
    Poisoned,
    /// The home restarted and does not know yet what it had made visible.
    #[error("recovering: visible up to {visible_upto}, {needed_upto} needed")]
    Recovering {
        /// Up to where records are visible.
        visible_upto: Seq,
        /// The last record that was durable when the node started.
        needed_upto: Seq,
    },
}

impl Refusal {
    /// The stable reason code.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::VersionMismatch { .. } => Reason::VersionMismatch,
            Self::Overloaded { .. } => Reason::Overloaded,
            Self::RpoExceeded { .. } => Reason::RpoExceeded,
            Self::InvalidLevel { .. } => Reason::InvalidLevel,
            Self::RequestIdReused { .. } => Reason::RequestIdReused,
            Self::Indeterminate { .. } => Reason::Indeterminate,
            Self::RequestsForgotten { .. } => Reason::RequestsForgotten,
            Self::DeadlineExceeded { .. } => Reason::DeadlineExceeded,
            Self::NotHome { .. } => Reason::WrongHome,
            Self::Fenced { .. } => Reason::StaleEpoch,
            Self::NoLease { .. } | Self::HandedOn { .. } => Reason::NoHome,
            Self::Poisoned => Reason::StorePoisoned,
            Self::Recovering { .. } => Reason::Recovering,
        }
    }
}

fn shown(current: &Option<Version>) -> String {
    current.map_or_else(|| "none".to_owned(), |version| version.to_string())
}

fn searched_text(upto: &Option<Position>) -> String {
    upto.map_or_else(|| "its beginning".to_owned(), |upto| upto.to_string())
}

fn lease_text(late_ms: &Option<u64>) -> String {
    late_ms.map_or_else(
        || "this home has no lease yet".to_owned(),
        |late_ms| format!("this home's lease ran out {late_ms} ms ago"),
    )
}
