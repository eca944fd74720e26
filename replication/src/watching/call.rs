//! What a watch is asked for and what it tells.
//!
//! **Owns**: the plain structs of both.
//! **Does not own**: their execution (`pump`), their wire form (server, client).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domicile_proto::limits::check_key;
use domicile_proto::{
    Hlc, Keyspace, Operation, OperationRef, PartitionId, Position, ResumeToken, Version,
};

use crate::error::Error;
use crate::node::partitions_of;

/// How long a full buffer may go untaken: far above any round trip and any pause of a collector.
/// Doubled, a consumer that is stuck holds its buffer for twice as long.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which keys are watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchKeys {
    /// Those that start with this; empty: all.
    Prefix(Bytes),
    /// This one.
    Key(Bytes),
}

/// Where a watch begins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum WatchFrom {
    /// With what becomes visible from now on.
    #[default]
    Now,
    /// With the first write ever; `COMPACTED` if the journal no longer has it.
    First,
    /// With the oldest write that the journal still has.
    Oldest,
    /// With what follows this.
    Token(ResumeToken),
}

/// A watch to be begun.
#[derive(Debug, Clone)]
pub struct WatchCall {
    /// Of what.
    pub keyspace: Arc<Keyspace>,
    /// Which keys.
    pub keys: WatchKeys,
    /// From where.
    pub from: WatchFrom,
    /// How long a full buffer may go untaken before the watch is cut off.
    pub patience: Duration,
}

/// What one write did to the keys that are watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// In which partition.
    pub partition: PartitionId,
    /// The version that it gave to every key it set.
    pub version: Version,
    /// When its home sequenced it.
    pub written_at: Hlc,
    /// Of one write, in its order; those of other keys are left out.
    pub operations: Vec<Operation>,
}

/// Changes in order, and how far the watch has come with them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WatchMessage {
    /// In order within a partition. May be empty.
    pub changes: Vec<Change>,
    /// The partitions that moved, those with writes to other keys included; the first message has
    /// all of them. `None`: before the first record.
    pub positions: Vec<(PartitionId, Option<Position>)>,
}

impl WatchCall {
    /// All changes of a keyspace from now on.
    #[must_use]
    pub fn new(keyspace: Arc<Keyspace>) -> Self {
        Self {
            keyspace,
            keys: WatchKeys::Prefix(Bytes::new()),
            from: WatchFrom::Now,
            patience: PATIENCE,
        }
    }

    /// The partitions that its keys can be in.
    pub(super) fn partitions(&self) -> Result<Vec<PartitionId>, Error> {
        match &self.keys {
            WatchKeys::Prefix(prefix) => Ok(partitions_of(&self.keyspace, prefix)),
            WatchKeys::Key(key) => {
                check_key(key)?;
                Ok(vec![self.keyspace.partition_of(key)])
            }
        }
    }
}

impl WatchKeys {
    pub(super) fn matches(&self, key: &[u8]) -> bool {
        match self {
            Self::Prefix(prefix) => key.starts_with(prefix),
            Self::Key(only) => key == &only[..],
        }
    }
}

impl Change {
    /// Its place in its partition's history.
    #[must_use]
    pub fn position(&self) -> Position {
        Position {
            epoch: self.version.epoch,
            seq: self.version.seq,
        }
    }

    /// About what it takes in memory.
    pub(super) fn bytes(&self) -> usize {
        let sizes = self.operations.iter().map(|operation| match operation {
            Operation::Put { key, value, .. } => key.len() + value.len(),
            Operation::Delete { key } => key.len(),
        });
        let operations = self.operations.len() * size_of::<Operation>();
        size_of::<Self>() + operations + sizes.sum::<usize>()
    }
}

/// An operation with its own copy of key and value: a slice would keep the whole piece of journal
/// that it was read with.
pub(super) fn owned(operation: OperationRef<'_>) -> Operation {
    match operation {
        OperationRef::Put { key, value, expiry } => Operation::Put {
            key: Bytes::copy_from_slice(key),
            value: Bytes::copy_from_slice(value),
            expiry,
        },
        OperationRef::Delete { key } => Operation::Delete {
            key: Bytes::copy_from_slice(key),
        },
    }
}

#[cfg(test)]
mod tests {
    use domicile_proto::{Name, Placement, RegionId};

    use super::*;

    #[test]
    fn a_prefix_with_a_whole_group_is_one_partition() {
        let regions: Vec<RegionId> = (1..=3).map(|id| RegionId::new(id).unwrap()).collect();
        let name = Name::new("users").unwrap();
        let mut keyspace = Keyspace::new(name, regions.clone(), regions[0]);
        keyspace.placement = Placement::Hash;
        let keyspace = Arc::new(keyspace.validate().unwrap());
        let of = |keys| {
            let mut call = WatchCall::new(Arc::clone(&keyspace));
            call.keys = keys;
            call.partitions()
        };
        let prefix = |text: &'static str| WatchKeys::Prefix(Bytes::from_static(text.as_bytes()));
        assert_eq!(of(prefix("")).unwrap(), keyspace.partitions());
        // Groups that begin like this are anywhere.
        assert_eq!(of(prefix("alice")).unwrap().len(), 24);
        let group = vec![keyspace.partition_of(b"alice/x")];
        assert_eq!(of(prefix("alice/")).unwrap(), group);
        assert_eq!(of(prefix("alice/inbox/7")).unwrap(), group);
        assert_eq!(of(WatchKeys::Key("alice".into())).unwrap(), group);
        assert!(of(WatchKeys::Key(Bytes::new())).is_err());
    }

    #[test]
    fn keys_match_from_their_beginning_or_as_a_whole() {
        let prefix = WatchKeys::Prefix("ab".into());
        assert!(prefix.matches(b"ab") && prefix.matches(b"abc"));
        assert!(!prefix.matches(b"a") && !prefix.matches(b"xab"));
        let key = WatchKeys::Key("ab".into());
        assert!(key.matches(b"ab") && !key.matches(b"abc"));
    }
}
