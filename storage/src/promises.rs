//! The highest epoch that each partition has promised here: what was promised is never taken back.
//!
//! **Owns**: the promises and their file, replaced whole.
//! **Does not own**: refusing what is below a promise (the core), who may ask for one (the control
//! plane).
//!
//! ```text
//! envelope of magic "DOMP" around: partitions u32
//!   | per partition: partition (8) | epoch counter u64 | epoch node u64
//! ```
//! Little-endian. A successor counts on a promise: it is durable before it is told, and it is kept
//! for ever, also of partitions that are here no longer. A file that is damaged stops the open:
//! without it nobody knows what was promised.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut};
use domicile_proto::{Epoch, NodeId, PartitionId};

use crate::disk::{self, Disk};
use crate::envelope::Envelope;
use crate::error::StoreError;
use crate::store::Store;

/// The file in a data directory.
const PROMISES_FILE: &str = "promised";
const UNFINISHED_FILE: &str = "promised.new";
const ENVELOPE: Envelope = Envelope {
    what: "list of promised epochs",
    magic: *b"DOMP",
    version: 1,
};
/// Bytes of each promise: the layout above.
const PROMISE_BYTES: usize = PartitionId::BYTES + 16;

/// Longest file that is believed: a million partitions. Doubled, a damaged length takes twice the
/// memory before it is noticed.
const FILE_BYTES_MAX: u64 = 24 << 20;

/// The promises of one directory.
#[derive(Debug)]
pub(crate) struct Promises {
    dir: PathBuf,
    node: NodeId,
    epochs: BTreeMap<PartitionId, Epoch>,
}

impl Promises {
    /// Those in `dir`, which is `node`'s; none without a file.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] and its kin; what the operating system says.
    pub(crate) fn read(disk: &dyn Disk, dir: &Path, node: NodeId) -> Result<Self, StoreError> {
        let path = dir.join(PROMISES_FILE);
        let bytes = disk::read_if_there(disk, &path, FILE_BYTES_MAX);
        let bytes = bytes.map_err(|error| StoreError::io("read", &path, error))?;
        let epochs = bytes.map(|bytes| decode(&bytes, node, &path)).transpose()?;
        Ok(Self {
            dir: dir.to_owned(),
            node,
            epochs: epochs.unwrap_or_default(),
        })
    }

    fn check(&self, partition: PartitionId, epoch: Epoch) -> Result<(), StoreError> {
        match self.epochs.get(&partition) {
            Some(promised) if *promised > epoch => Err(StoreError::AlreadyPromised {
                partition,
                actual: epoch,
                promised: *promised,
            }),
            _ => Ok(()),
        }
    }

    /// Raises to these what is lower, in one replacement of the file.
    fn raise(
        &mut self,
        disk: &dyn Disk,
        promises: &[(PartitionId, Epoch)],
    ) -> Result<(), StoreError> {
        let mut raised = self.epochs.clone();
        let mut is_raised = false;
        for (partition, epoch) in promises {
            let known = raised.entry(*partition).or_insert(*epoch);
            is_raised |= self.epochs.get(partition).is_none_or(|it| it < epoch);
            *known = (*known).max(*epoch);
        }
        if !is_raised {
            return Ok(());
        }
        let bytes = encode(self.node, &raised);
        disk::replace(disk, &self.dir, PROMISES_FILE, UNFINISHED_FILE, &bytes)
            .map_err(|error| StoreError::io("write", &self.dir.join(PROMISES_FILE), error))?;
        self.epochs = raised;
        Ok(())
    }
}

impl Store {
    /// The highest epoch that was promised for a partition.
    #[must_use]
    pub fn promised(&self, partition: PartitionId) -> Option<Epoch> {
        self.promises().epochs.get(&partition).copied()
    }

    /// Whether anything was ever promised here.
    #[must_use]
    pub fn has_promised(&self) -> bool {
        !self.promises().epochs.is_empty()
    }

    /// Promises that nothing of a lower epoch is taken for a partition: durable when it returns.
    /// The same promise again is none the less one.
    ///
    /// # Errors
    /// [`StoreError::AlreadyPromised`] for a lower one; what the operating system says: it may then
    /// be durable or not, and the store is poisoned, as nobody may count on either.
    pub fn promise(&self, partition: PartitionId, epoch: Epoch) -> Result<(), StoreError> {
        self.check_open()?;
        self.promises().check(partition, epoch)?;
        self.promise_all(&[(partition, epoch)])
    }

    /// Promises for many partitions at the price of one. Where a higher epoch was promised already,
    /// that one stays.
    ///
    /// # Errors
    /// What the operating system says, as [`Store::promise`].
    pub fn promise_all(&self, promises: &[(PartitionId, Epoch)]) -> Result<(), StoreError> {
        self.check_open()?;
        let promised = self.promises().raise(&*self.disk(), promises);
        if let Err(error @ StoreError::Io { .. }) = &promised {
            self.poison(&error.to_string());
        }
        promised
    }
}

fn encode(node: NodeId, epochs: &BTreeMap<PartitionId, Epoch>) -> Vec<u8> {
    let mut list = Vec::with_capacity(4 + PROMISE_BYTES * epochs.len());
    list.put_u32_le(epochs.len() as u32);
    for (partition, epoch) in epochs {
        list.put_slice(&partition.to_bytes());
        list.put_u64_le(epoch.counter);
        list.put_u64_le(epoch.node.get());
    }
    ENVELOPE.seal(node, &list)
}

fn decode(
    bytes: &[u8],
    node: NodeId,
    path: &Path,
) -> Result<BTreeMap<PartitionId, Epoch>, StoreError> {
    let corrupt = |problem: String| StoreError::corrupt(path, 0, problem);
    let mut list = ENVELOPE.open(bytes, node, path)?;
    let count = list.try_get_u32_le().unwrap_or(u32::MAX) as usize;
    if list.len() != PROMISE_BYTES * count {
        let left = list.len();
        return Err(corrupt(format!("{count} promises in {left} bytes")));
    }
    let mut epochs = BTreeMap::new();
    for mut promise in list.chunks_exact(PROMISE_BYTES) {
        let mut partition = [0; PartitionId::BYTES];
        promise.copy_to_slice(&mut partition);
        let partition = PartitionId::from_bytes(partition);
        let partition = partition.map_err(|error| corrupt(error.to_string()))?;
        let counter = promise.get_u64_le();
        let node = NodeId::new(promise.get_u64_le());
        let node = node.map_err(|_| corrupt(format!("epoch of node 0 for {partition}")))?;
        epochs.insert(partition, Epoch { counter, node });
    }
    Ok(epochs)
}

#[cfg(test)]
mod tests {
    use domicile_proto::{Bucket, KeyspaceId, RegionId};
    use proptest::prelude::*;

    use super::*;
    use crate::disk::MemoryDisk;

    fn node(id: u64) -> NodeId {
        NodeId::new(id).unwrap()
    }

    fn epoch(counter: u64) -> Epoch {
        Epoch {
            counter,
            node: node(9),
        }
    }

    fn id(bucket: u16) -> PartitionId {
        PartitionId {
            keyspace: KeyspaceId::new(1),
            region: RegionId::new(2).unwrap(),
            bucket: Bucket::new(bucket),
        }
    }

    fn disk() -> MemoryDisk {
        let disk = MemoryDisk::new();
        disk.create_dir_all(Path::new("/data")).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        disk
    }

    fn read(disk: &MemoryDisk) -> Result<Promises, StoreError> {
        Promises::read(disk, Path::new("/data"), node(7))
    }

    #[test]
    fn the_bytes_are_those_that_docs_storage_says() {
        let epochs = BTreeMap::from([(id(3), epoch(4))]);
        let bytes = encode(node(7), &epochs);
        let golden = [
            &b"DOMP\x01\0\0\0\x07\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\x01\0\x02\0\x03"[..],
            &4_u64.to_le_bytes(),
            &9_u64.to_le_bytes(),
        ];
        assert_eq!(bytes[..44], golden.concat());
        let path = Path::new("/promised");
        assert_eq!(decode(&bytes, node(7), path).unwrap(), epochs);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped, node(7), path).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(
                decode(&bytes[..len], node(7), path).is_err(),
                "cut at {len}"
            );
        }
        let foreign = decode(&bytes, node(8), path).unwrap_err();
        assert!(
            matches!(foreign, StoreError::ForeignNode { .. }),
            "{foreign}"
        );
    }

    #[test]
    fn a_promise_only_grows() {
        let disk = disk();
        let mut promises = read(&disk).unwrap();
        promises.raise(&disk, &[(id(1), epoch(5))]).unwrap();
        promises.raise(&disk, &[(id(1), epoch(5))]).unwrap();
        promises.raise(&disk, &[(id(2), epoch(1))]).unwrap();
        let lower = promises.check(id(1), epoch(4)).unwrap_err();
        assert_eq!(
            lower.to_string(),
            format!("{} has promised {}, refused {}", id(1), epoch(5), epoch(4))
        );
        let lost = disk.power_loss(3);
        assert_eq!(read(&lost).unwrap().epochs, promises.epochs);
    }

    /// Fault 8: whatever was told is there after any end, and nothing that was not asked for.
    #[test]
    fn an_end_at_every_operation_keeps_what_was_told() {
        let prepared = || {
            let disk = disk();
            let mut promises = read(&disk).unwrap();
            promises.raise(&disk, &[(id(1), epoch(1))]).unwrap();
            (disk, promises)
        };
        let (whole, mut promises) = prepared();
        let before = whole.operations();
        promises.raise(&whole, &[(id(1), epoch(2))]).unwrap();
        let operations = whole.operations() - before;
        assert!(operations >= 4, "{operations}");
        for dies_at in 1..=operations {
            let (disk, mut promises) = prepared();
            disk.freeze_at_operation(dies_at);
            let told = promises.raise(&disk, &[(id(1), epoch(2))]);
            let ends = (0..16)
                .map(|seed| disk.power_loss(seed))
                .chain([disk.crash()]);
            for left in ends {
                let found = read(&left).unwrap().epochs[&id(1)];
                let expected = match told {
                    Ok(()) => epoch(2)..=epoch(2),
                    Err(_) => epoch(1)..=epoch(2),
                };
                assert!(expected.contains(&found), "{found} at {dies_at}");
            }
        }
    }

    proptest! {
        /// Whoever can write a checksum can write anything before it.
        #[test]
        fn no_bytes_make_the_decoder_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            count in 0..4_u32,
        ) {
            let path = Path::new("/promised");
            let _ = decode(&bytes, node(7), path);
            let list = [&count.to_le_bytes()[..], &bytes].concat();
            if let Ok(epochs) = decode(&ENVELOPE.seal(node(7), &list), node(7), path) {
                prop_assert!(epochs.len() <= count as usize);
            }
        }
    }
}
