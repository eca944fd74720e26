//! When writes fall due.
//!
//! **Owns**: the schedule of an open loop and the thread that releases its writes on time.
//! **Does not own**: who sends them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::task::AtomicWaker;
use tokio::sync::Semaphore;

/// The shortest sleep of the releasing thread. The timers of the asynchronous runtime tick in whole
/// milliseconds, more than a local write takes; a thread sleeps to within some 60 µs. Doubled,
/// writes are sent that much later; halved, waking up costs a tenth of a processor.
const SLEEP_MIN: Duration = Duration::from_micros(100);

/// The longest sleep, after which the thread looks whether it shall end.
const SLEEP_MAX: Duration = Duration::from_millis(50);

/// Closed or open loop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// A client writes again as soon as it is answered.
    Closed,
    /// Writes fall due at a fixed rate.
    Open {
        /// Writes a second.
        rate_per_s: f64,
    },
}

/// The schedule of a load.
#[derive(Debug)]
pub(super) struct Pacer {
    pace: Pace,
    started: Instant,
    turns: Semaphore,
    released: AtomicU64,
    taken: AtomicU64,
    waker: AtomicWaker,
    ended: AtomicBool,
}

impl Pacer {
    pub(super) fn start(pace: Pace, started: Instant) -> anyhow::Result<Arc<Self>> {
        let pacer = Arc::new(Self {
            pace,
            started,
            turns: Semaphore::new(0),
            released: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            waker: AtomicWaker::new(),
            ended: AtomicBool::new(false),
        });
        if let Pace::Open { rate_per_s } = pace {
            anyhow::ensure!(
                rate_per_s > 0.0 && rate_per_s < 1e7,
                "rate is {rate_per_s} writes/s, allowed above 0 and below 10000000"
            );
            let releasing = Arc::clone(&pacer);
            // Ends within `SLEEP_MAX` of the load.
            thread::Builder::new()
                .name("pacer".to_owned())
                .spawn(move || releasing.release_until_ended(rate_per_s))
                .context("no thread for the pace")?;
        }
        Ok(pacer)
    }

    /// No further write falls due.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.turns.close();
        self.waker.wake();
    }

    /// Waits for the next write to fall due and says when it did; `None` at the end.
    pub(super) async fn turn(&self) -> Option<Instant> {
        if self.pace == Pace::Closed {
            return (!self.ended.load(Ordering::Acquire)).then(Instant::now);
        }
        self.turns.acquire().await.ok()?.forget();
        Some(self.due(self.taken.fetch_add(1, Ordering::Relaxed)))
    }

    /// As [`Pacer::turn`] without waiting: `None` if nothing is due. Used by one task, which is
    /// woken when something is.
    pub(super) fn try_turn(&self, context: &std::task::Context<'_>) -> Option<Instant> {
        if self.pace == Pace::Closed {
            return Some(Instant::now());
        }
        let taken = self.taken.load(Ordering::Relaxed);
        if taken >= self.released.load(Ordering::Acquire) {
            self.waker.register(context.waker());
            if taken >= self.released.load(Ordering::Acquire) {
                return None;
            }
        }
        self.taken.store(taken + 1, Ordering::Relaxed);
        Some(self.due(taken))
    }

    pub(super) fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    fn due(&self, number: u64) -> Instant {
        match self.pace {
            Pace::Closed => Instant::now(),
            Pace::Open { rate_per_s } => {
                self.started + Duration::from_secs_f64(number as f64 / rate_per_s)
            }
        }
    }

    fn release_until_ended(&self, rate_per_s: f64) {
        let mut released = 0;
        while !self.is_ended() {
            let elapsed = self.started.elapsed().as_secs_f64();
            // The write with the number n falls due at n / rate.
            let due = (elapsed * rate_per_s) as u64 + 1;
            if due > released {
                self.released.store(due, Ordering::Release);
                self.turns.add_permits((due - released) as usize);
                self.waker.wake();
                released = due;
            }
            let next = self.due(released).saturating_duration_since(Instant::now());
            thread::sleep(next.clamp(SLEEP_MIN, SLEEP_MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_loop_releases_what_is_due_and_counts_from_then() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let started = Instant::now();
        let pacer = Pacer::start(Pace::Open { rate_per_s: 1000.0 }, started).unwrap();
        for number in 0..20 {
            let due = runtime.block_on(pacer.turn()).unwrap();
            assert_eq!(due, started + Duration::from_millis(number));
            assert!(due <= Instant::now(), "write {number} was released early");
        }
        pacer.end();
        // Turns released before the end may still be taken, and then there are none.
        let left = (0..1000).take_while(|_| runtime.block_on(pacer.turn()).is_some());
        assert!(left.count() < 1000);
    }

    #[test]
    fn impossible_rates_are_refused() {
        for rate_per_s in [0.0, -1.0, f64::NAN, 1e9] {
            assert!(Pacer::start(Pace::Open { rate_per_s }, Instant::now()).is_err());
        }
    }
}
