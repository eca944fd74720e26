//! `kv import`: rows of a file into a keyspace, pipelined, and resumed where it stopped.
//!
//! **Owns**: the flags, what is outstanding and its bounds, sending rows again, the report.
//! **Does not own**: the rows (`import_rows`), the checkpoint (`import_checkpoint`).
//!
//! ```text
//! file -> rows -> [outstanding: rows, bytes] -> write stream -> receipts -> done -> checkpoint
//!                          ^---- again, same id <---- try again / broken stream
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Args, ValueEnum};
use domicile_client::{Client, ClientError, Completed, StreamWrite, WriteReceiver, WriteSender};
use domicile_proto::{AckLevel, ErrorKind, Expiry};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::connect::ConnectFlags;
use super::failure::Failure;
use super::import_checkpoint::{Checkpoint, Done, Identity};
use super::import_rows::{Placed, Row, Rows};
use super::output::say;

/// Bytes of rows that are outstanding: a few hundred of the usual size, thirty of the largest.
/// Doubled, a stalled cluster costs twice the memory.
const OUTSTANDING_BYTES_MAX: usize = 32 << 20;

/// Bad rows told one by one; of the others only the number is.
const TOLD_MAX: u64 = 20;

/// How often progress is kept: a crash costs sending this much again.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);

/// How long nothing may succeed before the import gives up: longer than a takeover or a restart.
const STALL_MAX: Duration = Duration::from_secs(60);

/// Pause before rows are sent again, unless the server asks for another.
const AGAIN_PAUSE: Duration = Duration::from_millis(50);

/// How a file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FileFormat {
    /// One JSON object a line.
    Jsonl,
    /// Key and value, separated by a comma.
    Csv,
}

/// What a bad row does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BadRow {
    /// It is told, and the import goes on; the exit code is 2 in the end.
    Skip,
    /// The import ends at the first.
    Stop,
}

/// `kv import`
#[derive(Debug, Args)]
pub(crate) struct ImportFlags {
    pub(crate) keyspace: String,
    /// The file; `-`: standard input, which cannot be resumed.
    pub(crate) file: PathBuf,
    /// How the file is read; by its name (.csv or not) if not given.
    #[arg(long, value_enum)]
    pub(crate) format: Option<FileFormat>,
    /// A stronger level than the keyspace's.
    #[arg(long, value_name = "LEVEL")]
    pub(crate) ack: Option<AckLevel>,
    /// Rows outstanding at once.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u16).range(1..=8192))]
    pub(crate) outstanding: u16,
    /// What a bad row does.
    #[arg(long, value_enum, default_value_t = BadRow::Skip)]
    pub(crate) on_bad_row: BadRow,
    /// Begin with the first row, whatever was imported before.
    #[arg(long)]
    pub(crate) restart: bool,
    #[command(flatten)]
    pub(crate) connect: ConnectFlags,
}

/// How an import ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// Rows acknowledged, in this run.
    pub(crate) imported: u64,
    /// Rows skipped since an earlier run had done them.
    pub(crate) before: u64,
    /// Rows that could not be.
    pub(crate) bad: u64,
}

impl ImportFlags {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let report = self.import().await?;
        let Report {
            imported,
            before,
            bad,
        } = report;
        say(format_args!(
            "{imported} rows imported, {before} before, {bad} bad"
        ));
        if bad > 0 {
            let message = format!("{bad} bad row(s) were not imported");
            return Err(Failure::new(ErrorKind::Invalid, message).into());
        }
        Ok(())
    }

    pub(crate) async fn import(&self) -> anyhow::Result<Report> {
        let client = self.connect.client().await?;
        let cluster = client.status().await?.cluster;
        let resumable = self.file.as_os_str() != "-";
        let context = || format!("cannot read {}", self.file.display());
        let identity = match resumable {
            true => Identity::of(&self.file, &cluster, &self.keyspace).with_context(context)?,
            false => Identity::unique(),
        };
        let checkpoint = resumable.then(|| Checkpoint::beside(&self.file, identity));
        if let (Some(checkpoint), true) = (&checkpoint, self.restart) {
            checkpoint.remove()?;
        }
        let before = checkpoint.as_ref().map_or(Ok(0), Checkpoint::load)?;
        let (rows, bytes) = self.rows().with_context(context)?;
        let mut import = Import {
            flags: self,
            client,
            identity,
            checkpoint,
            rows,
            ledger: Ledger::starting_at(before),
            interrupts: signal(SignalKind::interrupt())?,
            interrupted: false,
            saved: Instant::now(),
            succeeded: Instant::now(),
            bar: bar(bytes)?,
        };
        let ended = import.run().await;
        import.bar.finish_and_clear();
        import.finish(ended)
    }

    /// The rows of the file and its length.
    fn rows(&self) -> io::Result<(Rows, Option<u64>)> {
        let by_name = |path: &Path| match path.extension() {
            Some(extension) if extension.eq_ignore_ascii_case("csv") => FileFormat::Csv,
            _ => FileFormat::Jsonl,
        };
        let (file, bytes): (Box<dyn Read + Send>, _) = if self.file.as_os_str() == "-" {
            (Box::new(io::stdin()), None)
        } else {
            let file = File::open(&self.file)?;
            let bytes = file.metadata()?.len();
            (Box::new(file), Some(bytes))
        };
        let rows = match self.format.unwrap_or_else(|| by_name(&self.file)) {
            FileFormat::Jsonl => Rows::jsonl(file),
            FileFormat::Csv => Rows::csv(file),
        };
        Ok((rows, bytes))
    }
}

/// Draws on standard error, and only if that is a terminal.
fn bar(bytes: Option<u64>) -> anyhow::Result<ProgressBar> {
    let Some(bytes) = bytes else {
        let bar = ProgressBar::new_spinner();
        bar.set_style(ProgressStyle::with_template(
            "{spinner} {binary_bytes} {msg}",
        )?);
        return Ok(bar);
    };
    let template = "{wide_bar} {percent}% {binary_bytes_per_sec} {msg} eta {eta}";
    let bar = ProgressBar::new(bytes);
    bar.set_style(ProgressStyle::with_template(template)?);
    Ok(bar)
}

/// A row that was sent and is not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pending {
    line: u64,
    row: Row,
}

/// What is known of the rows.
#[derive(Debug)]
pub(super) struct Ledger {
    before: u64,
    done: Done,
    pending: BTreeMap<u64, Pending>,
    pending_bytes: usize,
    imported: u64,
    bad: u64,
}

/// What a result means for its row.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// It is done.
    Done,
    /// It is to be sent again, after the pause that the server asked for.
    Again(Option<Duration>),
    /// It cannot be done: its line and why. Whether it is skipped is for the caller to say.
    Bad(u64, String),
}

impl Ledger {
    pub(super) fn starting_at(before: u64) -> Self {
        let done = Done::starting_at(before);
        Self {
            before,
            done,
            pending: BTreeMap::new(),
            pending_bytes: 0,
            imported: 0,
            bad: 0,
        }
    }

    pub(super) fn has_room(&self, rows_max: usize) -> bool {
        self.pending.len() < rows_max && self.pending_bytes < OUTSTANDING_BYTES_MAX
    }

    /// Takes in a row of the file: to be sent, done before, or bad (its line and why).
    pub(super) fn admit(&mut self, placed: Placed) -> Result<Option<u64>, (u64, String)> {
        let Placed { number, line, row } = placed;
        if number < self.before {
            return Ok(None);
        }
        match row {
            Ok(row) => {
                self.pending_bytes += row.key.len() + row.value.len();
                self.pending.insert(number, Pending { line, row });
                Ok(Some(number))
            }
            Err(fault) => Err((line, fault)),
        }
    }

    /// Gives up a bad row.
    pub(super) fn skip(&mut self, number: u64) {
        self.bad += 1;
        self.done.insert(number);
    }

    /// Takes in the result of a row.
    pub(super) fn settle(&mut self, number: u64, result: Result<(), ClientError>) -> Settled {
        let Some(pending) = self.pending.get(&number) else {
            // Sent twice over a broken stream and answered twice.
            return Settled::Done;
        };
        let line = pending.line;
        if let Err(error) = &result
            && (error.is_retryable() || error.kind() == ErrorKind::Indeterminate)
        {
            return Settled::Again(error.retry_after());
        }
        let row = &self
            .pending
            .remove(&number)
            .expect("it was there a line above")
            .row;
        self.pending_bytes -= row.key.len() + row.value.len();
        match result {
            Ok(()) => {
                self.done.insert(number);
                self.imported += 1;
                Settled::Done
            }
            Err(error) => Settled::Bad(
                line,
                format!("{} ({})", error.message(), error.reason_text()),
            ),
        }
    }

    pub(super) fn done_upto(&self) -> u64 {
        self.done.upto()
    }

    pub(super) fn is_settled(&self) -> bool {
        self.pending.is_empty()
    }
}

struct Import<'a> {
    flags: &'a ImportFlags,
    client: Client,
    identity: Identity,
    checkpoint: Option<Checkpoint>,
    rows: Rows,
    ledger: Ledger,
    interrupts: Signal,
    interrupted: bool,
    saved: Instant,
    succeeded: Instant,
    bar: ProgressBar,
}

impl Import<'_> {
    /// Streams until the file is at its end and every row is settled.
    async fn run(&mut self) -> anyhow::Result<()> {
        loop {
            match self.stream().await {
                Ok(()) => return Ok(()),
                Err(error) => match error.downcast_ref::<ClientError>() {
                    Some(broken) if self.may_go_on(broken) => {
                        tokio::time::sleep(AGAIN_PAUSE).await;
                    }
                    _ => return Err(error),
                },
            }
        }
    }

    fn may_go_on(&self, broken: &ClientError) -> bool {
        let transient = broken.is_retryable() || broken.kind() == ErrorKind::Indeterminate;
        transient && self.succeeded.elapsed() < STALL_MAX && !self.interrupted
    }

    /// One stream, from its opening to the end of the file or its own.
    async fn stream(&mut self) -> anyhow::Result<()> {
        let outstanding = usize::from(self.flags.outstanding);
        let (sender, mut receiver) = self.client.write_stream(outstanding).await?;
        let unanswered: Vec<u64> = self.ledger.pending.keys().copied().collect();
        for number in unanswered {
            sender.send(self.write(number)).await?;
        }
        let mut ended = false;
        loop {
            while !ended && !self.interrupted && self.ledger.has_room(outstanding) {
                match self.rows.next()? {
                    Some(placed) => self.admit(placed, &sender).await?,
                    None => ended = true,
                }
            }
            if self.ledger.is_settled() && (ended || self.interrupted) {
                return Ok(());
            }
            if let Some(completed) = self.next(&mut receiver).await? {
                self.complete(completed, &sender).await?;
            }
            self.save()?;
        }
    }

    async fn admit(&mut self, placed: Placed, sender: &WriteSender) -> anyhow::Result<()> {
        let number = placed.number;
        match self.ledger.admit(placed) {
            Ok(Some(number)) => sender.send(self.write(number)).await?,
            Ok(None) => {}
            Err((line, fault)) => self.give_up(number, line, &fault)?,
        }
        Ok(())
    }

    /// The next result, or nothing since someone wants it to end.
    async fn next(&mut self, receiver: &mut WriteReceiver) -> anyhow::Result<Option<Completed>> {
        tokio::select! {
            biased;
            next = receiver.next() => match next? {
                Some(completed) => Ok(Some(completed)),
                None => {
                    let message = "the server ended the stream with rows unanswered";
                    Err(Failure::new(ErrorKind::Unavailable, message).into())
                }
            },
            _ = self.interrupts.recv(), if !self.interrupted => {
                self.interrupted = true;
                Ok(None)
            }
        }
    }

    async fn complete(&mut self, completed: Completed, sender: &WriteSender) -> anyhow::Result<()> {
        let number = completed.tag;
        match self.ledger.settle(number, completed.result.map(|_| ())) {
            Settled::Done => self.succeeded = Instant::now(),
            Settled::Bad(line, fault) => self.give_up(number, line, &fault)?,
            Settled::Again(pause) => {
                if self.succeeded.elapsed() >= STALL_MAX || self.interrupted {
                    let message = "no row was acknowledged for a while";
                    return Err(Failure::new(ErrorKind::Unavailable, message).into());
                }
                tokio::time::sleep(pause.unwrap_or(AGAIN_PAUSE)).await;
                sender.send(self.write(number)).await?;
            }
        }
        Ok(())
    }

    fn write(&self, number: u64) -> StreamWrite {
        let row = &self.ledger.pending[&number].row;
        let mut write = StreamWrite::new(number, self.flags.keyspace.as_str())
            .request_id(self.identity.request_id(number))
            .put(row.key.clone(), row.value.clone());
        if let Some(at_ms) = row.expires_at_ms {
            write = write.expiry(Expiry::AtMs(at_ms));
        }
        match self.flags.ack {
            Some(level) => write.ack(level),
            None => write,
        }
    }

    /// Tells of a bad row and goes on without it, unless the first one ends the import.
    fn give_up(&mut self, number: u64, line: u64, fault: &str) -> anyhow::Result<()> {
        let place = format!("{}:{line}: {fault}", self.flags.file.display());
        if self.flags.on_bad_row == BadRow::Stop {
            return Err(Failure::new(ErrorKind::Invalid, place).into());
        }
        match self.ledger.bad {
            bad if bad < TOLD_MAX => self.bar.suspend(|| say(place)),
            TOLD_MAX => self
                .bar
                .suspend(|| say("further bad rows are only counted")),
            _ => {}
        }
        self.ledger.skip(number);
        Ok(())
    }

    /// Keeps progress, now and then.
    fn save(&mut self) -> anyhow::Result<()> {
        if self.saved.elapsed() < SAVE_INTERVAL {
            return Ok(());
        }
        self.saved = Instant::now();
        self.bar.set_position(self.rows.bytes_read());
        self.bar
            .set_message(format!("{} rows", self.ledger.imported));
        match &self.checkpoint {
            Some(checkpoint) => checkpoint.save(self.ledger.done_upto()),
            None => Ok(()),
        }
    }

    /// Leaves a checkpoint behind unless everything is done.
    fn finish(self, ended: anyhow::Result<()>) -> anyhow::Result<Report> {
        let complete = ended.is_ok() && !self.interrupted;
        match &self.checkpoint {
            Some(checkpoint) if complete => checkpoint.remove()?,
            Some(checkpoint) => checkpoint.save(self.ledger.done_upto())?,
            None => {}
        }
        if self.interrupted {
            say("interrupted: the same command goes on where this one stopped");
        }
        ended?;
        if self.interrupted {
            let message = format!("{} rows imported before", self.ledger.imported);
            return Err(Failure::new(ErrorKind::Unavailable, message).into());
        }
        let Ledger {
            imported,
            before,
            bad,
            ..
        } = self.ledger;
        Ok(Report {
            imported,
            before,
            bad,
        })
    }
}
