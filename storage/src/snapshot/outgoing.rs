//! A snapshot on its way to another node.
//!
//! **Owns**: reading it piece by piece, while a newer one may replace it.
//! **Does not own**: who may have it, the connection, the pace (the node).

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use domicile_proto::PartitionId;

use super::file::path_of;
use super::format::{HEADER_BYTES, SnapshotHeader};
use crate::disk::{DiskFile, OpenMode};
use crate::error::StoreError;
use crate::store::Store;

/// A snapshot that is being sent. It stays readable when a newer one replaces it.
#[derive(Debug)]
pub struct OutgoingSnapshot {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    header: SnapshotHeader,
}

impl Store {
    /// The last snapshot of a partition, to be sent; `None` without one.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn outgoing_snapshot(
        &self,
        partition: PartitionId,
    ) -> Result<Option<OutgoingSnapshot>, StoreError> {
        let snapshots = self.snapshots();
        let Some(header) = snapshots.get(partition).copied() else {
            return Ok(None);
        };
        let path = path_of(snapshots.dir(), partition, header.seq);
        // Under the lock: the next one would remove it.
        let file = self.disk().open(&path, OpenMode::Read);
        let file = file.map_err(|error| StoreError::io("open", &path, error))?;
        Ok(Some(OutgoingSnapshot { path, file, header }))
    }
}

impl OutgoingSnapshot {
    /// What it is of.
    #[must_use]
    pub fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    /// From which byte of the file on a receiver that has nothing wants it: the header goes apart.
    #[must_use]
    pub fn first_offset(&self) -> u64 {
        HEADER_BYTES
    }

    /// The bytes from `offset` on, at most `bytes_max`; none at the end. They are not checked here:
    /// the receiver checks all.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn read(&self, offset: u64, bytes_max: usize) -> Result<Bytes, StoreError> {
        let left = self.header.file_bytes.saturating_sub(offset);
        let mut bytes = vec![0; left.min(bytes_max as u64) as usize];
        let read = self.file.read_at(&mut bytes, offset);
        read.map_err(|error| StoreError::io("read", &self.path, error))?;
        Ok(bytes.into())
    }
}
