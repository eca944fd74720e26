//! The log as its frames leave it, in memory.
//!
//! **Owns**: the entries, what was purged, what is known to be committed; that there are no holes.
//! **Does not own**: the file.

use std::collections::VecDeque;
use std::ops::Range;

use super::entry::{Entry, EntryId, LogIndex};

/// The log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Contents {
    /// The last entry that is covered by a snapshot and no longer here.
    pub(super) purged: Option<EntryId>,
    /// Without holes.
    pub(super) entries: VecDeque<Entry>,
    /// Known to be committed: at least this much, perhaps more.
    pub(super) committed: Option<EntryId>,
}

/// An entry that would leave a hole or lie where another one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OutOfOrder {
    pub(super) expected: LogIndex,
    pub(super) actual: LogIndex,
}

impl Contents {
    pub(super) fn last(&self) -> Option<EntryId> {
        self.entries.back().map(|entry| entry.id).or(self.purged)
    }

    /// Whether these may follow: each at the place behind the one before.
    pub(super) fn check_append(&self, entries: &[Entry]) -> Result<(), OutOfOrder> {
        let mut expected = self.last().map(|last| last.index.next());
        for entry in entries {
            let actual = entry.id.index;
            if let Some(expected) = expected.filter(|expected| *expected != actual) {
                return Err(OutOfOrder { expected, actual });
            }
            expected = Some(actual.next());
        }
        Ok(())
    }

    /// Whether everything from `from` on may be dropped: nothing of it was purged.
    pub(super) fn check_truncate(&self, from: LogIndex) -> Result<(), OutOfOrder> {
        match self.purged {
            Some(purged) if from <= purged.index => Err(OutOfOrder {
                expected: purged.index.next(),
                actual: from,
            }),
            _ => Ok(()),
        }
    }

    /// Everything before it was checked.
    pub(super) fn append(&mut self, entries: impl IntoIterator<Item = Entry>) {
        self.entries.extend(entries);
    }

    pub(super) fn truncate(&mut self, from: LogIndex) {
        while self
            .entries
            .pop_back_if(|entry| entry.id.index >= from)
            .is_some()
        {}
    }

    pub(super) fn purge(&mut self, upto: EntryId) {
        while self
            .entries
            .pop_front_if(|entry| entry.id.index <= upto.index)
            .is_some()
        {}
        if self.purged.is_none_or(|purged| purged.index < upto.index) {
            self.purged = Some(upto);
        }
    }

    /// The entries of a range that are here, as many as fit into `bytes_max`, one at least.
    pub(super) fn read(&self, range: Range<LogIndex>, bytes_max: usize) -> Vec<Entry> {
        let Some(first) = self.entries.front().map(|entry| entry.id.index.get()) else {
            return Vec::new();
        };
        let skipped = range.start.get().saturating_sub(first);
        let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
        let (mut found, mut bytes) = (Vec::new(), 0_usize);
        for entry in self.entries.iter().skip(skipped) {
            bytes = bytes.saturating_add(entry.payload.len());
            if entry.id.index >= range.end || (bytes > bytes_max && !found.is_empty()) {
                break;
            }
            found.push(entry.clone());
        }
        found
    }
}
