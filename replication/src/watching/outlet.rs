//! The messages of one watch between its pump and whoever watches.
//!
//! **Owns**: the bound on what waits, cutting off who does not take it, and how far he got.
//! **Does not own**: what is in the messages (`cursor`), how long to wait (`pump`).

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use domicile_proto::{KeyspaceId, PartitionId, Position, Reason, ResumeToken};
use futures::Stream;
use tokio::sync::Notify;

use super::call::{Change, WatchMessage};
use crate::driver::lock;
use crate::error::Error;

/// Messages that wait: enough that a consumer finds some while the next are read. Doubled, one that
/// is stuck holds twice as many small ones.
const MESSAGES_MAX: usize = 64;

/// Their bytes, above which nothing is read on. With the one message that goes beyond it a watch
/// holds at most twice as much, or one batch: a thousand stuck watches 512 MiB for
/// the time of their patience. Doubled, twice that.
const BYTES_MAX: usize = 256 << 10;

/// Characters of a resume token that fit an error's facts beside the other headers of an answer. A
/// longer one is left out: who merged the positions of the messages taken has it anyway.
const TOKEN_TEXT_MAX: usize = 2048;

/// Between a pump and a consumer.
pub(super) struct Outlet {
    state: Mutex<State>,
    taken: Notify,
    dropped: Notify,
}

struct State {
    queue: VecDeque<(WatchMessage, usize)>,
    bytes: usize,
    /// What the stream ends with once the queue is empty; taken when it is told.
    ending: Option<Error>,
    is_ended: bool,
    is_dropped: bool,
    consumer: Option<Waker>,
    /// As far as messages were taken.
    seen: ResumeToken,
}

impl State {
    fn has_room(&self) -> bool {
        self.queue.len() < MESSAGES_MAX && self.bytes < BYTES_MAX
    }

    fn end(&mut self, error: Error) {
        if !self.is_ended {
            self.is_ended = true;
            self.ending = Some(error);
        }
        if let Some(consumer) = self.consumer.take() {
            consumer.wake();
        }
    }
}

impl Outlet {
    /// An outlet whose first message says where the watch begins.
    pub(super) fn new(
        keyspace: KeyspaceId,
        begins: Vec<(PartitionId, Option<Position>)>,
    ) -> Arc<Self> {
        let mut seen = ResumeToken::new(keyspace);
        begins
            .iter()
            .for_each(|(id, position)| seen.set(*id, *position));
        let state = State {
            queue: VecDeque::new(),
            bytes: 0,
            ending: None,
            is_ended: false,
            is_dropped: false,
            consumer: None,
            seen,
        };
        let outlet = Arc::new(Self {
            state: Mutex::new(state),
            taken: Notify::new(),
            dropped: Notify::new(),
        });
        outlet.push(WatchMessage {
            changes: Vec::new(),
            positions: begins,
        });
        outlet
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Hands a message over. The caller has waited for room.
    pub(super) fn push(&self, message: WatchMessage) {
        let bytes = bytes_of(&message);
        let mut state = self.lock();
        state.queue.push_back((message, bytes));
        state.bytes += bytes;
        let consumer = state.consumer.take();
        drop(state);
        if let Some(consumer) = consumer {
            consumer.wake();
        }
    }

    /// Waits until there is room for a message.
    pub(super) async fn room(&self) {
        loop {
            let mut taken = std::pin::pin!(self.taken.notified());
            taken.as_mut().enable();
            if self.lock().has_room() {
                return;
            }
            taken.await;
        }
    }

    /// Resolves once nobody watches any more.
    pub(super) async fn dropped(&self) {
        loop {
            let mut dropped = std::pin::pin!(self.dropped.notified());
            dropped.as_mut().enable();
            if self.lock().is_dropped {
                return;
            }
            dropped.await;
        }
    }

    /// Ends the stream after what waits in it. The first end holds.
    pub(super) fn end(&self, error: Error) {
        self.lock().end(error);
    }

    /// Ends the stream at once: what waits in it is dropped, and the error says where to go on.
    pub(super) fn cut_off(&self, patience: Duration) {
        let mut state = self.lock();
        let (messages, bytes) = (state.queue.len(), state.bytes);
        state.queue.clear();
        state.bytes = 0;
        let message = format!(
            "nothing was taken of {messages} messages ({bytes} bytes) for {} ms",
            patience.as_millis()
        );
        let mut error = Error::new(Reason::SlowConsumer, message);
        let token = state.seen.to_string();
        if token.len() <= TOKEN_TEXT_MAX {
            error = error.with("resume_token", token);
        }
        state.end(error);
    }
}

fn bytes_of(message: &WatchMessage) -> usize {
    let changes = message.changes.iter().map(Change::bytes);
    let positions = message.positions.len() * size_of::<(PartitionId, Option<Position>)>();
    changes.sum::<usize>() + positions
}

/// The messages of a watch. Ends with an error, never without one; dropping it ends the watch.
///
/// At most 256 KiB and the one message that goes beyond them wait in it.
pub struct WatchMessages {
    outlet: Arc<Outlet>,
}

impl WatchMessages {
    pub(super) fn new(outlet: Arc<Outlet>) -> Self {
        Self { outlet }
    }

    /// Where to go on after the messages taken so far.
    #[must_use]
    pub fn resume_token(&self) -> ResumeToken {
        self.outlet.lock().seen.clone()
    }
}

impl Stream for WatchMessages {
    type Item = Result<WatchMessage, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.outlet.lock();
        if let Some((message, bytes)) = state.queue.pop_front() {
            state.bytes -= bytes;
            for (partition, position) in &message.positions {
                state.seen.set(*partition, *position);
            }
            drop(state);
            self.outlet.taken.notify_one();
            return Poll::Ready(Some(Ok(message)));
        }
        if state.is_ended {
            return Poll::Ready(state.ending.take().map(Err));
        }
        state.consumer = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for WatchMessages {
    fn drop(&mut self) {
        let mut state = self.outlet.lock();
        state.is_dropped = true;
        state.queue.clear();
        state.bytes = 0;
        drop(state);
        self.outlet.dropped.notify_one();
    }
}

impl std::fmt::Debug for WatchMessages {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("WatchMessages")
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use domicile_proto::{Bucket, Epoch, Hlc, NodeId, Operation, RegionId, Seq, Version};
    use futures::{FutureExt, StreamExt};

    use super::*;

    fn partition() -> PartitionId {
        PartitionId {
            keyspace: KeyspaceId::new(7),
            region: RegionId::new(1).unwrap(),
            bucket: Bucket::new(0),
        }
    }

    fn message(seq: u64, bytes: usize) -> WatchMessage {
        let node = NodeId::new(9).unwrap();
        let version = Version {
            generation: 0,
            epoch: Epoch { counter: 1, node },
            seq: Seq::new(seq),
        };
        let put = Operation::Put {
            key: "k".into(),
            value: vec![0; bytes].into(),
            expiry: None,
        };
        let change = Change {
            partition: partition(),
            version,
            written_at: Hlc::at_ms(1),
            operations: vec![put],
        };
        WatchMessage {
            positions: vec![(partition(), Some(change.position()))],
            changes: vec![change],
        }
    }

    fn outlet() -> (Arc<Outlet>, WatchMessages) {
        let outlet = Outlet::new(KeyspaceId::new(7), vec![(partition(), None)]);
        (Arc::clone(&outlet), WatchMessages::new(outlet))
    }

    fn seen(messages: &WatchMessages) -> u64 {
        let seen = messages.resume_token().get(partition()).unwrap();
        seen.map_or(0, |position| position.seq.get())
    }

    async fn take(messages: &mut WatchMessages) -> WatchMessage {
        messages.next().now_or_never().unwrap().unwrap().unwrap()
    }

    #[tokio::test]
    async fn what_waits_is_bounded_in_bytes_and_in_messages() {
        for bytes in [10, 50_000] {
            let (outlet, mut messages) = outlet();
            let mut pushed = 0;
            while outlet.room().now_or_never().is_some() {
                pushed += 1;
                outlet.push(message(pushed, bytes));
            }
            let (waiting, held) = {
                let state = outlet.lock();
                (state.queue.len(), state.bytes)
            };
            assert!(waiting <= MESSAGES_MAX, "{waiting} messages");
            assert!(held < BYTES_MAX + 51_000, "{held} bytes");
            take(&mut messages).await;
            take(&mut messages).await;
            outlet
                .room()
                .now_or_never()
                .expect("room after two are taken");
        }
    }

    #[tokio::test]
    async fn an_end_comes_after_what_waits_and_once() {
        let (outlet, mut messages) = outlet();
        outlet.push(message(1, 1));
        outlet.end(Error::new(Reason::Draining, "first"));
        outlet.end(Error::new(Reason::Compacted, "second"));
        assert!(take(&mut messages).await.changes.is_empty());
        assert_eq!(seen(&messages), 0);
        assert_eq!(take(&mut messages).await.changes.len(), 1);
        assert_eq!(seen(&messages), 1);
        let error = messages.next().await.unwrap().unwrap_err();
        assert_eq!(error.reason(), Reason::Draining);
        assert!(messages.next().await.is_none());
    }

    #[tokio::test]
    async fn cutting_off_drops_what_waits_and_says_what_was_taken() {
        let (outlet, mut messages) = outlet();
        (1..=5).for_each(|seq| outlet.push(message(seq, 1)));
        take(&mut messages).await;
        take(&mut messages).await;
        outlet.cut_off(Duration::from_secs(1));
        assert_eq!(outlet.lock().bytes, 0);
        let error = messages.next().await.unwrap().unwrap_err();
        assert_eq!(error.reason(), Reason::SlowConsumer);
        let token = &error.metadata()["resume_token"];
        assert_eq!(token.parse(), Ok(messages.resume_token()));
        assert_eq!(seen(&messages), 1);
        assert!(error.to_string().contains("4 messages"), "{error}");
        assert!(messages.next().await.is_none());
    }

    #[tokio::test]
    async fn a_pump_hears_that_nobody_watches() {
        let (outlet, messages) = outlet();
        assert!(outlet.dropped().now_or_never().is_none());
        drop(messages);
        outlet.dropped().now_or_never().expect("it is told");
    }
}
