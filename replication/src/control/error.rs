//! Why consensus could not do what was asked, by what the caller does next.
//!
//! **Owns**: the one error enum of this room.
//! **Does not own**: errors of the disk (storage), of the wire's bytes alone (wire).

use std::time::Duration;

use domicile_proto::NodeId;
use domicile_storage::StoreError;

use super::member::Leader;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// Another node leads, or none that is known: ask that one, or wait.
    #[error("not the leader of the control plane; leader: {}", named(.leader.as_ref()))]
    NotLeader {
        /// Who does, as far as this node knows.
        leader: Option<Leader>,
    },
    /// Nothing was done; try again.
    #[error("control plane unavailable: {problem}")]
    Unavailable {
        /// Why.
        problem: String,
    },
    /// No answer in time: it may have been done, or be done yet. Doing it again is safe.
    #[error("no answer of the control plane within {} ms: outcome unknown", .within.as_millis())]
    Indeterminate {
        /// How long was waited.
        within: Duration,
    },
    /// A message or command is above its limit.
    #[error("{what} too large: {actual} bytes, limit {limit}")]
    TooLarge {
        /// What.
        what: &'static str,
        /// Its bytes.
        actual: usize,
        /// The limit.
        limit: usize,
    },
    /// Bytes that are no message of the control plane; whoever sent them is faulty.
    #[error("malformed control message: {problem}")]
    Malformed {
        /// What is wrong.
        problem: String,
    },
    /// The region has another voter: say that it is replaced, or remove it.
    #[error(
        "the region has a voter: {voter}; if its disk is lost, name it as the one that this node \
         replaces (serve --replaces {voter})"
    )]
    RegionTaken {
        /// Its voter.
        voter: NodeId,
    },
    /// A node takes the place of one of its own region only.
    #[error("{voter} is of another region: it is not replaced by a node of this one")]
    ReplacesElsewhere {
        /// Who was named.
        voter: NodeId,
    },
    /// The last voter cannot be removed.
    #[error("cannot remove {node}: the last voter")]
    LastVoter {
        /// Who it is.
        node: NodeId,
    },
    /// The settings contradict themselves or what is on disk.
    #[error("invalid control settings: {problem}")]
    Settings {
        /// How.
        problem: String,
    },
    /// The disk has failed, or what is on it is not right: this node must not vote.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// This node has left consensus, for good: its disk failed, or it was shut down.
    #[error("consensus stopped: {cause}")]
    Stopped {
        /// Why.
        cause: String,
    },
}

impl ControlError {
    pub(super) fn unavailable(problem: impl Into<String>) -> Self {
        let problem = problem.into();
        Self::Unavailable { problem }
    }

    pub(super) fn malformed(problem: impl Into<String>) -> Self {
        let problem = problem.into();
        Self::Malformed { problem }
    }
}

fn named(leader: Option<&Leader>) -> String {
    leader.map_or_else(|| "unknown".to_owned(), |leader| leader.node.to_string())
}
