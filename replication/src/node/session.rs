//! What a session has seen, and whether this log still has it.
//!
//! **Owns**: waiting until a mark is reached, what is said where it is lost.
//! **Does not own**: marks themselves (callers keep them), which of them are lost (core).

use std::time::Duration;

use domicile_core::SessionStanding as Standing;
use domicile_proto::{Position, Reason, Seq};
use tokio::time::Instant;

use super::interior::NodeCore;
use crate::driver::Slot;
use crate::error::Error;

impl NodeCore {
    /// Whether this node may answer who has seen this; waits until it does.
    ///
    /// # Errors
    /// `SESSION_LOST` where the log went on without it.
    pub(super) async fn wait_session(
        &self,
        slot: &Slot,
        seen: Position,
        timeout: Duration,
    ) -> Result<bool, Error> {
        // A copy leaves the home some of it.
        let patience = if slot.is_home() { timeout } else { timeout / 2 };
        let deadline = Instant::now() + patience;
        loop {
            let standing = slot.session_standing(seen);
            let applied = slot.cells.applied_upto();
            let awaited = match standing {
                Standing::Lost(fork) => return Err(session_lost(slot, seen, fork)),
                // A home that does not know of its successor.
                Standing::Ahead if slot.is_home() => return Err(succeeded(slot, seen)),
                Standing::Ahead => seen.seq.max(applied.next()),
                Standing::Held if applied >= seen.seq => return Ok(true),
                Standing::Held => seen.seq,
            };
            let reached = slot.held_mark().received_upto;
            if slot.is_home() && awaited > reached {
                return Err(session_lost(slot, seen, reached));
            }
            let waited = tokio::time::timeout_at(deadline, slot.wait_applied(awaited)).await;
            if waited.is_err() {
                return match slot.is_home() {
                    true => Err(not_visible(seen, timeout)),
                    false => Ok(false),
                };
            }
        }
    }

    /// Refuses who has seen what this home's log went on without.
    pub(super) fn check_session(&self, slot: &Slot, seen: Position) -> Result<(), Error> {
        match slot.session_standing(seen) {
            Standing::Held => Ok(()),
            Standing::Ahead => Err(succeeded(slot, seen)),
            Standing::Lost(fork) => Err(session_lost(slot, seen, fork)),
        }
    }
}

fn not_visible(seen: Position, timeout: Duration) -> Error {
    let wanted = seen.seq;
    let message = format!("position {wanted} not visible within {timeout:?}");
    Error::new(Reason::Recovering, message)
}

fn succeeded(slot: &Slot, seen: Position) -> Error {
    let (partition, epoch) = (slot.partition, seen.epoch);
    let message = format!("the session saw {partition} in {epoch}, which this home knows not of");
    Error::new(Reason::StaleEpoch, message)
}

fn session_lost(slot: &Slot, seen: Position, fork: Seq) -> Error {
    let partition = slot.partition;
    let message = format!(
        "the session saw {partition} up to {seen}; the history goes on from {fork} without it"
    );
    Error::new(Reason::SessionLost, message)
        .with("partition", partition)
        .with("fork", fork)
        .with("lost_from", fork.next())
        .with("lost_upto", seen.seq)
}
