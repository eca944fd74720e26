//! One pass of a watch over the journal.
//!
//! **Owns**: where the file is read (this task or another thread), and that a file which was cut
//! under a reader is no damage.
//! **Does not own**: what is picked (`cursor`).

use std::sync::Arc;

use domicile_proto::Reason;
use domicile_storage::{JournalChunk, Place, Store, StoreError};

use super::cursor::{Found, WatchCursor};
use crate::error::Error;

/// Bytes that one read asks for, as the shipper does: larger ones keep a processor from writers for
/// longer, smaller ones cost more calls a byte.
const READ_BYTES: usize = 64 << 10;

impl WatchCursor {
    /// Reads on. `None`: there is nothing to read until the watch is woken.
    ///
    /// # Errors
    /// As [`WatchCursor::plan`] and [`WatchCursor::take`]; what the store says.
    pub(super) async fn pass(&mut self, store: &Arc<Store>) -> Result<Option<Found>, Error> {
        loop {
            let Some(planned) = self.plan(store)? else {
                return Ok(None);
            };
            if let Some(found) = self.read_planned(store, planned).await? {
                return Ok(Some(found));
            }
        }
    }

    /// Reads what was planned. `None`: it was cut since, and the next plan says whether that
    /// matters.
    pub(super) async fn read_planned(
        &mut self,
        store: &Arc<Store>,
        (start, end): (Place, Place),
    ) -> Result<Option<Found>, Error> {
        match read(store, start, end).await {
            Ok(chunk) => self.take(store, start, &chunk).map(Some),
            Err(_) if store.journal_start() > start => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Reads in place when little is new, which is in the page cache; on another thread otherwise.
async fn read(store: &Arc<Store>, start: Place, end: Place) -> Result<JournalChunk, StoreError> {
    let is_near = start.file == end.file && end.offset - start.offset < READ_BYTES as u64;
    if is_near {
        return store.read(start, end, READ_BYTES);
    }
    let reader = Arc::clone(store);
    let read = tokio::task::spawn_blocking(move || reader.read(start, end, READ_BYTES));
    // A runtime that is shutting down takes no more work: the watch ends with it.
    read.await.unwrap_or(Err(StoreError::Closed))
}

/// What a watch is told when its node ends.
pub(super) fn closing() -> Error {
    Error::new(Reason::Draining, "the node is closing")
}
