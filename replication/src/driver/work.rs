//! The driver itself: brings inputs to cores and carries out what they answer.
//!
//! **Owns**: the slots of this node, the order of effects, the hand-over to storage.
//! **Does not own**: threads and sockets (node, shipping), decisions (the core).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use domicile_core::{
    Awaited, EarlierTries, Effect, Event, Expected as CoreExpected, Input, KeyChange, Moment,
    Outcome, Precondition as CoreCondition, Purpose, RejectCause, Urgency, Write,
};
use domicile_proto::{
    AckLevel, Epoch, Operation, PartitionId, Reason, Record, RecordHead, RegionId, RequestId, Seq,
    record::RecordBody,
};
use domicile_storage::{CheckedSegment, CommitSink, CommitUrgency, Committed, Store, StoreError};
use tokio::sync::Notify;

use super::lease::NodeLease;
use super::outbox::{Outbox, ReplyTo, Waiter};
use super::peer_signals::PeerSignals;
use super::signals::HeldMark;
use super::slot::{Slot, SlotState};
use super::timers::Timers;
use crate::call::{Expected, Precondition};
use crate::clock::Clock;
use crate::error::Error;
use crate::receipt::Receipt;

/// A write that has passed every check that needs no lock.
#[derive(Debug, Clone)]
pub(crate) struct PreparedWrite {
    pub(crate) purpose: Purpose,
    pub(crate) request_id: RequestId,
    pub(crate) operations: Vec<Operation>,
    pub(crate) body: RecordBody,
    pub(crate) preconditions: Vec<Precondition>,
    pub(crate) level: Option<AckLevel>,
    pub(crate) deadline: Moment,
    pub(crate) earlier_tries: EarlierTries,
}

/// Why a segment was not taken.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The core said so.
    ByCore(RejectCause),
    /// A snapshot is taking the place of everything that the partition has here.
    Installing,
}

/// What an input brings along that the core does not see.
enum Cargo {
    Nothing,
    Body(RecordBody),
    Segment(CheckedSegment),
}

/// How often a receiver looks whether the device has room again. Doubled, a copy goes on that much
/// later.
const SPACE_POLL: Duration = Duration::from_millis(200);

/// All partitions of one node.
pub(crate) struct Driver {
    pub(crate) clock: Arc<Clock>,
    pub(crate) store: Arc<Store>,
    pub(crate) timers: Timers,
    pub(crate) lease: Arc<NodeLease>,
    pub(crate) peers: PeerSignals,
    /// A home wants it on record that it degrades, or has ended such a stretch.
    pub(crate) degrading: Notify,
    /// Told whenever the store may have room again: after a commit and after a flush.
    pub(crate) room: Notify,
    slots: RwLock<HashMap<PartitionId, Arc<Slot>>>,
    closing: AtomicBool,
}

impl Driver {
    pub(crate) fn new(clock: Arc<Clock>, store: Arc<Store>, peers: &[RegionId]) -> Self {
        Self {
            clock,
            store,
            timers: Timers::default(),
            lease: Arc::default(),
            peers: PeerSignals::new(peers),
            degrading: Notify::new(),
            room: Notify::new(),
            slots: RwLock::default(),
            closing: AtomicBool::new(false),
        }
    }

    /// Adds a partition.
    pub(crate) fn add(
        &self,
        keyspace: Arc<domicile_proto::Keyspace>,
        core: domicile_core::Partition,
    ) -> Arc<Slot> {
        let partition = core.config().partition;
        let (cells, lease) = (self.store.cells(partition), Arc::clone(&self.lease));
        let slot = Arc::new(Slot::new(keyspace, core, cells, lease));
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        let replaced = slots.insert(partition, Arc::clone(&slot));
        assert!(replaced.is_none(), "partition {partition} was added twice");
        slot
    }

    pub(crate) fn slot(&self, partition: PartitionId) -> Option<Arc<Slot>> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        slots.get(&partition).cloned()
    }

    /// The partitions here as of now.
    pub(crate) fn slots(&self) -> std::vec::IntoIter<Arc<Slot>> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        slots.values().cloned().collect::<Vec<_>>().into_iter()
    }

    /// From now on writes are refused with `DRAINING`.
    pub(crate) fn begin_closing(&self) {
        self.closing.store(true, Ordering::Release);
    }

    /// Whether the store can take a write now; if not, the caller waits and asks again.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        !self.store.is_stalled() && self.store.has_room(bytes as u64)
    }

    /// Waits until the store can take a write. Whoever waits is woken by commits and flushes, not
    /// by a timer of its own: thousands of waiting writes must not take the CPU that they wait for.
    pub(crate) async fn wait_room(&self, bytes: usize) {
        loop {
            let mut freed = std::pin::pin!(self.room.notified());
            freed.as_mut().enable();
            if self.has_room(bytes) {
                return;
            }
            freed.await;
        }
    }

    /// Waits until there is room on the device for what a home sends. What is not taken keeps its
    /// window closed; it is sent again if that lasts longer than the stream.
    pub(crate) async fn wait_space(&self) {
        while self.store.check_space().is_err() {
            tokio::time::sleep(SPACE_POLL).await;
        }
    }

    /// Hands a write to its home's core. The answer goes to `reply`, at once or later.
    pub(crate) fn submit(&self, slot: &Slot, write: PreparedWrite, reply: ReplyTo) {
        if self.closing.load(Ordering::Acquire) {
            return reply.send(Err(Error::new(Reason::Draining, "the node is closing")));
        }
        if let Err(full) = self.store.check_space() {
            return reply.send(Err(full.into()));
        }
        let mut outbox = Outbox::default();
        let mut state = slot.lock();
        if let Err(error) = slot.check_damage(&state) {
            drop(state);
            return reply.send(Err(error));
        }
        let preconditions = match observe(slot, write.preconditions) {
            Ok(preconditions) => preconditions,
            Err(error) => {
                drop(state);
                return reply.send(Err(error));
            }
        };
        let ticket = state.ticket();
        let bytes = u32::try_from(Record::encoded_len(&write.body)).unwrap_or(u32::MAX);
        let change = |operation: Operation| match operation {
            Operation::Put { key, .. } => (key, KeyChange::Put),
            Operation::Delete { key } => (key, KeyChange::Delete),
        };
        let input = Input::Write(Write {
            ticket,
            purpose: write.purpose,
            request_id: write.request_id,
            fingerprint: write.body.fingerprint(),
            bytes,
            keys: write.operations.into_iter().map(change).collect(),
            preconditions,
            level: write.level,
            hlc: self.clock.stamp(),
            deadline: write.deadline,
            earlier_tries: write.earlier_tries,
        });
        state.waiters.insert(
            ticket,
            Waiter {
                reply,
                request_id: write.request_id,
            },
        );
        self.step(
            slot,
            &mut state,
            input,
            Cargo::Body(write.body),
            &mut outbox,
        );
        drop(state);
        self.deliver(outbox);
    }

    /// Takes a segment from its home, which sends it in the reign `reign`.
    ///
    /// # Errors
    /// Why it is refused; a duplicate is refused too, and acknowledged again.
    pub(crate) fn receive(
        &self,
        slot: &Slot,
        segment: CheckedSegment,
        reign: Epoch,
    ) -> Result<(), Refused> {
        let mut outbox = Outbox::default();
        let mut state = slot.lock();
        if state.installing {
            state.turned_away = true;
            return Err(Refused::Installing);
        }
        let (header, chain) = (*segment.header(), segment.chain());
        let hlc = segment.first_hlc();
        let copies = state.core.config().copies();
        let awaited = Awaited::of(segment.levels(), segment.ends_reign(), copies);
        let input = Input::Received {
            header,
            chain,
            reign,
            awaited,
        };
        let rejected = self.step(
            slot,
            &mut state,
            input,
            Cargo::Segment(segment),
            &mut outbox,
        );
        match &rejected {
            None => {
                state.stalled = false;
                state.arrived(header.last_seq(), hlc);
                let now = self.clock.now();
                state.rate.arrived(u64::from(header.count), now);
            }
            Some(RejectCause::Duplicate { .. }) => {}
            Some(_) => state.stalled = true,
        }
        drop(state);
        self.deliver(outbox);
        rejected.map_or(Ok(()), |cause| Err(Refused::ByCore(cause)))
    }

    /// Brings any other input to a slot.
    pub(crate) fn input(&self, slot: &Slot, input: Input) {
        let mut outbox = Outbox::default();
        let mut state = slot.lock();
        self.step(slot, &mut state, input, Cargo::Nothing, &mut outbox);
        drop(state);
        self.deliver(outbox);
    }

    /// A copy said what it holds, on a stream that was opened in the reign `epoch`.
    pub(crate) fn ack(&self, slot: &Slot, region: RegionId, epoch: Epoch, mark: HeldMark) {
        let HeldMark {
            received_upto,
            durable_upto,
            ..
        } = mark;
        let input = Input::Ack {
            region,
            epoch,
            received_upto,
            durable_upto,
        };
        self.input(slot, input);
    }

    /// What became of a write, if its id is still remembered.
    ///
    /// # Errors
    /// The partition is damaged here: what it knew is lost.
    pub(crate) fn outcome(
        &self,
        slot: &Slot,
        request_id: RequestId,
    ) -> Result<Option<Receipt>, Error> {
        let state = slot.lock();
        slot.check_damage(&state)?;
        Ok(match state.core.outcome(request_id) {
            Outcome::Known(receipt) | Outcome::Pending(receipt) => {
                Some(public_receipt(slot, &receipt, request_id))
            }
            Outcome::Unknown => None,
        })
    }

    /// Ticks every partition whose time has come.
    pub(crate) fn tick(&self) {
        for (at, partition) in self.timers.due(self.clock.now()) {
            let Some(slot) = self.slot(partition) else {
                continue;
            };
            let mut outbox = Outbox::default();
            let mut state = slot.lock();
            if state.armed != Some(at) {
                // An earlier entry has taken its place; were it honoured, entries would multiply.
                continue;
            }
            state.armed = None;
            self.step(&slot, &mut state, Input::Tick, Cargo::Nothing, &mut outbox);
            drop(state);
            self.deliver(outbox);
        }
    }

    /// Answers everyone who still waits: the node ends, or its store has failed.
    pub(crate) fn answer_all(&self, why: &str) {
        for slot in self.slots() {
            let mut outbox = Outbox::default();
            let mut state = slot.lock();
            state.alarm = Some(why.to_owned());
            self.poison(&slot, &mut state, &mut outbox);
            drop(state);
            slot.watchers.wake();
            self.deliver(outbox);
        }
        self.room.notify_waiters();
    }

    pub(super) fn deliver(&self, mut outbox: Outbox) {
        let has_news = outbox.ship.is_some() || outbox.watermarks;
        let peers = has_news.then(|| self.peers.all());
        let signals = || peers.iter().flat_map(|it| it.values()).map(|it| &it.ship);
        if outbox.ship == Some(Urgency::Now) {
            signals().for_each(|signal| signal.ship(Urgency::Now));
        }
        outbox.deliver_replies();
        // Nobody waits for these: they come after the callers.
        if outbox.ship == Some(Urgency::Soon) {
            signals().for_each(|signal| signal.ship(Urgency::Soon));
        }
        if outbox.watermarks {
            signals().for_each(|signal| signal.news.notify_one());
        }
    }

    fn step(
        &self,
        slot: &Slot,
        state: &mut SlotState,
        input: Input,
        cargo: Cargo,
        outbox: &mut Outbox,
    ) -> Option<RejectCause> {
        let mut effects = std::mem::take(&mut state.effects);
        let now = self.clock.now();
        state.core.renew_lease(self.lease.until());
        state.core.step(now, input, &mut effects);
        let mut rejected = None;
        let mut cargo = Some(cargo);
        for effect in effects.drain(..) {
            match effect {
                Effect::Append {
                    seq,
                    head,
                    visible_upto,
                    ..
                } => {
                    let Some(Cargo::Body(body)) = cargo.take() else {
                        panic!("{}: an append without a body at {seq}", slot.partition);
                    };
                    self.append(slot, state, seq, visible_upto, Record { head, body });
                }
                Effect::AppendMark {
                    seq,
                    head,
                    visible_upto,
                } => {
                    let hlc = self.clock.stamp();
                    let head = RecordHead { hlc, ..head };
                    let body = RecordBody::mark();
                    self.append(slot, state, seq, visible_upto, Record { head, body });
                }
                Effect::Store { urgency } => {
                    let Some(Cargo::Segment(segment)) = cargo.take() else {
                        panic!("{}: a store without a segment", slot.partition);
                    };
                    if let Err(error) = self.store.submit_segment(segment, commit_urgency(urgency))
                    {
                        state.alarm = Some(error.to_string());
                        rejected = Some(RejectCause::Poisoned);
                        // What follows in this step (the ack) held only if it had been taken.
                        break;
                    }
                }
                Effect::Reply { ticket, result } => reply(slot, state, ticket, result, outbox),
                Effect::Reject { cause } => rejected = Some(cause),
                Effect::Ship { urgency, .. } => outbox.ship(urgency),
                Effect::Visible { upto } => self.make_visible(slot, state, upto, outbox),
                Effect::SendAck { urgency, .. } => {
                    if let Some(source) = self.peers.source(slot.home()) {
                        source.ack(slot.partition, state.held(), urgency);
                    }
                }
                Effect::Event(event) => self.note(slot, state, event),
            }
        }
        state.effects = effects;
        self.arm(slot, state);
        if rejected == Some(RejectCause::Poisoned) && state.alarm.is_some() {
            self.poison(slot, state, outbox);
        }
        rejected
    }

    fn append(
        &self,
        slot: &Slot,
        state: &mut SlotState,
        seq: Seq,
        visible_upto: Seq,
        record: Record,
    ) {
        let epoch = state.core.epoch().expect("a home has an epoch");
        if let Err(error) =
            self.store
                .submit_record(slot.partition, epoch, seq, visible_upto, record)
        {
            // The commit thread reports the failure to every slot; the waiter stays until then.
            state.alarm = Some(error.to_string());
            let partition = slot.partition;
            tracing::error!(%partition, %seq, %error, "the store refused a record");
        }
    }

    fn make_visible(&self, slot: &Slot, state: &mut SlotState, upto: Seq, outbox: &mut Outbox) {
        slot.cells.advance(upto);
        slot.wake_readers();
        if slot.is_home() && state.core.config().ack != AckLevel::Async {
            let Some(epoch) = state.core.epoch() else {
                return;
            };
            for peer in self.peers.all().values() {
                peer.ship.watermark(slot.partition, epoch, upto);
            }
            outbox.watermarks = true;
        }
    }

    pub(super) fn poison(&self, slot: &Slot, state: &mut SlotState, outbox: &mut Outbox) {
        slot.close_reads();
        let mut effects = Vec::new();
        state
            .core
            .step(self.clock.now(), Input::Poisoned, &mut effects);
        for effect in effects {
            if let Effect::Reply { ticket, result } = effect {
                reply(slot, state, ticket, result, outbox);
            }
        }
    }

    fn arm(&self, slot: &Slot, state: &mut SlotState) {
        if let Some(at) = state.core.next_timeout()
            && state.armed.is_none_or(|armed| at < armed)
        {
            state.armed = Some(at);
            self.timers.arm(at, slot.partition);
        }
    }

    fn note(&self, slot: &Slot, state: &mut SlotState, event: Event) {
        let partition = slot.partition;
        match &event {
            Event::CopyDiverged { .. } | Event::CopyRegressed { .. } => {
                tracing::error!(%partition, ?event, "a copy does not follow this home's log");
                state.alarm = Some(format!("{event:?}"));
            }
            Event::Fenced { .. } | Event::HandedOn { .. } => {
                // Its lease may last: a successor need not wait for it once this was promised, or
                // once it has the end of this reign.
                slot.close_reads();
                tracing::info!(%partition, ?event, "event");
            }
            Event::DegradeWanted => self.degrading.notify_one(),
            Event::DegradeBegan { .. } | Event::DegradeEnded { .. } => {
                self.degrading.notify_one();
                tracing::warn!(%partition, ?event, "acknowledgement level changed");
            }
            Event::AckIgnored { .. } | Event::AckClamped { .. } => {
                tracing::debug!(%partition, ?event, "ack not taken as it is")
            }
            _ => tracing::info!(%partition, ?event, "event"),
        }
    }
}

impl CommitSink for Driver {
    fn durable(&self, commits: &[Committed]) {
        let mut outbox = Outbox::default();
        for commit in commits {
            let Some(slot) = self.slot(commit.partition) else {
                continue;
            };
            let mut state = slot.lock();
            let input = Input::Durable {
                upto: commit.last_seq,
            };
            self.step(&slot, &mut state, input, Cargo::Nothing, &mut outbox);
            if !slot.is_home() {
                // A copy may have shown these before: watches had to wait until they are durable.
                slot.watchers.wake();
            }
        }
        self.deliver(outbox);
        self.room.notify_waiters();
    }

    fn failed(&self, error: &StoreError) {
        tracing::error!(%error, "the store has failed; no further write is acknowledged");
        self.answer_all(&error.to_string());
    }
}

fn commit_urgency(urgency: Urgency) -> CommitUrgency {
    match urgency {
        Urgency::Soon => CommitUrgency::Soon,
        Urgency::Now => CommitUrgency::Now,
    }
}

/// Reads the versions that preconditions are about. Under the slot's lock, so that nothing comes
/// between what was seen and the write.
fn observe(slot: &Slot, preconditions: Vec<Precondition>) -> Result<Vec<CoreCondition>, Error> {
    let observe = |condition: Precondition| {
        let cell = slot.cells.get(&condition.key)?.cell;
        let expected = match condition.expected {
            Expected::Absent => CoreExpected::Absent,
            Expected::Version(version) => CoreExpected::Version(version),
        };
        let observed = cell.map(|cell| cell.version);
        Ok(CoreCondition {
            key: condition.key,
            expected,
            observed,
        })
    };
    preconditions.into_iter().map(observe).collect()
}

fn reply(
    slot: &Slot,
    state: &mut SlotState,
    ticket: domicile_core::Ticket,
    result: Result<domicile_core::Receipt, domicile_core::Refusal>,
    outbox: &mut Outbox,
) {
    let Some(Waiter { reply, request_id }) = state.waiters.remove(&ticket) else {
        return;
    };
    let result = match result {
        Ok(receipt) => {
            slot.served();
            Ok(public_receipt(slot, &receipt, request_id))
        }
        Err(refusal) => Err(Error::from(refusal).with("request_id", request_id)),
    };
    outbox.replies.push((reply, result));
}

/// The core's receipt with regions instead of bits.
pub(crate) fn public_receipt(
    slot: &Slot,
    receipt: &domicile_core::Receipt,
    request_id: RequestId,
) -> Receipt {
    let regions = &slot.keyspace().regions;
    let durable_in = receipt
        .durable_in
        .iter()
        .filter_map(|index| regions.get(index).copied());
    Receipt {
        partition: slot.partition,
        version: receipt.version,
        asked: receipt.asked,
        achieved: receipt.achieved.level(),
        durable_in: durable_in.collect(),
        request_id,
        degraded: receipt.degraded,
        duplicate: receipt.duplicate,
    }
}
