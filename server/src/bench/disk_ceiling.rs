//! What the disk alone allows: a write and its `fdatasync`, without network or index.
//!
//! **Owns**: the bare commits and how long they take.
//! **Does not own**: the bare servers (`ceiling`).

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Serialize;

use super::ceiling::allocated;
use super::recorder::{Latencies, Summary};

/// The most commits of one measurement: a bound for disks that are infinitely fast. Doubled, the
/// file below is too small.
const COMMITS_MAX: usize = 100_000;

/// Bytes of the measured file. At the most commits of the largest batch it starts over, as a
/// journal takes the next file.
const FILE_BYTES: u64 = 256 << 20;

/// Commits of one batch size.
#[derive(Clone, Debug, Serialize)]
pub(super) struct DiskCeiling {
    /// Writes a commit.
    pub batch: usize,
    /// Writes a second, each durable.
    pub writes_per_s: f64,
    /// How long a commit takes.
    pub commit: Summary,
}

/// Commits batches of `batch` writes of `write_bytes` bytes, one after the other, for `time`, after
/// a `rest` each.
///
/// # Errors
/// The file cannot be made or written.
pub(super) fn measure_disk(
    dir: &Path,
    batch: usize,
    write_bytes: u64,
    time: Duration,
    rest: Duration,
) -> anyhow::Result<(DiskCeiling, Latencies)> {
    let path = dir.join("bare.journal");
    let file = allocated(&path, FILE_BYTES)
        .with_context(|| format!("cannot allocate {}", path.display()))?;
    let buffer = vec![b'x'; batch * write_bytes as usize];
    let (mut latencies, mut offset, started) = (Latencies::new(), 0, Instant::now());
    let mut commits = 0;
    while commits < COMMITS_MAX && started.elapsed() < time {
        if offset + buffer.len() as u64 > FILE_BYTES {
            offset = 0;
        }
        if !rest.is_zero() {
            thread::sleep(rest);
        }
        let since = Instant::now();
        file.write_all_at(&buffer, offset)?;
        file.sync_data()?;
        latencies.record(since.elapsed());
        offset += buffer.len() as u64;
        commits += 1;
    }
    let seconds = started.elapsed().as_secs_f64();
    std::fs::remove_file(&path)?;
    let ceiling = DiskCeiling {
        batch,
        writes_per_s: (commits * batch) as f64 / seconds,
        commit: latencies.summary(),
    };
    Ok((ceiling, latencies))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_are_counted_and_the_file_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let time = Duration::from_millis(30);
        let (ceiling, latencies) = measure_disk(dir.path(), 4, 144, time, Duration::ZERO).unwrap();
        assert!(latencies.count() > 0);
        let rest = Duration::from_millis(20);
        let (_, rested) = measure_disk(dir.path(), 4, 144, time, rest).unwrap();
        assert!((1..=2).contains(&rested.count()), "{}", rested.count());
        assert!(ceiling.writes_per_s > 0.0, "{ceiling:?}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
