//! A home that is about to acknowledge with less than its level has that on record first.
//!
//! **Owns**: telling the map when such a stretch begins, telling the home that it knows, telling
//! the map once the copies have everything again.
//! **Does not own**: when it is due and over (core), what follows from the record (map, leader).
//!
//! ```text
//! core: due --> wanted --BeginDegraded{since}--> map --> core: recorded, begin mark
//! core: end mark --> level met up to there --EndDegraded{since}--> map
//! ```
//! A stretch is named by when it began. The end of one may arrive late, after the next one has
//! begun: it then names another stretch, and changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use domicile_core::control::{Assignment, Command, ControlMap, DegradedStretch};
use domicile_core::{Input, PartitionStatus, Standing};
use domicile_proto::{AckLevel, Epoch, OnTimeout, PartitionId, Seq};

use super::plane::{Plane, note_refused};
use crate::clock::Clock;
use crate::driver::Slot;
use crate::node::NodeCore;

/// How often what is not done yet is looked at again: the end of a stretch waits for copies.
/// Doubled, a lost answer delays a stretch by as much more.
const RETRY: Duration = Duration::from_millis(100);

/// What this node has said of its homes.
#[derive(Debug, Default)]
struct Told {
    /// The stretch that is to be on record, by reign.
    stretches: BTreeMap<PartitionId, (Epoch, u64)>,
    /// What the copies must have before a stretch counts as over.
    goals: BTreeMap<PartitionId, Seq>,
}

/// Keeps the records until the node closes.
pub(crate) async fn run_degrading(node: Arc<NodeCore>, plane: Arc<Plane>) {
    let mut maps = plane.maps.clone();
    let mut told = Told::default();
    loop {
        let map = Arc::clone(&maps.borrow_and_update());
        let (commands, is_pending) = told.look(&node, &map);
        if !commands.is_empty() {
            match plane.propose(&commands, plane.times.lease).await {
                Ok(refused) => note_refused(&refused),
                Err(error) => tracing::debug!(%error, "a degraded stretch is not on record"),
            }
        }
        tokio::select! {
            () = node.closed() => return,
            changed = maps.changed() => if changed.is_err() { return },
            () = node.driver.degrading.notified() => {}
            () = tokio::time::sleep(RETRY), if is_pending => {}
        }
    }
}

impl Told {
    /// What is to be told to the map now, and whether it has to be looked at again.
    fn look(&mut self, node: &NodeCore, map: &ControlMap) -> (Vec<Command>, bool) {
        let (mut commands, mut is_pending) = (Vec::new(), false);
        let homes = node.driver.slots().filter(|slot| slot.is_home());
        for slot in homes.filter(|slot| slot.keyspace().on_timeout == OnTimeout::Degrade) {
            let assignment = map.assignment(slot.partition);
            let Some(assignment) = assignment.filter(|it| Some(it.epoch) == slot.epoch()) else {
                continue;
            };
            let command = self.look_at(node, &slot, assignment);
            is_pending |= command.is_some() || self.goals.contains_key(&slot.partition);
            commands.extend(command);
        }
        (commands, is_pending)
    }

    fn look_at(
        &mut self,
        node: &NodeCore,
        slot: &Arc<Slot>,
        assignment: Assignment,
    ) -> Option<Command> {
        let (partition, epoch) = (slot.partition, assignment.epoch);
        let (status, _) = slot.status(node.clock.now());
        let is_degraded = status.degraded.is_some_and(|range| range.ended.is_none());
        if status.wants_degrade || is_degraded {
            self.goals.remove(&partition);
            let known = self.stretches.get(&partition);
            let known = known.filter(|(reign, _)| *reign == epoch);
            let since_ms = known.map(|(_, since_ms)| *since_ms).unwrap_or_else(|| {
                // Later than any that the map may still be told the end of.
                let last = assignment.degraded_ms.unwrap_or(0);
                Clock::wall_ms().max(last + 1)
            });
            self.stretches.insert(partition, (epoch, since_ms));
            if assignment.degraded_ms == Some(since_ms) {
                if status.wants_degrade {
                    node.driver.input(slot, Input::DegradeRecorded);
                }
                return None;
            }
            return Some(Command::BeginDegraded(DegradedStretch {
                partition,
                epoch,
                since_ms,
            }));
        }
        let Some(since_ms) = assignment.degraded_ms else {
            self.stretches.remove(&partition);
            self.goals.remove(&partition);
            return None;
        };
        let goal = *self.goals.entry(partition).or_insert(status.appended_upto);
        if met_upto(slot.keyspace().ack, &status) < goal {
            return None;
        }
        // Whatever begins from now on is another stretch.
        self.stretches.remove(&partition);
        Some(Command::EndDegraded(DegradedStretch {
            partition,
            epoch,
            since_ms,
        }))
    }
}

/// Up to where enough copies have the log for the level.
fn met_upto(level: AckLevel, status: &PartitionStatus) -> Seq {
    let is_sound = |standing| matches!(standing, Standing::Attached | Standing::Detached);
    let copies = status.copies.iter().filter(|copy| is_sound(copy.standing));
    let (mut received, mut durable): (Vec<Seq>, Vec<Seq>) = copies
        .map(|copy| (copy.received_upto, copy.durable_upto))
        .unzip();
    let at_least = |marks: &mut Vec<Seq>, needed: usize| {
        marks.sort_unstable_by(|one, other| other.cmp(one));
        match needed {
            0 => status.appended_upto,
            _ => marks.get(needed - 1).copied().unwrap_or(Seq::NONE),
        }
    };
    let copies = status.copies.len();
    let received = at_least(&mut received, level.received_needed(copies));
    received.min(at_least(&mut durable, level.durable_needed(copies)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(copies: &[(Standing, u64, u64)]) -> PartitionStatus {
        use domicile_core::{CopyStatus, Counters, Role, Rpo, RpoPressure};
        let copy = |(index, it): (usize, &(Standing, u64, u64))| CopyStatus {
            region: domicile_proto::RegionId::new(index as u16 + 1).unwrap(),
            standing: it.0,
            received_upto: Seq::new(it.1),
            durable_upto: Seq::new(it.2),
            potential: Rpo::default(),
        };
        PartitionStatus {
            role: Role::Home,
            epoch: None,
            appended_upto: Seq::new(9),
            durable_upto: Seq::new(9),
            visible_upto: Seq::new(9),
            recovering_upto: None,
            copies: copies.iter().enumerate().map(copy).collect(),
            degraded: None,
            wants_degrade: false,
            effective_level: AckLevel::Async,
            rpo_pressure: RpoPressure::Free,
            in_flight_records: 0,
            in_flight_bytes: 0,
            waiters: 0,
            requests: 0,
            poisoned: false,
            counters: Counters::default(),
        }
    }

    #[test]
    fn a_level_is_met_where_enough_sound_copies_are() {
        use Standing::{Attached, Detached, Diverged};
        let two = status(&[(Attached, 7, 5), (Detached, 4, 4)]);
        assert_eq!(met_upto(AckLevel::SEMI_SYNC, &two), Seq::new(7));
        assert_eq!(met_upto(AckLevel::SYNC, &two), Seq::new(4));
        assert_eq!(met_upto(AckLevel::Async, &two), Seq::new(9));
        let wrong = status(&[(Diverged, 7, 7), (Attached, 3, 2)]);
        assert_eq!(met_upto(AckLevel::SEMI_SYNC, &wrong), Seq::new(3));
        assert_eq!(met_upto(AckLevel::SYNC, &wrong), Seq::NONE);
    }
}
