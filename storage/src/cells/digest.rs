//! One number for all cells of a partition, to be compared with that of another copy.
//!
//! **Owns**: what goes into it, that it is of one position.
//! **Does not own**: when it is made and with whose it is compared (the node).

use std::ops::Bound;

use bytes::{BufMut, Bytes, BytesMut};
use domicile_proto::Seq;
use domicile_proto::hash::hash64;

use super::cell::Cell;
use super::partition::PartitionCells;
use crate::engine::{Direction, EngineError};

/// Rows read at once: about a millisecond. Doubled, a fold waits twice as long for a page.
const PAGE_ROWS: usize = 512;

impl PartitionCells {
    /// The hash of every key with its cell, in key order, and the position it is of; `None` if
    /// records were applied meanwhile, or `pace`, which is told the rows so far, said to stop.
    /// Equal at every copy that has applied as much.
    ///
    /// # Errors
    /// [`EngineError`] if the engine failed.
    ///
    /// # Panics
    /// As [`PartitionCells::enqueued_upto`].
    pub fn digest(
        &self,
        pace: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Option<(Seq, u64)>, EngineError> {
        let seq = self.applied_upto();
        let (mut digest, mut rows) = (0_u64, 0_u64);
        let mut after: Option<Bytes> = None;
        let mut buffer = BytesMut::new();
        loop {
            let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            let page = self.scan(from, Bound::Unbounded, Direction::Forward, PAGE_ROWS)?;
            if page.applied_upto != seq {
                return Ok(None);
            }
            for (key, cell) in &page.rows {
                buffer.clear();
                buffer.put_u64_le(digest);
                buffer.put_u32_le(key.len() as u32);
                buffer.put_slice(key);
                put_cell(&mut buffer, cell);
                digest = hash64(&buffer);
            }
            rows += page.rows.len() as u64;
            if !pace(rows) {
                return Ok(None);
            }
            match page.resume_after {
                Some(last) => after = Some(last),
                None => return Ok(Some((seq, digest))),
            }
        }
    }
}

/// What a digest has of a cell, however rows are laid out: copies of two versions of Domicile must
/// not differ by that. Fixed for ever.
fn put_cell(buffer: &mut BytesMut, cell: &Cell) {
    buffer.put_u8(cell.expires_at_ms.is_some().into());
    buffer.put_u32_le(cell.version.generation);
    buffer.put_u64_le(cell.version.epoch.counter);
    buffer.put_u64_le(cell.version.epoch.node.get());
    buffer.put_u64_le(cell.version.seq.get());
    buffer.put_u64_le(cell.hlc.bits());
    if let Some(expires_at_ms) = cell.expires_at_ms {
        buffer.put_u64_le(expires_at_ms);
    }
    buffer.put_slice(cell.value.as_deref().unwrap_or_default());
}
