//! The other members as openraft wants them.
//!
//! **Owns**: what becomes of an undelivered message, silence while leadership is doubted.
//! **Does not own**: sending (calls), doubting (leadership).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use domicile_proto::v1::control_reply::Reply;
use domicile_proto::v1::control_request::Request;
use domicile_proto::v1::control_snapshot_reply::Outcome;
use openraft::error::{
    InstallSnapshotError, RPCError, RaftError, RemoteError, SnapshotMismatch, Unreachable,
};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use openraft::{AnyError, RaftNetwork, RaftNetworkFactory, SnapshotSegmentId};

use super::calls::{Calls, unexpected};
use super::error::ControlError;
use super::member::Seat;
use super::raft::{TypeConfig, node};
use super::wire::{
    put_append, put_chunk, put_vote_request, required, take_append_reply, take_vote,
    take_vote_reply,
};

/// Makes links to members.
#[derive(Debug, Clone)]
pub(super) struct Network {
    pub(super) calls: Calls,
    /// This node's leadership is doubted: it sends no entries and no heartbeats.
    pub(super) muted: Arc<AtomicBool>,
    /// After an undelivered message nothing is sent for so long.
    pub(super) pause: Duration,
}

/// One member.
#[derive(Debug)]
pub(super) struct Link {
    network: Network,
    target: u64,
    seat: Seat,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, seat: &Seat) -> Link {
        Link {
            network: self.clone(),
            target,
            seat: seat.clone(),
        }
    }
}

impl Link {
    async fn ask(&self, request: Request, within: Duration) -> Result<Reply, ControlError> {
        let member = self.seat.0.as_ref().ok_or_else(|| {
            ControlError::unavailable(format!("no address of member {}", self.target))
        })?;
        // Zero, nobody, would be whoever answers.
        let target =
            node(self.target).ok_or_else(|| ControlError::unavailable("member 0".to_owned()))?;
        self.network
            .calls
            .ask(Some(target), member, request, within)
            .await
    }
}

/// openraft repeats at once what failed otherwise.
fn unreachable<E: std::error::Error>(error: &ControlError) -> RPCError<u64, Seat, E> {
    RPCError::Unreachable(Unreachable::from(AnyError::error(error.to_string())))
}

impl RaftNetwork<TypeConfig> for Link {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RPCError<u64, Seat, RaftError<u64>>> {
        if self.network.muted.load(Ordering::Relaxed) {
            let muted = ControlError::unavailable("no quorum has answered this leader for long");
            return Err(unreachable(&muted));
        }
        let asked = self
            .ask(Request::Append(put_append(&request)), option.hard_ttl())
            .await;
        let reply = asked.and_then(|reply| match reply {
            Reply::Append(reply) => take_append_reply(&reply, &request),
            other => Err(unexpected(&other)),
        });
        reply.map_err(|error| unreachable(&error))
    }

    async fn install_snapshot(
        &mut self,
        chunk: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<
        InstallSnapshotResponse<u64>,
        RPCError<u64, Seat, RaftError<u64, InstallSnapshotError>>,
    > {
        let asked = self
            .ask(Request::Snapshot(put_chunk(&chunk)), option.hard_ttl())
            .await;
        let outcome = asked.and_then(|reply| match reply {
            Reply::Snapshot(reply) => required(reply.outcome, "outcome"),
            other => Err(unexpected(&other)),
        });
        match outcome.map_err(|error| unreachable(&error))? {
            Outcome::Vote(vote) => {
                let vote = take_vote(Some(&vote)).map_err(|error| unreachable(&error))?;
                Ok(InstallSnapshotResponse { vote })
            }
            Outcome::Mismatch(_) => {
                let segment = |offset| SnapshotSegmentId {
                    id: chunk.meta.snapshot_id.clone(),
                    offset,
                };
                let mismatch = InstallSnapshotError::SnapshotMismatch(SnapshotMismatch {
                    expect: segment(0),
                    got: segment(chunk.offset),
                });
                let source = RaftError::APIError(mismatch);
                Err(RPCError::RemoteError(RemoteError::new(self.target, source)))
            }
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, RPCError<u64, Seat, RaftError<u64>>> {
        let asked = self
            .ask(Request::Vote(put_vote_request(&request)), option.hard_ttl())
            .await;
        let reply = asked.and_then(|reply| match reply {
            Reply::Vote(reply) => take_vote_reply(&reply),
            other => Err(unexpected(&other)),
        });
        reply.map_err(|error| unreachable(&error))
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(self.network.pause))
    }
}
