//! What a step leaves to be done once the slot's lock is released.
//!
//! **Owns**: replies on their way to callers.
//! **Does not own**: deciding them (the core).

use domicile_core::Urgency;
use domicile_proto::RequestId;
use tokio::sync::{mpsc, oneshot};

use crate::buffer::Written;
use crate::error::Error;
use crate::receipt::Receipt;

/// Where the answer to a write goes.
#[derive(Debug)]
pub(crate) enum ReplyTo {
    /// One caller that waits.
    Once(oneshot::Sender<Result<Receipt, Error>>),
    /// A pipelined caller, by its tag.
    Tagged(u64, mpsc::UnboundedSender<(u64, Result<Written, Error>)>),
}

impl ReplyTo {
    /// Answers; a caller that has gone away is no error.
    pub(crate) fn send(self, result: Result<Receipt, Error>) {
        match self {
            Self::Once(sender) => drop(sender.send(result)),
            Self::Tagged(tag, sender) => drop(sender.send((tag, result.map(Written::Applied)))),
        }
    }
}

/// A caller that waits for its write.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) reply: ReplyTo,
    pub(crate) request_id: RequestId,
}

/// Collected under the lock, delivered outside it.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pub(crate) replies: Vec<(ReplyTo, Result<Receipt, Error>)>,
    pub(crate) ship: Option<Urgency>,
    /// Watermarks moved that copies are to hear of.
    pub(crate) watermarks: bool,
}

impl Outbox {
    pub(crate) fn ship(&mut self, urgency: Urgency) {
        self.ship = self.ship.max(Some(urgency));
    }
}

impl Outbox {
    /// Sends the replies. Shippers are woken by the driver.
    pub(crate) fn deliver_replies(&mut self) {
        for (reply, result) in self.replies.drain(..) {
            reply.send(result);
        }
    }
}
