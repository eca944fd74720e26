//! The delay, jitter and bandwidth of a link.
//!
//! **Owns** the conditions as asked for, and their validation.
//!
//! **Does not own** how they turn into deadlines (`lane`) nor the faults of a link (`link`).

use std::num::NonZeroU64;
use std::time::Duration;

use super::error::WanError;

/// The longest delay, and the longest jitter, of one direction.
///
/// A minute is far beyond any terrestrial or satellite path, and keeps every deadline within what
/// the clock can express. Doubling it breaks nothing; it only makes a mistyped unit slower to find.
pub const DELAY_MAX: Duration = Duration::from_secs(60);

/// How long and how wide a link is. The default is a wire without delay, jitter or limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkConditions {
    /// One-way delay from the client to the target.
    pub forward_delay: Duration,
    /// One-way delay from the target to the client.
    pub backward_delay: Duration,
    /// Extra delay in each direction, uniform from zero to this value. Order is kept, so a late
    /// byte delays those behind it. The sequence is the same in every run of a link.
    pub jitter: Duration,
    /// Throughput of each direction, shared by all connections of the link; `None` is no limit.
    pub bandwidth_bytes_per_s: Option<NonZeroU64>,
}

impl LinkConditions {
    /// Conditions whose two one-way delays are equal and add up to `rtt`.
    #[must_use]
    pub fn with_rtt(rtt: Duration) -> Self {
        Self::default().at_rtt(rtt)
    }

    /// The same jitter and bandwidth at another round-trip time, split evenly.
    #[must_use]
    pub fn at_rtt(self, rtt: Duration) -> Self {
        let forward_delay = rtt / 2;
        Self {
            forward_delay,
            backward_delay: rtt - forward_delay,
            ..self
        }
    }

    /// The nominal round-trip time: both delays, without jitter.
    #[must_use]
    pub fn rtt(&self) -> Duration {
        self.forward_delay.saturating_add(self.backward_delay)
    }

    pub(super) fn validate(&self) -> Result<(), WanError> {
        let actual = self.forward_delay.max(self.backward_delay).max(self.jitter);
        if actual > DELAY_MAX {
            return Err(WanError::DelayTooLong {
                actual,
                limit: DELAY_MAX,
            });
        }
        Ok(())
    }
}
