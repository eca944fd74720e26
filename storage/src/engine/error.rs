//! What an engine can answer instead of rows.
//!
//! **Owns**: the one error of the engine and of what is read back from it.
//! **Does not own**: quarantine and rebuild (`store`).

use std::any::Any;
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
    /// The directory is another engine's: it is to be put aside and rebuilt.
    #[error("the engine directory was made by {found}, not by {wanted}")]
    OtherEngine {
        /// Whose it is.
        found: String,
        /// The engine chosen.
        wanted: &'static str,
    },
    /// The engine is not in this build.
    #[error("engine {engine} is not in this build, which lacks the cargo feature `{engine}`")]
    NotBuilt {
        /// The engine, which its feature is named for.
        engine: &'static str,
    },
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
        !matches!(
            self,
            Self::Io { .. } | Self::Closed | Self::NotBuilt { .. } | Self::Filling { .. }
        )
    }

    /// From what a caught panic carries.
    pub(super) fn panicked(what: &'static str, panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let message = text
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "panic without a message".to_owned());
        Self::Panicked { what, message }
    }
}
