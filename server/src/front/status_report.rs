//! A node's status as a message.
//!
//! **Owns**: the fields and their units.
//! **Does not own**: the numbers (the node).

use std::time::Duration;

use bytes::Bytes;
use domicile_proto::v1;
use domicile_replication::NodeStatus;
use domicile_replication::node::status::{
    CopyStatus, DiskStatus, KeyspaceStatus, Loss, MemoryStatus, PartitionStatus, PeerStatus,
};

/// The status of a node.
pub(crate) fn message(status: NodeStatus) -> v1::StatusResponse {
    v1::StatusResponse {
        cluster: status.cluster,
        region: status.region,
        node: status.node.get(),
        version: status.version.to_owned(),
        uptime_ms: millis(status.uptime),
        poisoned: status.poisoned,
        buffer_damaged: status.buffer_damaged,
        disk: Some(disk(&status.disk)),
        peers: status.peers.into_iter().map(peer).collect(),
        partitions: status.partitions.into_iter().map(partition).collect(),
        keyspaces: status.keyspaces.into_iter().map(keyspace).collect(),
        memory: Some(memory(&status.memory)),
    }
}

fn disk(disk: &DiskStatus) -> v1::DiskStatus {
    v1::DiskStatus {
        journal_bytes: disk.journal_bytes,
        engine_bytes: disk.engine_bytes,
        free_bytes: disk.free_bytes,
        commits: disk.commits,
        fsync_us_sum: micros(disk.fsync_sum),
        fsync_us_max: micros(disk.fsync_max),
        engine: disk.engine.to_owned(),
        scrub_passes: disk.scrub_passes,
        damage_found: disk.damage_found,
        digests_compared: disk.digests_compared,
        digests_unequal: disk.digests_unequal,
    }
}

fn memory(memory: &MemoryStatus) -> v1::MemoryStatus {
    v1::MemoryStatus {
        overlay_bytes: memory.overlay_bytes,
        unapplied_bytes: memory.unapplied_bytes,
        commit_queue_bytes: memory.commit_queue_bytes,
        resident_bytes: memory.resident_bytes,
    }
}

fn peer(peer: PeerStatus) -> v1::PeerStatus {
    v1::PeerStatus {
        region: peer.region,
        node: peer.node.map_or(0, |node| node.get()),
        address: peer.address,
        connected: peer.connected,
        rtt_us: peer.rtt_us,
        at_risk: Some(loss(peer.at_risk)),
        shipped_bytes: peer.shipped_bytes,
        shipped_records: peer.shipped_records,
        last_error: peer.last_error,
        // The largest number stands for "no telling": nothing was heard of the peer yet.
        staleness_ms: peer.staleness.map_or(u64::MAX, millis),
        receiving: peer.receiving,
        clock_skew_ms: peer.clock_skew_ms,
    }
}

fn keyspace(keyspace: KeyspaceStatus) -> v1::KeyspaceStatus {
    v1::KeyspaceStatus {
        name: keyspace.name,
        ack: keyspace.ack.to_string(),
        effective_ack: keyspace.effective_ack.to_string(),
        at_risk: Some(loss(keyspace.at_risk)),
        homes_here: keyspace.homes_here,
        degraded_partitions: keyspace.degraded_partitions,
        orphans_open: keyspace.orphans_open,
        buffered_writes: keyspace.buffered.waiting,
        buffered_bytes: keyspace.buffered.bytes,
        buffered_age_ms: millis(keyspace.buffered.age),
        buffered_refused: keyspace.buffered.refused,
    }
}

fn partition(partition: PartitionStatus) -> v1::PartitionStatus {
    v1::PartitionStatus {
        partition: Bytes::copy_from_slice(&partition.partition.to_bytes()),
        keyspace: partition.keyspace,
        home_region: partition.home_region,
        role: format!("{:?}", partition.role).to_lowercase(),
        epoch_counter: partition.epoch.map_or(0, |epoch| epoch.counter),
        epoch_node: partition.epoch.map_or(0, |epoch| epoch.node.get()),
        appended_upto: partition.appended_upto.get(),
        durable_upto: partition.durable_upto.get(),
        visible_upto: partition.visible_upto.get(),
        applied_upto: partition.applied_upto.get(),
        in_flight_records: partition.in_flight_records,
        in_flight_bytes: partition.in_flight_bytes,
        degraded: partition.degraded,
        copies: partition.copies.into_iter().map(copy).collect(),
        alarm: partition.alarm,
    }
}

fn copy(copy: CopyStatus) -> v1::CopyStatus {
    v1::CopyStatus {
        region: copy.region,
        connected: copy.connected,
        received_upto: copy.received_upto.get(),
        durable_upto: copy.durable_upto.get(),
        potential: Some(loss(copy.potential)),
        needs_snapshot: copy.needs_snapshot,
    }
}

fn loss(loss: Loss) -> v1::Loss {
    v1::Loss {
        writes: loss.writes,
        bytes: loss.bytes,
        age_ms: millis(loss.age),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
