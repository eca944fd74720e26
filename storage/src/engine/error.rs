//! What an engine can answer instead of rows.
//!
//! **Owns**: the one error of the engine and of what is read back from it.
//! **Does not own**: quarantine and rebuild (`store`).

use std::io;

use domicile_proto::Seq;

/// Why an engine did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The file system failed. The same call may succeed later; nothing durable is at risk.
    #[error("engine {what} failed: {source}")]
    Io {
        /// Which call.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// What was read is not what was written: the engine is to be quarantined and rebuilt.
    #[error("engine {what} found damage: {detail}")]
    Corrupt {
        /// Which call or row.
        what: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// The engine's own code panicked: it is to be quarantined and rebuilt.
    #[error("engine {what} panicked: {message}")]
    Panicked {
        /// Which call.
        what: &'static str,
        /// The panic's message.
        message: String,
    },
    /// The partition's cells are being replaced, or are newer than what is applied: ask its home,
    /// or again later.
    #[error("cells are applied up to {applied_upto}, and readable from {needed_upto} on")]
    Filling {
        /// Up to where they are applied.
        applied_upto: Seq,
        /// Up to where they must be; the highest number there is while they are replaced.
        needed_upto: Seq,
    },
    /// The engine was closed.
    #[error("the engine is closed")]
    Closed,
    /// Rows of a layout that this build does not know: the engine is to be rebuilt.
    #[error("unknown format of engine rows: {actual}, supported {supported}")]
    UnknownFormat {
        /// The format found.
        actual: u64,
        /// The format this build writes.
        supported: u64,
    },
}

impl EngineError {
    /// Whether a new engine, filled from the journal, would not have this error.
    #[must_use]
    pub fn is_cured_by_rebuild(&self) -> bool {
        !matches!(self, Self::Io { .. } | Self::Closed | Self::Filling { .. })
    }
}
