//! The client's own list of acknowledged writes, and what is left of them after a loss.
//!
//! **Owns**: the list, the comparison, the count of what is lost in writes, bytes and time.
//! **Does not own**: asking the survivors (`survivors`). No figure here is a server's counter.
//!
//! A write is held if the key has its value, or that of a later write to the same key: then it was
//! overwritten, not lost. Which of two writes to a key is later, their receipts say.

use std::collections::BTreeMap;
use std::time::Duration;

use domicile_proto::Seq;
use serde::Serialize;

/// A write that was acknowledged to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The key's number.
    pub key: u32,
    /// The write's number, which its value carries.
    pub number: u64,
    /// Its place in the partition's log, from the receipt.
    pub seq: Seq,
    /// When the answer arrived, since the beginning of the run.
    pub at: Duration,
}

/// What a survivor has under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The number that the value carries; `None`: no value that this run wrote.
    pub number: Option<u64>,
    /// The place of the write in the partition's log, from its version.
    pub seq: Seq,
}

/// What a survivor has, by the key's number.
pub type Holdings = BTreeMap<u32, Held>;

/// Acknowledged writes that are gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Loss {
    /// How many.
    pub writes: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// How long before the loss the oldest of them had been acknowledged, in µs.
    pub age_us: u64,
}

impl Loss {
    /// Whether nothing is gone.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.writes == 0
    }

    /// The age in milliseconds.
    #[must_use]
    pub fn age_ms(&self) -> f64 {
        self.age_us as f64 / 1000.0
    }
}

/// What the comparison found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Comparison {
    /// Lost at every survivor.
    pub lost: Loss,
    /// Missing at each survivor, by its region.
    pub missing: BTreeMap<String, Loss>,
    /// Keys whose value is not that of the write that the version names: corruption, never a loss.
    pub wrong_keys: u64,
}

/// Compares the list with the survivors'.
///
/// `crashed_at` is on the clock of [`Ack::at`]; an acknowledgement that was read from a socket
/// after the crash has age zero.
#[must_use]
pub fn compare(
    acks: &[Ack],
    write_bytes: u64,
    crashed_at: Duration,
    survivors: &BTreeMap<String, Holdings>,
) -> Comparison {
    let mut comparison = Comparison {
        missing: survivors
            .keys()
            .map(|region| (region.clone(), Loss::default()))
            .collect(),
        ..Comparison::default()
    };
    for ack in acks {
        let mut held_somewhere = false;
        for (region, holdings) in survivors {
            let held = holdings.get(&ack.key);
            if held.is_some_and(|held| held.seq >= ack.seq) {
                held_somewhere = true;
                continue;
            }
            let missing = comparison.missing.entry(region.clone()).or_default();
            count(missing, ack, write_bytes, crashed_at);
        }
        if !held_somewhere {
            count(&mut comparison.lost, ack, write_bytes, crashed_at);
        }
    }
    comparison.wrong_keys = wrong_keys(acks, survivors);
    comparison
}

fn count(loss: &mut Loss, ack: &Ack, write_bytes: u64, crashed_at: Duration) {
    let age = crashed_at.saturating_sub(ack.at);
    loss.writes += 1;
    loss.bytes += write_bytes;
    loss.age_us = loss.age_us.max(age.as_micros() as u64);
}

fn wrong_keys(acks: &[Ack], survivors: &BTreeMap<String, Holdings>) -> u64 {
    let numbers: BTreeMap<(u32, Seq), u64> = acks
        .iter()
        .map(|ack| ((ack.key, ack.seq), ack.number))
        .collect();
    let held = survivors.values().flatten();
    let wrong = held.filter(|(key, held)| {
        let acked = numbers.get(&(**key, held.seq));
        held.number.is_none() || acked.is_some_and(|number| held.number != Some(*number))
    });
    wrong.count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(key: u32, number: u64, seq: u64, at_ms: u64) -> Ack {
        Ack {
            key,
            number,
            seq: Seq::new(seq),
            at: Duration::from_millis(at_ms),
        }
    }

    fn holdings(held: &[(u32, u64, u64)]) -> Holdings {
        let holding = |&(key, number, seq)| {
            let (number, seq) = (Some(number), Seq::new(seq));
            (key, Held { number, seq })
        };
        held.iter().map(holding).collect()
    }

    fn compared(acks: &[Ack], survivors: &[&[(u32, u64, u64)]]) -> Comparison {
        let survivors = survivors.iter().zip(["b", "c"]);
        let survivors = survivors.map(|(held, region)| (region.to_owned(), holdings(held)));
        compare(acks, 144, Duration::from_millis(100), &survivors.collect())
    }

    #[test]
    fn what_one_survivor_holds_is_not_lost() {
        let acks = [ack(1, 10, 1, 20), ack(2, 11, 2, 60), ack(3, 12, 3, 90)];
        let found = compared(&acks, &[&[(1, 10, 1)], &[(1, 10, 1), (2, 11, 2)]]);
        let lost = Loss {
            writes: 1,
            bytes: 144,
            age_us: 10_000,
        };
        assert_eq!(found.lost, lost);
        assert_eq!(found.missing["b"].writes, 2);
        assert_eq!(found.missing["b"].age_us, 40_000);
        assert_eq!(found.missing["c"].writes, 1);
        assert_eq!(found.wrong_keys, 0);
    }

    #[test]
    fn an_overwritten_write_is_held() {
        // The write 12 was never acknowledged, yet it arrived: it covers the two before it.
        let acks = [ack(1, 10, 1, 20), ack(1, 11, 2, 30)];
        let found = compared(&acks, &[&[(1, 12, 3)]]);
        assert!(found.lost.is_none());
        // The older of the two does not cover the later one.
        let found = compared(&acks, &[&[(1, 10, 1)]]);
        assert_eq!(found.lost.writes, 1);
    }

    #[test]
    fn an_ack_read_after_the_crash_counts_with_age_zero() {
        let found = compared(&[ack(1, 10, 1, 150)], &[&[]]);
        assert_eq!((found.lost.writes, found.lost.age_us), (1, 0));
    }

    #[test]
    fn a_value_of_another_write_is_wrong() {
        let acks = [ack(1, 10, 1, 20)];
        assert_eq!(compared(&acks, &[&[(1, 99, 1)]]).wrong_keys, 1);
        let (number, seq) = (None, Seq::new(1));
        let foreign = BTreeMap::from([(1, Held { number, seq })]);
        let survivors = BTreeMap::from([("b".to_owned(), foreign)]);
        let found = compare(&acks, 144, Duration::ZERO, &survivors);
        assert_eq!(found.wrong_keys, 1);
    }
}
