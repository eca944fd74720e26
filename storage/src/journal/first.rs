//! Which file a journal begins with, once earlier ones were deleted.
//!
//! **Owns**: the note of it, replaced whole before any file is deleted.
//! **Does not own**: which files may be deleted (`retention`), deleting them (`files`).
//!
//! ```text
//! magic "DOMF" u32 | version u16 | flags u16 | node u64 | first file u64 | crc32 of bytes 0..24
//! ```
//! Little-endian. Without the note a journal begins with file 1, so that a file that is missing is
//! never taken for one that was deleted.

use std::io;
use std::path::Path;

use domicile_proto::NodeId;

use super::FileNumber;
use crate::disk::{Disk, OpenMode};
use crate::error::StoreError;

const NOTE_FILE: &str = "first";
const UNFINISHED_FILE: &str = "first.new";
const MAGIC: [u8; 4] = *b"DOMF";
const VERSION: u16 = 1;
/// Bytes of the note: the layout above.
const NOTE_BYTES: usize = 28;

/// The first file of the journal in `dir`, which is `node`'s.
///
/// # Errors
/// [`StoreError::Corrupt`], [`StoreError::UnknownFormat`], [`StoreError::ForeignNode`]; what the
/// operating system says.
pub(crate) fn read(disk: &dyn Disk, dir: &Path, node: NodeId) -> Result<FileNumber, StoreError> {
    let path = dir.join(NOTE_FILE);
    let read = || {
        let file = disk.open(&path, OpenMode::Read)?;
        let mut bytes = vec![0; file.len()?.min(NOTE_BYTES as u64 + 1) as usize];
        file.read_at(&mut bytes, 0)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) => decode(&bytes, node, &path),
        Err(error) if io::Error::kind(&error) == io::ErrorKind::NotFound => Ok(FileNumber::FIRST),
        Err(error) => Err(StoreError::io("read", &path, error)),
    }
}

/// Notes, durably, that the journal begins with `first`.
///
/// # Errors
/// What the operating system says.
pub(crate) fn write(
    disk: &dyn Disk,
    dir: &Path,
    node: NodeId,
    first: FileNumber,
) -> Result<(), StoreError> {
    let (path, unfinished) = (dir.join(NOTE_FILE), dir.join(UNFINISHED_FILE));
    let write = || {
        match disk.remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = disk.open(&unfinished, OpenMode::CreateNew)?;
        file.write_at(&encode(node, first), 0)?;
        file.sync_all()?;
        disk.rename(&unfinished, &path)?;
        disk.sync_dir(dir)
    };
    write().map_err(|error| StoreError::io("write", &path, error))
}

fn encode(node: NodeId, first: FileNumber) -> [u8; NOTE_BYTES] {
    let mut bytes = [0; NOTE_BYTES];
    bytes[0..4].copy_from_slice(&MAGIC);
    bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
    bytes[8..16].copy_from_slice(&node.get().to_le_bytes());
    bytes[16..24].copy_from_slice(&first.get().to_le_bytes());
    let crc = crc32fast::hash(&bytes[..24]);
    bytes[24..28].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8], node: NodeId, path: &Path) -> Result<FileNumber, StoreError> {
    let corrupt = |problem: String| StoreError::corrupt(path, 0, problem);
    let Ok(bytes) = <[u8; NOTE_BYTES]>::try_from(bytes) else {
        return Err(corrupt(format!(
            "{} bytes instead of {NOTE_BYTES}",
            bytes.len()
        )));
    };
    let u64_at = |at: usize| {
        let mut field = [0; 8];
        field.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(field)
    };
    if bytes[0..4] != MAGIC {
        return Err(corrupt(format!("bad magic {:02x?}", &bytes[0..4])));
    }
    let (stored, computed) = ((u64_at(20) >> 32) as u32, crc32fast::hash(&bytes[..24]));
    if stored != computed {
        return Err(corrupt(format!(
            "checksum mismatch: stored {stored:#010x}, computed {computed:#010x}"
        )));
    }
    let version = u16::from_le_bytes([bytes[4], bytes[5]]);
    if version != VERSION {
        return Err(StoreError::UnknownFormat {
            what: "first journal file",
            path: path.to_owned(),
            actual: version.into(),
            supported: VERSION.into(),
        });
    }
    let actual = NodeId::new(u64_at(8)).map_err(|_| corrupt("written by node 0".to_owned()))?;
    if actual != node {
        return Err(StoreError::ForeignNode {
            path: path.to_owned(),
            actual,
            expected: node,
        });
    }
    match u64_at(16) {
        0 => Err(corrupt("first file 0".to_owned())),
        first => Ok(FileNumber::new(first)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;

    #[test]
    fn a_note_is_read_back_and_every_flipped_bit_is_noticed() {
        let (disk, dir) = (MemoryDisk::new(), Path::new("/journal"));
        disk.create_dir_all(dir).unwrap();
        let node = NodeId::new(7).unwrap();
        assert_eq!(read(&disk, dir, node).unwrap(), FileNumber::FIRST);
        write(&disk, dir, node, FileNumber::new(5)).unwrap();
        write(&disk, dir, node, FileNumber::new(6)).unwrap();
        assert_eq!(read(&disk, dir, node).unwrap(), FileNumber::new(6));
        let foreign = read(&disk, dir, NodeId::new(8).unwrap()).unwrap_err();
        assert!(
            matches!(foreign, StoreError::ForeignNode { .. }),
            "{foreign}"
        );
        let bytes = encode(node, FileNumber::new(6));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped, node, dir).is_err(), "bit {bit}");
        }
        assert!(decode(&bytes[..27], node, dir).is_err());
        assert_eq!(
            bytes[..24],
            *b"DOMF\x01\0\0\0\x07\0\0\0\0\0\0\0\x06\0\0\0\0\0\0\0"
        );
    }
}
