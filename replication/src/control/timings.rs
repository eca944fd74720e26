//! How long consensus waits, derived from the round trip between its farthest voters.
//!
//! **Owns**: the derivation, and the reason for each factor.
//! **Does not own**: acting on it (election, network).
//!
//! openraft 0.9.25 gives an AppendEntries, heartbeat or not, exactly one heartbeat interval to come
//! back, sends one every 1.5 intervals (it looks at its clock that often), and draws its election
//! timeout once a process: two survivors with nearly the same one tie again and again (openraft
//! #1838, fixed in 0.10 only). So its own elections are switched off, and `election` calls them:
//!
//! ```text
//! interval  I = 2 RTT, at least 100 ms        aggressive: 1.5 RTT, at least 40 ms
//! beat      1.5 I                             what a follower hears at least
//! lease     L = 6 I: four beats               aggressive: 3 I: two beats
//! margin    M = RTT/2 + 20 ms                 voters heard the leader at different times
//! slot      S = 2 RTT + 40 ms                 a sounding, half a round for the vote, two writes
//! election  of rank r among the voters without the lost leader: L + M + r S + [0, S/4) after the
//!           last beat; then a sounding and a vote: 2 RTT
//! ```
//! A voter refuses everyone for L after it heard its leader, so no earlier election can succeed.
//! Windows of two ranks are 3/4 S apart: the first one's vote request has reached the second before
//! its window begins. A lost vote waits for all others' windows first.
//!
//! | RTT | interval | beat | lease | slot | new leader after a kill | aggressive |
//! |---|---|---|---|---|---|---|
//! | 1 ms | 100 ms | 150 ms | 600 ms | 42 ms | 0.47 to 0.63 s | 0.08 to 0.15 s |
//! | 20 ms | 100 ms | 150 ms | 600 ms | 80 ms | 0.53 to 0.70 s | 0.14 to 0.22 s |
//! | 80 ms | 160 ms | 240 ms | 960 ms | 200 ms | 0.98 to 1.27 s | 0.44 to 0.67 s |
//! | 150 ms | 300 ms | 450 ms | 1800 ms | 340 ms | 1.82 to 2.35 s | 0.81 to 1.23 s |
//! | 250 ms | 500 ms | 750 ms | 3000 ms | 540 ms | 3.02 to 3.91 s | 1.33 to 2.03 s |
//!
//! The first number is a kill just before a beat, the second just after one; one slot more if the
//! survivor of the lowest rank cannot lead, for its log is shorter. The blank entry with which a
//! leader begins takes one more RTT.

use std::time::Duration;

/// What a write to the disk of a vote may take: a synced rename has 1 to 10 ms on most disks.
/// Doubled, elections are 40 ms slower; halved, a slow disk's vote collides with the next window.
const WRITE_MAX: Duration = Duration::from_millis(20);

/// Shortest interval: a follower syncs its disk before it answers, and machines pause.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// The same for who accepts needless elections.
const AGGRESSIVE_INTERVAL_MIN: Duration = Duration::from_millis(40);

/// Largest round trip that is believed: three times around the earth. Above it something else is
/// wrong, and failover would take longer than people do.
const RTT_MAX: Duration = Duration::from_secs(1);

/// How soon a leader counts as lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Pace {
    /// After four beats: a pause or a lost packet or two elects nobody.
    #[default]
    Steady,
    /// After two beats: faster, with needless elections on a link that stutters.
    Aggressive,
}

/// The waits of consensus; see the table of the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timings {
    /// The round trip that all is derived from.
    pub rtt_max: Duration,
    /// For how long one message to a follower may take.
    pub interval: Duration,
    /// For how long after a leader's message nobody else is voted for.
    pub lease: Duration,
    /// What lies between two voters' windows.
    pub slot: Duration,
    /// By how much voters' views of the leader's last message may differ.
    pub margin: Duration,
}

impl Timings {
    /// The timings for a round trip between the voters that are farthest apart; what is above one
    /// second counts as one second.
    #[must_use]
    pub fn new(rtt_max: Duration, pace: Pace) -> Self {
        let rtt_max = rtt_max.min(RTT_MAX);
        let (interval, lease_intervals) = match pace {
            Pace::Steady => ((rtt_max * 2).max(INTERVAL_MIN), 6),
            Pace::Aggressive => ((rtt_max * 3 / 2).max(AGGRESSIVE_INTERVAL_MIN), 3),
        };
        Self {
            rtt_max,
            interval,
            lease: interval * lease_intervals,
            slot: rtt_max * 2 + WRITE_MAX * 2,
            margin: rtt_max / 2 + WRITE_MAX,
        }
    }

    /// How often a leader is heard at least.
    #[must_use]
    pub fn beat(&self) -> Duration {
        self.interval * 3 / 2
    }

    /// What the loss of a leader costs until another one has begun to lead, while all others are
    /// up: the first survivor may have a shorter log than the second.
    #[must_use]
    pub fn election_max(&self) -> Duration {
        let silence = self.lease + self.margin + self.slot + self.slot / 4;
        silence + self.campaign() + self.rtt_max
    }

    /// How often the clock is looked at.
    pub(super) fn look(&self) -> Duration {
        (self.rtt_max / 8).clamp(Duration::from_millis(5), Duration::from_millis(20))
    }

    /// What an election may take until its winner is heard, before the next one may be called.
    pub(super) fn campaign(&self) -> Duration {
        self.rtt_max * 2 + WRITE_MAX * 4
    }

    /// For how long a snapshot's chunk may take: a megabyte on a slow link, and its install.
    pub(super) fn chunk(&self) -> Duration {
        Duration::from_secs(5) + self.rtt_max * 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULE: &str = include_str!("timings.rs");

    fn seconds(duration: Duration) -> String {
        format!("{:.2}", duration.as_secs_f64())
    }

    /// From a kill just before the next beat would have arrived, and just after one was sent, to
    /// the vote of the survivor of rank 0.
    fn range(timings: &Timings) -> String {
        let votes = timings.rtt_max * 2;
        let wait = timings.lease + timings.margin + votes;
        let first = wait + timings.rtt_max / 2 - timings.beat();
        let last = wait + timings.rtt_max / 2 + timings.slot / 4;
        format!("{} to {} s", seconds(first), seconds(last))
    }

    #[test]
    fn the_table_is_what_the_derivation_gives() {
        for rtt_ms in [1, 20, 80, 150, 250] {
            let rtt = Duration::from_millis(rtt_ms);
            let steady = Timings::new(rtt, Pace::Steady);
            let row = format!(
                "//! | {rtt_ms} ms | {} ms | {} ms | {} ms | {} ms | {} | {} |",
                steady.interval.as_millis(),
                steady.beat().as_millis(),
                steady.lease.as_millis(),
                steady.slot.as_millis(),
                range(&steady),
                range(&Timings::new(rtt, Pace::Aggressive)),
            );
            assert!(MODULE.contains(&row), "{row}");
        }
    }

    #[test]
    fn windows_are_apart_and_messages_have_time() {
        for rtt_ms in [0, 1, 5, 20, 80, 150, 250, 400, 5000] {
            for pace in [Pace::Steady, Pace::Aggressive] {
                let timings = Timings::new(Duration::from_millis(rtt_ms), pace);
                let rtt = timings.rtt_max;
                assert!(timings.interval >= rtt * 3 / 2, "{timings:?}");
                assert!(timings.lease >= timings.beat() * 2, "{timings:?}");
                // Windows begin at multiples of the slot and are a quarter of it wide.
                assert!(timings.slot * 3 / 4 >= rtt * 3 / 2, "{timings:?}");
                assert!(timings.campaign() > rtt * 2, "{timings:?}");
                assert!(timings.look() < timings.slot / 2, "{timings:?}");
            }
        }
    }
}
