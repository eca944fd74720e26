//! Where to connect, and every limit that tonic leaves open.
//!
//! **Owns**: the endpoints, the deadlines, sizes and keepalive of a connection, and its making.
//! **Does not own**: which endpoint is in use and when a call is repeated (`connection`, `call`).

use std::time::Duration;

use domicile_proto::Reason;
use tonic::transport::{Channel, Endpoint};

use crate::error::ClientError;

/// Largest message either way: 8 MiB carries the largest batch (6 MiB) and the largest page
/// (4 MiB) with room; doubled, a bad peer costs twice the memory.
pub(crate) const MESSAGE_BYTES_MAX: usize = 8 << 20;

/// Bytes that may be under way to us in one call: 2 MiB carry 14 MB/s over a 146 ms round trip;
/// doubled, a stalled reader holds twice the memory.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;

/// The same over all calls of a connection: four full streams.
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// Calls that may wait for the connection's task: 1,024 covers the largest pipelines of unary
/// calls; doubled, a dead connection holds twice the requests.
const QUEUED_CALLS_MAX: usize = 1024;

/// How often a connection with calls under way is probed: a dead server is noticed within
/// interval + timeout. Doubled, callers hang twice as long on a cut link.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// How long a probe may stay unanswered: far above any round trip.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether a call that found no server, or not the right one, is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Retry {
    /// With jittered back-off until the call's deadline, each time to the next endpoint.
    #[default]
    UntilDeadline,
    /// The first answer counts.
    Never,
}

/// How a [`crate::Client`] connects.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Addresses such as `http://127.0.0.1:7400`, in order of preference; at least one.
    pub endpoints: Vec<String>,
    /// The deadline of a call that sets none.
    pub timeout: Duration,
    /// How long opening a connection may take.
    pub connect_timeout: Duration,
    /// Whether calls are repeated.
    pub retry: Retry,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            endpoints: vec!["http://127.0.0.1:7400".to_owned()],
            timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(2),
            retry: Retry::UntilDeadline,
        }
    }
}

impl ClientOptions {
    /// Defaults, with these endpoints.
    #[must_use]
    pub fn endpoints<E: Into<String>>(endpoints: impl IntoIterator<Item = E>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }

    /// One lazy channel an endpoint.
    pub(crate) fn channels(&self) -> Result<Vec<Channel>, ClientError> {
        if self.endpoints.is_empty() {
            let message = "no endpoint given: 0, at least 1 expected";
            return Err(ClientError::local(Reason::InvalidArgument, message));
        }
        let lazy = |text: &String| self.endpoint(text).map(|endpoint| endpoint.connect_lazy());
        self.endpoints.iter().map(lazy).collect()
    }

    /// The endpoint at this address with all limits set.
    pub(crate) fn endpoint(&self, address: &str) -> Result<Endpoint, ClientError> {
        let refuse = |cause: &dyn std::fmt::Display| {
            let message = format!("invalid endpoint {address:?}: {cause}");
            ClientError::local(Reason::InvalidArgument, message)
        };
        let endpoint = Endpoint::from_shared(address.to_owned()).map_err(|cause| refuse(&cause))?;
        let uri = endpoint.uri();
        if uri.scheme_str() != Some("http") || uri.host().is_none() {
            return Err(refuse(&"expected http://host:port"));
        }
        Ok(endpoint
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .tcp_keepalive(Some(Duration::from_secs(30)))
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .buffer_size(QUEUED_CALLS_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bad_endpoints_are_refused_with_their_text() {
        for bad in [
            "",
            "127.0.0.1:7400",
            "https://a:1",
            "http://",
            "ftp://a:1",
            "a b",
        ] {
            let refused = ClientOptions::endpoints([bad]).channels().unwrap_err();
            assert!(refused.to_string().contains(bad), "{refused}");
        }
        let none: [&str; 0] = [];
        assert!(ClientOptions::endpoints(none).channels().is_err());
        let good = ClientOptions::endpoints(["http://127.0.0.1:7400", "http://db.example:7400"]);
        assert_eq!(good.channels().unwrap().len(), 2);
    }
}
