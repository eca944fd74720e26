//! The types that openraft works with here.
//!
//! **Owns**: their names, and what they are in the words of the storage.
//! **Does not own**: their bytes (wire).
//!
//! openraft's leader ids are (term, node): two leaders may share a term, the later one with the
//! larger node id. The pair is what is unique.

use std::io::Cursor;

use bytes::Bytes;
use domicile_proto::NodeId;
use domicile_storage::control_log::{EntryId, LogIndex, Term, Vote as StoredVote};

use super::member::{Member, Members, Seat};

openraft::declare_raft_types!(
    /// Commands and answers are opaque; node 0 is nobody.
    pub(super) TypeConfig:
        D = Bytes,
        R = Bytes,
        NodeId = u64,
        Node = Seat,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = Cursor<Vec<u8>>,
        AsyncRuntime = openraft::TokioRuntime,
        Responder = openraft::impls::OneshotResponder<TypeConfig>,
);

pub(super) type Raft = openraft::Raft<TypeConfig>;
pub(super) type LogId = openraft::LogId<u64>;
pub(super) type Vote = openraft::Vote<u64>;
pub(super) type Entry = openraft::Entry<TypeConfig>;
pub(super) type Payload = openraft::EntryPayload<TypeConfig>;
pub(super) type Membership = openraft::Membership<u64, Seat>;
pub(super) type StoredMembership = openraft::StoredMembership<u64, Seat>;
pub(super) type SnapshotMeta = openraft::SnapshotMeta<u64, Seat>;
pub(super) type Snapshot = openraft::Snapshot<TypeConfig>;
pub(super) type StorageError = openraft::StorageError<u64>;
pub(super) type Metrics = openraft::RaftMetrics<u64, Seat>;

pub(super) fn log_id(id: EntryId) -> LogId {
    LogId::new(
        openraft::CommittedLeaderId::new(id.term.get(), raw(id.leader)),
        id.index.get(),
    )
}

pub(super) fn entry_id(id: &LogId) -> EntryId {
    EntryId {
        term: Term::new(id.leader_id.term),
        leader: node(id.leader_id.node_id),
        index: LogIndex::new(id.index),
    }
}

pub(super) fn vote(vote: StoredVote) -> Vote {
    Vote {
        leader_id: openraft::LeaderId::new(vote.term.get(), raw(vote.candidate)),
        committed: vote.committed,
    }
}

pub(super) fn stored_vote(vote: &Vote) -> StoredVote {
    StoredVote {
        term: Term::new(vote.leader_id.term),
        candidate: node(vote.leader_id.node_id),
        committed: vote.committed,
    }
}

/// The node of a raft id; 0 is nobody.
pub(super) fn node(id: u64) -> Option<NodeId> {
    NodeId::new(id).ok()
}

fn raw(node: Option<NodeId>) -> u64 {
    node.map_or(0, NodeId::get)
}

/// The members that a membership names.
pub(super) fn members(membership: &Membership) -> Members {
    let known = membership.nodes().filter_map(|(id, seat)| {
        let member: Option<Member> = seat.0.clone();
        Some((node(*id)?, member?))
    });
    Members {
        voters: membership.voter_ids().filter_map(node).collect(),
        members: known.collect(),
        changing: membership.get_joint_config().len() > 1,
    }
}
