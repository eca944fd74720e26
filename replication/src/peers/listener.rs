//! Where peers dial in: the socket and its limits.
//!
//! **Owns**: binding, the limits of the peer server, its end when the node closes.
//! **Does not own**: what the service does (`door`).

use std::net::SocketAddr;
use std::sync::Arc;

use domicile_proto::Reason;
use domicile_proto::v1::peer_server::PeerServer;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

use super::door::PeerService;
use super::link::{
    CONNECTION_WINDOW_BYTES, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, MESSAGE_BYTES_MAX,
    STREAM_WINDOW_BYTES,
};
use crate::error::Error;
use crate::node::NodeCore;

/// Requests under way on one connection. Forwarded writes wait for their level, so this bounds how
/// many a peer may have waiting; twice as many cost twice the memory of a hostile peer.
const STREAMS_MAX: u32 = 16_384;

/// HTTP/2 frames of up to 256 KiB: a frame of segments then takes few of them.
const FRAME_BYTES: u32 = 256 << 10;

/// A bound socket.
pub(crate) struct PeerListener {
    listener: TcpListener,
    pub(crate) address: SocketAddr,
}

impl PeerListener {
    pub(crate) async fn bind(address: SocketAddr) -> Result<Self, Error> {
        let failed = |error: std::io::Error| {
            let message = format!("cannot listen for peers on {address}: {error}");
            Error::new(Reason::InvalidArgument, message).caused_by(error)
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address })
    }

    /// Serves peers until the node closes.
    pub(crate) async fn serve(self, node: Arc<NodeCore>) {
        let service = PeerServer::new(PeerService::new(Arc::clone(&node)))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let incoming = TcpListenerStream::new(self.listener);
        let incoming = futures::StreamExt::inspect(incoming, |accepted| {
            if let Ok(stream) = accepted {
                drop(stream.set_nodelay(true));
            }
        });
        let served = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_concurrent_streams(STREAMS_MAX)
            .max_frame_size(FRAME_BYTES)
            .add_service(service)
            .serve_with_incoming_shutdown(incoming, node.closed())
            .await;
        if let Err(error) = served {
            tracing::error!(%error, "the peer listener failed");
        }
    }
}
