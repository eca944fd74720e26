//! A watch as a stream of changes.
//!
//! **Owns**: taking messages apart, and where to go on after each change.
//! **Does not own**: the messages (`outlet`).

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use domicile_proto::{PartitionId, Position, ResumeToken};
use futures::Stream;

use super::call::Change;
use super::outlet::WatchMessages;
use crate::error::Error;

/// The changes of a watch, one write at a time, in order within a partition.
///
/// Ends with an error, never without one; dropping it ends the watch. Waiting for the next change
/// may be given up at any time without losing one.
#[derive(Debug)]
pub struct Changes {
    messages: WatchMessages,
    /// Bounded by one message.
    waiting: VecDeque<Change>,
    /// Seen once `waiting` is empty.
    behind: Vec<(PartitionId, Option<Position>)>,
    seen: ResumeToken,
}

impl Changes {
    pub(crate) fn new(messages: WatchMessages) -> Self {
        Self {
            seen: messages.resume_token(),
            messages,
            waiting: VecDeque::new(),
            behind: Vec::new(),
        }
    }

    /// Where to go on after the last change that this gave out. It moves while nothing but other
    /// keys is written, too.
    #[must_use]
    pub fn resume_token(&self) -> &ResumeToken {
        &self.seen
    }

    /// The next change.
    ///
    /// # Errors
    /// `COMPACTED`: the journal was cut before this was read, and says what it still has.
    /// `SLOW_CONSUMER`: nothing was taken for too long; go on from the token. `DRAINING`: the node
    /// closes; go on from the token, here later or at another node. The watch is over then, and the
    /// next call gives `None`.
    pub async fn next(&mut self) -> Option<Result<Change, Error>> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }
}

impl Stream for Changes {
    type Item = Result<Change, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(change) = this.waiting.pop_front() {
                this.seen.set(change.partition, Some(change.position()));
                if this.waiting.is_empty() {
                    this.settle();
                }
                return Poll::Ready(Some(Ok(change)));
            }
            match ready!(Pin::new(&mut this.messages).poll_next(context)) {
                Some(Ok(message)) => {
                    this.waiting = message.changes.into();
                    this.behind = message.positions;
                    if this.waiting.is_empty() {
                        this.settle();
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}

impl Changes {
    fn settle(&mut self) {
        for (partition, position) in self.behind.drain(..) {
            self.seen.set(partition, position);
        }
    }
}
