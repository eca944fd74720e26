//! Completion scripts.
//!
//! **Owns**: which shells.
//! **Does not own**: the scripts (clap makes them from the arguments).

use std::io::{self, Write};

use clap::{Args, Command};
use clap_complete::Shell;

/// `completions`
#[derive(Debug, Args)]
pub(crate) struct CompletionsCommand {
    /// Which shell.
    shell: Shell,
}

/// Prints the script.
pub(crate) fn run(completions: &CompletionsCommand, mut command: Command) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(completions.shell, &mut command, "domicile", &mut script);
    io::stdout().write_all(&script)?;
    Ok(())
}
