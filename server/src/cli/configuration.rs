//! `config init`, `check` and `show`.
//!
//! **Owns**: what they print.
//! **Does not own**: keys, checks and the template (`config`).

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Context;
use clap::{ArgMatches, Args, Subcommand};

use super::output::{Layout, Output, OutputFlags, say};
use super::serve::{ServeFlags, layers};
use crate::config::{Layers, TEMPLATE};

/// `config`
#[derive(Debug, Args)]
pub(crate) struct ConfigCommand {
    #[command(subcommand)]
    verb: ConfigVerb,
}

#[derive(Debug, Subcommand)]
enum ConfigVerb {
    /// Prints a commented file to start from, or writes it.
    Init {
        /// Write it here; a file that exists is left alone.
        file: Option<PathBuf>,
    },
    /// Checks a file and says all that is wrong with it.
    Check {
        /// The file.
        file: PathBuf,
    },
    /// Shows every value in force and where it came from.
    Show(Box<ShowFlags>),
}

#[derive(Debug, Args)]
struct ShowFlags {
    #[command(flatten)]
    _serve: ServeFlags,
    #[command(flatten)]
    output: OutputFlags,
}

/// Runs one of them; `matches` are those of the innermost verb.
pub(crate) fn run(command: ConfigCommand, matches: &ArgMatches) -> anyhow::Result<()> {
    match command.verb {
        ConfigVerb::Init { file: None } => io::stdout().write_all(TEMPLATE.as_bytes())?,
        ConfigVerb::Init { file: Some(path) } => {
            let created = std::fs::File::create_new(&path);
            let context = || format!("cannot write {}", path.display());
            created
                .and_then(|mut file| file.write_all(TEMPLATE.as_bytes()))
                .with_context(context)?;
            say(format_args!("written: {}", path.display()));
        }
        ConfigVerb::Check { file } => {
            let config = Layers::load(Some(&file), &[])?.check()?;
            let (regions, keyspaces) = (config.node.regions.len(), config.node.keyspaces.len());
            say(format_args!(
                "{}: good, {regions} region(s), {keyspaces} keyspace(s)",
                file.display()
            ));
        }
        ConfigVerb::Show(flags) => {
            let columns = ["key", "value", "origin"];
            let mut output = Output::stdout(flags.output.output, Layout::Table, &columns);
            for each in layers(matches)?.effective() {
                let origin = each.origin.as_str();
                output.row(vec![each.key.into(), each.value.into(), origin.into()])?;
            }
            output.end()?;
        }
    }
    Ok(())
}
