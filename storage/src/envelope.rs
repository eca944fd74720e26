//! The outside of a small file that is replaced whole: what it is, whose, and that it is intact.
//!
//! **Owns**: its layout and checks.
//! **Does not own**: what is inside (each file's module), how it is replaced (`disk`).
//!
//! ```text
//! magic u32 | version u16 | zeros u16 | node u64 | content | crc32 of all before
//! ```
//! Little-endian.

use std::path::Path;

use bytes::{Buf, BufMut};
use domicile_proto::NodeId;

use crate::error::StoreError;

/// Bytes around the content: the sum of the layout above.
pub(crate) const ENVELOPE_BYTES: usize = 20;

/// One kind of file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Envelope {
    /// In words.
    pub(crate) what: &'static str,
    pub(crate) magic: [u8; 4],
    pub(crate) version: u16,
}

impl Envelope {
    /// The bytes of the file.
    pub(crate) fn seal(&self, node: NodeId, content: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(ENVELOPE_BYTES + content.len());
        bytes.put_slice(&self.magic);
        bytes.put_u16_le(self.version);
        bytes.put_u16_le(0);
        bytes.put_u64_le(node.get());
        bytes.put_slice(content);
        let crc = crc32fast::hash(&bytes);
        bytes.put_u32_le(crc);
        bytes
    }

    /// The content of a file that is `node`'s.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::UnknownFormat`], [`StoreError::ForeignNode`].
    pub(crate) fn open<'bytes>(
        &self,
        bytes: &'bytes [u8],
        node: NodeId,
        path: &Path,
    ) -> Result<&'bytes [u8], StoreError> {
        let what = self.what;
        let corrupt = |problem: String| StoreError::corrupt(path, 0, problem);
        if bytes.len() < ENVELOPE_BYTES {
            return Err(corrupt(format!("{what} of {} bytes", bytes.len())));
        }
        if bytes[..4] != self.magic {
            return Err(corrupt(format!("bad magic {:02x?}", &bytes[..4])));
        }
        let (mut fields, mut crc) = bytes.split_at(bytes.len() - 4);
        let (stored, computed) = (crc.get_u32_le(), crc32fast::hash(fields));
        if stored != computed {
            return Err(corrupt(format!(
                "checksum mismatch: stored {stored:#010x}, computed {computed:#010x}"
            )));
        }
        fields.advance(4);
        let version = fields.get_u16_le();
        if version != self.version {
            return Err(StoreError::UnknownFormat {
                what,
                path: path.to_owned(),
                actual: version.into(),
                supported: self.version.into(),
            });
        }
        fields.advance(2);
        let actual = NodeId::new(fields.get_u64_le());
        let actual = actual.map_err(|_| corrupt("written by node 0".to_owned()))?;
        if actual != node {
            return Err(StoreError::ForeignNode {
                path: path.to_owned(),
                actual,
                expected: node,
            });
        }
        Ok(fields)
    }
}
