//! Writes as one stream: the next is sent while others wait for their answers.
//!
//! **Owns**: the window of outstanding writes.
//! **Does not own**: when they begin (`pace`) and what is made of the answers (`load`).

use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Instant;

use domicile_proto::Seq;
use domicile_proto::v1::write_result::Result as Outcome;
use domicile_proto::v1::{Operation, WriteRequest, WriteResult};
use futures::Stream;
use futures::task::AtomicWaker;
use tonic::transport::Channel;

use super::load::{Answer, Issued, LoadPlan, Running, client};
use super::pace::Pacer;
use super::unary::reason_of;
use crate::rig::Random;

/// The writes that wait for an answer, each in a slot whose number is its tag.
struct Window {
    slots: Mutex<Slots>,
    freed: AtomicWaker,
}

struct Slots {
    issued: Vec<Option<Issued>>,
    free: Vec<usize>,
}

impl Window {
    fn new(outstanding: usize) -> Self {
        Self {
            slots: Mutex::new(Slots {
                issued: vec![None; outstanding],
                free: (0..outstanding).rev().collect(),
            }),
            freed: AtomicWaker::new(),
        }
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots
            .lock()
            .expect("nothing panics while it holds the window")
    }

    fn has_room(&self) -> bool {
        !self.slots().free.is_empty()
    }

    /// Takes a free slot, of which there is one.
    fn fill(&self, issued: Issued) -> u64 {
        let slots = &mut *self.slots();
        let slot = slots.free.pop().expect("only called when there is room");
        slots.issued[slot] = Some(issued);
        slot as u64
    }

    /// Empties a slot; `None` for a tag that no write has.
    fn take(&self, tag: u64) -> Option<Issued> {
        let slots = &mut *self.slots();
        let slot = usize::try_from(tag).ok()?;
        let issued = slots.issued.get_mut(slot)?.take()?;
        slots.free.push(slot);
        self.freed.wake();
        Some(issued)
    }

    fn outstanding(&self) -> Vec<Issued> {
        self.slots().issued.iter().flatten().copied().collect()
    }
}

/// The requests of the stream, made when the connection asks for them.
struct Requests {
    plan: LoadPlan,
    pacer: Arc<Pacer>,
    window: Arc<Window>,
    random: Random,
}

impl Stream for Requests {
    type Item = WriteRequest;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<WriteRequest>> {
        let this = self.get_mut();
        if this.pacer.is_ended() || this.plan.is_written() {
            return Poll::Ready(None);
        }
        if !this.window.has_room() {
            this.window.freed.register(context.waker());
            if !this.window.has_room() {
                return Poll::Pending;
            }
        }
        let Some(since) = this.pacer.try_turn(context) else {
            return Poll::Pending;
        };
        let (issued, value) = Running::issue(&this.plan, &mut this.random, since);
        let operation = Operation {
            key: this.plan.keys.key(issued.key),
            value: Some(value),
            ..Operation::default()
        };
        Poll::Ready(Some(WriteRequest {
            tag: this.window.fill(issued),
            keyspace: this.plan.keyspace.clone(),
            operations: vec![operation],
            options: None,
        }))
    }
}

pub(super) async fn run(
    running: &Rc<Running<'_>>,
    channel: &Channel,
    outstanding: usize,
) -> anyhow::Result<()> {
    let window = Arc::new(Window::new(outstanding.max(1)));
    let requests = Requests {
        plan: running.plan.clone(),
        pacer: Arc::clone(&running.pacer),
        window: Arc::clone(&window),
        random: Random::new(running.plan.seed),
    };
    let reason = match client(channel).write(requests).await {
        Ok(response) => read_results(running, response.into_inner(), &window).await,
        Err(status) => Some(reason_of(&status)),
    };
    let unanswered = window.outstanding();
    for issued in unanswered {
        let reason = reason.clone().unwrap_or_else(|| "UNANSWERED".to_owned());
        running.answered(issued, Answer::Failed { reason });
    }
    Ok(())
}

/// Reads to the end of the stream; says why, if it failed.
async fn read_results(
    running: &Rc<Running<'_>>,
    mut results: tonic::Streaming<WriteResult>,
    window: &Window,
) -> Option<String> {
    loop {
        match results.message().await {
            Ok(Some(WriteResult { tag, result })) => {
                let answer = match result {
                    Some(Outcome::Receipt(receipt)) => Answer::Acked {
                        seq: Seq::new(receipt.position.map_or(0, |position| position.seq)),
                    },
                    Some(Outcome::Error(error)) => Answer::Failed {
                        reason: error.reason,
                    },
                    None => Answer::Failed {
                        reason: "EMPTY_RESULT".to_owned(),
                    },
                };
                if let Some(issued) = window.take(tag) {
                    running.answered(issued, answer);
                }
                if running.is_over(Instant::now()) {
                    running.pacer.end();
                }
            }
            Ok(None) => return None,
            Err(status) => return Some(reason_of(&status)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issued(number: u64) -> Issued {
        Issued {
            key: 0,
            number,
            since: Instant::now(),
        }
    }

    #[test]
    fn a_window_holds_what_is_outstanding_and_no_more() {
        let window = Window::new(2);
        let first = window.fill(issued(1));
        let second = window.fill(issued(2));
        assert_ne!(first, second);
        assert!(!window.has_room());
        assert_eq!(window.take(first).map(|issued| issued.number), Some(1));
        assert!(window.take(first).is_none() && window.take(99).is_none());
        assert!(window.has_room());
        let left: Vec<_> = window.outstanding();
        assert_eq!(left.iter().map(|each| each.number).collect::<Vec<_>>(), [2]);
    }
}
