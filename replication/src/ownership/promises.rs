//! A leader asks this node to promise: nothing below a floor is taken any more, and this is what it
//! has.
//!
//! **Owns**: that the promise is durable, and what came before it on disk, before the answer.
//! **Does not own**: who may ask, and what is made of the answer (the leader).

use std::sync::Arc;

use domicile_core::control::{PromisedEnd, Unheard};
use domicile_proto::{Epoch, PartitionId, Seq};

use super::rejoin::say_hello_again;
use super::seating::{blocking, wait_quiet};
use crate::error::Error;
use crate::node::NodeCore;

/// A partition, the floor that was promised, and what is here.
pub(crate) type Promised = (PartitionId, Epoch, PromisedEnd);

/// Promises, and says what this node has. A partition that is busy with something that may change
/// its log is promised and not answered: it is asked again.
///
/// # Errors
/// What the disk says; nothing is answered then, and nothing more is taken here.
pub(crate) async fn promise(
    node: &Arc<NodeCore>,
    asked: Vec<(PartitionId, Epoch)>,
) -> Result<Vec<Promised>, Error> {
    let held: Vec<(PartitionId, Epoch)> = asked
        .into_iter()
        .filter(|(partition, _)| node.driver.slot(*partition).is_some())
        .collect();
    let (driver, promises) = (Arc::clone(&node.driver), held.clone());
    blocking(move || driver.promise(&promises)).await?;
    let mut answers = Vec::with_capacity(held.len());
    for (partition, floor) in held {
        let Some(slot) = node.driver.slot(partition) else {
            continue;
        };
        if slot.is_damaged() || slot.is_ahead_of(None) {
            answers.push((partition, floor, unsound()));
            continue;
        }
        let Some(closed) = node.driver.close_intake(&slot) else {
            if node.store.wound(partition).is_some() {
                answers.push((partition, floor, unsound()));
            }
            continue;
        };
        let is_quiet = wait_quiet(&slot).await;
        let tail = node.store.tail(partition);
        // A question that comes late closes the present home's stream too.
        if closed.open() {
            say_hello_again(node, &slot);
        }
        if !is_quiet {
            continue;
        }
        let upto = tail.as_ref().map_or(Seq::NONE, |tail| tail.last_seq);
        let end = PromisedEnd {
            epoch: tail.map(|tail| tail.epoch),
            upto,
            known_upto: slot.home_upto().max(upto),
            // It was filled anew, and may lack what it acknowledged before.
            is_sound: !node.store.is_short(partition),
            unheard: match slot.is_home() {
                true => Some(Unheard::default()),
                false => slot.unheard(node.clock.now(), node.stream_of(&slot)),
            },
        };
        answers.push((partition, floor, end));
    }
    Ok(answers)
}

/// It may have lost records, its cells wait to be healed or are newer than its log: it promises and
/// leads nobody.
fn unsound() -> PromisedEnd {
    PromisedEnd {
        epoch: None,
        upto: Seq::NONE,
        known_upto: Seq::NONE,
        is_sound: false,
        unheard: None,
    }
}
