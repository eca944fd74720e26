//! The control plane's rules: who is home of what, and who may become it.
//!
//! **Owns**: the map as a pure function of commands, the three ways of fencing, leases at both
//! ends, the leader's watch over homes and its takeovers.
//! **Does not own**: agreeing on the order of commands, clocks, sending anything.

mod command;
mod fencing;
mod history;
mod lease;
mod map;
#[cfg(test)]
mod map_region_tests;
#[cfg(test)]
mod map_tests;
mod supervisor;
#[cfg(test)]
mod supervisor_tests;
mod takeover;
mod times;
mod watchman;

pub use command::{
    Command, CommandRefused, Decision, DegradedStretch, Evidence, Lost, Note, OperatorWord,
};
pub use fencing::{Fencing, VOTERS_MIN, revokes};
pub use history::{CHANGES_MAX, Change, History, RecoveryTimes, Why};
pub use lease::{Grant, LeaseBook, LeaseHolder};
pub use map::{Assignment, ControlMap, MapParts, Node, Policies, Policy, Region};
pub use supervisor::{SWITCH_PATIENCE, Supervisor, SupervisorEffect, SupervisorInput};
pub use takeover::{PromisedEnd, Unheard};
pub use times::{ControlTimes, DRIFT_MAX_PERCENT, Haste};
pub use watchman::Watchman;
