//! A snapshot from another node on its way in: written as it comes, checked whole, then kept to be
//! installed.
//!
//! **Owns**: what of it survives an interruption, that nothing damaged is ever installed.
//! **Does not own**: the connection and the pace (the node), the installation (`install`).
//!
//! ```text
//! <partition>.incoming    sender's header | blocks so far    resumed behind the last whole one
//! <partition>.received    own header      | all blocks       every checksum was computed
//! ```

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use domicile_proto::{NodeId, PartitionId};

use super::file::{
    INCOMING_SUFFIX, RECEIVED_SUFFIX, SYNC_BYTES, SnapshotReader, foreign_path_of, remove,
};
use super::format::{Block, HEADER_BYTES, SnapshotHeader, SnapshotOrigin};
use super::install::rebase_of;
use crate::cells::cell_rows;
use crate::disk::{Disk, DiskFile, OpenMode, read_around};
use crate::error::StoreError;
use crate::store::Store;

/// A snapshot that is being received.
#[derive(Debug)]
pub struct IncomingSnapshot {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    header: SnapshotHeader,
    at: u64,
    synced_upto: u64,
}

impl Store {
    /// What an earlier attempt has received of a snapshot of a partition; `None` if nothing of use.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn resume_incoming(
        &self,
        partition: PartitionId,
    ) -> Result<Option<IncomingSnapshot>, StoreError> {
        let (disk, dir) = (self.disk(), self.snapshots().make_dir()?);
        let path = foreign_path_of(&dir, partition, INCOMING_SUFFIX);
        let io = |error| StoreError::io("read", &path, error);
        let file = match disk.open(&path, OpenMode::ReadWrite) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(io)?,
        };
        let mut bytes = vec![0; HEADER_BYTES.min(file.len().map_err(io)?) as usize];
        read_around(&*file, &path, &mut bytes, 0).map_err(io)?;
        let header = match SnapshotHeader::decode(&bytes, &path) {
            Ok(header) if header.partition == partition => header,
            // It died before its header was whole.
            _ => {
                remove(&*disk, &path)?;
                return Ok(None);
            }
        };
        let mut reader = SnapshotReader::new(&path, Arc::clone(&file), header);
        // What follows the last whole block was never synced, or is damaged: it is sent again.
        while let Ok(Some(_)) = reader.next() {}
        let at = reader.offset();
        Ok(Some(IncomingSnapshot {
            disk,
            dir,
            path,
            file,
            header,
            at,
            synced_upto: at,
        }))
    }

    /// Begins to receive a snapshot; what an earlier attempt received of another one is removed.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn begin_incoming(&self, header: SnapshotHeader) -> Result<IncomingSnapshot, StoreError> {
        let (disk, dir) = (self.disk(), self.snapshots().make_dir()?);
        let path = foreign_path_of(&dir, header.partition, INCOMING_SUFFIX);
        remove(&*disk, &path)?;
        let begin = || {
            let file = disk.open(&path, OpenMode::CreateNew)?;
            file.write_at(&header.encode(), 0)?;
            file.sync_all()?;
            disk.sync_dir(&dir)?;
            Ok(file)
        };
        let file = begin().map_err(|error| StoreError::io("create", &path, error))?;
        Ok(IncomingSnapshot {
            disk,
            dir,
            path,
            file,
            header,
            at: HEADER_BYTES,
            synced_upto: HEADER_BYTES,
        })
    }
}

impl IncomingSnapshot {
    /// What its sender says of it.
    #[must_use]
    pub fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    /// From which byte of the file on the rest is wanted.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.at
    }

    /// Whether all of it is there.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.at == self.header.file_bytes
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] for more than its header says; what the operating system says.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let end = self.at + bytes.len() as u64;
        if end > self.header.file_bytes {
            let problem = format!("{end} bytes, {} by its header", self.header.file_bytes);
            return Err(StoreError::corrupt(&self.path, self.at, problem));
        }
        let written = self.file.write_at(bytes, self.at);
        written.map_err(|error| StoreError::io("write", &self.path, error))?;
        self.at = end;
        if self.at - self.synced_upto >= SYNC_BYTES {
            let synced = self.file.sync_data();
            synced.map_err(|error| self.give_up(error))?;
            self.synced_upto = self.at;
        }
        Ok(())
    }

    /// Checks all of it and keeps it, durably, to be installed in the directory of `node`.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if it is not what its sender had: it is removed, and can be asked
    /// for anew. What the operating system says.
    pub(crate) fn finish(self, node: NodeId) -> Result<SnapshotHeader, StoreError> {
        let checked = self.check();
        if matches!(checked, Err(StoreError::Corrupt { .. })) {
            remove(&*self.disk, &self.path)?;
        }
        checked?;
        let header = SnapshotHeader {
            node,
            origin: SnapshotOrigin::Received,
            ..self.header
        };
        let received = foreign_path_of(&self.dir, header.partition, RECEIVED_SUFFIX);
        self.file
            .sync_data()
            .and_then(|()| self.file.write_at(&header.encode(), 0))
            .and_then(|()| self.file.sync_all())
            .map_err(|error| self.give_up(error))?;
        let finish = || {
            self.disk.rename(&self.path, &received)?;
            self.disk.sync_dir(&self.dir)
        };
        finish().map_err(|error| StoreError::io("finish", &received, error))?;
        Ok(header)
    }

    /// After a sync that failed nobody can tell what of it is durable, and another sync would not
    /// make it so: it is sent anew.
    fn give_up(&self, error: io::Error) -> StoreError {
        let removed = remove(&*self.disk, &self.path);
        if let Err(error) = removed {
            tracing::warn!(%error, "an incoming snapshot that was not synced is left");
        }
        StoreError::io("sync", &self.path, error)
    }

    fn check(&self) -> Result<(), StoreError> {
        let mut reader = SnapshotReader::new(&self.path, Arc::clone(&self.file), self.header);
        if !self.is_complete() {
            let (at, whole) = (self.at, self.header.file_bytes);
            let problem = format!("{at} bytes received, {whole} by its header");
            return Err(StoreError::corrupt(&self.path, at, problem));
        }
        while let Some(block) = reader.next()? {
            if let Block::Cells(cells) = block {
                self.check_cells(cells)?;
            }
        }
        let mut reader = SnapshotReader::new(&self.path, Arc::clone(&self.file), self.header);
        rebase_of(&mut reader).map(drop)
    }

    /// Cells that this build cannot read would only be noticed once they are in the engine.
    fn check_cells(&self, cells: Vec<(Bytes, Bytes)>) -> Result<(), StoreError> {
        let partition = self.header.partition;
        for (key, value) in cells {
            let checked =
                domicile_proto::limits::check_key(&key).map_err(|error| error.to_string());
            let checked = checked.and_then(|()| {
                cell_rows(partition, &key, value)
                    .map(drop)
                    .map_err(|error| error.to_string())
            });
            checked.map_err(|problem| StoreError::corrupt(&self.path, 0, problem))?;
        }
        Ok(())
    }
}
