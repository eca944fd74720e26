//! What a load observed: how long its writes took, and why some failed.
//!
//! **Owns**: the histograms and the counts.
//! **Does not own**: when a write begins (its scheduled start, in an open loop).

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// The longest time a histogram holds: two minutes, beyond every timeout here. Doubled, each
/// histogram grows by a sixteenth.
const LATENCY_US_MAX: u64 = 120_000_000;

/// Significant digits: 0.1 %, finer than any run repeats. One more multiplies the memory by ten.
const DIGITS: u8 = 3;

/// Times in microseconds.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

impl Latencies {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LATENCY_US_MAX, DIGITS);
        Self(histogram.expect("the bounds and digits are within what a histogram takes"))
    }

    /// Adds one.
    pub fn record(&mut self, time: Duration) {
        let microseconds = u64::try_from(time.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX);
        self.0.saturating_record(microseconds);
    }

    /// Adds all of another.
    pub fn add(&mut self, other: &Self) {
        self.0
            .add(&other.0)
            .expect("all histograms here have the same bounds");
    }

    /// Forgets all.
    pub fn reset(&mut self) {
        self.0.reset();
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The time that `share` (0 to 1) of them did not exceed; zero without any.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Duration {
        Duration::from_micros(self.0.value_at_quantile(share))
    }

    /// The median in ms; no number, which no bound admits, without any.
    #[must_use]
    pub fn p50_ms(&self) -> f64 {
        match self.count() {
            0 => f64::NAN,
            _ => ms(self.quantile(0.5)),
        }
    }

    /// The longest.
    #[must_use]
    pub fn max(&self) -> Duration {
        Duration::from_micros(self.0.max())
    }

    /// The shortest; zero without any.
    #[must_use]
    pub fn min(&self) -> Duration {
        if self.0.is_empty() {
            return Duration::ZERO;
        }
        Duration::from_micros(self.0.min())
    }

    /// The quantiles that every table shows.
    #[must_use]
    pub fn summary(&self) -> Summary {
        Summary {
            count: self.count(),
            p50_ms: ms(self.quantile(0.5)),
            p90_ms: ms(self.quantile(0.9)),
            p99_ms: ms(self.quantile(0.99)),
            p999_ms: ms(self.quantile(0.999)),
            max_ms: ms(self.max()),
        }
    }

    /// (time in µs, share up to it, count up to it) at ever finer steps towards 1.
    pub fn curve(&self) -> impl Iterator<Item = (u64, f64, u64)> {
        let mut total = 0;
        self.0.iter_quantiles(5).map(move |step| {
            total += step.count_since_last_iteration();
            (step.value_iterated_to(), step.quantile_iterated_to(), total)
        })
    }

    /// Mean and standard deviation in µs.
    #[must_use]
    pub fn mean_and_deviation_us(&self) -> (f64, f64) {
        (self.0.mean(), self.0.stdev())
    }
}

/// The quantiles of a histogram, in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Summary {
    /// Times recorded.
    pub count: u64,
    /// Half of them were within this.
    pub p50_ms: f64,
    /// Nine of ten.
    pub p90_ms: f64,
    /// 99 of a hundred.
    pub p99_ms: f64,
    /// 999 of a thousand.
    pub p999_ms: f64,
    /// All.
    pub max_ms: f64,
}

/// Milliseconds with a fraction.
#[must_use]
pub fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The middle of some figures; 0 without any.
#[must_use]
pub fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        count if count % 2 == 1 => sorted[count / 2],
        count => f64::midpoint(sorted[count / 2 - 1], sorted[count / 2]),
    }
}

/// Errors by their stable reason.
pub type Errors = BTreeMap<String, u64>;

/// The errors in one cell of a table.
#[must_use]
pub fn errors_text(errors: &Errors) -> String {
    if errors.is_empty() {
        return "0".to_owned();
    }
    let parts: Vec<_> = errors
        .iter()
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect();
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_times() {
        let mut latencies = Latencies::new();
        for time in 1..=1000 {
            latencies.record(Duration::from_millis(time));
        }
        let summary = latencies.summary();
        assert_eq!(summary.count, 1000);
        assert!((summary.p50_ms - 500.0).abs() < 1.0, "{summary:?}");
        assert!((summary.p99_ms - 990.0).abs() < 1.0, "{summary:?}");
        assert!((summary.max_ms - 1000.0).abs() < 1.0, "{summary:?}");
        let last = latencies.curve().last().unwrap();
        assert_eq!(last.2, 1000);
        assert!((last.1 - 1.0).abs() < 1e-9);
        latencies.record(Duration::from_secs(100_000));
        assert_eq!(latencies.count(), 1001);
    }

    #[test]
    fn the_median_is_the_middle() {
        let cases: [(&[f64], f64); 4] = [
            (&[], 0.0),
            (&[3.0], 3.0),
            (&[5.0, 1.0, 2.0], 2.0),
            (&[4.0, 1.0, 2.0, 9.0], 3.0),
        ];
        for (figures, middle) in cases {
            assert!((median(figures) - middle).abs() < 1e-9, "{figures:?}");
        }
    }
}
