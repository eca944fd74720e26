//! Which reign wrote which part of the log.
//!
//! **Owns**: epoch -> first record, and the question whether another log is a prefix of this one.
//! **Does not own**: minting epochs (control), the chain hash (`copy` checks it).
//!
//! As content is unique per (epoch, seq), a log that ends at (e, n) is a prefix of this one exactly
//! if e is in this history and n lies within e's stretch. A watermark alone cannot tell.

use domicile_proto::{Epoch, Seq};

use crate::config::ConfigError;
use crate::planted::{Bug, is_planted};

/// Reigns remembered: a thousand changes of home. A copy whose log ends in an older one is taken
/// for diverged and reseeded; doubling it moves that further away for 32 bytes an entry.
pub(crate) const EPOCHS_MAX: usize = 1024;

/// The reigns of a log, oldest first; the last is the present one.
#[derive(Debug, Clone)]
pub(crate) struct Epochs {
    firsts: Vec<(Epoch, Seq)>,
}

impl Epochs {
    /// The history that was recovered, and the present reign after it.
    ///
    /// # Errors
    /// [`ConfigError::EpochHistory`] if it does not grow, or reaches beyond the log's end.
    pub(crate) fn new(
        history: Vec<(Epoch, Seq)>,
        present: Epoch,
        last_seq: Seq,
    ) -> Result<Self, ConfigError> {
        let next_seq = last_seq.next();
        let mut firsts: Vec<(Epoch, Seq)> = Vec::with_capacity(history.len() + 1);
        let present_first = if history.is_empty() {
            Seq::FIRST
        } else {
            next_seq
        };
        let present_is_known = history.last().is_some_and(|(epoch, _)| *epoch == present);
        let added = (!present_is_known).then_some((present, present_first));
        for (epoch, first_seq) in history.into_iter().chain(added) {
            let grows = firsts
                .last()
                .is_none_or(|(e, first)| epoch > *e && first_seq >= *first);
            if !grows || first_seq > next_seq || first_seq == Seq::NONE {
                return Err(ConfigError::EpochHistory { epoch, first_seq });
            }
            firsts.push((epoch, first_seq));
        }
        let excess = firsts.len().saturating_sub(EPOCHS_MAX);
        firsts.drain(..excess);
        Ok(Self { firsts })
    }

    /// Every reign with its first record, oldest first.
    pub(crate) fn firsts(&self) -> &[(Epoch, Seq)] {
        &self.firsts
    }

    /// The present reign.
    pub(crate) fn present(&self) -> Epoch {
        self.firsts
            .last()
            .expect("a history has at least the present reign")
            .0
    }

    /// The first record of the present reign, written or to be written.
    pub(crate) fn first_of_present(&self) -> Seq {
        let last = self.firsts.last();
        last.expect("a history has at least the present reign").1
    }

    /// The reign that wrote `seq`; for one older than the history, its oldest.
    pub(crate) fn of(&self, seq: Seq) -> Epoch {
        let after = self.firsts.partition_point(|(_, first)| *first <= seq);
        self.firsts[after.saturating_sub(1)].0
    }

    /// Whether a log that ends at (`epoch`, `upto`) is a prefix of this one, which ends at
    /// `appended_upto`.
    pub(crate) fn covers(&self, epoch: Epoch, upto: Seq, appended_upto: Seq) -> bool {
        let Ok(index) = self.firsts.binary_search_by_key(&epoch, |(each, _)| *each) else {
            return false;
        };
        let first = self.firsts[index].1;
        let within = match self.firsts.get(index + 1) {
            Some((_, next_first)) => upto < *next_first,
            None => upto <= appended_upto,
        };
        upto >= first && within
    }
}

/// Where two logs part: the last record that both have. Each is given as every reign with its first
/// record, oldest first, and the log's last record.
///
/// A reign's records were written by one home, so up to the shorter end of the last reign that both
/// know the logs are the same; the lengths of the logs say nothing.
#[must_use]
pub fn fork(one: (&[(Epoch, Seq)], Seq), other: (&[(Epoch, Seq)], Seq)) -> Seq {
    if is_planted(Bug::ForkByWatermark) {
        return one.1.min(other.1);
    }
    let end_in = |(history, last_seq): (&[(Epoch, Seq)], Seq), epoch: Epoch| {
        let index = history.iter().position(|(each, _)| *each == epoch)?;
        let next = history.get(index + 1);
        Some(next.map_or(last_seq, |(_, first)| first.previous().min(last_seq)))
    };
    let common = one.0.iter().rev().find_map(|(epoch, _)| {
        let (ours, theirs) = (end_in(one, *epoch)?, end_in(other, *epoch)?);
        Some(ours.min(theirs))
    });
    common.unwrap_or(Seq::NONE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use domicile_proto::NodeId;

    #[test]
    fn logs_part_where_the_last_common_reign_ends_in_the_shorter_one() {
        let (a, b, c) = (epoch(1, 1), epoch(2, 2), epoch(3, 3));
        let seq = Seq::new;
        let cases: [(&[_], u64, &[_], u64, u64); 6] = [
            // A prefix, whichever is asked.
            (&[(a, seq(1))], 7, &[(a, seq(1))], 9, 7),
            // The old home wrote on to 9 while its successor began at 6.
            (&[(a, seq(1))], 9, &[(a, seq(1)), (b, seq(6))], 30, 5),
            // Its tail is longer than the whole new log: length does not win.
            (&[(a, seq(1))], 90, &[(a, seq(1)), (b, seq(6))], 8, 5),
            // A to B to C: C never had B's records, so A's own end decides.
            (
                &[(a, seq(1)), (b, seq(6))],
                12,
                &[(a, seq(1)), (c, seq(4))],
                20,
                3,
            ),
            // C had some of B's.
            (
                &[(a, seq(1)), (b, seq(6))],
                12,
                &[(a, seq(1)), (b, seq(6)), (c, seq(9))],
                20,
                8,
            ),
            // Nothing in common.
            (&[(b, seq(1))], 4, &[(c, seq(1))], 4, 0),
        ];
        for (one, end, other, other_end, expected) in cases {
            let found = fork((one, seq(end)), (other, seq(other_end)));
            assert_eq!(found, seq(expected), "{one:?} {end} {other:?} {other_end}");
            let found = fork((other, seq(other_end)), (one, seq(end)));
            assert_eq!(found, seq(expected), "the other way round");
        }
    }

    fn epoch(counter: u64, node: u64) -> Epoch {
        Epoch {
            counter,
            node: NodeId::new(node).unwrap(),
        }
    }

    #[test]
    fn a_prefix_is_told_by_epoch_and_place() {
        let history = vec![(epoch(1, 7), Seq::new(1)), (epoch(2, 8), Seq::new(11))];
        let epochs = Epochs::new(history, epoch(3, 7), Seq::new(20)).unwrap();
        assert_eq!(epochs.present(), epoch(3, 7));
        for (seq, counter) in [(1, 1), (10, 1), (11, 2), (20, 2), (21, 3)] {
            assert_eq!(epochs.of(Seq::new(seq)).counter, counter, "{seq}");
        }
        let covers = |e, upto| epochs.covers(e, Seq::new(upto), Seq::new(20));
        assert!(covers(epoch(1, 7), 10) && covers(epoch(2, 8), 20));
        // Longer in an old reign, another node's reign of the same counter, a reign too new.
        assert!(!covers(epoch(1, 7), 11) && !covers(epoch(2, 9), 12) && !covers(epoch(4, 1), 1));
    }

    #[test]
    fn a_history_that_does_not_grow_is_refused() {
        let (one, two) = (epoch(1, 7), epoch(2, 7));
        for history in [
            vec![(two, Seq::new(1)), (one, Seq::new(5))],
            vec![(one, Seq::new(5)), (two, Seq::new(4))],
            vec![(one, Seq::new(1)), (two, Seq::new(12))],
            vec![(one, Seq::NONE)],
        ] {
            assert!(
                Epochs::new(history.clone(), epoch(9, 7), Seq::new(10)).is_err(),
                "{history:?}"
            );
        }
        let whole = Epochs::new(vec![], two, Seq::new(10)).unwrap();
        assert_eq!(whole.of(Seq::new(1)), two);
    }
}
