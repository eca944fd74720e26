//! Judgements: what was promised, what was measured, whether it holds.
//!
//! **Owns**: the checks against physics and the form of all others.
//! **Does not own**: measuring.
//!
//! Physics is what no implementation can beat and every honest figure obeys: an answer that needs
//! no other region comes before any could answer, one that needs them cannot.

use serde::Serialize;

use crate::rig::{ExitOutcome, MeasuredRtt, Table};

/// Whether a promise holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It does.
    Pass,
    /// It does not.
    Fail,
}

/// Whether a promise that does not hold fails the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Cannot be otherwise: the figures would be wrong.
    Physics,
    /// A promise about data.
    Safety,
    /// A promise about speed, which a busy or slow machine may not keep.
    Speed,
}

/// One promise.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// Of what kind.
    pub kind: Kind,
    /// What it is about.
    pub what: String,
    /// What was promised.
    pub target: String,
    /// What was measured.
    pub measured: String,
    /// Whether it holds.
    pub verdict: Verdict,
}

/// What a figure must be.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
    /// Less than this.
    Below(f64),
}

impl Bound {
    fn admits(self, figure: f64) -> bool {
        match self {
            Self::AtLeast(bound) => figure >= bound,
            Self::AtMost(bound) => figure <= bound,
            Self::Below(bound) => figure < bound,
        }
    }

    fn text(self, unit: &str) -> String {
        let (sign, bound) = match self {
            Self::AtLeast(bound) => (">=", bound),
            Self::AtMost(bound) => ("<=", bound),
            Self::Below(bound) => ("<", bound),
        };
        format!("{sign} {}", figure_text(bound, unit))
    }
}

/// A figure with its unit, as precise as it is worth reading.
#[must_use]
pub(super) fn figure_text(figure: f64, unit: &str) -> String {
    let digits = match figure.abs() {
        size if size >= 1000.0 => 0,
        size if size >= 100.0 => 1,
        _ => 2,
    };
    let space = if unit.is_empty() { "" } else { " " };
    format!("{figure:.digits$}{space}{unit}")
}

impl Check {
    /// Judges a figure.
    #[must_use]
    pub fn new(kind: Kind, what: impl Into<String>, figure: f64, bound: Bound, unit: &str) -> Self {
        Self {
            kind,
            what: what.into(),
            target: bound.text(unit),
            measured: figure_text(figure, unit),
            verdict: if bound.admits(figure) {
                Verdict::Pass
            } else {
                Verdict::Fail
            },
        }
    }
}

/// The distances from the home, as measured: the shortest time seen on a link, which nothing can
/// beat, and the median, which a median is compared with.
#[derive(Clone, Copy, Debug)]
pub struct Distances {
    nearest_ms: f64,
    farthest_ms: f64,
    nearest_p50_ms: f64,
    farthest_p50_ms: f64,
}

impl Distances {
    /// From `home`, by the links that it dials.
    #[must_use]
    pub fn from_home(home: &str, measured: &[MeasuredRtt]) -> Self {
        let from_home = || measured.iter().filter(|rtt| rtt.from == home);
        let nearest =
            |time: fn(&MeasuredRtt) -> f64| from_home().map(time).fold(f64::MAX, f64::min);
        let farthest = |time: fn(&MeasuredRtt) -> f64| from_home().map(time).fold(0.0, f64::max);
        Self {
            nearest_ms: nearest(|rtt| rtt.min_ms),
            farthest_ms: farthest(|rtt| rtt.min_ms),
            nearest_p50_ms: nearest(|rtt| rtt.p50_ms),
            farthest_p50_ms: farthest(|rtt| rtt.p50_ms),
        }
    }

    /// The median round trip to the nearest region, in ms.
    #[must_use]
    pub fn nearest_p50_ms(&self) -> f64 {
        self.nearest_p50_ms
    }

    /// The median round trip to the farthest region, in ms.
    #[must_use]
    pub fn farthest_p50_ms(&self) -> f64 {
        self.farthest_p50_ms
    }

    /// The check of a level's p50 against physics; `None` for a level that has none.
    #[must_use]
    pub fn physics(&self, level: &str, label: &str, p50_ms: f64) -> Option<Check> {
        let (bound, of) = match level {
            "async" => (Bound::Below(self.nearest_ms), "nearest RTT"),
            "semi-sync" | "sync:2" => (Bound::AtLeast(self.nearest_ms), "nearest RTT"),
            "sync" => (Bound::AtLeast(self.farthest_ms), "farthest RTT"),
            _ => return None,
        };
        let what = format!("{label}: p50 against {of}");
        Some(Check::new(Kind::Physics, what, p50_ms, bound, "ms"))
    }
}

/// All checks of a run as a table.
#[must_use]
pub fn checks_table(checks: &[Check]) -> Table {
    let mut table = Table::new(&["check", "target", "measured", ""]).left(1);
    for check in checks {
        let verdict = match check.verdict {
            Verdict::Pass => "PASS",
            Verdict::Fail => "FAIL",
        };
        table.row([&check.what, &check.target, &check.measured, verdict]);
    }
    table
}

/// The outcome of a run: any promise that does not hold fails it.
pub fn outcome(checks: &[Check]) -> ExitOutcome {
    ExitOutcome::of(|| checks.iter().all(|check| check.verdict == Verdict::Pass))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distances() -> Distances {
        let rtt = |from: &str, to: &str, min_ms| MeasuredRtt {
            from: from.to_owned(),
            to: to.to_owned(),
            nominal_ms: min_ms,
            min_ms,
            p50_ms: min_ms,
        };
        let measured = [
            rtt("a", "b", 60.0),
            rtt("a", "c", 90.0),
            rtt("b", "c", 10.0),
        ];
        Distances::from_home("a", &measured)
    }

    fn verdict(level: &str, p50_ms: u64) -> Verdict {
        let p50_ms = p50_ms as f64;
        distances().physics(level, level, p50_ms).unwrap().verdict
    }

    /// Regression: a load of which nothing was recorded was within every bound.
    #[test]
    fn nothing_recorded_passes_no_check() {
        let none = crate::bench::recorder::Latencies::new().p50_ms();
        for level in ["async", "semi-sync", "sync"] {
            let check = distances().physics(level, level, none).unwrap();
            assert_eq!(check.verdict, Verdict::Fail, "{level}");
        }
    }

    #[test]
    fn physics_binds_each_level() {
        assert_eq!(verdict("async", 1), Verdict::Pass);
        assert_eq!(verdict("async", 60), Verdict::Fail);
        assert_eq!(verdict("semi-sync", 59), Verdict::Fail);
        assert_eq!(verdict("semi-sync", 61), Verdict::Pass);
        assert_eq!(verdict("sync:2", 59), Verdict::Fail);
        assert_eq!(verdict("sync:2", 61), Verdict::Pass);
        assert_eq!(verdict("sync", 61), Verdict::Fail);
        assert_eq!(verdict("sync", 91), Verdict::Pass);
        assert!(distances().physics("other", "x", 0.0).is_none());
    }

    #[test]
    fn one_failed_check_fails_the_run() {
        let check = |figure| Check::new(Kind::Speed, "x", figure, Bound::AtLeast(2.0), "writes/s");
        assert_eq!(outcome(&[]), ExitOutcome::Pass);
        assert_eq!(outcome(&[check(2.0), check(3.0)]), ExitOutcome::Pass);
        assert_eq!(outcome(&[check(2.0), check(1.9)]), ExitOutcome::Fail);
        assert_eq!(check(1234.5).measured, "1234 writes/s");
        assert_eq!(check(1.0).target, ">= 2.00 writes/s");
    }
}
