//! `keyspace list`, `describe`, `create` and `alter`.
//!
//! **Owns**: the flags, which facts of a policy are shown.
//! **Does not own**: the words of postures and promises, what a policy may be (the server).

use std::time::Duration;

use clap::{Args, Subcommand};
use domicile_client::v1::{self, KeyspaceDescription};
use domicile_proto::ErrorKind;

use super::cell::Cell;
use super::connect::ConnectFlags;
use super::failure::Failure;
use super::output::{Layout, Output, OutputFlags, say};

/// How much longer than the server an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(5);

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
    /// Makes a keyspace, at all regions that it lists.
    Create(CreateFlags),
    /// Alters a keyspace: level, times and limits, who may succeed whom, regions that are added.
    /// Each home goes by it from a new reign on, which stops its writes for some milliseconds.
    Alter(AlterFlags),
}

#[derive(Debug, Args)]
struct CreateFlags {
    /// The keyspace.
    keyspace: String,
    /// Home of all keys; the first region if nothing is given.
    #[arg(long, value_name = "REGION", conflicts_with_all = ["hash", "rule"])]
    pinned: Option<String>,
    /// Homes are spread evenly over the regions, by group.
    #[arg(long, conflicts_with = "rule")]
    hash: bool,
    /// Homes by prefix of the group, the longest one counts: `eu-=eu,us-=us`.
    #[arg(
        long,
        value_name = "PREFIX=REGION",
        value_delimiter = ',',
        requires = "otherwise"
    )]
    rule: Vec<String>,
    /// Home of the groups that no prefix fits.
    #[arg(long, value_name = "REGION", requires = "rule")]
    otherwise: Option<String>,
    /// Partitions a region, 1 to 1024; fixed for ever.
    #[arg(long, value_name = "NUMBER")]
    buckets: Option<u32>,
    /// The byte that ends the group within a key; fixed for ever.
    #[arg(long, value_name = "BYTE")]
    delimiter: Option<String>,
    #[command(flatten)]
    policy: PolicyFlags,
    #[command(flatten)]
    connect: ConnectFlags,
    #[command(flatten)]
    output: OutputFlags,
}

#[derive(Debug, Args)]
struct AlterFlags {
    /// The keyspace.
    keyspace: String,
    /// How long to wait until all homes go by it, in milliseconds, at most 600,000.
    #[arg(long, value_name = "MS", default_value_t = 30_000,
          value_parser = clap::value_parser!(u32).range(1..=600_000))]
    within_ms: u32,
    /// Only if nobody has altered it since `describe` has shown this version.
    #[arg(long, value_name = "VERSION")]
    if_version: Option<u64>,
    #[command(flatten)]
    policy: PolicyFlags,
    #[command(flatten)]
    connect: ConnectFlags,
    #[command(flatten)]
    output: OutputFlags,
}

/// What may be altered; what is not given stays, or is the default of a new keyspace.
#[derive(Debug, Args)]
struct PolicyFlags {
    /// Who may hold the data, and does. In an alteration: those there are, in their order, then
    /// what is added.
    #[arg(long, value_name = "REGION", value_delimiter = ',')]
    regions: Vec<String>,
    /// async, semi-sync[:k] or sync[:quorum].
    #[arg(long, value_name = "LEVEL")]
    ack: Option<String>,
    /// fail, degrade or block.
    #[arg(long, value_name = "WHAT")]
    on_timeout: Option<String>,
    /// How long a level may take.
    #[arg(long, value_name = "MS")]
    ack_timeout_ms: Option<u64>,
    /// Writes at risk before new ones are refused; 0: no limit.
    #[arg(long, value_name = "COUNT")]
    max_rpo_writes: Option<u64>,
    /// The same in bytes.
    #[arg(long, value_name = "BYTES")]
    max_rpo_bytes: Option<u64>,
    /// The same in time.
    #[arg(long, value_name = "MS")]
    max_rpo_ms: Option<u64>,
    /// promote; read_only: an operator decides; buffer: so, and writes wait where they were taken.
    #[arg(long, value_name = "WHAT")]
    failover: Option<String>,
    /// With buffer: bytes that a node keeps of writes that wait for their home.
    #[arg(long, value_name = "BYTES")]
    buffer_bytes_max: Option<u64>,
    /// With buffer: the age of the oldest of them, beyond which further ones are refused.
    #[arg(long, value_name = "MS")]
    buffer_ms_max: Option<u64>,
    /// Who comes first among copies that have as much.
    #[arg(long, value_name = "REGION", value_delimiter = ',')]
    successors: Vec<String>,
}

impl PolicyFlags {
    fn define(self, name: String) -> v1::KeyspaceDefinition {
        v1::KeyspaceDefinition {
            name,
            regions: self.regions,
            ack: self.ack,
            on_timeout: self.on_timeout,
            ack_timeout_ms: self.ack_timeout_ms,
            max_rpo_writes: self.max_rpo_writes,
            max_rpo_bytes: self.max_rpo_bytes,
            max_rpo_ms: self.max_rpo_ms,
            failover: self.failover,
            buffer_bytes_max: self.buffer_bytes_max,
            buffer_ms_max: self.buffer_ms_max,
            successors: self.successors,
            ..v1::KeyspaceDefinition::default()
        }
    }
}

impl CreateFlags {
    fn placement(&self) -> Result<Option<v1::KeyspacePlacement>, Failure> {
        let mut placement = v1::KeyspacePlacement {
            pinned: self.pinned.clone().unwrap_or_default(),
            hash: self.hash,
            otherwise: self.otherwise.clone().unwrap_or_default(),
            ..v1::KeyspacePlacement::default()
        };
        for rule in &self.rule {
            let (prefix, region) = rule.rsplit_once('=').ok_or_else(|| {
                let message = format!("--rule {rule:?}: PREFIX=REGION expected");
                Failure::new(ErrorKind::Invalid, message)
            })?;
            placement.rules.insert(prefix.to_owned(), region.to_owned());
        }
        let is_given = placement != v1::KeyspacePlacement::default();
        Ok(is_given.then_some(placement))
    }
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
            KeyspaceVerb::Create(flags) => create(flags).await?,
            KeyspaceVerb::Alter(flags) => alter(flags).await?,
        }
        Ok(())
    }
}

async fn create(flags: CreateFlags) -> anyhow::Result<()> {
    let placement = flags.placement()?;
    let definition = v1::KeyspaceDefinition {
        placement,
        buckets: flags.buckets,
        delimiter: flags.delimiter,
        ..flags.policy.define(flags.keyspace)
    };
    let client = flags.connect.client().await?;
    if let Some(made) = client.create_keyspace(definition).await? {
        describe(made, flags.output)?;
    }
    Ok(())
}

async fn alter(flags: AlterFlags) -> anyhow::Result<()> {
    let request = v1::AlterKeyspaceRequest {
        changes: Some(flags.policy.define(flags.keyspace)),
        within_ms: flags.within_ms,
        version: flags.if_version,
    };
    let client = flags.connect.client().await?;
    // The answer has to come back, too.
    let within = Duration::from_millis(flags.within_ms.into()) + ANSWER_MAX;
    let altered = client.alter_keyspace(request, within).await?;
    let (in_force, waiting) = (altered.in_force as usize, altered.waiting.len());
    let all = in_force + waiting;
    say(format_args!("in force in {in_force} of {all} partitions"));
    if let Some(keyspace) = altered.keyspace {
        describe(keyspace, flags.output)?;
    }
    if waiting > 0 {
        let message = format!(
            "{waiting} homes do not go by it so far; they will, as soon as they are heard of"
        );
        return Err(Failure::new(ErrorKind::NoHome, message).into());
    }
    Ok(())
}

fn describe(keyspace: KeyspaceDescription, output: OutputFlags) -> anyhow::Result<()> {
    let limit = |value: u64| (value > 0).then_some(value);
    let facts: [(&'static str, Cell); 18] = [
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
        ("failover", keyspace.failover.into()),
        ("buffer_bytes_max", limit(keyspace.buffer_bytes_max).into()),
        ("buffer_ms_max", limit(keyspace.buffer_ms_max).into()),
        ("successors", Cell::List(keyspace.successors)),
        ("buckets", u64::from(keyspace.buckets).into()),
        ("delimiter", keyspace.delimiter.into()),
        // Where homes are static there is nothing to alter.
        (
            "version",
            (keyspace.version > 0).then_some(keyspace.version).into(),
        ),
    ];
    let (columns, cells): (Vec<_>, Vec<_>) = facts.into_iter().unzip();
    let mut record = Output::stdout(output.output, Layout::Record, &columns);
    record.row(cells)?;
    Ok(record.end()?)
}
