//! The path of a write from a call to its receipt.
//!
//! **Owns**: the checks that need no lock, waiting for room, routing to the home.
//! **Does not own**: sequencing and acknowledgement (driver, core).

use std::time::Duration;

use bytes::Bytes;
use domicile_core::Purpose;
use domicile_proto::record::RecordBody;
use domicile_proto::{Keyspace, PartitionId, Reason, Record, RequestId};
use tokio::sync::{mpsc, oneshot};

use super::interior::{NodeCore, Route, TIMEOUT_DEFAULT};
use super::request_id::new_request_id;
use crate::call::{Forwarding, WriteCall};
use crate::driver::{PreparedWrite, ReplyTo, Slot};
use crate::error::Error;
use crate::peers::ANSWER_LOST;
use crate::receipt::Receipt;

/// When a caller that found no room does well to come back: about the time of a flush.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// A checked write and where it belongs.
pub(super) struct Checked {
    partition: PartitionId,
    forwarding: Forwarding,
    timeout: Duration,
    write: PreparedWrite,
}

impl NodeCore {
    /// Does a write, here or at its home, and waits for its level.
    pub(crate) async fn write(&self, call: WriteCall) -> Result<Receipt, Error> {
        let keyspace = std::sync::Arc::clone(&call.keyspace);
        let checked = self.check_write(call)?;
        self.write_checked(&keyspace, checked).await
    }

    /// Submits at once if that needs no waiting; `None` if the answer is on its way.
    pub(super) fn write_at_once(
        &self,
        call: WriteCall,
        tag: u64,
        results: &mpsc::UnboundedSender<(u64, Result<Receipt, Error>)>,
    ) -> Option<Checked> {
        let submitted = self.check_write(call).and_then(|checked| {
            match self.route(checked.partition, checked.forwarding)? {
                Route::Here(slot)
                    if self
                        .driver
                        .has_room(Record::encoded_len(&checked.write.body)) =>
                {
                    let reply = ReplyTo::Tagged(tag, results.clone());
                    self.driver.submit(&slot, checked.write, reply);
                    Ok(None)
                }
                _ => Ok(Some(checked)),
            }
        });
        submitted.unwrap_or_else(|error| {
            ReplyTo::Tagged(tag, results.clone()).send(Err(error));
            None
        })
    }

    pub(super) async fn write_checked(
        &self,
        keyspace: &Keyspace,
        checked: Checked,
    ) -> Result<Receipt, Error> {
        let Checked {
            partition,
            forwarding,
            timeout,
            write,
        } = checked;
        if self.plane.is_none() {
            let route = self.route(partition, forwarding)?;
            return self.write_by(keyspace, route, write, timeout).await;
        }
        // The id is the same each time: at most one of the attempts takes effect at its home.
        let (mut chase, mut named) = (self.chase(timeout, forwarding), None);
        loop {
            let (write, left) = (write.clone(), chase.left());
            let route = match named {
                Some(link) => Ok(Route::There(link)),
                None => self.route(partition, forwarding),
            };
            let outcome = match route {
                Ok(route) => self.write_by(keyspace, route, write, left).await,
                Err(error) => Err(error),
            };
            named = self.named_by(&outcome);
            match chase.settle(outcome) {
                Some(outcome) => return outcome,
                None => chase.pause().await,
            }
        }
    }

    async fn write_by(
        &self,
        keyspace: &Keyspace,
        route: Route,
        write: PreparedWrite,
        timeout: Duration,
    ) -> Result<Receipt, Error> {
        match route {
            Route::Here(slot) => self.write_here(&slot, write, timeout).await,
            Route::There(link) => {
                let (from, at) = (self.topology.own.name.as_str(), link.region());
                let (partition, request_id) = (
                    keyspace.partition_of(write.operations[0].key()),
                    write.request_id,
                );
                let answer = link.forward_write(keyspace, from, write, timeout);
                let answer = self.unless_moved(partition, at, answer).await;
                answer.unwrap_or_else(|| Err(home_moved().with("request_id", request_id)))
            }
        }
    }

    fn check_write(&self, call: WriteCall) -> Result<Checked, Error> {
        let WriteCall {
            keyspace,
            operations,
            preconditions,
            level,
            request_id,
            ..
        } = call;
        let body = RecordBody::encode(&operations)?;
        let partition = one_partition(&keyspace, operations.iter().map(|each| each.key()))?;
        if !preconditions.is_empty() {
            let keys = preconditions.iter().map(|each| &each.key);
            let group = keyspace.group_of(operations[0].key());
            if keys.clone().any(|key| keyspace.group_of(key) != group) {
                return Err(across_groups());
            }
            one_partition(&keyspace, keys)?;
        }
        self.check_residency(&keyspace)?;
        let timeout = call.timeout.unwrap_or(TIMEOUT_DEFAULT);
        let request_id = request_id.unwrap_or_else(new_request_id);
        let deadline = self.clock.now().plus(timeout);
        let write = PreparedWrite {
            purpose: Purpose::Request,
            request_id,
            operations,
            body,
            preconditions,
            level,
            deadline,
        };
        Ok(Checked {
            partition,
            forwarding: call.forwarding,
            timeout,
            write,
        })
    }

    async fn write_here(
        &self,
        slot: &Slot,
        write: PreparedWrite,
        timeout: Duration,
    ) -> Result<Receipt, Error> {
        let bytes = Record::encoded_len(&write.body);
        if !self.driver.has_room(bytes) {
            let waited = tokio::time::timeout(timeout, self.driver.wait_room(bytes)).await;
            if waited.is_err() {
                let waited_ms = timeout.as_millis();
                let message = format!("no room in the store within {waited_ms} ms");
                return Err(Error::new(Reason::Overloaded, message).retry_in(RETRY_AFTER));
            }
        }
        let request_id = write.request_id;
        let (reply, answer) = oneshot::channel();
        self.driver.submit(slot, write, ReplyTo::Once(reply));
        answer
            .await
            .unwrap_or_else(|_| Err(never_answered(request_id)))
    }

    /// What became of a write, as its home knows it.
    pub(crate) fn outcome_here(
        &self,
        keyspace: &Keyspace,
        key: &Bytes,
        request_id: RequestId,
    ) -> Result<Option<Receipt>, Error> {
        let partition = one_partition(keyspace, std::iter::once(key))?;
        match self.route(partition, Forwarding::LocalOnly)? {
            Route::Here(slot) => self.driver.outcome(&slot, request_id),
            Route::There(_) => Err(Error::new(Reason::WrongHome, "the home is another region")),
        }
    }

    /// What became of a write, as its home says, wherever that is.
    pub(crate) async fn outcome(
        &self,
        keyspace: &Keyspace,
        key: Bytes,
        request_id: RequestId,
    ) -> Result<Option<Receipt>, Error> {
        self.check_residency(keyspace)?;
        let partition = one_partition(keyspace, std::iter::once(&key))?;
        match self.route(partition, Forwarding::Allowed)? {
            Route::Here(slot) => self.driver.outcome(&slot, request_id),
            Route::There(link) => {
                let from = self.topology.own.name.as_str();
                link.forward_outcome(keyspace, from, key, request_id, TIMEOUT_DEFAULT)
                    .await
            }
        }
    }
}

/// The home had a write and was succeeded: its successor knows what became of it, if it arrived.
fn home_moved() -> Error {
    let message = "the home was succeeded before it answered";
    Error::new(Reason::Indeterminate, message).with(ANSWER_LOST, true)
}

fn never_answered(request_id: RequestId) -> Error {
    let message = "the node ended before the write was acknowledged";
    Error::new(Reason::Indeterminate, message).with("request_id", request_id)
}

fn across_groups() -> Error {
    Error::new(
        Reason::InvalidBatch,
        "the keys of a write must belong to one group",
    )
}

/// The partition of all keys, which must share a group.
fn one_partition<'keys>(
    keyspace: &Keyspace,
    mut keys: impl Iterator<Item = &'keys Bytes>,
) -> Result<PartitionId, Error> {
    let Some(first) = keys.next() else {
        return Err(Error::new(
            Reason::InvalidBatch,
            "number of operations: 0, at least 1",
        ));
    };
    domicile_proto::limits::check_key(first)?;
    let group = keyspace.group_of(first);
    for key in keys {
        domicile_proto::limits::check_key(key)?;
        if keyspace.group_of(key) != group {
            return Err(across_groups());
        }
    }
    Ok(keyspace.partition_of(first))
}
