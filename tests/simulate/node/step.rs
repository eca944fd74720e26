//! An input to a core, and its effects carried out in their order.
//!
//! **Owns**: what the product's driver does in `step`.
//! **Does not own**: who brings the input.

use domicile_core::{Effect, Event, Input, RejectCause, Ticket, Urgency};
use domicile_proto::record::RecordBody;
use domicile_proto::{AckLevel, PartitionId, Record, RecordHead, Seq};
use domicile_storage::{CheckedSegment, CommitUrgency};

use super::process::{Process, Slot};
use crate::clients::{Answer, Call};
use crate::invariants;
use crate::packets::{Body, Place};
use crate::plan::index_of;
use crate::planted::{NodeBug, is_planted};
use crate::queue::Wake;
use crate::scene::Scene;

/// What an input brings along that the core does not see.
pub(super) enum Cargo {
    Nothing,
    Body(RecordBody),
    Segment(CheckedSegment),
}

impl Process {
    pub(super) fn input(&mut self, partition: PartitionId, input: Input, scene: &mut Scene) {
        self.step(partition, input, Cargo::Nothing, scene);
    }

    pub(super) fn step(
        &mut self,
        partition: PartitionId,
        input: Input,
        cargo: Cargo,
        scene: &mut Scene,
    ) -> Option<RejectCause> {
        let mut slot = self.slots.remove(&partition)?;
        let now = self.moment(scene);
        let name = input.name();
        let mut effects = Vec::new();
        slot.core.renew_lease(self.lease_until);
        slot.core.step(now, input, &mut effects);
        let node = self.host.index;
        scene.note(|| format!("n{node} {partition:?} {name} -> {effects:?}"));
        let mut rejected = None;
        let mut cargo = Some(cargo);
        let mut has_refused = false;
        for effect in effects {
            match effect {
                Effect::Append {
                    seq,
                    head,
                    visible_upto,
                    ..
                } => {
                    let Some(Cargo::Body(body)) = cargo.take() else {
                        panic!("{partition:?}: an append without a body at {seq}");
                    };
                    self.append(&slot, (seq, visible_upto), Record { head, body }, scene);
                }
                Effect::AppendMark {
                    seq,
                    head,
                    visible_upto,
                } => {
                    let head = RecordHead {
                        hlc: self.stamp(scene),
                        ..head
                    };
                    let body = RecordBody::mark();
                    self.append(&slot, (seq, visible_upto), Record { head, body }, scene);
                }
                Effect::Store { urgency } => {
                    let Some(Cargo::Segment(segment)) = cargo.take() else {
                        panic!("{partition:?}: a store without a segment");
                    };
                    if !self.store_segment(segment, urgency, scene) {
                        rejected = Some(RejectCause::Poisoned);
                        has_refused = true;
                        break;
                    }
                }
                Effect::Reply { ticket, result } => self.reply(&mut slot, ticket, result, scene),
                Effect::Reject { cause } => rejected = Some(cause),
                Effect::Ship { .. } => {}
                Effect::Visible { upto } => self.make_visible(&mut slot, upto),
                Effect::SendAck { urgency, .. } => self.queue_ack(partition, &slot, urgency, scene),
                Effect::Event(event) => note(&mut slot, event),
            }
        }
        self.arm(&mut slot, scene);
        invariants::monotone::check(self.host.index, &slot.core, scene);
        invariants::bounded::check(&slot.core, now, scene);
        self.slots.insert(partition, slot);
        if has_refused {
            self.poison(partition, scene);
        }
        rejected
    }

    fn append(
        &mut self,
        slot: &Slot,
        (seq, visible_upto): (Seq, Seq),
        record: Record,
        scene: &mut Scene,
    ) {
        let partition = slot.core.config().partition;
        let epoch = slot.core.epoch().expect("a home has an epoch");
        let node = self.host.index;
        invariants::one_writer::appended(node, partition, epoch, scene);
        scene.truth.appended((partition, epoch, seq), &record);
        scene.mix(seq.get() ^ partition.bucket.get() as u64);
        let submitted = self
            .store
            .submit_record(partition, epoch, seq, visible_upto, record);
        match submitted {
            Ok(()) => self.queued = Some(Urgency::Now),
            Err(error) => scene.note(|| format!("n{node} refused {seq}: {error}")),
        }
    }

    fn store_segment(
        &mut self,
        segment: CheckedSegment,
        urgency: Urgency,
        scene: &mut Scene,
    ) -> bool {
        let header = *segment.header();
        let commit = match urgency {
            Urgency::Soon => CommitUrgency::Soon,
            Urgency::Now => CommitUrgency::Now,
        };
        let node = self.host.index;
        match self.store.submit_segment(segment, commit) {
            Ok(()) => {
                self.queued = self.queued.max(Some(urgency));
                scene.truth.received(node, &header);
                true
            }
            Err(error) => {
                scene.note(|| format!("n{node} refused a segment: {error}"));
                false
            }
        }
    }

    fn make_visible(&mut self, slot: &mut Slot, upto: Seq) {
        let partition = slot.core.config().partition;
        self.store.cells(partition).advance(upto);
        if slot.is_home && slot.keyspace.ack != AckLevel::Async {
            let Some(epoch) = slot.core.epoch() else {
                return;
            };
            for out in self.out.values_mut() {
                out.watermarks.insert(partition, (epoch, upto));
            }
        }
    }

    fn reply(
        &mut self,
        slot: &mut Slot,
        ticket: Ticket,
        result: Result<domicile_core::Receipt, domicile_core::Refusal>,
        scene: &mut Scene,
    ) {
        let Some(call) = slot.waiters.remove(&ticket) else {
            return;
        };
        if let Ok(receipt) = &result {
            scene.mix(receipt.position.seq.get());
            let is_poisoned = self.is_poisoned;
            invariants::acked(self.host.index, &slot.core, receipt, is_poisoned, scene);
        }
        self.answer(call, Answer::Write(result));
    }

    pub(super) fn answer(&mut self, call: Call, answer: Answer) {
        let to = Place::Client(call.client);
        self.outbox.push((to, Body::Answer { call, answer }));
    }

    /// The store has failed: everybody who waits is told.
    pub(super) fn poison(&mut self, partition: PartitionId, scene: &mut Scene) {
        let now = self.moment(scene);
        let Some(mut slot) = self.slots.remove(&partition) else {
            return;
        };
        slot.reads_open = false;
        let mut effects = Vec::new();
        slot.core.step(now, Input::Poisoned, &mut effects);
        for effect in effects {
            if let Effect::Reply { ticket, result } = effect {
                self.reply(&mut slot, ticket, result, scene);
            }
        }
        self.slots.insert(partition, slot);
    }

    pub(super) fn tick(
        &mut self,
        partition: PartitionId,
        at: domicile_core::Moment,
        scene: &mut Scene,
    ) {
        let now = self.moment(scene);
        let Some(slot) = self.slots.get_mut(&partition) else {
            return;
        };
        if slot.armed != Some(at) {
            return;
        }
        slot.armed = None;
        if now < at {
            // The clock was set back by rounding: once more.
            let mut slot = self.slots.remove(&partition).expect("just found");
            self.arm(&mut slot, scene);
            self.slots.insert(partition, slot);
            return;
        }
        self.input(partition, Input::Tick, scene);
    }

    fn arm(&self, slot: &mut Slot, scene: &mut Scene) {
        if let Some(at) = slot.core.next_timeout()
            && slot.armed.is_none_or(|armed| at < armed)
        {
            slot.armed = Some(at);
            let in_us = self.us_until(at, scene);
            let partition = slot.core.config().partition;
            self.wake_in(in_us, Wake::Tick(partition, at), scene);
        }
    }

    fn queue_ack(
        &mut self,
        partition: PartitionId,
        slot: &Slot,
        urgency: Urgency,
        scene: &mut Scene,
    ) {
        let (peer, held) = (index_of(slot.home), slot.held());
        self.ack(peer, partition, held, urgency, scene);
    }
}

fn note(slot: &mut Slot, event: Event) {
    let is_over = match event {
        Event::Fenced { .. } => !is_planted(NodeBug::ReadsOpenWhenFenced),
        Event::HandedOn { .. } => !is_planted(NodeBug::ServeWhenHandedOn),
        _ => false,
    };
    if is_over {
        slot.reads_open = false;
    }
}
