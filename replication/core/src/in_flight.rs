//! Records that were appended and are not yet visible: the window.
//!
//! **Owns**: their count and bytes against the window, when each was appended, the newest change
//! in flight of every key.
//! **Does not own**: when they become visible (`home`), who waits for them (`waiters`).
//!
//! Records that were recovered and not known to be visible are not in here: their keys and sizes
//! are on disk only.

use std::collections::VecDeque;
use std::collections::btree_map::{BTreeMap, Entry};

use bytes::Bytes;
use domicile_proto::Seq;

use crate::config::Window;
use crate::moment::Moment;
use crate::refusal::{Bound, Refusal};
use crate::write::KeyChange;

#[derive(Debug, Clone)]
struct Record {
    bytes: u32,
    appended: Moment,
    keys: Vec<(Bytes, KeyChange)>,
}

/// The window of one home. Bounded by [`Window`], but for the few marks that are always let in.
#[derive(Debug, Clone)]
pub(crate) struct InFlight {
    window: Window,
    /// The place of the first record in `records`.
    first: Seq,
    records: VecDeque<Record>,
    bytes: u64,
    newest: BTreeMap<Bytes, (Seq, KeyChange)>,
}

impl InFlight {
    /// An empty window after `last_seq`.
    pub(crate) fn new(window: Window, last_seq: Seq) -> Self {
        let (records, newest) = (VecDeque::new(), BTreeMap::new());
        Self {
            window,
            first: last_seq.next(),
            records,
            bytes: 0,
            newest,
        }
    }

    /// Whether another record may be let in. One larger than the window is, when it is alone.
    ///
    /// # Errors
    /// [`Refusal::Overloaded`].
    pub(crate) fn check_room(&self, bytes: u32) -> Result<(), Refusal> {
        let (actual, limit) = (
            self.records.len() as u64 + 1,
            u64::from(self.window.records_max),
        );
        if actual > limit {
            return Err(Refusal::Overloaded {
                bound: Bound::Records,
                actual,
                limit,
            });
        }
        let (actual, limit) = (self.bytes + u64::from(bytes), self.window.bytes_max);
        if actual > limit && !self.records.is_empty() {
            return Err(Refusal::Overloaded {
                bound: Bound::Bytes,
                actual,
                limit,
            });
        }
        Ok(())
    }

    /// Takes the next record in.
    pub(crate) fn push(
        &mut self,
        seq: Seq,
        bytes: u32,
        keys: Vec<(Bytes, KeyChange)>,
        now: Moment,
    ) {
        let next = self.first.plus(self.records.len() as u64);
        assert!(
            seq == next,
            "record {seq} into a window that expects {next}"
        );
        for (key, change) in &keys {
            self.newest.insert(key.clone(), (seq, *change));
        }
        self.bytes += u64::from(bytes);
        self.records.push_back(Record {
            bytes,
            appended: now,
            keys,
        });
    }

    /// Lets everything up to `upto` out: it is visible, that is among the applied cells.
    pub(crate) fn release(&mut self, upto: Seq) {
        let last = self.first.plus(self.records.len() as u64);
        assert!(upto < last, "release up to {upto}, in flight below {last}");
        while self.first <= upto {
            let record = self
                .records
                .pop_front()
                .expect("asserted above to be in flight");
            for (key, _) in record.keys {
                if let Entry::Occupied(newest) = self.newest.entry(key)
                    && newest.get().0 == self.first
                {
                    newest.remove();
                }
            }
            self.bytes -= u64::from(record.bytes);
            self.first = self.first.next();
        }
        assert!(
            !self.records.is_empty() || self.bytes == 0,
            "{} bytes in no record",
            self.bytes
        );
    }

    /// The newest change of a key in flight.
    pub(crate) fn newest(&self, key: &Bytes) -> Option<(Seq, KeyChange)> {
        self.newest.get(key).copied()
    }

    /// When the oldest record in flight was appended.
    pub(crate) fn oldest_appended(&self) -> Option<Moment> {
        self.records.front().map(|record| record.appended)
    }

    /// Their bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn the_newest_change_survives_the_release_of_older_ones() {
        let mut window = InFlight::new(Window::default(), Seq::new(4));
        let now = Moment::START;
        window.push(Seq::new(5), 10, vec![(key("a"), KeyChange::Put)], now);
        let both = vec![(key("a"), KeyChange::Put), (key("a"), KeyChange::Delete)];
        window.push(Seq::new(6), 20, both, now);
        window.release(Seq::new(5));
        assert_eq!(
            window.newest(&key("a")),
            Some((Seq::new(6), KeyChange::Delete))
        );
        assert_eq!((window.records.len(), window.bytes()), (1, 20));
        window.release(Seq::new(6));
        assert_eq!(window.newest(&key("a")), None);
        assert!(window.newest.is_empty());
    }

    #[test]
    fn one_record_above_the_window_is_let_in_alone() {
        let window = Window {
            records_max: 2,
            bytes_max: 10,
        };
        let mut flight = InFlight::new(window, Seq::NONE);
        assert!(flight.check_room(99).is_ok());
        flight.push(Seq::new(1), 99, vec![], Moment::START);
        let full = flight.check_room(1).unwrap_err();
        assert_eq!(
            full,
            Refusal::Overloaded {
                bound: Bound::Bytes,
                actual: 100,
                limit: 10
            }
        );
    }
}
