//! The store's commits and flushes, when the disk gets to them.
//!
//! **Owns**: one commit at a time, told to the cores once it is durable; a store that fails.
//! **Does not own**: what a commit writes (storage).

use domicile_core::{Input, Urgency};
use domicile_proto::PartitionId;
use domicile_storage::Committed;

use super::process::Process;
use crate::invariants;
use crate::queue::Wake;
use crate::scene::Scene;

/// How long what nobody waits for may wait for company, as in storage.
const SOON_US: u64 = 4_000;

/// When whoever runs a process whose store has failed ends it, in us.
const RESTART_US: (u64, u64) = (200_000, 5_000_000);

impl Process {
    pub(super) fn commit_if_queued(&mut self, scene: &mut Scene) {
        let Some(urgency) = self.queued.filter(|_| !self.is_committing) else {
            return;
        };
        self.queued = None;
        self.is_committing = true;
        let (least, most) = scene.plan.commit_us;
        let mut us = scene.chance.between(least, most);
        if urgency == Urgency::Soon {
            us += scene.chance.below(SOON_US);
        }
        if self.host.index == scene.truth.slow_disk.0 && scene.now_us < scene.truth.slow_disk.1 {
            us += scene.chance.between(10_000, 1_500_000);
        }
        self.wake_in(us, Wake::Commit, scene);
    }

    pub(super) fn commit(&mut self, scene: &mut Scene) {
        match self.store.commit_once() {
            Ok(commits) => {
                self.committed(&commits, scene);
                let (permille, most) = scene.plan.late_told;
                if scene.chance.permille(permille) {
                    let us = scene.chance.below(most);
                    return self.wake_in(us, Wake::Told(commits), scene);
                }
                self.told(&commits, scene);
            }
            Err(error) => self.fail(&error.to_string(), scene),
        }
    }

    /// Who looks on hears of it at once.
    fn committed(&mut self, commits: &[Committed], scene: &mut Scene) {
        let node = self.host.index;
        for commit in commits {
            scene.mix(commit.chain.bits());
            invariants::log_matching::committed(commit, scene);
            scene.truth.committed(node, commit);
        }
    }

    pub(super) fn told(&mut self, commits: &[Committed], scene: &mut Scene) {
        self.is_committing = false;
        if self.is_poisoned {
            return;
        }
        for commit in commits {
            let upto = commit.last_seq;
            self.input(commit.partition, Input::Durable { upto }, scene);
        }
    }

    /// No further write is acknowledged.
    pub(super) fn fail(&mut self, error: &str, scene: &mut Scene) {
        let node = self.host.index;
        scene.note(|| format!("n{node} the store has failed: {error}"));
        self.is_poisoned = true;
        let partitions: Vec<PartitionId> = self.slots.keys().copied().collect();
        for partition in partitions {
            self.poison(partition, scene);
        }
        let us = scene.chance.between(RESTART_US.0, RESTART_US.1);
        self.wake_in(us, Wake::Restart, scene);
    }

    pub(super) fn flush(&mut self, scene: &mut Scene) {
        let us = scene.chance.below(2 * scene.plan.flush_us);
        self.wake_in(us, Wake::Flush, scene);
        if self.is_poisoned {
            return;
        }
        if let Err(error) = self.store.flush_once() {
            let node = self.host.index;
            scene.note(|| format!("n{node} not flushed: {error}"));
        }
        self.hear_of_commits();
    }

    /// A flush, a cut or an installation may have committed what is still to be told of.
    pub(super) fn hear_of_commits(&mut self) {
        self.queued = self.queued.max(Some(Urgency::Now));
    }
}
