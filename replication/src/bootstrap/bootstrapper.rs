//! The receiving end of snapshots: one task a node, one partition at a time.
//!
//! **Owns**: which partitions want one, from whom it is asked, going on after an interruption, the
//! order of installing it in store and core.
//! **Does not own**: finding out that one is needed (shipping, recovery), the files (storage).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use domicile_proto::{PartitionId, Position, RegionId, Seq, v1};
use domicile_storage::{IncomingSnapshot, SnapshotHeader, StoreError};
use tokio::sync::Notify;

use super::source::checked_bytes;
use crate::driver::{Slot, lock};
use crate::node::NodeCore;
use crate::ownership::reign_of;
use crate::shipping::PROTOCOL;

/// After a failed attempt the next one waits this long, and what else is wanted comes first.
const RETRY: Duration = Duration::from_secs(1);

/// How long a snapshot may give no byte before its sender counts as gone.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// How often it is looked whether what a partition received before is on disk. It takes a sync.
const QUIESCE_POLL: Duration = Duration::from_millis(5);

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The partitions that want a snapshot, each with the record that it must reach.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    partitions: Mutex<BTreeMap<PartitionId, Seq>>,
    notify: Notify,
}

impl Wanted {
    /// A partition wants a snapshot up to `seq_min` at least.
    pub(crate) fn want(&self, partition: PartitionId, seq_min: Seq) {
        lock(&self.partitions).insert(partition, seq_min);
        self.notify.notify_one();
    }

    fn next_after(&self, last: Option<PartitionId>) -> Option<(PartitionId, Seq)> {
        let partitions = lock(&self.partitions);
        let behind = last.and_then(|last| partitions.range(last..).find(|(id, _)| **id != last));
        behind
            .or_else(|| partitions.iter().next())
            .map(|(id, seq)| (*id, *seq))
    }

    fn is_done(&self, partition: PartitionId) {
        lock(&self.partitions).remove(&partition);
    }
}

/// Fetches and installs what is wanted until the node closes.
pub(crate) async fn run(node: Arc<NodeCore>) {
    let mut last = None;
    let mut attempts: BTreeMap<PartitionId, usize> = BTreeMap::new();
    loop {
        let Some((partition, seq_min)) = node.wanted.next_after(last) else {
            tokio::select! {
                () = node.closed() => return,
                () = node.wanted.notify.notified() => continue,
            }
        };
        last = Some(partition);
        let Some(slot) = node.driver.slot(partition) else {
            node.wanted.is_done(partition);
            continue;
        };
        let attempt = attempts.entry(partition).or_default();
        let source = source_of(&node, &slot, *attempt);
        let outcome = tokio::select! {
            () = node.closed() => return,
            outcome = bootstrap(&node, &slot, source, seq_min) => outcome,
        };
        match outcome {
            Ok(installed) => {
                attempts.remove(&partition);
                node.wanted.is_done(partition);
                match installed {
                    Some(header) => {
                        let (seq, bytes) = (header.seq, header.file_bytes);
                        tracing::info!(%partition, %seq, bytes, "a snapshot was installed");
                    }
                    None => tracing::info!(%partition, "its home has nothing of it either"),
                }
                slot.set_alarm(None);
                // The next hello says what is held now, and the home ships from there.
                if let Some(signal) = node.driver.peers.source(slot.home()) {
                    signal.end_stream();
                }
            }
            Err(error) => {
                *attempt += 1;
                let text = format!("waits for a snapshot: {error}");
                tracing::warn!(%partition, %error, attempt, "a snapshot was not installed");
                slot.set_alarm(Some(text));
                tokio::select! {
                    () = node.closed() => return,
                    () = tokio::time::sleep(RETRY) => {}
                }
            }
        }
    }
}

/// Whom to ask: the home first, then in turn every region that holds the keyspace. What is taken
/// from another copy is compared with the home's log before anything is shipped upon it.
fn source_of(node: &NodeCore, slot: &Slot, attempt: usize) -> Option<RegionId> {
    let (keyspace, home) = (slot.keyspace(), home_of(node, slot));
    let others = keyspace.regions.iter().copied();
    let others = others.filter(|id| *id != home && *id != node.topology.own.id);
    let home = (home != node.topology.own.id).then_some(home);
    let all: Vec<RegionId> = home.into_iter().chain(others).collect();
    (!all.is_empty()).then(|| all[attempt % all.len()])
}

/// The region of its home, as the map says: a damaged partition keeps the place that it was opened
/// for.
fn home_of(node: &NodeCore, slot: &Slot) -> RegionId {
    let map = node.plane.as_ref().map(|plane| plane.map());
    let home = map.and_then(|map| {
        let assignment = map.assignment(slot.partition)?;
        Some(map.node(assignment.home)?.region)
    });
    home.unwrap_or_else(|| slot.home())
}

/// What a damaged partition had alone nobody can tell once it is filled anew, and what it had
/// acknowledged it may lack for a while.
async fn note_refilled(node: &NodeCore, slot: &Slot) -> Result<(), Failure> {
    let (store, partition) = (Arc::clone(&node.store), slot.partition);
    let tail = store.tail(partition);
    let last_seq = tail.as_ref().map_or(Seq::NONE, |tail| tail.last_seq);
    let seq = last_seq.max(slot.home_upto());
    match tail.map(|tail| tail.epoch).or(store.promised(partition)) {
        Some(epoch) if slot.is_damaged() => {
            let had = Position { epoch, seq };
            blocking(move || store.note_refilled(partition, had)).await
        }
        _ => Ok(()),
    }
}

async fn bootstrap(
    node: &Arc<NodeCore>,
    slot: &Arc<Slot>,
    source: Option<RegionId>,
    seq_min: Seq,
) -> Result<Option<SnapshotHeader>, Failure> {
    let source = source.ok_or("no other region holds the keyspace")?;
    let received = node.store.received_snapshot(slot.partition);
    if received.is_some_and(|received| received.seq >= seq_min || slot.is_damaged()) {
        // An earlier attempt got so far; its log may even begin anew with it already.
        return install(node, slot).await.map(Some);
    }
    let reign = reign_of(node, slot.partition);
    let Some(incoming) = fetch(node, slot, source, seq_min).await? else {
        if node.store.tail(slot.partition).is_some() || source != home_of(node, slot) {
            return Err("the source has no record of it".into());
        }
        note_refilled(node, slot).await?;
        node.driver.found_empty(slot);
        return Ok(None);
    };
    let store = Arc::clone(&node.store);
    blocking(move || store.finish_incoming(incoming)).await?;
    let is_its_word = source == home_of(node, slot) && reign_of(node, slot.partition) == reign;
    slot.set_ahead_by(reign.filter(|_| is_its_word));
    install(node, slot).await.map(Some)
}

/// Puts the snapshot that was received in the partition's place, in store and core.
async fn install(node: &Arc<NodeCore>, slot: &Arc<Slot>) -> Result<SnapshotHeader, Failure> {
    // Nothing is taken from the home until the core knows of the snapshot, and what was taken
    // before is on disk: the core hears of no record of the past afterwards.
    let _installing = node.driver.begin_install(slot);
    while !slot.is_quiet() {
        tokio::time::sleep(QUIESCE_POLL).await;
    }
    note_refilled(node, slot).await?;
    let (store, partition) = (Arc::clone(&node.store), slot.partition);
    let installed = blocking(move || store.install_received(partition)).await;
    let header = installed.inspect_err(|error| {
        // Its log may begin anew already: until it is filled, nothing here is what it was.
        node.driver
            .quarantine(slot, &format!("half installed: {error}"));
    })?;
    node.driver.installed(slot, &header);
    Ok(header)
}

/// Receives a snapshot to its end, going on where an earlier attempt stopped; `None` if the source
/// has no record of the partition.
async fn fetch(
    node: &Arc<NodeCore>,
    slot: &Arc<Slot>,
    source: RegionId,
    seq_min: Seq,
) -> Result<Option<IncomingSnapshot>, Failure> {
    let (store, partition) = (Arc::clone(&node.store), slot.partition);
    let resumed = blocking(move || store.resume_incoming(partition)).await?;
    let resumed = resumed.filter(|incoming| incoming.header().seq >= seq_min);
    let link = node.link(source).ok_or("no link to the source")?;
    let client = link.dial().await?;
    let mut client = client.ok_or("the source has no address")?;
    let header = resumed
        .as_ref()
        .map(|incoming| incoming.header().to_bytes());
    let request = v1::FetchSnapshotRequest {
        protocol: PROTOCOL,
        cluster: node.topology.cluster.to_string(),
        region: node.topology.own.name.to_string(),
        policy_digest: node.topology.digest(),
        partition: bytes::Bytes::copy_from_slice(&partition.to_bytes()),
        seq_min: seq_min.get(),
        header: header.unwrap_or_default(),
        offset: resumed.as_ref().map_or(0, IncomingSnapshot::offset),
    };
    let mut chunks = client.fetch_snapshot(request).await?.into_inner();
    let mut incoming = resumed;
    let mut is_first = true;
    loop {
        let chunk = tokio::time::timeout(SILENCE_MAX, chunks.message()).await;
        let chunk = chunk.map_err(|_| format!("no byte for {SILENCE_MAX:?}"))??;
        let Some(chunk) = chunk else { break };
        if chunk.nothing {
            return Ok(None);
        }
        checked_bytes(&chunk)?;
        if is_first {
            let begun = incoming.take();
            incoming = Some(begin(node, slot, source, begun, &chunk).await?);
            is_first = false;
        }
        let mut writer = incoming.take().ok_or("no first chunk")?;
        if writer.offset() != chunk.offset {
            let (actual, expected) = (chunk.offset, writer.offset());
            return Err(format!("chunk at {actual}, {expected} expected").into());
        }
        node.driver.wait_space().await;
        let written = blocking(move || {
            writer.write(&chunk.bytes)?;
            Ok(writer)
        });
        let writer = written.await?;
        let (at, whole) = (writer.offset() >> 10, writer.header().file_bytes >> 10);
        slot.set_alarm(Some(format!("receives a snapshot: {at} of {whole} KiB")));
        incoming = Some(writer);
    }
    let incoming = incoming.ok_or("an empty answer")?;
    if !incoming.is_complete() {
        let (at, whole) = (incoming.offset(), incoming.header().file_bytes);
        return Err(format!("ended after {at} of {whole} bytes").into());
    }
    Ok(Some(incoming))
}

/// What the first chunk says is sent: the rest of what was begun, or another one from its start.
async fn begin(
    node: &Arc<NodeCore>,
    slot: &Slot,
    source: RegionId,
    begun: Option<IncomingSnapshot>,
    chunk: &v1::SnapshotChunk,
) -> Result<IncomingSnapshot, Failure> {
    let header = SnapshotHeader::from_bytes(&chunk.header, "first chunk")?;
    if header.partition != slot.partition {
        let (actual, expected) = (header.partition, slot.partition);
        return Err(format!("snapshot of {actual}, asked for {expected}").into());
    }
    // What this copy acknowledged in a reign that it has promised may be nowhere else but at a home
    // that is away: another copy of before that reign does not stand for it, nor does whoever was
    // home by a map of before it.
    let promised = node.store.promised(slot.partition);
    let is_present = node.plane.is_none() || reign_of(node, slot.partition) >= promised;
    let has_all = source == home_of(node, slot) && is_present;
    if let Some(promised) = promised.filter(|promised| header.epoch < *promised)
        && !has_all
    {
        let actual = header.epoch;
        return Err(format!("a snapshot of {actual}, {promised} was promised here").into());
    }
    match begun {
        Some(begun) if *begun.header() == header && begun.offset() == chunk.offset => Ok(begun),
        _ => {
            let store = Arc::clone(&node.store);
            blocking(move || store.begin_incoming(header)).await
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Failure> {
    Ok(tokio::task::spawn_blocking(work).await??)
}
