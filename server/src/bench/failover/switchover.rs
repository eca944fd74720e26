//! Homes are handed on while clients in every region write: how long each of them stands still.
//!
//! **Owns**: the order of events, the figures of each client, the promise.
//! **Does not own**: what counts as a pause (`account`), handing on (the nodes).
//!
//! ```text
//! clients write, one at the door of each region, each one write after the other
//!   all partitions to the other region | a while | back | a while ...        then all is read back
//! ```
//! What is counted: of each client the longest time between two acknowledgements around the
//! switchover, less the median of that time afterwards at the same door, which is the way to the
//! new home and the client's rest of a millisecond. The raw gap is shown beside it. A client writes
//! to all partitions of the keyspace, and they are handed on at once.

use std::thread;
use std::time::{Duration, Instant};

use domicile_proto::v1::SwitchOverResponse;
use serde::Serialize;

use super::account::{Pause, Window, missing, pause};
use super::scene::{KEYSPACE, Scene};
use super::takeover_rows::{latencies_of, quantile_cells};
use super::writer::{Writer, Wrote};
use crate::bench::checks::{Bound, Check, Distances, Kind};
use crate::bench::options::BenchOptions;
use crate::bench::recorder::{Latencies, ms};
use crate::bench::report::Report;
use crate::rig::{Console, Random, Scratch, Stop, Table, thousands};

/// How long clients write between two switchovers, at least: a dozen writes of a client that is a
/// round trip of 80 ms away, of which the median is the usual time.
const WRITE_MIN: Duration = Duration::from_millis(1000);

/// Up to so much longer, by the seed.
const WRITE_EXTRA_MS: u32 = 200;

/// What a pause may take beside two round trips, in ms.
const PAUSE_EXTRA_MS: f64 = 50.0;

/// Which client, by where it is.
const PLACES: [&str; 3] = ["at the old home", "at the new home", "in another region"];

/// One switchover.
#[derive(Clone, Debug, Serialize)]
struct SwitchedOver {
    to: String,
    /// From the request of the operator to its answer.
    took_ms: f64,
    /// Partitions that have moved.
    moved: usize,
    /// Partitions that have not.
    stayed: usize,
    /// For each of [`PLACES`]: raw gap, usual gap, pause.
    clients: [Option<ClientPause>; 3],
}

#[derive(Clone, Copy, Debug, Serialize)]
struct ClientPause {
    gap_ms: f64,
    usual_ms: f64,
    pause_ms: f64,
}

impl From<Pause> for ClientPause {
    fn from(pause: Pause) -> Self {
        Self {
            gap_ms: ms(pause.gap),
            usual_ms: ms(pause.usual),
            pause_ms: ms(pause.of_switchover()),
        }
    }
}

/// A switchover as it was done, before the clients' lists are known.
struct Done {
    from: usize,
    to: usize,
    asked: Instant,
    answered: Instant,
    answer: SwitchOverResponse,
}

/// Hands homes on as often as asked, and adds what that gave to the report.
///
/// # Errors
/// No answer, or an interrupt.
pub(super) fn run(
    options: &BenchOptions,
    scratch: &Scratch,
    report: &mut Report,
    console: &Console,
    stop: &Stop,
) -> anyhow::Result<()> {
    let count = options.failover.switchovers;
    console.talk(&format!("handing homes on {count} times"));
    let scene = Scene::set(options, "async", scratch.sub("switchover")?, stop)?;
    report.header.rtts = scene.cluster.measured_rtts().to_vec();
    let regions = &scene.regions[..PLACES.len()];
    let plans = regions
        .iter()
        .map(|region| scene.writer(format!("at-{region}-"), [region.as_str()]));
    let plans = plans.collect::<anyhow::Result<Vec<_>>>()?;
    let writers = plans.into_iter().map(Writer::start);
    let writers = writers.collect::<anyhow::Result<Vec<_>>>()?;
    let random = Random::new(options.seed);
    let rest = |number: u64| {
        let extra = random.fork(number).below(WRITE_EXTRA_MS);
        stop.sleep(WRITE_MIN + Duration::from_millis(extra.into()))
    };
    rest(0)?;
    let mut done = Vec::new();
    for number in 0..count {
        let (from, to) = (number % 2, (number + 1) % 2);
        console.progress(&format!("switchover {} of {count}", number + 1));
        done.push(switch(&scene, from, to)?);
        rest(number as u64 + 1)?;
    }
    console.progress_ended();
    let over = Instant::now();
    let wrote = end_all(writers)?;
    scene.until_well(stop)?;
    let switched = done.iter().enumerate().map(|(number, it)| {
        let next = done.get(number + 1).map_or(over, |next| next.asked);
        judged(it, next, &wrote, regions)
    });
    let switched: Vec<_> = switched.collect();
    let mut lost = 0;
    for each in &wrote {
        let rows = scene
            .operator(&regions[0])?
            .rows(KEYSPACE, &each.plan.prefix)?;
        lost += missing(each, &rows);
    }
    let changes = scene.operator(&regions[0])?.changes()?;
    let unplanned = changes.iter().filter(|it| !it.planned).count();
    let bound_ms = {
        let distances = Distances::from_home(options.home(), &report.header.rtts);
        2.0 * distances.farthest_p50_ms() + PAUSE_EXTRA_MS
    };
    add_rows(report, &switched);
    add_checks(
        report,
        &switched,
        bound_ms,
        &wrote,
        (lost, unplanned as u64),
    );
    Ok(())
}

fn switch(scene: &Scene, from: usize, to: usize) -> anyhow::Result<Done> {
    let region = scene.regions[to].as_str();
    let asked = Instant::now();
    // An operator may stand anywhere; here at the new home.
    let answer = scene.operator(region)?.hand_on(KEYSPACE, region)?;
    Ok(Done {
        from,
        to,
        asked,
        answered: Instant::now(),
        answer,
    })
}

/// Ends all at once: each waits for its own answer.
fn end_all(writers: Vec<Writer>) -> anyhow::Result<Vec<Wrote>> {
    thread::scope(|scope| {
        let ending = writers.into_iter().map(|it| scope.spawn(|| it.end()));
        let ending: Vec<_> = ending.collect();
        let ended = ending
            .into_iter()
            .map(|it| it.join().expect("ending does not panic"));
        ended.collect()
    })
}

fn judged(done: &Done, over: Instant, wrote: &[Wrote], regions: &[String]) -> SwitchedOver {
    let window = Window {
        asked: done.asked,
        answered: done.answered,
        over,
    };
    let elsewhere = PLACES.len() - done.from - done.to;
    let clients = [done.from, done.to, elsewhere].map(|place| {
        let found = pause(&wrote[place].acked, window);
        found.map(ClientPause::from)
    });
    SwitchedOver {
        to: regions[done.to].clone(),
        took_ms: ms(done.answered - done.asked),
        moved: done.answer.moved.len(),
        stayed: done.answer.stayed.len(),
        clients,
    }
}

/// The longest pause of any client, for each switchover; no number where a client has none.
fn longest_ms(switched: &SwitchedOver) -> f64 {
    let pauses = switched.clients.iter();
    let pauses = pauses.map(|it| it.map_or(f64::INFINITY, |it| it.pause_ms));
    pauses.fold(0.0, f64::max)
}

fn add_rows(report: &mut Report, switched: &[SwitchedOver]) {
    let headings = [
        "client",
        "switchovers",
        "p50 ms",
        "p90 ms",
        "p99 ms",
        "max ms",
    ];
    let mut table = Table::new(&headings);
    let mut add = |label: String, times: &Latencies| {
        let mut cells = vec![label];
        cells.extend(quantile_cells(times));
        table.row(cells);
    };
    for (place, name) in PLACES.into_iter().enumerate() {
        let of = |figure: fn(&ClientPause) -> f64| {
            let clients = switched.iter().filter_map(|it| it.clients[place]);
            latencies_of(clients.map(|it| figure(&it)))
        };
        let pauses = of(|it| it.pause_ms);
        add(format!("{name}: pause"), &pauses);
        add(format!("{name}: raw gap"), &of(|it| it.gap_ms));
        add(
            format!("{name}: usual gap afterwards"),
            &of(|it| it.usual_ms),
        );
        report.curve(format!("switchover, pause {name}"), &pauses);
    }
    add(
        "longest pause of any client".to_owned(),
        &latencies_of(switched.iter().map(longest_ms)),
    );
    add(
        "the operator's call".to_owned(),
        &latencies_of(switched.iter().map(|it| it.took_ms)),
    );
    report.table("Switchover under load", table);
    for each in switched {
        report.row(each);
    }
    report.note(
        "Pause: the longest time between two acknowledgements of a client around a switchover, \
         less the median of that time afterwards at the same door.",
    );
}

fn add_checks(
    report: &mut Report,
    switched: &[SwitchedOver],
    bound_ms: f64,
    wrote: &[Wrote],
    (lost, unplanned): (u64, u64),
) {
    let acked: usize = wrote.iter().map(|it| it.acked.len()).sum();
    let errors: u64 = wrote.iter().flat_map(|it| it.errors.values()).sum();
    let stayed: usize = switched.iter().map(|it| it.stayed).sum();
    let idle = switched.iter().filter(|it| it.moved == 0).count();
    let safe = [
        (
            format!(
                "acked writes lost in switchovers, of {}",
                thousands(acked as u64)
            ),
            lost,
        ),
        (
            "errors given back to clients in switchovers".to_owned(),
            errors,
        ),
        (
            "partitions that were not handed on".to_owned(),
            stayed as u64,
        ),
        ("switchovers that moved nothing".to_owned(), idle as u64),
        ("takeovers that nobody asked for".to_owned(), unplanned),
    ];
    for (what, figure) in safe {
        let none = Bound::AtMost(0.0);
        let check = Check::new(Kind::Safety, what, figure as f64, none, "");
        report.checks.push(check);
    }
    let pauses: Vec<f64> = switched.iter().map(longest_ms).collect();
    let all_measured = pauses.iter().all(|it| it.is_finite());
    let p99_ms = ms(latencies_of(pauses.into_iter()).quantile(0.99));
    let p99_ms = if all_measured { p99_ms } else { f64::NAN };
    let what = "switchover: p99 of the longest pause, 2 RTT + 50 ms".to_owned();
    let bound = Bound::AtMost(bound_ms);
    let check = Check::new(Kind::Speed, what, p99_ms, bound, "ms");
    report.checks.push(check);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_pause_of_any_client_counts_and_a_client_without_one_passes_no_bound() {
        let pause = |pause_ms| {
            Some(ClientPause {
                gap_ms: pause_ms + 80.0,
                usual_ms: 80.0,
                pause_ms,
            })
        };
        let mut switched = SwitchedOver {
            to: "b".to_owned(),
            took_ms: 300.0,
            moved: 8,
            stayed: 0,
            clients: [pause(90.0), pause(120.0), pause(20.0)],
        };
        assert!((longest_ms(&switched) - 120.0).abs() < 1e-9);
        switched.clients[2] = None;
        assert!(longest_ms(&switched).is_infinite());
    }
}
