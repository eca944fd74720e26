//! How many orphans are open, as it is told with every status.
//!
//! **Owns**: the count, until something changes it.
//! **Does not own**: counting (storage).

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use domicile_proto::KeyspaceId;
use domicile_storage::{Store, StoreError};

/// The open orphans of each keyspace. Read from disk when it is asked for after a change.
#[derive(Debug, Default)]
pub(crate) struct OrphanTally {
    known: Mutex<Option<BTreeMap<KeyspaceId, u64>>>,
}

impl OrphanTally {
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
