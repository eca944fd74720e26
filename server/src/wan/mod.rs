//! A wide-area network in user space: TCP links on loopback that deliver every byte late, in order
//! and at full throughput, and that can be cut.
//!
//! **Owns** the proxy threads, the bytes in flight, the faults of a link and the mesh of regions.
//!
//! **Does not own** what the bytes mean (the doors do) nor the scenario that decides when a link
//! fails (demo, bench and tests do).
//!
//! ```text
//!            read            +one-way delay           write
//! client ==========> reader ==> [ pipe ] ==> writer ==========> target     forward
//! client <========== writer <== [ pipe ] <== reader <========== target     backward
//! ```
//!
//! Four threads carry one connection, because asynchronous timers tick in whole milliseconds and a
//! round trip has to hold its nominal value well within one. A thread sleeps in the kernel whenever
//! nothing is due; nothing spins.
//!
//! What this network leaves out, and what that costs:
//! - Opening a connection takes no round trip: the client connects to loopback. A caller that
//!   measures connection set-up sees it one round trip too short.
//! - Bytes are never lost or reordered, only held: TCP hides loss from its users as delay, which
//!   jitter and one-way cuts reproduce.
//! - There is no congestion window: a new connection runs at full speed at once.
//! - A reset travels in line with the bytes before it. Behind bytes that a target refuses to read
//!   it waits, where a real one would overtake them.

mod conditions;
mod connection;
mod error;
mod lane;
mod link;
mod mesh;
mod pipe;

#[cfg(test)]
mod measure_tests;
#[cfg(test)]
mod mesh_tests;
#[cfg(test)]
mod tests;

pub use conditions::{DELAY_MAX, LinkConditions};
pub use error::WanError;
pub use link::{CONNECTIONS_MAX, Link, LinkStats};
pub use mesh::{REGIONS_MAX, Route, Wan};
pub use pipe::BUFFER_BYTES_MAX;
