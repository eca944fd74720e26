//! What a home tells a copy whose cells wait to be healed.
//!
//! **Owns**: cells as the durable log leaves them, visible or not.
//! **Does not own**: who may ask (the node), what the copy does with them (`heal`).
//!
//! Not what readers see: what is visible may wait for the very copies that wait for these cells. A
//! copy shows none of them before its own log has reached their position and is visible there.

use std::collections::BTreeMap;

use bytes::Bytes;
use domicile_proto::{Operation, PartitionId, Seq, Version};

use crate::cells::Cell;
use crate::error::StoreError;
use crate::store::Store;

/// Keys with their cells, and up to which record they are the state of the log.
pub type ToldCells = (Vec<(Bytes, Option<Cell>)>, Seq);

impl Store {
    /// The cells of some keys as the durable log of a partition leaves them.
    ///
    /// # Errors
    /// [`StoreError::Engine`]; as [`Store::read`].
    pub fn cells_at_end(
        &self,
        partition: PartitionId,
        keys: &[Bytes],
    ) -> Result<ToldCells, StoreError> {
        let cells = self.cells(partition);
        // First: a record that is durable by now is folded below, or is applied by then.
        let mut at = self.tail(partition).map_or(Seq::NONE, |tail| tail.last_seq);
        let mut found: BTreeMap<Bytes, (Seq, Option<Cell>)> = BTreeMap::new();
        let mut from = at.next();
        for key in keys {
            let read = cells.get_ahead(key)?;
            from = from.min(read.applied_upto.next());
            at = at.max(read.applied_upto);
            found.insert(key.clone(), (read.applied_upto, read.cell));
        }
        if from <= at {
            self.fold_from(partition, from, &mut found)?;
        }
        let told = keys.iter().map(|key| {
            let cell = found.get(key).and_then(|(_, cell)| cell.clone());
            (key.clone(), cell)
        });
        Ok((told.collect(), at))
    }

    fn fold_from(
        &self,
        partition: PartitionId,
        from: Seq,
        found: &mut BTreeMap<Bytes, (Seq, Option<Cell>)>,
    ) -> Result<(), StoreError> {
        let end = self.tail(partition).map_or(Seq::NONE, |tail| tail.last_seq);
        if from > end {
            return Ok(());
        }
        for record in self.records(partition, from) {
            let (epoch, seq, record) = record?;
            let hlc = record.head.hlc;
            let operations = record.body.operations();
            let operations = operations.map_err(|source| StoreError::InvalidRecord {
                partition,
                seq,
                source,
            })?;
            for operation in operations {
                let Some((applied_upto, cell)) = found.get_mut(operation.key()) else {
                    continue;
                };
                if seq <= *applied_upto {
                    continue;
                }
                let version = Version {
                    generation: 0,
                    epoch,
                    seq,
                };
                *cell = match operation {
                    Operation::Delete { .. } => None,
                    Operation::Put { value, expiry, .. } => Some(Cell {
                        version,
                        value: Some(value),
                        expires_at_ms: expiry.map(|expiry| expiry.at_ms(hlc)),
                        hlc,
                    }),
                };
            }
            if seq >= end {
                break;
            }
        }
        Ok(())
    }
}
