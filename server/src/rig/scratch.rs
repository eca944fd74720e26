//! The directory in which a run keeps its servers' data.
//!
//! **Owns**: making it, removing it again, saying whether it is on a disk.
//! **Does not own**: what is in it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use tempfile::TempDir;

/// What Linux calls a file system in memory (`TMPFS_MAGIC`).
#[cfg(target_os = "linux")]
const MEMORY_FILE_SYSTEM: u64 = 0x0102_1994;

/// A directory of a run: the user's, which stays, or a temporary one, which goes with this.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    _temporary: Option<TempDir>,
}

impl Scratch {
    /// The directory `asked`, made if need be and empty; or a temporary one.
    ///
    /// # Errors
    /// It cannot be made, or has something in it.
    pub fn make(asked: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = asked else {
            let temporary = tempfile::Builder::new()
                .prefix("domicile-")
                .tempdir()
                .context("no temporary directory")?;
            let path = temporary.path().to_owned();
            let _temporary = Some(temporary);
            return Ok(Self { path, _temporary });
        };
        let shown = path.display();
        fs::create_dir_all(path).with_context(|| format!("cannot make {shown}"))?;
        let mut entries = fs::read_dir(path).with_context(|| format!("cannot read {shown}"))?;
        anyhow::ensure!(
            entries.next().is_none(),
            "{shown} is not empty; name a directory of its own"
        );
        // Servers are told the path on their command line, from wherever they run.
        let path = path.canonicalize()?;
        let _temporary = None;
        Ok(Self { path, _temporary })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A directory in it, made now.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn sub(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.path.join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }

    /// Whether it is in memory, where a sync costs nothing and proves nothing.
    #[must_use]
    pub fn is_in_memory(&self) -> bool {
        #[cfg(target_os = "linux")]
        if let Ok(found) = rustix::fs::statfs(&self.path) {
            return found.f_type as u64 == MEMORY_FILE_SYSTEM;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_one_goes_and_a_full_one_is_refused() {
        let path = {
            let scratch = Scratch::make(None).unwrap();
            fs::write(scratch.sub("x").unwrap().join("y"), "z").unwrap();
            let refused = Scratch::make(Some(scratch.path())).unwrap_err();
            assert!(refused.to_string().contains("not empty"), "{refused}");
            let fresh = Scratch::make(Some(&scratch.path().join("new"))).unwrap();
            assert!(fresh.path().is_dir());
            scratch.path().to_owned()
        };
        assert!(!path.exists());
    }
}
