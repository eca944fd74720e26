//! Removes what is past its time, at the home, by records in the log.
//!
//! **Owns**: when a partition is looked at, the pace, what follows a refusal.
//! **Does not own**: finding what is due (storage), the write path that the removals take (driver).
//!
//! ```text
//! tick -> partitions that may have something due -> round: a batch found and submitted (blocking)
//!                                                      ^------ its replies <-------'
//! ```
//! A removal holds only if the key still has the version that ends: a put that came between wins.
//! Nothing is kept of a round but how far it got; a node that starts anew finds the same keys due.

use std::sync::Arc;
use std::time::Duration;

use domicile_core::{EarlierTries, Purpose};
use domicile_proto::record::RecordBody;
use domicile_proto::{Operation, Reason, Record};
use domicile_storage::cells::{DueCell, ExpiryCursor};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use super::interior::NodeCore;
use super::request_id::new_request_id;
use crate::buffer::Written;
use crate::call::{Expected, Precondition};
use crate::driver::{PreparedWrite, ReplyTo, Slot};
use crate::error::Error;

/// How often partitions are looked at. With the time of a round it makes "within about a second";
/// doubled, keys stay that much longer and an idle node wakes half as often.
const TICK: Duration = Duration::from_millis(500);

/// Keys removed in one round of a partition: 10,000 a second. Doubled, a mass expiry takes twice as
/// much from its writers for half as long.
const ROUND_KEYS_MAX: usize = 5_000;

/// Keys submitted before their replies are awaited: what a group commit carries of them beside what
/// callers write, 16 KiB of short keys. Doubled, callers wait for twice as much in their commit.
const BATCH_KEYS_MAX: usize = 500;

/// Keys removed by one record. At [`ROUND_KEYS_MAX`] these are 40 records a second, so that those
/// among which a restarted home finds its callers' request ids last for longer than the ids do.
/// Doubled, the partition is locked for twice as long while their versions are read: 0.1 ms where
/// they lie in the overlay.
const RECORD_KEYS_MAX: usize = 250;

/// How long a removal may wait for its level. It is in the log then and needs nothing more; only
/// the partition's next round waits. Doubled, that one comes later.
const REPLY_MAX: Duration = Duration::from_secs(5);

/// Pause of a partition after a refusal. Doubled, keys stay that much longer once it heals.
const RETRY: Duration = Duration::from_secs(1);

/// Runs until the node closes.
pub(super) async fn run_expiry(core: Arc<NodeCore>) {
    let mut closed = std::pin::pin!(core.closed());
    let homes = core.driver.slots().filter(|slot| slot.is_home());
    let mut resting: Vec<Expirer> = homes.map(|slot| Expirer::new(Arc::clone(&slot))).collect();
    let mut rounds = JoinSet::new();
    // Batches are found and submitted one at a time: a mass expiry takes one processor at most.
    let turn = Arc::new(Semaphore::new(1));
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = &mut closed => return,
            _ = ticks.tick() => {
                let now_ms = core.clock.head().wall_ms();
                for expirer in resting.extract_if(.., |each| each.may_be_due(now_ms)) {
                    rounds.spawn(expirer.round(Arc::clone(&core), Arc::clone(&turn)));
                }
            }
            Some(ended) = rounds.join_next() => match ended {
                Ok(expirer) => resting.push(expirer),
                Err(error) => tracing::error!(%error, "a round of expiry panicked"),
            },
        }
    }
}

/// What is removed of one partition, and how far that is.
struct Expirer {
    slot: Arc<Slot>,
    cursor: ExpiryCursor,
    rests_until: Option<Instant>,
}

impl Expirer {
    fn new(slot: Arc<Slot>) -> Self {
        Self {
            slot,
            cursor: ExpiryCursor::default(),
            rests_until: None,
        }
    }

    fn may_be_due(&self, now_ms: u64) -> bool {
        let rests = self.rests_until.is_some_and(|until| Instant::now() < until);
        !rests && self.slot.cells.may_be_due(&self.cursor, now_ms)
    }

    async fn round(mut self, core: Arc<NodeCore>, turn: Arc<Semaphore>) -> Self {
        let mut keys = 0;
        while keys < ROUND_KEYS_MAX {
            let batch = self.batch(&core, &turn).await;
            let is_refused = match &batch {
                Ok(batch) => batch.due > 0 && (batch.removed == 0 || batch.refused.is_some()),
                Err(_) => true,
            };
            if is_refused {
                let why = batch.map(|batch| batch.refused);
                tracing::debug!(partition = %self.slot.partition, ?why, "expiry waits");
                self.cursor.restart();
                self.rests_until = Some(Instant::now() + RETRY);
                break;
            }
            keys += batch.map_or(0, |batch| batch.due);
            if !self.may_be_due(core.clock.head().wall_ms()) {
                break;
            }
        }
        self
    }

    /// Removes what is due, some hundred keys. A record of which one key has been written anew is
    /// refused as a whole; its keys are then tried one by one.
    async fn batch(&mut self, core: &Arc<NodeCore>, turn: &Semaphore) -> Result<Batch, Error> {
        let mut cursor = std::mem::take(&mut self.cursor);
        let (slot, node) = (Arc::clone(&self.slot), Arc::clone(core));
        let permit = turn.acquire().await;
        let found = tokio::task::spawn_blocking(move || {
            let now_ms = node.clock.head().wall_ms();
            let due = slot.cells.due(&mut cursor, now_ms, BATCH_KEYS_MAX)?;
            let count = due.len();
            Ok((cursor, count, submit(&node, &slot, due, RECORD_KEYS_MAX)))
        });
        let (cursor, due, sent) = found.await.unwrap_or_else(|error| Err(ended(&error)))?;
        drop(permit);
        self.cursor = cursor;
        let mut heard = sent.hear().await;
        let unmet = std::mem::take(&mut heard.unmet);
        if !unmet.is_empty() {
            let (slot, node) = (Arc::clone(&self.slot), Arc::clone(core));
            let permit = turn.acquire().await;
            let sent = tokio::task::spawn_blocking(move || submit(&node, &slot, unmet, 1));
            let sent = sent.await.map_err(|error| ended(&error))?;
            drop(permit);
            let alone = sent.hear().await;
            heard.removed += alone.removed;
            heard.refused = heard.refused.or(alone.refused);
        }
        Ok(Batch {
            due,
            removed: heard.removed,
            refused: heard.refused,
        })
    }
}

/// How a batch ended.
struct Batch {
    due: usize,
    removed: usize,
    refused: Option<Error>,
}

fn ended(error: &tokio::task::JoinError) -> Error {
    Error::new(Reason::StorePoisoned, format!("expiry ended: {error}"))
}

/// Removals on their way.
struct Sent {
    records: Vec<Vec<DueCell>>,
    replies: mpsc::UnboundedReceiver<(u64, Result<Written, Error>)>,
}

/// What became of them.
#[derive(Default)]
struct Heard {
    removed: usize,
    refused: Option<Error>,
    /// Keys of records of several of which at least one had been written anew.
    unmet: Vec<DueCell>,
}

/// Submits the removal of cells, up to `keys_max` by one record.
fn submit(core: &NodeCore, slot: &Slot, cells: Vec<DueCell>, keys_max: usize) -> Sent {
    let (sender, replies) = mpsc::unbounded_channel();
    let records: Vec<Vec<DueCell>> = cells.chunks(keys_max).map(<[DueCell]>::to_vec).collect();
    for (tag, cells) in (0..).zip(&records) {
        let removal = removal(core, cells);
        let bytes = Record::encoded_len(&removal.body);
        let reply = ReplyTo::Tagged(tag, sender.clone());
        match core.driver.has_room(bytes) {
            true => core.driver.submit(slot, removal, reply),
            false => reply.send(Err(Error::new(Reason::Overloaded, "no room in the store"))),
        }
    }
    Sent { records, replies }
}

fn removal(core: &NodeCore, cells: &[DueCell]) -> PreparedWrite {
    let delete = |cell: &DueCell| Operation::Delete {
        key: cell.key.clone(),
    };
    let operations: Vec<Operation> = cells.iter().map(delete).collect();
    let body = RecordBody::encode(&operations).expect("some keys that were in records before");
    let condition = |cell: &DueCell| Precondition {
        key: cell.key.clone(),
        expected: Expected::Version(cell.version),
    };
    PreparedWrite {
        purpose: Purpose::Expiry,
        request_id: new_request_id(),
        operations,
        body,
        preconditions: cells.iter().map(condition).collect(),
        level: None,
        deadline: core.clock.now().plus(REPLY_MAX),
        earlier_tries: EarlierTries::Remembered,
    }
}

impl Sent {
    /// Waits until every removal is answered: each is, within its deadline or by the end of the
    /// node.
    async fn hear(mut self) -> Heard {
        let mut heard = Heard::default();
        while let Some((tag, result)) = self.replies.recv().await {
            let cells = std::mem::take(&mut self.records[tag as usize]);
            match result {
                Ok(_) => heard.removed += cells.len(),
                Err(error) if error.reason() == Reason::VersionMismatch => {
                    if cells.len() > 1 {
                        heard.unmet.extend(cells);
                    }
                }
                Err(error) => heard.refused = Some(error),
            }
        }
        heard
    }
}
