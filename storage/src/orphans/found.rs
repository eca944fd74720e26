//! Wounds found when a store is opened.
//!
//! **Owns**: which partitions are wounded, by the list of cuts and the marks of the engine; whether
//! a CUT entry fits the log before it.
//! **Does not own**: the replay (`recovery`), healing (`heal`).
//!
//! An engine says of which cut its cells hold no orphan any more: its *healed* mark, written before
//! anything that follows the cut is flushed. Whatever prefix of its batches it kept, either it has
//! that mark, or its cells are those of before the cut, or half healed, and its intent mark says
//! how new they may be.

use std::collections::BTreeMap;

use domicile_proto::{PartitionId, Seq};

use super::files::numbers_of;
use super::wound::{HealedWith, Wound, WoundKind};
use crate::cells::{CellStore, PartitionMarks, healed_row, read_healed};
use crate::commit::Published;
use crate::engine::{EngineError, RowChange};
use crate::journal::cut::Cut;
use crate::journal::cuts::Cuts;
use crate::journal::tails::Tails;
use crate::journal::{OrphanNumber, Place};

/// What the engine says of cells after cuts.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// How new cells may be that were healed, although the log may not reach so far.
    pub(crate) healed_upto: BTreeMap<PartitionId, Seq>,
    /// Partitions whose cells nobody can heal, and why.
    pub(crate) lost: BTreeMap<PartitionId, String>,
}

/// Makes `published` know the cuts, and finds the wounds; the cells of those are closed. `filled`
/// says for which rebase the engine was filled, `files` which orphan files there are.
///
/// # Errors
/// What the engine says.
pub(crate) fn find(
    cells: &CellStore,
    cuts: &Cuts,
    filled: &BTreeMap<PartitionId, Place>,
    files: &[(PartitionId, OrphanNumber)],
    published: &mut Published,
) -> Result<Found, EngineError> {
    let mut found = Found::default();
    let engine = cells.engine();
    let healed = read_healed(&**engine)?;
    for (partition, healed) in &healed {
        found.healed_upto.insert(*partition, healed.upto);
    }
    published.cuts = cuts.clone();
    for mark in cuts.iter() {
        let index = &mut published.index;
        index.cut(mark.partition, mark.seq, mark.place);
    }
    for partition in cuts.partitions() {
        let marks = marks_of(cells, partition);
        let healed = healed.get(&partition).copied();
        let filled = filled.get(&partition).copied();
        let known = healed.map(|it| it.place).max(filled);
        let unhealed = cuts.of(partition).iter();
        let unhealed = unhealed.filter(|mark| known.is_none_or(|known| mark.place > known));
        let wound = unhealed.fold(None, |wound: Option<Wound>, mark| match wound {
            None => Some(Wound::new(*mark, marks, mark.seq)),
            Some(mut wound) => {
                wound.add(*mark);
                Some(wound)
            }
        });
        let Some(wound) = wound else { continue };
        let before = wound.cuts()[0].number.previous();
        let healed = HealedWith::of(healed, filled, &numbers_of(files, partition), before);
        let wound = wound.known_by(healed.as_ref());
        match wound.kind() {
            WoundKind::Clean => {
                // Before anything that follows the cut is flushed.
                let row = healed_row(partition, wound.last().place, Seq::NONE);
                engine.apply(vec![row])?;
                continue;
            }
            WoundKind::Open => {}
            WoundKind::Lost => {
                let (intent, end) = (wound.intent_upto(), wound.cuts()[0].end);
                let problem = format!(
                    "its log was cut, and its cells are as new as {intent}, the log ended at {end}"
                );
                found.lost.insert(partition, problem);
            }
        }
        let cells = cells.partition(partition);
        cells.close();
        cells.wound();
        cells.rebase(wound.base(), wound.intent_upto());
        published.wounds.insert(partition, wound);
    }
    Ok(found)
}

fn marks_of(cells: &CellStore, partition: PartitionId) -> PartitionMarks {
    let marks = cells.marks();
    let found = marks.binary_search_by_key(&partition, |marks| marks.partition);
    found.map_or(
        PartitionMarks {
            partition,
            applied_upto: Seq::NONE,
            intent_upto: Seq::NONE,
        },
        |index| marks[index],
    )
}

/// The rows of an engine that is filled anew, and holds nothing that was cut.
pub(crate) fn rows_without_orphans(cuts: &Cuts) -> Vec<RowChange> {
    let last = cuts.partitions().filter_map(|id| cuts.of(id).last());
    let rows = last.map(|mark| healed_row(mark.partition, mark.place, Seq::NONE));
    rows.collect()
}

/// Whether the log before a CUT entry, whose frame lies at `place`, leads to its fork, or as far as
/// a later cut has left of it.
///
/// # Errors
/// What does not fit: the log has lost records, which is no empty log.
pub(crate) fn check_cut(tails: &Tails, cuts: &Cuts, cut: &Cut, place: Place) -> Result<(), String> {
    let (last_seq, chain) = tails.end_of(cut.partition);
    let (partition, fork) = (cut.partition, cut.seq);
    let leads_to = cuts.leads_to(partition, place, fork);
    if last_seq < leads_to {
        return Err(format!(
            "{partition} was cut after {fork}, its log and snapshot end at {last_seq}"
        ));
    }
    // It may be further: what a checkpoint or a snapshot knows may be from before the cut or
    // behind. After a later cut that went back further it may end there by chance, in another
    // reign.
    if leads_to == fork && last_seq == fork && chain != cut.chain {
        return Err(format!(
            "{partition} was cut after {fork} with chain {}, its log has {chain}",
            cut.chain
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use domicile_proto::{Bucket, ChainHash, Epoch, KeyspaceId, NodeId, RegionId};

    use super::*;
    use crate::journal::cuts::CutMark;
    use crate::journal::{FileNumber, OrphanNumber, PartitionTail};

    fn partition() -> PartitionId {
        PartitionId {
            keyspace: KeyspaceId::new(1),
            region: RegionId::new(7).unwrap(),
            bucket: Bucket::new(0),
        }
    }

    fn chain(bits: u64) -> ChainHash {
        ChainHash::from_bits(bits)
    }

    /// A log that ends at `seq` with a chain, and cuts after each of these forks.
    fn log(seq: u64, bits: u64, forks: &[u64]) -> (Tails, Cuts) {
        let (mut tails, mut cuts) = (Tails::default(), Cuts::default());
        let epoch = Epoch {
            counter: 9,
            node: NodeId::new(1).unwrap(),
        };
        let tail = PartitionTail {
            epoch,
            last_seq: Seq::new(seq),
            chain: chain(bits),
            visible_upto: Seq::NONE,
            epoch_history: vec![(epoch, Seq::FIRST)],
        };
        tails.insert(partition(), tail);
        for (offset, fork) in (1..).zip(forks) {
            cuts.add(CutMark {
                partition: partition(),
                number: OrphanNumber::FIRST,
                seq: Seq::new(*fork),
                end: Seq::new(99),
                place: place(offset),
            });
        }
        (tails, cuts)
    }

    fn place(offset: u64) -> Place {
        Place {
            file: FileNumber::FIRST,
            offset,
        }
    }

    fn check(log: &(Tails, Cuts), fork: u64) -> Result<(), String> {
        let cut = Cut {
            partition: partition(),
            seq: Seq::new(fork),
            chain: chain(1),
            visible_upto: Seq::NONE,
            end: Seq::new(99),
            number: OrphanNumber::FIRST,
            reigns: Vec::new(),
        };
        check_cut(&log.0, &log.1, &cut, place(1))
    }

    #[test]
    fn a_log_of_another_chain_that_ends_at_the_fork_is_damage() {
        assert!(check(&log(17, 1, &[17]), 17).is_ok());
        assert!(check(&log(17, 2, &[17]), 17).is_err());
        assert!(check(&log(16, 2, &[17]), 17).is_err());
    }

    #[test]
    fn a_checkpoint_of_after_a_deeper_cut_may_end_where_an_older_cut_did() {
        assert!(check(&log(17, 2, &[17, 13]), 17).is_ok());
        assert!(check(&log(12, 2, &[17, 13]), 17).is_err());
    }
}
