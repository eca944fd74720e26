//! Group commit: whatever is queued when the disk is free goes in one frame, one write, one sync.
//!
//! ```text
//! submit ---> queue (a builder per partition) ---take---> committer: chain, frame, write, sync
//!                                                             |
//!                     CommitSink::durable <--- tails, index, durable end are published
//! ```
//! There is no timer: at zero load a write waits for nobody, and under load the sync of one commit
//! is the time in which the next one gathers. Only what nobody waits for may wait itself
//! (docs/decisions/0004).

mod committer;
mod health;
mod queue;
mod stall;
mod statistics;
mod thread;

pub use committer::Committed;
pub(crate) use committer::{Committer, Published};
pub(crate) use health::Health;
pub(crate) use queue::CommitQueue;
pub use queue::{CommitUrgency, SOON_INTERVAL};
pub(crate) use stall::{Stalls, WatchedEngine};
pub(crate) use statistics::CommitStatistic;
pub use statistics::{CommitStats, SYNC_BOUNDS_US};
pub use thread::{CommitSink, CommitThread};
