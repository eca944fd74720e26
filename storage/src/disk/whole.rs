//! Small files that are read and replaced whole.
//!
//! **Owns**: the order of operations that leaves the old file or the new one, never a part.
//! **Does not own**: what is in them, context of errors.

use std::io;
use std::path::Path;

use super::{Disk, OpenMode};

/// The bytes of a file, at most `bytes_max` of them; `None` if it is not there.
///
/// # Errors
/// What the operating system says.
pub(crate) fn read_if_there(
    disk: &dyn Disk,
    path: &Path,
    bytes_max: u64,
) -> io::Result<Option<Vec<u8>>> {
    let file = match disk.open(path, OpenMode::Read) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut bytes = vec![0; file.len()?.min(bytes_max) as usize];
    file.read_at(&mut bytes, 0)?;
    Ok(Some(bytes))
}

/// Gives the file `name` in `dir` these bytes, durably: written as `unfinished`, then renamed.
///
/// # Errors
/// What the operating system says; the file is then what it was.
pub(crate) fn replace(
    disk: &dyn Disk,
    dir: &Path,
    name: &str,
    unfinished: &str,
    bytes: &[u8],
) -> io::Result<()> {
    let unfinished = dir.join(unfinished);
    remove_if_there(disk, &unfinished)?;
    let file = disk.open(&unfinished, OpenMode::CreateNew)?;
    file.write_at(bytes, 0)?;
    file.sync_all()?;
    disk.rename(&unfinished, &dir.join(name))?;
    disk.sync_dir(dir)
}

/// Removes a file, if it is there.
///
/// # Errors
/// What the operating system says.
pub(crate) fn remove_if_there(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
