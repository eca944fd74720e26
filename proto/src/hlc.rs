//! The hybrid logical clock: wall milliseconds and a counter that together never go back.
//!
//! **Owns**: the value's layout and the rule of stamping and observing.
//! **Does not own**: reading the wall clock (the caller passes it in).
//!
//! After Kulkarni et al., "Logical Physical Clocks" (2014): 48 bits of milliseconds since 1970,
//! 16 bits of counter.

use std::fmt;
use std::time::Duration;

/// A hybrid timestamp: 48 bits of milliseconds since 1970 above 16 bits of counter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hlc(u64);

impl Hlc {
    /// Before every stamp.
    pub const ZERO: Self = Self(0);

    /// The value with these bits.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The first stamp of a millisecond.
    #[must_use]
    pub const fn at_ms(wall_ms: u64) -> Self {
        Self(wall_ms << 16)
    }

    /// The bits.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub const fn wall_ms(self) -> u64 {
        self.0 >> 16
    }
}

impl fmt::Display for Hlc {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.wall_ms(), self.0 & 0xffff)
    }
}

impl fmt::Debug for Hlc {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// A stamp from so far ahead that absorbing it would drag this clock along.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("stamp {ahead_ms} ms ahead of the wall clock, limit {limit_ms} ms")]
pub struct FarFuture {
    /// How far ahead of the local wall clock it lies.
    pub ahead_ms: u64,
    /// The largest offset absorbed.
    pub limit_ms: u64,
}

/// The clock of one node; every stamp it gives is above all it gave or observed.
#[derive(Debug, Clone, Default)]
pub struct HlcClock {
    last: Hlc,
}

impl HlcClock {
    /// A clock that starts above `last`.
    #[must_use]
    pub fn starting_above(last: Hlc) -> Self {
        Self { last }
    }

    /// A new stamp: the wall's millisecond, or one above the last stamp if the wall lags behind.
    pub fn stamp(&mut self, wall_ms: u64) -> Hlc {
        self.last = Hlc::at_ms(wall_ms).max(Hlc(self.last.0 + 1));
        self.last
    }

    /// Takes a stamp seen from elsewhere into account.
    ///
    /// # Errors
    /// [`FarFuture`] if it lies more than `offset_max` above the wall; it is then not absorbed.
    pub fn observe(
        &mut self,
        seen: Hlc,
        wall_ms: u64,
        offset_max: Duration,
    ) -> Result<(), FarFuture> {
        let ahead_ms = seen.wall_ms().saturating_sub(wall_ms);
        let limit_ms = u64::try_from(offset_max.as_millis()).unwrap_or(u64::MAX);
        if ahead_ms > limit_ms {
            return Err(FarFuture { ahead_ms, limit_ms });
        }
        self.last = self.last.max(seen);
        Ok(())
    }

    /// The latest stamp given or observed.
    #[must_use]
    pub fn last(&self) -> Hlc {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_grow_while_the_wall_goes_back() {
        let mut clock = HlcClock::default();
        let mut last = Hlc::ZERO;
        for wall_ms in [5, 5, 5, 3, 9, 9, 1] {
            let stamp = clock.stamp(wall_ms);
            assert!(stamp > last, "{stamp} after {last}");
            last = stamp;
        }
        assert_eq!(last.wall_ms(), 9);
    }

    #[test]
    fn far_future_is_refused_and_not_absorbed() {
        let mut clock = HlcClock::default();
        let limit = Duration::from_millis(500);
        assert!(clock.observe(Hlc::at_ms(1_600), 1_000, limit).is_err());
        assert_eq!(clock.last(), Hlc::ZERO);
        assert!(clock.observe(Hlc::at_ms(1_500), 1_000, limit).is_ok());
        assert!(clock.stamp(1_000) > Hlc::at_ms(1_500));
    }
}
