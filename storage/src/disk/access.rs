//! What the store asks of a disk.
//!
//! **Owns**: the contract that the operating system's disk and the one in memory both keep.
//! **Does not own**: context of errors (which file, to what end): the callers add it.
//!
//! What is written is *live* at once and *durable* only after a sync: of the file for its bytes, of
//! the directory for the names in it.

use std::fmt;
use std::io;
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// To be read; it must exist.
    Read,
    /// To be read and written; it must exist.
    ReadWrite,
    /// To be read and written; it must not exist.
    CreateNew,
}

/// What became of an attempt to lock.
pub enum LockOutcome {
    /// The lock is held until this is dropped.
    Acquired(Box<dyn DiskLock>),
    /// Someone else holds it.
    Held {
        /// What they wrote into the lock file.
        holder: String,
    },
}

impl fmt::Debug for LockOutcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Acquired(_) => formatter.write_str("Acquired"),
            Self::Held { holder } => write!(formatter, "Held by {holder}"),
        }
    }
}

/// A lock; dropping it releases it.
pub trait DiskLock: Send + Sync {}

/// A directory tree.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Creates a directory and those above it; one that exists is fine.
    ///
    /// # Errors
    /// What the operating system says.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Opens a file.
    ///
    /// # Errors
    /// `NotFound` and `AlreadyExists` by mode; what the operating system says.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;

    /// The names in a directory, in byte order.
    ///
    /// # Errors
    /// `NotFound`; what the operating system says.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Renames a file or directory; a file in its way is replaced, at once and whole.
    ///
    /// # Errors
    /// What the operating system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// What the operating system says.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes a directory with everything in it.
    ///
    /// # Errors
    /// What the operating system says.
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable: what was created, renamed or removed in it.
    ///
    /// # Errors
    /// What the operating system says.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Whether a file or directory is there.
    fn exists(&self, path: &Path) -> bool;

    /// Bytes that may still be written below `dir`.
    ///
    /// # Errors
    /// What the operating system says.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;

    /// Takes the lock file at `path`, created if missing, and writes `holder` into it.
    ///
    /// # Errors
    /// What the operating system says; a lock held by another is no error.
    fn lock(&self, path: &Path, holder: &str) -> io::Result<LockOutcome>;
}

/// An open file. All methods may be called from several threads at once.
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Fills the whole buffer from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file ends before the buffer does; what the operating system says.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes the whole buffer at `offset`.
    ///
    /// # Errors
    /// What the operating system says; any part of the buffer may then have been written.
    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<()>;

    /// Writes all buffers, one behind the other, from `offset`.
    ///
    /// # Errors
    /// As [`DiskFile::write_at`].
    fn write_vectored_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut at = offset;
        for buffer in buffers {
            self.write_at(buffer, at)?;
            at += buffer.len() as u64;
        }
        Ok(())
    }

    /// Makes the bytes durable, and the length as far as it is needed to read them.
    ///
    /// # Errors
    /// What the operating system says; never try again: what was not written may be lost for good.
    fn sync_data(&self) -> io::Result<()>;

    /// Makes bytes and length durable.
    ///
    /// # Errors
    /// As [`DiskFile::sync_data`].
    fn sync_all(&self) -> io::Result<()>;

    /// Reserves room for `len` bytes; new bytes read as zeros, old ones stay.
    ///
    /// # Errors
    /// What the operating system says, no room above all.
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// Cuts or extends with zeros.
    ///
    /// # Errors
    /// What the operating system says.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Bytes of the file.
    ///
    /// # Errors
    /// What the operating system says.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    ///
    /// # Errors
    /// What the operating system says.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}
