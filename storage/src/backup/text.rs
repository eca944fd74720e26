//! The values of a manifest, one after the other.
//!
//! **Owns**: how a text, a list and a position lie in its bytes; that none is longer than allowed.
//! **Does not own**: what they mean (`manifest`).

use bytes::{Buf, BufMut};
use domicile_proto::{ChainHash, Epoch, Name, NodeId, PartitionId, Seq};

/// Longest text that is believed: far above any name or policy. Doubled, damage costs as much
/// more memory before it is noticed.
const TEXT_BYTES_MAX: usize = 16 << 10;

pub(super) fn put_text(buffer: &mut Vec<u8>, text: &str) {
    assert!(text.len() <= TEXT_BYTES_MAX, "text of {} bytes", text.len());
    buffer.put_u16_le(text.len() as u16);
    buffer.put_slice(text.as_bytes());
}

pub(super) fn put_epoch(buffer: &mut Vec<u8>, epoch: Epoch) {
    buffer.put_u64_le(epoch.counter);
    buffer.put_u64_le(epoch.node.get());
}

/// What is left of the bytes. Every value is `None` where it is not there, or cannot be.
pub(super) struct Values<'a>(pub(super) &'a [u8]);

impl Values<'_> {
    pub(super) fn u16(&mut self) -> Option<u16> {
        self.0.try_get_u16_le().ok()
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.0.try_get_u32_le().ok()
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.0.try_get_u64_le().ok()
    }

    pub(super) fn seq(&mut self) -> Option<Seq> {
        self.u64().map(Seq::new)
    }

    pub(super) fn chain(&mut self) -> Option<ChainHash> {
        self.u64().map(ChainHash::from_bits)
    }

    pub(super) fn node(&mut self) -> Option<NodeId> {
        NodeId::new(self.u64()?).ok()
    }

    pub(super) fn epoch(&mut self) -> Option<Epoch> {
        let counter = self.u64()?;
        let node = self.node()?;
        Some(Epoch { counter, node })
    }

    pub(super) fn partition(&mut self) -> Option<PartitionId> {
        let mut bytes = [0; PartitionId::BYTES];
        self.0.try_copy_to_slice(&mut bytes).ok()?;
        PartitionId::from_bytes(bytes).ok()
    }

    pub(super) fn text(&mut self) -> Option<String> {
        let len = usize::from(self.u16()?);
        let bytes = self.0.get(..len).filter(|_| len <= TEXT_BYTES_MAX)?;
        let text = str::from_utf8(bytes).ok()?.to_owned();
        self.0.advance(len);
        Some(text)
    }

    pub(super) fn name(&mut self) -> Option<Name> {
        Name::new(self.text()?).ok()
    }

    /// As many as a count says that comes first, each of at least `bytes_min`.
    pub(super) fn list<T>(
        &mut self,
        bytes_min: usize,
        mut each: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        let count = self.u32()? as usize;
        let fits = count <= self.0.len() / bytes_min;
        fits.then_some(())?;
        (0..count).map(|_| each(self)).collect()
    }
}
