//! A partition whose log was cut and whose cells are not those of the fork yet.
//!
//! **Owns**: what the cells lack, by the marks of the engine alone.
//! **Does not own**: mending it (`heal`), finding it at open (`recovery`).
//!
//! ```text
//! applied mark, intent mark        cells hold every record up to the one, none above the other
//! intent <= fork                   clean: nothing that is cut was flushed
//! fork < intent <= last cut record open: the cells of keys that were cut may be orphans
//! last cut record < intent         lost: the engine has what its own log never had, unless all
//!                                        that is newer are keys that were healed: then it is open
//! ```

use bytes::Bytes;
use domicile_proto::Seq;

use crate::cells::{Healed, PartitionMarks};
use crate::journal::cuts::CutMark;
use crate::journal::{OrphanNumber, Place};
use crate::planted::{Bug, is_planted};

/// The orphan files that have the keys which were healed last, of all cuts before: which of them
/// were healed at once is not known.
#[derive(Debug)]
pub(crate) struct HealedWith {
    pub(crate) numbers: Vec<OrphanNumber>,
    /// How new the cells may be that they got.
    pub(crate) upto: Seq,
}

impl HealedWith {
    /// The files up to `last`, the last cut before the heal or the last that the journal knows, if
    /// each of them is among `files` still, and nothing was `filled` in since.
    pub(crate) fn of(
        healed: Option<Healed>,
        filled: Option<Place>,
        files: &[OrphanNumber],
        last: Option<OrphanNumber>,
    ) -> Option<Self> {
        let healed = healed.filter(|healed| filled.is_none_or(|it| it < healed.place))?;
        let numbers: Vec<OrphanNumber> = OrphanNumber::upto(last?).collect();
        let is_whole = numbers.iter().all(|number| files.contains(number));
        is_whole.then_some(Self {
            numbers,
            upto: healed.upto,
        })
    }
}

/// What is to be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WoundKind {
    /// The log up to the fork is folded over what the engine has.
    Clean,
    /// The keys that were cut need the cells that the home has.
    Open,
    /// Nobody knows which cells are wrong: a snapshot of the home has to take their place.
    Lost,
}

/// The cuts that the cells do not follow yet, or followed by a word that does not hold any more,
/// and how far they are.
#[derive(Debug, Clone)]
pub(crate) struct Wound {
    /// In the order of their places; at least one.
    cuts: Vec<CutMark>,
    marks: PartitionMarks,
    /// What the cells lack are the keys of these cuts, however new the engine is.
    is_again: bool,
    /// Up to where records that stay were visible.
    pub(crate) visible_upto: Seq,
    /// The last key that was healed by this process.
    pub(crate) healed_after: Option<Bytes>,
    /// The newest position of the cells that it was healed with.
    pub(crate) healed_upto: Seq,
}

impl Wound {
    /// The first cut of cells with these marks.
    pub(crate) fn new(cut: CutMark, marks: PartitionMarks, visible_upto: Seq) -> Self {
        Self {
            cuts: vec![cut],
            marks,
            is_again: false,
            visible_upto: visible_upto.min(cut.seq),
            healed_after: None,
            healed_upto: Seq::NONE,
        }
    }

    /// Cells with these marks that were healed after `cuts`, by the word of a home whose log did
    /// not come: the present one is to be asked of the same keys.
    pub(crate) fn again(cuts: Vec<CutMark>, marks: PartitionMarks, last_seq: Seq) -> Self {
        let applied_upto = marks.applied_upto.min(last_seq);
        Self {
            cuts,
            marks: PartitionMarks {
                applied_upto,
                ..marks
            },
            is_again: true,
            visible_upto: applied_upto,
            healed_after: None,
            healed_upto: Seq::NONE,
        }
    }

    /// The same wound of cells that nobody could heal, if they are newer than their log by no more
    /// than they were healed: the keys of `healed`, and those that were cut since, are to be asked
    /// of. As it is otherwise.
    pub(crate) fn known_by(self, healed: Option<&HealedWith>) -> Self {
        let first = *self.cuts.first().expect("at least one cut");
        let known = healed.filter(|healed| self.marks.intent_upto <= healed.upto);
        let Some(healed) = known.filter(|_| self.kind() == WoundKind::Lost) else {
            return self;
        };
        let numbers = healed.numbers.iter();
        let earlier = numbers.map(|number| CutMark {
            number: *number,
            ..first
        });
        let (visible_upto, cuts) = (self.visible_upto, self.cuts);
        let mut again = Self::again(earlier.collect(), self.marks, first.end);
        cuts.into_iter().for_each(|cut| again.add(cut));
        again.visible_upto = again.visible_upto.min(visible_upto);
        again
    }

    /// A further cut: what was healed for the one before is to be healed again.
    pub(crate) fn add(&mut self, cut: CutMark) {
        self.cuts.push(cut);
        if self.is_again {
            self.marks.applied_upto = self.marks.applied_upto.min(cut.seq);
        }
        self.visible_upto = self.visible_upto.min(cut.seq);
        (self.healed_after, self.healed_upto) = (None, Seq::NONE);
    }

    pub(crate) fn cuts(&self) -> &[CutMark] {
        &self.cuts
    }

    /// Where the first of the cuts stands.
    pub(crate) fn first_place(&self) -> Place {
        self.cuts.first().expect("at least one cut").place
    }

    /// The last cut, which says where the log ended after it.
    pub(crate) fn last(&self) -> CutMark {
        *self.cuts.last().expect("at least one cut")
    }

    /// The last record that was never cut.
    pub(crate) fn fork(&self) -> Seq {
        let forks = self.cuts.iter().map(|cut| cut.seq);
        forks.min().expect("at least one cut")
    }

    /// The home is to be asked at this record or later.
    pub(crate) fn ask_from(&self) -> Seq {
        self.last().seq.max(self.base())
    }

    /// Every record up to here is in the engine and stays.
    pub(crate) fn base(&self) -> Seq {
        match self.is_again {
            true => self.marks.applied_upto,
            false => self.marks.applied_upto.min(self.fork()),
        }
    }

    /// Every record up to here was shown, as the engine is as new as it is.
    pub(crate) fn shown_upto(&self) -> Seq {
        match self.is_again {
            // As new as another home was when it was asked.
            true => self.base(),
            false => self.marks.intent_upto.min(self.fork()),
        }
    }

    /// The engine's intent mark.
    pub(crate) fn intent_upto(&self) -> Seq {
        self.marks.intent_upto
    }

    pub(crate) fn kind(&self) -> WoundKind {
        let intent = self.marks.intent_upto;
        // The engine is as it was before the first of them.
        let known_upto = self.cuts.first().expect("at least one cut").end;
        if self.is_again {
            WoundKind::Open
        } else if intent <= self.fork() || is_planted(Bug::SkipHeal) {
            WoundKind::Clean
        } else if intent > known_upto {
            WoundKind::Lost
        } else {
            WoundKind::Open
        }
    }
}
