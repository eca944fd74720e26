//! A row of a table: one load, measured in several turns that alternate with those of other rows.
//!
//! **Owns**: the turns and what they add up to.
//! **Does not own**: the load (`load`).
//!
//! A machine has noisy moments. Turns spread each of them over all rows, and the ratios that are
//! judged compare medians of turns that were next to each other.

use std::time::Duration;

use serde::Serialize;

use super::load::{LoadPlan, LoadResult, Second, run_load};
use super::pace::Pace;
use super::recorder::{Errors, Latencies, Summary, errors_text, median, ms};
use crate::rig::{Console, Stop, thousands};

/// One load and what its turns gave.
#[derive(Clone, Debug)]
pub(super) struct Series {
    /// What the row is called.
    pub label: String,
    /// The load of each turn.
    pub plan: LoadPlan,
    /// All turns together.
    pub latencies: Latencies,
    /// Failed writes of all turns.
    pub errors: Errors,
    turns: Vec<Turn>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Turn {
    rate_per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
}

/// A row as it is kept.
#[derive(Clone, Debug, Serialize)]
pub(super) struct SeriesRow {
    /// What the row is called.
    pub label: String,
    /// Writes a second asked for; absent in a closed loop.
    pub target_rate_per_s: Option<f64>,
    /// Writes a second acknowledged: the median of the turns.
    pub rate_per_s: f64,
    /// The latencies of all turns.
    pub latency: Summary,
    /// The median of the turns' p50, which ratios are made of.
    pub p50_ms: f64,
    /// Failed writes by reason.
    pub errors: Errors,
    turns: Vec<Turn>,
}

impl Series {
    /// A row without turns yet.
    #[must_use]
    pub(super) fn new(label: impl Into<String>, plan: LoadPlan) -> Self {
        Self {
            label: label.into(),
            plan,
            latencies: Latencies::new(),
            errors: Errors::new(),
            turns: Vec::new(),
        }
    }

    /// Measures one more turn.
    ///
    /// # Errors
    /// No connection, or an interrupt.
    pub(super) fn turn(&mut self, console: &Console) -> anyhow::Result<()> {
        self.plan.stop.check()?;
        let label = self.label.clone();
        let mut live = |second: Second| console.progress(&live_line(&label, &second));
        self.plan.seed = self.plan.seed.wrapping_add(1);
        let result = run_load(&self.plan, &mut live)?;
        console.progress_ended();
        self.plan.stop.check()?;
        self.add(&result);
        Ok(())
    }

    /// Adds the result of a turn.
    pub(super) fn add(&mut self, result: &LoadResult) {
        self.latencies.add(&result.latencies);
        for (reason, count) in &result.errors {
            *self.errors.entry(reason.clone()).or_default() += count;
        }
        self.turns.push(Turn {
            rate_per_s: result.rate(),
            p50_ms: result.latencies.p50_ms(),
            p99_ms: ms(result.latencies.quantile(0.99)),
        });
    }

    /// Writes a second: the median of the turns.
    #[must_use]
    pub(super) fn rate_per_s(&self) -> f64 {
        median(&self.each(|turn| turn.rate_per_s))
    }

    /// The median of the turns' p50, in ms.
    #[must_use]
    pub(super) fn p50_ms(&self) -> f64 {
        median(&self.each(|turn| turn.p50_ms))
    }

    fn each(&self, figure: impl Fn(&Turn) -> f64) -> Vec<f64> {
        self.turns.iter().map(figure).collect()
    }

    /// The row as it is kept.
    #[must_use]
    pub(super) fn row(&self) -> SeriesRow {
        let target_rate_per_s = match self.plan.pace {
            Pace::Closed => None,
            Pace::Open { rate_per_s } => Some(rate_per_s),
        };
        SeriesRow {
            label: self.label.clone(),
            target_rate_per_s,
            rate_per_s: self.rate_per_s(),
            latency: self.latencies.summary(),
            p50_ms: self.p50_ms(),
            errors: self.errors.clone(),
            turns: self.turns.clone(),
        }
    }
}

impl SeriesRow {
    /// The headings of [`SeriesRow::cells`].
    pub(super) const HEADINGS: [&'static str; 8] = [
        "target/s", "writes/s", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms", "errors",
    ];

    /// The figures of a row for a table.
    #[must_use]
    pub(super) fn cells(&self) -> Vec<String> {
        let target = self.target_rate_per_s;
        let latency = &self.latency;
        let mut cells = vec![
            target.map_or_else(|| "closed".to_owned(), |rate| thousands(rate as u64)),
            thousands(self.rate_per_s as u64),
        ];
        let times = [
            latency.p50_ms,
            latency.p90_ms,
            latency.p99_ms,
            latency.p999_ms,
            latency.max_ms,
        ];
        cells.extend(times.map(|time| format!("{time:.2}")));
        cells.push(errors_text(&self.errors));
        cells
    }
}

/// Measures all rows `rounds` times, in turn.
///
/// # Errors
/// As [`Series::turn`].
pub(super) fn alternate(
    series: &mut [Series],
    rounds: usize,
    console: &Console,
    stop: &Stop,
) -> anyhow::Result<()> {
    for round in 1..=rounds {
        for each in &mut *series {
            stop.check()?;
            each.turn(console)?;
        }
        if let Some(spent) = series.first().map(|each| each.plan.duration) {
            console.talk(&format!("round {round} of {rounds} ({spent:.1?} each)"));
        }
    }
    Ok(())
}

/// The recorded time of one turn.
#[must_use]
pub(super) fn turn_time(duration: Duration, rounds: usize) -> Duration {
    duration / u32::try_from(rounds.max(1)).unwrap_or(u32::MAX)
}

fn live_line(label: &str, second: &Second) -> String {
    let Second {
        since_start,
        acked,
        latencies,
    } = second;
    let summary = latencies.summary();
    format!(
        "{label}: {:.0} s  {} writes/s  p50 {:.2}  p90 {:.2}  p99 {:.2}  max {:.2} ms",
        since_start.as_secs_f64(),
        thousands(*acked),
        summary.p50_ms,
        summary.p90_ms,
        summary.p99_ms,
        summary.max_ms,
    )
}
