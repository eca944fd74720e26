//! `orphans export`: the records of one orphan file, values included, to a file of the operator's.
//!
//! **Owns**: the file, which only its owner may read, and that none is left half.
//! **Does not own**: whether values may be where the file lies (the node says).

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use domicile_client::v1;

use super::cell::Cell;
use super::connect::ConnectFlags;
use super::orphans::{kind_of, request_id, state};
use super::output::{Format, Layout, Output, say};

const COLUMNS: [&str; 9] = [
    "seq",
    "kind",
    "key",
    "value",
    "expires_at_ms",
    "request_id",
    "written_at_ms",
    "level",
    "state",
];

/// `orphans export`
#[derive(Debug, Args)]
pub(crate) struct ExportFlags {
    /// The orphan file, as `orphans list` names it.
    file: String,
    /// Write to this file, which must not exist: JSON lines, a line an operation.
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// The region in which that file lies, if it is not the node's own: refused where the keyspace
    /// may not be.
    #[arg(long, value_name = "NAME")]
    region: Option<String>,
    #[command(flatten)]
    connect: ConnectFlags,
}

impl ExportFlags {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let request = v1::ShowOrphansRequest {
            file: self.file,
            from_seq: 0,
            ask_home: false,
            export: Some(v1::OrphanExport {
                place_region: self.region.unwrap_or_default(),
            }),
        };
        // Before the file: a refusal leaves none.
        let shown = self.connect.client().await?.show_orphans(request).await?;
        let file = create(&self.to);
        let file = file.with_context(|| format!("cannot write {}", self.to.display()))?;
        match write(shown, &file).await {
            Ok(rows) => {
                say(format_args!(
                    "{rows} row(s) written to {}",
                    self.to.display()
                ));
                Ok(())
            }
            Err(error) => {
                fs::remove_file(&self.to)
                    .with_context(|| format!("cannot remove {}", self.to.display()))?;
                Err(error)
            }
        }
    }
}

fn create(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

async fn write(
    mut shown: domicile_client::OrphanAnswers<v1::ShowOrphansResponse>,
    file: &File,
) -> anyhow::Result<u64> {
    let to: Box<dyn std::io::Write + Send> = Box::new(file.try_clone()?);
    let mut output = Output::to(to, Format::Jsonl, Layout::Lines, &COLUMNS);
    let mut rows = 0;
    while let Some(answer) = shown.next().await? {
        let Some(mut record) = answer.record else {
            continue;
        };
        for operation in std::mem::take(&mut record.operations) {
            output.row(row(&record, operation))?;
            rows += 1;
        }
    }
    output.end()?;
    file.sync_all()?;
    Ok(rows)
}

fn row(record: &v1::OrphanRecord, operation: v1::OrphanOperation) -> Vec<Cell> {
    vec![
        record.seq.into(),
        kind_of(record, Some(&operation)).into(),
        operation.key.into(),
        operation.value.into(),
        operation.expires_at_ms.into(),
        request_id(&record.request_id).into(),
        record.written_at_ms.into(),
        record.level.as_str().into(),
        state(record.state).into(),
    ]
}
