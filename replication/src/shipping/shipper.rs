//! The home's end of a stream: pulls segments from the journal by cursor and sends them unchanged.
//!
//! **Owns**: one task a peer: connect, say hello, ship, beat, take acks, back off and try again.
//! **Does not own**: any queue of segments: the journal is the queue, so a slow or absent peer
//! costs no memory; live shipping and catch-up are this one path.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use domicile_core::{Input, Standing};
use domicile_proto::v1::{self, copy_frame, ship_frame};
use domicile_proto::{Epoch, NodeId, PartitionId, Seq};
use domicile_storage::{JournalChunk, Place, StoreError};
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::attach::{Attached, Reigns, attach, own_chains, read_marks};
use super::compression::{Compressor, LinkPace};
use super::cursor::{READ_BYTES, ShipCursor, Shipped};
use super::pace::ShipPace;
use crate::driver::{Slot, lock};
use crate::node::NodeCore;
use crate::peers::{PeerLink, digest_message, partition_of_bytes, read_digest, read_mark};

/// Frames between the reader and the connection. A frame is at most about [`READ_BYTES`] unless a
/// single record is larger; with 4 the connection never waits for the reader.
const FRAMES_MAX: usize = 4;

/// How often a beat is sent on an idle stream.
const BEAT_INTERVAL: Duration = Duration::from_millis(100);

/// A watermark waits this long for others: it bounds beats to 500 a second and adds as much to when
/// a copy shows a synchronous write.
const WATERMARK_INTERVAL: Duration = Duration::from_millis(2);

/// First and largest wait before dialling again; in between it doubles, with jitter. The largest is
/// what a healed link waits for at most; halved, an absent peer is dialled twice as often.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// A stream that lasted so long was a good one: what ends it is news, and dialled again at once.
const GOOD_STREAM: Duration = Duration::from_secs(2);

/// A copy that lacks more than this catches up, at a pace that leaves room for writers, unless
/// callers wait for it: 4,096 small writes in flight at once are less. Doubled, the last of a
/// catch-up disturbs writers for twice as long; halved, bursts are taken for one.
const CATCH_UP_BYTES_MIN: u64 = 1 << 20;

/// The wire protocol between nodes that this build speaks.
pub(crate) const PROTOCOL: u32 = 3;

/// The cause of a rejection: the copy installs a snapshot of the partition.
pub(super) const INSTALLING: &str = "INSTALLING";

pub(super) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Ships to one peer until the node closes.
pub(crate) async fn run(node: Arc<NodeCore>, link: Arc<PeerLink>) {
    let mut backoff = BACKOFF_MIN;
    let mut jitter = node.store.node_id().get() ^ u64::from(link.region().get());
    loop {
        let started = Instant::now();
        let outcome = tokio::select! {
            () = node.closed() => return,
            () = link.ended() => return,
            () = link.begin_anew.notified() => Ok(Ended::Anew),
            outcome = connect_and_ship(&node, &link) => outcome,
        };
        link.update(|status| status.connected = false);
        detach(&node, &link);
        match outcome {
            Ok(Ended::NothingToDo) => return,
            Ok(Ended::Anew) => {
                backoff = BACKOFF_MIN;
                continue;
            }
            Ok(Ended::ByPeer) => link.update(|s| s.last_error = "closed by the peer".to_owned()),
            Err(error) => {
                let error = chain_of(&*error);
                tracing::debug!(peer = %link.spec.name, %error, "shipping stopped");
                link.update(|status| status.last_error = error);
            }
        }
        if started.elapsed() > GOOD_STREAM {
            backoff = BACKOFF_MIN;
        }
        jitter = jitter
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let wait = backoff / 2 + backoff.mul_f64((jitter >> 40) as f64 / (1_u64 << 25) as f64);
        tokio::select! {
            () = node.closed() => return,
            () = link.ended() => return,
            () = tokio::time::sleep(wait) => {}
        }
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

enum Ended {
    NothingToDo,
    /// Partitions have come or gone.
    Anew,
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
    let slots = node.driver.slots().filter(|slot| is_shared(slot, link));
    slots.map(|slot| (slot.partition, slot)).collect()
}

fn is_shared(slot: &Slot, link: &PeerLink) -> bool {
    let is_served = slot.is_home() && !slot.is_damaged();
    is_served && slot.keyspace().regions.contains(&link.region())
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
    let marks = read_marks(&hello, link)?;
    let chains = own_chains(node, &marks).await?;
    let Attached {
        cursor,
        reigns,
        behind,
        forked,
    } = attach(node, link, &slots, &marks, &chains)?;
    let peer = NodeId::new(hello.node).ok();
    link.update(|status| status.node = peer);
    tracing::info!(peer = %link.spec.name, "shipping to peer");
    if !behind.is_empty() {
        let bytes = |id: &PartitionId| bytes::Bytes::copy_from_slice(&id.to_bytes());
        let partitions = behind.iter().map(bytes).collect();
        let needs = v1::NeedsSnapshot { partitions };
        send(&frames, ship_frame::Frame::NeedsSnapshot(needs)).await?;
    }
    for fork in forked {
        send(&frames, ship_frame::Frame::Forked(fork)).await?;
    }
    let feedback = Feedback::default();
    tokio::select! {
        ended = send_all(node, link, cursor, &frames, &feedback) => ended,
        ended = take_answers(node, link, &reigns, &mut answers, &feedback) => ended,
    }
}

/// When what was last sent.
struct Sent {
    beat: Instant,
    /// Since when watermarks wait for company.
    watermarks_since: Option<Instant>,
}

impl Sent {
    fn long_ago() -> Self {
        let now = Instant::now();
        let long_ago = now.checked_sub(BEAT_INTERVAL).unwrap_or(now);
        Self {
            beat: long_ago,
            watermarks_since: None,
        }
    }

    /// How long until a beat is due.
    fn until_beat(&mut self, link: &PeerLink) -> Duration {
        if link.ship.has_watermarks() {
            self.watermarks_since.get_or_insert_with(Instant::now);
        }
        let regular = BEAT_INTERVAL.saturating_sub(self.beat.elapsed());
        let soon = |since: Instant| WATERMARK_INTERVAL.saturating_sub(since.elapsed());
        self.watermarks_since
            .map_or(regular, |since| regular.min(soon(since)))
    }
}

async fn send_all(
    node: &Arc<NodeCore>,
    link: &PeerLink,
    mut cursor: ShipCursor,
    frames: &mpsc::Sender<v1::ShipFrame>,
    feedback: &Feedback,
) -> Result<Ended, Failure> {
    let mut compressor = Compressor::default();
    let mut sent = Sent::long_ago();
    let mut pace = ShipPace::new(Instant::now(), node.store.commit_stats().bytes);
    loop {
        heed(&mut cursor, node, feedback);
        if sent.until_beat(link).is_zero() {
            send_beat(node, link, &cursor, frames, &mut sent).await?;
        }
        let is_urgent = link.ship.take_urgent();
        let end = node.store.durable_end();
        if cursor.is_at(end) {
            tokio::select! {
                () = link.ship.news.notified() => {}
                () = feedback.notify.notified() => {}
                () = tokio::time::sleep(sent.until_beat(link)) => {}
            }
            continue;
        }
        let now = Instant::now();
        if !is_urgent && is_far(cursor.place(), end) {
            // What is written meanwhile lies behind what the copy lacks: nothing can overtake it.
            let hold = pace.catch_up_hold(now, node.store.commit_stats().bytes);
            if !hold.is_zero() {
                tokio::time::sleep(hold.min(sent.until_beat(link))).await;
                continue;
            }
        } else if let hold = pace.live_hold(now)
            && !is_urgent
            && !hold.is_zero()
            && is_near(cursor.place(), end)
        {
            tokio::select! {
                () = link.ship.hurry.notified() => {}
                () = feedback.notify.notified() => {}
                () = tokio::time::sleep(hold) => {}
            }
            // Once more, and this time not held: an interval has gone by, or it has become urgent.
            link.ship.take_urgent();
        }
        let bytes = send_segments(node, link, &mut cursor, frames, &mut compressor).await?;
        if bytes > 0 {
            pace.sent(Instant::now(), bytes);
        }
    }
}

/// Sends what one read of the journal gives; how many bytes of segments that was.
async fn send_segments(
    node: &Arc<NodeCore>,
    link: &PeerLink,
    cursor: &mut ShipCursor,
    frames: &mpsc::Sender<v1::ShipFrame>,
    compressor: &mut Compressor,
) -> Result<u64, Failure> {
    let read = read_chunk(node, cursor, node.store.durable_end()).await;
    let chunk = match read {
        Err(error) if is_damage(&*error) => {
            tracing::error!(%error, "damage in the journal is left out of what is shipped");
            let (store, place) = (Arc::clone(&node.store), cursor.place());
            let skipped = tokio::task::spawn_blocking(move || store.skip_damage(place));
            cursor.skip_to(skipped.await??);
            return Ok(0);
        }
        read => read?,
    };
    if chunk.next == cursor.place() {
        return Err(format!("journal cannot be read on from {}", cursor.place()).into());
    }
    let picked = cursor.pick(&chunk);
    if let Some((partition, seq)) = picked.missing {
        // Cut while the copy was away: nothing here can help it, and the others go on.
        tracing::error!(%partition, %seq, "the journal lacks what the copy lacks");
        if node.store.log_start(partition) > seq {
            // The next hello finds it behind, and it gets a snapshot.
            return Err(format!("{partition}: the journal was cut at {seq}").into());
        }
        cursor.leave_out(partition, seq);
        let text = format!("{partition}: the journal lacks records from {seq} on");
        link.update(|status| status.last_error = text);
    }
    if picked.bytes.is_empty() {
        return Ok(0);
    }
    let bytes = picked.bytes.len() as u64;
    let pace = if frames.capacity() < FRAMES_MAX / 2 {
        LinkPace::Slow
    } else {
        LinkPace::Free
    };
    let mut frame = compressor.frame(picked.bytes, pace);
    let sent = |(partition, reign): (PartitionId, Epoch)| v1::SentReign {
        partition: bytes::Bytes::copy_from_slice(&partition.to_bytes()),
        epoch_counter: reign.counter,
        epoch_node: reign.node.get(),
    };
    frame.older = picked.older.into_iter().map(sent).collect();
    send(frames, ship_frame::Frame::Segments(frame)).await?;
    link.update(|status| {
        status.shipped_bytes += bytes;
        status.shipped_records += picked.records;
    });
    Ok(bytes)
}

fn is_damage(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    let error = error.downcast_ref::<StoreError>();
    error.is_some_and(StoreError::is_damage)
}

async fn send_beat(
    node: &NodeCore,
    link: &PeerLink,
    cursor: &ShipCursor,
    frames: &mpsc::Sender<v1::ShipFrame>,
    sent: &mut Sent,
) -> Result<(), Failure> {
    // A beat speaks for every partition; with one left out it can say nothing.
    let caught_up = cursor.is_at(node.store.durable_end()) && cursor.shipped() == Shipped::All;
    let is_regular = sent.beat.elapsed() >= BEAT_INTERVAL;
    if is_regular && let Some(partition) = cursor.can_be_helped(&node.store) {
        return Err(format!("{partition}: a snapshot stands for what it lacks now").into());
    }
    let sent_us = match is_regular {
        true => node.clock.now().micros().max(1),
        false => 0,
    };
    sent.watermarks_since = None;
    let beat = v1::Beat {
        sent_us,
        hlc: node.clock.head().bits(),
        caught_up,
        watermarks: take_watermarks(node, link),
        digests: take_digests(node, link),
    };
    send(frames, ship_frame::Frame::Beat(beat)).await?;
    if is_regular {
        sent.beat = Instant::now();
    }
    Ok(())
}

/// Does what rejections asked for.
fn heed(cursor: &mut ShipCursor, node: &NodeCore, feedback: &Feedback) {
    let rewinds = std::mem::take(&mut *lock(&feedback.rewinds));
    for (partition, rewind) in rewinds {
        match rewind {
            Some(seq) => cursor.rewind(&node.store, partition, seq),
            None => cursor.forget(partition),
        }
    }
}

/// Whether little enough is new to be read in place, or to wait for more.
fn is_near(place: Place, end: Place) -> bool {
    place.file == end.file && end.offset - place.offset < READ_BYTES as u64
}

/// Whether so much is missing that it is a catch-up, and no burst of writes that callers wait for.
fn is_far(place: Place, end: Place) -> bool {
    match place.file == end.file {
        true => end.offset - place.offset > CATCH_UP_BYTES_MIN,
        false => place.file.next() != end.file || end.offset > CATCH_UP_BYTES_MIN,
    }
}

/// Reads in place when little is new, which is in the page cache; on another thread in catch-up.
async fn read_chunk(
    node: &Arc<NodeCore>,
    cursor: &ShipCursor,
    end: Place,
) -> Result<JournalChunk, Failure> {
    let place = cursor.place();
    if is_near(place, end) {
        return Ok(cursor.read(&node.store, end)?);
    }
    let node = Arc::clone(node);
    let read = tokio::task::spawn_blocking(move || node.store.read(place, end, READ_BYTES));
    Ok(read.await??)
}

fn take_watermarks(node: &NodeCore, link: &PeerLink) -> Vec<v1::Watermark> {
    let shared = |partition: &PartitionId| {
        node.driver
            .slot(*partition)
            .is_some_and(|slot| slot.keyspace().regions.contains(&link.region()))
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
    watermarks.collect()
}

fn take_digests(node: &NodeCore, link: &PeerLink) -> Vec<v1::PartitionDigest> {
    let follows = |slot: Arc<Slot>| {
        let standing = slot.standing(link.region());
        is_shared(&slot, link) && standing == Some(Standing::Attached)
    };
    let digests = link.ship.take_digests().into_iter();
    let digests =
        digests.filter(|(partition, _)| node.driver.slot(*partition).is_some_and(follows));
    digests
        .map(|(partition, digest)| digest_message(partition, digest))
        .collect()
}

async fn take_answers(
    node: &Arc<NodeCore>,
    link: &PeerLink,
    reigns: &Reigns,
    answers: &mut Streaming<v1::CopyFrame>,
    feedback: &Feedback,
) -> Result<Ended, Failure> {
    loop {
        match next(answers).await? {
            None => return Ok(Ended::ByPeer),
            Some(copy_frame::Frame::Acks(acks)) => {
                for mark in &acks.marks {
                    let (partition, mark) = read_mark(mark)?;
                    if let Some((slot, epoch)) = reigns.get(&partition) {
                        node.driver.ack(slot, link.region(), *epoch, mark);
                    }
                }
            }
            Some(copy_frame::Frame::Digests(said)) => {
                for digest in &said.digests {
                    // What was not asked for is not waited for either.
                    if let Some((partition, said)) = read_digest(digest)?
                        && reigns.contains_key(&partition)
                    {
                        let from = (partition, link.region());
                        lock(&node.digest_answers).insert(from, said);
                    }
                }
            }
            Some(copy_frame::Frame::Echo(echo)) => {
                let rtt_us = node.clock.now().micros().saturating_sub(echo.sent_us);
                link.update(|status| status.rtt_us = rtt_us);
            }
            Some(copy_frame::Frame::Rejection(rejection)) => {
                heed_rejection(link, rejection, feedback)?
            }
            Some(copy_frame::Frame::Hello(_)) => return Err("a second hello".into()),
        }
    }
}

/// What a refused segment calls for: going back, leaving the partition out, or starting over.
///
/// # Errors
/// The logs may have forked, or the peer's store has failed: the next hello tells.
fn heed_rejection(
    link: &PeerLink,
    rejection: v1::Rejection,
    feedback: &Feedback,
) -> Result<(), Failure> {
    let partition = partition_of_bytes(&rejection.partition)?;
    let (cause, message) = (&rejection.cause, &rejection.message);
    tracing::warn!(peer = %link.spec.name, %partition, %cause, %message, "rejected");
    link.update(|status| status.last_error = format!("{partition}: {message}"));
    let expected = Seq::new(rejection.expected_seq);
    let rewind = match cause.as_str() {
        "GAP" if expected > Seq::NONE => Some(expected),
        "RESIDENCY" | INSTALLING => None,
        _ => return Err(format!("{partition} refused: {message}").into()),
    };
    lock(&feedback.rewinds).insert(partition, rewind);
    feedback.notify.notify_one();
    Ok(())
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
