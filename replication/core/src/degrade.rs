//! The recorded state in which a home acknowledges with less than its keyspace's level.
//!
//! **Owns**: since when and from which mark on, when the level counts as caught up again.
//! **Does not own**: appending the marks, and what becomes visible (`home`).
//!
//! ```text
//! off --(oldest durable, not visible record waited ack_timeout)
//!      --(where that is asked for: the control plane has it on record)--> begin mark appended
//!     begin mark durable: visible = durable
//!     --(level's mark >= what was durable a grace ago)--> end mark appended, off
//! ```
//! The begin mark is durable before the first write relies on it: the state is recorded before it
//! is used. The grace lets a copy that keeps up under load end it, though it never holds all.

use std::collections::VecDeque;
use std::time::Duration;

use domicile_proto::Seq;

use crate::moment::Moment;
use crate::status::DegradedRange;

/// The longest lag with which a copy counts as caught up: above any round trip on earth, far below
/// what an operator notices. Doubling it ends the state earlier, with more records to wait for.
const GRACE_MAX: Duration = Duration::from_secs(1);

/// Samples of the durable mark a grace: how exact "a grace ago" is.
const SAMPLES_PER_GRACE: u32 = 8;

/// Samples kept: two graces of them, of which the older is what the question is about.
const SAMPLES_MAX: usize = 2 * SAMPLES_PER_GRACE as usize;

/// The state, and the last one that is over.
#[derive(Debug, Clone)]
pub(crate) struct Degrade {
    range: Option<DegradedRange>,
    grace: Duration,
    /// (moment, the home's durable mark then), oldest first, while it lasts.
    samples: VecDeque<(Moment, Seq)>,
    record: Record,
}

/// Whether the control plane knows of a stretch that is to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Record {
    /// Nobody asked.
    #[default]
    None,
    /// It is asked.
    Wanted,
    /// It does: the stretch may begin.
    Made,
}

impl Degrade {
    /// Off, or on since before the start.
    pub(crate) fn new(ack_timeout: Duration, recovered: Option<Seq>, now: Moment) -> Self {
        let range = recovered.map(|began| DegradedRange {
            began,
            ended: None,
            since: now,
        });
        // Half the timeout: records not yet caught up at the end still have the other half left.
        let grace = (ack_timeout / 2).min(GRACE_MAX);
        Self {
            range,
            grace,
            samples: VecDeque::new(),
            record: Record::None,
        }
    }

    /// Whether a stretch that is due waits for its record; it is wanted from now on.
    pub(crate) fn waits_for_record(&mut self) -> bool {
        if self.record == Record::None {
            self.record = Record::Wanted;
        }
        self.record != Record::Made
    }

    /// Whether the record of a stretch is wanted.
    pub(crate) fn wants_record(&self) -> bool {
        self.record == Record::Wanted
    }

    /// The record of a stretch was made; what nobody wants any more does not count.
    pub(crate) fn recorded(&mut self) {
        if self.record == Record::Wanted {
            self.record = Record::Made;
        }
    }

    /// No stretch is due any more.
    pub(crate) fn forget_record(&mut self) {
        self.record = Record::None;
    }

    /// The last range, running or over.
    pub(crate) fn range(&self) -> Option<DegradedRange> {
        self.range
    }

    /// The begin mark, while it lasts.
    pub(crate) fn began(&self) -> Option<Seq> {
        self.range
            .filter(|range| range.ended.is_none())
            .map(|range| range.began)
    }

    /// Whether it lasts and is recorded, so that writes may rely on it.
    pub(crate) fn is_in_force(&self, durable: Seq) -> bool {
        self.began().is_some_and(|began| began <= durable)
    }

    /// It begins, with this mark.
    pub(crate) fn begin(&mut self, began: Seq, now: Moment) {
        assert!(
            self.began().is_none(),
            "degraded since {:?}, begun again",
            self.began()
        );
        self.samples.clear();
        self.range = Some(DegradedRange {
            began,
            ended: None,
            since: now,
        });
    }

    /// It ends, with this mark; returns how long it lasted.
    pub(crate) fn end(&mut self, at: Seq, now: Moment) -> Duration {
        let range = self.range.as_mut().filter(|range| range.ended.is_none());
        let range = range.expect("only a running state is ended");
        assert!(
            at > range.began,
            "end mark {at} not after begin mark {}",
            range.began
        );
        range.ended = Some(at);
        self.samples.clear();
        self.record = Record::None;
        now.since(range.since)
    }

    /// Takes note of the durable mark.
    pub(crate) fn sample(&mut self, durable: Seq, now: Moment) {
        if self.began().is_none() {
            return;
        }
        let spacing = self.grace / SAMPLES_PER_GRACE;
        if self
            .samples
            .back()
            .is_none_or(|(last, _)| now.since(*last) >= spacing)
        {
            self.samples.push_back((now, durable));
        }
        if self.samples.len() > SAMPLES_MAX {
            self.samples.pop_front();
        }
    }

    /// Whether a level met up to `met` has caught up: with what was durable a grace ago, or with
    /// all of it while it has not lasted that long.
    pub(crate) fn is_caught_up(&self, met: Seq, durable: Seq, now: Moment) -> bool {
        if !self.is_in_force(durable) {
            return false;
        }
        let is_old = |(moment, _): &&(Moment, Seq)| now.since(*moment) >= self.grace;
        let sample = self.samples.iter().rev().find(is_old);
        let goal = sample.map_or(durable, |(_, durable)| *durable);
        // At least the begin mark: a sample from before it says nothing.
        met >= goal.max(self.began().unwrap_or(durable))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_ms(ms: u64) -> Moment {
        Moment::from_micros(ms * 1_000)
    }

    #[test]
    fn a_copy_that_keeps_up_under_load_ends_it() {
        let mut degrade = Degrade::new(Duration::from_millis(800), None, at_ms(0));
        degrade.begin(Seq::new(10), at_ms(0));
        assert!(!degrade.is_in_force(Seq::new(9)) && degrade.is_in_force(Seq::new(10)));
        // One record a ms, the level 100 ms behind: less than the grace of 400 ms.
        for ms in 0..=600 {
            degrade.sample(Seq::new(10 + ms), at_ms(ms));
        }
        let durable = Seq::new(610);
        assert!(degrade.is_caught_up(Seq::new(510), durable, at_ms(600)));
        assert!(!degrade.is_caught_up(Seq::new(150), durable, at_ms(600)));
        assert_eq!(
            degrade.end(Seq::new(611), at_ms(600)),
            Duration::from_millis(600)
        );
        assert_eq!(degrade.began(), None);
        assert_eq!(
            degrade.range().and_then(|range| range.ended),
            Some(Seq::new(611))
        );
    }

    #[test]
    fn a_short_one_ends_only_when_all_is_met() {
        let mut degrade = Degrade::new(Duration::from_millis(800), None, at_ms(0));
        degrade.begin(Seq::new(10), at_ms(0));
        degrade.sample(Seq::new(10), at_ms(0));
        assert!(!degrade.is_caught_up(Seq::new(19), Seq::new(20), at_ms(100)));
        assert!(degrade.is_caught_up(Seq::new(20), Seq::new(20), at_ms(100)));
    }

    #[test]
    fn samples_are_bounded() {
        let mut degrade = Degrade::new(Duration::from_millis(16), Some(Seq::new(1)), at_ms(0));
        (0..1_000).for_each(|ms| degrade.sample(Seq::new(ms), at_ms(ms)));
        assert_eq!(degrade.samples.len(), SAMPLES_MAX);
    }
}
