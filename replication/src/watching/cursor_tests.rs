//! Tests of a watch's cursor over a real store on a disk in memory: records that become visible and
//! durable in any order, among those of others, under a journal that is cut.
//!
//! **Owns**: a random author who remembers.
//! **Does not own**: tasks and wake-ups (the workspace's cluster tests).

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use domicile_proto::record::RecordBody;
use domicile_proto::{
    AckLevel, Bucket, Hlc, KeyspaceId, NodeId, Operation, RecordHead, RecordKind, RegionId,
    RequestId,
};
use domicile_storage::retention::NOTHING;
use domicile_storage::{EngineChoice, MemoryDisk, SnapshotPlan, StoreOptions};

use super::*;

/// Lives of each test; each is some milliseconds.
const SEEDS: u64 = 40;

/// Of the watched keyspace; the fourth belongs to somebody else.
const WATCHED: u16 = 3;

fn partition(bucket: u16) -> PartitionId {
    PartitionId {
        keyspace: KeyspaceId::new(1),
        region: RegionId::new(7).unwrap(),
        bucket: Bucket::new(bucket),
    }
}

fn epoch() -> Epoch {
    let node = NodeId::new(1).unwrap();
    Epoch { counter: 1, node }
}

struct Author {
    store: Arc<Store>,
    state: u64,
    written: BTreeMap<PartitionId, Vec<Vec<Operation>>>,
    durable: BTreeMap<PartitionId, Seq>,
}

impl Author {
    fn new(seed: u64) -> Self {
        let options = StoreOptions {
            node_id: NodeId::new(1).ok(),
            journal_file_bytes: 64 << 10,
            engine: EngineChoice::Memory,
            ..StoreOptions::default()
        };
        let disk = Arc::new(MemoryDisk::new());
        let (store, _) = Store::open(disk, Path::new("/data"), options).unwrap();
        Self {
            store,
            state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            written: BTreeMap::new(),
            durable: BTreeMap::new(),
        }
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 11) % limit
    }

    fn last(&self, id: PartitionId) -> Seq {
        Seq::new(self.written.get(&id).map_or(0, Vec::len) as u64)
    }

    /// A write of one to three keys, or a mark.
    fn write(&mut self, id: PartitionId, bytes: usize) {
        let count = self.below(4);
        let operation = |index: u64| {
            let key = Bytes::from_static(["a0", "b1", "a2"][index as usize].as_bytes());
            match index {
                2 => Operation::Delete { key },
                _ => Operation::Put {
                    key,
                    value: vec![index as u8; bytes].into(),
                    expiry: None,
                },
            }
        };
        let operations: Vec<Operation> = (0..count).map(operation).collect();
        let (kind, body) = match operations.is_empty() {
            true => (RecordKind::DegradeBegin, RecordBody::mark()),
            false => (RecordKind::Write, RecordBody::encode(&operations).unwrap()),
        };
        let seq = self.last(id).next();
        let head = RecordHead {
            kind,
            level: AckLevel::Async,
            hlc: Hlc::at_ms(1),
            generation: 0,
            request_id: RequestId::new(u128::from(seq.get())).unwrap(),
        };
        let record = Record { head, body };
        let visible = self.store.cells(id).applied_upto().min(self.durable(id));
        self.store
            .submit_record(id, epoch(), seq, visible, record)
            .unwrap();
        self.written.entry(id).or_default().push(operations);
    }

    fn commit(&mut self) {
        for commit in self.store.commit_once().unwrap() {
            self.durable.insert(commit.partition, commit.last_seq);
        }
    }

    /// Cuts all of the journal that may be.
    fn cut(&mut self) {
        self.store.flush_once().map(drop).unwrap();
        self.commit();
        let plan = SnapshotPlan {
            now_ms: 1,
            requests_max: 5,
        };
        for id in (0..=WATCHED).map(partition) {
            self.store.snapshot(id, plan, &mut |_| true).unwrap();
        }
        self.store.trim(&|_| NOTHING).unwrap();
    }

    fn durable(&self, id: PartitionId) -> Seq {
        self.durable.get(&id).copied().unwrap_or_default()
    }

    fn cursor(&self, keys: WatchKeys) -> WatchCursor {
        let start = self.store.journal_start();
        let ids = (0..WATCHED).map(partition);
        let followers = ids.map(|id| Follower::new(self.store.cells(id), None, start));
        WatchCursor::new(followers.collect(), keys)
    }

    /// Passes until there is nothing to tell.
    fn drain(&self, cursor: &mut WatchCursor, told: &mut Told) -> Result<(), Error> {
        while let Some((start, end)) = cursor.plan(&self.store)? {
            let chunk = self.store.read(start, end, 4096).unwrap();
            told.take(self, cursor.take(&self.store, start, &chunk)?);
        }
        Ok(())
    }
}

#[derive(Default)]
struct Told {
    changes: BTreeMap<PartitionId, Vec<(Seq, Vec<Operation>)>>,
    upto: BTreeMap<PartitionId, Seq>,
}

impl Told {
    fn take(&mut self, author: &Author, found: Found) {
        for change in found.changes {
            let id = change.partition;
            let seq = change.version.seq;
            let before = self.changes.entry(id).or_default();
            assert!(before.last().is_none_or(|(last, _)| *last < seq));
            before.push((seq, change.operations));
        }
        for (id, position) in found.moved {
            let seq = position.unwrap().seq;
            assert!(seq <= author.durable(id), "{seq} is not durable");
            assert!(
                seq <= author.store.cells(id).applied_upto(),
                "{seq} is not visible"
            );
            let before = self.upto.insert(id, seq).unwrap_or_default();
            assert!(before < seq, "{seq} after {before}");
        }
    }

    /// What matches of everything up to where both visible and durable meet.
    fn check(&self, author: &Author, keys: &WatchKeys, what: &str) {
        for id in (0..WATCHED).map(partition) {
            let visible = author.store.cells(id).applied_upto();
            let upto = visible.min(author.durable(id));
            let told = self.upto.get(&id).copied().unwrap_or_default();
            assert_eq!(told, upto, "{what}: {id}");
            let records = author.written.get(&id).into_iter().flatten();
            let records = records.take(upto.get() as usize).zip(1..);
            let matching = records.filter_map(|(operations, seq)| {
                let operations = operations.iter();
                let matching = operations.filter(|each| keys.matches(each.key()));
                let matching: Vec<Operation> = matching.cloned().collect();
                (!matching.is_empty()).then_some((Seq::new(seq), matching))
            });
            let changes = self.changes.get(&id).into_iter().flatten();
            assert!(changes.cloned().eq(matching), "{what}: {id} up to {upto}");
        }
    }
}

#[test]
fn whatever_is_visible_and_durable_is_told_once_and_nothing_else_ever() {
    for seed in 0..SEEDS {
        let mut author = Author::new(seed);
        let keys = WatchKeys::Prefix(match seed % 3 {
            0 => Bytes::new(),
            1 => "a".into(),
            _ => "b1".into(),
        });
        let mut cursor = author.cursor(keys.clone());
        let mut told = Told::default();
        for step in 0..200 {
            let id = partition(author.below(u64::from(WATCHED) + 1) as u16);
            match author.below(6) {
                0 | 1 => {
                    for _ in 0..=author.below(5) {
                        let bytes = [10, 900, 9000][author.below(3) as usize];
                        author.write(id, bytes);
                    }
                }
                2 => author.commit(),
                // As at a home, and as at a copy: before it is durable.
                3 => {
                    let upto = Seq::new(author.below(author.last(id).get() + 1));
                    author.store.cells(id).advance(upto);
                }
                4 => {
                    author.store.flush_once().map(drop).unwrap();
                    author.commit();
                }
                _ => {
                    author.drain(&mut cursor, &mut told).unwrap();
                    told.check(&author, &keys, &format!("seed {seed}, step {step}"));
                }
            }
        }
        author.commit();
        for id in (0..WATCHED).map(partition) {
            author.store.cells(id).advance(author.last(id));
        }
        author.drain(&mut cursor, &mut told).unwrap();
        told.check(&author, &keys, &format!("seed {seed}, at its end"));
        let seen = cursor.positions().into_iter();
        let seen: BTreeMap<_, _> = seen.collect();
        for id in (0..WATCHED).map(partition) {
            let seq = seen[&id].map_or(Seq::NONE, |position| position.seq);
            assert_eq!(seq, author.last(id));
        }
    }
}

/// A cursor that falls behind a journal that is cut tells all it can and then says so: there is no
/// life in which it skips a record.
#[test]
fn a_cut_is_told_before_anything_is_skipped() {
    let mut cut = 0;
    for seed in 0..SEEDS {
        let mut author = Author::new(seed);
        let keys = WatchKeys::Prefix(Bytes::new());
        let mut cursor = author.cursor(keys.clone());
        let mut told = Told::default();
        for step in 0..60 {
            let id = partition(author.below(u64::from(WATCHED)) as u16);
            for _ in 0..4 {
                author.write(id, 4000);
            }
            author.commit();
            author.store.cells(id).advance(author.last(id));
            if author.below(3) == 0 {
                author.cut();
            }
            if author.below(4) > 0 {
                continue;
            }
            match author.drain(&mut cursor, &mut told) {
                Ok(()) => told.check(&author, &keys, &format!("seed {seed}, step {step}")),
                Err(error) => {
                    assert_eq!(error.reason(), Reason::Compacted, "{error}");
                    let facts = error.metadata();
                    let wanted: u64 = facts["wanted"].parse().unwrap();
                    let named = (0..WATCHED).map(partition);
                    let mut named = named.filter(|id| id.to_string() == facts["partition"]);
                    let id = named.next().unwrap();
                    let told = told.upto.get(&id).copied().unwrap_or_default();
                    assert_eq!(told.next(), Seq::new(wanted));
                    let oldest = author.store.log_start(id);
                    assert_eq!(facts["oldest"], oldest.to_string());
                    assert!(oldest > told.next());
                    cut += 1;
                    break;
                }
            }
        }
    }
    assert!(cut > 0, "no journal was cut before it was read");
}

#[test]
fn a_large_segment_is_told_in_several_passes() {
    let mut author = Author::new(7);
    for _ in 0..120 {
        author.write(partition(0), 9000);
    }
    author.commit();
    author.store.cells(partition(0)).advance(Seq::new(120));
    let keys = WatchKeys::Prefix(Bytes::new());
    let (mut cursor, mut told, mut passes) = (author.cursor(keys.clone()), Told::default(), 0);
    while let Some((start, end)) = cursor.plan(&author.store).unwrap() {
        let chunk = author.store.read(start, end, 4096).unwrap();
        let found = cursor.take(&author.store, start, &chunk).unwrap();
        let most = PASS_BYTES + 3 * 9000 + 1024;
        assert!(found.bytes <= most, "{} bytes in a pass", found.bytes);
        told.take(&author, found);
        passes += 1;
    }
    assert!(passes > 2, "{passes} passes");
    told.check(&author, &keys, "all of it");
}

/// The journal never does this unless it is damaged; should it ever, nothing is passed over.
#[test]
fn a_record_that_is_missing_is_damage() {
    let mut author = Author::new(7);
    for _ in 0..3 {
        author.write(partition(0), 10);
        author.commit();
    }
    author.store.cells(partition(0)).advance(Seq::new(3));
    let mut cursor = author.cursor(WatchKeys::Prefix(Bytes::new()));
    let (start, end) = cursor.plan(&author.store).unwrap().unwrap();
    let mut chunk = author.store.read(start, end, 4096).unwrap();
    chunk.segments.remove(0);
    let error = cursor.take(&author.store, start, &chunk).unwrap_err();
    assert_eq!(error.reason(), Reason::ChecksumMismatch);
    assert!(error.to_string().contains("lacks record 1"), "{error}");
}

/// Between planning a read and doing it the file may go: that is no damage, and if nothing of the
/// watch was in it, it does not even end the watch.
#[tokio::test]
async fn a_file_that_goes_before_it_is_read_is_planned_anew() {
    let (own, stranger) = (partition(0), partition(WATCHED));
    for (first, second) in [(stranger, own), (own, stranger)] {
        let mut author = Author::new(7);
        let mut cursor = author.cursor(WatchKeys::Prefix(Bytes::new()));
        // The first fills files, the second is in the one that stays.
        for id in std::iter::repeat_n(first, 60).chain([second]) {
            author.write(id, 4000);
            author.commit();
            author.store.cells(id).advance(author.last(id));
        }
        let (_, end) = cursor.plan(&author.store).unwrap().unwrap();
        let start = author.store.journal_start();
        author.cut();
        assert!(author.store.journal_start() > start, "nothing was cut");
        let found = cursor.read_planned(&author.store, (start, end)).await;
        assert!(found.unwrap().is_none(), "a file that has gone was read");
        let mut told = Told::default();
        let again = loop {
            match cursor.pass(&author.store).await {
                Ok(Some(found)) => told.take(&author, found),
                Ok(None) => break None,
                Err(error) => break Some(error.reason()),
            }
        };
        let is_cut = author.store.log_start(own) > Seq::FIRST;
        assert_eq!(is_cut, first == own);
        assert_eq!(again, is_cut.then_some(Reason::Compacted));
        assert_eq!(
            told.upto.get(&own).copied(),
            (!is_cut).then_some(Seq::FIRST)
        );
    }
}
