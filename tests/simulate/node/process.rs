//! The parts of a process, and which event goes where.
//!
//! **Owns**: the state that ends with the process; the host, which outlives it.
//! **Does not own**: what is done with it (its neighbours).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use domicile_core::control::{ControlMap, LeaseHolder};
use domicile_core::{Moment, Partition, Ticket, Urgency};
use domicile_proto::{Epoch, Hlc, Keyspace, NodeId, PartitionId, RegionId, Seq};
use domicile_storage::engine::MemoryEngine;
use domicile_storage::{MemoryDisk, Store};

use super::promise::Promising;
use super::receive::Incoming;
use super::rejoin::Rejoin;
use super::seating::Seating;
use super::ship::Outgoing;
use super::switchover::Switches;
use crate::clients::Call;
use crate::clocks::Clocks;
use crate::packets::{Body, Frame, HeldMark, Packet, Place};
use crate::plane::{Lead, Pending, Raft};
use crate::queue::{Event, Wake};
use crate::scene::Scene;

/// How far ahead a stamp may lie to be followed, in ms.
const HLC_OFFSET_MS_MAX: u64 = 10_000;

/// How often what waits for a partition to rest looks again, in us.
const POLL_US: u64 = 2_000;

/// A machine, running or not.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) index: usize,
    pub(crate) id: NodeId,
    pub(crate) region: RegionId,
    pub(crate) disk: MemoryDisk,
    /// What the cells' engine keeps when a process is killed.
    pub(crate) engine: Arc<MemoryEngine>,
    pub(crate) clocks: Clocks,
    pub(crate) raft: Raft,
    pub(crate) map: Arc<ControlMap>,
    /// Entries of the log that the map is the state of.
    pub(crate) applied: usize,
    pub(crate) processes: u64,
}

/// One partition.
pub(crate) struct Slot {
    pub(crate) keyspace: Arc<Keyspace>,
    pub(crate) core: Partition,
    pub(crate) home: RegionId,
    pub(crate) is_home: bool,
    pub(crate) needs_lease: bool,
    pub(crate) waiters: BTreeMap<Ticket, Call>,
    pub(crate) next_ticket: u64,
    pub(crate) armed: Option<Moment>,
    pub(crate) installing: bool,
    /// A segment was refused since then.
    pub(crate) turned_away: bool,
    pub(crate) is_damaged: bool,
    /// In which reign the home spoke by whose word cells are newer than the log.
    pub(crate) ahead_by: Option<Epoch>,
    /// In which reign the home is asked for what heals.
    pub(crate) healing: Option<Epoch>,
    /// When it was last asked for cells.
    pub(crate) asked_us: u64,
    pub(crate) reads_open: bool,
    /// The home that follows, once this one has ended its reign.
    pub(crate) handed_on: Option<RegionId>,
}

/// A process that runs.
pub(crate) struct Process {
    pub(crate) host: Host,
    pub(crate) number: u64,
    pub(crate) store: Arc<Store>,
    pub(crate) slots: BTreeMap<PartitionId, Slot>,
    pub(super) started_us: u64,
    pub(super) hlc: Hlc,
    pub(super) lease_until: Moment,
    pub(super) holder: LeaseHolder,
    pub(super) applied_version: u64,
    /// What waits for a commit, and how urgently.
    pub(super) queued: Option<Urgency>,
    pub(super) is_committing: bool,
    pub(crate) is_poisoned: bool,
    pub(super) out: BTreeMap<usize, Outgoing>,
    pub(super) incoming: BTreeMap<usize, Incoming>,
    pub(crate) lead: Option<Lead>,
    pub(crate) pending: Vec<Pending>,
    pub(super) seating: Seating,
    pub(super) switches: Switches,
    pub(super) promising: VecDeque<Promising>,
    pub(super) rejoins: Vec<Rejoin>,
    /// Partitions that want a snapshot, and up to where at least.
    pub(super) wanted: BTreeMap<PartitionId, Seq>,
    /// Snapshots asked for so far.
    pub(super) fetches: u64,
    pub(super) is_polled: bool,
    pub(super) outbox: Vec<(Place, Body)>,
}

impl Process {
    /// Microseconds of the boot clock since the process began.
    pub(crate) fn moment(&self, scene: &Scene) -> Moment {
        let boot_us = self.host.clocks.boot_us(scene.now_us);
        Moment::from_micros(boot_us - self.started_us)
    }

    /// In how many true us that moment is.
    pub(super) fn us_until(&self, moment: Moment, scene: &Scene) -> u64 {
        let boot_us = self.started_us.saturating_add(moment.micros());
        let at_us = self.host.clocks.true_us(boot_us);
        at_us.saturating_sub(scene.now_us)
    }

    pub(crate) fn wall_ms(&self, scene: &Scene) -> u64 {
        self.host.clocks.wall_ms(scene.now_us)
    }

    /// A stamp above all that this process gave or saw.
    pub(super) fn stamp(&mut self, scene: &Scene) -> Hlc {
        let wall = Hlc::at_ms(self.wall_ms(scene));
        self.hlc = wall.max(Hlc::from_bits(self.hlc.bits() + 1));
        self.hlc
    }

    pub(super) fn observe(&mut self, seen: Hlc, scene: &Scene) {
        let ahead_ms = seen.wall_ms().saturating_sub(self.wall_ms(scene));
        if ahead_ms <= HLC_OFFSET_MS_MAX {
            self.hlc = self.hlc.max(seen);
        }
    }

    pub(crate) fn wake_after(&self, after: Duration, what: Wake, scene: &mut Scene) {
        self.wake_in(after.as_micros() as u64, what, scene);
    }

    pub(crate) fn wake_in(&self, us: u64, what: Wake, scene: &mut Scene) {
        let (node, process) = (self.host.index, self.number);
        let event = Event::Wake {
            node,
            process,
            what,
        };
        scene.after(us, event);
    }

    /// Something waits for a partition to come to rest.
    pub(super) fn poll(&mut self, scene: &mut Scene) {
        if !self.is_polled {
            self.is_polled = true;
            self.wake_in(POLL_US, Wake::Poll, scene);
        }
    }

    pub(crate) fn send(&mut self, to: usize, body: Body) {
        self.outbox.push((Place::Node(to), body));
    }

    pub(super) fn send_frame(&mut self, to: usize, conn: u64, frame: Frame) {
        self.send(to, Body::Stream { conn, frame });
    }

    /// What is left to be done after an event: nothing of it if the machine died in the middle.
    pub(crate) fn finish(&mut self, is_dead: bool, scene: &mut Scene) {
        if is_dead {
            self.outbox.clear();
            return;
        }
        if let (Some(cause), false) = (self.store.poison_cause(), self.is_poisoned) {
            // A promise failed, or something else that is no commit.
            self.fail(&cause, scene);
        }
        self.ship_all(scene);
        self.send_acks_if_urgent();
        self.commit_if_queued(scene);
        self.seat_if_new(scene);
        let from = Place::Node(self.host.index);
        for (to, body) in std::mem::take(&mut self.outbox) {
            scene.send(from, to, body);
        }
    }

    pub(crate) fn wake(&mut self, what: Wake, scene: &mut Scene) {
        match what {
            Wake::Commit => self.commit(scene),
            Wake::Told(commits) => self.told(&commits, scene),
            Wake::Tick(partition, at) => self.tick(partition, at, scene),
            Wake::Poll => {
                self.is_polled = false;
                self.go_on_promising(scene);
                self.go_on_seating(scene);
                self.go_on_rejoining(scene);
            }
            Wake::Dial(peer, generation) => self.dial(peer, generation, scene),
            Wake::Beat(peer, conn) => self.beat(peer, conn, scene),
            Wake::Rewind(peer, conn) => self.rewind(peer, conn),
            Wake::Acks(peer) => self.send_acks(peer),
            Wake::Lease => self.ask_lease(scene),
            Wake::Lead => self.look_around(scene),
            Wake::Consensus => self.wake_consensus(scene),
            Wake::Flush => self.flush(scene),
            Wake::Seat => self.begin_seating(scene),
            Wake::Switch => self.take_part(scene),
            Wake::Mend => self.mend(scene),
            Wake::Restart => {}
        }
    }

    pub(crate) fn arrive(&mut self, packet: Packet, scene: &mut Scene) {
        let from = match packet.from {
            Place::Node(index) => index,
            Place::Client(_) => usize::MAX,
        };
        match packet.body {
            Body::Stream { conn, frame } => self.on_frame(from, conn, frame, scene),
            Body::Append(_) | Body::Appended(_) | Body::Vote(_) | Body::Voted(_) => {
                self.on_consensus(packet.body, scene);
            }
            Body::Renew {
                node,
                incarnation,
                ask,
                relayed,
            } => self.on_renew((node, from), (incarnation, ask), relayed, scene),
            Body::Granted {
                node,
                incarnation,
                grant,
            } => self.on_granted(node, incarnation, grant, scene),
            Body::AskPromises { term, asked } => self.promise(from, term, asked, scene),
            Body::Promised { term, answers } => self.on_promised(from, term, answers, scene),
            Body::ReadCells {
                process,
                partition,
                keys,
                seq_min,
            } => self.read_cells((from, process), partition, &keys, seq_min, scene),
            Body::Cells {
                process,
                partition,
                cells,
                at,
            } if process == self.number => self.heal(partition, &cells, at, scene),
            Body::FetchSnapshot {
                process,
                partition,
                seq_min,
            } => self.send_snapshot((from, process), partition, seq_min, scene),
            Body::Snapshot {
                process,
                partition,
                found,
            } if process == self.number => self.take_snapshot(from, partition, found, scene),
            Body::Tell { command } => self.on_told(command, scene),
            Body::Request { call } => self.serve(call, scene),
            Body::Cells { .. } | Body::Snapshot { .. } | Body::Answer { .. } => {}
        }
    }

    fn on_frame(&mut self, from: usize, conn: u64, frame: Frame, scene: &mut Scene) {
        match frame {
            Frame::ShipHello => self.on_ship_hello(from, conn, scene),
            Frame::CopyHello(marks) => self.on_copy_hello(from, conn, &marks, scene),
            Frame::Acks(marks) => self.on_acks(from, conn, &marks, scene),
            Frame::Rejection { partition, cause } => {
                self.on_rejection(from, conn, partition, cause, scene);
            }
            Frame::Echo => self.heard_copy(from, conn, scene),
            Frame::Reset => self.on_reset(from, conn, scene),
            frame => self.on_ship_frame(from, conn, frame, scene),
        }
    }

    pub(super) fn held(&self, partition: PartitionId) -> Option<HeldMark> {
        self.slots.get(&partition).map(Slot::held)
    }
}

impl Slot {
    /// What it holds, as it tells its home.
    pub(crate) fn held(&self) -> HeldMark {
        if self.is_damaged {
            return HeldMark {
                epoch: None,
                received_upto: Seq::NONE,
                durable_upto: Seq::NONE,
                chain: None,
                is_damaged: true,
            };
        }
        HeldMark {
            epoch: self.core.epoch(),
            received_upto: self.core.held_upto(),
            durable_upto: self.core.durable_upto(),
            chain: self.core.chain(),
            is_damaged: false,
        }
    }

    /// Whether everything that was received is on disk.
    pub(super) fn is_quiet(&self) -> bool {
        self.core.appended_upto() == self.core.durable_upto()
    }

    /// Takes nothing from now on; false if it does not already.
    pub(super) fn try_close_intake(&mut self) -> bool {
        let is_closed = !std::mem::replace(&mut self.installing, true);
        if is_closed {
            self.turned_away = false;
        }
        is_closed
    }

    pub(super) fn open_intake(&mut self) {
        self.installing = self.is_damaged;
    }
}
