//! The cluster in simulation: real cores, real stores on a disk in memory, everything else made up.
//!
//! One seed decides everything; one queue, one true time. A seed always runs the same.

#![allow(
    clippy::print_stdout,
    reason = "a trace, a table of planted bugs, what a long run has found so far"
)]

mod chance;
mod clients;
mod clocks;
mod faults;
mod invariants;
mod network;
mod node;
mod packets;
mod plan;
mod plane;
mod planted;
mod planted_runs;
mod queue;
mod scene;
mod seeds;
mod truth;
mod verdict;
mod world;
