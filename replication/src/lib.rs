//! The rules of Domicile at work: the driver of the core, shipping between regions, and the node.
//!
//! Map:
//! - [`node`]: the embedded API: open, write, read, scan, status, close
//! - [`call`], [`receipt`], [`error`], [`options`]: what goes into it and what comes out
//! - `driver`: partitions as slots; the only caller of the core's `step`
//! - `shipping`: the home's side (shipper) and the copy's side (receiver) of a stream of segments
//! - [`buffer`]: writes kept for homes that cannot be reached
//! - `bootstrap`: snapshots for copies that the log cannot help any more
//! - [`backup`]: what of a node may be backed up, and the journal kept meanwhile
//! - `ownership`: what the map of homes says is done here: seats, leases, takeovers, rejoining
//! - [`control`]: consensus of the control plane, by openraft
//! - [`orphans`]: what was cut from a log, as an operator meets it
//! - `peers`: connections between nodes, the peer service, forwarding
//! - `clock`: the node's monotone, wall and hybrid clocks
//! - [`watching`]: changes as they become visible, from a position on
//! - `topology`: who is home of what and who may hold what
//!
//! This crate never decides when a write is acknowledged (the core does) and never touches a file
//! (storage does).

pub mod backup;
mod bootstrap;
pub mod buffer;
pub mod call;
mod clock;
pub mod control;
mod driver;
pub mod error;
pub mod node;
pub mod options;
pub mod orphans;
mod ownership;
mod peers;
pub mod receipt;
mod shipping;
mod topology;
pub mod watching;

#[cfg(test)]
mod fuzz_tests;

pub use backup::{BackupCall, BackupSource};
pub use buffer::{
    Accepted, BufferNumber, BufferPage, BufferStanding, BufferedWrite, RefusedWrite, Unapplied,
    Written,
};
pub use call::{
    Consistency, Direction, Entry, Expected, Forwarding, Precondition, ReadAnswer, ReadCall,
    ScanCall, ScanPage, SessionMark, WriteCall,
};
pub use domicile_core::control::{Fencing, Haste, OperatorWord, VOTERS_MIN};
pub use error::Error;
pub use node::status::{Detail, NodeStatus, PeerStatus};
pub use node::{
    Alteration, FailoverPlan, GivenUp, HomeChange, KeyspaceHandle, Node, NodeBuilder, OrphanRecord,
    Switchover, VersionedPolicy, orphan_state,
};
pub use options::{ControlOptions, Engine, NodeOptions, RegionSpec};
pub use orphans::{
    Orphan, OrphanCounts, OrphanDiscard, OrphanFile, OrphanFileId, OrphanFileStatus, OrphanFork,
    OrphanListing, OrphanNumber, OrphanReplay, OrphanShow, OrphanShown, OrphanState, OrphanStream,
    ReplayOutcome, ReplayStep, orphan_kind,
};
pub use receipt::Receipt;
pub use watching::{
    Change, Changes, WatchCall, WatchFrom, WatchKeys, WatchMessage, WatchMessages, WatchStatus,
};
