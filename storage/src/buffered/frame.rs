//! The frames of the buffer's file: what one sync makes durable.
//!
//! **Owns**: the header of the file, the frame and its checks.
//! **Does not own**: the events inside (`entry`), what a damaged frame means (`scan`).
//!
//! ```text
//! file:  magic "DOBF" u32 | version u16 | zeros u16 | node u64 | number of the file u64
//!   | number of the next write u64 | crc32 of all before
//! frame: magic "DOBW" u32 | events u32 | bytes of them u32 | the events
//!   | crc32 of node u64, number of the file u64, offset of the frame u64, all before
//! ```
//! Little-endian. The checksum covers where the frame lies: neither a frame of an earlier file nor
//! the value of a write that looks like one passes for a frame.

use std::path::Path;

use bytes::{Buf, BufMut, Bytes};
use domicile_proto::NodeId;

use super::entry::{BufferEvent, BufferNumber};
use crate::envelope::{ENVELOPE_BYTES, Envelope};
use crate::error::StoreError;

pub(super) const FRAME_MAGIC: [u8; 4] = *b"DOBW";

/// Around the header of the file.
const ENVELOPE: Envelope = Envelope {
    what: "buffer of writes",
    magic: *b"DOBF",
    version: 1,
};

/// Bytes of the file's header: the layout above.
pub(super) const FILE_HEAD_BYTES: usize = ENVELOPE_BYTES + 16;
/// Bytes of a frame before its events.
pub(super) const FRAME_HEAD_BYTES: usize = 12;
/// Bytes of a frame behind them.
pub(super) const FRAME_END_BYTES: usize = 4;

/// Largest frame: the largest write and what is told of it, twice. Doubled, whoever reads a
/// damaged length may take twice the memory.
pub(super) const FRAME_BYTES_MAX: usize = 16 << 20;

/// An event, with its offset in the file and its length.
pub(super) type Placed = (BufferEvent, (u64, u32));

/// Whose a file is, and which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileHead {
    pub(super) node: NodeId,
    pub(super) file_number: u64,
    pub(super) next_write: BufferNumber,
}

impl FileHead {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut content = Vec::with_capacity(FILE_HEAD_BYTES - ENVELOPE_BYTES);
        content.put_u64_le(self.file_number);
        content.put_u64_le(self.next_write.get());
        ENVELOPE.seal(self.node, &content)
    }

    /// The header of a file that is `node`'s.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::UnknownFormat`], [`StoreError::ForeignNode`].
    pub(super) fn decode(bytes: &[u8], node: NodeId, path: &Path) -> Result<Self, StoreError> {
        if bytes.len() < FILE_HEAD_BYTES {
            let actual = bytes.len();
            let problem = format!("{actual} bytes, {FILE_HEAD_BYTES} needed");
            return Err(StoreError::corrupt(path, 0, problem));
        }
        let mut fields = ENVELOPE.open(&bytes[..FILE_HEAD_BYTES], node, path)?;
        Ok(Self {
            node,
            file_number: fields.get_u64_le(),
            next_write: BufferNumber::new(fields.get_u64_le().max(1)),
        })
    }

    fn checksum(&self, offset: u64, bytes: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.node.get().to_le_bytes());
        hasher.update(&self.file_number.to_le_bytes());
        hasher.update(&offset.to_le_bytes());
        hasher.update(bytes);
        hasher.finalize()
    }

    /// A frame that is to lie at `offset`, and where in it each event begins and ends.
    pub(super) fn frame(&self, offset: u64, events: &[BufferEvent]) -> (Vec<u8>, Vec<(u64, u32)>) {
        let mut bytes = vec![0; FRAME_HEAD_BYTES];
        let mut places = Vec::with_capacity(events.len());
        for event in events {
            let from = bytes.len();
            event.encode(&mut bytes);
            places.push((offset + from as u64, (bytes.len() - from) as u32));
        }
        let len = bytes.len() - FRAME_HEAD_BYTES;
        assert!(
            len <= FRAME_BYTES_MAX,
            "frame of {len} bytes, limit {FRAME_BYTES_MAX}"
        );
        let mut head = &mut bytes[..FRAME_HEAD_BYTES];
        head.put_slice(&FRAME_MAGIC);
        head.put_u32_le(events.len() as u32);
        head.put_u32_le(len as u32);
        let crc = self.checksum(offset, &bytes);
        bytes.put_u32_le(crc);
        (bytes, places)
    }

    /// The bytes of the events of a frame that begins with this, and their number.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn frame_len(head: &[u8; FRAME_HEAD_BYTES]) -> Result<(usize, usize), String> {
        let mut fields = &head[..];
        if fields[..4] != FRAME_MAGIC {
            return Err(format!("bad magic of a frame: {:02x?}", &fields[..4]));
        }
        fields.advance(4);
        let (events, len) = (fields.get_u32_le() as usize, fields.get_u32_le() as usize);
        if len > FRAME_BYTES_MAX {
            return Err(format!("frame of {len} bytes, limit {FRAME_BYTES_MAX}"));
        }
        Ok((len, events))
    }

    /// The events of a whole frame that lies at `offset`, each with its place in the file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn open_frame(&self, offset: u64, frame: Bytes) -> Result<Vec<Placed>, String> {
        let short = || format!("frame of {} bytes", frame.len());
        let head = frame.first_chunk::<FRAME_HEAD_BYTES>().ok_or_else(short)?;
        let (len, count) = Self::frame_len(head)?;
        let end = FRAME_HEAD_BYTES + len;
        if frame.len() != end + FRAME_END_BYTES {
            return Err(short());
        }
        let (stored, computed) = (
            (&frame[end..]).get_u32_le(),
            self.checksum(offset, &frame[..end]),
        );
        if stored != computed {
            return Err(format!(
                "checksum mismatch of a frame: stored {stored:#010x}, computed {computed:#010x}"
            ));
        }
        let mut rest = frame.slice(FRAME_HEAD_BYTES..end);
        let mut events = Vec::new();
        while !rest.is_empty() {
            let from = end - rest.len();
            let event = BufferEvent::decode(&mut rest)?;
            let len = (end - rest.len() - from) as u32;
            events.push((event, (offset + from as u64, len)));
        }
        if events.len() != count {
            return Err(format!("{} events, {count} announced", events.len()));
        }
        Ok(events)
    }
}
