//! Sending what is kept to its home, in order, once that can be reached.
//!
//! **Owns**: when and how much is sent, what an answer means for a write that is kept.
//! **Does not own**: the hop (`peers`), telling the file (`keep`), searching the log (`search`).
//!
//! A write stays until the home has it for sure: done or known there, found in the log here, or
//! refused for good, which is kept for an operator. Anything else is tried again, and those behind
//! it wait.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use domicile_core::{EarlierTries, Purpose};
use domicile_proto::{ErrorKind, PartitionId, Reason};
use domicile_storage::{BufferEvent, BufferNumber, BufferedWrite, RefusedWrite, StoreError};
use futures::StreamExt;

use super::keep::Draining;
use super::search::{Findings, Searched, search};
use crate::driver::{PreparedWrite, lock};
use crate::error::Error;
use crate::node::NodeCore;
use crate::ownership::blocking;
use crate::receipt::Receipt;

/// How often it is tried. Doubled, writes wait that much longer behind a home that is back.
const ROUND: Duration = Duration::from_millis(200);

/// How often one partition is tried whose home is not connected: it may be reached all the same.
/// Doubled, such a one waits twice as long.
const PROBE: Duration = Duration::from_secs(5);

/// Writes and bytes of one message: a round trip of 150 ms then carries 6,800 writes a second of a
/// partition. Doubled, the home holds twice as much for it.
const SENT_MAX: (usize, u64) = (1024, 4 << 20);

/// What is sent to ask whether the log here reaches far enough by now.
const ASKED_MAX: (usize, u64) = (1, u64::MAX);

/// Partitions sent at once. Doubled, callers at home share its disk with twice as many.
const PARTITIONS_MAX: usize = 16;

/// How long a home may take: longer than levels are waited for by default. Doubled, a home that
/// hangs is noticed half as soon.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Sends until the node ends.
pub(crate) async fn run_sending(core: Arc<NodeCore>) {
    let closed = core.closed();
    let sending = Sending::default();
    tokio::select! {
        biased;
        () = closed => {}
        () = send_connected(&core, &sending) => {}
        () = probe(&core, &sending) => {}
    }
}

/// Sends whatever has a home that is connected.
async fn send_connected(core: &Arc<NodeCore>, sending: &Sending) {
    loop {
        pause(core, ROUND).await;
        let partitions = core.buffer.standing().partitions();
        let connected = partitions.into_iter();
        let connected = connected.filter(|partition| core.reaches_home(*partition));
        let each = futures::stream::iter(connected);
        let each =
            each.for_each_concurrent(PARTITIONS_MAX, |partition| send(core, partition, sending));
        each.await;
    }
}

/// Tries those whose home is not, one after the other.
async fn probe(core: &Arc<NodeCore>, sending: &Sending) {
    let mut last = None;
    loop {
        pause(core, PROBE).await;
        let mut partitions = core.buffer.standing().partitions();
        partitions.retain(|partition| !core.reaches_home(*partition));
        let next = partitions.iter().find(|partition| Some(**partition) > last);
        last = next.or(partitions.first()).copied();
        if let Some(partition) = last {
            send(core, partition, sending).await;
        }
    }
}

/// Until there is something to send; then so long.
async fn pause(core: &NodeCore, time: Duration) {
    while core.buffer.waiting() == 0 {
        core.buffer.until_changed().await;
    }
    tokio::time::sleep(time).await;
}

/// What is known of partitions while they are sent.
#[derive(Default)]
struct Sending {
    searches: Mutex<BTreeMap<PartitionId, Searched>>,
    busy: Mutex<BTreeSet<PartitionId>>,
    /// Those whose home has forgotten more than was searched: one write is enough to ask again.
    behind: Mutex<BTreeSet<PartitionId>>,
}

impl Sending {
    /// Up to where the log of a partition was searched.
    fn searched(&self, partition: PartitionId) -> Option<Searched> {
        lock(&self.searches).get(&partition).copied()
    }

    fn set_behind(&self, partition: PartitionId, next: Next) {
        let mut behind = lock(&self.behind);
        match next {
            Next::Search => behind.insert(partition),
            Next::GoOn => behind.remove(&partition),
            Next::Wait => false,
        };
    }

    fn set_searched(&self, partition: PartitionId, searched: Option<Searched>) {
        let mut searches = lock(&self.searches);
        match searched {
            Some(searched) => searches.insert(partition, searched),
            None => searches.remove(&partition),
        };
    }
}

/// What comes after one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// All of it is settled: go on.
    GoOn,
    /// The home has forgotten requests: search, then go on.
    Search,
    /// Later.
    Wait,
}

/// Sends what waits of one partition until the home does not answer, or nothing is left.
async fn send(core: &Arc<NodeCore>, partition: PartitionId, sending: &Sending) {
    let is_free = lock(&sending.busy).insert(partition);
    if is_free && core.buffer.damaged().is_empty() {
        send_all(core, partition, sending).await;
        core.buffer.set_draining(partition, Draining::Stands);
    }
    if is_free {
        lock(&sending.busy).remove(&partition);
    }
}

async fn send_all(core: &Arc<NodeCore>, partition: PartitionId, sending: &Sending) {
    let mut has_searched = false;
    loop {
        let is_behind = lock(&sending.behind).contains(&partition);
        let limit = if is_behind { ASKED_MAX } else { SENT_MAX };
        let writes = core.buffer.standing().first_waiting(partition, limit);
        if writes.is_empty() {
            return sending.set_searched(partition, None);
        }
        let (events, next) = match message(core, &writes, sending.searched(partition)).await {
            Ok(Message::Whole(prepared)) => {
                match core.send_in_order(partition, prepared, ANSWER_MAX).await {
                    Ok(results) => judge(&writes, results),
                    // Whatever it is, no write was judged.
                    Err(error) => return tracing::debug!(%partition, %error, "not sent"),
                }
            }
            Ok(Message::Damaged(events)) if events.is_empty() => return,
            Ok(Message::Damaged(events)) => (events, Next::GoOn),
            Err(error) => {
                tracing::debug!(%partition, %error, "writes that are kept here cannot be read");
                return;
            }
        };
        if next != Next::Wait {
            core.buffer.set_draining(partition, Draining::GoesOn);
        }
        sending.set_behind(partition, next);
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
                if !searched(core, partition, sending).await {
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
            tracing::debug!(%partition, %error, "what became of writes that are kept is not noted");
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
async fn searched(core: &Arc<NodeCore>, partition: PartitionId, sending: &Sending) -> bool {
    let writes = core.buffer.standing().waiting_ids(partition);
    let (store, before) = (Arc::clone(&core.store), sending.searched(partition));
    let found = blocking(move || search(&store, partition, &writes, before)).await;
    let findings = match found {
        Ok(findings) => findings,
        Err(error) => {
            tracing::debug!(%partition, %error, "the log cannot be searched for writes kept here");
            return false;
        }
    };
    let has_news = findings.searched != before || !findings.untold.is_empty();
    if findings.searched.is_some() {
        sending.set_searched(partition, findings.searched);
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
