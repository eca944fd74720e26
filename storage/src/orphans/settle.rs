//! What follows a cut once it is in the journal, done by the one who cut or by the next open.
//!
//! **Owns**: the order of it, each step of which may be done twice.
//! **Does not own**: the cells (`heal`), the list of cuts (`ledger`).
//!
//! A snapshot that holds what was cut is removed only now. If the journal has not all that it stood
//! for, the engine alone has it until the next snapshot: an engine that is lost meanwhile leaves a
//! log with a gap or a CUT entry that nothing leads to, and the partition is damaged, never empty.

use std::path::Path;

use domicile_proto::{NodeId, PartitionId, Seq};

use super::decisions;
use super::files::list_orphans;
use super::format::{ORPHAN_DIR, OrphanFile, decisions_path_of, path_of, sealed_path_of};
use super::ledger::Ledger;
use super::reader::OrphanReader;
use crate::commit::Published;
use crate::disk::Disk;
use crate::engine::Engine;
use crate::error::StoreError;
use crate::journal::cuts::CutMark;
use crate::journal::files::FileSet;
use crate::snapshot::SnapshotSet;

/// Does what is left to be done of every cut that is in the journal.
///
/// # Errors
/// What the operating system or the engine says: the next call goes on.
pub(crate) fn settle_all(
    disk: &dyn Disk,
    (files, engine): (&FileSet, &dyn Engine),
    snapshots: &mut SnapshotSet,
    ledger: &mut Ledger,
    published: &Published,
) -> Result<(), StoreError> {
    for mark in ledger.unsettled() {
        let log_start = log_start(published, mark.partition);
        settle(disk, files, engine, snapshots, ledger, mark, log_start)?;
    }
    Ok(())
}

/// The first record that the journal still has; the one after the last if it has none.
pub(super) fn log_start(published: &Published, partition: PartitionId) -> Seq {
    let first = published.index.first_seq(partition);
    first.unwrap_or_else(|| published.tails.end_of(partition).0.next())
}

/// Does what is left to be done of one cut.
pub(super) fn settle(
    disk: &dyn Disk,
    files: &FileSet,
    engine: &dyn Engine,
    snapshots: &mut SnapshotSet,
    ledger: &mut Ledger,
    mark: CutMark,
    log_start: Seq,
) -> Result<(), StoreError> {
    let (partition, data) = (mark.partition, data_of(files));
    if snapshots.set_aside(partition, mark.seq) {
        // From now on it is the engine that stands for what the journal has not.
        engine.sync()?;
        // What the journal has needs no snapshot; what it has not, the next one must have.
        let before = Seq::new(log_start.get().saturating_sub(1));
        files.lower_covered(partition, before.min(mark.seq))?;
        snapshots.remove_aside(partition, before.min(mark.seq))?;
    }
    promote(disk, &data.join(ORPHAN_DIR), mark)?;
    ledger.forget_before(files.start().file);
    ledger.settle(disk, mark)
}

fn data_of(files: &FileSet) -> &Path {
    files.dir().parent().unwrap_or(files.dir())
}

/// Gives what was sealed its last name.
fn promote(disk: &dyn Disk, dir: &Path, mark: CutMark) -> Result<(), StoreError> {
    let sealed = sealed_path_of(dir, mark.partition);
    let path = path_of(dir, mark.partition, mark.number);
    if !disk.exists(&sealed) {
        if !disk.exists(&path) {
            // It was durable before the log was cut: somebody has taken it away.
            tracing::error!(path = %path.display(), "the orphans of a cut are missing");
            return Ok(());
        }
        let synced = disk.sync_dir(dir);
        return synced.map_err(|error| StoreError::io("sync", dir, error));
    }
    let renamed = disk.rename(&sealed, &path);
    renamed
        .and_then(|()| disk.sync_dir(dir))
        .map_err(|error| StoreError::io("rename", &sealed, error))
}

/// Reads every orphan file of `data` to its end, and what was decided of its records.
///
/// # Errors
/// [`StoreError::Corrupt`] and its kin for the first that is damaged; what the operating system
/// says.
pub(crate) fn check_files(
    disk: &dyn Disk,
    data: &Path,
    node: NodeId,
) -> Result<Vec<OrphanFile>, StoreError> {
    let dir = data.join(ORPHAN_DIR);
    let mut files = Vec::new();
    for (partition, number) in list_orphans(disk, data)? {
        let mut reader = OrphanReader::open(disk, &path_of(&dir, partition, number), node)?;
        while reader.next()?.is_some() {}
        let path = decisions_path_of(&dir, partition, number);
        decisions::read(disk, &path, reader.header())?;
        files.push(*reader.header());
    }
    Ok(files)
}
