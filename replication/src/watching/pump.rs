//! The task of one watch: from the journal into the outlet, whenever there is news.
//!
//! **Owns**: when to look, when to say how far the watch is, when to give up on a consumer.
//! **Does not own**: what is found (`cursor`), what waits (`outlet`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use domicile_proto::{PartitionId, Position, Reason};
use tokio::time::Instant;

use super::call::WatchMessage;
use super::count::WatchPlace;
use super::cursor::{Found, WatchCursor};
use super::cursor_read::closing;
use super::outlet::Outlet;
use crate::driver::{Slot, WatchSignal};
use crate::error::Error;
use crate::node::NodeCore;

/// A watch that was woken looks at once, and then not again before this: under load that bounds its
/// wake-ups to 500 a second and adds as much to when a change is told. Doubled, so is that.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// How long it may stay unsaid that a watch has moved past writes to other keys. Doubled, a resume
/// looks at twice as many of them again; a watch whose partitions rest says nothing at all.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// As many writes to other keys are said at once, for one that catches up: 10,000 are looked at
/// again in some 10 ms.
const PROGRESS_RECORDS: u64 = 10_000;

/// One watch at work.
pub(super) struct Pump {
    pub(super) node: Arc<NodeCore>,
    pub(super) slots: Vec<Arc<Slot>>,
    pub(super) cursor: WatchCursor,
    pub(super) outlet: Arc<Outlet>,
    pub(super) signal: Arc<WatchSignal>,
    pub(super) place: WatchPlace,
    pub(super) patience: Duration,
    pub(super) untold: Untold,
}

/// Where the watch has moved without a word.
#[derive(Debug)]
pub(super) struct Untold {
    moved: BTreeMap<PartitionId, Option<Position>>,
    records: u64,
    told_at: Instant,
}

impl Untold {
    pub(super) fn new() -> Self {
        Self {
            moved: BTreeMap::new(),
            records: 0,
            told_at: Instant::now(),
        }
    }

    fn due_at(&self) -> Option<Instant> {
        (!self.moved.is_empty()).then(|| self.told_at + PROGRESS_INTERVAL)
    }

    /// Takes note; the message to send, if it is time for one.
    fn note(&mut self, found: Found) -> Option<WatchMessage> {
        self.moved.extend(found.moved);
        self.records += found.records;
        let is_due = self.due_at().is_some_and(|at| at <= Instant::now());
        let is_much = self.records >= PROGRESS_RECORDS;
        let tells = !found.changes.is_empty() || is_due || is_much;
        tells.then(|| self.tell(found.changes))
    }

    fn tell(&mut self, changes: Vec<super::call::Change>) -> WatchMessage {
        (self.records, self.told_at) = (0, Instant::now());
        let moved = std::mem::take(&mut self.moved);
        WatchMessage {
            changes,
            positions: moved.into_iter().collect(),
        }
    }
}

impl Pump {
    /// Runs until the node closes, nobody watches any more, or the watch cannot go on.
    pub(super) async fn run(mut self) {
        let (closed, outlet) = (self.node.closed(), Arc::clone(&self.outlet));
        let error = tokio::select! {
            () = outlet.dropped() => return,
            () = closed => closing(),
            error = self.follow() => error,
        };
        outlet.end(error);
    }

    async fn follow(&mut self) -> Error {
        loop {
            let room = tokio::time::timeout(self.patience, self.outlet.room());
            if room.await.is_err() {
                self.place.count_cut_off();
                self.outlet.cut_off(self.patience);
                return Error::new(Reason::SlowConsumer, "cut off");
            }
            if let Some(cause) = self.node.store.poison_cause() {
                return Error::new(Reason::StorePoisoned, format!("store poisoned: {cause}"));
            }
            match self.cursor.pass(&self.node.store).await {
                Ok(Some(found)) => {
                    if let Some(message) = self.untold.note(found) {
                        self.outlet.push(message);
                    }
                    // A watch that catches up shares its thread with everybody else.
                    tokio::task::yield_now().await;
                }
                Ok(None) => self.wait_news().await,
                Err(error) => return error,
            }
        }
    }

    /// Waits until there may be something to read. Without any news it sets no timer.
    async fn wait_news(&mut self) {
        let waits_from = Instant::now();
        loop {
            let due_at = self.untold.due_at();
            tokio::select! {
                () = self.signal.news.notified() => break,
                () = sleep_until(due_at) => {
                    let message = self.untold.tell(Vec::new());
                    self.outlet.push(message);
                }
            }
        }
        self.place.count_wakeup();
        tokio::time::sleep_until(waits_from + LOOK_INTERVAL).await;
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        for slot in &self.slots {
            slot.watchers.remove(&self.signal);
        }
        // A task that was stopped from outside has said nothing; after an end this does nothing.
        self.outlet.end(closing());
    }
}
