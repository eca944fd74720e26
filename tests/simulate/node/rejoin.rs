//! A log that has left its home's finds back: what the home never had is sealed and cut.
//!
//! **Owns**: the order: nothing is taken, the fork, the cut, a core opened anew, a new hello.
//! **Does not own**: sealing and cutting (storage), where logs part (core), healing (`mend`).

use domicile_core::{Input, Partition, fork};
use domicile_proto::{Epoch, PartitionId, Seq};
use domicile_storage::{AfterCut, CutPlan};

use super::process::Process;
use crate::invariants;
use crate::packets::HomeLog;
use crate::planted::{NodeBug, is_planted};
use crate::queue::Wake;
use crate::scene::Scene;

/// How long a partition may take to come to rest before it is left as it is, in us.
const REST_US: u64 = 500_000;

/// Where a log is cut, and where it left its home's: what a snapshot stands for is not cut.
#[derive(Debug, Clone, Copy)]
struct Fork {
    cut_after: Seq,
    at: Seq,
}

/// One log that waits to be cut.
#[derive(Debug)]
pub(super) struct Rejoin {
    home: HomeLog,
    deadline_us: u64,
    /// It is cut, and something of that is left to be done.
    unsettled: Option<Fork>,
}

impl Process {
    pub(super) fn rejoin(&mut self, home: HomeLog, scene: &mut Scene) {
        let Some(slot) = self.slots.get_mut(&home.partition) else {
            return;
        };
        // Whoever is at it already, or a snapshot on its way, comes first. What is wounded is
        // closed, and its log may be longer than that of the home which is to heal it now.
        let is_closed = slot.try_close_intake();
        let is_wounded = self.store.wound(home.partition).is_some();
        let mut others = self.rejoins.iter();
        let is_under_way = others.any(|it| it.home.partition == home.partition);
        if !is_closed && (!is_wounded || is_under_way) {
            return;
        }
        let deadline_us = scene.now_us + REST_US;
        self.rejoins.push(Rejoin {
            home,
            deadline_us,
            unsettled: None,
        });
        self.go_on_rejoining(scene);
    }

    pub(super) fn go_on_rejoining(&mut self, scene: &mut Scene) {
        for mut rejoin in std::mem::take(&mut self.rejoins) {
            let partition = rejoin.home.partition;
            let slot = &self.slots[&partition];
            let waits = !slot.is_home && !slot.is_quiet() && scene.now_us < rejoin.deadline_us;
            if waits {
                self.rejoins.push(rejoin);
                self.poll(scene);
                continue;
            }
            let is_cut = rejoin.unsettled.is_some();
            let fork = match rejoin.unsettled {
                Some(fork) => Ok(fork),
                None => self.fork_of(&rejoin.home),
            };
            let cut = |fork| self.cut(fork, is_cut, &rejoin.home, scene);
            let outcome = fork.clone().and_then(cut);
            let node = self.host.index;
            scene.note(|| format!("n{node} {partition:?} cut: {outcome:?}"));
            let now_us = scene.now_us;
            if outcome.is_err()
                && !is_cut
                && scene.truth.is_cut(node, partition, &self.store, now_us)
            {
                rejoin.unsettled = fork.ok();
            }
            let is_home = self.slots[&partition].is_home;
            if outcome.is_err() && rejoin.unsettled.is_some() && !self.is_poisoned && !is_home {
                self.rejoins.push(rejoin);
                self.poll(scene);
                continue;
            }
            match outcome {
                // It stays closed until it is healed.
                Err(_) if self.store.wound(partition).is_some() => {}
                Ok(AfterCut::Whole) | Err(_) => self.open_again(partition),
                // It stays closed until it is healed.
                Ok(AfterCut::Wounded) => self.wake_in(0, Wake::Mend, scene),
                Ok(AfterCut::NeedsSnapshot) => {
                    self.quarantine(partition, scene);
                    self.wanted.insert(partition, Seq::FIRST);
                    self.open_again(partition);
                    self.wake_in(0, Wake::Mend, scene);
                }
            }
        }
    }

    pub(super) fn open_again(&mut self, partition: PartitionId) {
        if let Some(slot) = self.slots.get_mut(&partition) {
            slot.open_intake();
        }
        self.say_hello_again(partition);
    }

    fn fork_of(&self, home: &HomeLog) -> Result<Fork, String> {
        let partition = home.partition;
        let slot = &self.slots[&partition];
        if slot.is_home || !slot.is_quiet() {
            return Err("it is not at rest".to_owned());
        }
        let superseded_by = home.reigns.last().ok_or("a home without a reign")?.0;
        if let Some(promised) = self.store.promised(partition)
            && promised > superseded_by
        {
            return Err(format!("{superseded_by} says so, {promised} was promised"));
        }
        let tail = self.store.tail(partition).ok_or("there is no log here")?;
        let at = fork(
            (&tail.epoch_history, tail.last_seq),
            (&home.reigns, home.last_seq),
        );
        // What a snapshot of an older home stands for cannot be taken out of it again.
        let base = self.store.log_start(partition).previous();
        Ok(Fork {
            cut_after: at.max(base),
            at,
        })
    }

    fn cut(
        &mut self,
        fork: Fork,
        is_cut: bool,
        home: &HomeLog,
        scene: &mut Scene,
    ) -> Result<AfterCut, String> {
        let (node, partition) = (self.host.index, home.partition);
        let plan = CutPlan {
            superseded_by: home.reigns.last().ok_or("a home without a reign")?.0,
            now_ms: self.wall_ms(scene),
        };
        // Without its tail the log does not say any more that this node led in a later reign than a
        // map of before this one, as it may have after a restart, knows of.
        if !is_planted(NodeBug::CutWithoutPromise) {
            let promised = self.promise_here(&[(partition, plan.superseded_by)], scene);
            promised.map_err(|error| error.to_string())?;
        }
        let report = match is_cut {
            true => self.store.finish_cut(partition),
            false => {
                scene.truth.cutting(node, partition, fork.cut_after);
                self.store.cut(partition, fork.cut_after, plan)
            }
        };
        self.hear_of_commits();
        let report = report.map_err(|error| error.to_string())?;
        let now_us = scene.now_us;
        scene.truth.cut(node, partition, report.fork.seq, now_us);
        invariants::tail_kept::cut(node, partition, &self.store, scene);
        if self.slots[&partition].is_home {
            return Err("it has become home meanwhile".to_owned());
        }
        self.reopen(partition, scene);
        match fork.cut_after > fork.at && !is_planted(NodeBug::KeepOldSnapshot) {
            true => Ok(AfterCut::NeedsSnapshot),
            false => Ok(report.cells),
        }
    }

    /// The core believed in the log and the cells as they were.
    pub(super) fn reopen(&mut self, partition: PartitionId, scene: &mut Scene) {
        let config = self.slots[&partition].core.config().clone();
        let recovered = self.recovered_copy(partition);
        let now = self.moment(scene);
        let core = Partition::copy(config, recovered, now).expect("a copy's config holds");
        self.take_seat(partition, core, scene);
    }

    /// Whether its cells are newer than its log by the word of another reign than this.
    pub(super) fn is_ahead_of(&self, partition: PartitionId, reign: Option<Epoch>) -> bool {
        let cells = self.store.cells(partition);
        let Some(slot) = self.slots.get(&partition) else {
            return false;
        };
        let is_ahead = cells.intent_upto() > slot.core.appended_upto();
        let is_by_it = reign.is_some() && slot.ahead_by == reign;
        let is_known = is_by_it || is_planted(NodeBug::IgnoreAhead);
        is_ahead && !is_known && !cells.is_wounded()
    }

    /// The present home is asked of what an earlier one has healed, or a snapshot takes its place.
    pub(super) fn ask_again(&mut self, partition: PartitionId, scene: &mut Scene) {
        let Some(slot) = self.slots.get_mut(&partition) else {
            return;
        };
        if !slot.is_quiet() || !slot.try_close_intake() {
            // With the next segment.
            return self.say_hello_again(partition);
        }
        let node = self.host.index;
        let again = self.store.wound_again(partition);
        self.hear_of_commits();
        scene.note(|| format!("n{node} {partition:?} is wounded again: {again:?}"));
        match again {
            Ok(true) => self.wake_in(0, Wake::Mend, scene),
            Ok(false) => {
                self.quarantine(partition, scene);
                self.wanted.insert(partition, Seq::FIRST);
            }
            Err(_) => self.open_again(partition),
        }
    }

    /// The reign of a partition's home, as the map says.
    pub(super) fn reign_of(&self, partition: PartitionId) -> Option<Epoch> {
        let assignment = self.host.map.assignment(partition);
        assignment.map(|it| it.epoch)
    }

    /// The partition is damaged here: nothing of it is served or taken.
    pub(super) fn quarantine(&mut self, partition: PartitionId, scene: &mut Scene) {
        let node = self.host.index;
        scene.note(|| format!("n{node} {partition:?} is out of service"));
        let Some(slot) = self.slots.get_mut(&partition) else {
            return;
        };
        (slot.is_damaged, slot.installing, slot.reads_open) = (true, true, false);
        if slot.is_home {
            self.poison(partition, scene);
        }
    }

    /// Whether the engine alone has some of a partition, as a cut took its snapshot away: what is
    /// lost with it has to come from the home again.
    pub(crate) fn needs_engine(&self, scene: &mut Scene) -> bool {
        let node = self.host.index;
        let needs = |partition: &PartitionId| {
            let before = self.store.log_start(*partition).previous();
            let covered = self.store.last_snapshot(*partition);
            let covered = covered.map_or(Seq::NONE, |it| it.seq);
            covered < before || scene.truth.log(node, *partition).cutting.is_some()
        };
        self.slots.keys().any(needs)
    }

    /// Whether its readers see any record.
    pub(crate) fn has_applied(&self, partition: PartitionId) -> bool {
        self.store.cells(partition).applied_upto() > Seq::NONE
    }

    /// What was written long ago cannot be read any more: a copy that follows fetches it again.
    pub(crate) fn find_damage(&mut self, partition: PartitionId, scene: &mut Scene) {
        let reign = self.reign_of(partition);
        let is_sound = self.slots.get(&partition).is_some_and(|slot| {
            let follows = slot.core.epoch() == reign && slot.is_quiet();
            !slot.is_home && !slot.installing && follows
        });
        // What it has promised to a leader, which may choose it, stays as it is; so does what is
        // being handed to it: whoever is home is not damaged here.
        let has_promised = self.store.promised(partition) > reign;
        let assignment = self.host.map.assignment(partition);
        let is_next = assignment.is_some_and(|it| it.moving_to == Some(self.host.id));
        if is_sound && !has_promised && !is_next && self.store.wound(partition).is_none() {
            self.quarantine(partition, scene);
            self.wanted.insert(partition, Seq::FIRST);
            self.say_hello_again(partition);
        }
    }

    /// A snapshot took the place of what a copy had.
    pub(super) fn installed(&mut self, partition: PartitionId, input: Input, scene: &mut Scene) {
        invariants::monotone::reseated(self.host.index, partition, scene);
        self.input(partition, input, scene);
        if let Some(slot) = self.slots.get_mut(&partition) {
            slot.is_damaged = false;
            slot.installing = false;
        }
    }
}
