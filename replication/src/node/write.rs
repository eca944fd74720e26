//! The path of a write from a call to its receipt.
//!
//! **Owns**: the checks that need no lock, waiting for room, routing to the home.
//! **Does not own**: sequencing and acknowledgement (driver, core).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domicile_core::{EarlierTries, Purpose};
use domicile_proto::record::RecordBody;
use domicile_proto::{Keyspace, PartitionId, Reason, Record, RequestId};
use tokio::sync::{mpsc, oneshot};

use super::interior::{NodeCore, Route, TIMEOUT_DEFAULT};
use super::request_id::new_request_id;
use crate::buffer::{Unapplied, Written};
use crate::call::{Forwarding, WriteCall};
use crate::driver::{PreparedWrite, ReplyTo, Slot};
use crate::error::Error;
use crate::peers::{ANSWER_LOST, PeerLink};
use crate::receipt::Receipt;

/// When a caller that found no room does well to come back: about the time of a flush.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// A checked write and where it belongs.
#[derive(Clone)]
pub(crate) struct CheckedWrite {
    pub(crate) partition: PartitionId,
    pub(crate) forwarding: Forwarding,
    pub(crate) unapplied: Unapplied,
    pub(crate) timeout: Duration,
    pub(crate) write: PreparedWrite,
}

impl NodeCore {
    /// Does a write, here or at its home, and waits for its level. It is never kept.
    pub(crate) async fn write(&self, call: WriteCall) -> Result<Receipt, Error> {
        let keyspace = Arc::clone(&call.keyspace);
        let checked = self.check_write(call)?;
        self.write_checked(&keyspace, checked).await
    }

    /// Submits at once if that needs no waiting; `None` if the answer is on its way.
    pub(super) fn write_at_once(
        &self,
        call: WriteCall,
        tag: u64,
        results: &mpsc::UnboundedSender<(u64, Result<Written, Error>)>,
    ) -> Option<CheckedWrite> {
        let keyspace = Arc::clone(&call.keyspace);
        let submitted = self.check_write(call).and_then(|checked| {
            if self.may_be_kept(&keyspace, checked.partition) {
                return Ok(Some(checked));
            }
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

    pub(crate) async fn write_checked(
        &self,
        keyspace: &Keyspace,
        checked: CheckedWrite,
    ) -> Result<Receipt, Error> {
        let CheckedWrite {
            partition,
            forwarding,
            timeout,
            write,
            ..
        } = checked;
        if self.plane.is_none() {
            let route = self.route(partition, forwarding)?;
            return self.write_by(keyspace, route, write, timeout).await;
        }
        // The id is the same each time: at most one of the attempts takes effect at its home.
        let (mut chase, mut named) = (self.chase(timeout, forwarding), None);
        loop {
            let (write, left) = (write.clone(), chase.left());
            let route = match self.link_to_named(named) {
                Some(link) => Ok(Route::There(link)),
                None => self.route_in_time(partition, forwarding, left).await,
            };
            let outcome = match route {
                Ok(route) => self.write_by(keyspace, route, write, left).await,
                Err(error) => Err(error),
            };
            named = self.named_by(&outcome);
            match chase.settle(outcome) {
                Some(outcome) => return outcome,
                None => self.pause(&chase, partition, named).await,
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

    pub(crate) fn check_write(&self, call: WriteCall) -> Result<CheckedWrite, Error> {
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
            earlier_tries: EarlierTries::Remembered,
        };
        Ok(CheckedWrite {
            partition,
            forwarding: call.forwarding,
            unapplied: call.unapplied,
            timeout,
            write,
        })
    }

    /// The link to the home of a partition; `None`: it is here.
    pub(crate) fn link_to_home(
        &self,
        partition: PartitionId,
    ) -> Result<Option<Arc<PeerLink>>, Error> {
        match self.route(partition, Forwarding::Allowed)? {
            Route::Here(_) => Ok(None),
            Route::There(link) => Ok(Some(link)),
        }
    }

    /// Does writes of one partition at its home, wherever that is, in this order, and none behind
    /// one that is refused. Fewer answers than writes: the others were not tried, or nobody knows.
    ///
    /// # Errors
    /// Nobody knows of any of them.
    pub(crate) async fn send_in_order(
        &self,
        partition: PartitionId,
        writes: Vec<PreparedWrite>,
        timeout: Duration,
    ) -> Result<Vec<Result<Receipt, Error>>, Error> {
        let missing = || {
            let message = format!("no keyspace {}", partition.keyspace);
            Error::new(Reason::KeyspaceNotFound, message)
        };
        let keyspace = self.topology.keyspace(partition.keyspace);
        let keyspace = keyspace.ok_or_else(missing)?;
        match self.link_to_home(partition)? {
            None => Ok(self.write_in_order(partition, writes, timeout).await),
            Some(link) => {
                let from = self.topology.own.name.as_str();
                let sent = link.forward_buffered(&keyspace, from, partition, writes, timeout);
                sent.await
            }
        }
    }

    /// The same where this is the home.
    pub(crate) async fn write_in_order(
        &self,
        partition: PartitionId,
        writes: Vec<PreparedWrite>,
        timeout: Duration,
    ) -> Vec<Result<Receipt, Error>> {
        let slot = match self.route(partition, Forwarding::LocalOnly) {
            Ok(Route::Here(slot)) => slot,
            Ok(Route::There(_)) => return vec![Err(elsewhere())],
            Err(error) => return vec![Err(error)],
        };
        let mut answers = Vec::with_capacity(writes.len());
        for write in writes {
            let request_id = write.request_id;
            if let Err(error) = self.await_room(&write, timeout).await {
                answers.push(Answer::Told(Err(error)));
                break;
            }
            let (reply, mut answer) = oneshot::channel();
            self.driver.submit(&slot, write, ReplyTo::Once(reply));
            // A refusal is told at once: nothing is done behind it.
            match answer.try_recv() {
                Ok(result) => {
                    let is_refused = result.is_err();
                    answers.push(Answer::Told(result));
                    if is_refused {
                        break;
                    }
                }
                Err(_) => answers.push(Answer::Awaited(request_id, answer)),
            }
        }
        let mut results = Vec::with_capacity(answers.len());
        for answer in answers {
            results.push(match answer {
                Answer::Told(result) => result,
                Answer::Awaited(request_id, answer) => answer
                    .await
                    .unwrap_or_else(|_| Err(never_answered(request_id))),
            });
        }
        results
    }

    async fn await_room(&self, write: &PreparedWrite, timeout: Duration) -> Result<(), Error> {
        let bytes = Record::encoded_len(&write.body);
        if self.driver.has_room(bytes) {
            return Ok(());
        }
        let waited = tokio::time::timeout(timeout, self.driver.wait_room(bytes)).await;
        waited.map_err(|_| {
            let waited_ms = timeout.as_millis();
            let message = format!("no room in the store within {waited_ms} ms");
            Error::new(Reason::Overloaded, message).retry_in(RETRY_AFTER)
        })
    }

    async fn write_here(
        &self,
        slot: &Slot,
        write: PreparedWrite,
        timeout: Duration,
    ) -> Result<Receipt, Error> {
        self.await_room(&write, timeout).await?;
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
            Route::There(_) => Err(elsewhere()),
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

/// An answer that is there, or one to come.
enum Answer {
    Told(Result<Receipt, Error>),
    Awaited(RequestId, oneshot::Receiver<Result<Receipt, Error>>),
}

fn elsewhere() -> Error {
    Error::new(Reason::WrongHome, "the home is another region")
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
pub(crate) fn one_partition<'keys>(
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
