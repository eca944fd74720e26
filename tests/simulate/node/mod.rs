//! One machine: what replication's driver, shipping and ownership do, in the same order, by events.
//!
//! ```text
//! process   the parts, and which event goes where
//! open      from a disk to a process              step     an input to a core, its effects done
//! commit    the store's commits, flushes          serve    callers
//! ship, attach, receive                           the streams between homes and copies
//! seating, promise, lease, switchover             what the control plane asks
//! rejoin, mend, bootstrap                         logs that have left their home's
//! ```

mod attach;
mod bootstrap;
mod commit;
mod lease;
mod mend;
mod open;
mod process;
mod promise;
mod receive;
mod rejoin;
mod seating;
mod serve;
mod ship;
mod step;
mod switchover;

pub(crate) use open::{DIR, Opened};
pub(crate) use process::{Host, Process};
