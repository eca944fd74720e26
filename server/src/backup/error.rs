//! Why a backup could not be kept or taken out of its place.
//!
//! **Owns**: the error of this room, and its kind.
//! **Does not own**: the errors of store and node.

use domicile_proto::ErrorKind;

/// What went wrong with a place, or with what is in it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackupFault {
    /// No place, or no place that this build can reach; give another one.
    #[error("{0}")]
    Invalid(String),
    /// Nothing of that name is there.
    #[error("{0}")]
    Missing(String),
    /// The policy forbids it.
    #[error("{0}")]
    Residency(String),
    /// What came does not fit together.
    #[error("{0}")]
    Damaged(String),
    /// The place failed; try again.
    #[error("cannot {operation} {name}: {cause}")]
    Place {
        operation: &'static str,
        name: String,
        cause: String,
    },
}

impl BackupFault {
    /// What the caller can do next.
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid(_) => ErrorKind::Invalid,
            Self::Missing(_) => ErrorKind::NotFound,
            Self::Residency(_) => ErrorKind::Residency,
            Self::Damaged(_) => ErrorKind::Corrupt,
            Self::Place { .. } => ErrorKind::Unavailable,
        }
    }
}
