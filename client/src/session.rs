//! The positions that a session must not read before.
//!
//! **Owns**: keeping the newest position a partition, and its form on the wire.
//! **Does not own**: waiting for them (the server), when they are sent (`read`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use domicile_proto::{Epoch, NodeId, PartitionId, Position, Seq, v1};

use crate::error::ClientError;

/// A partition and a place in its history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionMark {
    /// The partition.
    pub partition: PartitionId,
    /// The place.
    pub position: Position,
}

/// What a session has seen: reads under it are never older. Clones share it.
///
/// Bounded by the partitions of the keyspaces that it touched.
#[derive(Debug, Clone, Default)]
pub struct Session(Arc<Mutex<BTreeMap<PartitionId, Position>>>);

impl Session {
    /// A session that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a mark into account; it never goes back.
    pub fn observe(&self, mark: SessionMark) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = seen.entry(mark.partition).or_insert(mark.position);
        *newest = mark.position.max(*newest);
    }

    /// The token: one mark a partition.
    #[must_use]
    pub fn marks(&self) -> Vec<SessionMark> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mark = |(partition, position): (&PartitionId, &Position)| SessionMark {
            partition: *partition,
            position: *position,
        };
        seen.iter().map(mark).collect()
    }
}

impl SessionMark {
    pub(crate) fn to_wire(self) -> v1::Position {
        let Position { epoch, seq } = self.position;
        v1::Position {
            partition: bytes::Bytes::copy_from_slice(&self.partition.to_bytes()),
            epoch_counter: epoch.counter,
            epoch_node: epoch.node.get(),
            seq: seq.get(),
        }
    }

    pub(crate) fn from_wire(wire: &v1::Position) -> Result<Self, ClientError> {
        let unreadable = |cause| ClientError::unreadable("position", cause);
        let node = NodeId::new(wire.epoch_node).map_err(unreadable)?;
        let epoch = Epoch {
            counter: wire.epoch_counter,
            node,
        };
        Ok(Self {
            partition: partition_of(wire)?,
            position: Position {
                epoch,
                seq: Seq::new(wire.seq),
            },
        })
    }
}

/// The partition of a position.
pub(crate) fn partition_of(wire: &v1::Position) -> Result<PartitionId, ClientError> {
    let bytes = <[u8; PartitionId::BYTES]>::try_from(&wire.partition[..]);
    let bytes = bytes.map_err(|_| {
        let message = format!("{} bytes, expected 8", wire.partition.len());
        ClientError::unreadable("partition", message)
    })?;
    PartitionId::from_bytes(bytes).map_err(|cause| ClientError::unreadable("position", cause))
}

#[cfg(test)]
mod tests {
    use super::*;
    use domicile_proto::{Bucket, KeyspaceId, RegionId};

    fn mark(bucket: u16, counter: u64, seq: u64) -> SessionMark {
        SessionMark {
            partition: PartitionId {
                keyspace: KeyspaceId::new(7),
                region: RegionId::new(3).unwrap(),
                bucket: Bucket::new(bucket),
            },
            position: Position {
                epoch: Epoch {
                    counter,
                    node: NodeId::new(5).unwrap(),
                },
                seq: Seq::new(seq),
            },
        }
    }

    #[test]
    fn a_session_only_moves_forward() {
        let session = Session::new();
        for seen in [
            mark(0, 1, 9),
            mark(0, 1, 4),
            mark(1, 1, 1),
            mark(0, 2, 1),
            mark(0, 1, 99),
        ] {
            session.clone().observe(seen);
        }
        assert_eq!(session.marks(), [mark(0, 2, 1), mark(1, 1, 1)]);
    }

    #[test]
    fn marks_survive_the_wire_and_bad_ones_are_refused() {
        let sent = mark(2, 3, 4);
        assert_eq!(SessionMark::from_wire(&sent.to_wire()).unwrap(), sent);
        let short = v1::Position {
            partition: vec![1; 7].into(),
            ..sent.to_wire()
        };
        assert!(SessionMark::from_wire(&short).is_err());
        let nobody = v1::Position {
            epoch_node: 0,
            ..sent.to_wire()
        };
        assert!(SessionMark::from_wire(&nobody).is_err());
    }
}
