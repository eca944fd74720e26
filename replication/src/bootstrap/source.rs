//! The sending end of a snapshot.
//!
//! **Owns**: residency at the sender, taking a snapshot if there is none, the pace, how many are
//! sent at once.
//! **Does not own**: the file (storage), what the receiver does with it (`bootstrapper`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use domicile_proto::{PartitionId, RegionId, Seq, v1};
use domicile_storage::{OutgoingSnapshot, SnapshotHeader, StoreError};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tonic::Status;

use crate::driver::Slot;
use crate::node::NodeCore;
use crate::peers::partition_of_bytes;
use crate::shipping::PROTOCOL;

/// Bytes in one chunk: about a block of the file. Doubled, a processor is kept from writers for
/// twice as long at both ends.
const CHUNK_BYTES: usize = 256 << 10;

/// How fast one snapshot is sent. Doubled, it competes as much more with live segments for the
/// link; halved, a partition of 1 GiB takes a minute instead of half of one.
const BYTES_PER_S: u64 = 32 << 20;

/// Snapshots that a node sends at once. More would share the link and finish no sooner.
pub(crate) const SENT_MAX: usize = 2;

/// Chunks between the reader and the connection: what one snapshot holds in memory.
pub(crate) const CHUNKS_MAX: usize = 4;

type Chunks = mpsc::Sender<Result<v1::SnapshotChunk, Status>>;

/// One snapshot on its way to a peer.
pub(crate) struct SnapshotSource {
    node: Arc<NodeCore>,
    slot: Arc<Slot>,
    region: RegionId,
    request: v1::FetchSnapshotRequest,
    /// Given back when it ends.
    _permit: OwnedSemaphorePermit,
}

impl SnapshotSource {
    /// Checks who asks for what.
    ///
    /// # Errors
    /// Peers that are configured differently; what may not be in the peer's region; too many.
    pub(crate) fn new(
        node: Arc<NodeCore>,
        request: v1::FetchSnapshotRequest,
    ) -> Result<Self, Status> {
        let topology = &node.topology;
        if request.protocol != PROTOCOL
            || request.cluster != topology.cluster.as_str()
            || request.policy_digest != topology.digest()
        {
            let own = &topology.own.name;
            let text = format!("regions, keyspaces or protocol differ at {own}");
            return Err(Status::failed_precondition(text));
        }
        let partition = partition_of_bytes(&request.partition);
        let partition = partition.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let region = topology.region_named(&request.region).map(|spec| spec.id);
        let slot = node.driver.slot(partition);
        let (Some(region), Some(slot)) = (region, slot) else {
            let text = format!(
                "{partition} is not held here, or {:?} unknown",
                request.region
            );
            return Err(Status::not_found(text));
        };
        if slot.is_damaged() {
            return Err(Status::unavailable(format!(
                "{partition} is damaged here, too"
            )));
        }
        if !slot.keyspace().regions.contains(&region) {
            let (keyspace, region) = (&slot.keyspace().name, &request.region);
            let text = format!("keyspace {keyspace} may not be in region {region}");
            return Err(Status::permission_denied(text));
        }
        let permit = Arc::clone(&node.snapshots_sent).try_acquire_owned();
        let permit = permit.map_err(|_| {
            Status::resource_exhausted(format!("{SENT_MAX} snapshots are being sent already"))
        })?;
        Ok(Self {
            node,
            slot,
            region,
            request,
            _permit: permit,
        })
    }

    /// Sends until all is sent or the peer goes away.
    pub(crate) async fn run(self, chunks: Chunks) {
        if let Err(status) = self.send(&chunks).await {
            let partition = self.slot.partition;
            tracing::warn!(%partition, error = status.message(), "a snapshot was not sent");
            drop(chunks.send(Err(status)).await);
        }
    }

    async fn send(&self, chunks: &Chunks) -> Result<(), Status> {
        if self.node.store.tail(self.slot.partition).is_none() {
            let nothing = v1::SnapshotChunk {
                nothing: true,
                ..v1::SnapshotChunk::default()
            };
            drop(chunks.send(Ok(nothing)).await);
            return Ok(());
        }
        let snapshot = Arc::new(self.open().await?);
        let header = *snapshot.header();
        // From now on the log behind it is kept for the peer.
        self.slot.keep_after_snapshot(self.region, header.seq);
        let is_begun = SnapshotHeader::from_bytes(&self.request.header, "request")
            .is_ok_and(|begun| begun == header);
        let mut offset = match is_begun {
            true => self.request.offset.max(snapshot.first_offset()),
            false => snapshot.first_offset(),
        };
        let (began, first_offset) = (Instant::now(), offset);
        let partition = self.slot.partition;
        tracing::info!(%partition, seq = %header.seq, offset, "sending a snapshot");
        let mut first = Some(header.to_bytes());
        loop {
            let reader = Arc::clone(&snapshot);
            let read = move || reader.read(offset, CHUNK_BYTES);
            let bytes = blocking(read).await?;
            let (is_end, len) = (bytes.is_empty(), bytes.len() as u64);
            if is_end && first.is_none() {
                return Ok(());
            }
            let chunk = v1::SnapshotChunk {
                header: first.take().unwrap_or_default(),
                offset,
                crc32: crc32fast::hash(&bytes),
                bytes,
                nothing: false,
            };
            if chunks.send(Ok(chunk)).await.is_err() {
                return Err(Status::cancelled("the peer has gone away"));
            }
            offset += len;
            let sent = offset - first_offset;
            let due = Duration::from_secs_f64(sent as f64 / BYTES_PER_S as f64);
            tokio::select! {
                () = tokio::time::sleep(due.saturating_sub(began.elapsed())) => {}
                () = self.node.closed() => return Err(Status::unavailable("the node is closing")),
            }
        }
    }

    /// The last snapshot, or one that is taken now.
    async fn open(&self) -> Result<OutgoingSnapshot, Status> {
        let (partition, seq_min) = (self.slot.partition, Seq::new(self.request.seq_min));
        let node = Arc::clone(&self.node);
        let opened = blocking(move || open(&node, partition, seq_min)).await?;
        opened.ok_or_else(|| {
            Status::unavailable(format!("no snapshot of {partition} up to {seq_min} yet"))
        })
    }
}

fn open(
    node: &NodeCore,
    partition: PartitionId,
    seq_min: Seq,
) -> Result<Option<OutgoingSnapshot>, StoreError> {
    let reaches = |snapshot: &OutgoingSnapshot| snapshot.header().seq >= seq_min;
    if let Some(snapshot) = node.store.outgoing_snapshot(partition)?.filter(reaches) {
        return Ok(Some(snapshot));
    }
    // What is visible goes to the engine first: a snapshot is of what that holds.
    node.store.flush_once()?;
    node.driver.room.notify_waiters();
    node.take_snapshot(partition)?;
    Ok(node.store.outgoing_snapshot(partition)?.filter(reaches))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|error| Status::internal(error.to_string()))?;
    done.map_err(|error| Status::unavailable(error.to_string()))
}

/// A chunk's bytes, if they are what was sent.
///
/// # Errors
/// Which they are not.
pub(super) fn checked_bytes(chunk: &v1::SnapshotChunk) -> Result<&Bytes, String> {
    let computed = crc32fast::hash(&chunk.bytes);
    if computed != chunk.crc32 {
        return Err(format!(
            "checksum mismatch of a chunk at {}: sent {:#010x}, computed {computed:#010x}",
            chunk.offset, chunk.crc32
        ));
    }
    Ok(&chunk.bytes)
}
