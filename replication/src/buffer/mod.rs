//! Writes that were accepted here for a home that cannot be reached: kept, sent when it can.
//!
//! **Owns**: which writes are kept, in what order they are sent, how it is known that one was done
//! already, what an operator sees of them.
//! **Does not own**: the file (storage), whether a write is a new one (the home's core), the path
//! of a write that reaches its home (node).
//!
//! ```text
//! front --- home reached ----------------------------------------> home
//!   | not reached, or others of the partition wait here
//!   keep: one frame, fdatasync --> ACCEPTED_NOT_APPLIED
//!   send: in order, by partition -------------------------------> home: done, known, or refused
//!     ^-- requests are forgotten there: search the log here for the id
//! ```

mod accept;
mod call;
mod keep;
mod operate;
mod search;
mod send;
mod standing;

pub use call::{Accepted, BufferPage, Unapplied, Written};
pub use domicile_storage::{BufferNumber, BufferedWrite, RefusedWrite};
pub(crate) use keep::{Buffer, run_keeping};
pub(crate) use send::run_sending;
pub use standing::BufferStanding;
