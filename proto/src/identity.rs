//! Who and where: the checked identities that cross every public function.
//!
//! **Owns**: names and their grammar, the ids derived from them, the byte order of partitions.
//! **Does not own**: which of them exist (configuration, later the control plane).

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

/// Longest name of a region or keyspace: 63 bytes, as a DNS label, so a region can be one.
pub const NAME_BYTES_MAX: usize = 63;

/// Why a text is not a name or an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// A name outside the grammar.
    #[error(
        "invalid name {actual:?}: 1 to 63 of a-z, 0-9, '-' or '_', starting with a letter or digit"
    )]
    Name {
        /// The text given.
        actual: String,
    },
    /// A request id that is not 32 hex digits (dashes allowed).
    #[error("invalid request id {actual:?}: 32 hex digits expected")]
    RequestId {
        /// The text given.
        actual: String,
    },
    /// An id of zero, which stands for "none" in every format.
    #[error("invalid {what}: 0")]
    Zero {
        /// Which id.
        what: &'static str,
    },
}

/// The name of a region or keyspace: 1 to 63 of `a-z 0-9 - _`, starting with a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// Checks a text against the grammar.
    ///
    /// # Errors
    /// [`IdentityError::Name`] with the text.
    pub fn new(text: impl Into<String>) -> Result<Self, IdentityError> {
        let text = text.into();
        let first_fits = text
            .bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let rest_fits = text.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_'
        });
        if !first_fits || !rest_fits || text.len() > NAME_BYTES_MAX {
            return Err(IdentityError::Name { actual: text });
        }
        Ok(Self(text))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl FromStr for Name {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

/// A region: a failure domain. Derived from its name unless the configuration gives it, so that
/// nodes agree on it without talking.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionId(NonZeroU16);

impl RegionId {
    /// An id given by configuration or read from bytes.
    ///
    /// # Errors
    /// [`IdentityError::Zero`].
    pub fn new(id: u16) -> Result<Self, IdentityError> {
        NonZeroU16::new(id)
            .map(Self)
            .ok_or(IdentityError::Zero { what: "region id" })
    }

    /// The id that a name stands for: its CRC folded to 16 bits, never zero. Two names of one
    /// cluster that collide are refused where the cluster is configured.
    #[must_use]
    pub fn of(name: &Name) -> Self {
        let crc = crc32fast::hash(name.as_str().as_bytes());
        let folded = (crc ^ (crc >> 16)) as u16;
        Self(NonZeroU16::new(folded).unwrap_or(NonZeroU16::MAX))
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0.get()
    }
}

/// A node: a process with a data directory. Random, minted with the directory, never zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u64);

impl NodeId {
    /// Reads what [`Display`](fmt::Display) writes: `n` and 16 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix('n')?;
        let is_sound = digits.len() == 16 && digits.bytes().all(|it| it.is_ascii_hexdigit());
        let id = is_sound.then(|| u64::from_str_radix(digits, 16).ok())??;
        Self::new(id).ok()
    }

    /// No id is lower.
    pub const LOWEST: Self = Self(1);

    /// An id read from bytes or minted by the owner of a directory.
    ///
    /// # Errors
    /// [`IdentityError::Zero`].
    pub fn new(id: u64) -> Result<Self, IdentityError> {
        if id == 0 {
            return Err(IdentityError::Zero { what: "node id" });
        }
        Ok(Self(id))
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }
}

/// A keyspace, by the CRC of its name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyspaceId(u32);

impl KeyspaceId {
    /// An id read from bytes.
    #[must_use]
    pub fn new(id: u32) -> Self {
        Self(id)
    }

    /// The id that a name stands for.
    #[must_use]
    pub fn of(name: &Name) -> Self {
        Self(crc32fast::hash(name.as_str().as_bytes()))
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }
}

/// One of the buckets into which a keyspace divides its groups in a region.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bucket(u16);

impl Bucket {
    /// Bucket number `index`, from 0.
    #[must_use]
    pub fn new(index: u16) -> Self {
        Self(index)
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }
}

/// (keyspace, origin region, bucket): the unit of ownership, sequencing, shipping and failover.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId {
    /// The keyspace it is part of.
    pub keyspace: KeyspaceId,
    /// The region whose keys it was made for; its home until moved.
    pub region: RegionId,
    /// The bucket within them.
    pub bucket: Bucket,
}

impl PartitionId {
    /// Bytes of an encoded partition.
    pub const BYTES: usize = 8;

    /// Big-endian, so that byte order is id order.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[0..4].copy_from_slice(&self.keyspace.0.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.region.get().to_be_bytes());
        bytes[6..8].copy_from_slice(&self.bucket.0.to_be_bytes());
        bytes
    }

    /// The inverse of [`PartitionId::to_bytes`].
    ///
    /// # Errors
    /// [`IdentityError::Zero`] for region zero.
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Result<Self, IdentityError> {
        let [k0, k1, k2, k3, r0, r1, b0, b1] = bytes;
        Ok(Self {
            keyspace: KeyspaceId(u32::from_be_bytes([k0, k1, k2, k3])),
            region: RegionId::new(u16::from_be_bytes([r0, r1]))?,
            bucket: Bucket(u16::from_be_bytes([b0, b1])),
        })
    }
}

/// The id under which a write is done at most once, however often it is sent.
///
/// Made by the client library (UUID v7) when the caller gives none. Never zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(u128);

impl RequestId {
    /// An id from its number.
    ///
    /// # Errors
    /// [`IdentityError::Zero`].
    pub fn new(id: u128) -> Result<Self, IdentityError> {
        if id == 0 {
            return Err(IdentityError::Zero { what: "request id" });
        }
        Ok(Self(id))
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u128 {
        self.0
    }
}

impl FromStr for RequestId {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits: String = text.chars().filter(|symbol| *symbol != '-').collect();
        let parsed = (digits.len() == 32)
            .then(|| u128::from_str_radix(&digits, 16).ok())
            .flatten();
        match parsed {
            Some(id) => Self::new(id),
            None => Err(IdentityError::RequestId {
                actual: text.chars().take(64).collect(),
            }),
        }
    }
}

macro_rules! show {
    ($type:ty, $format:literal, $($field:tt)+) => {
        impl fmt::Display for $type {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                let shown = self;
                write!(formatter, $format, shown.$($field)+)
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, formatter)
            }
        }
    };
}

show!(RegionId, "r{:04x}", 0.get());
show!(NodeId, "n{:016x}", 0);
show!(KeyspaceId, "k{:08x}", 0);
show!(Bucket, "b{}", 0);
show!(RequestId, "{:032x}", 0);

impl fmt::Display for PartitionId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}/{}/{}",
            self.keyspace, self.region, self.bucket
        )
    }
}

impl fmt::Debug for PartitionId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_outside_the_grammar_are_refused() {
        for text in ["", "-eu", "EU", "e u", "é", &"a".repeat(64)] {
            assert!(Name::new(text).is_err(), "{text:?} was accepted");
        }
        for text in ["eu", "us-east", "a", "0", "k_v", &"a".repeat(63)] {
            assert!(Name::new(text).is_ok(), "{text:?} was refused");
        }
    }

    #[test]
    fn partition_bytes_sort_as_ids_do() {
        let region = |id| RegionId::new(id).unwrap();
        let mut partitions = vec![];
        for keyspace in [1, 256, 70_000] {
            for id in [1, 255, 256] {
                for bucket in [0, 7, 300] {
                    partitions.push(PartitionId {
                        keyspace: KeyspaceId::new(keyspace),
                        region: region(id),
                        bucket: Bucket::new(bucket),
                    });
                }
            }
        }
        for a in &partitions {
            assert_eq!(PartitionId::from_bytes(a.to_bytes()), Ok(*a));
            for b in &partitions {
                assert_eq!(a.cmp(b), a.to_bytes().cmp(&b.to_bytes()));
            }
        }
        assert!(PartitionId::from_bytes([0; 8]).is_err());
    }

    #[test]
    fn request_ids_read_with_and_without_dashes() {
        let id: RequestId = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        assert_eq!(id.to_string(), "01890a5dac96774bbcceb302099a8057");
        assert_eq!(id.to_string().parse::<RequestId>(), Ok(id));
        for bad in ["", "1", "zz890a5dac96774bbcceb302099a8057", &"0".repeat(32)] {
            assert!(bad.parse::<RequestId>().is_err(), "{bad:?} was accepted");
        }
    }
}
