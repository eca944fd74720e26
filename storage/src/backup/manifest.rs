//! What a backup consists of: the file that makes it one.
//!
//! **Owns**: the manifest's bytes, and that what it says fits together.
//! **Does not own**: the files it names, how it is written last (the place).
//!
//! ```text
//! magic "DBKM" u32 | version u16 | flags u16 | number u64 | created at, ms since 1970, u64
//! | node u64 | cluster | region | place region
//! | keyspaces: count u32, each: name | regions: count u32, texts | policy
//! | files: count u32, each: name | bytes u64 | crc32 u32
//! | partitions: count u32, each: partition (8) | oldest ms u64 | newest ms u64
//!   | snapshot u32 (0: none)
//!   with a snapshot: file u32 | seq u64 | newest seq u64 | chain u64 | epoch counter u64, node u64
//!   | stretches: count u32, each: file u32
//!     | first seq | last seq | previous chain | chain: u64 each
//! | crc32 of all before
//! ```
//! Little-endian; a text is its length, u16, and as many bytes of UTF-8. A stretch is the part of a
//! partition's log in one archive.

use std::fmt;
use std::path::Path;

use bytes::{Buf, BufMut};
use domicile_proto::{ChainHash, Epoch, KeyspaceId, Name, NodeId, PartitionId, Seq};

use super::text::{Values, put_epoch, put_text};
use crate::error::StoreError;

const MAGIC: [u8; 4] = *b"DBKM";
const VERSION: u16 = 1;

/// Longest manifest that is believed: a thousand partitions with 1,300 stretches each. Doubled, a
/// damaged length takes twice the memory before it is noticed.
pub const MANIFEST_BYTES_MAX: u64 = 64 << 20;

/// The how-manieth backup of its place it is, from 1 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackupNumber(u64);

impl BackupNumber {
    /// The first backup of a place.
    pub const FIRST: Self = Self(1);

    /// The number with this value.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The value.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The next backup.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for BackupNumber {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, formatter)
    }
}

/// A keyspace in a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupKeyspace {
    /// Its name.
    pub name: Name,
    /// Where it may be.
    pub regions: Vec<Name>,
    /// The rest of its policy, in words: what the configuration of a restored node must say.
    pub policy: String,
}

/// A file of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupFile {
    /// Its name below the place.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// The checksum of all its bytes.
    pub crc32: u32,
}

/// The snapshot that a partition begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupSnapshot {
    /// Which of the manifest's files.
    pub file: usize,
    /// Every record up to here is in it.
    pub seq: Seq,
    /// It shows a state only together with the log up to here.
    pub newest_seq: Seq,
    /// The hash over the history up to `seq`.
    pub chain: ChainHash,
    /// The reign of the record at `seq`.
    pub epoch: Epoch,
}

/// A part of a partition's log, in one archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupStretch {
    /// Which of the manifest's files.
    pub file: usize,
    /// Its first record.
    pub first_seq: Seq,
    /// Its last one, which ends a segment.
    pub last_seq: Seq,
    /// The hash over the history before it.
    pub previous: ChainHash,
    /// The hash over the history that ends with it.
    pub chain: ChainHash,
}

/// A partition in a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupPartition {
    /// Which.
    pub partition: PartitionId,
    /// What it begins with; without one its log is there from the first record.
    pub snapshot: Option<BackupSnapshot>,
    /// From this time on, in ms since 1970, its state can be restored; 0 without a snapshot.
    pub oldest_ms: u64,
    /// When its last record was written, in ms since 1970.
    pub newest_ms: u64,
    /// The log behind the snapshot, without a gap.
    pub stretches: Vec<BackupStretch>,
}

impl BackupPartition {
    /// The first record whose state can be restored; none before it.
    #[must_use]
    pub fn oldest_seq(&self) -> Seq {
        self.snapshot.map_or(Seq::NONE, |it| it.newest_seq)
    }

    /// The last record.
    #[must_use]
    pub fn last_seq(&self) -> Seq {
        self.end().0
    }

    /// The last record and the hash over the history up to it.
    #[must_use]
    pub fn end(&self) -> (Seq, ChainHash) {
        let base = self
            .snapshot
            .map_or((Seq::NONE, ChainHash::START), |it| (it.seq, it.chain));
        self.stretches
            .last()
            .map_or(base, |it| (it.last_seq, it.chain))
    }

    /// Whether snapshot and stretches follow each other.
    fn is_whole(&self) -> bool {
        let base = Self {
            stretches: Vec::new(),
            ..self.clone()
        };
        let mut end = base.end();
        for stretch in &self.stretches {
            let follows = (stretch.first_seq, stretch.previous) == (end.0.next(), end.1);
            if !follows || stretch.last_seq < stretch.first_seq {
                return false;
            }
            end = (stretch.last_seq, stretch.chain);
        }
        let is_shown = self.snapshot.is_none_or(|it| it.newest_seq >= it.seq);
        is_shown && self.oldest_seq() <= end.0 && end.0 > Seq::NONE && end.0 < Seq::new(u64::MAX)
    }
}

/// A backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupManifest {
    /// Which of its place.
    pub number: BackupNumber,
    /// When it was begun, in ms since 1970.
    pub created_at_ms: u64,
    /// Whose data.
    pub node: NodeId,
    /// Of which cluster.
    pub cluster: Name,
    /// In which region that node is.
    pub region: Name,
    /// In which region the place is.
    pub place_region: Name,
    /// Which keyspaces are in it.
    pub keyspaces: Vec<BackupKeyspace>,
    /// What it consists of, in the order in which it was written; earlier backups share some.
    pub files: Vec<BackupFile>,
    /// Which partitions are in it, in order.
    pub partitions: Vec<BackupPartition>,
}

impl BackupManifest {
    /// The keyspace of a partition.
    #[must_use]
    pub fn keyspace_of(&self, partition: PartitionId) -> Option<&BackupKeyspace> {
        let mut all = self.keyspaces.iter();
        all.find(|it| KeyspaceId::of(&it.name) == partition.keyspace)
    }

    /// The partition with this id.
    #[must_use]
    pub fn partition(&self, id: PartitionId) -> Option<&BackupPartition> {
        let found = self.partitions.binary_search_by_key(&id, |it| it.partition);
        found.ok().map(|index| &self.partitions[index])
    }

    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.put_slice(&MAGIC);
        bytes.put_u16_le(VERSION);
        bytes.put_u16_le(0);
        bytes.put_u64_le(self.number.get());
        bytes.put_u64_le(self.created_at_ms);
        bytes.put_u64_le(self.node.get());
        for name in [&self.cluster, &self.region, &self.place_region] {
            put_text(&mut bytes, name.as_str());
        }
        bytes.put_u32_le(self.keyspaces.len() as u32);
        for keyspace in &self.keyspaces {
            put_text(&mut bytes, keyspace.name.as_str());
            bytes.put_u32_le(keyspace.regions.len() as u32);
            for region in &keyspace.regions {
                put_text(&mut bytes, region.as_str());
            }
            put_text(&mut bytes, &keyspace.policy);
        }
        bytes.put_u32_le(self.files.len() as u32);
        for file in &self.files {
            put_text(&mut bytes, &file.name);
            bytes.put_u64_le(file.bytes);
            bytes.put_u32_le(file.crc32);
        }
        bytes.put_u32_le(self.partitions.len() as u32);
        for partition in &self.partitions {
            put_partition(&mut bytes, partition);
        }
        let crc = crc32fast::hash(&bytes);
        bytes.put_u32_le(crc);
        bytes
    }

    /// The inverse of [`BackupManifest::encode`]; `name` is the file's, for errors.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] for damage, [`StoreError::UnknownFormat`] for another version.
    pub fn decode(bytes: &[u8], name: &str) -> Result<Self, StoreError> {
        let path = Path::new(name);
        let corrupt = |problem: String| StoreError::corrupt(path, 0, problem);
        if bytes.len() < 12 || bytes.len() as u64 > MANIFEST_BYTES_MAX {
            let problem = format!(
                "manifest of {} bytes, at most {MANIFEST_BYTES_MAX}",
                bytes.len()
            );
            return Err(corrupt(problem));
        }
        if bytes[..4] != MAGIC {
            return Err(corrupt(format!(
                "bad magic of a manifest: {:02x?}",
                &bytes[..4]
            )));
        }
        let (fields, mut crc) = bytes.split_at(bytes.len() - 4);
        let (stored, computed) = (crc.get_u32_le(), crc32fast::hash(fields));
        if stored != computed {
            return Err(corrupt(format!(
                "checksum mismatch of the manifest: stored {stored:#010x}, computed \
                 {computed:#010x}"
            )));
        }
        let mut fields = &fields[4..];
        let (version, flags) = (fields.get_u16_le(), fields.get_u16_le());
        if version != VERSION {
            return Err(StoreError::UnknownFormat {
                what: "backup manifest",
                path: path.to_owned(),
                actual: version.into(),
                supported: VERSION.into(),
            });
        }
        let manifest = Self::decode_fields(fields).filter(|it| flags == 0 && it.fits_together());
        manifest.ok_or_else(|| {
            corrupt("manifest whose checksum holds and whose fields do not".to_owned())
        })
    }

    fn decode_fields(fields: &[u8]) -> Option<Self> {
        let mut values = Values(fields);
        let manifest = Self {
            number: BackupNumber::new(values.u64()?),
            created_at_ms: values.u64()?,
            node: values.node()?,
            cluster: values.name()?,
            region: values.name()?,
            place_region: values.name()?,
            keyspaces: values.list(8, |it| {
                Some(BackupKeyspace {
                    name: it.name()?,
                    regions: it.list(2, Values::name)?,
                    policy: it.text()?,
                })
            })?,
            files: values.list(14, |it| {
                Some(BackupFile {
                    name: it.text()?,
                    bytes: it.u64()?,
                    crc32: it.u32()?,
                })
            })?,
            partitions: values.list(32, get_partition)?,
        };
        values.0.is_empty().then_some(manifest)
    }

    fn fits_together(&self) -> bool {
        let in_order = self
            .partitions
            .is_sorted_by(|a, b| a.partition < b.partition);
        in_order
            && self.files.iter().all(|it| is_file_name(&it.name))
            && self.partitions.iter().all(|it| {
                let stretches = it.stretches.iter().map(|stretch| stretch.file);
                let mut files = stretches.chain(it.snapshot.map(|snapshot| snapshot.file));
                it.is_whole()
                    && files.all(|file| file < self.files.len())
                    && self.keyspace_of(it.partition).is_some()
            })
    }
}

/// Names of files lead nowhere but below their place.
fn is_file_name(name: &str) -> bool {
    let is_plain = |part: &str| {
        let mut bytes = part.bytes();
        let is_plain = bytes
            .all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'-' || it == b'.');
        is_plain && !part.is_empty() && !part.starts_with('.')
    };
    name.split('/').all(is_plain)
}

fn put_partition(bytes: &mut Vec<u8>, partition: &BackupPartition) {
    bytes.put_slice(&partition.partition.to_bytes());
    bytes.put_u64_le(partition.oldest_ms);
    bytes.put_u64_le(partition.newest_ms);
    bytes.put_u32_le(partition.snapshot.is_some().into());
    if let Some(snapshot) = &partition.snapshot {
        bytes.put_u32_le(snapshot.file as u32);
        bytes.put_u64_le(snapshot.seq.get());
        bytes.put_u64_le(snapshot.newest_seq.get());
        bytes.put_u64_le(snapshot.chain.bits());
        put_epoch(bytes, snapshot.epoch);
    }
    bytes.put_u32_le(partition.stretches.len() as u32);
    for stretch in &partition.stretches {
        bytes.put_u32_le(stretch.file as u32);
        bytes.put_u64_le(stretch.first_seq.get());
        bytes.put_u64_le(stretch.last_seq.get());
        bytes.put_u64_le(stretch.previous.bits());
        bytes.put_u64_le(stretch.chain.bits());
    }
}

fn get_partition(values: &mut Values<'_>) -> Option<BackupPartition> {
    let partition = values.partition()?;
    let (oldest_ms, newest_ms) = (values.u64()?, values.u64()?);
    let snapshot = match values.u32()? {
        0 => None,
        1 => Some(BackupSnapshot {
            file: values.u32()? as usize,
            seq: values.seq()?,
            newest_seq: values.seq()?,
            chain: values.chain()?,
            epoch: values.epoch()?,
        }),
        _ => return None,
    };
    let stretches = values.list(36, |it| {
        Some(BackupStretch {
            file: it.u32()? as usize,
            first_seq: it.seq()?,
            last_seq: it.seq()?,
            previous: it.chain()?,
            chain: it.chain()?,
        })
    })?;
    Some(BackupPartition {
        partition,
        snapshot,
        oldest_ms,
        newest_ms,
        stretches,
    })
}

#[cfg(test)]
mod tests {
    use domicile_proto::{Bucket, RegionId};
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn manifest() -> BackupManifest {
        let file = |name: &str, bytes, crc32| BackupFile {
            name: name.to_owned(),
            bytes,
            crc32,
        };
        BackupManifest {
            number: BackupNumber::new(3),
            created_at_ms: 0x0102,
            node: NodeId::new(9).unwrap(),
            cluster: name("c"),
            region: name("eu"),
            place_region: name("us"),
            keyspaces: vec![BackupKeyspace {
                name: name("users"),
                regions: vec![name("eu"), name("us")],
                policy: "p".to_owned(),
            }],
            files: vec![file("data/1.snapshot", 5, 6), file("data/1.archive", 7, 8)],
            partitions: vec![BackupPartition {
                partition: PartitionId {
                    keyspace: KeyspaceId::of(&name("users")),
                    region: RegionId::new(2).unwrap(),
                    bucket: Bucket::new(3),
                },
                snapshot: Some(BackupSnapshot {
                    file: 0,
                    seq: Seq::new(10),
                    newest_seq: Seq::new(12),
                    chain: ChainHash::from_bits(77),
                    epoch: Epoch {
                        counter: 4,
                        node: NodeId::new(5).unwrap(),
                    },
                }),
                oldest_ms: 100,
                newest_ms: 200,
                stretches: vec![BackupStretch {
                    file: 1,
                    first_seq: Seq::new(11),
                    last_seq: Seq::new(20),
                    previous: ChainHash::from_bits(77),
                    chain: ChainHash::from_bits(88),
                }],
            }],
        }
    }

    #[test]
    fn it_comes_back_and_every_flipped_bit_is_noticed() {
        let bytes = manifest().encode();
        assert_eq!(BackupManifest::decode(&bytes, "m").unwrap(), manifest());
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(BackupManifest::decode(&flipped, "m").is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(BackupManifest::decode(&bytes[..len], "m").is_err(), "{len}");
        }
    }

    #[test]
    fn the_layout_is_pinned() {
        let bytes = manifest().encode();
        let golden = [
            &b"DBKM\x01\0\0\0\x03\0\0\0\0\0\0\0\x02\x01\0\0\0\0\0\0\x09\0\0\0\0\0\0\0"[..],
            &b"\x01\0c\x02\0eu\x02\0us"[..],
            &b"\x01\0\0\0\x05\0users\x02\0\0\0\x02\0eu\x02\0us\x01\0p"[..],
            &b"\x02\0\0\0\x0f\0data/1.snapshot\x05\0\0\0\0\0\0\0\x06\0\0\0"[..],
            &b"\x0e\0data/1.archive\x07\0\0\0\0\0\0\0\x08\0\0\0"[..],
            &b"\x01\0\0\0"[..],
            &manifest().partitions[0].partition.to_bytes()[..],
            &b"\x64\0\0\0\0\0\0\0\xc8\0\0\0\0\0\0\0\x01\0\0\0"[..],
            &b"\0\0\0\0\x0a\0\0\0\0\0\0\0\x0c\0\0\0\0\0\0\0\x4d\0\0\0\0\0\0\0"[..],
            &b"\x04\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0"[..],
            &b"\x01\0\0\0\x01\0\0\0\x0b\0\0\0\0\0\0\0\x14\0\0\0\0\0\0\0"[..],
            &b"\x4d\0\0\0\0\0\0\0\x58\0\0\0\0\0\0\0"[..],
        ];
        assert_eq!(bytes[..bytes.len() - 4], golden.concat());
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let refused = |change: &dyn Fn(&mut BackupManifest)| {
            let mut changed = manifest();
            change(&mut changed);
            BackupManifest::decode(&changed.encode(), "m").is_err()
        };
        assert!(!refused(&|_| {}));
        assert!(refused(&|it| it.files[0].name = "../identity".to_owned()));
        assert!(refused(&|it| it.files[0].name = "/etc/passwd".to_owned()));
        assert!(refused(&|it| it.files.truncate(1)));
        assert!(refused(&|it| it.keyspaces.clear()));
        assert!(refused(&|it| it.partitions.push(it.partitions[0].clone())));
        assert!(refused(
            &|it| it.partitions[0].stretches[0].first_seq = Seq::new(12)
        ));
        assert!(refused(
            &|it| it.partitions[0].stretches[0].previous = ChainHash::START
        ));
        assert!(refused(&|it| it.partitions[0].stretches.clear()));
    }

    proptest! {
        /// Whoever can write a checksum can write anything before it.
        #[test]
        fn no_bytes_make_the_decoder_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            at in 8..200_usize,
            byte in any::<u8>(),
        ) {
            let _ = BackupManifest::decode(&bytes, "m");
            let mut forged = [&b"DBKM\x01\0\0\0"[..], &bytes].concat();
            forged.extend(crc32fast::hash(&forged).to_le_bytes());
            let _ = BackupManifest::decode(&forged, "m");
            let mut forged = manifest().encode();
            forged.truncate(forged.len() - 4);
            let at = at % forged.len();
            forged[at] = byte;
            forged.extend(crc32fast::hash(&forged).to_le_bytes());
            if let Ok(manifest) = BackupManifest::decode(&forged, "m") {
                prop_assert_eq!(manifest.encode(), forged);
            }
        }
    }
}
