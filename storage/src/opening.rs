//! From a directory to the parts of an open store.
//!
//! **Owns**: the order of opening, what an unfinished or foreign directory is.
//! **Does not own**: the parts (their own modules).
//!
//! ```text
//! lock -> identity -> journal synced -> cuts -> engine -> replay -> torn tail cut -> writer
//!            |                                    ^ |        |
//!            |                                    | `- without a checkpoint: filled from snapshots
//!            `-- none: journal made,              `- aside --'  an engine that fails or
//!                then the identity                contradicts the journal is put aside, once
//! ```

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use domicile_proto::{NodeId, PartitionId};

use crate::backup::{self, RESTORING_FILE};
use crate::buffered::BUFFER_DIR;
use crate::cells::CellStore;
use crate::checkpoint;
use crate::commit::{Published, Stalls, WatchedEngine};
use crate::condemned::Condemned;
use crate::disk::{Disk, DiskLock, OpenMode};
use crate::error::StoreError;
use crate::identity;
use crate::journal::cuts::Cuts;
use crate::journal::files::FileSet;
use crate::journal::header::FILE_HEADER_BYTES;
use crate::journal::scan::ScanEnd;
use crate::journal::writer::JournalWriter;
use crate::journal::{FileNumber, Place};
use crate::lock::{LOCK_FILE, lock};
use crate::options::{OnDamage, StoreOptions};
use crate::orphans::{self, Ledger, ORPHAN_DIR, WoundKind};
use crate::promises::Promises;
use crate::quarantine::{ENGINE_DIR, open_engine, quarantine};
use crate::recovery::{Recovery, Replayed, replay};
use crate::snapshot::{SNAPSHOT_DIR, SnapshotSet, restore};

/// The journal's directory in a data directory.
pub(crate) const JOURNAL_DIR: &str = "journal";

/// What a directory is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To be served.
    Serve,
    /// To be filled from a backup; it has a note that says so.
    Restore,
}

impl Purpose {
    fn check(self, disk: &dyn Disk, dir: &Path) -> Result<(), StoreError> {
        match self {
            Self::Serve => backup::check_finished(disk, dir),
            Self::Restore => Ok(()),
        }
    }
}

/// The parts of a store.
pub(crate) struct Opened {
    pub(crate) lock: Box<dyn DiskLock>,
    pub(crate) files: FileSet,
    pub(crate) cells: CellStore,
    pub(crate) published: Published,
    pub(crate) snapshots: SnapshotSet,
    /// The place that the engine's checkpoint replays from.
    pub(crate) replay_from: Place,
    /// Partitions that have lost something and were not filled since.
    pub(crate) condemned: Condemned,
    pub(crate) promises: Promises,
    pub(crate) ledger: Ledger,
    /// What is watched for never coming back.
    pub(crate) stalls: Arc<Stalls>,
    pub(crate) writer: JournalWriter,
    pub(crate) recovery: Recovery,
}

/// Makes the names durable that are there: a process may have ended after it renamed a file and
/// before its directory was synced. What is read now is counted on, and a loss of power would bring
/// the file of before back.
fn settle(disk: &dyn Disk, dir: &Path) -> Result<(), StoreError> {
    let parts = [JOURNAL_DIR, SNAPSHOT_DIR, ORPHAN_DIR, BUFFER_DIR].map(|part| dir.join(part));
    for part in parts.iter().map(PathBuf::as_path).chain([dir]) {
        if disk.exists(part) {
            let synced = disk.sync_dir(part);
            synced.map_err(|error| StoreError::io("sync", part, error))?;
        }
    }
    Ok(())
}

/// Takes a directory, and makes the names in it durable.
fn enter(disk: &dyn Disk, dir: &Path, purpose: Purpose) -> Result<Box<dyn DiskLock>, StoreError> {
    let made = disk.create_dir_all(dir);
    made.map_err(|error| StoreError::io("create", dir, error))?;
    let lock = lock(disk, dir)?;
    purpose.check(disk, dir)?;
    settle(disk, dir)?;
    Ok(lock)
}

/// Opens a directory.
///
/// # Errors
/// See `Store::open`.
pub(crate) fn open(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    options: &StoreOptions,
    purpose: Purpose,
) -> Result<Opened, StoreError> {
    let began = Instant::now();
    let lock = enter(&**disk, dir, purpose)?;
    let known = identity::read(&**disk, dir)?;
    let node = known_or_new(disk, dir, known, options)?;
    let promises = Promises::read(&**disk, dir, node)?;
    let files = open_journal(disk, dir, node, options)?;
    let mut ledger = Ledger::open(&**disk, dir, node, &files)?;
    let mut snapshots = open_snapshots(disk, dir, &files, options.on_damage, &ledger)?;
    let stalls = Arc::new(Stalls::default());
    let cuts = ledger.cuts();
    let (cells, replayed, engine_rebuilt) =
        open_cells(disk, dir, options, &files, &mut snapshots, &stalls, &cuts)?;
    let (replayed, condemned) = condemn(disk, dir, node, options.on_damage, &cells, replayed)?;
    let Replayed {
        published,
        end,
        partitions,
        damaged,
        unknown_damage,
        replay_from,
        restored_cells,
        records,
        bytes,
    } = replayed;
    let writer = end_journal(&files, &end)?;
    // Only now is a cut that an ended process wrote known to be durable.
    let of = (&files, &**cells.engine());
    orphans::settle_all(&**disk, of, &mut snapshots, &mut ledger, &published)?;
    let wounded = wounded_of(&published, &condemned);
    let recovery = Recovery {
        node_id: node,
        created: known.is_none(),
        partitions,
        damaged,
        wounded,
        unknown_damage,
        torn_tail: end.torn,
        replayed_records: records,
        replayed_bytes: bytes,
        engine_rebuilt,
        restored_cells,
        durable_end: published.end,
        elapsed: began.elapsed(),
    };
    Ok(Opened {
        lock,
        files,
        cells,
        published,
        snapshots,
        replay_from,
        stalls,
        condemned,
        promises,
        ledger,
        writer,
        recovery,
    })
}

/// Whose the directory is; one that is nobody's is made.
fn known_or_new(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    known: Option<NodeId>,
    options: &StoreOptions,
) -> Result<NodeId, StoreError> {
    match known {
        Some(node) => expected_node(dir, node, options.node_id),
        None => {
            let node = options.node_id.unwrap_or_else(identity::mint);
            create(disk, dir, node, options)
        }
    }
}

/// Makes a new directory's journal, then its identity.
fn create(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    node: NodeId,
    options: &StoreOptions,
) -> Result<NodeId, StoreError> {
    identity::check_unused(
        &**disk,
        dir,
        &[LOCK_FILE, RESTORING_FILE, JOURNAL_DIR, ENGINE_DIR],
    )?;
    let journal = dir.join(JOURNAL_DIR);
    check_never_used(&**disk, &journal)?;
    for left_over in [&journal, &dir.join(ENGINE_DIR)] {
        match disk.remove_dir_all(left_over) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(StoreError::io("remove", left_over, error));
            }
            _ => {}
        }
    }
    let made = disk
        .create_dir_all(&journal)
        .and_then(|()| disk.sync_dir(dir));
    made.map_err(|error| StoreError::io("create", &journal, error))?;
    let files = FileSet::open(Arc::clone(disk), &journal, node, options.journal_file_bytes)?;
    files.create_first()?;
    for ancestor in dir.ancestors().skip(1).take(2) {
        // The names of a directory made just now, and of the one above it, are to last as well;
        // further up, and where that is not allowed, they were there before.
        let ancestor = if ancestor.as_os_str().is_empty() {
            Path::new(".")
        } else {
            ancestor
        };
        disk.sync_dir(ancestor).ok();
    }
    identity::write(&**disk, dir, node)?;
    Ok(node)
}

/// A journal without identity may be what a store left that died while it was made: one file
/// without a frame. Anything more is somebody's data.
fn check_never_used(disk: &dyn Disk, journal: &Path) -> Result<(), StoreError> {
    let names = match disk.list(journal) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(StoreError::io("list", journal, error)),
    };
    let used = |found: String| {
        let path = journal.parent().unwrap_or(journal).to_owned();
        Err(StoreError::NotAStore { path, found })
    };
    for name in names {
        let path = journal.join(&name);
        if FileNumber::of_name(&name) != Some(FileNumber::FIRST) {
            return used(format!("{JOURNAL_DIR}/{name}"));
        }
        let check = || {
            let file = disk.open(&path, OpenMode::Read)?;
            let mut bytes = vec![0; file.len()? as usize];
            file.read_at(&mut bytes, 0)?;
            Ok(bytes
                .iter()
                .skip(FILE_HEADER_BYTES as usize)
                .all(|byte| *byte == 0))
        };
        if !check().map_err(|error| StoreError::io("read", &path, error))? {
            return used(format!("{JOURNAL_DIR}/{name}"));
        }
    }
    Ok(())
}

fn open_journal(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    node: NodeId,
    options: &StoreOptions,
) -> Result<FileSet, StoreError> {
    let journal = dir.join(JOURNAL_DIR);
    let empty = || StoreError::corrupt(&journal, 0, "journal missing under a known identity");
    if !disk.exists(&journal) {
        return Err(empty());
    }
    let files = FileSet::open(Arc::clone(disk), &journal, node, options.journal_file_bytes)?;
    if files.last().is_none() {
        return Err(empty());
    }
    files.get(files.start().file)?;
    // What a killed process wrote or renamed but did not sync is read below, and may be lost by a
    // later loss of power unless it is synced before; so must be the note of what is left over.
    files.sync_last()?;
    files.remove_leftovers()?;
    Ok(files)
}

/// Notes, before anything can make it be forgotten, which partitions have lost something, and adds
/// those that were noted before and not filled since.
fn condemn(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    node: NodeId,
    on_damage: OnDamage,
    cells: &CellStore,
    mut replayed: Replayed,
) -> Result<(Replayed, Condemned), StoreError> {
    let mut condemned = Condemned::read(&**disk, dir, node)?;
    let found: Vec<PartitionId> = replayed.damaged.iter().map(|(id, _)| *id).collect();
    for id in condemned
        .partitions()
        .iter()
        .filter(|id| !found.contains(id))
    {
        let problem = format!("{id} was found damaged and has not been filled since");
        let error = StoreError::corrupt(&condemned.path(), 0, problem);
        if on_damage == OnDamage::Refuse {
            return Err(error);
        }
        cells.partition(*id).close();
        replayed.partitions.retain(|each| each.partition != *id);
        replayed.damaged.push((*id, error));
    }
    condemned.change(&**disk, |ids| ids.extend(found))?;
    Ok((replayed, condemned))
}

/// Whose the directory is, if it is the one that is expected.
fn expected_node(
    dir: &Path,
    actual: NodeId,
    expected: Option<NodeId>,
) -> Result<NodeId, StoreError> {
    match expected {
        Some(expected) if actual != expected => Err(StoreError::ForeignNode {
            path: dir.join(identity::IDENTITY_FILE),
            actual,
            expected,
        }),
        _ => Ok(actual),
    }
}

fn open_snapshots(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    files: &FileSet,
    on_damage: OnDamage,
    ledger: &Ledger,
) -> Result<SnapshotSet, StoreError> {
    let mut snapshots = SnapshotSet::open(Arc::clone(disk), dir, files.node(), on_damage)?;
    for mark in ledger.unsettled() {
        snapshots.set_aside(mark.partition, mark.seq);
    }
    let mut uncovered = uncovered(&snapshots, files, &ledger.cuts());
    match uncovered.pop_first() {
        Some((_, error)) if on_damage == OnDamage::Refuse => Err(error),
        _ => Ok(snapshots),
    }
}

/// Partitions that lack the snapshot for which the journal was cut. Where a cut took it away, the
/// replay finds out whether anything is missing: it comes to a gap, or to the cut.
pub(crate) fn uncovered(
    snapshots: &SnapshotSet,
    files: &FileSet,
    cuts: &Cuts,
) -> BTreeMap<PartitionId, StoreError> {
    let mut uncovered = snapshots.uncovered(&files.covered());
    uncovered.retain(|partition, _| cuts.of(*partition).is_empty());
    uncovered
}

/// Partitions that are wounded and can be healed.
fn wounded_of(published: &Published, condemned: &Condemned) -> Vec<PartitionId> {
    let wounds = published.wounds.iter();
    let open = wounds.filter(|(_, wound)| wound.kind() == WoundKind::Open);
    let partitions = open.map(|(partition, _)| *partition);
    let is_whole = |partition: &PartitionId| !condemned.partitions().contains(partition);
    partitions.filter(is_whole).collect()
}

fn open_cells(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    options: &StoreOptions,
    files: &FileSet,
    snapshots: &mut SnapshotSet,
    stalls: &Arc<Stalls>,
    cuts: &Cuts,
) -> Result<(CellStore, Replayed, Option<String>), StoreError> {
    let orphans = orphans::list_orphans(&**disk, dir)?;
    let mut attempt = || {
        let engine = open_engine(&**disk, dir, options)?;
        let engine = Arc::new(WatchedEngine::new(engine, Arc::clone(stalls)));
        let (mut restored_cells, mut lost) = (0, BTreeMap::new());
        if !checkpoint::is_there(&*engine)? {
            lost = uncovered(snapshots, files, cuts);
            restored_cells = restore(
                &*engine,
                snapshots,
                files.start(),
                options.on_damage,
                orphans::rows_without_orphans(cuts),
                &mut lost,
            )?;
        }
        let cells = CellStore::open(engine, options.cells())?;
        let replayed = Replayed {
            restored_cells,
            ..replay(
                files,
                &cells,
                snapshots,
                options.on_damage,
                lost,
                cuts,
                &orphans,
            )?
        };
        Ok::<_, StoreError>((cells, replayed))
    };
    let is_ours = options.engine.is_on_disk();
    let missing = is_ours && !disk.exists(&dir.join(ENGINE_DIR));
    match attempt() {
        Ok((cells, replayed)) => {
            let rebuilt = missing && !replayed.partitions.is_empty();
            Ok((
                cells,
                replayed,
                rebuilt.then(|| "engine directory missing".to_owned()),
            ))
        }
        Err(StoreError::Engine(error)) if is_ours && error.is_cured_by_rebuild() => {
            let aside: PathBuf = quarantine(&**disk, dir)?;
            tracing::warn!(%error, aside = %aside.display(), "engine put aside, filled anew");
            let (cells, replayed) = attempt()?;
            Ok((cells, replayed, Some(error.to_string())))
        }
        Err(error) => Err(error),
    }
}

/// Cuts what is torn, makes the end of the journal durable, and goes on behind it.
fn end_journal(files: &FileSet, end: &ScanEnd) -> Result<JournalWriter, StoreError> {
    cut(files, end)?;
    files.write_again(end.last.map(|last| last.place), end.end)?;
    JournalWriter::open(files, end.end, end.last)
}

fn cut(files: &FileSet, end: &ScanEnd) -> Result<(), StoreError> {
    let Some(torn) = &end.torn else { return Ok(()) };
    tracing::warn!(
        path = %torn.path.display(), place = %torn.place, bytes = torn.bytes,
        problem = torn.problem, "torn tail cut"
    );
    match end.unfinished_file {
        Some(number) => files.remove_last(number),
        None => files.cut(torn.place.file, torn.place.offset),
    }
}
