//! `kv export`: all rows of a range to a file or standard output.
//!
//! **Owns**: the file, the progress.
//! **Does not own**: the formats (`output`), reading rows (the client).

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use domicile_proto::ErrorKind;
use futures::TryStreamExt;
use indicatif::{ProgressBar, ProgressStyle};

use super::connect::ConnectFlags;
use super::entries;
use super::failure::Failure;
use super::kv::ReadFlags;
use super::output::{Format, Layout, Output, OutputFlags, say};

/// Rows a page: large enough that round trips do not count, small enough for one message.
const PAGE_ROWS: u32 = 5000;

/// `kv export`
#[derive(Debug, Args)]
pub(crate) struct ExportFlags {
    keyspace: String,
    /// Only keys that start with this.
    #[arg(default_value = "")]
    prefix: String,
    /// Write to this file, which must not exist, instead of standard output.
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    #[command(flatten)]
    read: ReadFlags,
    #[command(flatten)]
    connect: ConnectFlags,
    /// jsonl if not given: what `kv import` reads.
    #[command(flatten)]
    output: OutputFlags,
}

impl ExportFlags {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let format = match self.output.output {
            Format::Human => Format::Jsonl,
            Format::Raw => {
                let message = "raw cannot tell rows apart: jsonl, csv or json expected";
                return Err(Failure::new(ErrorKind::Invalid, message).into());
            }
            other => other,
        };
        let keyspace = self.connect.client().await?.keyspace(self.keyspace);
        let to: Box<dyn Write + Send> = match &self.to {
            None => Box::new(io::stdout()),
            Some(path) => {
                let created = File::create_new(path);
                Box::new(created.with_context(|| format!("cannot write {}", path.display()))?)
            }
        };
        let mut output = Output::to(to, format, Layout::Lines, &entries::ENTRY);
        let scan = self
            .read
            .on(keyspace.scan(self.prefix).page_rows(PAGE_ROWS));
        let mut rows = pin!(scan.rows());
        // Draws on standard error, and only if that is a terminal.
        let bar = ProgressBar::new_spinner();
        bar.set_style(ProgressStyle::with_template(
            "{spinner} {pos} rows, {per_sec}",
        )?);
        bar.enable_steady_tick(Duration::from_millis(200));
        while let Some(entry) = rows.try_next().await? {
            output.row(entries::entry(entry))?;
            bar.inc(1);
        }
        output.end()?;
        let count = bar.position();
        bar.finish_and_clear();
        if let Some(path) = self.to {
            File::open(&path).and_then(|file| file.sync_all())?;
            say(format_args!("{count} rows written to {}", path.display()));
        }
        Ok(())
    }
}
