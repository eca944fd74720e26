//! How messages reach other nodes of the control plane.
//!
//! **Owns**: the contract; messages are opaque to whoever carries them.
//! **Does not own**: connections (peers), what the messages say (wire).

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

use super::member::Member;

/// The message did not get through, or its answer did not come back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("control message not delivered: {problem}")]
pub struct TransportError {
    /// Why.
    pub problem: String,
}

/// Carries messages to other nodes.
pub trait Transport: Send + Sync + 'static {
    /// Gives `request` to `Consensus::answer` of the node at one of the addresses of `to`, and
    /// returns what that answers. At most [`MESSAGE_BYTES_MAX`](super::MESSAGE_BYTES_MAX) bytes
    /// either way. A request may arrive though this fails, and it may arrive twice.
    ///
    /// # Errors
    /// [`TransportError`] once `within` is over at the latest; at once if it is known that the
    /// message cannot arrive.
    fn send<'a>(
        &'a self,
        to: &'a Member,
        request: Bytes,
        within: Duration,
    ) -> BoxFuture<'a, Result<Bytes, TransportError>>;

    /// Whether there is a way to this node at all, up or not. One that there is none to is not made
    /// a voter: it would count in every majority.
    fn knows(&self, _member: &Member) -> bool {
        true
    }
}
