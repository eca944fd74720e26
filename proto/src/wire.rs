//! Reading little-endian fields from bytes that nobody vouches for.
//!
//! **Owns**: the bounds checks of every decoder and the one decode error.
//! **Does not own**: what the fields mean (the codecs beside it).

/// Why bytes could not be read as what they claim to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The bytes end before the field does.
    #[error("truncated {what}: {actual} bytes, {needed} needed")]
    Truncated {
        /// Which structure was being read.
        what: &'static str,
        /// Bytes that were there.
        actual: usize,
        /// Bytes that were needed.
        needed: usize,
    },
    /// The first bytes are not those of this structure.
    #[error("bad magic of {what}: {actual:#010x}")]
    BadMagic {
        /// Which structure was being read.
        what: &'static str,
        /// The value found.
        actual: u32,
    },
    /// Written by a version of the format that this build does not know.
    #[error("unknown version of {what}: {actual}, supported {supported}")]
    UnknownVersion {
        /// Which structure was being read.
        what: &'static str,
        /// The version found.
        actual: u32,
        /// The newest version this build reads.
        supported: u32,
    },
    /// The checksum over the bytes does not match the one stored with them.
    #[error("checksum mismatch of {what}: stored {stored:#010x}, computed {computed:#010x}")]
    Checksum {
        /// Which structure was being read.
        what: &'static str,
        /// The checksum stored.
        stored: u32,
        /// The checksum computed.
        computed: u32,
    },
    /// A field has a value that its definition excludes.
    #[error("invalid {what}: {actual}")]
    Invalid {
        /// Which field.
        what: &'static str,
        /// The value found.
        actual: u64,
    },
    /// A number lies outside of its bounds.
    #[error("{what} out of bounds: {actual}, limits {min} to {max}")]
    OutOfBounds {
        /// Which field.
        what: &'static str,
        /// The value found.
        actual: u64,
        /// The smallest one allowed.
        min: u64,
        /// The largest one allowed.
        max: u64,
    },
    /// A length is above its limit.
    #[error("{what} too large: {actual} bytes, limit {limit}")]
    TooLarge {
        /// Which field.
        what: &'static str,
        /// The length found.
        actual: usize,
        /// The largest one allowed.
        limit: usize,
    },
}

/// A cursor over bytes that stay where they are.
pub(crate) struct Reader<'a> {
    what: &'static str,
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, bytes }
    }

    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let Some((front, rest)) = self.bytes.split_at_checked(len) else {
            return Err(WireError::Truncated {
                what: self.what,
                actual: self.bytes.len(),
                needed: len,
            });
        };
        self.bytes = rest;
        Ok(front)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, WireError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, WireError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, WireError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, WireError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn u128(&mut self) -> Result<u128, WireError> {
        Ok(u128::from_le_bytes(self.array()?))
    }
}
