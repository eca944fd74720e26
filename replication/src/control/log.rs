//! The control log as openraft wants it.
//!
//! **Owns**: keeping the disk's waits off the async threads.
//! **Does not own**: the log itself (storage), the bytes of its payloads (wire).

use std::fmt::Debug;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::{Arc, Mutex, PoisonError};

use domicile_storage::StoreError;
use domicile_storage::control_log::{ControlLog, Entry as StoredEntry, LogIndex};
use openraft::storage::{LogFlushed, LogState, RaftLogStorage};
use openraft::{AnyError, RaftLogReader, StorageIOError};

use super::error::ControlError;
use super::raft::{
    Entry, LogId, StorageError, TypeConfig, Vote, entry_id, log_id, stored_vote, vote,
};
use super::wire::{put_payload, take_payload};

/// Bytes of payloads that are read to be sent in one message: a megabyte, a quarter of the largest
/// message. Doubled, a heartbeat waits twice as long behind them on a slow link.
const READ_BYTES_MAX: usize = 1 << 20;

/// A shared control log.
#[derive(Debug, Clone)]
pub(super) struct DurableLog(Arc<Mutex<ControlLog>>);

impl DurableLog {
    pub(super) fn new(log: ControlLog) -> Self {
        Self(Arc::new(Mutex::new(log)))
    }

    /// Runs on a thread that may wait.
    async fn with<T: Send + 'static>(
        &self,
        run: impl FnOnce(&mut ControlLog) -> Result<T, ControlError> + Send + 'static,
    ) -> Result<T, AnyError> {
        let log = Arc::clone(&self.0);
        let ran = tokio::task::spawn_blocking(move || {
            run(&mut log.lock().unwrap_or_else(PoisonError::into_inner))
        });
        let ran = ran.await.map_err(|error| AnyError::new(&error))?;
        ran.map_err(|error| AnyError::error(error.to_string()))
    }

    async fn entries(
        &self,
        range: Range<LogIndex>,
        bytes_max: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        let read = self.with(move |log| {
            let found = log.read(range, bytes_max).into_iter();
            found
                .map(|entry| decoded(&entry))
                .collect::<Result<Vec<_>, _>>()
        });
        read.await
            .map_err(|error| StorageIOError::read_logs(error).into())
    }
}

fn decoded(entry: &StoredEntry) -> Result<Entry, ControlError> {
    Ok(Entry {
        log_id: log_id(entry.id),
        payload: take_payload(&entry.payload)?,
    })
}

fn encoded(entry: &Entry) -> StoredEntry {
    StoredEntry {
        id: entry_id(&entry.log_id),
        payload: put_payload(&entry.payload),
    }
}

/// A range of indices with both ends, the first included and the last not.
fn half_open(range: &impl RangeBounds<u64>) -> Range<LogIndex> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    LogIndex::new(start)..LogIndex::new(end)
}

impl RaftLogReader<TypeConfig> for DurableLog {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        self.entries(half_open(&range), usize::MAX).await
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, StorageError> {
        self.entries(half_open(&(start..end)), READ_BYTES_MAX).await
    }
}

impl RaftLogStorage<TypeConfig> for DurableLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let state = self.with(|log| {
            Ok(LogState {
                last_purged_log_id: log.purged().map(log_id),
                last_log_id: log.last().map(log_id),
            })
        });
        state
            .await
            .map_err(|error| StorageIOError::read_logs(error).into())
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let vote = stored_vote(vote);
        let saved = self.with(move |log| Ok(log.save_vote(vote)?));
        saved
            .await
            .map_err(|error| StorageIOError::write_vote(error).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        let read = self.with(|log| Ok(log.vote().map(vote)));
        read.await
            .map_err(|error| StorageIOError::read_vote(error).into())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        let committed = committed.as_ref().map(entry_id);
        let noted = self.with(move |log| {
            log.note_committed(committed);
            Ok(())
        });
        noted
            .await
            .map_err(|error| StorageIOError::write(error).into())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        let read = self.with(|log| Ok(log.committed().map(log_id)));
        read.await
            .map_err(|error| StorageIOError::read(error).into())
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<TypeConfig>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let entries: Vec<StoredEntry> = entries.into_iter().map(|entry| encoded(&entry)).collect();
        let appended = self.with(move |log| Ok(log.append(entries)?)).await;
        appended.map_err(|error| StorageError::from(StorageIOError::write_logs(error)))?;
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, since: LogId) -> Result<(), StorageError> {
        let truncated = self.with(move |log| Ok(log.truncate(LogIndex::new(since.index))?));
        truncated
            .await
            .map_err(|error| StorageIOError::write_logs(error).into())
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), StorageError> {
        let purged = self.with(move |log| Ok(log.purge(entry_id(&upto))?));
        purged
            .await
            .map_err(|error| StorageIOError::write_logs(error).into())
    }
}

/// Whether the log needs more than its snapshot holds; somebody took the snapshot away.
///
/// # Errors
/// [`ControlError::Settings`] with both places.
pub(super) fn check_covered(log: &ControlLog, snapshot: Option<LogId>) -> Result<(), ControlError> {
    let purged = log.purged().map(log_id);
    if purged > snapshot {
        let problem =
            format!("the control log begins behind {purged:?}, its snapshot ends at {snapshot:?}");
        return Err(ControlError::Store(StoreError::Corrupt {
            path: log.snapshots().path(),
            offset: 0,
            problem,
        }));
    }
    Ok(())
}
