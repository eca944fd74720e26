//! Orphans: records of a log's tail that its new home never had, kept when the log is cut.
//!
//! **Owns**: sealing a tail, the order in which a log is cut, the cells that are healed after it,
//! the orphan files, what an operator decided of each record, the list of cuts on disk.
//! **Does not own**: where the fork is and who is home (the core), asking the home for cells (the
//! node), what a void segment is to a reader of the journal (`journal`).
//!
//! ```text
//! <data>/orphans/<partition>.sealed             a tail that is about to be cut
//! <data>/orphans/<partition>-<n>.orphans        one that was: kept until an operator removes it
//! <data>/orphans/<partition>-<n>.decisions      what became of its records
//! <data>/cuts                                   where the journal's cuts stand
//!
//! tail committed | sealed | begun in `cuts` | CUT entry synced | snapshots with orphans removed
//!   | sealed file gets its last name | settled in `cuts` | cells: folded anew, or healed
//! an end before the CUT entry is synced: nothing happened       an end after it: the open goes on
//! ```
//! A tail that is sealed again before it is cut replaces what was sealed: its records are in the
//! log or in one orphan file, never in two.

mod again;
mod cut;
mod decisions;
mod files;
mod format;
mod found;
mod heal;
mod ledger;
mod reader;
mod seal;
mod settle;
mod tell;
mod wound;

pub use cut::{AfterCut, CutPlan, CutReport};
pub use decisions::OrphanState;
pub(crate) use files::list_orphans;
pub use files::{Orphan, OrphanCounts, OrphanFileId, OrphanList, OrphanScan};
pub(crate) use format::ORPHAN_DIR;
pub use format::{OrphanFile, OrphanFork};
pub(crate) use found::{Found, check_cut, find, rows_without_orphans};
pub use heal::{HealProgress, WoundReport};
pub(crate) use ledger::Ledger;
pub(crate) use settle::{check_files, settle_all};
pub use tell::ToldCells;
pub(crate) use wound::{Wound, WoundKind};
