//! The arithmetic on what a client was told: outages, pauses, losses.
//!
//! **Owns**: what counts as each of them.
//! **Does not own**: the lists (`writer`), the rows that were read back (`operator`).
//!
//! ```text
//! takeover:    ack ack ack X .................... ack      outage: last by the old home to the
//!                      old home          new home          first by another
//! switchover:  ack ack ack ......... ack  .  ack  .  ack   pause: longest gap - usual gap after it
//! ```

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use domicile_proto::NodeId;

use super::writer::{Told, Wrote};

/// From the last acknowledgement by the home `old` until the first by another one; `None` if
/// either is missing. `told` is in the order of the answers.
pub(super) fn outage(told: &[Told], old: NodeId) -> Option<Duration> {
    let last = told.iter().rposition(|it| it.is_by(old))?;
    let first = told.get(last + 1)?;
    Some(first.at.duration_since(told[last].at))
}

/// How many of the writes that `old` acknowledged are not among the rows, or not with their value.
pub(super) fn lost(wrote: &Wrote, old: NodeId, rows: &BTreeMap<Bytes, Bytes>) -> u64 {
    let by_old = wrote.acked.iter().filter(|it| it.is_by(old));
    count_missing(by_old, wrote, rows)
}

/// The same of all that were acknowledged.
pub(super) fn missing(wrote: &Wrote, rows: &BTreeMap<Bytes, Bytes>) -> u64 {
    count_missing(wrote.acked.iter(), wrote, rows)
}

fn count_missing<'a>(
    told: impl Iterator<Item = &'a Told>,
    wrote: &Wrote,
    rows: &BTreeMap<Bytes, Bytes>,
) -> u64 {
    let is_missing = |it: &&Told| {
        let (key, value) = (wrote.plan.key(it.number), wrote.plan.value(it.number));
        rows.get(&key) != Some(&value)
    };
    told.filter(is_missing).count() as u64
}

/// When a switchover was asked for, when that was answered, and when the next one came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) asked: Instant,
    pub(super) answered: Instant,
    pub(super) over: Instant,
}

/// What a client noticed of a switchover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pause {
    /// The longest time between two of its acknowledgements that follow each other, of which the
    /// second came after the switchover was asked for.
    pub(super) gap: Duration,
    /// The median of such times once the gap was over and the switchover answered, or only the
    /// latter if none came after the gap: what the way from this client to the new home costs, and
    /// its rest between two writes.
    pub(super) usual: Duration,
}

impl Pause {
    /// What the switchover itself cost: the write that stood still was answered by the new home,
    /// and would have taken the usual time anyway.
    pub(super) fn of_switchover(self) -> Duration {
        self.gap.saturating_sub(self.usual)
    }
}

/// The pause of a client around a switchover; `None` if it was told too little to say.
pub(super) fn pause(told: &[Told], window: Window) -> Option<Pause> {
    let begin = told.partition_point(|it| it.at <= window.asked);
    let end = told.partition_point(|it| it.at < window.over);
    // With the acknowledgement before, from which the first gap counts.
    let told = told.get(begin.checked_sub(1)?..end)?;
    let gaps = || {
        told.windows(2)
            .map(|two| (two[1].at, two[1].at - two[0].at))
    };
    let (gap_over, gap) = gaps().max_by_key(|(_, gap)| *gap)?;
    let usual = |since: Instant| {
        let others = gaps().filter(|(at, _)| *at > since && *at != gap_over);
        let mut others: Vec<Duration> = others.map(|(_, gap)| gap).collect();
        others.sort_unstable();
        others.get(others.len() / 2).copied()
    };
    // One that has nothing to do with it, at the end of the time that is looked at, may be longer.
    let usual = usual(gap_over.max(window.answered)).or_else(|| usual(window.answered))?;
    Some(Pause { gap, usual })
}

#[cfg(test)]
mod tests {
    use super::super::writer::WriterPlan;
    use super::*;

    const OLD: u64 = 7;

    fn node(number: u64) -> NodeId {
        NodeId::new(number).unwrap()
    }

    fn told(start: Instant, acks: &[(u64, u64)]) -> Vec<Told> {
        let told = acks.iter().zip(0..).map(|((at_ms, home), number)| Told {
            number,
            at: start + Duration::from_millis(*at_ms),
            home: node(*home),
            is_duplicate: false,
        });
        told.collect()
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn an_outage_lasts_from_the_last_by_the_old_home_to_the_first_by_another() {
        let start = Instant::now();
        let acks = told(start, &[(0, OLD), (10, OLD), (2510, 8), (2590, 8)]);
        assert_eq!(outage(&acks, node(OLD)), Some(ms(2500)));
        assert_eq!(outage(&acks[..2], node(OLD)), None);
        assert_eq!(outage(&acks[2..], node(OLD)), None);
        assert_eq!(outage(&[], node(OLD)), None);
        // The old home had done it, and another one says so.
        let mut acks = told(start, &[(0, OLD), (10, OLD), (2510, OLD), (2590, 8)]);
        acks[2].is_duplicate = true;
        assert_eq!(outage(&acks, node(OLD)), Some(ms(2500)));
    }

    fn wrote(acks: &[(u64, u64)]) -> Wrote {
        Wrote {
            plan: WriterPlan {
                endpoints: Vec::new(),
                keyspace: "k".to_owned(),
                prefix: "p-".to_owned(),
                value_bytes: 32,
            },
            acked: told(Instant::now(), acks),
            errors: BTreeMap::new(),
        }
    }

    #[test]
    fn what_is_not_there_or_has_another_value_is_lost() {
        let wrote = wrote(&[(0, OLD), (1, OLD), (2, OLD), (3, 8)]);
        let row = |number| (wrote.plan.key(number), wrote.plan.value(number));
        let all = BTreeMap::from([row(0), row(1), row(2), row(3)]);
        assert_eq!(
            (lost(&wrote, node(OLD), &all), missing(&wrote, &all)),
            (0, 0)
        );
        let mut some = BTreeMap::from([row(0)]);
        some.insert(wrote.plan.key(1), wrote.plan.value(2));
        assert_eq!(lost(&wrote, node(OLD), &some), 2);
        assert_eq!(missing(&wrote, &some), 3);
        assert_eq!(missing(&wrote, &BTreeMap::new()), 4);
    }

    #[test]
    fn a_pause_is_the_longest_gap_without_the_usual_one() {
        let start = Instant::now();
        let acks = [
            (0, OLD),
            (3, OLD),
            (4, OLD),
            (204, 8),
            (286, 8),
            (366, 8),
            (448, 8),
        ];
        let acks = told(start, &acks);
        let window = Window {
            asked: start + ms(3),
            answered: start + ms(250),
            over: start + ms(1000),
        };
        let found = pause(&acks, window).unwrap();
        assert_eq!((found.gap, found.usual), (ms(200), ms(82)));
        assert_eq!(found.of_switchover(), ms(118));
        // The longest one comes last.
        let hiccup = [(3, OLD), (203, 8), (285, 8), (367, 8), (667, 8)];
        let found = pause(&told(start, &hiccup), window).unwrap();
        assert_eq!((found.gap, found.usual), (ms(300), ms(82)));
        // A gap before the switchover was asked for is not of it, one after the next neither.
        let late = Window {
            asked: start + ms(290),
            answered: start + ms(300),
            over: start + ms(400),
        };
        assert_eq!(pause(&acks, late), None);
        let early = Window {
            asked: start,
            answered: start + ms(1),
            over: start + ms(5),
        };
        assert_eq!(pause(&acks, early).unwrap().gap, ms(3));
        assert_eq!(pause(&[], early), None);
    }
}
