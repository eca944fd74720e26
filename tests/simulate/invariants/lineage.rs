//! Which record lies where in the log of a reign, of all that was ever written.
//!
//! **Owns**: histories put together from takeovers, and the fold of a history.
//! **Does not own**: any verdict.

use std::collections::BTreeMap;

use bytes::Bytes;
use domicile_core::LeaseNeed;
use domicile_proto::{Epoch, PartitionId, Seq, Version};

use crate::truth::{TakenOver, Truth, Written};

/// A key's version and value.
pub(crate) type Fold = BTreeMap<Bytes, (Version, Bytes)>;

/// The reigns of a log, each with its first record.
pub(crate) type Reigns = Vec<(Epoch, Seq)>;

/// The reigns of the log that a home of this reign writes.
pub(crate) fn of_home(truth: &Truth, partition: PartitionId, epoch: Epoch) -> Option<Reigns> {
    let began = truth
        .takeovers
        .iter()
        .find(|it| it.partition == partition && it.to == epoch);
    match began {
        Some(began) => {
            let mut reigns: Reigns = began
                .log
                .iter()
                .map(|(it, first, _)| (*it, *first))
                .collect();
            let last = began.log.last().map_or(Seq::NONE, |(_, _, last)| *last);
            reigns.push((epoch, last.next()));
            Some(reigns)
        }
        None if epoch.counter == 1 => Some(vec![(epoch, Seq::FIRST)]),
        None => None,
    }
}

/// Which reign wrote a record.
pub(crate) fn reign_of(reigns: &Reigns, seq: Seq) -> Option<Epoch> {
    let found = reigns.iter().rev().find(|(_, first)| *first <= seq);
    found.map(|(epoch, _)| *epoch)
}

/// Every record of such a log up to one.
pub(crate) fn records<'truth>(
    truth: &'truth Truth,
    partition: PartitionId,
    reigns: &'truth Reigns,
    upto: Seq,
) -> impl Iterator<Item = (Epoch, Seq, Option<&'truth Written>)> {
    (1..=upto.get()).filter_map(move |seq| {
        let seq = Seq::new(seq);
        let epoch = reign_of(reigns, seq)?;
        Some((epoch, seq, truth.records.get(&(partition, epoch, seq))))
    })
}

/// What such a log comes to.
pub(crate) fn fold(truth: &Truth, partition: PartitionId, reigns: &Reigns, upto: Seq) -> Fold {
    let mut fold = Fold::new();
    for (epoch, seq, written) in records(truth, partition, reigns, upto) {
        let Some(written) = written.filter(|it| !it.key.is_empty()) else {
            continue;
        };
        let version = Version {
            generation: 0,
            epoch,
            seq,
        };
        match &written.value {
            Some(value) => fold.insert(written.key.clone(), (version, value.clone())),
            None => fold.remove(&written.key),
        };
    }
    fold
}

/// The takeover that lost a record, if one did. A successor that never wrote may be followed by
/// one that has more: what that one has is not lost.
pub(crate) fn lost_at(
    truth: &Truth,
    partition: PartitionId,
    (epoch, seq): (Epoch, Seq),
) -> Option<&TakenOver> {
    let later = truth.takeovers.iter().rev();
    let later = later.filter(|it| it.partition == partition && it.to > epoch);
    later.take_while(|it| !it.has(epoch, seq)).last()
}

/// The last takeover up to a reign whose successor did not have a record, if there is one since it
/// was written: the homes from there on to that reign's did not have it, even if a later one did.
pub(crate) fn lost_in(
    truth: &Truth,
    partition: PartitionId,
    (epoch, seq): (Epoch, Seq),
    reign: Epoch,
) -> Option<&TakenOver> {
    let until = truth.takeovers.iter().rev();
    let until = until.filter(|it| it.partition == partition && it.to > epoch && it.to <= reign);
    until.take_while(|it| !it.has(epoch, seq)).last()
}

/// Whether a home up to this reign did not have a record because an operator wanted it so.
pub(crate) fn is_lost_by_word(
    truth: &Truth,
    partition: PartitionId,
    (epoch, seq): (Epoch, Seq),
    reign: Epoch,
) -> bool {
    let mut until = truth.takeovers.iter();
    until.any(|it| {
        let is_between = it.to > epoch && it.to <= reign;
        it.partition == partition && is_between && it.is_by_word && !it.has(epoch, seq)
    })
}

/// Whether in every reign from one on, and before another one, a home needed others for each
/// acknowledgement: then none of them allowed the loss of one.
pub(crate) fn is_revoked(
    truth: &Truth,
    partition: PartitionId,
    (from, before): (Epoch, Epoch),
) -> bool {
    let mut reigns = truth.policies.range((partition, from)..(partition, before));
    reigns.all(|(_, policy)| policy.lease == LeaseNeed::Reads)
}
