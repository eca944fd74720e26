//! From the arguments to the exit code.
//!
//! **Owns**: parsing, the runtime, handing over to a verb, the last word on standard error.
//! **Does not own**: the verbs, the codes (`failure`).

use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory, FromArgMatches};

use super::arguments::{Arguments, Verb};
use super::failure::{exit_code, say};
use super::{completions, configuration, serve};
use crate::rig::ExitOutcome;

/// Runs the command line of this process.
#[must_use]
pub fn run() -> ExitCode {
    let parsed = Arguments::command().try_get_matches().and_then(|matches| {
        let arguments = Arguments::from_arg_matches(&matches)?;
        Ok((arguments, matches))
    });
    let (arguments, matches) = match parsed {
        Ok(parsed) => parsed,
        Err(refused) => {
            // Help and version are answers, too: clap knows which goes where.
            let _ = refused.print();
            return ExitCode::from(u8::try_from(refused.exit_code()).unwrap_or(2));
        }
    };
    match dispatch(arguments.verb, &matches) {
        Ok(code) => code,
        Err(error) => {
            say(&error);
            exit_code(&error)
        }
    }
}

fn dispatch(verb: Verb, matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let done = |()| ExitCode::SUCCESS;
    match verb {
        Verb::Serve(_) => block_on(serve::run(deepest(matches))).map(done),
        Verb::Kv(command) => block_on(command.run()).map(done),
        Verb::Keyspace(command) => block_on(command.run()).map(done),
        Verb::Region(command) => block_on(command.run()).map(done),
        Verb::Status(command) => block_on(command.run()).map(done),
        Verb::Failover(command) => block_on(command.run()).map(done),
        Verb::Switchover(command) => block_on(command.run()).map(done),
        Verb::Orphans(command) => block_on(command.run()).map(done),
        Verb::Buffer(command) => block_on(command.run()).map(done),
        Verb::Backup(command) => block_on(command.run()).map(done),
        Verb::Verify(command) => command.run().map(done),
        Verb::Inspect(command) => command.run().map(done),
        Verb::Config(command) => configuration::run(command, deepest(matches)).map(done),
        Verb::Completions(command) => completions::run(&command, Arguments::command()).map(done),
        // These two start children and threads of their own and want no runtime around them.
        Verb::Bench(command) => command.run().map(ended),
        Verb::Demo(command) => command.run().map(ended),
    }
}

fn ended(outcome: ExitOutcome) -> ExitCode {
    match outcome {
        ExitOutcome::Pass => ExitCode::SUCCESS,
        ExitOutcome::Fail => ExitCode::FAILURE,
    }
}

/// The matches of the innermost verb, where the origin of its flags is known.
fn deepest(matches: &ArgMatches) -> &ArgMatches {
    match matches.subcommand() {
        Some((_, inner)) => deepest(inner),
        None => matches,
    }
}

fn block_on<T>(task: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(task);
    // Tasks of connections that are still open do not keep the process.
    runtime.shutdown_background();
    result
}
