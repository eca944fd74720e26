//! Opening the engine, and putting a bad one aside.
//!
//! **Owns**: the engine's directory, the file in it that says whose it is, those put aside.
//! **Does not own**: filling a new engine (recovery).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, read_if_there, replace};
#[cfg(feature = "fjall")]
use crate::engine::FjallEngine;
use crate::engine::{Engine, EngineError, MemoryEngine, SledEngine};
use crate::error::StoreError;
use crate::options::{EngineChoice, StoreOptions};

/// The engine's directory in a data directory.
pub(crate) const ENGINE_DIR: &str = "engine";
/// What the names of directories put aside begin with; a number follows.
pub(crate) const QUARANTINE_PREFIX: &str = "engine.quarantined-";

/// The file in an engine's directory that names the engine. sled's has none: it is older than the
/// choice.
const MAKER_FILE: &str = "made-by";
/// Its name while it is written.
const MAKER_UNFINISHED: &str = "made-by.unfinished";
/// Bytes read of it: more than any name has.
const MAKER_BYTES_MAX: u64 = 64;

/// The names of the engines in a directory.
const SLED: &str = "sled";
const FJALL: &str = "fjall";

/// Engines kept for inspection. Each is as large as the data; a third would rather fill the disk
/// than teach anything.
const QUARANTINED_MAX: usize = 2;

/// Opens the engine of a data directory as it is.
///
/// # Errors
/// What the engine says; [`EngineError::OtherEngine`] if the directory is not its own.
pub(crate) fn open_engine(
    disk: &dyn Disk,
    dir: &Path,
    options: &StoreOptions,
) -> Result<Arc<dyn Engine>, EngineError> {
    let cache_bytes = options.engine_cache_bytes;
    match &options.engine {
        EngineChoice::Sled => {
            check_maker(disk, dir, SLED)?;
            Ok(Arc::new(SledEngine::open(
                &dir.join(ENGINE_DIR),
                cache_bytes,
            )?))
        }
        EngineChoice::Fjall => open_fjall(disk, dir, cache_bytes),
        EngineChoice::Memory => Ok(Arc::new(MemoryEngine::new())),
        EngineChoice::Given(engine) => Ok(Arc::clone(engine)),
    }
}

#[cfg(feature = "fjall")]
fn open_fjall(
    disk: &dyn Disk,
    dir: &Path,
    cache_bytes: u64,
) -> Result<Arc<dyn Engine>, EngineError> {
    check_maker(disk, dir, FJALL)?;
    let engine = FjallEngine::open(&dir.join(ENGINE_DIR), cache_bytes)?;
    Ok(Arc::new(engine))
}

#[cfg(not(feature = "fjall"))]
fn open_fjall(_: &dyn Disk, _: &Path, _: u64) -> Result<Arc<dyn Engine>, EngineError> {
    Err(EngineError::NotBuilt { engine: FJALL })
}

/// Makes sure that the engine's directory is `wanted`'s; marks an empty one as such, durably,
/// before anything else is in it.
fn check_maker(disk: &dyn Disk, dir: &Path, wanted: &'static str) -> Result<(), EngineError> {
    let engine_dir = dir.join(ENGINE_DIR);
    let found = maker(disk, &engine_dir).map_err(|source| EngineError::Io {
        what: "open",
        source,
    })?;
    match found {
        Some(found) if found == wanted => Ok(()),
        Some(found) => Err(EngineError::OtherEngine { found, wanted }),
        None if wanted == SLED => Ok(()),
        None => {
            let name = wanted.as_bytes();
            disk.create_dir_all(&engine_dir)
                .and_then(|()| replace(disk, &engine_dir, MAKER_FILE, MAKER_UNFINISHED, name))
                .and_then(|()| disk.sync_dir(dir))
                .map_err(|source| EngineError::Io {
                    what: "open",
                    source,
                })
        }
    }
}

/// Whose directory it is; `None` if nothing is in it.
fn maker(disk: &dyn Disk, engine_dir: &Path) -> io::Result<Option<String>> {
    let names = match disk.list(engine_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        names => names?,
    };
    if names.is_empty() {
        return Ok(None);
    }
    let name = read_if_there(disk, &engine_dir.join(MAKER_FILE), MAKER_BYTES_MAX)?;
    let name = name.unwrap_or_else(|| SLED.as_bytes().to_vec());
    Ok(Some(String::from_utf8_lossy(&name).into_owned()))
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
