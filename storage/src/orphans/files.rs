//! The orphan files of a data directory, as an operator asks for them.
//!
//! **Owns**: listing them, their records one after the other, what is decided of each.
//! **Does not own**: making them (`seal`), replaying or exporting a record (the caller).
//!
//! A file stays until somebody removes it. One that is damaged is named, and costs nothing else.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::path::Path;

use domicile_proto::{PartitionId, Position, Record, Seq};

use super::decisions::{self, Decisions, OrphanState};
use super::format::{ORPHAN_DIR, OrphanFile, decisions_path_of, of_hex, of_name, path_of};
use super::reader::OrphanReader;
use crate::disk::Disk;
use crate::error::StoreError;
use crate::journal::OrphanNumber;
use crate::snapshot::hex_of;
use crate::store::Store;

/// Which orphan file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrphanFileId {
    /// Of which partition.
    pub partition: PartitionId,
    /// Which of its files.
    pub number: OrphanNumber,
}

impl OrphanFileId {
    /// The id with this text, as it is shown.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (hex, number) = text.split_once('-')?;
        let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !is_plain(number) {
            return None;
        }
        Some(Self {
            partition: of_hex(hex)?,
            number: OrphanNumber::new(number.parse().ok()?)?,
        })
    }
}

impl fmt::Display for OrphanFileId {
    /// As the file is named, without the leading zeros of its number.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", hex_of(self.partition), self.number)
    }
}

impl OrphanFile {
    /// Which file it is.
    #[must_use]
    pub fn id(&self) -> OrphanFileId {
        OrphanFileId {
            partition: self.partition,
            number: self.number,
        }
    }
}

/// The orphan files of a directory.
#[derive(Debug, Default)]
pub struct OrphanList {
    /// Those whose header is intact, by partition and number.
    pub files: Vec<OrphanFile>,
    /// What is wrong with the others.
    pub damaged: Vec<StoreError>,
}

/// A record that was cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// Where it was in the log.
    pub position: Position,
    /// The record: key, request id, time, level promised, kind and value.
    pub record: Record,
    /// What became of it since.
    pub state: OrphanState,
}

/// How many orphans there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OrphanCounts {
    /// Files that are intact.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Records of which nothing became yet.
    pub open: u64,
    /// Records that were replayed.
    pub replayed: u64,
    /// Records that were discarded.
    pub discarded: u64,
    /// Files, or decisions about one, that are damaged; their records are not counted.
    pub damaged_files: u64,
}

impl OrphanCounts {
    /// All records.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.open + self.replayed + self.discarded
    }
}

impl Store {
    /// The orphan files.
    ///
    /// # Errors
    /// What the operating system says of the directory.
    pub fn orphan_files(&self) -> Result<OrphanList, StoreError> {
        let disk = self.disk();
        let mut list = OrphanList::default();
        for (partition, number) in list_orphans(&*disk, self.dir())? {
            match self.open_orphans(OrphanFileId { partition, number }) {
                Ok(reader) => list.files.push(*reader.header()),
                Err(error) => list.damaged.push(error),
            }
        }
        Ok(list)
    }

    /// The records of an orphan file, in order; after an error it ends.
    ///
    /// # Errors
    /// [`StoreError::NoSuchOrphans`] if there is no such file, [`StoreError::Corrupt`] and its kin
    /// for a damaged one; what the operating system says.
    pub fn orphan_records(&self, id: OrphanFileId) -> Result<OrphanScan, StoreError> {
        let reader = self.open_orphans(id)?;
        let decisions = self.decisions_of(reader.header())?;
        Ok(OrphanScan {
            file: *reader.header(),
            reader: Some(reader),
            decisions,
            ready: VecDeque::new(),
        })
    }

    /// Decides, durably, what became of the records from `first` up to `last` of an orphan file, at
    /// `now_ms` since 1970. It may be decided anew.
    ///
    /// # Errors
    /// [`StoreError::NoSuchOrphans`] for records that the file has not; as
    /// [`Store::orphan_records`]. What the operating system says; after a sync that failed it may
    /// be decided or not, and the store is poisoned, as nobody may count on either.
    pub fn decide_orphans(
        &self,
        id: OrphanFileId,
        first: Seq,
        last: Seq,
        state: OrphanState,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        self.check_open()?;
        // One at a time.
        let _ledger = self.ledger();
        let reader = self.open_orphans(id)?;
        let path = decisions_path_of(&self.dir().join(ORPHAN_DIR), id.partition, id.number);
        let (records, decided) = ((first, last), (state, now_ms));
        let appended = decisions::append(&*self.disk(), &path, reader.header(), records, decided);
        if let Err(
            error @ StoreError::Io {
                operation: decisions::SYNC,
                ..
            },
        ) = &appended
        {
            self.poison(&error.to_string());
        }
        appended
    }

    /// How many orphans there are, and what became of them.
    ///
    /// # Errors
    /// As [`Store::orphan_files`].
    pub fn orphan_counts(&self) -> Result<OrphanCounts, StoreError> {
        let OrphanList { files, damaged } = self.orphan_files()?;
        let mut counts = OrphanCounts {
            damaged_files: damaged.len() as u64,
            ..OrphanCounts::default()
        };
        for file in files {
            let Ok(each) = self.orphan_counts_of(&file) else {
                counts.damaged_files += 1;
                continue;
            };
            counts.files += each.files;
            counts.bytes += each.bytes;
            counts.replayed += each.replayed;
            counts.discarded += each.discarded;
            counts.open += each.open;
        }
        Ok(counts)
    }

    /// What became of the records of one orphan file.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if what was decided of them is damaged; what the operating system
    /// says.
    pub fn orphan_counts_of(&self, file: &OrphanFile) -> Result<OrphanCounts, StoreError> {
        let decisions = self.decisions_of(file)?;
        let replayed = decisions.count_of(OrphanState::Replayed);
        let discarded = decisions.count_of(OrphanState::Discarded);
        Ok(OrphanCounts {
            files: 1,
            bytes: file.file_bytes,
            open: file.records - replayed - discarded,
            replayed,
            discarded,
            damaged_files: 0,
        })
    }

    pub(super) fn open_orphans(&self, id: OrphanFileId) -> Result<OrphanReader, StoreError> {
        let OrphanFileId { partition, number } = id;
        let (disk, dir) = (self.disk(), self.dir().join(ORPHAN_DIR));
        let path = path_of(&dir, partition, number);
        if !disk.exists(&path) {
            let problem = "there is no such file".to_owned();
            return Err(StoreError::NoSuchOrphans {
                partition,
                number,
                problem,
            });
        }
        let reader = OrphanReader::open(&*disk, &path, self.node_id())?;
        if reader.header().id() != id {
            let header = reader.header();
            let problem = format!("orphans {} of {}", header.number, header.partition);
            return Err(StoreError::corrupt(&path, 0, problem));
        }
        Ok(reader)
    }

    fn decisions_of(&self, file: &OrphanFile) -> Result<Decisions, StoreError> {
        let dir = self.dir().join(ORPHAN_DIR);
        let path = decisions_path_of(&dir, file.partition, file.number);
        decisions::read(&*self.disk(), &path, file)
    }
}

/// The orphan files of a data directory by their names, in order; none without their directory.
///
/// # Errors
/// What the operating system says.
pub(crate) fn list_orphans(
    disk: &dyn Disk,
    dir: &Path,
) -> Result<Vec<(PartitionId, OrphanNumber)>, StoreError> {
    let dir = dir.join(ORPHAN_DIR);
    let names = match disk.list(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        names => names.map_err(|error| StoreError::io("list", &dir, error))?,
    };
    let mut files: Vec<_> = names.iter().filter_map(|name| of_name(name)).collect();
    files.sort_unstable();
    Ok(files)
}

/// Those of one partition.
pub(super) fn numbers_of(
    files: &[(PartitionId, OrphanNumber)],
    partition: PartitionId,
) -> Vec<OrphanNumber> {
    let own = files.iter().filter(|(id, _)| *id == partition);
    own.map(|(_, number)| *number).collect()
}

/// An iterator over the records of an orphan file, in order. After an error it ends.
#[derive(Debug)]
pub struct OrphanScan {
    file: OrphanFile,
    reader: Option<OrphanReader>,
    decisions: Decisions,
    /// Of the segment read last.
    ready: VecDeque<Orphan>,
}

impl OrphanScan {
    /// What the file's header says.
    #[must_use]
    pub fn file(&self) -> &OrphanFile {
        &self.file
    }

    fn fill(&mut self) -> Result<(), StoreError> {
        while self.ready.is_empty()
            && let Some(reader) = &mut self.reader
        {
            let Some(segment) = reader.next()? else {
                self.reader = None;
                return Ok(());
            };
            let header = segment.header();
            let records = segment
                .records()
                .map_err(|source| StoreError::InvalidRecord {
                    partition: header.partition,
                    seq: header.first_seq,
                    source,
                })?;
            let epoch = header.epoch;
            let orphans = records.into_iter().map(|(seq, record)| Orphan {
                position: Position { epoch, seq },
                record,
                state: self.decisions.state_of(seq),
            });
            self.ready.extend(orphans);
        }
        Ok(())
    }
}

impl Iterator for OrphanScan {
    type Item = Result<Orphan, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Err(error) = self.fill() {
            self.reader = None;
            return Some(Err(error));
        }
        self.ready.pop_front().map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_file_is_read_again_and_no_other_is() {
        let text = "0000000100020003-12";
        let id = OrphanFileId::parse(text).unwrap();
        assert_eq!(id.to_string(), text);
        assert_eq!(OrphanFileId::parse("0000000100020003-0000000012"), Some(id));
        for other in [
            "",
            "-",
            "0000000100020003",
            "0000000100020003-0",
            "0000000100020003-+1",
            "0000000100020003-1.orphans",
            "+000000100020003-1",
            "00000001000200é3-1",
            "0000000100000003-1",
            "000000010002000300-1",
            "0000000100020003-99999999999999999999",
        ] {
            assert_eq!(OrphanFileId::parse(other), None, "{other}");
        }
    }
}
