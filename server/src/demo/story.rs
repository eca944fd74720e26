//! The demo from its first line to its last.
//!
//! **Owns**: the order of its scenes, and the scenes of comparison and loss.
//! **Does not own**: the first scenes (`scenes`), servers and loss (`rig`, `bench`), the second
//! terminal (`control`), the last words (`ending`).
//!
//! ```text
//! start -> rows in every region -> reads across -> levels compared -> region lost, succeeded,
//!          `------------ every region keeps writing its own rows --------'      back -> table
//! ```

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use domicile_proto::v1::Consistency;
use domicile_replication::Haste;

use super::control::{Control, Shared};
use super::ending::{LevelFigures, conclude};
use super::options::DemoOptions;
use super::recovery::{LevelLoss, lose_and_recover};
use super::scenes::{begin_workloads, introduce, read_across};
use super::workload::{USERS, Workload, rows_of};
use crate::bench::{
    CrashLoad, CrashPlan, Distances, Latencies, LoadPlan, Pace, Shape, errors_text, ms, run_load,
};
use crate::rig::{
    Cluster, ClusterPlan, Console, Door, ExitOutcome, HomePlan, HomesPlan, Keys, KeyspacePlan,
    Rtts, Scratch, Stop, VALUE_BYTES_DEFAULT, run_to_its_end,
};

/// What all scenes but the comparison take, about.
const OTHER_SCENES: Duration = Duration::from_secs(11);

/// The shortest time for which a level is measured.
const LEVEL_TIME_MIN: Duration = Duration::from_secs(2);

/// Writes a second while levels are compared: a local service's, far from what the machine can do,
/// so that latency is distance and disk and not a queue.
const COMPARED_PER_S: f64 = 400.0;

/// The most writes outstanding then: half a second's worth.
const COMPARED_CLIENTS: usize = 200;

/// Writes a second on each level when the region is lost.
const LOST_PER_S: f64 = 1500.0;

/// The most writes outstanding then: more than half a second's worth.
const LOST_OUTSTANDING: usize = 1024;

/// The ack levels that are compared. Sync asks for two of three regions, so that writes go on
/// without the one that is lost.
const LEVELS: [&str; 3] = ["async", "semi-sync", "sync:2"];

/// Keys of the keyspaces that are compared.
const KEYS: u32 = 20_000;

/// Runs the demo to its end.
///
/// Blocks, and may be called inside a runtime or outside.
///
/// # Errors
/// Impossible options, or servers that do not start or answer.
pub fn run(options: &DemoOptions) -> anyhow::Result<ExitOutcome> {
    options.check()?;
    run_to_its_end("demo", |console, stop| tell_story(options, console, stop))
}

fn tell_story(
    options: &DemoOptions,
    console: &Console,
    stop: &Stop,
) -> anyhow::Result<ExitOutcome> {
    let started = Instant::now();
    let home = options.regions.last().context("there is no region")?;
    let scratch = Scratch::make(options.dir.as_deref())?;
    console.talk(&format!("starting {} regions", options.regions.len()));
    let rtts = Rtts::parse(&options.regions, &options.rtt)?;
    let plan = ClusterPlan {
        keyspaces: keyspaces(home),
        homes: HomesPlan::agreed(&rtts, Haste::Default),
        program: None,
        dir: scratch.sub("regions")?,
        rtts,
    };
    let cluster: Shared = Arc::new(Mutex::new(Cluster::start(&plan, stop)?));
    let control = Control::start(scratch.path(), Arc::clone(&cluster), *console, stop.clone());
    // The demo goes on without: the path may be too long for a socket.
    let control = control
        .inspect_err(|error| console.talk(&format!("no second terminal: {error:#}")))
        .ok();
    introduce(&locked(&cluster), scratch.path(), home, console)?;
    let workloads = begin_workloads(&locked(&cluster), options.seed, console, stop)?;
    read_across(&locked(&cluster), home, console, stop)?;
    let left = options.duration.saturating_sub(OTHER_SCENES) / LEVELS.len() as u32;
    let time = left.max(LEVEL_TIME_MIN);
    let latencies = compare_levels(options, &cluster, home, time, console, stop)?;
    let distances = Distances::from_home(home, locked(&cluster).measured_rtts());
    let losses = lose(options, &cluster, home, workloads, console, stop)?;
    let disturbed = control.as_ref().is_some_and(Control::has_changed);
    drop(control);
    let figures = LEVELS.into_iter().zip(latencies).zip(losses);
    let figures: Vec<_> = figures
        .map(|((level, latencies), loss)| LevelFigures {
            level,
            latencies,
            loss,
        })
        .collect();
    // Whoever cuts links changes what an acknowledgement takes.
    let distances = Some(&distances).filter(|_| !disturbed);
    let outcome = conclude(&figures, distances, home, console);
    console.talk(&format!("ended after {:.0?}", started.elapsed()));
    Ok(outcome)
}

fn keyspaces(home: &str) -> Vec<KeyspacePlan> {
    let users = KeyspacePlan {
        name: USERS.to_owned(),
        ack: "async".to_owned(),
        home: HomePlan::ByPrefix,
        buckets: None,
    };
    let compared = LEVELS.map(|level| KeyspacePlan {
        name: keyspace_of(level),
        ack: level.to_owned(),
        home: HomePlan::Pinned(home.to_owned()),
        buckets: None,
    });
    [users].into_iter().chain(compared).collect()
}

fn keyspace_of(level: &str) -> String {
    format!("demo-{}", level.replace(':', "-"))
}

fn keys_of_levels(seed: u64) -> Arc<Keys> {
    Arc::new(Keys::new(KEYS, VALUE_BYTES_DEFAULT, seed))
}

fn locked(cluster: &Shared) -> MutexGuard<'_, Cluster> {
    // Each verb leaves the regions whole or fails; a panic in one changes nothing for the others.
    cluster.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Measures the same local writes at each level, one after the other.
fn compare_levels(
    options: &DemoOptions,
    cluster: &Shared,
    home: &str,
    time: Duration,
    console: &Console,
    stop: &Stop,
) -> anyhow::Result<Vec<Latencies>> {
    console.talk(&format!(
        "Comparing the ack levels in {home}: {COMPARED_PER_S:.0} local writes/s at each, for \
         {time:.0?}"
    ));
    let (endpoint, keys) = (
        locked(cluster).endpoint(home)?,
        keys_of_levels(options.seed),
    );
    let mut compared = Vec::new();
    for level in LEVELS {
        bring_up(&mut locked(cluster), home, console, stop)?;
        let shape = Shape::Unary {
            clients: COMPARED_CLIENTS,
        };
        let plan = LoadPlan {
            pace: Pace::Open {
                rate_per_s: COMPARED_PER_S,
            },
            warmup: time / 10,
            duration: time - time / 10,
            seed: options.seed,
            stop: stop.clone(),
            ..LoadPlan::new(
                endpoint.clone(),
                keyspace_of(level),
                Arc::clone(&keys),
                shape,
            )
        };
        let result = run_load(&plan, &mut |second| {
            let (seconds, p50) = (second.since_start.as_secs(), second.latencies.quantile(0.5));
            let p50_ms = ms(p50);
            console.progress(&format!("{level}: {seconds} s, p50 {p50_ms:.2} ms"));
        })?;
        console.progress_ended();
        stop.check()?;
        let latency = result.latencies.summary();
        console.talk(&format!(
            "  {level:<9}  p50 {:>7.2} ms  p99 {:>7.2} ms  {:.0} writes/s  errors {}",
            latency.p50_ms,
            latency.p99_ms,
            result.rate(),
            errors_text(&result.errors)
        ));
        compared.push(result.latencies);
    }
    Ok(compared)
}

/// Starts the home again, if the second terminal has killed it.
fn bring_up(
    cluster: &mut Cluster,
    home: &str,
    console: &Console,
    stop: &Stop,
) -> anyhow::Result<()> {
    if cluster.pid(home)?.is_none() {
        console.talk(&format!(
            "{home} is down: starting it again, as the demo goes on there"
        ));
        cluster.start_server(home)?;
        cluster.wait_until_ready(home, stop)?;
    }
    Ok(())
}

/// Loses the home under load at all levels at once.
fn lose(
    options: &DemoOptions,
    cluster: &Shared,
    home: &str,
    workloads: Vec<Workload>,
    console: &Console,
    stop: &Stop,
) -> anyhow::Result<Vec<LevelLoss>> {
    let mut cluster = locked(cluster);
    bring_up(&mut cluster, home, console, stop)?;
    console.talk(&format!(
        "\nLosing {home} while it acknowledges {LOST_PER_S:.0} writes/s at each level: SIGKILL \
         without warning, and all its links cut at the same instant."
    ));
    let plan = CrashPlan {
        home: home.to_owned(),
        loads: LEVELS
            .map(|level| CrashLoad {
                keyspace: keyspace_of(level),
                keys: keys_of_levels(options.seed),
                shape: Shape::Stream {
                    outstanding: LOST_OUTSTANDING,
                },
                pace: Pace::Open {
                    rate_per_s: LOST_PER_S,
                },
            })
            .to_vec(),
        seed: options.seed,
    };
    let mut workloads = Some(workloads);
    lose_and_recover(&mut cluster, &plan, stop, console, &mut |cluster| {
        after_loss(cluster, home, workloads.take().unwrap_or_default(), console)
    })
}

/// What goes on without the lost region, and what does not.
fn after_loss(
    cluster: &Cluster,
    home: &str,
    workloads: Vec<Workload>,
    console: &Console,
) -> anyhow::Result<()> {
    for workload in workloads {
        let region = workload.region().to_owned();
        let result = workload.end()?;
        if region != home {
            console.talk(&format!(
                "  {region} has gone on writing its own rows: {} writes in all, p50 {:.2} ms, \
                 errors {}",
                result.latencies.count(),
                ms(result.latencies.quantile(0.5)),
                errors_text(&result.errors)
            ));
        }
    }
    let Some(reader) = cluster.running().next() else {
        return Ok(());
    };
    let (door, row) = (
        Door::new(&cluster.endpoint(reader)?)?,
        rows_of(home, 1).key(7),
    );
    let answer = door.get(USERS, row.clone(), Consistency::Local)?;
    if let Some(entry) = answer.entry {
        console.talk(&format!(
            "  {reader} still reads a row of {home}: {} of {} bytes, stale by {} ms",
            String::from_utf8_lossy(&row),
            entry.value.len(),
            answer.staleness_ms
        ));
    }
    Ok(())
}
