//! Why the door could not be opened or kept open.
//!
//! **Owns**: the errors of the listener and the HTTP/2 server.
//! **Does not own**: errors of calls (`refusal`).

use std::net::SocketAddr;

/// Why the client door could not be opened or kept open.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrontError {
    /// Someone else has the port, or the address is not this machine's.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// The HTTP/2 server ended on its own.
    #[error("client door failed: {0}")]
    Serve(#[from] tonic::transport::Error),
    /// The descriptors built into this binary cannot be read.
    #[error("reflection not available: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}
