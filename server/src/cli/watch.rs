//! `kv watch`: changes as they become visible.
//!
//! **Owns**: its flags, one line a changed key, the token that is said at the end.
//! **Does not own**: going on after an outage (the client).

use clap::Args;
use domicile_client::{Change, Changes, ResumeToken, Watch, WatchFrom};
use domicile_proto::{ErrorKind, Operation};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::cell::Cell;
use super::connect::ConnectFlags;
use super::failure::Failure;
use super::output::{Format, Layout, Output, OutputFlags, say};

/// The columns of a changed key.
const COLUMNS: [&str; 8] = [
    "key",
    "operation",
    "value",
    "version",
    "written_at_ms",
    "expires_at_ms",
    "partition",
    "position",
];

/// `kv watch`
#[derive(Debug, Args)]
pub(crate) struct WatchFlags {
    keyspace: String,
    /// Only keys that start with this.
    #[arg(default_value = "")]
    prefix: String,
    /// Only this key.
    #[arg(long, value_name = "KEY", conflicts_with = "prefix")]
    key: Option<String>,
    /// Go on after this: the token that a watch before ended with.
    #[arg(long, value_name = "TOKEN", group = "begin")]
    from: Option<ResumeToken>,
    /// Begin with the first write ever; refused if the journal no longer has it.
    #[arg(long, group = "begin")]
    from_start: bool,
    /// Begin with the oldest write that the journal still has.
    #[arg(long, group = "begin")]
    from_oldest: bool,
    /// End after this many lines; the keys of one write are not torn apart.
    #[arg(long, value_name = "LINES")]
    limit: Option<usize>,
    #[command(flatten)]
    connect: ConnectFlags,
    #[command(flatten)]
    output: OutputFlags,
}

/// Ctrl-C and SIGTERM, by which a watch ends in order.
struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

impl WatchFlags {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        if self.limit == Some(0) {
            let message = "limit 0: at least 1";
            return Err(Failure::new(ErrorKind::Invalid, message).into());
        }
        let mut interrupts = Interrupts::new()?;
        let keyspace = self.connect.client().await?.keyspace(&*self.keyspace);
        let mut changes = self.on(keyspace.watch()).start().await?;
        // So that what is written after this line is known to be told.
        say(format_args!("watching {}", self.keyspace));
        let format = self.output.output;
        let mut output = Output::stdout(format, Layout::Lines, &COLUMNS);
        output = output.raw_column("value");
        let told = self.tell(&mut changes, &mut output, &mut interrupts).await;
        let ended = output.end();
        say(format_args!("go on with --from {}", changes.resume_token()));
        told?;
        Ok(ended?)
    }

    fn on(&self, watch: Watch) -> Watch {
        let from = match (&self.from, self.from_start, self.from_oldest) {
            (Some(token), _, _) => WatchFrom::Token(token.clone()),
            (None, true, _) => WatchFrom::First,
            (None, false, true) => WatchFrom::Oldest,
            (None, false, false) => WatchFrom::Now,
        };
        let watch = watch.from(from);
        match &self.key {
            Some(key) => watch.key(key),
            None => watch.prefix(&self.prefix),
        }
    }

    /// Until it is interrupted, or as many lines are told as were asked for.
    async fn tell(
        &self,
        changes: &mut Changes,
        output: &mut Output,
        interrupts: &mut Interrupts,
    ) -> anyhow::Result<()> {
        let mut lines = 0;
        while self.limit.is_none_or(|limit| lines < limit) {
            let next = tokio::select! {
                () = interrupts.next() => return Ok(()),
                next = changes.next() => next,
            };
            let Some(change) = next.transpose()? else {
                return Ok(());
            };
            for row in rows(change, self.output.output) {
                lines += 1;
                output.row(row)?;
            }
            // Whoever reads this waits for it.
            output.flush()?;
        }
        Ok(())
    }
}

/// A row for each key of a change. `raw` shows values alone, so a removed key has no row there.
fn rows(change: Change, format: Format) -> Vec<Vec<Cell>> {
    let Change {
        partition,
        position,
        version,
        written_at,
        operations,
    } = change;
    let row = |operation: Operation| {
        let (key, word, value, expires_at_ms) = match operation {
            Operation::Put { key, value, expiry } => {
                let at_ms = expiry.map(|expiry| expiry.at_ms(written_at));
                (key, "put", Some(value), at_ms)
            }
            Operation::Delete { key } => (key, "delete", None, None),
        };
        if value.is_none() && format == Format::Raw {
            return None;
        }
        Some(vec![
            key.into(),
            word.to_owned().into(),
            value.map_or(Cell::Nothing, Cell::from),
            version.to_string().into(),
            written_at.wall_ms().into(),
            expires_at_ms.map_or(Cell::Nothing, Cell::from),
            partition.to_string().into(),
            position.to_string().into(),
        ])
    };
    operations.into_iter().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Command, FromArgMatches};

    fn parse(line: &str) -> Result<WatchFlags, clap::Error> {
        let command = WatchFlags::augment_args(Command::new("watch"));
        let matches = command.try_get_matches_from(line.split(' '))?;
        WatchFlags::from_arg_matches(&matches)
    }

    #[test]
    fn a_watch_begins_at_one_place_and_is_of_one_kind_of_keys() {
        let flags = parse("watch users alice/ --limit 3").unwrap();
        assert_eq!((flags.prefix.as_str(), flags.limit), ("alice/", Some(3)));
        let token = ResumeToken::new(domicile_proto::KeyspaceId::new(7));
        let flags = parse(&format!("watch users --from {token}")).unwrap();
        assert_eq!(flags.from, Some(token));
        for bad in [
            "watch",
            "watch users --from 00ff",
            "watch users --from-start --from-oldest",
            "watch users alice/ --key alice/x",
        ] {
            assert!(parse(bad).is_err(), "{bad} was accepted");
        }
    }
}
