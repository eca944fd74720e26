//! The engines of this build, each in a store with many keys, one after the other.
//!
//! **Owns**: the processes, their memory as seen from outside, the targets and the tables.
//! **Does not own**: what is done with a store (`engine_life`).

use std::time::Duration;

use domicile_replication::Engine;

use super::checks::{Bound, Check, Kind};
use super::engine_life::{EngineFigures, figures_in};
use super::options::BenchOptions;
use super::report::{Header, Report};
use crate::rig::{Console, ExitOutcome, Process, Scratch, Stop, Table, resident_kib, thousands};

/// How often memory is looked at, and whether the process has ended.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The last tenth of a fill over the first: an engine whose writes cost more with every key it has
/// is none for large stores.
const LAST_OVER_FIRST_MIN: f64 = 0.7;

/// Memory of a node under load, in MiB: a small machine's share.
const RESIDENT_MIB_MAX: f64 = 1024.0;

/// Bytes on the disk over bytes of keys and values: engine and snapshots have them once each, and
/// one is being rewritten.
const DISK_OVER_LIVE_MAX: f64 = 3.0;

/// Opening again, in seconds: what a restart may cost.
const REOPEN_S_MAX: f64 = 10.0;

/// Reads a second of what is hot, on one core.
const HOT_READS_PER_S_MIN: f64 = 150_000.0;

/// A cold read's p99, in ms: a few reads of a solid-state disk.
const COLD_P99_MS_MAX: f64 = 1.0;

/// Rows a second of a scan.
const SCAN_ROWS_PER_S_MIN: f64 = 500_000.0;

pub(super) fn run(
    options: &BenchOptions,
    console: &Console,
    stop: &Stop,
) -> anyhow::Result<ExitOutcome> {
    let scratch = Scratch::make(options.dir.as_deref())?;
    let header = Header::measure(scratch.path(), options)?;
    let mut report = Report::new(options, header);
    let mut all = Vec::new();
    for engine in [Engine::Sled, Engine::Fjall] {
        if engine.is_built() {
            all.push(measure(engine, options, &scratch, console, stop)?);
        }
    }
    for figures in &all {
        report.row(figures);
        report.checks.extend(checks(figures));
    }
    let title = format!(
        "{} keys of 16 bytes with values of {}, written once all over the order, then as many \
         overwrites at random",
        thousands(options.keys.into()),
        options.value_bytes
    );
    report.table(title, figures_table(&all));
    report.note(
        "A hot read and a scan have one core; puts have all. Disk is what files take. Values have \
         most of their letters in common: an engine that compresses would look better than it is.",
    );
    for figures in &all {
        let (engine, bytes) = (&figures.engine, figures.cold_device_bytes_per_read);
        report.note(format!(
            "{engine}: a cold read had the device read {bytes:.0} bytes, with an engine cache of \
             1 MiB and the page cache dropped before"
        ));
    }
    report.finish(options.out.as_deref(), console)
}

/// One life, in a process of its own.
fn measure(
    engine: Engine,
    options: &BenchOptions,
    scratch: &Scratch,
    console: &Console,
    stop: &Stop,
) -> anyhow::Result<EngineFigures> {
    let word = engine.word();
    let directory = scratch.sub(word)?;
    let (data, result) = (directory.join("data"), directory.join("figures.json"));
    let (keys, value_bytes) = (options.keys.to_string(), options.value_bytes.to_string());
    let seed = options.seed.to_string();
    let (data_text, result_text) = (data.to_string_lossy(), result.to_string_lossy());
    let arguments = [
        "bench",
        "engine-life",
        "--engine",
        word,
        "--keys",
        &keys,
        "--value-bytes",
        &value_bytes,
        "--seed",
        &seed,
        "--data",
        &data_text,
        "--result",
        &result_text,
    ];
    let mut process = Process::start(word, &arguments, &directory.join("log"))?;
    let mut resident_kib_max = 0;
    let mut figures = loop {
        // Asked for first: one that ends has written its figures before.
        let ended = process.check();
        if let Some(figures) = figures_in(&result)? {
            break figures;
        }
        ended?;
        stop.sleep(LOOK_EVERY)?;
        resident_kib_max = resident_kib(process.pid())
            .unwrap_or(0)
            .max(resident_kib_max);
        let doing = process.last_words();
        let doing = doing.lines().last().unwrap_or_default();
        let mib = resident_kib_max >> 10;
        console.progress(&format!("{word}: {doing}, {mib} MiB at most"));
    };
    console.progress_ended();
    drop(process);
    std::fs::remove_dir_all(data)?;
    figures.resident_kib_max = resident_kib_max;
    let rate = thousands(figures.puts_per_s as u64);
    console.talk(&format!("{word}: measured; {rate} puts/s"));
    Ok(figures)
}

fn over(one: f64, other: f64) -> f64 {
    one / other
}

fn last_over_first(figures: &EngineFigures) -> f64 {
    over(figures.last_tenth_per_s, figures.first_tenth_per_s)
}

fn over_live(figures: &EngineFigures, bytes: u64) -> f64 {
    over(bytes as f64, figures.live_bytes as f64)
}

fn checks(figures: &EngineFigures) -> Vec<Check> {
    let check = |what: &str, figure, bound, unit| {
        let what = format!("{}: {what}", figures.engine);
        Check::new(Kind::Speed, what, figure, bound, unit)
    };
    let at_least = Bound::AtLeast;
    vec![
        check(
            "last tenth of the puts over the first",
            last_over_first(figures),
            at_least(LAST_OVER_FIRST_MIN),
            "",
        ),
        check(
            "resident memory",
            figures.resident_kib_max as f64 / 1024.0,
            Bound::Below(RESIDENT_MIB_MAX),
            "MiB",
        ),
        check(
            "disk over live bytes once merges and snapshots have caught up",
            over_live(figures, figures.disk.all_bytes),
            Bound::AtMost(DISK_OVER_LIVE_MAX),
            "",
        ),
        check(
            "opening again",
            figures.reopen_s,
            Bound::Below(REOPEN_S_MAX),
            "s",
        ),
        check(
            "hot reads on one core",
            figures.hot_reads_per_s,
            at_least(HOT_READS_PER_S_MIN),
            "reads/s",
        ),
        check(
            "cold read p99",
            figures.cold_p99_ms,
            Bound::Below(COLD_P99_MS_MAX),
            "ms",
        ),
        check(
            "scan",
            figures.scan_rows_per_s,
            at_least(SCAN_ROWS_PER_S_MIN),
            "rows/s",
        ),
    ]
}

fn figures_table(all: &[EngineFigures]) -> Table {
    let mut headings = vec!["figure"];
    headings.extend(all.iter().map(|figures| figures.engine.as_str()));
    let mut table = Table::new(&headings);
    let mut row = |what: &str, figure: &dyn Fn(&EngineFigures) -> String| {
        let cells = all.iter().map(figure);
        table.row(std::iter::once(what.to_owned()).chain(cells));
    };
    let mib = |bytes: u64| thousands(bytes >> 20);
    row("keys written", &|f| thousands(f.keys.into()));
    row("puts/s", &|f| thousands(f.puts_per_s as u64));
    row("puts/s, first tenth", &|f| {
        thousands(f.first_tenth_per_s as u64)
    });
    row("puts/s, last tenth", &|f| {
        thousands(f.last_tenth_per_s as u64)
    });
    row("last over first", &|f| format!("{:.2}", last_over_first(f)));
    row("overwrites", &|f| thousands(f.overwrites.into()));
    row("overwrites/s", &|f| thousands(f.overwrites_per_s as u64));
    row("resident MiB, at most", &|f| mib(f.resident_kib_max << 10));
    row("live MiB", &|f| mib(f.live_bytes));
    row("engine MiB", &|f| mib(f.disk.engine_bytes));
    row("journal MiB", &|f| mib(f.disk.journal_bytes));
    row("snapshots MiB", &|f| mib(f.disk.snapshot_bytes));
    row("engine over live", &|f| {
        format!("{:.2}", over_live(f, f.disk.engine_bytes))
    });
    row("disk over live", &|f| {
        format!("{:.2}", over_live(f, f.disk.all_bytes))
    });
    row("after a rest of s", &|f| format!("{:.0}", f.rest_s));
    row("disk over live, before it", &|f| {
        format!("{:.2}", over_live(f, f.disk_loaded.all_bytes))
    });
    row("disk over live, at most", &|f| {
        format!("{:.2}", over_live(f, f.disk_peak_bytes))
    });
    row("close s", &|f| format!("{:.2}", f.close_s));
    row("open again s", &|f| format!("{:.2}", f.reopen_s));
    row("hot reads/s", &|f| thousands(f.hot_reads_per_s as u64));
    row("scan rows/s", &|f| thousands(f.scan_rows_per_s as u64));
    row("cold read p50 ms", &|f| format!("{:.3}", f.cold_p50_ms));
    row("cold read p99 ms", &|f| format!("{:.3}", f.cold_p99_ms));
    table
}
