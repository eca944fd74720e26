//! A new data directory out of a backup.
//!
//! **Owns**: the note that a directory is not whole yet, the order of installing, that every byte
//! was checked, the exact record at which a partition ends.
//! **Does not own**: where files come from (server), what a home does with a log whose last reign
//! is another node's (the node: it begins its own).
//!
//! ```text
//! <data>/restoring    there from before the first change until everything is durable
//! note | new identity | snapshots received, installed | segments up to the point | note gone
//! ```
//! A directory with the note is opened by nobody; a restore begins it anew. A segment of which only
//! a part is wanted is not cut: that would be another history under the same reign. Its records up
//! to the point are written as the first ones of a reign of the new node.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use domicile_proto::{ChainHash, Epoch, NodeId, PartitionId, Segment, Seq};

use super::archive::SegmentStream;
use super::check::FileCheck;
use super::manifest::{BackupFile, BackupManifest, BackupSnapshot};
use super::point::RestorePoint;
use crate::commit::CommitUrgency;
use crate::disk::{self, Disk, remove_if_there};
use crate::error::StoreError;
use crate::incoming::CheckedSegment;
use crate::lock::{LOCK_FILE, lock};
use crate::opening::Purpose;
use crate::options::StoreOptions;
use crate::snapshot::{IncomingSnapshot, SnapshotHeader};
use crate::store::Store;

/// The note that a directory is being restored into.
pub(crate) const RESTORING_FILE: &str = "restoring";
const UNFINISHED_FILE: &str = "restoring.new";

/// Bytes of segments in one commit. Doubled, a restore syncs half as often and holds twice as much.
const COMMIT_BYTES: u64 = 4 << 20;

/// Bytes of a snapshot's header in its file.
const HEADER_BYTES: usize = 4096;

/// Refuses a directory whose restore has not come to its end.
///
/// # Errors
/// [`StoreError::UnfinishedRestore`].
pub(crate) fn check_finished(disk: &dyn Disk, dir: &Path) -> Result<(), StoreError> {
    if disk.exists(&dir.join(RESTORING_FILE)) {
        return Err(StoreError::UnfinishedRestore {
            path: dir.to_owned(),
        });
    }
    Ok(())
}

/// What a restore came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreReport {
    /// The identity that the directory was given.
    pub node: NodeId,
    /// Of each partition, where it ends now.
    pub partitions: Vec<(PartitionId, Epoch, Seq)>,
}

/// How far a partition has been restored.
#[derive(Debug, Clone, Copy)]
struct Reached {
    point: RestorePoint,
    seq: Seq,
    chain: ChainHash,
    /// Nothing more of it is wanted.
    is_done: bool,
}

enum Content {
    Snapshot {
        head: BytesMut,
        incoming: Option<Box<IncomingSnapshot>>,
        expected: (PartitionId, BackupSnapshot),
    },
    Archive {
        segments: SegmentStream,
        has_header: bool,
    },
}

struct ReadFile {
    check: FileCheck,
    content: Content,
}

/// A restore under way.
pub struct Restore {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    manifest: BackupManifest,
    store: Arc<Store>,
    partitions: BTreeMap<PartitionId, Reached>,
    read: Option<ReadFile>,
    uncommitted_bytes: u64,
}

impl Restore {
    /// Begins to restore partitions, each up to its point, into an empty directory, made if
    /// missing; one in which a restore was interrupted is emptied first.
    ///
    /// # Errors
    /// [`StoreError::OutsideBackup`] for a point that the backup does not reach,
    /// [`StoreError::NotEmpty`] for a directory with anything else in it, [`StoreError::Locked`],
    /// what the operating system says. Except for the last nothing was changed.
    pub fn begin(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: StoreOptions,
        manifest: &BackupManifest,
        points: &BTreeMap<PartitionId, RestorePoint>,
    ) -> Result<Self, StoreError> {
        let mut partitions = BTreeMap::new();
        for (id, point) in points {
            let Some(found) = manifest.partition(*id) else {
                let problem = format!("it is not in backup {}", manifest.number);
                return Err(StoreError::NotInBackup {
                    partition: *id,
                    problem,
                });
            };
            point.check(found)?;
            let reached = Reached {
                point: *point,
                seq: Seq::NONE,
                chain: ChainHash::START,
                is_done: false,
            };
            partitions.insert(*id, reached);
        }
        empty(&*disk, dir)?;
        let options = StoreOptions {
            node_id: None,
            ..options
        };
        let (store, _) = Store::open_for(Arc::clone(&disk), dir, options, Purpose::Restore)?;
        Ok(Self {
            disk,
            dir: dir.to_owned(),
            manifest: manifest.clone(),
            store,
            partitions,
            read: None,
            uncommitted_bytes: 0,
        })
    }

    /// The files that are wanted, in the order in which they have to come.
    #[must_use]
    pub fn files(&self) -> Vec<BackupFile> {
        let partitions = || {
            let wanted = self.partitions.iter();
            wanted.filter_map(|(id, it)| Some((self.manifest.partition(*id)?, it.point)))
        };
        let snapshots = partitions().filter_map(|(it, _)| it.snapshot.map(|it| it.file));
        let mut snapshots: Vec<usize> = snapshots.collect();
        snapshots.sort_unstable();
        let archives = partitions().flat_map(|(it, point)| {
            let wanted = it.stretches.iter();
            wanted.filter(move |stretch| !point.is_before(stretch.first_seq))
        });
        let mut archives: Vec<usize> = archives.map(|it| it.file).collect();
        archives.sort_unstable();
        archives.dedup();
        let all = snapshots.into_iter().chain(archives);
        all.map(|file| self.manifest.files[file].clone()).collect()
    }

    /// The bytes of one of the files follow.
    ///
    /// # Panics
    /// If the one before has not ended.
    pub fn begin_file(&mut self, file: &BackupFile) {
        assert!(self.read.is_none(), "a file inside a file");
        let index = self.manifest.files.iter().position(|it| it == file);
        let snapshots = self.manifest.partitions.iter();
        let mut snapshots = snapshots.filter_map(|it| Some((it.partition, it.snapshot?)));
        let content = match snapshots.find(|(_, it)| Some(it.file) == index) {
            Some(expected) => Content::Snapshot {
                head: BytesMut::new(),
                incoming: None,
                expected,
            },
            None => Content::Archive {
                segments: SegmentStream::new(&file.name),
                has_header: false,
            },
        };
        self.read = Some(ReadFile {
            check: FileCheck::new(file),
            content,
        });
    }

    /// Takes the next bytes of the file.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] that names the file; what the operating system says.
    ///
    /// # Panics
    /// If no file was begun.
    pub fn write(&mut self, bytes: &Bytes) -> Result<(), StoreError> {
        let mut read = self.read.take().expect("a file was begun");
        read.check.take(bytes);
        if read.check.is_too_long() {
            return read.check.end();
        }
        let name = read.check.name().to_owned();
        match &mut read.content {
            Content::Snapshot {
                head,
                incoming,
                expected,
            } => {
                let taken = self.take_snapshot_bytes(bytes, head, incoming, *expected, &name);
                taken.map_err(|error| named(error, &name))?;
            }
            Content::Archive {
                segments,
                has_header,
            } => {
                segments.push(bytes);
                if !*has_header {
                    *has_header = segments.take_header(self.manifest.node)?;
                }
                let buffer_bytes = segments.buffer_bytes();
                while *has_header && let Some(segment) = segments.next()? {
                    self.take_segment(segment, buffer_bytes, &name)?;
                }
            }
        }
        self.read = Some(read);
        Ok(())
    }

    /// The file has ended.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] that names it; what the operating system says.
    ///
    /// # Panics
    /// If no file was begun.
    pub fn end_file(&mut self) -> Result<(), StoreError> {
        let read = self.read.take().expect("a file was begun");
        read.check.end()?;
        let name = read.check.name();
        match read.content {
            Content::Archive { segments, .. } => segments.check_end(),
            Content::Snapshot { incoming: None, .. } => {
                Err(StoreError::corrupt(Path::new(name), 0, "no snapshot"))
            }
            Content::Snapshot {
                incoming: Some(incoming),
                ..
            } => {
                let header = self.store.finish_incoming(*incoming);
                let header = header.map_err(|error| named(error, name))?;
                self.store.install_received(header.partition)?;
                if let Some(reached) = self.partitions.get_mut(&header.partition) {
                    (reached.seq, reached.chain) = (header.seq, header.chain);
                }
                Ok(())
            }
        }
    }

    /// Makes the directory one that can be opened.
    ///
    /// # Errors
    /// [`StoreError::NotInBackup`] if a partition has not come to its point: a file was left out;
    /// what the engine or the operating system says.
    pub fn finish(mut self) -> Result<RestoreReport, StoreError> {
        self.commit()?;
        for (id, reached) in &self.partitions {
            let whole = self
                .manifest
                .partition(*id)
                .expect("checked at the beginning");
            let wanted = match reached.point {
                RestorePoint::End => whole.last_seq(),
                RestorePoint::Seq(seq) => seq,
                RestorePoint::Time(_) if reached.is_done => whole.oldest_seq(),
                RestorePoint::Time(_) => whole.last_seq(),
            };
            if reached.seq < wanted {
                let problem = format!("restored up to {}, wanted up to {wanted}", reached.seq);
                return Err(StoreError::NotInBackup {
                    partition: *id,
                    problem,
                });
            }
        }
        self.store.flush_once()?;
        let partitions = self.partitions.keys().filter_map(|id| {
            let tail = self.store.tail(*id)?;
            Some((*id, tail.epoch, tail.last_seq))
        });
        let report = RestoreReport {
            node: self.store.node_id(),
            partitions: partitions.collect(),
        };
        self.store.close()?;
        let note = self.dir.join(RESTORING_FILE);
        let removed = remove_if_there(&*self.disk, &note);
        removed
            .and_then(|()| self.disk.sync_dir(&self.dir))
            .map_err(|error| StoreError::io("remove", &note, error))?;
        Ok(report)
    }

    fn take_snapshot_bytes(
        &self,
        bytes: &Bytes,
        head: &mut BytesMut,
        incoming: &mut Option<Box<IncomingSnapshot>>,
        expected: (PartitionId, BackupSnapshot),
        name: &str,
    ) -> Result<(), StoreError> {
        if let Some(incoming) = incoming {
            return incoming.write(bytes);
        }
        head.extend_from_slice(bytes);
        if head.len() < HEADER_BYTES {
            return Ok(());
        }
        let header = SnapshotHeader::from_bytes(head, name)?;
        let (partition, snapshot) = expected;
        let is_it = header.partition == partition
            && (header.seq, header.newest_seq) == (snapshot.seq, snapshot.newest_seq)
            && (header.chain, header.epoch) == (snapshot.chain, snapshot.epoch);
        if !is_it {
            let (found, seq) = (header.partition, header.seq);
            let problem = format!(
                "snapshot of {found} at {seq}, by the manifest of {partition} at {}",
                snapshot.seq
            );
            return Err(StoreError::corrupt(Path::new(name), 0, problem));
        }
        let mut begun = self.store.begin_incoming(header)?;
        begun.write(&head[HEADER_BYTES..])?;
        *incoming = Some(Box::new(begun));
        Ok(())
    }

    fn take_segment(
        &mut self,
        segment: Segment,
        buffer_bytes: usize,
        name: &str,
    ) -> Result<(), StoreError> {
        let header = *segment.header();
        let Some(reached) = self.partitions.get_mut(&header.partition) else {
            return Ok(());
        };
        // A partition that began anew in a later backup has older log in the archives, too.
        let follows = (header.first_seq, header.previous) == (reached.seq.next(), reached.chain);
        if reached.is_done || !follows {
            return Ok(());
        }
        let records = segment
            .records()
            .map_err(|source| StoreError::InvalidRecord {
                partition: header.partition,
                seq: header.first_seq,
                source,
            })?;
        let wanted = reached.point.count_upto(&records);
        reached.is_done = wanted < records.len();
        if wanted == 0 {
            return Ok(());
        }
        let last_seq = records[wanted - 1].0;
        (reached.seq, reached.chain) = (last_seq, segment.chain());
        self.uncommitted_bytes += segment.bytes().len() as u64;
        if wanted == records.len() {
            let checked = CheckedSegment::new(segment, buffer_bytes)?;
            self.store.submit_segment(checked, CommitUrgency::Now)?;
        } else {
            self.commit()?;
            let epoch = Epoch {
                counter: header.epoch.counter.checked_add(1).ok_or_else(|| {
                    let problem = format!("no reign can follow {}", header.epoch);
                    StoreError::corrupt(Path::new(name), 0, problem)
                })?,
                node: self.store.node_id(),
            };
            for (seq, record) in records.into_iter().take(wanted) {
                let partition = header.partition;
                self.store
                    .submit_record(partition, epoch, seq, header.visible_upto, record)?;
            }
        }
        if self.uncommitted_bytes >= COMMIT_BYTES {
            self.commit()?;
        }
        Ok(())
    }

    /// Makes what was submitted durable, and shows it: the engine takes only what is shown.
    fn commit(&mut self) -> Result<(), StoreError> {
        self.uncommitted_bytes = 0;
        while !self.store.commit_once()?.is_empty() {}
        for (partition, reached) in &self.partitions {
            if reached.seq > Seq::NONE {
                self.store.cells(*partition).advance(reached.seq);
            }
        }
        if self.store.needs_flush() {
            self.store.flush_once()?;
        }
        Ok(())
    }
}

/// The same error of a file of the new directory, in the name of the file that it came from.
fn named(error: StoreError, name: &str) -> StoreError {
    match error {
        StoreError::Corrupt {
            offset, problem, ..
        } => StoreError::corrupt(Path::new(name), offset, problem),
        other => other,
    }
}

/// Leaves nothing in a directory but the note and the lock.
fn empty(disk: &dyn Disk, dir: &Path) -> Result<(), StoreError> {
    let made = disk.create_dir_all(dir);
    made.map_err(|error| StoreError::io("create", dir, error))?;
    let kept = [LOCK_FILE, RESTORING_FILE, UNFINISHED_FILE, "lost+found"];
    let names = |dir| {
        disk.list(dir)
            .map_err(|error| StoreError::io("list", dir, error))
    };
    let is_begun = disk.exists(&dir.join(RESTORING_FILE));
    let mut found = names(dir)?.into_iter();
    if let Some(found) = found.find(|it| !is_begun && !kept.contains(&it.as_str())) {
        return Err(StoreError::NotEmpty {
            path: dir.to_owned(),
            found,
        });
    }
    let _held = lock(disk, dir)?;
    let note = b"a backup is being restored here; run the restore again\n";
    disk::replace(disk, dir, RESTORING_FILE, UNFINISHED_FILE, note)
        .map_err(|error| StoreError::io("write", &dir.join(RESTORING_FILE), error))?;
    for name in names(dir)? {
        if kept.contains(&name.as_str()) {
            continue;
        }
        let path = dir.join(name);
        let removed = disk
            .remove_file(&path)
            .or_else(|_| disk.remove_dir_all(&path));
        removed.map_err(|error: io::Error| StoreError::io("remove", &path, error))?;
    }
    disk.sync_dir(dir)
        .map_err(|error| StoreError::io("sync", dir, error))
}
