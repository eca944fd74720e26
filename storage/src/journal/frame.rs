//! A commit frame: the entries of one group commit behind one header.
//!
//! **Owns**: the header's layout, what an intact frame is.
//! **Does not own**: what damage means (scan), segments (proto), rebases (`rebase`), cuts (`cut`).
//!
//! ```text
//!  0 magic "DCMT"    4 version u16    6 flags u16    8 commit number u64
//! 16 bytes of the entries u32        20 entries u32
//! 24 crc32 of bytes 0..24, node id, file number and offset           28 zeros
//! ```
//! Little-endian. The checksum covers the place as well: a header is valid where it was written and
//! nowhere else, so a copy of a journal inside a value is never taken for the journal.

use bytes::{Buf, Bytes};
use domicile_proto::{NodeId, Segment, SegmentHeader};

use super::Place;
use super::cut::{CUT_MAGIC, Cut};
use super::rebase::{Entry, REBASE_MAGIC, Rebase};
use crate::planted::{Bug, is_planted};

const VERSION: u16 = 1;

/// The first bytes of a frame.
pub(crate) const FRAME_MAGIC: [u8; 4] = *b"DCMT";

/// Bytes of a frame's header: the layout above.
pub(crate) const FRAME_HEADER_BYTES: usize = 32;

/// The number of a group commit. The first is 1; there are no holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CommitNumber(u64);

impl CommitNumber {
    pub(crate) const FIRST: Self = Self(1);

    pub(crate) fn new(number: u64) -> Self {
        Self(number)
    }

    pub(crate) fn get(self) -> u64 {
        self.0
    }

    pub(crate) fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// What a frame says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) number: CommitNumber,
    /// Bytes of the entries.
    pub(crate) len: u32,
    pub(crate) entries: u32,
}

impl FrameHeader {
    pub(crate) fn encode(&self, node: NodeId, place: Place) -> [u8; FRAME_HEADER_BYTES] {
        let mut bytes = [0; FRAME_HEADER_BYTES];
        bytes[0..4].copy_from_slice(&FRAME_MAGIC);
        bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.number.0.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.len.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.entries.to_le_bytes());
        let crc = checksum(&bytes[..24], node, place);
        bytes[24..28].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header; `None` where no frame was ever written.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn decode(
        bytes: &[u8; FRAME_HEADER_BYTES],
        node: NodeId,
        place: Place,
    ) -> Result<Option<Self>, String> {
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if bytes[0..4] != FRAME_MAGIC {
            return Err(format!("bad magic of a frame: {:02x?}", &bytes[0..4]));
        }
        let u32_at = |at: usize| {
            let mut field = [0; 4];
            field.copy_from_slice(&bytes[at..at + 4]);
            u32::from_le_bytes(field)
        };
        let computed = checksum(&bytes[..24], node, place);
        let stored = u32_at(24);
        if stored != computed && !is_planted(Bug::AcceptBadChecksum) {
            return Err(format!(
                "checksum mismatch of a frame header: stored {stored:#010x}, computed \
                 {computed:#010x}"
            ));
        }
        let (version, flags) = (u32_at(4) & 0xffff, u32_at(4) >> 16);
        if version != u32::from(VERSION) {
            return Err(format!(
                "unknown version of a frame: {version}, supported {VERSION}"
            ));
        }
        if flags != 0 || u32_at(28) != 0 {
            return Err(format!(
                "flags {flags:#x} and spare {:#x} of a frame set",
                u32_at(28)
            ));
        }
        let number = CommitNumber(u64::from(u32_at(8)) | u64::from(u32_at(12)) << 32);
        Ok(Some(Self {
            number,
            len: u32_at(16),
            entries: u32_at(20),
        }))
    }
}

fn checksum(fields: &[u8], node: NodeId, place: Place) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(fields);
    hasher.update(&node.get().to_le_bytes());
    hasher.update(&place.to_bytes());
    hasher.finalize()
}

/// A whole frame whose checksums hold.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) place: Place,
    pub(crate) number: CommitNumber,
    /// With their places; they share one allocation of [`Frame::buffer_bytes`].
    pub(crate) entries: Vec<(Place, Entry)>,
    pub(crate) buffer_bytes: usize,
    /// Where the next frame begins.
    pub(crate) end: Place,
}

/// Takes the entries of a frame off `body`, which is all of it.
///
/// # Errors
/// How far into the body the damage lies, and what it is.
pub(crate) fn decode_entries(
    header: &FrameHeader,
    place: Place,
    mut body: Bytes,
) -> Result<Vec<(Place, Entry)>, (u64, String)> {
    let whole = body.len();
    let mut entries = Vec::with_capacity((header.entries as usize).min(1024));
    for _ in 0..header.entries {
        let at = (whole - body.len()) as u64;
        let entry = decode_entry(&mut body).map_err(|problem| (at, problem))?;
        let offset = place.offset + FRAME_HEADER_BYTES as u64 + at;
        entries.push((Place { offset, ..place }, entry));
    }
    if !body.is_empty() {
        let at = (whole - body.len()) as u64;
        return Err((
            at,
            format!("{} bytes after the last entry of a frame", body.len()),
        ));
    }
    Ok(entries)
}

/// A segment that is damaged: where, which, how.
pub(crate) type Lost = (Place, SegmentHeader, String);

/// What is left of a damaged frame, and what is not.
pub(crate) type Salvaged = (Vec<(Place, Entry)>, Vec<Lost>);

/// The entries of a damaged frame that are intact, and those that are not; `None` if not even the
/// headers of all of them are.
pub(crate) fn salvage_entries(
    header: &FrameHeader,
    place: Place,
    mut body: Bytes,
) -> Option<Salvaged> {
    let whole = body.len();
    let (mut entries, mut lost) = (Vec::new(), Vec::new());
    for _ in 0..header.entries {
        let at = (whole - body.len()) as u64;
        let offset = place.offset + FRAME_HEADER_BYTES as u64 + at;
        let place = Place { offset, ..place };
        match decode_entry(&mut body) {
            Ok(entry) => entries.push((place, entry)),
            Err(problem) => {
                let header = SegmentHeader::decode(&body).ok()?;
                let len = header.segment_len();
                (len <= body.len()).then(|| body.advance(len))?;
                lost.push((place, header, problem));
            }
        }
    }
    body.is_empty().then_some((entries, lost))
}

/// Takes one entry off the front of `bytes`.
fn decode_entry(bytes: &mut Bytes) -> Result<Entry, String> {
    if bytes.starts_with(&REBASE_MAGIC) {
        return Rebase::decode_front(bytes).map(Entry::Rebase);
    }
    if bytes.starts_with(&CUT_MAGIC) {
        return Cut::decode_front(bytes).map(Entry::Cut);
    }
    let segment = Segment::decode_front(bytes);
    segment
        .map(Entry::Segment)
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::FileNumber;

    const PLACE: Place = Place {
        file: FileNumber::new(3),
        offset: 4096,
    };

    fn node() -> NodeId {
        NodeId::new(0x0102_0304).unwrap()
    }

    fn header() -> FrameHeader {
        FrameHeader {
            number: CommitNumber(0x1_0000_0007),
            len: 500,
            entries: 2,
        }
    }

    #[test]
    fn the_layout_is_pinned() {
        let bytes = header().encode(node(), PLACE);
        let golden = [
            0x44, 0x43, 0x4d, 0x54, 1, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 0xf4, 1, 0, 0, 2, 0, 0, 0,
            0x1b, 0x3d, 0x30, 0x0d, 0, 0, 0, 0,
        ];
        assert_eq!(bytes, golden, "{bytes:02x?}");
        assert_eq!(
            FrameHeader::decode(&bytes, node(), PLACE),
            Ok(Some(header()))
        );
        assert_eq!(FrameHeader::decode(&[0; 32], node(), PLACE), Ok(None));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = header().encode(node(), PLACE);
        for bit in 0..FRAME_HEADER_BYTES * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            let decoded = FrameHeader::decode(&flipped, node(), PLACE);
            assert!(decoded.is_err(), "bit {bit}: {decoded:?}");
        }
    }

    #[test]
    fn a_header_is_valid_only_where_it_was_written() {
        let bytes = header().encode(node(), PLACE);
        let elsewhere = Place {
            offset: 8192,
            ..PLACE
        };
        assert!(FrameHeader::decode(&bytes, node(), elsewhere).is_err());
        let other_file = Place {
            file: FileNumber::new(4),
            ..PLACE
        };
        assert!(FrameHeader::decode(&bytes, node(), other_file).is_err());
        assert!(FrameHeader::decode(&bytes, NodeId::new(9).unwrap(), PLACE).is_err());
    }
}
