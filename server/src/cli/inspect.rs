//! `inspect`: what lies in a data directory that is not in use.
//!
//! **Owns**: what is shown of each entry. Values are never shown, only how long they are.
//! **Does not own**: reading it (storage).

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use domicile_proto::{ErrorKind, Operation, PartitionId, Record, Seq};
use domicile_storage::{Disk, Inspected, OsDisk, StoreError, inspect};

use super::cell::Cell;
use super::failure::Failure;
use super::output::{Layout, Output, OutputFlags, say};

const COLUMNS: [&str; 11] = [
    "entry",
    "place",
    "commit",
    "partition",
    "epoch",
    "first_seq",
    "last_seq",
    "chain",
    "key",
    "value_bytes",
    "detail",
];

/// `inspect`
#[derive(Debug, Args)]
pub(crate) struct InspectCommand {
    /// The data directory.
    #[arg(env = "DOMICILE_DATA", value_name = "DIR")]
    data: PathBuf,
    /// Only this partition, as `verify` names it.
    #[arg(long, value_name = "PARTITION")]
    partition: Option<String>,
    /// One row an operation instead of one a segment.
    #[arg(long)]
    records: bool,
    #[command(flatten)]
    output: OutputFlags,
}

impl InspectCommand {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let disk: Arc<dyn Disk> = Arc::new(OsDisk::new());
        let mut output = Output::stdout(self.output.output, Layout::Table, &COLUMNS);
        let (mut damaged, mut failed) = (0_u64, None);
        let walked = inspect(&disk, &self.data, &mut |found| {
            damaged += u64::from(matches!(found, Inspected::Damage { .. }));
            for row in self.rows(found) {
                if let Err(error) = output.row(row.cells()) {
                    failed = Some(error);
                    // Whoever reads has gone away; the walk ends.
                    return Err(StoreError::Closed);
                }
            }
            Ok(())
        });
        if let Some(error) = failed {
            return Err(error.into());
        }
        walked?;
        output.end()?;
        if damaged > 0 {
            let message = format!("{damaged} damaged place(s)");
            return Err(Failure::new(ErrorKind::Corrupt, message).into());
        }
        say(format_args!("nothing is damaged"));
        Ok(())
    }

    fn wants(&self, partition: Option<PartitionId>) -> bool {
        let Some(wanted) = &self.partition else {
            return true;
        };
        partition.is_none_or(|partition| partition.to_string() == *wanted)
    }

    fn rows(&self, found: Inspected) -> Vec<Row> {
        match found {
            Inspected::Snapshot(header) if self.wants(Some(header.partition)) => vec![Row {
                partition: Some(header.partition),
                epoch: Some(header.epoch.to_string()),
                last_seq: Some(header.seq),
                chain: Some(header.chain.to_string()),
                detail: format!(
                    "{:?}, {} cell(s), newest seq {}, {} bytes",
                    header.origin, header.cells, header.newest_seq, header.file_bytes
                ),
                ..Row::new("snapshot")
            }],
            Inspected::Segment {
                place,
                commit,
                header,
                chain,
                records,
            } if self.wants(Some(header.partition)) => {
                let row = Row {
                    place: Some(place.to_string()),
                    commit: Some(commit),
                    partition: Some(header.partition),
                    epoch: Some(header.epoch.to_string()),
                    first_seq: Some(header.first_seq),
                    last_seq: Some(header.last_seq()),
                    chain: Some(chain.to_string()),
                    detail: format!("{} record(s)", header.count),
                    ..Row::new("segment")
                };
                if self.records {
                    let operations = records.into_iter().flat_map(|it| of_record(&row, it));
                    return operations.collect();
                }
                vec![row]
            }
            turn @ (Inspected::Rebase { partition, .. } | Inspected::Cut { partition, .. })
                if self.wants(Some(partition)) =>
            {
                of_turn(turn).into_iter().collect()
            }
            Inspected::Damage {
                place,
                partition,
                error,
            } if self.wants(partition) => vec![Row {
                place: Some(place.to_string()),
                partition,
                detail: error.to_string(),
                ..Row::new("damage")
            }],
            Inspected::Torn(torn) => vec![Row {
                place: Some(torn.place.to_string()),
                detail: format!("{} bytes, never acknowledged: {}", torn.bytes, torn.problem),
                ..Row::new("torn")
            }],
            _ => Vec::new(),
        }
    }
}

/// A row for each operation of a record, and one for a mark.
fn of_record(segment: &Row, (seq, record): (Seq, Record)) -> Vec<Row> {
    let head = &record.head;
    let row = |key: Option<bytes::Bytes>, value_bytes: Option<u64>, word: &str| Row {
        first_seq: Some(seq),
        last_seq: Some(seq),
        chain: None,
        key,
        value_bytes,
        detail: format!(
            "{word}, {:?}, {}, written at {} ms, request {}",
            head.kind,
            head.level,
            head.hlc.wall_ms(),
            head.request_id
        ),
        ..segment.clone().named("record")
    };
    let operations = match record.body.operations() {
        Ok(operations) if head.kind.has_operations() => operations,
        _ => return vec![row(None, None, "mark")],
    };
    let shown = operations.into_iter().map(|operation| match operation {
        Operation::Put { key, value, .. } => row(Some(key), Some(value.len() as u64), "put"),
        Operation::Delete { key } => row(Some(key), None, "delete"),
    });
    shown.collect()
}

#[derive(Clone)]
struct Row {
    entry: &'static str,
    place: Option<String>,
    commit: Option<u64>,
    partition: Option<PartitionId>,
    epoch: Option<String>,
    first_seq: Option<Seq>,
    last_seq: Option<Seq>,
    chain: Option<String>,
    key: Option<bytes::Bytes>,
    value_bytes: Option<u64>,
    detail: String,
}

impl Row {
    fn new(entry: &'static str) -> Self {
        Self {
            entry,
            place: None,
            commit: None,
            partition: None,
            epoch: None,
            first_seq: None,
            last_seq: None,
            chain: None,
            key: None,
            value_bytes: None,
            detail: String::new(),
        }
    }

    fn named(self, entry: &'static str) -> Self {
        Self { entry, ..self }
    }

    fn cells(self) -> Vec<Cell> {
        let text = |text: Option<String>| text.map_or(Cell::Nothing, Cell::Text);
        let seq = |seq: Option<Seq>| seq.map_or(Cell::Nothing, |seq| Cell::Number(seq.get()));
        vec![
            Cell::Text(self.entry.to_owned()),
            text(self.place),
            self.commit.map_or(Cell::Nothing, Cell::Number),
            text(self.partition.map(|partition| partition.to_string())),
            text(self.epoch),
            seq(self.first_seq),
            seq(self.last_seq),
            text(self.chain),
            self.key.map_or(Cell::Nothing, Cell::Bytes),
            self.value_bytes.map_or(Cell::Nothing, Cell::Number),
            Cell::Text(self.detail),
        ]
    }
}
/// The row of a log that begins anew or goes back; none for anything else.
fn of_turn(found: Inspected) -> Option<Row> {
    let (what, place, partition, epoch, seq, chain, detail) = match found {
        Inspected::Rebase {
            place,
            partition,
            epoch,
            seq,
            chain,
        } => {
            let detail = "the log begins anew at a snapshot".to_owned();
            ("rebase", place, partition, Some(epoch), seq, chain, detail)
        }
        Inspected::Cut {
            place,
            partition,
            epoch,
            seq,
            chain,
            end,
            orphans,
        } => {
            let detail = format!("the log goes back to here from {end}, orphan file {orphans}");
            ("cut", place, partition, epoch, seq, chain, detail)
        }
        _ => return None,
    };
    Some(Row {
        place: Some(place.to_string()),
        partition: Some(partition),
        epoch: epoch.map(|epoch| epoch.to_string()),
        last_seq: Some(seq),
        chain: Some(chain.to_string()),
        detail,
        ..Row::new(what)
    })
}
