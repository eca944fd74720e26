//! The cluster in simulation: real cores, real stores on a disk in memory, everything else made up.
//!
//! One seed decides everything; one queue, one true time. A seed always runs the same; it stands
//! for another run once the simulator draws its chance in another order.
//!
//! ```text
//! cargo test -p domicile --no-default-features --features fjall --test simulate
//!
//! SIM_SEED=n ... seeds::seed -- --exact --nocapture
//!                                              one seed, the end of its trace; SIM_TRACE=1: all
//! SIM_SEEDS=n SIM_FROM=m ... fixed_seeds       so many seeds, from one on
//! SIM_SECONDS=n ... fixed_seeds                as many as there is time for
//! SIM_BUGS=name ... every_planted              planted bugs by name; with SIM_SEED: that one
//! SIM_RARE=1 SIM_PLANTED=n ... every_planted   those that few seeds catch, n seeds each
//! ```

#![allow(
    clippy::print_stdout,
    reason = "a trace, a table of planted bugs, what a long run has found so far"
)]

mod chance;
mod clients;
mod clocks;
mod faults;
mod invariants;
mod moments;
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
