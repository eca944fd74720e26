//! Durable writes through one stream on one region.
//!
//! **Owns**: the rows and the promised rate.
//! **Does not own**: the stream (`stream`).

use std::sync::Arc;

use super::acks::{disk_rows, one_region, turn_plan};
use super::checks::{Bound, Check, Kind};
use super::load::Shape;
use super::options::BenchOptions;
use super::report::{Header, Report};
use super::series::{Series, SeriesRow, alternate};
use crate::rig::{Console, ExitOutcome, Keys, Scratch, Stop, Table};

/// Writes a second that a stream reaches at its best window.
const RATE_MIN: f64 = 80_000.0;

pub(super) fn run(
    options: &BenchOptions,
    console: &Console,
    stop: &Stop,
) -> anyhow::Result<ExitOutcome> {
    let scratch = Scratch::make(options.dir.as_deref())?;
    let keys = Arc::new(Keys::new(options.keys, options.value_bytes, options.seed));
    let header = Header::measure(scratch.path(), options)?;
    let mut report = Report::new(options, header);
    for ceiling in disk_rows(&scratch, keys.write_bytes())? {
        report.row(&ceiling);
    }
    let node = one_region(&scratch.sub("node")?, stop)?;
    let series = options.outstanding.iter().map(|&outstanding| {
        let shape = Shape::Stream { outstanding };
        let endpoint = node.endpoint("a")?;
        let plan = turn_plan(options, &keys, endpoint, "async", shape, stop);
        Ok(Series::new(shape.label(), plan))
    });
    let mut series = series.collect::<anyhow::Result<Vec<_>>>()?;
    alternate(&mut series, options.rounds, console, stop)?;
    let headings: Vec<_> = ["load"].into_iter().chain(SeriesRow::HEADINGS).collect();
    let mut table = Table::new(&headings);
    for each in &series {
        let mut cells = vec![each.label.clone()];
        cells.extend(each.row().cells());
        table.row(cells);
        report.row(&each.row());
        report.curve(each.label.clone(), &each.latencies);
    }
    report.table("Durable writes through one stream on one region", table);
    if options.rate_per_s.is_none() {
        let rates = series.iter().map(Series::rate_per_s);
        let best = rates.fold(0.0, f64::max);
        let (what, bound) = ("rate at the best window", Bound::AtLeast(RATE_MIN));
        let check = Check::new(Kind::Speed, what, best, bound, "writes/s");
        report.checks.push(check);
    }
    report.finish(options.out.as_deref(), console)
}
