//! The first block of a journal file: who wrote it, and which file it is.
//!
//! **Owns**: the block's layout.
//! **Does not own**: the frames behind it.
//!
//! ```text
//!  0 magic "DJRN"    4 version u16    6 flags u16    8 node id u64    16 file number u64
//! 24 crc32 of bytes 0..24            28 zeros up to 4096
//! ```
//! Little-endian.

use std::path::Path;

use domicile_proto::NodeId;

use super::FileNumber;
use crate::error::StoreError;

const MAGIC: [u8; 4] = *b"DJRN";
const VERSION: u16 = 1;
const WHAT: &str = "journal file";

/// Bytes of the block: one page, so that frames begin at a page and the block is never written
/// again with them.
pub(crate) const FILE_HEADER_BYTES: u64 = 4096;

/// Bytes of it that say anything: the layout above.
const FIELD_BYTES: usize = 28;

/// The block of a file.
pub(crate) fn encode(node: NodeId, number: FileNumber) -> Vec<u8> {
    let mut block = vec![0; FILE_HEADER_BYTES as usize];
    block[0..4].copy_from_slice(&MAGIC);
    block[4..6].copy_from_slice(&VERSION.to_le_bytes());
    block[8..16].copy_from_slice(&node.get().to_le_bytes());
    block[16..24].copy_from_slice(&number.get().to_le_bytes());
    let crc = crc32fast::hash(&block[..24]);
    block[24..28].copy_from_slice(&crc.to_le_bytes());
    block
}

/// Checks that `block` is that of file `number` of node `node`.
///
/// # Errors
/// [`StoreError::Corrupt`] for damage, [`StoreError::UnknownFormat`] and
/// [`StoreError::ForeignNode`] for intact blocks of others.
pub(crate) fn check(
    block: &[u8],
    node: NodeId,
    number: FileNumber,
    path: &Path,
) -> Result<(), StoreError> {
    let corrupt = |problem: String| StoreError::corrupt(path, 0, problem);
    let Some(fields) = block.first_chunk::<FIELD_BYTES>() else {
        return Err(corrupt(format!("file header of {} bytes", block.len())));
    };
    let u64_at = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&fields[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    if fields[0..4] != MAGIC {
        return Err(corrupt(format!(
            "bad magic of the file header: {:02x?}",
            &fields[0..4]
        )));
    }
    let computed = crc32fast::hash(&fields[..24]);
    let stored = (u64_at(20) >> 32) as u32;
    if stored != computed {
        let problem = format!(
            "checksum mismatch of the file header: stored {stored:#010x}, computed {computed:#010x}"
        );
        return Err(corrupt(problem));
    }
    let version = u16::from_le_bytes([fields[4], fields[5]]);
    if version != VERSION {
        return Err(StoreError::UnknownFormat {
            what: WHAT,
            path: path.to_owned(),
            actual: version.into(),
            supported: VERSION.into(),
        });
    }
    let actual = NodeId::new(u64_at(8)).map_err(|_| corrupt("file header of node 0".to_owned()))?;
    if actual != node {
        let path = path.to_owned();
        return Err(StoreError::ForeignNode {
            path,
            actual,
            expected: node,
        });
    }
    if u64_at(16) != number.get() {
        return Err(corrupt(format!(
            "file header of file {}, name of {number}",
            u64_at(16)
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u64) -> NodeId {
        NodeId::new(id).unwrap()
    }

    fn refusal(change: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut block = encode(node(0x0102_0304), FileNumber::new(5));
        change(&mut block);
        check(
            &block,
            node(0x0102_0304),
            FileNumber::new(5),
            Path::new("f"),
        )
        .unwrap_err()
        .to_string()
    }

    fn sign(block: &mut [u8]) {
        let crc = crc32fast::hash(&block[..24]);
        block[24..28].copy_from_slice(&crc.to_le_bytes());
    }

    #[test]
    fn the_layout_is_pinned() {
        let block = encode(node(0x0102_0304), FileNumber::new(5));
        let golden = [
            0x44, 0x4a, 0x52, 0x4e, 1, 0, 0, 0, 4, 3, 2, 1, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0,
            0x86, 0xc8, 0x0a, 0xba,
        ];
        assert_eq!(&block[..28], golden, "{:02x?}", &block[..28]);
        assert_eq!(block.len(), 4096);
        assert!(block[28..].iter().all(|byte| *byte == 0));
        check(
            &block,
            node(0x0102_0304),
            FileNumber::new(5),
            Path::new("f"),
        )
        .unwrap();
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        for bit in 0..FIELD_BYTES * 8 {
            let message = refusal(|block| block[bit / 8] ^= 1 << (bit % 8));
            assert!(
                message.starts_with("corrupt file f at offset 0"),
                "bit {bit}: {message}"
            );
        }
    }

    #[test]
    fn blocks_of_others_are_told_apart_from_damage() {
        let other_node = refusal(|block| {
            block[8] = 9;
            sign(block);
        });
        assert!(
            other_node.contains("written by node n0000000001020309"),
            "{other_node}"
        );
        let newer = refusal(|block| {
            block[4] = 2;
            sign(block);
        });
        assert_eq!(
            newer,
            "unknown version of journal file in f: 2, supported 1"
        );
        let renamed = refusal(|block| {
            block[16] = 6;
            sign(block);
        });
        assert!(
            renamed.ends_with("file header of file 6, name of 5"),
            "{renamed}"
        );
        assert!(refusal(|block| block.truncate(27)).contains("27 bytes"));
    }
}
