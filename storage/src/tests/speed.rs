//! How fast it is; asserts nothing about it. Run with `--release -- --ignored --nocapture`.
//!
//! **Owns**: the measurements.
//! **Does not own**: bounds on them, which depend on the machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use domicile_proto::Seq;

use super::fixture::*;
use crate::cells::UnappliedRecord;
use crate::{OsDisk, Place, Store, StoreOptions};

fn open_at(dir: &std::path::Path) -> (Arc<Store>, crate::Recovery) {
    Store::open(Arc::new(OsDisk::new()), dir, at_scale()).unwrap()
}

/// `CACHE_MIB` sets the engine's cache, `OVERLAY_MIB` the overlay.
fn at_scale() -> StoreOptions {
    let mut options = StoreOptions {
        node_id: Some(node(1)),
        ..StoreOptions::default()
    };
    let mib = |name: &str| {
        std::env::var(name)
            .ok()?
            .parse::<u64>()
            .ok()
            .map(|mib| mib << 20)
    };
    options.engine_cache_bytes = mib("CACHE_MIB").unwrap_or(options.engine_cache_bytes);
    options.overlay_bytes_max = mib("OVERLAY_MIB").unwrap_or(options.overlay_bytes_max);
    options
}

fn per_second(count: u64, elapsed: Duration) -> u64 {
    (count as f64 / elapsed.as_secs_f64()) as u64
}

/// The journal alone, then with flushes into sled beside it.
#[test]
#[ignore = "measures, takes seconds"]
fn append_and_sync() {
    for (batch, flushes) in [
        (1, false),
        (64, false),
        (256, false),
        (256, true),
        (2048, true),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = open_at(dir.path());
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    store.prepare_once().unwrap();
                    if flushes && store.needs_flush() {
                        store.flush_once().unwrap();
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
            append(&store, batch, flushes);
            done.store(true, Ordering::Relaxed);
        });
        store.close().unwrap();
    }
}

/// Commits batches for three seconds.
fn append(store: &Store, batch: u64, flushes: bool) {
    let began = Instant::now();
    let (mut submitting, mut committing, mut applying) = Default::default();
    let (mut commits, mut next, mut visible) = (0_u64, [1_u64; 8], [0_u64; 8]);
    while began.elapsed() < Duration::from_secs(3) {
        let keys = (0..batch).map(|index| (commits * batch + index) % 100_000);
        let records: Vec<_> = keys
            .map(|key| record(format!("user-{key:06}").as_bytes(), &[7; 100], 1))
            .collect();
        timed(&mut submitting, || {
            for (index, record) in records.into_iter().enumerate() {
                let bucket = index % 8;
                let (id, seq) = (partition(bucket as u16), Seq::new(next[bucket]));
                next[bucket] += 1;
                let visible_upto = Seq::new(visible[bucket]);
                store
                    .submit_record(id, epoch(1), seq, visible_upto, record)
                    .unwrap();
            }
        });
        let committed = timed(&mut committing, || store.commit_once().unwrap());
        timed(&mut applying, || {
            for commit in committed {
                store.cells(commit.partition).advance(commit.last_seq);
                let bucket = usize::from(commit.partition.bucket.get());
                visible[bucket] = commit.last_seq.get();
            }
        });
        commits += 1;
    }
    let (elapsed, stats) = (began.elapsed(), store.commit_stats());
    let records = (commits * batch) as u32;
    println!(
        "batch {batch}{}: {} records/s, {} commits/s; per record: submit {:?}, apply {:?}; per \
         commit: all {:?}, sync {:?}, longest sync {:?}",
        if flushes { " with flushes" } else { "" },
        per_second(commits * batch, elapsed),
        per_second(commits, elapsed),
        submitting / records,
        applying / records,
        committing / commits as u32,
        stats.sync_sum / stats.commits as u32,
        stats.sync_max,
    );
}

fn timed<T>(sum: &mut Duration, run: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let result = run();
    *sum += began.elapsed();
    result
}

/// Where the time of a submit goes.
#[test]
#[ignore = "measures, takes a second"]
fn submit() {
    let disk = crate::MemoryDisk::new();
    let big = StoreOptions {
        queue_bytes_max: 1 << 30,
        ..options()
    };
    let (store, _) = try_open(&disk, big).unwrap();
    let count = 200_000;
    let records: Vec<_> = (0..count)
        .map(|_| record(b"user-000000", &[7; 100], 1))
        .collect();
    let began = Instant::now();
    let decoded: Vec<_> = records
        .iter()
        .map(|record| UnappliedRecord::new(&record.head, &record.body, record.body.bytes().len()))
        .collect();
    println!("decode {:?}", began.elapsed() / count);
    let cells = crate::cells::CellStore::open(
        Arc::new(crate::engine::MemoryEngine::new()),
        crate::CellOptions::default(),
    )
    .unwrap();
    let began = Instant::now();
    for (seq, unapplied) in (1..).zip(decoded) {
        cells
            .partition(partition(0))
            .enqueue(epoch(1), Seq::new(seq), unapplied.unwrap());
    }
    println!("enqueue {:?}", began.elapsed() / count);
    let queue = crate::commit::CommitQueue::new(1 << 30, std::iter::empty());
    let began = Instant::now();
    for (seq, record) in (1..).zip(&records) {
        let at = (epoch(1), Seq::new(seq));
        queue
            .submit_record(partition(0), at, Seq::NONE, &record.head, &record.body)
            .unwrap();
    }
    println!("queue {:?}", began.elapsed() / count);
    let began = Instant::now();
    for (seq, record) in (1..).zip(records) {
        store
            .submit_record(partition(0), epoch(1), Seq::new(seq), Seq::NONE, record)
            .unwrap();
    }
    println!(
        "all, with the drop of the record {:?}",
        began.elapsed() / count
    );
}

#[test]
#[ignore = "measures, takes minutes"]
fn reopen_and_rebuild_a_million_keys() {
    let dir = tempfile::tempdir().unwrap();
    let keys = 1_000_000_u64;
    fill(&open_at(dir.path()).0, keys);
    // Without close: what was not flushed is replayed.
    let reopen = |what: &str| {
        let (store, recovery) = open_at(dir.path());
        println!(
            "{what}: {:?}, {} records replayed, {}/s",
            recovery.elapsed,
            recovery.replayed_records,
            per_second(recovery.replayed_records, recovery.elapsed)
        );
        store.close().unwrap();
        recovery
    };
    reopen("reopen after a crash");
    reopen("reopen after close");
    std::fs::remove_dir_all(dir.path().join("engine")).unwrap();
    assert_eq!(reopen("rebuild of all keys").replayed_records, keys);
    std::fs::remove_dir_all(dir.path().join("engine")).unwrap();
    let options = StoreOptions {
        engine: crate::EngineChoice::Memory,
        ..at_scale()
    };
    let (_, recovery) = Store::open(Arc::new(OsDisk::new()), dir.path(), options).unwrap();
    println!("rebuild in memory: {:?}", recovery.elapsed);
}

fn fill(store: &Store, keys: u64) {
    let began = Instant::now();
    for from in (0..keys).step_by(2000) {
        for index in from..from + 2000 {
            let key = format!("user-{:07}", index.wrapping_mul(7_919) % keys);
            let (id, seq) = (partition((index % 8) as u16), Seq::new(index / 8 + 1));
            let record = record(key.as_bytes(), &[7; 150], u128::from(index + 1));
            store
                .submit_record(id, epoch(1), seq, Seq::new(from / 8), record)
                .unwrap();
        }
        for commit in store.commit_once().unwrap() {
            store.cells(commit.partition).advance(commit.last_seq);
        }
        if store.needs_flush() {
            store.flush_once().unwrap();
        }
    }
    println!(
        "written: {} records/s, {:?}",
        per_second(keys, began.elapsed()),
        store.stats()
    );
    let end = store.durable_end();
    let (began, mut cursor, mut bytes) = (Instant::now(), Place::START, 0);
    while cursor < end {
        let chunk = store.read(cursor, end, 1 << 20).unwrap();
        bytes += chunk
            .segments
            .iter()
            .map(|(_, s)| s.bytes().len() as u64)
            .sum::<u64>();
        cursor = chunk.next;
    }
    println!(
        "read: {} MB/s of {bytes} bytes",
        per_second(bytes, began.elapsed()) / 1_000_000
    );
    let (began, reads) = (Instant::now(), 100_000);
    for _ in 0..reads {
        assert!(store.read(end, end, 1 << 20).unwrap().segments.is_empty());
    }
    println!("read of nothing: {:?} each", began.elapsed() / reads);
}
