//! The Admin service: what a node knows of itself, and its policies.
//!
//! **Owns**: which message asks for what.
//! **Does not own**: the numbers (the node), their fields (`status_report`, `posture`), the pieces
//! of a backup (`backup_stream`), orphans and kept writes as messages (`orphans`, `buffered`).

use domicile_proto::v1;
use domicile_proto::v1::admin_server::Admin;
use domicile_replication::{Detail, Node};
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::refusal::refuse;
use super::{
    backup_stream, buffered, failover, keyspaces, orphans, posture, regions, status_report,
};

/// The Admin service of a node.
pub(crate) struct AdminService {
    node: Node,
    draining: watch::Receiver<bool>,
}

impl AdminService {
    pub(crate) fn new(node: Node, draining: watch::Receiver<bool>) -> Self {
        Self { node, draining }
    }
}

#[tonic::async_trait]
impl Admin for AdminService {
    type BackupStream = ReceiverStream<Result<v1::BackupResponse, Status>>;

    async fn backup(
        &self,
        request: Request<v1::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        let begun = backup_stream::begin(&self.node, request.into_inner(), self.draining.clone());
        let pieces = begun.map_err(|error| refuse(&error))?;
        Ok(Response::new(ReceiverStream::new(pieces)))
    }

    type ShowOrphansStream = orphans::Messages<v1::ShowOrphansResponse>;
    type ReplayOrphansStream = orphans::Messages<v1::ReplayOrphansResponse>;
    type DiscardOrphansStream = orphans::Messages<v1::DiscardOrphansResponse>;

    async fn list_buffered(
        &self,
        request: Request<v1::ListBufferedRequest>,
    ) -> Result<Response<v1::ListBufferedResponse>, Status> {
        let listed = buffered::list(&self.node, request.get_ref());
        Ok(Response::new(listed.map_err(|error| refuse(&error))?))
    }

    async fn show_buffered(
        &self,
        request: Request<v1::ShowBufferedRequest>,
    ) -> Result<Response<v1::ShowBufferedResponse>, Status> {
        let shown = buffered::show(&self.node, request.into_inner()).await;
        Ok(Response::new(shown.map_err(|error| refuse(&error))?))
    }

    async fn discard_buffered(
        &self,
        request: Request<v1::DiscardBufferedRequest>,
    ) -> Result<Response<v1::DiscardBufferedResponse>, Status> {
        let discarded = buffered::discard(&self.node, request.into_inner()).await;
        Ok(Response::new(discarded.map_err(|error| refuse(&error))?))
    }

    async fn list_orphans(
        &self,
        _request: Request<v1::ListOrphansRequest>,
    ) -> Result<Response<v1::ListOrphansResponse>, Status> {
        let listed = orphans::list(&self.node).await;
        Ok(Response::new(listed.map_err(|error| refuse(&error))?))
    }

    async fn show_orphans(
        &self,
        request: Request<v1::ShowOrphansRequest>,
    ) -> Result<Response<Self::ShowOrphansStream>, Status> {
        let draining = self.draining.clone();
        let shown = orphans::show(&self.node, request.into_inner(), draining).await;
        Ok(Response::new(shown.map_err(|error| refuse(&error))?))
    }

    async fn replay_orphans(
        &self,
        request: Request<v1::ReplayOrphansRequest>,
    ) -> Result<Response<Self::ReplayOrphansStream>, Status> {
        let draining = self.draining.clone();
        let steps = orphans::replay(&self.node, request.into_inner(), draining).await;
        Ok(Response::new(steps.map_err(|error| refuse(&error))?))
    }

    async fn discard_orphans(
        &self,
        request: Request<v1::DiscardOrphansRequest>,
    ) -> Result<Response<Self::DiscardOrphansStream>, Status> {
        let draining = self.draining.clone();
        let given_up = orphans::discard(&self.node, request.into_inner(), draining).await;
        Ok(Response::new(given_up.map_err(|error| refuse(&error))?))
    }

    async fn status(
        &self,
        request: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        let wanted = request.into_inner().partitions;
        let detail = if wanted {
            Detail::Partitions
        } else {
            Detail::Summary
        };
        Ok(Response::new(status_report::message(
            self.node.status(detail),
        )))
    }

    async fn plan_failover(
        &self,
        request: Request<v1::PlanFailoverRequest>,
    ) -> Result<Response<v1::PlanFailoverResponse>, Status> {
        let plan = failover::plan(&self.node, request.get_ref());
        plan.map(Response::new).map_err(|error| refuse(&error))
    }

    async fn give_up_homes(
        &self,
        request: Request<v1::GiveUpHomesRequest>,
    ) -> Result<Response<v1::GiveUpHomesResponse>, Status> {
        let given = failover::give_up(&self.node, request.into_inner()).await;
        given.map(Response::new).map_err(|error| refuse(&error))
    }

    async fn switch_over(
        &self,
        request: Request<v1::SwitchOverRequest>,
    ) -> Result<Response<v1::SwitchOverResponse>, Status> {
        let switched = failover::switch_over(&self.node, request.into_inner()).await;
        switched.map(Response::new).map_err(|error| refuse(&error))
    }

    async fn list_home_changes(
        &self,
        _request: Request<v1::ListHomeChangesRequest>,
    ) -> Result<Response<v1::ListHomeChangesResponse>, Status> {
        let changes = failover::changes(&self.node);
        changes.map(Response::new).map_err(|error| refuse(&error))
    }

    async fn create_keyspace(
        &self,
        request: Request<v1::CreateKeyspaceRequest>,
    ) -> Result<Response<v1::CreateKeyspaceResponse>, Status> {
        let made = keyspaces::create(&self.node, request.into_inner()).await;
        made.map(Response::new).map_err(|error| refuse(&error))
    }

    async fn alter_keyspace(
        &self,
        request: Request<v1::AlterKeyspaceRequest>,
    ) -> Result<Response<v1::AlterKeyspaceResponse>, Status> {
        let altered = keyspaces::alter(&self.node, request.into_inner()).await;
        altered.map(Response::new).map_err(|error| refuse(&error))
    }

    async fn add_region(
        &self,
        request: Request<v1::AddRegionRequest>,
    ) -> Result<Response<v1::AddRegionResponse>, Status> {
        let added = regions::add(&self.node, request.into_inner()).await;
        added.map(Response::new).map_err(|error| refuse(&error))
    }

    async fn remove_region(
        &self,
        request: Request<v1::RemoveRegionRequest>,
    ) -> Result<Response<v1::RemoveRegionResponse>, Status> {
        let removed = regions::remove(&self.node, request.get_ref()).await;
        removed.map(Response::new).map_err(|error| refuse(&error))
    }

    async fn list_keyspaces(
        &self,
        _request: Request<v1::ListKeyspacesRequest>,
    ) -> Result<Response<v1::ListKeyspacesResponse>, Status> {
        let keyspaces = self.node.keyspaces();
        let described = keyspaces
            .iter()
            .map(|keyspace| posture::describe(&self.node, keyspace));
        let keyspaces = described.collect();
        Ok(Response::new(v1::ListKeyspacesResponse { keyspaces }))
    }
}
