//! The records of one partition in one group commit, as one checksummed block of bytes that is
//! identical on disk, on the wire and on the remote disk.
//!
//! **Owns**: the byte layout, its checksums, the chain hash.
//! **Does not own**: where segments lie (journal), who may send which (core).
//!
//! ```text
//!  0 magic "DSEG"      4 version u16     6 flags u16       8 partition (8, big-endian)
//! 16 epoch counter u64                  24 epoch node u64
//! 32 first seq u64                      40 count u32      44 payload length u32
//! 48 previous chain hash u64            56 visible upto u64
//! 64 crc32 of bytes 0..64 and payload   68 crc32 of bytes 0..68
//! 72 payload: the records
//! ```
//! Little-endian but for the partition. The second checksum lets a reader trust the header alone,
//! to skip a segment or to tell a torn payload from a torn header. The chain hash of a segment is
//! the hash of all its bytes; as they include the previous one, equal hashes mean equal histories.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use crate::hash::hash64;
use crate::hlc::Hlc;
use crate::identity::{NodeId, PartitionId};
use crate::limits::{RECORD_BYTES_MAX, SEGMENT_BYTES_MAX, check_len};
use crate::position::{Epoch, Seq};
use crate::record::{Record, RecordBody, RecordHead};
use crate::wire::{Reader, WireError};

const WHAT: &str = "segment";
const MAGIC: u32 = u32::from_le_bytes(*b"DSEG");
const VERSION: u16 = 1;

/// Bytes of a segment's header: the layout above.
pub const SEGMENT_HEADER_BYTES: usize = 72;

/// The hash over a partition's whole history up to the end of a segment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ChainHash(u64);

impl ChainHash {
    /// Before the first segment.
    pub const START: Self = Self(0);

    /// The hash with these bits.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The bits.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }
}

impl fmt::Debug for ChainHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

impl fmt::Display for ChainHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, formatter)
    }
}

/// What a segment says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Whose records.
    pub partition: PartitionId,
    /// Written in which reign.
    pub epoch: Epoch,
    /// The first record's place.
    pub first_seq: Seq,
    /// How many records, at least 1.
    pub count: u32,
    /// Bytes of the records.
    pub payload_len: u32,
    /// The chain hash of the segment before.
    pub previous: ChainHash,
    /// Up to where the home had made records visible when it wrote this.
    pub visible_upto: Seq,
    crc: u32,
}

impl SegmentHeader {
    /// The last record's place.
    #[must_use]
    pub fn last_seq(&self) -> Seq {
        self.first_seq.plus(u64::from(self.count) - 1)
    }

    /// Bytes of the whole segment.
    #[must_use]
    pub fn segment_len(&self) -> usize {
        SEGMENT_HEADER_BYTES + self.payload_len as usize
    }

    /// Reads and checks a header at the front of `bytes`; the payload need not be there.
    ///
    /// # Errors
    /// Too few bytes, bytes that are not a header, a failed header checksum, an impossible field.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        if bytes.len() < SEGMENT_HEADER_BYTES {
            let (actual, needed) = (bytes.len(), SEGMENT_HEADER_BYTES);
            return Err(WireError::Truncated {
                what: WHAT,
                actual,
                needed,
            });
        }
        Self::decode_fields(&bytes[..SEGMENT_HEADER_BYTES])?.checked()
    }

    fn decode_fields(bytes: &[u8]) -> Result<Fields, WireError> {
        let computed = crc32fast::hash(&bytes[..68]);
        let mut reader = Reader::new(WHAT, bytes);
        let magic = reader.u32()?;
        if magic != MAGIC {
            return Err(WireError::BadMagic {
                what: WHAT,
                actual: magic,
            });
        }
        let version = reader.u16()?;
        let flags = reader.u16()?;
        let mut partition = [0; PartitionId::BYTES];
        partition.copy_from_slice(reader.take(PartitionId::BYTES)?);
        let fields = Fields {
            flags,
            partition,
            counter: reader.u64()?,
            node: reader.u64()?,
            first_seq: Seq::new(reader.u64()?),
            count: reader.u32()?,
            payload_len: reader.u32()?,
            previous: ChainHash(reader.u64()?),
            visible_upto: Seq::new(reader.u64()?),
            crc: reader.u32()?,
        };
        let stored = reader.u32()?;
        if stored != computed {
            return Err(WireError::Checksum {
                what: "segment header",
                stored,
                computed,
            });
        }
        if version != VERSION {
            let (actual, supported) = (version.into(), VERSION.into());
            return Err(WireError::UnknownVersion {
                what: WHAT,
                actual,
                supported,
            });
        }
        Ok(fields)
    }
}

/// A header's fields as they lie in the bytes, before they are known to make sense.
struct Fields {
    flags: u16,
    partition: [u8; PartitionId::BYTES],
    counter: u64,
    node: u64,
    first_seq: Seq,
    count: u32,
    payload_len: u32,
    previous: ChainHash,
    visible_upto: Seq,
    crc: u32,
}

impl Fields {
    fn checked(self) -> Result<SegmentHeader, WireError> {
        let Self {
            counter,
            first_seq,
            count,
            payload_len,
            ..
        } = self;
        let Self {
            previous,
            visible_upto,
            crc,
            ..
        } = self;
        let invalid = |what, actual| Err(WireError::Invalid { what, actual });
        if self.flags != 0 {
            return invalid("segment flags", self.flags.into());
        }
        let Ok(partition) = PartitionId::from_bytes(self.partition) else {
            return invalid("segment region", 0);
        };
        let Ok(node) = NodeId::new(self.node) else {
            return invalid("segment epoch node", 0);
        };
        if count == 0 {
            return invalid("segment count", 0);
        }
        if first_seq == Seq::NONE || first_seq.get().checked_add(count.into()).is_none() {
            return invalid("segment first seq", first_seq.get());
        }
        check_len(
            WHAT,
            payload_len as usize,
            SEGMENT_BYTES_MAX - SEGMENT_HEADER_BYTES,
        )?;
        let epoch = Epoch { counter, node };
        Ok(SegmentHeader {
            partition,
            epoch,
            first_seq,
            count,
            payload_len,
            previous,
            visible_upto,
            crc,
        })
    }
}

/// A segment whose checksums hold; its bytes are shared, never copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    header: SegmentHeader,
    bytes: Bytes,
}

impl Segment {
    /// Takes one segment off the front of `bytes` and checks both checksums.
    ///
    /// # Errors
    /// Anything that [`SegmentHeader::decode`] refuses, a short or damaged payload. `bytes` is then
    /// as it was.
    pub fn decode_front(bytes: &mut Bytes) -> Result<Self, WireError> {
        let header = SegmentHeader::decode(bytes)?;
        let (actual, needed) = (bytes.len(), header.segment_len());
        if actual < needed {
            return Err(WireError::Truncated {
                what: WHAT,
                actual,
                needed,
            });
        }
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&bytes[..64]);
        hasher.update(&bytes[SEGMENT_HEADER_BYTES..needed]);
        let computed = hasher.finalize();
        if computed != header.crc {
            return Err(WireError::Checksum {
                what: WHAT,
                stored: header.crc,
                computed,
            });
        }
        Ok(Self {
            header,
            bytes: bytes.split_to(needed),
        })
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &SegmentHeader {
        &self.header
    }

    /// All its bytes.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The hash of the history that ends with it.
    #[must_use]
    pub fn chain(&self) -> ChainHash {
        ChainHash(hash64(&self.bytes))
    }

    /// When its first record was sequenced; `None` if the payload is not records.
    #[must_use]
    pub fn first_hlc(&self) -> Option<Hlc> {
        let start = SEGMENT_HEADER_BYTES + 8;
        let bits = self.bytes.get(start..start + 8)?;
        bits.try_into()
            .ok()
            .map(|bits| Hlc::from_bits(u64::from_le_bytes(bits)))
    }

    /// Its records with their places.
    ///
    /// # Errors
    /// A payload whose checksum holds but which is not `count` records: written by a faulty build.
    pub fn records(&self) -> Result<Vec<(Seq, Record)>, WireError> {
        let mut payload = self.bytes.slice(SEGMENT_HEADER_BYTES..);
        let fits = payload.len() / crate::record::RECORD_HEAD_BYTES;
        let mut records = Vec::with_capacity(fits.min(self.header.count as usize));
        let mut seq = self.header.first_seq;
        for _ in 0..self.header.count {
            records.push((seq, Record::decode_front(&mut payload)?));
            seq = seq.next();
        }
        if !payload.is_empty() {
            let actual = payload.len() as u64;
            return Err(WireError::Invalid {
                what: "bytes after the last record",
                actual,
            });
        }
        Ok(records)
    }
}

/// A segment being filled. Records go in as they are sequenced; the header is written at the end.
#[derive(Debug)]
pub struct SegmentBuilder {
    partition: PartitionId,
    epoch: Epoch,
    first_seq: Seq,
    count: u32,
    buffer: BytesMut,
}

impl SegmentBuilder {
    /// An empty segment that starts at `first_seq`.
    #[must_use]
    pub fn new(partition: PartitionId, epoch: Epoch, first_seq: Seq) -> Self {
        assert!(
            first_seq > Seq::NONE,
            "a segment starts at 1 or later, not {first_seq}"
        );
        let mut buffer = BytesMut::with_capacity(512);
        buffer.put_bytes(0, SEGMENT_HEADER_BYTES);
        Self {
            partition,
            epoch,
            first_seq,
            count: 0,
            buffer,
        }
    }

    /// The place that the next record gets.
    #[must_use]
    pub fn next_seq(&self) -> Seq {
        self.first_seq.plus(self.count.into())
    }

    /// Bytes so far, header included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Whether no record is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whose records it takes.
    #[must_use]
    pub fn partition(&self) -> PartitionId {
        self.partition
    }

    /// The reign it belongs to.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Adds a record.
    pub fn push(&mut self, head: &RecordHead, body: &RecordBody) {
        Record::encode(&mut self.buffer, head, body);
        self.count += 1;
        let (actual, limit) = (self.buffer.len(), SEGMENT_BYTES_MAX);
        assert!(actual <= limit, "segment of {actual} bytes, limit {limit}");
    }

    /// Whether another record of at most [`RECORD_BYTES_MAX`] bytes still fits.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.buffer.len() + RECORD_BYTES_MAX <= SEGMENT_BYTES_MAX
    }

    /// Writes the header; the result is what goes to disk and over the wire.
    ///
    /// # Panics
    /// If no record was pushed.
    #[must_use]
    pub fn finish(self, previous: ChainHash, visible_upto: Seq) -> Segment {
        assert!(
            self.count > 0,
            "an empty segment of {} was finished",
            self.partition
        );
        let Self {
            partition,
            epoch,
            first_seq,
            count,
            mut buffer,
        } = self;
        let payload_len = (buffer.len() - SEGMENT_HEADER_BYTES) as u32;
        let mut front = &mut buffer[..SEGMENT_HEADER_BYTES];
        front.put_u32_le(MAGIC);
        front.put_u16_le(VERSION);
        front.put_u16_le(0);
        front.put_slice(&partition.to_bytes());
        front.put_u64_le(epoch.counter);
        front.put_u64_le(epoch.node.get());
        front.put_u64_le(first_seq.get());
        front.put_u32_le(count);
        front.put_u32_le(payload_len);
        front.put_u64_le(previous.0);
        front.put_u64_le(visible_upto.get());
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&buffer[..64]);
        hasher.update(&buffer[SEGMENT_HEADER_BYTES..]);
        let crc = hasher.finalize();
        buffer[64..68].copy_from_slice(&crc.to_le_bytes());
        let header_crc = crc32fast::hash(&buffer[..68]);
        buffer[68..72].copy_from_slice(&header_crc.to_le_bytes());
        let header = SegmentHeader {
            partition,
            epoch,
            first_seq,
            count,
            payload_len,
            previous,
            visible_upto,
            crc,
        };
        Segment {
            header,
            bytes: buffer.freeze(),
        }
    }
}

#[cfg(test)]
#[path = "segment_tests.rs"]
mod tests;
