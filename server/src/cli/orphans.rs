//! `orphans`: what a node's logs had that a new home never had, and what is to become of it.
//!
//! **Owns**: the verbs and their flags, the columns, that nothing is given up unasked.
//! **Does not own**: what a replay is (the node), the file of an export (`orphans_export`).

use clap::{Args, Subcommand};
use domicile_client::v1;
use domicile_proto::{Epoch, ErrorKind, NodeId};

use super::cell::Cell;
use super::connect::ConnectFlags;
use super::failure::Failure;
use super::ids;
use super::orphans_export::ExportFlags;
use super::output::{Layout, Output, OutputFlags, say};
use crate::backup::show_time;

/// `orphans`
#[derive(Debug, Args)]
pub(crate) struct OrphansCommand {
    #[command(subcommand)]
    verb: OrphansVerb,
}

#[derive(Debug, Subcommand)]
enum OrphansVerb {
    /// One row an orphan file of the node, with what became of its records.
    List(ListFlags),
    /// The records of one file, without their values.
    Show(ShowFlags),
    /// Writes the records of one file to a file of yours, values included.
    Export(ExportFlags),
    /// Writes open records again, through their home, if their keys have not been written since.
    Replay(ReplayFlags),
    /// Gives up open records, for good. The file stays.
    Discard(DiscardFlags),
}

#[derive(Debug, Args)]
struct ListFlags {
    #[command(flatten)]
    connect: ConnectFlags,
    #[command(flatten)]
    output: OutputFlags,
}

#[derive(Debug, Args)]
struct ShowFlags {
    /// The orphan file, as `orphans list` names it.
    file: String,
    /// From this record on.
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    from: u64,
    /// Do not ask the home whether a client sent a record again.
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    connect: ConnectFlags,
    #[command(flatten)]
    output: OutputFlags,
}

#[derive(Debug, Args)]
struct ReplayFlags {
    /// The orphan file, as `orphans list` names it.
    file: String,
    /// Leave a record alone if a key of it was written since the fork. There is no other replay.
    #[arg(long, required = true)]
    if_unchanged: bool,
    /// This record only.
    #[arg(long, value_name = "SEQ", value_parser = clap::value_parser!(u64).range(1..))]
    record: Option<u64>,
    #[command(flatten)]
    connect: ConnectFlags,
    #[command(flatten)]
    output: OutputFlags,
}

#[derive(Debug, Args)]
struct DiscardFlags {
    /// The orphan file, as `orphans list` names it.
    file: String,
    /// From this record on (inclusive).
    #[arg(long, value_name = "SEQ", value_parser = clap::value_parser!(u64).range(1..))]
    first: Option<u64>,
    /// Up to this record (inclusive).
    #[arg(long, value_name = "SEQ", value_parser = clap::value_parser!(u64).range(1..))]
    last: Option<u64>,
    /// Do it. Without, what would be discarded is shown.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    connect: ConnectFlags,
    #[command(flatten)]
    output: OutputFlags,
}

impl OrphansCommand {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        match self.verb {
            OrphansVerb::List(flags) => flags.run().await,
            OrphansVerb::Show(flags) => flags.run().await,
            OrphansVerb::Export(flags) => flags.run().await,
            OrphansVerb::Replay(flags) => flags.run().await,
            OrphansVerb::Discard(flags) => flags.run().await,
        }
    }
}

const FILE_COLUMNS: [&str; 14] = [
    "file",
    "held_by",
    "keyspace",
    "fork",
    "reign",
    "reign_region",
    "ended_by",
    "ended_by_region",
    "sealed_at",
    "records",
    "bytes",
    "open",
    "replayed",
    "discarded",
];

impl ListFlags {
    async fn run(self) -> anyhow::Result<()> {
        let list = self.connect.client().await?.orphans().await?;
        let mut output = Output::stdout(self.output.output, Layout::Table, &FILE_COLUMNS);
        for file in &list.files {
            output.row(file_row(&list.region, file))?;
        }
        output.end()?;
        for damaged in &list.damaged {
            say(format_args!("damaged: {damaged}"));
        }
        if list.damaged.is_empty() {
            return Ok(());
        }
        let message = format!(
            "orphan files that are damaged: {}, limit 0",
            list.damaged.len()
        );
        Err(Failure::new(ErrorKind::Corrupt, message).into())
    }
}

fn file_row(held_by: &str, file: &v1::OrphanFile) -> Vec<Cell> {
    let name = |name: &str| Some(name.to_owned()).filter(|name| !name.is_empty());
    let fork = epoch(file.fork_epoch_counter, file.fork_epoch_node);
    let keyspace = name(&file.keyspace).or_else(|| partition(&file.partition));
    vec![
        file.file.as_str().into(),
        held_by.into(),
        keyspace.into(),
        fork.map(|epoch| format!("{epoch}/{}", file.fork_seq))
            .into(),
        epoch(file.reign_counter, file.reign_node).into(),
        name(&file.reign_region).into(),
        epoch(file.superseded_by_counter, file.superseded_by_node).into(),
        name(&file.superseded_by_region).into(),
        show_time(file.sealed_at_ms).into(),
        file.records.into(),
        file.bytes.into(),
        file.open.into(),
        file.replayed.into(),
        file.discarded.into(),
    ]
}

fn epoch(counter: u64, node: u64) -> Option<String> {
    let node = NodeId::new(node).ok()?;
    Some(Epoch { counter, node }.to_string())
}

fn partition(bytes: &[u8]) -> Option<String> {
    Some(ids::partition(bytes)?.keyspace.to_string())
}

pub(super) fn request_id(bytes: &[u8]) -> Option<String> {
    Some(ids::request_id(bytes)?.to_string())
}

pub(super) fn state(state: i32) -> &'static str {
    match v1::OrphanState::try_from(state) {
        Ok(v1::OrphanState::Open) => "open",
        Ok(v1::OrphanState::Replayed) => "replayed",
        Ok(v1::OrphanState::Discarded) => "discarded",
        Err(_) => "unknown",
    }
}

const RECORD_COLUMNS: [&str; 9] = [
    "seq",
    "key",
    "kind",
    "value_bytes",
    "request_id",
    "written_at",
    "level",
    "state",
    "superseded",
];

/// A row an operation; a mark has one without a key.
fn record_rows(record: &v1::OrphanRecord) -> Vec<Vec<Cell>> {
    let row = |operation: Option<&v1::OrphanOperation>| {
        let sets = operation.filter(|it| !it.is_delete);
        vec![
            record.seq.into(),
            operation.map(|it| it.key.clone()).into(),
            kind_of(record, operation).into(),
            sets.map(|it| it.value_bytes).into(),
            request_id(&record.request_id).into(),
            show_time(record.written_at_ms).into(),
            record.level.as_str().into(),
            state(record.state).into(),
            record.superseded.into(),
        ]
    };
    match record.operations.is_empty() {
        true => vec![row(None)],
        false => record.operations.iter().map(|it| row(Some(it))).collect(),
    }
}

/// The kind of a record, and of a batch also that of the one operation.
pub(super) fn kind_of(
    record: &v1::OrphanRecord,
    operation: Option<&v1::OrphanOperation>,
) -> String {
    match (record.kind.as_str(), operation) {
        ("batch", Some(it)) if it.is_delete => "batch delete".to_owned(),
        ("batch", Some(_)) => "batch put".to_owned(),
        (kind, _) => kind.to_owned(),
    }
}

impl ShowFlags {
    async fn run(self) -> anyhow::Result<()> {
        let request = v1::ShowOrphansRequest {
            file: self.file,
            from_seq: self.from,
            ask_home: !self.offline,
            export: None,
        };
        let mut shown = self.connect.client().await?.show_orphans(request).await?;
        let mut output = Output::stdout(self.output.output, Layout::Table, &RECORD_COLUMNS);
        while let Some(answer) = shown.next().await? {
            for row in answer.record.iter().flat_map(record_rows) {
                output.row(row)?;
            }
        }
        Ok(output.end()?)
    }
}

const STEP_COLUMNS: [&str; 6] = ["seq", "key", "request_id", "outcome", "version", "note"];

/// What came of a record, in a word; whether it is left to the operator.
fn outcome(outcome: i32) -> (&'static str, bool) {
    use v1::ReplayOutcome as Outcome;
    match Outcome::try_from(outcome).unwrap_or(Outcome::Unspecified) {
        Outcome::Replayed => ("replayed", false),
        Outcome::Superseded => ("superseded", false),
        Outcome::Changed => ("changed", true),
        Outcome::Unproven => ("unproven", true),
        Outcome::BelowLevel => ("below-level", true),
        Outcome::Expired => ("expired", false),
        Outcome::NotAWrite => ("not-a-write", false),
        Outcome::Refused => ("refused", true),
        Outcome::Decided => ("decided", false),
        Outcome::Unspecified => ("unknown", true),
    }
}

impl ReplayFlags {
    async fn run(self) -> anyhow::Result<()> {
        let request = v1::ReplayOrphansRequest {
            file: self.file,
            seq: self.record.unwrap_or_default(),
            if_unchanged: self.if_unchanged,
        };
        let mut steps = self.connect.client().await?.replay_orphans(request).await?;
        let mut output = Output::stdout(self.output.output, Layout::Table, &STEP_COLUMNS);
        let mut counts = std::collections::BTreeMap::<&str, u64>::new();
        let (mut all, mut left) = (0_u64, 0_u64);
        let ended = loop {
            let step = match steps.next().await {
                Ok(Some(step)) => step,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            };
            let (word, is_left) = outcome(step.outcome);
            *counts.entry(word).or_default() += 1;
            all += 1;
            left += u64::from(is_left);
            let text = |text: String| Some(text).filter(|text| !text.is_empty());
            output.row(vec![
                step.seq.into(),
                Some(step.key).filter(|key| !key.is_empty()).into(),
                request_id(&step.request_id).into(),
                word.into(),
                text(step.version).into(),
                text(step.note).into(),
            ])?;
        };
        output.end()?;
        let told: Vec<String> = counts
            .iter()
            .map(|(word, it)| format!("{it} {word}"))
            .collect();
        match told.is_empty() {
            true => say("no record is open"),
            false => say(format_args!("{all} record(s): {}", told.join(", "))),
        }
        // What was done is told before why there is not more of it.
        ended?;
        if left == 0 {
            return Ok(());
        }
        let message = format!("{left} of {all} record(s) could not be replayed and stay open");
        Err(Failure::new(ErrorKind::Conflict, message).into())
    }
}

impl DiscardFlags {
    async fn run(self) -> anyhow::Result<()> {
        let client = self.connect.client().await?;
        let mut output = Output::stdout(self.output.output, Layout::Table, &RECORD_COLUMNS);
        let mut count = 0_u64;
        if !self.yes {
            let (first, last) = (self.first.unwrap_or(1), self.last.unwrap_or(u64::MAX));
            let request = v1::ShowOrphansRequest {
                file: self.file,
                from_seq: first,
                ask_home: false,
                export: None,
            };
            let mut shown = client.show_orphans(request).await?;
            while let Some(answer) = shown.next().await? {
                let open = i32::from(v1::OrphanState::Open);
                let wanted = answer
                    .record
                    .filter(|it| it.state == open && it.seq <= last);
                count += u64::from(wanted.is_some());
                for row in wanted.iter().flat_map(record_rows) {
                    output.row(row)?;
                }
            }
            output.end()?;
            let message = format!("{count} record(s) would be discarded for good: --yes expected");
            return Err(Failure::new(ErrorKind::Invalid, message).into());
        }
        let request = v1::DiscardOrphansRequest {
            file: self.file,
            first_seq: self.first.unwrap_or_default(),
            last_seq: self.last.unwrap_or_default(),
            confirmed: true,
        };
        let mut given_up = client.discard_orphans(request).await?;
        while let Some(answer) = given_up.next().await? {
            count += 1;
            for row in answer.record.iter().flat_map(record_rows) {
                output.row(row)?;
            }
        }
        output.end()?;
        say(format_args!("{count} record(s) discarded"));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_all_columns() {
        let operation = |key: &'static str, is_delete| v1::OrphanOperation {
            key: key.into(),
            is_delete,
            value_bytes: 5,
            ..v1::OrphanOperation::default()
        };
        let batch = v1::OrphanRecord {
            kind: "batch".to_owned(),
            request_id: vec![7; 16].into(),
            operations: vec![operation("a", false), operation("b", true)],
            superseded: Some(true),
            ..v1::OrphanRecord::default()
        };
        let rows = record_rows(&batch);
        assert!(rows.iter().all(|row| row.len() == RECORD_COLUMNS.len()));
        let column = |place: usize| {
            let cells = rows.iter().map(|row| row[place].human());
            cells.collect::<Vec<_>>()
        };
        assert_eq!(column(1), ["a", "b"]);
        assert_eq!(column(2), ["batch put", "batch delete"]);
        assert_eq!(column(3), ["5", "-"]);
        assert_eq!(column(8), ["yes", "yes"]);
        let mark = v1::OrphanRecord {
            kind: "reign-begin".to_owned(),
            ..v1::OrphanRecord::default()
        };
        let rows = record_rows(&mark);
        assert_eq!((rows.len(), rows[0][1].human().as_str()), (1, "-"));
        assert_eq!(rows[0][8].human(), "-");
    }

    /// What a node may answer that is not this one's.
    #[test]
    fn odd_answers_are_shown() {
        let file = v1::OrphanFile::default();
        let row = file_row("eu", &file);
        assert_eq!(row.len(), FILE_COLUMNS.len());
        assert_eq!((row[2].human(), row[3].human()), ("-".into(), "-".into()));
        assert_eq!((state(99), outcome(99)), ("unknown", ("unknown", true)));
        assert_eq!(request_id(&[0; 16]), None);
        assert_eq!(request_id(&[1; 15]), None);
    }
}
