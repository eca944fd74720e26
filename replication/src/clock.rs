//! The node's clocks: monotone for deadlines, wall for people, hybrid for stamps.
//!
//! **Owns**: reading the system's clocks; the node's hybrid clock, shared without a lock.
//! **Does not own**: the rule of stamping (proto's `HlcClock` states it; this is its atomic form).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use domicile_core::Moment;
use domicile_proto::Hlc;
use rustix::time::{ClockId, clock_gettime};

/// A stamp further ahead than this is not absorbed: the sender's clock is wrong, and following it
/// would let one bad clock drag all others. Doubling it doubles how far it could.
pub(crate) const HLC_OFFSET_MAX: Duration = Duration::from_secs(10);

/// The clocks of one node.
#[derive(Debug)]
pub(crate) struct Clock {
    /// Microseconds of the boot clock when the node was opened.
    started_us: u64,
    hlc: AtomicU64,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self {
            started_us: boot_us(),
            hlc: AtomicU64::new(0),
        }
    }

    /// Microseconds since the node was opened; time in which the machine was suspended counts, as
    /// leases go on meanwhile.
    pub(crate) fn now(&self) -> Moment {
        Moment::from_micros(boot_us().saturating_sub(self.started_us))
    }

    /// Milliseconds since 1970.
    pub(crate) fn wall_ms() -> u64 {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        since.as_millis() as u64
    }

    /// A stamp above all this node gave or observed.
    pub(crate) fn stamp(&self) -> Hlc {
        let wall = Hlc::at_ms(Self::wall_ms()).bits();
        let next = |last: u64| Some(wall.max(last + 1));
        let last = self
            .hlc
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        let last = last.unwrap_or_else(|last| last);
        Hlc::from_bits(wall.max(last + 1))
    }

    /// The latest stamp given or observed, or the wall if that is later.
    pub(crate) fn head(&self) -> Hlc {
        Hlc::from_bits(self.hlc.load(Ordering::Acquire)).max(Hlc::at_ms(Self::wall_ms()))
    }

    /// Takes a stamp seen from elsewhere into account; false if it lies too far ahead.
    pub(crate) fn observe(&self, seen: Hlc) -> bool {
        let ahead_ms = seen.wall_ms().saturating_sub(Self::wall_ms());
        if u128::from(ahead_ms) > HLC_OFFSET_MAX.as_millis() {
            return false;
        }
        self.hlc.fetch_max(seen.bits(), Ordering::AcqRel);
        true
    }
}

/// Microseconds since the machine was booted, suspended or not.
fn boot_us() -> u64 {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    const BOOT: ClockId = ClockId::Boottime;
    // Elsewhere the monotone clock is the one that goes on during a suspension.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    const BOOT: ClockId = ClockId::Monotonic;
    let now = clock_gettime(BOOT);
    now.tv_sec.cast_unsigned() * 1_000_000 + now.tv_nsec.cast_unsigned() / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_grow_and_the_far_future_is_not_absorbed() {
        let clock = Clock::new();
        let first = clock.stamp();
        assert!(clock.stamp() > first);
        assert!(!clock.observe(Hlc::at_ms(Clock::wall_ms() + 60_000)));
        let near = Hlc::at_ms(Clock::wall_ms() + 2_000);
        assert!(clock.observe(near));
        assert!(clock.stamp() > near);
    }
}
