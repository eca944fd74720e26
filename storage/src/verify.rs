//! An offline check of a data directory that changes nothing.
//!
//! **Owns**: the report.
//! **Does not own**: the verdict on damage (journal scan), repair (opening cuts a torn tail; the
//! rest needs a copy).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use domicile_proto::{ChainHash, Epoch, NodeId, PartitionId, Segment, Seq};

use crate::backup;
use crate::disk::{Disk, DiskLock};
use crate::error::StoreError;
use crate::identity;
use crate::journal::cut::Cut;
use crate::journal::cuts::Cuts;
use crate::journal::files::FileSet;
use crate::journal::frame::Frame;
use crate::journal::header::FILE_HEADER_BYTES;
use crate::journal::rebase::{Entry, Rebase};
use crate::journal::scan::{self, Scanned};
use crate::journal::tails::Tails;
use crate::journal::{FileNumber, Place, TornTail};
use crate::lock::lock;
use crate::opening::{JOURNAL_DIR, uncovered};
use crate::options::OnDamage;
use crate::orphans::{Ledger, OrphanFile, check_cut, check_files};
use crate::promises::Promises;
use crate::snapshot::{SnapshotHeader, SnapshotOrigin, SnapshotSet};

/// What a check found.
#[derive(Debug)]
pub struct VerifyReport {
    /// Whose directory it is.
    pub node_id: NodeId,
    /// Journal files.
    pub files: u64,
    /// Intact commit frames.
    pub frames: u64,
    /// Intact segments in them.
    pub segments: u64,
    /// Every partition with a record, in order.
    pub partitions: Vec<VerifiedPartition>,
    /// The last snapshot of every partition that has one, read to its end.
    pub snapshots: Vec<SnapshotHeader>,
    /// What was cut from logs, read to its end.
    pub orphans: Vec<OrphanFile>,
    /// The remains of a commit that was never acknowledged.
    pub torn_tail: Option<TornTail>,
    /// The first damage, with its file and offset; nothing behind it was read.
    pub damage: Option<StoreError>,
    /// Where the journal ends, or the damage begins.
    pub end: Place,
}

/// One partition's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedPartition {
    /// Whose log.
    pub partition: PartitionId,
    /// The reign of its last record.
    pub epoch: Epoch,
    /// Its first record.
    pub first_seq: Seq,
    /// Its last record.
    pub last_seq: Seq,
    /// The hash over its history.
    pub chain: ChainHash,
    /// Its records.
    pub records: u64,
    /// Bytes of its segments.
    pub bytes: u64,
}

impl VerifyReport {
    /// Whether nothing is damaged; a torn tail is no damage.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.damage.is_none()
    }

    /// Records of all partitions.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.partitions
            .iter()
            .map(|partition| partition.records)
            .sum()
    }
}

/// Reads the whole journal of `dir` and checks every checksum, every chain and every record; reads
/// every snapshot and checks that the journal continues it; reads the promised epochs and all that
/// was cut from logs. The directory must not be open: its lock is taken meanwhile.
///
/// # Errors
/// [`StoreError::Locked`]; [`StoreError::NotAStore`]; an identity that cannot be read. Damage to
/// the journal is no error but part of the report.
pub fn verify(disk: &Arc<dyn Disk>, dir: &Path) -> Result<VerifyReport, StoreError> {
    let (node_id, _held) = hold(disk, dir)?;
    let mut report = VerifyReport {
        node_id,
        files: 0,
        frames: 0,
        segments: 0,
        partitions: Vec::new(),
        snapshots: Vec::new(),
        orphans: Vec::new(),
        torn_tail: None,
        damage: None,
        end: Place {
            file: FileNumber::FIRST,
            offset: FILE_HEADER_BYTES,
        },
    };
    let promises = Promises::read(&**disk, dir, node_id).map(drop);
    match promises.and_then(|()| check_journal(disk, dir, &mut report)) {
        Ok(torn_tail) => report.torn_tail = torn_tail,
        Err(damage) => report.damage = Some(damage),
    }
    Ok(report)
}

/// Takes the lock of a directory that is not in use; whose it is.
pub(crate) fn hold(
    disk: &Arc<dyn Disk>,
    dir: &Path,
) -> Result<(NodeId, Box<dyn DiskLock>), StoreError> {
    if !disk.exists(dir) {
        return Err(StoreError::io(
            "open",
            dir,
            std::io::ErrorKind::NotFound.into(),
        ));
    }
    backup::check_finished(&**disk, dir)?;
    let Some(node_id) = identity::read(&**disk, dir)? else {
        identity::check_unused(&**disk, dir, &[])?;
        return Err(StoreError::NotAStore {
            path: dir.to_owned(),
            found: "nothing".to_owned(),
        });
    };
    let held = lock(&**disk, dir)?;
    Ok((node_id, held))
}

/// The journal's files in a directory.
pub(crate) fn journal_files(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    node: NodeId,
) -> Result<FileSet, StoreError> {
    let journal = dir.join(JOURNAL_DIR);
    let missing = || {
        let problem = "journal missing under a known identity";
        StoreError::corrupt(&journal, 0, problem)
    };
    if !disk.exists(&journal) {
        return Err(missing());
    }
    let files = FileSet::open(Arc::clone(disk), &journal, node, 0)?;
    files.last().ok_or_else(missing)?;
    Ok(files)
}

fn check_journal(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    report: &mut VerifyReport,
) -> Result<Option<TornTail>, StoreError> {
    let journal = dir.join(JOURNAL_DIR);
    let files = journal_files(disk, dir, report.node_id)?;
    let last = files.last().unwrap_or(FileNumber::FIRST);
    let from = files.start();
    report.files = last.get() - from.file.get() + 1;
    report.end = from;
    let ledger = Ledger::open(&**disk, dir, report.node_id, &files)?;
    let cuts = ledger.cuts();
    let snapshots = check_snapshots(disk, dir, &files, &ledger)?;
    report.orphans = check_files(&**disk, dir, report.node_id)?;
    let mut check = Check {
        journal: &journal,
        is_cut: from.file > FileNumber::FIRST,
        snapshots: &snapshots,
        cuts: &cuts,
        tails: Tails::default(),
        misfits: BTreeMap::new(),
        report,
    };
    let end = scan::scan(&files, from, None, &mut |found| match found {
        Scanned::Frame(frame) => check.take(&frame),
        Scanned::Damage(damage) => Err(damage.error),
    })?;
    let Check { tails, misfits, .. } = check;
    if let Some((_, misfit)) = misfits.into_iter().next() {
        return Err(misfit);
    }
    report.end = end.end;
    for snapshot in snapshots.iter() {
        check_reached(snapshot, &tails).map_err(|problem| {
            StoreError::corrupt(&end.end.file.path(&journal), end.end.offset, problem)
        })?;
    }
    report.snapshots = snapshots.iter().copied().collect();
    Ok(end.torn)
}

/// The journal being checked.
struct Check<'a> {
    journal: &'a Path,
    /// Logs may begin in the middle.
    is_cut: bool,
    snapshots: &'a SnapshotSet,
    cuts: &'a Cuts,
    tails: Tails,
    /// What does not continue a partition's log; a log that begins anew later makes up for it.
    misfits: BTreeMap<PartitionId, StoreError>,
    report: &'a mut VerifyReport,
}

impl Check<'_> {
    fn take(&mut self, frame: &Frame) -> Result<(), StoreError> {
        for (place, entry) in &frame.entries {
            match entry {
                Entry::Segment(segment) => self.take_segment(*place, segment),
                Entry::Rebase(rebase) => self.take_rebase(rebase),
                Entry::Cut(cut) => self.take_cut(*place, frame, cut),
            }
        }
        self.report.frames += 1;
        self.report.end = frame.end;
        Ok(())
    }

    fn take_segment(&mut self, place: Place, segment: &Segment) {
        let (partition, first_seq) = (segment.header().partition, segment.header().first_seq);
        let is_void = self.cuts.is_void(partition, place, first_seq);
        if is_void || self.misfits.contains_key(&partition) {
            return;
        }
        if let Err(problem) = self.check(segment) {
            let path = place.file.path(self.journal);
            let misfit = StoreError::corrupt(&path, place.offset, problem);
            self.misfits.insert(partition, misfit);
            return;
        }
        self.tails.advance(segment, segment.chain());
        self.report.segments += 1;
        self.report.count(segment, &self.tails);
    }

    fn take_rebase(&mut self, rebase: &Rebase) {
        let partition = rebase.partition;
        self.misfits.remove(&partition);
        self.tails.insert(partition, rebase.tail());
        let partitions = &mut self.report.partitions;
        partitions.retain(|each| each.partition != partition);
    }

    fn take_cut(&mut self, place: Place, frame: &Frame, cut: &Cut) {
        let partition = cut.partition;
        let is_known = self.cuts.knows(partition, frame.place);
        // The log up to the fork may have been deleted with its files.
        let is_whole = !self.is_cut || self.tails.get(partition).is_some();
        let checked = match is_known {
            true if is_whole => check_cut(&self.tails, self.cuts, cut, frame.place),
            true => Ok(()),
            false => Err(format!(
                "a cut of {partition} that the list of cuts does not name"
            )),
        };
        match checked {
            Ok(()) => self.tails.turn_back(cut),
            Err(problem) => {
                let path = place.file.path(self.journal);
                let misfit = StoreError::corrupt(&path, place.offset, problem);
                self.misfits.entry(partition).or_insert(misfit);
            }
        }
    }

    fn check(&mut self, segment: &Segment) -> Result<(), String> {
        let header = segment.header();
        let has_none = self.snapshots.get(header.partition).is_none();
        if self.is_cut && has_none && !self.cuts.of(header.partition).is_empty() {
            // A cut took its snapshot away: the engine alone has what was before.
            self.tails.begin_with(segment);
        }
        if let Some(snapshot) = self.snapshots.get(header.partition) {
            if self.is_cut && header.first_seq <= snapshot.seq.next() {
                self.tails.begin_with(segment);
            }
            check_joint(segment, snapshot)?;
        }
        self.tails.check(segment)?;
        let records = segment.records().map_err(|error| error.to_string())?;
        for (_, record) in &records {
            let operations = record.body.operations();
            operations.map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}

/// A segment that ends where a snapshot does, or begins there, has its hash.
fn check_joint(segment: &Segment, snapshot: &SnapshotHeader) -> Result<(), String> {
    let (header, other) = (segment.header(), snapshot.chain);
    if header.first_seq == snapshot.seq.next() && header.previous != other {
        let log = header.previous;
        return Err(format!("continues chain {log}, its snapshot has {other}"));
    }
    if header.last_seq() == snapshot.seq && segment.chain() != other {
        let log = segment.chain();
        return Err(format!("chain {log}, its snapshot has {other}"));
    }
    Ok(())
}

/// The log reaches as far as the newest cell of a snapshot, unless all of it was cut.
fn check_reached(snapshot: &SnapshotHeader, tails: &Tails) -> Result<(), String> {
    let (last_seq, _) = tails.end_of(snapshot.partition);
    // The rest of the log of what was received elsewhere is still to come.
    let newest = match snapshot.origin {
        SnapshotOrigin::Taken => snapshot.newest_seq,
        SnapshotOrigin::Received => snapshot.seq,
    };
    let is_cut = last_seq == Seq::NONE && newest == snapshot.seq;
    if is_cut || last_seq >= newest {
        return Ok(());
    }
    let partition = snapshot.partition;
    Err(format!(
        "{partition} ends at {last_seq}, its snapshot at {newest}"
    ))
}

/// Reads every snapshot to its end.
fn check_snapshots(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    files: &FileSet,
    ledger: &Ledger,
) -> Result<SnapshotSet, StoreError> {
    let (disk, node) = (Arc::clone(disk), files.node());
    let (mut snapshots, _) = SnapshotSet::find(disk, dir, node, OnDamage::Refuse)?;
    for mark in ledger.unsettled() {
        snapshots.set_aside(mark.partition, mark.seq);
    }
    let mut uncovered = uncovered(&snapshots, files, &ledger.cuts());
    if let Some((_, error)) = uncovered.pop_first() {
        return Err(error);
    }
    for header in snapshots.iter() {
        let mut reader = snapshots.read(header)?;
        while reader.next()?.is_some() {}
    }
    Ok(snapshots)
}

impl VerifyReport {
    fn count(&mut self, segment: &Segment, tails: &Tails) {
        let header = segment.header();
        let partition = header.partition;
        let found = self
            .partitions
            .binary_search_by_key(&partition, |each| each.partition);
        let index = found.unwrap_or_else(|index| {
            let new = VerifiedPartition {
                partition,
                epoch: header.epoch,
                first_seq: header.first_seq,
                last_seq: header.last_seq(),
                chain: ChainHash::START,
                records: 0,
                bytes: 0,
            };
            self.partitions.insert(index, new);
            index
        });
        let counted = &mut self.partitions[index];
        counted.records += u64::from(header.count);
        counted.bytes += segment.bytes().len() as u64;
        (counted.epoch, counted.last_seq) = (header.epoch, header.last_seq());
        counted.chain = tails.end_of(partition).1;
    }
}
