//! Whether a write whose home is not reached is kept, and for how long its home is tried.
//!
//! **Owns**: what stands against keeping a write, which failures mean that a home is not reached.
//! **Does not own**: the tries (`node::write`), keeping (`keep`).
//!
//! Kept is only what means the same later as now: no conditions, whose answer the caller needs; no
//! level of the caller's own, as a queue on one disk meets none; nothing that is to stay here.
//! While writes of a partition wait here, later ones wait behind them, or are refused; but while
//! the home takes what waits, they wait until it has, and go there themselves.

use std::sync::Arc;
use std::time::{Duration, Instant};

use domicile_core::REQUESTS_MAX;
use domicile_proto::{BufferLimit, Failover, Keyspace, PartitionId, Position, Reason, Seq};
use domicile_storage::NewBuffered;

use super::call::{Accepted, Unapplied, Written};
use crate::call::{Forwarding, WriteCall};
use crate::clock::Clock;
use crate::error::Error;
use crate::node::{CheckedWrite, NodeCore};
use crate::peers::ANSWER_LOST;

/// How long a home has to be out of reach before a write is kept: longer than a planned change of
/// home takes, which is not worth a queue. Doubled, the first writes of an outage wait that much
/// longer.
const OUT_OF_REACH: Duration = Duration::from_secs(1);

/// How often it is looked at whether a home is in reach.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// What is left of the caller's time to keep a write: some syncs, and the way back.
const KEEP_RESERVE_MAX: Duration = Duration::from_millis(500);

/// When a caller that was refused does well to come back.
const RETRY_AFTER: Duration = Duration::from_secs(1);

impl NodeCore {
    /// Does a write, or keeps it for its home where that is wanted and the home is not reached.
    pub(crate) async fn write_or_keep(&self, call: WriteCall) -> Result<Written, Error> {
        let keyspace = Arc::clone(&call.keyspace);
        let checked = self.check_write(call)?;
        self.write_checked_or_keep(&keyspace, checked).await
    }

    /// The same for a write that is checked.
    pub(crate) async fn write_checked_or_keep(
        &self,
        keyspace: &Arc<Keyspace>,
        mut checked: CheckedWrite,
    ) -> Result<Written, Error> {
        let began = Instant::now();
        let partition = checked.partition;
        let limit = self.buffer_limit(keyspace);
        let obstacle = obstacle(&checked, limit);
        let keep = |checked| self.keep(keyspace, limit.unwrap_or_default(), checked);
        let patience = (checked.timeout / 2).min(OUT_OF_REACH);
        if self.buffer.has_waiting(partition) && !self.buffer.drained(partition, patience).await {
            return match obstacle {
                None => keep(checked).await.map(Written::Accepted),
                Some(why) => Err(queued_before(partition, why)),
            };
        }
        checked.timeout = checked.timeout.saturating_sub(began.elapsed());
        if limit.is_none() || self.is_home_here(partition) {
            let done = self.write_checked(keyspace, checked).await;
            return done.map(Written::Applied);
        }
        let mut tried = checked.clone();
        tried.timeout -= (checked.timeout / 4).min(KEEP_RESERVE_MAX);
        let done = tokio::select! {
            biased;
            done = self.write_checked(keyspace, tried) => done,
            () = self.out_of_reach(partition, patience) => Err(unreached(patience)),
        };
        match (done, obstacle) {
            (Ok(receipt), _) => Ok(Written::Applied(receipt)),
            (Err(error), None) if is_unreached(&error) => match keep(checked).await {
                Ok(accepted) => Ok(Written::Accepted(accepted)),
                // It may have been done before its answer was lost: that it is not kept says less.
                Err(why) if error.reason() == Reason::Indeterminate => {
                    Err(error.with("not_kept", why))
                }
                Err(why) => Err(why),
            },
            (Err(error), Some(why)) if is_unreached(&error) => Err(error.with("not_kept", why)),
            (Err(error), _) => Err(error),
        }
    }

    /// Whether a write takes the long way: it may have to be kept.
    pub(crate) fn may_be_kept(&self, keyspace: &Keyspace, partition: PartitionId) -> bool {
        self.buffer.has_waiting(partition)
            || (self.buffer_limit(keyspace).is_some() && !self.is_home_here(partition))
    }

    /// What may be kept of a keyspace, by its policy as of now.
    fn buffer_limit(&self, keyspace: &Keyspace) -> Option<BufferLimit> {
        match self.topology.keyspace(keyspace.id())?.failover {
            Failover::Buffer(limit) => Some(limit),
            Failover::Promote | Failover::ReadOnly => None,
        }
    }

    fn is_home_here(&self, partition: PartitionId) -> bool {
        let slot = self.driver.slot(partition);
        slot.is_some_and(|slot| slot.is_home() && slot.handed_on().is_none())
    }

    async fn keep(
        &self,
        keyspace: &Arc<Keyspace>,
        limit: BufferLimit,
        checked: CheckedWrite,
    ) -> Result<Accepted, Error> {
        self.store.check_space()?;
        let write = NewBuffered {
            partition: checked.partition,
            request_id: checked.write.request_id,
            accepted_at_ms: Clock::wall_ms(),
            log_end: self.log_end_before(checked.partition),
            body: checked.write.body,
        };
        self.buffer.keep(Arc::clone(keyspace), limit, write).await
    }

    /// Where the log ends here, less what its home remembers the requests of: a try of a write that
    /// was repeated in time lies behind it.
    fn log_end_before(&self, partition: PartitionId) -> Option<Position> {
        let reach = self.store.reach(partition, Seq::FIRST);
        let back = reach.durable_upto.get().saturating_sub(REQUESTS_MAX as u64);
        let seq = Seq::new(back).max(reach.oldest.previous());
        let epoch = self.store.reach(partition, seq.next()).epoch_before?;
        Some(Position { epoch, seq })
    }

    /// Ends once the home has been out of reach for as long as that.
    async fn out_of_reach(&self, partition: PartitionId, patience: Duration) {
        let mut since = Instant::now();
        while since.elapsed() < patience {
            tokio::time::sleep(LOOK_PAUSE.min(patience)).await;
            if self.reaches_home(partition) {
                since = Instant::now();
            }
        }
    }

    /// Whether this node is connected with the home, or is it.
    pub(super) fn reaches_home(&self, partition: PartitionId) -> bool {
        match self.link_to_home(partition) {
            Ok(None) => true,
            Ok(Some(link)) => link.status().connected,
            Err(_) => false,
        }
    }
}

/// What stands against keeping a write.
fn obstacle(checked: &CheckedWrite, limit: Option<BufferLimit>) -> Option<&'static str> {
    if limit.is_none() {
        return Some("the keyspace's failover is not buffer");
    }
    if checked.unapplied == Unapplied::Refused {
        return Some("it is to be applied or refused");
    }
    if checked.forwarding == Forwarding::LocalOnly {
        return Some("it is not to be passed on");
    }
    if !checked.write.preconditions.is_empty() {
        return Some("it has conditions, which only the home can answer");
    }
    if checked.write.level.is_some() {
        return Some("it asks for a level of its own, which a queue on one disk does not meet");
    }
    None
}

/// Whether an attempt failed since there is no home, or no way to it. One whose answer was lost may
/// have been done: its id tells when it is sent again.
fn is_unreached(error: &Error) -> bool {
    match error.reason() {
        Reason::NoHome | Reason::WrongHome | Reason::StaleEpoch | Reason::Recovering => true,
        Reason::Indeterminate => error.metadata().contains_key(ANSWER_LOST),
        _ => false,
    }
}

fn unreached(patience: Duration) -> Error {
    let waited_ms = patience.as_millis();
    let message = format!("the home was not in reach for {waited_ms} ms");
    Error::new(Reason::Indeterminate, message).with(ANSWER_LOST, true)
}

fn queued_before(partition: PartitionId, why: &str) -> Error {
    let message = format!(
        "writes of {partition} wait for their home here; this one cannot wait behind them: {why}"
    );
    let error = Error::new(Reason::NoHome, message).with("not_kept", why);
    error.retry_in(RETRY_AFTER)
}
