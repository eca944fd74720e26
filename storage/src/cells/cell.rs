//! A cell: the current value of a key, and how it lies in a row.
//!
//! **Owns**: the cell, what reads answer, the byte layout of a cell's row value.
//! **Does not own**: expiry (the home writes a record; cells past their time are still cells), the
//! index of expiries (`rows`, `due`).
//!
//! ```text
//! flags u8 | generation u32 | epoch counter u64 | epoch node u64 | seq u64 | hlc u64 |
//! [expires at, ms u64] | value
//! ```
//! Little-endian. A deleted key has no row.

use bytes::{BufMut, Bytes, BytesMut};
use domicile_proto::{Epoch, Hlc, NodeId, Seq, Version};

use crate::engine::EngineError;

const FLAG_EXPIRES: u8 = 1;

/// Bytes before the value, without an expiry: the sum of the layout above.
const HEAD_BYTES: usize = 37;

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
        let mut buffer = BytesMut::with_capacity(HEAD_BYTES + 8 + value.len());
        buffer.put_u8(if self.expires_at_ms.is_some() {
            FLAG_EXPIRES
        } else {
            0
        });
        buffer.put_u32_le(self.version.generation);
        buffer.put_u64_le(self.version.epoch.counter);
        buffer.put_u64_le(self.version.epoch.node.get());
        buffer.put_u64_le(self.version.seq.get());
        buffer.put_u64_le(self.hlc.bits());
        if let Some(expires_at_ms) = self.expires_at_ms {
            buffer.put_u64_le(expires_at_ms);
        }
        buffer.put_slice(value);
        Some(buffer.freeze())
    }

    /// The expiry in a row value, without the rest.
    pub(super) fn stored_expiry(stored: &[u8]) -> Result<Option<u64>, EngineError> {
        let found = match stored.first() {
            Some(0) => Some(None),
            Some(&FLAG_EXPIRES) => {
                let tail = stored.get(HEAD_BYTES..).and_then(<[u8]>::first_chunk::<8>);
                tail.map(|bytes| Some(u64::from_le_bytes(*bytes)))
            }
            _ => None,
        };
        found.ok_or_else(|| damage(stored))
    }

    /// The inverse of [`Cell::encode`].
    pub(super) fn decode(stored: &Bytes) -> Result<Self, EngineError> {
        Self::try_decode(stored).ok_or_else(|| damage(stored))
    }

    fn try_decode(stored: &Bytes) -> Option<Self> {
        let (head, rest) = stored.split_first_chunk::<HEAD_BYTES>()?;
        let u64_at = |at: usize| head[at..at + 8].try_into().ok().map(u64::from_le_bytes);
        let generation = u32::from_le_bytes(head[1..5].try_into().ok()?);
        let epoch = Epoch {
            counter: u64_at(5)?,
            node: NodeId::new(u64_at(13)?).ok()?,
        };
        let version = Version {
            generation,
            epoch,
            seq: Seq::new(u64_at(21)?),
        };
        let (expires_at_ms, value_at) = match head[0] {
            0 => (None, HEAD_BYTES),
            FLAG_EXPIRES => {
                let expires = rest.first_chunk::<8>()?;
                (Some(u64::from_le_bytes(*expires)), HEAD_BYTES + 8)
            }
            _ => return None,
        };
        Some(Self {
            version,
            value: Some(stored.slice(value_at..)),
            expires_at_ms,
            hlc: Hlc::from_bits(u64_at(29)?),
        })
    }
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

    #[test]
    fn a_cell_comes_back_from_its_row() {
        for value in [&b""[..], b"v", &[0xff; 100]] {
            for expires_at_ms in [None, Some(0), Some(u64::MAX)] {
                let cell = cell(Some(value), expires_at_ms);
                let stored = cell.encode().unwrap();
                assert_eq!(Cell::decode(&stored).unwrap(), cell);
                assert_eq!(Cell::stored_expiry(&stored).unwrap(), expires_at_ms);
            }
        }
        assert_eq!(cell(None, None).encode(), None);
    }

    #[test]
    fn the_layout_of_a_row_is_fixed() {
        let bytes = cell(Some(b"v"), Some(6)).encode().unwrap();
        let expected = [
            &[1, 1, 0, 0, 0][..],
            &[2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0],
            &[4, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0],
            &[6, 0, 0, 0, 0, 0, 0, 0, b'v'],
        ];
        assert_eq!(bytes, expected.concat());
    }

    #[test]
    fn other_bytes_are_damage() {
        let whole = cell(Some(b""), Some(6)).encode().unwrap();
        for len in 0..whole.len() {
            assert!(
                Cell::decode(&whole.slice(..len)).is_err(),
                "{len} bytes were accepted"
            );
            assert!(Cell::stored_expiry(&whole[..len]).is_err());
        }
        let mut flags = whole.to_vec();
        flags[0] = 2;
        assert!(Cell::decode(&flags.into()).is_err());
        let mut node = whole.to_vec();
        node[13] = 0;
        assert!(Cell::decode(&node.into()).is_err());
    }
}
