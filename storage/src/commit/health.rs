//! Whether the store still takes writes.
//!
//! **Owns**: the first failure, which is the last word.
//! **Does not own**: what counts as one (the committer).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crate::error::StoreError;

/// Healthy, poisoned or closed; never healthy again.
#[derive(Debug, Default)]
pub(crate) struct Health {
    cause: OnceLock<Arc<str>>,
    closed: AtomicBool,
}

impl Health {
    /// # Errors
    /// [`StoreError::Poisoned`] after a failure, [`StoreError::Closed`] after the end.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        if let Some(cause) = self.cause.get() {
            return Err(StoreError::Poisoned {
                cause: Arc::clone(cause),
            });
        }
        if self.closed.load(Ordering::Acquire) {
            return Err(StoreError::Closed);
        }
        Ok(())
    }

    pub(crate) fn cause(&self) -> Option<Arc<str>> {
        self.cause.get().cloned()
    }

    /// A write or sync failed. The first failure stays the cause.
    pub(crate) fn poison(&self, cause: &str) {
        self.cause.get_or_init(|| cause.into());
    }

    /// Closes; `false` if it was closed before.
    pub(crate) fn close(&self) -> bool {
        !self.closed.swap(true, Ordering::AcqRel)
    }
}
