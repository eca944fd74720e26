//! Where a watch stands in the journal, and which record of each of its partitions comes next.
//!
//! **Owns**: picking, from the journal's mix of partitions, what is visible and not told yet, each
//! once and in order; noticing that the journal was cut before it was read.
//! **Does not own**: reading files (storage), when to look (`pump`).
//!
//! - Of a partition everything before `place` was looked at, and everything before `next` told.
//! - A record is told only if it is durable here and visible here: the first since it is read from
//!   the journal, the second since the cells say so.

use std::collections::BTreeMap;
use std::sync::Arc;

use domicile_proto::{Epoch, PartitionId, Position, Reason, Record, Segment, Seq, Version};
use domicile_storage::{JournalChunk, LogReach, PartitionCells, Place, Store, StoreError};

use super::call::{Change, WatchKeys, owned};
use crate::error::Error;

/// Bytes of changes that one pass takes. Twice as many fill the outlet in half as many messages and
/// hold twice as much; half as many read a large segment twice as often.
const PASS_BYTES: usize = 256 << 10;

/// One partition of a watch.
pub(super) struct Follower {
    cells: Arc<PartitionCells>,
    /// The next record.
    pub(super) next: Seq,
    /// The reign of the one before it; `None` before the first.
    pub(super) epoch: Option<Epoch>,
    pub(super) place: Place,
    visible_upto: Seq,
    /// In the pass that is going on: the segment that could not be told to its end.
    held_at: Option<Place>,
}

/// All partitions of a watch.
pub(super) struct WatchCursor {
    followers: BTreeMap<PartitionId, Follower>,
    keys: WatchKeys,
}

/// What one pass found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) changes: Vec<Change>,
    pub(super) moved: BTreeMap<PartitionId, Option<Position>>,
    /// Records looked at, those of other keys included.
    pub(super) records: u64,
    bytes: usize,
}

impl Follower {
    /// One that has seen `seen`. What follows it lies at or behind `place`.
    pub(super) fn new(cells: Arc<PartitionCells>, seen: Option<Position>, place: Place) -> Self {
        Self {
            cells,
            next: seen.map_or(Seq::FIRST, |position| position.seq.next()),
            epoch: seen.map(|position| position.epoch),
            place,
            visible_upto: Seq::NONE,
            held_at: None,
        }
    }

    /// What is seen.
    pub(super) fn seen(&self) -> Option<Position> {
        self.epoch.map(|epoch| Position {
            epoch,
            seq: Seq::new(self.next.get() - 1),
        })
    }

    /// Checks that the log goes on from where this follower stands.
    ///
    /// # Errors
    /// `COMPACTED` if the journal no longer has the next record; `SESSION_LOST` if what was seen is
    /// not in this log.
    pub(super) fn check(&self, reach: &LogReach) -> Result<(), Error> {
        if let (Some(seen), Some(own)) = (self.seen(), reach.epoch_before)
            && seen.epoch != own
        {
            let partition = self.cells.partition();
            let Position { epoch, seq } = seen;
            let message = format!(
                "the watch saw record {seq} of {partition} in reign {epoch}, here it is of {own}"
            );
            return Err(Error::new(Reason::SessionLost, message).with("partition", partition));
        }
        if reach.is_cut(self.next) {
            return Err(self.compacted(reach));
        }
        Ok(())
    }

    fn compacted(&self, reach: &LogReach) -> Error {
        let (partition, wanted, oldest) = (self.cells.partition(), self.next, reach.oldest);
        let position = reach
            .oldest_epoch
            .map(|epoch| Position { epoch, seq: oldest });
        let position = position.map_or(oldest.to_string(), |position| position.to_string());
        let message = format!(
            "record {wanted} of {partition} is no longer in the journal, the oldest position is \
             {position}"
        );
        Error::new(Reason::Compacted, message)
            .with("partition", partition)
            .with("wanted", wanted)
            .with("oldest", oldest)
            .with("oldest_position", position)
    }

    /// Takes what may be told of a segment; the rest is held.
    fn take(
        &mut self,
        (at, segment): (Place, &Segment),
        keys: &WatchKeys,
        found: &mut Found,
    ) -> Result<(), Error> {
        let header = segment.header();
        let invalid = |source| StoreError::InvalidRecord {
            partition: header.partition,
            seq: header.first_seq,
            source,
        };
        if self.visible_upto < self.next || found.bytes >= PASS_BYTES {
            self.held_at = Some(at);
            return Ok(());
        }
        for (seq, record) in segment.records().map_err(invalid)? {
            if seq < self.next {
                continue;
            }
            if seq > self.visible_upto || found.bytes >= PASS_BYTES {
                self.held_at = Some(at);
                return Ok(());
            }
            let position = Position {
                epoch: header.epoch,
                seq,
            };
            let change = change_of(header.partition, position, &record, keys).map_err(invalid)?;
            (self.next, self.epoch) = (seq.next(), Some(header.epoch));
            found.records += 1;
            found.moved.insert(header.partition, Some(position));
            found.bytes += change.as_ref().map_or(0, Change::bytes);
            found.changes.extend(change);
        }
        Ok(())
    }
}

/// The change that a record is to a watcher of `keys`; `None` if it touches none of them.
fn change_of(
    partition: PartitionId,
    position: Position,
    record: &Record,
    keys: &WatchKeys,
) -> Result<Option<Change>, domicile_proto::WireError> {
    let mut operations = Vec::new();
    record.body.visit_operations(|operation| {
        let key = match operation {
            domicile_proto::OperationRef::Put { key, .. }
            | domicile_proto::OperationRef::Delete { key } => key,
        };
        if keys.matches(key) {
            operations.push(owned(operation));
        }
    })?;
    let change = Change {
        partition,
        version: Version {
            generation: record.head.generation,
            epoch: position.epoch,
            seq: position.seq,
        },
        written_at: record.head.hlc,
        operations,
    };
    Ok((!change.operations.is_empty()).then_some(change))
}

impl WatchCursor {
    pub(super) fn new(followers: Vec<Follower>, keys: WatchKeys) -> Self {
        let followers = followers
            .into_iter()
            .map(|follower| (follower.cells.partition(), follower));
        Self {
            followers: followers.collect(),
            keys,
        }
    }

    /// All partitions with what is seen of them.
    pub(super) fn positions(&self) -> Vec<(PartitionId, Option<Position>)> {
        let followers = self.followers.iter();
        followers
            .map(|(id, follower)| (*id, follower.seen()))
            .collect()
    }

    /// The part of the journal to read next: from the first place where a record lies that may be
    /// told up to the durable end. `None`: there is nothing to tell.
    ///
    /// # Errors
    /// As [`Follower::check`].
    pub(super) fn plan(&mut self, store: &Store) -> Result<Option<(Place, Place)>, Error> {
        // The end first: what becomes durable after it lies behind it.
        let end = store.durable_end();
        let mut start: Option<Place> = None;
        for follower in self.followers.values_mut() {
            follower.visible_upto = follower.cells.applied_upto();
            if follower.visible_upto < follower.next {
                continue;
            }
            let reach = store.reach(follower.cells.partition(), follower.next);
            follower.check(&reach)?;
            if reach.durable_upto < follower.next {
                // Shown, as copies may, and not durable yet.
                follower.place = follower.place.max(end);
                continue;
            }
            follower.place = follower.place.max(reach.place);
            if follower.place < end {
                start = Some(start.map_or(follower.place, |start| start.min(follower.place)));
            }
        }
        Ok(start.map(|start| (start, end)))
    }

    /// Takes what may be told out of a chunk that was read from `start` on.
    ///
    /// # Errors
    /// As [`Follower::check`]; `CHECKSUM_MISMATCH` if the journal lacks a record that it should
    /// have.
    pub(super) fn take(
        &mut self,
        store: &Store,
        start: Place,
        chunk: &JournalChunk,
    ) -> Result<Found, Error> {
        let mut found = Found::default();
        for (at, segment) in &chunk.segments {
            let header = segment.header();
            let Some(follower) = self.followers.get_mut(&header.partition) else {
                continue;
            };
            // One that waits behind what is read here is not looked at: it has nothing to tell.
            let is_read = follower.place >= start && follower.held_at.is_none();
            if !is_read || header.last_seq() < follower.next {
                continue;
            }
            if header.first_seq > follower.next {
                follower.check(&store.reach(header.partition, follower.next))?;
                let (partition, next) = (header.partition, follower.next);
                let message = format!("the journal lacks record {next} of {partition}");
                return Err(Error::new(Reason::ChecksumMismatch, message));
            }
            follower.take((*at, segment), &self.keys, &mut found)?;
        }
        for follower in self.followers.values_mut() {
            match follower.held_at.take() {
                Some(at) => follower.place = follower.place.max(at),
                None if follower.place >= start => {
                    follower.place = follower.place.max(chunk.next);
                }
                None => {}
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
#[path = "cursor_tests.rs"]
mod tests;
