//! What each ack level costs in latency and saves in lost writes, in regions at a distance.
//!
//! **Owns**: the rows, their checks and the crash of each level.
//! **Does not own**: loads (`load`), turns (`series`), losing a region (`crash`).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::bare::BareServer;
use super::ceiling::CeilingMode;
use super::checks::{Bound, Check, Distances, Kind};
use super::crash::{CrashLoad, CrashPlan, CrashReport, crash_under_load};
use super::disk_ceiling::{DiskCeiling, measure_disk};
use super::load::{LoadPlan, Shape};
use super::options::{BenchOptions, Ending};
use super::report::{Header, Report};
use super::series::{Series, SeriesRow, alternate, turn_time};
use crate::rig::{
    Cluster, ClusterPlan, Console, ExitOutcome, HomePlan, HomesPlan, Keys, KeyspacePlan, Loss,
    Rtts, Scratch, Stop, Table, thousands,
};

/// The levels, weakest first.
pub const LEVELS: [&str; 3] = ["async", "semi-sync", "sync"];

/// How long the bare disk is measured at each batch size.
const DISK_TIME: Duration = Duration::from_secs(1);

/// What an asynchronous put in three regions may take of one in one region (p50).
const ASYNC_RATIO_MAX: f64 = 1.2;

/// What synchronous writes reach of asynchronous throughput when the window is wide: levels cost
/// latency, not throughput.
const SYNC_RATE_RATIO_MIN: f64 = 0.7;

/// The window that is wide enough for it: 4,096 writes cover an RTT of 80 ms at 50,000 writes/s.
const WIDE_WINDOW: usize = 4096;

/// A row of result.json.
#[derive(Serialize)]
struct LevelRow<'a> {
    level: &'a str,
    shape: String,
    series: SeriesRow,
    crash: Option<&'a CrashReport>,
}

/// One measured row, with what it is for.
struct Measured {
    /// An ack level, "one region", or the name of a ceiling.
    name: &'static str,
    shape: Shape,
    series: Series,
}

pub(super) fn run(
    options: &BenchOptions,
    console: &Console,
    stop: &Stop,
) -> anyhow::Result<ExitOutcome> {
    let scratch = scratch_of(options, console)?;
    let keys = Arc::new(Keys::new(options.keys, options.value_bytes, options.seed));
    let mut header = Header::measure(scratch.path(), options)?;
    let disk = disk_rows(&scratch, keys.write_bytes())?;
    console.talk("starting the servers");
    let cluster = Cluster::start(&cluster_plan(options, scratch.sub("regions")?)?, stop)?;
    header.rtts = cluster.measured_rtts().to_vec();
    let distances = Distances::from_home(options.home(), &header.rtts);
    let rows = measure(options, &keys, &cluster, &scratch, console, stop)?;
    drop(cluster);
    let crashes = match options.ending {
        Ending::Crash => crashes(options, &keys, &scratch, console, stop)?,
        Ending::Quiet => Vec::new(),
    };
    let mut report = Report::new(options, header);
    for ceiling in &disk {
        report.row(ceiling);
    }
    add_rows(&mut report, &rows, &crashes, &disk);
    add_checks(&mut report, &rows, &crashes, &distances);
    report.finish(options.out.as_deref(), console)
}

/// The regions of a run with a keyspace for each level, all at home in the first.
fn cluster_plan(options: &BenchOptions, dir: std::path::PathBuf) -> anyhow::Result<ClusterPlan> {
    let keyspace = |level: &str| KeyspacePlan {
        name: keyspace_name(level),
        ack: level.to_owned(),
        home: HomePlan::Pinned(options.home().to_owned()),
        buckets: None,
    };
    Ok(ClusterPlan {
        rtts: options.rtts()?,
        keyspaces: LEVELS.map(keyspace).to_vec(),
        program: None,
        homes: HomesPlan::Static,
        dir,
    })
}

pub(super) fn keyspace_name(level: &str) -> String {
    format!("bench-{level}")
}

/// A single region without peers, for what the distance adds to an asynchronous put.
pub(super) fn one_region(dir: &Path, stop: &Stop) -> anyhow::Result<Cluster> {
    let region = "a".to_owned();
    let plan = ClusterPlan {
        rtts: Rtts::parse(std::slice::from_ref(&region), "0")?,
        program: None,
        homes: HomesPlan::Static,
        keyspaces: vec![KeyspacePlan {
            name: keyspace_name("async"),
            ack: "async".to_owned(),
            home: HomePlan::Pinned(region),
            buckets: None,
        }],
        dir: dir.to_owned(),
    };
    Cluster::start(&plan, stop)
}

/// Where the servers keep their data; said if a sync costs nothing there.
pub(super) fn scratch_of(options: &BenchOptions, console: &Console) -> anyhow::Result<Scratch> {
    let scratch = Scratch::make(options.dir.as_deref())?;
    if scratch.is_in_memory() {
        let path = scratch.path().display();
        console.talk(&format!(
            "warning: {path} is in memory, its fsync is free; use --dir"
        ));
    }
    Ok(scratch)
}

/// A load of one turn on the keyspace of a level.
pub(super) fn turn_plan(
    options: &BenchOptions,
    keys: &Arc<Keys>,
    endpoint: String,
    level: &str,
    shape: Shape,
    stop: &Stop,
) -> LoadPlan {
    LoadPlan {
        pace: options.pace(),
        warmup: options.warmup,
        duration: turn_time(options.duration, options.rounds),
        seed: options.seed,
        stop: stop.clone(),
        ..LoadPlan::new(endpoint, keyspace_name(level), Arc::clone(keys), shape)
    }
}

pub(super) fn disk_rows(scratch: &Scratch, write_bytes: u64) -> anyhow::Result<Vec<DiskCeiling>> {
    let dir = scratch.sub("disk")?;
    let batches = [1, 64].into_iter();
    batches
        .map(|batch| Ok(measure_disk(&dir, batch, write_bytes, DISK_TIME, Duration::ZERO)?.0))
        .collect()
}

fn measure(
    options: &BenchOptions,
    keys: &Arc<Keys>,
    cluster: &Cluster,
    scratch: &Scratch,
    console: &Console,
    stop: &Stop,
) -> anyhow::Result<Vec<Measured>> {
    let (noop_dir, commit_dir) = (scratch.sub("noop")?, scratch.sub("commit")?);
    let noop = BareServer::start(CeilingMode::Noop, &noop_dir, stop)?;
    let commit = BareServer::start(CeilingMode::Commit, &commit_dir, stop)?;
    let single = one_region(&scratch.sub("one-region")?, stop)?;
    let mut targets = vec![
        ("one region", single.endpoint("a")?, "async"),
        ("async", cluster.endpoint(options.home())?, "async"),
        ("semi-sync", cluster.endpoint(options.home())?, "semi-sync"),
        ("sync", cluster.endpoint(options.home())?, "sync"),
    ];
    let shapes = options.shapes();
    if matches!(shapes[..], [Shape::Unary { .. }, ..]) {
        targets.insert(
            0,
            ("ceiling: tonic + group commit", commit.endpoint(), "async"),
        );
        targets.insert(0, ("ceiling: tonic, no-op", noop.endpoint(), "async"));
    }
    let mut measured = Vec::new();
    for shape in shapes {
        console.talk(&format!("measuring {}", shape.label()));
        let series = targets.iter().map(|(name, endpoint, level)| {
            let plan = turn_plan(options, keys, endpoint.clone(), level, shape, stop);
            Series::new(format!("{name}, {}", shape.label()), plan)
        });
        let mut series: Vec<_> = series.collect();
        alternate(&mut series, options.rounds, console, stop)?;
        let named = targets.iter().zip(series);
        measured.extend(named.map(|((name, ..), series)| Measured {
            name,
            shape,
            series,
        }));
    }
    Ok(measured)
}

/// Loses the home once for each level, each time in fresh regions.
fn crashes(
    options: &BenchOptions,
    keys: &Arc<Keys>,
    scratch: &Scratch,
    console: &Console,
    stop: &Stop,
) -> anyhow::Result<Vec<(&'static str, CrashReport)>> {
    let mut crashes = Vec::new();
    for (number, level) in LEVELS.into_iter().enumerate() {
        console.talk(&format!("losing the home under {level} load"));
        let dir = scratch.sub(&format!("crash-{level}"))?;
        let mut cluster = Cluster::start(&cluster_plan(options, dir)?, stop)?;
        let shapes = options.shapes();
        let plan = CrashPlan {
            home: options.home().to_owned(),
            loads: vec![CrashLoad {
                keyspace: keyspace_name(level),
                keys: Arc::clone(keys),
                shape: shapes[shapes.len() - 1],
                pace: options.pace(),
            }],
            seed: options.seed.wrapping_add(number as u64),
        };
        let reports = crash_under_load(&mut cluster, &plan, stop, &mut |_| Ok(()))?;
        crashes.extend(reports.into_iter().map(|report| (level, report)));
    }
    Ok(crashes)
}

fn crash_of<'a>(
    crashes: &'a [(&'static str, CrashReport)],
    level: &str,
) -> Option<&'a CrashReport> {
    let mut of_level = crashes.iter().filter(|(name, _)| *name == level);
    of_level.next().map(|(_, crash)| crash)
}

fn add_rows(
    report: &mut Report,
    rows: &[Measured],
    crashes: &[(&'static str, CrashReport)],
    disk: &[DiskCeiling],
) {
    let headings = ["ack level", "load"];
    let lost = ["lost writes", "bytes", "ms", "RTO"];
    let headings: Vec<_> = headings
        .into_iter()
        .chain(SeriesRow::HEADINGS)
        .chain(lost)
        .collect();
    let mut table = Table::new(&headings).left(2);
    let last_shape = rows.last().map(|row| row.shape);
    for ceiling in disk {
        let mut cells = vec![
            "ceiling: write + fdatasync".to_owned(),
            format!("batches of {}", ceiling.batch),
            "closed".to_owned(),
            thousands(ceiling.writes_per_s as u64),
        ];
        let times = &ceiling.commit;
        let times = [
            times.p50_ms,
            times.p90_ms,
            times.p99_ms,
            times.p999_ms,
            times.max_ms,
        ];
        cells.extend(times.map(|time| format!("{time:.2}")));
        cells.push("0".to_owned());
        table.row(cells);
    }
    for Measured {
        name,
        shape,
        series,
    } in rows
    {
        // The home is lost under the load of the last shape.
        let crash = crash_of(crashes, name).filter(|_| Some(*shape) == last_shape);
        let mut cells = vec![(*name).to_owned(), shape.label()];
        cells.extend(series.row().cells());
        if LEVELS.contains(name) {
            let lost = crash.map(|crash| &crash.held.lost);
            cells.extend(loss_cells(lost));
            cells.push("-".to_owned());
        }
        table.row(cells);
        report.row(&LevelRow {
            level: name,
            shape: shape.label(),
            series: series.row(),
            crash,
        });
        report.curve(series.label.clone(), &series.latencies);
    }
    report.table("Ack levels", table);
    add_notes(report, crashes);
}

fn add_notes(report: &mut Report, crashes: &[(&'static str, CrashReport)]) {
    report.note(
        "RTO: homes are static in this version, nobody takes over from a lost one. Lost: writes \
         in the client's own list that no surviving region holds after SIGKILL of the home and \
         the cut of its links at one instant; ms is how long the oldest of them had been \
         acknowledged.",
    );
    report.note(
        "All regions share this machine's disk and processors: what the copies write and sync \
         competes with the home, which it would not at a distance.",
    );
    for (level, crash) in crashes {
        report.note(crash_note(level, crash));
    }
}

/// Writes, bytes and ms of a loss; dashes without a crash.
pub(crate) fn loss_cells(lost: Option<&Loss>) -> Vec<String> {
    match lost {
        None => vec!["-".to_owned(); 3],
        Some(lost) => vec![
            thousands(lost.writes),
            thousands(lost.bytes),
            format!("{:.1}", lost.age_ms()),
        ],
    }
}

fn crash_note(level: &str, crash: &CrashReport) -> String {
    let missing = crash.held.missing.iter();
    let missing = missing.map(|(region, loss)| format!("{region} lacks {}", loss.writes));
    let missing: Vec<_> = missing.collect();
    format!(
        "{level}: {} writes acknowledged at {}/s before the loss, {} lost ({}; readable there \
         before a takeover: {} fewer); links cut {} µs after the kill.",
        thousands(crash.acked),
        thousands(crash.rate_per_s as u64),
        thousands(crash.held.lost.writes),
        missing.join(", "),
        thousands(
            crash
                .shown
                .lost
                .writes
                .saturating_sub(crash.held.lost.writes)
        ),
        crash.links_cut_after_us
    )
}

fn add_checks(
    report: &mut Report,
    rows: &[Measured],
    crashes: &[(&'static str, CrashReport)],
    distances: &Distances,
) {
    for row in rows {
        let p50_ms = row.series.latencies.p50_ms();
        report
            .checks
            .extend(distances.physics(row.name, &row.series.label, p50_ms));
    }
    for (level, crash) in crashes {
        let figure = |number: u64| number as f64;
        let safe = |what: String, number: u64| {
            Check::new(Kind::Safety, what, figure(number), Bound::AtMost(0.0), "")
        };
        if *level != "async" {
            let lost = crash.held.lost.writes;
            report
                .checks
                .push(safe(format!("{level}: acked writes lost"), lost));
        }
        let wrong = crash.held.wrong_keys + crash.shown.wrong_keys;
        report
            .checks
            .push(safe(format!("{level}: keys with a wrong value"), wrong));
    }
    for row in rows {
        report.checks.extend(speed_check(row, rows, distances));
    }
}

/// The promise about the speed of a row, if there is one for its shape.
fn speed_check(row: &Measured, rows: &[Measured], distances: &Distances) -> Option<Check> {
    let same_shape = |name: &str| {
        let mut found = rows.iter();
        found.find(|other| other.name == name && other.shape == row.shape)
    };
    let label = &row.series.label;
    if let Shape::Stream { outstanding } = row.shape {
        let of_async = same_shape("async").filter(|_| row.name == "sync")?;
        // So many writes outstanding for a round trip: no implementation does more a second.
        let physics_per_s = outstanding as f64 * 1000.0 / distances.farthest_p50_ms().max(1.0);
        let possible_per_s = of_async.series.rate_per_s().min(physics_per_s).max(1.0);
        let ratio = row.series.rate_per_s() / possible_per_s;
        let bound = Bound::AtLeast(SYNC_RATE_RATIO_MIN);
        let what = format!("{label}: rate over that of async, at most window / RTT");
        return (outstanding >= WIDE_WINDOW)
            .then(|| Check::new(Kind::Speed, what, ratio, bound, ""));
    }
    let Shape::Unary { clients } = row.shape else {
        return None;
    };
    let (from_ms, allowed_ms) = match (row.name, clients) {
        ("async", _) => {
            let single = same_shape("one region")?.series.p50_ms();
            let ratio = row.series.p50_ms() / single.max(f64::MIN_POSITIVE);
            let what = format!("{label}: p50 over that of one region");
            let bound = Bound::AtMost(ASYNC_RATIO_MAX);
            return Some(Check::new(Kind::Speed, what, ratio, bound, ""));
        }
        ("semi-sync", 1) => (distances.nearest_p50_ms(), 1.2),
        ("semi-sync", 2..=64) => (distances.nearest_p50_ms(), 2.0),
        ("semi-sync", 65..=256) => (distances.nearest_p50_ms(), 3.0),
        ("sync", 1) => (distances.farthest_p50_ms(), 1.5),
        ("sync", 2..=64) => (distances.farthest_p50_ms(), 2.0),
        ("sync", 65..=256) => (distances.farthest_p50_ms(), 3.0),
        _ => return None,
    };
    let bound = Bound::AtMost(from_ms + allowed_ms);
    let what = format!("{label}: p50 within RTT + {allowed_ms} ms");
    let p50_ms = row.series.p50_ms();
    Some(Check::new(Kind::Speed, what, p50_ms, bound, "ms"))
}
