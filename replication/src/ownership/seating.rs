//! What the map says of homes is done to this node's partitions.
//!
//! **Owns**: the order: whose reign is over stops first; only then does the map count as applied,
//! so that a lease granted on it counts; then cores are exchanged, then streams begin anew.
//! **Does not own**: the exchange itself (driver), the map (core), leases (`leases`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use domicile_core::control::{Assignment, Command, ControlMap, Fencing, Note};
use domicile_core::{Input, LeaseNeed, Partition, PartitionConfig, Recovered, RememberedRequest};
use domicile_proto::{Epoch, Keyspace, NodeId, PartitionId, Reason, RegionId, Seq};
use domicile_storage::{Store, StoreError};
use tokio::sync::watch;

use super::plane::Plane;
use super::plane::tell;
use super::rejoin::was_wounded_again;
use super::switchover::reign_end;
use crate::clock::Clock;
use crate::driver::{Slot, remembered_requests};
use crate::error::Error;
use crate::node::{AHEAD, NodeCore};

/// How often it is looked whether what a partition had under way is on disk. It takes a sync.
const QUIESCE_POLL: Duration = Duration::from_millis(2);

/// After a change that could not be made it is tried again this much later.
const RETRY: Duration = Duration::from_millis(500);

/// Who is home of what.
#[derive(Debug, Clone)]
pub(crate) enum Seats {
    /// Every partition in the region that it was born in, for ever.
    Static,
    /// As the map says.
    Map(Arc<ControlMap>),
}

/// The place of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seat {
    /// The policy that the reign goes by.
    pub(crate) keyspace: Arc<Keyspace>,
    /// The region of its home.
    pub(crate) home: RegionId,
    /// Whether that is this node.
    pub(crate) is_here: bool,
    /// Its reign; `None` where homes are static and the log says it.
    pub(crate) epoch: Option<Epoch>,
    /// Below this nothing is done or taken.
    pub(crate) floor: Option<Epoch>,
    /// What its home needs a lease for.
    pub(crate) lease: LeaseNeed,
}

impl Seats {
    /// The place of a partition as seen from a node; `None` if the map does not know it.
    pub(crate) fn of(
        &self,
        keyspace: &Arc<Keyspace>,
        partition: PartitionId,
        (own, node): (RegionId, NodeId),
    ) -> Option<Seat> {
        let map = match self {
            Self::Map(map) => map,
            Self::Static => {
                return Some(Seat {
                    keyspace: Arc::clone(keyspace),
                    home: partition.region,
                    is_here: partition.region == own,
                    epoch: None,
                    floor: None,
                    lease: LeaseNeed::Nothing,
                });
            }
        };
        let assignment = map.assignment(partition)?;
        let home = map.node(assignment.home)?.region;
        let policy = map.policy(partition, assignment.revision)?;
        Some(Seat {
            keyspace: Arc::clone(&policy.keyspace),
            home,
            is_here: assignment.home == node,
            epoch: Some(assignment.epoch),
            floor: Some(floor_of(assignment)),
            lease: lease_of(policy.fencing),
        })
    }
}

fn lease_of(fencing: Fencing) -> LeaseNeed {
    match fencing {
        Fencing::Lease => LeaseNeed::Everything,
        Fencing::AckRevocation => LeaseNeed::Reads,
        Fencing::Operator => LeaseNeed::Nothing,
    }
}

impl Seat {
    /// The place, where the log here ends in the reign `last`. A map that is behind it, as the one
    /// that a process starts with may be, makes nobody home: a newer one is on its way.
    pub(crate) fn beside(self, last: Option<Epoch>) -> Self {
        let is_behind = self.epoch.is_some() && last > self.epoch;
        Self {
            is_here: self.is_here && !is_behind,
            ..self
        }
    }
}

/// Below what nothing is taken: the present reign, or all up to the next one once it is over.
fn floor_of(assignment: Assignment) -> Epoch {
    match assignment.lost {
        Some(_) => assignment.floor(),
        None => assignment.epoch,
    }
}

/// Opens the core of a partition for a place.
pub(crate) fn open_core(
    config: PartitionConfig,
    recovered: Recovered,
    seat: &Seat,
    now: domicile_core::Moment,
) -> Result<Partition, Error> {
    let partition = config.partition;
    let opened = match seat.is_here {
        true => Partition::home(config, recovered, now),
        false => Partition::copy(config, recovered, now),
    };
    opened.map_err(|error| {
        let message = format!("partition {partition}: {error}");
        Error::new(Reason::InvalidArgument, message)
    })
}

/// Does to the slots what every new map says, until the node closes.
pub(crate) async fn run_seating(node: Arc<NodeCore>, mut maps: watch::Receiver<Arc<ControlMap>>) {
    loop {
        let map = Arc::clone(&maps.borrow_and_update());
        let outcome = tokio::select! {
            () = node.closed() => return,
            outcome = apply(&node, &map) => outcome,
        };
        let retry = match outcome {
            Ok(Applied::Whole) => None,
            Ok(Applied::InPart) => Some(RETRY),
            Err(error) => {
                tracing::error!(%error, "what the map says could not be done");
                Some(RETRY)
            }
        };
        tokio::select! {
            () = node.closed() => return,
            changed = maps.changed() => if changed.is_err() { return },
            () = node.ownership.handed.notified() => {}
            () = tokio::time::sleep(retry.unwrap_or(Duration::MAX)), if retry.is_some() => {}
        }
    }
}

/// How far a map could be applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Applied {
    Whole,
    /// Some partition could not be moved yet; none that is over goes on.
    InPart,
}

async fn apply(node: &Arc<NodeCore>, map: &Arc<ControlMap>) -> Result<Applied, Error> {
    let seats = Seats::Map(Arc::clone(map));
    learn_keyspaces(node, map, &seats).await?;
    let fences: Vec<(PartitionId, Epoch)> = node
        .driver
        .slots()
        .filter_map(|slot| {
            let floor = seat_of(node, &seats, &slot)?.floor?;
            let promised = node.store.promised(slot.partition);
            promised
                .is_none_or(|promised| promised < floor)
                .then_some((slot.partition, floor))
        })
        .collect();
    let driver = Arc::clone(&node.driver);
    blocking(move || driver.promise(&fences)).await?;
    // No core here goes on in a reign that this map has ended.
    node.ownership.applied(&node.driver, map.version());
    let moves: Vec<(Arc<Slot>, Seat)> = node
        .driver
        .slots()
        .filter_map(|slot| {
            let seat = seat_of(node, &seats, &slot)?;
            is_elsewhere(&slot, &seat).then_some((slot, seat))
        })
        .collect();
    if moves.is_empty() {
        return Ok(Applied::Whole);
    }
    reseat(node, moves).await
}

fn seat_of(node: &NodeCore, seats: &Seats, slot: &Slot) -> Option<Seat> {
    let own = (node.topology.own.id, node.store.node_id());
    let seat = seats.of(&slot.keyspace(), slot.partition, own)?;
    let seat = followed(node, seats, slot, &seat).unwrap_or(seat);
    Some(seat.beside(last_reign(node, slot.partition)))
}

/// The place of a partition that was handed on, where the map does not say so yet.
fn followed(node: &NodeCore, seats: &Seats, slot: &Slot, seat: &Seat) -> Option<Seat> {
    let Seats::Map(map) = seats else {
        return None;
    };
    // Given up, both reigns are over.
    let is_lost = seat.floor > seat.epoch;
    let handed = node.ownership.handed(slot.partition);
    let handed = handed.filter(|it| Some(it.epoch) > seat.epoch && !is_lost)?;
    let epoch = handed.epoch;
    // A map that does not know it is behind: a newer one is on its way.
    let policy = match handed.revision {
        Some(revision) => map.policy_of(slot.partition, revision)?,
        None => map.present_policy(slot.partition)?,
    };
    Some(Seat {
        keyspace: Arc::clone(&policy.keyspace),
        home: map.node(epoch.node)?.region,
        is_here: epoch.node == node.store.node_id(),
        epoch: Some(epoch),
        floor: Some(epoch),
        lease: lease_of(policy.fencing),
    })
}

fn last_reign(node: &NodeCore, partition: PartitionId) -> Option<Epoch> {
    node.store.tail(partition).map(|tail| tail.epoch)
}

/// Whether a slot's core was opened for another place. One whose home is given up stays where it
/// is: nobody else is home yet.
fn is_elsewhere(slot: &Slot, seat: &Seat) -> bool {
    let is_over = seat.floor > seat.epoch;
    if is_over {
        return false;
    }
    if seat.is_here != slot.is_home() || seat.home != slot.home() {
        return true;
    }
    slot.opened_for() != seat.epoch
}

/// Opens what is new to this node.
async fn learn_keyspaces(
    node: &Arc<NodeCore>,
    map: &ControlMap,
    seats: &Seats,
) -> Result<(), Error> {
    let own = node.topology.own.id;
    let mut new = Vec::new();
    for keyspace in map.keyspaces() {
        let known = node.topology.keyspace(keyspace.id());
        if known.is_none_or(|known| known != *keyspace) {
            node.topology.learn(Arc::clone(keyspace));
        }
        if !keyspace.regions.contains(&own) {
            continue;
        }
        let place = (own, node.store.node_id());
        for partition in keyspace.partitions() {
            if node.driver.slot(partition).is_none()
                && let Some(seat) = seats.of(keyspace, partition, place)
            {
                // A region that was added holds it once its home goes by that.
                let is_holder = seat.keyspace.regions.contains(&own);
                let seat = seat.beside(last_reign(node, partition));
                new.extend(is_holder.then_some((partition, seat)));
            }
        }
    }
    if new.is_empty() {
        return Ok(());
    }
    let homes = new.iter().filter(|(_, seat)| seat.is_here);
    let tails = homes.map(|(partition, _)| {
        let tail = node.store.tail(*partition);
        (*partition, tail.map_or(Seq::NONE, |tail| tail.last_seq))
    });
    let (tails, store) = (tails.collect(), Arc::clone(&node.store));
    let mut requests = blocking(move || remembered_requests(&store, &tails)).await?;
    let floors = new.iter().filter_map(|(id, seat)| Some((*id, seat.floor?)));
    let (floors, store): (Vec<_>, _) = (floors.collect(), Arc::clone(&node.store));
    blocking(move || store.promise_all(&floors)).await?;
    for (partition, seat) in new {
        let is_found = node.store.tail(partition).is_some();
        let requests = requests.remove(&partition).unwrap_or_default();
        let config = config_of(partition, own, &seat);
        let recovered = recovered_of(node, partition, &seat, requests, None)?;
        let core = open_core(config, recovered, &seat, node.clock.now())?;
        let slot = node.driver.add(Arc::clone(&seat.keyspace), core);
        if !seat.is_here && slot.is_ahead_of(None) {
            let store = Arc::clone(&node.store);
            let again = blocking(move || Ok(was_wounded_again(&store, partition)));
            if !again.await? {
                node.driver.quarantine(&slot, AHEAD);
                node.wanted.want(partition, Seq::FIRST);
            }
        }
        if node.store.wound(partition).is_some()
            && let Some(closed) = node.driver.close_intake(&slot)
        {
            closed.stay();
            node.ownership.wounds.notify_one();
        }
        if let Some(damage) = node.damage.of(partition, is_found) {
            tracing::error!(%partition, damage, "a partition is damaged");
            node.driver.quarantine(&slot, damage);
        }
        node.driver.input(&slot, Input::Tick);
    }
    node.begin_streams_anew();
    Ok(())
}

pub(crate) fn config_of(partition: PartitionId, own: RegionId, seat: &Seat) -> PartitionConfig {
    PartitionConfig {
        lease: seat.lease,
        degrades_on_record: seat.epoch.is_some(),
        reign: seat.epoch,
        ..PartitionConfig::of(&seat.keyspace, partition, own, seat.home)
    }
}

/// What a copy starts from, as the store has it now.
pub(super) fn recovered_copy(node: &NodeCore, partition: PartitionId) -> Recovered {
    let promised = node.store.promised(partition);
    let tail = node.store.tail(partition);
    let found = tail.map(|tail| Recovered {
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

/// What a core starts from, as the store has it now.
fn recovered_of(
    node: &NodeCore,
    partition: PartitionId,
    seat: &Seat,
    requests: Vec<RememberedRequest>,
    visible_upto: Option<Seq>,
) -> Result<Recovered, Error> {
    let copy = recovered_copy(node, partition);
    Ok(Recovered {
        epoch: match seat.is_here {
            true => seat.epoch,
            false => copy.epoch,
        },
        visible_upto: visible_upto.unwrap_or(copy.visible_upto),
        handed_to: handed_on(&node.store, partition, seat)?,
        requests,
        ..copy
    })
}

/// The node that the home of this reign has handed on to, if it has.
pub(crate) fn handed_on(
    store: &Store,
    partition: PartitionId,
    seat: &Seat,
) -> Result<Option<NodeId>, StoreError> {
    if !seat.is_here {
        return Ok(None);
    }
    let end = reign_end(store, partition)?;
    let end = end.filter(|(epoch, _)| Some(*epoch) == seat.epoch);
    Ok(end.map(|(_, handover)| handover.to))
}

/// Exchanges the cores of these partitions, and lets the streams begin anew.
async fn reseat(node: &Arc<NodeCore>, moves: Vec<(Arc<Slot>, Seat)>) -> Result<Applied, Error> {
    let mut applied = Applied::Whole;
    let (mut rested, mut closed) = (Vec::new(), Vec::new());
    for (slot, seat) in moves {
        // Unless a snapshot is taking its place: then that comes first. What is wounded takes
        // nothing anyway, and is healed by whoever is home now; so is what a map of before the
        // wound made home at the start of the node.
        let taken = node.driver.close_intake(&slot);
        let is_wounded = node.store.wound(slot.partition).is_some();
        let is_closed = taken.is_some() || is_wounded;
        let is_quiet = is_closed && wait_quiet(&slot).await;
        // What came meanwhile may be of a later reign than the map that the seat is of.
        let is_outrun = seat.is_here && last_reign(node, slot.partition) > seat.epoch;
        match is_quiet && !is_outrun {
            true => rested.push((slot, seat)),
            false => applied = Applied::InPart,
        }
        closed.extend(taken);
    }
    let mut requests = requests_of(node, &rested).await?;
    for (slot, seat) in &rested {
        let partition = slot.partition;
        let config = config_of(partition, node.topology.own.id, seat);
        let requests = requests.remove(&partition).unwrap_or_default();
        let visible_upto = slot.visible_upto();
        let recovered = recovered_of(node, partition, seat, requests, Some(visible_upto))?;
        let newest = recovered.requests.iter().map(|request| request.hlc).max();
        newest.map(|hlc| node.clock.observe(hlc));
        let core = open_core(config, recovered, seat, node.clock.now())?;
        let place = Arc::clone(&seat.keyspace);
        if !node.driver.try_reseat(slot, place, core) {
            applied = Applied::InPart;
            continue;
        }
        let (home, is_here) = (seat.home, seat.is_here);
        tracing::info!(%partition, %home, is_here, "the partition's home has changed");
        if let (true, Some(epoch)) = (is_here, seat.epoch) {
            tokio::spawn(tell_opened(Arc::clone(node), Arc::clone(slot), epoch));
        }
    }
    drop(closed);
    node.begin_streams_anew();
    Ok(applied)
}

/// How long a new home may take until it serves before nobody is told when it did.
const OPENING_MAX: Duration = Duration::from_secs(30);

/// Tells the map when a new home began to serve, and when it acknowledged its first write.
async fn tell_opened(node: Arc<NodeCore>, slot: Arc<Slot>, epoch: Epoch) {
    let Some(plane) = node.plane.clone() else {
        return;
    };
    let deadline = tokio::time::Instant::now() + OPENING_MAX;
    let opened_ms = || {
        let is_open = slot.check_reads_open(node.clock.now()).is_ok();
        is_open.then(Clock::wall_ms)
    };
    let Some(at_ms) = when(&slot, epoch, deadline, QUIESCE_POLL, opened_ms).await else {
        return;
    };
    // A planned change is in the map a moment later.
    let knows = |map: &Arc<ControlMap>| {
        let assignment = map.assignment(slot.partition);
        assignment.is_some_and(|it| it.epoch >= epoch)
    };
    let mut maps = plane.maps.clone();
    let known = tokio::time::timeout_at(deadline, maps.wait_for(knows)).await;
    if !known.is_ok_and(|known| known.is_ok()) {
        return;
    }
    tell_note(&plane, slot.partition, epoch, Note::Opened { at_ms }).await;
    let served_ms = || slot.served_ms();
    if let Some(at_ms) = when(&slot, epoch, deadline, RETRY, served_ms).await {
        tell_note(&plane, slot.partition, epoch, Note::Served { at_ms }).await;
    }
}

/// When something came about in a reign; `None`: not before its end or the deadline.
async fn when(
    slot: &Slot,
    epoch: Epoch,
    deadline: tokio::time::Instant,
    poll: Duration,
    at_ms: impl Fn() -> Option<u64>,
) -> Option<u64> {
    while slot.epoch() == Some(epoch) && tokio::time::Instant::now() < deadline {
        if let Some(at_ms) = at_ms() {
            return Some(at_ms);
        }
        tokio::time::sleep(poll).await;
    }
    None
}

async fn tell_note(plane: &Plane, partition: PartitionId, epoch: Epoch, note: Note) {
    let command = Command::Note {
        partition,
        epoch,
        note,
    };
    if let Err(error) = tell(plane, command).await {
        tracing::warn!(%partition, %error, "the report of a change of home is not complete");
    }
}

/// The request ids that new homes remember, read in one pass.
async fn requests_of(
    node: &Arc<NodeCore>,
    rested: &[(Arc<Slot>, Seat)],
) -> Result<BTreeMap<PartitionId, Vec<RememberedRequest>>, Error> {
    let homes = rested.iter().filter(|(_, seat)| seat.is_here);
    let tails: BTreeMap<PartitionId, Seq> = homes
        .map(|(slot, _)| (slot.partition, slot.held_mark().durable_upto))
        .collect();
    if tails.is_empty() {
        return Ok(BTreeMap::new());
    }
    let store = Arc::clone(&node.store);
    blocking(move || remembered_requests(&store, &tails)).await
}

/// Waits until everything that a partition took is on disk; false if that does not come about.
pub(super) async fn wait_quiet(slot: &Slot) -> bool {
    let deadline = tokio::time::Instant::now() + RETRY;
    while !slot.is_quiet() {
        if tokio::time::Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(QUIESCE_POLL).await;
    }
    true
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|error| {
        Error::new(
            Reason::StorePoisoned,
            format!("a task of the node panicked: {error}"),
        )
    })?;
    Ok(done?)
}
