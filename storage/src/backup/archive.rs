//! A part of a journal in a file of its own: the segments as they were, in their order.
//!
//! **Owns**: its header, taking whole segments off a stream of bytes.
//! **Does not own**: whose segments follow whose (`draft`, `restore`), the file's checksum (the
//! manifest has it).
//!
//! ```text
//! magic "DARC" u32 | version u16 | flags u16 | node u64 | number of the backup u64
//! | crc32 of bytes 0..24 | zeros u32 | segments
//! ```
//! Little-endian. A segment has checksums of its own, and the hash of the one before.

use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use domicile_proto::{NodeId, Segment, WireError};

use super::manifest::BackupNumber;
use crate::error::StoreError;

const MAGIC: [u8; 4] = *b"DARC";
const VERSION: u16 = 1;
/// Bytes before the first segment: the layout above.
pub(super) const ARCHIVE_HEADER_BYTES: usize = 32;
/// Bytes of the header before its checksum: the layout above.
const FIELD_BYTES: usize = 24;

/// The header of an archive.
pub(super) fn encode_header(node: NodeId, number: BackupNumber) -> Bytes {
    let mut buffer = BytesMut::with_capacity(ARCHIVE_HEADER_BYTES);
    buffer.put_slice(&MAGIC);
    buffer.put_u16_le(VERSION);
    buffer.put_u16_le(0);
    buffer.put_u64_le(node.get());
    buffer.put_u64_le(number.get());
    let crc = crc32fast::hash(&buffer);
    buffer.put_u32_le(crc);
    buffer.put_u32_le(0);
    buffer.freeze()
}

/// Segments out of bytes that come in pieces of any size.
#[derive(Debug)]
pub(super) struct SegmentStream {
    path: PathBuf,
    /// What was not taken yet: less than a segment once [`SegmentStream::next`] has said `None`.
    buffer: Bytes,
    at: u64,
}

impl SegmentStream {
    /// Of an archive's bytes behind the header, or of any other stream; `name` is for errors.
    pub(super) fn new(name: &str) -> Self {
        Self {
            path: PathBuf::from(name),
            buffer: Bytes::new(),
            at: 0,
        }
    }

    pub(super) fn push(&mut self, bytes: &Bytes) {
        self.buffer = match self.buffer.is_empty() {
            true => bytes.clone(),
            false => [&self.buffer[..], bytes].concat().into(),
        };
    }

    /// The size of the allocation that the segments are parts of.
    pub(super) fn buffer_bytes(&self) -> usize {
        self.buffer.len().max(ARCHIVE_HEADER_BYTES)
    }

    /// Takes the header off the front; `false` until it is there.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::UnknownFormat`]; [`StoreError::ForeignNode`] for
    /// another node's.
    pub(super) fn take_header(&mut self, node: NodeId) -> Result<bool, StoreError> {
        if self.buffer.len() < ARCHIVE_HEADER_BYTES {
            return Ok(false);
        }
        let bytes = self.buffer.split_to(ARCHIVE_HEADER_BYTES);
        self.at += ARCHIVE_HEADER_BYTES as u64;
        let actual = decode_header(&bytes, &self.path)?;
        if actual != node {
            return Err(StoreError::ForeignNode {
                path: self.path.clone(),
                actual,
                expected: node,
            });
        }
        Ok(true)
    }

    /// The next whole segment.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] with its offset.
    pub(super) fn next(&mut self) -> Result<Option<Segment>, StoreError> {
        match Segment::decode_front(&mut self.buffer) {
            Ok(segment) => {
                self.at += segment.bytes().len() as u64;
                Ok(Some(segment))
            }
            Err(WireError::Truncated { .. }) => Ok(None),
            Err(error) => Err(StoreError::corrupt(&self.path, self.at, error.to_string())),
        }
    }

    /// Nothing may be left at the end.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if a segment has begun and not ended.
    pub(super) fn check_end(&self) -> Result<(), StoreError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let problem = format!("{} bytes of a segment that has no end", self.buffer.len());
        Err(StoreError::corrupt(&self.path, self.at, problem))
    }
}

fn decode_header(mut bytes: &[u8], path: &Path) -> Result<NodeId, StoreError> {
    let corrupt = |problem: String| StoreError::corrupt(path, 0, problem);
    let computed = crc32fast::hash(&bytes[..FIELD_BYTES]);
    let magic = bytes.copy_to_bytes(4);
    if magic != MAGIC[..] {
        return Err(corrupt(format!("bad magic of an archive: {magic:02x?}")));
    }
    let (version, flags) = (bytes.get_u16_le(), bytes.get_u16_le());
    let (node, _number) = (bytes.get_u64_le(), bytes.get_u64_le());
    let (stored, zeros) = (bytes.get_u32_le(), bytes.get_u32_le());
    if stored != computed || zeros != 0 || (version == VERSION && flags != 0) {
        return Err(corrupt(format!(
            "checksum mismatch of the archive's header: stored {stored:#010x}, computed \
             {computed:#010x}"
        )));
    }
    if version != VERSION {
        return Err(StoreError::UnknownFormat {
            what: "archive",
            path: path.to_owned(),
            actual: version.into(),
            supported: VERSION.into(),
        });
    }
    NodeId::new(node).map_err(|_| corrupt("written by node 0".to_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node() -> NodeId {
        NodeId::new(9).unwrap()
    }

    #[test]
    fn the_header_is_pinned_and_every_flipped_bit_is_noticed() {
        let bytes = encode_header(node(), BackupNumber::new(3));
        let golden = b"DARC\x01\0\0\0\x09\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0";
        assert_eq!(bytes[..FIELD_BYTES], golden[..]);
        assert_eq!(bytes.len(), ARCHIVE_HEADER_BYTES);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let mut stream = SegmentStream::new("a");
            stream.push(&flipped.into());
            assert!(stream.take_header(node()).is_err(), "bit {bit}");
        }
        let mut stream = SegmentStream::new("a");
        stream.push(&bytes.slice(..31));
        assert!(!stream.take_header(node()).unwrap());
        stream.push(&bytes.slice(31..));
        assert!(stream.take_header(node()).unwrap());
        stream.check_end().unwrap();
        let mut other = SegmentStream::new("a");
        other.push(&bytes);
        let refused = other.take_header(NodeId::new(8).unwrap()).unwrap_err();
        assert!(refused.to_string().contains("foreign file a"), "{refused}");
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_stream_panic(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..90), 0..4),
            starts_right in any::<bool>(),
        ) {
            let mut stream = SegmentStream::new("a");
            if starts_right {
                stream.push(&encode_header(node(), BackupNumber::FIRST));
            }
            for piece in pieces {
                stream.push(&piece.into());
                if stream.take_header(node()).is_err() {
                    return Ok(());
                }
                while let Ok(Some(_)) = stream.next() {}
            }
            let _ = stream.check_end();
        }
    }
}
