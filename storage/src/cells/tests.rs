//! Tests of the cells: visibility, coalescing, the order of a flush, bounds, races.

use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use domicile_proto::record::RecordBody;
use domicile_proto::{
    AckLevel, Bucket, Epoch, Expiry, Hlc, KeyspaceId, NodeId, Operation, PartitionId, RecordHead,
    RecordKind, RegionId, RequestId, Seq,
};

use super::*;
use crate::engine::{Direction, Engine, EngineError, MemoryEngine, RowChange, SledEngine};

pub(super) fn partition(bucket: u16) -> PartitionId {
    PartitionId {
        keyspace: KeyspaceId::new(9),
        region: RegionId::new(7).unwrap(),
        bucket: Bucket::new(bucket),
    }
}

pub(super) fn epoch() -> Epoch {
    Epoch {
        counter: 1,
        node: NodeId::new(5).unwrap(),
    }
}

pub(super) fn head(kind: RecordKind) -> RecordHead {
    RecordHead {
        kind,
        level: AckLevel::Async,
        hlc: Hlc::from_bits(77),
        generation: 3,
        request_id: RequestId::new(1).unwrap(),
    }
}

pub(super) fn record(operations: &[Operation]) -> UnappliedRecord {
    let body = RecordBody::encode(operations).unwrap();
    UnappliedRecord::new(&head(RecordKind::Write), &body, body.bytes().len()).unwrap()
}

fn put(key: &str, value: impl Into<Bytes>) -> Operation {
    let key = Bytes::copy_from_slice(key.as_bytes());
    Operation::Put {
        key,
        value: value.into(),
        expiry: None,
    }
}

fn delete(key: &str) -> Operation {
    Operation::Delete {
        key: Bytes::copy_from_slice(key.as_bytes()),
    }
}

fn checkpoint(name: &str) -> Checkpoint {
    let row = Bytes::copy_from_slice(name.as_bytes());
    Checkpoint {
        rows: vec![RowChange::Set {
            row,
            value: Bytes::from_static(b"1"),
        }],
    }
}

fn store(engine: &Arc<impl Engine + 'static>) -> CellStore {
    CellStore::open(
        Arc::clone(engine) as Arc<dyn Engine>,
        CellOptions::default(),
    )
    .unwrap()
}

/// Enqueues and applies one record.
fn write(cells: &PartitionCells, operations: &[Operation]) -> Seq {
    let seq = cells.enqueued_upto().next();
    cells.enqueue(epoch(), seq, record(operations));
    assert_eq!(cells.advance(seq), 1);
    seq
}

fn value(cells: &PartitionCells, key: &str) -> Option<Bytes> {
    cells
        .get(key.as_bytes())
        .unwrap()
        .cell
        .map(|cell| cell.value.unwrap())
}

fn keys(scan: &CellScan) -> Vec<&[u8]> {
    scan.rows.iter().map(|(key, _)| &key[..]).collect()
}

fn put_until(key: &str, at_ms: u64) -> Operation {
    Operation::Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: "v".into(),
        expiry: Some(Expiry::AtMs(at_ms)),
    }
}

fn due(cells: &PartitionCells, cursor: &mut ExpiryCursor, now_ms: u64) -> Vec<Bytes> {
    let due = cells.due(cursor, now_ms, 100).unwrap();
    due.into_iter().map(|cell| cell.key).collect()
}

#[test]
fn nothing_due_is_known_without_the_engine_until_the_next_flush() {
    let engine = Arc::new(MemoryEngine::new());
    let store = store(&engine);
    let cells = store.partition(partition(0));
    write(&cells, &[put_until("a", 10), put_until("b", 20)]);
    store.flush_once(Checkpoint::default()).unwrap();
    let mut cursor = ExpiryCursor::default();
    assert!(cells.may_be_due(&cursor, 0), "the engine was never asked");
    assert_eq!(due(&cells, &mut cursor, 9), [""; 0]);
    assert!(!cells.may_be_due(&cursor, 9) && cells.may_be_due(&cursor, 10));
    assert_eq!(due(&cells, &mut cursor, 10), ["a"]);
    assert!(
        !cells.may_be_due(&cursor, 19),
        "what was handed out is passed"
    );
    cursor.restart();
    assert_eq!(due(&cells, &mut cursor, 10), ["a"]);
    write(&cells, &[delete("a"), put("b", "for ever")]);
    assert_eq!(due(&cells, &mut ExpiryCursor::default(), 20), [""; 0]);
    store.flush_once(Checkpoint::default()).unwrap();
    assert!(cells.may_be_due(&cursor, 20), "the engine has changed");
    assert_eq!(due(&cells, &mut cursor, 20), [""; 0]);
    assert!(!cells.may_be_due(&cursor, u64::MAX));
}

/// More than one call looks at: the walk goes on where it was, and does not begin again.
#[test]
fn what_is_passed_over_is_passed_over_once() {
    let engine = Arc::new(MemoryEngine::new());
    let store = store(&engine);
    let cells = store.partition(partition(0));
    let key = |index: u32| format!("k{index}");
    let slices: Vec<_> = (0..10_000)
        .step_by(1_000)
        .map(|from| from..from + 1_000)
        .collect();
    for slice in &slices {
        let puts: Vec<_> = slice
            .clone()
            .map(|index| put_until(&key(index), 1))
            .collect();
        write(&cells, &puts);
    }
    write(&cells, &[put_until("late", 2)]);
    store.flush_once(Checkpoint::default()).unwrap();
    for slice in slices {
        let deletes: Vec<_> = slice.map(|index| delete(&key(index))).collect();
        write(&cells, &deletes);
    }
    let mut cursor = ExpiryCursor::default();
    assert_eq!(due(&cells, &mut cursor, 2), [""; 0]);
    assert!(cells.may_be_due(&cursor, 2));
    assert_eq!(due(&cells, &mut cursor, 2), ["late"]);
    assert!(!cells.may_be_due(&cursor, 2));
}

/// The walk took the end of time for an entry that is due.
#[test]
fn a_walk_to_the_end_of_time_ends() {
    let engine = Arc::new(MemoryEngine::new());
    let store = store(&engine);
    let cells = store.partition(partition(0));
    write(&cells, &[put_until("last", u64::MAX)]);
    store.flush_once(Checkpoint::default()).unwrap();
    let mut cursor = ExpiryCursor::default();
    assert_eq!(due(&cells, &mut cursor, u64::MAX), ["last"]);
    assert_eq!(due(&cells, &mut cursor, u64::MAX), [""; 0]);
}

#[test]
fn a_row_of_the_index_without_its_cell_is_passed_over() {
    let engine = Arc::new(MemoryEngine::new());
    let store = store(&engine);
    let cells = store.partition(partition(0));
    write(&cells, &[put_until("kept", 5), put_until("moved", 6)]);
    store.flush_once(Checkpoint::default()).unwrap();
    let stray = super::rows::ExpiryPrefix::of(partition(0));
    let rows = [stray.row(1, b"gone"), stray.row(2, b"moved")].map(|row| RowChange::Set {
        row,
        value: Bytes::new(),
    });
    engine.apply(rows.to_vec()).unwrap();
    let mut cursor = ExpiryCursor::default();
    assert_eq!(due(&cells, &mut cursor, 5), ["kept"]);
}

const EVERY: (Bound<&[u8]>, Bound<&[u8]>) = (Bound::Unbounded, Bound::Unbounded);

/// Notes the batches it is given, and how many rows its scans gave.
struct NotingEngine {
    inner: MemoryEngine,
    scans: AtomicU64,
    scanned_rows: AtomicU64,
    batches: Mutex<Vec<Vec<RowChange>>>,
}

impl NotingEngine {
    fn new() -> Self {
        Self {
            inner: MemoryEngine::new(),
            scans: AtomicU64::new(0),
            scanned_rows: AtomicU64::new(0),
            batches: Mutex::default(),
        }
    }
}

impl Engine for NotingEngine {
    fn get(&self, row: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.inner.get(row)
    }

    fn apply(&self, batch: Vec<RowChange>) -> Result<(), EngineError> {
        self.inner.apply(batch.clone())?;
        self.batches.lock().unwrap().push(batch);
        Ok(())
    }

    fn scan(
        &self,
        from: Bound<&[u8]>,
        upto: Bound<&[u8]>,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
        let rows = self.inner.scan(from, upto, direction, limit)?;
        self.scans.fetch_add(1, Ordering::Relaxed);
        self.scanned_rows
            .fetch_add(rows.len() as u64, Ordering::Relaxed);
        Ok(rows)
    }

    fn sync(&self) -> Result<(), EngineError> {
        self.inner.sync()
    }

    fn bytes_on_disk(&self) -> u64 {
        0
    }

    fn name(&self) -> &'static str {
        "noting"
    }
}

#[test]
fn a_record_is_read_once_it_is_applied_and_as_a_whole() {
    let store = store(&Arc::new(MemoryEngine::new()));
    let cells = store.partition(partition(0));
    cells.enqueue(epoch(), Seq::FIRST, record(&[put("a", "1"), put("b", "1")]));
    cells.enqueue(epoch(), Seq::new(2), record(&[put("a", "2"), delete("b")]));
    assert_eq!(
        (cells.unapplied_records(), cells.enqueued_upto()),
        (2, Seq::new(2))
    );
    assert_eq!(value(&cells, "a"), None);
    assert_eq!(cells.advance(Seq::FIRST), 1);
    assert_eq!(value(&cells, "a").unwrap(), "1");
    assert_eq!(value(&cells, "b").unwrap(), "1");
    assert_eq!(cells.advance(Seq::new(99)), 1);
    assert_eq!(cells.advance(Seq::new(99)), 0);
    let read = cells.get(b"a").unwrap();
    assert_eq!(read.applied_upto, Seq::new(2));
    let cell = read.cell.unwrap();
    assert_eq!(cell.value.unwrap(), "2");
    assert_eq!(cell.version.seq, Seq::new(2));
    assert_eq!((cell.version.generation, cell.version.epoch), (3, epoch()));
    assert_eq!(cell.hlc, Hlc::from_bits(77));
    assert_eq!(value(&cells, "b"), None);
    assert_eq!((cells.unapplied_records(), cells.unapplied_bytes()), (0, 0));
    assert!(Arc::ptr_eq(&cells, &store.partition(partition(0))));
    assert_eq!(value(&store.partition(partition(1)), "a"), None);
}

#[test]
fn a_mark_moves_the_applied_mark_alone() {
    let engine = Arc::new(MemoryEngine::new());
    let store = store(&engine);
    let cells = store.partition(partition(0));
    let mark = UnappliedRecord::new(&head(RecordKind::DegradeBegin), &RecordBody::mark(), 0);
    cells.enqueue(epoch(), Seq::FIRST, mark.unwrap());
    assert_eq!(cells.advance(Seq::FIRST), 1);
    let report = store.flush_once(Checkpoint::default()).unwrap();
    assert_eq!((report.cells, report.records, report.partitions), (0, 1, 1));
    let marks = super::tests::store(&engine).marks().to_vec();
    let one = Seq::FIRST;
    let expected = PartitionMarks {
        partition: partition(0),
        applied_upto: one,
        intent_upto: one,
    };
    assert_eq!(marks, [expected]);
}

#[test]
fn a_body_must_fit_the_kind_of_its_record() {
    let body = RecordBody::encode(&[put("a", "1")]).unwrap();
    assert!(UnappliedRecord::new(&head(RecordKind::DegradeEnd), &body, 0).is_err());
    assert!(UnappliedRecord::new(&head(RecordKind::Write), &RecordBody::mark(), 0).is_err());
}

#[test]
#[should_panic(expected = "record 3 enqueued where 2 is next")]
fn a_hole_in_the_sequence_is_our_own_error() {
    let store = store(&Arc::new(MemoryEngine::new()));
    let cells = store.partition(partition(0));
    write(&cells, &[put("a", "1")]);
    cells.enqueue(epoch(), Seq::new(3), record(&[put("a", "2")]));
}

#[test]
fn overwrites_cost_the_engine_one_row_a_key() {
    let store = store(&Arc::new(MemoryEngine::new()));
    let cells = store.partition(partition(0));
    for round in 0..1_000 {
        write(
            &cells,
            &[put(&format!("key{}", round % 10), format!("value{round}"))],
        );
    }
    let report = store.flush_once(Checkpoint::default()).unwrap();
    assert_eq!((report.cells, report.records), (10, 1_000));
    assert_eq!(store.stats().records_since_flush, 0);
    for key in 0..10 {
        assert_eq!(
            value(&cells, &format!("key{key}")).unwrap(),
            format!("value{}", 990 + key)
        );
    }
}

#[test]
fn deleted_keys_hide_the_engine_and_leave_no_row() {
    let engine = Arc::new(MemoryEngine::new());
    let store = store(&engine);
    let cells = store.partition(partition(0));
    write(&cells, &[put("a", "1"), put("b", "1"), put("c", "1")]);
    store.flush_once(Checkpoint::default()).unwrap();
    write(&cells, &[delete("b")]);
    assert_eq!(value(&cells, "b"), None);
    let scan = || {
        cells
            .scan(EVERY.0, EVERY.1, Direction::Forward, 10)
            .unwrap()
    };
    assert_eq!(keys(&scan()), [b"a", b"c"]);
    store.flush_once(Checkpoint::default()).unwrap();
    assert_eq!(store.stats().active_bytes, 0);
    assert_eq!(keys(&scan()), [b"a", b"c"]);
    let rows = engine
        .scan(EVERY.0, EVERY.1, Direction::Forward, 100)
        .unwrap();
    assert_eq!(rows.iter().filter(|(row, _)| row[0] == b'c').count(), 2);
}

#[test]
fn a_flush_writes_intents_then_cells_then_marks_with_the_checkpoint() {
    let engine = Arc::new(NotingEngine::new());
    let options = CellOptions {
        batch_rows_max: 4,
        ..CellOptions::default()
    };
    let store = CellStore::open(engine.clone(), options).unwrap();
    for bucket in [1, 0] {
        let cells = store.partition(partition(bucket));
        for key in (0..5).rev() {
            write(&cells, &[put(&format!("key{key}"), "value")]);
        }
    }
    engine.batches.lock().unwrap().clear();
    let report = store.flush_once(checkpoint("mplace")).unwrap();
    assert_eq!(
        (report.partitions, report.cells, report.batches),
        (2, 10, 4)
    );
    let batches = engine.batches.lock().unwrap().clone();
    let tags: Vec<Vec<u8>> = batches
        .iter()
        .map(|batch| batch.iter().map(|change| change.row()[0]).collect())
        .collect();
    assert_eq!(tags, [&b"tt"[..], b"cccc", b"cccc", b"ccttm"]);
    assert!(batches[0].iter().all(|change| change.row().ends_with(b"i")));
    assert!(
        batches[3][2..4]
            .iter()
            .all(|change| change.row().ends_with(b"a"))
    );
    let cells: Vec<&Bytes> = batches
        .iter()
        .flatten()
        .map(RowChange::row)
        .filter(|row| row[0] == b'c')
        .collect();
    assert!(
        cells.windows(2).all(|pair| pair[0] < pair[1]),
        "not in key order"
    );
}

#[test]
fn a_failed_flush_is_finished_with_its_own_checkpoint() {
    let engine = Arc::new(MemoryEngine::new());
    let store = store(&engine);
    let cells = store.partition(partition(0));
    write(&cells, &[put("a", "1")]);
    engine.stop_after(1);
    assert!(store.flush_once(checkpoint("mfirst")).is_err());
    assert!(store.needs_flush());
    assert_eq!(store.stats().flush_failures, 1);
    write(&cells, &[put("a", "2"), put("b", "2")]);
    assert_eq!(value(&cells, "a").unwrap(), "2");
    engine.resume();
    let report = store.flush_once(checkpoint("msecond")).unwrap();
    assert_eq!((report.retried, report.cells, report.records), (true, 1, 1));
    assert_eq!(engine.get(b"mfirst").unwrap().unwrap(), "1");
    assert_eq!(engine.get(b"msecond").unwrap(), None);
    assert!(!store.needs_flush());
    assert_eq!(
        super::tests::store(&engine).marks()[0].applied_upto,
        Seq::FIRST
    );
    let report = store.flush_once(checkpoint("mthird")).unwrap();
    assert_eq!((report.retried, report.cells), (false, 2));
    assert_eq!(engine.get(b"mthird").unwrap().unwrap(), "1");
    assert_eq!(store.stats().frozen_bytes, 0);
}

#[test]
fn a_flush_without_cells_still_writes_the_checkpoint() {
    let engine = Arc::new(MemoryEngine::new());
    let store = store(&engine);
    let report = store.flush_once(checkpoint("mplace")).unwrap();
    assert_eq!((report.cells, report.partitions, report.batches), (0, 0, 1));
    assert_eq!(engine.get(b"mplace").unwrap().unwrap(), "1");
}

#[test]
fn flushes_are_due_by_bytes_or_by_records() {
    let options = CellOptions {
        overlay_bytes_max: 20_000,
        replay_records_max: 100,
        ..CellOptions::default()
    };
    let engine = Arc::new(MemoryEngine::new());
    let store = CellStore::open(engine.clone(), options).unwrap();
    let cells = store.partition(partition(0));
    for _ in 0..99 {
        write(&cells, &[put("hot", "value")]);
    }
    assert!(!store.needs_flush());
    write(&cells, &[put("hot", "value")]);
    assert!(store.needs_flush());
    store.flush_once(Checkpoint::default()).unwrap();
    assert!(!store.needs_flush());
    write(&cells, &[put("large", vec![1; 10_000])]);
    assert!(store.needs_flush() && !store.is_stalled());
    write(&cells, &[put("larger", vec![1; 10_000])]);
    assert!(store.is_stalled());
    engine.stop_after(0);
    store.flush_once(Checkpoint::default()).unwrap_err();
    assert!(store.is_stalled(), "frozen cells count");
    engine.resume();
    store.flush_once(Checkpoint::default()).unwrap();
    assert!(!store.is_stalled());
}

#[test]
fn small_values_do_not_pin_the_buffer_they_came_in() {
    let is_shared = |body: &RecordBody, buffer_bytes: usize| {
        let record = UnappliedRecord::new(&head(RecordKind::Write), body, buffer_bytes).unwrap();
        let mut changes = Vec::new();
        record.for_each_change(|change| changes.push(change));
        let outer = body.bytes().as_ptr_range();
        assert!(
            !outer.contains(&changes[0].key.as_slice().as_ptr()),
            "keys are always copied"
        );
        outer.contains(&changes[0].value.as_ref().unwrap().as_ptr())
    };
    let small = RecordBody::encode(&[put("key", vec![7; 100])]).unwrap();
    assert!(!is_shared(&small, small.bytes().len()));
    let medium = RecordBody::encode(&[put("key", vec![7; 2000])]).unwrap();
    assert!(is_shared(&medium, medium.bytes().len()));
    assert!(!is_shared(&medium, 1 << 20));
    let large = RecordBody::encode(&[put("key", vec![7; 1 << 20])]).unwrap();
    assert!(is_shared(&large, 2 << 20));
    let batch = [put("key", vec![7; 2000]), put("other", vec![7; 100_000])];
    let batch = RecordBody::encode(&batch).unwrap();
    assert!(!is_shared(&batch, batch.bytes().len()));
}

#[test]
fn a_scan_over_many_deleted_keys_ends_early_and_resumes() {
    let store = store(&Arc::new(MemoryEngine::new()));
    let cells = store.partition(partition(0));
    let name = |index: u32| format!("key{index:06}");
    let mut operations: Vec<Operation> = (0..20_000).map(|index| put(&name(index), "v")).collect();
    operations
        .chunks(1_000)
        .for_each(|batch| assert!(write(&cells, batch) > Seq::NONE));
    store.flush_once(Checkpoint::default()).unwrap();
    operations = (0..19_990).map(|index| delete(&name(index))).collect();
    operations
        .chunks(1_000)
        .for_each(|batch| assert!(write(&cells, batch) > Seq::NONE));
    let mut from = Bound::Unbounded;
    let mut found = Vec::new();
    let mut pages = 0;
    while pages < 10 {
        pages += 1;
        let range = from.as_ref().map(|key: &Bytes| &key[..]);
        let page = cells
            .scan(range, Bound::Unbounded, Direction::Forward, 4)
            .unwrap();
        found.extend(page.rows.into_iter().map(|(key, _)| key));
        match page.resume_after {
            Some(key) => from = Bound::Excluded(key),
            None => break,
        }
    }
    let expected: Vec<String> = (19_990..20_000).map(name).collect();
    assert_eq!(found, expected);
    assert!((4..=6).contains(&pages), "{pages} pages");
}

#[test]
fn a_scan_reads_no_more_of_the_engine_than_it_returns_and_one_row() {
    let engine = Arc::new(NotingEngine::new());
    let store = store(&engine);
    let cells = store.partition(partition(0));
    let name = |index: u32| format!("key{index:06}");
    let operations: Vec<Operation> = (0..2_000).map(|index| put(&name(index), "v")).collect();
    write(&cells, &operations[..1_000]);
    write(&cells, &operations[1_000..]);
    store.flush_once(Checkpoint::default()).unwrap();
    for (limit, scans) in [(1, 1), (10, 1), (250, 2), (500, 2), (1_000, 3)] {
        engine.scans.store(0, Ordering::Relaxed);
        engine.scanned_rows.store(0, Ordering::Relaxed);
        let scan = cells.scan(EVERY.0, EVERY.1, Direction::Forward, limit);
        assert_eq!(scan.unwrap().rows.len(), limit);
        let read = engine.scanned_rows.load(Ordering::Relaxed);
        assert_eq!(read, limit as u64 + 1, "rows read for {limit}");
        let found = engine.scans.load(Ordering::Relaxed);
        assert_eq!(found, scans, "scans of the engine for {limit}");
    }
}

#[test]
fn a_scan_of_large_values_ends_by_bytes() {
    let store = store(&Arc::new(MemoryEngine::new()));
    let cells = store.partition(partition(0));
    for key in 0..12 {
        write(&cells, &[put(&format!("key{key:02}"), vec![1; 1 << 20])]);
        if key == 5 {
            store.flush_once(Checkpoint::default()).unwrap();
        }
    }
    for direction in [Direction::Forward, Direction::Backward] {
        let page = cells.scan(EVERY.0, EVERY.1, direction, 100).unwrap();
        assert_eq!(page.rows.len(), 4);
        assert_eq!(
            page.resume_after.as_ref(),
            page.rows.last().map(|(key, _)| key)
        );
    }
}

#[test]
fn cells_of_every_size_survive_a_flush_into_sled() {
    let directory = tempfile::tempdir().unwrap();
    let lengths = [0, 1, 4_000, 4_096, 5_000, 100_000, 1 << 20];
    let open = || Arc::new(SledEngine::open(directory.path(), 16 << 20).unwrap());
    let check = |cells: &PartitionCells| {
        for len in lengths {
            let found = value(cells, &format!("key{len}")).unwrap();
            assert!(
                found == vec![9; len],
                "value of {len} bytes came back changed"
            );
        }
        let scan = cells
            .scan(EVERY.0, EVERY.1, Direction::Backward, 100)
            .unwrap();
        assert_eq!(scan.rows.len(), lengths.len());
    };
    {
        let store = store(&open());
        let cells = store.partition(partition(0));
        for len in lengths {
            write(&cells, &[put(&format!("key{len}"), vec![9; len])]);
        }
        check(&cells);
        store.flush_once(Checkpoint::default()).unwrap();
        check(&cells);
    }
    let store = store(&open());
    assert_eq!(
        store.marks()[0].applied_upto,
        Seq::new(lengths.len() as u64)
    );
    check(&store.partition(partition(0)));
}

/// Every record writes the same eight keys, so every read must find exactly its own applied mark.
fn readers_see_one_moment(engine: Arc<dyn Engine>, records: u64) {
    let store = CellStore::open(engine, CellOptions::default()).unwrap();
    let cells = store.partition(partition(0));
    let names: Vec<String> = (0..8).map(|key| format!("key{key}")).collect();
    let is_over = AtomicBool::new(false);
    let reads = AtomicU64::new(0);
    let seq_of = |cell: &Cell| cell.value.as_ref().unwrap().len() as u64;
    let write_one = |seq: u64| {
        let value = vec![0; seq as usize];
        let operations: Vec<Operation> =
            names.iter().map(|name| put(name, value.clone())).collect();
        write(&cells, &operations);
    };
    write_one(1);
    std::thread::scope(|scope| {
        for reader in 0..2 {
            let (cells, names, is_over, reads) = (&cells, &names, &is_over, &reads);
            scope.spawn(move || {
                let direction = [Direction::Forward, Direction::Backward][reader];
                while !is_over.load(Ordering::Relaxed) {
                    let scan = cells.scan(EVERY.0, EVERY.1, direction, 100).unwrap();
                    assert_eq!(scan.rows.len(), 8);
                    for (key, cell) in &scan.rows {
                        assert_eq!(seq_of(cell), scan.applied_upto.get(), "{key:?} in a scan");
                    }
                    for name in names {
                        let read = cells.get(name.as_bytes()).unwrap();
                        assert_eq!(seq_of(&read.cell.unwrap()), read.applied_upto.get());
                    }
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                store.flush_once(Checkpoint::default()).unwrap();
            }
        });
        let writer = scope.spawn(|| (2..=records).for_each(write_one));
        let written = writer.join();
        // On a busy machine the readers may not have had a turn yet.
        let deadline = Instant::now() + Duration::from_secs(20);
        while reads.load(Ordering::Relaxed) == 0 && Instant::now() < deadline {
            std::thread::yield_now();
        }
        is_over.store(true, Ordering::Relaxed);
        written.unwrap();
    });
    assert!(reads.load(Ordering::Relaxed) > 0);
    store.flush_once(Checkpoint::default()).unwrap();
    let stats = store.stats();
    assert_eq!(
        (
            stats.active_bytes,
            stats.frozen_bytes,
            stats.unapplied_bytes
        ),
        (0, 0, 0)
    );
    assert_eq!(cells.get(b"key0").unwrap().applied_upto.get(), records);
}

#[test]
fn readers_see_one_moment_above_memory() {
    readers_see_one_moment(Arc::new(MemoryEngine::new()), 3_000);
}

#[test]
fn readers_see_one_moment_above_sled() {
    let directory = tempfile::tempdir().unwrap();
    let engine = SledEngine::open(directory.path(), 16 << 20).unwrap();
    readers_see_one_moment(Arc::new(engine), 1_000);
}

#[cfg(feature = "fjall")]
#[test]
fn readers_see_one_moment_above_fjall() {
    let directory = tempfile::tempdir().unwrap();
    let engine = crate::engine::FjallEngine::open(directory.path(), 16 << 20).unwrap();
    readers_see_one_moment(Arc::new(engine), 1_000);
}
