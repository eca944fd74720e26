//! Cells that were healed by the word of a home whose log did not come, wounded once more.
//!
//! **Owns**: whether that is all that is wrong with them, and which keys it is.
//! **Does not own**: healing (`heal`), who notices (the node).
//!
//! ```text
//! log cut after 7 | keys that were cut: as home A has them at 12 | A is lost before 8 to 12 came
//! only those keys may be wrong: they are in orphan files, and B is asked of them
//! ```
//! Nothing is written: what the last heal left in the engine says the same at the next open, until
//! the next heal takes its place. Nor need a log be whole that was healed so: a cut that leaves it
//! shorter than its cells are new asks of the same keys, and of those that it cut.

use domicile_proto::{PartitionId, Seq};

use super::files::{list_orphans, numbers_of};
use super::wound::{HealedWith, Wound};
use crate::cells::{Freeze, Healed, filled_of, healed_of};
use crate::error::StoreError;
use crate::journal::OrphanNumber;
use crate::journal::cuts::CutMark;
use crate::store::Store;

impl Store {
    /// Wounds a partition once more whose cells are newer than its log as they were healed: its
    /// home is to be asked of the same keys again ([`Store::wounded_keys`], [`Store::heal`]).
    /// Whether that mends them: if not, a snapshot has to take their place. Nothing of the
    /// partition may be submitted meanwhile.
    ///
    /// # Errors
    /// What the operating system says; [`StoreError::Engine`]. Nothing is changed then.
    pub fn wound_again(&self, partition: PartitionId) -> Result<bool, StoreError> {
        let _one = self.hold_snapshots();
        self.check_open()?;
        let is_wounded = self.published().wounds.contains_key(&partition);
        let is_unfilled = self.published().unfilled.contains_key(&partition);
        if is_wounded || is_unfilled || self.condemned().partitions().contains(&partition) {
            return Ok(false);
        }
        let healed = healed_of(&**self.cell_store().engine(), partition)?;
        let Some(healed) = healed else {
            return Ok(false);
        };
        let Some(cuts) = self.cuts_again(partition, healed)? else {
            return Ok(false);
        };
        let _order = self.hold_flushing();
        // Nothing is left frozen; what is not frozen does not get there any more.
        self.commit_before_flush()?;
        self.cell_store().write_frozen(Freeze::Earlier)?;
        let marks = self.cell_store().stored_marks(partition)?;
        let last_seq = self.tail(partition).map_or(Seq::NONE, |it| it.last_seq);
        let by_heal = marks.intent_upto <= healed.upto;
        if !by_heal || marks.intent_upto <= last_seq {
            return Ok(false);
        }
        let wound = Wound::again(cuts, marks, last_seq);
        if let Err(error) = self.keys_of(&wound, 1) {
            tracing::warn!(%partition, %error, "what was healed cannot be healed again");
            return Ok(false);
        }
        let cells = self.cells(partition);
        cells.close();
        cells.wound();
        cells.rebase(wound.base(), wound.intent_upto());
        self.published().wounds.insert(partition, wound);
        Ok(true)
    }

    /// All cuts of a partition, if its cells were last healed after the last of them and the keys
    /// of each are still known.
    fn cuts_again(
        &self,
        partition: PartitionId,
        healed: Healed,
    ) -> Result<Option<Vec<CutMark>>, StoreError> {
        let last = self.published().cuts.of(partition).last().copied();
        let Some(last) = last.filter(|last| healed.place == last.place) else {
            return Ok(None);
        };
        let healed = self.healed_with(partition, Some(last.number))?;
        let mark = |number| CutMark { number, ..last };
        Ok(healed.map(|healed| healed.numbers.into_iter().map(mark).collect()))
    }

    /// The orphan files up to `last` as those that a partition was healed with.
    pub(super) fn healed_with(
        &self,
        partition: PartitionId,
        last: Option<OrphanNumber>,
    ) -> Result<Option<HealedWith>, StoreError> {
        let engine = self.cell_store().engine();
        let healed = healed_of(&**engine, partition)?;
        let filled = filled_of(&**engine, partition)?;
        let files = numbers_of(&list_orphans(&*self.disk(), self.dir())?, partition);
        Ok(HealedWith::of(healed, filled, &files, last))
    }
}
