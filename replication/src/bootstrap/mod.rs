//! Snapshots between nodes: how a copy gets on that the log cannot help any more.
//!
//! ```text
//!   home                                              copy
//!   attach: the copy lacks what was cut  --- needs snapshot --->  bootstrapper: wanted
//!   source: last snapshot, paced       <--- fetch, from offset --
//!                                       === chunks, checksums ==>  incoming, received
//!                                                                  installed: store, core
//!   attach: its log is ours, goes on    <--- hello, once more ---
//! ```

mod bootstrapper;
mod source;

pub(crate) use bootstrapper::{Wanted, run as run_bootstrapper};
pub(crate) use source::{CHUNKS_MAX, SENT_MAX, SnapshotSource};
