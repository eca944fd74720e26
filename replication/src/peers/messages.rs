//! Checked values to and from the messages between nodes.
//!
//! **Owns**: reading marks, positions and partitions that a peer sent.
//! **Does not own**: the generated messages (proto).

use bytes::Bytes;
use domicile_proto::position::VersionError;
use domicile_proto::{ChainHash, Epoch, Hlc, NodeId, PartitionId, Seq, WireError, v1};
use domicile_storage::cells::Cell;

use crate::driver::{HeldMark, PartitionDigest};

pub(crate) fn partition_of_bytes(bytes: &[u8]) -> Result<PartitionId, WireError> {
    let array: [u8; PartitionId::BYTES] = bytes.try_into().map_err(|_| WireError::Truncated {
        what: "partition",
        actual: bytes.len(),
        needed: PartitionId::BYTES,
    })?;
    PartitionId::from_bytes(array).map_err(|_| WireError::Invalid {
        what: "partition region",
        actual: 0,
    })
}

pub(crate) fn read_epoch(counter: u64, node: u64) -> Option<Epoch> {
    NodeId::new(node).ok().map(|node| Epoch { counter, node })
}

pub(crate) fn mark_message(partition: PartitionId, mark: HeldMark) -> v1::CopyMark {
    v1::CopyMark {
        partition: Bytes::copy_from_slice(&partition.to_bytes()),
        epoch_counter: mark.epoch.map_or(0, |epoch| epoch.counter),
        epoch_node: mark.epoch.map_or(0, |epoch| epoch.node.get()),
        received_upto: mark.received_upto.get(),
        durable_upto: mark.durable_upto.get(),
        chain: mark.chain.map_or(0, ChainHash::bits),
        damaged: mark.is_damaged,
    }
}

pub(crate) fn read_mark(message: &v1::CopyMark) -> Result<(PartitionId, HeldMark), WireError> {
    let partition = partition_of_bytes(&message.partition)?;
    let mark = HeldMark {
        epoch: read_epoch(message.epoch_counter, message.epoch_node),
        received_upto: Seq::new(message.received_upto),
        durable_upto: Seq::new(message.durable_upto),
        chain: Some(ChainHash::from_bits(message.chain)),
        is_damaged: message.damaged,
    };
    let upto = mark.received_upto.max(mark.durable_upto);
    if upto == Seq::new(u64::MAX) {
        return Err(WireError::Invalid {
            what: "copy mark",
            actual: upto.get(),
        });
    }
    Ok((partition, mark))
}

/// A home's log, told to a copy whose log has left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HomeLog {
    pub(crate) partition: PartitionId,
    /// Each reign with its first record, oldest first; never empty.
    pub(crate) reigns: Vec<(Epoch, Seq)>,
    pub(crate) last_seq: Seq,
}

pub(crate) fn read_forked(message: &v1::Forked) -> Result<HomeLog, WireError> {
    let partition = partition_of_bytes(&message.partition)?;
    let invalid = |what, actual| WireError::Invalid { what, actual };
    let mut reigns: Vec<(Epoch, Seq)> = Vec::new();
    for reign in &message.reigns {
        let epoch = read_epoch(reign.epoch_counter, reign.epoch_node);
        let epoch = epoch.ok_or_else(|| invalid("reign's node", reign.epoch_node))?;
        let first = Seq::new(reign.first_seq);
        let grows = reigns
            .last()
            .is_none_or(|(last, from)| epoch > *last && first >= *from);
        if !grows || first == Seq::NONE {
            return Err(invalid("reign's first record", reign.first_seq));
        }
        reigns.push((epoch, first));
    }
    if reigns.is_empty() {
        return Err(invalid("number of reigns", 0));
    }
    Ok(HomeLog {
        partition,
        reigns,
        last_seq: Seq::new(message.last_seq),
    })
}

pub(crate) fn cell_of_row(row: v1::ForwardRow) -> Result<Cell, VersionError> {
    Ok(Cell {
        version: row.version.parse()?,
        value: Some(row.value),
        expires_at_ms: row.expires_at_ms,
        hlc: Hlc::from_bits(row.hlc),
    })
}

pub(super) fn row_of_cell((key, cell): (Bytes, Cell)) -> v1::ForwardRow {
    v1::ForwardRow {
        key,
        value: cell.value.unwrap_or_default(),
        version: cell.version.to_string(),
        hlc: cell.hlc.bits(),
        expires_at_ms: cell.expires_at_ms,
    }
}

pub(crate) fn digest_message(
    partition: PartitionId,
    digest: PartitionDigest,
) -> v1::PartitionDigest {
    v1::PartitionDigest {
        partition: Bytes::copy_from_slice(&partition.to_bytes()),
        applied_upto: digest.seq.get(),
        digest: digest.digest,
        epoch_counter: digest.epoch.counter,
        epoch_node: digest.epoch.node.get(),
        chain: digest.chain.bits(),
        r#final: digest.is_final,
    }
}

/// `None` for one of no reign: there is nothing to compare.
pub(crate) fn read_digest(
    message: &v1::PartitionDigest,
) -> Result<Option<(PartitionId, PartitionDigest)>, WireError> {
    let partition = partition_of_bytes(&message.partition)?;
    let epoch = read_epoch(message.epoch_counter, message.epoch_node);
    let digest = epoch.map(|epoch| PartitionDigest {
        epoch,
        seq: Seq::new(message.applied_upto),
        chain: ChainHash::from_bits(message.chain),
        digest: message.digest,
        is_final: message.r#final,
    });
    Ok(digest.map(|digest| (partition, digest)))
}

#[cfg(test)]
mod tests {
    use domicile_proto::{Bucket, KeyspaceId, RegionId};
    use prost::Message;

    use super::*;
    use crate::fuzz_tests::attack;

    /// What is read of a mark is told again as it was read.
    #[test]
    fn fuzz_marks() {
        let partition = PartitionId {
            keyspace: KeyspaceId::new(1),
            region: RegionId::new(2).unwrap(),
            bucket: Bucket::new(3),
        };
        let marks = [None, read_epoch(4, 5)].map(|epoch| HeldMark {
            epoch,
            received_upto: Seq::new(300),
            durable_upto: Seq::new(299),
            chain: Some(ChainHash::from_bits(u64::MAX)),
            is_damaged: epoch.is_none(),
        });
        let valid = marks.map(|mark| mark_message(partition, mark).encode_to_vec());
        attack(&valid, &|bytes| {
            let Ok(message) = v1::CopyMark::decode(bytes) else {
                return;
            };
            if let Ok((partition, mark)) = read_mark(&message) {
                let again = read_mark(&mark_message(partition, mark));
                assert_eq!(again, Ok((partition, mark)));
                let _ = (mark.received_upto.next(), mark.durable_upto.next());
            }
        });
    }
}
