//! When each record was appended and how many bytes came before it, remembered thinly.
//!
//! **Owns**: checkpoints of (record, bytes before it, moment), their thinning, the potential loss
//! that follows from them.
//! **Does not own**: the marks between which a loss lies (`home`), limits (`rpo_guard`).
//!
//! ```text
//! tier 2: every 16 ms    tier 1: every 4 ms    tier 0: every 1 ms
//! oldest  |----|----|----|-|-|-|-|-|-||||||||||||||||||||||| newest
//! ```
//! A full tier hands its oldest checkpoint to the next, which keeps it only if it is its own
//! spacing away from the one before. So a live copy's lag is known to a millisecond even while
//! another has been dead for days, whose lag is known to a twentieth.

use std::collections::VecDeque;
use std::time::Duration;

use domicile_proto::Seq;

use crate::moment::Moment;
use crate::status::Rpo;

/// Checkpoints in a tier. A checkpoint in tier k is at least this many spacings of tier k-1 old,
/// that is a quarter as many of its own: 128 keeps the error below a twentieth of the age. Doubling
/// it halves the error and doubles the memory (24 bytes each, 48 KiB for all tiers when full).
const TIER_CHECKPOINTS_MAX: usize = 128;

/// Tiers, each four times as coarse as the one before: 16 reach back four years.
const TIERS_MAX: usize = 16;

/// The spacing of the first tier: 1 ms, the unit in which limits are given.
const SPACING: Duration = Duration::from_millis(1);

/// `first` and the records after it were appended from `moment` on, after `bytes_before` bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Checkpoint {
    first: Seq,
    bytes_before: u64,
    moment: Moment,
}

/// The history of appends, as far as it takes to price a lag.
#[derive(Debug, Clone)]
pub(crate) struct Lag {
    /// Tier 0 first; within a tier oldest first; all of a tier is older than the one before it.
    tiers: Vec<VecDeque<Checkpoint>>,
    last: Seq,
    bytes: u64,
    keeps: bool,
}

impl Lag {
    /// A history that begins with `bytes` bytes in the records up to `last`, appended at `now` for
    /// want of better knowledge. `copies`: with none there is nothing to keep.
    pub(crate) fn new(last: Seq, bytes: u64, now: Moment, copies: usize) -> Self {
        let mut lag = Self {
            tiers: vec![VecDeque::new()],
            last,
            bytes,
            keeps: copies > 0,
        };
        if lag.keeps && last > Seq::NONE {
            let begin = Checkpoint {
                first: Seq::FIRST,
                bytes_before: 0,
                moment: now,
            };
            lag.tiers[0].push_back(begin);
            // A record appended at this very moment would otherwise share the span of the
            // recovered ones, whose bytes may be unknown.
            lag.push(Checkpoint {
                first: last.next(),
                bytes_before: bytes,
                moment: now,
            });
        }
        lag
    }

    /// Takes note of the next record.
    pub(crate) fn record(&mut self, seq: Seq, bytes: u32, now: Moment) {
        assert!(
            seq == self.last.next(),
            "record {seq} noted after {}",
            self.last
        );
        if self.keeps {
            let newest = self.tiers[0].back();
            if newest.is_none_or(|newest| now.since(newest.moment) >= SPACING) {
                self.push(Checkpoint {
                    first: seq,
                    bytes_before: self.bytes,
                    moment: now,
                });
            }
        }
        self.last = seq;
        self.bytes += u64::from(bytes);
    }

    fn push(&mut self, checkpoint: Checkpoint) {
        self.tiers[0].push_back(checkpoint);
        let mut spacing = SPACING;
        for tier in 0..TIERS_MAX {
            if self.tiers[tier].len() <= TIER_CHECKPOINTS_MAX {
                break;
            }
            let oldest = self.tiers[tier]
                .pop_front()
                .expect("a tier above its limit has a front");
            spacing *= 4;
            if tier + 1 == TIERS_MAX {
                break;
            }
            if self.tiers.len() == tier + 1 {
                self.tiers.push(VecDeque::new());
            }
            let next = &mut self.tiers[tier + 1];
            // Left out, its records belong to the checkpoint before it, which makes them at most
            // one spacing too old.
            if next
                .back()
                .is_none_or(|back| oldest.moment.since(back.moment) >= spacing)
            {
                next.push_back(oldest);
            }
        }
    }

    /// Drops what no copy's lag can reach any more: all copies hold everything up to `upto`.
    pub(crate) fn forget_upto(&mut self, upto: Seq) {
        let count = self.tiers.iter().map(VecDeque::len).sum::<usize>();
        for _ in 1..count {
            let Some(tier) = self.tiers.iter().rposition(|tier| !tier.is_empty()) else {
                return;
            };
            let second = self.tiers[tier].get(1).or_else(|| {
                self.tiers[..tier]
                    .iter()
                    .rev()
                    .find_map(|finer| finer.front())
            });
            if second.is_none_or(|second| second.first > upto.next()) {
                return;
            }
            self.tiers[tier].pop_front();
        }
    }

    /// What is lost if everything after `held` up to `counted` is. `bytes_after_counted` are those
    /// of records beyond `counted`.
    pub(crate) fn between(
        &self,
        held: Seq,
        counted: Seq,
        bytes_after_counted: u64,
        now: Moment,
    ) -> Rpo {
        let writes = counted.since(held);
        if writes == 0 || !self.keeps {
            return Rpo {
                writes,
                ..Rpo::default()
            };
        }
        let first_lost = held.next();
        let (span, next) = self.span_of(first_lost);
        let end = Checkpoint {
            first: self.last.next(),
            bytes_before: self.bytes,
            moment: now,
        };
        let next = next.unwrap_or(end);
        let records = u128::from(next.first.since(span.first)).max(1);
        let into = u128::from(first_lost.since(span.first)).min(records);
        let span_bytes = u128::from(next.bytes_before.saturating_sub(span.bytes_before));
        let bytes_held = span.bytes_before + (span_bytes * into / records) as u64;
        let bytes = self
            .bytes
            .saturating_sub(bytes_after_counted)
            .saturating_sub(bytes_held);
        Rpo {
            writes,
            bytes,
            age: now.since(span.moment),
        }
    }

    /// The checkpoint whose span holds `seq`, and the one after it.
    fn span_of(&self, seq: Seq) -> (Checkpoint, Option<Checkpoint>) {
        let mut next: Option<Checkpoint> = None;
        for tier in &self.tiers {
            let after = tier.partition_point(|checkpoint| checkpoint.first <= seq);
            next = tier.get(after).copied().or(next);
            if after > 0 {
                return (tier[after - 1], next);
            }
        }
        // Forgotten, as all copies had it, and one came back with less: its age counts from the
        // oldest that is known, its bytes are the average of what was forgotten.
        let moment = next.map_or(Moment::START, |oldest| oldest.moment);
        (
            Checkpoint {
                first: Seq::FIRST,
                bytes_before: 0,
                moment,
            },
            next,
        )
    }
}

#[cfg(test)]
#[path = "lag_tests.rs"]
mod tests;
