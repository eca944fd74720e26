//! A disk in memory on which machines die at will.
//!
//! **Owns**: handles, locks, the switch between image and fault plan.
//! **Does not own**: what survives (image), what fails (faults).
//!
//! Clones share one disk. [`MemoryDisk::crash`] and [`MemoryDisk::power_loss`] give a new disk that
//! shares nothing with the old one, so whatever still holds the old one cannot disturb the new.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::faults::{Faults, Step, Verdict};
use super::image::{Chance, Image, Inode};
use super::{Disk, DiskFile, DiskLock, LockOutcome, OpenMode};

/// A disk in memory; clones share it.
#[derive(Clone, Default)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
    held: Arc<Held>,
}

/// Syncs that do not come back until they are let go.
#[derive(Default)]
struct Held {
    is_held: Mutex<bool>,
    let_go: Condvar,
}

impl Held {
    fn set(&self, is_held: bool) {
        *self.is_held.lock().unwrap_or_else(PoisonError::into_inner) = is_held;
        self.let_go.notify_all();
    }

    fn wait(&self) {
        let is_held = self.is_held.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.let_go.wait_while(is_held, |is_held| *is_held);
        drop(waited);
    }
}

#[derive(Default)]
struct State {
    image: Image,
    faults: Faults,
    locks: BTreeMap<PathBuf, String>,
}

impl MemoryDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The disk as the next process finds it after kill -9: all that was live, no locks, no faults.
    /// What was not synced is still not durable.
    #[must_use]
    pub fn crash(&self) -> Self {
        Self::of(self.state().image.clone())
    }

    /// The disk as the next boot finds it: what was synced, and of the rest what `seed` leaves.
    #[must_use]
    pub fn power_loss(&self, seed: u64) -> Self {
        Self::of(self.state().image.after_power_loss(&mut Chance::new(seed)))
    }

    /// Changes of the disk so far: writes, syncs and changes of names, not reads.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state().faults.operations
    }

    /// Syncs so far.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.state().faults.syncs
    }

    /// The machine dies at the `nth` change of the disk from now, 1 being the next: that one is
    /// under way, everything after it fails.
    pub fn freeze_at_operation(&self, nth: u64) {
        let faults = &mut self.state().faults;
        faults.freeze_at = Some(faults.operations + nth);
    }

    /// The `nth` sync from now fails with EIO, once, and what it should have synced is lost.
    pub fn fail_sync(&self, nth: u64) {
        let faults = &mut self.state().faults;
        faults.fail_sync_at = Some(faults.syncs + nth);
    }

    /// The `nth` write from now fails with EIO, once.
    pub fn fail_write(&self, nth: u64) {
        let faults = &mut self.state().faults;
        faults.fail_write_at = Some(faults.writes + nth);
    }

    /// Reads so far.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.state().faults.reads
    }

    /// The `nth` read from now fails with EIO, once.
    pub fn fail_read(&self, nth: u64) {
        self.plan_read(nth, io::ErrorKind::Other);
    }

    /// The `nth` read from now comes back short, once.
    pub fn shorten_read(&self, nth: u64) {
        self.plan_read(nth, io::ErrorKind::UnexpectedEof);
    }

    fn plan_read(&self, nth: u64, kind: io::ErrorKind) {
        let faults = &mut self.state().faults;
        faults.fail_read_at = Some((faults.reads + nth, kind));
    }

    /// Reads of these bytes fail with EIO from now on, also after a crash or a loss of power, until
    /// they are written again.
    ///
    /// # Panics
    /// There is no such file.
    pub fn spoil(&self, path: &Path, range: Range<usize>) {
        let image = &mut self.state().image;
        let inode = image.file(path);
        let inode = inode.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        image.spoil(inode, range);
    }

    /// Files may grow by so many bytes from now, then the disk is full; `None`: without end.
    pub fn set_space_left(&self, bytes: Option<u64>) {
        self.state().faults.space_left_bytes = bytes;
    }

    /// No sync comes back from now on, until [`MemoryDisk::let_syncs_go`].
    pub fn hold_syncs(&self) {
        self.held.set(true);
    }

    /// The syncs that were held come back, and later ones at once.
    pub fn let_syncs_go(&self) {
        self.held.set(false);
    }

    fn of(image: Image) -> Self {
        let state = State {
            image,
            ..State::default()
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            held: Arc::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change_names(&self, change: impl FnOnce(&mut Image) -> io::Result<()>) -> io::Result<()> {
        let mut state = self.state();
        match state.faults.judge(Step::Name) {
            Verdict::Done => change(&mut state.image),
            Verdict::UnderWay(error) => change(&mut state.image).and(Err(error)),
            Verdict::Refused(error) | Verdict::Lost(error) => Err(error),
        }
    }

    fn look(&self) -> io::Result<MutexGuard<'_, State>> {
        self.look_for(Step::Look)
    }

    fn look_for(&self, step: Step) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        match state.faults.judge(step) {
            Verdict::Done => Ok(state),
            Verdict::UnderWay(error) | Verdict::Refused(error) | Verdict::Lost(error) => Err(error),
        }
    }
}

impl fmt::Debug for MemoryDisk {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("MemoryDisk")
    }
}

impl Disk for MemoryDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        if self.look()?.image.list(dir).is_ok() {
            return Ok(());
        }
        self.change_names(|image| image.create_dir_all(dir))
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        if mode == OpenMode::CreateNew {
            self.change_names(|image| image.create_file(path).map(|_| ()))?;
        }
        let inode = self.look()?.image.file(path)?;
        Ok(Arc::new(MemoryFile {
            disk: self.clone(),
            inode,
        }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.look()?.image.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change_names(|image| image.rename(from, to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.look()?.image.file(path)?;
        self.change_names(|image| image.remove(path))
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.look()?.image.list(dir)?;
        self.change_names(|image| image.remove(dir))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        match state.faults.judge(Step::Sync) {
            Verdict::Done => state.image.sync_dir(dir),
            Verdict::UnderWay(error) | Verdict::Refused(error) | Verdict::Lost(error) => Err(error),
        }
    }

    fn exists(&self, path: &Path) -> bool {
        self.state().image.exists(path)
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        Ok(self.look()?.faults.space_left_bytes.unwrap_or(u64::MAX))
    }

    fn lock(&self, path: &Path, holder: &str) -> io::Result<LockOutcome> {
        let mut state = self.look()?;
        if let Some(holder) = state.locks.get(path) {
            return Ok(LockOutcome::Held {
                holder: holder.clone(),
            });
        }
        state.locks.insert(path.to_owned(), holder.to_owned());
        let lock = MemoryLock {
            disk: self.clone(),
            path: path.to_owned(),
        };
        Ok(LockOutcome::Acquired(Box::new(lock)))
    }
}

struct MemoryLock {
    disk: MemoryDisk,
    path: PathBuf,
}

impl DiskLock for MemoryLock {}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        self.disk.state().locks.remove(&self.path);
    }
}

struct MemoryFile {
    disk: MemoryDisk,
    inode: Inode,
}

impl MemoryFile {
    /// Changes bytes after which the file is at least `len` bytes long.
    fn change(&self, len: u64, change: impl FnOnce(&mut Image)) -> io::Result<()> {
        let mut state = self.disk.state();
        let growth_bytes = len.saturating_sub(state.image.len(self.inode));
        match state.faults.judge(Step::Write { growth_bytes }) {
            Verdict::Done => change(&mut state.image),
            Verdict::UnderWay(error) => {
                change(&mut state.image);
                return Err(error);
            }
            Verdict::Refused(error) | Verdict::Lost(error) => return Err(error),
        }
        Ok(())
    }
}

impl fmt::Debug for MemoryFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "MemoryFile({:?})", self.inode)
    }
}

impl DiskFile for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.disk.look_for(Step::Read)?;
        state.image.read(self.inode, buffer, offset)
    }

    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<()> {
        let len = offset + buffer.len() as u64;
        self.change(len, |image| image.write(self.inode, buffer, offset))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.held.wait();
        let mut state = self.disk.state();
        match state.faults.judge(Step::Sync) {
            Verdict::Done => {
                state.image.sync(self.inode);
                Ok(())
            }
            Verdict::Lost(error) => {
                state.image.fail_sync(self.inode);
                Err(error)
            }
            Verdict::UnderWay(error) | Verdict::Refused(error) => Err(error),
        }
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let longer = len.max(self.len()?);
        self.change(longer, |image| image.set_len(self.inode, longer))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(len, |image| image.set_len(self.inode, len))
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.look()?.image.len(self.inode))
    }
}
