//! Faults one after the other that only together do harm: moments which chance alone seldom hits.
//!
//! **Owns**: their order and their distances in time.
//! **Does not own**: carrying them out (`world`), single faults (`faults`).

use domicile_core::control::OperatorWord;
use domicile_proto::{AckLevel, OnTimeout, PartitionId};

use crate::faults::{Alteration, Fault, after};
use crate::network::REGIONS;
use crate::plan::{index_of, index_of_node, region};
use crate::scene::Scene;

/// Chooses one.
pub(crate) fn next(scene: &mut Scene) {
    match scene
        .chance
        .below(if scene.plan.trouble.alterations { 6 } else { 5 })
    {
        0 => word_into_switchover(scene),
        1 => switchover_that_is_not_heard_of(scene),
        2 => follower_is_lost(scene),
        3 => late_questions(scene),
        5 => home_lost_behind_an_alteration(scene),
        _ => snapshot_of_a_lost_tail(scene),
    }
}

/// A partition, where its home was last known to be, and the other two regions in some order.
fn place(scene: &mut Scene) -> (PartitionId, usize, [usize; 2]) {
    let plan = std::sync::Arc::clone(&scene.plan);
    let keyspace = &plan.keyspaces[scene.chance.below(plan.keyspaces.len() as u64) as usize];
    let partition = scene.chance.pick(&keyspace.partitions());
    let mut taken = scene.truth.takeovers.iter().rev();
    let last = taken.find(|it| it.partition == partition);
    let home = last.map_or(index_of(partition.region), |it| index_of_node(it.to.node));
    let mut others = [(home + 1) % REGIONS, (home + 2) % REGIONS];
    if scene.chance.percent(50) {
        others.reverse();
    }
    (partition, home, others)
}

fn cut(scene: &mut Scene, (from, to): (usize, usize), us: u64, lasts_us: u64) {
    for (is_cut, us) in [(true, us), (false, us + lasts_us)] {
        after(scene, us, Fault::Cut { from, to, is_cut });
    }
}

/// While a partition is handed to one region, an operator gives it to another one.
fn word_into_switchover(scene: &mut Scene) {
    let (partition, _, [one, other]) = place(scene);
    after(scene, 0, Fault::Switch(partition, one));
    let word = OperatorWord {
        is_fenced: false,
        accepts_split_brain: true,
        to: Some(region(other)),
    };
    let within_us = scene.chance.pick(&[20_000, 100_000, 400_000]);
    let us = scene.chance.below(within_us);
    after(scene, us, Fault::GiveUp(partition, word));
}

/// The node that follows is heard by everybody but the old home, which does not learn that the
/// other one has begun.
fn switchover_that_is_not_heard_of(scene: &mut Scene) {
    let (partition, home, [to, _]) = place(scene);
    after(scene, 0, Fault::Switch(partition, to));
    let within_us = scene.chance.pick(&[20_000, 100_000, 400_000]);
    let us = scene.chance.below(within_us);
    let lasts_us = scene.chance.between(300_000, 3_000_000);
    cut(scene, (to, home), us, lasts_us);
}

/// The node that follows is cut off once it may have begun, for longer than it takes to be missed;
/// then the old home is lost as well.
fn follower_is_lost(scene: &mut Scene) {
    let (partition, home, [to, third]) = place(scene);
    after(scene, 0, Fault::Switch(partition, to));
    let within_us = scene.chance.pick(&[20_000, 100_000, 400_000]);
    let us = scene.chance.below(within_us);
    let lasts_us = scene.chance.between(1_000_000, 8_000_000);
    cut(scene, (to, third), us, lasts_us);
    if scene.chance.percent(70) {
        cut(scene, (to, home), us, lasts_us);
    }
    let lost_us = us + scene.chance.between(500_000, 4_000_000);
    let fault = match scene.chance.percent(50) {
        true => Fault::Kill(home),
        false => Fault::Power(home),
    };
    after(scene, lost_us, fault);
}

/// Questions of a leader arrive again, long after they were answered.
fn late_questions(scene: &mut Scene) {
    for _ in 0..scene.chance.between(1, 30) {
        let us = scene.chance.below(5_000_000);
        after(scene, us, Fault::AskAgain);
    }
}

/// A copy gets a snapshot from a home whose last records nobody else has, and then the home is
/// taken from it in favour of the one that lacks them.
fn snapshot_of_a_lost_tail(scene: &mut Scene) {
    let (partition, home, [copy, to]) = place(scene);
    let lasts_us = scene.chance.between(300_000, 2_500_000);
    cut(scene, (home, to), 0, lasts_us);
    let us = scene.chance.below(300_000);
    after(scene, us, Fault::Damage(copy, partition));
    let word = OperatorWord {
        is_fenced: false,
        accepts_split_brain: true,
        to: Some(region(to)),
    };
    let us = us + scene.chance.between(20_000, 1_000_000);
    after(scene, us, Fault::GiveUp(partition, word));
}

/// A home begins to go by an altered policy, and is lost before what it wrote under the former one
/// is where the present one asks for it; the copy that has it answers late.
fn home_lost_behind_an_alteration(scene: &mut Scene) {
    let (partition, home, [late, lagging]) = place(scene);
    let quorum = AckLevel::Sync {
        quorum: std::num::NonZeroU8::new(2),
    };
    let alter = |alteration| Fault::Alter(partition.keyspace, alteration);
    cut(scene, (home, lagging), 0, 3_000_000);
    after(scene, 0, alter(Alteration::Level(quorum, OnTimeout::Fail)));
    let us = scene.chance.between(300_000, 900_000);
    if scene.chance.percent(40) {
        // It never hears of the weaker one, and is to be fenced by the stronger one.
        after(scene, us, Fault::SlowDisk(late, 4_000_000));
        let lost_us = us + scene.chance.below(100_000);
        after(scene, lost_us, Fault::Power(home));
        let us = lost_us + scene.chance.below(150_000);
        let weaker = Alteration::Level(AckLevel::Async, OnTimeout::Fail);
        return after(scene, us, alter(weaker));
    }
    let next = match scene.chance.percent(30) {
        true => Alteration::AddRegion(region(lagging)),
        false => Alteration::Level(AckLevel::SYNC, OnTimeout::Fail),
    };
    after(scene, us, alter(next));
    let slow_us = us + scene.chance.below(200_000);
    after(scene, slow_us, Fault::SlowDisk(late, 3_000_000));
    let lost_us = us + scene.chance.between(50_000, 800_000);
    after(scene, lost_us, Fault::Power(home));
}
