//! The machine and its snapshots as openraft wants them.
//!
//! **Owns**: what was applied and among which members, the order of snapshots.
//! **Does not own**: what commands mean (machine), files (storage).

use std::hash::{BuildHasher, RandomState};
use std::io::Cursor;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use domicile_storage::control_log::{ControlSnapshot, LogIndex, Snapshots, Term};
use openraft::storage::RaftStateMachine;
use openraft::{AnyError, RaftSnapshotBuilder, StorageIOError};
use tokio::sync::watch;

use super::error::ControlError;
use super::machine::Machine;
use super::raft::{
    Entry, LogId, Payload, Snapshot, SnapshotMeta, StorageError, StoredMembership, TypeConfig,
};
use super::wire::{decode_head, encode_head};

/// How far the commands are applied here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Applied {
    /// Entries applied, blank ones and changes of members too: the version of the machine's state.
    /// Only grows while a node runs.
    pub version: u64,
    /// The term of the last of them.
    pub term: Term,
}

impl Applied {
    fn of(last: Option<LogId>) -> Self {
        let Some(last) = last else {
            return Self::default();
        };
        Self {
            version: LogIndex::new(last.index).next().get(),
            term: Term::new(last.leader_id.term),
        }
    }
}

/// The machine and where it is in the log.
#[derive(Debug)]
struct Positioned<M> {
    machine: M,
    last: Option<LogId>,
    membership: StoredMembership,
}

/// The machine, shared by openraft, snapshots and readers; clones are the same one.
#[derive(Debug)]
pub(super) struct State<M> {
    positioned: Arc<Mutex<Positioned<M>>>,
    applied: Arc<watch::Sender<Applied>>,
    file: SnapshotFile,
}

impl<M> Clone for State<M> {
    fn clone(&self) -> Self {
        Self {
            positioned: Arc::clone(&self.positioned),
            applied: Arc::clone(&self.applied),
            file: self.file.clone(),
        }
    }
}

impl<M: Machine> State<M> {
    /// The machine as the last snapshot left it. Waits for the disk.
    ///
    /// # Errors
    /// [`ControlError::Store`] and [`ControlError::Malformed`]: the node must not vote.
    pub(super) fn open(snapshots: Snapshots, mut machine: M) -> Result<Self, ControlError> {
        let (mut last, mut membership) = (None, StoredMembership::default());
        if let Some(snapshot) = snapshots.read()? {
            let meta = decode_head(&snapshot.head)?;
            machine
                .restore(&snapshot.state)
                .map_err(ControlError::malformed)?;
            (last, membership) = (meta.last_log_id, meta.last_membership);
        }
        let positioned = Positioned {
            machine,
            last,
            membership,
        };
        Ok(Self {
            positioned: Arc::new(Mutex::new(positioned)),
            applied: Arc::new(watch::Sender::new(Applied::of(last))),
            file: SnapshotFile {
                snapshots,
                newest: Arc::new(Mutex::new(last)),
            },
        })
    }

    /// The last entry applied.
    pub(super) fn last(&self) -> Option<LogId> {
        self.positioned().last
    }

    pub(super) fn applied(&self) -> watch::Receiver<Applied> {
        self.applied.subscribe()
    }

    /// Looks at the machine; nothing is applied meanwhile.
    pub(super) fn read<T>(&self, look: impl FnOnce(&M) -> T) -> T {
        look(&self.positioned().machine)
    }

    fn positioned(&self) -> MutexGuard<'_, Positioned<M>> {
        self.positioned
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one file of snapshots: an older one never replaces a newer one.
#[derive(Debug, Clone)]
struct SnapshotFile {
    snapshots: Snapshots,
    newest: Arc<Mutex<Option<LogId>>>,
}

impl SnapshotFile {
    async fn write(&self, meta: &SnapshotMeta, state: Bytes) -> Result<(), AnyError> {
        let (this, last) = (self.clone(), meta.last_log_id);
        let head = encode_head(meta);
        let written = tokio::task::spawn_blocking(move || {
            let mut newest = this.newest.lock().unwrap_or_else(PoisonError::into_inner);
            if *newest > last {
                return Ok(());
            }
            this.snapshots.write(&ControlSnapshot { head, state })?;
            *newest = last;
            Ok::<(), domicile_storage::StoreError>(())
        });
        let written = written.await.map_err(|error| AnyError::new(&error))?;
        written.map_err(|error| AnyError::new(&error))
    }

    async fn read(&self) -> Result<Option<Snapshot>, AnyError> {
        let snapshots = self.snapshots.clone();
        let read = tokio::task::spawn_blocking(move || snapshots.read()).await;
        let read = read.map_err(|error| AnyError::new(&error))?;
        let Some(snapshot) = read.map_err(|error| AnyError::new(&error))? else {
            return Ok(None);
        };
        let meta = decode_head(&snapshot.head).map_err(|error| AnyError::new(&error))?;
        Ok(Some(sendable(meta, &snapshot.state)))
    }
}

fn sendable(meta: SnapshotMeta, state: &[u8]) -> Snapshot {
    let snapshot = Box::new(Cursor::new(state.to_vec()));
    Snapshot { meta, snapshot }
}

impl<M: Machine> RaftSnapshotBuilder<TypeConfig> for State<M> {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let (meta, state) = {
            let positioned = self.positioned();
            let place = positioned
                .last
                .map_or_else(String::new, |last| last.to_string());
            // Two snapshots of one place may differ in bytes: a transfer must not mix them.
            let nonce = RandomState::new().hash_one(&place);
            let meta = SnapshotMeta {
                last_log_id: positioned.last,
                last_membership: positioned.membership.clone(),
                snapshot_id: format!("{place}-{nonce:016x}"),
            };
            (meta, Bytes::from(positioned.machine.snapshot()))
        };
        let written = self.file.write(&meta, state.clone()).await;
        written.map_err(|error| StorageIOError::write_snapshot(None, error))?;
        Ok(sendable(meta, &state))
    }
}

impl<M: Machine> RaftStateMachine<TypeConfig> for State<M> {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        let positioned = self.positioned();
        Ok((positioned.last, positioned.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Bytes>, StorageError>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let (answers, last) = {
            let mut positioned = self.positioned();
            let mut answers = Vec::new();
            for entry in entries {
                positioned.last = Some(entry.log_id);
                answers.push(match entry.payload {
                    Payload::Blank => Bytes::new(),
                    Payload::Normal(command) => positioned.machine.apply(&command).into(),
                    Payload::Membership(membership) => {
                        positioned.membership =
                            StoredMembership::new(Some(entry.log_id), membership);
                        Bytes::new()
                    }
                });
            }
            (answers, positioned.last)
        };
        self.applied.send_replace(Applied::of(last));
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let state = Bytes::from(snapshot.into_inner());
        // Durable before it counts: openraft purges the log that it replaces.
        let written = self.file.write(meta, state.clone()).await;
        written.map_err(|error| StorageIOError::write_snapshot(Some(meta.signature()), error))?;
        {
            let mut positioned = self.positioned();
            let restored = positioned.machine.restore(&state);
            restored.map_err(|problem| {
                let problem = AnyError::error(problem);
                StorageIOError::read_snapshot(Some(meta.signature()), problem)
            })?;
            positioned.last = meta.last_log_id;
            positioned.membership = meta.last_membership.clone();
        }
        self.applied.send_replace(Applied::of(meta.last_log_id));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        let read = self.file.read().await;
        read.map_err(|error| StorageIOError::read_snapshot(None, error).into())
    }
}
