//! What a node answers about its orphans, one after the other.
//!
//! **Owns**: the streams and their end.
//! **Does not own**: what the answers are (the node), when a client shows them (whoever asked).

use std::future::Future;

use domicile_proto::v1;
use tonic::transport::Channel;
use tonic::{Response, Status, Streaming};

use crate::call::admin;
use crate::error::ClientError;

/// Answers of one kind. Nothing is repeated: after an error it has to be asked for anew. Dropping
/// it ends a replay or discard behind what was told.
#[derive(Debug)]
pub struct OrphanAnswers<M> {
    answers: Streaming<M>,
}

impl<M> OrphanAnswers<M> {
    /// The next answer; `None` behind the last.
    ///
    /// # Errors
    /// Why the node ended it, or a connection that broke.
    pub async fn next(&mut self) -> Result<Option<M>, ClientError> {
        self.answers
            .message()
            .await
            .map_err(ClientError::from_status)
    }
}

type Begun<M> = Result<OrphanAnswers<M>, ClientError>;

pub(crate) async fn show(
    channel: Channel,
    request: v1::ShowOrphansRequest,
) -> Begun<v1::ShowOrphansResponse> {
    begun(admin(channel).show_orphans(request)).await
}

pub(crate) async fn replay(
    channel: Channel,
    request: v1::ReplayOrphansRequest,
) -> Begun<v1::ReplayOrphansResponse> {
    begun(admin(channel).replay_orphans(request)).await
}

pub(crate) async fn discard(
    channel: Channel,
    request: v1::DiscardOrphansRequest,
) -> Begun<v1::DiscardOrphansResponse> {
    begun(admin(channel).discard_orphans(request)).await
}

async fn begun<M>(asked: impl Future<Output = Result<Response<Streaming<M>>, Status>>) -> Begun<M> {
    let answers = asked.await.map_err(ClientError::from_status)?.into_inner();
    Ok(OrphanAnswers { answers })
}
