//! Random operations and faults against a map: after every end, what was acknowledged is there.
//!
//! **Owns**: the steps, the map that they are checked against.
//! **Does not own**: ends at every operation of one script (`power`, `snapshots`, `install`).
//!
//! A run ends a machine several times, in the midst of anything, on a disk that fails. proptest
//! shrinks a run that fails. `DOMICILE_MODEL_RUNS` sets how many there are.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use domicile_proto::record::RecordBody;
use domicile_proto::{Expiry, Hlc, Operation, PartitionId, Record, Seq};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::fixture::*;
use crate::cells::ExpiryCursor;
use crate::disk::Disk;
use crate::engine::{Direction, MemoryEngine};
use crate::retention::NOTHING;
use crate::{Cell, EngineChoice, MemoryDisk, Recovery, SnapshotPlan, Store, StoreError, verify};

/// Runs unless told otherwise: about 5 s in a debug build.
const RUNS: u32 = 4_000;

/// Partitions written to.
const BUCKETS: u16 = 3;

/// Keys of a partition: few, so that they are written again.
const KEYS: u8 = 8;

/// Requests in snapshots: fewer than a run has records.
const PLAN: SnapshotPlan = SnapshotPlan {
    now_ms: 1,
    requests_max: 5,
};

#[derive(Debug, Clone)]
enum Step {
    /// A record of several operations, all of which are there afterwards or none.
    Write {
        bucket: u16,
        operations: Vec<Change>,
    },
    Commit,
    Advance {
        bucket: u16,
    },
    /// The engine may stop within it, and goes on afterwards.
    Flush {
        stops_after: Option<u64>,
    },
    Snapshot {
        bucket: u16,
    },
    Trim {
        needed_from: Option<u64>,
    },
    Prepare,
    Fault(Fault),
    End(End, Engine),
}

#[derive(Debug, Clone)]
enum Change {
    Put {
        key: u8,
        len: usize,
        ttl_ms: Option<u64>,
    },
    Delete {
        key: u8,
    },
}

#[derive(Debug, Clone)]
enum Fault {
    /// The machine dies at this change of the disk.
    DiesAt(u64),
    SyncFails(u64),
    WriteFails(u64),
    ReadFails(u64),
    ReadsShort(u64),
    SpaceLeft(u64),
}

#[derive(Debug, Clone)]
enum End {
    Close,
    Kill,
    PowerLoss { seed: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Engine {
    Kept,
    Lost,
}

fn step() -> impl Strategy<Value = Step> {
    let bucket = 0..BUCKETS;
    let len = prop_oneof![4 => 0..40_usize, 1 => 4_000..20_000_usize];
    let ttl_ms = prop::option::of(1..50_u64);
    let change = prop_oneof![
        4 => (0..KEYS, len, ttl_ms)
            .prop_map(|(key, len, ttl_ms)| Change::Put { key, len, ttl_ms }),
        1 => (0..KEYS).prop_map(|key| Change::Delete { key }),
    ];
    let write = (bucket.clone(), prop::collection::vec(change, 1..5));
    let fault = prop_oneof![
        3 => (1..12_u64).prop_map(Fault::DiesAt),
        2 => (1..5_u64).prop_map(Fault::SyncFails),
        1 => (1..5_u64).prop_map(Fault::WriteFails),
        1 => (1..9_u64).prop_map(Fault::ReadFails),
        1 => (1..9_u64).prop_map(Fault::ReadsShort),
        1 => (0..90_000_u64).prop_map(Fault::SpaceLeft),
    ];
    let end = prop_oneof![
        1 => Just(End::Close),
        2 => Just(End::Kill),
        2 => any::<u64>().prop_map(|seed| End::PowerLoss { seed }),
    ];
    let engine = prop_oneof![Just(Engine::Kept), Just(Engine::Lost)];
    prop_oneof![
        12 => write.prop_map(|(bucket, operations)| Step::Write { bucket, operations }),
        8 => Just(Step::Commit),
        5 => bucket.clone().prop_map(|bucket| Step::Advance { bucket }),
        3 => prop::option::of(0..6_u64).prop_map(|stops_after| Step::Flush { stops_after }),
        3 => bucket.prop_map(|bucket| Step::Snapshot { bucket }),
        2 => prop::option::of(1..30_u64).prop_map(|needed_from| Step::Trim { needed_from }),
        1 => Just(Step::Prepare),
        3 => fault.prop_map(Step::Fault),
        3 => (end, engine).prop_map(|(end, engine)| Step::End(end, engine)),
    ]
}

/// One partition as it should be.
#[derive(Debug, Default)]
struct Log {
    records: Vec<Record>,
    acked: usize,
    visible: usize,
}

/// A value with its record's number and its expiry.
type Value = (Bytes, u64, Option<u64>);

impl Log {
    fn fold(&self, upto: usize) -> BTreeMap<Bytes, Value> {
        let mut fold = BTreeMap::new();
        for (record, seq) in self.records[..upto].iter().zip(1..) {
            for operation in record.body.operations().unwrap() {
                match operation {
                    Operation::Put { key, value, expiry } => {
                        let expires = expiry.map(|expiry| expiry.at_ms(record.head.hlc));
                        fold.insert(key, (value, seq, expires));
                    }
                    Operation::Delete { key } => drop(fold.remove(&key)),
                }
            }
        }
        fold
    }
}

struct Model {
    disk: MemoryDisk,
    engine: Arc<MemoryEngine>,
    store: Option<Arc<Store>>,
    logs: BTreeMap<PartitionId, Log>,
    lives: u64,
    writes: u64,
}

impl Model {
    fn new() -> Self {
        let mut model = Self {
            disk: MemoryDisk::new(),
            engine: Arc::default(),
            store: None,
            logs: (0..BUCKETS)
                .map(|bucket| (partition(bucket), Log::default()))
                .collect(),
            lives: 0,
            writes: 0,
        };
        model.open(Engine::Kept);
        model
    }

    fn step(&mut self, step: Step) {
        let Some(store) = self.store.clone() else {
            return;
        };
        match step {
            Step::Write { bucket, operations } => {
                self.write(&store, partition(bucket), &operations)
            }
            Step::Commit => self.commit(&store),
            Step::Advance { bucket } => {
                let log = self.logs.get_mut(&partition(bucket)).unwrap();
                log.visible = log.acked;
                store
                    .cells(partition(bucket))
                    .advance(Seq::new(log.acked as u64));
            }
            Step::Flush { stops_after } => {
                if let Some(batches) = stops_after {
                    self.engine.stop_after(batches);
                }
                drop(store.flush_once());
                self.engine.resume();
            }
            Step::Snapshot { bucket } => {
                drop(store.snapshot(partition(bucket), PLAN, &mut |_| true))
            }
            Step::Trim { needed_from } => {
                let needed = needed_from.map_or(NOTHING, Seq::new);
                drop(store.trim(&|_| needed));
                for id in self.logs.keys() {
                    let (start, end) = (store.log_start(*id), store.tail(*id));
                    let reaches = end.is_none_or(|tail| start <= tail.last_seq.next());
                    assert!(reaches, "the log of {id} begins at {start}, behind its end");
                }
            }
            Step::Prepare => drop(store.prepare_once()),
            Step::Fault(fault) => match fault {
                Fault::DiesAt(nth) => self.disk.freeze_at_operation(nth),
                Fault::SyncFails(nth) => self.disk.fail_sync(nth),
                Fault::WriteFails(nth) => self.disk.fail_write(nth),
                Fault::ReadFails(nth) => self.disk.fail_read(nth),
                Fault::ReadsShort(nth) => self.disk.shorten_read(nth),
                Fault::SpaceLeft(bytes) => self.disk.set_space_left(Some(bytes)),
            },
            Step::End(end, engine) => self.end(&end, engine),
        }
    }

    fn write(&mut self, store: &Store, partition: PartitionId, changes: &[Change]) {
        self.writes += 1;
        let fill = self.writes as u8;
        let operations: Vec<_> = changes
            .iter()
            .map(|change| operation(change, fill))
            .collect();
        let mut record = record(b"k", b"", u128::from(self.writes) + 1);
        record.head.hlc = Hlc::at_ms(self.writes);
        record.body = RecordBody::encode(&operations).unwrap();
        let log = self.logs.get_mut(&partition).unwrap();
        let seq = Seq::new(log.records.len() as u64 + 1);
        let visible = Seq::new(log.visible as u64);
        let submitted =
            store.submit_record(partition, epoch(self.lives), seq, visible, record.clone());
        match submitted {
            Ok(()) => log.records.push(record),
            Err(error) => assert!(store.poison_cause().is_some(), "{error}"),
        }
    }

    fn commit(&mut self, store: &Store) {
        let was_poisoned = store.poison_cause().is_some();
        match store.commit_once() {
            Ok(commits) => {
                assert!(!was_poisoned, "acknowledged after a failure");
                for commit in commits {
                    let log = self.logs.get_mut(&commit.partition).unwrap();
                    log.acked = commit.last_seq.get() as usize;
                }
            }
            Err(error) => assert!(store.poison_cause().is_some(), "{error}"),
        }
    }

    /// Ends this life and begins the next, on a disk that is well again.
    fn end(&mut self, end: &End, engine: Engine) {
        let store = self.store.take().unwrap();
        match end {
            End::Close => {
                if store.close().is_ok() {
                    for log in self.logs.values_mut() {
                        log.acked = log.records.len();
                    }
                }
                self.disk = self.disk.crash();
            }
            End::Kill => self.disk = self.disk.crash(),
            End::PowerLoss { seed } => self.disk = self.disk.power_loss(*seed),
        }
        drop(store);
        self.open(engine);
    }

    fn open(&mut self, engine: Engine) {
        self.engine = match engine {
            Engine::Kept => Arc::new(self.engine.image()),
            Engine::Lost => Arc::default(),
        };
        self.lives += 1;
        let shared: Arc<dyn Disk> = Arc::new(self.disk.crash());
        if self.lives > 1 {
            // A machine may die before there is an identity.
            match verify(&shared, Path::new(DIR)) {
                Ok(report) => assert!(report.is_sound(), "{report:?}"),
                Err(error) => assert!(matches!(error, StoreError::NotAStore { .. }), "{error}"),
            }
        }
        let given = EngineChoice::Given(Arc::clone(&self.engine) as _);
        let (store, recovery) = try_open(&self.disk, options_with(given)).unwrap();
        self.forget_unacked(&recovery);
        self.store = Some(store);
        self.check();
    }

    /// Of what nobody was told of, what is there is part of the log from now on.
    fn forget_unacked(&mut self, recovery: &Recovery) {
        for (id, log) in &mut self.logs {
            let found = recovery
                .partitions
                .iter()
                .find(|each| each.partition == *id);
            let last = found.map_or(0, |each| each.last_seq.get() as usize);
            let (acked, written) = (log.acked, log.records.len());
            let fits = (acked..=written).contains(&last);
            assert!(
                fits,
                "{id} has {last}, acknowledged {acked}, written {written}"
            );
            log.records.truncate(last);
            log.acked = last;
            log.visible = found.map_or(0, |each| each.visible_upto.get() as usize);
        }
    }

    /// The records are those that were written; the cells are the fold of those that are visible,
    /// key by key, as a range both ways, and in the order in which they end.
    fn check(&self) {
        let store = self.store.as_ref().unwrap();
        for (id, log) in &self.logs {
            let start = store.log_start(*id);
            let cut = start.get() as usize - 1;
            let found: Result<Vec<_>, _> = store.records(*id, start).collect();
            let found: Vec<_> = found.unwrap().into_iter().map(|(_, _, it)| it).collect();
            assert_eq!(
                found,
                log.records[cut.min(log.acked)..log.acked],
                "log of {id}"
            );
            let cells = store.cells(*id);
            let upto = Seq::new(log.visible as u64);
            cells.advance(upto);
            assert_eq!(cells.applied_upto(), upto, "{id}");
            let fold = log.fold(log.visible);
            for key in (0..KEYS).map(key_of) {
                let found = cells.get(&key).unwrap().cell.map(value_of);
                assert_eq!(found.as_ref(), fold.get(&key), "{key:?} of {id}");
            }
            for direction in [Direction::Forward, Direction::Backward] {
                let scan = cells.scan(Bound::Unbounded, Bound::Unbounded, direction, 100);
                let scan = scan.unwrap();
                let mut rows: Vec<_> = scan
                    .rows
                    .into_iter()
                    .map(|(key, cell)| (key, value_of(cell)))
                    .collect();
                if direction == Direction::Backward {
                    rows.reverse();
                }
                let expected: Vec<_> = fold.clone().into_iter().collect();
                assert_eq!(rows, expected, "{direction:?} scan of {id}");
            }
            for now_ms in [0, self.writes / 2, self.writes + 20, u64::MAX] {
                let due = cells
                    .due(&mut ExpiryCursor::default(), now_ms, 100)
                    .unwrap();
                let mut due: Vec<_> = due.into_iter().map(|cell| cell.key).collect();
                due.sort();
                let expected = fold
                    .iter()
                    .filter(|(_, value)| value.2.is_some_and(|at| at <= now_ms));
                let expected: Vec<_> = expected.map(|(key, _)| key.clone()).collect();
                assert_eq!(due, expected, "due at {now_ms} in {id}");
            }
        }
    }
}

fn key_of(key: u8) -> Bytes {
    Bytes::from(vec![b'k', key])
}

fn value_of(cell: Cell) -> Value {
    let value = cell.value.expect("a cell that is read has a value");
    (value, cell.version.seq.get(), cell.expires_at_ms)
}

fn operation(change: &Change, fill: u8) -> Operation {
    match change {
        Change::Put { key, len, ttl_ms } => Operation::Put {
            key: key_of(*key),
            value: vec![fill; *len].into(),
            expiry: ttl_ms.map(Expiry::AfterMs),
        },
        Change::Delete { key } => Operation::Delete { key: key_of(*key) },
    }
}

/// Runs the steps, ends the machine, and does so once more after a loss of power: what the last
/// open found must outlive it.
fn run(steps: Vec<Step>) {
    let mut model = Model::new();
    for step in steps {
        model.step(step);
    }
    model.end(&End::Kill, Engine::Kept);
    model.end(&End::PowerLoss { seed: 1 }, Engine::Kept);
    model.end(&End::PowerLoss { seed: 2 }, Engine::Lost);
}

#[test]
pub(super) fn random_lives_match_a_map() {
    let runs = std::env::var("DOMICILE_MODEL_RUNS").ok();
    let cases = runs.and_then(|runs| runs.parse().ok()).unwrap_or(RUNS);
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    let steps = prop::collection::vec(step(), 1..60);
    let tested = TestRunner::new(config).run(&steps, |steps| {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(steps)));
        outcome.map_err(|cause| {
            let text = cause.downcast_ref::<String>().cloned();
            TestCaseError::fail(text.unwrap_or_else(|| "a panic".to_owned()))
        })
    });
    if let Err(failure) = tested {
        panic!("{failure}");
    }
}
