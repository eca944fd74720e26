//! What the client door admits at once.
//!
//! **Owns**: the numbers, their defaults and why they are what they are.
//! **Does not own**: enforcing them (`listener`, `door`, `budget`, the streams).

use std::time::Duration;

/// Largest message either way: the largest batch is 6 MiB, the largest page 4 MiB. Doubled, one
/// call may hold twice the memory.
pub(crate) const MESSAGE_BYTES_MAX: usize = 8 << 20;

/// Values and keys of one page of a scan: half a message, so that one more value always fits.
/// Doubled, a page would no longer fit a message.
pub(crate) const PAGE_BYTES_MAX: usize = 4 << 20;

/// Unanswered writes of one stream: 8,192 at 100,000 writes/s is 80 ms of work, more than a commit
/// takes. Doubled, a stalled disk is noticed by twice as many writes.
pub(crate) const STREAM_WRITES_MAX: usize = 8192;

/// Their bytes: sixteen of the largest values. Doubled, each stream may hold twice the memory.
pub(crate) const STREAM_BYTES_MAX: usize = 16 << 20;

/// Bytes under way to us in one call: 2 MiB carry 14 MB/s over a 146 ms round trip. Doubled, a
/// call that is not read holds twice the memory.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 2 << 20;

/// The same over all calls of a connection: four full calls.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// Largest HTTP/2 frame: 64 KiB carry the 32 KiB that tonic collects before it writes, in one
/// frame. Doubled, nothing is gained.
pub(crate) const FRAME_BYTES_MAX: u32 = 64 << 10;

/// Headers of one call: 16 KiB, as most proxies allow. Doubled, a peer may hold twice as much.
pub(crate) const HEADER_BYTES_MAX: u32 = 16 << 10;

/// How long a connection may stay silent before its first byte: a round trip to anywhere and back
/// many times. Doubled, idle sockets take up connections twice as long.
pub(crate) const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a connection is probed: a client that vanished frees its place after interval +
/// timeout.
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// How long a probe may stay unanswered: far above any round trip.
pub(crate) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// What the client door admits at once, as far as an operator may choose it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrontLimits {
    /// Connections; further ones wait in the kernel's queue.
    pub connections_max: usize,
    /// Calls at once on one connection; further ones wait at the client.
    pub calls_max: u32,
    /// Bytes of keys and values of calls that are not answered yet, over all connections.
    pub in_flight_bytes_max: usize,
    /// How long a watch with a full buffer may go untaken before it is cut off.
    pub watch_patience: Duration,
    /// How long calls may take to finish once the door closes.
    pub drain_timeout: Duration,
}

impl Default for FrontLimits {
    fn default() -> Self {
        Self {
            connections_max: 1024,
            calls_max: 1024,
            in_flight_bytes_max: 256 << 20,
            // Far above any round trip and any pause of a collector.
            watch_patience: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(10),
        }
    }
}
