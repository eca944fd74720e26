//! The home's end of a stream: pulls segments from the journal by cursor and sends them unchanged.
//!
//! **Owns**: one task a peer: connect, say hello, ship, beat, take acks, back off and try again.
//! **Does not own**: any queue of segments: the journal is the queue, so a slow or absent peer
//! costs no memory; live shipping and catch-up are this one path.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use domicile_core::Input;
use domicile_proto::v1::{self, copy_frame, ship_frame};
use domicile_proto::{AckLevel, NodeId, PartitionId, Seq};
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::compression::{Compressor, LinkPace};
use super::cursor::{READ_BYTES, ShipCursor};
use crate::driver::Slot;
use crate::node::NodeCore;
use crate::peers::{PeerLink, partition_of_bytes, read_mark};

/// Frames between the reader and the connection. A frame is at most about [`READ_BYTES`] unless a
/// single record is larger; with 4 the connection never waits for the reader.
const FRAMES_MAX: usize = 4;

/// How often a beat is sent on an idle stream.
const BEAT_INTERVAL: Duration = Duration::from_millis(100);

/// A watermark without a segment to ride on waits at most this long for others: it bounds beats to
/// 500 a second and adds as much to when a copy shows a synchronous write.
const WATERMARK_INTERVAL: Duration = Duration::from_millis(2);

/// First and largest wait before dialling again; in between it doubles, with jitter.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// The wire protocol between nodes that this build speaks.
pub(super) const PROTOCOL: u32 = 1;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Ships to one peer until the node closes.
pub(crate) async fn run(node: Arc<NodeCore>, link: Arc<PeerLink>) {
    let mut backoff = BACKOFF_MIN;
    let mut jitter = node.store.node_id().get() ^ u64::from(link.region().get());
    loop {
        let started = Instant::now();
        let outcome = tokio::select! {
            () = node.closed() => return,
            outcome = connect_and_ship(&node, &link) => outcome,
        };
        link.update(|status| status.connected = false);
        detach(&node, &link);
        match outcome {
            Ok(Ended::NothingToDo) => return,
            Ok(Ended::ByPeer) => link.update(|s| s.last_error = "closed by the peer".to_owned()),
            Err(error) => {
                let error = chain_of(&*error);
                tracing::debug!(peer = %link.spec.name, %error, "shipping stopped");
                link.update(|status| status.last_error = error);
            }
        }
        if started.elapsed() > BACKOFF_MAX {
            backoff = BACKOFF_MIN;
        }
        jitter = jitter
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let wait = backoff / 2 + backoff.mul_f64((jitter >> 40) as f64 / (1_u64 << 25) as f64);
        tokio::select! {
            () = node.closed() => return,
            () = tokio::time::sleep(wait) => {}
        }
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

enum Ended {
    NothingToDo,
    ByPeer,
}

/// What the acks' side tells the sending side.
#[derive(Debug, Default)]
struct Feedback {
    rewinds: Mutex<BTreeMap<PartitionId, Option<Seq>>>,
    notify: Notify,
}

/// The partitions homed here that the peer may hold. Residency is decided here first.
fn shared_slots(node: &NodeCore, link: &PeerLink) -> BTreeMap<PartitionId, Arc<Slot>> {
    let region = link.region();
    let slots = node.driver.slots().filter(|slot| slot.is_home);
    let slots = slots.filter(|slot| slot.keyspace.regions.contains(&region));
    slots
        .map(|slot| (slot.partition, Arc::clone(slot)))
        .collect()
}

fn detach(node: &NodeCore, link: &PeerLink) {
    for slot in shared_slots(node, link).values() {
        node.driver.input(
            slot,
            Input::CopyDetached {
                region: link.region(),
            },
        );
    }
}

async fn connect_and_ship(node: &Arc<NodeCore>, link: &PeerLink) -> Result<Ended, Failure> {
    let slots = shared_slots(node, link);
    let Some(mut client) = link.dial().await? else {
        return Ok(Ended::NothingToDo);
    };
    let (frames, receiver) = mpsc::channel(FRAMES_MAX);
    let hello = v1::ShipHello {
        protocol: PROTOCOL,
        cluster: node.topology.cluster.to_string(),
        region: node.topology.own.name.to_string(),
        node: node.store.node_id().get(),
        policy_digest: node.topology.digest(),
    };
    send(&frames, ship_frame::Frame::Hello(hello)).await?;
    let mut answers = client
        .ship(ReceiverStream::new(receiver))
        .await?
        .into_inner();
    let Some(copy_frame::Frame::Hello(hello)) = next(&mut answers).await? else {
        return Err("the peer did not say hello first".into());
    };
    let cursor = attach(node, link, &slots, &hello)?;
    link.update(|status| {
        status.connected = true;
        status.last_error.clear();
        status.node = NodeId::new(hello.node).ok();
    });
    tracing::info!(peer = %link.spec.name, "shipping to peer");
    let feedback = Feedback::default();
    tokio::select! {
        ended = send_all(node, link, cursor, &frames, &feedback) => ended,
        ended = take_answers(node, link, &slots, &mut answers, &feedback) => ended,
    }
}

/// Takes the copy's marks into the cores and places the cursor.
fn attach(
    node: &NodeCore,
    link: &PeerLink,
    slots: &BTreeMap<PartitionId, Arc<Slot>>,
    hello: &v1::CopyHello,
) -> Result<ShipCursor, Failure> {
    if hello.region != link.spec.name.as_str() {
        let (actual, expected) = (&hello.region, &link.spec.name);
        return Err(format!("the node there is of region {actual:?}, expected {expected}").into());
    }
    let mut marks = BTreeMap::new();
    for mark in &hello.marks {
        let (partition, mark) = read_mark(mark)?;
        marks.insert(partition, mark);
    }
    let mut next = BTreeMap::new();
    for (partition, slot) in slots {
        let Some(mark) = marks.get(partition) else {
            return Err(format!("the peer does not hold partition {partition}").into());
        };
        node.driver.input(
            slot,
            Input::CopyAttached {
                region: link.region(),
                received_upto: mark.received_upto,
                durable_upto: mark.durable_upto,
                epoch: mark.epoch,
            },
        );
        next.insert(*partition, mark.received_upto.next());
    }
    // A copy that restarted knows only the watermarks that segments carried; one that was on its
    // way when the last stream broke is lost. So every stream begins with all of them.
    for (partition, slot) in slots {
        if let Some((epoch, visible_upto)) = slot.watermark()
            && slot.keyspace.ack != AckLevel::Async
        {
            link.ship.watermark(*partition, epoch, visible_upto);
        }
    }
    Ok(ShipCursor::new(&node.store, next))
}

async fn send_all(
    node: &Arc<NodeCore>,
    link: &PeerLink,
    mut cursor: ShipCursor,
    frames: &mpsc::Sender<v1::ShipFrame>,
    feedback: &Feedback,
) -> Result<Ended, Failure> {
    let mut compressor = Compressor::default();
    let mut last_beat = Instant::now()
        .checked_sub(BEAT_INTERVAL)
        .unwrap_or_else(Instant::now);
    loop {
        heed(&mut cursor, node, feedback);
        let end = node.store.durable_end();
        if !cursor.is_at(end) {
            let chunk = read_chunk(node, &cursor, end).await?;
            if chunk.next == cursor.place() {
                return Err(format!("journal cannot be read on from {}", cursor.place()).into());
            }
            let picked = cursor.pick(&chunk);
            if !picked.bytes.is_empty() {
                let bytes = picked.bytes.len() as u64;
                let pace = if frames.capacity() < FRAMES_MAX / 2 {
                    LinkPace::Slow
                } else {
                    LinkPace::Free
                };
                let frame = compressor.frame(picked.bytes, pace);
                send(frames, ship_frame::Frame::Segments(frame)).await?;
                link.update(|status| {
                    status.shipped_bytes += bytes;
                    status.shipped_records += picked.records;
                });
            }
            if last_beat.elapsed() < BEAT_INTERVAL {
                continue;
            }
        }
        let caught_up = cursor.is_at(node.store.durable_end());
        let since = last_beat.elapsed();
        let has_watermarks = link.ship.has_watermarks();
        if since >= BEAT_INTERVAL || (has_watermarks && since >= WATERMARK_INTERVAL) {
            send(frames, ship_frame::Frame::Beat(beat(node, link, caught_up))).await?;
            last_beat = Instant::now();
            continue;
        }
        if caught_up {
            let wait = if has_watermarks {
                WATERMARK_INTERVAL
            } else {
                BEAT_INTERVAL
            };
            tokio::select! {
                () = link.ship.notify.notified() => {}
                () = feedback.notify.notified() => {}
                () = tokio::time::sleep(wait.saturating_sub(since)) => {}
            }
        }
    }
}

/// Does what rejections asked for.
fn heed(cursor: &mut ShipCursor, node: &NodeCore, feedback: &Feedback) {
    let rewinds = std::mem::take(
        &mut *feedback
            .rewinds
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner),
    );
    for (partition, rewind) in rewinds {
        match rewind {
            Some(seq) => cursor.rewind(&node.store, partition, seq),
            None => cursor.forget(partition),
        }
    }
}

/// Reads in place when little is new, which is in the page cache; on another thread in catch-up.
async fn read_chunk(
    node: &Arc<NodeCore>,
    cursor: &ShipCursor,
    end: domicile_storage::Place,
) -> Result<domicile_storage::JournalChunk, Failure> {
    let place = cursor.place();
    let is_near = place.file == end.file && end.offset - place.offset < READ_BYTES as u64 / 4;
    if is_near {
        return Ok(cursor.read(&node.store, end)?);
    }
    let node = Arc::clone(node);
    let read = tokio::task::spawn_blocking(move || node.store.read(place, end, READ_BYTES));
    Ok(read.await??)
}

fn beat(node: &NodeCore, link: &PeerLink, caught_up: bool) -> v1::Beat {
    let shared = |partition: &PartitionId| {
        node.driver
            .slot(*partition)
            .is_some_and(|slot| slot.keyspace.regions.contains(&link.region()))
    };
    let watermarks = link.ship.take_watermarks();
    let watermarks = watermarks
        .into_iter()
        .filter(|(partition, _)| shared(partition));
    let watermarks = watermarks.map(|(partition, (epoch, visible_upto))| v1::Watermark {
        partition: bytes::Bytes::copy_from_slice(&partition.to_bytes()),
        epoch_counter: epoch.counter,
        epoch_node: epoch.node.get(),
        visible_upto: visible_upto.get(),
    });
    v1::Beat {
        sent_us: node.clock.now().micros(),
        hlc: node.clock.head().bits(),
        caught_up,
        watermarks: watermarks.collect(),
    }
}

async fn take_answers(
    node: &Arc<NodeCore>,
    link: &PeerLink,
    slots: &BTreeMap<PartitionId, Arc<Slot>>,
    answers: &mut Streaming<v1::CopyFrame>,
    feedback: &Feedback,
) -> Result<Ended, Failure> {
    loop {
        match next(answers).await? {
            None => return Ok(Ended::ByPeer),
            Some(copy_frame::Frame::Acks(acks)) => {
                for mark in &acks.marks {
                    let (partition, mark) = read_mark(mark)?;
                    let Some(slot) = slots.get(&partition) else {
                        continue;
                    };
                    let Some(epoch) = slot.epoch() else { continue };
                    node.driver.ack(slot, link.region(), epoch, mark);
                }
            }
            Some(copy_frame::Frame::Echo(echo)) => {
                let rtt_us = node.clock.now().micros().saturating_sub(echo.sent_us);
                link.update(|status| status.rtt_us = rtt_us);
            }
            Some(copy_frame::Frame::Rejection(rejection)) => {
                let partition = partition_of_bytes(&rejection.partition)?;
                let (cause, message) = (&rejection.cause, &rejection.message);
                tracing::warn!(peer = %link.spec.name, %partition, %cause, %message, "rejected");
                link.update(|status| status.last_error = format!("{partition}: {message}"));
                let expected = Seq::new(rejection.expected_seq);
                let rewind = (cause == "GAP" && expected > Seq::NONE).then_some(expected);
                let rewinds = feedback.rewinds.lock();
                rewinds
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .insert(partition, rewind);
                feedback.notify.notify_one();
            }
            Some(copy_frame::Frame::Hello(_)) => return Err("a second hello".into()),
        }
    }
}

async fn next(
    answers: &mut Streaming<v1::CopyFrame>,
) -> Result<Option<copy_frame::Frame>, Failure> {
    match answers.message().await? {
        None => Ok(None),
        Some(frame) => frame.frame.map(Some).ok_or_else(|| "an empty frame".into()),
    }
}

async fn send(
    frames: &mpsc::Sender<v1::ShipFrame>,
    frame: ship_frame::Frame,
) -> Result<(), Failure> {
    frames
        .send(v1::ShipFrame { frame: Some(frame) })
        .await
        .map_err(|_| "connection closed".into())
}

/// An error with its causes, in one line.
fn chain_of(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
