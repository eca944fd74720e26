//! The file of the control plane's snapshot, replaced whole.
//!
//! **Owns**: its bytes, reading and replacing it.
//! **Does not own**: what is in it, when one is taken (consensus).
//!
//! ```text
//! envelope of magic "DCLS" around: bytes of the head u32 | head | state
//! ```
//! Little-endian.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use domicile_proto::NodeId;

use crate::disk::{self, Disk, OpenMode};
use crate::envelope::{ENVELOPE_BYTES, Envelope};
use crate::error::StoreError;

pub(super) const SNAPSHOT_FILE: &str = "snapshot";
const UNFINISHED_FILE: &str = "snapshot.new";
const ENVELOPE: Envelope = Envelope {
    what: "control snapshot",
    magic: *b"DCLS",
    version: 1,
};

/// Largest snapshot, head and state: 64 MiB, a hundred thousand partitions with room to spare. It
/// is held in memory whole, here and by whoever it is sent to.
pub const SNAPSHOT_BYTES_MAX: usize = 64 << 20;

/// A state of the control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlSnapshot {
    /// Up to which entry, and among which members; in the words of whoever took it.
    pub head: Bytes,
    /// The state.
    pub state: Bytes,
}

/// The snapshot of one control log.
#[derive(Debug, Clone)]
pub struct Snapshots {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    pub(super) node: NodeId,
}

impl Snapshots {
    /// Its file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.dir.join(SNAPSHOT_FILE)
    }

    /// The last one that was written; `None` before the first.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] and its kin; what the operating system says.
    pub fn read(&self) -> Result<Option<ControlSnapshot>, StoreError> {
        let path = self.dir.join(SNAPSHOT_FILE);
        let io = |error| StoreError::io("read", &path, error);
        let len = match self.disk.open(&path, OpenMode::Read) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            opened => opened.and_then(|file| file.len()).map_err(io)?,
        };
        let limit = (SNAPSHOT_BYTES_MAX + ENVELOPE_BYTES + 4) as u64;
        if len > limit {
            let problem = format!("snapshot too large: {len} bytes, limit {limit}");
            return Err(StoreError::corrupt(&path, 0, problem));
        }
        let Some(bytes) = disk::read_if_there(&*self.disk, &path, limit).map_err(io)? else {
            return Ok(None);
        };
        let mut content = ENVELOPE.open(&bytes, self.node, &path)?;
        let corrupt = |problem: String| StoreError::corrupt(&path, 0, problem);
        let head_bytes = content.try_get_u32_le().unwrap_or(u32::MAX) as usize;
        let (head, state) = content
            .split_at_checked(head_bytes)
            .ok_or_else(|| corrupt(format!("head of {head_bytes} bytes in {}", content.len())))?;
        Ok(Some(ControlSnapshot {
            head: Bytes::copy_from_slice(head),
            state: Bytes::copy_from_slice(state),
        }))
    }

    /// Replaces it: durable when this returns.
    ///
    /// # Errors
    /// [`StoreError::ControlTooLarge`]; what the operating system says: the old one is then still
    /// there.
    pub fn write(&self, snapshot: &ControlSnapshot) -> Result<(), StoreError> {
        let bytes = snapshot.head.len() + snapshot.state.len();
        if bytes > SNAPSHOT_BYTES_MAX {
            return Err(StoreError::ControlTooLarge {
                what: "control snapshot",
                actual: bytes,
                limit: SNAPSHOT_BYTES_MAX,
            });
        }
        let mut content = Vec::with_capacity(4 + bytes);
        content.put_u32_le(snapshot.head.len() as u32);
        content.put_slice(&snapshot.head);
        content.put_slice(&snapshot.state);
        let sealed = ENVELOPE.seal(self.node, &content);
        disk::replace(
            &*self.disk,
            &self.dir,
            SNAPSHOT_FILE,
            UNFINISHED_FILE,
            &sealed,
        )
        .map_err(|error| StoreError::io("write", &self.dir.join(SNAPSHOT_FILE), error))
    }
}
