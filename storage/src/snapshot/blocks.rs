//! The blocks of a snapshot in bytes that pass by.
//!
//! **Owns**: taking one after the other, counting what is in them.
//! **Does not own**: their format (`format`), reading a file of them (`file`).

use bytes::Bytes;

use super::format::{BLOCK_HEADER_BYTES, Block, BlockHead, HEADER_BYTES};

/// What was found so far.
#[derive(Debug, Default)]
pub(crate) struct SnapshotBlocks {
    pub(crate) blocks: u64,
    pub(crate) cells: u64,
}

impl SnapshotBlocks {
    /// Bytes before the first block.
    pub(crate) const FIRST: usize = HEADER_BYTES as usize;

    /// Checks the block at the front of `bytes`; how many bytes it has, or `None` if it is not
    /// whole.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<Option<usize>, String> {
        if bytes.len() < BLOCK_HEADER_BYTES {
            return Ok(None);
        }
        let head = BlockHead::decode(bytes)?;
        let end = BLOCK_HEADER_BYTES + head.payload_bytes();
        let Some(payload) = bytes.get(BLOCK_HEADER_BYTES..end) else {
            return Ok(None);
        };
        let block = head.decode_payload(&Bytes::copy_from_slice(payload))?;
        if let Block::Cells(cells) = &block {
            self.cells += cells.len() as u64;
        }
        self.blocks += 1;
        Ok(Some(end))
    }
}
