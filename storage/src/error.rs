//! Why the disk could not do what was asked, by what the caller does next.
//!
//! **Owns**: the one error enum of the crate.
//! **Does not own**: the faults of an ordered engine (`EngineError`, wrapped here).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use domicile_proto::{Epoch, NodeId, PartitionId, Seq, WireError};

use crate::control_log::LogIndex;
use crate::engine::EngineError;
use crate::journal::{OrphanNumber, Place};

/// What went wrong in the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The operating system refused an operation; on a write path the store is poisoned by it.
    #[error("cannot {operation} {path}: {source}")]
    Io {
        /// What was being done.
        operation: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// What the operating system answered.
        source: io::Error,
    },
    /// Another process (or another store of this one) has the directory open; ask its holder.
    #[error("directory locked: {path} is held by {holder}")]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// What the holder wrote into it.
        holder: String,
    },
    /// Bytes that were durable once are damaged; the partition or node needs a copy from elsewhere.
    #[error("corrupt file {path} at offset {offset}: {problem}")]
    Corrupt {
        /// Which file.
        path: PathBuf,
        /// Where in it the damage begins.
        offset: u64,
        /// What is wrong there.
        problem: String,
    },
    /// A file belongs to the store of another node: a directory was mixed up or half copied.
    #[error("foreign file {path}: written by node {actual}, this directory belongs to {expected}")]
    ForeignNode {
        /// Which file.
        path: PathBuf,
        /// Who wrote it.
        actual: NodeId,
        /// Who the directory's identity names.
        expected: NodeId,
    },
    /// A higher epoch was promised: whoever asks has been succeeded.
    #[error("{partition} has promised {promised}, refused {actual}")]
    AlreadyPromised {
        /// For which partition.
        partition: PartitionId,
        /// The epoch asked for.
        actual: Epoch,
        /// The highest one.
        promised: Epoch,
    },
    /// A file was written by a version of its format that this build does not know.
    #[error("unknown version of {what} in {path}: {actual}, supported {supported}")]
    UnknownFormat {
        /// Which format.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// The version found.
        actual: u32,
        /// The newest version this build reads.
        supported: u32,
    },
    /// The directory holds something else; choose another one.
    #[error("not a data directory: {path} has no identity file but holds {found:?}")]
    NotAStore {
        /// The directory.
        path: PathBuf,
        /// The first thing in it.
        found: String,
    },
    /// The commit queue is at its bound; slow down and try again.
    #[error("commit queue full: {bytes} bytes, limit {limit}")]
    QueueFull {
        /// Bytes it would hold.
        bytes: u64,
        /// The bound.
        limit: u64,
    },
    /// The device has less room than the journal may need; writes are accepted again by themselves
    /// once there is twice as much.
    #[error(
        "too little room for {path}: {free_bytes} bytes free, limit {limit}; writes are accepted \
         again from {resume_bytes}"
    )]
    NoSpace {
        /// The data directory.
        path: PathBuf,
        /// Bytes free when last looked.
        free_bytes: u64,
        /// The low-water mark.
        limit: u64,
        /// Bytes free at which writes are accepted again.
        resume_bytes: u64,
    },
    /// An earlier write or sync failed; nothing is acknowledged any more until a restart.
    #[error("store poisoned: {cause}")]
    Poisoned {
        /// The first failure.
        cause: Arc<str>,
    },
    /// A call has taken so long that it counts as one that will never come back; the store is
    /// poisoned. Nothing that waited for it is known to be durable.
    #[error(
        "{what} has been under way for {} ms, limit {} ms",
        .elapsed.as_millis(), .limit.as_millis()
    )]
    Stalled {
        /// Whose call.
        what: &'static str,
        /// How long it has taken so far.
        elapsed: Duration,
        /// The limit.
        limit: Duration,
    },
    /// The store was closed.
    #[error("store closed")]
    Closed,
    /// A place that is not the beginning of anything in the journal; start from one that is.
    #[error("no frame or segment at place {place}")]
    NoSuchPlace {
        /// The place asked for.
        place: Place,
    },
    /// A record's bytes are intact but not those of a record: written by a faulty or newer build.
    #[error("invalid record {seq} of partition {partition}: {source}")]
    InvalidRecord {
        /// Whose record.
        partition: PartitionId,
        /// Its place in the log.
        seq: Seq,
        /// What is wrong with it.
        source: WireError,
    },
    /// A snapshot of this partition is half installed; install it before another one is taken.
    #[error("a snapshot of partition {partition} is half installed")]
    Unfilled {
        /// Of which partition.
        partition: PartitionId,
    },
    /// A partition's log cannot be cut there; a snapshot from its home can take its place.
    #[error("cannot cut partition {partition} after {fork}: {problem}")]
    BadFork {
        /// Which partition.
        partition: PartitionId,
        /// The last record that was to stay.
        fork: Seq,
        /// Why not.
        problem: String,
    },
    /// The partition's log was cut and its cells still hold what was cut: heal it first.
    #[error("partition {partition} is wounded: its log was cut, and its cells are not healed yet")]
    Wounded {
        /// Which partition.
        partition: PartitionId,
    },
    /// What a partition was to be healed with is not what it needs.
    #[error("cannot heal partition {partition}: {problem}")]
    BadHeal {
        /// Which partition.
        partition: PartitionId,
        /// Why not.
        problem: String,
    },
    /// There is no such orphan file, or it has no such records.
    #[error("no such orphans of partition {partition} in file {number}: {problem}")]
    NoSuchOrphans {
        /// Of which partition.
        partition: PartitionId,
        /// In which of its files.
        number: OrphanNumber,
        /// What is not there.
        problem: String,
    },
    /// There is no snapshot of this partition to be installed.
    #[error("no snapshot of partition {partition} was received")]
    NoSnapshot {
        /// Of which partition.
        partition: PartitionId,
    },
    /// A point in time that a backup does not reach: choose one that it does, or another backup.
    #[error(
        "partition {partition} cannot be restored at {wanted}: the backup has it from {oldest} up \
         to {newest}"
    )]
    OutsideBackup {
        /// Which partition.
        partition: PartitionId,
        /// The point asked for.
        wanted: String,
        /// The first state that can be restored.
        oldest: String,
        /// The last one.
        newest: String,
    },
    /// A partition that is not in a backup, or has no state to be backed up now; try again later.
    #[error("partition {partition}: {problem}")]
    NotInBackup {
        /// Which partition.
        partition: PartitionId,
        /// Why.
        problem: String,
    },
    /// A restore needs an empty directory.
    #[error("not empty: {path} holds {found:?}, a restore needs an empty directory")]
    NotEmpty {
        /// The directory.
        path: PathBuf,
        /// The first thing in it.
        found: String,
    },
    /// A restore into the directory has not come to its end; run it again.
    #[error("unfinished restore in {path}: run the restore again, or empty the directory")]
    UnfinishedRestore {
        /// The directory.
        path: PathBuf,
    },
    /// The control log of a node that had one is not there: without its vote and its entries the
    /// node must not take part in elections. It returns under a new id.
    #[error("control log lost: no {path} of node {node}; the node must return under a new id")]
    ControlLogMissing {
        /// The file that is missing.
        path: PathBuf,
        /// Whose.
        node: NodeId,
    },
    /// Entries of the control log that do not follow those that are there.
    #[error("control log out of order: {actual}, {expected} expected")]
    ControlLogOrder {
        /// Where the next entry goes.
        expected: LogIndex,
        /// Where it was to go.
        actual: LogIndex,
    },
    /// Something of the control plane is larger than its limit; nothing was written.
    #[error("{what} too large: {actual} bytes, limit {limit}")]
    ControlTooLarge {
        /// What.
        what: &'static str,
        /// Its bytes.
        actual: usize,
        /// The limit.
        limit: usize,
    },
    /// The ordered engine failed; the journal still holds everything.
    #[error("engine: {0}")]
    Engine(#[from] EngineError),
}

impl StoreError {
    /// Whether what was read is not what was written, for a reader whose cursor was a place once: a
    /// place that is none any more is damaged.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::NoSuchPlace { .. })
    }

    /// An [`StoreError::Io`] with its context.
    pub(crate) fn io(operation: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            operation,
            path: path.to_owned(),
            source,
        }
    }

    /// A [`StoreError::BadFork`] with its reason.
    pub(crate) fn bad_fork(partition: PartitionId, fork: Seq, problem: impl Into<String>) -> Self {
        Self::BadFork {
            partition,
            fork,
            problem: problem.into(),
        }
    }

    /// A [`StoreError::Corrupt`] with its place.
    pub(crate) fn corrupt(path: &Path, offset: u64, problem: impl Into<String>) -> Self {
        Self::Corrupt {
            path: path.to_owned(),
            offset,
            problem: problem.into(),
        }
    }
}
