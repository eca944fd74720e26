//! Where a watch goes on: one position a partition, as bytes and as text.
//!
//! **Owns**: the token's form, and refusing what is none.
//! **Does not own**: whether the journal still has what follows (the node that is asked).
//!
//! ```text
//! version u8 | keyspace u32 | count | per partition, ascending:
//!   region | bucket | seq | unless seq is 0: reign as before 0, or 1 | counter | node u64
//! crc32 of all before it, u32
//! ```
//! Little-endian; numbers without a size are LEB128. The text is the same in hexadecimal.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::str::FromStr;

use bytes::{BufMut, Bytes, BytesMut};

use crate::identity::{Bucket, KeyspaceId, NodeId, PartitionId, RegionId};
use crate::position::{Epoch, Position, Seq};
use crate::wire::{Reader, WireError};

const WHAT: &str = "resume token";

/// The only version so far. Another one is refused: a token is kept by others for any time.
const VERSION: u8 = 1;

/// Most partitions of a token: those of a keyspace with the most regions and buckets (64 x 1,024).
pub const RESUME_POSITIONS_MAX: usize = 64 << 10;

/// Bytes of the checksum.
const CRC_BYTES: usize = 4;

/// Bits of a LEB128 byte that carry the number.
const LEB_BITS: u32 = 7;

/// How far a watcher has seen each partition of a keyspace. What follows these positions is what a
/// watch from here delivers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResumeToken {
    keyspace: KeyspaceId,
    positions: BTreeMap<PartitionId, Option<Position>>,
}

/// Why a text is not a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResumeTokenError {
    /// It is not hexadecimal.
    #[error("invalid resume token: {actual:?} is not hexadecimal")]
    NotHex {
        /// How it begins.
        actual: String,
    },
    /// Its bytes are not those of a token.
    #[error("invalid resume token: {0}")]
    Bytes(#[from] WireError),
}

impl ResumeToken {
    /// A token that has seen nothing of any partition yet.
    #[must_use]
    pub fn new(keyspace: KeyspaceId) -> Self {
        Self {
            keyspace,
            positions: BTreeMap::new(),
        }
    }

    /// Whose it is.
    #[must_use]
    pub fn keyspace(&self) -> KeyspaceId {
        self.keyspace
    }

    /// Everything of `partition` up to `position` is seen; `None`: before its first record.
    ///
    /// # Panics
    /// If the partition is of another keyspace, or there are more than [`RESUME_POSITIONS_MAX`].
    pub fn set(&mut self, partition: PartitionId, position: Option<Position>) {
        let (actual, own) = (partition.keyspace, self.keyspace);
        assert!(actual == own, "a partition of {actual} in a token of {own}");
        self.positions.insert(partition, position);
        let count = self.positions.len();
        assert!(
            count <= RESUME_POSITIONS_MAX,
            "a token of {count} partitions"
        );
    }

    /// Up to where a partition is seen; `None` if the token does not speak of it.
    #[must_use]
    pub fn get(&self, partition: PartitionId) -> Option<Option<Position>> {
        self.positions.get(&partition).copied()
    }

    /// The partitions in order, each with up to where it is seen.
    pub fn iter(&self) -> impl Iterator<Item = (PartitionId, Option<Position>)> {
        self.positions.iter().map(|(id, position)| (*id, *position))
    }

    /// Whether it speaks of no partition.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    /// Its bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        bytes.put_u8(VERSION);
        bytes.put_u32_le(self.keyspace.get());
        put_number(&mut bytes, self.positions.len() as u64);
        let mut reign = None;
        for (partition, position) in &self.positions {
            put_number(&mut bytes, partition.region.get().into());
            put_number(&mut bytes, partition.bucket.get().into());
            let Some(Position { epoch, seq }) = position else {
                put_number(&mut bytes, Seq::NONE.get());
                continue;
            };
            put_number(&mut bytes, seq.get());
            if reign == Some(*epoch) {
                bytes.put_u8(0);
                continue;
            }
            bytes.put_u8(1);
            put_number(&mut bytes, epoch.counter);
            bytes.put_u64_le(epoch.node.get());
            reign = Some(*epoch);
        }
        let crc = crc32fast::hash(&bytes);
        bytes.put_u32_le(crc);
        bytes.freeze()
    }

    /// The inverse of [`ResumeToken::to_bytes`].
    ///
    /// # Errors
    /// Bytes that are not those of a token, whole and unchanged.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, WireError> {
        let split = bytes.len().saturating_sub(CRC_BYTES);
        let (body, crc) = bytes.split_at(split);
        let stored = Reader::new(WHAT, crc).u32()?;
        let computed = crc32fast::hash(body);
        if stored != computed {
            return Err(WireError::Checksum {
                what: WHAT,
                stored,
                computed,
            });
        }
        let mut reader = Reader::new(WHAT, body);
        let version = reader.u8()?;
        if version != VERSION {
            return Err(WireError::UnknownVersion {
                what: WHAT,
                actual: version.into(),
                supported: VERSION.into(),
            });
        }
        let mut token = Self::new(KeyspaceId::new(reader.u32()?));
        let count = number(&mut reader)?;
        if count > RESUME_POSITIONS_MAX as u64 {
            return Err(invalid("number of positions", count));
        }
        let mut reign = None;
        for _ in 0..count {
            let (partition, position) = token.position(&mut reader, &mut reign)?;
            match token.positions.entry(partition) {
                Entry::Vacant(place) => place.insert(position),
                Entry::Occupied(_) => {
                    return Err(invalid(
                        "second position of a bucket",
                        partition.bucket.get().into(),
                    ));
                }
            };
        }
        match reader.remaining() {
            0 => Ok(token),
            more => Err(invalid("bytes after the last position", more as u64)),
        }
    }

    fn position(
        &self,
        reader: &mut Reader<'_>,
        reign: &mut Option<Epoch>,
    ) -> Result<(PartitionId, Option<Position>), WireError> {
        let region = number(reader)?;
        let region_id = u16::try_from(region).ok().map(RegionId::new);
        let Some(Ok(region)) = region_id else {
            return Err(invalid("region of a position", region));
        };
        let bucket = number(reader)?;
        let bucket = u16::try_from(bucket).map_err(|_| invalid("bucket of a position", bucket))?;
        let partition = PartitionId {
            keyspace: self.keyspace,
            region,
            bucket: Bucket::new(bucket),
        };
        let seq = Seq::new(number(reader)?);
        if seq == Seq::NONE {
            return Ok((partition, None));
        }
        if reader.u8()? != 0 {
            let counter = number(reader)?;
            let node = NodeId::new(reader.u64()?).map_err(|_| invalid("node of a position", 0))?;
            *reign = Some(Epoch { counter, node });
        }
        let epoch = reign.ok_or(invalid("reign of the first position", 0))?;
        Ok((partition, Some(Position { epoch, seq })))
    }
}

impl fmt::Display for ResumeToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.to_bytes();
        bytes
            .iter()
            .try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl FromStr for ResumeToken {
    type Err = ResumeTokenError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let not_hex = || ResumeTokenError::NotHex {
            actual: text.chars().take(20).collect(),
        };
        let digits: Option<Vec<u8>> = text
            .chars()
            .map(|digit| digit.to_digit(16).map(|digit| digit as u8))
            .collect();
        let digits = digits.filter(|digits| digits.len() % 2 == 0);
        let digits = digits.ok_or_else(not_hex)?;
        let bytes: Vec<u8> = digits
            .chunks(2)
            .map(|pair| pair[0] << 4 | pair[1])
            .collect();
        Ok(Self::from_bytes(&bytes)?)
    }
}

fn invalid(what: &'static str, actual: u64) -> WireError {
    WireError::Invalid { what, actual }
}

fn put_number(bytes: &mut BytesMut, mut number: u64) {
    while number >= 1 << LEB_BITS {
        bytes.put_u8(number as u8 | 1 << LEB_BITS);
        number >>= LEB_BITS;
    }
    bytes.put_u8(number as u8);
}

fn number(reader: &mut Reader<'_>) -> Result<u64, WireError> {
    let (mut number, mut shift) = (0_u64, 0);
    loop {
        let byte = reader.u8()?;
        let bits = u64::from(byte & !(1 << LEB_BITS));
        let fits = shift < u64::BITS && (bits << shift) >> shift == bits;
        if !fits {
            return Err(invalid("number above 64 bits in a resume token", bits));
        }
        number |= bits << shift;
        if byte == byte & !(1 << LEB_BITS) {
            return Ok(number);
        }
        shift += LEB_BITS;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn partition(region: u16, bucket: u16) -> PartitionId {
        PartitionId {
            keyspace: KeyspaceId::new(7),
            region: RegionId::new(region).unwrap(),
            bucket: Bucket::new(bucket),
        }
    }

    fn at(counter: u64, node: u64, seq: u64) -> Option<Position> {
        let node = NodeId::new(node).unwrap();
        let epoch = Epoch { counter, node };
        let seq = Seq::new(seq);
        Some(Position { epoch, seq })
    }

    fn token() -> ResumeToken {
        let mut token = ResumeToken::new(KeyspaceId::new(7));
        token.set(partition(1, 0), at(1, 9, 5));
        token.set(partition(1, 1), None);
        token.set(partition(1, 2), at(1, 9, 300));
        token.set(partition(2, 0), at(u64::MAX, u64::MAX, u64::MAX));
        token
    }

    #[test]
    fn a_token_survives_its_bytes_and_its_text() {
        for token in [ResumeToken::new(KeyspaceId::new(0)), token()] {
            assert_eq!(
                ResumeToken::from_bytes(&token.to_bytes()),
                Ok(token.clone())
            );
            assert_eq!(token.to_string().parse(), Ok(token));
        }
        // Kept by others for any time: these bytes must stay readable.
        let kept = "010700000002010005010109000000000000000101ac02008ae20b71";
        let mut expected = ResumeToken::new(KeyspaceId::new(7));
        expected.set(partition(1, 0), at(1, 9, 5));
        expected.set(partition(1, 1), at(1, 9, 300));
        assert_eq!(expected.to_string(), kept);
        assert_eq!(kept.parse(), Ok(expected));
    }

    #[test]
    fn what_is_no_token_is_refused_and_says_why() {
        let text = token().to_string();
        let refused = |text: &str| text.parse::<ResumeToken>().unwrap_err().to_string();
        assert!(refused("").contains("truncated"));
        assert!(refused("zz").contains("\"zz\" is not hexadecimal"));
        assert!(refused(&text[1..]).contains("is not hexadecimal"));
        assert!(refused("äöü").contains("is not hexadecimal"));
        for cut in (2..text.len()).step_by(2) {
            refused(&text[cut..]);
            refused(&text[..text.len() - cut]);
        }
        let bytes = token().to_bytes();
        for place in 0..bytes.len() {
            let mut changed = bytes.to_vec();
            changed[place] ^= 1;
            assert!(ResumeToken::from_bytes(&changed).is_err(), "byte {place}");
        }
    }

    #[test]
    fn bytes_with_a_good_checksum_are_checked_nevertheless() {
        let sealed = |body: &[u8]| {
            let crc = crc32fast::hash(body).to_le_bytes();
            ResumeToken::from_bytes(&[body, &crc].concat()).unwrap_err()
        };
        let head = [VERSION, 7, 0, 0, 0];
        let with = |rest: &[u8]| sealed(&[&head, rest].concat());
        assert!(matches!(
            sealed(&[2, 7, 0, 0, 0, 0]),
            WireError::UnknownVersion { .. }
        ));
        assert!(matches!(with(&[1, 1, 0]), WireError::Truncated { .. }));
        for (what, rest) in [
            ("number of positions", &[0x81, 0x80, 0x04][..]),
            ("region of a position", &[1, 0, 0, 0]),
            ("bucket of a position", &[1, 1, 0x80, 0x80, 0x04, 0]),
            ("reign of the first position", &[1, 1, 0, 5, 0]),
            ("second position of a bucket", &[2, 1, 0, 0, 1, 0, 0]),
            ("bytes after the last position", &[0, 0]),
            ("number above 64 bits in a resume token", &[0xff; 11]),
        ] {
            let error = with(rest);
            assert!(error.to_string().contains(what), "{what}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let crc = crc32fast::hash(&bytes).to_le_bytes();
            if let Ok(token) = ResumeToken::from_bytes(&[&bytes[..], &crc].concat()) {
                prop_assert_eq!(ResumeToken::from_bytes(&token.to_bytes()), Ok(token));
            }
        }
    }
}
