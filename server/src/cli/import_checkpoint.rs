//! How far an import has come, beside the file it reads.
//!
//! **Owns**: the identity of a file, the ids of its rows, which of them are done, on disk.
//! **Does not own**: reading rows (`import_rows`), sending them (`import`).
//!
//! The id of a row's write follows from the file, the target and the row's number. So a row that is
//! sent again, after a crash even, is done once as long as its home remembers the id (15 minutes),
//! and sets the same value again after that.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::Context;
use domicile_proto::hash::hash64;
use domicile_proto::{ErrorKind, RequestId};
use serde::{Deserialize, Serialize};

use super::failure::Failure;

/// Of a file, this much at both ends is part of its identity, with length and time of change: more
/// would cost time, and a change in the middle changes the time.
const SAMPLE_BYTES: u64 = 64 << 10;

/// What the file of a checkpoint is written by.
const FORMAT: u32 = 1;

/// Which file an import reads and where to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity(u64);

impl Identity {
    /// Of a file that goes into `keyspace` of `cluster`.
    pub(crate) fn of(path: &Path, cluster: &str, keyspace: &str) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        let changed = metadata
            .modified()?
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let mut sample = Vec::new();
        sample.extend_from_slice(&metadata.len().to_le_bytes());
        sample.extend_from_slice(&changed.as_nanos().to_le_bytes());
        Read::by_ref(&mut file)
            .take(SAMPLE_BYTES)
            .read_to_end(&mut sample)?;
        file.seek(SeekFrom::Start(metadata.len().saturating_sub(SAMPLE_BYTES)))?;
        file.take(SAMPLE_BYTES).read_to_end(&mut sample)?;
        sample.extend_from_slice(cluster.as_bytes());
        sample.push(0);
        sample.extend_from_slice(keyspace.as_bytes());
        Ok(Self(hash64(&sample)))
    }

    /// Of what cannot be read twice: a new one each time.
    pub(crate) fn unique() -> Self {
        Self(domicile_client::next_request_id().get() as u64)
    }

    /// The id under which row `number` is written.
    pub(crate) fn request_id(self, number: u64) -> RequestId {
        let id = u128::from(self.0) << 64 | (u128::from(number) + 1);
        RequestId::new(id).expect("a row's number plus one is not zero")
    }
}

/// Which rows are done: all below a number, and some beyond it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Done {
    upto: u64,
    beyond: BTreeSet<u64>,
}

impl Done {
    pub(crate) fn starting_at(upto: u64) -> Self {
        Self {
            upto,
            beyond: BTreeSet::new(),
        }
    }

    /// All rows below this one are done.
    pub(crate) fn upto(&self) -> u64 {
        self.upto
    }

    pub(crate) fn insert(&mut self, number: u64) {
        assert!(
            number >= self.upto,
            "row {number} is done twice, all below {} were",
            self.upto
        );
        self.beyond.insert(number);
        while self.beyond.remove(&self.upto) {
            self.upto += 1;
        }
    }
}

/// The file that says how far an import has come.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    path: PathBuf,
    identity: Identity,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    format: u32,
    identity: String,
    rows_done: u64,
}

impl Checkpoint {
    pub(crate) fn beside(file: &Path, identity: Identity) -> Self {
        let mut name = file.as_os_str().to_owned();
        name.push(".domicile-import");
        Self {
            path: name.into(),
            identity,
        }
    }

    /// The rows done before; 0 without a checkpoint.
    pub(crate) fn load(&self) -> anyhow::Result<u64> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(error).with_context(|| self.path.display().to_string()),
        };
        let refuse = |why: String| {
            let path = self.path.display();
            let message = format!("{path}: {why}; --restart begins anew");
            Err(Failure::new(ErrorKind::Invalid, message).into())
        };
        match serde_json::from_slice::<Kept>(&text) {
            Err(error) => refuse(format!("unreadable checkpoint: {error}")),
            Ok(kept) if kept.format != FORMAT => refuse(format!(
                "checkpoint of format {}, expected {FORMAT}",
                kept.format
            )),
            Ok(kept) if kept.identity != self.name() => {
                refuse("checkpoint of another file, keyspace or cluster".to_owned())
            }
            Ok(kept) => Ok(kept.rows_done),
        }
    }

    /// Replaces the checkpoint as a whole.
    pub(crate) fn save(&self, rows_done: u64) -> anyhow::Result<()> {
        let kept = Kept {
            format: FORMAT,
            identity: self.name(),
            rows_done,
        };
        let mut fresh = self.path.clone().into_os_string();
        fresh.push(".new");
        let write = || {
            let mut file = File::create(&fresh)?;
            file.write_all(&serde_json::to_vec(&kept).map_err(io::Error::from)?)?;
            file.sync_data()?;
            fs::rename(&fresh, &self.path)
        };
        write().with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Forgets it: the import is complete, or begins anew.
    pub(crate) fn remove(&self) -> anyhow::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.path.display()))
            }
            _ => Ok(()),
        }
    }

    fn name(&self) -> String {
        format!("{:016x}", self.identity.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_done_in_any_order() {
        let mut done = Done::starting_at(3);
        for (number, upto) in [(5, 3), (4, 3), (3, 6), (7, 6), (6, 8)] {
            done.insert(number);
            assert_eq!(done.upto(), upto, "after {number}");
        }
        assert_eq!(done, Done::starting_at(8));
    }

    #[test]
    fn an_identity_follows_the_file_and_the_target() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows");
        fs::write(&path, "a,1\n").unwrap();
        let of = |cluster, keyspace| Identity::of(&path, cluster, keyspace).unwrap();
        let first = of("shop", "users");
        assert_eq!(first, of("shop", "users"));
        assert_ne!(first, of("shop", "carts"));
        assert_ne!(first, of("sho", "pusers"));
        fs::write(&path, "a,2\n").unwrap();
        assert_ne!(first, of("shop", "users"));
        let ids = [
            first.request_id(0),
            first.request_id(1),
            Identity::unique().request_id(0),
        ];
        assert!(ids[0] != ids[1] && ids[1] != ids[2]);
    }

    #[test]
    fn a_checkpoint_is_its_own_files_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows");
        let checkpoint = Checkpoint::beside(&path, Identity(1));
        assert_eq!(checkpoint.load().unwrap(), 0);
        checkpoint.save(7).unwrap();
        checkpoint.save(9).unwrap();
        assert_eq!(checkpoint.load().unwrap(), 9);
        let other = Checkpoint::beside(&path, Identity(2))
            .load()
            .unwrap_err()
            .to_string();
        assert!(
            other.contains("another file") && other.contains("--restart"),
            "{other}"
        );
        fs::write(dir.path().join("rows.domicile-import"), "{\"rows\":1}").unwrap();
        assert!(
            checkpoint
                .load()
                .unwrap_err()
                .to_string()
                .contains("unreadable")
        );
        checkpoint.remove().unwrap();
        checkpoint.remove().unwrap();
        assert_eq!(checkpoint.load().unwrap(), 0);
    }

    /// What is taken for a checkpoint is one of this import.
    #[test]
    fn fuzz_checkpoints() {
        let dir = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint::beside(&dir.path().join("rows"), Identity(7));
        checkpoint.save(12).unwrap();
        let valid = [fs::read(&checkpoint.path).unwrap()];
        crate::fuzz_tests::attack(&valid, &|bytes| {
            fs::write(&checkpoint.path, bytes).unwrap();
            if let Ok(rows_done) = checkpoint.load() {
                let text = String::from_utf8_lossy(bytes);
                assert!(text.contains(&rows_done.to_string()), "{text}");
                assert!(text.contains(&checkpoint.name()), "{text}");
            }
        });
    }
}
