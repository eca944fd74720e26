//! The policy of a keyspace, once it cannot be wrong, and the route from a key to its partition.
//!
//! **Owns**: validation of policies, grouping, placement, the hash from group to bucket.
//! **Does not own**: where policies come from (configuration, later the control plane).

use std::num::NonZeroU16;
use std::time::Duration;

use crate::hash::hash64;
use crate::identity::{Bucket, KeyspaceId, Name, PartitionId, RegionId};
use crate::level::AckLevel;

/// Buckets a region unless the keyspace says otherwise: enough to spread ownership later, few
/// enough that a group commit over all of them still writes large segments. Doubling it halves the
/// records in a segment under the same load.
pub const BUCKETS_DEFAULT: NonZeroU16 = NonZeroU16::new(8).expect("8 is not zero");

/// Most buckets a region: each costs memory on every node, and the benefit ends at the node count.
pub const BUCKETS_MAX: u16 = 1024;

/// How long a write waits for its level unless the keyspace says otherwise: far above any round
/// trip on earth, below the patience of a caller.
pub const ACK_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);

/// What a node may hold of a keyspace's writes that wait for their home, unless the keyspace says
/// otherwise: some minutes of a busy region. Doubled, a node may lose twice as much with its disk.
pub const BUFFER_BYTES_DEFAULT: u64 = 64 << 20;

/// The most it may be told to: what is read again at a restart, some seconds of it.
pub const BUFFER_BYTES_MAX: u64 = 4 << 30;

/// The least: one write of the largest size and what is told of it.
pub const BUFFER_BYTES_MIN: u64 = 8 << 20;

/// How old the oldest write that waits for its home may be, unless the keyspace says otherwise.
/// Doubled, what is written meanwhile at home is overwritten by what was meant twice as long ago.
pub const BUFFER_AGE_DEFAULT: Duration = Duration::from_secs(3600);

/// The most that may be: a week. What waits longer is a case for people.
pub const BUFFER_AGE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// What happens to a write whose level is not met within the keyspace's `ack_timeout`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum OnTimeout {
    /// Answer INDETERMINATE: durable at home, not where it was asked to be.
    #[default]
    Fail,
    /// Acknowledge with less, in a recorded state with start, end and range.
    Degrade,
    /// Wait until the request's own deadline.
    Block,
}

/// Which region a group belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// All in one region.
    Pinned(RegionId),
    /// Spread evenly over the keyspace's regions by the group's hash.
    Hash,
    /// The longest matching key prefix decides; `otherwise` where none matches.
    Rule {
        /// (prefix of the group, region).
        prefixes: Vec<(String, RegionId)>,
        /// Where groups go that match none.
        otherwise: RegionId,
    },
}

/// What happens when a home is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Failover {
    /// The copy that has most takes over, by itself where that is safe.
    #[default]
    Promote,
    /// Nothing by itself: copies go on answering reads, writes wait for the home or an operator.
    ReadOnly,
    /// As [`Failover::ReadOnly`], but that the node that took a write keeps it until the home is
    /// back: accepted, not applied.
    Buffer(BufferLimit),
}

/// How much a node keeps of a keyspace's writes that wait for their home.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BufferLimit {
    /// Bytes on its disk.
    pub bytes: u64,
    /// The age of the oldest.
    pub age: Duration,
}

impl Default for BufferLimit {
    fn default() -> Self {
        Self {
            bytes: BUFFER_BYTES_DEFAULT,
            age: BUFFER_AGE_DEFAULT,
        }
    }
}

/// The largest potential loss that a keyspace tolerates before its home refuses writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RpoLimit {
    /// Writes acknowledged here and not durable in the best copy.
    pub writes: Option<u64>,
    /// Their bytes.
    pub bytes: Option<u64>,
    /// The age of the oldest of them.
    pub age: Option<Duration>,
}

/// One keyspace's policy. Fields are public to read; [`Keyspace::validate`] makes it trustworthy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyspace {
    /// Its name.
    pub name: Name,
    /// The regions that may hold its data, and do.
    pub regions: Vec<RegionId>,
    /// Which of them a group belongs to.
    pub placement: Placement,
    /// Ends the group within a key.
    pub delimiter: u8,
    /// Partitions a region.
    pub buckets: NonZeroU16,
    /// When writes are acknowledged.
    pub ack: AckLevel,
    /// What happens if that takes too long.
    pub on_timeout: OnTimeout,
    /// How long that is.
    pub ack_timeout: Duration,
    /// The largest potential loss tolerated.
    pub max_rpo: RpoLimit,
    /// What happens when a home is lost.
    pub failover: Failover,
    /// Which regions come first where several copies have as much. Others follow, in the order of
    /// `regions`.
    pub successors: Vec<RegionId>,
}

/// Why a policy is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyspaceError {
    /// No region at all, or one named twice.
    #[error(
        "keyspace {keyspace}: {regions} regions of which {distinct} distinct, 1 or more, each once"
    )]
    Regions {
        /// Which keyspace.
        keyspace: Name,
        /// Regions listed.
        regions: usize,
        /// Distinct regions among them.
        distinct: usize,
    },
    /// The placement names a region outside the allow-list.
    #[error("keyspace {keyspace}: placement names region {region} which its regions do not list")]
    PlacementOutside {
        /// Which keyspace.
        keyspace: Name,
        /// The region.
        region: RegionId,
    },
    /// The level asks for more regions than there are.
    #[error("keyspace {keyspace}: ack {level} needs {needed} other regions, it has {copies}")]
    LevelUnreachable {
        /// Which keyspace.
        keyspace: Name,
        /// The level.
        level: AckLevel,
        /// Other regions it needs.
        needed: usize,
        /// Other regions there are.
        copies: usize,
    },
    /// A number out of its range.
    #[error("keyspace {keyspace}: {what} is {actual}, allowed {range}")]
    OutOfRange {
        /// Which keyspace.
        keyspace: Name,
        /// Which number.
        what: &'static str,
        /// The number.
        actual: u128,
        /// The range.
        range: &'static str,
    },
}

impl Keyspace {
    /// A keyspace with default policy: asynchronous, pinned to the first region.
    #[must_use]
    pub fn new(name: Name, regions: Vec<RegionId>, pinned_to: RegionId) -> Self {
        Self {
            name,
            regions,
            placement: Placement::Pinned(pinned_to),
            delimiter: b'/',
            buckets: BUCKETS_DEFAULT,
            ack: AckLevel::Async,
            on_timeout: OnTimeout::Fail,
            ack_timeout: ACK_TIMEOUT_DEFAULT,
            max_rpo: RpoLimit::default(),
            failover: Failover::Promote,
            successors: Vec::new(),
        }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> KeyspaceId {
        KeyspaceId::of(&self.name)
    }

    /// How many copies a partition has beside its home.
    #[must_use]
    pub fn copies(&self) -> usize {
        self.regions.len().saturating_sub(1)
    }

    /// Checks everything that can be checked without the other keyspaces.
    ///
    /// # Errors
    /// The first rule broken, with the values.
    pub fn validate(self) -> Result<Self, KeyspaceError> {
        let keyspace = || self.name.clone();
        let mut distinct = self.regions.clone();
        distinct.sort_unstable();
        distinct.dedup();
        if distinct.is_empty() || distinct.len() != self.regions.len() {
            let (regions, distinct) = (self.regions.len(), distinct.len());
            return Err(KeyspaceError::Regions {
                keyspace: keyspace(),
                regions,
                distinct,
            });
        }
        if let Some(region) = self
            .placed_regions()
            .find(|region| !distinct.contains(region))
        {
            return Err(KeyspaceError::PlacementOutside {
                keyspace: keyspace(),
                region,
            });
        }
        let (level, copies) = (self.ack, self.copies());
        let needed = level.received_needed(copies);
        if needed > copies {
            return Err(KeyspaceError::LevelUnreachable {
                keyspace: keyspace(),
                level,
                needed,
                copies,
            });
        }
        let range = |what, actual: u128, range| {
            Err(KeyspaceError::OutOfRange {
                keyspace: keyspace(),
                what,
                actual,
                range,
            })
        };
        if self.buckets.get() > BUCKETS_MAX {
            return range("buckets", self.buckets.get().into(), "1 to 1024");
        }
        if let Failover::Buffer(limit) = self.failover {
            if !(BUFFER_BYTES_MIN..=BUFFER_BYTES_MAX).contains(&limit.bytes) {
                let allowed = "8388608 to 4294967296";
                return range("buffer_bytes_max", limit.bytes.into(), allowed);
            }
            if !(Duration::from_millis(1)..=BUFFER_AGE_MAX).contains(&limit.age) {
                let allowed = "1 to 604800000";
                return range("buffer_ms_max", limit.age.as_millis(), allowed);
            }
        }
        if self.regions.len() > 64 {
            return range("number of regions", self.regions.len() as u128, "1 to 64");
        }
        let timeout_ms = self.ack_timeout.as_millis();
        if !(1..=600_000).contains(&timeout_ms) {
            return range("ack_timeout in ms", timeout_ms, "1 to 600000");
        }
        Ok(self)
    }

    /// The part of a key before the first delimiter; the whole key if there is none.
    #[must_use]
    pub fn group_of<'key>(&self, key: &'key [u8]) -> &'key [u8] {
        match key.iter().position(|byte| *byte == self.delimiter) {
            Some(end) => &key[..end],
            None => key,
        }
    }

    /// The partition that a key belongs to.
    #[must_use]
    pub fn partition_of(&self, key: &[u8]) -> PartitionId {
        let group = self.group_of(key);
        let hash = hash64(group);
        let bucket = (hash >> 32) % u64::from(self.buckets.get());
        PartitionId {
            keyspace: self.id(),
            region: self.region_of(group, hash),
            bucket: Bucket::new(bucket as u16),
        }
    }

    /// Every partition of the keyspace, in order.
    #[must_use]
    pub fn partitions(&self) -> Vec<PartitionId> {
        let mut regions: Vec<RegionId> = self.placed_regions().collect();
        regions.sort_unstable();
        regions.dedup();
        let keyspace = self.id();
        let of_region = |region| {
            (0..self.buckets.get()).map(move |index| PartitionId {
                keyspace,
                region,
                bucket: Bucket::new(index),
            })
        };
        regions.into_iter().flat_map(of_region).collect()
    }

    fn region_of(&self, group: &[u8], hash: u64) -> RegionId {
        match &self.placement {
            Placement::Pinned(region) => *region,
            Placement::Hash => self.regions[(hash % self.regions.len() as u64) as usize],
            Placement::Rule {
                prefixes,
                otherwise,
            } => prefixes
                .iter()
                .filter(|(prefix, _)| group.starts_with(prefix.as_bytes()))
                .max_by_key(|(prefix, _)| prefix.len())
                .map_or(*otherwise, |(_, region)| *region),
        }
    }

    fn placed_regions(&self) -> Box<dyn Iterator<Item = RegionId> + '_> {
        match &self.placement {
            Placement::Pinned(region) => Box::new(std::iter::once(*region)),
            Placement::Hash => Box::new(self.regions.iter().copied()),
            Placement::Rule {
                prefixes,
                otherwise,
            } => Box::new(
                prefixes
                    .iter()
                    .map(|(_, region)| *region)
                    .chain(std::iter::once(*otherwise)),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(id: u16) -> RegionId {
        RegionId::new(id).unwrap()
    }

    fn keyspace() -> Keyspace {
        let regions = vec![region(1), region(2), region(3)];
        Keyspace::new(Name::new("users").unwrap(), regions, region(1))
    }

    #[test]
    fn keys_of_a_group_share_a_partition() {
        let mut keyspace = keyspace();
        keyspace.placement = Placement::Hash;
        let keyspace = keyspace.validate().unwrap();
        assert_eq!(keyspace.group_of(b"alice/inbox/7"), b"alice");
        assert_eq!(keyspace.group_of(b"alice"), b"alice");
        for group in ["alice", "bob", "carol"] {
            let partition = keyspace.partition_of(group.as_bytes());
            for rest in ["/", "/a", "/a/b"] {
                assert_eq!(
                    keyspace.partition_of(format!("{group}{rest}").as_bytes()),
                    partition
                );
            }
            assert!(keyspace.partitions().contains(&partition));
        }
        assert_eq!(keyspace.partitions().len(), 24);
    }

    #[test]
    fn the_longest_prefix_places() {
        let mut keyspace = keyspace();
        let prefixes = vec![
            ("eu-".to_owned(), region(2)),
            ("eu-west-".to_owned(), region(3)),
        ];
        keyspace.placement = Placement::Rule {
            prefixes,
            otherwise: region(1),
        };
        assert_eq!(keyspace.partition_of(b"eu-west-7/x").region, region(3));
        assert_eq!(keyspace.partition_of(b"eu-7/x").region, region(2));
        assert_eq!(keyspace.partition_of(b"us-7/x").region, region(1));
    }

    #[test]
    fn policies_that_cannot_hold_are_refused() {
        let refused = |change: fn(&mut Keyspace)| {
            let mut keyspace = keyspace();
            change(&mut keyspace);
            keyspace.validate().unwrap_err().to_string()
        };
        assert!(refused(|k| k.regions.clear()).contains("0 regions"));
        assert!(refused(|k| k.regions.push(region(1))).contains("4 regions of which 3 distinct"));
        assert!(refused(|k| k.placement = Placement::Pinned(region(9))).contains("r0009"));
        assert!(refused(|k| k.ack = "semi-sync:3".parse().unwrap()).contains("needs 3 other"));
        assert!(refused(|k| k.ack = "sync:4".parse().unwrap()).contains("needs 3 other"));
        assert!(refused(|k| k.ack_timeout = Duration::ZERO).contains("ack_timeout in ms is 0"));
    }
}
