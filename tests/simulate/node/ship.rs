//! The home's end of a stream: pulls segments from the journal by cursor and sends them unchanged.
//!
//! **Owns**: the life of a stream at the home: dialled, open, ended, dialled again; beats; acks.
//! **Does not own**: where it begins (`attach`), the copy's end (`receive`).

use std::collections::BTreeMap;

use domicile_core::Input;
use domicile_proto::{AckLevel, Epoch, PartitionId, Segment, Seq};
use domicile_storage::{Place, Store};

use super::process::Process;
use crate::packets::{Frame, HeldMark, Rejected};
use crate::plan::region;
use crate::queue::Wake;
use crate::scene::Scene;

/// First and largest wait before dialling again, in us.
const BACKOFF_US: (u64, u64) = (50_000, 500_000);

/// A stream on which nothing was heard for so long is dead, in us.
pub(super) const SILENCE_US: u64 = 2_000_000;

/// How long rejections are gathered before the stream goes back, in us. At once, each of the many
/// gaps behind one lost segment would bring all of them again, and more gaps.
const REWIND_US: u64 = 20_000;

/// What the peer lacks of a partition.
#[derive(Debug, Clone, Copy)]
pub(super) struct ShipNext {
    pub(super) from: Seq,
    pub(super) reign: Epoch,
}

/// An open stream.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) place: Place,
    pub(super) next: BTreeMap<PartitionId, ShipNext>,
    /// The reign that the copy's acks answer to.
    pub(super) reigns: BTreeMap<PartitionId, Epoch>,
}

/// The way to one peer.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) conn: u64,
    pub(super) generation: u64,
    /// The partitions that were homed here when it was dialled.
    pub(super) dialled: Vec<PartitionId>,
    pub(super) stream: Option<Stream>,
    pub(super) heard_us: u64,
    backoff_us: u64,
    pub(super) watermarks: BTreeMap<PartitionId, (Epoch, Seq)>,
    /// Where the stream goes back to.
    rewinds: BTreeMap<PartitionId, Seq>,
    /// The reigns of streams that have ended: acks on them may come late.
    ended: BTreeMap<u64, BTreeMap<PartitionId, Epoch>>,
}

impl Process {
    pub(super) fn begin_shipping(&mut self, peer: usize, scene: &mut Scene) {
        let out = Outgoing {
            conn: 0,
            generation: 0,
            dialled: Vec::new(),
            stream: None,
            heard_us: scene.now_us,
            backoff_us: BACKOFF_US.0,
            watermarks: BTreeMap::new(),
            rewinds: BTreeMap::new(),
            ended: BTreeMap::new(),
        };
        self.out.insert(peer, out);
        self.wake_in(1, Wake::Dial(peer, 0), scene);
    }

    /// The partitions homed here that the peer may hold.
    fn shared(&self, peer: usize) -> Vec<PartitionId> {
        let homes = self.slots.iter().filter(|(_, slot)| {
            let is_served = slot.is_home && !slot.is_damaged;
            is_served && slot.keyspace.regions.contains(&region(peer))
        });
        homes.map(|(id, _)| *id).collect()
    }

    pub(super) fn dial(&mut self, peer: usize, generation: u64, scene: &mut Scene) {
        let dialled = self.shared(peer);
        let conn = scene.network.new_conn();
        let Some(out) = self
            .out
            .get_mut(&peer)
            .filter(|out| out.generation == generation)
        else {
            return;
        };
        (out.conn, out.dialled, out.heard_us) = (conn, dialled, scene.now_us);
        self.send_frame(peer, conn, Frame::ShipHello);
        self.wake_in(scene.plan.beat_us, Wake::Beat(peer, conn), scene);
    }

    /// The stream ends, and is dialled again after a while, or at once if it is to begin anew.
    pub(super) fn end_stream(&mut self, peer: usize, is_anew: bool, scene: &mut Scene) {
        let Some(out) = self.out.get_mut(&peer) else {
            return;
        };
        let conn = out.conn;
        if let Some(stream) = out.stream.take() {
            out.ended.insert(conn, stream.reigns);
        }
        out.conn = 0;
        out.rewinds.clear();
        out.generation += 1;
        let generation = out.generation;
        let wait_us = match is_anew {
            true => 1,
            false => out.backoff_us / 2 + scene.chance.below(out.backoff_us),
        };
        out.backoff_us = match is_anew {
            true => BACKOFF_US.0,
            false => (out.backoff_us * 2).min(BACKOFF_US.1),
        };
        if conn != 0 {
            self.send_frame(peer, conn, Frame::Reset);
        }
        for partition in self.shared(peer) {
            let region = region(peer);
            self.input(partition, Input::CopyDetached { region }, scene);
        }
        self.wake_in(wait_us, Wake::Dial(peer, generation), scene);
    }

    pub(super) fn begin_streams_anew(&mut self, scene: &mut Scene) {
        let peers: Vec<usize> = self.out.keys().copied().collect();
        for peer in peers {
            self.end_incoming(peer);
            self.end_stream(peer, true, scene);
        }
    }

    pub(super) fn is_conn(&self, peer: usize, conn: u64) -> bool {
        self.out.get(&peer).is_some_and(|out| out.conn == conn)
    }

    pub(super) fn heard_copy(&mut self, peer: usize, conn: u64, scene: &Scene) {
        if let Some(out) = self.out.get_mut(&peer).filter(|out| out.conn == conn) {
            out.heard_us = scene.now_us;
        }
    }

    pub(super) fn beat(&mut self, peer: usize, conn: u64, scene: &mut Scene) {
        if !self.is_conn(peer, conn) {
            return;
        }
        let out = &self.out[&peer];
        if scene.now_us.saturating_sub(out.heard_us) > SILENCE_US {
            return self.end_stream(peer, false, scene);
        }
        self.wake_in(scene.plan.beat_us, Wake::Beat(peer, conn), scene);
        self.send_beat(peer, conn, true, scene);
    }

    fn send_beat(&mut self, peer: usize, conn: u64, is_regular: bool, scene: &Scene) {
        let hlc = self
            .hlc
            .max(domicile_proto::Hlc::at_ms(self.wall_ms(scene)));
        let Some(out) = self.out.get_mut(&peer).filter(|out| out.stream.is_some()) else {
            return;
        };
        let watermarks = std::mem::take(&mut out.watermarks);
        let beat = Frame::Beat {
            is_regular,
            hlc,
            watermarks,
        };
        self.send_frame(peer, conn, beat);
    }

    /// What is durable and lacked goes out; so do watermarks.
    pub(super) fn ship_all(&mut self, scene: &mut Scene) {
        let end = self.store.durable_end();
        let peers: Vec<usize> = self.out.keys().copied().collect();
        for peer in peers {
            let conn = self.out[&peer].conn;
            while let Some(out) = self.out.get_mut(&peer)
                && let Some(stream) = &mut out.stream
                && stream.place < end
            {
                match stream.pick(&self.store, end, scene.plan.read_bytes) {
                    Ok((segments, _)) if segments.is_empty() => {}
                    Ok((segments, older)) => {
                        self.send_frame(peer, conn, Frame::Segments(segments, older));
                    }
                    Err(error) => {
                        scene.note(|| format!("shipping to n{peer} ended: {error}"));
                        self.end_stream(peer, false, scene);
                        break;
                    }
                }
            }
            if let Some(out) = self.out.get(&peer)
                && out.stream.is_some()
                && !out.watermarks.is_empty()
                && scene.chance.percent(70)
            {
                self.send_beat(peer, conn, false, scene);
            }
        }
    }

    pub(super) fn on_acks(
        &mut self,
        peer: usize,
        conn: u64,
        marks: &BTreeMap<PartitionId, HeldMark>,
        scene: &mut Scene,
    ) {
        self.heard_copy(peer, conn, scene);
        for (partition, mark) in marks {
            let Some(out) = self.out.get(&peer) else {
                return;
            };
            let current = out.stream.as_ref().filter(|_| out.conn == conn);
            let ended = out.ended.get(&conn);
            let reigns = current.map(|stream| &stream.reigns).or(ended);
            let Some(epoch) = reigns.and_then(|reigns| reigns.get(partition).copied()) else {
                continue;
            };
            // Nobody hears an ended stream; if somebody did, its reign would tell.
            let present = self.slots.get(partition).and_then(|slot| slot.core.epoch());
            if current.is_none() && present == Some(epoch) {
                continue;
            }
            let input = Input::Ack {
                region: region(peer),
                epoch,
                received_upto: mark.received_upto,
                durable_upto: mark.durable_upto,
            };
            self.input(*partition, input, scene);
        }
    }

    pub(super) fn on_rejection(
        &mut self,
        peer: usize,
        conn: u64,
        partition: PartitionId,
        cause: Rejected,
        scene: &mut Scene,
    ) {
        if !self.is_conn(peer, conn) {
            return;
        }
        let Some(out) = self.out.get_mut(&peer) else {
            return;
        };
        let Some(stream) = out.stream.as_mut() else {
            return;
        };
        match cause {
            Rejected::Gap(expected) if expected > Seq::NONE => {
                let is_waking = !out.rewinds.is_empty();
                out.rewinds.insert(partition, expected);
                if !is_waking {
                    self.wake_in(REWIND_US, Wake::Rewind(peer, conn), scene);
                }
            }
            Rejected::LeaveOut => {
                stream.next.remove(&partition);
            }
            _ => self.end_stream(peer, false, scene),
        }
    }

    /// Does what rejections asked for.
    pub(super) fn rewind(&mut self, peer: usize, conn: u64) {
        let Some(out) = self.out.get_mut(&peer).filter(|out| out.conn == conn) else {
            return;
        };
        let rewinds = std::mem::take(&mut out.rewinds);
        if let Some(stream) = &mut out.stream {
            for (partition, seq) in rewinds {
                stream.rewind(&self.store, partition, seq);
            }
        }
    }

    /// Every stream begins with all watermarks.
    pub(super) fn all_watermarks(&mut self, peer: usize) {
        for partition in self.out[&peer].dialled.clone() {
            let Some(slot) = self.slots.get(&partition) else {
                continue;
            };
            if let (Some(epoch), true) = (slot.core.epoch(), slot.keyspace.ack != AckLevel::Async) {
                let upto = slot.core.visible_upto();
                if let Some(out) = self.out.get_mut(&peer) {
                    out.watermarks.insert(partition, (epoch, upto));
                }
            }
        }
    }
}

type Picked = (Vec<Segment>, BTreeMap<PartitionId, Epoch>);

impl Stream {
    /// Takes what the peer lacks out of the next piece of the journal.
    fn pick(&mut self, store: &Store, end: Place, read_bytes: usize) -> Result<Picked, String> {
        let chunk = store.read(self.place, end, read_bytes);
        let chunk = chunk.map_err(|error| error.to_string())?;
        if chunk.next == self.place {
            return Err("the journal cannot be read on".to_owned());
        }
        let (mut wanted, mut older) = (Vec::new(), BTreeMap::new());
        for (_, segment) in &chunk.segments {
            let header = segment.header();
            let Some(next) = self.next.get_mut(&header.partition) else {
                continue;
            };
            if header.first_seq == next.from {
                next.from = header.last_seq().next();
                if header.epoch != next.reign {
                    older.insert(header.partition, next.reign);
                }
                wanted.push(segment.clone());
            } else if header.first_seq > next.from {
                let (partition, from) = (header.partition, next.from);
                return Err(format!("{partition:?}: the journal lacks {from}"));
            }
        }
        self.place = chunk.next;
        Ok((wanted, older))
    }

    fn rewind(&mut self, store: &Store, partition: PartitionId, seq: Seq) {
        if let Some(next) = self.next.get_mut(&partition) {
            next.from = seq;
            let place = store.locate(partition, seq);
            self.place = self.place.min(place.unwrap_or(store.journal_start()));
        }
    }
}
