//! The control plane's durable facts: its log of commands, its vote, its snapshot.
//!
//! ```text
//! <dir>/log       header, then frames: append, truncate, purge; each synced before it is told
//! <dir>/vote      replaced whole: written, synced, renamed, directory synced
//! <dir>/snapshot  replaced whole; written before the log is purged up to it
//! ```
//!
//! A control log belongs to one node id for ever. One that is not there where it was once is an
//! error, never a fresh start: a node that forgot its vote could vote twice in one term, and one
//! that forgot its log could elect a leader that lacks what was committed. A node that lost its
//! disk returns under a new id.

mod contents;
mod entry;
mod frame;
mod log;
mod scan;
mod snapshot;
#[cfg(test)]
mod tests;
mod vote;

pub use entry::{Entry, EntryId, LogIndex, PAYLOAD_BYTES_MAX, Term, Vote};
pub use log::{ControlLog, Expected, LOG_FILE};
pub use snapshot::{ControlSnapshot, SNAPSHOT_BYTES_MAX, Snapshots};
