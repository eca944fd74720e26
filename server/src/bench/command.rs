//! The entrance to all benches.
//!
//! **Owns**: checking the options, the choice.
//! **Does not own**: flags (`cli`) and the benches themselves.

use super::options::{Bench, BenchOptions};
use super::{
    acks, catch_up, embedded, engines, failover, lag, memory, pipelined, reopen, throughput,
};
use crate::rig::{Console, ExitOutcome, Stop, run_to_its_end};

/// Runs a bench to its end: tables to standard output, talk to standard error, files where asked.
///
/// Blocks, and may be called inside a runtime or outside.
///
/// # Errors
/// Impossible options, servers that do not start or answer, or an interrupt.
pub fn run(options: &BenchOptions) -> anyhow::Result<ExitOutcome> {
    options.check()?;
    run_to_its_end("bench", |console, stop| run_here(options, console, stop))
}

fn run_here(options: &BenchOptions, console: &Console, stop: &Stop) -> anyhow::Result<ExitOutcome> {
    let bench = match options.bench {
        Bench::Acks => acks::run,
        Bench::Throughput => throughput::run,
        Bench::Stream => pipelined::run,
        Bench::Embedded => embedded::run,
        Bench::Lag => lag::run,
        Bench::CatchUp => catch_up::run,
        Bench::Memory => memory::run,
        Bench::Reopen => reopen::run,
        Bench::Engines => engines::run,
        Bench::Failover => failover::run,
    };
    bench(options, console, stop)
}
