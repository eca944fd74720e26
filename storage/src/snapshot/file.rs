//! One snapshot as a file: written under another name, then renamed; read block by block.
//!
//! **Owns**: the order of writes that makes it whole or absent, the order of reads that checks it.
//! **Does not own**: the bytes (`format`), which snapshots there are (`set`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use domicile_proto::{Epoch, NodeId, PartitionId, Seq};

use super::format::{
    BLOCK_HEADER_BYTES, BLOCK_REQUESTS, Block, BlockHead, CellBlock, HEADER_BYTES, KeptRequest,
    SnapshotHeader, encode_reigns, encode_requests,
};
use crate::disk::{Disk, DiskFile, OpenMode, read_around, remove_if_there};
use crate::error::StoreError;

/// What is appended to the name of a file that is not finished.
pub(crate) const UNFINISHED_SUFFIX: &str = ".new";
const SUFFIX: &str = ".snapshot";
/// What the name of a file ends with that is being received.
pub(crate) const INCOMING_SUFFIX: &str = ".incoming";
/// What the name of a file ends with that was received and is to be installed.
pub(crate) const RECEIVED_SUFFIX: &str = ".received";
/// What the name of a file ends with that has the requests of a snapshot which a cut took away.
pub(crate) const REQUESTS_SUFFIX: &str = ".requests";

/// Bytes written between two syncs: a commit meanwhile queues behind no more. Doubled, it may wait
/// twice as long; halved, a snapshot syncs twice as often.
pub(super) const SYNC_BYTES: u64 = 1 << 20;

/// The file of a snapshot: its partition and position are in its name.
pub(crate) fn path_of(dir: &Path, partition: PartitionId, seq: Seq) -> PathBuf {
    let hex = hex_of(partition);
    dir.join(format!("{hex}-{:020}{SUFFIX}", seq.get()))
}

/// The file of a snapshot from elsewhere.
pub(crate) fn foreign_path_of(dir: &Path, partition: PartitionId, suffix: &str) -> PathBuf {
    dir.join(format!("{}{suffix}", hex_of(partition)))
}

pub(crate) fn hex_of(partition: PartitionId) -> String {
    let bytes = partition.to_bytes();
    bytes.map(|byte| format!("{byte:02x}")).concat()
}

/// Whether a file name is that of a finished snapshot.
pub(crate) fn is_snapshot(name: &str) -> bool {
    name.ends_with(SUFFIX)
}

/// A snapshot being written.
pub(crate) struct SnapshotWriter {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    unfinished: PathBuf,
    file: Arc<dyn DiskFile>,
    at: u64,
    block: CellBlock,
    blocks: u64,
    cells: u64,
    synced_upto: u64,
    is_finished: bool,
}

impl SnapshotWriter {
    /// Begins a snapshot in `dir`, with reigns and requests as its first blocks. What an earlier
    /// attempt for the same partition left is removed.
    ///
    /// # Errors
    /// What the operating system says.
    pub(crate) fn begin(
        disk: Arc<dyn Disk>,
        dir: &Path,
        partition: PartitionId,
        reigns: &[(Epoch, Seq)],
        requests: &[KeptRequest],
    ) -> Result<Self, StoreError> {
        let mut unfinished = path_of(dir, partition, Seq::NONE).into_os_string();
        unfinished.push(UNFINISHED_SUFFIX);
        let unfinished = PathBuf::from(unfinished);
        remove(&*disk, &unfinished)?;
        let file = disk.open(&unfinished, OpenMode::CreateNew);
        let file = file.map_err(|error| StoreError::io("create", &unfinished, error))?;
        let mut writer = Self {
            disk,
            dir: dir.to_owned(),
            unfinished,
            file,
            at: HEADER_BYTES,
            block: CellBlock::default(),
            blocks: 0,
            cells: 0,
            synced_upto: HEADER_BYTES,
            is_finished: false,
        };
        writer.write_block(&encode_reigns(reigns))?;
        for requests in requests.chunks(BLOCK_REQUESTS) {
            writer.write_block(&encode_requests(requests))?;
        }
        Ok(writer)
    }

    /// Adds a cell; keys come in order.
    ///
    /// # Errors
    /// What the operating system says.
    pub(crate) fn push(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.block.push(key, value);
        self.cells += 1;
        if self.block.is_full() {
            let block = self.block.finish();
            self.write_block(&block)?;
        }
        Ok(())
    }

    /// Bytes so far, those of the block being filled included.
    pub(crate) fn bytes_pushed(&self) -> u64 {
        self.at + self.block.len() as u64
    }

    /// Makes the snapshot durable under its name. Blocks, cells and bytes of `header` are those
    /// that were written, whatever it says.
    ///
    /// # Errors
    /// What the operating system says.
    pub(crate) fn finish(self, header: SnapshotHeader) -> Result<SnapshotHeader, StoreError> {
        let path = path_of(&self.dir, header.partition, header.seq);
        self.finish_as(&path, header)
    }

    /// As [`SnapshotWriter::finish`], under this name of the same directory.
    ///
    /// # Errors
    /// What the operating system says.
    pub(crate) fn finish_as(
        mut self,
        path: &Path,
        header: SnapshotHeader,
    ) -> Result<SnapshotHeader, StoreError> {
        if !self.block.is_empty() {
            let block = self.block.finish();
            self.write_block(&block)?;
        }
        let header = SnapshotHeader {
            blocks: self.blocks,
            cells: self.cells,
            file_bytes: self.at,
            ..header
        };
        let finish = || {
            // The blocks are durable before a header says that they are all there.
            self.file.sync_data()?;
            self.file.write_at(&header.encode(), 0)?;
            self.file.sync_all()?;
            self.disk.rename(&self.unfinished, path)?;
            self.disk.sync_dir(&self.dir)
        };
        finish().map_err(|error| StoreError::io("finish", path, error))?;
        self.is_finished = true;
        Ok(header)
    }

    fn write_block(&mut self, block: &[u8]) -> Result<(), StoreError> {
        let written = self.file.write_at(block, self.at);
        written.map_err(|error| StoreError::io("write", &self.unfinished, error))?;
        self.at += block.len() as u64;
        self.blocks += 1;
        if self.at - self.synced_upto >= SYNC_BYTES {
            let synced = self.file.sync_data();
            synced.map_err(|error| StoreError::io("sync", &self.unfinished, error))?;
            self.synced_upto = self.at;
        }
        Ok(())
    }
}

impl Drop for SnapshotWriter {
    /// What was given up takes no room.
    fn drop(&mut self) {
        if !self.is_finished {
            // If that fails as well, the next open removes it.
            remove_if_there(&*self.disk, &self.unfinished).ok();
        }
    }
}

/// A snapshot being read. Nothing of it is believed before its checksum was computed.
pub(crate) struct SnapshotReader {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    header: SnapshotHeader,
    at: u64,
    blocks: u64,
    cells: u64,
}

impl SnapshotReader {
    /// Opens a snapshot and reads its header.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::UnknownFormat`]; [`StoreError::ForeignNode`] for one
    /// that `node` did not write; what the operating system says.
    pub(crate) fn open(disk: &dyn Disk, path: &Path, node: NodeId) -> Result<Self, StoreError> {
        let io = |error| StoreError::io("read", path, error);
        let file = disk.open(path, OpenMode::Read).map_err(io)?;
        let len = file.len().map_err(io)?;
        let mut bytes = vec![0; HEADER_BYTES.min(len) as usize];
        read_around(&*file, path, &mut bytes, 0).map_err(io)?;
        let header = SnapshotHeader::decode(&bytes, path)?;
        if header.file_bytes != len {
            let problem = format!("{len} bytes, {} by its header", header.file_bytes);
            return Err(StoreError::corrupt(
                path,
                len.min(header.file_bytes),
                problem,
            ));
        }
        if header.node != node {
            return Err(StoreError::ForeignNode {
                path: path.to_owned(),
                actual: header.node,
                expected: node,
            });
        }
        Ok(Self::new(path, file, header))
    }

    /// Reads what may be only the beginning of a snapshot, whose header was read before.
    pub(crate) fn new(path: &Path, file: Arc<dyn DiskFile>, header: SnapshotHeader) -> Self {
        Self {
            path: path.to_owned(),
            file,
            header,
            at: HEADER_BYTES,
            blocks: 0,
            cells: 0,
        }
    }

    /// Where the next block begins.
    pub(crate) fn offset(&self) -> u64 {
        self.at
    }

    pub(crate) fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The next block; `None` behind the last, once all that the header counts was there.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] with the offset of the block; what the operating system says.
    pub(crate) fn next(&mut self) -> Result<Option<Block>, StoreError> {
        if self.blocks == self.header.blocks {
            if self.at != self.header.file_bytes || self.cells != self.header.cells {
                let (cells, at) = (self.cells, self.at);
                return Err(self.corrupt(format!(
                    "{cells} cells up to byte {at}, by its header {} up to {}",
                    self.header.cells, self.header.file_bytes
                )));
            }
            return Ok(None);
        }
        let mut head = [0; BLOCK_HEADER_BYTES];
        self.read(&mut head, self.at)?;
        let head = BlockHead::decode(&head).map_err(|problem| self.corrupt(problem))?;
        let payload_at = self.at + BLOCK_HEADER_BYTES as u64;
        let end = payload_at + head.payload_bytes() as u64;
        if end > self.header.file_bytes {
            let over = end - self.header.file_bytes;
            return Err(self.corrupt(format!("block that ends {over} bytes behind the file")));
        }
        let mut payload = vec![0; head.payload_bytes()];
        self.read(&mut payload, payload_at)?;
        let payload = Bytes::from(payload);
        let block = head
            .decode_payload(&payload)
            .map_err(|problem| self.corrupt(problem))?;
        if let Block::Cells(cells) = &block {
            self.cells += cells.len() as u64;
        }
        self.blocks += 1;
        self.at = end;
        Ok(Some(block))
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<(), StoreError> {
        if offset + buffer.len() as u64 > self.header.file_bytes {
            return Err(self.corrupt("block cut off at the end of the file".to_owned()));
        }
        let read = read_around(&*self.file, &self.path, buffer, offset).map(drop);
        read.map_err(|error| StoreError::io("read", &self.path, error))
    }

    fn corrupt(&self, problem: String) -> StoreError {
        StoreError::corrupt(&self.path, self.at, problem)
    }
}

/// Removes a snapshot, if it is there.
pub(crate) fn remove(disk: &dyn Disk, path: &Path) -> Result<(), StoreError> {
    remove_if_there(disk, path).map_err(|error| StoreError::io("remove", path, error))
}
