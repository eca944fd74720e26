//! What a data directory takes on its disk, and asking the system to forget what it read of it.
//!
//! **Owns**: counting, the watch for the most, the page cache.
//! **Does not own**: what the files are (storage).

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What `st_blocks` counts in.
const SECTOR_BYTES: u64 = 512;

/// How often a watch looks: a file that lives for less is missed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Bytes taken, not lengths: files have room ahead, and holes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DiskUse {
    pub(super) engine_bytes: u64,
    pub(super) journal_bytes: u64,
    pub(super) snapshot_bytes: u64,
    /// Those and whatever else there is.
    pub(super) all_bytes: u64,
}

impl DiskUse {
    /// Of a data directory as it is now.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn of(data: &Path) -> io::Result<Self> {
        Ok(Self {
            engine_bytes: bytes_below(&data.join("engine"))?,
            journal_bytes: bytes_below(&data.join("journal"))?,
            snapshot_bytes: bytes_below(&data.join("snapshots"))?,
            all_bytes: bytes_below(data)?,
        })
    }
}

/// Files come and go while they are counted.
fn unless_gone<T: Default>(answer: io::Result<T>) -> io::Result<T> {
    match answer {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(T::default()),
        answer => answer,
    }
}

fn files_below(path: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files.extend(files_below(&entry.path())?);
        } else {
            files.push(entry.path());
        }
    }
    Ok(files)
}

fn bytes_below(path: &Path) -> io::Result<u64> {
    let taken = |path: PathBuf| {
        let metadata = fs::metadata(path);
        unless_gone(metadata.map(|metadata| metadata.blocks() * SECTOR_BYTES))
    };
    files_below(path)?.into_iter().map(taken).sum()
}

/// A thread that looks at a directory each second and remembers the most that it took.
pub(super) struct PeakOfDisk {
    ended: mpsc::Sender<()>,
    thread: JoinHandle<u64>,
}

impl PeakOfDisk {
    /// Begins to look.
    ///
    /// # Errors
    /// No thread can be started.
    pub(super) fn watch(data: &Path) -> io::Result<Self> {
        let (ended, end) = mpsc::channel();
        let data = data.to_owned();
        let watch = move || {
            let mut most = 0;
            while end.recv_timeout(LOOK_EVERY) == Err(mpsc::RecvTimeoutError::Timeout) {
                most = most.max(bytes_below(&data).unwrap_or(0));
            }
            most
        };
        let thread = thread::Builder::new().name("disk use".to_owned());
        let thread = thread.spawn(watch)?;
        Ok(Self { ended, thread })
    }

    /// Ends; the most there was.
    pub(super) fn stop(self) -> u64 {
        drop(self.ended);
        self.thread.join().unwrap_or(0)
    }
}

/// Asks the system to forget what it has read of the files below `data`, after a sync: what is not
/// on the device cannot be forgotten.
///
/// # Errors
/// A file cannot be opened or synced.
pub(super) fn drop_page_cache(data: &Path) -> io::Result<()> {
    for path in files_below(data)? {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            opened => opened?,
        };
        file.sync_all()?;
        #[cfg(target_os = "linux")]
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    }
    Ok(())
}

/// Bytes that this process had the device read; 0 where that is not told.
pub(super) fn device_bytes_read() -> u64 {
    let text = fs::read_to_string("/proc/self/io").unwrap_or_default();
    let field = |line: &str| line.strip_prefix("read_bytes: ")?.trim().parse().ok();
    text.lines().find_map(field).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_counted_by_its_place() {
        let data = tempfile::tempdir().unwrap();
        fs::create_dir_all(data.path().join("engine/deep")).unwrap();
        fs::write(data.path().join("engine/deep/table"), vec![1; 100_000]).unwrap();
        fs::write(data.path().join("identity"), vec![1; 5000]).unwrap();
        let hole = File::create(data.path().join("engine/hole")).unwrap();
        hole.set_len(1 << 30).unwrap();
        drop_page_cache(data.path()).unwrap();
        let peak = PeakOfDisk::watch(data.path()).unwrap();
        let found = DiskUse::of(data.path()).unwrap();
        assert!(
            (100_000..200_000).contains(&found.engine_bytes),
            "{found:?}"
        );
        assert!(found.all_bytes >= found.engine_bytes + 5000, "{found:?}");
        assert_eq!((found.journal_bytes, found.snapshot_bytes), (0, 0));
        assert!(peak.stop() <= found.all_bytes);
    }
}
