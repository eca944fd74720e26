//! What a node knows of itself: plain numbers for status, admin and metrics.
//!
//! **Owns**: gathering them, mirrored by `admin.proto`.
//! **Does not own**: showing them (server).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use domicile_core::{CopyStatus as CoreCopy, Role, Rpo, Standing};
use domicile_proto::{AckLevel, Epoch, NodeId, PartitionId, Seq};

use domicile_storage::SYNC_BOUNDS_US;

use super::interior::NodeCore;
use crate::buffer::BufferStanding;
use crate::driver::Slot;
use crate::watching::WatchStatus;

/// How much to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// The node, its peers, its keyspaces.
    Summary,
    /// Also each partition.
    Partitions,
}

/// A potential loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Loss {
    /// In writes.
    pub writes: u64,
    /// In bytes.
    pub bytes: u64,
    /// In time: the age of the oldest of them.
    pub age: Duration,
}

impl Loss {
    fn of(rpo: Rpo) -> Self {
        Self {
            writes: rpo.writes,
            bytes: rpo.bytes,
            age: rpo.age,
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            writes: self.writes + other.writes,
            bytes: self.bytes + other.bytes,
            age: self.age.max(other.age),
        }
    }
}

/// A node.
#[derive(Debug, Clone)]
pub struct NodeStatus {
    /// The cluster's name.
    pub cluster: String,
    /// The own region's name.
    pub region: String,
    /// The node's id.
    pub node: NodeId,
    /// Of the program.
    pub version: &'static str,
    /// Since it was opened.
    pub uptime: Duration,
    /// Why the store refuses writes; empty while it does not.
    pub poisoned: String,
    /// What is wrong with the buffer of writes; empty: nothing.
    pub buffer_damaged: String,
    /// The disk.
    pub disk: DiskStatus,
    /// The memory.
    pub memory: MemoryStatus,
    /// The watches.
    pub watches: WatchStatus,
    /// One per other region.
    pub peers: Vec<PeerStatus>,
    /// One per keyspace held here.
    pub keyspaces: Vec<KeyspaceStatus>,
    /// One per partition held here, with [`Detail::Partitions`].
    pub partitions: Vec<PartitionStatus>,
}

/// Journal, engine and commits.
#[derive(Debug, Clone, Default)]
pub struct DiskStatus {
    /// Bytes of journal files.
    pub journal_bytes: u64,
    /// Bytes of the engine's files.
    pub engine_bytes: u64,
    /// Bytes free on the device.
    pub free_bytes: u64,
    /// Group commits since open.
    pub commits: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes written by them.
    pub commit_bytes: u64,
    /// How many fdatasyncs took at most so long, and longer than the one before; the last bound is
    /// [`Duration::MAX`].
    pub fsync_counts: Vec<(Duration, u64)>,
    /// Flushes of cells into the engine since open.
    pub flushes: u64,
    /// Flushes that failed, and were tried again.
    pub flush_failures: u64,
    /// Time spent in fdatasync in all of them.
    pub fsync_sum: Duration,
    /// The slowest one.
    pub fsync_max: Duration,
    /// The engine's name.
    pub engine: &'static str,
    /// Passes over everything that was written, since the node was opened.
    pub scrub_passes: u64,
    /// Places in journal and snapshots that were not what had been written.
    pub damage_found: u64,
    /// Copies here that were compared with their homes at the same position.
    pub digests_compared: u64,
    /// Those that differed.
    pub digests_unequal: u64,
}

/// What the bounded buffers hold.
#[derive(Debug, Clone, Default)]
pub struct MemoryStatus {
    /// Cells that the engine does not have yet.
    pub overlay_bytes: u64,
    /// Records not yet visible.
    pub unapplied_bytes: u64,
    /// Records waiting for the disk.
    pub commit_queue_bytes: u64,
    /// Of the process; 0 where it cannot be told.
    pub resident_bytes: u64,
}

/// Another region, as seen from here.
#[derive(Debug, Clone)]
pub struct PeerStatus {
    /// Its name.
    pub region: String,
    /// The id of the node there, once connected.
    pub node: Option<NodeId>,
    /// Where it is dialled.
    pub address: String,
    /// Whether this node ships to it.
    pub connected: bool,
    /// The round trip as measured by the last beat, in µs.
    pub rtt_us: u64,
    /// Acknowledged here and not durable there.
    pub at_risk: Loss,
    /// Bytes shipped to it.
    pub shipped_bytes: u64,
    /// Records shipped to it.
    pub shipped_records: u64,
    /// Why the last connection ended.
    pub last_error: String,
    /// How stale the copies of its partitions here may be.
    pub staleness: Option<Duration>,
    /// Whether it ships to this node.
    pub receiving: bool,
    /// Its wall clock minus ours.
    pub clock_skew_ms: i64,
}

/// A keyspace, as it stands on this node.
#[derive(Debug, Clone)]
pub struct KeyspaceStatus {
    /// Its name.
    pub name: String,
    /// The level it is configured for.
    pub ack: AckLevel,
    /// The level that writes get at present, in the worst partition.
    pub effective_ack: AckLevel,
    /// Acknowledged here and not durable in the best copy.
    pub at_risk: Loss,
    /// Partitions homed here.
    pub homes_here: u32,
    /// Of these, how many acknowledge with less.
    pub degraded_partitions: u32,
    /// Records here that a new home never had, and of which nothing became yet.
    pub orphans_open: u64,
    /// Writes kept here for their homes.
    pub buffered: BufferStanding,
}

/// A partition on this node.
#[derive(Debug, Clone)]
pub struct PartitionStatus {
    /// Which.
    pub partition: PartitionId,
    /// Of which keyspace.
    pub keyspace: String,
    /// Its home's region.
    pub home_region: String,
    /// This node's role.
    pub role: Role,
    /// The reign it is in.
    pub epoch: Option<Epoch>,
    /// The last record sequenced or received.
    pub appended_upto: Seq,
    /// The last record on this disk.
    pub durable_upto: Seq,
    /// The last record that reads may see.
    pub visible_upto: Seq,
    /// The last record that reads do see.
    pub applied_upto: Seq,
    /// Records sequenced and not visible.
    pub in_flight_records: u64,
    /// Their bytes.
    pub in_flight_bytes: u64,
    /// Whether it acknowledges with less than its level.
    pub degraded: bool,
    /// Its copies, at the home.
    pub copies: Vec<CopyStatus>,
    /// Whether part of its log or of its cells is lost here, and it is out of service.
    pub damaged: bool,
    /// What is wrong with it; empty if nothing is.
    pub alarm: String,
}

/// A copy, as its home sees it.
#[derive(Debug, Clone)]
pub struct CopyStatus {
    /// Where.
    pub region: String,
    /// Whether it follows.
    pub connected: bool,
    /// Received there, in memory at least.
    pub received_upto: Seq,
    /// Durable there.
    pub durable_upto: Seq,
    /// Acknowledged here and not durable there.
    pub potential: Loss,
    /// The log cannot help it any more.
    pub needs_snapshot: bool,
}

pub(super) fn status(core: &NodeCore, detail: Detail) -> NodeStatus {
    let topology = &core.topology;
    let mut slots: Vec<_> = core.driver.slots().collect();
    slots.sort_unstable_by_key(|slot| slot.partition);
    let partitions: Vec<_> = slots
        .iter()
        .map(|slot| partition_status(core, slot))
        .collect();
    let stats = core.store.stats();
    let mut status = NodeStatus {
        cluster: topology.cluster.to_string(),
        region: topology.own.name.to_string(),
        node: core.store.node_id(),
        version: env!("CARGO_PKG_VERSION"),
        uptime: core.started.elapsed(),
        poisoned: core
            .store
            .poison_cause()
            .map_or(String::new(), |cause| cause.to_string()),
        buffer_damaged: core.buffer.damaged(),
        disk: disk_status(core),
        watches: core.watches.status(),
        memory: MemoryStatus {
            overlay_bytes: stats.cells.active_bytes + stats.cells.frozen_bytes,
            unapplied_bytes: stats.cells.unapplied_bytes,
            commit_queue_bytes: stats.queue_bytes,
            resident_bytes: resident_bytes(),
        },
        peers: peers(core, &partitions),
        keyspaces: keyspaces(core, &partitions),
        partitions: Vec::new(),
    };
    if detail == Detail::Partitions {
        status.partitions = partitions
            .into_iter()
            .map(|(partition, _)| partition)
            .collect();
    }
    status
}

fn disk_status(core: &NodeCore) -> DiskStatus {
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (commits, stats) = (core.store.commit_stats(), core.store.stats());
    let bounds = SYNC_BOUNDS_US.into_iter().map(Duration::from_micros);
    let bounds = bounds.chain([Duration::MAX]);
    DiskStatus {
        journal_bytes: stats.journal_bytes,
        engine_bytes: stats.engine_bytes,
        free_bytes: core.store.free_bytes().unwrap_or_default(),
        commits: commits.commits,
        records: commits.records,
        commit_bytes: commits.bytes,
        fsync_counts: bounds.zip(commits.sync_counts).collect(),
        flushes: stats.cells.flushes,
        flush_failures: stats.cells.flush_failures,
        fsync_sum: commits.sync_sum,
        fsync_max: commits.sync_max,
        engine: stats.engine,
        scrub_passes: count(&core.scrubbing.passes),
        damage_found: count(&core.scrubbing.damage_found),
        digests_compared: count(&core.scrubbing.digests_compared),
        digests_unequal: count(&core.scrubbing.digests_unequal),
    }
}

fn partition_status(core: &NodeCore, slot: &Slot) -> (PartitionStatus, AckLevel) {
    let (status, alarm) = slot.status(core.clock.now());
    let name = |region| {
        core.topology
            .region(region)
            .map_or(String::new(), |r| r.name.to_string())
    };
    let copy = |copy: &CoreCopy| CopyStatus {
        region: name(copy.region),
        connected: copy.standing == Standing::Attached,
        received_upto: copy.received_upto,
        durable_upto: copy.durable_upto,
        potential: Loss::of(copy.potential),
        needs_snapshot: copy.standing == Standing::Behind || slot.is_outrun(copy.region),
    };
    let partition = PartitionStatus {
        partition: slot.partition,
        keyspace: slot.keyspace().name.to_string(),
        home_region: name(slot.home()),
        role: status.role,
        epoch: status.epoch,
        appended_upto: status.appended_upto,
        durable_upto: status.durable_upto,
        visible_upto: status.visible_upto,
        applied_upto: slot.cells.applied_upto(),
        in_flight_records: status.in_flight_records,
        in_flight_bytes: status.in_flight_bytes,
        degraded: status.degraded.is_some_and(|range| range.ended.is_none()),
        copies: status.copies.iter().map(copy).collect(),
        damaged: slot.is_damaged(),
        alarm: alarm.unwrap_or_default(),
    };
    (partition, status.effective_level)
}

fn peers(core: &NodeCore, partitions: &[(PartitionStatus, AckLevel)]) -> Vec<PeerStatus> {
    let peer = |link: &std::sync::Arc<crate::peers::PeerLink>| {
        let name = link.spec.name.as_str();
        let copies = partitions
            .iter()
            .flat_map(|(partition, _)| &partition.copies);
        let at_risk = copies
            .filter(|copy| copy.region == name)
            .fold(Loss::default(), |sum, copy| sum.plus(copy.potential));
        let followed = core
            .driver
            .slots()
            .filter(|slot| slot.home() == link.region());
        let staleness = followed.map(|slot| core.staleness(&slot)).max();
        let (shown, stream) = (link.status(), link.source.stream());
        PeerStatus {
            region: name.to_owned(),
            node: shown.node,
            address: link.spec.peer_address.clone().unwrap_or_default(),
            connected: shown.connected,
            rtt_us: shown.rtt_us,
            at_risk,
            shipped_bytes: shown.shipped_bytes,
            shipped_records: shown.shipped_records,
            last_error: shown.last_error,
            staleness: staleness.filter(|staleness| *staleness < Duration::MAX),
            receiving: stream.receiving,
            clock_skew_ms: stream.skew_ms,
        }
    };
    core.links.all().iter().map(peer).collect()
}

fn keyspaces(core: &NodeCore, partitions: &[(PartitionStatus, AckLevel)]) -> Vec<KeyspaceStatus> {
    let mut shown: BTreeMap<String, KeyspaceStatus> = BTreeMap::new();
    let orphans = core.orphan_tally.open(&core.store);
    let buffered = core.buffer.standings();
    for keyspace in core.topology.keyspaces() {
        let status = KeyspaceStatus {
            name: keyspace.name.to_string(),
            ack: keyspace.ack,
            effective_ack: keyspace.ack,
            at_risk: Loss::default(),
            homes_here: 0,
            degraded_partitions: 0,
            orphans_open: orphans.get(&keyspace.id()).copied().unwrap_or_default(),
            buffered: buffered.get(&keyspace.id()).copied().unwrap_or_default(),
        };
        shown.insert(keyspace.name.to_string(), status);
    }
    for (partition, effective) in partitions
        .iter()
        .filter(|(each, _)| each.role == Role::Home)
    {
        let Some(status) = shown.get_mut(partition.keyspace.as_str()) else {
            continue;
        };
        status.homes_here += 1;
        let best = partition
            .copies
            .iter()
            .map(|copy| copy.potential)
            .min_by_key(|p| p.writes);
        status.at_risk = status.at_risk.plus(best.unwrap_or_default());
        if partition.degraded {
            status.degraded_partitions += 1;
            status.effective_ack = *effective;
        }
    }
    shown.into_values().collect()
}

/// Resident memory of this process, from the kernel's own account.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or_default() * rustix::param::page_size() as u64
}
