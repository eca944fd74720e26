//! The verbs.
//!
//! **Owns**: their names, their order, one line of help each.
//! **Does not own**: their flags and what they do (a file each).

use clap::{Parser, Subcommand};

use super::backup::BackupCommand;
use super::bench::BenchCommand;
use super::buffer::BufferCommand;
use super::completions::CompletionsCommand;
use super::configuration::ConfigCommand;
use super::demo::DemoCommand;
use super::failover::{FailoverCommand, SwitchoverCommand};
use super::inspect::InspectCommand;
use super::keyspaces::KeyspaceCommand;
use super::kv::KvCommand;
use super::orphans::OrphansCommand;
use super::regions::RegionCommand;
use super::serve::ServeFlags;
use super::status::StatusCommand;
use super::verify::VerifyCommand;

/// A multi-region key-value store in which every key has a home region.
#[derive(Debug, Parser)]
#[command(
    name = "domicile",
    version,
    propagate_version = true,
    after_help = "Exit codes: 0 done, 1 failed, 2 invalid, 3 not found, 4 try again, 5 conflict, \
                  6 indeterminate, 7 residency, 8 corrupt."
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Runs a node until it is told to stop (SIGTERM or Ctrl-C).
    Serve(Box<ServeFlags>),
    /// Reads and writes keys.
    Kv(KvCommand),
    /// Shows keyspaces and their policies.
    Keyspace(KeyspaceCommand),
    /// Adds and removes regions while the cluster runs.
    Region(RegionCommand),
    /// Shows the regions as a node sees them, one row each.
    Status(StatusCommand),
    /// Shows what a returning home had alone, exports it, writes it again or gives it up.
    Orphans(OrphansCommand),
    /// Shows writes that a node accepted and did not apply, or gives them up.
    Buffer(BufferCommand),
    /// Checks every byte of a data directory that is not in use.
    Verify(VerifyCommand),
    /// Shows what lies in a data directory, entry by entry, damage included.
    Inspect(InspectCommand),
    /// Plans, runs and reports takeovers of a region's homes.
    Failover(FailoverCommand),
    /// Moves homes to another region, as planned: nothing is lost.
    Switchover(SwitchoverCommand),
    /// Takes, shows, checks and restores backups.
    Backup(BackupCommand),
    /// Writes, checks and explains configurations.
    Config(ConfigCommand),
    Bench(BenchCommand),
    Demo(DemoCommand),
    /// Prints a completion script for a shell.
    Completions(CompletionsCommand),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn usual_lines_are_understood() {
        for line in [
            "domicile serve",
            "domicile serve --config domicile.toml --region eu --listen-client 127.0.0.1:0",
            "domicile kv put users alice/name Ada --ack sync:2",
            "domicile kv put users alice/name --value-file -",
            "domicile kv get users alice/name -o json --consistency bounded:50",
            "domicile kv delete users alice/name --endpoint http://a:1,http://b:1",
            "domicile kv cas users alice/name --expected absent Ada",
            "domicile kv cas users alice/name --expected 0.1.9.7 --delete",
            "domicile kv scan users alice/ --reverse --limit 10 -o csv",
            "domicile kv import users rows.jsonl --outstanding 512",
            "domicile kv export users --to rows.csv -o csv",
            "domicile kv put users alice/name Ada --applied-only",
            "domicile keyspace alter users --failover buffer --buffer-ms-max 60000",
            "domicile buffer list --keyspace users --refused",
            "domicile buffer show 7",
            "domicile buffer discard --first 7 --last 9 --yes",
            "domicile keyspace list",
            "domicile keyspace describe users -o json",
            "domicile region add sa --peer 10.0.0.9:7401 --witness --id 7",
            "domicile region remove sa --yes",
            "domicile status --keyspaces -o jsonl",
            "domicile verify somewhere",
            "domicile backup create --to file:///somewhere --keyspace a,b --region eu --full",
            "domicile backup list --from somewhere --partitions -o json",
            "domicile backup check --from somewhere --backup 3",
            "domicile backup restore --from somewhere --data new --at-time 2026-11-24T15:00:00Z",
            "domicile backup restore --from somewhere --data new --at 1a2b/7/0=42 --at 1a2b/7/1=9",
            "domicile failover plan --region eu --keyspace users -o json",
            "domicile failover run --region eu --to us --fenced --yes",
            "domicile failover report --last 8",
            "domicile switchover --to us --from eu --within-ms 5000",
            "domicile orphans list -o json",
            "domicile orphans show 0000000100020003-1 --from 7 --offline",
            "domicile orphans export 0000000100020003-1 --to orphans.jsonl --region eu",
            "domicile orphans replay 0000000100020003-1 --if-unchanged --record 7",
            "domicile orphans discard 0000000100020003-1 --first 7 --last 9 --yes",
            "domicile config init",
            "domicile config check domicile.toml",
            "domicile config show --config domicile.toml",
            "domicile completions bash",
        ] {
            let parsed = Arguments::try_parse_from(line.split(' '));
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
    }

    #[test]
    fn contradictions_are_refused() {
        for line in [
            "domicile kv put users key",
            "domicile kv put users key value --value-file a",
            "domicile kv put users key value --if-absent --if-version 0.1.9.7",
            "domicile kv put users key value --ack most",
            "domicile kv cas users key value",
            "domicile kv cas users key value --expected absent --delete",
            "domicile kv get users key --consistency bounded",
            "domicile failover plan",
            "domicile failover run --to us",
            "domicile switchover --from eu",
            "domicile switchover --to us --within-ms 600001",
            "domicile backup create",
            "domicile backup restore --from somewhere",
            "domicile backup restore --from somewhere --data new --at-time yesterday",
            "domicile backup restore --from somewhere --data new --at 42",
            "domicile orphans show",
            "domicile orphans export 0000000100020003-1",
            "domicile orphans replay 0000000100020003-1",
            "domicile orphans replay 0000000100020003-1 --if-unchanged --record 0",
            "domicile orphans discard 0000000100020003-1 --first x",
            "domicile kv get users key -o xml",
            "domicile status --keyspaces --partitions",
        ] {
            let parsed = Arguments::try_parse_from(line.split(' '));
            assert!(parsed.is_err(), "{line} was accepted");
        }
    }
}
