//! The pipelined writes of one stream.
//!
//! **Owns**: what is outstanding of a stream and its bounds, the order of reading and answering.
//! **Does not own**: the writes (the node), the checks of a message (`request`).
//!
//! ```text
//! h2 -> requests -> [outstanding: writes, bytes] -> node.write_tagged
//! h2 <- poll_next <- ready <- (drained at once) <- results <---'
//! ```
//!
//! One task carries a stream both ways: HTTP/2 polls for results, and while there are none, the
//! poll reads requests. A peer that does not take its results is therefore not read from. Results
//! are drained many at a time and tonic puts what is ready into one frame, so there is no message
//! type for several results.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use domicile_proto::v1::write_result::Result as Told;
use domicile_proto::{Reason, v1};
use domicile_replication::{Error, Node, WriteCall, Written};
use futures::Stream;
use tokio::sync::{mpsc, watch};
use tonic::{Status, Streaming};

use super::answer;
use super::budget::{Budget, Share};
use super::kv::bytes_of;
use super::limits::{STREAM_BYTES_MAX, STREAM_WRITES_MAX};
use super::refusal::{refuse, refuse_one};
use super::request;

/// Results taken from the channel at once: as many as fill a frame several times. Doubled, the
/// buffer of every stream is twice as large.
const DRAINED_MAX: usize = 1024;

/// Requests read before results are looked at again: bounds how long a result waits. Doubled, it
/// waits twice as long.
const READ_MAX: usize = 256;

type Tagged = (u64, Result<Written, Error>);
type Waiting = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What a stream's results are polled from.
pub(crate) struct WriteStream {
    node: Node,
    requests: Streaming<v1::WriteRequest>,
    reading: Reading,
    sender: mpsc::UnboundedSender<Tagged>,
    /// Bounded by `outstanding`: the node answers each write once.
    results: mpsc::UnboundedReceiver<Tagged>,
    drained: Vec<Tagged>,
    /// Bounded by what one poll drains and reads.
    ready: VecDeque<v1::WriteResult>,
    outstanding: Outstanding,
    /// While the store has none, nothing is read: writes keep the order they were sent in.
    room: Option<Waiting>,
    closing: Waiting,
}

/// Whether more requests may come.
enum Reading {
    Open,
    /// The client has sent all it wants to.
    Done,
    /// The stream ends with this once all is answered.
    Broken(Box<Status>),
}

impl WriteStream {
    pub(crate) fn new(
        node: Node,
        requests: Streaming<v1::WriteRequest>,
        budget: Budget,
        mut draining: watch::Receiver<bool>,
    ) -> Self {
        let (sender, results) = mpsc::unbounded_channel();
        let closing = Box::pin(async move {
            // A door that is gone is closing, too.
            let _ = draining.wait_for(|draining| *draining).await;
        });
        Self {
            node,
            requests,
            reading: Reading::Open,
            sender,
            results,
            drained: Vec::new(),
            ready: VecDeque::new(),
            outstanding: Outstanding::new(budget),
            room: None,
            closing,
        }
    }

    /// Takes the results that are there; false if there are none.
    fn drain_results(&mut self, context: &mut Context<'_>) -> bool {
        let drained = self
            .results
            .poll_recv_many(context, &mut self.drained, DRAINED_MAX);
        if drained.is_pending() {
            return false;
        }
        for (number, result) in self.drained.drain(..) {
            let tag = self.outstanding.leave(number);
            let result = match result {
                Ok(written) => Told::Receipt(answer::written(&self.node, &written)),
                Err(error) => Told::Error(refuse_one(&error)),
            };
            self.ready.push_back(v1::WriteResult {
                tag,
                result: Some(result),
            });
        }
        true
    }

    /// Reads requests and submits them, until there is nothing to read for now.
    fn read_requests(&mut self, context: &mut Context<'_>) {
        for _ in 0..READ_MAX {
            let reads = matches!(self.reading, Reading::Open) && self.outstanding.has_room();
            if !reads || !self.store_has_room(context) {
                return;
            }
            match Pin::new(&mut self.requests).poll_next(context) {
                Poll::Ready(Some(Ok(message))) => self.submit(message),
                Poll::Ready(Some(Err(status))) => self.reading = Reading::Broken(Box::new(status)),
                Poll::Ready(None) => self.reading = Reading::Done,
                Poll::Pending => return,
            }
        }
        // There may be more to read: come back after the results.
        context.waker().wake_by_ref();
    }

    /// Whether the store can take a write; if not, this task is woken when it can.
    fn store_has_room(&mut self, context: &mut Context<'_>) -> bool {
        if self.room.is_none() {
            if self.node.has_room() {
                return true;
            }
            self.room = Some(Box::pin(self.node.room()));
        }
        let waits = self
            .room
            .as_mut()
            .is_some_and(|room| room.as_mut().poll(context).is_pending());
        if !waits {
            self.room = None;
        }
        !waits
    }

    fn submit(&mut self, message: v1::WriteRequest) {
        let tag = message.tag;
        let entered = self.call(message).and_then(|call| {
            let number = self.outstanding.enter(tag, bytes_of(&call.operations))?;
            Ok((number, call))
        });
        match entered {
            Ok((number, call)) => self.node.write_tagged(call, number, &self.sender),
            Err(error) => {
                let result = Some(Told::Error(refuse_one(&error)));
                self.ready.push_back(v1::WriteResult { tag, result });
            }
        }
    }

    fn call(&self, message: v1::WriteRequest) -> Result<WriteCall, Error> {
        let v1::WriteRequest {
            keyspace,
            operations,
            options,
            ..
        } = message;
        let keyspace = self.node.policy(&keyspace)?;
        let (operations, preconditions) = request::operations(operations)?;
        let mut call = request::write_call(keyspace, operations, options, None)?;
        call.preconditions = preconditions;
        Ok(call)
    }

    /// Stops reading once the door closes; true if that is news.
    fn notice_closing(&mut self, context: &mut Context<'_>) -> bool {
        if !matches!(self.reading, Reading::Open)
            || self.closing.as_mut().poll(context).is_pending()
        {
            return false;
        }
        let error = Error::new(Reason::Draining, "the node is closing");
        self.reading = Reading::Broken(Box::new(refuse(&error)));
        true
    }
}

impl Stream for WriteStream {
    type Item = Result<v1::WriteResult, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(result) = this.ready.pop_front() {
                return Poll::Ready(Some(Ok(result)));
            }
            if this.drain_results(context) {
                continue;
            }
            this.read_requests(context);
            if !this.ready.is_empty() || this.notice_closing(context) {
                continue;
            }
            if this.outstanding.writes > 0 {
                return Poll::Pending;
            }
            return match std::mem::replace(&mut this.reading, Reading::Done) {
                Reading::Open => {
                    this.reading = Reading::Open;
                    Poll::Pending
                }
                Reading::Done => Poll::Ready(None),
                Reading::Broken(status) => Poll::Ready(Some(Err(*status))),
            };
        }
    }
}

/// What is not answered yet: slots that are reused as they are freed.
struct Outstanding {
    budget: Budget,
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    writes: usize,
    bytes: usize,
}

struct Slot {
    tag: u64,
    share: Share,
}

impl Outstanding {
    fn new(budget: Budget) -> Self {
        Self {
            budget,
            slots: Vec::new(),
            free: Vec::new(),
            writes: 0,
            bytes: 0,
        }
    }

    /// Whether one more write may be read; the last one may go beyond the bytes.
    fn has_room(&self) -> bool {
        self.writes < STREAM_WRITES_MAX && self.bytes < STREAM_BYTES_MAX
    }

    /// Takes a slot for a write; its number.
    fn enter(&mut self, tag: u64, bytes: usize) -> Result<u64, Error> {
        let share = self.budget.take(bytes)?;
        let place = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[place] = Some(Slot { tag, share });
        self.writes += 1;
        self.bytes += bytes;
        Ok(place as u64)
    }

    /// Frees a slot; the tag that the client chose for it.
    fn leave(&mut self, number: u64) -> u64 {
        let place = number as usize;
        let slot = self.slots.get_mut(place).and_then(Option::take);
        let slot = slot.expect("the node answers each write once, by its number");
        self.free.push(place);
        self.writes -= 1;
        self.bytes -= slot.share.bytes();
        slot.tag
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_reused_and_bounded() {
        let mut outstanding = Outstanding::new(Budget::new(usize::MAX));
        let first = outstanding.enter(70, 10).unwrap();
        let second = outstanding.enter(71, 20).unwrap();
        assert_eq!(outstanding.leave(first), 70);
        let third = outstanding.enter(72, 30).unwrap();
        assert_eq!(
            (third, outstanding.writes, outstanding.bytes),
            (first, 2, 50)
        );
        assert_eq!(
            (outstanding.leave(third), outstanding.leave(second)),
            (72, 71)
        );
        assert_eq!((outstanding.writes, outstanding.bytes), (0, 0));
        let entered =
            (0..).take_while(|tag| outstanding.has_room() && outstanding.enter(*tag, 1).is_ok());
        assert_eq!(entered.count(), STREAM_WRITES_MAX);
        assert!(outstanding.slots.len() <= STREAM_WRITES_MAX);
    }

    #[test]
    fn bytes_close_a_stream_before_writes_do() {
        let mut outstanding = Outstanding::new(Budget::new(usize::MAX));
        let number = outstanding.enter(1, STREAM_BYTES_MAX).unwrap();
        assert!(!outstanding.has_room());
        outstanding.leave(number);
        assert!(outstanding.has_room());
    }

    #[test]
    fn the_budget_of_all_streams_refuses_one_write_only() {
        let mut outstanding = Outstanding::new(Budget::new(100));
        let number = outstanding.enter(1, 90).unwrap();
        let refused = outstanding.enter(2, 20).unwrap_err();
        assert_eq!(refused.reason(), Reason::Overloaded);
        assert_eq!(outstanding.writes, 1);
        outstanding.leave(number);
        assert!(outstanding.enter(2, 20).is_ok());
    }
}
