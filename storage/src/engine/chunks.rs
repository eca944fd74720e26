//! How a value larger than a chunk is laid over several rows of an engine.
//!
//! **Owns**: the layout of stored values, its limits and its checks.
//! **Does not own**: writing and reading the rows (the engine that needs chunks).
//!
//! ```text
//! stored value of a row:   0 | value                      up to CHUNK_BYTES
//!                          1 | length u32 | crc32 u32     above; the value is in chunk rows
//! chunk row:               0xff | row | index u32, big-endian  ->  up to CHUNK_BYTES of the value
//! ```

use bytes::Bytes;

use super::error::EngineError;
use super::rows::TAG_ENGINE;

/// Largest value stored in one row: 4 KiB. sled packs up to 17 rows into a node and moves nodes
/// above 128 KiB to files of their own, which leak; at twice the size, with keys, nodes get there.
pub(super) const CHUNK_BYTES: usize = 4096;

const TAG_WHOLE: u8 = 0;
const TAG_CHUNKED: u8 = 1;

/// What a row's own stored value says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Head<'a> {
    /// This is the value.
    Whole(&'a [u8]),
    /// The value is in chunk rows.
    Chunked(ChunkedValue),
}

/// The length and checksum of a value that lies in chunk rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChunkedValue {
    pub(super) bytes: usize,
    crc: u32,
}

impl ChunkedValue {
    fn of(value: &[u8]) -> Self {
        Self {
            bytes: value.len(),
            crc: crc32fast::hash(value),
        }
    }

    /// How many chunk rows hold it.
    pub(super) fn chunks(self) -> usize {
        self.bytes.div_ceil(CHUNK_BYTES)
    }

    /// Whether these bytes are the value: chunks of two writes may be mixed while one is applied.
    pub(super) fn matches(self, value: &[u8]) -> bool {
        value.len() == self.bytes && crc32fast::hash(value) == self.crc
    }
}

impl<'a> Head<'a> {
    /// Reads the stored value of a row.
    pub(super) fn decode(stored: &'a [u8]) -> Result<Self, EngineError> {
        match stored {
            [TAG_WHOLE, value @ ..] => Ok(Self::Whole(value)),
            [TAG_CHUNKED, b0, b1, b2, b3, c0, c1, c2, c3] => {
                let bytes = u32::from_le_bytes([*b0, *b1, *b2, *b3]) as usize;
                let crc = u32::from_le_bytes([*c0, *c1, *c2, *c3]);
                Ok(Self::Chunked(ChunkedValue { bytes, crc }))
            }
            _ => Err(EngineError::Corrupt {
                what: "row",
                detail: format!(
                    "stored value of {} bytes with tag {:?}",
                    stored.len(),
                    stored.first()
                ),
            }),
        }
    }

    /// How many chunk rows belong to the row.
    pub(super) fn chunks(&self) -> usize {
        match self {
            Self::Whole(_) => 0,
            Self::Chunked(value) => value.chunks(),
        }
    }
}

/// The stored value of a row, and the chunks to be put beside it.
pub(super) fn encode(value: &[u8]) -> (Vec<u8>, impl ExactSizeIterator<Item = &[u8]>) {
    if value.len() <= CHUNK_BYTES {
        let mut stored = Vec::with_capacity(1 + value.len());
        stored.push(TAG_WHOLE);
        stored.extend_from_slice(value);
        return (stored, value[..0].chunks(CHUNK_BYTES));
    }
    let chunked = ChunkedValue::of(value);
    let mut stored = Vec::with_capacity(9);
    stored.push(TAG_CHUNKED);
    stored.extend_from_slice(&(chunked.bytes as u32).to_le_bytes());
    stored.extend_from_slice(&chunked.crc.to_le_bytes());
    (stored, value.chunks(CHUNK_BYTES))
}

/// The row of one chunk. The fixed width of the index keeps chunk rows of different rows apart.
pub(super) fn chunk_row(row: &[u8], index: usize) -> Bytes {
    let mut chunk = Vec::with_capacity(1 + row.len() + 4);
    chunk.push(TAG_ENGINE);
    chunk.extend_from_slice(row);
    chunk.extend_from_slice(&(index as u32).to_be_bytes());
    chunk.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_whole_up_to_one_chunk_and_chunked_above() {
        for len in [0, 1, CHUNK_BYTES] {
            let value = vec![7; len];
            let (stored, chunks) = encode(&value);
            assert_eq!(Head::decode(&stored).unwrap(), Head::Whole(&value));
            assert_eq!(chunks.len(), 0);
        }
        for len in [CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 1 << 20] {
            let value: Vec<u8> = (0..len).map(|index| index as u8).collect();
            let (stored, chunks) = encode(&value);
            let head = Head::decode(&stored).unwrap();
            assert_eq!(head.chunks(), chunks.len());
            assert_eq!(head, Head::Chunked(ChunkedValue::of(&value)));
            let Head::Chunked(chunked) = head else {
                unreachable!("asserted above")
            };
            let joined: Vec<u8> = chunks.flatten().copied().collect();
            assert!(chunked.matches(&joined));
            assert!(!chunked.matches(&joined[1..]));
        }
    }

    #[test]
    fn other_stored_values_are_damage() {
        for bad in [&[][..], &[2, 0], &[TAG_CHUNKED, 1, 2], &[TAG_CHUNKED; 10]] {
            assert!(Head::decode(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
