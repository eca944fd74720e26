//! Rows: what every engine stores, in byte order.
//!
//! **Owns**: the contract [`Engine`] and the words of its calls.
//! **Does not own**: the meaning of rows (their first byte tells whose they are).

use std::ops::Bound;

use bytes::Bytes;

use super::error::EngineError;

/// First byte of rows that an engine keeps for itself; no caller may use it.
pub(crate) const TAG_ENGINE: u8 = 0xff;

/// One change of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowChange {
    /// Sets the row, whether or not it exists.
    Set {
        /// Its place in the order.
        row: Bytes,
        /// Its new value.
        value: Bytes,
    },
    /// Removes the row, if it exists.
    Remove {
        /// Its place in the order.
        row: Bytes,
    },
}

impl RowChange {
    /// The row it changes.
    #[must_use]
    pub fn row(&self) -> &Bytes {
        match self {
            Self::Set { row, .. } | Self::Remove { row } => row,
        }
    }

    /// Bytes of row and value.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Set { row, value } => row.len() + value.len(),
            Self::Remove { row } => row.len(),
        }
    }
}

/// Which way a scan walks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the lowest row up.
    Forward,
    /// From the highest row down.
    Backward,
}

/// Ordered rows. Any number of readers, one writer at a time.
///
/// - `apply` is atomic: after any end of the process all of the batch is there or none of it.
/// - If a batch survives, so do all batches applied before it.
/// - Rows are never empty and never start with `0xff`; the last change to a row in a batch wins.
pub trait Engine: Send + Sync {
    /// The value of a row.
    ///
    /// # Errors
    /// [`EngineError`]; the caller decides between another try and a rebuild.
    fn get(&self, row: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// Makes all changes of the batch, or none.
    ///
    /// # Errors
    /// [`EngineError`]; the batch may then be there or not, but not in part.
    fn apply(&self, batch: Vec<RowChange>) -> Result<(), EngineError>;

    /// At most `limit` rows of a range, in `direction`'s order. An inverted range is empty.
    /// Each row is read whole, but rows of one scan may be of different batches.
    ///
    /// # Errors
    /// As [`Engine::get`].
    fn scan(
        &self,
        from: Bound<&[u8]>,
        upto: Bound<&[u8]>,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, EngineError>;

    /// Hands what was applied to the operating system; not a promise of durability.
    ///
    /// # Errors
    /// [`EngineError::Io`].
    fn sync(&self) -> Result<(), EngineError>;

    /// Does a piece of the work that earlier writes left behind; for when nothing is written.
    ///
    /// # Errors
    /// As [`Engine::apply`].
    fn tidy(&self) -> Result<(), EngineError> {
        Ok(())
    }

    /// Bytes of its files; 0 if it has none.
    fn bytes_on_disk(&self) -> u64;

    /// Releases the engine's files, so that the directory can be opened again while handles to
    /// this one still exist. Later calls answer [`EngineError::Closed`] where they need the files.
    fn close(&self) {}

    /// A word for logs and `status`.
    fn name(&self) -> &'static str;
}

/// Whether no row can lie in the range. Ordered maps panic on inverted bounds; callers' bounds
/// come from requests.
pub(crate) fn is_empty_range(from: Bound<&[u8]>, upto: Bound<&[u8]>) -> bool {
    match (from, upto) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(from), Bound::Included(upto)) => from > upto,
        (Bound::Included(from) | Bound::Excluded(from), Bound::Excluded(upto))
        | (Bound::Excluded(from), Bound::Included(upto)) => from >= upto,
    }
}

/// Asserts what every engine demands of its callers.
pub(crate) fn check_row(row: &[u8]) {
    assert!(
        row.first().is_some_and(|tag| *tag != TAG_ENGINE),
        "row of {} bytes is empty or starts with the engine's own tag",
        row.len()
    );
}
