//! What a seed stands for: the cluster, its times and knobs, and which kinds of trouble it sees.
//!
//! **Owns**: every choice that is made before the run begins.
//! **Does not own**: what happens during it (`faults`, `clients`).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domicile_core::Window;
use domicile_core::control::{Command, ControlTimes, Haste};
use domicile_proto::{AckLevel, Failover, Keyspace, Name, NodeId, OnTimeout, Placement, RegionId};

use crate::chance::Chance;
use crate::network::{REGIONS, Way};
use crate::plane::RaftTimes;

/// What a run is to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Nothing bad happens, whatever else does.
    Safety,
    /// And, once the trouble has ended, something good does.
    Liveness,
}

/// Kinds of trouble.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Trouble {
    pub(crate) kills: bool,
    pub(crate) power: bool,
    pub(crate) cuts: bool,
    pub(crate) pauses: bool,
    pub(crate) walls: bool,
    pub(crate) disks: bool,
    pub(crate) operators: bool,
    pub(crate) switchovers: bool,
    pub(crate) alterations: bool,
    /// Faults one after the other that only together do harm.
    pub(crate) moments: bool,
}

/// One run.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) mode: Mode,
    pub(crate) keyspaces: Vec<Arc<Keyspace>>,
    pub(crate) keys: Vec<(usize, Bytes)>,
    pub(crate) ways: [[Way; REGIONS]; REGIONS],
    pub(crate) is_wild: bool,
    pub(crate) times: ControlTimes,
    pub(crate) raft: RaftTimes,
    pub(crate) beat_us: u64,
    pub(crate) commit_us: (u64, u64),
    /// How often, in a thousand commits, the cores hear of one late, and how late at most.
    pub(crate) late_told: (u64, u64),
    pub(crate) window: Window,
    pub(crate) flush_us: u64,
    pub(crate) read_bytes: usize,
    pub(crate) clients: usize,
    pub(crate) think_us: u64,
    pub(crate) client_timeout_us: u64,
    pub(crate) trouble: Trouble,
    pub(crate) fault_every_us: u64,
    pub(crate) drift_ppm_max: u64,
    pub(crate) seat_lag_us: u64,
    /// Trouble until then.
    pub(crate) trouble_end_us: u64,
    /// Callers until then, be there trouble or not.
    pub(crate) busy_end_us: u64,
    /// Then what is to work in the end is shown to.
    pub(crate) clients_end_us: u64,
    pub(crate) end_us: u64,
}

pub(crate) fn region(index: usize) -> RegionId {
    RegionId::new(index as u16 + 1).expect("not zero")
}

pub(crate) fn node_id(index: usize) -> NodeId {
    NodeId::new(index as u64 + 11).expect("not zero")
}

pub(crate) fn index_of(region: RegionId) -> usize {
    usize::from(region.get()) - 1
}

pub(crate) fn index_of_node(node: NodeId) -> usize {
    (node.get() - 11) as usize
}

impl Plan {
    pub(crate) fn new(chance: &mut Chance, mode: Mode) -> Self {
        let rtt_ms = chance.pick(&[4, 20, 80, 200]);
        let ways = ways(chance, rtt_ms);
        let haste = chance.pick(&[Haste::Default, Haste::Aggressive, Haste::Aggressive]);
        let times = ControlTimes::of(Duration::from_millis(rtt_ms), haste);
        let keyspaces = keyspaces(chance, rtt_ms);
        let mut keys = Vec::new();
        for (index, _) in keyspaces.iter().enumerate() {
            for key in 0..chance.between(2, 6) {
                keys.push((index, Bytes::from(format!("k{key}"))));
            }
        }
        let commit_us = chance.pick(&[(100, 300), (100, 5_000), (2_000, 30_000)]);
        let late_told = chance.pick(&[(0, 0), (50, 2_000), (300, 20_000)]);
        let records_max = chance.pick(&[2, 8, 65_536]);
        let window = Window {
            records_max,
            ..Window::default()
        };
        let trouble_end_us = 1_000_000 * chance.between(12, 24);
        let calm_us = 12_000_000 + times.lease.as_micros() as u64 * 4;
        let plan = Self {
            mode,
            ways,
            is_wild: chance.percent(40),
            times,
            raft: RaftTimes {
                beat_us: 20_000 + 1_000 * rtt_ms,
                election_us: 100_000 + 4_000 * rtt_ms,
            },
            keys,
            keyspaces,
            beat_us: chance.pick(&[100_000, 300_000]),
            commit_us,
            late_told,
            window,
            flush_us: chance.pick(&[100_000, 1_000_000, 20_000_000]),
            read_bytes: chance.pick(&[1, 500, 64 << 10]),
            clients: REGIONS * chance.between(1, 3) as usize,
            think_us: chance.pick(&[10_000, 100_000, 400_000]),
            client_timeout_us: chance.pick(&[300_000, 1_000_000, 3_000_000]),
            trouble: trouble(chance),
            fault_every_us: chance.pick(&[300_000, 1_000_000, 3_000_000]),
            drift_ppm_max: chance.pick(&[0, 200, 10_000]),
            seat_lag_us: chance.pick(&[0, 5_000, 200_000]),
            busy_end_us: match chance.percent(25) {
                true => trouble_end_us - 1_000_000,
                false => trouble_end_us + calm_us,
            },
            trouble_end_us,
            clients_end_us: trouble_end_us + calm_us,
            end_us: trouble_end_us + calm_us + 8_000_000,
        };
        match plan.trouble.alterations {
            true => plan.with_fewer_regions(&mut aside(chance, 2)),
            false => plan,
        }
    }

    /// Some keyspaces begin in two regions, so that there is one to be added.
    fn with_fewer_regions(mut self, chance: &mut Chance) -> Self {
        for keyspace in &mut self.keyspaces {
            if let Placement::Pinned(first) = keyspace.placement
                && chance.percent(60)
            {
                let others: Vec<RegionId> = keyspace.regions.clone();
                let others = others.into_iter().filter(|it| *it != first);
                let other = chance.pick(&others.collect::<Vec<_>>());
                Arc::make_mut(keyspace).regions = vec![first, other];
            }
        }
        self
    }

    /// The commands by which the cluster came about.
    pub(crate) fn founding(&self) -> Vec<Command> {
        let mut commands = Vec::new();
        for index in 0..REGIONS {
            commands.push(Command::AddRegion {
                region: region(index),
                name: Name::new(format!("r{index}")).expect("a name"),
                is_witness: false,
                peer_address: None,
                is_return: false,
            });
        }
        for index in 0..REGIONS {
            let (node, region) = (node_id(index), region(index));
            commands.push(Command::AddNode { node, region });
        }
        for keyspace in &self.keyspaces {
            let keyspace = Box::new((**keyspace).clone());
            commands.push(Command::CreateKeyspace(keyspace));
        }
        commands
    }
}

fn ways(chance: &mut Chance, rtt_ms: u64) -> [[Way; REGIONS]; REGIONS] {
    let jitter = chance.pick(&[0, 10, 50]);
    let loss_permille = chance.pick(&[0, 0, 10, 100]);
    let double_permille = chance.pick(&[0, 0, 20]);
    let mut ways = [[Way {
        delay_us: 100,
        jitter_us: 100,
        loss_permille: 0,
        double_permille: 0,
        is_cut: false,
    }; REGIONS]; REGIONS];
    for (from, ways) in ways.iter_mut().enumerate() {
        let others = ways.iter_mut().enumerate().filter(|(to, _)| *to != from);
        for (_, way) in others {
            let one_way_us = rtt_ms * 500;
            let delay_us = one_way_us / chance.between(1, 3);
            *way = Way {
                delay_us,
                jitter_us: delay_us * jitter / 100,
                loss_permille,
                double_permille,
                is_cut: false,
            };
        }
    }
    ways
}

fn keyspaces(chance: &mut Chance, rtt_ms: u64) -> Vec<Arc<Keyspace>> {
    let count = chance.between(1, 3);
    (0..count)
        .map(|index| Arc::new(keyspace(chance, index, rtt_ms)))
        .collect()
}

fn keyspace(chance: &mut Chance, index: u64, rtt_ms: u64) -> Keyspace {
    let quorum = AckLevel::Sync {
        quorum: std::num::NonZeroU8::new(2),
    };
    let (ack, on_timeout) = chance.pick(&[
        (AckLevel::Async, OnTimeout::Fail),
        (AckLevel::SEMI_SYNC, OnTimeout::Fail),
        (AckLevel::SEMI_SYNC, OnTimeout::Degrade),
        (quorum, OnTimeout::Fail),
        (quorum, OnTimeout::Fail),
        (quorum, OnTimeout::Degrade),
        (AckLevel::SYNC, OnTimeout::Fail),
        (AckLevel::SYNC, OnTimeout::Degrade),
        (quorum, OnTimeout::Block),
    ]);
    let regions: Vec<RegionId> = (0..REGIONS).map(region).collect();
    let first = chance.pick(&regions);
    let name = Name::new(format!("ks{index}")).expect("a name");
    let base = Keyspace::new(name, regions, first);
    let placement = match chance.percent(30) {
        true => Placement::Hash,
        false => Placement::Pinned(first),
    };
    let buckets = std::num::NonZeroU16::new(chance.between(1, 2) as u16);
    Keyspace {
        ack,
        on_timeout,
        placement,
        ack_timeout: Duration::from_millis(chance.pick(&[50 + 2 * rtt_ms, 500, 2_000])),
        buckets: buckets.expect("not zero"),
        failover: match chance.percent(10) {
            true => Failover::ReadOnly,
            false => Failover::Promote,
        },
        ..base
    }
}

/// Another stream: what comes out of the one is drawn as it was without it.
fn aside(chance: &Chance, number: u64) -> Chance {
    Chance::new(chance.clone().next() ^ number)
}

fn trouble(chance: &mut Chance) -> Trouble {
    let switchovers = aside(chance, 0).percent(50);
    let alterations = aside(chance, 1).percent(50);
    let moments = aside(chance, 3).percent(40);
    let mut often = |percent| chance.percent(percent);
    Trouble {
        kills: often(60),
        power: often(40),
        cuts: often(60),
        pauses: often(30),
        walls: often(30),
        disks: often(25),
        operators: often(20),
        switchovers,
        alterations,
        moments,
    }
}
