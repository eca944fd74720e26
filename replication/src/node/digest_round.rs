//! Who is wrong when copies at the same position differ.
//!
//! **Owns**: the votes of one comparison, and what they come to.
//! **Does not own**: making digests, asking for them, what is done to who is wrong (`digests`).
//!
//! Every copy folds the same log, so at the same position all show the same; who does not has a
//! wrong engine, and that may be the home. With two copies or more the larger side is right, and
//! nobody is wrong until there is one: a copy that has not answered is waited for, however long. If
//! all have answered and there is none, as with a single copy, the home counts: it is what clients
//! have read.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use domicile_proto::RegionId;

use crate::driver::PartitionDigest;

/// How long a dispute waits before all are asked again: a copy reads 30,000,000 rows meanwhile.
const ANSWERS_MAX: Duration = Duration::from_secs(300);

/// One comparison of a partition, at its home.
#[derive(Debug)]
pub(crate) struct DigestRound {
    own: PartitionDigest,
    copies: usize,
    began: Instant,
    answers: BTreeMap<RegionId, u64>,
}

/// What the answers so far come to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nobody differs, or nobody can tell yet who is wrong.
    Open,
    /// These differ from the others.
    Copies(Vec<RegionId>),
    /// So many copies agree on something else than the home shows.
    Home { copies: usize },
}

impl DigestRound {
    /// The home has told so many copies what it shows.
    pub(super) fn new(own: PartitionDigest, copies: usize) -> Self {
        Self {
            own,
            copies,
            began: Instant::now(),
            answers: BTreeMap::new(),
        }
    }

    /// What the home shows.
    pub(super) fn own(&self) -> PartitionDigest {
        self.own
    }

    /// A copy says what it shows; of another position that is no answer.
    pub(super) fn answer(&mut self, region: RegionId, said: PartitionDigest) -> Verdict {
        let own = self.own;
        if (said.epoch, said.seq, said.chain) != (own.epoch, own.seq, own.chain) {
            return Verdict::Open;
        }
        self.answers.insert(region, said.digest);
        self.verdict()
    }

    /// Whether somebody differs, it is not known who is wrong, and more answers may come.
    pub(super) fn waits(&self) -> bool {
        let own = self.own.digest;
        let differs = self.answers.values().any(|digest| *digest != own);
        differs && self.verdict() == Verdict::Open && self.began.elapsed() < ANSWERS_MAX
    }

    fn verdict(&self) -> Verdict {
        let own = self.own.digest;
        let mut votes = BTreeMap::from([(own, 1)]);
        for digest in self.answers.values() {
            *votes.entry(*digest).or_insert(0) += 1;
        }
        let for_own = votes[&own];
        let differing = self.answers.iter().filter(|(_, digest)| **digest != own);
        let differing: Vec<RegionId> = differing.map(|(region, _)| *region).collect();
        let others = votes.iter().filter(|(digest, _)| **digest != own);
        let most = others.map(|(_, count)| *count).max().unwrap_or(0);
        let missing = self.copies.saturating_sub(self.answers.len());
        if differing.is_empty() {
            Verdict::Open
        } else if most > for_own + missing {
            Verdict::Home { copies: most }
        } else if for_own > most + missing || missing == 0 {
            Verdict::Copies(differing)
        } else {
            Verdict::Open
        }
    }
}

#[cfg(test)]
mod tests {
    use domicile_proto::{ChainHash, Epoch, NodeId, Seq};

    use super::*;

    fn digest(digest: u64) -> PartitionDigest {
        let node = NodeId::new(1).unwrap();
        PartitionDigest {
            epoch: Epoch { counter: 1, node },
            seq: Seq::new(9),
            chain: ChainHash::from_bits(5),
            digest,
            is_final: false,
        }
    }

    fn region(number: u16) -> RegionId {
        RegionId::new(number).unwrap()
    }

    /// The home shows 7; the copies answer in turn.
    fn verdicts(copies: usize, answers: &[u64]) -> Vec<Verdict> {
        let mut round = DigestRound::new(digest(7), copies);
        let answers = (1..).zip(answers);
        let verdicts = answers.map(|(number, said)| round.answer(region(number), digest(*said)));
        verdicts.collect()
    }

    #[test]
    fn the_larger_side_is_right() {
        let copies =
            |numbers: &[u16]| Verdict::Copies(numbers.iter().copied().map(region).collect());
        let cases: [(usize, &[u64], Verdict); 12] = [
            (1, &[7], Verdict::Open),
            (1, &[8], copies(&[1])),
            (2, &[7, 7], Verdict::Open),
            (2, &[8], Verdict::Open),
            (2, &[8, 7], copies(&[1])),
            (2, &[7, 8], copies(&[2])),
            (2, &[8, 8], Verdict::Home { copies: 2 }),
            (2, &[8, 9], copies(&[1, 2])),
            (3, &[8, 8], Verdict::Open),
            (3, &[8, 8, 8], Verdict::Home { copies: 3 }),
            (3, &[8, 8, 7], copies(&[1, 2])),
            (4, &[8, 8, 8, 7], Verdict::Home { copies: 3 }),
        ];
        for (number, answers, expected) in cases {
            let found = verdicts(number, answers).pop().unwrap();
            assert_eq!(found, expected, "{number} copies, {answers:?}");
        }
    }

    #[test]
    fn an_answer_of_another_position_counts_for_nothing() {
        let mut round = DigestRound::new(digest(7), 2);
        let later = PartitionDigest {
            seq: Seq::new(10),
            ..digest(8)
        };
        for number in [1, 2] {
            assert_eq!(round.answer(region(number), later), Verdict::Open);
        }
        assert!(!round.waits());
        round.answer(region(1), digest(8));
        assert!(round.waits());
    }
}
