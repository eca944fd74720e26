//! A snapshot that passes by, checked block by block: a damaged one is no backup.
//!
//! **Owns**: that header, blocks and counts are those announced.
//! **Does not own**: the format (`snapshot`), the file.

use bytes::{Buf, Bytes, BytesMut};

use crate::snapshot::{SnapshotBlocks, SnapshotHeader};

/// A snapshot of which the bytes are coming.
pub(super) struct SnapshotCheck {
    expected: SnapshotHeader,
    has_header: bool,
    blocks: SnapshotBlocks,
    rest: BytesMut,
    bytes: u64,
}

impl SnapshotCheck {
    pub(super) fn new(expected: SnapshotHeader) -> Self {
        Self {
            expected,
            has_header: false,
            blocks: SnapshotBlocks::default(),
            rest: BytesMut::new(),
            bytes: 0,
        }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(super) fn take(&mut self, bytes: &Bytes) -> Result<(), String> {
        self.bytes += bytes.len() as u64;
        self.rest.extend_from_slice(bytes);
        if !self.has_header {
            if self.rest.len() < SnapshotBlocks::FIRST {
                return Ok(());
            }
            let header = SnapshotHeader::from_bytes(&self.rest, "snapshot");
            let header = header.map_err(|error| error.to_string())?;
            if header != self.expected {
                return Err(format!("{header:?}, announced was {:?}", self.expected));
            }
            self.rest.advance(SnapshotBlocks::FIRST);
            self.has_header = true;
        }
        while let Some(len) = self.blocks.take(&self.rest)? {
            self.rest.advance(len);
        }
        Ok(())
    }

    /// Whether all of it was there.
    ///
    /// # Errors
    /// What is missing.
    pub(super) fn end(&self) -> Result<(), String> {
        let expected = &self.expected;
        let expected = (expected.file_bytes, expected.blocks, expected.cells);
        let found = (self.bytes, self.blocks.blocks, self.blocks.cells);
        if found != expected {
            return Err(format!(
                "a snapshot's bytes, blocks and cells are {found:?}, announced were {expected:?}"
            ));
        }
        Ok(())
    }
}
