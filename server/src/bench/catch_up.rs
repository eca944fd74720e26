//! A copy that was cut off catches up, while its home goes on serving.
//!
//! **Owns**: the cut, the writes that the copy misses, the timing of its return.
//! **Does not own**: the load (`load`), the links (`wan`).
//!
//! ```text
//! quiet puts ... cut ... many writes ... heal ... first record there ... durable ... readable
//!    p99                                  <----- puts again: p99 ----------------------->
//! ```

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::checks::{Bound, Check, Kind};
use super::load::{LoadPlan, LoadResult, Shape, run_load};
use super::options::BenchOptions;
use super::pace::Pace;
use super::recorder::{Summary, ms};
use super::report::Report;
use super::stage::{KEYSPACE, Stage, cut_off};
use crate::rig::{
    Cluster, Console, Door, ExitOutcome, Halves, Machine, Stop, Table, keep_process_to,
    keep_thread_to, resident_kib, thousands,
};

/// Writes that the copy misses.
const MISSED: u64 = 300_000;

/// Writes outstanding while they are made.
const OUTSTANDING: usize = 4096;

/// The puts whose latency is watched: few enough to leave the processors to the catch-up, enough
/// for a p99 within seconds.
const PUTS_PER_S: f64 = 500.0;

/// Clients that make them.
const PUT_CLIENTS: usize = 16;

/// How long the quiet value is measured.
const QUIET: Duration = Duration::from_secs(6);

/// How long the catch-up may take before the run gives up.
const CATCH_UP_MAX: Duration = Duration::from_secs(120);

/// How often the copy's marks are looked at. Doubled, the times are that much coarser.
const POLL: Duration = Duration::from_millis(10);

/// Records a second that become durable at the copy.
const DURABLE_PER_S_MIN: f64 = 150_000.0;

/// Records a second that become readable at the copy.
const READABLE_PER_S_MIN: f64 = 50_000.0;

/// How much the home's p99 may grow meanwhile.
const P99_RATIO_MAX: f64 = 2.0;

/// What a node may hold in memory, in MiB.
const RESIDENT_MIB_MAX: f64 = 512.0;

#[derive(Serialize)]
struct CatchUpRow {
    missed: u64,
    first_record_after_ms: f64,
    durable_per_s: f64,
    readable_per_s: f64,
    durable_per_s_since_heal: f64,
    readable_per_s_since_heal: f64,
    put_quiet: Summary,
    put_meanwhile: Summary,
    home_resident_kib: u64,
    copy_resident_kib: u64,
}

/// When the copy reached what, since the heal.
#[derive(Debug)]
struct Return {
    missed: u64,
    first: Duration,
    durable: Duration,
    readable: Duration,
}

/// The sums of a region's marks over the partitions of the keyspace.
#[derive(Clone, Copy, Debug)]
struct Marks {
    durable: u64,
    readable: u64,
}

pub(super) fn run(
    options: &BenchOptions,
    console: &Console,
    stop: &Stop,
) -> anyhow::Result<ExitOutcome> {
    let (stage, is_apart) = set_apart(options, stop)?;
    let (home, copy) = (options.home(), cut_off(options)?);
    let shape = Shape::Unary {
        clients: PUT_CLIENTS,
    };
    let puts = LoadPlan {
        pace: Pace::Open {
            rate_per_s: PUTS_PER_S,
        },
        warmup: options.warmup,
        duration: QUIET,
        ..stage.load(options, shape, stop)?
    };
    console.talk("quiet puts");
    let quiet = run_load(&puts, &mut |_| {})?;
    let cluster = &stage.cluster;
    cluster.wan().isolate(copy)?;
    console.talk(&format!("{copy} is cut off; {} writes", thousands(MISSED)));
    miss(options, &stage, stop)?;
    let resident = |region: &str| anyhow::Ok(cluster.pid(region)?.and_then(resident_kib));
    let home_resident_kib = resident(home)?.unwrap_or(0);
    let (returned, meanwhile) = heal_and_wait(cluster, home, copy, &puts, stop)?;
    let per_s = |since: Duration, until: Duration| {
        let time = until.saturating_sub(since).as_secs_f64();
        returned.missed as f64 / time.max(f64::MIN_POSITIVE)
    };
    let row = CatchUpRow {
        missed: returned.missed,
        first_record_after_ms: ms(returned.first),
        durable_per_s: per_s(returned.first, returned.durable),
        readable_per_s: per_s(returned.first, returned.readable),
        durable_per_s_since_heal: per_s(Duration::ZERO, returned.durable),
        readable_per_s_since_heal: per_s(Duration::ZERO, returned.readable),
        put_quiet: quiet.latencies.summary(),
        put_meanwhile: meanwhile.latencies.summary(),
        home_resident_kib: home_resident_kib.max(resident(home)?.unwrap_or(0)),
        copy_resident_kib: resident(copy)?.unwrap_or(0),
    };
    let mut report = Report::new(options, stage.header.clone());
    report.table("Catching up", row.table());
    report.checks = row.checks();
    report.row(&row);
    report.curve("quiet puts", &quiet.latencies);
    report.curve("puts meanwhile", &meanwhile.latencies);
    report.note(
        "Rates count from the first record that arrives: before it the nodes find each other \
         again.",
    );
    report.note(match is_apart {
        true => {
            "The home and its clients have one half of the processors, all else the other, as \
             regions have. The disk is shared."
        }
        false => "All regions share one processor, which they would not at a distance.",
    });
    report.finish(options.out.as_deref(), console)
}

/// Writes what the copy misses.
fn miss(options: &BenchOptions, stage: &Stage, stop: &Stop) -> anyhow::Result<()> {
    let shape = Shape::Stream {
        outstanding: OUTSTANDING,
    };
    let plan = LoadPlan {
        numbers_end: MISSED + 1,
        duration: CATCH_UP_MAX,
        ..stage.load(options, shape, stop)?
    };
    let result = run_load(&plan, &mut |_| {})?;
    stop.check()?;
    let (acked, errors) = (result.acked, &result.errors);
    anyhow::ensure!(
        acked == MISSED,
        "{acked} of {MISSED} writes acknowledged: {errors:?}"
    );
    Ok(())
}

/// Regions have processors of their own: the home and its clients get one half, all else the other;
/// `false` if there is only one.
fn set_apart(options: &BenchOptions, stop: &Stop) -> anyhow::Result<(Stage, bool)> {
    let machine = Machine::read();
    let Some(halves) = Halves::split()? else {
        return Ok((Stage::set(options, stop)?, false));
    };
    // The threads of the links are started by this one.
    keep_thread_to(&halves.far)?;
    let mut stage = Stage::set(options, stop)?;
    // As it is, not as this thread was left of it.
    stage.header.machine = machine;
    for region in stage.cluster.rtts().regions() {
        let half = match region == options.home() {
            true => &halves.near,
            false => &halves.far,
        };
        if let Some(pid) = stage.cluster.pid(region)? {
            keep_process_to(pid, half)?;
        }
    }
    keep_thread_to(&halves.near)?;
    Ok((stage, true))
}

fn heal_and_wait(
    cluster: &Cluster,
    home: &str,
    copy: &str,
    puts: &LoadPlan,
    stop: &Stop,
) -> anyhow::Result<(Return, LoadResult)> {
    let (here, there) = (cluster.endpoint(home)?, cluster.endpoint(copy)?);
    let (here, there) = (Door::new(&here)?, Door::new(&there)?);
    let (goal, start) = (marks(&here)?, marks(&there)?);
    let puts = LoadPlan {
        duration: CATCH_UP_MAX,
        halt: Arc::default(),
        ..puts.clone()
    };
    thread::scope(|scope| {
        let putting = scope.spawn(|| run_load(&puts, &mut |_| {}));
        // Recorded from the heal on, by clients as warm as the quiet ones were.
        let heal = || -> anyhow::Result<()> {
            stop.sleep(puts.warmup)?;
            Ok(cluster.wan().heal(copy)?)
        };
        let returned = heal().and_then(|()| wait(&there, start, goal, stop));
        puts.halt.store(true, Ordering::Relaxed);
        let meanwhile = putting.join().expect("a load does not panic")?;
        Ok((returned?, meanwhile))
    })
}

fn wait(there: &Door, start: Marks, goal: Marks, stop: &Stop) -> anyhow::Result<Return> {
    let (healed, mut first, mut durable) = (Instant::now(), None, None);
    loop {
        let (now, reached) = (healed.elapsed(), marks(there)?);
        if reached.durable > start.durable {
            first = first.or(Some(now));
        }
        if reached.durable >= goal.durable {
            durable = durable.or(Some(now));
        }
        if let (Some(first), Some(durable)) = (first, durable)
            && reached.readable >= goal.readable
        {
            let missed = goal.durable - start.durable;
            let readable = now;
            return Ok(Return {
                missed,
                first,
                durable,
                readable,
            });
        }
        anyhow::ensure!(
            now < CATCH_UP_MAX,
            "the copy is at {reached:?} of {goal:?} after {now:?}"
        );
        stop.sleep(POLL)?;
    }
}

fn marks(door: &Door) -> anyhow::Result<Marks> {
    let status = door.status_of_partitions()?;
    let partitions = || status.partitions.iter();
    let of_keyspace = || partitions().filter(|partition| partition.keyspace == KEYSPACE);
    Ok(Marks {
        durable: of_keyspace().map(|partition| partition.durable_upto).sum(),
        readable: of_keyspace().map(|partition| partition.applied_upto).sum(),
    })
}

impl CatchUpRow {
    fn table(&self) -> Table {
        let mut table = Table::new(&["what", "figure"]);
        let mut row = |what: &str, figure: String| table.row([what.to_owned(), figure]);
        let per_s = |rate: f64| format!("{}/s", thousands(rate as u64));
        let kib = |kib: u64| format!("{} MiB", kib >> 10);
        row("records missed", thousands(self.missed));
        let first = self.first_record_after_ms;
        row("first record after the heal", format!("{first:.0} ms"));
        row("durable there", per_s(self.durable_per_s));
        row("readable there", per_s(self.readable_per_s));
        row(
            "durable, since the heal",
            per_s(self.durable_per_s_since_heal),
        );
        row(
            "readable, since the heal",
            per_s(self.readable_per_s_since_heal),
        );
        let p99 = |put: &Summary| format!("{:.2} ms", put.p99_ms);
        row("home put p99, quiet", p99(&self.put_quiet));
        row("home put p99, meanwhile", p99(&self.put_meanwhile));
        row("home resident", kib(self.home_resident_kib));
        row("copy resident", kib(self.copy_resident_kib));
        table
    }

    fn checks(&self) -> Vec<Check> {
        let speed = |what: &str, figure: f64, bound: Bound, unit: &str| {
            Check::new(Kind::Speed, what, figure, bound, unit)
        };
        let ratio = self.put_meanwhile.p99_ms / self.put_quiet.p99_ms.max(f64::MIN_POSITIVE);
        let resident_kib = self.home_resident_kib.max(self.copy_resident_kib);
        let (durable, readable) = (self.durable_per_s, self.readable_per_s);
        let unit = "records/s";
        vec![
            speed("durable", durable, Bound::AtLeast(DURABLE_PER_S_MIN), unit),
            speed(
                "readable",
                readable,
                Bound::AtLeast(READABLE_PER_S_MIN),
                unit,
            ),
            speed(
                "home put p99 over its quiet value",
                ratio,
                Bound::Below(P99_RATIO_MAX),
                "",
            ),
            speed(
                "resident memory",
                resident_kib as f64 / 1024.0,
                Bound::Below(RESIDENT_MIB_MAX),
                "MiB",
            ),
        ]
    }
}
