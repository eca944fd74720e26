//! What all parts of a running consensus share.
//!
//! **Owns**: one look at openraft's state, errors of openraft in our words.
//! **Does not own**: the tasks that act on it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use domicile_proto::NodeId;
use openraft::ServerState;
use openraft::error::{
    ChangeMembershipError, CheckIsLeaderError, ClientWriteError, Fatal, ForwardToLeader, RaftError,
};
use tokio::time::Instant;

use super::calls::Calls;
use super::error::ControlError;
use super::member::{Leader, Member, Members, Seat};
use super::options::Options;
use super::raft::{LogId, Metrics, Raft, Vote, members, node};
use super::timings::Timings;

/// A running consensus, without its machine.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) options: Options,
    pub(super) raft: RaftHandle,
    pub(super) calls: Calls,
    pub(super) timings: Timings,
    pub(super) muted: Arc<AtomicBool>,
    /// One change of members at a time.
    pub(super) changes: tokio::sync::Mutex<()>,
    /// To whose cluster this node has said that it is ready to belong, and when.
    pub(super) promised: Mutex<Option<(NodeId, Instant)>>,
}

/// openraft's handle has no `Debug`.
pub(super) struct RaftHandle(pub(super) Raft);

impl std::fmt::Debug for RaftHandle {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Raft")
    }
}

/// What openraft says of itself at one moment.
#[derive(Debug, Clone)]
pub(super) struct View {
    pub(super) leads: bool,
    pub(super) vote: Vote,
    /// Since the vote was changed or its leader heard.
    pub(super) silence: Duration,
    pub(super) last: Option<LogId>,
    /// One set, or two while they change.
    pub(super) configurations: Vec<BTreeSet<u64>>,
    pub(super) members: Members,
}

impl View {
    /// Whether these are a majority of each set of voters.
    pub(super) fn is_quorum(&self, nodes: &BTreeSet<u64>) -> bool {
        let mut sets = self.configurations.iter();
        !self.configurations.is_empty()
            && sets.all(|voters| voters.intersection(nodes).count() > voters.len() / 2)
    }
}

impl Core {
    pub(super) fn node(&self) -> NodeId {
        self.options.node
    }

    pub(super) fn metrics(&self) -> Metrics {
        self.raft.0.metrics().borrow().clone()
    }

    pub(super) fn members(&self) -> Members {
        members(self.metrics().membership_config.membership())
    }

    /// What openraft says now: it is asked behind everything that it was told before.
    ///
    /// # Errors
    /// [`ControlError::Stopped`].
    pub(super) async fn view(&self) -> Result<View, ControlError> {
        let last = self.raft.0.data_metrics().borrow().last_log;
        let looked = self.raft.0.with_raft_state(move |state| {
            let now = Instant::now();
            let heard = state.vote_last_modified().unwrap_or(now);
            let membership = state.membership_state.effective().membership().clone();
            View {
                leads: state.server_state == ServerState::Leader,
                vote: *state.vote_ref(),
                silence: now.saturating_duration_since(heard),
                last,
                configurations: membership.get_joint_config().clone(),
                members: members(&membership),
            }
        });
        looked.await.map_err(|fatal| stopped(&fatal))
    }

    /// The leader as openraft knows it.
    pub(super) fn leader(&self) -> Option<Leader> {
        let metrics = self.metrics();
        let leader = node(metrics.current_leader?)?;
        let seat = metrics
            .membership_config
            .membership()
            .get_node(&leader.get());
        Some(Leader {
            node: leader,
            member: seat.and_then(|seat| seat.0.clone()),
        })
    }

    pub(super) fn not_leader(&self) -> ControlError {
        let leader = self.leader().filter(|leader| leader.node != self.node());
        ControlError::NotLeader { leader }
    }

    fn forward(&self, forward: &ForwardToLeader<u64, Seat>) -> ControlError {
        let leader = forward.leader_id.and_then(node).map(|node| Leader {
            node,
            member: forward.leader_node.as_ref().and_then(|seat| seat.0.clone()),
        });
        match leader {
            Some(leader) if leader.node != self.node() => ControlError::NotLeader {
                leader: Some(leader),
            },
            _ => ControlError::NotLeader { leader: None },
        }
    }

    pub(super) fn write_error(
        &self,
        error: RaftError<u64, ClientWriteError<u64, Seat>>,
    ) -> ControlError {
        match error {
            RaftError::Fatal(fatal) => stopped(&fatal),
            RaftError::APIError(ClientWriteError::ForwardToLeader(to)) => self.forward(&to),
            RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => match error {
                ChangeMembershipError::EmptyMembership(_) => {
                    ControlError::LastVoter { node: self.node() }
                }
                other => ControlError::unavailable(other.to_string()),
            },
        }
    }

    pub(super) fn check_error(
        &self,
        error: RaftError<u64, CheckIsLeaderError<u64, Seat>>,
    ) -> ControlError {
        match error {
            RaftError::Fatal(fatal) => stopped(&fatal),
            RaftError::APIError(CheckIsLeaderError::ForwardToLeader(to)) => self.forward(&to),
            RaftError::APIError(error @ CheckIsLeaderError::QuorumNotEnough(_)) => {
                ControlError::unavailable(error.to_string())
            }
        }
    }

    /// This node as a seat of the membership.
    pub(super) fn seat_of(member: &Member) -> Seat {
        Seat(Some(member.clone()))
    }
}

pub(super) fn stopped(fatal: &Fatal<u64>) -> ControlError {
    ControlError::Stopped {
        cause: fatal.to_string(),
    }
}
