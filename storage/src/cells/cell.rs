//! A cell: the current value of a key, and how it lies in a row.
//!
//! **Owns**: the cell, what reads answer, the byte layout of a cell's row value.
//! **Does not own**: expiry (the home writes a record; cells past their time are still cells), the
//! index of expiries (`rows`, `due`).
//!
//! ```text
//! flags u8 (1: expires, 2: generation, 128: packed) | epoch counter, varint | epoch node u64
//!   | hlc u64, big-endian | seq, varint | [generation, varint] | [expires at, ms u64] | value
//! without the flag 128, as written until it came:
//! flags u8 | generation u32 | epoch counter u64 | epoch node u64 | seq u64 | hlc u64
//!   | [expires at, ms u64] | value
//! ```
//! Little-endian otherwise; varints are LEB128. A deleted key has no row. First comes what cells
//! beside each other have in common: a snapshot writes it once.

use bytes::{BufMut, Bytes, BytesMut};
use domicile_proto::{Epoch, Hlc, NodeId, Seq, Version};

use crate::engine::EngineError;
use crate::varint::{VARINT_BYTES_MAX, put_varint, take_varint};

// Flags are part of the format: a new one takes the next bit.
const FLAG_EXPIRES: u8 = 1;
// As above: the group was handed over, and its generation is no longer 0.
const FLAG_GENERATION: u8 = 2;
// The highest, which nothing older ever set.
const FLAG_PACKED: u8 = 128;

/// Bytes before the value at most: the sum of the first layout above, with its varints at their
/// longest.
const HEAD_BYTES_MAX: usize = 1 + 8 + 8 + 8 + 3 * VARINT_BYTES_MAX;

/// What is before the value.
struct Head {
    version: Version,
    hlc: Hlc,
    expires_at_ms: Option<u64>,
    /// Where the value begins.
    value_at: usize,
}

/// The current value of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// Which write it is from.
    pub version: Version,
    /// The value; `None` if that write deleted the key.
    pub value: Option<Bytes>,
    /// When it expires, in ms since 1970.
    pub expires_at_ms: Option<u64>,
    /// When the home sequenced the write.
    pub hlc: Hlc,
}

/// What a point read saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CellRead {
    /// The cell, always with a value; `None` if the key does not exist.
    pub cell: Option<Cell>,
    /// The read saw every record up to here and none after.
    pub applied_upto: Seq,
}

/// What a range read saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CellScan {
    /// Keys and their cells, always with a value, in the direction's order. May be fewer than
    /// asked for, even none, while there are more: large values and deleted keys end a scan early.
    pub rows: Vec<(Bytes, Cell)>,
    /// The scan saw every record up to here and none after, in all its rows.
    pub applied_upto: Seq,
    /// Set if there may be more: the next scan starts strictly after this key in the direction.
    pub resume_after: Option<Bytes>,
}

impl CellScan {
    /// Whether there may be more rows.
    #[must_use]
    pub fn more(&self) -> bool {
        self.resume_after.is_some()
    }
}

impl Cell {
    /// The value of the cell's row; `None` if it has none, as the key was deleted.
    pub(super) fn encode(&self) -> Option<Bytes> {
        let value = self.value.as_ref()?;
        let Version {
            generation,
            epoch,
            seq,
        } = self.version;
        let mut buffer = BytesMut::with_capacity(HEAD_BYTES_MAX + value.len());
        let expires = self.expires_at_ms.map_or(0, |_| FLAG_EXPIRES);
        let moved = if generation > 0 { FLAG_GENERATION } else { 0 };
        buffer.put_u8(FLAG_PACKED | expires | moved);
        put_varint(&mut buffer, epoch.counter);
        buffer.put_u64_le(epoch.node.get());
        buffer.put_u64(self.hlc.bits());
        put_varint(&mut buffer, seq.get());
        if generation > 0 {
            put_varint(&mut buffer, generation.into());
        }
        if let Some(expires_at_ms) = self.expires_at_ms {
            buffer.put_u64_le(expires_at_ms);
        }
        buffer.put_slice(value);
        Some(buffer.freeze())
    }

    /// The expiry in a row value, without the rest.
    pub(super) fn stored_expiry(stored: &[u8]) -> Result<Option<u64>, EngineError> {
        let head = Head::decode(stored).ok_or_else(|| damage(stored))?;
        Ok(head.expires_at_ms)
    }

    /// The inverse of [`Cell::encode`].
    pub(super) fn decode(stored: &Bytes) -> Result<Self, EngineError> {
        let head = Head::decode(stored).ok_or_else(|| damage(stored))?;
        Ok(Self {
            version: head.version,
            value: Some(stored.slice(head.value_at..)),
            expires_at_ms: head.expires_at_ms,
            hlc: head.hlc,
        })
    }
}

impl Head {
    fn decode(stored: &[u8]) -> Option<Self> {
        let (flags, mut rest) = stored.split_first()?;
        let (generation, counter, node, seq, hlc);
        if flags & FLAG_PACKED != 0 {
            counter = take_varint(&mut rest)?;
            node = u64::from_le_bytes(take(&mut rest)?);
            hlc = u64::from_be_bytes(take(&mut rest)?);
            seq = take_varint(&mut rest)?;
            generation = match flags & FLAG_GENERATION {
                0 => 0,
                _ => u32::try_from(take_varint(&mut rest)?).ok()?,
            };
        } else {
            generation = u32::from_le_bytes(take(&mut rest)?);
            counter = u64::from_le_bytes(take(&mut rest)?);
            node = u64::from_le_bytes(take(&mut rest)?);
            seq = u64::from_le_bytes(take(&mut rest)?);
            hlc = u64::from_le_bytes(take(&mut rest)?);
        }
        let known = match flags & FLAG_PACKED {
            0 => FLAG_EXPIRES,
            _ => FLAG_EXPIRES | FLAG_GENERATION | FLAG_PACKED,
        };
        if flags & !known != 0 {
            return None;
        }
        let expires_at_ms = match flags & FLAG_EXPIRES {
            0 => None,
            _ => Some(u64::from_le_bytes(take(&mut rest)?)),
        };
        let node = NodeId::new(node).ok()?;
        Some(Self {
            version: Version {
                generation,
                epoch: Epoch { counter, node },
                seq: Seq::new(seq),
            },
            hlc: Hlc::from_bits(hlc),
            expires_at_ms,
            value_at: stored.len() - rest.len(),
        })
    }
}

fn take<const LEN: usize>(bytes: &mut &[u8]) -> Option<[u8; LEN]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}

fn damage(stored: &[u8]) -> EngineError {
    EngineError::Corrupt {
        what: "cell",
        detail: format!("row value of {} bytes is no cell", stored.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(value: Option<&'static [u8]>, expires_at_ms: Option<u64>) -> Cell {
        let epoch = Epoch {
            counter: 2,
            node: NodeId::new(3).unwrap(),
        };
        Cell {
            version: Version {
                generation: 1,
                epoch,
                seq: Seq::new(4),
            },
            value: value.map(Bytes::from_static),
            expires_at_ms,
            hlc: Hlc::from_bits(5),
        }
    }

    /// A cell as rows had it until there were packed ones.
    fn unpacked(cell: &Cell) -> Bytes {
        let Version {
            generation,
            epoch,
            seq,
        } = cell.version;
        let expiry = cell.expires_at_ms.map(u64::to_le_bytes);
        [
            &[u8::from(expiry.is_some())][..],
            &generation.to_le_bytes(),
            &epoch.counter.to_le_bytes(),
            &epoch.node.get().to_le_bytes(),
            &seq.get().to_le_bytes(),
            &cell.hlc.bits().to_le_bytes(),
            expiry.as_ref().map_or(&[], |bytes| &bytes[..]),
            cell.value.as_deref().unwrap_or_default(),
        ]
        .concat()
        .into()
    }

    #[test]
    fn a_cell_comes_back_from_its_row() {
        for value in [&b""[..], b"v", &[0xff; 100]] {
            for expires_at_ms in [None, Some(0), Some(u64::MAX)] {
                for (generation, number) in [(0, 0), (1, 127), (u32::MAX, u64::MAX)] {
                    let mut cell = cell(Some(value), expires_at_ms);
                    cell.version.generation = generation;
                    cell.version.epoch.counter = number;
                    cell.version.seq = Seq::new(number);
                    cell.hlc = Hlc::from_bits(number);
                    for stored in [cell.encode().unwrap(), unpacked(&cell)] {
                        assert_eq!(Cell::decode(&stored).unwrap(), cell);
                        assert_eq!(Cell::stored_expiry(&stored).unwrap(), expires_at_ms);
                    }
                }
            }
        }
        assert_eq!(cell(None, None).encode(), None);
    }

    #[test]
    fn the_layout_of_a_row_is_fixed() {
        let bytes = cell(Some(b"v"), Some(6)).encode().unwrap();
        let expected = [
            &[0x83, 2, 3, 0, 0, 0, 0, 0, 0, 0][..],
            &[0, 0, 0, 0, 0, 0, 0, 5, 4, 1],
            &[6, 0, 0, 0, 0, 0, 0, 0, b'v'],
        ];
        assert_eq!(bytes, expected.concat());
        let mut never_moved = cell(Some(b"v"), None);
        never_moved.version.generation = 0;
        let bytes = never_moved.encode().unwrap();
        let expected = [
            &[0x80, 2, 3, 0, 0, 0, 0, 0, 0, 0][..],
            &[0, 0, 0, 0, 0, 0, 0, 5, 4, b'v'],
        ];
        assert_eq!(bytes, expected.concat());
    }

    #[test]
    fn other_bytes_are_damage() {
        let cell = cell(Some(b""), Some(6));
        let (packed, unpacked) = (cell.encode().unwrap(), unpacked(&cell));
        for (whole, unknown_flag, node_at) in [(packed, 4, 2), (unpacked, 2, 13)] {
            for len in 0..whole.len() {
                assert!(
                    Cell::decode(&whole.slice(..len)).is_err(),
                    "{len} bytes were accepted"
                );
                assert!(Cell::stored_expiry(&whole[..len]).is_err());
            }
            let mut flags = whole.to_vec();
            flags[0] |= unknown_flag;
            assert!(Cell::decode(&flags.into()).is_err());
            let mut node = whole.to_vec();
            node[node_at] = 0;
            assert!(Cell::decode(&node.into()).is_err());
        }
    }
}
