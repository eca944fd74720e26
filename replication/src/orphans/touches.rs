//! Who touched a key last since a fork, by the log that is here.
//!
//! **Owns**: following the log behind the fork for the keys of one orphan file.
//! **Does not own**: what that means for a record (`window`), the log (storage).
//!
//! A key without a value has no version: only the log tells whether it was removed since the fork
//! or was not there. Keys are known by a hash: another key with the same hash makes a key look
//! touched, never untouched.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use domicile_proto::hash::hash64;
use domicile_proto::{OperationRef, PartitionId, Position, Reason, Seq};
use domicile_storage::{OrphanFile, Store, StoreError};

use crate::error::Error;
use crate::node::NodeCore;
use crate::ownership::blocking;

/// How long the log here may take to reach what its home has shown: a copy that is connected does
/// within a round trip and a sync. Doubled, an operator waits twice as long to hear that it is not.
const REACH_MAX: Duration = Duration::from_secs(10);

/// Pause between two looks at how far the log is: about a sync.
const REACH_PAUSE: Duration = Duration::from_millis(5);

/// A key, by its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct KeyHash(u64);

impl KeyHash {
    pub(super) fn of(key: &[u8]) -> Self {
        Self(hash64(key))
    }
}

/// Where the last shared record of a file is; `None` if not one is shared.
pub(super) fn fork_of(file: &OrphanFile) -> Option<Position> {
    file.fork.epoch.map(|epoch| Position {
        epoch,
        seq: file.fork.seq,
    })
}

/// The last record since the fork that touched each of some keys.
#[derive(Debug)]
pub(super) struct Touches {
    partition: PartitionId,
    fork: Option<Position>,
    keys: Arc<BTreeSet<KeyHash>>,
    last: BTreeMap<KeyHash, Position>,
    /// The first record that was not looked at.
    next: Seq,
    /// Why the log cannot tell.
    gap: Option<String>,
}

impl Touches {
    /// Of these keys; nothing is looked at yet.
    pub(super) fn new(store: &Store, file: &OrphanFile, keys: BTreeSet<KeyHash>) -> Self {
        let after = file.fork.seq.next();
        let is_there = store.reach(file.partition, after).epoch_before == file.fork.epoch;
        // A later cut may have taken the fork itself: then all of the log counts.
        let next = if is_there { after } else { Seq::FIRST };
        Self {
            partition: file.partition,
            fork: fork_of(file),
            keys: Arc::new(keys),
            last: BTreeMap::new(),
            next,
            gap: None,
        }
    }

    /// The last record that touched a key, as far as was followed; `Err` says why nobody can tell.
    pub(super) fn last_of(&self, key: KeyHash) -> Result<Option<Position>, &str> {
        match &self.gap {
            Some(gap) => Err(gap),
            None => Ok(self.last.get(&key).copied()),
        }
    }

    /// Follows the log up to where its home had shown it.
    ///
    /// # Errors
    /// `RECOVERING` if the log here does not get there; what the store says.
    pub(super) async fn follow(&mut self, node: &NodeCore, upto: Position) -> Result<(), Error> {
        if self.gap.is_some() || self.next > upto.seq {
            return Ok(());
        }
        self.wait_reach(node, upto).await?;
        let (store, keys) = (Arc::clone(&node.store), Arc::clone(&self.keys));
        let (partition, fork, next) = (self.partition, self.fork, self.next);
        let range = (next, upto.seq);
        let read = blocking(move || read(&store, partition, fork, &keys, range)).await?;
        match read {
            Read::Touched(touched) => {
                self.last.extend(touched);
                self.next = upto.seq.next();
            }
            Read::Cut { oldest } => {
                self.gap = Some(format!(
                    "record {next} of {partition} is no longer in the journal here, the oldest is \
                     {oldest}"
                ));
            }
        }
        Ok(())
    }

    /// Waits until the log here is that of the home up to there.
    async fn wait_reach(&self, node: &NodeCore, upto: Position) -> Result<(), Error> {
        let deadline = Instant::now() + REACH_MAX;
        loop {
            let reach = node.store.reach(self.partition, upto.seq.next());
            let slot = node.driver.slot(self.partition);
            // This is the home, or a record of its reign is here: what lies before it was compared
            // then.
            let is_of_home =
                slot.is_some_and(|slot| slot.is_home()) || reach.epoch_before == Some(upto.epoch);
            if reach.durable_upto >= upto.seq && is_of_home {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let (partition, here) = (self.partition, reach.durable_upto);
                let message = format!(
                    "the log of {partition} ends here at {here}, its home is at {upto}: not within \
                     {REACH_MAX:?}"
                );
                return Err(Error::new(Reason::Recovering, message));
            }
            tokio::time::sleep(REACH_PAUSE).await;
        }
    }
}

enum Read {
    Touched(BTreeMap<KeyHash, Position>),
    Cut { oldest: Seq },
}

fn read(
    store: &Store,
    partition: PartitionId,
    fork: Option<Position>,
    keys: &BTreeSet<KeyHash>,
    (first, last): (Seq, Seq),
) -> Result<Read, StoreError> {
    let mut touched = BTreeMap::new();
    let mut next = first;
    for record in store.records(partition, first) {
        let (epoch, seq, record) = record?;
        if seq > next {
            break;
        }
        next = seq.next();
        let position = Position { epoch, seq };
        if Some(position) > fork {
            let visited = record.body.visit_operations(|operation| {
                let (OperationRef::Put { key, .. } | OperationRef::Delete { key }) = operation;
                let key = KeyHash::of(key);
                if keys.contains(&key) {
                    touched.insert(key, position);
                }
            });
            visited.map_err(|source| StoreError::InvalidRecord {
                partition,
                seq,
                source,
            })?;
        }
        if next > last {
            return Ok(Read::Touched(touched));
        }
    }
    // The journal begins behind it, or was cut while it was read.
    let oldest = store.log_start(partition);
    Ok(Read::Cut { oldest })
}
