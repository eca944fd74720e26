//! Reads of one key, by declared freshness.
//!
//! **Owns**: what each consistency waits for, and when it goes to the home instead.
//! **Does not own**: cells (storage), forwarding (peers).

use std::time::Duration;

use bytes::Bytes;
use domicile_proto::{PartitionId, Reason};
use domicile_storage::cells::Cell;

use super::interior::{NodeCore, Route, TIMEOUT_DEFAULT};
use crate::call::{Consistency, Entry, ReadAnswer, ReadCall};
use crate::driver::{Slot, StreamState};
use crate::error::Error;

impl NodeCore {
    /// Reads one key. While its home changes, it is looked for again until the time is up.
    pub(crate) async fn read(&self, call: ReadCall) -> Result<ReadAnswer, Error> {
        domicile_proto::limits::check_key(&call.key)?;
        self.check_residency(&call.keyspace)?;
        let mut chase = self.chase(call.timeout.unwrap_or(TIMEOUT_DEFAULT), call.forwarding);
        let partition = call.keyspace.partition_of(&call.key);
        loop {
            let outcome = self.read_once(call.clone(), chase.left()).await;
            let named = self.named_by(&outcome);
            match chase.settle(outcome) {
                Some(outcome) => return outcome,
                None => self.pause(&chase, partition, named).await,
            }
        }
    }

    async fn read_once(&self, call: ReadCall, timeout: Duration) -> Result<ReadAnswer, Error> {
        let partition = call.keyspace.partition_of(&call.key);
        if self
            .may_answer(partition, &call.consistency, timeout)
            .await?
        {
            let Some(slot) = self.driver.slot(partition) else {
                let message = format!("no partition {partition}");
                return Err(Error::new(Reason::KeyspaceNotFound, message));
            };
            match self.read_slot(&slot, call.key.clone()) {
                // Closed since it was looked at, as something takes their place: the home has them.
                Err(error) if error.reason() == Reason::Recovering && !slot.is_home() => {}
                outcome => return outcome,
            }
        }
        let route = self.route_in_time(partition, call.forwarding, timeout);
        match route.await? {
            Route::Here(slot) => self.read_slot(&slot, call.key),
            Route::There(link) => {
                let from = self.topology.own.name.as_str();
                let seen = call.consistency.seen_of(partition);
                let answer = link.forward_get(&call.keyspace, from, call.key, seen, timeout);
                let answer = self.unless_moved(partition, link.region(), answer).await;
                let moved = || Error::new(Reason::NoHome, "the home moved before it answered");
                let rows = answer.unwrap_or_else(|| Err(moved()))?;
                Ok(ReadAnswer {
                    entry: rows.entries.into_iter().next(),
                    partition,
                    position: rows.position,
                    staleness: Duration::ZERO,
                    region: link.region(),
                })
            }
        }
    }

    /// Whether this node's state of a partition is fresh enough; waits for a session's mark.
    pub(super) async fn may_answer(
        &self,
        partition: PartitionId,
        consistency: &Consistency,
        timeout: Duration,
    ) -> Result<bool, Error> {
        let Some(slot) = self.driver.slot(partition) else {
            return Ok(false);
        };
        if slot.handed_on().is_some() {
            return Ok(false);
        }
        if slot.is_home() {
            slot.check_reads_open(self.clock.now())?;
        } else if slot.is_damaged() || !slot.cells.is_readable() {
            return Ok(false);
        }
        match consistency {
            Consistency::Home => Ok(slot.is_home()),
            Consistency::Local => Ok(true),
            Consistency::Bounded(bound) => Ok(slot.is_home() || self.staleness(&slot) <= *bound),
            Consistency::Session(_) => match consistency.seen_of(partition) {
                None => Ok(true),
                Some(seen) => self.wait_session(&slot, seen, timeout).await,
            },
        }
    }

    /// How far behind its home a slot's applied state may be.
    pub(super) fn staleness(&self, slot: &Slot) -> Duration {
        if slot.is_home() {
            return Duration::ZERO;
        }
        slot.staleness(self.clock.now(), self.stream_of(slot))
    }

    /// What is known of the stream from a slot's home.
    pub(crate) fn stream_of(&self, slot: &Slot) -> StreamState {
        let source = self.driver.peers.source(slot.home());
        source.map(|source| source.stream()).unwrap_or_default()
    }

    fn read_slot(&self, slot: &Slot, key: Bytes) -> Result<ReadAnswer, Error> {
        // Before the read: what it sees can only be fresher than this says.
        let staleness = self.staleness(slot);
        let read = slot.cells.get(&key)?;
        Ok(ReadAnswer {
            entry: read.cell.and_then(|cell| entry_of(key, cell)),
            partition: slot.partition,
            position: slot.position(read.applied_upto),
            staleness,
            region: self.topology.own.id,
        })
    }
}

/// A cell as callers see it; `None` for a deleted one.
pub(super) fn entry_of(key: Bytes, cell: Cell) -> Option<Entry> {
    let value = cell.value?;
    Some(Entry {
        key,
        value,
        version: cell.version,
        written_at_ms: cell.hlc.wall_ms(),
        expires_at_ms: cell.expires_at_ms,
    })
}
