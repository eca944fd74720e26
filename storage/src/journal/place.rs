//! Where something lies in the journal.
//!
//! **Owns**: file numbers, their file names, places and their order.
//! **Does not own**: what lies there (frames and segments).

use std::fmt;
use std::path::{Path, PathBuf};

/// What the name of a journal file ends with.
const SUFFIX: &str = ".journal";

/// The number of a journal file. The first is 1; there are no holes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileNumber(u64);

impl FileNumber {
    /// The first file of a journal.
    pub const FIRST: Self = Self(1);

    /// The file with this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
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

    /// Where it lies in the journal's directory.
    #[must_use]
    pub fn path(self, dir: &Path) -> PathBuf {
        dir.join(format!("{:010}{SUFFIX}", self.0))
    }

    /// The number that a file name stands for, if it is the name of a journal file.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        let digits = name.strip_suffix(SUFFIX)?;
        let canonical = digits.len() >= 10 && digits.bytes().all(|byte| byte.is_ascii_digit());
        let number = canonical.then(|| digits.parse().ok()).flatten()?;
        (number > 0 && Self(number).path(Path::new("")).to_str() == Some(name))
            .then_some(Self(number))
    }
}

impl fmt::Display for FileNumber {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0)
    }
}

impl fmt::Debug for FileNumber {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0)
    }
}

/// A place in the journal: a cursor for readers. Only the beginnings of frames and segments, and
/// the durable end, are places to read from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Which file.
    pub file: FileNumber,
    /// Bytes from its beginning.
    pub offset: u64,
}

impl Place {
    /// Before everything: reading from here begins with the first segment.
    pub const START: Self = Self {
        file: FileNumber::FIRST,
        offset: 0,
    };

    /// Bytes of an encoded place.
    pub const BYTES: usize = 16;

    /// Big-endian, so that byte order is the order of places.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.file.0.to_be_bytes());
        bytes[8..].copy_from_slice(&self.offset.to_be_bytes());
        bytes
    }

    /// The inverse of [`Place::to_bytes`]; `None` for another length or file zero.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (file, offset) = bytes.split_at_checked(8)?;
        let file = u64::from_be_bytes(file.try_into().ok()?);
        let offset = u64::from_be_bytes(offset.try_into().ok()?);
        (file > 0).then_some(Self {
            file: FileNumber(file),
            offset,
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.file, self.offset)
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_for_numbers_and_nothing_else_does() {
        for number in [1, 42, 9_999_999_999, 10_000_000_000] {
            let path = FileNumber::new(number).path(Path::new("j"));
            let name = path.file_name().unwrap().to_str().unwrap();
            assert_eq!(
                FileNumber::of_name(name),
                Some(FileNumber::new(number)),
                "{name}"
            );
        }
        for name in [
            "0000000000.journal",
            "1.journal",
            "00000000001.journal",
            "0000000001",
            "",
        ] {
            assert_eq!(FileNumber::of_name(name), None, "{name}");
        }
    }

    #[test]
    fn places_survive_their_bytes_and_keep_their_order() {
        let place = |file, offset| Place {
            file: FileNumber::new(file),
            offset,
        };
        let places = [
            place(1, 0),
            place(1, 256),
            place(1, 1 << 40),
            place(2, 0),
            place(256, 1),
        ];
        for pair in places.windows(2) {
            assert!(pair[0] < pair[1] && pair[0].to_bytes() < pair[1].to_bytes());
        }
        for place in places {
            assert_eq!(Place::from_bytes(&place.to_bytes()), Some(place));
        }
        assert_eq!(Place::from_bytes(&[0; 16]), None);
        assert_eq!(Place::from_bytes(&[1; 15]), None);
    }
}
