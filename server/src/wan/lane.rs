//! One direction of a link, shared by all its connections: it turns a chunk into a deadline.
//!
//! **Owns** the delay, the jitter sequence, the bandwidth clock and the count of delivered bytes of
//! that direction.
//!
//! **Does not own** the bytes (`pipe`) nor the faults (`link`).

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::conditions::LinkConditions;
use super::pipe::CHUNK_BYTES_MAX;

/// The wire time of one read on a link with limited bandwidth.
///
/// Five milliseconds make a slow link drip rather than gush. Doubled, bytes arrive in bursts that a
/// real link of that width does not produce; halved, slow links cost twice the system calls.
const SLICE: Duration = Duration::from_millis(5);

/// How far the wire may be booked ahead before readers wait.
///
/// About the buffer of a real bottleneck router. Doubled, a saturated link shows twice the queueing
/// delay to everything that shares it.
const BACKLOG_MAX: Duration = Duration::from_millis(50);

/// The longest a reader waits for a booked wire before it looks at the conditions again.
///
/// Bounds how long a change of bandwidth goes unnoticed; doubled, that time doubles.
const BACKLOG_WAIT_MAX: Duration = Duration::from_millis(100);

/// One of the two ways bytes take through a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// From the client, which dialled, to the target.
    Forward,
    /// From the target to the client.
    Backward,
}

impl Direction {
    pub(super) const BOTH: [Self; 2] = [Self::Forward, Self::Backward];
}

/// What a reader may do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// Read up to this many bytes.
    Read(usize),
    /// The wire is booked: ask again after this time.
    Wait(Duration),
}

#[derive(Debug)]
pub(super) struct Lane {
    schedule: Mutex<Schedule>,
    delivered_bytes: AtomicU64,
}

#[derive(Debug)]
struct Schedule {
    delay: Duration,
    jitter: Duration,
    bandwidth_bytes_per_s: Option<NonZeroU64>,
    /// When the last booked byte has left onto the wire; only read while bandwidth is limited.
    wire_free_at: Instant,
    random: SplitMix64,
}

impl Lane {
    pub(super) fn new(direction: Direction, conditions: &LinkConditions, seed: u64) -> Self {
        // Two lanes of one link draw different jitter, the same in every run.
        let seed = seed.wrapping_mul(2).wrapping_add(direction as u64);
        let lane = Self {
            schedule: Mutex::new(Schedule {
                delay: Duration::ZERO,
                jitter: Duration::ZERO,
                bandwidth_bytes_per_s: None,
                wire_free_at: Instant::now(),
                random: SplitMix64::new(seed),
            }),
            delivered_bytes: AtomicU64::new(0),
        };
        lane.set_conditions(direction, conditions);
        lane
    }

    /// Applies to bytes read from now on; bytes in flight keep their deadlines.
    pub(super) fn set_conditions(&self, direction: Direction, conditions: &LinkConditions) {
        let mut schedule = self.schedule();
        schedule.delay = match direction {
            Direction::Forward => conditions.forward_delay,
            Direction::Backward => conditions.backward_delay,
        };
        schedule.jitter = conditions.jitter;
        schedule.bandwidth_bytes_per_s = conditions.bandwidth_bytes_per_s;
        schedule.wire_free_at = Instant::now();
    }

    pub(super) fn delay(&self) -> Duration {
        self.schedule().delay
    }

    /// Whether a reader may read at `now`, and how much.
    pub(super) fn admission(&self, now: Instant) -> Admission {
        let schedule = self.schedule();
        let Some(bandwidth) = schedule.bandwidth_bytes_per_s else {
            return Admission::Read(CHUNK_BYTES_MAX);
        };
        let backlog = schedule.wire_free_at.saturating_duration_since(now);
        if backlog > BACKLOG_MAX {
            return Admission::Wait((backlog - BACKLOG_MAX).min(BACKLOG_WAIT_MAX));
        }
        let slice = u128::from(bandwidth.get()) * SLICE.as_micros() / 1_000_000;
        Admission::Read(
            usize::try_from(slice)
                .unwrap_or(usize::MAX)
                .clamp(1, CHUNK_BYTES_MAX),
        )
    }

    /// When `length` bytes that were read at `now` reach the far end.
    pub(super) fn deadline(&self, length: usize, now: Instant) -> Instant {
        let mut schedule = self.schedule();
        let sent_at = match schedule.bandwidth_bytes_per_s {
            None => now,
            Some(bandwidth) => {
                assert!(
                    length <= CHUNK_BYTES_MAX,
                    "{length} bytes exceed {CHUNK_BYTES_MAX}"
                );
                let wire_time = Duration::from_nanos(length as u64 * 1_000_000_000 / bandwidth);
                schedule.wire_free_at = schedule.wire_free_at.max(now) + wire_time;
                schedule.wire_free_at
            }
        };
        let jitter = schedule.jitter;
        sent_at + schedule.delay + schedule.random.upto(jitter)
    }

    pub(super) fn count_delivered(&self, length: usize) {
        self.delivered_bytes
            .fetch_add(length as u64, Ordering::Relaxed);
    }

    pub(super) fn delivered_bytes(&self) -> u64 {
        self.delivered_bytes.load(Ordering::Relaxed)
    }

    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule
            .lock()
            .expect("nothing panics while it holds the schedule")
    }
}

/// The splitmix64 generator (Steele, Lea, Flood 2014): one word of state, any seed is good.
#[derive(Debug)]
pub(super) struct SplitMix64 {
    state: u64,
}

impl SplitMix64 {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    pub(super) fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A duration from zero to `limit`, both included; draws nothing when `limit` is zero.
    pub(super) fn upto(&mut self, limit: Duration) -> Duration {
        if limit.is_zero() {
            return Duration::ZERO;
        }
        let choices = limit.as_nanos() + 1;
        let nanos = (u128::from(self.draw()) * choices) >> 64;
        Duration::from_nanos(u64::try_from(nanos).expect("jitter is at most a minute"))
    }
}
