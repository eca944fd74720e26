//! The operating system's disk.
//!
//! **Owns**: the calls to it.
//! **Does not own**: when to sync what.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use super::{Disk, DiskFile, DiskLock, LockOutcome, OpenMode};

/// Most bytes of a lock file that are taken for its holder; more is not a holder's text.
const HOLDER_BYTES_MAX: u64 = 512;

/// The operating system's disk.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsDisk;

impl OsDisk {
    /// The disk.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

impl Disk for OsDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true);
        match mode {
            OpenMode::Read => {}
            OpenMode::ReadWrite => {
                options.write(true);
            }
            OpenMode::CreateNew => {
                options.write(true).create_new(true);
            }
        }
        Ok(Arc::new(OsFile(options.open(path)?)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::remove_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let volume = statvfs(dir)?;
        Ok(volume.f_bavail.saturating_mul(volume.f_frsize))
    }

    fn lock(&self, path: &Path, holder: &str) -> io::Result<LockOutcome> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = Vec::new();
                file.take(HOLDER_BYTES_MAX).read_to_end(&mut holder)?;
                let holder = String::from_utf8_lossy(&holder).trim().to_owned();
                return Ok(LockOutcome::Held { holder });
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(holder.as_bytes())?;
        Ok(LockOutcome::Acquired(Box::new(OsLock { _file: file })))
    }
}

/// The lock lives as long as the file is open: the operating system releases it, kill -9 included.
struct OsLock {
    _file: File,
}

impl DiskLock for OsLock {}

#[derive(Debug)]
struct OsFile(File);

impl DiskFile for OsFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(buffer, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        match fallocate(&self.0, FallocateFlags::empty(), 0, len) {
            Ok(()) => Ok(()),
            // Some file systems cannot reserve; a longer file reads the same, only slower to sync.
            Err(rustix::io::Errno::OPNOTSUPP) if self.len()? < len => self.0.set_len(len),
            Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_names_the_first_holder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = OsDisk.lock(&path, "pid 1 since noon").unwrap();
        assert!(matches!(first, LockOutcome::Acquired(_)));
        match OsDisk.lock(&path, "pid 2").unwrap() {
            LockOutcome::Held { holder } => assert_eq!(holder, "pid 1 since noon"),
            LockOutcome::Acquired(_) => panic!("locked twice"),
        }
        drop(first);
        assert!(matches!(
            OsDisk.lock(&path, "pid 3").unwrap(),
            LockOutcome::Acquired(_)
        ));
        assert_eq!(fs::read_to_string(&path).unwrap(), "pid 3");
    }

    #[test]
    fn allocated_room_reads_as_zeros_and_keeps_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let file = OsDisk.open(&path, OpenMode::CreateNew).unwrap();
        file.write_at(b"abc", 0).unwrap();
        file.allocate(8192).unwrap();
        assert_eq!(file.len().unwrap(), 8192);
        let mut bytes = [1; 8];
        file.read_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"abc\0\0\0\0\0");
        assert_eq!(
            file.read_at(&mut bytes, 8190).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
        assert!(OsDisk.open(&path, OpenMode::CreateNew).is_err());
        assert_eq!(OsDisk.list(dir.path()).unwrap(), ["file"]);
        assert!(OsDisk.free_bytes(dir.path()).unwrap() > 0);
        OsDisk.sync_dir(dir.path()).unwrap();
    }
}
