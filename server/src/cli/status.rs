//! `status`: one row a region, whether it can be reached or not.
//!
//! **Owns**: gathering the rows of several nodes, the columns.
//! **Does not own**: the numbers (the nodes).

use std::collections::BTreeMap;

use clap::Args;
use domicile_client::{Client, Retry, v1};
use domicile_proto::ErrorKind;

use super::cell::Cell;
use super::connect::ConnectFlags;
use super::failure::Failure;
use super::ids;
use super::output::{Layout, Output, OutputFlags};

/// `status`
#[derive(Debug, Args)]
pub(crate) struct StatusCommand {
    #[command(flatten)]
    connect: ConnectFlags,
    #[command(flatten)]
    output: OutputFlags,
    /// One row a keyspace instead.
    #[arg(long, conflicts_with = "partitions")]
    keyspaces: bool,
    /// One row a partition instead.
    #[arg(long)]
    partitions: bool,
}

const REGION_COLUMNS: [&str; 16] = [
    "region",
    "seen_from",
    "state",
    "homes",
    "rtt_ms",
    "risk_writes",
    "risk_bytes",
    "risk_ms",
    "stale_ms",
    "skew_ms",
    "orphans",
    "buffered",
    "disk_free_bytes",
    "fsync_us_mean",
    "version",
    "note",
];

const KEYSPACE_COLUMNS: [&str; 14] = [
    "region",
    "keyspace",
    "ack",
    "effective_ack",
    "homes",
    "degraded",
    "risk_writes",
    "risk_bytes",
    "risk_ms",
    "orphans",
    "buffered",
    "buffered_bytes",
    "buffered_ms",
    "buffer_refused",
];

const PARTITION_COLUMNS: [&str; 13] = [
    "region",
    "partition",
    "keyspace",
    "role",
    "home",
    "epoch",
    "appended",
    "durable",
    "visible",
    "applied",
    "degraded",
    "copies",
    "alarm",
];

/// What an endpoint answered.
type Answer = (String, Result<v1::StatusResponse, String>);

impl StatusCommand {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let mut answers: Vec<Answer> = Vec::new();
        for endpoint in &self.connect.endpoint {
            answers.push((endpoint.clone(), self.ask(endpoint).await));
        }
        let format = self.output.output;
        let statuses = || {
            answers
                .iter()
                .filter_map(|(_, answer)| answer.as_ref().ok())
        };
        let (columns, rows) = if self.keyspaces {
            (
                &KEYSPACE_COLUMNS[..],
                statuses().flat_map(keyspace_rows).collect(),
            )
        } else if self.partitions {
            (
                &PARTITION_COLUMNS[..],
                statuses().flat_map(partition_rows).collect(),
            )
        } else {
            (&REGION_COLUMNS[..], region_rows(&answers))
        };
        let mut output = Output::stdout(format, Layout::Table, columns);
        for row in rows {
            output.row(row)?;
        }
        output.end()?;
        match answers.iter().find_map(|(_, answer)| answer.as_ref().err()) {
            Some(fault) if statuses().next().is_none() => {
                Err(Failure::new(ErrorKind::Unavailable, fault.clone()).into())
            }
            _ => Ok(()),
        }
    }

    /// A node that does not answer at once is a row, not something to wait for.
    async fn ask(&self, endpoint: &str) -> Result<v1::StatusResponse, String> {
        let mut options = self.connect.options(vec![endpoint.to_owned()]);
        options.retry = Retry::Never;
        let asked = async {
            let client = Client::connect(options).await?;
            match self.partitions {
                true => client.status_of_partitions().await,
                false => client.status().await,
            }
        };
        asked.await.map_err(|error| error.to_string())
    }
}

/// A node that answers has a row of its own; a region known to its peers only, one of theirs.
fn region_rows(answers: &[Answer]) -> Vec<Vec<Cell>> {
    let mut own: BTreeMap<String, Vec<Cell>> = BTreeMap::new();
    let mut seen: BTreeMap<String, Vec<Cell>> = BTreeMap::new();
    let mut silent = Vec::new();
    for (endpoint, answer) in answers {
        match answer {
            Ok(status) => {
                own.insert(status.region.clone(), own_row(status));
                for peer in &status.peers {
                    let row = || peer_row(&status.region, peer);
                    seen.entry(peer.region.clone()).or_insert_with(row);
                }
            }
            Err(fault) => silent.push(silent_row(endpoint, fault)),
        }
    }
    for (region, row) in seen {
        own.entry(region).or_insert(row);
    }
    own.into_values().chain(silent).collect()
}

fn own_row(status: &v1::StatusResponse) -> Vec<Cell> {
    let homes = status
        .keyspaces
        .iter()
        .map(|keyspace| u64::from(keyspace.homes_here))
        .sum::<u64>();
    let degraded = status
        .keyspaces
        .iter()
        .any(|keyspace| keyspace.degraded_partitions > 0);
    let state = match (status.poisoned.is_empty(), degraded) {
        (false, _) => "poisoned",
        (true, true) => "degraded",
        (true, false) => "up",
    };
    // What the best copy lacks, over all keyspaces: the loss if this region went now.
    let losses = status
        .keyspaces
        .iter()
        .filter_map(|keyspace| keyspace.at_risk.as_ref());
    let risk = losses.fold(v1::Loss::default(), |sum, loss| v1::Loss {
        writes: sum.writes + loss.writes,
        bytes: sum.bytes + loss.bytes,
        age_ms: sum.age_ms.max(loss.age_ms),
    });
    let orphans = status
        .keyspaces
        .iter()
        .map(|keyspace| keyspace.orphans_open);
    let buffered = status
        .keyspaces
        .iter()
        .map(|keyspace| keyspace.buffered_writes);
    let note = match status.poisoned.as_str() {
        "" => status.buffer_damaged.as_str(),
        poisoned => poisoned,
    };
    let disk = status.disk.clone().unwrap_or_default();
    let [writes, bytes, ms] = loss_cells(Some(&risk));
    vec![
        status.region.as_str().into(),
        Cell::from("itself"),
        state.into(),
        homes.into(),
        Cell::Nothing,
        writes,
        bytes,
        ms,
        Cell::Nothing,
        Cell::Nothing,
        orphans.sum::<u64>().into(),
        buffered.sum::<u64>().into(),
        disk.free_bytes.into(),
        disk.fsync_us_sum.checked_div(disk.commits).into(),
        status.version.as_str().into(),
        note.into(),
    ]
}

fn peer_row(seen_from: &str, peer: &v1::PeerStatus) -> Vec<Cell> {
    let state = match (peer.connected, peer.receiving) {
        (true, true) => "connected",
        (true, false) => "ships to it only",
        (false, true) => "hears of it only",
        (false, false) => "unreachable",
    };
    let heard = peer.staleness_ms != u64::MAX;
    let rtt = peer
        .connected
        .then(|| format!("{:.1}", peer.rtt_us as f64 / 1000.0));
    let [writes, bytes, ms] = loss_cells(peer.at_risk.as_ref());
    vec![
        peer.region.as_str().into(),
        seen_from.into(),
        state.into(),
        Cell::Nothing,
        rtt.into(),
        writes,
        bytes,
        ms,
        heard.then_some(peer.staleness_ms).into(),
        peer.connected.then_some(peer.clock_skew_ms).into(),
        Cell::Nothing,
        Cell::Nothing,
        Cell::Nothing,
        Cell::Nothing,
        Cell::Nothing,
        peer.last_error.as_str().into(),
    ]
}

fn silent_row(endpoint: &str, fault: &str) -> Vec<Cell> {
    let mut row = vec![Cell::Nothing; REGION_COLUMNS.len()];
    row[1] = endpoint.into();
    row[2] = "unreachable".into();
    row[REGION_COLUMNS.len() - 1] = fault.into();
    row
}

fn keyspace_rows(status: &v1::StatusResponse) -> Vec<Vec<Cell>> {
    let row = |keyspace: &v1::KeyspaceStatus| {
        let [writes, bytes, ms] = loss_cells(keyspace.at_risk.as_ref());
        vec![
            status.region.as_str().into(),
            keyspace.name.as_str().into(),
            keyspace.ack.as_str().into(),
            keyspace.effective_ack.as_str().into(),
            u64::from(keyspace.homes_here).into(),
            u64::from(keyspace.degraded_partitions).into(),
            writes,
            bytes,
            ms,
            keyspace.orphans_open.into(),
            keyspace.buffered_writes.into(),
            keyspace.buffered_bytes.into(),
            keyspace.buffered_age_ms.into(),
            keyspace.buffered_refused.into(),
        ]
    };
    status.keyspaces.iter().map(row).collect()
}

fn partition_rows(status: &v1::StatusResponse) -> Vec<Vec<Cell>> {
    let row = |partition: &v1::PartitionStatus| {
        let id = ids::partition(&partition.partition);
        let copy = |copy: &v1::CopyStatus| {
            let mark = if copy.connected { "" } else { "!" };
            format!(
                "{}{mark}:{}/{}",
                copy.region, copy.received_upto, copy.durable_upto
            )
        };
        vec![
            status.region.as_str().into(),
            id.map(|id| id.to_string()).into(),
            partition.keyspace.as_str().into(),
            partition.role.as_str().into(),
            partition.home_region.as_str().into(),
            format!("{}@{:x}", partition.epoch_counter, partition.epoch_node).into(),
            partition.appended_upto.into(),
            partition.durable_upto.into(),
            partition.visible_upto.into(),
            partition.applied_upto.into(),
            partition.degraded.into(),
            Cell::List(partition.copies.iter().map(copy).collect()),
            partition.alarm.as_str().into(),
        ]
    };
    status.partitions.iter().map(row).collect()
}

fn loss_cells(loss: Option<&v1::Loss>) -> [Cell; 3] {
    let cell = |value: fn(&v1::Loss) -> u64| Cell::from(loss.map(value));
    [
        cell(|loss| loss.writes),
        cell(|loss| loss.bytes),
        cell(|loss| loss.age_ms),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(region: &str, peers: &[(&str, bool)]) -> v1::StatusResponse {
        let peer = |(region, connected): &(&str, bool)| v1::PeerStatus {
            region: (*region).to_owned(),
            connected: *connected,
            receiving: *connected,
            staleness_ms: u64::MAX,
            ..v1::PeerStatus::default()
        };
        v1::StatusResponse {
            region: region.to_owned(),
            peers: peers.iter().map(peer).collect(),
            ..v1::StatusResponse::default()
        }
    }

    #[test]
    fn a_region_has_one_row_its_own_if_it_answers() {
        let answers = [
            (
                "http://a".to_owned(),
                Ok(status("eu", &[("us", true), ("ap", false)])),
            ),
            (
                "http://b".to_owned(),
                Ok(status("us", &[("eu", true), ("ap", false)])),
            ),
            ("http://c".to_owned(), Err("connection refused".to_owned())),
        ];
        let rows = region_rows(&answers);
        assert!(rows.iter().all(|row| row.len() == REGION_COLUMNS.len()));
        let shown = |column: usize| {
            rows.iter()
                .map(|row| row[column].human())
                .collect::<Vec<_>>()
        };
        assert_eq!(shown(0), ["ap", "eu", "us", "-"]);
        assert_eq!(shown(1), ["eu", "itself", "itself", "http://c"]);
        assert_eq!(shown(2), ["unreachable", "up", "up", "unreachable"]);
        assert_eq!(shown(15)[3], "connection refused");
    }

    #[test]
    fn what_is_wrong_is_the_state() {
        let mut poisoned = status("eu", &[]);
        poisoned.poisoned = "fdatasync failed".to_owned();
        assert_eq!(own_row(&poisoned)[2].human(), "poisoned");
        let mut degraded = status("eu", &[]);
        let keyspace = v1::KeyspaceStatus {
            degraded_partitions: 1,
            ..Default::default()
        };
        degraded.keyspaces.push(keyspace);
        assert_eq!(own_row(&degraded)[2].human(), "degraded");
        assert_eq!(keyspace_rows(&degraded)[0].len(), KEYSPACE_COLUMNS.len());
    }
}
