//! The entrance to all benches.
//!
//! **Owns**: checking the options, the thread of the run, the interrupt.
//! **Does not own**: flags (`cli`) and the benches themselves.

use std::thread;

use anyhow::Context;

use super::options::{Bench, BenchOptions};
use super::{acks, catch_up, embedded, lag, memory, pipelined, reopen, throughput};
use crate::rig::{Console, ExitOutcome, Interrupted, Stop};

/// Runs a bench to its end: tables to standard output, talk to standard error, files where asked.
///
/// Blocks, and may be called inside a runtime or outside: the run has a thread of its own, which
/// also owns the child processes.
///
/// # Errors
/// Impossible options, servers that do not start or answer, or an interrupt.
pub fn run(options: &BenchOptions) -> anyhow::Result<ExitOutcome> {
    options.check()?;
    let (console, stop) = (Console::new(), Stop::on_signals());
    let outcome = thread::scope(|scope| {
        let running = thread::Builder::new()
            .name("bench".to_owned())
            .spawn_scoped(scope, || run_here(options, &console, &stop))
            .context("no thread for the bench")?;
        let outcome = running.join();
        outcome.unwrap_or_else(|_| Err(anyhow::anyhow!("the bench has panicked")))
    });
    console.progress_ended();
    match outcome {
        Err(error) if error.is::<Interrupted>() => {
            console.talk("interrupted; all servers are stopped");
            Ok(ExitOutcome::Fail)
        }
        outcome => outcome,
    }
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
    };
    bench(options, console, stop)
}
