//! `keyspace list` and `keyspace describe`.
//!
//! **Owns**: which facts of a policy are shown.
//! **Does not own**: the words of postures and promises (the server answers them).

use clap::{Args, Subcommand};
use domicile_client::v1::KeyspaceDescription;
use domicile_proto::ErrorKind;

use super::cell::Cell;
use super::connect::ConnectFlags;
use super::failure::Failure;
use super::output::{Layout, Output, OutputFlags};

/// `keyspace`
#[derive(Debug, Args)]
pub(crate) struct KeyspaceCommand {
    #[command(subcommand)]
    verb: KeyspaceVerb,
}

#[derive(Debug, Subcommand)]
enum KeyspaceVerb {
    /// One row a keyspace.
    List {
        #[command(flatten)]
        connect: ConnectFlags,
        #[command(flatten)]
        output: OutputFlags,
    },
    /// All of one policy, in plain words, with the RPO and RTO that it implies.
    Describe {
        /// The keyspace.
        keyspace: String,
        #[command(flatten)]
        connect: ConnectFlags,
        #[command(flatten)]
        output: OutputFlags,
    },
}

impl KeyspaceCommand {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        match self.verb {
            KeyspaceVerb::List { connect, output } => {
                let keyspaces = connect.client().await?.keyspaces().await?;
                let columns = ["name", "posture", "placement", "regions", "ack"];
                let mut rows = Output::stdout(output.output, Layout::Table, &columns);
                for each in keyspaces {
                    let regions = Cell::List(each.regions);
                    let (posture, placement) = (each.posture.into(), each.placement.into());
                    let row = vec![
                        each.name.into(),
                        posture,
                        placement,
                        regions,
                        each.ack.into(),
                    ];
                    rows.row(row)?;
                }
                rows.end()?;
            }
            KeyspaceVerb::Describe {
                keyspace,
                connect,
                output,
            } => {
                let keyspaces = connect.client().await?.keyspaces().await?;
                let found = keyspaces.into_iter().find(|each| each.name == keyspace);
                let found = found.ok_or_else(|| {
                    Failure::new(ErrorKind::NotFound, format!("no keyspace {keyspace:?}"))
                })?;
                describe(found, output)?;
            }
        }
        Ok(())
    }
}

fn describe(keyspace: KeyspaceDescription, output: OutputFlags) -> anyhow::Result<()> {
    let limit = |value: u64| (value > 0).then_some(value);
    let facts: [(&'static str, Cell); 13] = [
        ("name", keyspace.name.into()),
        ("posture", keyspace.posture.into()),
        ("promise", keyspace.promise.into()),
        ("regions", Cell::List(keyspace.regions)),
        ("placement", keyspace.placement.into()),
        ("ack", keyspace.ack.into()),
        ("on_timeout", keyspace.on_timeout.into()),
        ("ack_timeout_ms", keyspace.ack_timeout_ms.into()),
        ("max_rpo_writes", limit(keyspace.max_rpo_writes).into()),
        ("max_rpo_bytes", limit(keyspace.max_rpo_bytes).into()),
        ("max_rpo_ms", limit(keyspace.max_rpo_ms).into()),
        ("buckets", u64::from(keyspace.buckets).into()),
        ("delimiter", keyspace.delimiter.into()),
    ];
    let (columns, cells): (Vec<_>, Vec<_>) = facts.into_iter().unzip();
    let mut record = Output::stdout(output.output, Layout::Record, &columns);
    record.row(cells)?;
    Ok(record.end()?)
}
