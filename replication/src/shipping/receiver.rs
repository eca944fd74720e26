//! The copy's end of a stream: checks what comes, stores it, says what it holds.
//!
//! **Owns**: one task a stream; residency at the receiver; the answer to each kind of damage.
//! **Does not own**: accepting or refusing by epoch and sequence (the core).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use domicile_core::{Input, RejectCause, Urgency};
use domicile_proto::v1::{self, copy_frame, ship_frame};
use domicile_proto::{Epoch, Hlc, PartitionId, Segment, Seq};
use domicile_storage::{CheckedSegment, SOON_INTERVAL};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::compression::plain_bytes;
use super::shipper::{INSTALLING, PROTOCOL};
use crate::clock::Clock;
use crate::driver::{Refused, Slot, SourceSignal, lock};
use crate::node::{AHEAD, NodeCore};
use crate::options::RegionSpec;
use crate::ownership::{ask_again, reign_of, rejoin};
use crate::peers::{
    digest_message, mark_message, partition_of_bytes, read_digest, read_epoch, read_forked,
};

/// Largest frame of segments accepted, uncompressed.
const FRAME_BYTES_MAX: usize = 12 << 20;

/// Acks that no caller waits for are told at most this often: as often as what they tell of is
/// committed. It adds as much to what the home takes for its potential loss; halved, it costs both
/// ends twice the messages under load.
const ACK_INTERVAL: Duration = SOON_INTERVAL;

type Answers = mpsc::Sender<Result<v1::CopyFrame, Status>>;

/// One stream from one home.
pub(crate) struct Receiver {
    node: Arc<NodeCore>,
    answers: Answers,
}

impl Receiver {
    pub(crate) fn new(node: Arc<NodeCore>, answers: Answers) -> Self {
        Self { node, answers }
    }

    /// Serves the stream until it ends, either side fails, or a newer stream replaces it.
    pub(crate) async fn run(self, mut frames: Streaming<v1::ShipFrame>) {
        let ended = match self.greet(&mut frames).await {
            Ok((source, signal)) => {
                let number = signal.begin_stream();
                signal.update_stream(|stream| stream.receiving = true);
                self.say_what_is_held(&source, &signal);
                let ended = tokio::select! {
                    () = self.node.closed() => Err(Status::unavailable("the node is closing")),
                    ended = self.serve(&mut frames, &source, &signal, number) => ended,
                };
                if signal.is_current(number) {
                    signal.update_stream(|stream| stream.receiving = false);
                }
                ended
            }
            Err(status) => Err(status),
        };
        if let Err(status) = ended {
            tracing::warn!(error = %status.message(), "a stream of segments ended");
            drop(self.answers.send(Err(status)).await);
        }
    }

    /// Reads the hello, checks that both sides are configured alike, answers with what is held.
    async fn greet(
        &self,
        frames: &mut Streaming<v1::ShipFrame>,
    ) -> Result<(RegionSpec, Arc<SourceSignal>), Status> {
        let first = frames.message().await?.and_then(|frame| frame.frame);
        let Some(ship_frame::Frame::Hello(hello)) = first else {
            return Err(Status::invalid_argument("the first frame must be a hello"));
        };
        let topology = &self.node.topology;
        let refuse = |text: String| Err(Status::failed_precondition(text));
        if hello.protocol != PROTOCOL {
            return refuse(format!(
                "peer protocol {}, supported {PROTOCOL}",
                hello.protocol
            ));
        }
        if hello.cluster != topology.cluster.as_str() {
            return refuse(format!(
                "cluster {:?}, this is {:?}",
                hello.cluster, topology.cluster
            ));
        }
        if hello.policy_digest != topology.digest() {
            let own = &topology.own.name;
            return refuse(format!(
                "regions or keyspaces are configured differently at {own}"
            ));
        }
        if let Some(cause) = self.node.store.poison_cause() {
            return Err(Status::unavailable(format!(
                "the store has failed: {cause}"
            )));
        }
        let source = topology.region_named(&hello.region);
        let Some(source) = source.filter(|region| region.id != topology.own.id) else {
            return refuse(format!("region {:?} is not a peer here", hello.region));
        };
        let Some(signal) = self.node.driver.peers.source(source.id) else {
            return refuse(format!("region {:?} is not a peer here", hello.region));
        };
        let slots = self
            .node
            .driver
            .slots()
            .filter(|slot| slot.home() == source.id);
        let hello = v1::CopyHello {
            protocol: PROTOCOL,
            region: topology.own.name.to_string(),
            node: self.node.store.node_id().get(),
            policy_digest: topology.digest(),
            marks: slots
                .map(|slot| mark_message(slot.partition, slot.held_mark()))
                .collect(),
        };
        self.answer(copy_frame::Frame::Hello(hello)).await?;
        tracing::info!(peer = %source.name, "receiving from peer");
        Ok((source.clone(), signal))
    }

    async fn serve(
        &self,
        frames: &mut Streaming<v1::ShipFrame>,
        source: &RegionSpec,
        signal: &SourceSignal,
        number: u64,
    ) -> Result<(), Status> {
        let mut acked_at = Instant::now();
        loop {
            if !signal.is_current(number) {
                // What woke this stream was meant for the newer one.
                signal.notify.notify_one();
                return Err(Status::aborted("replaced by a newer stream"));
            }
            let waiting = signal.waiting();
            let acks_due = acked_at + ACK_INTERVAL;
            if waiting == Some(Urgency::Now) || (waiting.is_some() && acks_due <= Instant::now()) {
                self.send_acks(signal).await?;
                acked_at = Instant::now();
                if waiting == Some(Urgency::Now) {
                    // What was acknowledged as received is on its way first, and on disk next: only
                    // between the two may a loss of power here take what the home counts on.
                    tokio::task::yield_now().await;
                    self.node.store.hasten();
                }
                continue;
            }
            self.send_digests(signal).await?;
            tokio::select! {
                frame = frames.message() => match frame?.map(|frame| frame.frame) {
                    None => return Ok(()),
                    Some(Some(ship_frame::Frame::Segments(segments))) => {
                        self.take_segments(source, segments).await?;
                    }
                    Some(Some(ship_frame::Frame::Beat(beat))) => {
                        self.take_beat(source, signal, &beat).await?;
                    }
                    Some(Some(ship_frame::Frame::NeedsSnapshot(needs))) => {
                        self.take_needs(source, &needs)?;
                    }
                    Some(Some(ship_frame::Frame::Forked(forked))) => {
                        self.take_forked(source, &forked)?;
                    }
                    Some(_) => return Err(Status::invalid_argument("an unexpected frame")),
                },
                () = signal.notify.notified() => {}
                () = tokio::time::sleep_until(acks_due.into()), if waiting.is_some() => {}
            }
        }
    }

    /// Acks that went to an older stream since the hello was made are said again.
    fn say_what_is_held(&self, source: &RegionSpec, signal: &SourceSignal) {
        for slot in self
            .node
            .driver
            .slots()
            .filter(|slot| slot.home() == source.id)
        {
            let held = slot.held_mark();
            if held.epoch.is_some() {
                signal.ack(slot.partition, held, Urgency::Now);
            }
        }
    }

    async fn send_acks(&self, signal: &SourceSignal) -> Result<(), Status> {
        let acks = signal.take_acks();
        if acks.is_empty() {
            return Ok(());
        }
        let marks = acks
            .into_iter()
            .map(|(partition, mark)| mark_message(partition, mark));
        self.answer(copy_frame::Frame::Acks(v1::Acks {
            marks: marks.collect(),
        }))
        .await
    }

    /// Answers what the home said of its cells with what is here.
    async fn send_digests(&self, signal: &SourceSignal) -> Result<(), Status> {
        let digests = signal.take_digests();
        if digests.is_empty() {
            return Ok(());
        }
        let digests = digests
            .into_iter()
            .map(|(partition, digest)| digest_message(partition, digest));
        self.answer(copy_frame::Frame::Digests(v1::Digests {
            digests: digests.collect(),
        }))
        .await
    }

    async fn take_segments(&self, source: &RegionSpec, frame: v1::Segments) -> Result<(), Status> {
        let corrupt = |error: domicile_proto::WireError| Status::data_loss(error.to_string());
        let mut reigns = BTreeMap::new();
        for sent in &frame.older {
            let partition = partition_of_bytes(&sent.partition);
            let partition = partition.map_err(|error| Status::data_loss(error.to_string()))?;
            let reign = read_epoch(sent.epoch_counter, sent.epoch_node);
            let reign = reign.ok_or_else(|| Status::data_loss("a reign without a node"))?;
            reigns.insert(partition, reign);
        }
        let mut bytes: Bytes = plain_bytes(frame, FRAME_BYTES_MAX).map_err(corrupt)?;
        // Meanwhile nothing is read, and the sender's window fills.
        let frame_bytes = bytes.len();
        self.node.driver.wait_space().await;
        self.node.driver.wait_room(frame_bytes).await;
        while !bytes.is_empty() {
            let segment = Segment::decode_front(&mut bytes).map_err(corrupt)?;
            let segment = CheckedSegment::new(segment, frame_bytes)
                .map_err(|error| Status::data_loss(error.to_string()))?;
            let header = segment.header();
            let reign = reigns.get(&header.partition).copied();
            let reign = reign.unwrap_or(header.epoch);
            self.take_segment(source, segment, reign).await?;
        }
        Ok(())
    }

    async fn take_segment(
        &self,
        source: &RegionSpec,
        segment: CheckedSegment,
        reign: Epoch,
    ) -> Result<(), Status> {
        let header = *segment.header();
        let Some(slot) = self.held_slot(source, header.partition) else {
            let keyspace = header.partition.keyspace;
            let message = format!("{keyspace} from {}: not to be held here", source.name);
            let partition = header.partition;
            return self
                .reject(partition, "RESIDENCY", message, Seq::NONE)
                .await;
        };
        if self.node.plane.is_some() && slot.is_ahead_of(Some(reign)) {
            let partition = header.partition;
            // A map that does not know the reign is behind: with a newer one streams begin anew.
            if reign_of(&self.node, partition) >= Some(reign) {
                tokio::spawn(ask_again(Arc::clone(&self.node), slot));
            }
            let message = format!("{AHEAD}, by the word of a home that is succeeded");
            return self.reject(partition, INSTALLING, message, Seq::NONE).await;
        }
        let cause = match self.node.driver.receive(&slot, segment, reign) {
            Ok(()) | Err(Refused::ByCore(RejectCause::Duplicate { .. })) => return Ok(()),
            Err(Refused::ByCore(cause)) => cause,
            Err(Refused::Installing) => {
                let (partition, text) = (header.partition, "a snapshot is being installed");
                let message = text.to_owned();
                return self.reject(partition, INSTALLING, message, Seq::NONE).await;
            }
        };
        let (code, expected) = match &cause {
            RejectCause::Gap { expected, .. } => ("GAP", *expected),
            RejectCause::Overlap { .. } => ("OVERLAP", Seq::NONE),
            RejectCause::StaleEpoch { .. } => ("STALE_EPOCH", Seq::NONE),
            RejectCause::ChainMismatch { .. } => ("CHAIN_MISMATCH", Seq::NONE),
            RejectCause::Poisoned => ("STORE_POISONED", Seq::NONE),
            _ => ("REFUSED", Seq::NONE),
        };
        self.reject(header.partition, code, cause.to_string(), expected)
            .await
    }

    /// The slot of a segment that this source may send and this region may hold.
    fn held_slot(&self, source: &RegionSpec, partition: PartitionId) -> Option<Arc<Slot>> {
        let slot = self.node.driver.slot(partition)?;
        (slot.home() == source.id && slot.keyspace().regions.contains(&source.id)).then_some(slot)
    }

    async fn reject(
        &self,
        partition: PartitionId,
        cause: &str,
        message: String,
        expected: Seq,
    ) -> Result<(), Status> {
        tracing::warn!(%partition, cause, %message, "segment refused");
        let rejection = v1::Rejection {
            partition: Bytes::copy_from_slice(&partition.to_bytes()),
            cause: cause.to_owned(),
            message,
            expected_seq: expected.get(),
        };
        self.answer(copy_frame::Frame::Rejection(rejection)).await
    }

    /// The home cannot help these partitions by its log.
    fn take_needs(&self, source: &RegionSpec, needs: &v1::NeedsSnapshot) -> Result<(), Status> {
        for bytes in &needs.partitions {
            let partition = partition_of_bytes(bytes);
            let partition =
                partition.map_err(|error| Status::invalid_argument(error.to_string()))?;
            // Residency: only what may be held here is asked for.
            if let Some(slot) = self.held_slot(source, partition) {
                let text = "lacks what its home's log no longer has: waits for a snapshot";
                slot.set_alarm(Some(text.to_owned()));
                self.node
                    .wanted
                    .want(partition, slot.held_mark().received_upto.next());
            }
        }
        Ok(())
    }

    /// This log has records that the home's never had.
    fn take_forked(&self, source: &RegionSpec, forked: &v1::Forked) -> Result<(), Status> {
        let invalid =
            |error: domicile_proto::WireError| Status::invalid_argument(error.to_string());
        let forked = read_forked(forked).map_err(invalid)?;
        if let Some(slot) = self.held_slot(source, forked.partition) {
            let node = Arc::clone(&self.node);
            tokio::spawn(rejoin(node, slot, forked));
        }
        Ok(())
    }

    async fn take_beat(
        &self,
        source: &RegionSpec,
        signal: &SourceSignal,
        beat: &v1::Beat,
    ) -> Result<(), Status> {
        for watermark in &beat.watermarks {
            let partition = partition_of_bytes(&watermark.partition)
                .map_err(|error| Status::invalid_argument(error.to_string()))?;
            let epoch = read_epoch(watermark.epoch_counter, watermark.epoch_node);
            let (Some(slot), Some(epoch)) = (self.node.driver.slot(partition), epoch) else {
                continue;
            };
            if slot.home() == source.id {
                let visible_upto = Seq::new(watermark.visible_upto);
                self.node.driver.input(
                    &slot,
                    Input::Watermark {
                        epoch,
                        visible_upto,
                    },
                );
            }
        }
        for digest in &beat.digests {
            let heard =
                read_digest(digest).map_err(|error| Status::invalid_argument(error.to_string()))?;
            let heard = heard.filter(|(id, _)| self.held_slot(source, *id).is_some());
            lock(&self.node.digests).extend(heard);
        }
        let hlc = Hlc::from_bits(beat.hlc);
        if !self.node.clock.observe(hlc) {
            let peer = &source.name;
            tracing::warn!(%peer, %hlc, "the peer's clock is far ahead, not followed");
        }
        let now = self.node.clock.now();
        let one_way_us = self
            .node
            .link(source.id)
            .map_or(0, |link| link.status().rtt_us / 2);
        signal.update_stream(|stream| {
            stream.one_way_us = one_way_us;
            let home_now_ms = hlc.wall_ms() + one_way_us / 1000;
            stream.skew_ms = home_now_ms.cast_signed() - Clock::wall_ms().cast_signed();
            if beat.caught_up {
                stream.caught_up_at = Some(now);
            }
        });
        if beat.sent_us == 0 {
            return Ok(());
        }
        let echo = v1::BeatEcho {
            sent_us: beat.sent_us,
            hlc: self.node.clock.head().bits(),
            applied: Vec::new(),
        };
        self.answer(copy_frame::Frame::Echo(echo)).await
    }

    async fn answer(&self, frame: copy_frame::Frame) -> Result<(), Status> {
        let frame = v1::CopyFrame { frame: Some(frame) };
        let sent = self.answers.send(Ok(frame)).await;
        sent.map_err(|_| Status::cancelled("the home has gone away"))
    }
}
