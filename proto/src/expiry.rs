//! When a value ends: at a time, or after a time.
//!
//! **Owns**: the two forms, the bounds of a time to live, the step from one to the other.
//! **Does not own**: ending it (the home writes a record), its place in a record (`record`).
//!
//! A time to live stays one in the log: a request that is sent again has the same bytes, whenever
//! it is sent. It becomes a time by the stamp of its own record, which every region has.

use std::time::Duration;

use crate::hlc::Hlc;
use crate::wire::WireError;

/// Longest time to live: 10 years of 365 days. Beyond it lies a unit that was mixed up, not a wish;
/// doubled, seconds taken for milliseconds pass for longer.
pub const TTL_MS_MAX: u64 = 10 * 365 * 24 * 3600 * 1000;

/// Nanoseconds in a millisecond.
const MS_NANOS: u128 = 1_000_000;

/// When a value ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// This many ms after its home sequenced it, 1 to [`TTL_MS_MAX`].
    AfterMs(u64),
    /// At this time, in ms since 1970 on its home's clock; one that has passed is allowed.
    AtMs(u64),
}

impl Expiry {
    /// After a time to live, in whole ms, rounded up; its bounds are checked when it is encoded.
    #[must_use]
    pub fn after(ttl: Duration) -> Self {
        let ttl_ms = ttl.as_nanos().div_ceil(MS_NANOS);
        Self::AfterMs(u64::try_from(ttl_ms).unwrap_or(u64::MAX))
    }

    /// The time at which a value ends whose record has the stamp `written`.
    #[must_use]
    pub fn at_ms(self, written: Hlc) -> u64 {
        match self {
            Self::AfterMs(ttl_ms) => written.wall_ms().saturating_add(ttl_ms),
            Self::AtMs(at_ms) => at_ms,
        }
    }

    /// Checks the bounds of a time to live.
    ///
    /// # Errors
    /// [`WireError::OutOfBounds`].
    pub fn check(self) -> Result<(), WireError> {
        match self {
            Self::AfterMs(actual) if !(1..=TTL_MS_MAX).contains(&actual) => {
                Err(WireError::OutOfBounds {
                    what: "time to live in ms",
                    actual,
                    min: 1,
                    max: TTL_MS_MAX,
                })
            }
            Self::AfterMs(_) | Self::AtMs(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_to_live_never_becomes_shorter() {
        for (ttl, ttl_ms) in [
            (Duration::ZERO, 0),
            (Duration::from_nanos(1), 1),
            (Duration::from_millis(7), 7),
            (Duration::from_nanos(7_000_001), 8),
            (Duration::MAX, u64::MAX),
        ] {
            assert_eq!(Expiry::after(ttl), Expiry::AfterMs(ttl_ms), "{ttl:?}");
        }
        let written = Hlc::from_bits(Hlc::at_ms(1_000).bits() + 5);
        assert_eq!(Expiry::AfterMs(30).at_ms(written), 1_030);
        assert_eq!(Expiry::AfterMs(u64::MAX).at_ms(written), u64::MAX);
        assert_eq!(Expiry::AtMs(9).at_ms(written), 9);
    }

    #[test]
    fn the_bounds_are_one_millisecond_and_ten_years() {
        for good in [1, TTL_MS_MAX] {
            assert_eq!(Expiry::AfterMs(good).check(), Ok(()));
        }
        assert_eq!(Expiry::AtMs(0).check(), Ok(()));
        let refused = |ttl_ms| Expiry::AfterMs(ttl_ms).check().unwrap_err().to_string();
        assert_eq!(
            refused(0),
            "time to live in ms out of bounds: 0, limits 1 to 315360000000"
        );
        assert_eq!(
            refused(TTL_MS_MAX + 1),
            "time to live in ms out of bounds: 315360000001, limits 1 to 315360000000"
        );
    }
}
