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

use domicile_core::Purpose;
use domicile_proto::record::RecordBody;
use domicile_proto::{Operation, Reason, Record};
use domicile_storage::cells::{DueCell, ExpiryCursor};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use super::interior::NodeCore;
use super::request_id::new_request_id;
use crate::call::{Expected, Precondition};
use crate::driver::{PreparedWrite, ReplyTo, Slot};
use crate::error::Error;
use crate::receipt::Receipt;

/// How often partitions are looked at. With the time of a round it makes "within about a second";
/// doubled, keys stay that much longer and an idle node wakes half as often.
const TICK: Duration = Duration::from_millis(500);

/// Keys removed in one round of a partition: 10,000 a second. Doubled, a mass expiry takes twice as
/// much from its writers for half as long.
const ROUND_KEYS_MAX: usize = 5_000;

/// Keys submitted before their replies are awaited: what a group commit carries of them beside what
/// callers write, 32 KiB of short keys. Doubled, callers wait for twice as much in their commit.
const BATCH_KEYS_MAX: usize = 500;

/// How long a removal may wait for its level. It is in the log then and needs nothing more; only the
/// partition's next round waits.
const REPLY_MAX: Duration = Duration::from_secs(5);

/// Pause of a partition after a refusal. Doubled, keys stay that much longer once it heals.
const RETRY: Duration = Duration::from_secs(1);

type Replies = mpsc::UnboundedReceiver<(u64, Result<Receipt, Error>)>;

/// Runs until the node closes.
pub(super) async fn run_expiry(core: Arc<NodeCore>) {
    let mut closed = std::pin::pin!(core.closed());
    let homes = core.driver.slots().filter(|slot| slot.is_home);
    let mut resting: Vec<Expirer> = homes.map(|slot| Expirer::new(Arc::clone(slot))).collect();
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
                let (due, rest) = resting.into_iter().partition(|each| each.may_be_due(now_ms));
                resting = rest;
                for expirer in Vec::into_iter(due) {
                    rounds.spawn(expirer.round(Arc::clone(&core), Arc::clone(&turn)));
                }
            }
            Some(ended) = rounds.join_next() => match ended {
                Ok(expirer) => resting.push(expirer),
                Err(error) => tracing::error!(%error, "a round of expiry panicked: its partition's ended"),
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

/// How a batch ended.
enum Batch {
    /// Something was removed.
    Removed,
    /// Nothing was due among what was looked at.
    Empty,
    /// Something was not removed, or all of it was written anew or is on its way.
    Refused,
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
            let permit = turn.acquire().await;
            let (slot, node) = (Arc::clone(&self.slot), Arc::clone(&core));
            let submitted = tokio::task::spawn_blocking(move || {
                let submitted = self.submit(&node);
                (self, submitted)
            });
            let (expirer, submitted) = match submitted.await {
                Ok(both) => both,
                Err(error) => {
                    let partition = slot.partition;
                    tracing::error!(%partition, %error, "expiry began anew");
                    let failed = Error::new(Reason::StorePoisoned, error.to_string());
                    (Self::new(slot), Err(failed))
                }
            };
            drop(permit);
            self = expirer;
            let batch = match submitted {
                Ok((sent, replies)) => {
                    keys += sent;
                    match sent {
                        0 => Batch::Empty,
                        _ => hear(replies).await,
                    }
                }
                Err(error) => {
                    let partition = self.slot.partition;
                    tracing::warn!(%partition, %error, "expiry failed; it is tried again");
                    Batch::Refused
                }
            };
            match batch {
                Batch::Removed | Batch::Empty => {
                    if !self.may_be_due(core.clock.head().wall_ms()) {
                        break;
                    }
                }
                Batch::Refused => {
                    self.cursor.restart();
                    self.rests_until = Some(Instant::now() + RETRY);
                    break;
                }
            }
        }
        self
    }

    /// Submits the removal of what is due; how many keys, and where the replies arrive.
    fn submit(&mut self, core: &NodeCore) -> Result<(usize, Replies), Error> {
        let (sender, replies) = mpsc::unbounded_channel();
        let now_ms = core.clock.head().wall_ms();
        let due = self
            .slot
            .cells
            .due(&mut self.cursor, now_ms, BATCH_KEYS_MAX)?;
        let count = due.len();
        for (tag, cell) in (0..).zip(due) {
            let removal = removal(core, cell);
            let bytes = Record::encoded_len(&removal.body);
            let reply = ReplyTo::Tagged(tag, sender.clone());
            match core.driver.has_room(bytes) {
                true => core.driver.submit(&self.slot, removal, reply),
                false => reply.send(Err(Error::new(Reason::Overloaded, "no room in the store"))),
            }
        }
        Ok((count, replies))
    }
}

fn removal(core: &NodeCore, cell: DueCell) -> PreparedWrite {
    let DueCell { key, version, .. } = cell;
    let operations = vec![Operation::Delete { key: key.clone() }];
    let body = RecordBody::encode(&operations).expect("the key was in a record before");
    PreparedWrite {
        purpose: Purpose::Expiry,
        request_id: new_request_id(),
        operations,
        body,
        preconditions: vec![Precondition {
            key,
            expected: Expected::Version(version),
        }],
        level: None,
        deadline: core.clock.now().plus(REPLY_MAX),
    }
}

/// Waits until every removal of a batch is answered: each is, within its deadline or by the end of
/// the node.
async fn hear(mut replies: Replies) -> Batch {
    let (mut removed, mut refused) = (0_u64, None);
    while let Some((_, result)) = replies.recv().await {
        match result {
            Ok(_) => removed += 1,
            Err(error) if error.reason() == Reason::VersionMismatch => {}
            Err(error) => refused = Some(error),
        }
    }
    if let Some(error) = refused {
        tracing::debug!(%error, removed, "keys past their time were not removed");
        return Batch::Refused;
    }
    match removed {
        0 => Batch::Refused,
        _ => Batch::Removed,
    }
}
