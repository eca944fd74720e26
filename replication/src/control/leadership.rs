//! A leader that doubts itself, and changes of members that their leader did not finish.
//!
//! **Owns**: falling silent without a quorum, finishing what was begun.
//! **Does not own**: elections of others (election), beginning a change (membership).
//!
//! openraft 0.9 has no check of the quorum: a leader that is heard but hears nobody would keep its
//! followers for ever and commit nothing. So once no quorum has answered for a lease, this node
//! sends no more entries and heartbeats; its followers' leases end, and they elect another. It goes
//! on as soon as a quorum answers a sounding, for nobody may have had a chance to win.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::ChangeMembers;
use tokio::time::Instant;

use super::core::{Core, View};
use super::election::sound_out;

/// The doubts of one node.
#[derive(Debug)]
pub(super) struct Leadership {
    core: Arc<Core>,
    /// Since when it leads, or has last been told that a quorum hears it.
    heard: Option<Instant>,
    /// When it sounds out the voters again.
    sounds_at: Instant,
}

impl Leadership {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self {
            core,
            heard: None,
            sounds_at: Instant::now(),
        }
    }

    /// Looks once.
    pub(super) async fn look(&mut self, view: &View) {
        let now = Instant::now();
        if !view.leads {
            self.heard = None;
            self.core.muted.store(false, Ordering::Relaxed);
            return;
        }
        let heard = *self.heard.get_or_insert(now);
        let acked = self
            .core
            .metrics()
            .millis_since_quorum_ack
            .map(Duration::from_millis);
        let silence = now - heard;
        let silence = acked.map_or(silence, |acked| acked.min(silence));
        let is_alone = view.members.voters.len() == 1;
        if self.core.muted.load(Ordering::Relaxed) {
            self.sound(view, now).await;
        } else if silence > self.core.timings.lease && !is_alone {
            tracing::warn!(node = %self.core.node(), ?silence, "leader without a quorum: silent");
            self.core.muted.store(true, Ordering::Relaxed);
        }
        self.finish_change(view).await;
    }

    async fn sound(&mut self, view: &View, now: Instant) {
        if now < self.sounds_at {
            return;
        }
        self.sounds_at = now + self.core.timings.slot;
        let replied = sound_out(&self.core, view, view.last).await;
        if view.is_quorum(&replied.answered) {
            self.heard = Some(Instant::now());
            self.core.muted.store(false, Ordering::Relaxed);
        }
    }

    /// Voters that were to change and whose leader was lost half way: the change is finished.
    async fn finish_change(&self, view: &View) {
        let Some(goal) = view.configurations.get(1) else {
            return;
        };
        let Ok(guard) = self.core.changes.try_lock() else {
            return;
        };
        let change = ChangeMembers::ReplaceAllVoters(goal.clone());
        let finished = self.core.raft.0.change_membership(change, false);
        // Refused while the first half is not committed; the next look tries again.
        let finished = tokio::time::timeout(self.core.timings.interval * 2, finished).await;
        tracing::info!(node = %self.core.node(), done = matches!(finished, Ok(Ok(_))),
            "finishing a change of voters");
        drop(guard);
    }
}
