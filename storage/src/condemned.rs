//! Partitions that have lost something here, remembered until a snapshot took their place.
//!
//! **Owns**: the list and its file, replaced whole.
//! **Does not own**: finding damage (`recovery`, the node), filling a partition anew (`snapshot`).
//!
//! ```text
//! magic "DOMQ" u32 | version u16 | zeros u16 | node u64 | partitions u32 | per partition (8)
//! | crc32 of all before
//! ```
//! Little-endian. What was lost need not show again: a later checkpoint lies behind the damage. An
//! operator who accepts a loss removes the file while the node is down.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut};
use domicile_proto::{NodeId, PartitionId, Position};

use crate::cells::refilled_row;
use crate::disk::{self, Disk};
use crate::envelope::Envelope;
use crate::error::StoreError;
use crate::store::Store;

/// The file in a data directory.
pub(crate) const CONDEMNED_FILE: &str = "damaged";
const UNFINISHED_FILE: &str = "damaged.new";
const ENVELOPE: Envelope = Envelope {
    what: "list of damaged partitions",
    magic: *b"DOMQ",
    version: 1,
};

/// Longest file that is believed: a million partitions. Doubled, a damaged length takes twice the
/// memory before it is noticed.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// The list of one directory.
#[derive(Debug)]
pub(crate) struct Condemned {
    dir: PathBuf,
    node: NodeId,
    partitions: BTreeSet<PartitionId>,
}

impl Condemned {
    /// The list in `dir`, which is `node`'s; empty without a file.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] and its kin; what the operating system says.
    pub(crate) fn read(disk: &dyn Disk, dir: &Path, node: NodeId) -> Result<Self, StoreError> {
        let path = dir.join(CONDEMNED_FILE);
        let bytes = disk::read_if_there(disk, &path, FILE_BYTES_MAX);
        let bytes = bytes.map_err(|error| StoreError::io("read", &path, error))?;
        let partitions = bytes.map(|bytes| decode(&bytes, node, &path)).transpose()?;
        Ok(Self {
            dir: dir.to_owned(),
            node,
            partitions: partitions.unwrap_or_default(),
        })
    }

    pub(crate) fn partitions(&self) -> &BTreeSet<PartitionId> {
        &self.partitions
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.join(CONDEMNED_FILE)
    }

    /// Changes the list, durably.
    ///
    /// # Errors
    /// What the operating system says; it is then as it was.
    pub(crate) fn change(
        &mut self,
        disk: &dyn Disk,
        change: impl FnOnce(&mut BTreeSet<PartitionId>),
    ) -> Result<(), StoreError> {
        let mut changed = self.partitions.clone();
        change(&mut changed);
        if changed == self.partitions {
            return Ok(());
        }
        let bytes = encode(self.node, &changed);
        disk::replace(disk, &self.dir, CONDEMNED_FILE, UNFINISHED_FILE, &bytes)
            .map_err(|error| StoreError::io("write", &self.path(), error))?;
        self.partitions = changed;
        Ok(())
    }
}

impl Store {
    /// Partitions for whose snapshot the journal was cut, and that have none: a new one is due
    /// before the engine gets lost.
    #[must_use]
    pub fn uncovered(&self) -> Vec<PartitionId> {
        let uncovered = self.snapshots().uncovered(&self.files().covered());
        let condemned = self.condemned();
        let is_whole = |id: &PartitionId| !condemned.partitions().contains(id);
        uncovered.into_keys().filter(is_whole).collect()
    }

    /// Partitions have lost something: that is remembered, and their cells answer no reads, until a
    /// snapshot takes their place. Their own snapshots no longer count.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn condemn(&self, partitions: &[PartitionId]) -> Result<(), StoreError> {
        for partition in partitions {
            self.cells(*partition).close();
            self.snapshots().forget(*partition);
        }
        let mut condemned = self.condemned();
        condemned.change(&*self.disk(), |ids| ids.extend(partitions))
    }

    /// Notes that a partition which has lost something here is about to be filled anew, or to begin
    /// with nothing, and up to where it may have had records: it may have acknowledged them, and
    /// what it had alone nobody can tell any more. An engine that is lost forgets it.
    ///
    /// # Errors
    /// What the engine says.
    pub fn note_refilled(&self, partition: PartitionId, had: Position) -> Result<(), StoreError> {
        let had = self
            .refilled(partition)
            .map_or(had, |before| before.max(had));
        let engine = self.cell_store().engine();
        engine.apply(vec![refilled_row(partition, had)])?;
        engine.sync()?;
        self.refills().insert(partition, had);
        Ok(())
    }

    /// Up to where a partition may have had records when it was last filled anew after a loss.
    #[must_use]
    pub fn refilled(&self, partition: PartitionId) -> Option<Position> {
        self.refills().get(&partition).copied()
    }

    /// Whether a partition that was filled anew has not come as far again as it may have been: what
    /// it acknowledged may be missing here.
    #[must_use]
    pub fn is_short(&self, partition: PartitionId) -> bool {
        let Some(had) = self.refilled(partition) else {
            return false;
        };
        let tail = self.tail(partition);
        let has = tail.map(|tail| Position {
            epoch: tail.epoch,
            seq: tail.last_seq,
        });
        has < Some(had)
    }

    /// A partition has nothing to miss, or was filled anew.
    ///
    /// # Errors
    /// What the operating system says; it counts as damaged at the next open.
    pub fn absolve(&self, partition: PartitionId) -> Result<(), StoreError> {
        let mut condemned = self.condemned();
        condemned.change(&*self.disk(), |ids| ids.retain(|id| *id != partition))
    }
}

fn encode(node: NodeId, partitions: &BTreeSet<PartitionId>) -> Vec<u8> {
    let mut list = Vec::with_capacity(4 + PartitionId::BYTES * partitions.len());
    list.put_u32_le(partitions.len() as u32);
    partitions
        .iter()
        .for_each(|id| list.put_slice(&id.to_bytes()));
    ENVELOPE.seal(node, &list)
}

fn decode(bytes: &[u8], node: NodeId, path: &Path) -> Result<BTreeSet<PartitionId>, StoreError> {
    let corrupt = |problem: String| StoreError::corrupt(path, 0, problem);
    let mut list = ENVELOPE.open(bytes, node, path)?;
    let count = list.try_get_u32_le().unwrap_or(u32::MAX) as usize;
    if list.len() != PartitionId::BYTES * count {
        let left = list.len();
        return Err(corrupt(format!("{count} partitions in {left} bytes")));
    }
    let mut partitions = BTreeSet::new();
    for id in list.chunks_exact(PartitionId::BYTES) {
        let mut array = [0; PartitionId::BYTES];
        array.copy_from_slice(id);
        let id = PartitionId::from_bytes(array).map_err(|error| corrupt(error.to_string()))?;
        partitions.insert(id);
    }
    Ok(partitions)
}

#[cfg(test)]
mod tests {
    use domicile_proto::{Bucket, KeyspaceId, RegionId};

    use super::*;
    use crate::disk::MemoryDisk;

    #[test]
    fn the_list_comes_back_and_every_flipped_bit_is_noticed() {
        let (disk, dir) = (MemoryDisk::new(), Path::new("/data"));
        disk.create_dir_all(dir).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        let node = NodeId::new(7).unwrap();
        let id = |bucket| PartitionId {
            keyspace: KeyspaceId::new(1),
            region: RegionId::new(2).unwrap(),
            bucket: Bucket::new(bucket),
        };
        let mut list = Condemned::read(&disk, dir, node).unwrap();
        assert!(list.partitions().is_empty());
        list.change(&disk, |ids| ids.extend([id(3), id(4)]))
            .unwrap();
        list.change(&disk, |ids| ids.retain(|it| *it != id(4)))
            .unwrap();
        let list = Condemned::read(&disk.power_loss(1), dir, node).unwrap();
        assert_eq!(
            list.partitions().iter().copied().collect::<Vec<_>>(),
            [id(3)]
        );
        let other = NodeId::new(8).unwrap();
        let foreign = Condemned::read(&disk, dir, other).unwrap_err();
        assert!(
            matches!(foreign, StoreError::ForeignNode { .. }),
            "{foreign}"
        );
        let bytes = encode(node, list.partitions());
        let golden = b"DOMQ\x01\0\0\0\x07\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\x01\0\x02\0\x03";
        assert_eq!(bytes[..28], golden[..]);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped, node, dir).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len], node, dir).is_err(), "cut at {len}");
        }
    }
}
