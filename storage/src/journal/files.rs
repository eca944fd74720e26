//! The files of a journal: created, laid out ahead, opened when needed.
//!
//! **Owns**: which files exist, their handles, the roll from one to the next.
//! **Does not own**: what is in them (writer, scan, reader).
//!
//! A file is zero-filled before it is used: a sync that only overwrites blocks that exist has no
//! metadata to write, and took half as long as one into reserved room (0.21 ms instead of 0.36 ms
//! on ext4). The next file is therefore made ahead of need, under another name, away from the
//! commit path; should the roll come first, it makes a file with reserved room.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use domicile_proto::{NodeId, PartitionId, Seq};

use super::first::{self, CutNote};
use super::header::{self, FILE_HEADER_BYTES};
use super::{FileNumber, Place};
use crate::disk::{Disk, DiskFile, OpenMode, read_around, remove_if_there};
use crate::error::StoreError;

/// What is appended to the name of a file that is not in use yet.
const AHEAD_SUFFIX: &str = ".ahead";

/// Zeros are written in pieces of 1 MiB; larger ones would hold more memory for nothing.
const ZERO_PIECE_BYTES: u64 = 1 << 20;

/// Files kept open for readers. A reader needs one at a time; more only matters to more readers
/// than that at once, far apart. Doubled it costs as many file descriptors.
const OPEN_FILES_MAX: usize = 64;

/// An open journal file.
#[derive(Debug, Clone)]
pub(crate) struct JournalFile {
    pub(crate) number: FileNumber,
    pub(crate) path: PathBuf,
    pub(crate) handle: Arc<dyn DiskFile>,
    pub(crate) len: u64,
    /// Where the last page ends that could not be read, and was given as other bytes; 0 without
    /// one.
    unreadable_upto: Arc<AtomicU64>,
}

/// The files of one journal.
#[derive(Debug)]
pub(crate) struct FileSet {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    node: NodeId,
    file_bytes: u64,
    /// Without holes.
    numbers: RwLock<BTreeSet<FileNumber>>,
    open: RwLock<BTreeMap<FileNumber, JournalFile>>,
    /// Up to where snapshots had the partitions when the journal was last cut. Held while the note
    /// of it is written.
    covered: Mutex<Vec<(PartitionId, Seq)>>,
    ahead: Mutex<Ahead>,
    wanted: Condvar,
}

#[derive(Debug, Default)]
struct Ahead {
    ready: Option<JournalFile>,
    /// A roll is under way: which number comes next is not settled, and the file that was ready may
    /// still be under its old name.
    rolling: bool,
    stopped: bool,
}

impl FileSet {
    /// The files found in `dir`, not looked into.
    ///
    /// # Errors
    /// An unreadable directory; [`StoreError::Corrupt`] for a missing file among them.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        node: NodeId,
        file_bytes: u64,
    ) -> Result<Self, StoreError> {
        let names = disk
            .list(dir)
            .map_err(|error| StoreError::io("list", dir, error))?;
        let CutNote { first, covered } = first::read(&*disk, dir, node)?;
        // Those before it were about to be deleted.
        let numbers: BTreeSet<FileNumber> = names
            .iter()
            .filter_map(|name| FileNumber::of_name(name))
            .filter(|number| *number >= first)
            .collect();
        for (found, expected) in numbers.iter().zip(first.get()..) {
            if found.get() != expected {
                let path = FileNumber::new(expected).path(dir);
                return Err(StoreError::corrupt(&path, 0, "journal file missing"));
            }
        }
        Ok(Self {
            disk,
            dir: dir.to_owned(),
            node,
            file_bytes,
            numbers: RwLock::new(numbers),
            open: RwLock::default(),
            covered: Mutex::new(covered),
            ahead: Mutex::default(),
            wanted: Condvar::new(),
        })
    }

    /// Up to where snapshots must have the partitions: their log was cut for it.
    pub(crate) fn covered(&self) -> Vec<(PartitionId, Seq)> {
        self.lock_covered().clone()
    }

    /// A snapshot up to `seq`, or none if that is no record, is enough for a partition from now on.
    ///
    /// # Errors
    /// What the operating system says.
    pub(crate) fn lower_covered(&self, partition: PartitionId, seq: Seq) -> Result<(), StoreError> {
        let mut covered = self.lock_covered();
        let mut lowered = covered.clone();
        let found = lowered
            .iter_mut()
            .find(|(id, upto)| *id == partition && *upto > seq);
        let Some(found) = found else { return Ok(()) };
        found.1 = seq;
        lowered.retain(|(_, upto)| *upto > Seq::NONE);
        self.write_note(self.start().file, &lowered)?;
        *covered = lowered;
        Ok(())
    }

    fn write_note(
        &self,
        first: FileNumber,
        covered: &[(PartitionId, Seq)],
    ) -> Result<(), StoreError> {
        let covered = covered.to_vec();
        let note = CutNote { first, covered };
        first::write(&*self.disk, &self.dir, self.node, &note)
    }

    fn lock_covered(&self) -> MutexGuard<'_, Vec<(PartitionId, Seq)>> {
        self.covered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn node(&self) -> NodeId {
        self.node
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The last file; `None` for an empty directory.
    pub(crate) fn last(&self) -> Option<FileNumber> {
        self.numbers().last().copied()
    }

    /// The first file; `None` for an empty directory.
    pub(crate) fn first(&self) -> Option<FileNumber> {
        self.numbers().first().copied()
    }

    /// Where the first frame is, or will be.
    pub(crate) fn start(&self) -> Place {
        Place {
            file: self.first().unwrap_or(FileNumber::FIRST),
            offset: FILE_HEADER_BYTES,
        }
    }

    /// Bytes of a file, usually.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Deletes the files before `first`, which must be there: first it is noted, durably, that the
    /// journal begins with it, and which snapshots stand for the rest.
    ///
    /// # Errors
    /// What the operating system says; the next open deletes what is left.
    pub(crate) fn drop_before(
        &self,
        first: FileNumber,
        covered: Vec<(PartitionId, Seq)>,
    ) -> Result<(), StoreError> {
        let last = self.last();
        assert!(
            last.is_some_and(|last| first <= last),
            "journal up to {last:?} cut before {first}"
        );
        let mut noted = self.lock_covered();
        self.write_note(first, &covered)?;
        *noted = covered;
        drop(noted);
        let dropped: Vec<FileNumber> = {
            let mut numbers = self.numbers.write().unwrap_or_else(PoisonError::into_inner);
            let kept = numbers.split_off(&first);
            std::mem::replace(&mut *numbers, kept).into_iter().collect()
        };
        for number in dropped {
            self.open
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&number);
            self.remove_if_there(&number.path(&self.dir))?;
        }
        Ok(())
    }

    /// A file, opened and its header checked if it was not open.
    ///
    /// # Errors
    /// [`StoreError::NoSuchPlace`] for a number that the journal does not have; what the file's
    /// header says.
    pub(crate) fn get(&self, number: FileNumber) -> Result<JournalFile, StoreError> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.get(&number) {
            return Ok(file.clone());
        }
        drop(open);
        if !self.numbers().contains(&number) {
            return Err(StoreError::NoSuchPlace {
                place: Place {
                    file: number,
                    offset: 0,
                },
            });
        }
        let file = self.open_unchecked(number)?;
        let mut block = vec![0; FILE_HEADER_BYTES.min(file.len) as usize];
        file.read(&mut block, 0)?;
        header::check(&block, self.node, number, &file.path)?;
        self.keep_open(&file);
        Ok(file)
    }

    /// A file whose header may be damaged.
    ///
    /// # Errors
    /// What the operating system says.
    pub(crate) fn open_unchecked(&self, number: FileNumber) -> Result<JournalFile, StoreError> {
        let path = number.path(&self.dir);
        let open = || {
            let handle = match self.disk.open(&path, OpenMode::ReadWrite) {
                // Verification works on what may only be read.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    self.disk.open(&path, OpenMode::Read)
                }
                opened => opened,
            }?;
            Ok((handle.len()?, handle))
        };
        let (len, handle) = open().map_err(|error| StoreError::io("open", &path, error))?;
        Ok(JournalFile {
            number,
            path,
            handle,
            len,
            unreadable_upto: Arc::default(),
        })
    }

    /// Creates the first file of a new journal.
    ///
    /// # Errors
    /// What the operating system says.
    pub(crate) fn create_first(&self) -> Result<JournalFile, StoreError> {
        assert!(
            self.last().is_none(),
            "first file created in a journal with files"
        );
        let path = FileNumber::FIRST.path(&self.dir);
        let file = self.create(FileNumber::FIRST, path, self.file_bytes, Fill::Zeros)?;
        self.adopt(file)
    }

    /// The file after the last, of at least `bytes_min` bytes, durable and empty.
    ///
    /// # Errors
    /// What the operating system says.
    pub(crate) fn roll(&self, bytes_min: u64) -> Result<JournalFile, StoreError> {
        let ready = {
            let mut ahead = self.ahead();
            ahead.rolling = true;
            ahead.ready.take()
        };
        let rolled = self.roll_to(ready, bytes_min);
        self.ahead().rolling = false;
        self.wanted.notify_all();
        rolled
    }

    fn roll_to(
        &self,
        ready: Option<JournalFile>,
        bytes_min: u64,
    ) -> Result<JournalFile, StoreError> {
        let number = self.last().map_or(FileNumber::FIRST, FileNumber::next);
        let path = number.path(&self.dir);
        match ready {
            Some(ahead) if ahead.number == number && ahead.len >= bytes_min => {
                let renamed = self.disk.rename(&ahead.path, &path);
                renamed.map_err(|error| StoreError::io("rename", &ahead.path, error))?;
                self.adopt(JournalFile { path, ..ahead })
            }
            stale => {
                if let Some(stale) = stale {
                    self.remove_if_there(&stale.path)?;
                }
                let len = self.file_bytes.max(bytes_min);
                let file = self.create(number, path, len, Fill::Reserve)?;
                self.adopt(file)
            }
        }
    }

    /// Makes the next file ahead of need; `false` if it is there already, or being taken.
    ///
    /// # Errors
    /// What the operating system says; the journal goes on without it.
    pub(crate) fn prepare(&self) -> Result<bool, StoreError> {
        let number = {
            let ahead = self.ahead();
            match self.last() {
                Some(last) if ahead.ready.is_none() && !ahead.rolling => last.next(),
                _ => return Ok(false),
            }
        };
        let path = self.ahead_path(number);
        self.remove_if_there(&path)?;
        let made = self.create(number, path.clone(), self.file_bytes, Fill::Zeros);
        let file = match made {
            Ok(file) => file,
            Err(error) => {
                // A half-made file would only take the room that the commit path may need.
                self.remove_if_there(&path).ok();
                return Err(error);
            }
        };
        // A roll may have happened meanwhile; a file for a number that is taken is of no use.
        let mut ahead = self.ahead();
        if !ahead.rolling && self.last().map(FileNumber::next) == Some(number) {
            ahead.ready = Some(file);
            return Ok(true);
        }
        drop(ahead);
        self.remove_if_there(&path)?;
        Ok(true)
    }

    /// Waits until the next file is wanted, or `timeout`, or [`FileSet::stop_preparing`]; `false`
    /// then.
    pub(crate) fn wait_until_wanted(&self, timeout: Duration) -> bool {
        let ahead = self.ahead();
        let idle = |ahead: &mut Ahead| (ahead.ready.is_some() || ahead.rolling) && !ahead.stopped;
        let (ahead, _) = self
            .wanted
            .wait_timeout_while(ahead, timeout, idle)
            .unwrap_or_else(PoisonError::into_inner);
        !ahead.stopped
    }

    /// Waits for `pause` unless preparing is stopped first.
    pub(crate) fn pause_preparing(&self, pause: Duration) {
        let ahead = self.ahead();
        let _ = self
            .wanted
            .wait_timeout_while(ahead, pause, |ahead| !ahead.stopped);
    }

    /// Ends [`FileSet::wait_until_wanted`] for good.
    pub(crate) fn stop_preparing(&self) {
        self.ahead().stopped = true;
        self.wanted.notify_all();
    }

    /// Removes what an earlier process had made ahead, or was about to delete.
    ///
    /// # Errors
    /// What the operating system says.
    pub(crate) fn remove_leftovers(&self) -> Result<(), StoreError> {
        let names = self.disk.list(&self.dir);
        let names = names.map_err(|error| StoreError::io("list", &self.dir, error))?;
        let first = self.first();
        let is_left_over = |name: &String| {
            let number = FileNumber::of_name(name);
            name.ends_with(AHEAD_SUFFIX) || number.is_some_and(|number| Some(number) < first)
        };
        for name in names.iter().filter(|name| is_left_over(name)) {
            self.remove_if_there(&self.dir.join(name))?;
        }
        Ok(())
    }

    /// Removes the last file, in which nothing was ever committed.
    ///
    /// # Errors
    /// What the operating system says.
    pub(crate) fn remove_last(&self, number: FileNumber) -> Result<(), StoreError> {
        assert!(
            self.last() == Some(number),
            "file {number} removed, last is {:?}",
            self.last()
        );
        self.open
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&number);
        self.remove_if_there(&number.path(&self.dir))?;
        self.numbers
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&number);
        self.sync_dir()
    }

    /// Zeros everything in a file from `offset`, durably, and gives it its full length again.
    ///
    /// # Errors
    /// What the operating system says.
    pub(crate) fn cut(&self, number: FileNumber, offset: u64) -> Result<(), StoreError> {
        let file = self.open_unchecked(number)?;
        let cut = || {
            file.handle.set_len(offset)?;
            file.handle.allocate(file.len.max(self.file_bytes))?;
            file.handle.sync_all()
        };
        cut().map_err(|error| StoreError::io("cut", &file.path, error))?;
        self.open
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&number);
        Ok(())
    }

    /// Makes durable what an earlier process may have left in the page cache.
    ///
    /// # Errors
    /// What the operating system says.
    pub(crate) fn sync_last(&self) -> Result<(), StoreError> {
        if let Some(last) = self.last() {
            let file = self.open_unchecked(last)?;
            let synced = file.handle.sync_all();
            synced.map_err(|error| StoreError::io("sync", &file.path, error))?;
        }
        self.sync_dir()
    }

    /// Writes the header of `end`'s file again and the frame `last`, if that is in it, as they are,
    /// and syncs them. After a sync that failed the kernel takes for written what is not: it is
    /// read, the next sync succeeds, and a loss of power takes it all the same.
    ///
    /// # Errors
    /// What the operating system says.
    pub(crate) fn write_again(&self, last: Option<Place>, end: Place) -> Result<(), StoreError> {
        let file = self.get(end.file)?;
        let io = |error| StoreError::io("write", &file.path, error);
        let in_it = last.filter(|last| last.file == end.file);
        let mut at = in_it.map_or(end.offset, |last| last.offset);
        file.handle.allocate(file.len).map_err(io)?;
        let header = header::encode(self.node, file.number);
        file.handle.write_at(&header, 0).map_err(io)?;
        while at < end.offset {
            let mut piece = vec![0; ZERO_PIECE_BYTES.min(end.offset - at) as usize];
            match file.handle.read_at(&mut piece, at) {
                Ok(()) => file.handle.write_at(&piece, at).map_err(io)?,
                // Nothing else may take its place.
                Err(error) => {
                    let path = file.path.display();
                    tracing::warn!(%path, offset = at, %error, "not written again: not readable");
                }
            }
            at += piece.len() as u64;
        }
        let synced = file.handle.sync_all();
        synced.map_err(|error| StoreError::io("sync", &file.path, error))
    }

    /// Bytes of all files, by their usual length.
    pub(crate) fn bytes(&self) -> u64 {
        self.numbers().len() as u64 * self.file_bytes
    }

    fn adopt(&self, file: JournalFile) -> Result<JournalFile, StoreError> {
        self.sync_dir()?;
        self.keep_open(&file);
        self.numbers
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(file.number);
        Ok(file)
    }

    fn keep_open(&self, file: &JournalFile) {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        open.insert(file.number, file.clone());
        if open.len() > OPEN_FILES_MAX {
            // The oldest is the one that the fewest readers still want.
            open.pop_first();
        }
    }

    fn create(
        &self,
        number: FileNumber,
        path: PathBuf,
        len: u64,
        fill: Fill,
    ) -> Result<JournalFile, StoreError> {
        let create = || {
            let handle = self.disk.open(&path, OpenMode::CreateNew)?;
            handle.allocate(len)?;
            handle.write_at(&header::encode(self.node, number), 0)?;
            if fill == Fill::Zeros {
                let zeros = vec![0; ZERO_PIECE_BYTES as usize];
                let mut at = FILE_HEADER_BYTES;
                while at < len {
                    let piece = ZERO_PIECE_BYTES.min(len - at);
                    handle.write_at(&zeros[..piece as usize], at)?;
                    // Piece by piece, so that a commit meanwhile queues behind little.
                    handle.sync_data()?;
                    at += piece;
                }
            }
            handle.sync_all()?;
            Ok(handle)
        };
        let handle = create().map_err(|error| StoreError::io("create", &path, error))?;
        Ok(JournalFile {
            number,
            path,
            handle,
            len,
            unreadable_upto: Arc::default(),
        })
    }

    fn remove_if_there(&self, path: &Path) -> Result<(), StoreError> {
        let removed = remove_if_there(&*self.disk, path);
        removed.map_err(|error| StoreError::io("remove", path, error))
    }

    fn sync_dir(&self) -> Result<(), StoreError> {
        let synced = self.disk.sync_dir(&self.dir);
        synced.map_err(|error| StoreError::io("sync", &self.dir, error))
    }

    fn ahead_path(&self, number: FileNumber) -> PathBuf {
        let mut path = number.path(&self.dir).into_os_string();
        path.push(AHEAD_SUFFIX);
        path.into()
    }

    fn numbers(&self) -> RwLockReadGuard<'_, BTreeSet<FileNumber>> {
        self.numbers.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn ahead(&self) -> MutexGuard<'_, Ahead> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl JournalFile {
    pub(crate) fn read(&self, buffer: &mut [u8], offset: u64) -> Result<(), StoreError> {
        let read = read_around(&*self.handle, &self.path, buffer, offset);
        let unreadable = read.map_err(|error| StoreError::io("read", &self.path, error))?;
        if let Some(upto) = unreadable {
            self.unreadable_upto.fetch_max(upto, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Refuses to tell anything of what lies at `offset` or behind if a page there was not read.
    ///
    /// # Errors
    /// [`StoreError::Io`] with the file and where that page ends.
    pub(crate) fn check_readable(&self, offset: u64) -> Result<(), StoreError> {
        let upto = self.unreadable_upto.load(Ordering::Relaxed);
        if upto <= offset {
            return Ok(());
        }
        let text =
            format!("the page before byte {upto}, which may hold the last acknowledged writes");
        Err(StoreError::io("read", &self.path, io::Error::other(text)))
    }
}

/// How the room of a new file is had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fill {
    Zeros,
    Reserve,
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::disk::MemoryDisk;

    /// Regression: the preparer, woken by a roll that had taken its file and not renamed it yet,
    /// removed that file as a leftover of its own, and the store was poisoned.
    #[test]
    fn a_roll_keeps_the_file_that_it_takes_from_the_preparer() {
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
        let dir = Path::new("/journal");
        disk.create_dir_all(dir).unwrap();
        let node = NodeId::new(1).unwrap();
        let files = FileSet::open(disk, dir, node, 2 * FILE_HEADER_BYTES).unwrap();
        files.create_first().unwrap();
        let ended = AtomicBool::new(false);
        let (rolls, made) = std::thread::scope(|scope| {
            let preparer = scope.spawn(|| {
                let mut made = 0_u32;
                while !ended.load(Ordering::Relaxed) {
                    made += u32::from(files.prepare().unwrap());
                }
                made
            });
            let rolled = (0..2_000).map(|_| {
                while files.ahead().ready.is_none() && !preparer.is_finished() {
                    std::thread::yield_now();
                }
                files.roll(0).map(|file| file.number.get())
            });
            let rolled: Result<Vec<_>, _> = rolled.collect();
            ended.store(true, Ordering::Relaxed);
            (rolled, preparer.join().unwrap())
        });
        let rolls = rolls.unwrap();
        assert!(made >= 2_000, "{made} files made ahead for as many rolls");
        assert!(rolls.into_iter().eq(2..2_002), "a number was left out");
    }
}
