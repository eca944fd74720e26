//! The journal: append-only files of commit frames, the truth from which all else is rebuilt.
//!
//! ```text
//! <data>/journal/0000000001.journal   64 MiB, laid out ahead of use
//!   file header, 4096 bytes: who wrote it, which file it is
//!   frame 1: header, 32 bytes | segment | segment | ...     one group commit = one write, one sync
//!   frame 2: ...                                             written only once frame 1 is synced
//!   zeros                                                    the end
//! ```
//! A damaged frame with nothing intact behind it is a torn tail: it was never acknowledged, so it
//! is cut. A damaged frame with an intact one behind it is corruption: nothing is cut, the damage
//! is named. A frame holds segments, and now and then a rebase: a partition's log that begins anew
//! at a snapshot, or a cut: one that goes back to a fork.

pub(crate) mod cut;
pub(crate) mod cuts;
pub(crate) mod files;
pub(crate) mod first;
pub(crate) mod frame;
pub(crate) mod header;
pub(crate) mod index;
mod place;
pub(crate) mod probe;
pub(crate) mod reader;
pub(crate) mod rebase;
pub(crate) mod scan;
pub(crate) mod tails;
pub(crate) mod writer;

pub use cuts::OrphanNumber;
pub use place::{FileNumber, Place};
pub use reader::JournalChunk;
pub use scan::TornTail;
pub use tails::PartitionTail;
