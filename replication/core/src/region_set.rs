//! A set of a keyspace's regions in one word.
//!
//! **Owns**: the set operations.
//! **Does not own**: which region a bit stands for (`PartitionConfig::regions`), their names.

use std::fmt;

/// Most regions of a keyspace: one bit each. More would need a wider word in every receipt.
pub const REGIONS_MAX: usize = 64;

/// Regions of one keyspace: bit i stands for `PartitionConfig::regions[i]`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RegionSet(u64);

impl RegionSet {
    /// No region.
    pub const EMPTY: Self = Self(0);

    /// The set with these bits.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The bits.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// This set and the region at `index`.
    ///
    /// # Panics
    /// If `index` is not below [`REGIONS_MAX`].
    #[must_use]
    pub fn with(self, index: usize) -> Self {
        assert!(
            index < REGIONS_MAX,
            "region index {index}, limit {REGIONS_MAX}"
        );
        Self(self.0 | 1 << index)
    }

    /// Whether the region at `index` is in it.
    #[must_use]
    pub fn contains(self, index: usize) -> bool {
        index < REGIONS_MAX && self.0 & (1 << index) != 0
    }

    /// How many regions are in it.
    #[must_use]
    pub const fn count(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether no region is in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The indexes of its regions, ascending.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..REGIONS_MAX).filter(move |index| self.contains(*index))
    }
}

impl fmt::Debug for RegionSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_indexes() {
        let set = RegionSet::EMPTY.with(63).with(0).with(5);
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 5, 63]);
        assert_eq!(set.count(), 3);
        assert!(set.contains(63) && !set.contains(1) && !set.contains(64));
        assert!(RegionSet::EMPTY.is_empty() && !set.is_empty());
        assert_eq!(RegionSet::from_bits(set.bits()), set);
    }
}
