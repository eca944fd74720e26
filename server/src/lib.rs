//! The doors of Domicile: the gRPC front, the command line, the demo and the bench.
//!
//! Map:
//! - [`front`]: the client port: services Kv and Admin, health, reflection, limits
//! - [`config`]: the configuration, as given and as checked
//! - `backup`: backups between a node, a place and a new directory
//! - `metrics`: the node in numbers for a collector, and whether it serves, over HTTP
//! - `cli`: the command line
//! - [`wan`]: a wide-area network in user space
//! - [`rig`]: what demo and bench share: processes, the console, tables
//! - [`bench`](mod@bench): latency of the acknowledgement levels, measured
//! - [`demo`]: three regions on one machine
//!
//! This crate never decides what a write means or when it is acknowledged (the node does).

mod backup;
pub mod bench;
mod cli;
pub mod config;
pub mod demo;
pub mod front;
mod metrics;
pub mod rig;
pub mod wan;

#[cfg(test)]
mod fuzz_tests;

pub use cli::run;
