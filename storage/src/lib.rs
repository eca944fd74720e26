//! The disk of Domicile: journal, group commit, ordered engine and the cells folded from them.
//!
//! Map:
//! - [`store`]: all of it assembled: one open data directory
//! - [`journal`]: the append-only files of commit frames: writing, reading, damage
//! - [`commit`]: the queue of a group commit and the thread that empties it
//! - [`cells`]: the current value of each key, folded from the records
//! - [`engine`]: ordered rows: sled or memory
//! - [`disk`]: files as the store sees them: the operating system's, or in memory with power loss
//! - [`backup`]: snapshots and log as files elsewhere, and a directory made of them
//! - [`control_log`]: the control plane's log, vote and snapshot
//! - `inspect`: what lies in a data directory, entry by entry
//! - `verify`: an offline check of a data directory
//! - `buffered`: writes that wait for homes that cannot be reached
//! - `orphans`: tails that were cut from logs, kept; cells healed after it
//! - [`recovery`]: the replay of a journal
//! - `recovered`: what opening found
//! - [`incoming`]: a segment from elsewhere, checked to the last record
//! - `snapshot`: one partition's cells at a position, in one checksummed file
//! - [`retention`]: which journal files nobody needs any more
//! - [`space`]: room on the device, and refusing writes before it ends
//! - `log`: where records are, where a partition's log begins and ends
//! - [`reach`]: what a reader finds who wants a partition's log from one record on
//! - [`scrub`]: reading again what was written long ago
//! - [`records`]: the records of one partition, read from the journal
//! - [`options`]: how a store is opened
//! - [`error`]: what can go wrong
//! - `opening`: from a directory to the parts of a store
//! - `condemned`: which partitions have lost something, on disk
//! - `checkpoint`: what the engine remembers of the journal
//! - `promises`: the highest epoch that each partition has promised, on disk
//! - `planted`: bugs that tests plant to see them caught
//! - `quarantine`: opening the engine, and putting a bad one aside
//! - `identity`: who a directory belongs to
//! - `envelope`: the outside of small files that are replaced whole
//! - `lock`: one holder a directory
//! - `varint`: numbers in as many bytes as they need
//!
//! The journal, with the snapshots for which it was cut, is the truth; the engine may vanish at any
//! moment and is rebuilt from it. This crate
//! never talks to another node, never decides who may write, and never acknowledges before
//! `fdatasync` has returned.

pub mod backup;
mod buffered;
pub mod cells;
mod checkpoint;
pub mod commit;
mod condemned;
pub mod control_log;
pub mod disk;
pub mod engine;
mod envelope;
pub mod error;
mod identity;
pub mod incoming;
pub mod inspect;
pub mod journal;
mod lock;
mod log;
mod opening;
pub mod options;
mod orphans;
#[cfg(not(feature = "planted"))]
mod planted;
#[cfg(feature = "planted")]
pub mod planted;
mod promises;
mod quarantine;
pub mod reach;
pub mod records;
mod recovered;
pub mod recovery;
pub mod retention;
pub mod scrub;
mod snapshot;
pub mod space;
pub mod store;
mod varint;
pub mod verify;

#[cfg(test)]
mod tests;

pub use buffered::{
    BufferEvent, BufferNumber, BufferedWrite, NewBuffered, RefusedWrite, WriteBuffer,
};
pub use cells::{Cell, CellOptions, CellRead, CellScan, CellStats, FlushReport, PartitionCells};
pub use commit::{
    CommitSink, CommitStats, CommitThread, CommitUrgency, Committed, SOON_INTERVAL, SYNC_BOUNDS_US,
};
pub use control_log::ControlLog;
pub use disk::{Disk, MemoryDisk, OsDisk};
pub use error::StoreError;
pub use incoming::CheckedSegment;
pub use inspect::{Inspected, inspect};
pub use journal::{FileNumber, JournalChunk, OrphanNumber, PartitionTail, Place, TornTail};
pub use options::{EngineChoice, OnDamage, StoreOptions};
pub use orphans::{
    AfterCut, CutPlan, CutReport, HealProgress, Orphan, OrphanCounts, OrphanFile, OrphanFileId,
    OrphanFork, OrphanList, OrphanScan, OrphanState, ToldCells, WoundReport,
};
pub use reach::LogReach;
pub use records::RecordScan;
pub use recovery::{RecoveredPartition, Recovery};
pub use retention::{Pin, TrimReport};
pub use scrub::{ScrubDamage, ScrubReport};
pub use snapshot::{
    IncomingSnapshot, KeptRequest, OutgoingSnapshot, SnapshotHeader, SnapshotOrigin, SnapshotPlan,
};
pub use space::SpaceReport;
pub use store::{Store, StoreStats};
pub use verify::{VerifyReport, verify};
