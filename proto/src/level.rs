//! Acknowledgement levels: what a write asks for, and what it is told that it got.
//!
//! **Owns**: their meaning in counts of regions, their order of strength, their text form.
//! **Does not own**: counting who holds what (the core's ack tracker).

use std::fmt;
use std::num::NonZeroU8;
use std::str::FromStr;

/// When a write is acknowledged.
///
/// Text form: `async`, `semi-sync`, `semi-sync:2`, `sync`, `sync:2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AckLevel {
    /// Durable at home.
    Async,
    /// Durable at home and received (in memory) by at least `regions` other regions.
    SemiSync {
        /// How many other regions; 1 by default.
        regions: NonZeroU8,
    },
    /// Durable at home and in the other regions of the keyspace.
    Sync {
        /// How many regions, home included, must hold it durably; `None`: all of the keyspace.
        quorum: Option<NonZeroU8>,
    },
}

impl AckLevel {
    /// Semi-sync with one other region.
    pub const SEMI_SYNC: Self = Self::SemiSync {
        regions: NonZeroU8::MIN,
    };
    /// Sync with every region of the keyspace.
    pub const SYNC: Self = Self::Sync { quorum: None };

    /// Other regions that must have received the write.
    #[must_use]
    pub fn received_needed(self, copies: usize) -> usize {
        match self {
            Self::Async => 0,
            Self::SemiSync { regions } => usize::from(regions.get()),
            Self::Sync { .. } => self.durable_needed(copies),
        }
    }

    /// Other regions that must hold the write durably, of `copies` that the keyspace has.
    #[must_use]
    pub fn durable_needed(self, copies: usize) -> usize {
        match self {
            Self::Async | Self::SemiSync { .. } => 0,
            Self::Sync { quorum: None } => copies,
            Self::Sync {
                quorum: Some(quorum),
            } => usize::from(quorum.get()) - 1,
        }
    }

    /// Whether meeting this level always meets `other` too, in a keyspace with `copies` copies.
    #[must_use]
    pub fn covers(self, other: Self, copies: usize) -> bool {
        self.received_needed(copies) >= other.received_needed(copies)
            && self.durable_needed(copies) >= other.durable_needed(copies)
    }

    /// One byte for the record: 0 async, 1..=64 semi-sync with k, 128 sync, 129.. sync quorum.
    #[must_use]
    pub fn to_byte(self) -> u8 {
        match self {
            Self::Async => 0,
            Self::SemiSync { regions } => regions.get().min(64),
            Self::Sync { quorum: None } => 128,
            Self::Sync {
                quorum: Some(quorum),
            } => 128 + quorum.get().min(64),
        }
    }

    /// The inverse of [`AckLevel::to_byte`]; `None` for a byte it never gives.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Async),
            1..=64 => NonZeroU8::new(byte).map(|regions| Self::SemiSync { regions }),
            128 => Some(Self::SYNC),
            129..=192 => Some(Self::Sync {
                quorum: NonZeroU8::new(byte - 128),
            }),
            _ => None,
        }
    }
}

impl fmt::Display for AckLevel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Async => formatter.write_str("async"),
            Self::SemiSync { regions } if regions.get() == 1 => formatter.write_str("semi-sync"),
            Self::SemiSync { regions } => write!(formatter, "semi-sync:{regions}"),
            Self::Sync { quorum: None } => formatter.write_str("sync"),
            Self::Sync {
                quorum: Some(quorum),
            } => write!(formatter, "sync:{quorum}"),
        }
    }
}

/// Why a text is not an ack level.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid ack level {actual:?}: async, semi-sync[:k] or sync[:quorum], numbers 1 to 64")]
pub struct AckLevelError {
    actual: String,
}

impl FromStr for AckLevel {
    type Err = AckLevelError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (word, number) = match text.split_once(':') {
            Some((word, number)) => (word, Some(number)),
            None => (text, None),
        };
        let number = match number.map(str::parse::<NonZeroU8>) {
            None => None,
            Some(Ok(number)) if number.get() <= 64 => Some(number),
            Some(_) => {
                return Err(AckLevelError {
                    actual: text.chars().take(64).collect(),
                });
            }
        };
        match (word, number) {
            ("async", None) => Ok(Self::Async),
            ("semi-sync", number) => Ok(Self::SemiSync {
                regions: number.unwrap_or(NonZeroU8::MIN),
            }),
            ("sync", quorum) => Ok(Self::Sync { quorum }),
            _ => Err(AckLevelError {
                actual: text.chars().take(64).collect(),
            }),
        }
    }
}

/// What a write got when it was answered: counts of *other* regions, home always being durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Achieved {
    /// Other regions that had received it.
    pub received: u8,
    /// Other regions that held it durably.
    pub durable: u8,
    /// Copies that the keyspace has.
    pub copies: u8,
}

impl Achieved {
    /// Whether it meets a level.
    #[must_use]
    pub fn meets(self, level: AckLevel) -> bool {
        let copies = usize::from(self.copies);
        usize::from(self.received) >= level.received_needed(copies)
            && usize::from(self.durable) >= level.durable_needed(copies)
    }

    /// The strongest level that it amounts to.
    #[must_use]
    pub fn level(self) -> AckLevel {
        if self.copies > 0 && self.durable >= self.copies {
            return AckLevel::SYNC;
        }
        if self.durable > 0 {
            return AckLevel::Sync {
                quorum: NonZeroU8::new(self.durable + 1),
            };
        }
        match NonZeroU8::new(self.received) {
            Some(regions) => AckLevel::SemiSync { regions },
            None => AckLevel::Async,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_byte_forms_round_trip() {
        for text in [
            "async",
            "semi-sync",
            "semi-sync:2",
            "sync",
            "sync:2",
            "sync:64",
        ] {
            let level: AckLevel = text.parse().unwrap();
            assert_eq!(level.to_string(), text);
            assert_eq!(AckLevel::from_byte(level.to_byte()), Some(level));
        }
        for bad in [
            "",
            "none",
            "async:1",
            "semi-sync:0",
            "sync:65",
            "sync:",
            "sync:x",
            "SYNC",
        ] {
            assert!(bad.parse::<AckLevel>().is_err(), "{bad:?} was accepted");
        }
        assert_eq!(AckLevel::from_byte(100), None);
        assert_eq!(AckLevel::from_byte(255), None);
    }

    #[test]
    fn strength_is_by_counts() {
        let quorum = |k| AckLevel::Sync {
            quorum: NonZeroU8::new(k),
        };
        assert!(AckLevel::SYNC.covers(AckLevel::SEMI_SYNC, 2));
        assert!(!AckLevel::SEMI_SYNC.covers(quorum(2), 2));
        assert!(AckLevel::SYNC.covers(quorum(3), 2) && quorum(3).covers(AckLevel::SYNC, 2));
        assert!(!quorum(2).covers(AckLevel::SYNC, 2));
        let achieved = Achieved {
            received: 2,
            durable: 1,
            copies: 2,
        };
        assert_eq!(achieved.level(), quorum(2));
        assert!(achieved.meets(AckLevel::SEMI_SYNC) && !achieved.meets(AckLevel::SYNC));
    }
}
