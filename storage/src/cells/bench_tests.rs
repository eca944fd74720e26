//! Figures rather than checks: `cargo test --release -p domicile-storage bench_ -- --ignored
//! --nocapture --test-threads=1`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use domicile_proto::record::RecordBody;
use domicile_proto::{Operation, RecordKind, Seq};

use super::tests::{epoch, head, partition};
use super::*;
use crate::engine::{Engine, MemoryEngine, RowChange, SledEngine};

/// Records made visible by one call: a group commit at 80,000 writes a second.
const COMMIT_RECORDS: u64 = 256;
const CACHE_BYTES: u64 = 128 << 20;

fn key(index: u64) -> Bytes {
    format!("user{index:012}").into()
}

/// Visits every number below `count` once, in an order without locality.
fn shuffled(index: u64, count: u64) -> u64 {
    (index * 2_654_435_761) % count
}

fn bodies(count: u64, keys: u64) -> Vec<RecordBody> {
    let value = Bytes::from(vec![7; 100]);
    let body = |index| {
        let key = key(shuffled(index, keys));
        let operation = Operation::Put {
            key,
            value: value.clone(),
            expiry: None,
        };
        RecordBody::encode(&[operation]).unwrap()
    };
    (0..count).map(body).collect()
}

fn nanos_each(elapsed: Duration, count: u64) -> u128 {
    elapsed.as_nanos() / u128::from(count.max(1))
}

fn options() -> CellOptions {
    CellOptions {
        overlay_bytes_max: 4 << 30,
        ..CellOptions::default()
    }
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Enqueues and applies; returns the time of each.
fn feed(cells: &PartitionCells, bodies: &[RecordBody]) -> (Duration, Duration) {
    let head = head(RecordKind::Write);
    let (mut enqueue, mut advance) = (Duration::ZERO, Duration::ZERO);
    for commit in bodies.chunks(COMMIT_RECORDS as usize) {
        let mut seq = cells.enqueued_upto();
        let started = Instant::now();
        for body in commit {
            seq = seq.next();
            let record = UnappliedRecord::new(&head, body, body.bytes().len()).unwrap();
            cells.enqueue(epoch(), seq, record);
        }
        enqueue += started.elapsed();
        let started = Instant::now();
        assert_eq!(cells.advance(seq), commit.len() as u64);
        advance += started.elapsed();
    }
    (enqueue, advance)
}

#[test]
#[ignore = "prints figures"]
fn bench_apply() {
    for keys in [1_000, 100_000, 1_000_000] {
        let bodies = bodies(1_000_000, keys);
        let store = CellStore::open(Arc::new(MemoryEngine::new()), options()).unwrap();
        let cells = store.partition(partition(0));
        let before = resident_bytes();
        let (enqueue, advance) = feed(&cells, &bodies);
        let resident = (resident_bytes() - before) / keys;
        let count = bodies.len() as u64;
        let started = Instant::now();
        for index in 0..count {
            let read = cells.get(&key(shuffled(index, keys))).unwrap();
            assert!(read.cell.is_some());
        }
        let get = nanos_each(started.elapsed(), count);
        println!(
            "{keys:>8} keys: enqueue {} ns, advance {} ns a record; get {get} ns; \
             counted {} B, resident {resident} B a cell",
            nanos_each(enqueue, count),
            nanos_each(advance, count),
            store.stats().active_bytes / keys,
        );
    }
}

/// Flushes while one thread reads keys that only the engine has; prints what it waited.
fn flush_and_read(
    store: &CellStore,
    cells: &PartitionCells,
    cold: &[Bytes],
) -> (f64, (Duration, Duration)) {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut waits = Vec::new();
            while !is_over.load(Ordering::Relaxed) && !cold.is_empty() {
                let key = &cold[waits.len() % cold.len()];
                let started = Instant::now();
                assert!(cells.get(key).unwrap().cell.is_some());
                waits.push(started.elapsed());
            }
            waits.sort();
            let p999 = waits.get(waits.len() * 999 / 1_000).copied();
            (
                p999.unwrap_or_default(),
                waits.last().copied().unwrap_or_default(),
            )
        });
        let started = Instant::now();
        let report = store.flush_once(Checkpoint::default()).unwrap();
        let rate = report.cells as f64 / started.elapsed().as_secs_f64();
        is_over.store(true, Ordering::Relaxed);
        (rate, reader.join().unwrap())
    })
}

#[test]
#[ignore = "prints figures"]
fn bench_flush() {
    const KEYS: u64 = 100_000;
    for batch_rows_max in [16, 64, 256, 1_024] {
        let directory = tempfile::tempdir().unwrap();
        let engine: Arc<dyn Engine> =
            Arc::new(SledEngine::open(directory.path(), CACHE_BYTES).unwrap());
        let options = CellOptions {
            batch_rows_max,
            ..options()
        };
        let store = CellStore::open(Arc::clone(&engine), options).unwrap();
        let cells = store.partition(partition(0));
        let bodies = bodies(KEYS, KEYS);
        feed(&cells, &bodies);
        let (fresh, _) = flush_and_read(&store, &cells, &[]);
        feed(&cells, &bodies);
        let (again, _) = flush_and_read(&store, &cells, &[]);
        // Every second key: the reader asks for the others.
        let changed: Vec<RecordBody> = bodies.iter().step_by(2).cloned().collect();
        let cold: Vec<Bytes> = (0..KEYS)
            .skip(1)
            .step_by(2)
            .map(|index| key(shuffled(index, KEYS)))
            .collect();
        feed(&cells, &changed);
        let (beside, (p999, max)) = flush_and_read(&store, &cells, &cold);
        println!(
            "batches of {batch_rows_max:>5}: {fresh:>7.0} new, {again:>7.0} replaced, \
             {beside:>7.0} rows/s beside a reader, who waits {p999:?} (p99.9), {max:?} (max); \
             {} MiB on disk",
            engine.bytes_on_disk() >> 20
        );
    }
}

#[test]
#[ignore = "prints figures"]
fn bench_sorted_against_random() {
    const ROWS: u64 = 500_000;
    for (name, is_sorted) in [("sorted", true), ("random", false)] {
        let directory = tempfile::tempdir().unwrap();
        let engine = SledEngine::open(directory.path(), CACHE_BYTES).unwrap();
        let value = Bytes::from(vec![7; 137]);
        for round in ["new", "replaced"] {
            let started = Instant::now();
            for batch in 0..ROWS / 128 {
                let rows = (batch * 128..(batch + 1) * 128).map(|index| {
                    let index = if is_sorted {
                        index
                    } else {
                        shuffled(index, ROWS)
                    };
                    let row = [b"cpartition", &key(index)[..]].concat().into();
                    RowChange::Set {
                        row,
                        value: value.clone(),
                    }
                });
                engine.apply(rows.collect()).unwrap();
            }
            let rate = ROWS as f64 / started.elapsed().as_secs_f64();
            engine.sync().unwrap();
            println!(
                "{name} {round}: {rate:.0} rows/s, {} MiB",
                engine.bytes_on_disk() >> 20
            );
        }
    }
}

#[test]
#[ignore = "prints figures"]
fn bench_rebuild() {
    const KEYS: u64 = 1_000_000;
    let directory = tempfile::tempdir().unwrap();
    let engine = Arc::new(SledEngine::open(directory.path(), CACHE_BYTES).unwrap());
    let store = CellStore::open(engine, CellOptions::default()).unwrap();
    let cells = store.partition(partition(0));
    let bodies = bodies(KEYS, KEYS);
    let started = Instant::now();
    for commits in bodies.chunks(16 * COMMIT_RECORDS as usize) {
        feed(&cells, commits);
        if store.is_stalled() {
            store.flush_once(Checkpoint::default()).unwrap();
        }
    }
    let folded = started.elapsed();
    store.flush_once(Checkpoint::default()).unwrap();
    let elapsed = started.elapsed();
    let rate = KEYS as f64 / elapsed.as_secs_f64();
    println!("{KEYS} records of as many keys: {rate:.0}/s ({folded:?} + last flush, {elapsed:?})");
    assert_eq!(cells.applied_upto(), Seq::new(KEYS));
    drop((store, cells));
    let started = Instant::now();
    let engine = Arc::new(SledEngine::open(directory.path(), CACHE_BYTES).unwrap());
    let store = CellStore::open(engine, CellOptions::default()).unwrap();
    assert_eq!(store.marks().len(), 1);
    println!("reopened in {:?}", started.elapsed());
}
