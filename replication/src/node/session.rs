//! What a session has seen, and whether this log still has it.
//!
//! **Owns**: the rule by which a mark is reached, awaited or lost.
//! **Does not own**: marks themselves (callers keep them), where logs part (`ownership::rejoin`).

use std::time::Duration;

use domicile_proto::{Epoch, Position, Reason, Seq};
use tokio::time::Instant;

use super::interior::NodeCore;
use crate::driver::Slot;
use crate::error::Error;

/// How a log stands to what a session has seen of its partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It is in this log, or will be once the log is long enough.
    Held,
    /// Seen in a reign of which this log has nothing so far.
    Ahead,
    /// This log went on without it: the last record that both have.
    Lost(Seq),
}

/// `reigns` are the log's with the first record of each, oldest first; `present` is the one in
/// which it goes on, which may have no record yet.
fn standing(
    reigns: &[(Epoch, Seq)],
    present: Option<Epoch>,
    last: Seq,
    seen: Position,
) -> Standing {
    if present.is_none_or(|present| seen.epoch > present) {
        return Standing::Ahead;
    }
    let begun = present.map(|present| (present, last.next()));
    let mut later = reigns.iter().copied().chain(begun);
    match later.find(|(epoch, _)| *epoch > seen.epoch) {
        Some((_, first)) if first <= seen.seq => {
            Standing::Lost(Seq::new(first.get().saturating_sub(1)))
        }
        _ => Standing::Held,
    }
}

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
            let standing = self.standing(slot, seen)?;
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
        match self.standing(slot, seen)? {
            Standing::Held => Ok(()),
            Standing::Ahead => Err(succeeded(slot, seen)),
            Standing::Lost(fork) => Err(session_lost(slot, seen, fork)),
        }
    }

    fn standing(&self, slot: &Slot, seen: Position) -> Result<Standing, Error> {
        let present = slot.epoch();
        if present == Some(seen.epoch) {
            return Ok(Standing::Held);
        }
        let tail = self.store.tail(slot.partition);
        let (reigns, last) = tail.map_or((Vec::new(), Seq::NONE), |tail| {
            (tail.epoch_history, tail.last_seq)
        });
        Ok(standing(&reigns, present, last, seen))
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

#[cfg(test)]
mod tests {
    use domicile_proto::NodeId;

    use super::*;

    fn epoch(counter: u64) -> Epoch {
        let node = NodeId::new(counter).unwrap();
        Epoch { counter, node }
    }

    fn seen(counter: u64, seq: u64) -> Position {
        Position {
            epoch: epoch(counter),
            seq: Seq::new(seq),
        }
    }

    #[test]
    fn what_a_later_reign_wrote_over_is_lost_and_all_before_it_held() {
        let reigns = [(epoch(1), Seq::FIRST), (epoch(3), Seq::new(11))];
        let of = |seen| standing(&reigns, Some(epoch(3)), Seq::new(20), seen);
        let fork = Standing::Lost(Seq::new(10));
        for (place, expected) in [
            (seen(1, 10), Standing::Held),
            (seen(1, 11), fork),
            (seen(1, 99), fork),
            // A reign of which nothing is in this history.
            (seen(2, 10), Standing::Held),
            (seen(2, 12), fork),
            // By whoever reads in the third reign: older records are of it, too.
            (seen(3, 4), Standing::Held),
            (seen(3, 99), Standing::Held),
            (seen(4, 4), Standing::Ahead),
        ] {
            assert_eq!(of(place), expected, "{place}");
        }
    }

    #[test]
    fn a_reign_without_a_record_ends_what_was_before_it() {
        let reigns = [(epoch(1), Seq::FIRST)];
        let of = |seen| standing(&reigns, Some(epoch(2)), Seq::new(5), seen);
        assert_eq!(of(seen(1, 5)), Standing::Held);
        assert_eq!(of(seen(1, 6)), Standing::Lost(Seq::new(5)));
        assert_eq!(standing(&[], None, Seq::NONE, seen(1, 1)), Standing::Ahead);
    }
}
