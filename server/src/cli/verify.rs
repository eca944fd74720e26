//! `verify`: every byte of a data directory that is not in use.
//!
//! **Owns**: what is shown of the report, and that damage fails.
//! **Does not own**: the check (storage).

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use domicile_proto::ErrorKind;
use domicile_storage::{Disk, OsDisk, verify};

use super::failure::Failure;
use super::output::{Layout, Output, OutputFlags, say};

/// `verify`
#[derive(Debug, Args)]
pub(crate) struct VerifyCommand {
    /// The data directory.
    #[arg(env = "DOMICILE_DATA", value_name = "DIR")]
    data: PathBuf,
    #[command(flatten)]
    output: OutputFlags,
}

impl VerifyCommand {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let disk: Arc<dyn Disk> = Arc::new(OsDisk::new());
        let report = verify(&disk, &self.data)?;
        let columns = [
            "partition",
            "epoch",
            "first_seq",
            "last_seq",
            "records",
            "bytes",
            "chain",
        ];
        let mut output = Output::stdout(self.output.output, Layout::Table, &columns);
        for each in &report.partitions {
            output.row(vec![
                each.partition.to_string().into(),
                each.epoch.to_string().into(),
                each.first_seq.get().into(),
                each.last_seq.get().into(),
                each.records.into(),
                each.bytes.into(),
                format!("{:?}", each.chain).into(),
            ])?;
        }
        output.end()?;
        say(format_args!(
            "node {}: {} file(s), {} frame(s), {} segment(s), {} record(s), {} snapshot(s), \
             ends at {}",
            report.node_id,
            report.files,
            report.frames,
            report.segments,
            report.records(),
            report.snapshots.len(),
            report.end
        ));
        if let Some(torn) = &report.torn_tail {
            say(format_args!(
                "torn tail, never acknowledged: {} byte(s) at {} of {}: {}",
                torn.bytes,
                torn.place,
                torn.path.display(),
                torn.problem
            ));
        }
        match &report.damage {
            Some(damage) => Err(Failure::new(ErrorKind::Corrupt, damage.to_string()).into()),
            None => Ok(()),
        }
    }
}
