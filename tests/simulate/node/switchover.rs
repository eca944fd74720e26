//! A partition is handed on by its home, as planned.
//!
//! **Owns**: when the home may end its reign, when the node that follows may begin, telling the
//! map: what the product's `switchover` does, looked at again and again instead of waited for.
//! **Does not own**: the mark itself (core), the exchange of cores (`seating`).

use std::collections::BTreeMap;

use domicile_core::control::{Assignment, Command, SWITCH_PATIENCE};
use domicile_core::{Handover, Input, Standing, handed_to};
use domicile_proto::{Epoch, NodeId, PartitionId, Seq};

use super::process::Process;
use crate::plan::{index_of_node, region};
use crate::planted::{NodeBug, is_planted};
use crate::queue::Wake;
use crate::scene::Scene;

/// How often it is looked how far the other side has come, in us.
const POLL_US: (u64, u64) = (500, 5_000);

/// How often the map is told again that a node has begun, in us.
const TELL_US: u64 = 500_000;

/// How long the map may take to hear that a switchover is called off, in us.
const CALL_OFF_US: u64 = 5_000_000;

/// One switchover, as one of the two sees it.
#[derive(Debug)]
struct Switch {
    from: Epoch,
    to: NodeId,
    began_us: u64,
    /// When the other one was last seen to follow the log.
    there_us: u64,
    called_off_us: Option<u64>,
    /// When the end of the reign was first seen to be written, where the home follows on itself.
    ended_us: Option<u64>,
    has_begun: bool,
    told_us: Option<u64>,
}

/// A reign that follows on one that was handed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Handed {
    pub(super) epoch: Epoch,
    /// The policy that it goes by, where the log still says so.
    pub(super) revision: Option<u64>,
}

/// Those that this process takes part in.
#[derive(Debug, Default)]
pub(super) struct Switches {
    running: BTreeMap<PartitionId, Switch>,
    /// What has followed, though the map may not know so far.
    handed: BTreeMap<PartitionId, Handed>,
    is_waking: bool,
    resumed_us: u64,
}

impl Switches {
    pub(super) fn handed(&self, partition: PartitionId) -> Option<Handed> {
        self.handed.get(&partition).copied()
    }
}

impl Process {
    /// Takes part soon, if the map speaks of a switchover from here or to here.
    pub(super) fn look_at_switchovers(&mut self, scene: &mut Scene) {
        let is_due = !self.moving().is_empty() || !self.unfinished().is_empty();
        if !self.switches.is_waking && is_due {
            self.switches.is_waking = true;
            let us = scene.chance.between(POLL_US.0, POLL_US.1);
            self.wake_in(us, Wake::Switch, scene);
        }
    }

    fn moving(&self) -> Vec<(PartitionId, Assignment, NodeId)> {
        let own = self.host.id;
        let moving = self.host.map.assignments().filter_map(|(id, it)| {
            let to = it.moving_to.filter(|_| it.lost.is_none())?;
            (it.home == own || to == own).then_some((id, it, to))
        });
        moving.collect()
    }

    /// What makes the map speak again of switchovers that must be finished, as the end of the reign
    /// is written: they were called off before, and the map heard of it only now.
    fn unfinished(&self) -> Vec<Command> {
        let own = self.host.id;
        let begins = self.slots.iter().filter_map(|(id, slot)| {
            let (partition, assignment) = (*id, self.host.map.assignment(*id)?);
            if assignment.lost.is_some() {
                return None;
            }
            let from = assignment.epoch;
            let follows = |epoch: &Epoch| epoch.counter == from.counter + 1;
            let begun = self.store.tail(partition).map(|tail| tail.epoch);
            let begun = begun.filter(|epoch| epoch.node == own);
            let handed = self.switches.handed(partition).map(|it| it.epoch);
            let next = handed.or(begun).filter(follows);
            let is_home = slot.is_home && slot.core.epoch() == Some(from);
            let ended = match self.store.promised(partition) > Some(from) {
                _ if assignment.home != own => None,
                // Its core is fenced, by its own promise when it began to follow, or is a copy's.
                true => self.reign_end(partition, from).map(|it| it.to),
                false => slot.core.handed_to().filter(|_| is_home),
            };
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

    pub(super) fn take_part(&mut self, scene: &mut Scene) {
        self.switches.is_waking = false;
        if self.is_poisoned {
            return;
        }
        for resume in self.unfinished() {
            if scene.now_us >= self.switches.resumed_us + TELL_US {
                self.switches.resumed_us = scene.now_us;
                self.tell(resume, scene);
            }
        }
        let moving = self.moving();
        self.switches.running.retain(|id, switch| {
            let same = |(other, it, to): &(PartitionId, Assignment, NodeId)| {
                other == id && it.epoch == switch.from && *to == switch.to
            };
            moving.iter().any(same)
        });
        for (partition, assignment, to) in moving {
            if !self.slots.contains_key(&partition) {
                continue;
            }
            let from = assignment.epoch;
            let switch = self.switches.running.remove(&partition);
            let mut switch = switch.unwrap_or(Switch {
                from,
                to,
                began_us: scene.now_us,
                there_us: scene.now_us,
                called_off_us: None,
                ended_us: None,
                has_begun: false,
                told_us: None,
            });
            match (assignment.home == self.host.id, to == assignment.home) {
                (true, true) => self.follow_itself(partition, &mut switch, scene),
                (true, false) => self.hand_on(partition, &mut switch, scene),
                (false, _) => self.follow(partition, &mut switch, scene),
            }
            self.switches.running.insert(partition, switch);
        }
        self.look_at_switchovers(scene);
    }

    /// Up to where the other one has the log on disk, and whether that is all but the last moments;
    /// `None` if it does not follow now.
    fn progress(&self, partition: PartitionId, to: NodeId, scene: &Scene) -> Option<(bool, Seq)> {
        if to == self.host.id {
            return Some((true, self.slots[&partition].core.durable_upto()));
        }
        let status = self.slots[&partition].core.status(self.moment(scene));
        let to = region(index_of_node(to));
        let copy = status.copies.into_iter().find(|copy| copy.region == to)?;
        let keeps_up = copy.potential.age <= scene.plan.times.pause_max / 2;
        (copy.standing == Standing::Attached).then_some((keeps_up, copy.durable_upto))
    }

    /// The part of a home that follows on itself: what was altered comes into force with its new
    /// reign.
    fn follow_itself(&mut self, partition: PartitionId, switch: &mut Switch, scene: &mut Scene) {
        // Its own promise of the new reign may be all that it had done when it restarted.
        let is_followed = self.is_followed(partition, switch);
        if !is_followed && !self.end_reign(partition, switch, scene) {
            return;
        }
        // Whoever waits for the copies gets a moment to be answered.
        let ended_us = *switch.ended_us.get_or_insert(scene.now_us);
        let patience_us = ended_us + scene.plan.times.pause_max.as_micros() as u64;
        let slot = &self.slots[&partition];
        let is_met = slot.core.visible_upto() >= slot.held().received_upto;
        if is_met || scene.now_us >= patience_us {
            self.follow(partition, switch, scene);
        }
    }

    /// Whether the log here has the end of the reign in favour of the node that follows, or what
    /// that node wrote behind it.
    fn is_followed(&self, partition: PartitionId, switch: &Switch) -> bool {
        let tail = self.store.tail(partition);
        let has_begun = tail.is_some_and(|tail| tail.epoch == switch.next());
        let end = self.reign_end(partition, switch.from);
        has_begun || end.map(|it| it.to) == Some(switch.to)
    }

    /// The home's part.
    fn hand_on(&mut self, partition: PartitionId, switch: &mut Switch, scene: &mut Scene) {
        if !self.end_reign(partition, switch, scene) {
            return;
        }
        let to = switch.to;
        let Some(slot) = self.slots.get_mut(&partition) else {
            return;
        };
        slot.handed_on = Some(region(index_of_node(to)));
        if !is_planted(NodeBug::ServeWhenHandedOn) {
            slot.reads_open = false;
        }
        let mark = slot.held().received_upto;
        let progress = self.progress(partition, to, scene);
        let has_it = progress.is_some_and(|(keeps_up, durable)| keeps_up && durable >= mark);
        if has_it || is_planted(NodeBug::LeaveBeforeTheyHaveIt) {
            self.hand(partition, switch);
        }
    }

    /// Ends the reign once the node that follows keeps up; whether it has ended.
    fn end_reign(
        &mut self,
        partition: PartitionId,
        switch: &mut Switch,
        scene: &mut Scene,
    ) -> bool {
        let (to, now_us) = (switch.to, scene.now_us);
        if let Some(called_off_us) = switch.called_off_us {
            if now_us < called_off_us + CALL_OFF_US {
                return false;
            }
            // Nobody knows whether the map heard it.
            (switch.called_off_us, switch.began_us, switch.there_us) = (None, now_us, now_us);
        }
        let slot = &self.slots[&partition];
        let is_home_here = slot.is_home
            && slot.core.epoch() == Some(switch.from)
            && self.store.promised(partition) <= Some(switch.from);
        if !is_home_here && !is_planted(NodeBug::CallOffBehindTheMark) {
            // Nothing is called off behind the mark, however long the map takes to hear of it.
            switch.there_us = now_us;
            // The node that follows may have the mark by a snapshot, in which it cannot see it.
            let next = switch.next();
            let has_let_go = to != self.host.id && self.store.promised(partition) == Some(next);
            let told_us = *switch.told_us.get_or_insert(now_us);
            if has_let_go && now_us >= told_us + TELL_US {
                switch.told_us = Some(now_us);
                let revision = self.revision(partition, switch);
                self.tell(switch.commit(partition, revision), scene);
            }
            return false;
        }
        if slot.core.handed_to() != Some(to) {
            let progress = self.progress(partition, to, scene);
            if let Some((keeps_up, _)) = progress {
                switch.there_us = now_us;
                if keeps_up {
                    let policy = self.host.map.present_policy(partition);
                    let revision = policy.map_or(0, |policy| policy.revision);
                    self.input(partition, Input::HandOn { to, revision }, scene);
                }
            }
        }
        if self.slots[&partition].core.handed_to() == Some(to) {
            return true;
        }
        let away_us = now_us - switch.there_us;
        let is_away = away_us >= scene.plan.times.lost_after.as_micros() as u64;
        let patience_us = SWITCH_PATIENCE.as_micros() as u64 / 2;
        if is_away || now_us - switch.began_us >= patience_us {
            switch.called_off_us = Some(now_us);
            let (from, to) = (switch.from, switch.to);
            let abort = Command::AbortSwitchover {
                partition,
                from,
                to,
            };
            self.tell(abort, scene);
        }
        false
    }

    /// The part of the node that follows.
    fn follow(&mut self, partition: PartitionId, switch: &mut Switch, scene: &mut Scene) {
        if !switch.has_begun {
            let is_quiet = self.slots[&partition].is_quiet();
            let is_followed = self.is_followed(partition, switch);
            if is_quiet && (is_followed || is_planted(NodeBug::FollowWithoutMark)) {
                switch.has_begun = true;
                let node = self.host.index;
                scene.note(|| format!("n{node} {partition:?} was handed on to here"));
                self.hand(partition, switch);
            }
        }
        let is_known = switch.has_begun || is_planted(NodeBug::CommitBeforeMark);
        let told = switch.told_us;
        if is_known && told.is_none_or(|told_us| scene.now_us >= told_us + TELL_US) {
            switch.told_us = Some(scene.now_us);
            let revision = self.revision(partition, switch);
            self.tell(switch.commit(partition, revision), scene);
        }
    }

    fn hand(&mut self, partition: PartitionId, switch: &Switch) {
        let handed = Handed {
            epoch: switch.next(),
            revision: self.revision(partition, switch),
        };
        if self.switches.handed.insert(partition, handed) != Some(handed) {
            self.seat_again();
        }
    }

    /// The policy that the reign which follows goes by, if the log here still says so.
    fn revision(&self, partition: PartitionId, switch: &Switch) -> Option<u64> {
        let tail = self.store.tail(partition)?;
        let mut later = tail.epoch_history.iter().rev();
        let next = later.find(|(epoch, _)| *epoch == switch.next());
        let mark = next.map_or(tail.last_seq, |(_, first)| first.previous());
        if mark < self.store.log_start(partition) {
            return None;
        }
        let (epoch, _, record) = self.store.records(partition, mark).next()?.ok()?;
        let handover = handed_to(&record.head)?;
        ((epoch, handover.to) == (switch.from, switch.to)).then_some(handover.revision)
    }

    /// The node that follows on this reign, if the log on disk ends with its end.
    pub(super) fn reign_end(&self, partition: PartitionId, reign: Epoch) -> Option<Handover> {
        let tail = self.store.tail(partition)?;
        let last = self.store.records(partition, tail.last_seq).next();
        let (epoch, _, record) = last?.ok()?;
        handed_to(&record.head).filter(|_| epoch == reign)
    }
}

impl Switch {
    fn commit(&self, partition: PartitionId, revision: Option<u64>) -> Command {
        Command::CommitSwitchover {
            partition,
            from: self.from,
            to: self.to,
            revision,
        }
    }

    fn next(&self) -> Epoch {
        Epoch {
            counter: self.from.counter + 1,
            node: self.to,
        }
    }
}
