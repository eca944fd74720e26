//! The cells against a plain map, through failed flushes, crashes and lost engines.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use domicile_proto::{Expiry, Hlc, Operation, PartitionId, Seq};
use proptest::prelude::*;

use super::rows::ExpiryPrefix;
use super::tests::{epoch, partition, record};
use super::*;
use crate::engine::{Direction, MemoryEngine, is_empty_range};

const PARTITIONS: usize = 2;
const KEYS: u8 = 14;

/// Cells expire in these first ms of time.
const TIMES: u64 = 12;

#[derive(Debug, Clone)]
enum Step {
    Write {
        partition: usize,
        operations: Vec<Operation>,
    },
    Advance {
        partition: usize,
        records: u64,
    },
    Flush,
    /// A flush during which the engine fails after some batches.
    FailedFlush {
        batches: u64,
    },
    /// Keeps a copy of the engine, for a later loss of everything after it.
    KeepImage,
    Crash(Engines),
    /// What the home does: deletes what is due, at most so many cells.
    Expire {
        partition: usize,
        now_ms: u64,
        limit: usize,
        rounds: usize,
    },
    Scan {
        partition: usize,
        from: Bound<u8>,
        upto: Bound<u8>,
        direction: Direction,
        limit: usize,
    },
}

/// What is left of the engine after a crash.
#[derive(Debug, Clone, Copy)]
enum Engines {
    AsItWas,
    Old,
    Lost,
}

/// What a key should have: value, place, expiry.
type Content = (Bytes, Seq, Option<u64>);
type Expected = BTreeMap<Bytes, Content>;

#[derive(Default)]
struct Log {
    /// Every record stored: what the journal would have.
    records: Vec<Vec<Operation>>,
    applied_upto: u64,
    expected: Expected,
    cursor: ExpiryCursor,
}

struct World {
    engine: Arc<MemoryEngine>,
    image: MemoryEngine,
    store: CellStore,
    logs: [Log; PARTITIONS],
}

fn key(index: u8) -> Bytes {
    // Keys that are prefixes of each other, and one of 0xff.
    match index {
        0 => Bytes::from_static(&[0xff; 3]),
        1 => Bytes::from_static(b"k"),
        _ => format!(
            "k{}",
            "x".repeat(usize::from(index) / 4) + &index.to_string()
        )
        .into(),
    }
}

fn options() -> CellOptions {
    CellOptions {
        overlay_bytes_max: 20_000,
        replay_records_max: 50,
        batch_rows_max: 3,
    }
}

fn id(index: usize) -> PartitionId {
    partition(index as u16)
}

impl World {
    fn new() -> Self {
        let engine = Arc::new(MemoryEngine::new());
        let store = CellStore::open(engine.clone(), options()).unwrap();
        Self {
            engine,
            image: MemoryEngine::new(),
            store,
            logs: Default::default(),
        }
    }

    fn cells(&self, index: usize) -> Arc<PartitionCells> {
        self.store.partition(id(index))
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Write {
                partition,
                operations,
            } => self.write(partition, operations),
            Step::Advance { partition, records } => self.advance(partition, records),
            Step::Flush => {
                self.store.flush_once(Checkpoint::default()).unwrap();
            }
            Step::FailedFlush { batches } => {
                self.engine.stop_after(batches);
                let failed = self.store.flush_once(Checkpoint::default()).is_err();
                assert!(!failed || self.store.needs_flush());
                assert!(failed || self.store.stats().frozen_bytes == 0);
                self.engine.resume();
            }
            Step::KeepImage => self.image = self.engine.image(),
            Step::Crash(engines) => self.crash(engines),
            Step::Expire {
                partition,
                now_ms,
                limit,
                rounds,
            } => self.expire(partition, now_ms, limit, rounds),
            Step::Scan {
                partition,
                from,
                upto,
                direction,
                limit,
            } => {
                self.check_scan(partition, from.map(key), upto.map(key), direction, limit);
            }
        }
        self.check();
    }

    fn write(&mut self, index: usize, operations: Vec<Operation>) {
        let log = &mut self.logs[index];
        let seq = Seq::new(log.records.len() as u64 + 1);
        let record = record(&operations);
        log.records.push(operations);
        self.cells(index).enqueue(epoch(), seq, record);
    }

    /// Deletes what is due as long as something may be; a last round leaves nothing.
    fn expire(&mut self, index: usize, now_ms: u64, limit: usize, rounds: usize) {
        self.advance(index, u64::MAX >> 1);
        let cells = self.cells(index);
        for _ in 0..rounds {
            let log = &mut self.logs[index];
            if !cells.may_be_due(&log.cursor, now_ms) {
                let due = |(_, _, expiry): &Content| expiry.is_some_and(|at_ms| at_ms <= now_ms);
                assert!(!log.expected.values().any(due), "{:?}", log.expected);
                return;
            }
            let due = cells.due(&mut log.cursor, now_ms, limit).unwrap();
            assert!(due.len() <= limit);
            for cell in due {
                let (_, seq, expiry) = self.logs[index].expected[&cell.key];
                assert_eq!((cell.version.seq, Some(cell.expires_at_ms)), (seq, expiry));
                assert!(cell.expires_at_ms <= now_ms);
                self.write(index, vec![Operation::Delete { key: cell.key }]);
                self.advance(index, 1);
            }
        }
    }

    /// The engine's index of expiries is what its cells say, whatever else the engine lacks.
    fn check_index(&self, index: usize) {
        let page = |rows: Vec<(Bytes, Bytes)>| {
            let expiry = |(key, stored): (Bytes, Bytes)| {
                let at_ms = Cell::decode(&stored).unwrap().expires_at_ms?;
                Some((at_ms, key))
            };
            rows.into_iter().filter_map(expiry).collect::<BTreeSet<_>>()
        };
        let cells = self
            .store
            .stored_page(id(index), None, usize::from(KEYS) + 1);
        let prefix = ExpiryPrefix::of(id(index));
        let rows = prefix.scan(&*self.engine, None, 100).unwrap();
        let found = rows.iter().map(|row| prefix.split(row).unwrap());
        assert_eq!(found.collect::<BTreeSet<_>>(), page(cells.unwrap()));
    }

    fn advance(&mut self, index: usize, records: u64) {
        let upto = Seq::new(self.logs[index].applied_upto + records);
        let applied = self.cells(index).advance(upto);
        let log = &mut self.logs[index];
        let expected = records.min(log.records.len() as u64 - log.applied_upto);
        assert_eq!(applied, expected);
        for _ in 0..applied {
            log.applied_upto += 1;
            for operation in &log.records[log.applied_upto as usize - 1] {
                match operation {
                    Operation::Put { key, value, expiry } => {
                        let expires_at_ms = expiry.map(|expiry| expiry.at_ms(Hlc::ZERO));
                        let cell = (value.clone(), Seq::new(log.applied_upto), expires_at_ms);
                        log.expected.insert(key.clone(), cell);
                    }
                    Operation::Delete { key } => {
                        log.expected.remove(key);
                    }
                }
            }
        }
    }

    /// Everything in memory is lost; the journal is replayed from the engine's marks.
    fn crash(&mut self, engines: Engines) {
        self.engine = Arc::new(match engines {
            Engines::AsItWas => self.engine.image(),
            Engines::Old => self.image.image(),
            Engines::Lost => MemoryEngine::new(),
        });
        self.store = CellStore::open(self.engine.clone(), options()).unwrap();
        for marks in self.store.marks() {
            let index = (0..PARTITIONS)
                .find(|index| id(*index) == marks.partition)
                .unwrap();
            assert!(marks.applied_upto <= marks.intent_upto);
            assert!(
                marks.intent_upto.get() <= self.logs[index].applied_upto,
                "{marks:?}"
            );
        }
        for (index, log) in self.logs.iter_mut().enumerate() {
            log.cursor = ExpiryCursor::default();
            let cells = self.store.partition(id(index));
            let first = cells.applied_upto().next();
            let replayed = &log.records[first.get() as usize - 1..];
            cells.enqueue_all(
                epoch(),
                first,
                replayed.iter().map(|record_| record(record_)),
            );
            cells.advance(Seq::new(log.applied_upto));
        }
    }

    fn check(&self) {
        let mut recounted = (0, 0);
        let mut unapplied = 0;
        for (index, log) in self.logs.iter().enumerate() {
            self.check_index(index);
            let cells = self.cells(index);
            let (active, frozen) = cells.recount();
            recounted = (recounted.0 + active, recounted.1 + frozen);
            unapplied += cells.unapplied_records();
            assert_eq!(cells.applied_upto().get(), log.applied_upto);
            for key in (0..KEYS).map(key) {
                let read = cells.get(&key).unwrap();
                assert_eq!(read.applied_upto.get(), log.applied_upto);
                let found = read
                    .cell
                    .map(|cell| (cell.value.unwrap(), cell.version.seq, cell.expires_at_ms));
                assert_eq!(found.as_ref(), log.expected.get(&key), "{key:?}");
            }
        }
        let stats = self.store.stats();
        assert_eq!((stats.active_bytes, stats.frozen_bytes), recounted);
        assert_eq!(stats.unapplied_records, unapplied);
        assert_eq!(stats.unapplied_bytes == 0, unapplied == 0);
    }

    /// Walks a range page by page and compares all of it.
    fn check_scan(
        &self,
        index: usize,
        from: Bound<Bytes>,
        upto: Bound<Bytes>,
        direction: Direction,
        limit: usize,
    ) {
        let expected = self.expected_rows(index, &from, &upto, direction);
        let cells = self.cells(index);
        let (mut from, mut upto) = (from, upto);
        let mut found = Vec::new();
        for _ in 0..=KEYS {
            let page = cells
                .scan(
                    from.as_ref().map(|key| &key[..]),
                    upto.as_ref().map(|key| &key[..]),
                    direction,
                    limit,
                )
                .unwrap();
            assert!(page.rows.len() <= limit);
            assert_eq!(page.applied_upto, cells.applied_upto());
            assert!(page.more() || found.len() + page.rows.len() == expected.len());
            let rows = page.rows.into_iter().map(|(key, cell)| {
                let found = (cell.value.unwrap(), cell.version.seq, cell.expires_at_ms);
                (key, found)
            });
            found.extend(rows);
            match (page.resume_after, direction) {
                (None, _) => break,
                (Some(key), Direction::Forward) => from = Bound::Excluded(key),
                (Some(key), Direction::Backward) => upto = Bound::Excluded(key),
            }
        }
        assert_eq!(found, expected);
    }

    fn expected_rows(
        &self,
        index: usize,
        from: &Bound<Bytes>,
        upto: &Bound<Bytes>,
        direction: Direction,
    ) -> Vec<(Bytes, Content)> {
        let bounds = (
            from.as_ref().map(|key| &key[..]),
            upto.as_ref().map(|key| &key[..]),
        );
        if is_empty_range(bounds.0, bounds.1) {
            return Vec::new();
        }
        let range = self.logs[index].expected.range::<[u8], _>(bounds);
        let owned = |(key, cell): (&Bytes, &Content)| (key.clone(), cell.clone());
        match direction {
            Direction::Forward => range.map(owned).collect(),
            Direction::Backward => range.rev().map(owned).collect(),
        }
    }
}

fn operation() -> impl Strategy<Value = Operation> {
    let value = prop_oneof![Just(0), 1..60usize, Just(3_000usize)];
    prop_oneof![
        2 => (0..KEYS, value, any::<u8>()).prop_map(|(index, len, fill)| Operation::Put {
            key: key(index),
            value: vec![fill; len].into(),
            // Their records are stamped in ms 0, so that both forms mean the same time.
            expiry: match fill % 3 {
                0 => None,
                1 => Some(Expiry::AtMs(u64::from(fill) % TIMES)),
                _ => Some(Expiry::AfterMs(1 + u64::from(fill) % (TIMES - 1))),
            },
        }),
        1 => (0..KEYS).prop_map(|index| Operation::Delete { key: key(index) }),
    ]
}

fn bound() -> impl Strategy<Value = Bound<u8>> {
    prop_oneof![
        Just(Bound::Unbounded),
        (0..KEYS).prop_map(Bound::Included),
        (0..KEYS).prop_map(Bound::Excluded),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let direction = || prop_oneof![Just(Direction::Forward), Just(Direction::Backward)];
    let engines =
        prop_oneof![4 => Just(Engines::AsItWas), 2 => Just(Engines::Old), 1 => Just(Engines::Lost)];
    prop_oneof![
        8 => (0..PARTITIONS, prop::collection::vec(operation(), 1..4))
            .prop_map(|(partition, operations)| Step::Write { partition, operations }),
        8 => (0..PARTITIONS, 0..6u64)
            .prop_map(|(partition, records)| Step::Advance { partition, records }),
        2 => Just(Step::Flush),
        2 => (0..6u64).prop_map(|batches| Step::FailedFlush { batches }),
        1 => Just(Step::KeepImage),
        1 => engines.prop_map(Step::Crash),
        3 => (0..PARTITIONS, 0..TIMES, 1..6usize, 0..12usize).prop_map(
            |(partition, now_ms, limit, rounds)| Step::Expire { partition, now_ms, limit, rounds }
        ),
        4 => (0..PARTITIONS, bound(), bound(), direction(), 1..6usize).prop_map(
            |(partition, from, upto, direction, limit)| Step::Scan {
                partition, from, upto, direction, limit
            }
        ),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// A failing case prints its steps, and the seed that repeats it.
    #[test]
    fn cells_are_a_map_folded_from_the_log(steps in prop::collection::vec(step(), 1..80)) {
        let mut world = World::new();
        for step in steps {
            world.run(step);
        }
        // Whatever came before, nothing that is due stays.
        for index in 0..PARTITIONS {
            world.expire(index, TIMES, 3, 1_000);
            assert!(world.logs[index].expected.values().all(|(_, _, expiry)| expiry.is_none()));
        }
    }
}
