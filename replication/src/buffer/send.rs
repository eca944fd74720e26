//! Sending what is kept to its home, in order, once that can be reached.
//!
//! **Owns**: when and how much is sent, what an answer means for a write that is kept.
//! **Does not own**: the hop (`peers`), telling the file (`keep`), the search of the log (`search`).
//!
//! A write stays until the home has it for sure: done or known there, found in the log here, or
//! refused for good, which is kept for an operator. Anything else is tried again, and those behind
//! it wait.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domicile_core::{EarlierTries, Purpose};
use domicile_proto::{ErrorKind, PartitionId, Reason};
use domicile_storage::{BufferEvent, BufferNumber, BufferedWrite, RefusedWrite, StoreError};
use futures::StreamExt;

use super::search::{Findings, Searched, search};
use crate::driver::PreparedWrite;
use crate::error::Error;
use crate::node::NodeCore;
use crate::ownership::blocking;
use crate::receipt::Receipt;

/// How often it is tried. Doubled, writes wait that much longer behind a home that is back.
const ROUND: Duration = Duration::from_millis(200);

/// Writes and bytes of one message: a round trip of 150 ms then carries 1,700 writes a second of a
/// partition. Doubled, the home holds twice as much for it.
const SENT_MAX: (usize, u64) = (256, 1 << 20);

/// Partitions sent at once. Doubled, callers at home share its disk with twice as many.
const PARTITIONS_MAX: usize = 16;

/// How long a home may take: longer than levels are waited for by default. Doubled, a home that
/// hangs is noticed half as soon.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Sends until the node ends.
pub(crate) async fn run_sending(core: Arc<NodeCore>) {
    let closed = core.closed();
    let mut closed = std::pin::pin!(closed);
    let searches = Searches::default();
    loop {
        tokio::select! {
            biased;
            () = &mut closed => return,
            () = pause(&core) => {}
        }
        let partitions = core.buffer.standing().partitions();
        let sending = futures::stream::iter(partitions);
        let sending = sending.for_each_concurrent(PARTITIONS_MAX, |partition| {
            send(&core, partition, &searches)
        });
        tokio::select! {
            biased;
            () = &mut closed => return,
            () = sending => {}
        }
    }
}

/// Until there is something to send; then a round.
async fn pause(core: &NodeCore) {
    while core.buffer.waiting() == 0 {
        core.buffer.to_send.notified().await;
    }
    tokio::time::sleep(ROUND).await;
}

/// Up to where the logs were searched.
#[derive(Default)]
struct Searches(Mutex<BTreeMap<PartitionId, Searched>>);

impl Searches {
    fn of(&self, partition: PartitionId) -> Option<Searched> {
        let searches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        searches.get(&partition).copied()
    }

    fn set(&self, partition: PartitionId, searched: Option<Searched>) {
        let mut searches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match searched {
            Some(searched) => searches.insert(partition, searched),
            None => searches.remove(&partition),
        };
    }
}

/// What comes after one message.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// All of it is settled: go on.
    GoOn,
    /// The home has forgotten requests: search, then go on.
    Search,
    /// Later.
    Wait,
}

/// Sends what waits of one partition until the home does not answer, or nothing is left.
async fn send(core: &Arc<NodeCore>, partition: PartitionId, searches: &Searches) {
    let out_of_service = !core.buffer.damaged().is_empty();
    let mut has_searched = false;
    while !out_of_service && core.reaches_home(partition) {
        let writes = core.buffer.standing().first_waiting(partition, SENT_MAX);
        if writes.is_empty() {
            return searches.set(partition, None);
        }
        let (events, next) = match message(core, &writes, searches.of(partition)).await {
            Ok(Message::Whole(prepared)) => {
                let results = core.send_in_order(partition, prepared, ANSWER_MAX).await;
                judge(&writes, results)
            }
            Ok(Message::Damaged(events)) if events.is_empty() => return,
            Ok(Message::Damaged(events)) => (events, Next::GoOn),
            Err(error) => {
                tracing::warn!(%partition, %error, "writes that are kept here cannot be read");
                return;
            }
        };
        if !told(core, partition, events).await {
            return;
        }
        match next {
            Next::GoOn => {}
            Next::Wait => return,
            // The log here has to grow first.
            Next::Search if has_searched => return,
            Next::Search => {
                has_searched = true;
                if !searched(core, partition, searches).await {
                    return;
                }
            }
        }
    }
}

async fn told(core: &NodeCore, partition: PartitionId, events: Vec<BufferEvent>) -> bool {
    match core.buffer.tell(events).await {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(%partition, %error, "what became of writes that are kept is not noted");
            false
        }
    }
}

/// What is sent at once.
enum Message {
    Whole(Vec<PreparedWrite>),
    /// These cannot be sent: the disk has other bytes than were written.
    Damaged(Vec<BufferEvent>),
}

async fn message(
    core: &Arc<NodeCore>,
    writes: &[BufferedWrite],
    searched: Option<Searched>,
) -> Result<Message, Error> {
    let numbers: Vec<BufferNumber> = writes.iter().map(|write| write.number).collect();
    let reading = Arc::clone(core);
    let bodies = blocking(move || Ok(reading.buffer.bodies(&numbers))).await?;
    let deadline = core.clock.now().plus(ANSWER_MAX);
    let (mut prepared, mut damaged) = (Vec::new(), Vec::new());
    for (write, body) in writes.iter().zip(bodies) {
        let body = match body {
            Ok(Some(body)) => body,
            // Given up meanwhile.
            Ok(None) => break,
            Err(error @ StoreError::Corrupt { .. }) => {
                let reason = Reason::ChecksumMismatch;
                damaged.push(refused(write.number, reason, error.to_string()));
                break;
            }
            Err(error) => return Err(error.into()),
        };
        prepared.push(PreparedWrite {
            purpose: Purpose::Request,
            request_id: write.request_id,
            operations: body.operations()?,
            body,
            preconditions: Vec::new(),
            level: None,
            deadline,
            earlier_tries: EarlierTries::NotInLogUpto(Searched::of(searched, write)),
        });
    }
    Ok(match prepared.is_empty() {
        true => Message::Damaged(damaged),
        false => Message::Whole(prepared),
    })
}

fn refused(number: BufferNumber, reason: Reason, message: String) -> BufferEvent {
    let reason = reason.as_str().to_owned();
    BufferEvent::Refused(number, RefusedWrite { reason, message })
}

/// What the answers of a home mean for the writes that it was sent, in their order.
fn judge(
    writes: &[BufferedWrite],
    results: Vec<Result<Receipt, Error>>,
) -> (Vec<BufferEvent>, Next) {
    let mut events = Vec::new();
    let mut next = match results.is_empty() {
        true => Next::Wait,
        false => Next::GoOn,
    };
    for (write, result) in writes.iter().zip(results) {
        match result {
            Ok(_) => events.push(BufferEvent::Settled(write.number)),
            Err(error) if error.reason() == Reason::RequestsForgotten => next = Next::Search,
            Err(error) if is_for_good(&error) => {
                let message = error.to_string();
                events.push(refused(write.number, error.reason(), message));
            }
            Err(_) => next = Next::Wait,
        }
    }
    (events, next)
}

/// Whether a home will never do it. What it cannot do for now is tried again.
fn is_for_good(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Invalid | ErrorKind::NotFound | ErrorKind::Residency | ErrorKind::Conflict
    )
}

/// Searches the log here for what waits; whether there is anything to go on with.
async fn searched(core: &Arc<NodeCore>, partition: PartitionId, searches: &Searches) -> bool {
    let writes = core.buffer.standing().waiting_ids(partition);
    let (store, before) = (Arc::clone(&core.store), searches.of(partition));
    let found = blocking(move || search(&store, partition, &writes, before)).await;
    let findings = match found {
        Ok(findings) => findings,
        Err(error) => {
            tracing::warn!(%partition, %error, "the log cannot be searched for writes kept here");
            return false;
        }
    };
    let has_news = findings.searched != before || !findings.untold.is_empty();
    if findings.searched.is_some() {
        searches.set(partition, findings.searched);
    }
    told(core, partition, noted(findings)).await && has_news
}

/// What a search means for the writes that wait.
fn noted(findings: Findings) -> Vec<BufferEvent> {
    let Findings {
        done,
        reused,
        untold,
        ..
    } = findings;
    let done = done
        .into_iter()
        .map(|(number, _)| BufferEvent::Settled(number));
    let reused = reused.into_iter().map(|(number, at)| {
        let message = format!("request id was used for another content at {at}");
        refused(number, Reason::RequestIdReused, message)
    });
    let untold = untold
        .into_iter()
        .map(|(number, problem)| refused(number, Reason::Compacted, problem));
    done.chain(reused).chain(untold).collect()
}

#[cfg(test)]
mod tests {
    use domicile_proto::{Bucket, KeyspaceId, RegionId, RequestId};

    use super::*;

    fn write(number: u64) -> BufferedWrite {
        BufferedWrite {
            number: BufferNumber::new(number),
            partition: PartitionId {
                keyspace: KeyspaceId::new(1),
                region: RegionId::new(1).unwrap(),
                bucket: Bucket::new(0),
            },
            request_id: RequestId::new(number.into()).unwrap(),
            accepted_at_ms: 0,
            log_end: None,
            fingerprint: 0,
            bytes: 1,
            refused: None,
        }
    }

    fn failed(reason: Reason) -> Vec<Result<Receipt, Error>> {
        vec![Err(Error::new(reason, "it is so"))]
    }

    #[test]
    fn only_what_a_home_will_never_do_is_given_up() {
        let kept = [
            Reason::NoHome,
            Reason::WrongHome,
            Reason::StaleEpoch,
            Reason::Recovering,
            Reason::Overloaded,
            Reason::RpoExceeded,
            Reason::Indeterminate,
            Reason::DeadlineExceeded,
            Reason::StorePoisoned,
            Reason::DiskFull,
            Reason::Draining,
            Reason::ChecksumMismatch,
        ];
        for reason in kept {
            let judged = judge(&[write(1)], failed(reason));
            assert_eq!(judged, (vec![], Next::Wait), "{reason}");
        }
        let for_good = [
            Reason::RequestIdReused,
            Reason::InvalidArgument,
            Reason::KeyspaceNotFound,
            Reason::DataResidency,
        ];
        for reason in for_good {
            let (events, next) = judge(&[write(1)], failed(reason));
            let told = refused(BufferNumber::FIRST, reason, "it is so".to_owned());
            assert_eq!((events, next), (vec![told], Next::GoOn), "{reason}");
        }
        let forgotten = judge(&[write(1)], failed(Reason::RequestsForgotten));
        assert_eq!(forgotten, (vec![], Next::Search));
    }

    #[test]
    fn what_nobody_answered_for_is_neither_done_nor_given_up() {
        let nothing = judge(&[write(1), write(2)], Vec::new());
        assert_eq!(nothing.0, []);
        assert_eq!(nothing.1, Next::Wait, "or it would be sent without end");
    }
}
