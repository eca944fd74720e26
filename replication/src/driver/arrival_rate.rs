//! How fast records of a partition arrive at a copy.
//!
//! **Owns**: the count of the last seconds.
//! **Does not own**: what is made of it (an estimate of what was never heard of).

use domicile_core::Moment;

/// Seconds that are remembered: a burst is over and forgotten after as many. Doubled, an estimate
/// is too high for twice as long after one.
const SECONDS: usize = 8;

/// The records of each of the last seconds in which any came.
#[derive(Debug, Default)]
pub(super) struct ArrivalRate {
    /// (second, records), at the place of the second.
    counts: [(u64, u64); SECONDS],
}

impl ArrivalRate {
    pub(super) fn arrived(&mut self, records: u64, now: Moment) {
        let second = second_of(now);
        let place = &mut self.counts[(second % SECONDS as u64) as usize];
        if place.0 != second {
            *place = (second, 0);
        }
        place.1 += records;
    }

    /// The most that came in one of the last seconds.
    pub(super) fn most_a_second(&self, now: Moment) -> u64 {
        let oldest = second_of(now).saturating_sub(SECONDS as u64);
        let recent = self.counts.iter().filter(|(second, _)| *second > oldest);
        recent.map(|(_, records)| *records).max().unwrap_or(0)
    }
}

fn second_of(now: Moment) -> u64 {
    now.micros() / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_second_counts_until_it_is_old() {
        let at = |ms: u64| Moment::from_micros(ms * 1_000);
        let mut rate = ArrivalRate::default();
        assert_eq!(rate.most_a_second(at(0)), 0);
        rate.arrived(3, at(9_100));
        rate.arrived(4, at(9_900));
        rate.arrived(5, at(10_000));
        assert_eq!(rate.most_a_second(at(10_500)), 7);
        assert_eq!(rate.most_a_second(at(17_500)), 5);
        assert_eq!(rate.most_a_second(at(40_000)), 0);
        rate.arrived(1, at(41_000));
        assert_eq!(rate.most_a_second(at(41_000)), 1, "a place is used again");
    }
}
