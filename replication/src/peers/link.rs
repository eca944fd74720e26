//! One peer as this node dials it: the channel and what is known of it.
//!
//! **Owns**: dialling, keepalive, limits of the channel, the status shown of it.
//! **Does not own**: what is sent (shipping, forward).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use domicile_proto::v1::peer_client::PeerClient;
use domicile_proto::{NodeId, Reason, RegionId};
use tokio::sync::{Notify, watch};
use tonic::transport::{Channel, Endpoint};

use crate::driver::{ShipSignal, SourceSignal};
use crate::error::Error;
use crate::options::RegionSpec;

/// Largest message between nodes: a segment of the largest size and its framing.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Bytes in flight on one stream between nodes. The default of 1 MiB caps a link with 146 ms round
/// trip at 7 MB/s; 16 MiB allow 110 MB/s. Doubling it doubles what a receiver may have to hold.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 16 << 20;

/// Bytes in flight on one connection: two streams' worth.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;

/// A silent peer is noticed within this and [`KEEPALIVE_TIMEOUT`]; twice as long, twice as late.
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);

/// How long a keepalive may stay unanswered: many round trips of any link on earth.
pub(crate) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(4);

/// How long dialling may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// What is shown of a link.
#[derive(Debug, Default, Clone)]
pub(crate) struct LinkStatus {
    pub(crate) node: Option<NodeId>,
    pub(crate) connected: bool,
    pub(crate) rtt_us: u64,
    pub(crate) shipped_bytes: u64,
    pub(crate) shipped_records: u64,
    pub(crate) last_error: String,
}

/// One peer.
#[derive(Debug)]
pub(crate) struct PeerLink {
    pub(crate) spec: RegionSpec,
    pub(crate) ship: Arc<ShipSignal>,
    pub(crate) source: Arc<SourceSignal>,
    /// The stream to this peer is to begin anew.
    pub(crate) begin_anew: Notify,
    is_over: watch::Sender<bool>,
    endpoint: Option<Endpoint>,
    forwarding: Option<PeerClient<Channel>>,
    status: Mutex<LinkStatus>,
}

impl PeerLink {
    /// A link that is dialled when first used. Must be called within the runtime.
    pub(crate) fn new(
        spec: RegionSpec,
        ship: Arc<ShipSignal>,
        source: Arc<SourceSignal>,
    ) -> Result<Self, Error> {
        let endpoint = endpoint_of(&spec)?;
        let forwarding = endpoint
            .as_ref()
            .map(|endpoint| client(endpoint.connect_lazy()));
        let status = Mutex::new(LinkStatus::default());
        Ok(Self {
            spec,
            ship,
            source,
            begin_anew: Notify::new(),
            is_over: watch::Sender::new(false),
            endpoint,
            forwarding,
            status,
        })
    }

    /// The region has left: nothing goes to it or comes from it any more.
    pub(crate) fn end(&self) {
        self.is_over.send_replace(true);
        self.source.end_stream();
    }

    /// Resolves once it is over.
    pub(crate) async fn ended(&self) {
        let mut is_over = self.is_over.subscribe();
        // The sender is this link's own.
        drop(is_over.wait_for(|is_over| *is_over).await);
    }

    pub(crate) fn region(&self) -> RegionId {
        self.spec.id
    }

    /// A new connection of its own, for a stream of segments.
    pub(crate) async fn dial(
        &self,
    ) -> Result<Option<PeerClient<Channel>>, tonic::transport::Error> {
        match &self.endpoint {
            None => Ok(None),
            Some(endpoint) => endpoint.connect().await.map(client).map(Some),
        }
    }

    /// The connection that forwards requests, apart from the segments so that neither waits for
    /// the other.
    pub(crate) fn forwarding(&self) -> Option<PeerClient<Channel>> {
        self.forwarding.clone()
    }

    pub(crate) fn status(&self) -> LinkStatus {
        self.lock().clone()
    }

    pub(crate) fn update(&self, update: impl FnOnce(&mut LinkStatus)) {
        update(&mut self.lock());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LinkStatus> {
        self.status
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn endpoint(address: &str) -> Result<Endpoint, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(address.to_owned())?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    Ok(endpoint)
}

fn client(channel: Channel) -> PeerClient<Channel> {
    PeerClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// A client of a region's node that is dialled when first used; `None` without an address. Must be
/// called within the runtime.
pub(crate) fn lazy_client(spec: &RegionSpec) -> Result<Option<PeerClient<Channel>>, Error> {
    let endpoint = endpoint_of(spec)?;
    Ok(endpoint.map(|endpoint| client(endpoint.connect_lazy())))
}

fn endpoint_of(spec: &RegionSpec) -> Result<Option<Endpoint>, Error> {
    let dialled = spec.peer_address.as_ref().map(|address| {
        endpoint(address).map_err(|error| {
            let message = format!("invalid peer address {address:?} of region {}", spec.name);
            Error::new(Reason::InvalidArgument, message).caused_by(error)
        })
    });
    dialled.transpose()
}
