//! Messages, entries and snapshots as bytes.
//!
//! **Owns**: the limits and checks of what comes from others; the mapping to raft's types.
//! **Does not own**: the fields (`control.proto`), what is done about a message (answer, network).
//!
//! Whatever is decoded here is safe to give to openraft, which asserts what it is not given by
//! peers of its own kind: entries follow one another, terms do not fall, votes name a node.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use domicile_proto::v1::control_append_reply::Outcome as AppendOutcome;
use domicile_proto::v1::control_payload::Payload as WirePayload;
use domicile_proto::v1::{
    ControlAppend, ControlAppendReply, ControlBlank, ControlEntry, ControlEntryId, ControlMember,
    ControlMembership, ControlPayload, ControlReply, ControlRequest, ControlSnapshotChunk,
    ControlSnapshotHead, ControlVote, ControlVoteReply, ControlVoteRequest, ControlVoters,
};
use domicile_proto::{NodeId, RegionId};
use domicile_storage::control_log::{PAYLOAD_BYTES_MAX, SNAPSHOT_BYTES_MAX};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, VoteRequest, VoteResponse,
};
use prost::Message;

use super::error::ControlError;
use super::member::{Member, Seat};
use super::raft::{
    Entry, LogId, Membership, Payload, SnapshotMeta, StoredMembership, TypeConfig, Vote,
};

/// Largest message, either way: 4 MiB. Entries are sent a megabyte at a time, the largest of them
/// has 256 KiB, snapshots go in chunks of a megabyte.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// Largest command: what fits into an entry with its framing.
pub const COMMAND_BYTES_MAX: usize = PAYLOAD_BYTES_MAX - 64;

/// Most members, voters and learners: there is one a region, and no region's list is this long.
/// Doubled, a list of them with eight long addresses each no longer fits into an entry.
const MEMBERS_MAX: usize = 64;

/// Most addresses of a member, and bytes of one: a list of members must fit into an entry.
const ADDRESSES_MAX: usize = 8;
/// A DNS name has at most 253 bytes, and a scheme and a port go with it.
const ADDRESS_BYTES_MAX: usize = 280;

pub(super) fn encode_request(request: &ControlRequest) -> Result<Bytes, ControlError> {
    check_size("control request", request.encoded_len())?;
    Ok(request.encode_to_vec().into())
}

pub(super) fn decode_request(bytes: &[u8]) -> Result<ControlRequest, ControlError> {
    check_size("control request", bytes.len())?;
    ControlRequest::decode(bytes).map_err(malformed)
}

pub(super) fn encode_reply(reply: &ControlReply) -> Result<Bytes, ControlError> {
    check_size("control reply", reply.encoded_len())?;
    Ok(reply.encode_to_vec().into())
}

pub(super) fn decode_reply(bytes: &[u8]) -> Result<ControlReply, ControlError> {
    check_size("control reply", bytes.len())?;
    ControlReply::decode(bytes).map_err(malformed)
}

fn malformed(error: prost::DecodeError) -> ControlError {
    ControlError::malformed(error.to_string())
}

pub(super) fn check_size(what: &'static str, actual: usize) -> Result<(), ControlError> {
    if actual > MESSAGE_BYTES_MAX {
        return Err(ControlError::TooLarge {
            what,
            actual,
            limit: MESSAGE_BYTES_MAX,
        });
    }
    Ok(())
}

pub(super) fn check_command(command: &[u8]) -> Result<(), ControlError> {
    if command.len() > COMMAND_BYTES_MAX {
        return Err(ControlError::TooLarge {
            what: "control command",
            actual: command.len(),
            limit: COMMAND_BYTES_MAX,
        });
    }
    Ok(())
}

/// A field that must be there.
pub(super) fn required<T>(field: Option<T>, what: &str) -> Result<T, ControlError> {
    field.ok_or_else(|| ControlError::malformed(format!("no {what}")))
}

pub(super) fn take_node(id: u64) -> Result<NodeId, ControlError> {
    NodeId::new(id).map_err(|error| ControlError::malformed(error.to_string()))
}

pub(super) fn put_id(id: &LogId) -> ControlEntryId {
    ControlEntryId {
        term: id.leader_id.term,
        leader: id.leader_id.node_id,
        index: id.index,
    }
}

/// Only the very first entry was written by nobody.
pub(super) fn take_id(id: &ControlEntryId) -> Result<LogId, ControlError> {
    // One more is added to it in places.
    if id.index >= u64::MAX / 2 || id.term >= u64::MAX / 2 {
        let problem = format!("term {} or index {} out of bounds", id.term, id.index);
        return Err(ControlError::malformed(problem));
    }
    let leader = openraft::CommittedLeaderId::new(id.term, id.leader);
    Ok(LogId::new(leader, id.index))
}

pub(super) fn take_id_if_there(id: Option<&ControlEntryId>) -> Result<Option<LogId>, ControlError> {
    id.map(take_id).transpose()
}

pub(super) fn put_vote(vote: &Vote) -> ControlVote {
    ControlVote {
        term: vote.leader_id.term,
        candidate: vote.leader_id.node_id,
        committed: vote.committed,
    }
}

pub(super) fn take_vote(vote: Option<&ControlVote>) -> Result<Vote, ControlError> {
    let vote = required(vote, "vote")?;
    if vote.term >= u64::MAX / 2 {
        return Err(ControlError::malformed(format!(
            "term {} out of bounds",
            vote.term
        )));
    }
    Ok(Vote {
        leader_id: openraft::LeaderId::new(vote.term, vote.candidate),
        committed: vote.committed,
    })
}

/// The vote of somebody who asks for something with it.
fn take_vote_of_someone(vote: Option<&ControlVote>) -> Result<Vote, ControlError> {
    let vote = take_vote(vote)?;
    take_node(vote.leader_id.node_id)?;
    Ok(vote)
}

pub(super) fn put_member(node: u64, member: Option<&Member>) -> ControlMember {
    ControlMember {
        node,
        region: member.map_or(0, |member| member.region.get().into()),
        addresses: member.map_or_else(Vec::new, |member| member.addresses.clone()),
    }
}

pub(super) fn take_member(member: &ControlMember) -> Result<(NodeId, Member), ControlError> {
    let seat = take_seat(member)?;
    Ok((
        take_node(member.node)?,
        required(seat.0, "region of a member")?,
    ))
}

fn take_seat(member: &ControlMember) -> Result<Seat, ControlError> {
    let longest = member.addresses.iter().map(String::len).max().unwrap_or(0);
    if member.addresses.len() > ADDRESSES_MAX || longest > ADDRESS_BYTES_MAX {
        let actual = member.addresses.len();
        let problem = format!(
            "{actual} addresses of up to {longest} bytes, limits {ADDRESSES_MAX} and \
             {ADDRESS_BYTES_MAX}"
        );
        return Err(ControlError::malformed(problem));
    }
    if member.region == 0 {
        return Ok(Seat(None));
    }
    let region = u16::try_from(member.region)
        .ok()
        .and_then(|id| RegionId::new(id).ok());
    let region = region
        .ok_or_else(|| ControlError::malformed(format!("region {} of a member", member.region)))?;
    let addresses = member.addresses.clone();
    Ok(Seat(Some(Member { region, addresses })))
}

fn put_membership(membership: &Membership) -> ControlMembership {
    let configurations = membership.get_joint_config().iter();
    let members = membership.nodes();
    ControlMembership {
        configurations: configurations
            .map(|voters| ControlVoters {
                nodes: voters.iter().copied().collect(),
            })
            .collect(),
        members: members
            .map(|(id, seat)| put_member(*id, seat.0.as_ref()))
            .collect(),
    }
}

fn take_membership(membership: &ControlMembership) -> Result<Membership, ControlError> {
    let (configurations, members) = (&membership.configurations, &membership.members);
    if configurations.len() > 2 || members.len() > MEMBERS_MAX {
        let problem = format!(
            "{} configurations of {} members, limits 2 and {MEMBERS_MAX}",
            configurations.len(),
            members.len()
        );
        return Err(ControlError::malformed(problem));
    }
    let mut seats = BTreeMap::new();
    for member in members {
        seats.insert(member.node, take_seat(member)?);
    }
    let mut voters = Vec::new();
    for configuration in configurations {
        let nodes: BTreeSet<u64> = configuration.nodes.iter().copied().collect();
        if nodes.is_empty() || nodes.iter().any(|node| !seats.contains_key(node)) {
            let problem = format!("voters {nodes:?} that are no members");
            return Err(ControlError::malformed(problem));
        }
        voters.push(nodes);
    }
    Ok(Membership::new(voters, seats))
}

pub(super) fn put_payload(payload: &Payload) -> Bytes {
    let payload = match payload {
        Payload::Blank => WirePayload::Blank(ControlBlank {}),
        Payload::Normal(command) => WirePayload::Command(command.clone()),
        Payload::Membership(membership) => WirePayload::Membership(put_membership(membership)),
    };
    let payload = Some(payload);
    ControlPayload { payload }.encode_to_vec().into()
}

pub(super) fn take_payload(bytes: &Bytes) -> Result<Payload, ControlError> {
    if bytes.len() > PAYLOAD_BYTES_MAX {
        return Err(ControlError::TooLarge {
            what: "entry of the control log",
            actual: bytes.len(),
            limit: PAYLOAD_BYTES_MAX,
        });
    }
    let payload = ControlPayload::decode(bytes.clone()).map_err(malformed)?;
    Ok(match required(payload.payload, "payload")? {
        WirePayload::Blank(ControlBlank {}) => Payload::Blank,
        WirePayload::Command(command) => Payload::Normal(command),
        WirePayload::Membership(membership) => Payload::Membership(take_membership(&membership)?),
    })
}

pub(super) fn put_append(request: &AppendEntriesRequest<TypeConfig>) -> ControlAppend {
    let entries = request.entries.iter().map(|entry| ControlEntry {
        id: Some(put_id(&entry.log_id)),
        payload: put_payload(&entry.payload),
    });
    ControlAppend {
        vote: Some(put_vote(&request.vote)),
        previous: request.prev_log_id.as_ref().map(put_id),
        entries: entries.collect(),
        committed: request.leader_commit.as_ref().map(put_id),
    }
}

pub(super) fn take_append(
    append: &ControlAppend,
) -> Result<AppendEntriesRequest<TypeConfig>, ControlError> {
    let vote = take_vote_of_someone(append.vote.as_ref())?;
    if !vote.committed {
        return Err(ControlError::malformed(
            "entries of somebody who does not lead",
        ));
    }
    let previous = take_id_if_there(append.previous.as_ref())?;
    let (mut before, mut entries) = (previous, Vec::with_capacity(append.entries.len()));
    for entry in &append.entries {
        let log_id = take_id(required(entry.id.as_ref(), "id of an entry")?)?;
        let follows = match before {
            Some(before) => log_id.index == before.index + 1 && log_id > before,
            None => log_id.index == 0,
        };
        if !follows || log_id.leader_id > vote.leader_id {
            let problem = format!("entry {log_id} behind {before:?} from the leader of {vote}");
            return Err(ControlError::malformed(problem));
        }
        let payload = take_payload(&entry.payload)?;
        entries.push(Entry { log_id, payload });
        before = Some(log_id);
    }
    Ok(AppendEntriesRequest {
        vote,
        prev_log_id: previous,
        entries,
        leader_commit: take_id_if_there(append.committed.as_ref())?,
    })
}

pub(super) fn put_append_reply(reply: &AppendEntriesResponse<u64>) -> ControlAppendReply {
    let outcome = match reply {
        AppendEntriesResponse::Success => AppendOutcome::Success(true),
        AppendEntriesResponse::PartialSuccess(Some(matching)) => {
            AppendOutcome::Matching(put_id(matching))
        }
        AppendEntriesResponse::PartialSuccess(None) | AppendEntriesResponse::Conflict => {
            AppendOutcome::Conflict(true)
        }
        AppendEntriesResponse::HigherVote(vote) => AppendOutcome::Higher(put_vote(vote)),
    };
    let outcome = Some(outcome);
    ControlAppendReply { outcome }
}

/// The answer to a request that ended with `sent`, and that was sent under `vote`.
pub(super) fn take_append_reply(
    reply: &ControlAppendReply,
    request: &AppendEntriesRequest<TypeConfig>,
) -> Result<AppendEntriesResponse<u64>, ControlError> {
    let last = request
        .entries
        .last()
        .map(|entry| entry.log_id)
        .or(request.prev_log_id);
    match required(reply.outcome.as_ref(), "outcome")? {
        AppendOutcome::Success(_) => Ok(AppendEntriesResponse::Success),
        AppendOutcome::Matching(matching) => {
            let matching = Some(take_id(matching)?);
            if matching < request.prev_log_id || matching > last {
                let problem = format!("matching {matching:?} outside of what was sent");
                return Err(ControlError::malformed(problem));
            }
            Ok(AppendEntriesResponse::PartialSuccess(matching))
        }
        AppendOutcome::Conflict(_) if request.prev_log_id.is_none() => {
            Err(ControlError::malformed("conflict before the first entry"))
        }
        AppendOutcome::Conflict(_) => Ok(AppendEntriesResponse::Conflict),
        AppendOutcome::Higher(higher) => {
            let higher = take_vote(Some(higher))?;
            if higher <= request.vote {
                let problem = format!("vote {higher} where one above {} is due", request.vote);
                return Err(ControlError::malformed(problem));
            }
            Ok(AppendEntriesResponse::HigherVote(higher))
        }
    }
}

pub(super) fn put_vote_request(request: &VoteRequest<u64>) -> ControlVoteRequest {
    ControlVoteRequest {
        vote: Some(put_vote(&request.vote)),
        last: request.last_log_id.as_ref().map(put_id),
    }
}

pub(super) fn take_vote_request(
    request: &ControlVoteRequest,
) -> Result<VoteRequest<u64>, ControlError> {
    let vote = take_vote_of_someone(request.vote.as_ref())?;
    if vote.committed {
        return Err(ControlError::malformed(
            "a vote that is committed before it is given",
        ));
    }
    let last = take_id_if_there(request.last.as_ref())?;
    Ok(VoteRequest::new(vote, last))
}

pub(super) fn put_vote_reply(reply: &VoteResponse<u64>) -> ControlVoteReply {
    ControlVoteReply {
        vote: Some(put_vote(&reply.vote)),
        granted: reply.vote_granted,
        last: reply.last_log_id.as_ref().map(put_id),
    }
}

pub(super) fn take_vote_reply(reply: &ControlVoteReply) -> Result<VoteResponse<u64>, ControlError> {
    let last = take_id_if_there(reply.last.as_ref())?;
    Ok(VoteResponse {
        vote: take_vote(reply.vote.as_ref())?,
        vote_granted: reply.granted,
        last_log_id: last,
    })
}

pub(super) fn put_head(meta: &SnapshotMeta) -> ControlSnapshotHead {
    let membership = &meta.last_membership;
    ControlSnapshotHead {
        last: meta.last_log_id.as_ref().map(put_id),
        membership_id: membership.log_id().as_ref().map(put_id),
        membership: Some(put_membership(membership.membership())),
        id: meta.snapshot_id.clone(),
    }
}

pub(super) fn encode_head(meta: &SnapshotMeta) -> Bytes {
    put_head(meta).encode_to_vec().into()
}

pub(super) fn decode_head(bytes: &[u8]) -> Result<SnapshotMeta, ControlError> {
    take_head(&ControlSnapshotHead::decode(bytes).map_err(malformed)?)
}

fn take_head(head: &ControlSnapshotHead) -> Result<SnapshotMeta, ControlError> {
    let last_log_id = take_id_if_there(head.last.as_ref())?;
    let membership_id = take_id_if_there(head.membership_id.as_ref())?;
    let membership = take_membership(required(head.membership.as_ref(), "membership")?)?;
    if membership_id > last_log_id {
        let problem = format!("members of {membership_id:?} in a snapshot of {last_log_id:?}");
        return Err(ControlError::malformed(problem));
    }
    Ok(SnapshotMeta {
        last_log_id,
        last_membership: StoredMembership::new(membership_id, membership),
        snapshot_id: head.id.clone(),
    })
}

pub(super) fn put_chunk(chunk: &InstallSnapshotRequest<TypeConfig>) -> ControlSnapshotChunk {
    ControlSnapshotChunk {
        vote: Some(put_vote(&chunk.vote)),
        head: Some(put_head(&chunk.meta)),
        offset: chunk.offset,
        data: Bytes::copy_from_slice(&chunk.data),
        done: chunk.done,
    }
}

pub(super) fn take_chunk(
    chunk: &ControlSnapshotChunk,
) -> Result<InstallSnapshotRequest<TypeConfig>, ControlError> {
    let end = chunk.offset.saturating_add(chunk.data.len() as u64);
    if end > SNAPSHOT_BYTES_MAX as u64 {
        return Err(ControlError::TooLarge {
            what: "control snapshot",
            actual: usize::try_from(end).unwrap_or(usize::MAX),
            limit: SNAPSHOT_BYTES_MAX,
        });
    }
    let vote = take_vote_of_someone(chunk.vote.as_ref())?;
    let meta = take_head(required(chunk.head.as_ref(), "head of a snapshot")?)?;
    if !vote.committed || meta.last_log_id.is_none() {
        return Err(ControlError::malformed(
            "snapshot of nothing, or of nobody who leads",
        ));
    }
    Ok(InstallSnapshotRequest {
        vote,
        meta,
        offset: chunk.offset,
        data: chunk.data.to_vec(),
        done: chunk.done,
    })
}
