//! The client port: services, limits, health, and an orderly way to close.
//!
//! **Owns**: assembling the HTTP/2 server, telling health checks, the order of closing.
//! **Does not own**: the node's own closing (whoever opened it), the services.
//!
//! Closing: health says NOT_SERVING, no connection is accepted, write streams stop reading and
//! answer what they hold, calls under way finish, and what is left after the drain timeout is cut.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use domicile_proto::v1;
use domicile_proto::v1::admin_server::AdminServer;
use domicile_proto::v1::kv_server::KvServer;
use domicile_replication::Node;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tonic_reflection::server::Builder;

use super::admin::AdminService;
use super::error::FrontError;
use super::kv::KvService;
use super::limits::{
    CONNECTION_WINDOW_BYTES, FRAME_BYTES_MAX, FrontLimits, HEADER_BYTES_MAX, KEEPALIVE_INTERVAL,
    KEEPALIVE_TIMEOUT, MESSAGE_BYTES_MAX, STREAM_WINDOW_BYTES,
};
use super::listener;

/// The names that health checks may ask for; the empty one is the server as a whole.
const SERVICES: [&str; 3] = ["", "domicile.v1.Kv", "domicile.v1.Admin"];

/// The open client port of a node.
pub struct Door {
    listener: TcpListener,
    limits: FrontLimits,
}

impl Door {
    /// Opens the port; nothing is served until [`Door::serve`].
    ///
    /// # Errors
    /// [`FrontError::Listen`] if the port is taken.
    pub async fn open(address: SocketAddr, limits: FrontLimits) -> Result<Self, FrontError> {
        let listener = listener::bind(address).await?;
        Ok(Self { listener, limits })
    }

    /// The address that it is bound to.
    ///
    /// # Errors
    /// [`FrontError::Listen`] if the system does not say.
    pub fn address(&self) -> Result<SocketAddr, FrontError> {
        let unbound = SocketAddr::from(([0, 0, 0, 0], 0));
        let address = self.listener.local_addr();
        address.map_err(|source| FrontError::Listen {
            address: unbound,
            source,
        })
    }

    /// Serves `node` until `closed` resolves, then closes in order. The node stays open.
    ///
    /// # Errors
    /// The HTTP/2 server ended on its own.
    pub async fn serve(
        self,
        node: Node,
        closed: impl Future<Output = ()> + Send,
    ) -> Result<(), FrontError> {
        let Self { listener, limits } = self;
        let (draining, watched) = watch::channel(false);
        let (health, router) = router(node, &limits, watched.clone()).await?;
        let mut stop = watched;
        let stopped = async move {
            // A sender that is gone means the same as its message.
            let _ = stop.wait_for(|draining| *draining).await;
        };
        let connections = listener::connections(listener, limits.connections_max);
        let server = router.serve_with_incoming_shutdown(connections, stopped);
        let mut server = std::pin::pin!(server);
        tokio::select! {
            ended = &mut server => return Ok(ended?),
            () = closed => {}
        }
        for service in SERVICES {
            health
                .set_service_status(service, ServingStatus::NotServing)
                .await;
        }
        draining.send_replace(true);
        match tokio::time::timeout(limits.drain_timeout, server).await {
            Ok(ended) => Ok(ended?),
            Err(_) => {
                let waited_ms = limits.drain_timeout.as_millis();
                tracing::warn!(waited_ms, "connections were still open and are cut");
                Ok(())
            }
        }
    }
}

async fn router(
    node: Node,
    limits: &FrontLimits,
    draining: watch::Receiver<bool>,
) -> Result<(HealthReporter, Router), FrontError> {
    let kv = KvServer::new(KvService::new(node.clone(), limits, draining.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let admin = AdminServer::new(AdminService::new(node, draining))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let (health, health_server) = tonic_health::server::health_reporter();
    for service in SERVICES {
        health
            .set_service_status(service, ServingStatus::Serving)
            .await;
    }
    let reflected = || {
        Builder::configure()
            .register_encoded_file_descriptor_set(v1::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let router = http2(limits)
        .add_service(kv)
        .add_service(admin)
        .add_service(health_server)
        .add_service(reflected().build_v1()?)
        .add_service(reflected().build_v1alpha()?);
    Ok((health, router))
}

/// HTTP/2 with a limit on all that tonic leaves open.
fn http2(limits: &FrontLimits) -> Server {
    Server::builder()
        .max_concurrent_streams(limits.calls_max)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .tcp_keepalive(Some(Duration::from_secs(60)))
}
