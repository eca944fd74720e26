//! The loss of a home under load, and the count of what went with it.
//!
//! **Owns**: the order of events: load, loss, quiet, reading, comparison.
//! **Does not own**: the comparison itself and the reading (`rig`).
//!
//! ```text
//! load ......... SIGKILL + links cut ... load ends ... survivors quiet: what they show
//!                                                      survivors ended: what they hold
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use domicile_proto::Name;
use serde::Serialize;

use super::load::{Acks, LoadPlan, LoadResult, Shape, run_load};
use super::pace::Pace;
use crate::rig::{
    Cluster, Comparison, Crash, Keys, Random, Stop, Survivors, compare, held_in_journal,
    shown_when_quiet,
};

/// How long the load runs before the loss, at least: long enough for the pipe to be full.
const LOAD_MIN: Duration = Duration::from_millis(2000);

/// Up to so much longer, by the seed: the loss must not always find the same phase of a commit.
const LOAD_EXTRA_MS: u32 = 500;

/// How long the load goes on after the loss, to take the answers that wait in its sockets.
const AFTERMATH: Duration = Duration::from_millis(300);

/// The loads under which a home is lost.
#[derive(Clone, Debug)]
pub struct CrashPlan {
    /// Which region is lost; the loads are at home there.
    pub home: String,
    /// The loads, all at once.
    pub loads: Vec<CrashLoad>,
    /// Which keys, and when the loss comes.
    pub seed: u64,
}

/// One of them.
#[derive(Clone, Debug)]
pub struct CrashLoad {
    /// The keyspace written to.
    pub keyspace: String,
    /// The keys and values written.
    pub keys: Arc<Keys>,
    /// How they are sent.
    pub shape: Shape,
    /// When.
    pub pace: Pace,
}

/// What a loss cost.
#[derive(Clone, Debug, Serialize)]
pub struct CrashReport {
    /// Writes that had been acknowledged to the client.
    pub acked: u64,
    /// What no survivor holds, and what each of them lacks.
    pub held: Comparison,
    /// The same by what the survivors show their readers: without a successor of the home they do
    /// not show writes of which they do not know that they met their level.
    pub shown: Comparison,
    /// How long after the kill the last link was cut, in µs.
    pub links_cut_after_us: u64,
    /// Writes acknowledged a second before the loss.
    pub rate_per_s: f64,
}

/// Loses the home of a running cluster under load; reports on each load, in order. The cluster is
/// of no further use: its survivors are ended so that their journals can be read. `aftermath` is
/// called before that, when they are quiet.
///
/// # Errors
/// No connection, a survivor that does not answer or end, an interrupt, or what `aftermath`
/// returns.
pub fn crash_under_load(
    cluster: &mut Cluster,
    plan: &CrashPlan,
    stop: &Stop,
    aftermath: &mut dyn FnMut(&Cluster) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<CrashReport>> {
    let loss = load_until_lost(cluster, plan, stop)?;
    let survivors = Survived::read(cluster, &plan.loads, stop, aftermath)?;
    let (results, crash, crashed_at) = (loss.results, loss.crash, loss.crashed_at);
    let judged = plan.loads.iter().zip(results).zip(survivors);
    Ok(judged
        .map(|((load, result), survived)| {
            let (acks, write_bytes) = (&result.acks, load.keys.write_bytes());
            CrashReport {
                acked: acks.len() as u64,
                held: compare(acks, write_bytes, crashed_at, &survived.held),
                shown: compare(acks, write_bytes, crashed_at, &survived.shown),
                links_cut_after_us: crash.links_cut_after.as_micros() as u64,
                rate_per_s: acks.len() as f64 / crashed_at.as_secs_f64().max(f64::MIN_POSITIVE),
            }
        })
        .collect())
}

/// A region that was lost while its clients wrote.
#[derive(Debug)]
pub struct LoadedLoss {
    /// What each load was told.
    pub results: Vec<LoadResult>,
    /// When the region was lost.
    pub crash: Crash,
    /// The zero of the times in the lists of acknowledged writes.
    pub epoch: Instant,
    /// The loss on that clock.
    pub crashed_at: Duration,
}

/// Loses the home of a running cluster under load.
///
/// # Errors
/// No connection, or an interrupt.
pub fn load_until_lost(
    cluster: &mut Cluster,
    plan: &CrashPlan,
    stop: &Stop,
) -> anyhow::Result<LoadedLoss> {
    let (epoch, halt) = (Instant::now(), Arc::new(AtomicBool::new(false)));
    let endpoint = cluster.endpoint(&plan.home)?;
    let load_plan = |load: &CrashLoad| {
        let (endpoint, keyspace) = (endpoint.clone(), load.keyspace.clone());
        LoadPlan {
            pace: load.pace,
            // Far beyond the loss, which halts it.
            duration: Duration::from_secs(60),
            seed: plan.seed,
            acks: Acks::Keep,
            epoch,
            halt: Arc::clone(&halt),
            stop: stop.clone(),
            ..LoadPlan::new(endpoint, keyspace, Arc::clone(&load.keys), load.shape)
        }
    };
    let extra = Random::new(plan.seed).below(LOAD_EXTRA_MS);
    let load_time = LOAD_MIN + Duration::from_millis(extra.into());
    let (results, crash) = thread::scope(|scope| {
        let plans = plan.loads.iter().map(load_plan);
        let loading: Vec<_> = plans
            .map(|load| scope.spawn(move || run_load(&load, &mut |_| {})))
            .collect();
        let lost = lose_after(cluster, &plan.home, load_time, stop);
        halt.store(true, Ordering::Relaxed);
        let results = loading
            .into_iter()
            .map(|load| load.join().expect("a load does not panic"));
        let results = results.collect::<anyhow::Result<Vec<_>>>()?;
        anyhow::Ok((results, lost?))
    })?;
    let crashed_at = crash.at.duration_since(epoch);
    Ok(LoadedLoss {
        results,
        crash,
        epoch,
        crashed_at,
    })
}

fn lose_after(
    cluster: &mut Cluster,
    home: &str,
    time: Duration,
    stop: &Stop,
) -> anyhow::Result<Crash> {
    stop.sleep(time)?;
    let crash = cluster.lose(home)?;
    stop.sleep(AFTERMATH)?;
    Ok(crash)
}

/// What the survivors have of the keyspace of one load.
#[derive(Default)]
struct Survived {
    shown: Survivors,
    held: Survivors,
}

impl Survived {
    /// Reads what they show, then ends them and reads what they hold.
    fn read(
        cluster: &mut Cluster,
        loads: &[CrashLoad],
        stop: &Stop,
        aftermath: &mut dyn FnMut(&Cluster) -> anyhow::Result<()>,
    ) -> anyhow::Result<Vec<Self>> {
        let regions: Vec<String> = cluster.running().map(str::to_owned).collect();
        let mut all: Vec<_> = loads.iter().map(|_| Self::default()).collect();
        for region in &regions {
            let endpoint = cluster.endpoint(region)?;
            for (load, survived) in loads.iter().zip(&mut all) {
                let rows = shown_when_quiet(&endpoint, &load.keyspace, &load.keys, stop)?;
                survived.shown.insert(region.clone(), rows);
            }
        }
        aftermath(cluster)?;
        for region in &regions {
            cluster.terminate(region)?;
            for (load, survived) in loads.iter().zip(&mut all) {
                let keyspace = Name::new(load.keyspace.clone())?;
                let journal = held_in_journal(cluster.data(region)?, &keyspace, &load.keys)?;
                survived.held.insert(region.clone(), journal);
            }
        }
        Ok(all)
    }
}
