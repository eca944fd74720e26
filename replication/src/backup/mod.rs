//! Backups of a running node: what may leave it, and the journal kept while it is read.
//!
//! ```text
//! call -> checked (keyspaces, residency, damage) -> source: pieces, paced    (storage reads them)
//!                                                    `- while it lives the keeper cuts nothing
//! ```

mod call;
mod source;

pub use call::BackupCall;
pub use source::BackupSource;
pub(crate) use source::BackupTurn;
