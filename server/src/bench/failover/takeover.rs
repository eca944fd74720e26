//! A home is lost while clients write: how long until another one answers them, and what is gone.
//!
//! **Owns**: the order of events, what each run is recorded as.
//! **Does not own**: the arithmetic (`account`), tables and checks (`takeover_rows`).
//!
//! ```text
//! homes to the next region | clients write | SIGKILL + links cut | a new home answers each client
//!   region back, all is well | what it had alone, by report and list | their list is read back
//! ```
//! Regions are lost in turn, so that the leader of the control plane is among the lost ones about
//! as often as it would be by chance. A client finds the loss at once: its connection to a killed
//! process is reset. One whose packets vanish waits for its own keepalive, which is not counted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use domicile_proto::v1::HomeChange;
use serde::Serialize;

use super::account::{lost, outage};
use super::scene::{ChangeId, KEYSPACE, Scene};
use super::takeover_rows::add_to;
use super::writer::Writer;
use crate::bench::options::BenchOptions;
use crate::bench::recorder::ms;
use crate::bench::report::Report;
use crate::rig::{Console, Random, Scratch, Stop};

/// How long clients write before the loss, at least: far longer than a lease is asked for anew.
const WRITE_MIN: Duration = Duration::from_millis(1000);

/// Up to so much longer, by the seed: the loss must find every phase of a lease.
const WRITE_EXTRA_MS: u32 = 600;

/// How long a takeover may take before the run fails: ten times what it does.
const TAKEOVER_MAX: Duration = Duration::from_secs(30);

/// How long clients go on with the new home, so that an answer that stands alone is no takeover.
const AFTERWARDS: Duration = Duration::from_millis(300);

/// How long a region that is back may take to count what it had alone.
const COUNTED_MAX: Duration = Duration::from_secs(60);

/// How often it is looked whether it has.
const POLL: Duration = Duration::from_millis(50);

/// The client that knows all doors, the home's first: it is next to the home until that is lost.
pub(super) const ALL_DOORS: &str = "all doors, home first";

/// The client that knows one door, of a region that is not lost.
pub(super) const ONE_DOOR: &str = "a survivor's door";

/// One loss of a home.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Takeover {
    /// The region that was lost.
    pub(super) region: String,
    /// The regions that its homes went to.
    pub(super) successors: Vec<String>,
    /// From the last acknowledgement of the old home to the first of another one, for each client.
    pub(super) rto_ms: [f64; 2],
    /// From the loss until a leader of the control plane listened for the home: 0 unless it was
    /// lost, too, and another one had to be elected. The nodes' report begins after that.
    pub(super) elect_ms: u64,
    /// Parts of the longest recovery of a partition, as the nodes report it.
    pub(super) parts_ms: [u64; 4],
    /// What `failover plan` gave as the longest.
    pub(super) planned_ms_max: u64,
    /// Acknowledged to the clients by the old home.
    pub(super) acked: u64,
    /// Of them, those that are not there afterwards.
    pub(super) lost: u64,
    /// Writes without an answer when the home was lost, at most: one of each client.
    pub(super) unanswered_max: u64,
    /// What the report counts as lost, once the region is back.
    pub(super) actual: u64,
    /// What it said was known to be lost when the successor was chosen.
    pub(super) estimated_min: u64,
    /// What it said might be lost; `None`: of some partition nobody could tell.
    pub(super) estimated_max: Option<u64>,
    /// Errors that the library gave back to a client.
    pub(super) errors: BTreeMap<String, u64>,
    /// From the start of the lost region's server until all was well again.
    pub(super) return_ms: f64,
}

/// Loses homes as often as asked, and adds what that gave to the report.
///
/// # Errors
/// A takeover or a return that takes too long, or an interrupt.
pub(super) fn run(
    options: &BenchOptions,
    scratch: &Scratch,
    report: &mut Report,
    console: &Console,
    stop: &Stop,
) -> anyhow::Result<()> {
    let (ack, count) = (&options.failover.ack, options.failover.takeovers);
    console.talk(&format!("losing a home {count} times, ack {ack}"));
    let mut scene = Scene::set(options, ack, scratch.sub("takeover")?, stop)?;
    report.header.rtts = scene.cluster.measured_rtts().to_vec();
    let (random, mut runs) = (Random::new(options.seed), Vec::new());
    for number in 0..count {
        let home = scene.regions[number % scene.regions.len()].clone();
        let extra = random.fork(number as u64).below(WRITE_EXTRA_MS);
        let write = WRITE_MIN + Duration::from_millis(extra.into());
        let taken = lose_and_return(&mut scene, number, &home, write, stop)?;
        console.talk(&line(number + 1, count, &taken));
        runs.push(taken);
    }
    add_to(report, options, &runs);
    Ok(())
}

fn lose_and_return(
    scene: &mut Scene,
    number: usize,
    home: &str,
    write: Duration,
    stop: &Stop,
) -> anyhow::Result<Takeover> {
    scene.hand_on(home, stop)?;
    let others = scene.regions.iter().filter(|it| *it != home);
    let others: Vec<String> = others.cloned().collect();
    let survivor = others[number % others.len()].as_str();
    let (old, partitions) = (scene.node(home)?, scene.homes_in(home)?);
    let known = scene.changes_known(survivor)?;
    let planned_ms_max = scene.operator(survivor)?.expected_ms_max(KEYSPACE, home)?;
    let all_doors = [home, survivor].into_iter();
    let all_doors = all_doors.chain(
        others
            .iter()
            .map(String::as_str)
            .filter(|it| *it != survivor),
    );
    let plans = [
        scene.writer(format!("{number:03}-all-"), all_doors)?,
        scene.writer(format!("{number:03}-one-"), [survivor])?,
    ];
    let writers = plans.map(Writer::start);
    let [all_doors, one_door] = writers;
    let writers = [all_doors?, one_door?];
    stop.sleep(write)?;
    let lost_at_ms = wall_ms();
    scene.cluster.lose(home)?;
    for writer in &writers {
        anyhow::ensure!(
            writer.wait_told(TAKEOVER_MAX, |told| !told.is_by(old)),
            "run {}: no new home of {home} answers after {TAKEOVER_MAX:?}",
            number + 1
        );
    }
    stop.sleep(AFTERWARDS)?;
    let [all_doors, one_door] = writers.map(Writer::end);
    let wrote = [all_doors?, one_door?];
    let returned = Instant::now();
    scene.cluster.start_server(home)?;
    scene.cluster.wan().heal(home)?;
    scene.cluster.wait_until_ready(home, stop)?;
    let losses = until_counted(scene, survivor, partitions, &known, stop)?;
    scene.until_well(stop)?;
    let return_ms = ms(returned.elapsed());
    let mut taken = Takeover {
        region: home.to_owned(),
        planned_ms_max,
        return_ms,
        ..of_report(&losses, lost_at_ms)
    };
    for (place, each) in wrote.iter().enumerate() {
        let rows = scene
            .operator(survivor)?
            .rows(KEYSPACE, &each.plan.prefix)?;
        let outage = outage(&each.acked, old).map_or(f64::NAN, ms);
        taken.rto_ms[place] = outage;
        taken.acked += each.acked.iter().filter(|it| it.is_by(old)).count() as u64;
        taken.lost += lost(each, old, &rows);
        for (text, count) in &each.errors {
            *taken.errors.entry(text.clone()).or_default() += count;
        }
        taken.unanswered_max += 1;
    }
    Ok(taken)
}

fn wall_ms() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    since_1970.map_or(0, |time| time.as_millis() as u64)
}

/// Waits until every partition that was at home there is accounted for.
fn until_counted(
    scene: &Scene,
    survivor: &str,
    partitions: usize,
    known: &BTreeSet<ChangeId>,
    stop: &Stop,
) -> anyhow::Result<Vec<HomeChange>> {
    let since = Instant::now();
    loop {
        let losses = scene.losses_since(survivor, known)?;
        let counted = losses.iter().filter(|it| it.actual_writes.is_some());
        let counted = counted.count();
        if losses.len() >= partitions && counted == losses.len() {
            return Ok(losses);
        }
        anyhow::ensure!(
            since.elapsed() < COUNTED_MAX,
            "{counted} of {partitions} partitions are accounted for after {COUNTED_MAX:?}"
        );
        stop.sleep(POLL)?;
    }
}

/// What the nodes report of a loss. All share this machine's clock.
fn of_report(losses: &[HomeChange], lost_at_ms: u64) -> Takeover {
    let parts = losses.iter().map(|it| {
        [it.detect_ms, it.fence_ms, it.promote_ms, it.route_ms].map(|part| part.unwrap_or(0))
    });
    let longest = parts.max_by_key(|parts| parts.iter().sum::<u64>());
    let mut successors: Vec<String> = losses.iter().map(|it| it.to_region.clone()).collect();
    successors.sort_unstable();
    successors.dedup();
    let heard_ms = |it: &HomeChange| it.at_ms.saturating_sub(it.detect_ms.unwrap_or(0));
    let heard_ms = losses.iter().map(heard_ms).max().unwrap_or(0);
    Takeover {
        region: String::new(),
        successors,
        rto_ms: [f64::NAN; 2],
        elect_ms: heard_ms.saturating_sub(lost_at_ms),
        parts_ms: longest.unwrap_or_default(),
        planned_ms_max: 0,
        acked: 0,
        lost: 0,
        unanswered_max: 0,
        actual: losses.iter().filter_map(|it| it.actual_writes).sum(),
        estimated_min: losses.iter().map(|it| it.estimated_writes_min).sum(),
        estimated_max: losses.iter().map(|it| it.estimated_writes_max).sum(),
        errors: BTreeMap::new(),
        return_ms: 0.0,
    }
}

fn line(number: usize, count: usize, taken: &Takeover) -> String {
    let [all_doors, one_door] = taken.rto_ms;
    let [detect, fence, promote, route] = taken.parts_ms;
    let errors = taken.errors.iter();
    let errors: Vec<_> = errors
        .map(|(text, count)| format!("\n      {count} of {text}"))
        .collect();
    format!(
        "{number:>3}/{count}  {} lost, to {}  RTO {all_doors:.0} / {one_door:.0} ms  \
         elect {} detect {detect} fence {fence} promote {promote} route {route}  \
         lost {} of {}, reported {}, estimated {} to {}  back in {:.0} ms{}",
        taken.region,
        taken.successors.join("+"),
        taken.elect_ms,
        taken.lost,
        taken.acked,
        taken.actual,
        taken.estimated_min,
        taken
            .estimated_max
            .map_or("any".to_owned(), |most| most.to_string()),
        taken.return_ms,
        errors.concat()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_of_a_loss_is_its_longest_recovery_and_the_sum_of_its_losses() {
        let change = |to: &str, detect_ms, fence_ms, actual| HomeChange {
            to_region: to.to_owned(),
            at_ms: 10_000 + detect_ms,
            detect_ms: Some(detect_ms),
            fence_ms: Some(fence_ms),
            promote_ms: Some(5),
            actual_writes: actual,
            estimated_writes_min: 2,
            estimated_writes_max: actual.map(|actual| actual + 10),
            ..HomeChange::default()
        };
        let losses = [
            change("c", 1500, 400, Some(3)),
            change("b", 1500, 500, Some(4)),
            change("c", 1500, 300, None),
        ];
        let taken = of_report(&losses, 8800);
        assert_eq!(taken.successors, ["b", "c"]);
        assert_eq!(taken.parts_ms, [1500, 500, 5, 0]);
        assert_eq!(taken.elect_ms, 1200);
        assert_eq!(of_report(&losses, 10_500).elect_ms, 0);
        assert_eq!((taken.actual, taken.estimated_min), (7, 6));
        assert_eq!(taken.estimated_max, None, "of one nobody can tell");
        assert_eq!(of_report(&losses[..2], 8800).estimated_max, Some(27));
    }
}
