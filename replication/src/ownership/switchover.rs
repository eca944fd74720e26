//! A partition is handed on by its home, as planned: nothing is lost, and nobody else is asked.
//!
//! **Owns**: when the home may end its reign, when the node that follows may begin, telling the
//! map.
//! **Does not own**: the mark itself (core), the exchange of cores (`seating`).
//!
//! ```text
//! map: moving_to = T   home: waits until T keeps up, else calls it off; nothing has happened
//!                      home: appends the end of its reign. From here on it must be finished
//!                      T: has the mark on disk, promises (n + 1, T), begins
//!                      home: knows that T has it, follows T
//! map: T is home       told by T, again and again
//! ```
//! A home may follow on itself: so an alteration of its keyspace comes into force, with a reign.
//!
//! The mark is the only thing that decides. Whoever restarts finds it at the end of the log. A node
//! that follows and is lost before it begins is waited for by the control plane's leader, whose
//! takeover ends both reigns.

use std::sync::Arc;
use std::time::{Duration, Instant};

use domicile_core::control::{Assignment, Command, ControlMap, SWITCH_PATIENCE};
use domicile_core::{Handover, Input, Standing, handed_to};
use domicile_proto::{Epoch, NodeId, PartitionId, RegionId, Seq};
use domicile_storage::{Store, StoreError};

use super::plane::Plane;
use super::plane::tell;
use super::seating::wait_quiet;
use super::state::Handed;
use crate::driver::Slot;
use crate::node::NodeCore;

/// How often it is looked whether the other side has come further. The pause of a switchover is
/// longer by half of this on average.
const POLL: Duration = Duration::from_millis(1);

/// How often the map is told again that a node has begun.
const TELL_AGAIN: Duration = Duration::from_millis(500);

/// How often it is looked whether one was called off too late.
const RESUME: Duration = Duration::from_secs(2);

/// Does this node's part in every switchover that the map speaks of, until the node closes.
pub(crate) async fn run_switchovers(node: Arc<NodeCore>, plane: Arc<Plane>) {
    let mut maps = plane.maps.clone();
    loop {
        let map = Arc::clone(&maps.borrow_and_update());
        let own = node.store.node_id();
        for resume in unfinished(&node, &map) {
            let plane = Arc::clone(&plane);
            tokio::spawn(async move {
                if let Err(error) = tell(&plane, resume).await {
                    tracing::warn!(%error, "a switchover stays unfinished in the map");
                }
            });
        }
        for (partition, assignment) in moving(&map) {
            let is_here = [Some(assignment.home), assignment.moving_to].contains(&Some(own));
            if is_here && node.ownership.begin_switch(partition, assignment.epoch) {
                tokio::spawn(take_part(Arc::clone(&node), Arc::clone(&plane), partition));
            }
        }
        tokio::select! {
            () = node.closed() => return,
            changed = maps.changed() => if changed.is_err() { return },
            // The next one may have begun meanwhile.
            () = node.ownership.switch_ended.notified() => {}
            () = tokio::time::sleep(RESUME) => {}
        }
    }
}

/// What makes the map speak again of switchovers that must be finished: the end of the reign is
/// written. They were called off before, or stand behind another one, and the map hears of it now.
fn unfinished(node: &NodeCore, map: &ControlMap) -> Vec<Command> {
    let own = node.store.node_id();
    let begins = node.driver.slots().filter_map(|slot| {
        let partition = slot.partition;
        let assignment = map.assignment(partition)?;
        if assignment.lost.is_some() {
            return None;
        }
        let from = assignment.epoch;
        let follows = |epoch: &Epoch| epoch.counter == from.counter.saturating_add(1);
        let begun = node.store.tail(partition).map(|tail| tail.epoch);
        let begun = begun.filter(|epoch| epoch.node == own);
        let handed = node.ownership.handed(partition).map(|it| it.epoch);
        let next = handed.or(begun).filter(follows);
        let is_home = slot.is_home() && slot.epoch() == Some(from);
        let ended = match node.store.promised(partition) > Some(from) {
            _ if assignment.home != own => None,
            // Its core is fenced, by its own promise when it began to follow, or is a copy's.
            true => {
                let end = reign_end(&node.store, partition).ok().flatten();
                end.map(|(epoch, handover)| (epoch, handover.to))
            }
            false => slot.handed_to().filter(|_| is_home).map(|to| (from, to)),
        };
        let ended = ended.filter(|(epoch, _)| *epoch == from);
        let ended = ended.map(|(_, to)| to);
        let to = next.map(|next| next.node).or(ended)?;
        match assignment.moving_to {
            None => Some(Command::BeginSwitchover {
                partition,
                from,
                to,
            }),
            Some(moving_to) if moving_to == to => None,
            // Another one was begun meanwhile, which cannot come to its end.
            Some(to) => Some(Command::AbortSwitchover {
                partition,
                from,
                to,
            }),
        }
    });
    begins.collect()
}

fn moving(map: &ControlMap) -> impl Iterator<Item = (PartitionId, Assignment)> {
    map.assignments()
        .filter(|(_, it)| it.moving_to.is_some() && it.lost.is_none())
}

/// One switchover, as long as the map speaks of it.
#[derive(Clone)]
struct Switch {
    node: Arc<NodeCore>,
    plane: Arc<Plane>,
    slot: Arc<Slot>,
    from: Epoch,
    to: NodeId,
    to_region: RegionId,
}

/// How the node that follows stands.
enum Progress {
    /// It does not follow the log now.
    Away,
    Behind,
    /// It has all but the last moments, and this on disk.
    KeepsUp(Seq),
}

async fn take_part(node: Arc<NodeCore>, plane: Arc<Plane>, partition: PartitionId) {
    let map = plane.map();
    let assignment = map.assignment(partition);
    let to = assignment.and_then(|it| it.moving_to);
    let to_region = to.and_then(|to| map.node(to)).map(|it| it.region);
    if let (Some(assignment), Some(to), Some(to_region)) = (assignment, to, to_region)
        && let Some(slot) = node.driver.slot(partition)
    {
        let switch = Switch {
            node: Arc::clone(&node),
            plane,
            slot,
            from: assignment.epoch,
            to,
            to_region,
        };
        let is_home = assignment.home == node.store.node_id();
        let follows_itself = is_home && to == assignment.home;
        tokio::select! {
            () = node.closed() => return,
            () = renew(&switch), if follows_itself => {}
            () = hand_on(&switch), if is_home && !follows_itself => {}
            () = follow(&switch), if !is_home => {}
        }
        // The map hears of it from the other side, or a moment later: until then there is nothing
        // more to do, and doing this part again would only spin.
        let mut maps = switch.plane.maps.clone();
        tokio::select! {
            () = node.closed() => return,
            _ = maps.wait_for(|map| !switch.is_in(map)) => {}
            () = tokio::time::sleep(RESUME) => {}
        }
    }
    node.ownership.end_switch(partition);
}

impl Switch {
    /// Whether the map still speaks of it.
    fn is_on(&self) -> bool {
        self.is_in(&self.plane.map())
    }

    fn is_in(&self, map: &ControlMap) -> bool {
        let assignment = map.assignment(self.slot.partition);
        assignment.is_some_and(|it| {
            it.epoch == self.from && it.moving_to == Some(self.to) && it.lost.is_none()
        })
    }

    /// Whether this node leads in the reign that is to end, and has promised no later one. If not
    /// it has handed on already, be it before it restarted, or it has yet to hear that it leads.
    fn is_home_here(&self) -> bool {
        let is_home = self.slot.is_home() && self.slot.epoch() == Some(self.from);
        is_home && self.node.store.promised(self.slot.partition) <= Some(self.from)
    }

    /// The reign that follows.
    fn next(&self) -> Epoch {
        Epoch {
            counter: self.from.counter.saturating_add(1),
            node: self.to,
        }
    }

    /// How the node that follows stands.
    fn progress(&self) -> Progress {
        if self.to == self.node.store.node_id() {
            return Progress::KeepsUp(self.slot.held_mark().durable_upto);
        }
        // Another node of its region is not the one that is to follow.
        let link = self.node.links.of(self.to_region);
        if link.is_none_or(|link| link.status().node != Some(self.to)) {
            return Progress::Away;
        }
        let (status, _) = self.slot.status(self.node.clock.now());
        let mut copies = status.copies.iter();
        let copy = copies.find(|copy| copy.region == self.to_region);
        let Some(copy) = copy.filter(|copy| copy.standing == Standing::Attached) else {
            return Progress::Away;
        };
        // What is under way for a round trip is what the pause has to wait for anyway.
        match copy.potential.age <= self.plane.times.pause_max / 2 {
            true => Progress::KeepsUp(copy.durable_upto),
            false => Progress::Behind,
        }
    }

    /// Whether the log here has the end of the reign in favour of the node that follows, or what
    /// that node wrote behind it, as it may have before it restarted.
    fn is_followed(&self) -> bool {
        let (store, partition) = (&self.node.store, self.slot.partition);
        let tail = store.tail(partition);
        if tail.is_some_and(|tail| tail.epoch == self.next()) {
            return true;
        }
        match reign_end(store, partition) {
            Ok(end) => end.is_some_and(|(epoch, it)| (epoch, it.to) == (self.from, self.to)),
            Err(error) => {
                tracing::error!(%partition, %error, "its log's end cannot be read");
                false
            }
        }
    }

    /// Whether this node had seen that the one that follows has all of it, and takes it for the
    /// home. That one may have the mark by a snapshot, in which it cannot see it: then the map is
    /// told from here.
    fn has_let_go(&self) -> bool {
        let partition = self.slot.partition;
        let is_other = self.to != self.node.store.node_id();
        is_other && self.node.store.promised(partition) == Some(self.next())
    }

    /// From here on this node takes the one that follows for the home.
    fn begin(&self) {
        let handed = Handed {
            epoch: self.next(),
            revision: self.revision(),
        };
        self.node.ownership.hand(self.slot.partition, handed);
    }

    /// The policy that the reign which follows goes by, if the log here still says so.
    fn revision(&self) -> Option<u64> {
        let (store, partition) = (&self.node.store, self.slot.partition);
        let tail = store.tail(partition)?;
        let mut later = tail.epoch_history.iter().rev();
        let next = later.find(|(epoch, _)| *epoch == self.next());
        let mark = next.map_or(tail.last_seq, |(_, first)| first.previous());
        if mark < store.log_start(partition) {
            return None;
        }
        let (epoch, _, record) = store.records(partition, mark).next()?.ok()?;
        let handover = handed_to(&record.head)?;
        ((epoch, handover.to) == (self.from, self.to)).then_some(handover.revision)
    }
}

/// The home's part.
async fn hand_on(switch: &Switch) {
    if !end_reign(switch).await {
        return;
    }
    let slot = &switch.slot;
    slot.set_handed_on(switch.to_region);
    let mark = slot.held_mark().received_upto;
    let partition = slot.partition;
    tracing::info!(%partition, to = %switch.to, %mark, "the partition is handed on");
    while switch.is_on() {
        if matches!(switch.progress(), Progress::KeepsUp(durable) if durable >= mark) {
            return switch.begin();
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The part of a home that follows on itself: what was altered comes into force with its new reign.
async fn renew(switch: &Switch) {
    // Its own promise of the new reign may be all that it had done when it restarted.
    if !switch.is_followed() && !end_reign(switch).await {
        return;
    }
    // Whoever waits for the copies gets a moment to be answered.
    let slot = &switch.slot;
    let mark = slot.held_mark().received_upto;
    let patience = Instant::now() + switch.plane.times.pause_max;
    while switch.is_on() && slot.visible_upto() < mark && Instant::now() < patience {
        tokio::time::sleep(POLL).await;
    }
    follow(switch).await;
}

/// Ends the reign once the node that follows keeps up; false: it was called off, or is over.
async fn end_reign(switch: &Switch) -> bool {
    let Switch { slot, node, to, .. } = switch;
    let begun = Instant::now();
    let (mut last_there, mut told) = (begun, begun);
    while slot.handed_to() != Some(*to) {
        if !switch.is_on() {
            return false;
        }
        if !switch.is_home_here() {
            // Nothing is called off behind the mark, however long the map takes to hear of it.
            last_there = Instant::now();
            if switch.has_let_go() && told.elapsed() >= TELL_AGAIN {
                told = Instant::now();
                tell_committed(switch).await;
            }
            tokio::time::sleep(POLL).await;
            continue;
        }
        match switch.progress() {
            Progress::Away => {}
            Progress::Behind => last_there = Instant::now(),
            Progress::KeepsUp(_) => {
                last_there = Instant::now();
                if let Some(policy) = switch.plane.map().present_policy(slot.partition) {
                    let (to, revision) = (*to, policy.revision);
                    node.driver.input(slot, Input::HandOn { to, revision });
                }
                if slot.handed_to() == Some(*to) {
                    break;
                }
                // It has no lease right now.
            }
        }
        let is_away = last_there.elapsed() >= switch.plane.times.lost_after;
        if is_away || begun.elapsed() >= SWITCH_PATIENCE / 2 {
            call_off(switch).await;
            return false;
        }
        tokio::time::sleep(POLL).await;
    }
    true
}

/// Nothing has happened: the home stays what it is.
async fn call_off(switch: &Switch) {
    let partition = switch.slot.partition;
    tracing::warn!(%partition, to = %switch.to, "not handed on: the other region does not keep up");
    let command = Command::AbortSwitchover {
        partition,
        from: switch.from,
        to: switch.to,
    };
    if let Err(error) = tell(&switch.plane, command).await {
        tracing::warn!(%partition, %error, "a switchover that was called off stays in the map");
    }
}

/// The part of the node that follows.
async fn follow(switch: &Switch) {
    let Switch { slot, node, .. } = switch;
    let partition = slot.partition;
    let mut looked_at = None;
    while switch.is_on() {
        let last = node.store.tail(partition).map(|tail| tail.last_seq);
        if last != looked_at && slot.is_quiet() {
            looked_at = last;
            if switch.is_followed() {
                break;
            }
        }
        tokio::time::sleep(POLL).await;
    }
    if !switch.is_on() || !wait_quiet(slot).await {
        return;
    }
    tracing::info!(%partition, "the partition was handed on to this node");
    switch.begin();
    tell_until_known(switch).await;
}

/// Tells the map that the node that follows has begun, again and again.
async fn tell_until_known(switch: &Switch) {
    while switch.is_on() {
        tell_committed(switch).await;
        let mut maps = switch.plane.maps.clone();
        let known = maps.wait_for(|map| !switch.is_in(map));
        let _ = tokio::time::timeout(TELL_AGAIN, known).await;
    }
}

async fn tell_committed(switch: &Switch) {
    let partition = switch.slot.partition;
    let command = Command::CommitSwitchover {
        partition,
        from: switch.from,
        to: switch.to,
        revision: switch.revision(),
    };
    if let Err(error) = tell(&switch.plane, command).await {
        tracing::debug!(%partition, %error, "the map does not know its new home so far");
    }
}

/// The reign that the last record of a log ends, and in whose favour.
pub(super) fn reign_end(
    store: &Store,
    partition: PartitionId,
) -> Result<Option<(Epoch, Handover)>, StoreError> {
    let Some(tail) = store.tail(partition) else {
        return Ok(None);
    };
    let last = store.records(partition, tail.last_seq).next().transpose()?;
    Ok(last.and_then(|(epoch, _, record)| Some((epoch, handed_to(&record.head)?))))
}
