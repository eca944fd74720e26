//! I1: what was acknowledged is in the final log, unless more was lost than its level allows.
//!
//! **Owns**: which loss is allowed: of a write that nobody had who was there when its home was
//! succeeded.
//! **Does not own**: whether the receipt was true when it was given (`honest_level`).

use domicile_proto::{AckLevel, PartitionId};

use super::lineage;
use crate::plan::node_id;
use crate::scene::Scene;
use crate::truth::{Acked, TakenOver};

/// `home_of` says at which node a partition's home is in the end.
pub(crate) fn check(home_of: impl Fn(PartitionId) -> Option<usize>, scene: &mut Scene) {
    let mut problems = Vec::new();
    for acked in &scene.truth.acked {
        let (partition, epoch, seq) = (acked.partition, acked.epoch(), acked.seq());
        match lineage::lost_at(&scene.truth, partition, (epoch, seq)) {
            Some(lost) => {
                if let Some(problem) = forbidden(acked, lost, scene) {
                    let position = acked.receipt.position;
                    problems.push(format!("{position} lost at {lost:?}: {problem}"));
                }
            }
            None => {
                let home = home_of(partition);
                let log = home.and_then(|home| scene.truth.logs.get(&(home, partition)));
                let is_there = log.is_some_and(|it| it.has_durable(epoch, seq) || it.base >= seq);
                if !is_there {
                    problems.push(format!("{acked:?} is not in the final log of n{home:?}"));
                }
            }
        }
    }
    if let Some(problem) = problems.into_iter().next() {
        scene.fail("I1 ack truth", problem);
    }
}

/// Why a write should not have been lost there.
pub(super) fn forbidden(acked: &Acked, lost: &TakenOver, scene: &Scene) -> Option<String> {
    if lost.is_planned {
        return Some("it was handed on".to_owned());
    }
    if lost.is_by_word || goes_on_from_a_right_loss(acked, lost, scene) {
        return None;
    }
    let (epoch, seq) = (acked.epoch(), acked.seq());
    let lost_memory = |node: &usize| {
        let log = scene.truth.logs.get(&(*node, acked.partition));
        log.is_some_and(|log| log.has_lost(epoch, seq))
    };
    let has_cut = |node: &usize| has_rightly_cut(*node, acked, lost, scene);
    let was_there = |node: &&usize| lost.is_promised_by(node_id(**node)) && !has_cut(node);
    if let Some(node) = acked.durable_at.iter().find(was_there) {
        return Some(format!("n{node} had it on disk and promised"));
    }
    let received = acked.received_at.iter();
    let mut received = received.filter(|node| was_there(node) && !lost_memory(node));
    if let Some(node) = received.next() {
        return Some(format!("n{node} had received it and promised"));
    }
    let is_at_level = !acked.receipt.degraded && acked.receipt.achieved.meets(acked.level);
    let is_revoked = lineage::is_revoked(&scene.truth, acked.partition, (epoch, lost.to));
    let may_lose_memory = matches!(acked.level, AckLevel::SemiSync { .. });
    let has_lost_memory = may_lose_memory && acked.received_at.iter().any(lost_memory);
    let mut holders = acked.received_at.iter().chain(&acked.durable_at);
    if is_revoked && is_at_level && !has_lost_memory && !holders.any(has_cut) {
        return Some("its level allows no loss".to_owned());
    }
    None
}

/// The takeovers in between whose successors were allowed not to have it.
fn right_losses<'truth>(
    acked: &'truth Acked,
    lost: &'truth TakenOver,
    scene: &'truth Scene,
) -> impl Iterator<Item = &'truth TakenOver> {
    let (partition, epoch, seq) = (acked.partition, acked.epoch(), acked.seq());
    let between = scene.truth.takeovers.iter().filter(move |it| {
        it.partition == partition && it.to > epoch && it.to < lost.to && !it.has(epoch, seq)
    });
    between.filter(|it| forbidden(acked, it, scene).is_none())
}

/// Whether it was lost rightly before: a home in between had it again, and the present one has the
/// log of the home that lost it, which is of a later reign than the record.
fn goes_on_from_a_right_loss(acked: &Acked, lost: &TakenOver, scene: &Scene) -> bool {
    let mut losses = right_losses(acked, lost, scene);
    losses.any(|it| lost.log.iter().any(|(reign, ..)| *reign == it.to))
}

/// Whether a node had cut it off by then for a home that was allowed not to have it: a loss that is
/// final at that node, even if a home came in between that had it again.
fn has_rightly_cut(node: usize, acked: &Acked, lost: &TakenOver, scene: &Scene) -> bool {
    let (epoch, seq) = (acked.epoch(), acked.seq());
    let Some(log) = scene.truth.logs.get(&(node, acked.partition)) else {
        return false;
    };
    let cuts = log.cut.iter();
    let cuts = cuts.filter(|(at_us, piece)| *at_us <= lost.at_us && piece.has(epoch, seq));
    let Some(first_us) = cuts.map(|(at_us, _)| *at_us).min() else {
        return false;
    };
    right_losses(acked, lost, scene).any(|it| it.at_us <= first_us)
}
