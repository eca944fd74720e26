//! What many losses of a home came to: tables, curves and checks.
//!
//! **Owns**: the promises about takeovers.
//! **Does not own**: measuring them (`takeover`).

use std::time::Duration;

use super::takeover::{ALL_DOORS, ONE_DOOR, Takeover};
use crate::bench::checks::{Bound, Check, Kind};
use crate::bench::options::BenchOptions;
use crate::bench::recorder::Latencies;
use crate::bench::report::Report;
use crate::rig::{Table, thousands};

/// Beyond this a takeover hangs on something: four times what the settings imply at 80 ms.
const RTO_MS_MAX: f64 = 8000.0;

/// From the loss to the last sign of life that a leader counts from: more than this is the election
/// of a new one, which cannot be quicker; less is what two readings of a clock differ by.
const ELECT_MS_MIN: u64 = 100;

/// Quantiles in ms, for a table.
pub(super) const QUANTILES: [&str; 5] = ["runs", "p50 ms", "p90 ms", "p99 ms", "max ms"];

/// The figures under [`QUANTILES`].
pub(super) fn quantile_cells(times: &Latencies) -> Vec<String> {
    let summary = times.summary();
    let figures = [
        summary.p50_ms,
        summary.p90_ms,
        summary.p99_ms,
        summary.max_ms,
    ];
    let cells = figures.iter().map(|figure| format!("{figure:.0}"));
    [summary.count.to_string()]
        .into_iter()
        .chain(cells)
        .collect()
}

/// A histogram of figures in ms; what is no number is not in it.
pub(super) fn latencies_of(figures_ms: impl Iterator<Item = f64>) -> Latencies {
    let mut times = Latencies::new();
    for figure_ms in figures_ms.filter(|figure| figure.is_finite()) {
        times.record(Duration::from_secs_f64(figure_ms.max(0.0) / 1000.0));
    }
    times
}

/// Whether the report is that of the clients: what they know to be lost, and what was under way.
fn is_told_alike(run: &Takeover) -> bool {
    (run.lost..=run.lost + run.unanswered_max).contains(&run.actual)
}

pub(super) fn add_to(report: &mut Report, options: &BenchOptions, runs: &[Takeover]) {
    let ack = &options.failover.ack;
    let haste = format!("{:?}", options.failover.haste).to_lowercase();
    let headings: Vec<&str> = ["what"].into_iter().chain(QUANTILES).collect();
    let mut table = Table::new(&headings);
    let mut add = |label: &str, times: &Latencies| {
        let mut cells = vec![label.to_owned()];
        cells.extend(quantile_cells(times));
        table.row(cells);
    };
    let mut longest = Latencies::new();
    for (place, client) in [ALL_DOORS, ONE_DOOR].into_iter().enumerate() {
        let times = latencies_of(runs.iter().map(|run| run.rto_ms[place]));
        add(&format!("RTO, client with {client}"), &times);
        report.curve(format!("RTO, {haste}, {ack}, {client}"), &times);
        longest.add(&times);
        let kept = runs.iter().filter(|run| run.elect_ms <= ELECT_MS_MIN);
        let kept = latencies_of(kept.map(|run| run.rto_ms[place]));
        add("  of it, where the leader survived", &kept);
    }
    let elected = runs.iter().filter(|run| run.elect_ms > ELECT_MS_MIN);
    let elected = latencies_of(elected.map(|run| run.elect_ms as f64));
    add("elect, where the leader was lost, too", &elected);
    for (place, part) in ["detect", "fence", "promote", "route"]
        .into_iter()
        .enumerate()
    {
        let times = latencies_of(runs.iter().map(|run| run.parts_ms[place] as f64));
        add(&format!("{part}, as reported"), &times);
    }
    let returns = latencies_of(runs.iter().map(|run| run.return_ms));
    add("lost region back, all well", &returns);
    report.table(format!("Takeover, haste {haste}, ack {ack}"), table);
    for run in runs {
        report.row(run);
    }
    add_losses(report, options, runs);
    add_checks(report, ack, runs, &longest);
}

fn add_losses(report: &mut Report, options: &BenchOptions, runs: &[Takeover]) {
    let headings = [
        "ack level",
        "runs",
        "acked writes",
        "lost, by the clients",
        "most in a run",
        "actual, by the report",
        "estimated at least",
        "estimated at most",
        "errors",
    ];
    let sum = |figure: fn(&Takeover) -> u64| runs.iter().map(figure).sum::<u64>();
    let mut table = Table::new(&headings);
    table.row([
        options.failover.ack.clone(),
        runs.len().to_string(),
        thousands(sum(|run| run.acked)),
        thousands(sum(|run| run.lost)),
        thousands(runs.iter().map(|run| run.lost).max().unwrap_or(0)),
        thousands(sum(|run| run.actual)),
        thousands(sum(|run| run.estimated_min)),
        runs.iter()
            .map(|run| run.estimated_max)
            .sum::<Option<u64>>()
            .map_or("-".to_owned(), thousands),
        thousands(sum(|run| run.errors.values().sum())),
    ]);
    report.table("What the takeovers lost", table);
    let planned = runs.iter().map(|run| run.planned_ms_max).max().unwrap_or(0);
    report.note(format!(
        "RTO: from the last acknowledgement that a client read from the old home to the first by \
         another; `failover plan` gave {planned} ms as the longest. The client with all doors is \
         next to the home, the other one a round trip away. Parts are those of the partition of \
         each run that took longest. Lost: writes in the clients' own lists that are not read \
         back; the report also counts those whose answer was on its way, one of each client at \
         most."
    ));
}

fn add_checks(report: &mut Report, ack: &str, runs: &[Takeover], rto: &Latencies) {
    let mut check = |kind, what: String, figure: f64, bound, unit| {
        report
            .checks
            .push(Check::new(kind, what, figure, bound, unit));
    };
    let none = Bound::AtMost(0.0);
    if ack != "async" {
        let lost: u64 = runs.iter().map(|run| run.lost).sum();
        let what = format!("{ack}: acked writes lost in takeovers");
        check(Kind::Safety, what, lost as f64, none, "");
    }
    let unlike = runs.iter().filter(|run| !is_told_alike(run)).count();
    let what = "takeovers whose report is not the clients' list".to_owned();
    check(Kind::Safety, what, unlike as f64, none, "");
    if ack == "async" {
        let is_within = |run: &&Takeover| {
            let most = run.estimated_max.unwrap_or(u64::MAX);
            (run.estimated_min..=most).contains(&run.actual)
        };
        let outside = runs.len() - runs.iter().filter(is_within).count();
        let what = "takeovers that cost what was not estimated".to_owned();
        check(Kind::Safety, what, outside as f64, none, "");
    }
    let errors: u64 = runs.iter().flat_map(|run| run.errors.values()).sum();
    let what = "errors given back to clients in takeovers".to_owned();
    check(Kind::Safety, what, errors as f64, none, "");
    // Of two clients each: one that was told nothing must not pass.
    let measured = rto.count() == 2 * runs.len() as u64;
    let longest_ms = rto.summary().max_ms;
    let longest_ms = if measured { longest_ms } else { f64::NAN };
    let what = "longest RTO".to_owned();
    check(
        Kind::Speed,
        what,
        longest_ms,
        Bound::AtMost(RTO_MS_MAX),
        "ms",
    );
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn run(lost: u64, actual: u64) -> Takeover {
        Takeover {
            region: "a".to_owned(),
            successors: vec!["b".to_owned()],
            rto_ms: [2000.0, 2010.0],
            elect_ms: 0,
            parts_ms: [1500, 500, 10, 80],
            planned_ms_max: 2500,
            acked: 100,
            lost,
            unanswered_max: 2,
            actual,
            estimated_min: 0,
            estimated_max: Some(actual + 1),
            errors: BTreeMap::new(),
            return_ms: 900.0,
        }
    }

    #[test]
    fn a_report_may_count_what_was_under_way_and_no_more() {
        for (lost, actual, is_alike) in [
            (3, 3, true),
            (3, 5, true),
            (3, 6, false),
            (3, 2, false),
            (0, 0, true),
        ] {
            assert_eq!(
                is_told_alike(&run(lost, actual)),
                is_alike,
                "{lost} {actual}"
            );
        }
    }

    #[test]
    fn figures_that_are_none_are_not_recorded() {
        let times = latencies_of([2000.0, f64::NAN, 3000.0].into_iter());
        assert_eq!(times.count(), 2);
        assert_eq!(quantile_cells(&times)[0], "2");
    }
}
