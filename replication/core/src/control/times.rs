//! How long leases last and how long silence is waited for, all from the largest round trip.
//!
//! **Owns**: the derivation, and the safety rules between the numbers.
//! **Does not own**: clocks (the driver), elections (the consensus has its own table).
//!
//! ```text
//! home's clock      |asks ........ lease ends              at latest: asks + lease - margin
//! leader's clock        |hears ............... ran out     at earliest: hears + lease + margin
//! ```
//! The home counts from when it asked, the leader from when it heard, which is later; and each
//! takes the margin to its own disadvantage, so neither needs to know the other's clock, only that
//! none of the two runs wrong by more than [`DRIFT_MAX_PERCENT`].

use std::time::Duration;

/// How much faster or slower than true a boot clock may run: a hundred times what quartz does, and
/// ten times what a time server may slew. Doubled, a lease is 2 % shorter and its end 2 % later.
pub const DRIFT_MAX_PERCENT: u32 = 2;

/// A lease is no shorter: a pause of a busy machine would end it.
const LEASE_MIN: Duration = Duration::from_millis(500);

/// Of a lease, how often it is asked for: three may be lost before it ends.
const ASKS_PER_LEASE: u32 = 4;

/// The times of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlTimes {
    /// How long a lease lasts.
    pub lease: Duration,
    /// How often a node asks for one.
    pub ask_every: Duration,
    /// After how long a silence a node counts as lost.
    pub lost_after: Duration,
    /// How long a takeover waits for the promise of a copy that seems alive.
    pub promise_patience: Duration,
    /// How long a home may stop for a planned change.
    pub pause_max: Duration,
}

/// How soon a silent node is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Haste {
    /// Rides out a pause of a second and a half.
    #[default]
    Default,
    /// As soon as is safe.
    Aggressive,
}

impl ControlTimes {
    /// The times where the largest round trip between two voters is `rtt`.
    ///
    /// | | default | aggressive |
    /// |---|---|---|
    /// | lease | 1.6 s + 5 rtt | 0.5 s + 4 rtt |
    /// | asked for every | lease / 4 | lease / 4 |
    /// | lost after | lease - asked for every | lease - asked for every |
    ///
    /// A granted lease has gone two round trips before it counts (to the leader, to its quorum),
    /// so several of them must fit into it. Giving a node up before its lease could end would gain
    /// nothing; a little before, so that the takeover is prepared when it does.
    #[must_use]
    pub fn of(rtt: Duration, haste: Haste) -> Self {
        let lease = match haste {
            Haste::Default => Duration::from_millis(1600) + 5 * rtt,
            Haste::Aggressive => LEASE_MIN + 4 * rtt,
        };
        let ask_every = lease / ASKS_PER_LEASE;
        Self {
            lease,
            ask_every,
            lost_after: lease - ask_every,
            promise_patience: 3 * rtt + Duration::from_millis(250),
            pause_max: 4 * rtt + Duration::from_millis(500),
        }
    }

    /// For how long a home may use a lease, counted from when it asked.
    #[must_use]
    pub fn usable(&self) -> Duration {
        self.lease - self.margin()
    }

    /// How long a successor waits, counted from when the leader heard the last one asked for.
    #[must_use]
    pub fn waited_out(&self) -> Duration {
        self.lease + self.margin()
    }

    fn margin(&self) -> Duration {
        self.lease * DRIFT_MAX_PERCENT / 100
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_ends_before_it_is_waited_out_by_any_two_clocks() {
        for rtt_ms in [0, 1, 80, 300, 1000] {
            for haste in [Haste::Default, Haste::Aggressive] {
                let times = ControlTimes::of(Duration::from_millis(rtt_ms), haste);
                // The home's clock runs slow by 1 %, the leader's fast by 1 %.
                let used = times.usable().mul_f64(1.0 / 0.99);
                let waited = times.waited_out().mul_f64(1.0 / 1.01);
                assert!(used < waited, "{used:?} {waited:?}");
                assert!(times.lost_after < times.lease && times.ask_every > Duration::ZERO);
                assert!(times.usable() > 3 * Duration::from_millis(rtt_ms));
            }
        }
    }

    #[test]
    fn at_80_ms_the_default_lease_is_two_seconds() {
        let times = ControlTimes::of(Duration::from_millis(80), Haste::Default);
        assert_eq!(times.lease, Duration::from_secs(2));
    }
}
