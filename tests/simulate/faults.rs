//! What goes wrong, and when it is mended.
//!
//! **Owns**: choosing trouble by the plan, its order and its length.
//! **Does not own**: carrying it out on a machine (`world`).

use std::time::Duration;

use domicile_core::control::OperatorWord;
use domicile_proto::{AckLevel, Failover, Keyspace, KeyspaceId, OnTimeout, PartitionId, RegionId};

use crate::moments;
use crate::network::REGIONS;
use crate::plan::region;
use crate::queue::Event;
use crate::scene::Scene;

/// One piece of trouble, or the end of one.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// The next one is chosen.
    Next,
    /// A process is killed: what was written lives.
    Kill(usize),
    /// A machine loses power: what was not synced may be gone, in part.
    Power(usize),
    /// The same, in the middle of one of the next changes of its disk.
    Doom {
        node: usize,
        nth: u64,
        is_power: bool,
    },
    /// One direction is cut, or mended.
    Cut {
        from: usize,
        to: usize,
        is_cut: bool,
    },
    Pause(usize, u64),
    JumpWall(usize, i64),
    /// A sync or a write fails, once.
    FailSync(usize, u64),
    FailWrite(usize, u64),
    SlowDisk(usize, u64),
    GiveUp(PartitionId, OperatorWord),
    /// A planned change of home.
    Switch(PartitionId, usize),
    /// A copy finds its partition damaged, and asks for a snapshot.
    Damage(usize, PartitionId),
    /// A leader's question that was asked before arrives once more, late.
    AskAgain,
    /// A keyspace's policy becomes another one.
    Alter(KeyspaceId, Alteration),
    /// All of it is over.
    Calm,
}

/// What is altered.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Alteration {
    Level(AckLevel, OnTimeout),
    AddRegion(RegionId),
    Failover(Failover),
}

impl Alteration {
    /// A keyspace so altered; `None` if it cannot be.
    pub(crate) fn of(self, before: &Keyspace) -> Option<Keyspace> {
        let mut after = before.clone();
        match self {
            Self::Level(ack, on_timeout) => (after.ack, after.on_timeout) = (ack, on_timeout),
            Self::AddRegion(region) if after.regions.contains(&region) => return None,
            Self::AddRegion(region) => after.regions.push(region),
            Self::Failover(failover) => after.failover = failover,
        }
        after.validate().ok()
    }
}

pub(crate) fn after(scene: &mut Scene, us: u64, fault: Fault) {
    scene.after(us, Event::Fault(fault));
}

/// Chooses trouble, and when there is more.
pub(crate) fn next(scene: &mut Scene) {
    let wait_us = scene.chance.below(2 * scene.plan.fault_every_us);
    if scene.now_us + wait_us < scene.plan.trouble_end_us {
        after(scene, wait_us, Fault::Next);
    }
    let trouble = scene.plan.trouble;
    let kinds: Vec<fn(&mut Scene)> = [
        (trouble.kills, kill as fn(&mut Scene)),
        (trouble.power, power),
        (trouble.cuts, cut),
        (trouble.pauses, pause),
        (trouble.walls, wall),
        (trouble.disks, disk),
        (trouble.operators, operator),
        (trouble.switchovers, switchover),
        (trouble.switchovers, switchover),
        (trouble.alterations, alteration),
        (trouble.alterations, alteration),
        (trouble.moments, moments::next),
        (trouble.moments, moments::next),
    ]
    .into_iter()
    .filter(|(is_on, _)| *is_on)
    .map(|(_, kind)| kind)
    .collect();
    if kinds.is_empty() {
        return;
    }
    let kind = scene.chance.pick(&kinds);
    kind(scene);
}

fn node(scene: &mut Scene) -> usize {
    scene.chance.below(REGIONS as u64) as usize
}

fn kill(scene: &mut Scene) {
    let node = node(scene);
    let fault = match scene.chance.percent(40) {
        true => Fault::Kill(node),
        false => Fault::Doom {
            node,
            nth: scene.chance.between(1, 40),
            is_power: false,
        },
    };
    after(scene, 0, fault);
}

fn power(scene: &mut Scene) {
    if scene.chance.percent(15) {
        for node in 0..REGIONS {
            let us = scene.chance.below(30_000);
            after(scene, us, Fault::Power(node));
        }
        return;
    }
    let node = node(scene);
    let fault = match scene.chance.percent(40) {
        true => Fault::Power(node),
        false => Fault::Doom {
            node,
            nth: scene.chance.between(1, 40),
            is_power: true,
        },
    };
    after(scene, 0, fault);
}

fn cut(scene: &mut Scene) {
    let lasts_us = scene
        .chance
        .pick(&[100_000, 1_000_000, 3_000_000, 8_000_000]);
    let lasts_us = scene.chance.below(lasts_us) + 10_000;
    let (one, other) = (node(scene), node(scene));
    let pairs: Vec<(usize, usize)> = match scene.chance.below(4) {
        // From everybody, in both directions.
        0 | 1 => (0..REGIONS).flat_map(|it| [(one, it), (it, one)]).collect(),
        // Between two, or in one direction.
        2 => vec![(one, other), (other, one)],
        _ => vec![(one, other)],
    };
    let pairs = pairs.into_iter().filter(|(from, to)| from != to);
    let times = scene.chance.pick(&[1, 1, 1, 4]);
    for (from, to) in pairs {
        for time in 0..times {
            let begins_us = time * lasts_us * 2;
            let (cut, mend) = ((from, to, true), (from, to, false));
            for ((from, to, is_cut), us) in [(cut, begins_us), (mend, begins_us + lasts_us)] {
                after(scene, us, Fault::Cut { from, to, is_cut });
            }
        }
    }
}

fn pause(scene: &mut Scene) {
    let lease_us = scene.plan.times.lease.as_micros() as u64;
    let us = scene.chance.below(lease_us * 2);
    let node = node(scene);
    after(scene, 0, Fault::Pause(node, us));
}

fn wall(scene: &mut Scene) {
    let hour_ms: i64 = 3_600_000;
    let by_ms = scene
        .chance
        .pick(&[hour_ms, -hour_ms, 1_200_000, -1_200_000, 5_000, -5_000]);
    let node = node(scene);
    after(scene, 0, Fault::JumpWall(node, by_ms));
}

fn disk(scene: &mut Scene) {
    let node = node(scene);
    let nth = scene.chance.between(1, 6);
    let fault = match scene.chance.below(3) {
        0 => Fault::FailSync(node, nth),
        1 => Fault::FailWrite(node, nth),
        _ => Fault::SlowDisk(node, scene.chance.between(500_000, 4_000_000)),
    };
    after(scene, 0, fault);
}

/// One operator, or two at once who want different things.
fn operator(scene: &mut Scene) {
    let plan = std::sync::Arc::clone(&scene.plan);
    let keyspace = &plan.keyspaces[scene.chance.below(plan.keyspaces.len() as u64) as usize];
    let partition = scene.chance.pick(&keyspace.partitions());
    let operators = scene.chance.between(1, 2);
    for _ in 0..operators {
        let to = match scene.chance.percent(70) {
            true => Some(region(node(scene))),
            false => None,
        };
        let word = OperatorWord {
            is_fenced: false,
            accepts_split_brain: true,
            to,
        };
        let us = scene.chance.below(200_000);
        after(scene, us, Fault::GiveUp(partition, word));
    }
}

/// A planned change of home, with trouble in the middle of it or without.
fn switchover(scene: &mut Scene) {
    let plan = std::sync::Arc::clone(&scene.plan);
    let keyspace = &plan.keyspaces[scene.chance.below(plan.keyspaces.len() as u64) as usize];
    let partition = scene.chance.pick(&keyspace.partitions());
    let to = node(scene);
    after(scene, 0, Fault::Switch(partition, to));
    if !scene.chance.percent(50) {
        in_the_middle(scene);
    }
}

/// Alterations, one or two shortly after each other, often while two regions are cut off from each
/// other, so that the home does not hear of it for a while.
fn alteration(scene: &mut Scene) {
    let plan = std::sync::Arc::clone(&scene.plan);
    let keyspace = &plan.keyspaces[scene.chance.below(plan.keyspaces.len() as u64) as usize];
    let (one, other) = (node(scene), node(scene));
    let mut us = 0;
    if one != other && scene.chance.percent(50) {
        let lasts_us = scene.chance.between(500_000, 6_000_000);
        for (from, to) in [(one, other), (other, one)] {
            for (is_cut, us) in [(true, 0), (false, lasts_us)] {
                after(scene, us, Fault::Cut { from, to, is_cut });
            }
        }
        us = scene.chance.below(400_000);
    }
    for _ in 0..scene.chance.between(1, 2) {
        let quorum = AckLevel::Sync {
            quorum: std::num::NonZeroU8::new(2),
        };
        let alteration = match scene.chance.below(10) {
            0..3 => Alteration::AddRegion(region(node(scene))),
            3 => Alteration::Failover(scene.chance.pick(&[
                Failover::Promote,
                Failover::Promote,
                Failover::ReadOnly,
            ])),
            _ => {
                let (ack, on_timeout) = scene.chance.pick(&[
                    (AckLevel::Async, OnTimeout::Fail),
                    (AckLevel::SEMI_SYNC, OnTimeout::Fail),
                    (AckLevel::SEMI_SYNC, OnTimeout::Degrade),
                    (quorum, OnTimeout::Fail),
                    (AckLevel::SYNC, OnTimeout::Fail),
                    (AckLevel::SYNC, OnTimeout::Degrade),
                ]);
                Alteration::Level(ack, on_timeout)
            }
        };
        after(scene, us, Fault::Alter(keyspace.id(), alteration));
        us += scene.chance.below(1_500_000);
    }
    if scene.chance.percent(50) {
        in_the_middle(scene);
    }
}

/// Trouble while something planned is under way.
fn in_the_middle(scene: &mut Scene) {
    let within_us = scene.chance.pick(&[5_000, 100_000, 500_000]);
    let us = scene.chance.below(within_us);
    let (node, other) = (node(scene), node(scene));
    let fault = match scene.chance.below(5) {
        0 => Fault::Kill(node),
        1 => Fault::Power(node),
        2 => Fault::Pause(node, scene.chance.below(3_000_000)),
        3 => Fault::Doom {
            node,
            nth: scene.chance.between(1, 8),
            is_power: true,
        },
        _ if node != other => {
            let mend = Fault::Cut {
                from: node,
                to: other,
                is_cut: false,
            };
            let lasts_us = scene.chance.below(4_000_000);
            after(scene, us + lasts_us, mend);
            Fault::Cut {
                from: node,
                to: other,
                is_cut: true,
            }
        }
        _ => return,
    };
    after(scene, us, fault);
}

/// How long a machine stays off.
pub(crate) fn off(scene: &mut Scene) -> Duration {
    let most = scene.chance.pick(&[100_000, 1_000_000, 6_000_000]);
    Duration::from_micros(50_000 + scene.chance.below(most))
}
