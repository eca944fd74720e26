//! I5: the same place of the same reign has the same history, wherever it is.
//!
//! **Owns**: every segment that was ever durable anywhere.
//! **Does not own**: which of them are in the final log (`ack_truth`).

use domicile_proto::PartitionId;
use domicile_storage::Committed;

use crate::scene::Scene;
use crate::truth::Piece;

pub(crate) fn committed(commit: &Committed, scene: &mut Scene) {
    let piece = Piece {
        epoch: commit.epoch,
        first: commit.first_seq,
        last: commit.last_seq,
        chain: commit.chain,
    };
    found(commit.partition, piece, scene);
}

pub(crate) fn found(partition: PartitionId, piece: Piece, scene: &mut Scene) {
    let Piece {
        epoch,
        first,
        last,
        chain,
    } = piece;
    let segments = &mut scene.truth.segments;
    let key = (partition, epoch, last);
    let before = segments.range(..key).next_back();
    let overlaps_before =
        before.is_some_and(|((id, it, end), _)| (*id, *it) == (partition, epoch) && *end >= first);
    let after = segments.range((partition, epoch, last.next())..).next();
    let overlaps_after = after.is_some_and(|((id, it, _), (begin, _))| {
        (*id, *it) == (partition, epoch) && *begin <= last
    });
    let known = *segments.entry(key).or_insert((first, chain));
    if known != (first, chain) || overlaps_before || overlaps_after {
        let problem = format!("{partition:?} {epoch} {first}..{last} {chain}, was {known:?}");
        scene.fail("I5 log matching", problem);
    }
}
