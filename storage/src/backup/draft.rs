//! From the pieces of a backup to its files and its manifest.
//!
//! **Owns**: which file holds what, that every piece follows what is there already, checksums.
//! **Does not own**: where files are written (the place), reading the store (`reader`).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use domicile_proto::{Name, NodeId, PartitionId, Segment};

use super::archive::{SegmentStream, encode_header};
use super::manifest::{
    BackupFile, BackupKeyspace, BackupManifest, BackupNumber, BackupPartition, BackupSnapshot,
    BackupStretch,
};
use super::reader::{BackupEnd, BackupPiece, KnownEnd};
use super::snapshot_check::SnapshotCheck;
use crate::error::StoreError;
use crate::snapshot::SnapshotHeader;

/// Bytes of an archive after which the next one begins: as a file of the journal. Doubled, damage
/// to one costs twice as much log.
const ARCHIVE_BYTES: u64 = 64 << 20;

/// Whose backup it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupSubject {
    /// When it was begun, in ms since 1970.
    pub created_at_ms: u64,
    /// Whose data.
    pub node: NodeId,
    /// Of which cluster.
    pub cluster: Name,
    /// In which region that node is.
    pub region: Name,
    /// In which region the place is.
    pub place_region: Name,
    /// Which keyspaces are in it.
    pub keyspaces: Vec<BackupKeyspace>,
}

/// What is to be done to the files of a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileStep {
    /// A new file begins; the one before has ended.
    Begin(String),
    /// Its next bytes.
    Write(Bytes),
    /// It is whole.
    End,
}

struct OpenFile {
    file: usize,
    hasher: crc32fast::Hasher,
    /// Of a snapshot: what it must become.
    snapshot: Option<SnapshotCheck>,
}

/// A backup in the making.
pub struct BackupDraft {
    manifest: BackupManifest,
    /// The folder of its files.
    folder: String,
    partitions: BTreeMap<PartitionId, BackupPartition>,
    segments: SegmentStream,
    open: Option<OpenFile>,
    ends: Option<Vec<BackupEnd>>,
}

impl BackupDraft {
    /// The one with this number; it goes on behind `previous`, which was made of the same node
    /// in the same place. `token` keeps the files of two that are made at the same time apart.
    ///
    /// # Errors
    /// [`StoreError::ForeignNode`] if the place has backups of another node.
    pub fn new(
        subject: BackupSubject,
        number: BackupNumber,
        previous: Option<&BackupManifest>,
        token: &str,
    ) -> Result<Self, StoreError> {
        if let Some(previous) = previous
            && previous.node != subject.node
        {
            return Err(StoreError::ForeignNode {
                path: format!("backup {}", previous.number).into(),
                actual: previous.node,
                expected: subject.node,
            });
        }
        let kept = previous.map(|it| it.partitions.iter().cloned());
        let partitions = kept.into_iter().flatten();
        Ok(Self {
            manifest: BackupManifest {
                number,
                created_at_ms: subject.created_at_ms,
                node: subject.node,
                cluster: subject.cluster,
                region: subject.region,
                place_region: subject.place_region,
                keyspaces: subject.keyspaces,
                files: previous.map_or(Vec::new(), |it| it.files.clone()),
                partitions: Vec::new(),
            },
            folder: format!("data/{:010}-{token}", number.get()),
            partitions: partitions.map(|it| (it.partition, it)).collect(),
            segments: SegmentStream::new("backup"),
            open: None,
            ends: None,
        })
    }

    /// Which backup of its place it becomes.
    #[must_use]
    pub fn number(&self) -> BackupNumber {
        self.manifest.number
    }

    /// How far an earlier backup has its partitions.
    #[must_use]
    pub fn known(previous: &BackupManifest) -> Vec<KnownEnd> {
        let ends = previous
            .partitions
            .iter()
            .map(|it| (it.partition, it.end()));
        ends.map(|(partition, (seq, chain))| KnownEnd {
            partition,
            seq,
            chain,
        })
        .collect()
    }

    /// Takes the next piece; what is to be written for it.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] for a piece that does not follow what is there: it was damaged on
    /// its way, or its sender is another build.
    pub fn take(&mut self, piece: BackupPiece) -> Result<Vec<FileStep>, StoreError> {
        let mut steps = Vec::new();
        match piece {
            BackupPiece::Snapshot { header, oldest_ms } => {
                self.begin_snapshot(&header, oldest_ms, &mut steps)?;
            }
            BackupPiece::Bytes(bytes) => {
                let snapshot = self.open.as_mut().and_then(|it| it.snapshot.as_mut());
                let checked = snapshot.map(|it| it.take(&bytes));
                let checked = checked.unwrap_or_else(|| Err("bytes of no snapshot".to_owned()));
                checked.map_err(|problem| self.corrupt(&problem))?;
                self.write(bytes, &mut steps);
            }
            BackupPiece::Empty(partition) => {
                let empty = BackupPartition {
                    partition,
                    snapshot: None,
                    oldest_ms: 0,
                    newest_ms: 0,
                    stretches: Vec::new(),
                };
                self.partitions.insert(partition, empty);
            }
            BackupPiece::Segments(bytes) => {
                self.segments.push(&bytes);
                while let Some(segment) = self.segments.next()? {
                    self.take_segment(&segment, &mut steps)?;
                }
                self.segments.check_end()?;
            }
            BackupPiece::End(ends) => {
                self.end_file(&mut steps)?;
                self.ends = Some(ends);
            }
        }
        Ok(steps)
    }

    /// The manifest, to be written once every file is.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if the last piece was not taken, or the pieces do not come to what
    /// it said.
    pub fn finish(mut self) -> Result<BackupManifest, StoreError> {
        let Some(ends) = self.ends.take() else {
            return Err(self.corrupt("ended before its last piece"));
        };
        for end in &ends {
            let found = self.partitions.remove(&end.partition);
            let Some(found) = found.filter(|it| it.end() == (end.seq, end.chain)) else {
                let (partition, seq) = (end.partition, end.seq);
                return Err(self.corrupt(&format!("{partition} does not end with {seq}")));
            };
            self.manifest.partitions.push(found);
        }
        self.forget_unused();
        // What would be refused at a restore is no backup.
        BackupManifest::decode(&self.manifest.encode(), "backup")
    }

    fn begin_snapshot(
        &mut self,
        header: &SnapshotHeader,
        oldest_ms: u64,
        steps: &mut Vec<FileStep>,
    ) -> Result<(), StoreError> {
        let hex = header
            .partition
            .to_bytes()
            .map(|byte| format!("{byte:02x}"));
        let name = format!("{}-{:020}.snapshot", hex.concat(), header.seq.get());
        let file = self.begin_file(&name, Some(SnapshotCheck::new(*header)), steps)?;
        let partition = BackupPartition {
            partition: header.partition,
            snapshot: Some(BackupSnapshot {
                file,
                seq: header.seq,
                newest_seq: header.newest_seq,
                chain: header.chain,
                epoch: header.epoch,
            }),
            oldest_ms,
            newest_ms: oldest_ms,
            stretches: Vec::new(),
        };
        self.partitions.insert(header.partition, partition);
        Ok(())
    }

    fn take_segment(
        &mut self,
        segment: &Segment,
        steps: &mut Vec<FileStep>,
    ) -> Result<(), StoreError> {
        let header = segment.header();
        let (id, first_seq) = (header.partition, header.first_seq);
        let end = self.partitions.get(&id).map(BackupPartition::end);
        if end.is_none_or(|(seq, chain)| (seq.next(), chain) != (first_seq, header.previous)) {
            return Err(self.corrupt(&format!("{id} goes on with {first_seq} behind {end:?}")));
        }
        let is_full = self
            .open
            .as_ref()
            .is_none_or(|it| it.snapshot.is_some() || self.bytes_of(it) >= ARCHIVE_BYTES);
        if is_full {
            self.begin_file(
                &format!("{:06}.archive", self.manifest.files.len()),
                None,
                steps,
            )?;
            self.write(encode_header(self.manifest.node, self.number()), steps);
        }
        self.write(segment.bytes().clone(), steps);
        let file = self.manifest.files.len() - 1;
        let records = segment
            .records()
            .map_err(|source| StoreError::InvalidRecord {
                partition: id,
                seq: first_seq,
                source,
            })?;
        let partition = self.partitions.get_mut(&id).expect("found above");
        for (_, record) in &records {
            partition.newest_ms = partition.newest_ms.max(record.head.hlc.wall_ms());
        }
        let (last_seq, chain) = (header.last_seq(), segment.chain());
        match partition.stretches.last_mut().filter(|it| it.file == file) {
            Some(stretch) => (stretch.last_seq, stretch.chain) = (last_seq, chain),
            None => partition.stretches.push(BackupStretch {
                file,
                first_seq,
                last_seq,
                previous: header.previous,
                chain,
            }),
        }
        Ok(())
    }

    fn bytes_of(&self, open: &OpenFile) -> u64 {
        self.manifest.files[open.file].bytes
    }

    fn begin_file(
        &mut self,
        name: &str,
        snapshot: Option<SnapshotCheck>,
        steps: &mut Vec<FileStep>,
    ) -> Result<usize, StoreError> {
        self.end_file(steps)?;
        let name = format!("{}/{name}", self.folder);
        let file = self.manifest.files.len();
        steps.push(FileStep::Begin(name.clone()));
        self.manifest.files.push(BackupFile {
            name,
            bytes: 0,
            crc32: 0,
        });
        self.open = Some(OpenFile {
            file,
            hasher: crc32fast::Hasher::new(),
            snapshot,
        });
        Ok(file)
    }

    fn write(&mut self, bytes: Bytes, steps: &mut Vec<FileStep>) {
        let open = self.open.as_mut().expect("a file was begun");
        open.hasher.update(&bytes);
        self.manifest.files[open.file].bytes += bytes.len() as u64;
        steps.push(FileStep::Write(bytes));
    }

    fn end_file(&mut self, steps: &mut Vec<FileStep>) -> Result<(), StoreError> {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        if let Some(Err(problem)) = open.snapshot.map(|it| it.end()) {
            return Err(self.corrupt(&problem));
        }
        self.manifest.files[open.file].crc32 = open.hasher.finalize();
        steps.push(FileStep::End);
        Ok(())
    }

    /// Leaves out the files of which nothing is wanted any more.
    fn forget_unused(&mut self) {
        let partitions = &mut self.manifest.partitions;
        let used: BTreeSet<usize> = partitions
            .iter()
            .flat_map(|it| {
                let stretches = it.stretches.iter().map(|stretch| stretch.file);
                stretches.chain(it.snapshot.map(|snapshot| snapshot.file))
            })
            .collect();
        let place_of = |file: usize| used.range(..file).count();
        for partition in partitions.iter_mut() {
            if let Some(snapshot) = &mut partition.snapshot {
                snapshot.file = place_of(snapshot.file);
            }
            for stretch in &mut partition.stretches {
                stretch.file = place_of(stretch.file);
            }
        }
        let files = std::mem::take(&mut self.manifest.files).into_iter();
        let files = files.enumerate().filter(|(file, _)| used.contains(file));
        self.manifest.files = files.map(|(_, file)| file).collect();
    }

    fn corrupt(&self, problem: &str) -> StoreError {
        let name = format!("backup {}", self.manifest.number);
        StoreError::corrupt(name.as_ref(), 0, problem)
    }
}
