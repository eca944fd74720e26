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

/// One log that waits to be cut.
#[derive(Debug)]
pub(super) struct Rejoin {
    home: HomeLog,
    deadline_us: u64,
}

impl Process {
    pub(super) fn rejoin(&mut self, home: HomeLog, scene: &mut Scene) {
        let Some(slot) = self.slots.get_mut(&home.partition) else {
            return;
        };
        // Whoever is at it already, or a snapshot on its way, comes first.
        if !slot.try_close_intake() {
            return;
        }
        let deadline_us = scene.now_us + REST_US;
        self.rejoins.push(Rejoin { home, deadline_us });
        self.go_on_rejoining(scene);
    }

    pub(super) fn go_on_rejoining(&mut self, scene: &mut Scene) {
        for rejoin in std::mem::take(&mut self.rejoins) {
            let partition = rejoin.home.partition;
            let slot = &self.slots[&partition];
            let waits = !slot.is_home && !slot.is_quiet() && scene.now_us < rejoin.deadline_us;
            if waits {
                self.rejoins.push(rejoin);
                self.poll(scene);
                continue;
            }
            let outcome = self.cut(&rejoin.home, scene);
            let node = self.host.index;
            scene.note(|| format!("n{node} {partition:?} cut: {outcome:?}"));
            match outcome {
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

    fn cut(&mut self, home: &HomeLog, scene: &mut Scene) -> Result<AfterCut, String> {
        let (node, partition) = (self.host.index, home.partition);
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
        let plan = CutPlan {
            superseded_by,
            now_ms: self.wall_ms(scene),
        };
        // What a snapshot of an older home stands for cannot be taken out of it again.
        let base = self.store.log_start(partition).previous();
        let from = at.max(base);
        scene.truth.cutting(node, partition, from);
        let report = self.store.cut(partition, from, plan);
        self.hear_of_commits();
        let report = report.map_err(|error| error.to_string())?;
        let now_us = scene.now_us;
        scene.truth.cut(node, partition, report.fork.seq, now_us);
        invariants::tail_kept::cut(node, partition, &self.store, scene);
        self.reopen(partition, scene);
        match base > at && !is_planted(NodeBug::KeepOldSnapshot) {
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
        // What it has promised to a leader, which may choose it, stays as it is.
        let has_promised = self.store.promised(partition) > reign;
        if is_sound && !has_promised && self.store.wound(partition).is_none() {
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
