//! Real processes that are killed: every acknowledged write must be there afterwards.

mod kill;
mod process;
