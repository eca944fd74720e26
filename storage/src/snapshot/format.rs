//! A snapshot as bytes.
//!
//! **Owns**: the layout of its header and blocks, every check of them.
//! **Does not own**: files (`file`), what is in the cells' values (`cells`).
//!
//! ```text
//! header, 4096 bytes:
//!   magic "DOMS" u32 | version u16 | flags u16 (1: received) | node u64 | partition (8)
//!   | epoch counter u64 | epoch node u64 | seq u64 | chain u64 | newest seq u64
//!   | blocks u64 | cells u64 | bytes of the file u64 | taken at, ms since 1970, u64
//!   | crc32 of all before | zeros
//! block: magic "DOSB" u32 | kind u16 | zeros u16 | length u32 | crc32 u32 | payload
//!   the checksum is that of kind, zeros, length and payload
//!   kind 1, reigns:  per reign: epoch counter, epoch node, first seq: u64 each
//!   kind 2, cells:   per cell: key length u16 | value length u32 | key | value
//!   kind 3, requests: per write: request id u128 | seq u64 | fingerprint u64 | hlc u64 | level u8
//!   kind 4, packed cells: per cell: how many bytes its key and its value have in common with the
//!           front of those before, and of their own: common to keys, own of the key, common to
//!           values, own of the value: varints | own bytes of the key | own bytes of the value
//! ```
//! Little-endian; varints are LEB128. The header is written last: a file without one was never
//! finished. Cells of kind 2 were written until there was kind 4, and are read.

use std::path::Path;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use domicile_proto::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use domicile_proto::{
    AckLevel, ChainHash, Epoch, Hlc, NodeId, PartitionId, Record, RecordKind, RequestId, Seq,
};

use crate::error::StoreError;
use crate::planted::{Bug, is_planted};
use crate::varint::{put_varint, take_varint};

const WHAT: &str = "snapshot";
const MAGIC: [u8; 4] = *b"DOMS";
const BLOCK_MAGIC: [u8; 4] = *b"DOSB";
const VERSION: u16 = 1;
const FLAG_RECEIVED: u16 = 1;

/// Bytes before the first block: a whole page, so that writing the header tears no block.
pub(crate) const HEADER_BYTES: u64 = 4096;
/// Bytes of the header's fields before their checksum: the sum of the layout above.
const FIELD_BYTES: usize = 96;
/// Bytes of a block before its payload: the sum of the layout above.
pub(crate) const BLOCK_HEADER_BYTES: usize = 16;

// Kinds are part of the format: a new one takes the next number.
const KIND_REIGNS: u16 = 1;
// As above.
const KIND_CELLS: u16 = 2;
// As above.
const KIND_REQUESTS: u16 = 3;
// As above.
const KIND_PACKED_CELLS: u16 = 4;

/// Bytes of a request: the sum of the layout above.
const REQUEST_BYTES: usize = 41;
/// Requests in one block; their bytes are about those of a full block of cells.
pub(crate) const BLOCK_REQUESTS: usize = 6_000;

/// Bytes of keys and values after which a block is full: what a reader holds at once. Doubled, so
/// is that.
pub(crate) const BLOCK_BYTES: usize = 256 << 10;

/// Bytes of a value that are looked at for what it has in common with the one before: those in
/// front of what a user wrote. More are seldom equal, and kept for each cell.
const COMMON_VALUE_BYTES_MAX: usize = 32;

/// What a cell's row may have around its value, with room for what later versions add.
const CELL_OVERHEAD_MAX: usize = 256;

/// Largest payload that is believed: a full block and the largest cell behind it.
const PAYLOAD_BYTES_MAX: usize =
    BLOCK_BYTES + 6 + KEY_BYTES_MAX + VALUE_BYTES_MAX + CELL_OVERHEAD_MAX;

/// Where a snapshot comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotOrigin {
    /// It was taken of this node's own engine: its journal has what the newest cell is from.
    Taken,
    /// It was taken elsewhere: the log up to its newest cell may still have to come.
    Received,
}

/// What a snapshot is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotHeader {
    /// Whose directory it is in; in transit, who took it.
    pub node: NodeId,
    /// Where it comes from.
    pub origin: SnapshotOrigin,
    /// Of which partition.
    pub partition: PartitionId,
    /// The reign of the record at `seq`.
    pub epoch: Epoch,
    /// Every record up to here is in it.
    pub seq: Seq,
    /// The hash over the history up to `seq`, which ends a segment.
    pub chain: ChainHash,
    /// No record above here is in it. What it shows is a state of the partition only once the log
    /// from `seq` up to here has been folded over it.
    pub newest_seq: Seq,
    /// Blocks after the header.
    pub blocks: u64,
    /// Cells in them.
    pub cells: u64,
    /// Bytes of the whole file.
    pub file_bytes: u64,
    /// When it was taken, in ms since 1970.
    pub taken_at_ms: u64,
}

/// A write by its request id: what is remembered of it, so that it is not done twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptRequest {
    /// Under which id it was asked for.
    pub request_id: RequestId,
    /// Its place in the log.
    pub seq: Seq,
    /// The hash of its content.
    pub fingerprint: u64,
    /// When the home sequenced it.
    pub hlc: Hlc,
    /// The level promised to its writer.
    pub level: AckLevel,
}

impl KeptRequest {
    /// What is remembered of a record; nothing of a mark.
    #[must_use]
    pub fn of(seq: Seq, record: &Record) -> Option<Self> {
        (record.head.kind == RecordKind::Write).then(|| Self {
            request_id: record.head.request_id,
            seq,
            fingerprint: record.body.fingerprint(),
            hlc: record.head.hlc,
            level: record.head.level,
        })
    }
}

/// What a block holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Block {
    /// Every reign with its first record.
    Reigns(Vec<(Epoch, Seq)>),
    /// The last writes up to the snapshot's position, in order.
    Requests(Vec<KeptRequest>),
    /// Cells: key, and value as it lies in a row.
    Cells(Vec<(Bytes, Bytes)>),
}

impl SnapshotHeader {
    /// The header in transit.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        Bytes::from(self.encode()).slice(..FIELD_BYTES + 4)
    }

    /// The inverse of [`SnapshotHeader::to_bytes`].
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::UnknownFormat`], with `source` for the path.
    pub fn from_bytes(bytes: &[u8], source: &str) -> Result<Self, StoreError> {
        Self::decode(bytes, Path::new(source))
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut buffer = BytesMut::with_capacity(HEADER_BYTES as usize);
        buffer.put_slice(&MAGIC);
        buffer.put_u16_le(VERSION);
        buffer.put_u16_le(match self.origin {
            SnapshotOrigin::Taken => 0,
            SnapshotOrigin::Received => FLAG_RECEIVED,
        });
        buffer.put_u64_le(self.node.get());
        buffer.put_slice(&self.partition.to_bytes());
        buffer.put_u64_le(self.epoch.counter);
        buffer.put_u64_le(self.epoch.node.get());
        buffer.put_u64_le(self.seq.get());
        buffer.put_u64_le(self.chain.bits());
        buffer.put_u64_le(self.newest_seq.get());
        buffer.put_u64_le(self.blocks);
        buffer.put_u64_le(self.cells);
        buffer.put_u64_le(self.file_bytes);
        buffer.put_u64_le(self.taken_at_ms);
        assert!(buffer.len() == FIELD_BYTES, "{} bytes", buffer.len());
        let crc = crc32fast::hash(&buffer);
        buffer.put_u32_le(crc);
        buffer.resize(HEADER_BYTES as usize, 0);
        buffer.to_vec()
    }

    /// The inverse of [`SnapshotHeader::encode`].
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] for damage, [`StoreError::UnknownFormat`] for another version.
    pub(crate) fn decode(bytes: &[u8], path: &Path) -> Result<Self, StoreError> {
        let corrupt = |problem: String| StoreError::corrupt(path, 0, problem);
        let Some(fields) = bytes.first_chunk::<{ FIELD_BYTES + 4 }>() else {
            return Err(corrupt(format!("{WHAT} header of {} bytes", bytes.len())));
        };
        if fields[..4] != MAGIC {
            let problem = format!("bad magic of the {WHAT} header: {:02x?}", &fields[..4]);
            return Err(corrupt(problem));
        }
        let (fields, mut crc) = fields.split_at(FIELD_BYTES);
        let (stored, computed) = (crc.get_u32_le(), crc32fast::hash(fields));
        if stored != computed {
            return Err(corrupt(format!(
                "checksum mismatch of the {WHAT} header: stored {stored:#010x}, computed \
                 {computed:#010x}"
            )));
        }
        let mut fields = &fields[4..];
        let version = fields.get_u16_le();
        if version != VERSION {
            return Err(StoreError::UnknownFormat {
                what: WHAT,
                path: path.to_owned(),
                actual: version.into(),
                supported: VERSION.into(),
            });
        }
        Self::decode_fields(fields).ok_or_else(|| {
            corrupt(format!(
                "{WHAT} header whose checksum holds and whose fields do not"
            ))
        })
    }

    /// The fields behind the version; `None` if they contradict each other.
    fn decode_fields(mut fields: &[u8]) -> Option<Self> {
        let origin = match fields.get_u16_le() {
            0 => SnapshotOrigin::Taken,
            FLAG_RECEIVED => SnapshotOrigin::Received,
            _ => return None,
        };
        let node = NodeId::new(fields.get_u64_le()).ok()?;
        let mut partition = [0; PartitionId::BYTES];
        fields.copy_to_slice(&mut partition);
        let header = Self {
            node,
            origin,
            partition: PartitionId::from_bytes(partition).ok()?,
            epoch: get_epoch(&mut fields)?,
            seq: Seq::new(fields.get_u64_le()),
            chain: ChainHash::from_bits(fields.get_u64_le()),
            newest_seq: Seq::new(fields.get_u64_le()),
            blocks: fields.get_u64_le(),
            cells: fields.get_u64_le(),
            file_bytes: fields.get_u64_le(),
            taken_at_ms: fields.get_u64_le(),
        };
        let last = Seq::new(u64::MAX);
        let fits = header.seq > Seq::NONE && header.newest_seq >= header.seq;
        let fits = fits && header.newest_seq < last;
        fits.then_some(header)
    }
}

/// A block being filled with cells.
#[derive(Debug, Default)]
pub(crate) struct CellBlock {
    payload: BytesMut,
    /// Of keys and values, as they are when they are read.
    unpacked_bytes: usize,
    last_key: Vec<u8>,
    /// The front of the last value.
    last_value: Vec<u8>,
}

impl CellBlock {
    pub(crate) fn push(&mut self, key: &[u8], value: &[u8]) {
        let front = &value[..value.len().min(COMMON_VALUE_BYTES_MAX)];
        let (key_common, value_common) =
            (common(&self.last_key, key), common(&self.last_value, front));
        let (own_key, own_value) = (&key[key_common..], &value[value_common..]);
        for number in [key_common, own_key.len(), value_common, own_value.len()] {
            put_varint(&mut self.payload, number as u64);
        }
        self.payload.put_slice(own_key);
        self.payload.put_slice(own_value);
        self.unpacked_bytes += key.len() + value.len();
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
        self.last_value.clear();
        self.last_value.extend_from_slice(front);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.payload.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.payload.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.unpacked_bytes.max(self.payload.len()) >= BLOCK_BYTES
    }

    /// The block's bytes; empty again afterwards.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        let full = std::mem::take(self);
        encode_block(KIND_PACKED_CELLS, &full.payload)
    }
}

/// How many bytes two have in common at their front.
fn common(one: &[u8], other: &[u8]) -> usize {
    let pairs = one.iter().zip(other);
    pairs.take_while(|(one, other)| one == other).count()
}

pub(crate) fn encode_reigns(reigns: &[(Epoch, Seq)]) -> Vec<u8> {
    let mut payload = BytesMut::with_capacity(24 * reigns.len());
    for (epoch, first_seq) in reigns {
        payload.put_u64_le(epoch.counter);
        payload.put_u64_le(epoch.node.get());
        payload.put_u64_le(first_seq.get());
    }
    encode_block(KIND_REIGNS, &payload)
}

pub(crate) fn encode_requests(requests: &[KeptRequest]) -> Vec<u8> {
    let mut payload = BytesMut::with_capacity(REQUEST_BYTES * requests.len());
    for request in requests {
        payload.put_u128_le(request.request_id.get());
        payload.put_u64_le(request.seq.get());
        payload.put_u64_le(request.fingerprint);
        payload.put_u64_le(request.hlc.bits());
        payload.put_u8(request.level.to_byte());
    }
    encode_block(KIND_REQUESTS, &payload)
}

fn encode_block(kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut block = Vec::with_capacity(BLOCK_HEADER_BYTES + payload.len());
    block.put_slice(&BLOCK_MAGIC);
    block.put_u16_le(kind);
    block.put_u16_le(0);
    block.put_u32_le(payload.len() as u32);
    block.put_u32_le(checksum(kind, payload));
    block.put_slice(payload);
    block
}

fn checksum(kind: u16, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&u32::from(kind).to_le_bytes());
    hasher.update(&(payload.len() as u32).to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

/// The head of a block: what its payload must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockHead {
    kind: u16,
    len: u32,
    crc: u32,
}

impl BlockHead {
    /// Reads a block's first [`BLOCK_HEADER_BYTES`].
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn decode(mut bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() < BLOCK_HEADER_BYTES {
            return Err(format!("block header of {} bytes", bytes.len()));
        }
        let magic = bytes.copy_to_bytes(4);
        if magic != BLOCK_MAGIC[..] {
            return Err(format!("bad magic of a block: {magic:02x?}"));
        }
        let (kind, zeros) = (bytes.get_u16_le(), bytes.get_u16_le());
        if zeros != 0 {
            return Err(format!(
                "{zeros:#06x} in a block's header, where zeros belong"
            ));
        }
        let (len, crc) = (bytes.get_u32_le(), bytes.get_u32_le());
        if len as usize > PAYLOAD_BYTES_MAX {
            return Err(format!("block of {len} bytes, limit {PAYLOAD_BYTES_MAX}"));
        }
        Ok(Self { kind, len, crc })
    }

    pub(crate) fn payload_bytes(self) -> usize {
        self.len as usize
    }

    /// Reads the payload.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn decode_payload(self, payload: &Bytes) -> Result<Block, String> {
        let computed = checksum(self.kind, payload);
        let is_sound = computed == self.crc || is_planted(Bug::AcceptBadChecksum);
        if payload.len() != self.payload_bytes() || !is_sound {
            return Err(format!(
                "checksum mismatch of a block: stored {:#010x}, computed {computed:#010x}",
                self.crc
            ));
        }
        match self.kind {
            KIND_REIGNS => decode_reigns(payload).map(Block::Reigns),
            KIND_REQUESTS => decode_requests(payload).map(Block::Requests),
            KIND_CELLS => decode_cells(payload.clone()).map(Block::Cells),
            KIND_PACKED_CELLS => decode_packed_cells(payload).map(Block::Cells),
            kind => Err(format!("block of kind {kind}, unknown to this version")),
        }
    }
}

fn decode_reigns(mut payload: &[u8]) -> Result<Vec<(Epoch, Seq)>, String> {
    let problem = || format!("reigns of {} bytes", payload.len());
    if !payload.len().is_multiple_of(24) {
        return Err(problem());
    }
    let mut reigns = Vec::with_capacity(payload.len() / 24);
    while !payload.is_empty() {
        let epoch = get_epoch(&mut payload).ok_or("reign of node 0")?;
        reigns.push((epoch, Seq::new(payload.get_u64_le())));
    }
    Ok(reigns)
}

fn decode_requests(mut payload: &[u8]) -> Result<Vec<KeptRequest>, String> {
    if !payload.len().is_multiple_of(REQUEST_BYTES) {
        return Err(format!("requests of {} bytes", payload.len()));
    }
    let mut requests = Vec::with_capacity(payload.len() / REQUEST_BYTES);
    while !payload.is_empty() {
        requests.push(KeptRequest {
            request_id: RequestId::new(payload.get_u128_le()).map_err(|_| "request id 0")?,
            seq: Seq::new(payload.get_u64_le()),
            fingerprint: payload.get_u64_le(),
            hlc: Hlc::from_bits(payload.get_u64_le()),
            level: AckLevel::from_byte(payload.get_u8()).ok_or("request of an unknown level")?,
        });
    }
    Ok(requests)
}

fn decode_cells(mut payload: Bytes) -> Result<Vec<(Bytes, Bytes)>, String> {
    let mut cells = Vec::new();
    while payload.has_remaining() {
        if payload.len() < 6 {
            return Err(format!("{} bytes behind the last cell", payload.len()));
        }
        let (key, value) = (payload.get_u16_le().into(), payload.get_u32_le() as usize);
        if payload.len() < key + value {
            let left = payload.len();
            return Err(format!("cell of {key} + {value} bytes, {left} left"));
        }
        cells.push((payload.split_to(key), payload.split_to(value)));
    }
    Ok(cells)
}

fn decode_packed_cells(payload: &[u8]) -> Result<Vec<(Bytes, Bytes)>, String> {
    // Where keys and values end in the bytes of all of them.
    let (mut bytes, mut ends) = (Vec::with_capacity(payload.len()), Vec::new());
    let (mut last_key, mut last_value) = (0..0, 0..0);
    let mut rest = payload;
    while !rest.is_empty() {
        let at = payload.len() - rest.len();
        let mut packed = || {
            let lens = [
                take_varint(&mut rest)?,
                take_varint(&mut rest)?,
                take_varint(&mut rest)?,
                take_varint(&mut rest)?,
            ];
            let lens = lens.map(|len| usize::try_from(len).unwrap_or(usize::MAX));
            let [key_common, own_key, value_common, own_value] = lens;
            let (own_key, own) = rest.split_at_checked(own_key)?;
            let (own_value, left) = own.split_at_checked(own_value)?;
            rest = left;
            let fits = key_common <= last_key.len() && value_common <= last_value.len();
            fits.then_some((key_common, own_key, value_common, own_value))
        };
        let Some((key_common, own_key, value_common, own_value)) = packed() else {
            return Err(format!("no cell in byte {at} of a block's payload"));
        };
        let unpacked = key_common + own_key.len() + value_common + own_value.len();
        if bytes.len() + unpacked > PAYLOAD_BYTES_MAX {
            return Err(format!(
                "cells of more than {PAYLOAD_BYTES_MAX} bytes in a block of {}",
                payload.len()
            ));
        }
        let key_at = bytes.len();
        bytes.extend_from_within(last_key.start..last_key.start + key_common);
        bytes.extend_from_slice(own_key);
        let value_at = bytes.len();
        bytes.extend_from_within(last_value.start..last_value.start + value_common);
        bytes.extend_from_slice(own_value);
        (last_key, last_value) = (key_at..value_at, value_at..bytes.len());
        ends.push((value_at, bytes.len()));
    }
    let mut bytes = Bytes::from(bytes);
    let mut at = 0;
    let split = |(value_at, end)| {
        let cell = (
            bytes.split_to(value_at - at),
            bytes.split_to(end - value_at),
        );
        at = end;
        cell
    };
    Ok(ends.into_iter().map(split).collect())
}

fn get_epoch(bytes: &mut &[u8]) -> Option<Epoch> {
    let counter = bytes.get_u64_le();
    let node = NodeId::new(bytes.get_u64_le()).ok()?;
    Some(Epoch { counter, node })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whoever can write a checksum can write anything behind it.
        #[test]
        fn no_bytes_make_a_decoder_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..400),
            kind in 0..6_u16,
        ) {
            let path = Path::new("/snapshot");
            let _ = SnapshotHeader::decode(&bytes, path);
            let mut fields = [&MAGIC[..], &VERSION.to_le_bytes(), &bytes[..]].concat();
            fields.resize(FIELD_BYTES, 0);
            fields.extend(crc32fast::hash(&fields).to_le_bytes());
            let _ = SnapshotHeader::decode(&fields, path);
            let _ = BlockHead::decode(&bytes);
            let block = encode_block(kind, &bytes);
            let head = BlockHead::decode(&block).unwrap();
            let payload = Bytes::copy_from_slice(&block[BLOCK_HEADER_BYTES..]);
            prop_assert_eq!(&payload[..], &bytes[..]);
            let _ = head.decode_payload(&payload);
        }

        #[test]
        fn packed_cells_come_back(
            cells in prop::collection::vec(
                (prop::collection::vec(0..3_u8, 1..12), prop::collection::vec(0..2_u8, 0..80)),
                1..40,
            ),
        ) {
            let mut block = CellBlock::default();
            let mut old = Vec::new();
            for (key, value) in &cells {
                block.push(key, value);
                old.put_u16_le(key.len() as u16);
                old.put_u32_le(value.len() as u32);
                old.put_slice(key);
                old.put_slice(value);
            }
            let packed = block.finish();
            prop_assert!(block.is_empty());
            let cells = cells.into_iter().map(|(key, value)| (key.into(), value.into()));
            let expected = Block::Cells(cells.collect());
            for block in [packed, encode_block(KIND_CELLS, &old)] {
                let head = BlockHead::decode(&block).unwrap();
                let payload = Bytes::copy_from_slice(&block[BLOCK_HEADER_BYTES..]);
                prop_assert_eq!(&head.decode_payload(&payload).unwrap(), &expected);
            }
        }
    }

    #[test]
    fn packed_cells_are_refused_before_they_fill_the_memory() {
        let mut bomb = BytesMut::new();
        let value = vec![b'v'; BLOCK_BYTES];
        for number in [0, 1, 0, value.len()] {
            put_varint(&mut bomb, number as u64);
        }
        bomb.put_slice(b"k");
        bomb.put_slice(&value);
        for _ in 0..10_000 {
            for number in [1, 0, value.len(), 0] {
                put_varint(&mut bomb, number as u64);
            }
        }
        let refused = decode_packed_cells(&bomb).unwrap_err();
        assert_eq!(
            refused,
            format!(
                "cells of more than {PAYLOAD_BYTES_MAX} bytes in a block of {}",
                bomb.len()
            )
        );
        for lying in [
            &[1, 1, 0, 0, b'k'][..],
            &[0, 1, 1, 0, b'k'],
            &[0, 9, 0, 0, b'k'],
            &[0x80],
        ] {
            let refused = decode_packed_cells(lying).unwrap_err();
            assert_eq!(refused, "no cell in byte 0 of a block's payload");
        }
        assert!(decode_packed_cells(&[0xff; 40]).is_err());
    }
}
