//! What a partition is told before its first step.
//!
//! **Owns**: the partition's policy, its check, the size of the window.
//! **Does not own**: where policies come from (configuration, through proto's `Keyspace`).

use std::time::Duration;

use domicile_proto::{AckLevel, Epoch, Keyspace, OnTimeout, PartitionId, RegionId, RpoLimit, Seq};

use crate::region_set::{REGIONS_MAX, RegionSet};
use crate::requests::REQUESTS_MAX;

/// Records in flight: as many as request ids are remembered, so that a write in flight is always
/// known by its id. Doubling it doubles what a dead copy can make the home hold in memory.
pub const WINDOW_RECORDS_MAX: u32 = REQUESTS_MAX as u32;

/// Bytes in flight: 32 MiB is a quarter second of a 1 Gb/s link, more than the longest round trip
/// on earth needs. Doubling it doubles the memory that each of a node's partitions may take.
pub const WINDOW_BYTES_MAX: u64 = 32 << 20;

/// How much may be appended and not yet visible before writes are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Records, 1 to [`WINDOW_RECORDS_MAX`].
    pub records_max: u32,
    /// Encoded bytes. One record larger than this is let in when nothing else is in flight.
    pub bytes_max: u64,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            records_max: WINDOW_RECORDS_MAX,
            bytes_max: WINDOW_BYTES_MAX,
        }
    }
}

/// The policy of one partition, as its keyspace and the partition map give it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionConfig {
    /// Which partition.
    pub partition: PartitionId,
    /// The keyspace's regions, in its order: the index is the bit in a [`RegionSet`].
    pub regions: Vec<RegionId>,
    /// The region of this node.
    pub own_region: RegionId,
    /// The region of the partition's home.
    pub home_region: RegionId,
    /// When writes are acknowledged.
    pub ack: AckLevel,
    /// What happens if that takes too long.
    pub on_timeout: OnTimeout,
    /// How long that is.
    pub ack_timeout: Duration,
    /// The largest potential loss tolerated.
    pub max_rpo: RpoLimit,
    /// How much may be in flight.
    pub window: Window,
    /// What a home needs a lease for.
    pub lease: LeaseNeed,
    /// Whether the control plane has to know that a home is degraded before it is: it takes no home
    /// over by itself that acknowledges alone.
    pub degrades_on_record: bool,
    /// The last reign that is known to go by this policy; `None`: all do. Of what a later one ships
    /// a copy shows only what it is told to be visible.
    pub reign: Option<Epoch>,
}

/// What a home does only while it holds a lease. What fences it decides: a home whose copies refuse
/// it needs none to write, yet its readers cannot see that they did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum LeaseNeed {
    /// Nothing: homes are static, or an operator sees to it that there is one.
    #[default]
    Nothing,
    /// Reads of the newest.
    Reads,
    /// Appending, acknowledging, making visible, reads of the newest.
    Everything,
}

/// Why a partition cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// More regions than a set of them holds, or one listed twice.
    #[error("{regions} regions of which {distinct} distinct, limit {REGIONS_MAX}")]
    Regions {
        /// Regions listed.
        regions: usize,
        /// Distinct regions among them.
        distinct: usize,
    },
    /// The home or the own region is not one of the keyspace's.
    #[error("{what} region {region} is not one of the keyspace's")]
    Outside {
        /// Which of the two.
        what: &'static str,
        /// The region.
        region: RegionId,
    },
    /// A home was opened where another region is home.
    #[error("opened as {opened_as}, home region {home_region}, own region {own_region}")]
    Role {
        /// The role asked for.
        opened_as: &'static str,
        /// The partition's home.
        home_region: RegionId,
        /// This node's region.
        own_region: RegionId,
    },
    /// The level asks for more regions than there are.
    #[error("ack {level} needs {needed} other regions, there are {copies}")]
    LevelUnreachable {
        /// The level.
        level: AckLevel,
        /// Other regions it needs.
        needed: usize,
        /// Other regions there are.
        copies: usize,
    },
    /// A window without room, or with more records than request ids are remembered.
    #[error("window of {records} records, allowed 1 to {limit}")]
    Window {
        /// Records asked for.
        records: u32,
        /// The most allowed.
        limit: u32,
    },
    /// A home without an epoch: the driver recovers or mints one.
    #[error("a home needs an epoch")]
    NoEpoch,
    /// The recovered epochs do not grow with the log, or reach beyond it.
    #[error("epoch history out of order at {epoch} from {first_seq}")]
    EpochHistory {
        /// The entry that does not fit.
        epoch: Epoch,
        /// Where it is said to begin.
        first_seq: Seq,
    },
}

impl PartitionConfig {
    /// The policy of a partition of `keyspace`, with the default window.
    #[must_use]
    pub fn of(
        keyspace: &Keyspace,
        partition: PartitionId,
        own_region: RegionId,
        home_region: RegionId,
    ) -> Self {
        Self {
            partition,
            regions: keyspace.regions.clone(),
            own_region,
            home_region,
            ack: keyspace.ack,
            on_timeout: keyspace.on_timeout,
            ack_timeout: keyspace.ack_timeout,
            max_rpo: keyspace.max_rpo,
            window: Window::default(),
            lease: LeaseNeed::Nothing,
            degrades_on_record: false,
            reign: None,
        }
    }

    /// Regions beside the home.
    #[must_use]
    pub fn copies(&self) -> usize {
        self.regions.len().saturating_sub(1)
    }

    /// The bit of a region; `None` if it is not one of the keyspace's.
    #[must_use]
    pub fn index_of(&self, region: RegionId) -> Option<usize> {
        self.regions.iter().position(|each| *each == region)
    }

    /// The regions of a set, in the keyspace's order.
    pub fn regions_of(&self, set: RegionSet) -> impl Iterator<Item = RegionId> + '_ {
        set.iter()
            .filter_map(|index| self.regions.get(index).copied())
    }

    /// Checks what cannot be told from the fields alone.
    ///
    /// # Errors
    /// The first rule broken, with the values.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let regions = self.regions.len();
        let mut distinct = self.regions.clone();
        distinct.sort_unstable();
        distinct.dedup();
        let distinct = distinct.len();
        if distinct != regions || regions > REGIONS_MAX {
            return Err(ConfigError::Regions { regions, distinct });
        }
        for (what, region) in [("own", self.own_region), ("home", self.home_region)] {
            if self.index_of(region).is_none() {
                return Err(ConfigError::Outside { what, region });
            }
        }
        let (level, copies) = (self.ack, self.copies());
        let needed = level.received_needed(copies);
        if needed > copies {
            return Err(ConfigError::LevelUnreachable {
                level,
                needed,
                copies,
            });
        }
        let (records, limit) = (self.window.records_max, WINDOW_RECORDS_MAX);
        if !(1..=limit).contains(&records) {
            return Err(ConfigError::Window { records, limit });
        }
        Ok(())
    }
}
