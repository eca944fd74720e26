//! A partition's log cut after the record that it shares with its new home's.
//!
//! **Owns**: what may be cut, the order of it, which survives an end anywhere.
//! **Does not own**: finding the fork (the core), the cells after it (`heal`).
//!
//! ```text
//! queue committed | tail sealed | begun in `cuts` | reads closed | CUT synced | settled | cells
//! an end before the sync: nothing happened         an end after it: the next open goes on
//! ```
//! The cells are mended in one of two ways, chosen by the engine's marks alone. If nothing that was
//! cut was flushed, what is above the engine is dropped and the log up to the fork folded again.
//! Otherwise the partition is wounded: the home is asked for the keys that were cut (`heal`). A
//! refill from an own snapshot would be a third way, and as slow as the partition is large.

use domicile_proto::{ChainHash, Epoch, PartitionId, Seq};

use super::files::{OrphanFileId, list_orphans, numbers_of};
use super::format::{OrphanFile, OrphanFork};
use super::seal::seal;
use super::settle::{log_start, settle};
use super::wound::{HealedWith, Wound, WoundKind};
use crate::cells::{Freeze, PartitionCells, PartitionMarks, healed_row};
use crate::error::StoreError;
use crate::journal::cut::Cut;
use crate::journal::cuts::CutMark;
use crate::journal::{OrphanNumber, PartitionTail, Place};
use crate::store::Store;

/// What a cut is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CutPlan {
    /// The reign that superseded the tail.
    pub superseded_by: Epoch,
    /// The present, in ms since 1970.
    pub now_ms: u64,
}

/// How the cells of a partition are after its log was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterCut {
    /// They are those of the fork: the log goes on.
    Whole,
    /// They may hold orphans: no read is answered and nothing is taken until they are healed.
    Wounded,
    /// Nobody can tell what is wrong with them: the partition is damaged, and a snapshot from its
    /// home has to take its place.
    NeedsSnapshot,
}

/// What a cut came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CutReport {
    /// Where the log ends now.
    pub fork: OrphanFork,
    /// What was cut, by this call or by one before that came to an error after it; `None` if the
    /// log ended there already.
    pub orphans: Option<OrphanFile>,
    /// How the cells are.
    pub cells: AfterCut,
}

impl Store {
    /// Cuts a partition's log after `fork`, the last record that it shares with its home's; all of
    /// it, if that is [`Seq::NONE`]. What is cut is durable in an orphan file before. Nothing of
    /// the partition may be submitted meanwhile. It may be called again after an error, and after
    /// any end of the process: what is done already is not done twice.
    ///
    /// # Errors
    /// [`StoreError::BadFork`] if the log has no such fork, [`StoreError::Unfilled`] while a
    /// snapshot is half installed, [`StoreError::Corrupt`] if the tail is damaged: nothing is cut
    /// then. What the operating system or the engine says: where the log ends says whether it is
    /// cut, and the next call does what is left.
    pub fn cut(
        &self,
        partition: PartitionId,
        fork: Seq,
        plan: CutPlan,
    ) -> Result<CutReport, StoreError> {
        let _one = self.hold_snapshots();
        self.check_open()?;
        let settled = self.settle_cuts(partition)?;
        self.commit_before_flush()?;
        if self.published().unfilled.contains_key(&partition) {
            return Err(StoreError::Unfilled { partition });
        }
        let tail = self.tail(partition);
        let last_seq = tail.as_ref().map_or(Seq::NONE, |tail| tail.last_seq);
        if fork == last_seq {
            return self.report_cut(partition, settled);
        }
        let Some(tail) = tail.filter(|tail| fork < tail.last_seq) else {
            let problem = format!("its log ends at {last_seq}");
            return Err(StoreError::bad_fork(partition, fork, problem));
        };
        let cut = self.plan_cut(partition, fork, tail)?;
        let orphans = seal(self, &cut, plan)?;
        let begun = cut.mark(self.durable_end());
        self.ledger().begin(&*self.disk(), begun)?;
        self.write_cut(cut)?;
        self.settle_cuts(partition)?;
        let cells = self.mend_after_cut(partition)?;
        Ok(CutReport {
            fork: orphans.fork,
            orphans: Some(orphans),
            cells,
        })
    }

    /// Does what [`Store::cut`] has left after an error, and reports that; cuts nothing.
    ///
    /// # Errors
    /// As there. It may be called again.
    pub fn finish_cut(&self, partition: PartitionId) -> Result<CutReport, StoreError> {
        let _one = self.hold_snapshots();
        self.check_open()?;
        let settled = self.settle_cuts(partition)?;
        self.report_cut(partition, settled)
    }

    /// A log that ends where it is to end, `settled` now or before.
    fn report_cut(
        &self,
        partition: PartitionId,
        settled: Option<CutMark>,
    ) -> Result<CutReport, StoreError> {
        let cells = self.mend_after_cut(partition)?;
        let tail = self.tail(partition);
        let fork = OrphanFork {
            epoch: tail.as_ref().map(|tail| tail.epoch),
            seq: tail.as_ref().map_or(Seq::NONE, |tail| tail.last_seq),
            chain: tail.map_or(ChainHash::START, |tail| tail.chain),
        };
        // A call before this one cut the log and could not bring that to its end.
        let settled = settled.filter(|mark| mark.seq == fork.seq);
        let reader = settled.and_then(|it| self.open_orphans(Self::orphans_of(&it)).ok());
        Ok(CutReport {
            fork,
            orphans: reader.map(|reader| *reader.header()),
            cells,
        })
    }

    /// The entry, once the log is known to have such a fork.
    fn plan_cut(
        &self,
        partition: PartitionId,
        fork: Seq,
        tail: PartitionTail,
    ) -> Result<Cut, StoreError> {
        let bad = |problem: String| StoreError::bad_fork(partition, fork, problem);
        let first = self.log_start(partition);
        if first > fork.next() {
            let problem = format!("the journal has its records from {first} on only");
            return Err(bad(problem));
        }
        let chain = match fork {
            Seq::NONE => Some(ChainHash::START),
            _ => self.chain_at(partition, fork)?,
        };
        let chain = chain.ok_or_else(|| bad("no segment ends there".to_owned()))?;
        let mut reigns = tail.epoch_history;
        reigns.retain(|(_, first_seq)| *first_seq <= fork);
        if reigns.is_empty() && fork > Seq::NONE {
            return Err(bad("its reign is forgotten".to_owned()));
        }
        let cut = Cut {
            partition,
            seq: fork,
            chain,
            visible_upto: tail.visible_upto.min(fork),
            end: tail.last_seq,
            number: self.next_orphan_number(partition)?,
            reigns,
        };
        cut.check().map_err(bad)?;
        Ok(cut)
    }

    fn next_orphan_number(&self, partition: PartitionId) -> Result<OrphanNumber, StoreError> {
        let files = list_orphans(&*self.disk(), self.dir())?;
        let last = numbers_of(&files, partition).into_iter().max();
        let last = last.max(self.ledger().last_number(partition));
        Ok(last.map_or(OrphanNumber::FIRST, OrphanNumber::next))
    }

    /// Writes the entry; the cells answer no reads from then on.
    fn write_cut(&self, cut: Cut) -> Result<(), StoreError> {
        let partition = cut.partition;
        let cells = self.cells(partition);
        cells.close();
        let written = self.turn_back(&cells, cut);
        let is_cut = self.published().wounds.contains_key(&partition);
        let is_condemned = self.condemned().partitions().contains(&partition);
        if written.is_err() && !is_cut && !is_condemned {
            // Nothing has happened: what was there is there.
            cells.reopen();
        }
        written
    }

    fn turn_back(&self, cells: &PartitionCells, cut: Cut) -> Result<(), StoreError> {
        let _order = self.hold_flushing();
        // Nothing is left frozen; what is not frozen does not get there any more.
        self.commit_before_flush()?;
        self.cell_store().write_frozen(Freeze::Earlier)?;
        let (partition, number) = (cut.partition, cut.number);
        let marks = self.cell_store().stored_marks(partition)?;
        let healed = self.healed_with(partition, number.previous())?;
        self.queue().submit_cut(cut)?;
        self.commit_before_flush()?;
        let last = self.published().cuts.of(partition).last().copied();
        let mark = last.filter(|mark| mark.number == number);
        let mark = mark.expect("published by the commit just made");
        self.open_wound(cells, mark, marks, healed.as_ref());
        Ok(())
    }

    /// What was cut is dropped from memory, and what the engine may have of it is remembered.
    fn open_wound(
        &self,
        cells: &PartitionCells,
        mark: CutMark,
        marks: PartitionMarks,
        healed: Option<&HealedWith>,
    ) {
        let visible_upto = cells.applied_upto();
        let (base, intent_upto) = {
            let wounds = &mut self.published().wounds;
            let wound = wounds
                .entry(mark.partition)
                .and_modify(|wound| wound.add(mark))
                .or_insert_with(|| Wound::new(mark, marks, visible_upto).known_by(healed));
            (wound.base(), wound.intent_upto())
        };
        cells.wound();
        cells.rebase(base, intent_upto);
        self.ledger().written(mark);
    }

    /// Does what is left to be done of the cuts of a partition; the last of which it was.
    fn settle_cuts(&self, partition: PartitionId) -> Result<Option<CutMark>, StoreError> {
        let mut ledger = self.ledger();
        let unsettled = ledger.unsettled().into_iter();
        let mut last = None;
        for mark in unsettled.filter(|mark| mark.partition == partition) {
            let log_start = log_start(&self.published(), partition);
            let (disk, snapshots) = (self.disk(), &mut self.snapshots());
            settle(
                &*disk,
                self.files(),
                &**self.cell_store().engine(),
                snapshots,
                &mut ledger,
                mark,
                log_start,
            )?;
            last = Some(mark);
        }
        Ok(last)
    }

    /// Mends what needs nobody's help; how the cells are then.
    fn mend_after_cut(&self, partition: PartitionId) -> Result<AfterCut, StoreError> {
        let is_condemned = self.condemned().partitions().contains(&partition);
        let wound = self.published().wounds.get(&partition).cloned();
        match wound.as_ref().map(Wound::kind) {
            _ if is_condemned => Ok(AfterCut::NeedsSnapshot),
            Some(WoundKind::Lost) => {
                self.condemn(&[partition])?;
                Ok(AfterCut::NeedsSnapshot)
            }
            Some(WoundKind::Open) => Ok(AfterCut::Wounded),
            Some(WoundKind::Clean) => {
                let wound = wound.expect("there is one of a kind");
                let place: Place = wound.last().place;
                let engine = self.cell_store().engine();
                engine.apply(vec![healed_row(partition, place, Seq::NONE)])?;
                self.refold(partition, &wound, wound.intent_upto())?;
                Ok(AfterCut::Whole)
            }
            None => Ok(AfterCut::Whole),
        }
    }

    /// The orphan file of a cut.
    pub(super) fn orphans_of(mark: &CutMark) -> OrphanFileId {
        OrphanFileId {
            partition: mark.partition,
            number: mark.number,
        }
    }
}
