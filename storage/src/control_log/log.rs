//! An open control log.
//!
//! **Owns**: making and opening one, the order of writing, syncing and telling.
//! **Does not own**: which entries go in (consensus), the threads that wait for the disk.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use domicile_proto::NodeId;

use super::contents::{Contents, OutOfOrder};
use super::entry::{Entry, EntryId, LogIndex, PAYLOAD_BYTES_MAX, Vote};
use super::frame::{ENTRY_HEADER_BYTES, Frame, header};
use super::scan::{Scanned, scan};
use super::snapshot::{SNAPSHOT_FILE, Snapshots};
use super::vote::{self, VOTE_FILE};
use crate::disk::{self, Disk, DiskFile, OpenMode};
use crate::error::StoreError;
use crate::planted::{Bug, is_planted};

/// The log's file in the directory of a control log; where it is, the vote has been, too.
pub const LOG_FILE: &str = "log";
const UNFINISHED_FILE: &str = "log.new";

/// A file is written anew once it has this much and twice what it needs: 1 MiB, some thousand
/// commands. Doubled, an open reads twice as much; halved, purges are felt more often.
const REWRITE_BYTES_MIN: u64 = 1 << 20;

/// Largest file: 256 MiB, a thousand of the largest entries. It is read whole.
const LOG_BYTES_MAX: u64 = 256 << 20;

/// What a node knows of its control log before it opens it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// The node id was minted just now and nobody has heard of it: one that is not there is made.
    New,
    /// The node has been here before: one that is not there is lost.
    Known,
}

/// The control log of one node, open. Methods wait for the disk.
#[derive(Debug)]
pub struct ControlLog {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    node: NodeId,
    file: Arc<dyn DiskFile>,
    /// Bytes of intact frames in the file.
    end: u64,
    contents: Contents,
    vote: Option<Vote>,
    poisoned: Option<Arc<str>>,
}

impl ControlLog {
    /// Opens the control log of `node` in `dir`, a directory of its own. A torn tail is cut.
    ///
    /// Whoever opens with [`Expected::New`] does so before the id is told to anyone, and again if
    /// it died before it noted that the log is made.
    ///
    /// # Errors
    /// [`StoreError::ControlLogMissing`] if it is known and not there: the node must return under a
    /// new id. [`StoreError::ForeignNode`], [`StoreError::UnknownFormat`], and
    /// [`StoreError::Corrupt`] with the place: the node must not vote. What the operating system
    /// says.
    pub fn open(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        node: NodeId,
        expected: Expected,
    ) -> Result<Self, StoreError> {
        let path = dir.join(LOG_FILE);
        if !disk.exists(&path) {
            match expected {
                Expected::New => create(&**disk, dir, node)?,
                Expected::Known => return Err(StoreError::ControlLogMissing { path, node }),
            }
        }
        // So must the name of a vote that it had just replaced.
        let synced = disk.sync_dir(dir);
        synced.map_err(|error| StoreError::io("sync", dir, error))?;
        let vote = vote::read(&**disk, dir, node)?;
        let io = |operation| {
            let path = &path;
            move |error| StoreError::io(operation, path, error)
        };
        let file = disk.open(&path, OpenMode::ReadWrite).map_err(io("open"))?;
        let len = file.len().map_err(io("read"))?;
        if len > LOG_BYTES_MAX {
            let problem = format!("control log too large: {len} bytes, limit {LOG_BYTES_MAX}");
            return Err(StoreError::corrupt(&path, 0, problem));
        }
        let mut bytes = vec![0; len as usize];
        file.read_at(&mut bytes, 0).map_err(io("read"))?;
        let Scanned { contents, end } = scan(&bytes, node, &path)?;
        let end = end as u64;
        if end < len {
            tracing::warn!(path = %path.display(), end, len, "torn tail of the control log cut");
            file.set_len(end).map_err(io("cut"))?;
        }
        // What a process that was killed had written and not synced must be durable before it
        // counts as being here.
        file.sync_all().map_err(io("sync"))?;
        disk.sync_dir(dir)
            .map_err(|error| StoreError::io("sync", dir, error))?;
        Ok(Self {
            disk: Arc::clone(disk),
            dir: dir.to_owned(),
            node,
            file,
            end,
            contents,
            vote,
            poisoned: None,
        })
    }

    /// Whose it is.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The last entry that was purged.
    #[must_use]
    pub fn purged(&self) -> Option<EntryId> {
        self.contents.purged
    }

    /// The last entry: the last one here or, without any, the last one that was purged.
    #[must_use]
    pub fn last(&self) -> Option<EntryId> {
        self.contents.last()
    }

    /// An entry that is known to be committed; later ones may be, too.
    #[must_use]
    pub fn committed(&self) -> Option<EntryId> {
        self.contents.committed
    }

    /// Notes what is committed. It becomes durable with the next entries: it is a hint, and what is
    /// lost of it the leader tells again.
    pub fn note_committed(&mut self, committed: Option<EntryId>) {
        self.contents.committed = committed;
    }

    /// The entries of a range that are here, as many as have at most `bytes_max` bytes of payload,
    /// and one at least if there is any.
    #[must_use]
    pub fn read(&self, range: Range<LogIndex>, bytes_max: usize) -> Vec<Entry> {
        self.contents.read(range, bytes_max)
    }

    /// The vote.
    #[must_use]
    pub fn vote(&self) -> Option<Vote> {
        self.vote
    }

    /// The snapshot beside the log.
    #[must_use]
    pub fn snapshots(&self) -> Snapshots {
        Snapshots {
            disk: Arc::clone(&self.disk),
            dir: self.dir.clone(),
            node: self.node,
        }
    }

    /// Replaces the vote: durable when this returns.
    ///
    /// # Errors
    /// What the operating system says; the log is then poisoned, as nobody knows which vote holds.
    pub fn save_vote(&mut self, vote: Vote) -> Result<(), StoreError> {
        self.check_healthy()?;
        if self.vote == Some(vote) {
            return Ok(());
        }
        let written = vote::write(&*self.disk, &self.dir, self.node, Some(vote));
        self.note_failure(&written);
        written?;
        self.vote = Some(vote);
        Ok(())
    }

    /// Appends entries: durable when this returns. Those that were purged are covered by a snapshot
    /// and not kept.
    ///
    /// # Errors
    /// [`StoreError::ControlLogOrder`] for entries that do not follow, and
    /// [`StoreError::ControlTooLarge`]: nothing is appended. What the operating system says: the
    /// log is then poisoned.
    pub fn append(&mut self, mut entries: Vec<Entry>) -> Result<(), StoreError> {
        self.check_healthy()?;
        entries.retain(|entry| {
            self.purged()
                .is_none_or(|purged| entry.id.index > purged.index)
        });
        self.contents.check_append(&entries).map_err(out_of_order)?;
        let payloads = entries.iter().map(|entry| entry.payload.len());
        if let Some(actual) = payloads.clone().find(|len| *len > PAYLOAD_BYTES_MAX) {
            return Err(StoreError::ControlTooLarge {
                what: "entry of the control log",
                actual,
                limit: PAYLOAD_BYTES_MAX,
            });
        }
        let added = payloads
            .map(|len| (len + ENTRY_HEADER_BYTES) as u64)
            .sum::<u64>();
        if self.end + added > LOG_BYTES_MAX {
            self.rewrite()?;
        }
        if self.end + added > LOG_BYTES_MAX {
            return Err(StoreError::ControlTooLarge {
                what: "control log",
                actual: (self.end + added) as usize,
                limit: LOG_BYTES_MAX as usize,
            });
        }
        if entries.is_empty() {
            return Ok(());
        }
        let committed = self.contents.committed;
        let frame = Frame::Append { committed, entries };
        self.write(&frame)?;
        if let Frame::Append { entries, .. } = frame {
            self.contents.append(entries);
        }
        Ok(())
    }

    /// Drops the entries from `from` on, which were never committed: durable when this returns.
    ///
    /// # Errors
    /// [`StoreError::ControlLogOrder`] below what was purged; what the operating system says: the
    /// log is then poisoned.
    pub fn truncate(&mut self, from: LogIndex) -> Result<(), StoreError> {
        self.check_healthy()?;
        self.contents.check_truncate(from).map_err(out_of_order)?;
        if self.last().is_none_or(|last| last.index < from) {
            return Ok(());
        }
        self.write(&Frame::Truncate { from })?;
        self.contents.truncate(from);
        Ok(())
    }

    /// Drops the entries up to and including `upto`, which a durable snapshot covers; it may lie
    /// beyond the last one. Durable when this returns.
    ///
    /// # Errors
    /// What the operating system says: the log is then poisoned.
    pub fn purge(&mut self, upto: EntryId) -> Result<(), StoreError> {
        self.check_healthy()?;
        if self
            .purged()
            .is_some_and(|purged| purged.index >= upto.index)
        {
            return Ok(());
        }
        self.write(&Frame::Purge { upto })?;
        self.contents.purge(upto);
        let needed: usize = self
            .contents
            .entries
            .iter()
            .map(|entry| entry.payload.len() + ENTRY_HEADER_BYTES)
            .sum();
        if self.end >= REWRITE_BYTES_MIN && self.end >= 2 * needed as u64 {
            self.rewrite()?;
        }
        Ok(())
    }

    fn write(&mut self, frame: &Frame) -> Result<(), StoreError> {
        let bytes = frame.encode(self.end);
        let written = self.file.write_at(&bytes, self.end);
        let synced = written.and_then(|()| {
            if is_planted(Bug::SkipEntrySync) {
                return Ok(());
            }
            self.file.sync_data()
        });
        let synced = match synced {
            Err(_) if is_planted(Bug::AckEntryBeforeSync) => Ok(()),
            synced => synced,
        };
        let synced = synced.map_err(|error| StoreError::io("write", &self.path(), error));
        self.note_failure(&synced);
        synced?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    /// Writes the file anew, without what was dropped.
    fn rewrite(&mut self) -> Result<(), StoreError> {
        let rewritten = self.rewrite_file();
        self.note_failure(&rewritten);
        rewritten
    }

    fn rewrite_file(&mut self) -> Result<(), StoreError> {
        let path = self.path();
        let io = |operation| {
            let path = &path;
            move |error| StoreError::io(operation, path, error)
        };
        let mut bytes = header(self.node);
        let purge = self.contents.purged.map(|upto| Frame::Purge { upto });
        let entries: Vec<Entry> = self.contents.entries.iter().cloned().collect();
        let committed = self.contents.committed;
        let append = (!entries.is_empty()).then_some(Frame::Append { committed, entries });
        for frame in purge.into_iter().chain(append) {
            bytes.extend(frame.encode(bytes.len() as u64));
        }
        disk::replace(&*self.disk, &self.dir, LOG_FILE, UNFINISHED_FILE, &bytes)
            .map_err(io("rewrite"))?;
        self.file = self
            .disk
            .open(&path, OpenMode::ReadWrite)
            .map_err(io("open"))?;
        self.end = bytes.len() as u64;
        Ok(())
    }

    fn path(&self) -> PathBuf {
        self.dir.join(LOG_FILE)
    }

    fn check_healthy(&self) -> Result<(), StoreError> {
        match &self.poisoned {
            Some(cause) => Err(StoreError::Poisoned {
                cause: Arc::clone(cause),
            }),
            None => Ok(()),
        }
    }

    fn note_failure<T>(&mut self, result: &Result<T, StoreError>) {
        if let Err(error) = result {
            self.poisoned
                .get_or_insert_with(|| error.to_string().into());
        }
    }
}

/// Makes the directory, the vote for nobody and then the log, whose presence says that all is made.
fn create(disk: &dyn Disk, dir: &Path, node: NodeId) -> Result<(), StoreError> {
    let io = |operation, path: PathBuf| move |error| StoreError::io(operation, &path, error);
    disk.create_dir_all(dir)
        .map_err(io("create", dir.to_owned()))?;
    if let Some(above) = dir.parent() {
        disk.sync_dir(above).map_err(io("sync", above.to_owned()))?;
    }
    let names = disk.list(dir).map_err(io("list", dir.to_owned()))?;
    if let Some(found) = names.iter().find(|name| *name == SNAPSHOT_FILE) {
        // There was a log once.
        return Err(StoreError::NotAStore {
            path: dir.to_owned(),
            found: found.clone(),
        });
    }
    if names.iter().any(|name| name == VOTE_FILE) && vote::read(disk, dir, node)?.is_some() {
        let path = dir.join(LOG_FILE);
        return Err(StoreError::ControlLogMissing { path, node });
    }
    vote::write(disk, dir, node, None)?;
    disk::replace(disk, dir, LOG_FILE, UNFINISHED_FILE, &header(node))
        .map_err(io("create", dir.join(LOG_FILE)))
}

fn out_of_order(OutOfOrder { expected, actual }: OutOfOrder) -> StoreError {
    StoreError::ControlLogOrder { expected, actual }
}
