//! Which file a journal begins with, once earlier ones were deleted.
//!
//! **Owns**: the note of it, replaced whole before any file is deleted.
//! **Does not own**: which files may be deleted (`retention`), deleting them (`files`).
//!
//! ```text
//! magic "DOMF" u32 | version u16 | flags u16 | node u64 | first file u64 | snapshots u32
//! | per snapshot: partition (8), seq u64 | crc32 of all before
//! ```
//! Little-endian. Without the note a journal begins with file 1, so that a file that is missing is
//! never taken for one that was deleted. It names the snapshots for which the journal was cut: one
//! that is missing is no empty partition.

use std::path::Path;

use bytes::{Buf, BufMut};
use domicile_proto::{NodeId, PartitionId, Seq};

use super::FileNumber;
use crate::disk::{self, Disk};
use crate::envelope::Envelope;
use crate::error::StoreError;

const NOTE_FILE: &str = "first";
const UNFINISHED_FILE: &str = "first.new";
const ENVELOPE: Envelope = Envelope {
    what: "first journal file",
    magic: *b"DOMF",
    version: 1,
};
/// Bytes of the content before the snapshots: the layout above.
const HEAD_BYTES: usize = 12;
/// Bytes of each: the layout above.
const SNAPSHOT_BYTES: usize = 16;

/// Longest note that is believed: a million partitions. Doubled, a damaged length takes twice the
/// memory before it is noticed.
const NOTE_BYTES_MAX: u64 = 16 << 20;

/// How a journal was cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CutNote {
    /// The first file.
    pub(crate) first: FileNumber,
    /// A snapshot of each of these partitions has every record up to here.
    pub(crate) covered: Vec<(PartitionId, Seq)>,
}

impl CutNote {
    /// A journal that was never cut.
    fn none() -> Self {
        Self {
            first: FileNumber::FIRST,
            covered: Vec::new(),
        }
    }
}

/// How the journal in `dir`, which is `node`'s, was cut.
///
/// # Errors
/// [`StoreError::Corrupt`], [`StoreError::UnknownFormat`], [`StoreError::ForeignNode`]; what the
/// operating system says.
pub(crate) fn read(disk: &dyn Disk, dir: &Path, node: NodeId) -> Result<CutNote, StoreError> {
    let path = dir.join(NOTE_FILE);
    let bytes = disk::read_if_there(disk, &path, NOTE_BYTES_MAX);
    match bytes.map_err(|error| StoreError::io("read", &path, error))? {
        Some(bytes) => decode(&bytes, node, &path),
        None => Ok(CutNote::none()),
    }
}

/// Notes, durably, how the journal is cut.
///
/// # Errors
/// What the operating system says.
pub(crate) fn write(
    disk: &dyn Disk,
    dir: &Path,
    node: NodeId,
    note: &CutNote,
) -> Result<(), StoreError> {
    disk::replace(disk, dir, NOTE_FILE, UNFINISHED_FILE, &encode(node, note))
        .map_err(|error| StoreError::io("write", &dir.join(NOTE_FILE), error))
}

fn encode(node: NodeId, note: &CutNote) -> Vec<u8> {
    let mut content = Vec::with_capacity(HEAD_BYTES + SNAPSHOT_BYTES * note.covered.len());
    content.put_u64_le(note.first.get());
    content.put_u32_le(note.covered.len() as u32);
    for (partition, seq) in &note.covered {
        content.put_slice(&partition.to_bytes());
        content.put_u64_le(seq.get());
    }
    ENVELOPE.seal(node, &content)
}

fn decode(bytes: &[u8], node: NodeId, path: &Path) -> Result<CutNote, StoreError> {
    let corrupt = |problem: String| StoreError::corrupt(path, 0, problem);
    let mut fields = ENVELOPE.open(bytes, node, path)?;
    if fields.len() < HEAD_BYTES {
        return Err(corrupt(format!("note of {} bytes", bytes.len())));
    }
    let (first, count) = (fields.get_u64_le(), fields.get_u32_le() as usize);
    if first == 0 || fields.len() != SNAPSHOT_BYTES * count {
        let left = fields.len();
        return Err(corrupt(format!(
            "first file {first}, {count} snapshots in {left} bytes"
        )));
    }
    let mut covered = Vec::with_capacity(count);
    for _ in 0..count {
        let mut partition = [0; PartitionId::BYTES];
        fields.copy_to_slice(&mut partition);
        let partition = PartitionId::from_bytes(partition);
        let partition = partition.map_err(|error| corrupt(error.to_string()))?;
        covered.push((partition, Seq::new(fields.get_u64_le())));
    }
    Ok(CutNote {
        first: FileNumber::new(first),
        covered,
    })
}

#[cfg(test)]
mod tests {
    use domicile_proto::{Bucket, KeyspaceId, RegionId};
    use proptest::prelude::*;

    use super::*;
    use crate::disk::MemoryDisk;

    proptest! {
        /// Whoever can write a checksum can write anything before it.
        #[test]
        fn no_bytes_make_the_decoder_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            count in 0..4_u32,
        ) {
            let (node, path) = (NodeId::new(7).unwrap(), Path::new("/first"));
            let _ = decode(&bytes, node, path);
            let content = [&6_u64.to_le_bytes()[..], &count.to_le_bytes(), &bytes].concat();
            let note = ENVELOPE.seal(node, &content);
            if let Ok(note) = decode(&note, node, path) {
                prop_assert_eq!(note.covered.len(), count as usize);
            }
        }
    }

    #[test]
    fn a_note_is_read_back_and_every_flipped_bit_is_noticed() {
        let (disk, dir) = (MemoryDisk::new(), Path::new("/journal"));
        disk.create_dir_all(dir).unwrap();
        let node = NodeId::new(7).unwrap();
        assert_eq!(read(&disk, dir, node).unwrap(), CutNote::none());
        let partition = PartitionId {
            keyspace: KeyspaceId::new(1),
            region: RegionId::new(2).unwrap(),
            bucket: Bucket::new(3),
        };
        let note = CutNote {
            first: FileNumber::new(6),
            covered: vec![(partition, Seq::new(5))],
        };
        let older = CutNote {
            first: FileNumber::new(5),
            covered: Vec::new(),
        };
        write(&disk, dir, node, &older).unwrap();
        write(&disk, dir, node, &note).unwrap();
        assert_eq!(read(&disk, dir, node).unwrap(), note);
        let foreign = read(&disk, dir, NodeId::new(8).unwrap()).unwrap_err();
        assert!(
            matches!(foreign, StoreError::ForeignNode { .. }),
            "{foreign}"
        );
        let bytes = encode(node, &note);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped, node, dir).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len], node, dir).is_err(), "cut at {len}");
        }
        let golden = [
            &b"DOMF\x01\0\0\0\x07\0\0\0\0\0\0\0\x06\0\0\0\0\0\0\0\x01\0\0\0"[..],
            &partition.to_bytes(),
            &5_u64.to_le_bytes(),
        ];
        assert_eq!(bytes[..44], golden.concat());
    }
}
