//! `backup create`, `list`, `check` and `restore`.
//!
//! **Owns**: the flags, what is shown, the way from a node's pieces to a place.
//! **Does not own**: places and restores (`backup`), the pieces (the node).

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};
use domicile_client::v1;
use domicile_proto::{ErrorKind, Seq};
use domicile_storage::backup::{BackupDraft, BackupManifest, BackupNumber, BackupPartition};
use indicatif::{ProgressBar, ProgressStyle};

use super::connect::ConnectFlags;
use super::failure::Failure;
use super::output::{Layout, Output, OutputFlags, say};
use crate::backup::{
    BackupFault, Place, PlaceUse, RestoreRequest, check, end_message, parse_time, piece_of,
    restore, show_time, subject_of,
};

/// `backup`
#[derive(Debug, Args)]
pub(crate) struct BackupCommand {
    #[command(subcommand)]
    verb: BackupVerb,
}

#[derive(Debug, Subcommand)]
enum BackupVerb {
    /// Takes a backup of a running node; behind an earlier one in the same place only what is new.
    Create(CreateFlags),
    /// Shows the backups in a place, and from when to when each can be restored.
    List(ListFlags),
    /// Reads every byte of a backup.
    Check(CheckFlags),
    /// Makes a new data directory of a backup, as of its end or of any point that it reaches.
    Restore(RestoreFlags),
}

#[derive(Debug, Args)]
struct CreateFlags {
    /// The place: a directory, as a path or as file:// and an absolute one.
    #[arg(long, value_name = "URL")]
    to: String,
    /// Only these keyspaces; several, separated by commas. All that the node holds if not given.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    keyspace: Vec<String>,
    /// The region in which the place is; the node's own if not given.
    #[arg(long, value_name = "NAME")]
    region: Option<String>,
    /// Begins anew instead of going on behind the last backup in the place.
    #[arg(long)]
    full: bool,
    #[command(flatten)]
    connect: ConnectFlags,
}

#[derive(Debug, Args)]
struct ListFlags {
    /// The place.
    #[arg(long, value_name = "URL")]
    from: String,
    /// One row a partition instead.
    #[arg(long)]
    partitions: bool,
    #[command(flatten)]
    output: OutputFlags,
}

#[derive(Debug, Args)]
struct CheckFlags {
    /// The place.
    #[arg(long, value_name = "URL")]
    from: String,
    /// Which backup; the last one if not given.
    #[arg(long, value_name = "NUMBER")]
    backup: Option<u64>,
}

#[derive(Debug, Args)]
struct RestoreFlags {
    /// The place.
    #[arg(long, value_name = "URL")]
    from: String,
    /// The new data directory: empty, or missing.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Which backup; the last one if not given.
    #[arg(long, value_name = "NUMBER")]
    backup: Option<u64>,
    /// All partitions as of this time: ms since 1970, or RFC 3339.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    at_time: Option<u64>,
    /// One partition up to this record, as in 1a2b/7/0=42; may be given several times.
    #[arg(long, value_name = "PARTITION=SEQ", value_parser = parse_at)]
    at: Vec<(String, Seq)>,
    /// Only these keyspaces; several, separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    keyspace: Vec<String>,
    /// The region of the node that will open the directory; that of the backup if not given.
    #[arg(long, value_name = "NAME")]
    region: Option<String>,
}

fn parse_at(text: &str) -> Result<(String, Seq), String> {
    let expected = || format!("{text:?}: a partition and a record expected, as in 1a2b/7/0=42");
    let (partition, seq) = text.split_once('=').ok_or_else(expected)?;
    let seq = seq.parse().map_err(|_| expected())?;
    Ok((partition.to_owned(), Seq::new(seq)))
}

impl BackupCommand {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        match self.verb {
            BackupVerb::Create(flags) => flags.run().await,
            BackupVerb::List(flags) => flags.run().await,
            BackupVerb::Check(flags) => flags.run().await,
            BackupVerb::Restore(flags) => flags.run().await,
        }
    }
}

impl CreateFlags {
    async fn run(self) -> anyhow::Result<()> {
        let place = Place::open(&self.to, PlaceUse::Write)?;
        let last = place.numbers().await?.last().copied();
        let number = last.map_or(BackupNumber::FIRST, BackupNumber::next);
        let previous = match last.filter(|_| !self.full) {
            Some(last) => Some(place.manifest(last).await.with_context(|| {
                format!("backup {last} cannot be gone on with; --full begins anew")
            })?),
            None => None,
        };
        let known = previous.as_ref().map_or(Vec::new(), BackupDraft::known);
        let request = v1::BackupRequest {
            keyspaces: self.keyspace,
            place_region: self.region.unwrap_or_default(),
            known: known
                .iter()
                .map(|it| end_message(it.partition, it.seq, it.chain))
                .collect(),
        };
        let mut pieces = self.connect.client().await?.backup(request).await?;
        let damaged = |problem: String| BackupFault::Damaged(format!("from the node: {problem}"));
        let first = pieces.next().await?;
        let first = first.ok_or_else(|| damaged("no piece".to_owned()))?;
        let subject = subject_of(first).map_err(damaged)?;
        if let Some(previous) = &previous {
            check_same_place(&place, previous, &subject.cluster, &subject.place_region)?;
        }
        let token = format!("{:032x}", domicile_client::next_request_id().get());
        let mut draft = BackupDraft::new(subject, number, previous.as_ref(), &token)?;
        let (mut writer, progress) = (place.writer(), progress("written"));
        while let Some(piece) = pieces.next().await? {
            for step in draft.take(piece_of(piece).map_err(damaged)?)? {
                if let domicile_storage::backup::FileStep::Write(bytes) = &step {
                    progress.inc(bytes.len() as u64);
                }
                writer.step(step).await?;
            }
        }
        progress.finish_and_clear();
        let manifest = draft.finish()?;
        place.put_manifest(&manifest).await?;
        say(format_args!(
            "backup {number} in {place}: {} partition(s), {} file(s), {} byte(s), {} of them new",
            manifest.partitions.len(),
            manifest.files.len(),
            bytes_of(&manifest),
            progress.position(),
        ));
        Ok(())
    }
}

/// A place keeps the backups of one node of one cluster, and does not move.
fn check_same_place(
    place: &Place,
    previous: &BackupManifest,
    cluster: &impl std::fmt::Display,
    region: &impl std::fmt::Display,
) -> Result<(), BackupFault> {
    let facts = [
        ("cluster", previous.cluster.to_string(), cluster.to_string()),
        (
            "region of the place",
            previous.place_region.to_string(),
            region.to_string(),
        ),
    ];
    for (what, before, now) in facts {
        if before != now {
            let number = previous.number;
            let message = format!(
                "{what} {now}, that of backup {number} in {place} is {before}: choose \
                         another place"
            );
            return Err(BackupFault::Invalid(message));
        }
    }
    Ok(())
}

const BACKUP_COLUMNS: [&str; 12] = [
    "backup",
    "created_at",
    "cluster",
    "region",
    "node",
    "place_region",
    "keyspaces",
    "partitions",
    "files",
    "bytes",
    "oldest_time",
    "newest_time",
];

const PARTITION_COLUMNS: [&str; 8] = [
    "backup",
    "partition",
    "keyspace",
    "oldest_seq",
    "newest_seq",
    "oldest_time",
    "newest_time",
    "epoch",
];

impl ListFlags {
    async fn run(self) -> anyhow::Result<()> {
        let place = Place::open(&self.from, PlaceUse::Read)?;
        let (mut manifests, mut damage) = (Vec::new(), None);
        for number in place.numbers().await? {
            match place.manifest(number).await {
                Ok(manifest) => manifests.push(manifest),
                Err(error) => {
                    say(format_args!("backup {number} is none: {error:#}"));
                    damage = Some(error);
                }
            }
        }
        let columns = match self.partitions {
            true => &PARTITION_COLUMNS[..],
            false => &BACKUP_COLUMNS[..],
        };
        let mut output = Output::stdout(self.output.output, Layout::Table, columns);
        for manifest in &manifests {
            if self.partitions {
                for partition in &manifest.partitions {
                    output.row(partition_row(manifest, partition))?;
                }
            } else {
                output.row(backup_row(manifest))?;
            }
        }
        output.end()?;
        for folder in place.unfinished(&manifests).await? {
            say(format_args!(
                "{folder} belongs to no backup: one that was not finished left it"
            ));
        }
        damage.map_or(Ok(()), Err)
    }
}

fn backup_row(manifest: &BackupManifest) -> Vec<super::cell::Cell> {
    let keyspaces = manifest.keyspaces.iter().map(|it| it.name.to_string());
    let window = window_of(manifest);
    vec![
        manifest.number.get().into(),
        show_time(manifest.created_at_ms).into(),
        manifest.cluster.to_string().into(),
        manifest.region.to_string().into(),
        manifest.node.to_string().into(),
        manifest.place_region.to_string().into(),
        super::cell::Cell::List(keyspaces.collect()),
        (manifest.partitions.len() as u64).into(),
        (manifest.files.len() as u64).into(),
        bytes_of(manifest).into(),
        window.map(|(oldest, _)| show_time(oldest)).into(),
        window.map(|(_, newest)| show_time(newest)).into(),
    ]
}

fn partition_row(manifest: &BackupManifest, partition: &BackupPartition) -> Vec<super::cell::Cell> {
    let keyspace = manifest.keyspace_of(partition.partition);
    let epoch = partition.snapshot.map(|it| it.epoch.to_string());
    vec![
        manifest.number.get().into(),
        partition.partition.to_string().into(),
        keyspace.map(|it| it.name.to_string()).into(),
        partition.oldest_seq().get().into(),
        partition.last_seq().get().into(),
        show_time(partition.oldest_ms).into(),
        show_time(partition.newest_ms).into(),
        epoch.into(),
    ]
}

/// From when on all partitions can be restored, and when the last record was written.
fn window_of(manifest: &BackupManifest) -> Option<(u64, u64)> {
    let oldest = manifest.partitions.iter().map(|it| it.oldest_ms).max()?;
    let newest = manifest.partitions.iter().map(|it| it.newest_ms).max()?;
    Some((oldest, newest.max(oldest)))
}

fn bytes_of(manifest: &BackupManifest) -> u64 {
    manifest.files.iter().map(|it| it.bytes).sum()
}

async fn manifest_of(place: &Place, number: Option<u64>) -> anyhow::Result<BackupManifest> {
    let number = match number {
        Some(number) => BackupNumber::new(number),
        None => {
            let last = place.numbers().await?.last().copied();
            last.ok_or_else(|| BackupFault::Missing(format!("no backup in {place}")))?
        }
    };
    place.manifest(number).await
}

impl CheckFlags {
    async fn run(self) -> anyhow::Result<()> {
        let place = Place::open(&self.from, PlaceUse::Read)?;
        let manifest = manifest_of(&place, self.backup).await?;
        let progress = progress("read");
        let damaged = check(&place, &manifest, &|bytes| progress.inc(bytes)).await?;
        progress.finish_and_clear();
        let number = manifest.number;
        let (files, bytes) = (manifest.files.len(), bytes_of(&manifest));
        say(format_args!(
            "backup {number} in {place}: {files} file(s), {bytes} byte(s)"
        ));
        if damaged.is_empty() {
            return Ok(());
        }
        let message = format!("backup {number} is damaged: {}", damaged.join("; "));
        Err(Failure::new(ErrorKind::Corrupt, message).into())
    }
}

impl RestoreFlags {
    async fn run(self) -> anyhow::Result<()> {
        let place = Place::open(&self.from, PlaceUse::Read)?;
        let manifest = manifest_of(&place, self.backup).await?;
        let request = RestoreRequest {
            data: self.data,
            region: self.region,
            keyspaces: self.keyspace,
            at_ms: self.at_time,
            at: self.at,
        };
        let progress = progress("restored");
        let report = restore(&place, &manifest, &request, &|bytes| progress.inc(bytes)).await?;
        progress.finish_and_clear();
        say(format_args!(
            "restored into {}: {} partition(s) of backup {}, node {} before, {} now",
            request.data.display(),
            report.partitions.len(),
            manifest.number,
            manifest.node,
            report.node,
        ));
        for keyspace in &manifest.keyspaces {
            say(format_args!(
                "the configuration must say of {}: {}",
                keyspace.name, keyspace.policy
            ));
        }
        Ok(())
    }
}

fn progress(word: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {bytes} {msg}, {bytes_per_sec}");
    let style = style.expect("the template is a constant");
    ProgressBar::new_spinner()
        .with_style(style)
        .with_message(word)
}
