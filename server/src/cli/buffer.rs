//! `buffer`: writes that a node accepted and did not apply, and giving them up.
//!
//! **Owns**: the verbs and their flags, the columns, that nothing is given up unasked and that no
//! list has values.
//! **Does not own**: keeping and sending them (the node).

use clap::{Args, Subcommand};
use domicile_client::v1;
use domicile_proto::ErrorKind;

use super::cell::Cell;
use super::connect::ConnectFlags;
use super::failure::Failure;
use super::ids;
use super::output::{Layout, Output, OutputFlags, say};
use crate::backup::show_time;

/// `buffer`
#[derive(Debug, Args)]
pub(crate) struct BufferCommand {
    #[command(subcommand)]
    verb: BufferVerb,
}

#[derive(Debug, Subcommand)]
enum BufferVerb {
    /// One row a write that the node keeps for its home, oldest first, without its value.
    List(ListFlags),
    /// What one of them does, values included.
    Show(ShowFlags),
    /// Gives some of them up, for good: the node never applies them.
    Discard(DiscardFlags),
}

#[derive(Debug, Args)]
struct ListFlags {
    /// Only this keyspace's.
    #[arg(long, value_name = "NAME")]
    keyspace: Option<String>,
    /// Only those that their home refused.
    #[arg(long)]
    refused: bool,
    #[command(flatten)]
    connect: ConnectFlags,
    #[command(flatten)]
    output: OutputFlags,
}

#[derive(Debug, Args)]
struct ShowFlags {
    /// The write, as `buffer list` numbers it.
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    number: u64,
    #[command(flatten)]
    connect: ConnectFlags,
    #[command(flatten)]
    output: OutputFlags,
}

#[derive(Debug, Args)]
struct DiscardFlags {
    /// From this write on (inclusive).
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    first: u64,
    /// Up to this write (inclusive).
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    last: u64,
    /// Only those that their home refused.
    #[arg(long)]
    refused: bool,
    /// Do it. Without, what would be discarded is shown.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    connect: ConnectFlags,
    #[command(flatten)]
    output: OutputFlags,
}

impl BufferCommand {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        match self.verb {
            BufferVerb::List(flags) => flags.run().await,
            BufferVerb::Show(flags) => flags.run().await,
            BufferVerb::Discard(flags) => flags.run().await,
        }
    }
}

const COLUMNS: [&str; 10] = [
    "number",
    "kept_in",
    "keyspace",
    "partition",
    "request_id",
    "accepted_at",
    "bytes",
    "state",
    "reason",
    "note",
];

fn row(kept_in: &str, write: &v1::BufferedWrite) -> Vec<Cell> {
    let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let is_refused = !write.refused_reason.is_empty();
    vec![
        write.number.into(),
        kept_in.into(),
        text(&write.keyspace).into(),
        ids::partition(&write.partition)
            .map(|id| id.to_string())
            .into(),
        ids::request_id(&write.request_id)
            .map(|id| id.to_string())
            .into(),
        show_time(write.accepted_at_ms).into(),
        write.bytes.into(),
        if is_refused { "refused" } else { "waits" }.into(),
        text(&write.refused_reason).into(),
        text(&write.refused_message).into(),
    ]
}

/// Prints the rows of what is kept, as far as they are `meant`; how many that are.
async fn print(
    connect: &ConnectFlags,
    output: &OutputFlags,
    keyspace: Option<String>,
    after: u64,
    meant: impl Fn(&v1::BufferedWrite) -> bool,
) -> anyhow::Result<u64> {
    let client = connect.client().await?;
    let mut rows = Output::stdout(output.output, Layout::Table, &COLUMNS);
    let mut request = v1::ListBufferedRequest {
        keyspace: keyspace.unwrap_or_default(),
        after,
        limit: 0,
    };
    let mut count = 0;
    let damaged = loop {
        let page = client.buffered(request.clone()).await?;
        for write in page.writes.iter().filter(|write| meant(write)) {
            rows.row(row(&page.region, write))?;
            count += 1;
        }
        match page.writes.last() {
            Some(last) if page.more => request.after = last.number,
            _ => break page.damaged,
        }
    };
    rows.end()?;
    match damaged.is_empty() {
        true => Ok(count),
        false => {
            let message = format!("the buffer is out of service: {damaged}");
            Err(Failure::new(ErrorKind::Corrupt, message).into())
        }
    }
}

impl ListFlags {
    async fn run(self) -> anyhow::Result<()> {
        let meant = |write: &v1::BufferedWrite| !self.refused || !write.refused_reason.is_empty();
        print(&self.connect, &self.output, self.keyspace, 0, meant).await?;
        Ok(())
    }
}

impl ShowFlags {
    async fn run(self) -> anyhow::Result<()> {
        let shown = self
            .connect
            .client()
            .await?
            .show_buffered(self.number)
            .await?;
        let columns = [
            "number",
            "key",
            "operation",
            "value",
            "ttl_ms",
            "expires_at_ms",
        ];
        let mut output = Output::stdout(self.output.output, Layout::Table, &columns);
        for operation in shown.operations {
            let is_put = operation.value.is_some();
            output.row(vec![
                self.number.into(),
                operation.key.into(),
                if is_put { "put" } else { "delete" }.into(),
                operation.value.into(),
                operation.ttl_ms.into(),
                operation.expires_at_ms.into(),
            ])?;
        }
        Ok(output.end()?)
    }
}

impl DiscardFlags {
    async fn run(self) -> anyhow::Result<()> {
        if !self.yes {
            let meant = |write: &v1::BufferedWrite| {
                write.number <= self.last && (!self.refused || !write.refused_reason.is_empty())
            };
            let after = self.first - 1;
            let count = print(&self.connect, &self.output, None, after, meant).await?;
            let message = format!("{count} write(s) would be discarded for good: --yes expected");
            return Err(Failure::new(ErrorKind::Invalid, message).into());
        }
        let request = v1::DiscardBufferedRequest {
            first: self.first,
            last: self.last,
            refused_only: self.refused,
            confirmed: true,
        };
        let client = self.connect.client().await?;
        let discarded = client.discard_buffered(request).await?.discarded;
        let mut output = Output::stdout(self.output.output, Layout::Record, &["discarded"]);
        output.row(vec![discarded.into()])?;
        output.end()?;
        say(format_args!("{discarded} write(s) discarded"));
        Ok(())
    }
}
