//! A partition whose log was cut and whose cells are not those of the fork yet.
//!
//! **Owns**: what the cells lack, by the marks of the engine alone.
//! **Does not own**: mending it (`heal`), finding it at open (`recovery`).
//!
//! ```text
//! applied mark, intent mark        cells hold every record up to the one, none above the other
//! intent <= fork                   clean: nothing that is cut was flushed
//! fork < intent <= last cut record open: the cells of keys that were cut may be orphans
//! last cut record < intent         lost: the engine has what its own log never had (cells that
//!                                        were healed or received, and whose log never came)
//! ```

use bytes::Bytes;
use domicile_proto::Seq;

use crate::cells::PartitionMarks;
use crate::journal::Place;
use crate::journal::cuts::CutMark;
use crate::planted::{Bug, is_planted};

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
