//! How many orphans are open, as it is told with every status, and whose turn it is to decide.
//!
//! **Owns**: the count, until something changes it; that one decides at once.
//! **Does not own**: counting (storage).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domicile_proto::{KeyspaceId, Reason};
use domicile_storage::{Store, StoreError};
use tokio::sync::OwnedMutexGuard;

use crate::error::Error;

/// When it makes sense to ask for the turn again: a replay may take minutes.
const TURN_AGAIN: Duration = Duration::from_secs(1);

/// The open orphans of each keyspace. Read from disk when it is asked for after a change.
#[derive(Debug, Default)]
pub(crate) struct OrphanTally {
    known: Mutex<Option<BTreeMap<KeyspaceId, u64>>>,
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl OrphanTally {
    /// The turn to decide about orphans, of which there is one.
    ///
    /// # Errors
    /// `OVERLOADED` while another has it.
    pub(super) fn turn(&self) -> Result<OwnedMutexGuard<()>, Error> {
        let turn = Arc::clone(&self.turn).try_lock_owned();
        turn.map_err(|_| {
            let message = "orphans are being replayed or discarded here: 1 at once";
            Error::new(Reason::Overloaded, message).retry_in(TURN_AGAIN)
        })
    }

    /// Files or decisions have changed.
    pub(crate) fn changed(&self) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The open orphans of each keyspace that has orphans. Those in a damaged file are not counted.
    pub(crate) fn open(&self, store: &Store) -> BTreeMap<KeyspaceId, u64> {
        // Held while the disk is read: what changes meanwhile is counted the next time.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = &*known {
            return open.clone();
        }
        match count(store) {
            Ok(open) => known.insert(open).clone(),
            Err(error) => {
                tracing::warn!(%error, "orphans cannot be counted");
                BTreeMap::new()
            }
        }
    }
}

fn count(store: &Store) -> Result<BTreeMap<KeyspaceId, u64>, StoreError> {
    let mut open = BTreeMap::new();
    for file in store.orphan_files()?.files {
        match store.orphan_counts_of(&file) {
            Ok(counts) => *open.entry(file.partition.keyspace).or_default() += counts.open,
            Err(error) => tracing::warn!(%error, "orphans that are not counted"),
        }
    }
    Ok(open)
}
