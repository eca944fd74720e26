//! What really happened, as nobody in the cluster knows it: seen by whoever looks on.
//!
//! ```text
//! logs        which node has which records, on disk, in memory, cut; what a crash took
//! takeovers   every change of home, and what its successor had
//! ledger      every acknowledgement given, every call made
//! ```

mod ledger;
mod logs;
mod takeovers;
mod whole;

pub(crate) use ledger::{Acked, Called, Outcome};
pub(crate) use logs::Piece;
pub(crate) use takeovers::TakenOver;
pub(crate) use whole::{Truth, Written};
