//! Snapshots: one partition's cells at a position, in one checksummed file.
//!
//! **Owns**: taking them beside writers, finding, reading and restoring them.
//! **Does not own**: when one is due and what may be deleted for it (`retention`, the node).
//!
//! ```text
//! <data>/snapshots/<partition>-<seq>.snapshot    the last one
//! <data>/snapshots/<partition>.incoming          being received
//! <data>/snapshots/<partition>.received          whole, to be installed
//! ```
//! A snapshot holds every record up to its `seq` and may hold some up to its `newest_seq`: the
//! engine is read while it changes. The log from `seq` on, folded over it in order, is a state of
//! the partition from `newest_seq` on. The journal keeps that log.

mod blocks;
mod file;
mod format;
mod incoming;
mod install;
mod outgoing;
mod restore;
mod set;
mod take;

#[cfg(test)]
mod tests;

pub(crate) use blocks::SnapshotBlocks;
pub(crate) use file::hex_of;
pub use format::{KeptRequest, SnapshotHeader, SnapshotOrigin};
pub use incoming::IncomingSnapshot;
pub(crate) use install::fill_again;
pub use outgoing::OutgoingSnapshot;
pub(crate) use restore::restore;
pub(crate) use set::{SNAPSHOT_DIR, SnapshotSet};
pub use take::SnapshotPlan;
