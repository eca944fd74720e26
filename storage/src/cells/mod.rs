//! The cells: the current value of every key, folded from the records of each partition.
//!
//! **Owns**: records that are not yet visible, the overlay above the engine, the flush into it,
//! reads that merge the two, the marks that say how far the engine is, which cells are past their
//! time.
//! **Does not own**: which records are visible (the core), their durability (the journal).
//!
//! ```text
//!  enqueue            advance(upto)          flush_once
//!  --------> unapplied --------> active overlay --freeze--> frozen overlay ----> engine
//!                                     ^                        ^                   ^
//!                           a read asks these three, in this order, and stops at the first hit
//! ```
//!
//! Applied marks lie on one ruler: engine's applied mark <= engine's intent mark <= applied_upto
//! <= enqueued_upto. Cells of the engine may be as new as its intent mark.

mod cell;
mod digest;
mod due;
mod export;
mod flush;
mod key;
mod occupancy;
mod overlay;
mod partition;
mod rows;
mod scan;
mod store;
mod unapplied;

#[cfg(test)]
mod bench_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;

pub use cell::{Cell, CellRead, CellScan};
pub use due::{DueCell, ExpiryCursor};
pub(crate) use export::{
    cell_rows, filled_row, heal_rows, healed_row, mark_rows, wipe, wipe_cells,
};
pub use flush::{Checkpoint, FlushReport};
pub use occupancy::CellStats;
pub use partition::PartitionCells;
pub use rows::PartitionMarks;
pub(crate) use rows::{
    Healed, filled_of, healed_of, read_filled, read_healed, read_refilled, refilled_row,
};
pub use store::{CellOptions, CellStore, Freeze};
pub use unapplied::UnappliedRecord;
