//! The copy's end of a stream: checks what comes, stores it, says what it holds.
//!
//! **Owns**: the answer to each kind of refusal; acks, coalesced per partition.
//! **Does not own**: accepting or refusing by epoch and sequence (the core).

use std::collections::BTreeMap;

use domicile_core::{Awaited, Input, RejectCause, Urgency};
use domicile_proto::{Epoch, PartitionId, Segment};
use domicile_storage::CheckedSegment;

use super::process::Process;
use super::step::Cargo;
use crate::invariants;
use crate::packets::{Frame, HeldMark, Rejected};
use crate::plan::{index_of, region};
use crate::queue::Wake;
use crate::scene::Scene;

/// How long acks that nobody waits for wait for company, in us.
const ACK_US: u64 = 4_000;

/// The way from one peer.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    /// The stream; 0 while there is none.
    conn: u64,
    acks: BTreeMap<PartitionId, HeldMark>,
    is_urgent: bool,
    is_waking: bool,
}

impl Process {
    pub(super) fn on_ship_hello(&mut self, peer: usize, conn: u64, scene: &mut Scene) {
        if self.is_poisoned {
            return self.send_frame(peer, conn, Frame::Reset);
        }
        let before = self.incoming.entry(peer).or_default();
        let replaced = std::mem::replace(&mut before.conn, conn);
        if replaced != 0 {
            self.send_frame(peer, replaced, Frame::Reset);
        }
        let slots = self.slots.iter();
        let held = slots.filter(|(_, slot)| slot.home == region(peer));
        let marks: BTreeMap<_, _> = held.map(|(id, slot)| (*id, slot.held())).collect();
        self.send_frame(peer, conn, Frame::CopyHello(marks.clone()));
        // Acks that went to an older stream since the hello was made are said again.
        for (partition, mark) in marks {
            if mark.epoch.is_some() {
                self.ack(peer, partition, mark, Urgency::Now, scene);
            }
        }
    }

    /// Either end says that the connection is no more.
    pub(super) fn on_reset(&mut self, peer: usize, conn: u64, scene: &mut Scene) {
        if self.is_conn(peer, conn) {
            return self.end_stream(peer, false, scene);
        }
        if let Some(incoming) = self.incoming.get_mut(&peer).filter(|it| it.conn == conn) {
            incoming.conn = 0;
        }
    }

    /// The stream is to end, so that a new one begins with what is held then.
    pub(super) fn say_hello_again(&mut self, partition: PartitionId) {
        let Some(peer) = self.slots.get(&partition).map(|slot| index_of(slot.home)) else {
            return;
        };
        self.end_incoming(peer);
    }

    pub(super) fn end_incoming(&mut self, peer: usize) {
        if let Some(incoming) = self.incoming.get_mut(&peer).filter(|it| it.conn != 0) {
            let conn = std::mem::take(&mut incoming.conn);
            self.send_frame(peer, conn, Frame::Reset);
        }
    }

    pub(super) fn ack(
        &mut self,
        peer: usize,
        partition: PartitionId,
        held: HeldMark,
        urgency: Urgency,
        scene: &mut Scene,
    ) {
        if peer == self.host.index {
            return;
        }
        let incoming = self.incoming.entry(peer).or_default();
        incoming.acks.insert(partition, held);
        incoming.is_urgent |= urgency == Urgency::Now;
        if !incoming.is_waking {
            incoming.is_waking = true;
            self.wake_in(ACK_US, Wake::Acks(peer), scene);
        }
    }

    pub(super) fn send_acks_if_urgent(&mut self) {
        let urgent = self.incoming.iter().filter(|(_, it)| it.is_urgent);
        let urgent: Vec<usize> = urgent.map(|(peer, _)| *peer).collect();
        for peer in urgent {
            self.flush_acks(peer);
        }
    }

    pub(super) fn send_acks(&mut self, peer: usize) {
        if let Some(incoming) = self.incoming.get_mut(&peer) {
            incoming.is_waking = false;
        }
        self.flush_acks(peer);
    }

    fn flush_acks(&mut self, peer: usize) {
        let Some(incoming) = self.incoming.get_mut(&peer) else {
            return;
        };
        incoming.is_urgent = false;
        if incoming.conn == 0 || incoming.acks.is_empty() {
            return;
        }
        let (conn, acks) = (incoming.conn, std::mem::take(&mut incoming.acks));
        self.send_frame(peer, conn, Frame::Acks(acks));
    }

    pub(super) fn on_ship_frame(
        &mut self,
        peer: usize,
        conn: u64,
        frame: Frame,
        scene: &mut Scene,
    ) {
        if self.incoming.get(&peer).is_none_or(|it| it.conn != conn) {
            return self.send_frame(peer, conn, Frame::Reset);
        }
        match frame {
            Frame::Segments(segments, reigns) => {
                for segment in segments {
                    let header = segment.header();
                    let reign = reigns.get(&header.partition).copied();
                    let reign = reign.unwrap_or(header.epoch);
                    self.take_segment((peer, conn), segment, reign, scene);
                }
            }
            Frame::Beat {
                is_regular,
                hlc,
                watermarks,
            } => {
                for (partition, (epoch, visible_upto)) in watermarks {
                    let is_its = self.is_held(peer, partition);
                    let input = Input::Watermark {
                        epoch,
                        visible_upto,
                    };
                    if is_its {
                        self.input(partition, input, scene);
                    }
                }
                self.observe(hlc, scene);
                if is_regular {
                    self.send_frame(peer, conn, Frame::Echo);
                }
            }
            Frame::NeedsSnapshot(partitions) => {
                for partition in partitions {
                    if self.is_held(peer, partition) {
                        let from = self.held(partition).map(|it| it.received_upto.next());
                        self.wanted.insert(partition, from.unwrap_or_default());
                    }
                }
            }
            Frame::Forked(home) if self.is_held(peer, home.partition) => self.rejoin(home, scene),
            _ => {}
        }
    }

    fn is_held(&self, peer: usize, partition: PartitionId) -> bool {
        let slot = self.slots.get(&partition);
        slot.is_some_and(|slot| slot.home == region(peer))
    }

    fn take_segment(
        &mut self,
        (peer, conn): (usize, u64),
        segment: Segment,
        reign: Epoch,
        scene: &mut Scene,
    ) {
        let header = *segment.header();
        let partition = header.partition;
        let is_taken = self.slots.get(&partition).map(|slot| !slot.installing);
        let rejection = |cause| Frame::Rejection { partition, cause };
        if let Some(slot) = self.slots.get_mut(&partition) {
            slot.turned_away |= is_taken != Some(true);
        }
        if !self.is_held(peer, partition) || is_taken != Some(true) {
            return self.send_frame(peer, conn, rejection(Rejected::LeaveOut));
        }
        if self.is_ahead_of(partition, Some(reign)) {
            self.ask_again(partition, scene);
            return self.send_frame(peer, conn, rejection(Rejected::LeaveOut));
        }
        let bytes = segment.bytes().len();
        let segment = CheckedSegment::new(segment, bytes).expect("made by a home");
        let copies = self.slots[&partition].core.config().copies();
        let awaited = Awaited::of(segment.levels(), segment.ends_reign(), copies);
        let input = Input::Received {
            header,
            chain: segment.chain(),
            reign,
            awaited,
        };
        let rejected = self.step(partition, input, Cargo::Segment(segment), scene);
        let cause = match rejected {
            None => {
                invariants::one_writer::accepted(self.host.index, partition, reign, scene);
                return;
            }
            Some(RejectCause::Duplicate { .. }) => return,
            Some(RejectCause::Gap { expected, .. }) => Rejected::Gap(expected),
            Some(_) => Rejected::Other,
        };
        self.send_frame(peer, conn, rejection(cause));
    }
}
