//! The engine on disk: one sled database, one tree.
//!
//! **Owns**: every use of sled, and the rules under which it is used.
//! **Does not own**: what to do when it fails: its directory is expendable (`store` rebuilds it).
//!
//! The rules: torn snapshots are removed before opening (spacejam/sled#1527); the periodic flush
//! stays on, since garbage is collected there; values above 4 KiB are chunked, since larger nodes
//! go to files that leak; the cache is sized explicitly; no transactions, merge operators,
//! subscribers or generated ids. What panics inside sled comes out as an error. The crate is our
//! copy of 0.34.7 with one deadlock less (docs/decisions/0005).
//!
//! sled applies a batch under a lock that shuts out all readers of the process, so callers keep
//! batches short.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;

use super::chunks::{self, ChunkedValue, Head};
use super::error::EngineError;
use super::rows::{Direction, Engine, RowChange, TAG_ENGINE, check_row, is_empty_range};

/// sled's own flush: its default. At twice the interval twice as much is lost to a kill, which
/// the journal then replays.
const FLUSH_EVERY: Duration = Duration::from_millis(500);

/// Tries to read a chunked value that is being replaced: each failed one means that another batch
/// was applied meanwhile, and a reader that loses this often meets damage, not a race.
const CHUNK_READ_TRIES: usize = 64;

/// Tries to open while the lock of the database's file is held: a closed database gives it up
/// only when its last background job ends. With the pause below: 2 s, after which it is in use.
const OPEN_TRIES: usize = 100;
const OPEN_PAUSE: Duration = Duration::from_millis(20);

/// Rows in a sled database.
pub struct SledEngine {
    /// `None` once closed.
    database: RwLock<Option<::sled::Db>>,
    /// Whether any value was ever chunked. While none was, a write needs no read before it to
    /// find the chunks that it replaces.
    has_chunks: AtomicBool,
    writer: Mutex<()>,
}

impl std::fmt::Debug for SledEngine {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("SledEngine").finish_non_exhaustive()
    }
}

impl SledEngine {
    /// Opens or creates the database in a directory of the real file system.
    ///
    /// # Errors
    /// [`EngineError`]; the caller quarantines the directory and rebuilds, unless another process
    /// holds it, which the store's own lock excludes.
    pub fn open(path: &Path, cache_bytes: u64) -> Result<Self, EngineError> {
        remove_torn_snapshots(path).map_err(|source| EngineError::Io {
            what: "open",
            source,
        })?;
        let config = ::sled::Config::new()
            .path(path)
            .cache_capacity(cache_bytes)
            .flush_every_ms(Some(FLUSH_EVERY.as_millis() as u64));
        let mut tries = 1;
        let database = loop {
            match guarded("open", || config.open()) {
                Err(EngineError::Io { source, .. }) if is_locked(&source) && tries < OPEN_TRIES => {
                    tries += 1;
                    std::thread::sleep(OPEN_PAUSE);
                }
                opened => break opened?,
            }
        };
        let first_chunk = guarded("open", || database.range([TAG_ENGINE]..).next().transpose())?;
        let has_chunks = AtomicBool::new(first_chunk.is_some());
        Ok(Self {
            database: RwLock::new(Some(database)),
            has_chunks,
            writer: Mutex::new(()),
        })
    }

    /// The database; cheap, since sled counts its users.
    fn database(&self) -> Result<::sled::Db, EngineError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        database.clone().ok_or(EngineError::Closed)
    }

    /// How many chunk rows a row has.
    fn chunks_of(&self, row: &[u8]) -> Result<usize, EngineError> {
        let database = self.database()?;
        match guarded("get", || database.get(row))? {
            Some(stored) => Ok(Head::decode(&stored)?.chunks()),
            None => Ok(0),
        }
    }

    /// The physical changes of a batch, orphaned chunks included.
    fn lay_out(&self, changes: &[RowChange]) -> Result<::sled::Batch, EngineError> {
        let mut batch = ::sled::Batch::default();
        // Chunks of rows that this very batch chunked, or found chunked.
        let mut chunked: BTreeMap<&[u8], usize> = BTreeMap::new();
        for change in changes {
            let row = &change.row()[..];
            check_row(row);
            let before = match chunked.get(row) {
                Some(chunks) => *chunks,
                None if self.has_chunks.load(Ordering::Relaxed) => self.chunks_of(row)?,
                None => 0,
            };
            let mut after = 0;
            match change {
                RowChange::Set { value, .. } => {
                    let (stored, pieces) = chunks::encode(value);
                    after = pieces.len();
                    batch.insert(row, stored);
                    for (index, piece) in pieces.enumerate() {
                        batch.insert(&chunks::chunk_row(row, index)[..], piece);
                    }
                }
                RowChange::Remove { .. } => batch.remove(row),
            }
            for index in after..before {
                batch.remove(&chunks::chunk_row(row, index)[..]);
            }
            if before > 0 || after > 0 {
                chunked.insert(row, after);
            }
        }
        if !chunked.is_empty() {
            self.has_chunks.store(true, Ordering::Relaxed);
        }
        Ok(batch)
    }

    /// The value that a row's stored value stands for. `None` if the row is gone by now.
    fn resolve(&self, row: &[u8], stored: ::sled::IVec) -> Result<Option<Bytes>, EngineError> {
        let database = self.database()?;
        let mut stored = stored;
        for _ in 0..CHUNK_READ_TRIES {
            let chunked = match Head::decode(&stored)? {
                Head::Whole(value) => return Ok(Some(Bytes::copy_from_slice(value))),
                Head::Chunked(chunked) => chunked,
            };
            let value = self.join(row, chunked)?;
            if chunked.matches(&value) {
                return Ok(Some(value.into()));
            }
            match guarded("get", || database.get(row))? {
                None => return Ok(None),
                Some(now) if now == stored => break,
                Some(now) => stored = now,
            }
        }
        let detail = format!("chunks of row {row:02x?} do not match its checksum");
        Err(EngineError::Corrupt {
            what: "get",
            detail,
        })
    }

    fn join(&self, row: &[u8], chunked: ChunkedValue) -> Result<Vec<u8>, EngineError> {
        let database = self.database()?;
        let mut value = Vec::new();
        for index in 0..chunked.chunks() {
            let chunk = chunks::chunk_row(row, index);
            match guarded("get", || database.get(&chunk))? {
                Some(piece) => value.extend_from_slice(&piece),
                None => break,
            }
        }
        Ok(value)
    }
}

impl Engine for SledEngine {
    fn get(&self, row: &[u8]) -> Result<Option<Bytes>, EngineError> {
        check_row(row);
        let database = self.database()?;
        match guarded("get", || database.get(row))? {
            Some(stored) => self.resolve(row, stored),
            None => Ok(None),
        }
    }

    fn apply(&self, batch: Vec<RowChange>) -> Result<(), EngineError> {
        // The writer's lock keeps the chunk counts that `lay_out` read true until they are used.
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let batch = self.lay_out(&batch)?;
        let database = self.database()?;
        guarded("apply", || database.apply_batch(batch))
    }

    fn scan(
        &self,
        from: Bound<&[u8]>,
        upto: Bound<&[u8]>,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
        // Chunk rows lie above all others.
        let upto = match upto {
            Bound::Unbounded => Bound::Excluded(&[TAG_ENGINE][..]),
            bounded => bounded,
        };
        if is_empty_range(from, upto) {
            return Ok(Vec::new());
        }
        let database = self.database()?;
        let mut range = database.range::<&[u8], _>((from, upto));
        let mut rows = Vec::new();
        while rows.len() < limit {
            let next = guarded("scan", || match direction {
                Direction::Forward => range.next().transpose(),
                Direction::Backward => range.next_back().transpose(),
            })?;
            let Some((row, stored)) = next else { break };
            if let Some(value) = self.resolve(&row, stored)? {
                rows.push((Bytes::copy_from_slice(&row), value));
            }
        }
        Ok(rows)
    }

    fn sync(&self) -> Result<(), EngineError> {
        let database = self.database()?;
        guarded("sync", || database.flush()).map(|_bytes| ())
    }

    fn bytes_on_disk(&self) -> u64 {
        let Ok(database) = self.database() else {
            return 0;
        };
        guarded("size", || database.size_on_disk()).unwrap_or(0)
    }

    fn close(&self) {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let database = self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(database);
    }

    fn name(&self) -> &'static str {
        "sled"
    }
}

/// Removes snapshots that sled was writing when it was killed: it reads them as whole ones.
fn remove_torn_snapshots(path: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// sled reports a held lock as text only.
fn is_locked(error: &io::Error) -> bool {
    error.to_string().contains("could not acquire lock")
}

fn guarded<T>(
    what: &'static str,
    call: impl FnOnce() -> Result<T, ::sled::Error>,
) -> Result<T, EngineError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(::sled::Error::Io(source))) => Err(EngineError::Io { what, source }),
        Ok(Err(error)) => Err(EngineError::Corrupt {
            what,
            detail: error.to_string(),
        }),
        Err(panic) => Err(EngineError::panicked(what, &*panic)),
    }
}

#[cfg(test)]
#[path = "sled_tests.rs"]
mod tests;
