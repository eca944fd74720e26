//! Asking another node, and taking its answer apart.
//!
//! **Owns**: deadlines, refusals as errors.
//! **Does not own**: connections (transport), what is asked for.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use domicile_proto::NodeId;
use domicile_proto::v1::control_reply::Reply;
use domicile_proto::v1::control_request::Request;
use domicile_proto::v1::{ControlNotLeader, ControlRefusal, ControlRefused, ControlRequest};

use super::error::ControlError;
use super::member::{Leader, Member};
use super::transport::Transport;
use super::wire::{decode_reply, encode_request, required, take_member};

/// The way to other nodes; clones are cheap.
#[derive(Clone)]
pub(super) struct Calls {
    node: NodeId,
    transport: Arc<dyn Transport>,
}

impl fmt::Debug for Calls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Calls of {}", self.node)
    }
}

impl Calls {
    /// Whether there is a way to a node.
    pub(super) fn knows(&self, member: &Member) -> bool {
        self.transport.knows(member)
    }

    pub(super) fn new(node: NodeId, transport: Arc<dyn Transport>) -> Self {
        Self { node, transport }
    }

    /// Asks the node `to`, or whoever answers at the address of `member`.
    ///
    /// # Errors
    /// What the other says; [`ControlError::Unavailable`] without an answer: the request may have
    /// arrived. [`ControlError::Malformed`] for an answer that is none.
    pub(super) async fn ask(
        &self,
        to: Option<NodeId>,
        member: &Member,
        request: Request,
        within: Duration,
    ) -> Result<Reply, ControlError> {
        let request = ControlRequest {
            from: self.node.get(),
            to: to.map_or(0, NodeId::get),
            request: Some(request),
        };
        let request = encode_request(&request)?;
        let sent = self.transport.send(member, request, within);
        let reply = tokio::time::timeout(within, sent).await.map_err(|_| {
            let waited = within.as_millis();
            ControlError::unavailable(format!("no answer within {waited} ms"))
        })?;
        let reply = reply.map_err(|error| ControlError::unavailable(error.to_string()))?;
        match required(decode_reply(&reply)?.reply, "reply")? {
            Reply::NotLeader(not_leader) => Err(not_leader_of(&not_leader)?),
            Reply::Refused(refused) => Err(refusal_of(&refused, within)),
            reply => Ok(reply),
        }
    }
}

/// An answer of another kind than was asked for.
pub(super) fn unexpected(reply: &Reply) -> ControlError {
    ControlError::malformed(format!("unexpected reply {reply:?}"))
}

fn not_leader_of(not_leader: &ControlNotLeader) -> Result<ControlError, ControlError> {
    let leader = not_leader.leader.as_ref().map(take_member).transpose()?;
    let leader = leader.map(|(node, member)| Leader {
        node,
        member: Some(member),
    });
    Ok(ControlError::NotLeader { leader })
}

fn refusal_of(refused: &ControlRefused, within: Duration) -> ControlError {
    let node = NodeId::new(refused.node);
    match (refused.reason(), node) {
        (ControlRefusal::Indeterminate, _) => ControlError::Indeterminate { within },
        (ControlRefusal::RegionTaken, Ok(voter)) => ControlError::RegionTaken { voter },
        (ControlRefusal::LastVoter, Ok(node)) => ControlError::LastVoter { node },
        _ => ControlError::unavailable(refused.problem.clone()),
    }
}

/// An error as the other side hears it.
pub(super) fn refusal(error: &ControlError) -> Reply {
    let refused = |reason: ControlRefusal, node: u64| {
        Reply::Refused(ControlRefused {
            reason: reason.into(),
            problem: error.to_string(),
            node,
        })
    };
    match error {
        ControlError::NotLeader { leader } => {
            let known = leader.as_ref().filter(|leader| leader.member.is_some());
            let leader = known
                .map(|leader| super::wire::put_member(leader.node.get(), leader.member.as_ref()));
            Reply::NotLeader(ControlNotLeader { leader })
        }
        ControlError::Indeterminate { .. } => refused(ControlRefusal::Indeterminate, 0),
        ControlError::RegionTaken { voter } => refused(ControlRefusal::RegionTaken, voter.get()),
        ControlError::LastVoter { node } => refused(ControlRefusal::LastVoter, node.get()),
        _ => refused(ControlRefusal::Unavailable, 0),
    }
}
