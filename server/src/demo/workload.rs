//! The light load that every region keeps up on its own rows while the demo goes on.
//!
//! **Owns**: its threads, its rows and what it saw.
//! **Does not own**: the loads that are compared (`story`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context;

use crate::bench::{LoadPlan, LoadResult, Order, Pace, Shape, run_load};
use crate::rig::{Cluster, Keys, Stop, VALUE_BYTES_DEFAULT};

/// The keyspace whose rows are at home in the region that their key begins with.
pub(super) const USERS: &str = "users";

/// Rows of each region.
pub(super) const ROWS: u32 = 500;

/// Writes a second of each region: visible in `status`, and next to no load.
const WRITES_PER_S: f64 = 25.0;

/// Clients of each region; more would be left waiting together if the region is lost.
const CLIENTS: usize = 4;

/// The longest that it goes on; the demo ends it.
const DURATION_MAX: Duration = Duration::from_secs(4000);

/// One region's load. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Workload {
    region: String,
    halt: Arc<AtomicBool>,
    thread: Option<JoinHandle<anyhow::Result<LoadResult>>>,
}

/// The rows that are at home in a region.
pub(super) fn rows_of(region: &str, seed: u64) -> Arc<Keys> {
    let prefix = format!("{region}-");
    Arc::new(Keys::with_prefix(&prefix, ROWS, VALUE_BYTES_DEFAULT, seed))
}

/// Writes each row of a region once, in the region.
pub(super) fn seed_rows(
    cluster: &Cluster,
    region: &str,
    seed: u64,
    stop: &Stop,
) -> anyhow::Result<LoadResult> {
    let shape = Shape::Unary { clients: CLIENTS };
    let rows = rows_of(region, seed);
    let plan = LoadPlan {
        numbers_end: u64::from(rows.count()) + 1,
        order: Order::Sequential,
        duration: Duration::from_secs(30),
        stop: stop.clone(),
        ..LoadPlan::new(cluster.endpoint(region)?, USERS.to_owned(), rows, shape)
    };
    run_load(&plan, &mut |_| {})
}

impl Workload {
    pub(super) fn start(
        cluster: &Cluster,
        region: &str,
        seed: u64,
        stop: &Stop,
    ) -> anyhow::Result<Self> {
        let shape = Shape::Unary { clients: CLIENTS };
        let (endpoint, rows) = (cluster.endpoint(region)?, rows_of(region, seed));
        let plan = LoadPlan {
            pace: Pace::Open {
                rate_per_s: WRITES_PER_S,
            },
            duration: DURATION_MAX,
            seed,
            stop: stop.clone(),
            ..LoadPlan::new(endpoint, USERS.to_owned(), rows, shape)
        };
        let halt = Arc::clone(&plan.halt);
        let thread = thread::Builder::new()
            .name(format!("load-{region}"))
            .spawn(move || run_load(&plan, &mut |_| {}))
            .context("no thread for a load")?;
        Ok(Self {
            region: region.to_owned(),
            halt,
            thread: Some(thread),
        })
    }

    pub(super) fn region(&self) -> &str {
        &self.region
    }

    /// Ends it and says what it saw.
    pub(super) fn end(mut self) -> anyhow::Result<LoadResult> {
        self.halt.store(true, Ordering::Relaxed);
        let thread = self.thread.take();
        let thread = thread.context("a load ends once")?;
        thread.join().expect("a load does not panic")
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.halt.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // What it saw is of no more interest, and a panic of it has been printed.
            let _ = thread.join();
        }
    }
}
