//! A run from its beginning to its end: its thread, its console, its interrupt.
//!
//! **Owns**: what all runs have in common.
//! **Does not own**: what they do (`bench`, `demo`).

use std::thread;

use anyhow::Context;

use super::console::Console;
use super::outcome::ExitOutcome;
use super::stop::{Interrupted, Stop};

/// Runs `work`, called `name`, until it ends or the user interrupts it.
///
/// Blocks, and may be called inside a runtime or outside: the work has a thread of its own, which
/// also owns the child processes.
///
/// # Errors
/// What `work` says, or that it has panicked.
pub fn run_to_its_end(
    name: &str,
    work: impl FnOnce(&Console, &Stop) -> anyhow::Result<ExitOutcome> + Send,
) -> anyhow::Result<ExitOutcome> {
    let (console, stop) = (Console::new(), Stop::on_signals());
    let outcome = thread::scope(|scope| {
        let running = thread::Builder::new()
            .name(name.to_owned())
            .spawn_scoped(scope, || work(&console, &stop))
            .with_context(|| format!("no thread for the {name}"))?;
        let outcome = running.join();
        outcome.unwrap_or_else(|_| Err(anyhow::anyhow!("the {name} has panicked")))
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
