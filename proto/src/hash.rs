//! The one 64-bit hash of the formats: XXH3 with seed 0.
//!
//! **Owns**: the choice of the function, which the formats pin for ever.
//! **Does not own**: checksums against bit rot (crc32, in the codecs).

/// XXH3-64 with seed 0 over `bytes`.
///
/// Used for chain hashes and for spreading groups over buckets; not against an adversary.
#[must_use]
pub fn hash64(bytes: &[u8]) -> u64 {
    twox_hash::XxHash3_64::oneshot(bytes)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_function_is_pinned() {
        assert_eq!(super::hash64(b""), 0x2d06_8005_38d3_94c2);
    }
}
