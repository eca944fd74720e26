//! The bytes in flight of one direction of one connection: a queue with deadlines.
//!
//! **Owns** the queue, its bound, and the two waits: of the writer for what is due, of the reader
//! for room.
//!
//! **Does not own** the sockets (`connection`) nor the delay (`lane`).
//!
//! Invariants:
//! - First in, first out: what is due early, by jitter or a change of conditions, waits for what is
//!   ahead of it.
//! - Queued bytes and those in the writer's hands together stay within [`BUFFER_BYTES_MAX`].
//! - Once over, a pipe is empty and stays so: nothing that was in flight can be delivered.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Instant;

use super::lane::{Admission, Lane};

/// The bytes in flight in one direction of one connection.
///
/// 64 MiB carry 400 MB/s at 160 ms one way, more than loopback peers offer on a small machine.
/// When full, the reader stops and TCP pushes back on the sender. Doubled, a target that never
/// reads costs twice the memory; halved, long links start to cap throughput.
pub const BUFFER_BYTES_MAX: usize = 64 << 20;

/// The parcels in flight in one direction of one connection, which bounds the bookkeeping of tiny
/// messages: 65,536 in 40 ms is 1.6 million messages a second. Doubled, that overhead doubles.
const PARCELS_MAX: usize = 1 << 16;

/// The most one read takes.
///
/// 256 KiB make a copy cost more than its system call. Doubled, a core's cache no longer holds it.
pub(super) const CHUNK_BYTES_MAX: usize = 256 << 10;

/// Reads shorter than this are copied out, so that the big buffer serves again.
///
/// Half a chunk wastes at most half of each buffer handed over, so memory stays within twice
/// [`BUFFER_BYTES_MAX`]. Doubled, every chunk is copied once more.
const HANDOVER_BYTES_MIN: usize = CHUNK_BYTES_MAX / 2;

/// Written buffers kept for reading again: 2 MiB for a pipe. Doubled, idle pipes keep twice that;
/// without any, a bulk stream allocates as fast as it reads.
const SPARE_BUFFERS_MAX: usize = 8;

/// The most chunks one write takes together. Doubled, a write holds more of its bytes back from the
/// queue's bound at a time; halved, a stream of small messages costs twice the writes.
pub(super) const BATCH_CHUNKS_MAX: usize = 64;

/// The most bytes taken for one write, give or take a chunk. Four full chunks: doubled, room for
/// the reader appears in larger and rarer steps.
const BATCH_BYTES_MAX: usize = 4 * CHUNK_BYTES_MAX;

/// Bytes that were read together.
#[derive(Debug)]
pub(super) struct Chunk {
    storage: Box<[u8]>,
    length: usize,
}

impl Chunk {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.storage[..self.length]
    }
}

/// What the writer has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Write the batch.
    Bytes,
    /// The source has finished sending: half-close the sink.
    Fin,
    /// The source is gone: reset the connection.
    Reset,
    /// The connection is over: stop.
    Over,
}

#[derive(Debug)]
struct Parcel {
    deadline: Instant,
    cargo: Cargo,
}

#[derive(Debug)]
enum Cargo {
    Bytes(Chunk),
    Fin,
    Reset,
}

/// How far the sending side has closed, in the order it may advance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Tail {
    Open,
    Fin,
    Reset,
}

#[derive(Debug)]
pub(super) struct Pipe {
    lane: Arc<Lane>,
    state: Mutex<State>,
    /// Wakes the writer: data for an idle writer, a fault, a heal, the end.
    arrival: Condvar,
    /// Wakes the reader: room, a heal, the end.
    room: Condvar,
}

#[derive(Debug)]
struct State {
    parcels: VecDeque<Parcel>,
    /// Queued bytes and those in the writer's hands.
    buffered_bytes: usize,
    /// Held bytes are under way again from a heal on: none arrives before this.
    not_before: Instant,
    tail: Tail,
    held: bool,
    /// The sink is gone: bytes have nowhere to go and are dropped, as on a wire to a dead host.
    discarding: bool,
    over: bool,
    /// Set while the writer waits without a deadline: only then does a push pay for a wake-up.
    writer_idle: bool,
    reader_waits: bool,
    spare: Vec<Box<[u8]>>,
}

impl Pipe {
    pub(super) fn new(lane: Arc<Lane>, held: bool) -> Self {
        Self {
            lane,
            state: Mutex::new(State {
                parcels: VecDeque::new(),
                buffered_bytes: 0,
                not_before: Instant::now(),
                tail: Tail::Open,
                held,
                discarding: false,
                over: false,
                writer_idle: false,
                reader_waits: false,
                spare: Vec::new(),
            }),
            arrival: Condvar::new(),
            room: Condvar::new(),
        }
    }

    pub(super) fn lane(&self) -> &Lane {
        &self.lane
    }

    pub(super) fn new_buffer() -> Box<[u8]> {
        vec![0; CHUNK_BYTES_MAX].into_boxed_slice()
    }

    /// Waits until the reader may read, and says how much; `None` once the connection is over.
    pub(super) fn admit(&self) -> Option<usize> {
        let mut state = self.state();
        loop {
            if state.over {
                return None;
            }
            let wait = if state.is_full() {
                None
            } else {
                match self.lane.admission(Instant::now()) {
                    Admission::Read(limit) => return Some(limit),
                    Admission::Wait(wait) => Some(wait),
                }
            };
            state.reader_waits = true;
            state = match wait {
                None => self.room.wait(state).expect(UNPOISONED),
                Some(wait) => self.room.wait_timeout(state, wait).expect(UNPOISONED).0,
            };
            state.reader_waits = false;
        }
    }

    /// Waits until nothing is held; says whether the connection still stands.
    pub(super) fn wait_released(&self) -> bool {
        let mut state = self.state();
        while state.held && !state.over {
            state.reader_waits = true;
            state = self.room.wait(state).expect(UNPOISONED);
            state.reader_waits = false;
        }
        !state.over
    }

    /// Sends the first `length` bytes of `buffer`, read at `now`, and leaves a full-sized buffer.
    pub(super) fn push_bytes(&self, buffer: &mut Box<[u8]>, length: usize, now: Instant) {
        let deadline = self.lane.deadline(length, now);
        let storage = if length < HANDOVER_BYTES_MIN {
            Box::from(&buffer[..length])
        } else {
            let spare = self.state().spare.pop();
            std::mem::replace(buffer, spare.unwrap_or_else(Self::new_buffer))
        };
        self.push(deadline, Cargo::Bytes(Chunk { storage, length }));
    }

    /// Sends the end of the stream, behind all bytes.
    pub(super) fn push_fin(&self, now: Instant) {
        self.push(self.lane.deadline(0, now), Cargo::Fin);
    }

    /// Sends a reset, behind all bytes and a possible end of the stream.
    pub(super) fn push_reset(&self, now: Instant) {
        self.push(self.lane.deadline(0, now), Cargo::Reset);
    }

    fn push(&self, deadline: Instant, cargo: Cargo) {
        let mut state = self.state();
        if !state.accept(&cargo) {
            return;
        }
        state.parcels.push_back(Parcel { deadline, cargo });
        let wake = state.writer_idle;
        drop(state);
        if wake {
            self.arrival.notify_one();
        }
    }

    /// Waits until something is due; for [`Due::Bytes`] the chunks are in `batch`, in order.
    pub(super) fn next(&self, batch: &mut Vec<Chunk>) -> Due {
        assert!(
            batch.is_empty(),
            "{} chunks of the last batch are unaccounted for",
            batch.len()
        );
        let mut state = self.state();
        loop {
            if state.over {
                return Due::Over;
            }
            let Some(due_at) = state.due_at() else {
                state.writer_idle = true;
                state = self.arrival.wait(state).expect(UNPOISONED);
                state.writer_idle = false;
                continue;
            };
            let now = Instant::now();
            if due_at <= now {
                return state.take_due(now, batch);
            }
            state = self
                .arrival
                .wait_timeout(state, due_at - now)
                .expect(UNPOISONED)
                .0;
        }
    }

    /// Accounts for a batch that was written, and keeps its buffers.
    pub(super) fn delivered(&self, batch: &mut Vec<Chunk>) {
        let mut state = self.state();
        for chunk in batch.drain(..) {
            self.lane.count_delivered(chunk.length);
            // A pipe that ended during the write has forgotten its bytes already.
            state.buffered_bytes = state.buffered_bytes.saturating_sub(chunk.length);
            if chunk.storage.len() == CHUNK_BYTES_MAX && state.spare.len() < SPARE_BUFFERS_MAX {
                state.spare.push(chunk.storage);
            }
        }
        self.wake_reader(state);
    }

    /// Drops a batch that could not be written, and all bytes from now on.
    pub(super) fn discard(&self, batch: &mut Vec<Chunk>) {
        batch.clear();
        let mut state = self.state();
        state.discarding = true;
        state.buffered_bytes = 0;
        state
            .parcels
            .retain(|parcel| matches!(parcel.cargo, Cargo::Reset));
        self.wake_reader(state);
    }

    fn wake_reader(&self, state: MutexGuard<'_, State>) {
        let wake = state.reader_waits && !state.is_full();
        drop(state);
        if wake {
            self.room.notify_one();
        }
    }

    /// Holds everything in flight and everything that follows.
    pub(super) fn hold(&self) {
        self.state().held = true;
        self.arrival.notify_one();
    }

    /// Lets held bytes go on; they arrive one delay from `now` at the earliest.
    pub(super) fn release(&self, now: Instant) {
        let not_before = now + self.lane.delay();
        let mut state = self.state();
        if !state.held {
            return;
        }
        state.held = false;
        state.not_before = not_before;
        drop(state);
        self.arrival.notify_one();
        self.room.notify_one();
    }

    /// Forgets everything in flight and ends both waits, now and for good.
    pub(super) fn end(&self) {
        let mut state = self.state();
        state.over = true;
        state.parcels.clear();
        state.buffered_bytes = 0;
        state.spare.clear();
        drop(state);
        self.arrival.notify_one();
        self.room.notify_one();
    }

    pub(super) fn is_over(&self) -> bool {
        self.state().over
    }

    pub(super) fn buffered_bytes(&self) -> usize {
        self.state().buffered_bytes
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect(UNPOISONED)
    }
}

const UNPOISONED: &str = "nothing panics while it holds a pipe's state";

impl State {
    fn is_full(&self) -> bool {
        self.buffered_bytes + CHUNK_BYTES_MAX > BUFFER_BYTES_MAX
            || self.parcels.len() >= PARCELS_MAX
    }

    /// Accounts for a parcel that is to be queued; `false` when it has no place in the stream.
    fn accept(&mut self, cargo: &Cargo) -> bool {
        let tail = match cargo {
            Cargo::Bytes(_) => Tail::Open,
            Cargo::Fin => Tail::Fin,
            Cargo::Reset => Tail::Reset,
        };
        let closed = self.tail != Tail::Open && tail <= self.tail;
        let dropped = self.discarding && tail != Tail::Reset;
        if self.over || closed || dropped {
            return false;
        }
        self.tail = tail;
        if let Cargo::Bytes(chunk) = cargo {
            self.buffered_bytes += chunk.length;
        }
        true
    }

    fn due_at(&self) -> Option<Instant> {
        let head = self.parcels.front().filter(|_| !self.held)?;
        Some(head.deadline.max(self.not_before))
    }

    /// Takes what is due at `now`: as many chunks as fit one write, or one mark.
    fn take_due(&mut self, now: Instant, batch: &mut Vec<Chunk>) -> Due {
        let mut batch_bytes = 0;
        while batch.len() < BATCH_CHUNKS_MAX && batch_bytes < BATCH_BYTES_MAX {
            let Some(parcel) = self.parcels.pop_front_if(|parcel| {
                parcel.deadline <= now && (batch.is_empty() || parcel.cargo.is_bytes())
            }) else {
                break;
            };
            match parcel.cargo {
                Cargo::Bytes(chunk) => {
                    batch_bytes += chunk.length;
                    batch.push(chunk);
                }
                Cargo::Fin => return Due::Fin,
                Cargo::Reset => return Due::Reset,
            }
        }
        assert!(
            !batch.is_empty(),
            "the head of the queue was due and is not there"
        );
        Due::Bytes
    }
}

impl Cargo {
    fn is_bytes(&self) -> bool {
        matches!(self, Self::Bytes(_))
    }
}
