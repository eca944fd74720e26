//! The keyspace's limit on the potential loss: first replies are slowed, then writes refused.
//!
//! **Owns**: comparing a loss with the limits, the delay that follows, what is reported of it.
//! **Does not own**: measuring the loss (`lag`), which records count (`home`), held replies
//! (`delayed`).

use std::time::Duration;

use domicile_proto::RpoLimit;

use crate::event::Event;
use crate::refusal::{Refusal, RpoMeasure};
use crate::status::{Rpo, RpoPressure};

/// The longest delay of a reply: enough to bring a closed-loop caller down to 100 writes a second,
/// little beside the round trip that a copy needs to catch up. Doubling it doubles the replies
/// held.
const DELAY_MAX: Duration = Duration::from_millis(10);

/// One limit and how much of it is used.
#[derive(Debug, Clone, Copy)]
struct Usage {
    what: RpoMeasure,
    actual: u64,
    limit: u64,
}

impl Usage {
    /// Used thousandths of the limit; a limit of zero is either untouched or exceeded.
    fn per_mille(self) -> u64 {
        let used = u128::from(self.actual) * 1_000;
        match used.checked_div(u128::from(self.limit)) {
            Some(used) => u64::try_from(used).unwrap_or(u64::MAX),
            None if self.actual == 0 => 0,
            None => u64::MAX,
        }
    }
}

/// The guard of one home.
#[derive(Debug, Clone)]
pub(crate) struct RpoGuard {
    limit: RpoLimit,
    pressure: RpoPressure,
}

impl RpoGuard {
    /// A guard of these limits.
    pub(crate) fn new(limit: RpoLimit) -> Self {
        Self {
            limit,
            pressure: RpoPressure::Free,
        }
    }

    /// Whether there is any limit.
    pub(crate) fn is_set(&self) -> bool {
        self.limit != RpoLimit::default()
    }

    /// How the loss stood last.
    pub(crate) fn pressure(&self) -> RpoPressure {
        self.pressure
    }

    /// Whether a write may be let in with which the loss would be `loss`.
    ///
    /// # Errors
    /// [`Refusal::RpoExceeded`], with the first limit exceeded.
    pub(crate) fn admit(&mut self, loss: Rpo, report: &mut Option<Event>) -> Result<(), Refusal> {
        let Some(over) = self.usages(loss).find(|usage| usage.actual > usage.limit) else {
            return Ok(());
        };
        let Usage {
            what,
            actual,
            limit,
        } = over;
        if self.pressure != RpoPressure::Refusing {
            self.pressure = RpoPressure::Refusing;
            *report = Some(Event::RpoRefusing {
                what,
                actual,
                limit,
            });
        }
        Err(Refusal::RpoExceeded {
            what,
            actual,
            limit,
        })
    }

    /// How long replies are held at this loss: nothing below three quarters of every limit, rising
    /// to [`DELAY_MAX`] at the limit.
    pub(crate) fn delay(&mut self, loss: Rpo, report: &mut Option<Event>) -> Duration {
        let fullest = self.usages(loss).max_by_key(|usage| usage.per_mille());
        let used = fullest.map_or(0, Usage::per_mille);
        match (self.pressure, fullest) {
            // Free again only below half, so that a loss about the threshold is told once.
            (RpoPressure::Slowed | RpoPressure::Refusing, _) if used < 500 => {
                self.pressure = RpoPressure::Free;
                *report = Some(Event::RpoRelaxed);
            }
            (
                RpoPressure::Free,
                Some(Usage {
                    what,
                    actual,
                    limit,
                }),
            ) if used >= 750 => {
                self.pressure = RpoPressure::Slowed;
                *report = Some(Event::RpoSlowed {
                    what,
                    actual,
                    limit,
                });
            }
            _ => {}
        }
        let above = used.clamp(750, 1_000) - 750;
        DELAY_MAX * above as u32 / 250
    }

    fn usages(&self, loss: Rpo) -> impl Iterator<Item = Usage> + use<> {
        let ms = |age: Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let all = [
            (RpoMeasure::Writes, loss.writes, self.limit.writes),
            (RpoMeasure::Bytes, loss.bytes, self.limit.bytes),
            (RpoMeasure::AgeMs, ms(loss.age), self.limit.age.map(ms)),
        ];
        let set = all
            .into_iter()
            .filter_map(|(what, actual, limit)| Some((what, actual, limit?)));
        set.map(|(what, actual, limit)| Usage {
            what,
            actual,
            limit,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(writes: u64) -> Rpo {
        Rpo {
            writes,
            bytes: 0,
            age: Duration::ZERO,
        }
    }

    #[test]
    fn delay_rises_from_three_quarters_to_the_limit() {
        let mut guard = RpoGuard::new(RpoLimit {
            writes: Some(1_000),
            ..RpoLimit::default()
        });
        let mut reports = vec![];
        let mut delay = |writes| {
            let mut report = None;
            let delay = guard.delay(loss(writes), &mut report);
            reports.extend(report);
            delay.as_micros()
        };
        assert_eq!(
            [delay(0), delay(750), delay(875), delay(1_000)],
            [0, 0, 5_000, 10_000]
        );
        assert_eq!([delay(9_999), delay(600), delay(499)], [10_000, 0, 0]);
        let slowed = Event::RpoSlowed {
            what: RpoMeasure::Writes,
            actual: 750,
            limit: 1_000,
        };
        assert_eq!(reports, [slowed, Event::RpoRelaxed]);
    }

    #[test]
    fn every_limit_is_looked_at_and_zero_is_a_limit() {
        let age = Some(Duration::from_millis(20));
        let mut guard = RpoGuard::new(RpoLimit {
            writes: None,
            bytes: Some(0),
            age,
        });
        let mut report = None;
        assert!(guard.admit(loss(5), &mut report).is_ok());
        let refused = guard
            .admit(
                Rpo {
                    bytes: 1,
                    ..loss(5)
                },
                &mut report,
            )
            .unwrap_err();
        let (what, limit) = (RpoMeasure::Bytes, 0);
        assert_eq!(
            refused,
            Refusal::RpoExceeded {
                what,
                actual: 1,
                limit
            }
        );
        let old = Rpo {
            age: Duration::from_millis(21),
            ..loss(5)
        };
        let refused = guard.admit(old, &mut report).unwrap_err();
        assert!(report.take().is_some());
        let (what, limit) = (RpoMeasure::AgeMs, 20);
        assert_eq!(
            refused,
            Refusal::RpoExceeded {
                what,
                actual: 21,
                limit
            }
        );
        assert_eq!(report, None, "refusing is told once");
    }
}
