//! The client door: gRPC services in front of a node, with a limit on everything.
//!
//! **Owns** the services Kv and Admin, health and reflection, the mapping of errors to status, the
//! limits of connections, and the way a door closes.
//!
//! **Does not own** what a call does (the node does) nor where the limits come from (`config`).
//!
//! ```text
//! TCP -> listener (connections, first byte) -> HTTP/2 (streams, windows, keepalive)
//!     -> kv | write_stream | watch_stream | admin -> request (checks) -> budget (bytes) -> Node
//!     <- answer | refusal                                              <----'
//! ```

mod admin;
mod answer;
mod backup_stream;
mod budget;
mod buffered;
mod deadline;
mod door;
mod error;
mod failover;
mod keyspaces;
mod kv;
mod limits;
pub(crate) mod listener;
mod orphans;
mod page_token;
mod posture;
mod refusal;
mod regions;
mod request;
mod status_report;
mod watch_stream;
mod write_stream;

#[cfg(test)]
mod buffered_tests;
#[cfg(test)]
mod door_tests;
#[cfg(test)]
mod orphan_tests;

pub use door::Door;
pub use error::FrontError;
pub use limits::FrontLimits;
