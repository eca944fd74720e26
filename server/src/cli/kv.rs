//! `kv`: the verbs on keys.
//!
//! **Owns**: their flags and the calls they make.
//! **Does not own**: files full of rows (`import`, `export`), changes (`watch`).

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use clap::{Args, Subcommand};
use domicile_client::{Consistency, KeyspaceClient, Scan, Write as WriteCall, Written};
use domicile_proto::limits::VALUE_BYTES_MAX;
use domicile_proto::{AckLevel, ErrorKind, RequestId, Version};
use futures::TryStreamExt;

use super::connect::ConnectFlags;
use super::entries;
use super::export::ExportFlags;
use super::failure::Failure;
use super::import::ImportFlags;
use super::output::{Layout, Output, OutputFlags, say};
use super::watch::WatchFlags;

/// `kv`
#[derive(Debug, Args)]
pub(crate) struct KvCommand {
    #[command(subcommand)]
    verb: KvVerb,
}

#[derive(Debug, Subcommand)]
enum KvVerb {
    /// Sets a key and prints the receipt.
    Put(PutFlags),
    /// Prints a key's value; a missing key is exit code 3.
    Get(GetFlags),
    /// Removes a key and prints the receipt.
    Delete(DeleteFlags),
    /// Sets or removes a key if its version is the expected one.
    Cas(CasFlags),
    /// Prints keys and values in key order.
    Scan(ScanFlags),
    /// Prints changes as they become visible, a line a key; Ctrl-C says where to go on.
    Watch(WatchFlags),
    /// Sets keys from a JSONL or CSV file; run again, it goes on where it stopped.
    Import(ImportFlags),
    /// Writes keys and values to standard output or a file.
    Export(ExportFlags),
}

#[derive(Debug, Args)]
struct WriteFlags {
    /// A stronger level than the keyspace's: async, semi-sync[:k] or sync[:quorum].
    #[arg(long, value_name = "LEVEL")]
    ack: Option<AckLevel>,
    /// The id under which it is done at most once; a new one if not given.
    #[arg(long, value_name = "ID")]
    request_id: Option<RequestId>,
    /// Refuse instead of forwarding to the key's home.
    #[arg(long)]
    local_only: bool,
    /// Refuse instead of keeping it where its home cannot be reached (failover = "buffer").
    #[arg(long)]
    applied_only: bool,
    #[command(flatten)]
    connect: ConnectFlags,
    #[command(flatten)]
    output: OutputFlags,
}

/// Where a value comes from.
#[derive(Debug, Args)]
#[group(multiple = false)]
struct ValueFlags {
    /// The value, as text.
    value: Option<String>,
    /// Read the value from a file; `-`: standard input.
    #[arg(long, value_name = "FILE")]
    value_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct PutFlags {
    keyspace: String,
    key: String,
    #[command(flatten)]
    value: RequiredValue,
    /// Remove it this long after it was written, such as 500ms, 30s, 5m, 12h or 7d.
    #[arg(long, value_name = "TIME", value_parser = time_to_live)]
    ttl: Option<Duration>,
    /// Only if the key is absent.
    #[arg(long, conflicts_with = "if_version")]
    if_absent: bool,
    /// Only if the key has this version.
    #[arg(long, value_name = "VERSION")]
    if_version: Option<Version>,
    #[command(flatten)]
    write: WriteFlags,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct RequiredValue {
    /// The value, as text.
    value: Option<String>,
    /// Read the value from a file; `-`: standard input.
    #[arg(long, value_name = "FILE")]
    value_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct DeleteFlags {
    keyspace: String,
    key: String,
    /// Only if the key has this version.
    #[arg(long, value_name = "VERSION")]
    if_version: Option<Version>,
    #[command(flatten)]
    write: WriteFlags,
}

#[derive(Debug, Args)]
struct CasFlags {
    keyspace: String,
    key: String,
    /// The version that the key must have, or `absent`.
    #[arg(long, value_name = "VERSION", value_parser = expected)]
    expected: Expected,
    #[command(flatten)]
    value: ValueFlags,
    /// Remove it this long after it was written, such as 500ms, 30s, 5m, 12h or 7d.
    #[arg(long, value_name = "TIME", value_parser = time_to_live, conflicts_with = "delete")]
    ttl: Option<Duration>,
    /// Remove the key instead of setting it.
    #[arg(long, conflicts_with_all = ["value", "value_file"])]
    delete: bool,
    #[command(flatten)]
    write: WriteFlags,
}

#[derive(Debug, Clone, Copy)]
enum Expected {
    Absent,
    Version(Version),
}

fn expected(text: &str) -> Result<Expected, String> {
    if text == "absent" {
        return Ok(Expected::Absent);
    }
    text.parse::<Version>()
        .map(Expected::Version)
        .map_err(|error| error.to_string())
}

fn time_to_live(text: &str) -> Result<Duration, String> {
    const UNITS_MS: [(&str, u64); 5] = [
        ("ms", 1),
        ("s", 1_000),
        ("m", 60_000),
        ("h", 3_600_000),
        ("d", 86_400_000),
    ];
    let time_ms = UNITS_MS.iter().find_map(|(unit, unit_ms)| {
        let number = text.strip_suffix(unit)?.parse::<u64>().ok()?;
        number.checked_mul(*unit_ms)
    });
    let time_ms = time_ms.ok_or("expected a number and ms, s, m, h or d")?;
    Ok(Duration::from_millis(time_ms))
}

#[derive(Debug, Args)]
pub(crate) struct ReadFlags {
    /// How fresh: home, local or bounded:MS.
    #[arg(long, default_value = "home", value_name = "HOW", value_parser = consistency)]
    consistency: Consistency,
    /// Refuse instead of forwarding to the key's home.
    #[arg(long)]
    local_only: bool,
}

fn consistency(text: &str) -> Result<Consistency, String> {
    let bound_ms = text.strip_prefix("bounded:").and_then(|ms| ms.parse().ok());
    match (text, bound_ms) {
        ("home", _) => Ok(Consistency::Home),
        ("local", _) => Ok(Consistency::Local),
        (_, Some(ms)) => Ok(Consistency::Bounded(Duration::from_millis(ms))),
        _ => Err("expected home, local or bounded:MS".to_owned()),
    }
}

impl ReadFlags {
    pub(crate) fn on(&self, scan: Scan) -> Scan {
        let scan = scan.consistency(self.consistency);
        if self.local_only {
            scan.local_only()
        } else {
            scan
        }
    }
}

#[derive(Debug, Args)]
struct GetFlags {
    keyspace: String,
    key: String,
    #[command(flatten)]
    read: ReadFlags,
    #[command(flatten)]
    connect: ConnectFlags,
    #[command(flatten)]
    output: OutputFlags,
}

#[derive(Debug, Args)]
struct ScanFlags {
    keyspace: String,
    /// Only keys that start with this.
    #[arg(default_value = "")]
    prefix: String,
    /// From this key on, itself included.
    #[arg(long, default_value = "", value_name = "KEY")]
    from: String,
    /// Before this key.
    #[arg(long, default_value = "", value_name = "KEY")]
    upto: String,
    /// From the last to the first.
    #[arg(long)]
    reverse: bool,
    /// At most this many rows.
    #[arg(long, value_name = "ROWS")]
    limit: Option<usize>,
    #[command(flatten)]
    read: ReadFlags,
    #[command(flatten)]
    connect: ConnectFlags,
    #[command(flatten)]
    output: OutputFlags,
}

impl KvCommand {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        match self.verb {
            KvVerb::Put(flags) => put(flags).await,
            KvVerb::Get(flags) => get(flags).await,
            KvVerb::Delete(flags) => delete(flags).await,
            KvVerb::Cas(flags) => cas(flags).await,
            KvVerb::Scan(flags) => scan(flags).await,
            KvVerb::Watch(flags) => flags.run().await,
            KvVerb::Import(flags) => flags.run().await,
            KvVerb::Export(flags) => flags.run().await,
        }
    }

    #[cfg(test)]
    pub(crate) fn into_import(self) -> Option<ImportFlags> {
        match self.verb {
            KvVerb::Import(flags) => Some(flags),
            _ => None,
        }
    }
}

async fn put(flags: PutFlags) -> anyhow::Result<()> {
    let RequiredValue { value, value_file } = flags.value;
    let value = value_of(value, value_file.as_deref())?.context("no value given")?;
    let keyspace = flags.write.keyspace(&flags.keyspace).await?;
    let mut write = keyspace.put(flags.key, value);
    if let Some(ttl) = flags.ttl {
        write = write.ttl(ttl);
    }
    if flags.if_absent {
        write = write.if_absent();
    }
    if let Some(version) = flags.if_version {
        write = write.if_version(version);
    }
    flags.write.send(write).await
}

async fn delete(flags: DeleteFlags) -> anyhow::Result<()> {
    let keyspace = flags.write.keyspace(&flags.keyspace).await?;
    let mut write = keyspace.delete(flags.key);
    if let Some(version) = flags.if_version {
        write = write.if_version(version);
    }
    flags.write.send(write).await
}

async fn cas(flags: CasFlags) -> anyhow::Result<()> {
    let ValueFlags { value, value_file } = flags.value;
    let value = value_of(value, value_file.as_deref())?;
    if value.is_none() && !flags.delete {
        let message = "nothing to set: a value, --value-file or --delete expected";
        return Err(Failure::new(ErrorKind::Invalid, message).into());
    }
    let expected = match flags.expected {
        Expected::Absent => None,
        Expected::Version(version) => Some(version),
    };
    let keyspace = flags.write.keyspace(&flags.keyspace).await?;
    let mut write = keyspace.compare_and_set(flags.key, expected, value);
    if let Some(ttl) = flags.ttl {
        write = write.ttl(ttl);
    }
    flags.write.send(write).await
}

async fn get(flags: GetFlags) -> anyhow::Result<()> {
    let keyspace = flags.connect.client().await?.keyspace(flags.keyspace);
    let mut get = keyspace.get(&flags.key).consistency(flags.read.consistency);
    if flags.read.local_only {
        get = get.local_only();
    }
    let Some(entry) = get.await? else {
        let message = format!("no such key: {}", flags.key);
        return Err(Failure::new(ErrorKind::NotFound, message).into());
    };
    let mut output = Output::stdout(flags.output.output, Layout::Record, &entries::ENTRY);
    output = output.raw_column("value");
    output.row(entries::entry(entry))?;
    Ok(output.end()?)
}

async fn scan(flags: ScanFlags) -> anyhow::Result<()> {
    let keyspace = flags.connect.client().await?.keyspace(flags.keyspace);
    let mut scan = keyspace
        .scan(flags.prefix)
        .from(flags.from)
        .upto(flags.upto);
    if flags.reverse {
        scan = scan.reverse();
    }
    if let Some(rows) = flags.limit {
        scan = scan.limit(rows);
    }
    let mut output = Output::stdout(flags.output.output, Layout::Lines, &entries::ENTRY);
    output = output.raw_column("value");
    let mut rows = pin!(flags.read.on(scan).rows());
    while let Some(entry) = rows.try_next().await? {
        output.row(entries::entry(entry))?;
    }
    Ok(output.end()?)
}

impl WriteFlags {
    async fn keyspace(&self, name: &str) -> anyhow::Result<KeyspaceClient> {
        Ok(self.connect.client().await?.keyspace(name))
    }

    async fn send(&self, mut write: WriteCall) -> anyhow::Result<()> {
        if let Some(level) = self.ack {
            write = write.ack(level);
        }
        if let Some(id) = self.request_id {
            write = write.request_id(id);
        }
        if self.local_only {
            write = write.local_only();
        }
        let written = match self.applied_only {
            true => Written::Applied(write.await?),
            false => write.or_kept().await?,
        };
        self.show(written)
    }

    fn show(&self, written: Written) -> anyhow::Result<()> {
        let format = self.output.output;
        let (mut output, row) = match written {
            Written::Applied(receipt) => (
                Output::stdout(format, Layout::Record, &entries::RECEIPT),
                entries::receipt(receipt),
            ),
            Written::Accepted(accepted) => {
                say(format_args!(
                    "not applied: the home cannot be reached; region {} keeps the write for it",
                    accepted.region
                ));
                let output = Output::stdout(format, Layout::Record, &entries::ACCEPTED);
                (output, entries::accepted(accepted))
            }
        };
        output.row(row)?;
        output.end()?;
        Ok(io::stdout().flush()?)
    }
}

/// The value from the argument or the file; `None` if neither is given.
fn value_of(text: Option<String>, file: Option<&Path>) -> anyhow::Result<Option<Bytes>> {
    let Some(path) = file else {
        return Ok(text.map(Bytes::from));
    };
    let source: Box<dyn Read> = match path.to_str() {
        Some("-") => Box::new(io::stdin()),
        _ => {
            let file = std::fs::File::open(path);
            Box::new(file.with_context(|| format!("cannot read {}", path.display()))?)
        }
    };
    // One byte more than allowed is enough to be refused with its size.
    let mut value = Vec::new();
    source
        .take(VALUE_BYTES_MAX as u64 + 1)
        .read_to_end(&mut value)?;
    if value.len() > VALUE_BYTES_MAX {
        let message = format!("value too large: limit {VALUE_BYTES_MAX} bytes");
        return Err(Failure::new(ErrorKind::Invalid, message).into());
    }
    Ok(Some(value.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_to_live_has_a_unit() {
        let ms = |text| time_to_live(text).ok().map(|time| time.as_millis());
        for (text, time_ms) in [
            ("0ms", Some(0)),
            ("30s", Some(30_000)),
            ("5m", Some(300_000)),
            ("12h", Some(43_200_000)),
            ("7d", Some(604_800_000)),
            ("30", None),
            ("s", None),
            ("-1s", None),
            ("1.5s", None),
            ("1s ", None),
            ("99999999999999999999d", None),
            ("999999999999999999d", None),
        ] {
            assert_eq!(ms(text), time_ms, "{text}");
        }
    }
}
