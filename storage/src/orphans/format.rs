//! An orphan file as bytes: what its header says.
//!
//! **Owns**: the layout of the header, every check of it, the names of the files.
//! **Does not own**: the segments behind it (proto), writing (`seal`) and reading (`reader`) them.
//!
//! ```text
//! header, 4096 bytes:
//!   magic "DOMO" u32 | version u16 | zeros u16 | node u64 | partition (8) | number u64
//!   | fork: epoch counter u64, epoch node u64 (both 0: no shared record), seq u64, chain u64
//!   | last seq u64 | last chain u64 | superseded by: epoch counter u64, epoch node u64
//!   | sealed at, ms since 1970, u64 | segments u64 | records u64 | bytes of the file u64
//!   | crc32 of all before | zeros
//! then the segments, byte for byte as they were in the journal
//! ```
//! Little-endian. The header is written last: a file without one was never finished. Each segment
//! has its own checksums and continues the one before it by its chain hash, the first the fork.

use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut, BytesMut};
use domicile_proto::{ChainHash, Epoch, NodeId, PartitionId, Seq};

use crate::error::StoreError;
use crate::journal::OrphanNumber;
use crate::snapshot::hex_of;

const WHAT: &str = "orphan file";
const MAGIC: [u8; 4] = *b"DOMO";
const VERSION: u16 = 1;

/// Bytes before the first segment: a whole page, so that writing the header tears no segment.
pub(super) const HEADER_BYTES: u64 = 4096;
/// Bytes of the header's fields before their checksum: the sum of the layout above.
const FIELD_BYTES: usize = 128;

/// The directory of orphans in a data directory.
pub(crate) const ORPHAN_DIR: &str = "orphans";
const SUFFIX: &str = ".orphans";
const DECISIONS_SUFFIX: &str = ".decisions";
const SEALED_SUFFIX: &str = ".sealed";
const SEALING_SUFFIX: &str = ".sealing";

/// The end of what two logs share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrphanFork {
    /// The reign of the last shared record; `None` if not one is shared.
    pub epoch: Option<Epoch>,
    /// The last shared record.
    pub seq: Seq,
    /// The hash over the history up to it.
    pub chain: ChainHash,
}

/// What an orphan file holds: all that one cut took from one partition's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrphanFile {
    /// Whose directory it is in.
    pub node: NodeId,
    /// Whose records.
    pub partition: PartitionId,
    /// Which file of the partition.
    pub number: OrphanNumber,
    /// After which record the log was cut.
    pub fork: OrphanFork,
    /// The last record.
    pub last_seq: Seq,
    /// The hash over the history up to it.
    pub last_chain: ChainHash,
    /// The reign for which the log was cut.
    pub superseded_by: Epoch,
    /// When it was sealed, in ms since 1970, by the caller's clock.
    pub sealed_at_ms: u64,
    /// Segments in it.
    pub segments: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of the whole file.
    pub file_bytes: u64,
}

impl OrphanFile {
    /// The first record.
    #[must_use]
    pub fn first_seq(&self) -> Seq {
        self.fork.seq.next()
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut buffer = BytesMut::with_capacity(HEADER_BYTES as usize);
        buffer.put_slice(&MAGIC);
        buffer.put_u16_le(VERSION);
        buffer.put_u16_le(0);
        buffer.put_u64_le(self.node.get());
        buffer.put_slice(&self.partition.to_bytes());
        buffer.put_u64_le(self.number.get());
        let fork_epoch = self.fork.epoch;
        buffer.put_u64_le(fork_epoch.map_or(0, |epoch| epoch.counter));
        buffer.put_u64_le(fork_epoch.map_or(0, |epoch| epoch.node.get()));
        buffer.put_u64_le(self.fork.seq.get());
        buffer.put_u64_le(self.fork.chain.bits());
        buffer.put_u64_le(self.last_seq.get());
        buffer.put_u64_le(self.last_chain.bits());
        buffer.put_u64_le(self.superseded_by.counter);
        buffer.put_u64_le(self.superseded_by.node.get());
        buffer.put_u64_le(self.sealed_at_ms);
        buffer.put_u64_le(self.segments);
        buffer.put_u64_le(self.records);
        buffer.put_u64_le(self.file_bytes);
        assert!(buffer.len() == FIELD_BYTES, "{} bytes", buffer.len());
        let crc = crc32fast::hash(&buffer);
        buffer.put_u32_le(crc);
        buffer.resize(HEADER_BYTES as usize, 0);
        buffer.to_vec()
    }

    /// The inverse of [`OrphanFile::encode`].
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] for damage, [`StoreError::UnknownFormat`] for another version.
    pub(super) fn decode(bytes: &[u8], path: &Path) -> Result<Self, StoreError> {
        let corrupt = |problem: String| StoreError::corrupt(path, 0, problem);
        let Some(fields) = bytes.first_chunk::<{ FIELD_BYTES + 4 }>() else {
            return Err(corrupt(format!("{WHAT} header of {} bytes", bytes.len())));
        };
        if fields[..4] != MAGIC {
            let problem = format!("bad magic of the {WHAT} header: {:02x?}", &fields[..4]);
            return Err(corrupt(problem));
        }
        let (fields, mut crc) = fields.split_at(FIELD_BYTES);
        let (stored, computed) = (crc.get_u32_le(), crc32fast::hash(fields));
        if stored != computed {
            return Err(corrupt(format!(
                "checksum mismatch of the {WHAT} header: stored {stored:#010x}, computed \
                 {computed:#010x}"
            )));
        }
        let mut fields = &fields[4..];
        let version = fields.get_u16_le();
        if version != VERSION {
            return Err(StoreError::UnknownFormat {
                what: WHAT,
                path: path.to_owned(),
                actual: version.into(),
                supported: VERSION.into(),
            });
        }
        Self::decode_fields(fields).ok_or_else(|| {
            corrupt(format!(
                "{WHAT} header whose checksum holds and whose fields do not"
            ))
        })
    }

    /// The fields behind the version; `None` if they contradict each other.
    fn decode_fields(mut fields: &[u8]) -> Option<Self> {
        let zeros = fields.get_u16_le();
        let node = NodeId::new(fields.get_u64_le()).ok()?;
        let mut partition = [0; PartitionId::BYTES];
        fields.copy_to_slice(&mut partition);
        let partition = PartitionId::from_bytes(partition).ok()?;
        let number = OrphanNumber::new(fields.get_u64_le())?;
        let epoch = match (fields.get_u64_le(), fields.get_u64_le()) {
            (0, 0) => None,
            (counter, node) => Some(Epoch {
                counter,
                node: NodeId::new(node).ok()?,
            }),
        };
        let fork = OrphanFork {
            epoch,
            seq: Seq::new(fields.get_u64_le()),
            chain: ChainHash::from_bits(fields.get_u64_le()),
        };
        let (last_seq, last_chain) = (Seq::new(fields.get_u64_le()), fields.get_u64_le());
        let counter = fields.get_u64_le();
        let file = Self {
            node,
            partition,
            number,
            fork,
            last_seq,
            last_chain: ChainHash::from_bits(last_chain),
            superseded_by: Epoch {
                counter,
                node: NodeId::new(fields.get_u64_le()).ok()?,
            },
            sealed_at_ms: fields.get_u64_le(),
            segments: fields.get_u64_le(),
            records: fields.get_u64_le(),
            file_bytes: fields.get_u64_le(),
        };
        let is_whole = zeros == 0 && fork.seq < last_seq && last_seq < Seq::new(u64::MAX);
        let counts = file.records == last_seq.since(fork.seq) && file.segments <= file.records;
        let shares = (fork.seq > Seq::NONE) == fork.epoch.is_some();
        (is_whole && counts && shares).then_some(file)
    }
}

/// An orphan file of a partition.
pub(super) fn path_of(dir: &Path, partition: PartitionId, number: OrphanNumber) -> PathBuf {
    named(dir, partition, &format!("-{:010}{SUFFIX}", number.get()))
}

/// What was decided of its records.
pub(super) fn decisions_path_of(
    dir: &Path,
    partition: PartitionId,
    number: OrphanNumber,
) -> PathBuf {
    let suffix = format!("-{:010}{DECISIONS_SUFFIX}", number.get());
    named(dir, partition, &suffix)
}

/// A tail of a partition that is about to be cut.
pub(super) fn sealed_path_of(dir: &Path, partition: PartitionId) -> PathBuf {
    named(dir, partition, SEALED_SUFFIX)
}

/// A tail of a partition that is being sealed.
pub(super) fn sealing_path_of(dir: &Path, partition: PartitionId) -> PathBuf {
    named(dir, partition, SEALING_SUFFIX)
}

fn named(dir: &Path, partition: PartitionId, suffix: &str) -> PathBuf {
    dir.join(format!("{}{suffix}", hex_of(partition)))
}

/// Of which partition and number a file is, by its name; `None` if it is no orphan file's.
pub(super) fn of_name(name: &str) -> Option<(PartitionId, OrphanNumber)> {
    let (hex, number) = name.strip_suffix(SUFFIX)?.split_once('-')?;
    let number = OrphanNumber::new(number.parse().ok()?)?;
    let partition = of_hex(hex)?;
    let path = path_of(Path::new(""), partition, number);
    (path.to_str() == Some(name)).then_some((partition, number))
}

/// The partition with this text in names; `None` if it is no partition's.
pub(super) fn of_hex(hex: &str) -> Option<PartitionId> {
    let is_hex = hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_hex || hex.len() != 2 * PartitionId::BYTES {
        return None;
    }
    let mut bytes = [0; PartitionId::BYTES];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    PartitionId::from_bytes(bytes).ok()
}

#[cfg(test)]
mod tests {
    use domicile_proto::{Bucket, KeyspaceId, RegionId};
    use proptest::prelude::*;

    use super::*;

    fn file() -> OrphanFile {
        let epoch = |counter, node| Epoch {
            counter,
            node: NodeId::new(node).unwrap(),
        };
        OrphanFile {
            node: NodeId::new(7).unwrap(),
            partition: PartitionId {
                keyspace: KeyspaceId::new(1),
                region: RegionId::new(2).unwrap(),
                bucket: Bucket::new(3),
            },
            number: OrphanNumber::FIRST,
            fork: OrphanFork {
                epoch: Some(epoch(4, 5)),
                seq: Seq::new(0x0102),
                chain: ChainHash::from_bits(0x0a0b),
            },
            last_seq: Seq::new(0x0105),
            last_chain: ChainHash::from_bits(0x0c0d),
            superseded_by: epoch(6, 8),
            sealed_at_ms: 0x1112,
            segments: 2,
            records: 3,
            file_bytes: 0x2122,
        }
    }

    #[test]
    fn the_layout_is_pinned() {
        let numbers = |numbers: &[u64]| -> Vec<u8> {
            let bytes = numbers.iter().flat_map(|number| number.to_le_bytes());
            bytes.collect()
        };
        let golden = [
            &b"DOMO\x01\0\0\0\x07\0\0\0\0\0\0\0\0\0\0\x01\0\x02\0\x03"[..],
            &numbers(&[1, 4, 5, 0x0102, 0x0a0b, 0x0105, 0x0c0d, 6, 8]),
            &numbers(&[0x1112, 2, 3, 0x2122]),
            &[0x2d, 0xb4, 0x10, 0x8b],
        ];
        let bytes = file().encode();
        assert_eq!(bytes[..132], golden.concat(), "{:02x?}", &bytes[128..132]);
        assert_eq!(bytes.len() as u64, HEADER_BYTES);
        assert!(bytes[132..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_header_comes_back_and_every_flipped_bit_is_noticed() {
        let none = OrphanFork {
            epoch: None,
            seq: Seq::NONE,
            chain: ChainHash::START,
        };
        let nothing_shared = OrphanFile {
            fork: none,
            records: 0x0105,
            ..file()
        };
        let path = Path::new("/orphans");
        for file in [file(), nothing_shared] {
            let bytes = file.encode();
            assert_eq!(OrphanFile::decode(&bytes, path).unwrap(), file);
            for bit in 0..(FIELD_BYTES + 4) * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(OrphanFile::decode(&flipped, path).is_err(), "bit {bit}");
            }
        }
        let wrong = [
            OrphanFile {
                records: 2,
                ..file()
            },
            OrphanFile {
                segments: 4,
                ..file()
            },
            OrphanFile {
                fork: OrphanFork {
                    epoch: None,
                    ..file().fork
                },
                ..file()
            },
        ];
        for file in wrong {
            assert!(
                OrphanFile::decode(&file.encode(), path).is_err(),
                "{file:?}"
            );
        }
    }

    #[test]
    fn names_stand_for_files_and_nothing_else_does() {
        let partition = file().partition;
        let path = path_of(Path::new(""), partition, OrphanNumber::FIRST);
        let name = path.to_str().unwrap();
        assert_eq!(name, "0000000100020003-0000000001.orphans");
        assert_eq!(of_name(name), Some((partition, OrphanNumber::FIRST)));
        for other in [
            "0000000100020003-0000000000.orphans",
            "0000000100020003-1.orphans",
            "0000000100020003.sealed",
            "00000001-0000000001.orphans",
            "x",
        ] {
            assert_eq!(of_name(other), None, "{other}");
        }
    }

    proptest! {
        /// Whoever can write a checksum can write anything before it.
        #[test]
        fn no_bytes_make_the_decoder_panic(
            bytes in prop::collection::vec(any::<u8>(), FIELD_BYTES - 8),
        ) {
            let path = Path::new("/orphans");
            let _ = OrphanFile::decode(&bytes, path);
            let mut header = [&b"DOMO\x01\0\0\0"[..], &bytes].concat();
            header.extend(crc32fast::hash(&header).to_le_bytes());
            if let Ok(file) = OrphanFile::decode(&header, path) {
                prop_assert_eq!(&file.encode()[..FIELD_BYTES + 4], &header[..]);
            }
        }
    }
}
