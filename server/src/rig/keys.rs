//! The keys and values that a load writes: of fixed sizes, every value unlike every other.
//!
//! **Owns**: their bytes, and reading the number of a write back from its value.
//! **Does not own**: in which order they are written (the load).

use bytes::{BufMut, Bytes, BytesMut};

use super::random::Random;

/// Bytes of a key: "key-" and twelve digits, the size that every published figure here is for.
pub const KEY_BYTES: usize = 16;

/// Bytes of a value unless asked otherwise, as above.
pub const VALUE_BYTES_DEFAULT: usize = 128;

/// Digits of a write's number at the front of its value: all that a `u64` may need.
const NUMBER_DIGITS: usize = 16;

/// Digits of the key's number after it.
const INDEX_DIGITS: usize = 8;

/// Bytes at the front of a value that say which write it is: number and key in hexadecimal, each
/// with a dash behind it, so that people can read them, too.
const STAMP_BYTES: usize = NUMBER_DIGITS + 1 + INDEX_DIGITS + 1;

/// The keys of a load, made once.
#[derive(Debug)]
pub struct Keys {
    prefix: String,
    keys: Vec<Bytes>,
    filler: Bytes,
}

impl Keys {
    /// `count` keys, and values of `value_bytes` bytes (at least the stamp) filled from `seed`.
    #[must_use]
    pub fn new(count: u32, value_bytes: usize, seed: u64) -> Self {
        Self::with_prefix("key-", count, value_bytes, seed)
    }

    /// As [`Keys::new`], with keys that begin with `prefix` (and are [`KEY_BYTES`] long if that is
    /// four bytes).
    #[must_use]
    pub fn with_prefix(prefix: &str, count: u32, value_bytes: usize, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let filler_bytes = value_bytes.saturating_sub(STAMP_BYTES);
        // Letters: incompressible bytes would hide what compression on a slow link is worth, and
        // zeros would flatter it.
        let filler = (0..filler_bytes).map(|_| b'a' + random.below(26) as u8);
        Self {
            prefix: prefix.to_owned(),
            keys: (0..count.max(1))
                .map(|index| Bytes::from(format!("{prefix}{index:012}")))
                .collect(),
            filler: filler.collect(),
        }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.keys.len() as u32
    }

    /// The key with the number `index`.
    #[must_use]
    pub fn key(&self, index: u32) -> Bytes {
        self.keys[index as usize].clone()
    }

    /// The value of the write with the number `number` to the key `index`.
    #[must_use]
    pub fn value(&self, index: u32, number: u64) -> Bytes {
        let mut value = BytesMut::with_capacity(STAMP_BYTES + self.filler.len());
        put_hexadecimal(&mut value, number, NUMBER_DIGITS);
        put_hexadecimal(&mut value, index.into(), INDEX_DIGITS);
        value.put_slice(&self.filler);
        value.freeze()
    }

    /// Bytes of a key and its value: what a lost write costs.
    #[must_use]
    pub fn write_bytes(&self) -> u64 {
        (self.keys[0].len() + STAMP_BYTES + self.filler.len()) as u64
    }

    /// The index of a key, if it is one of these.
    #[must_use]
    pub fn index_of(&self, key: &[u8]) -> Option<u32> {
        let digits = std::str::from_utf8(key.strip_prefix(self.prefix.as_bytes())?).ok()?;
        let index = digits.parse::<u32>().ok()?;
        (self.keys.get(index as usize)? == key).then_some(index)
    }

    /// The number of the write that a value is from, if it is the value of a write to `index`.
    #[must_use]
    pub fn number_of(&self, index: u32, value: &[u8]) -> Option<u64> {
        let (stamp, filler) = value.split_at_checked(STAMP_BYTES)?;
        let (number, stamped) = stamp.split_at_checked(NUMBER_DIGITS)?;
        let number = hexadecimal(number)?;
        let stamped = hexadecimal(stamped.strip_prefix(b"-")?.strip_suffix(b"-")?)?;
        (stamped == u64::from(index) && filler == self.filler).then_some(number)
    }
}

fn put_hexadecimal(buffer: &mut BytesMut, number: u64, digits: usize) {
    for place in (0..digits).rev() {
        let digit = (number >> (4 * place)) & 0xf;
        buffer.put_u8(b"0123456789abcdef"[digit as usize]);
    }
    buffer.put_u8(b'-');
}

fn hexadecimal(digits: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_have_their_sizes_and_read_back() {
        let keys = Keys::new(1000, VALUE_BYTES_DEFAULT, 1);
        for index in [0, 7, 999] {
            let (key, value) = (keys.key(index), keys.value(index, 1 << 40));
            assert_eq!((key.len(), value.len()), (KEY_BYTES, VALUE_BYTES_DEFAULT));
            assert_eq!(keys.index_of(&key), Some(index));
            assert_eq!(keys.number_of(index, &value), Some(1 << 40));
            assert_eq!(keys.number_of(index + 1, &value), None);
            assert_eq!(keys.number_of(index, &value[1..]), None);
            assert!(value.starts_with(b"0000010000000000-000"), "{value:?}");
        }
        assert_eq!(keys.write_bytes(), 144);
        for other in [&b"key-000000001000"[..], b"key-7", b"", b"kez-000000000007"] {
            assert_eq!(keys.index_of(other), None);
        }
        let named = Keys::with_prefix("eu-west-", 3, 128, 1);
        assert_eq!(named.key(2), "eu-west-000000000002");
        assert_eq!(named.index_of(b"eu-west-000000000002"), Some(2));
    }
}
