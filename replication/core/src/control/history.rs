//! What changed hands: every takeover and switchover, with its times and what it cost.
//!
//! **Owns**: the list, its bound, the arithmetic of times and losses.
//! **Does not own**: deciding (map), measuring (whoever sends the notes).

use std::collections::VecDeque;
use std::time::Duration;

use domicile_proto::{Epoch, NodeId, PartitionId};

use super::command::{Decision, Lost, Note};

/// Changes remembered: eight partitions of a hundred keyspaces five times over. At about 200 bytes
/// each they cost a megabyte; doubled, reports reach back twice as far and snapshots grow.
pub const CHANGES_MAX: usize = 4096;

/// Why a home changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The old one was lost.
    Lost(Lost, Decision),
    /// It was planned.
    Planned,
}

/// One change of home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Of which partition.
    pub partition: PartitionId,
    /// The reign that ended.
    pub from: Epoch,
    /// The one that began.
    pub to: Epoch,
    /// Why.
    pub why: Why,
    /// When the new home began, in milliseconds since 1970.
    pub opened_ms: Option<u64>,
    /// When it acknowledged its first write.
    pub served_ms: Option<u64>,
    /// What each node had beyond the fork: (node, records, bytes).
    pub orphaned: Vec<(NodeId, u64, u64)>,
    /// What the old home may have acknowledged beyond the fork, once its journal was read: (writes,
    /// bytes).
    pub actual: Option<(u64, u64)>,
    /// Since when the old home acknowledged with less than its level, if it did at its end.
    pub degraded_ms: Option<u64>,
}

/// How long a takeover took, part by part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecoveryTimes {
    /// From when the home was last heard of until it was given up.
    pub detect: Duration,
    /// Until it could not acknowledge any more.
    pub fence: Duration,
    /// Until its successor began.
    pub promote: Duration,
    /// Until the first write was acknowledged; `None` while nobody wrote.
    pub route: Option<Duration>,
}

impl Change {
    /// How long it took; `None` for a planned one, and until the new home has begun.
    ///
    /// The parts are differences of different nodes' wall clocks: a part that clocks make negative
    /// counts as zero.
    #[must_use]
    pub fn times(&self) -> Option<RecoveryTimes> {
        let Why::Lost(lost, decision) = self.why else {
            return None;
        };
        let between = |from: u64, to: u64| Duration::from_millis(to.saturating_sub(from));
        let opened_ms = self.opened_ms?;
        Some(RecoveryTimes {
            detect: between(lost.heard_ms, lost.noticed_ms),
            fence: between(lost.noticed_ms, decision.fenced_ms),
            promote: between(decision.fenced_ms, opened_ms),
            route: self
                .served_ms
                .map(|served_ms| between(opened_ms, served_ms)),
        })
    }

    fn note(&mut self, note: Note) {
        match note {
            Note::Opened { at_ms } => self.opened_ms = self.opened_ms.or(Some(at_ms)),
            Note::Served { at_ms } => self.served_ms = self.served_ms.or(Some(at_ms)),
            Note::Orphaned {
                node,
                records,
                bytes,
                lost,
            } => {
                // That nothing was cut is noticed at every later stream, too.
                if records == 0 && self.orphaned.iter().any(|(each, _, _)| *each == node) {
                    return;
                }
                self.orphaned.retain(|(each, _, _)| *each != node);
                self.orphaned.push((node, records, bytes));
                self.actual = lost.or(self.actual);
            }
        }
    }
}

/// The last changes, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History {
    changes: VecDeque<Change>,
    forgotten: u64,
}

impl History {
    /// The list as it was told elsewhere.
    #[must_use]
    pub fn restore(changes: Vec<Change>, forgotten: u64) -> Self {
        Self {
            changes: changes.into(),
            forgotten,
        }
    }

    /// The changes that are remembered, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Change> {
        self.changes.iter()
    }

    /// How many older ones are not remembered any more.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    pub(super) fn push(&mut self, change: Change) {
        self.changes.push_back(change);
        while self.changes.len() > CHANGES_MAX {
            self.changes.pop_front();
            self.forgotten += 1;
        }
    }

    /// Adds to what is known of a change; whether there is such a one.
    pub(super) fn note(&mut self, partition: PartitionId, epoch: Epoch, note: Note) -> bool {
        let mut changes = self.changes.iter_mut().rev();
        let found = changes.find(|each| each.partition == partition && each.to == epoch);
        let is_found = found.is_some();
        if let Some(change) = found {
            change.note(note);
        }
        is_found
    }
}
