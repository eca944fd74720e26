//! What the map says of homes is done to this process's partitions.
//!
//! **Owns**: the order: whose reign is over stops first; only then does the map count as applied,
//! so that a lease granted on it counts; then cores are exchanged, then streams begin anew.
//! **Does not own**: the map (core), leases (`lease`).

use std::collections::BTreeMap;
use std::sync::Arc;

use domicile_core::control::{Assignment, ControlMap, Fencing};
use domicile_core::{
    Input, LeaseNeed, Partition, PartitionConfig, Recovered, RememberedRequest, Role,
};
use domicile_proto::{Epoch, Keyspace, PartitionId, RegionId, Seq};
use domicile_storage::{KeptRequest, Store};

use super::process::{Process, Slot};
use crate::invariants;
use crate::planted::{NodeBug, is_planted};
use crate::queue::Wake;
use crate::scene::Scene;

/// After a change that could not be made it is tried again this much later, in us.
const RETRY_US: u64 = 500_000;

/// The place of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seat {
    /// The policy that the reign goes by.
    keyspace: Arc<Keyspace>,
    home: RegionId,
    is_here: bool,
    epoch: Epoch,
    floor: Epoch,
    lease: LeaseNeed,
}

/// A map that is being applied.
#[derive(Debug, Default)]
pub(super) struct Seating {
    /// The version last looked at.
    seen: u64,
    is_waking: bool,
    moves: Vec<Move>,
    at: usize,
    deadline_us: u64,
    is_running: bool,
}

#[derive(Debug)]
struct Move {
    partition: PartitionId,
    seat: Seat,
    is_taken: bool,
    is_rested: bool,
}

fn floor_of(assignment: Assignment) -> Epoch {
    match assignment.lost {
        Some(_) => assignment.floor(),
        None => assignment.epoch,
    }
}

impl Process {
    fn seat_of(&self, map: &ControlMap, id: PartitionId) -> Option<Seat> {
        let assignment = map.assignment(id)?;
        let (mut epoch, mut floor) = (assignment.epoch, floor_of(assignment));
        let mut home = assignment.home;
        let handed = self.switches.handed(id).filter(|it| it.epoch > epoch);
        let handed = handed.filter(|_| floor == epoch);
        let policy_of = |revision| map.policy_of(id, revision);
        let following = handed.and_then(|it| match it.revision {
            Some(revision) => Some((it.epoch, policy_of(revision)?)),
            None => Some((it.epoch, map.present_policy(id)?)),
        });
        if let Some((handed, _)) = following {
            // It was handed on, and the map does not say so yet; one that does not know the policy
            // is behind.
            (home, epoch, floor) = (handed.node, handed, handed);
        }
        // A map that is behind the log here, as after a restart, makes nobody home.
        let tail = self.store.tail(id);
        let is_behind = tail.is_some_and(|tail| tail.epoch > epoch);
        let policy = match following {
            Some((_, policy)) => policy,
            None => map.policy(id, assignment.revision)?,
        };
        Some(Seat {
            keyspace: Arc::clone(&policy.keyspace),
            home: map.node(home)?.region,
            is_here: home == self.host.id && !is_behind,
            epoch,
            floor,
            lease: match policy.fencing {
                Fencing::Lease => LeaseNeed::Everything,
                Fencing::AckRevocation => LeaseNeed::Reads,
                Fencing::Operator => LeaseNeed::Nothing,
            },
        })
    }

    /// The map is looked at again: there is more than it says.
    pub(super) fn seat_again(&mut self) {
        self.seating.seen = 0;
    }

    /// A new map is looked at soon.
    pub(super) fn seat_if_new(&mut self, scene: &mut Scene) {
        let version = self.host.map.version();
        if version > self.seating.seen
            && !self.is_poisoned
            && !self.seating.is_waking
            && !self.seating.is_running
        {
            self.seating.is_waking = true;
            let us = scene.chance.below(scene.plan.seat_lag_us + 1);
            self.wake_in(us, Wake::Seat, scene);
        }
    }

    pub(super) fn begin_seating(&mut self, scene: &mut Scene) {
        self.seating.is_waking = false;
        if self.seating.is_running || self.is_poisoned {
            return;
        }
        let map = Arc::clone(&self.host.map);
        self.seating.seen = map.version();
        let applied = self.apply(&map, scene);
        self.look_at_switchovers(scene);
        if let Err(error) = applied {
            let node = self.host.index;
            scene.note(|| format!("n{node} the map was not applied: {error}"));
            self.try_seating_again(scene);
        }
    }

    fn try_seating_again(&mut self, scene: &mut Scene) {
        if !self.seating.is_waking {
            self.seating.is_waking = true;
            self.wake_in(RETRY_US, Wake::Seat, scene);
        }
    }

    fn apply(
        &mut self,
        map: &ControlMap,
        scene: &mut Scene,
    ) -> Result<(), domicile_storage::StoreError> {
        self.learn(map, scene)?;
        let seats: Vec<(PartitionId, Seat)> = self
            .slots
            .keys()
            .filter_map(|id| Some((*id, self.seat_of(map, *id)?)))
            .collect();
        let fences = seats.iter().filter(|(id, seat)| {
            let promised = self.store.promised(*id);
            promised.is_none_or(|promised| promised < seat.floor)
        });
        let fences: Vec<(PartitionId, Epoch)> =
            fences.map(|(id, seat)| (*id, seat.floor)).collect();
        self.promise_here(&fences, scene)?;
        // No core here goes on in a reign that this map has ended.
        self.map_applied(map.version(), scene);
        let moves: Vec<Move> = seats
            .into_iter()
            .filter(|(id, seat)| is_elsewhere(&self.slots[id], seat))
            .map(|(partition, seat)| Move {
                partition,
                seat,
                is_taken: false,
                is_rested: false,
            })
            .collect();
        if !moves.is_empty() {
            let deadline_us = scene.now_us + RETRY_US;
            (self.seating.moves, self.seating.at) = (moves, 0);
            (self.seating.is_running, self.seating.deadline_us) = (true, deadline_us);
            self.close_next();
            self.go_on_seating(scene);
        }
        Ok(())
    }

    /// Opens what is new to this process.
    fn learn(
        &mut self,
        map: &ControlMap,
        scene: &mut Scene,
    ) -> Result<(), domicile_storage::StoreError> {
        let own = self.host.region;
        let mut new = Vec::new();
        for keyspace in map.keyspaces() {
            for id in keyspace.partitions() {
                if !self.slots.contains_key(&id)
                    && let Some(seat) = self.seat_of(map, id)
                    // A region that was added holds it once its home goes by that.
                    && seat.keyspace.regions.contains(&own)
                {
                    new.push((id, seat));
                }
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        let floors: Vec<_> = new.iter().map(|(id, seat)| (*id, seat.floor)).collect();
        self.store.promise_all(&floors)?;
        for (id, seat) in new {
            let recovered = self.recovered(id, &seat, None, scene);
            let config = config_of(id, own, &seat, scene);
            let core = self.open_core(config, recovered, &seat, scene);
            let is_wounded = self.store.wound(id).is_some();
            let node = self.host.index;
            scene.note(|| format!("n{node} {id:?} begins as {seat:?}, wounded {is_wounded}"));
            let slot = new_slot(Arc::clone(&seat.keyspace), core, is_wounded);
            if seat.is_here {
                invariants::policy::leads(node, &slot.core, scene);
            }
            self.slots.insert(id, slot);
            if !seat.is_here && self.is_ahead_of(id, None) {
                self.ask_again(id, scene);
            }
            self.input(id, Input::Tick, scene);
        }
        self.begin_streams_anew(scene);
        Ok(())
    }

    pub(super) fn open_core(
        &self,
        config: PartitionConfig,
        recovered: Recovered,
        seat: &Seat,
        scene: &Scene,
    ) -> Partition {
        let (now, shown) = (self.moment(scene), format!("{recovered:?}"));
        let opened = match seat.is_here {
            true => Partition::home(config, recovered, now),
            false => Partition::copy(config, recovered, now),
        };
        opened.unwrap_or_else(|error| panic!("n{} {error}: {shown}", self.host.index))
    }

    /// What a copy starts from.
    pub(super) fn recovered_copy(&self, partition: PartitionId) -> Recovered {
        let promised = self.store.promised(partition);
        let found = self.store.tail(partition).map(|tail| Recovered {
            epoch: Some(tail.epoch),
            promised,
            epoch_history: tail.epoch_history,
            last_seq: tail.last_seq,
            chain: tail.chain,
            visible_upto: tail.visible_upto,
            ..Recovered::default()
        });
        found.unwrap_or(Recovered {
            promised,
            ..Recovered::default()
        })
    }

    fn recovered(
        &mut self,
        partition: PartitionId,
        seat: &Seat,
        visible_upto: Option<Seq>,
        scene: &Scene,
    ) -> Recovered {
        let copy = self.recovered_copy(partition);
        let requests = match seat.is_here {
            true => remembered(&self.store, partition),
            false => Vec::new(),
        };
        if let Some(newest) = requests.iter().map(|request| request.hlc).max() {
            self.observe(newest, scene);
        }
        let handed_to = match seat.is_here && !is_planted(NodeBug::ForgetHandedOn) {
            true => self.reign_end(partition, seat.epoch).map(|it| it.to),
            false => None,
        };
        Recovered {
            epoch: match seat.is_here {
                true => Some(seat.epoch),
                false => copy.epoch,
            },
            handed_to,
            visible_upto: visible_upto.unwrap_or(copy.visible_upto),
            requests,
            ..copy
        }
    }

    fn close_next(&mut self) {
        let Some(next) = self.seating.moves.get_mut(self.seating.at) else {
            return;
        };
        if let Some(slot) = self.slots.get_mut(&next.partition) {
            next.is_taken = slot.try_close_intake();
        }
    }

    /// One partition after the other comes to rest; then their cores are exchanged.
    pub(super) fn go_on_seating(&mut self, scene: &mut Scene) {
        while self.seating.is_running {
            let Some(next) = self.seating.moves.get(self.seating.at) else {
                return self.reseat(scene);
            };
            let slot = &self.slots[&next.partition];
            let is_wounded = self.store.wound(next.partition).is_some();
            let is_closed = next.is_taken || is_wounded;
            let is_rested = is_closed && slot.is_quiet();
            if is_closed && !is_rested && scene.now_us < self.seating.deadline_us {
                return self.poll(scene);
            }
            // What came meanwhile may be of a later reign than the map that the seat is of.
            let last = self.store.tail(next.partition).map(|tail| tail.epoch);
            let is_outrun = next.seat.is_here && last > Some(next.seat.epoch);
            self.seating.moves[self.seating.at].is_rested = is_rested && !is_outrun;
            self.seating.at += 1;
            self.seating.deadline_us = scene.now_us + RETRY_US;
            self.close_next();
        }
    }

    fn reseat(&mut self, scene: &mut Scene) {
        self.seating.is_running = false;
        let moves = std::mem::take(&mut self.seating.moves);
        // One that was wounded takes something again once it is healed.
        let mut is_whole = true;
        for it in &moves {
            if !it.is_rested || !self.slots[&it.partition].is_quiet() {
                is_whole = false;
                continue;
            }
            let (id, seat) = (it.partition, &it.seat);
            let visible_upto = self.slots[&id].core.visible_upto();
            let recovered = self.recovered(id, seat, Some(visible_upto), scene);
            let config = config_of(id, self.host.region, seat, scene);
            let core = self.open_core(config, recovered, seat, scene);
            if seat.is_here && self.switches.handed(id).map(|it| it.epoch) == Some(seat.epoch) {
                invariants::handing_on::begun(self.host.index, id, seat.epoch, scene);
            }
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.keyspace = Arc::clone(&seat.keyspace);
            }
            self.take_seat(id, core, scene);
        }
        for it in moves.iter().filter(|it| it.is_taken) {
            if let Some(slot) = self.slots.get_mut(&it.partition) {
                slot.open_intake();
            }
        }
        self.begin_streams_anew(scene);
        if !is_whole {
            self.try_seating_again(scene);
        }
    }

    /// A core opened for another place takes the seat of one that has come to rest.
    pub(super) fn take_seat(&mut self, id: PartitionId, core: Partition, scene: &mut Scene) {
        let node = self.host.index;
        scene.note(|| {
            let (epoch, role) = (core.epoch(), core.role());
            format!("n{node} {id:?} is {role:?} in {epoch:?}")
        });
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        let waiting = slot.waiters.len();
        assert!(waiting == 0, "{id:?}: {waiting} callers wait");
        if core.role() == Role::Home {
            invariants::policy::leads(node, &core, scene);
        }
        let config = core.config();
        (slot.reads_open, slot.handed_on) = (false, None);
        slot.home = config.home_region;
        slot.is_home = core.role() == Role::Home;
        slot.needs_lease = config.lease > LeaseNeed::Nothing;
        (slot.core, slot.armed) = (core, None);
        invariants::monotone::reseated(node, id, scene);
        self.input(id, Input::Tick, scene);
    }
}

fn is_elsewhere(slot: &Slot, seat: &Seat) -> bool {
    if seat.floor > seat.epoch {
        return false;
    }
    if seat.is_here != slot.is_home || seat.home != slot.home {
        return true;
    }
    slot.core.config().reign != Some(seat.epoch)
}

fn new_slot(keyspace: Arc<Keyspace>, core: Partition, is_wounded: bool) -> Slot {
    let config = core.config();
    Slot {
        home: config.home_region,
        is_home: core.role() == Role::Home,
        needs_lease: config.lease > LeaseNeed::Nothing,
        waiters: BTreeMap::new(),
        next_ticket: 0,
        armed: None,
        installing: is_wounded,
        turned_away: false,
        is_damaged: false,
        ahead_by: None,
        healing: None,
        asked_us: 0,
        reads_open: false,
        handed_on: None,
        keyspace,
        core,
    }
}

fn config_of(partition: PartitionId, own: RegionId, seat: &Seat, scene: &Scene) -> PartitionConfig {
    PartitionConfig {
        lease: seat.lease,
        reign: Some(seat.epoch),
        window: scene.plan.window,
        ..PartitionConfig::of(&seat.keyspace, partition, own, seat.home)
    }
}

/// The requests in a partition's log, as the product reads them back.
fn remembered(store: &Store, partition: PartitionId) -> Vec<RememberedRequest> {
    if is_planted(NodeBug::ForgetRequests) {
        return Vec::new();
    }
    let kept = store.snapshot_requests(partition).unwrap_or_default();
    let mut found: Vec<KeptRequest> = kept;
    let covered = found.last().map_or(Seq::NONE, |last| last.seq);
    let start = store.log_start(partition).max(covered.next());
    for record in store.records(partition, start).flatten() {
        let (_, seq, record) = record;
        found.extend(KeptRequest::of(seq, &record));
    }
    let remembered = found.into_iter().map(|kept| RememberedRequest {
        request_id: kept.request_id,
        seq: kept.seq,
        fingerprint: kept.fingerprint,
        hlc: kept.hlc,
        level: kept.level,
    });
    remembered.collect()
}
