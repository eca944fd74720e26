//! I2: a receipt says where the write really is.
//!
//! **Owns**: the comparison of receipts with the disks and memories they speak of.
//! **Does not own**: whether that lasts (`ack_truth`).

use domicile_core::{Partition, Receipt};
use domicile_proto::OnTimeout;

use super::{fail_stop, fence_in_time};
use crate::network::REGIONS;
use crate::plan::index_of;
use crate::scene::Scene;
use crate::truth::Acked;

/// A home acknowledges a write.
pub(crate) fn acked(
    node: usize,
    core: &Partition,
    receipt: &Receipt,
    is_poisoned: bool,
    scene: &mut Scene,
) {
    fence_in_time::acked(node, core, receipt, scene);
    fail_stop::acked(node, receipt, is_poisoned, scene);
    let config = core.config();
    let partition = config.partition;
    let (epoch, seq) = (receipt.position.epoch, receipt.position.seq);
    let others = (0..REGIONS).filter(|other| *other != node);
    let received_at: Vec<usize> = others
        .filter(|other| scene.truth.log(*other, partition).had(epoch, seq))
        .collect();
    let durable_at: Vec<usize> = config
        .regions_of(receipt.durable_in)
        .map(index_of)
        .collect();
    let mut problem = None;
    for at in &durable_at {
        let log = scene.truth.log(*at, partition);
        if !log.had_durable(epoch, seq) && log.base < seq {
            problem = Some(format!("not durable at n{at}"));
        }
    }
    let Receipt {
        achieved,
        asked,
        degraded,
        duplicate,
        ..
    } = *receipt;
    let is_replaced = |at: usize| {
        scene
            .truth
            .logs
            .get(&(at, partition))
            .is_some_and(|it| it.base >= seq)
    };
    let is_there =
        received_at.len() >= usize::from(achieved.received) || (0..REGIONS).any(is_replaced);
    if !is_there {
        problem = Some(format!("received at {received_at:?} only"));
    }
    if !degraded && !achieved.meets(asked) {
        problem = Some("a silent downgrade".to_owned());
    }
    if degraded && config.on_timeout != OnTimeout::Degrade && !duplicate {
        problem = Some("degraded, in a keyspace that never is".to_owned());
    }
    if let Some(problem) = problem {
        let problem = format!("n{node} {partition:?} {receipt:?}: {problem}");
        scene.fail("I2 honest level", problem);
    }
    let level = config.ack;
    scene.truth.acked.push(Acked {
        partition,
        receipt: *receipt,
        level,
        received_at,
        durable_at,
    });
}
