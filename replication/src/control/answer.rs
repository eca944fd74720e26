//! Answering what other nodes ask.
//!
//! **Owns**: that a message is for this node, and which part answers it.
//! **Does not own**: the answers (openraft, election, formation, membership).

use std::time::Duration;

use bytes::Bytes;
use domicile_proto::NodeId;
use domicile_proto::v1::control_reply::Reply;
use domicile_proto::v1::control_request::Request;
use domicile_proto::v1::control_snapshot_reply::Outcome;
use domicile_proto::v1::{
    ControlChanged, ControlJoin, ControlProposed, ControlRefusal, ControlRefused, ControlReply,
    ControlRequest, ControlSnapshotReply, ControlSoundingReply,
};
use openraft::error::RaftError;

use super::calls::refusal;
use super::core::{Core, stopped};
use super::election::grants;
use super::error::ControlError;
use super::formation::answer_founding;
use super::membership::{admit, dismiss};
use super::wire::{
    check_command, decode_request, encode_reply, put_append_reply, put_vote, put_vote_reply,
    required, take_append, take_chunk, take_id_if_there, take_member, take_node, take_vote_request,
};

/// Longest that is waited for another node's sake: what a joining node's snapshot may take. While a
/// node joins, no other change of members begins.
const WITHIN_MAX: Duration = Duration::from_secs(60);

/// Answers one message.
///
/// # Errors
/// [`ControlError::Malformed`] and [`ControlError::TooLarge`]: whoever sent it is faulty.
pub(super) async fn answer(core: &Core, request: &[u8]) -> Result<Bytes, ControlError> {
    let ControlRequest { from, to, request } = decode_request(request)?;
    let (from, request) = (take_node(from)?, required(request, "request")?);
    let for_anyone = matches!(request, Request::Founding(_) | Request::Join(_));
    let reply = if to == core.node().get() || (to == 0 && for_anyone) {
        match reply(core, from, request).await {
            Err(error @ (ControlError::Malformed { .. } | ControlError::TooLarge { .. })) => {
                return Err(error);
            }
            Err(error) => refusal(&error),
            Ok(reply) => reply,
        }
    } else {
        Reply::Refused(ControlRefused {
            reason: ControlRefusal::WrongNode.into(),
            problem: format!("this is {}, not the node that was meant", core.node()),
            node: core.node().get(),
        })
    };
    encode_reply(&ControlReply { reply: Some(reply) })
}

async fn reply(core: &Core, from: NodeId, request: Request) -> Result<Reply, ControlError> {
    match request {
        Request::Append(append) => {
            let answered = core.raft.0.append_entries(take_append(&append)?).await;
            let answered = answered.map_err(|error| raft_error(&error))?;
            Ok(Reply::Append(put_append_reply(&answered)))
        }
        Request::Vote(request) => {
            let answered = core.raft.0.vote(take_vote_request(&request)?).await;
            let answered = answered.map_err(|error| raft_error(&error))?;
            Ok(Reply::Vote(put_vote_reply(&answered)))
        }
        Request::Sounding(sounding) => {
            let last = take_id_if_there(sounding.last.as_ref())?;
            let granted = grants(core, &core.view().await?, last);
            Ok(Reply::Sounding(ControlSoundingReply { granted }))
        }
        Request::Snapshot(chunk) => {
            let outcome = match core.raft.0.install_snapshot(take_chunk(&chunk)?).await {
                Ok(answered) => Outcome::Vote(put_vote(&answered.vote)),
                Err(RaftError::APIError(_)) => Outcome::Mismatch(true),
                Err(RaftError::Fatal(fatal)) => return Err(stopped(&fatal)),
            };
            let outcome = Some(outcome);
            Ok(Reply::Snapshot(ControlSnapshotReply { outcome }))
        }
        Request::Propose(propose) => {
            let within = bounded(propose.within_ms);
            let answer = propose_here(core, propose.command, within).await?;
            Ok(Reply::Proposed(ControlProposed { answer }))
        }
        Request::Founding(founding) => Ok(Reply::Founding(
            answer_founding(core, from, &founding).await?,
        )),
        Request::Join(join) => {
            admit_joining(core, &join).await?;
            Ok(Reply::Changed(ControlChanged {}))
        }
        Request::Remove(remove) => {
            let within = bounded(remove.within_ms);
            dismiss(core, take_node(remove.node)?, within).await?;
            Ok(Reply::Changed(ControlChanged {}))
        }
    }
}

async fn admit_joining(core: &Core, join: &ControlJoin) -> Result<(), ControlError> {
    let (node, member) = take_member(required(join.member.as_ref(), "member")?)?;
    let within = bounded(join.within_ms);
    admit(core, node, &member, NodeId::new(join.replaces).ok(), within).await
}

/// Proposes a command if this node leads.
///
/// # Errors
/// [`ControlError::TooLarge`], [`ControlError::NotLeader`], [`ControlError::Indeterminate`],
/// [`ControlError::Stopped`].
pub(super) async fn propose_here(
    core: &Core,
    command: Bytes,
    within: Duration,
) -> Result<Bytes, ControlError> {
    check_command(&command)?;
    let written = tokio::time::timeout(within, core.raft.0.client_write(command)).await;
    let written = written.map_err(|_| ControlError::Indeterminate { within })?;
    Ok(written.map_err(|error| core.write_error(error))?.data)
}

/// What the other side is ready to wait, within reason.
fn bounded(within_ms: u32) -> Duration {
    Duration::from_millis(within_ms.into()).min(WITHIN_MAX)
}

fn raft_error(error: &RaftError<u64>) -> ControlError {
    ControlError::Stopped {
        cause: error.to_string(),
    }
}
