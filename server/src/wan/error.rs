//! Why a link or a mesh could not be set up or changed.
//!
//! **Owns** the error enum of the proxy.
//!
//! **Does not own** the faults of a running connection: those travel to its peers as TCP resets.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// What went wrong while opening or changing a link or a mesh.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WanError {
    /// The listening socket could not be opened; choose another address or port 0.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the operating system answered.
        source: io::Error,
    },
    /// The accepting thread could not be started; free resources and open the link again.
    #[error("cannot start the accepting thread: {source}")]
    Thread {
        /// What the operating system answered.
        source: io::Error,
    },
    /// A delay or a jitter is beyond what a link carries; ask for less.
    #[error("link delay too long: {actual:?}, limit {limit:?}")]
    DelayTooLong {
        /// The delay asked for.
        actual: Duration,
        /// [`DELAY_MAX`](super::DELAY_MAX).
        limit: Duration,
    },
    /// A mesh was asked for with too many regions; ask for fewer.
    #[error("too many regions: {actual}, limit {limit}")]
    TooManyRegions {
        /// The regions named.
        actual: usize,
        /// [`REGIONS_MAX`](super::REGIONS_MAX).
        limit: usize,
    },
    /// A pair of regions has no round-trip time; list every unordered pair.
    #[error("no round-trip time between {a} and {b}")]
    MissingRtt {
        /// One region of the pair.
        a: String,
        /// The other region of the pair.
        b: String,
    },
    /// A pair of regions was listed twice, or a region was paired with itself; list each pair once.
    #[error("round-trip time between {a} and {b} given twice or to itself")]
    RepeatedRtt {
        /// One region of the pair.
        a: String,
        /// The other region of the pair.
        b: String,
    },
    /// The mesh has no link between these regions; check the names.
    #[error("no link from {from} to {to}")]
    UnknownLink {
        /// The region that dials.
        from: String,
        /// The region that is dialled.
        to: String,
    },
    /// The mesh has no region of this name; check the name.
    #[error("unknown region {region}")]
    UnknownRegion {
        /// The name asked for.
        region: String,
    },
}
