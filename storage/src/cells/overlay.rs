//! The overlay: cells of one partition that are newer than the engine's.
//!
//! **Owns**: the active map, the frozen map while it is flushed, the order in which their cells
//! expire, what they count for.
//! **Does not own**: its lock (`partition`), the flush itself (`flush`).

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use domicile_proto::Seq;

use super::cell::Cell;
use super::key::CellKey;
use super::unapplied::Unapplied;

/// What a cell counts for beside its key and value: its place in a map filled to two thirds
/// (180 bytes) and the two or three allocations behind key and value (76 bytes).
const CELL_OVERHEAD_BYTES: u64 = 256;

/// What a cell counts for beside that if it expires: its place among the expiries, in a set filled
/// to two thirds.
const EXPIRY_OVERHEAD_BYTES: u64 = 72;

/// When cells expire, in that order.
pub(super) type Expiries = BTreeSet<(u64, CellKey)>;

/// Cells by key. A deleted key is a cell without a value, which hides the engine's.
pub(super) type CellMap = BTreeMap<CellKey, Cell>;

/// What a flush writes: never changed again.
#[derive(Debug)]
pub(super) struct Frozen {
    pub(super) cells: CellMap,
    pub(super) expiries: Expiries,
    pub(super) bytes: u64,
    pub(super) records: u64,
    /// The cells hold every record after the last flush up to here.
    pub(super) applied_upto: Seq,
}

/// The cells of one partition above the engine.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    pub(super) active: CellMap,
    /// One entry for each active cell that expires: bounded as they are.
    pub(super) expiries: Expiries,
    pub(super) frozen: Option<Arc<Frozen>>,
    bytes: u64,
    records: u64,
}

impl Overlay {
    /// Bytes of the active map.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes + EXPIRY_OVERHEAD_BYTES * self.expiries.len() as u64
    }

    /// The newest cell of a key above the engine.
    pub(super) fn find(&self, key: &[u8]) -> Option<&Cell> {
        self.active.get(key).or_else(|| {
            self.frozen
                .as_ref()
                .and_then(|frozen| frozen.cells.get(key))
        })
    }

    /// Folds one record into the active map.
    pub(super) fn fold(&mut self, unapplied: Unapplied) {
        let Unapplied { epoch, seq, record } = unapplied;
        let version = record.version(epoch, seq);
        let hlc = record.hlc();
        record.for_each_change(|change| {
            let value_bytes = change.value.as_ref().map_or(0, Bytes::len) as u64;
            let expires_at_ms = change.expires_at_ms;
            let cell = Cell {
                version,
                value: change.value,
                expires_at_ms,
                hlc,
            };
            match self.active.entry(change.key) {
                Entry::Occupied(mut entry) => {
                    self.bytes += value_bytes;
                    self.bytes -= value_len(entry.get());
                    let before = entry.insert(cell).expires_at_ms;
                    if before != expires_at_ms {
                        let entry_of = |at_ms| (at_ms, entry.key().clone());
                        before.map(|at_ms| self.expiries.remove(&entry_of(at_ms)));
                        self.expiries.extend(expires_at_ms.map(entry_of));
                    }
                }
                Entry::Vacant(entry) => {
                    self.expiries
                        .extend(expires_at_ms.map(|at_ms| (at_ms, entry.key().clone())));
                    self.bytes += CELL_OVERHEAD_BYTES + entry.key().len() as u64 + value_bytes;
                    entry.insert(cell);
                }
            }
        });
        self.records += 1;
    }

    /// Forgets everything; returns the bytes and records that it counted for.
    pub(super) fn clear(&mut self) -> (u64, u64) {
        assert!(self.frozen.is_none(), "cleared before a flush ended");
        let bytes = self.bytes();
        (self.active, self.bytes) = (CellMap::new(), 0);
        self.expiries = Expiries::default();
        (bytes, std::mem::take(&mut self.records))
    }

    /// Moves the active map aside for a flush. `None` if no record was folded since the last.
    pub(super) fn freeze(&mut self, applied_upto: Seq) -> Option<Arc<Frozen>> {
        assert!(
            self.frozen.is_none(),
            "frozen again at {applied_upto} before the flush ended"
        );
        if self.records == 0 {
            return None;
        }
        let bytes = self.bytes();
        self.bytes = 0;
        let frozen = Arc::new(Frozen {
            cells: std::mem::take(&mut self.active),
            expiries: std::mem::take(&mut self.expiries),
            bytes,
            records: std::mem::take(&mut self.records),
            applied_upto,
        });
        self.frozen = Some(Arc::clone(&frozen));
        Some(frozen)
    }
}

fn value_len(cell: &Cell) -> u64 {
    cell.value.as_ref().map_or(0, Bytes::len) as u64
}

/// What the cells of a map count for, counted anew.
#[cfg(test)]
pub(super) fn count_bytes(cells: &CellMap) -> u64 {
    cells
        .iter()
        .map(|(key, cell)| {
            let expiry = cell.expires_at_ms.map_or(0, |_| EXPIRY_OVERHEAD_BYTES);
            CELL_OVERHEAD_BYTES + expiry + key.len() as u64 + value_len(cell)
        })
        .sum()
}
