//! Opening the engine, and putting a bad one aside.
//!
//! **Owns**: the engine's directory and those of engines that failed.
//! **Does not own**: filling a new engine (recovery).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::Disk;
use crate::engine::{Engine, EngineError, MemoryEngine, SledEngine};
use crate::error::StoreError;
use crate::options::{EngineChoice, StoreOptions};

/// The engine's directory in a data directory.
pub(crate) const ENGINE_DIR: &str = "engine";
/// What the names of directories put aside begin with; a number follows.
pub(crate) const QUARANTINE_PREFIX: &str = "engine.quarantined-";

/// Engines kept for inspection. Each is as large as the data; a third would rather fill the disk
/// than teach anything.
const QUARANTINED_MAX: usize = 2;

/// Opens the engine of a data directory as it is.
///
/// # Errors
/// What the engine says.
pub(crate) fn open_engine(
    dir: &Path,
    options: &StoreOptions,
) -> Result<Arc<dyn Engine>, EngineError> {
    match &options.engine {
        EngineChoice::Sled => {
            let engine = SledEngine::open(&dir.join(ENGINE_DIR), options.engine_cache_bytes)?;
            Ok(Arc::new(engine))
        }
        EngineChoice::Memory => Ok(Arc::new(MemoryEngine::new())),
        EngineChoice::Given(engine) => Ok(Arc::clone(engine)),
    }
}

/// Puts the engine's directory aside, so that the next open begins with an empty one.
///
/// # Errors
/// What the operating system says.
pub(crate) fn quarantine(disk: &dyn Disk, dir: &Path) -> Result<PathBuf, StoreError> {
    let names = disk
        .list(dir)
        .map_err(|error| StoreError::io("list", dir, error))?;
    let number_of = |name: &String| name.strip_prefix(QUARANTINE_PREFIX)?.parse::<u64>().ok();
    let mut numbers: Vec<u64> = names.iter().filter_map(number_of).collect();
    numbers.sort_unstable();
    let path_of = |number: u64| dir.join(format!("{QUARANTINE_PREFIX}{number}"));
    let aside = path_of(numbers.last().map_or(1, |last| last.saturating_add(1)));
    let (from, excess) = (
        dir.join(ENGINE_DIR),
        (numbers.len() + 1).saturating_sub(QUARANTINED_MAX),
    );
    if disk.exists(&from) {
        disk.rename(&from, &aside)
            .map_err(|error| StoreError::io("rename", &from, error))?;
    }
    for path in numbers.iter().take(excess).map(|number| path_of(*number)) {
        disk.remove_dir_all(&path)
            .map_err(|error| StoreError::io("remove", &path, error))?;
    }
    disk.sync_dir(dir)
        .map_err(|error| StoreError::io("sync", dir, error))?;
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;

    #[test]
    fn only_the_last_quarantined_engines_are_kept() {
        let disk = MemoryDisk::new();
        let dir = Path::new("/data");
        disk.create_dir_all(dir).unwrap();
        for number in 1..=4 {
            disk.create_dir_all(&dir.join(ENGINE_DIR)).unwrap();
            let aside = quarantine(&disk, dir).unwrap();
            assert_eq!(aside, dir.join(format!("engine.quarantined-{number}")));
            assert!(!disk.exists(&dir.join(ENGINE_DIR)));
        }
        let kept = ["engine.quarantined-3", "engine.quarantined-4"];
        assert_eq!(disk.list(dir).unwrap(), kept);
        quarantine(&disk, dir).unwrap();
    }
}
