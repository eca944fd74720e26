//! The command line: verbs, flags, what is printed where, and how a process ends.
//!
//! **Owns** everything that a person or a script meets in a terminal: arguments, formats, progress,
//! exit codes, signals.
//!
//! **Does not own** what the verbs do: the node, the client, the bench and the demo do it.
//!
//! Data goes to standard output, talk and progress to standard error, progress only to a terminal.

mod arguments;
mod backup;
mod base64;
mod bench;
mod buffer;
mod cell;
mod completions;
mod configuration;
mod connect;
mod demo;
mod entries;
mod export;
mod failover;
mod failure;
mod ids;
mod import;
mod import_checkpoint;
mod import_rows;
mod inspect;
mod keyspaces;
mod kv;
mod logs;
mod orphans;
mod orphans_export;
mod output;
mod regions;
mod run;
mod serve;
mod status;
mod verify;
mod watch;

#[cfg(test)]
mod import_tests;

pub use run::run;
