//! What is kept, by name, by id, by partition and by keyspace.
//!
//! **Owns**: the index over the writes that are kept, its tallies and bounds.
//! **Does not own**: the file that it mirrors (storage).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use domicile_proto::{BufferLimit, Keyspace, KeyspaceId, PartitionId, Reason, RequestId, Seq};
use domicile_storage::{BufferEvent, BufferNumber, BufferedWrite};

use crate::error::Error;

/// Writes kept by one node, over all keyspaces: about 300 bytes of memory each. Doubled, a node may
/// hold 80 MB of them besides what they take on disk.
const WRITES_MAX: usize = 131_072;

/// When a caller that was refused does well to come back.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What is kept of a keyspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BufferStanding {
    /// Writes that wait for their home.
    pub waiting: u64,
    /// Writes that their home refused, kept for an operator.
    pub refused: u64,
    /// Bytes of both on disk.
    pub bytes: u64,
    /// The age of the oldest that waits.
    pub age: Duration,
}

/// All that is kept.
#[derive(Debug, Default)]
pub(super) struct Standing {
    writes: BTreeMap<BufferNumber, BufferedWrite>,
    /// Those that wait.
    queues: BTreeMap<PartitionId, BTreeSet<BufferNumber>>,
    ids: HashMap<RequestId, BufferNumber>,
    tallies: BTreeMap<KeyspaceId, BufferStanding>,
}

impl Standing {
    /// A write is kept from now on, or was before the start.
    pub(super) fn insert(&mut self, write: BufferedWrite) {
        let tally = self.tallies.entry(write.partition.keyspace).or_default();
        tally.bytes += write.bytes;
        if write.refused.is_some() {
            tally.refused += 1;
        } else {
            tally.waiting += 1;
            let queue = self.queues.entry(write.partition).or_default();
            queue.insert(write.number);
        }
        self.ids.insert(write.request_id, write.number);
        self.writes.insert(write.number, write);
    }

    /// What became of a write that is kept.
    pub(super) fn apply(&mut self, event: &BufferEvent) {
        match event {
            BufferEvent::Accepted(..) => {}
            BufferEvent::Settled(number) => drop(self.remove(*number)),
            BufferEvent::Refused(number, refused) => {
                if let Some(mut write) = self.remove(*number) {
                    write.refused = Some(refused.clone());
                    self.insert(write);
                }
            }
        }
    }

    fn remove(&mut self, number: BufferNumber) -> Option<BufferedWrite> {
        let write = self.writes.remove(&number)?;
        let tally = self.tallies.entry(write.partition.keyspace).or_default();
        tally.bytes -= write.bytes;
        match write.refused.is_some() {
            true => tally.refused -= 1,
            false => tally.waiting -= 1,
        }
        if let Some(queue) = self.queues.get_mut(&write.partition) {
            queue.remove(&number);
            if queue.is_empty() {
                self.queues.remove(&write.partition);
            }
        }
        if self.ids.get(&write.request_id) == Some(&number) {
            self.ids.remove(&write.request_id);
        }
        Some(write)
    }

    pub(super) fn waiting(&self) -> usize {
        self.queues.values().map(BTreeSet::len).sum()
    }

    pub(super) fn has_waiting(&self, partition: PartitionId) -> bool {
        self.queues.contains_key(&partition)
    }

    /// The partitions of which writes wait.
    pub(super) fn partitions(&self) -> Vec<PartitionId> {
        self.queues.keys().copied().collect()
    }

    /// The first of those that wait, in order: at most so many, of at most so many bytes, but one.
    pub(super) fn first_waiting(
        &self,
        partition: PartitionId,
        (writes_max, bytes_max): (usize, u64),
    ) -> Vec<BufferedWrite> {
        let mut bytes = 0;
        let queue = self.queues.get(&partition).into_iter().flatten();
        let writes = queue.filter_map(|number| self.writes.get(number));
        let fits = writes.take(writes_max).take_while(|write| {
            let is_first = bytes == 0;
            bytes += write.bytes;
            is_first || bytes <= bytes_max
        });
        fits.cloned().collect()
    }

    /// The first record that may be one of those that wait in a partition: the log is searched from
    /// there.
    pub(super) fn searched_from(&self, partition: PartitionId) -> Option<Seq> {
        let queue = self.queues.get(&partition)?;
        let writes = queue.iter().filter_map(|number| self.writes.get(number));
        let froms = writes.map(|write| write.log_end.map_or(Seq::FIRST, |end| end.seq.next()));
        froms.min()
    }

    /// The ids that wait in a partition, each with its number.
    pub(super) fn waiting_ids(&self, partition: PartitionId) -> Vec<BufferedWrite> {
        self.first_waiting(partition, (usize::MAX, u64::MAX))
    }

    pub(super) fn of_id(&self, id: RequestId) -> Option<&BufferedWrite> {
        self.ids.get(&id).and_then(|number| self.writes.get(number))
    }

    pub(super) fn of_number(&self, number: BufferNumber) -> Option<&BufferedWrite> {
        self.writes.get(&number)
    }

    /// Those from one number on.
    pub(super) fn from(&self, number: BufferNumber) -> impl Iterator<Item = &BufferedWrite> {
        self.writes.range(number..).map(|(_, write)| write)
    }

    /// By keyspace, at a time in ms since 1970.
    pub(super) fn standings(&self, now_ms: u64) -> BTreeMap<KeyspaceId, BufferStanding> {
        let mut standings = self.tallies.clone();
        for (partition, queue) in &self.queues {
            let oldest = queue.first().and_then(|number| self.writes.get(number));
            let standing = standings.get_mut(&partition.keyspace);
            if let (Some(oldest), Some(standing)) = (oldest, standing) {
                let age_ms = now_ms.saturating_sub(oldest.accepted_at_ms);
                standing.age = standing.age.max(Duration::from_millis(age_ms));
            }
        }
        standings
    }

    /// Refuses a write that is one too many. `coming` are bytes on their way to the disk.
    pub(super) fn check_room(
        &self,
        keyspace: &Keyspace,
        limit: BufferLimit,
        (coming, bytes): (u64, u64),
        now_ms: u64,
    ) -> Result<(), Error> {
        let standings = self.standings(now_ms);
        let standing = standings.get(&keyspace.id()).copied().unwrap_or_default();
        let full = |what: String| {
            let name = &keyspace.name;
            let message = format!(
                "the home cannot be reached, and what is kept here of keyspace {name} is at its \
                 limit: {what}"
            );
            let error = Error::new(Reason::BufferFull, message).with("keyspace", name);
            Err(error.retry_in(RETRY_AFTER))
        };
        let actual = standing.bytes + coming + bytes;
        if actual > limit.bytes {
            let limit = limit.bytes;
            return full(format!("{actual} bytes with this write, limit {limit}"));
        }
        if standing.age > limit.age {
            let (actual, limit) = (standing.age.as_millis(), limit.age.as_millis());
            return full(format!("the oldest waits for {actual} ms, limit {limit}"));
        }
        if self.writes.len() >= WRITES_MAX {
            let actual = self.writes.len();
            return full(format!("{actual} writes, limit {WRITES_MAX} a node"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use domicile_proto::{Bucket, Name, RegionId};
    use domicile_storage::RefusedWrite;

    use super::*;

    fn keyspace() -> Keyspace {
        let region = RegionId::new(1).unwrap();
        Keyspace::new(Name::new("users").unwrap(), vec![region], region)
    }

    fn write(number: u64, bucket: u16) -> BufferedWrite {
        BufferedWrite {
            number: BufferNumber::new(number),
            partition: PartitionId {
                keyspace: keyspace().id(),
                region: RegionId::new(1).unwrap(),
                bucket: Bucket::new(bucket),
            },
            request_id: RequestId::new(number.into()).unwrap(),
            accepted_at_ms: 1000 * number,
            log_end: None,
            fingerprint: 0,
            bytes: 100,
            refused: None,
        }
    }

    fn numbers(writes: &[BufferedWrite]) -> Vec<u64> {
        writes.iter().map(|write| write.number.get()).collect()
    }

    #[test]
    fn what_waits_is_sent_in_order_and_what_was_refused_is_not() {
        let mut standing = Standing::default();
        for (number, bucket) in [(1, 0), (2, 7), (3, 0), (4, 0), (5, 0)] {
            standing.insert(write(number, bucket));
        }
        let here = write(1, 0).partition;
        let first = |standing: &Standing, most| numbers(&standing.first_waiting(here, most));
        assert_eq!(first(&standing, (2, u64::MAX)), [1, 3]);
        assert_eq!(first(&standing, (9, 250)), [1, 3]);
        assert_eq!(first(&standing, (9, 1)), [1], "one is always sent");
        assert_eq!(standing.searched_from(here), Some(Seq::FIRST));
        assert_eq!(standing.searched_from(write(1, 9).partition), None);
        let refused = RefusedWrite {
            reason: "INVALID_LEVEL".to_owned(),
            message: String::new(),
        };
        standing.apply(&BufferEvent::Refused(BufferNumber::new(1), refused));
        standing.apply(&BufferEvent::Settled(BufferNumber::new(3)));
        assert_eq!(first(&standing, (9, u64::MAX)), [4, 5]);
        let of = standing.standings(9_000)[&keyspace().id()];
        assert_eq!((of.waiting, of.refused, of.bytes), (3, 1, 400));
        assert_eq!(of.age, Duration::from_secs(7), "of the oldest that waits");
        for number in [1, 2, 4, 5] {
            standing.apply(&BufferEvent::Settled(BufferNumber::new(number)));
        }
        assert_eq!((standing.waiting(), standing.partitions().len()), (0, 0));
        let nothing = BufferStanding::default();
        assert_eq!(standing.standings(9_000)[&keyspace().id()], nothing);
        assert!(standing.of_id(RequestId::new(4).unwrap()).is_none());
    }

    #[test]
    fn limits_are_told_with_what_there_is() {
        let mut standing = Standing::default();
        standing.insert(write(1, 0));
        let check = |coming, age_ms, now_ms| {
            let limit = BufferLimit {
                bytes: 300,
                age: Duration::from_millis(age_ms),
            };
            let checked = standing.check_room(&keyspace(), limit, (coming, 100), now_ms);
            checked.map_err(|error| {
                assert_eq!(error.reason(), Reason::BufferFull);
                error.to_string()
            })
        };
        assert_eq!(check(100, 500, 1_500), Ok(()));
        let bytes = check(101, 500, 1_500).unwrap_err();
        assert!(
            bytes.ends_with("301 bytes with this write, limit 300"),
            "{bytes}"
        );
        let age = check(100, 500, 1_501).unwrap_err();
        assert!(age.ends_with("waits for 501 ms, limit 500"), "{age}");
    }
}
