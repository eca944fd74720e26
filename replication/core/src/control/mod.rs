//! The control plane's rules: who is home of what, and who may become it.
//!
//! **Owns**: the map as a pure function of commands, the three ways of fencing.
//! **Does not own**: agreeing on the order of commands, clocks, leases, sending assignments.

mod command;
mod fencing;
mod map;
#[cfg(test)]
mod map_tests;

pub use command::{Command, CommandRefused, Evidence};
pub use fencing::{Fencing, VOTERS_MIN, revokes};
pub use map::{Assignment, ControlMap, Node, Region};
