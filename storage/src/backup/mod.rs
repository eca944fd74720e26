//! Backups: snapshots and the log behind them as files elsewhere, and a directory made of them.
//!
//! **Owns**: the formats, which part of the log a backup holds, a restore up to one record.
//! **Does not own**: where the files lie and who may have them (server, replication).
//!
//! ```text
//! store -> reader: pieces -> draft: files, then the manifest     (create; the place writes them)
//! manifest -> restore: snapshots installed, segments appended up to the point -> a new directory
//! ```

mod archive;
mod check;
mod draft;
mod manifest;
mod point;
mod reader;
mod restore;
mod snapshot_check;
mod text;

pub use check::{FileCheck, checksum};
pub use draft::{BackupDraft, BackupSubject, FileStep};
pub use manifest::{
    BackupFile, BackupKeyspace, BackupManifest, BackupNumber, BackupPartition, BackupSnapshot,
    BackupStretch, MANIFEST_BYTES_MAX,
};
pub use point::RestorePoint;
pub use reader::{BackupEnd, BackupPiece, BackupReader, KnownEnd};
pub(crate) use restore::{RESTORING_FILE, check_finished};
pub use restore::{Restore, RestoreReport};
