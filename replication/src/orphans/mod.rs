//! Orphans as an operator meets them: listed, shown, written again if nothing changed, given up.
//!
//! **Owns**: which records may be written again and how, the question whether a client has done so
//! already, who may export values, the count that is told.
//! **Does not own**: the files and what is decided of their records (storage), when a log is cut
//! (`ownership`), the home's exactly-once (core).
//!
//! ```text
//! window of open records of a file, no key twice
//!   | look     at the home: is the id known? which version has each key, as of which position?
//!   | follow   the log here up to there: who touched the absent keys since the fork?
//!   | write    through the home, under the original id, on the condition that nothing came between
//!   | decide   `replayed`, once the keyspace's level is met
//! an end anywhere: what is written is known at the home by its id, the next run finds it there
//! ```
//! - A key counts as unchanged if nobody wrote it since the fork but records of the same file,
//!   replayed before this one.
//! - Nothing here happens by itself, and no file is removed.

mod call;
mod discard;
mod list;
mod replay;
mod show;
mod tally;
mod touches;
mod window;

pub use call::{
    OrphanDiscard, OrphanFileStatus, OrphanListing, OrphanReplay, OrphanShow, OrphanShown,
    OrphanStream, ReplayOutcome, ReplayStep, orphan_kind,
};
pub use domicile_storage::{
    Orphan, OrphanCounts, OrphanFile, OrphanFileId, OrphanFork, OrphanNumber, OrphanState,
};
pub(crate) use tally::OrphanTally;
