//! Cells that were wounded by a cut are healed with what their home has.
//!
//! **Owns**: asking the home page by page, answering whoever asks, opening the partition again.
//! **Does not own**: which keys those are (storage), what needs a snapshot instead (`bootstrap`).

use bytes::Bytes;
use domicile_proto::{PartitionId, Seq};
use domicile_storage::{Cell, HealProgress, ToldCells};

use super::process::Process;
use crate::packets::Body;
use crate::plan::index_of;
use crate::planted::{NodeBug, is_planted};
use crate::queue::Wake;
use crate::scene::Scene;

/// Keys asked for at once: few, so that pages are seen.
const KEYS_MAX: usize = 2;

/// How often it is looked what is to be mended, in us.
const RETRY_US: u64 = 300_000;

/// After so long without an answer a home is asked from the first page on again, in us.
const PATIENCE_US: u64 = 2_000_000;

impl Process {
    pub(super) fn mend(&mut self, scene: &mut Scene) {
        self.wake_in(RETRY_US, Wake::Mend, scene);
        if self.is_poisoned {
            return;
        }
        let copies = self.slots.iter().filter(|(_, slot)| !slot.is_home);
        let copies: Vec<PartitionId> = copies.map(|(id, _)| *id).collect();
        for partition in copies {
            if self.store.wound(partition).is_some() && self.is_heal_due(partition, scene) {
                // All of it is one home's word: another one may have another history.
                self.store.restart_heal(partition);
                let reign = self.reign_of(partition);
                if let Some(slot) = self.slots.get_mut(&partition) {
                    slot.healing = reign;
                }
                self.ask_home(partition, scene);
            }
        }
        self.fetch_wanted(scene);
    }

    /// Whether nobody is asked, or not the present home, or it does not answer.
    fn is_heal_due(&self, partition: PartitionId, scene: &Scene) -> bool {
        let slot = &self.slots[&partition];
        slot.healing != self.reign_of(partition) || scene.now_us >= slot.asked_us + PATIENCE_US
    }

    fn ask_home(&mut self, partition: PartitionId, scene: &mut Scene) {
        let node = self.host.index;
        let keys = match self.store.wounded_keys(partition, KEYS_MAX) {
            Ok(keys) => keys,
            Err(error) => return scene.note(|| format!("n{node} {partition:?}: {error}")),
        };
        let wound = self.store.wound(partition);
        let seq_min = wound.map_or(Seq::NONE, |wound| wound.ask_from);
        if keys.is_empty() {
            return self.heal(partition, &[], seq_min, scene);
        }
        let home = index_of(self.slots[&partition].home);
        let process = self.number;
        if let Some(slot) = self.slots.get_mut(&partition) {
            slot.asked_us = scene.now_us;
        }
        self.send(
            home,
            Body::ReadCells {
                process,
                partition,
                keys,
                seq_min,
            },
        );
    }

    /// Another node asks what this home has of some keys.
    pub(super) fn read_cells(
        &mut self,
        (from, process): (usize, u64),
        partition: PartitionId,
        keys: &[Bytes],
        seq_min: Seq,
        scene: &mut Scene,
    ) {
        let is_home = self.slots.get(&partition).is_some_and(|it| it.is_home);
        if !is_home || !self.may_tell(partition, scene) {
            let node = self.host.index;
            return scene.note(|| format!("n{node} {partition:?}: no cells, home {is_home}"));
        }
        let (cells, at) = match is_planted(NodeBug::HealReadTooEarly) {
            true => self.applied_cells(partition, keys),
            false => match self.store.cells_at_end(partition, keys) {
                Ok(told) => told,
                Err(_) => return,
            },
        };
        if at < seq_min && !is_planted(NodeBug::HealReadTooEarly) {
            return;
        }
        let at = at.max(seq_min);
        let answer = Body::Cells {
            process,
            partition,
            cells,
            at,
        };
        self.send(from, answer);
    }

    fn may_tell(&mut self, partition: PartitionId, scene: &Scene) -> bool {
        let (now, until) = (self.moment(scene), self.lease_until);
        let Some(slot) = self.slots.get_mut(&partition) else {
            return false;
        };
        slot.core.renew_lease(until);
        !slot.is_damaged && slot.core.heal_gate(now).is_ok()
    }

    /// What readers see, wherever that is.
    fn applied_cells(&self, partition: PartitionId, keys: &[Bytes]) -> ToldCells {
        let cells = self.store.cells(partition);
        let read = |key: &Bytes| cells.get(key).ok().and_then(|read| read.cell);
        let told = keys.iter().map(|key| (key.clone(), read(key)));
        (told.collect(), cells.applied_upto())
    }

    /// Gives the next keys the cells that the home has of them.
    pub(super) fn heal(
        &mut self,
        partition: PartitionId,
        cells: &[(Bytes, Option<Cell>)],
        at: Seq,
        scene: &mut Scene,
    ) {
        let slot = self.slots.get(&partition);
        if slot.is_none_or(|slot| slot.is_home) || self.store.wound(partition).is_none() {
            return;
        }
        let reign = self.reign_of(partition);
        let Some(slot) = self
            .slots
            .get_mut(&partition)
            .filter(|it| it.healing == reign)
        else {
            return;
        };
        slot.ahead_by = reign;
        let node = self.host.index;
        let healed = self.store.heal(partition, cells, at);
        scene.note(|| format!("n{node} {partition:?} healed: {healed:?}"));
        match healed {
            Ok(HealProgress::More) => self.ask_home(partition, scene),
            Ok(HealProgress::Done { .. }) => {
                self.reopen(partition, scene);
                self.open_again(partition);
            }
            Err(_) => {}
        }
    }
}
