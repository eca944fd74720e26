//! Durable puts on one region against a bare server that group-commits to one file.
//!
//! **Owns**: the rows and the promised ratios.
//! **Does not own**: the bare server (`ceiling`).

use std::sync::Arc;

use super::acks::{disk_rows, one_region, turn_plan};
use super::bare::BareServer;
use super::ceiling::CeilingMode;
use super::checks::{Bound, Check, Kind};
use super::load::Shape;
use super::options::BenchOptions;
use super::report::{Header, Report};
use super::series::{Series, SeriesRow, alternate};
use crate::rig::{Console, ExitOutcome, Keys, Scratch, Stop, Table};

/// What a put may take of the bare server's, at 1 and at 64 clients (p50).
const P50_RATIO_MAX: f64 = 1.3;

/// What the puts of 64 clients reach of the bare server's throughput.
const RATE_RATIO_MIN: f64 = 0.75;

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
        report.note(format!(
            "Bare write + fdatasync in batches of {}: {:.0} writes/s, p50 {:.2} ms.",
            ceiling.batch, ceiling.writes_per_s, ceiling.commit.p50_ms
        ));
    }
    let bare = BareServer::start(CeilingMode::Commit, &scratch.sub("bare")?, stop)?;
    let noop = BareServer::start(CeilingMode::Noop, &scratch.sub("noop")?, stop)?;
    let node = one_region(&scratch.sub("node")?, stop)?;
    let targets = [
        ("tonic, no-op", noop.endpoint()),
        ("tonic + group commit", bare.endpoint()),
        ("domicile", node.endpoint("a")?),
    ];
    let headings: Vec<_> = ["server", "load"]
        .into_iter()
        .chain(SeriesRow::HEADINGS)
        .chain(["rate ratio", "p50 ratio"])
        .collect();
    let mut table = Table::new(&headings).left(2);
    for &clients in &options.clients {
        let shape = Shape::Unary { clients };
        console.talk(&format!("measuring {}", shape.label()));
        let series = targets.iter().map(|(name, endpoint)| {
            let plan = turn_plan(options, &keys, endpoint.clone(), "async", shape, stop);
            Series::new(format!("{name}, {}", shape.label()), plan)
        });
        let mut series: Vec<_> = series.collect();
        alternate(&mut series, options.rounds, console, stop)?;
        let ceiling = &series[1];
        for (each, (name, _)) in series.iter().zip(&targets) {
            let rate_ratio = each.rate_per_s() / ceiling.rate_per_s().max(1.0);
            let p50_ratio = each.p50_ms() / ceiling.p50_ms().max(f64::MIN_POSITIVE);
            let mut cells = vec![(*name).to_owned(), shape.label()];
            cells.extend(each.row().cells());
            cells.extend([format!("{rate_ratio:.2}"), format!("{p50_ratio:.2}")]);
            table.row(cells);
            report.row(&each.row());
            report.curve(each.label.clone(), &each.latencies);
            if *name == "domicile" {
                add_checks(&mut report, clients, rate_ratio, p50_ratio);
            }
        }
    }
    report.table("Durable puts on one region", table);
    report.finish(options.out.as_deref(), console)
}

fn add_checks(report: &mut Report, clients: usize, rate_ratio: f64, p50_ratio: f64) {
    let mut check = |what: &str, figure: f64, bound: Bound| {
        let shape = Shape::Unary { clients }.label();
        let what = format!("{shape}: {what} over that of the bare server");
        report
            .checks
            .push(Check::new(Kind::Speed, what, figure, bound, ""));
    };
    if clients == 1 || clients == 64 {
        check("p50", p50_ratio, Bound::AtMost(P50_RATIO_MAX));
    }
    if clients == 64 {
        check("rate", rate_ratio, Bound::AtLeast(RATE_RATIO_MIN));
    }
}
