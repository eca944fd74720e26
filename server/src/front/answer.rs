//! From what the node answers to messages.
//!
//! **Owns**: the fields of responses and the names of regions in them.
//! **Does not own**: errors (`refusal`), pages' tokens (`page_token`).

use bytes::Bytes;
use domicile_proto::{PartitionId, Position, v1};
use domicile_replication::{
    BufferedWrite, Entry, Node, ReadAnswer, Receipt, ScanPage, SessionMark, Written,
};

use super::limits::PAGE_BYTES_MAX;
use super::page_token;

/// What a write was told.
pub(crate) fn written(node: &Node, written: &Written) -> v1::WriteResponse {
    match written {
        Written::Applied(applied) => receipt(node, applied),
        Written::Accepted(accepted) => v1::WriteResponse {
            request_id: Bytes::copy_from_slice(&accepted.request_id.get().to_be_bytes()),
            accepted: Some(v1::AcceptedNotApplied {
                number: accepted.number.get(),
                accepted_at_ms: accepted.accepted_at_ms,
                region: node.region().to_string(),
                ..v1::AcceptedNotApplied::default()
            }),
            ..v1::WriteResponse::default()
        },
    }
}

/// A write that is kept here, with what became of it since.
pub(crate) fn kept(node: &Node, write: BufferedWrite) -> v1::WriteResponse {
    let (reason, message) = match write.refused {
        Some(refused) => (refused.reason, refused.message),
        None => (String::new(), String::new()),
    };
    v1::WriteResponse {
        request_id: Bytes::copy_from_slice(&write.request_id.get().to_be_bytes()),
        accepted: Some(v1::AcceptedNotApplied {
            number: write.number.get(),
            accepted_at_ms: write.accepted_at_ms,
            region: node.region().to_string(),
            refused_reason: reason,
            refused_message: message,
        }),
        ..v1::WriteResponse::default()
    }
}

/// The receipt of a write.
pub(crate) fn receipt(node: &Node, receipt: &Receipt) -> v1::WriteResponse {
    let durable_in = receipt.durable_in.iter();
    v1::WriteResponse {
        position: Some(position(receipt.partition, receipt.position())),
        version: receipt.version.to_string(),
        asked: receipt.asked.to_string(),
        achieved: receipt.achieved.to_string(),
        durable_in: durable_in.map(|region| node.region_name(*region)).collect(),
        request_id: Bytes::copy_from_slice(&receipt.request_id.get().to_be_bytes()),
        degraded: receipt.degraded,
        duplicate: receipt.duplicate,
        accepted: None,
    }
}

/// The answer to a get.
pub(crate) fn read(node: &Node, answer: ReadAnswer) -> v1::GetResponse {
    v1::GetResponse {
        entry: answer.entry.map(entry),
        position: answer.position.map(|at| position(answer.partition, at)),
        staleness_ms: millis(answer.staleness),
        region: node.region_name(answer.region),
    }
}

/// The answer to a scan: as many rows as fit a message, and where the next page goes on.
pub(crate) fn page(node: &Node, scan: &v1::ScanRequest, page: ScanPage) -> v1::ScanResponse {
    let rows = fitting(&page.entries);
    let cut = rows < page.entries.len();
    let resume_after = match page.entries.get(rows.saturating_sub(1)) {
        Some(last) if cut => Some(last.key.clone()),
        _ => page.resume_after,
    };
    v1::ScanResponse {
        entries: page.entries.into_iter().take(rows).map(entry).collect(),
        next_page_token: resume_after
            .map(|key| page_token::encode(scan, &key))
            .unwrap_or_default(),
        positions: page.positions.iter().map(mark).collect(),
        staleness_ms: millis(page.staleness),
        region: node.region().as_str().to_owned(),
    }
}

/// How many rows fit: at least one, since one row always does.
fn fitting(entries: &[Entry]) -> usize {
    let mut bytes = 0;
    let fits = entries.iter().take_while(|entry| {
        bytes += entry.key.len() + entry.value.len();
        bytes <= PAGE_BYTES_MAX
    });
    fits.count().max(1).min(entries.len())
}

fn entry(entry: Entry) -> v1::Entry {
    v1::Entry {
        key: entry.key,
        value: entry.value,
        version: entry.version.to_string(),
        written_at_ms: entry.written_at_ms,
        expires_at_ms: entry.expires_at_ms,
    }
}

fn mark(mark: &SessionMark) -> v1::Position {
    position(mark.partition, mark.position)
}

/// A place in a partition's history.
pub(crate) fn position(partition: PartitionId, position: Position) -> v1::Position {
    v1::Position {
        partition: Bytes::copy_from_slice(&partition.to_bytes()),
        epoch_counter: position.epoch.counter,
        epoch_node: position.epoch.node.get(),
        seq: position.seq.get(),
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use domicile_proto::{Epoch, NodeId, Seq, Version};

    #[test]
    fn a_page_is_cut_where_a_message_ends() {
        let epoch = Epoch {
            counter: 1,
            node: NodeId::new(9).unwrap(),
        };
        let row = |bytes: usize| Entry {
            key: "k".into(),
            value: vec![0; bytes].into(),
            version: Version {
                generation: 0,
                epoch,
                seq: Seq::FIRST,
            },
            written_at_ms: 0,
            expires_at_ms: None,
        };
        assert_eq!(fitting(&[]), 0);
        assert_eq!(fitting(&[row(PAGE_BYTES_MAX + 1), row(1)]), 1);
        assert_eq!(
            fitting(&[row(1 << 20), row(1 << 20), row(1 << 20), row(1 << 20)]),
            3
        );
        assert_eq!(fitting(&[row(10), row(10)]), 2);
    }
}
