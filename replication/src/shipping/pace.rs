//! When a shipper may send its next frame.
//!
//! **Owns**: how long live segments wait for company, how fast a copy catches up beside writers.
//! **Does not own**: what is sent and what is urgent (shipper, the core).
//!
//! ```text
//! live       urgent: at once.   else: SHIP_INTERVAL after the last frame, under load up to three
//! catch-up   nobody wrote for a second: at once.  else: CATCH_UP_BYTES_PER_S, or twice the growth
//! ```

use std::time::{Duration, Instant};

/// Segments that no caller waits for are sent at most this often, more of them together: it bounds
/// the frames of an asynchronous keyspace to 1,000 a second and adds half of it to the lag, in the
/// mean. Doubled, the lag under load grows; halved, so does the work at both ends.
const SHIP_INTERVAL: Duration = Duration::from_millis(1);

/// Under load they wait longer, in proportion, up to this: as in group commit, frames grow where
/// their number would cost most. Doubled, lag at full load grows by another millisecond and a half.
const SHIP_INTERVAL_MAX: Duration = Duration::from_millis(3);

/// What one [`SHIP_INTERVAL`] may bring before it is stretched: 2 MB/s, ten thousand small records
/// a second. Doubled, twice the load is still shipped every millisecond.
const SHIP_INTERVAL_BYTES: u64 = 2 << 10;

/// How fast a copy catches up while its home has writers: a share of one core at both ends that
/// leaves writers' latencies as they are. Doubled, it takes half as long and they feel it.
const CATCH_UP_BYTES_PER_S: u64 = 40 << 20;

/// But always faster than the log grows, or it would never end.
const GROWTH_FACTOR: u64 = 2;

/// How late a timer of the runtime may be, whose ticks are milliseconds, without the pace falling
/// behind. Doubled, a pause may be followed by twice the burst.
const TIMER_LATENESS_MAX: Duration = Duration::from_millis(3);

/// How long a home without a new write still counts as one with writers: they may be waiting for
/// the very catch-up. Doubled, a catch-up beside nobody is slow for another second.
const WRITERS_GONE_AFTER: Duration = Duration::from_secs(1);

/// Over how long the log's growth is measured. Doubled, a change of load is noticed later.
const GROWTH_WINDOW: Duration = Duration::from_millis(50);

/// The pace of one stream.
#[derive(Debug)]
pub(super) struct ShipPace {
    /// When the last segments were sent.
    sent_at: Instant,
    /// How long after that the next ones wait for company.
    interval: Duration,
    /// When the catch-up may go on.
    resume_at: Instant,
    growth: Growth,
}

/// How fast the log grows.
#[derive(Debug)]
struct Growth {
    since: Instant,
    bytes_then: u64,
    bytes_per_s: u64,
    /// When it was last seen to grow.
    grown_at: Instant,
}

impl ShipPace {
    /// The pace of a stream that begins now, when the log's commits so far came to `log_bytes`.
    pub(super) fn new(now: Instant, log_bytes: u64) -> Self {
        Self {
            sent_at: now,
            interval: Duration::ZERO,
            resume_at: now,
            growth: Growth {
                since: now,
                bytes_then: log_bytes,
                bytes_per_s: 0,
                // Until it has been measured there may be writers.
                grown_at: now,
            },
        }
    }

    /// How long live segments that nobody waits for wait for company.
    pub(super) fn live_hold(&self, now: Instant) -> Duration {
        (self.sent_at + self.interval).saturating_duration_since(now)
    }

    /// How long the next piece of a catch-up is to wait for writers.
    pub(super) fn catch_up_hold(&mut self, now: Instant, log_bytes: u64) -> Duration {
        self.growth.look(now, log_bytes);
        self.resume_at.saturating_duration_since(now)
    }

    /// Segments were sent.
    pub(super) fn sent(&mut self, now: Instant, bytes: u64) {
        let elapsed = now.saturating_duration_since(self.sent_at);
        let intervals = elapsed.as_micros().max(1) as f64 / SHIP_INTERVAL.as_micros() as f64;
        let load = bytes as f64 / intervals.max(1.0) / SHIP_INTERVAL_BYTES as f64;
        self.interval = SHIP_INTERVAL.mul_f64(load.max(1.0)).min(SHIP_INTERVAL_MAX);
        self.sent_at = now;
        let credit_from = now.checked_sub(TIMER_LATENESS_MAX).unwrap_or(now);
        let resume_from = self.resume_at.max(credit_from);
        self.resume_at = if now >= self.growth.grown_at + WRITERS_GONE_AFTER {
            now
        } else {
            let bytes_per_s = CATCH_UP_BYTES_PER_S.max(GROWTH_FACTOR * self.growth.bytes_per_s);
            resume_from + Duration::from_secs_f64(bytes as f64 / bytes_per_s as f64)
        };
    }
}

impl Growth {
    fn look(&mut self, now: Instant, log_bytes: u64) {
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed < GROWTH_WINDOW {
            return;
        }
        let grown = log_bytes.saturating_sub(self.bytes_then) as f64;
        self.bytes_per_s = (grown / elapsed.as_secs_f64()) as u64;
        if grown > 0.0 {
            self.grown_at = now;
        }
        (self.since, self.bytes_then) = (now, log_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn frames_wait_longer_the_more_they_carry() {
        let mut now = Instant::now();
        let mut pace = ShipPace::new(now, 0);
        assert_eq!(
            pace.live_hold(now),
            Duration::ZERO,
            "the first goes at once"
        );
        let mut hold_after = |bytes_per_ms: u64| {
            for _ in 0..4 {
                let hold = pace.live_hold(now).max(MS);
                now += hold;
                pace.sent(now, bytes_per_ms * hold.as_millis() as u64);
            }
            pace.live_hold(now)
        };
        assert_eq!(hold_after(100), MS);
        assert_eq!(hold_after(2 << 10), MS);
        assert_eq!(hold_after(4 << 10), 2 * MS);
        assert_eq!(hold_after(1 << 20), SHIP_INTERVAL_MAX);
        assert_eq!(hold_after(100), MS);
    }

    /// Sends pieces for a second beside writers of `write_bytes_per_s`, who came `idle` ago; the
    /// rate that came out.
    fn catch_up(write_bytes_per_s: u64, idle: Duration) -> u64 {
        const PIECE: u64 = 256 << 10;
        let opened = Instant::now();
        let began = opened + idle;
        let (mut now, mut sent) = (began, 0);
        let mut pace = ShipPace::new(opened, 0);
        while now < began + Duration::from_secs(1) {
            let log_bytes = write_bytes_per_s * (now - began).as_millis() as u64 / 1000;
            // A piece takes a millisecond, however fast it may be sent.
            now += pace.catch_up_hold(now, log_bytes) + MS;
            sent += PIECE;
            pace.sent(now, PIECE);
        }
        sent
    }

    #[test]
    fn a_catch_up_is_held_back_for_writers_and_never_below_them() {
        let alone = catch_up(0, WRITERS_GONE_AFTER);
        assert!(alone > 220 << 20, "{alone} with nobody to wait for");
        let most = CATCH_UP_BYTES_PER_S * 5 / 4;
        let held_back = CATCH_UP_BYTES_PER_S / 2..most;
        let beside_stalled = catch_up(0, Duration::ZERO);
        assert!(held_back.contains(&beside_stalled), "{beside_stalled}");
        let beside_few = catch_up(100_000, Duration::ZERO);
        assert!(held_back.contains(&beside_few), "{beside_few}");
        let beside_many = catch_up(80 << 20, Duration::ZERO);
        assert!(beside_many > 100 << 20, "{beside_many} would never arrive");
    }
}
