//! Who a data directory belongs to.
//!
//! **Owns**: the identity file, minting a node id, the verdict on a directory without one.
//! **Does not own**: the journal whose absence under an identity is corruption (store).
//!
//! ```text
//! magic "DOMI" u32 | version u16 | flags u16 | node id u64 | crc32 of bytes 0..16
//! ```
//! Little-endian. Written last when a directory is made, under another name, then renamed: where it
//! is, everything else has been there.

use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::time::SystemTime;

use domicile_proto::NodeId;

use crate::disk::{self, Disk};
use crate::error::StoreError;

/// The identity file of a data directory.
pub(crate) const IDENTITY_FILE: &str = "identity";
const UNFINISHED_FILE: &str = "identity.new";

const MAGIC: [u8; 4] = *b"DOMI";
const VERSION: u16 = 1;
/// Bytes of the file: the layout above.
const FILE_BYTES: usize = 20;

/// The node that `dir` belongs to; `None` for a directory without an identity.
///
/// # Errors
/// [`StoreError::Corrupt`], [`StoreError::UnknownFormat`]; what the operating system says.
pub(crate) fn read(disk: &dyn Disk, dir: &Path) -> Result<Option<NodeId>, StoreError> {
    let path = dir.join(IDENTITY_FILE);
    let bytes = disk::read_if_there(disk, &path, FILE_BYTES as u64 + 1);
    let bytes = bytes.map_err(|error| StoreError::io("read", &path, error))?;
    bytes.map(|bytes| decode(&bytes, &path)).transpose()
}

/// Gives `dir` to `node`, durably.
///
/// # Errors
/// What the operating system says.
pub(crate) fn write(disk: &dyn Disk, dir: &Path, node: NodeId) -> Result<(), StoreError> {
    disk::replace(disk, dir, IDENTITY_FILE, UNFINISHED_FILE, &encode(node))
        .map_err(|error| StoreError::io("write", &dir.join(IDENTITY_FILE), error))
}

/// A new node id. Random: two nodes must not mint the same one.
pub(crate) fn mint() -> NodeId {
    // The hasher's keys come from the operating system's randomness.
    let seed = (SystemTime::now(), std::process::id());
    let id = RandomState::new().hash_one(seed);
    NodeId::new(id.max(1)).expect("at least 1")
}

/// Refuses a directory without identity that holds anything but what a store leaves behind when it
/// dies before it is made.
///
/// # Errors
/// [`StoreError::NotAStore`]; what the operating system says.
pub(crate) fn check_unused(
    disk: &dyn Disk,
    dir: &Path,
    expected: &[&str],
) -> Result<(), StoreError> {
    let names = disk
        .list(dir)
        .map_err(|error| StoreError::io("list", dir, error))?;
    let foreign = names.iter().find(|name| {
        *name != UNFINISHED_FILE && *name != "lost+found" && !expected.contains(&name.as_str())
    });
    match foreign {
        Some(found) => Err(StoreError::NotAStore {
            path: dir.to_owned(),
            found: found.clone(),
        }),
        None => Ok(()),
    }
}

fn encode(node: NodeId) -> [u8; FILE_BYTES] {
    let mut bytes = [0; FILE_BYTES];
    bytes[0..4].copy_from_slice(&MAGIC);
    bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
    bytes[8..16].copy_from_slice(&node.get().to_le_bytes());
    let crc = crc32fast::hash(&bytes[..16]);
    bytes[16..20].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8], path: &Path) -> Result<NodeId, StoreError> {
    let corrupt = |problem: &str| StoreError::corrupt(path, 0, problem);
    let Ok([m0, m1, m2, m3, v0, v1, _, _, node @ .., c0, c1, c2, c3]) =
        <[u8; FILE_BYTES]>::try_from(bytes)
    else {
        return Err(corrupt("an identity has 20 bytes"));
    };
    if [m0, m1, m2, m3] != MAGIC {
        return Err(corrupt("bad magic of the identity"));
    }
    if u32::from_le_bytes([c0, c1, c2, c3]) != crc32fast::hash(&bytes[..16]) {
        return Err(corrupt("checksum mismatch of the identity"));
    }
    let actual = u32::from(u16::from_le_bytes([v0, v1]));
    if actual != u32::from(VERSION) {
        let (path, supported) = (path.to_owned(), VERSION.into());
        return Err(StoreError::UnknownFormat {
            what: "identity",
            path,
            actual,
            supported,
        });
    }
    NodeId::new(u64::from_le_bytes(node)).map_err(|_| corrupt("identity of node 0"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;

    fn node(id: u64) -> NodeId {
        NodeId::new(id).unwrap()
    }

    #[test]
    fn an_identity_is_there_whole_or_not_at_all() {
        let dir = Path::new("/");
        let disk = MemoryDisk::new();
        assert_eq!(read(&disk, dir).unwrap(), None);
        write(&disk, dir, node(7)).unwrap();
        let operations = disk.operations();
        assert_eq!(read(&disk, dir).unwrap(), Some(node(7)));
        for dies_at in 1..=operations {
            for seed in 0..20 {
                let disk = MemoryDisk::new();
                disk.freeze_at_operation(dies_at);
                write(&disk, dir, node(7)).unwrap_err();
                let after = disk.power_loss(seed);
                let found = read(&after, dir).unwrap();
                assert!(
                    found.is_none_or(|found| found == node(7)),
                    "{dies_at}, seed {seed}"
                );
                check_unused(&after, dir, &[IDENTITY_FILE]).unwrap();
                write(&after, dir, node(8)).unwrap();
                assert_eq!(read(&after, dir).unwrap(), Some(node(8)));
            }
        }
    }

    #[test]
    fn the_layout_is_pinned_and_damage_is_named() {
        let golden = [
            68, 79, 77, 73, 1, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 87, 16, 188, 213,
        ];
        let bytes = encode(node(7));
        assert_eq!(bytes, golden);
        assert_eq!(decode(&bytes, Path::new("i")).unwrap(), node(7));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            let error = decode(&flipped, Path::new("i")).unwrap_err();
            assert!(
                matches!(error, StoreError::Corrupt { .. }),
                "bit {bit}: {error}"
            );
        }
        assert!(decode(&bytes[..19], Path::new("i")).is_err());
    }

    #[test]
    fn a_directory_of_something_else_is_refused() {
        let disk = MemoryDisk::new();
        disk.create_dir_all(Path::new("/photos")).unwrap();
        let error = check_unused(&disk, Path::new("/"), &["journal"])
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "not a data directory: / has no identity file but holds \"photos\""
        );
        check_unused(&disk, Path::new("/"), &["photos"]).unwrap();
    }

    #[test]
    fn minted_ids_differ() {
        assert_ne!(mint(), mint());
    }
}
