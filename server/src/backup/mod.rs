//! Backups between a node, a place and a new directory.
//!
//! **Owns** the place (files or an object store), a backup's pieces on the wire, checking and
//! restoring what a place has.
//!
//! **Does not own** the formats (storage), what may leave a node (replication), the verbs (`cli`).
//!
//! ```text
//! node -> wire -> draft (storage) -> place: data, then the manifest
//! place: manifest, data -> restore (storage) -> a new data directory
//! ```

mod error;
mod place;
mod restoring;
mod time;
mod wire;

#[cfg(test)]
mod tests;

pub(crate) use error::BackupFault;
pub(crate) use place::{Place, PlaceUse};
pub(crate) use restoring::{RestoreRequest, check, restore};
pub(crate) use time::{parse_time, show_time};
pub(crate) use wire::{end_from_wire, end_message, piece_of, response_of, subject_of};
