//! Where in a log: sequence numbers, epochs, positions and the versions of cells.
//!
//! **Owns**: their order and their text form.
//! **Does not own**: who may mint an epoch (control), who assigns a sequence number (the core).

use std::fmt;
use std::str::FromStr;

use crate::identity::NodeId;

/// The place of a record in its partition's log. The first record is 1; there are no holes.
/// Zero, [`Seq::NONE`], means "before the first".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Seq(u64);

impl Seq {
    /// Before the first record.
    pub const NONE: Self = Self(0);
    /// The first record.
    pub const FIRST: Self = Self(1);

    /// The sequence number with this value.
    #[must_use]
    pub const fn new(seq: u64) -> Self {
        Self(seq)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The one after it.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The one `count` after it.
    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        Self(self.0 + count)
    }

    /// The place before; [`Seq::NONE`] stays what it is.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// How many records lie after `earlier` up to this one; zero if it is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0)
    }
}

impl fmt::Debug for Seq {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0)
    }
}

/// The reign of one home over a partition: (counter, minting node). Unique, not merely larger: two
/// nodes that mint the same counter still mint different epochs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch {
    /// Raised by every change of home.
    pub counter: u64,
    /// The node that minted it.
    pub node: NodeId,
}

impl fmt::Display for Epoch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}@{}", self.counter, self.node)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// A place in a partition's history: the epoch and the sequence number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The reign in which the record was written.
    pub epoch: Epoch,
    /// Its place in the log.
    pub seq: Seq,
}

impl fmt::Display for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.epoch, self.seq)
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// The version of a cell in a homed keyspace: (generation, epoch, seq). The generation rises when
/// the cell's group is handed to another home, so versions keep growing across homes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Raised by every handoff of the group.
    pub generation: u32,
    /// The reign in which the cell was written.
    pub epoch: Epoch,
    /// Its record's place in the log.
    pub seq: Seq,
}

/// Why a text is not a version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid version {actual:?}: expected generation.counter.node.seq, node in hex")]
pub struct VersionError {
    actual: String,
}

impl Version {
    /// Bytes of an encoded version.
    pub const BYTES: usize = 28;

    /// Little-endian fields, in order.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[0..4].copy_from_slice(&self.generation.to_le_bytes());
        bytes[4..12].copy_from_slice(&self.epoch.counter.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.epoch.node.get().to_le_bytes());
        bytes[20..28].copy_from_slice(&self.seq.get().to_le_bytes());
        bytes
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            generation,
            epoch,
            seq,
        } = self;
        write!(
            formatter,
            "{generation}.{}.{:x}.{seq}",
            epoch.counter,
            epoch.node.get()
        )
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let mut parts = text.split('.');
            let generation = parts.next()?.parse().ok()?;
            let counter = parts.next()?.parse().ok()?;
            let node = u64::from_str_radix(parts.next()?, 16).ok()?;
            let seq = parts.next()?.parse().ok()?;
            let epoch = Epoch {
                counter,
                node: NodeId::new(node).ok()?,
            };
            parts.next().is_none().then_some(Self {
                generation,
                epoch,
                seq: Seq::new(seq),
            })
        };
        parse().ok_or_else(|| VersionError {
            actual: text.chars().take(100).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_order_by_generation_then_epoch_then_seq() {
        let version = |generation, counter, seq| Version {
            generation,
            epoch: Epoch {
                counter,
                node: NodeId::new(9).unwrap(),
            },
            seq: Seq::new(seq),
        };
        assert!(version(0, 1, 9) < version(0, 2, 1));
        assert!(version(0, 9, 9) < version(1, 1, 1));
        assert!(version(0, 1, 1) < version(0, 1, 2));
        let text = version(3, 4, 5).to_string();
        assert_eq!(text, "3.4.9.5");
        assert_eq!(text.parse(), Ok(version(3, 4, 5)));
        for bad in ["", "1.2.3", "1.2.3.4.5", "1.2.0.4", "a.b.c.d"] {
            assert!(bad.parse::<Version>().is_err(), "{bad:?} was accepted");
        }
    }
}
