//! An orphan file being read.
//!
//! **Owns**: the order of reads that believes nothing before its checksum was computed.
//! **Does not own**: the bytes (`format`, proto), which files there are (`files`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use domicile_proto::segment::SEGMENT_HEADER_BYTES;
use domicile_proto::{ChainHash, NodeId, Segment, SegmentHeader, Seq};

use super::format::{HEADER_BYTES, OrphanFile};
use crate::disk::{Disk, DiskFile, OpenMode, read_around};
use crate::error::StoreError;

/// An orphan file, segment by segment.
#[derive(Debug)]
pub(super) struct OrphanReader {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    header: OrphanFile,
    at: u64,
    segments: u64,
    last_seq: Seq,
    chain: ChainHash,
}

impl OrphanReader {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::UnknownFormat`]; [`StoreError::ForeignNode`] for one
    /// that `node` did not write; what the operating system says.
    pub(super) fn open(disk: &dyn Disk, path: &Path, node: NodeId) -> Result<Self, StoreError> {
        let io = |error| StoreError::io("read", path, error);
        let file = disk.open(path, OpenMode::Read).map_err(io)?;
        let len = file.len().map_err(io)?;
        let mut bytes = vec![0; HEADER_BYTES.min(len) as usize];
        read_around(&*file, path, &mut bytes, 0).map_err(io)?;
        let header = OrphanFile::decode(&bytes, path)?;
        if header.file_bytes != len {
            let (upto, by_header) = (len.min(header.file_bytes), header.file_bytes);
            let problem = format!("{len} bytes, {by_header} by its header");
            return Err(StoreError::corrupt(path, upto, problem));
        }
        if header.node != node {
            return Err(StoreError::ForeignNode {
                path: path.to_owned(),
                actual: header.node,
                expected: node,
            });
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            header,
            at: HEADER_BYTES,
            segments: 0,
            last_seq: header.fork.seq,
            chain: header.fork.chain,
        })
    }

    pub(super) fn header(&self) -> &OrphanFile {
        &self.header
    }

    /// The next segment; `None` behind the last, once all that the header counts was there.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] with the offset of the segment; what the operating system says.
    pub(super) fn next(&mut self) -> Result<Option<Segment>, StoreError> {
        if self.segments == self.header.segments {
            let Self { at, chain, .. } = *self;
            if (at, chain) != (self.header.file_bytes, self.header.last_chain) {
                let (end, last) = (self.header.file_bytes, self.header.last_chain);
                let problem = format!("chain {chain} at byte {at}, by its header {last} at {end}");
                return Err(self.corrupt(problem));
            }
            return Ok(None);
        }
        let head = self.read(SEGMENT_HEADER_BYTES)?;
        let header = SegmentHeader::decode(&head);
        let header = header.map_err(|error| self.corrupt(error.to_string()))?;
        let mut bytes = self.read(header.segment_len())?;
        let segment = Segment::decode_front(&mut bytes);
        let segment = segment.map_err(|error| self.corrupt(error.to_string()))?;
        let continues = header.partition == self.header.partition
            && header.first_seq == self.last_seq.next()
            && header.previous == self.chain
            && header.last_seq() <= self.header.last_seq;
        if !continues {
            let (first, expected) = (header.first_seq, self.last_seq.next());
            let problem = format!("segment {first} of {}, not {expected}", header.partition);
            return Err(self.corrupt(problem));
        }
        self.segments += 1;
        self.at += segment.bytes().len() as u64;
        (self.last_seq, self.chain) = (header.last_seq(), segment.chain());
        Ok(Some(segment))
    }

    fn read(&self, len: usize) -> Result<Bytes, StoreError> {
        if self.at + len as u64 > self.header.file_bytes {
            let over = self.at + len as u64 - self.header.file_bytes;
            return Err(self.corrupt(format!("segment that ends {over} bytes behind the file")));
        }
        let mut buffer = vec![0; len];
        let read = read_around(&*self.file, &self.path, &mut buffer, self.at);
        read.map_err(|error| StoreError::io("read", &self.path, error))?;
        Ok(buffer.into())
    }

    fn corrupt(&self, problem: String) -> StoreError {
        StoreError::corrupt(&self.path, self.at, problem)
    }
}
