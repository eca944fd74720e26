//! A key as the overlay holds it: short ones lie in the map itself.
//!
//! **Owns**: the choice between the two places, the order.
//! **Does not own**: the limits of keys (`proto`).
//!
//! A search in a map of keys that lie elsewhere waits for memory at every comparison: with 100,000
//! keys that was most of a fold's time.

use std::borrow::Borrow;
use std::cmp::Ordering;

use bytes::Bytes;

/// Longest key held in place: with its length and the enum's tag it makes the key 40 bytes, which
/// is what the other variant takes. Longer ones would make every slot of a map larger.
const INLINE_BYTES_MAX: usize = 38;

/// A key that owns its bytes.
#[derive(Debug, Clone)]
pub(super) struct CellKey(Place);

#[derive(Debug, Clone)]
enum Place {
    Inline {
        len: u8,
        bytes: [u8; INLINE_BYTES_MAX],
    },
    Heap(Bytes),
}

impl CellKey {
    pub(super) fn copy_from_slice(key: &[u8]) -> Self {
        if key.len() > INLINE_BYTES_MAX {
            return Self(Place::Heap(Bytes::copy_from_slice(key)));
        }
        let mut bytes = [0; INLINE_BYTES_MAX];
        bytes[..key.len()].copy_from_slice(key);
        Self(Place::Inline {
            len: key.len() as u8,
            bytes,
        })
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        match &self.0 {
            Place::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Place::Heap(bytes) => bytes,
        }
    }

    pub(super) fn to_bytes(&self) -> Bytes {
        match &self.0 {
            Place::Inline { .. } => Bytes::copy_from_slice(self.as_slice()),
            Place::Heap(bytes) => bytes.clone(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.as_slice().len()
    }
}

/// Maps are searched by slices: the order is that of the slices.
impl Borrow<[u8]> for CellKey {
    fn borrow(&self) -> &[u8] {
        self.as_slice()
    }
}

impl PartialEq for CellKey {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for CellKey {}

impl PartialOrd for CellKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for CellKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_slice().cmp(other.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_every_length_keep_their_bytes_and_order() {
        let keys: Vec<Vec<u8>> = [0, 1, 37, 38, 39, 40, 1_024]
            .iter()
            .flat_map(|len| [0u8, 1, 0xff].map(|fill| vec![fill; *len]))
            .collect();
        for key in &keys {
            let held = CellKey::copy_from_slice(key);
            assert_eq!((held.as_slice(), held.len()), (&key[..], key.len()));
            assert_eq!(held.to_bytes(), key);
            for other in &keys {
                let other_held = CellKey::copy_from_slice(other);
                assert_eq!(held.cmp(&other_held), key.cmp(other));
            }
        }
    }

    #[test]
    fn a_key_takes_no_more_than_the_larger_place() {
        assert_eq!(size_of::<CellKey>(), 40);
    }
}
