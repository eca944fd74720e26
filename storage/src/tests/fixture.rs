//! What the tests of the store share: partitions, records, an author who remembers.
//!
//! **Owns**: the words of the tests.
//! **Does not own**: any test.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use domicile_proto::record::RecordBody;
use domicile_proto::{
    AckLevel, Bucket, Epoch, Expiry, Hlc, KeyspaceId, NodeId, Operation, PartitionId, Record,
    RecordHead, RecordKind, RegionId, RequestId, Seq,
};

use crate::cells::{ExpiryCursor, PartitionCells};
use crate::disk::{Disk, MemoryDisk};
use crate::{
    Committed, EngineChoice, Recovery, Store, StoreError, StoreOptions, VerifyReport, verify,
};

pub(super) const DIR: &str = "/data";
pub(super) const FIRST_FILE: &str = "/data/journal/0000000001.journal";

pub(super) fn node(id: u64) -> NodeId {
    NodeId::new(id).unwrap()
}

pub(super) fn epoch(counter: u64) -> Epoch {
    Epoch {
        counter,
        node: node(1),
    }
}

pub(super) fn partition(bucket: u16) -> PartitionId {
    let region = RegionId::new(7).unwrap();
    PartitionId {
        keyspace: KeyspaceId::new(1),
        region,
        bucket: Bucket::new(bucket),
    }
}

pub(super) fn record(key: &[u8], value: &[u8], request: u128) -> Record {
    let operation = Operation::Put {
        key: Bytes::copy_from_slice(key),
        value: Bytes::copy_from_slice(value),
        // Three forms in turn, so that a key that is written again changes from each to each.
        expiry: match request % 3 {
            0 => None,
            1 => Some(Expiry::AfterMs(request as u64)),
            _ => Some(Expiry::AtMs(request as u64 / 4)),
        },
    };
    let head = RecordHead {
        kind: RecordKind::Write,
        level: AckLevel::Async,
        hlc: Hlc::at_ms(1),
        generation: 0,
        request_id: RequestId::new(request).unwrap(),
    };
    Record {
        head,
        body: RecordBody::encode(&[operation]).unwrap(),
    }
}

/// Small files, no sled: a roll every few commits.
pub(super) fn options() -> StoreOptions {
    StoreOptions {
        node_id: Some(node(1)),
        journal_file_bytes: 64 << 10,
        engine: EngineChoice::Memory,
        ..StoreOptions::default()
    }
}

pub(super) fn options_with(engine: EngineChoice) -> StoreOptions {
    StoreOptions {
        engine,
        ..options()
    }
}

pub(super) fn open(disk: &MemoryDisk) -> (Arc<Store>, Recovery) {
    try_open(disk, options()).unwrap()
}

pub(super) fn try_open(
    disk: &MemoryDisk,
    options: StoreOptions,
) -> Result<(Arc<Store>, Recovery), StoreError> {
    Store::open(Arc::new(disk.clone()), Path::new(DIR), options)
}

pub(super) fn refusal(disk: &MemoryDisk) -> String {
    try_open(disk, options())
        .expect_err("opened what should be refused")
        .to_string()
}

/// Writes records in order and remembers them all.
#[derive(Debug, Clone, Default)]
pub(super) struct Author {
    pub(super) written: BTreeMap<PartitionId, Vec<Record>>,
    visible: BTreeMap<PartitionId, Seq>,
    epoch: u64,
}

impl Author {
    pub(super) fn last_seq(&self, partition: PartitionId) -> Seq {
        Seq::new(self.written.get(&partition).map_or(0, Vec::len) as u64)
    }

    pub(super) fn new_epoch(&mut self) {
        self.epoch += 1;
    }

    pub(super) fn epoch(&self) -> Epoch {
        epoch(self.epoch + 1)
    }

    pub(super) fn write(
        &mut self,
        store: &Store,
        partition: PartitionId,
        value: &[u8],
    ) -> Result<Seq, StoreError> {
        let seq = self.last_seq(partition).next();
        let key = format!("key-{}", seq.get() % 7);
        self.write_key(store, partition, key.as_bytes(), value)
    }

    pub(super) fn write_key(
        &mut self,
        store: &Store,
        partition: PartitionId,
        key: &[u8],
        value: &[u8],
    ) -> Result<Seq, StoreError> {
        let seq = self.last_seq(partition).next();
        let record = record(key, value, u128::from(seq.get()));
        let visible = self.visible.get(&partition).copied().unwrap_or_default();
        store.submit_record(partition, self.epoch(), seq, visible, record.clone())?;
        self.written.entry(partition).or_default().push(record);
        Ok(seq)
    }

    /// What was committed becomes visible, as at level async.
    pub(super) fn make_visible(&mut self, store: &Store, commits: &[Committed]) {
        for commit in commits {
            store.cells(commit.partition).advance(commit.last_seq);
            self.visible.insert(commit.partition, commit.last_seq);
        }
    }

    pub(super) fn commit(&mut self, store: &Store) -> Result<Vec<Committed>, StoreError> {
        let commits = store.commit_once()?;
        self.make_visible(store, &commits);
        Ok(commits)
    }

    /// Forgets what was written after these ends.
    pub(super) fn forget_after(&mut self, recovery: &Recovery) {
        for (partition, records) in &mut self.written {
            let found = recovery
                .partitions
                .iter()
                .find(|each| each.partition == *partition);
            records.truncate(found.map_or(0, |each| each.last_seq.get() as usize));
            let upto = found.map_or(Seq::NONE, |each| each.visible_upto);
            self.visible.insert(*partition, upto);
        }
    }

    /// Checks that the store holds exactly what was written, in log and cells; what was cut from
    /// the log, in cells alone.
    pub(super) fn check(&self, store: &Store) {
        for (partition, records) in &self.written {
            let start = store.log_start(*partition);
            let found: Vec<_> = store
                .records(*partition, start)
                .collect::<Result<_, _>>()
                .unwrap();
            let cut = start.get() as usize - 1;
            assert_eq!(cut + found.len(), records.len(), "records of {partition}");
            for (written, (index, (_, seq, found))) in
                records[cut..].iter().zip(found.into_iter().enumerate())
            {
                assert_eq!(seq, Seq::new((cut + index) as u64 + 1));
                assert_eq!(*written, found, "record {seq} of {partition}");
            }
            self.check_cells(store, *partition, self.last_seq(*partition));
        }
    }

    /// Checks that the cells are the fold of the log up to their applied mark, after moving it.
    pub(super) fn check_cells(&self, store: &Store, partition: PartitionId, upto: Seq) {
        let cells = store.cells(partition);
        cells.advance(upto);
        assert_eq!(cells.applied_upto(), upto, "applied mark of {partition}");
        let mut fold: BTreeMap<Bytes, (Bytes, u64, Option<u64>)> = BTreeMap::new();
        let records = self.written.get(&partition).into_iter().flatten();
        for (seq, record) in (1..=upto.get()).zip(records) {
            for operation in record.body.operations().unwrap() {
                if let Operation::Put { key, value, expiry } = operation {
                    let expires_at_ms = expiry.map(|expiry| expiry.at_ms(record.head.hlc));
                    fold.insert(key, (value, seq, expires_at_ms));
                }
            }
        }
        check_expiries(&cells, &fold);
        for (key, (value, seq, expires_at_ms)) in fold {
            let cell = cells.get(&key).unwrap().cell.expect("a key that was put");
            assert_eq!(
                cell.version.seq,
                Seq::new(seq),
                "version of {key:?} in {partition}"
            );
            assert_eq!(cell.value, Some(value), "value of {key:?} in {partition}");
            assert_eq!(cell.expires_at_ms, expires_at_ms, "{key:?} in {partition}");
        }
    }
}

/// Checks that at any time what is due is what should be: all of it and nothing else, wherever it
/// lies.
fn check_expiries(cells: &PartitionCells, fold: &BTreeMap<Bytes, (Bytes, u64, Option<u64>)>) {
    let times = fold
        .values()
        .filter_map(|(_, _, expires_at_ms)| *expires_at_ms);
    for now_ms in times.chain([u64::MAX]) {
        let due = cells.due(&mut ExpiryCursor::default(), now_ms, fold.len());
        let mut due: Vec<_> = due.unwrap().into_iter().map(|cell| cell.key).collect();
        due.sort();
        let expected = fold
            .iter()
            .filter(|(_, (_, _, at_ms))| at_ms.is_some_and(|at| at <= now_ms));
        let expected: Vec<_> = expected.map(|(key, _)| key.clone()).collect();
        assert_eq!(due, expected, "due at {now_ms} in {}", cells.partition());
    }
}

/// What a life came to: everything submitted, and what of it was acknowledged.
#[derive(Default)]
pub(super) struct Life {
    pub(super) submitted: Author,
    pub(super) acked: Author,
}

impl Life {
    /// Opens what is left and checks that nothing acknowledged is missing and nothing is half
    /// there, that the store goes on from it, and that a check finds it sound.
    pub(super) fn check_after(
        &self,
        disk: &MemoryDisk,
        engine: EngineChoice,
        what: &str,
    ) -> (Author, VerifyReport) {
        let opened = try_open(disk, options_with(engine));
        let (store, recovery) = opened.unwrap_or_else(|error| panic!("{what}: {error}"));
        let mut found = self.submitted.clone();
        found.forget_after(&recovery);
        for partition in self.acked.written.keys() {
            let (kept, acked) = (found.last_seq(*partition), self.acked.last_seq(*partition));
            assert!(
                kept >= acked,
                "{what}: {partition} has {kept}, acked was {acked}"
            );
        }
        found.check(&store);
        for bucket in 0..3 {
            found.write(&store, partition(bucket), b"goes on").unwrap();
        }
        found.commit(&store).unwrap();
        found.check(&store);
        store.close().unwrap();
        drop(store);
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let report = verify(&shared, Path::new(DIR)).unwrap();
        assert!(report.is_sound(), "{what}: {report:?}");
        let (store, _) = open(disk);
        found.check(&store);
        (found, report)
    }
}

/// All bytes of a file.
pub(super) fn file_bytes(disk: &MemoryDisk, path: &str) -> Vec<u8> {
    let file = disk
        .open(Path::new(path), crate::disk::OpenMode::Read)
        .unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    bytes
}

/// Overwrites bytes of a file behind the store's back.
pub(super) fn overwrite(disk: &MemoryDisk, path: &str, offset: u64, bytes: &[u8]) {
    let file = disk
        .open(Path::new(path), crate::disk::OpenMode::ReadWrite)
        .unwrap();
    file.write_at(bytes, offset).unwrap();
    file.sync_all().unwrap();
}
