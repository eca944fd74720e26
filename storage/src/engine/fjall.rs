//! The engine of the feature `fjall`: one fjall database, one keyspace, in a directory.
//!
//! **Owns**: every use of fjall, and the settings under which it is used.
//! **Does not own**: what to do when it fails: its directory is expendable (`store` rebuilds it).
//!
//! What is left after a crash is a prefix of the applied batches, or an error at opening:
//!
//! - A batch is written to fjall's journal under one lock, in one piece with a count and a
//!   checksum, and handed to the operating system (`PersistMode::Buffer`) before it is readable. A
//!   killed process leaves a prefix of the journal's bytes; an unfinished batch is cut off.
//! - The journal is not synced a batch: no acknowledgement waits for it. After a loss of power
//!   pages may be missing from it, and read as zeros: where a batch should begin or go on, the
//!   journal ends there; inside a value, the batch's checksum fails and opening does too.
//! - Tables are never ahead of the journal: fjall syncs it before it writes a memtable, and before
//!   it begins the next journal file. Tables and the list of them are synced, the list is replaced
//!   by a rename, and a journal file goes only when tables have all of it.
//!
//! Not covered is a bit that rots in a journal file: at a tag it looks like a torn end. Such a file
//! lives until its memtable is a table, and our own journal is not concerned.
//!
//! The keyspace keeps the settings that it was made with.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::io::{self, ErrorKind};
use std::ops::Bound;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};

use ::fjall::config::{
    BlockSizePolicy, BloomConstructionPolicy, CompressionPolicy, FilterPolicy, FilterPolicyEntry,
    PartitioningPolicy, PinningPolicy,
};
use bytes::Bytes;

use super::error::EngineError;
use super::rows::{Direction, Engine, RowChange, TAG_ENGINE, check_row, is_empty_range};

/// The one keyspace.
const KEYSPACE: &str = "rows";

/// A memtable: about what one flush of ours writes. There may be five of them when rows come in
/// faster than tables are made (fjall then makes the writer wait): 160 MiB. Twice as much is twice
/// that, and tables of twice the size in the first level.
///
/// The writer seals it itself. fjall would leave that to its worker, and while that merges tables
/// the memtable grows without a bound: 5 GiB in a load of 20,000,000 writes.
const MEMTABLE_BYTES: u64 = 32 << 20;

/// What a row takes in a memtable beside its bytes: two handles of bytes, a number, a node.
const ROW_OVERHEAD_BYTES: usize = 96;

/// fjall's journal files together, above which it makes tables only to be rid of them. It begins a
/// new one at 64 MB, so this is the present one and the one before. Twice as much is replayed for
/// twice as long.
const JOURNAL_BYTES_MAX: u64 = 128 << 20;

/// Threads that make and merge tables: one core of two. While one of two threads merges, the other
/// one spins: in a load of 8,000,000 writes two did 64,000 overwrites a second, one 109,000.
const WORKERS: usize = 1;

/// Tables kept open: 16 GiB, as a table is 64 MiB. Twice as many are twice the open files.
const OPEN_TABLES_MAX: usize = 256;

/// A block of rows, which is what a read brings in. At twice the size the cache holds half as many
/// places, and a cold read takes longer.
const BLOCK_BYTES: u32 = 4096;

/// Bits for each row in the filters by which a table is passed over: 1 read of 100 asks it in
/// vain. Twice as many are twice the filters, for 1 of 10,000.
const FILTER_BITS: f32 = 10.0;

/// Merges for each memtable that was written: as many as move two tables of 64 MiB down. Twice as
/// many find nothing to do.
const TIDY_PER_MEMTABLE: u64 = 2;

/// And besides: as many as tables are needed in the first level before they are merged. They are
/// all there are once nothing is left, so that what is written now and then costs no merge at all.
const TIDY_STEPS: u64 = 5;

/// The longest debt, in merges: 2 GiB of a load. More is merged with what is written next.
const TIDY_STEPS_MAX: u64 = 64;

/// Of no row that anybody wrote: what is written where there is nothing to write.
const TIDY_ROW: &[u8] = &[TAG_ENGINE, b't'];

/// Values below this are copied out of their block: whoever kept a small one would keep 4 KiB.
const SHARED_BYTES_MIN: usize = 1024;

/// What `st_blocks` counts in, whatever the file system's own blocks are.
const SECTOR_BYTES: u64 = 512;

/// Rows in a fjall database.
pub struct FjallEngine {
    path: PathBuf,
    /// `None` once closed. Calls keep it locked, so that closing waits for them.
    open: RwLock<Option<Open>>,
}

struct Open {
    rows: ::fjall::Keyspace,
    database: ::fjall::Database,
    /// Bytes in the memtable that is written to, since this was opened.
    unsealed_bytes: AtomicU64,
    debt: Mutex<Debt>,
}

/// What merges are behind with.
#[derive(Debug, Default)]
struct Debt {
    /// Bytes written that no merges are owed for yet.
    written_bytes: u64,
    /// Merges that are.
    steps: u64,
}

impl std::fmt::Debug for FjallEngine {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("FjallEngine")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl FjallEngine {
    /// Opens or creates the database in a directory of the real file system.
    ///
    /// # Errors
    /// [`EngineError`]; the caller quarantines the directory and rebuilds, unless another process
    /// holds it, which the store's own lock excludes.
    pub fn open(path: &Path, cache_bytes: u64) -> Result<Self, EngineError> {
        let open = guarded("open", || {
            let database = ::fjall::Database::builder(path)
                .cache_size(cache_bytes)
                .max_cached_files(Some(OPEN_TABLES_MAX))
                .max_journaling_size(JOURNAL_BYTES_MAX)
                .worker_threads(WORKERS)
                .open()?;
            let rows = database.keyspace(KEYSPACE, settings)?;
            Ok(Open {
                rows,
                database,
                unsealed_bytes: AtomicU64::new(0),
                debt: Mutex::default(),
            })
        })?;
        Ok(Self {
            path: path.to_owned(),
            open: RwLock::new(Some(open)),
        })
    }

    fn with<T>(
        &self,
        what: &'static str,
        call: impl FnOnce(&Open) -> ::fjall::Result<T>,
    ) -> Result<T, EngineError> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let open = open.as_ref().ok_or(EngineError::Closed)?;
        guarded(what, || call(open))
    }
}

impl Open {
    fn owe(&self, bytes: u64) {
        let mut debt = self.debt.lock().unwrap_or_else(PoisonError::into_inner);
        debt.written_bytes += bytes;
        let memtables = debt.written_bytes / MEMTABLE_BYTES;
        if memtables > 0 {
            debt.written_bytes %= MEMTABLE_BYTES;
            let steps = debt.steps.max(TIDY_STEPS) + TIDY_PER_MEMTABLE * memtables;
            debt.steps = steps.min(TIDY_STEPS_MAX);
        }
    }

    /// Whether another merge is owed, which it then no longer is.
    fn take_step(&self) -> bool {
        let mut debt = self.debt.lock().unwrap_or_else(PoisonError::into_inner);
        let is_owed = debt.steps > 0;
        debt.steps = debt.steps.saturating_sub(1);
        is_owed
    }
}

/// How the keyspace is laid out. Values are not compressed: a codec more in every build, for values
/// that often are already.
fn settings() -> ::fjall::KeyspaceCreateOptions {
    let filter = FilterPolicyEntry::Bloom(BloomConstructionPolicy::BitsPerKey(FILTER_BITS));
    ::fjall::KeyspaceCreateOptions::default()
        // What was replayed at opening is not counted by us, and sealed by fjall.
        .max_memtable_size(2 * MEMTABLE_BYTES)
        .data_block_size_policy(BlockSizePolicy::all(BLOCK_BYTES))
        .data_block_compression_policy(CompressionPolicy::disabled())
        .filter_policy(FilterPolicy::all(filter))
        // In the first level all of it is in memory, some MiB; below, pieces of the size of a block
        // are cached as they are used, so that the cache's size bounds them.
        .filter_block_partitioning_policy(PartitioningPolicy::new([false, true]))
        .index_block_partitioning_policy(PartitioningPolicy::new([false, true]))
        .filter_block_pinning_policy(PinningPolicy::new([true, false]))
        .index_block_pinning_policy(PinningPolicy::new([true, false]))
}

impl Engine for FjallEngine {
    fn get(&self, row: &[u8]) -> Result<Option<Bytes>, EngineError> {
        check_row(row);
        let value = self.with("get", |open| open.rows.get(row))?;
        Ok(value.map(unshared))
    }

    fn apply(&self, batch: Vec<RowChange>) -> Result<(), EngineError> {
        batch.iter().for_each(|change| check_row(change.row()));
        let changes = last_of_each_row(batch);
        let row_bytes = |change: &RowChange| change.bytes() + ROW_OVERHEAD_BYTES;
        let bytes = changes.iter().map(row_bytes).sum::<usize>() as u64;
        self.with("apply", |open| {
            let mut batch =
                ::fjall::OwnedWriteBatch::with_capacity(open.database.clone(), changes.len())
                    .durability(Some(::fjall::PersistMode::Buffer));
            for change in changes {
                match change {
                    RowChange::Set { row, value } => batch.insert(&open.rows, row, value),
                    RowChange::Remove { row } => batch.remove(&open.rows, row),
                }
            }
            batch.commit()?;
            open.owe(bytes);
            if open.unsealed_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes >= MEMTABLE_BYTES {
                open.unsealed_bytes.store(0, Ordering::Relaxed);
                open.rows.rotate_memtable()?;
            }
            Ok(())
        })
    }

    fn scan(
        &self,
        from: Bound<&[u8]>,
        upto: Bound<&[u8]>,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
        if is_empty_range(from, upto) {
            return Ok(Vec::new());
        }
        self.with("scan", |open| {
            let mut range = open.rows.range::<&[u8], _>((from, upto));
            let mut rows = Vec::new();
            while rows.len() < limit {
                let next = match direction {
                    Direction::Forward => range.next(),
                    Direction::Backward => range.next_back(),
                };
                let Some(found) = next else { break };
                let (row, value) = found.into_inner()?;
                rows.push((row.into(), unshared(value)));
            }
            Ok(rows)
        })
    }

    /// Once a flush: a loss of power then costs the replay of one flush, not of all since the last
    /// table.
    fn sync(&self) -> Result<(), EngineError> {
        self.with("sync", |open| {
            open.database.persist(::fjall::PersistMode::SyncData)
        })
    }

    /// Begins one merge. fjall does for each table that it is given and not otherwise, so that
    /// after a load it stays behind: with a fifth more on the disk, and more tables to read.
    fn tidy(&self) -> Result<(), EngineError> {
        self.with("tidy", |open| {
            // Nothing is waited for: a worker that has died never comes to an end.
            let is_busy = open.rows.sealed_memtable_count() > 0
                || open.database.active_compactions() > 0
                || open.database.outstanding_flushes() > 0;
            if is_busy || !open.take_step() {
                return Ok(());
            }
            open.rows.remove(TIDY_ROW)?;
            open.unsealed_bytes.store(0, Ordering::Relaxed);
            open.rows.rotate_memtable().map(drop)
        })
    }

    /// What is taken, not the files' lengths: a journal file is 64 MiB of mostly nothing at first.
    fn bytes_on_disk(&self) -> u64 {
        bytes_below(&self.path)
    }

    fn close(&self) {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        let closed = guarded("close", || {
            drop(open.take());
            Ok(())
        });
        if let Err(error) = closed {
            tracing::warn!(%error, "engine closed with an error");
        }
    }

    fn name(&self) -> &'static str {
        "fjall"
    }
}

/// The batch without changes that a later one undoes: all rows of a batch get one version in fjall.
fn last_of_each_row(batch: Vec<RowChange>) -> Vec<RowChange> {
    if batch.is_sorted_by(|change, next| change.row() < next.row()) {
        return batch;
    }
    let by_row = batch
        .into_iter()
        .map(|change| (change.row().clone(), change));
    let last: BTreeMap<Bytes, RowChange> = by_row.collect();
    last.into_values().collect()
}

fn unshared(value: ::fjall::Slice) -> Bytes {
    if value.len() < SHARED_BYTES_MIN {
        Bytes::copy_from_slice(&value)
    } else {
        value.into()
    }
}

/// What a directory takes, as far as it can be read: files come and go meanwhile.
fn bytes_below(path: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else {
        return 0;
    };
    let bytes_of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        Ok(metadata) => metadata.blocks() * SECTOR_BYTES,
        Err(_) => 0,
    };
    entries.flatten().map(bytes_of).sum()
}

fn guarded<T>(
    what: &'static str,
    call: impl FnOnce() -> ::fjall::Result<T>,
) -> Result<T, EngineError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(answer) => answer.map_err(|error| translated(what, &error)),
        Err(panic) => Err(EngineError::panicked(what, &*panic)),
    }
}

fn translated(what: &'static str, error: &::fjall::Error) -> EngineError {
    let detail = error.to_string();
    if matches!(error, ::fjall::Error::Locked) {
        let source = io::Error::new(ErrorKind::WouldBlock, detail);
        return EngineError::Io { what, source };
    }
    if matches!(error, ::fjall::Error::Poisoned) {
        // An earlier write failed or a thread panicked: nothing is written until it is reopened.
        let source = io::Error::other(detail);
        return EngineError::Io { what, source };
    }
    match kind_of_cause(error) {
        // Files that are not there, are there already, or end too early are damage.
        None
        | Some(ErrorKind::NotFound)
        | Some(ErrorKind::AlreadyExists)
        | Some(ErrorKind::UnexpectedEof)
        | Some(ErrorKind::InvalidData)
        | Some(ErrorKind::InvalidInput) => EngineError::Corrupt { what, detail },
        Some(kind) => {
            let source = io::Error::new(kind, detail);
            EngineError::Io { what, source }
        }
    }
}

/// What the operating system said, if it is to blame.
fn kind_of_cause(error: &::fjall::Error) -> Option<ErrorKind> {
    let mut cause = error.source();
    while let Some(found) = cause {
        if let Some(found) = found.downcast_ref::<io::Error>() {
            return Some(found.kind());
        }
        cause = found.source();
    }
    None
}

#[cfg(test)]
#[path = "fjall_tests.rs"]
mod tests;
