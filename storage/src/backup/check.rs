//! Whether a file is the one that a manifest names.
//!
//! **Owns**: length and checksum of the whole.
//! **Does not own**: what is in it (`restore` reads it).

use std::path::Path;

use super::manifest::BackupFile;
use crate::error::StoreError;

/// The checksum of bytes, as manifests have it.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// A file being read.
#[derive(Debug)]
pub struct FileCheck {
    file: BackupFile,
    hasher: crc32fast::Hasher,
    bytes: u64,
}

impl FileCheck {
    /// Of this file.
    #[must_use]
    pub fn new(file: &BackupFile) -> Self {
        Self {
            file: file.clone(),
            hasher: crc32fast::Hasher::new(),
            bytes: 0,
        }
    }

    /// Takes its next bytes.
    pub fn take(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    /// Whether there are more bytes than there should be.
    pub(super) fn is_too_long(&self) -> bool {
        self.bytes > self.file.bytes
    }

    pub(super) fn name(&self) -> &str {
        &self.file.name
    }

    /// Whether it is the one.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] with its name.
    pub fn end(&self) -> Result<(), StoreError> {
        let name = Path::new(&self.file.name);
        if self.bytes != self.file.bytes {
            let (found, expected) = (self.bytes, self.file.bytes);
            let problem = format!("{found} bytes, {expected} by the manifest");
            return Err(StoreError::corrupt(name, found.min(expected), problem));
        }
        let computed = self.hasher.clone().finalize();
        if computed != self.file.crc32 {
            let problem = format!(
                "checksum mismatch: {:#010x} by the manifest, computed {computed:#010x}",
                self.file.crc32
            );
            return Err(StoreError::corrupt(name, 0, problem));
        }
        Ok(())
    }
}
