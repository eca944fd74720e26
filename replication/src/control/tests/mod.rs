//! Consensus in one process: real logs on disks that lose power, a network that delays and cuts,
//! and a clock that jumps.

mod elections;
mod formation;
mod hostile;
mod membership;
mod rig;
mod suite;
