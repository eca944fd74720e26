//! Committing: order, epochs, failures, the thread.
//!
//! **Owns**: tests of what happens while a store is open.
//! **Does not own**: tests of opening and damage.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use domicile_proto::{ChainHash, Seq};

use super::fixture::*;
use crate::commit::{CommitSink, CommitThread, Committed};
use crate::disk::Disk;
use crate::{CheckedSegment, CommitUrgency, MemoryDisk, StoreError, StoreOptions};

#[test]
fn a_commit_takes_all_partitions_in_one_sync() {
    let disk = MemoryDisk::new();
    let (store, _) = open(&disk);
    let mut author = Author::default();
    for round in 0..3 {
        for bucket in 0..4 {
            author
                .write(&store, partition(bucket), &[round; 10])
                .unwrap();
        }
    }
    let syncs = disk.syncs();
    let commits = author.commit(&store).unwrap();
    assert_eq!(disk.syncs(), syncs + 1);
    assert_eq!(commits.len(), 4);
    for commit in &commits {
        assert_eq!(
            (commit.first_seq, commit.last_seq),
            (Seq::new(1), Seq::new(3))
        );
        assert_eq!(commit.epoch, author.epoch());
        let tail = store.tail(commit.partition).unwrap();
        assert_eq!((tail.last_seq, tail.chain), (commit.last_seq, commit.chain));
    }
    assert_eq!(store.commit_once().unwrap(), []);
    assert_eq!(store.commit_stats().records, 12);
    assert_eq!(store.commit_stats().commits, 1);
    author.check(&store);
}

#[test]
fn a_new_epoch_and_a_full_segment_begin_new_segments() {
    let (store, _) = open(&MemoryDisk::new());
    let mut author = Author::default();
    author.write(&store, partition(0), b"a").unwrap();
    author.new_epoch();
    author.write(&store, partition(0), b"b").unwrap();
    for _ in 0..3 {
        author
            .write(&store, partition(0), &vec![1; 700 << 10])
            .unwrap();
    }
    let commits = author.commit(&store).unwrap();
    let seqs: Vec<_> = commits
        .iter()
        .map(|c| (c.first_seq.get(), c.last_seq.get()))
        .collect();
    assert_eq!(seqs, [(1, 1), (2, 4), (5, 5)]);
    let history = store.tail(partition(0)).unwrap().epoch_history;
    assert_eq!(history, [(epoch(1), Seq::new(1)), (epoch(2), Seq::new(2))]);
    author.check(&store);
}

#[test]
fn a_copy_stores_what_it_received_unchanged() {
    let (home, _) = open(&MemoryDisk::new());
    let disk = MemoryDisk::new();
    let (copy, _) = try_open(
        &disk,
        StoreOptions {
            node_id: Some(node(2)),
            ..options()
        },
    )
    .unwrap();
    let mut author = Author::default();
    for round in 0..5_u8 {
        author
            .write(&home, partition(round.into()), &[round; 40])
            .unwrap();
        author.write(&home, partition(0), &[round; 40]).unwrap();
        author.commit(&home).unwrap();
    }
    let sent = home
        .read(crate::Place::START, home.durable_end(), 1 << 20)
        .unwrap()
        .segments;
    for (_, segment) in &sent {
        let bytes = segment.bytes().len();
        let segment = CheckedSegment::new(segment.clone(), bytes).unwrap();
        copy.submit_segment(segment, CommitUrgency::Now).unwrap();
    }
    copy.commit_once().unwrap();
    let stored = copy
        .read(crate::Place::START, copy.durable_end(), 1 << 20)
        .unwrap()
        .segments;
    assert_eq!(sent.len(), stored.len());
    for ((_, sent), (_, stored)) in sent.iter().zip(&stored) {
        assert_eq!(sent.bytes(), stored.bytes());
    }
    assert_eq!(home.tail(partition(0)), copy.tail(partition(0)));
    author.check(&copy);
    // A segment of a copy may be followed by records of its own: a takeover.
    author.new_epoch();
    author.write(&copy, partition(0), b"own").unwrap();
    let commits = author.commit(&copy).unwrap();
    assert_ne!(commits[0].chain, ChainHash::START);
    author.check(&copy);
    copy.close().unwrap();
    drop(copy);
    let (copy, _) = try_open(
        &disk,
        StoreOptions {
            node_id: Some(node(2)),
            ..options()
        },
    )
    .unwrap();
    author.check(&copy);
}

#[test]
fn the_queue_is_bounded() {
    let disk = MemoryDisk::new();
    let bounded = StoreOptions {
        queue_bytes_max: 1000,
        ..options()
    };
    let (store, _) = try_open(&disk, bounded).unwrap();
    let mut author = Author::default();
    author.write(&store, partition(0), &[0; 800]).unwrap();
    assert!(store.has_room(50) && !store.has_room(500));
    for _ in 0..3 {
        // Sequenced before the bound was seen: taken, or its log had a hole.
        author.write(&store, partition(0), &[0; 800]).unwrap();
        assert!(!store.has_room(50));
    }
    let full = author.write(&store, partition(0), &[0; 800]).unwrap_err();
    assert!(
        matches!(full, StoreError::QueueFull { limit: 4000, .. }),
        "{full}"
    );
    author.commit(&store).unwrap();
    author.write(&store, partition(0), &[0; 800]).unwrap();
    author.commit(&store).unwrap();
    author.check(&store);
}

#[test]
#[should_panic(expected = "k00000001/r0007/b0: 3 submitted where 2 is next")]
fn a_hole_is_a_broken_invariant() {
    let (store, _) = open(&MemoryDisk::new());
    for seq in [1, 3] {
        let (seq, record) = (Seq::new(seq), record(b"k", b"v", 1));
        store
            .submit_record(partition(0), epoch(1), seq, Seq::NONE, record)
            .unwrap();
    }
}

#[test]
fn a_failed_sync_poisons_for_good() {
    for prior in [0, 1, 2] {
        let disk = MemoryDisk::new();
        let (store, _) = open(&disk);
        let mut author = Author::default();
        for _ in 0..prior {
            author.write(&store, partition(0), b"durable").unwrap();
            author.commit(&store).unwrap();
        }
        let acked = author.clone();
        author.write(&store, partition(0), b"lost").unwrap();
        disk.fail_sync(1);
        let error = store.commit_once().unwrap_err();
        assert!(error.to_string().contains("EIO on sync"), "{error}");
        // The next sync would return Ok: it must never be asked.
        let syncs = disk.syncs();
        for _ in 0..3 {
            let poisoned = store.commit_once().unwrap_err();
            assert!(
                matches!(poisoned, StoreError::Poisoned { .. }),
                "{poisoned}"
            );
            assert!(poisoned.to_string().contains("EIO on sync"), "{poisoned}");
        }
        assert!(matches!(
            author.write(&store, partition(1), b"late"),
            Err(StoreError::Poisoned { .. })
        ));
        assert!(store.poison_cause().is_some());
        assert_eq!(disk.syncs(), syncs);
        assert!(store.close().is_err());
        for seed in 0..10 {
            let after = disk.power_loss(seed);
            let (store, recovery) = open(&after);
            assert_eq!(recovery.torn_tail, None);
            acked.check(&store);
        }
    }
}

#[test]
fn writes_are_refused_before_the_disk_is_full_and_accepted_again_without_a_restart() {
    let disk = MemoryDisk::new();
    let (store, _) = open(&disk);
    let mut author = Author::default();
    let low_water = 4 * options().journal_file_bytes;
    disk.set_space_left(Some(3 * low_water));
    let report = store.look_at_space().unwrap();
    assert_eq!((report.is_low, report.low_water_bytes), (false, low_water));
    let reserve = Path::new(DIR).join("reserve");
    assert!(disk.exists(&reserve));
    // As the node does it: looked at between commits, asked before each write.
    while store.check_space().is_ok() {
        author.write(&store, partition(0), &[7; 20_000]).unwrap();
        author.commit(&store).unwrap();
        store.look_at_space().unwrap();
    }
    let refused = store.check_space().unwrap_err().to_string();
    assert!(
        refused.starts_with("too little room for /data: ")
            && refused.ends_with("limit 262144; writes are accepted again from 524288"),
        "{refused}"
    );
    assert!(!disk.exists(&reserve), "given up for what is queued");
    // What was accepted before is committed all the same.
    author.write(&store, partition(0), &[7; 60_000]).unwrap();
    author.commit(&store).unwrap();
    disk.set_space_left(Some(2 * low_water - 1));
    assert!(store.look_at_space().unwrap().is_low, "not at the edge");
    disk.set_space_left(Some(2 * low_water));
    let report = store.look_at_space().unwrap();
    assert!(report.has_changed && !report.is_low && disk.exists(&reserve));
    store.check_space().unwrap();
    author.write(&store, partition(0), b"goes on").unwrap();
    author.commit(&store).unwrap();
    author.check(&store);
    assert_eq!(store.poison_cause(), None);
}

#[test]
fn a_full_disk_poisons_and_loses_nothing_that_was_acked() {
    let disk = MemoryDisk::new();
    let (store, _) = open(&disk);
    let mut author = Author::default();
    disk.set_space_left(Some(100_000));
    let mut acked = author.clone();
    let error = loop {
        author.write(&store, partition(0), &[7; 9_000]).unwrap();
        match author.commit(&store) {
            Ok(_) => acked = author.clone(),
            Err(error) => break error,
        }
        assert!(
            author.last_seq(partition(0)).get() < 1000,
            "the disk never was full"
        );
    };
    let StoreError::Io { source, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
    drop(store);
    disk.set_space_left(None);
    let (store, recovery) = open(&disk);
    author.forget_after(&recovery);
    assert!(author.last_seq(partition(0)) >= acked.last_seq(partition(0)));
    author.check(&store);
    author.write(&store, partition(0), b"goes on").unwrap();
    author.commit(&store).unwrap();
    author.check(&store);
}

#[test]
fn a_file_made_ahead_is_used_by_the_roll() {
    let disk = MemoryDisk::new();
    let (store, _) = open(&disk);
    let mut author = Author::default();
    assert!(store.prepare_once().unwrap());
    assert!(!store.prepare_once().unwrap());
    for round in 0..20 {
        author.write(&store, partition(0), &[round; 9_000]).unwrap();
        author.commit(&store).unwrap();
        store.prepare_once().unwrap();
    }
    assert!(store.durable_end().file.get() >= 3);
    store.close().unwrap();
    drop(store);
    let (store, recovery) = open(&disk);
    assert_eq!(recovery.torn_tail, None);
    author.check(&store);
}

#[test]
fn a_frame_larger_than_a_file_gets_its_own() {
    let disk = MemoryDisk::new();
    let (store, _) = open(&disk);
    let mut author = Author::default();
    for bytes in [10, 300_000, 10, 1_000_000] {
        author.write(&store, partition(0), &vec![1; bytes]).unwrap();
        author.commit(&store).unwrap();
    }
    author.check(&store);
    drop(store);
    let (store, _) = open(&disk);
    author.check(&store);
}

#[derive(Default)]
struct Count {
    durable: Mutex<(u64, Option<String>)>,
    changed: Condvar,
}

impl Count {
    fn wait(&self, done: impl Fn(&(u64, Option<String>)) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut state = self.durable.lock().unwrap();
        while !done(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "not within a minute: {state:?}");
            state = self.changed.wait_timeout(state, left).unwrap().0;
        }
    }
}

impl CommitSink for Count {
    fn durable(&self, commits: &[Committed]) {
        let records = commits
            .iter()
            .map(|c| c.last_seq.since(c.first_seq) + 1)
            .sum::<u64>();
        self.durable.lock().unwrap().0 += records;
        self.changed.notify_all();
    }

    fn failed(&self, error: &StoreError) {
        self.durable.lock().unwrap().1 = Some(error.to_string());
        self.changed.notify_all();
    }
}

#[test]
fn the_thread_commits_until_it_is_stopped() {
    let disk = MemoryDisk::new();
    let (store, _) = open(&disk);
    let sink = Arc::new(Count::default());
    let thread = CommitThread::spawn(Arc::clone(&store), sink.clone()).unwrap();
    let mut authors = Vec::new();
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..4)
            .map(|bucket| {
                let store = &store;
                scope.spawn(move || {
                    let mut author = Author::default();
                    for round in 0..500_u16 {
                        author
                            .write(store, partition(bucket), &round.to_le_bytes())
                            .unwrap();
                    }
                    author
                })
            })
            .collect();
        authors.extend(running.into_iter().map(|author| author.join().unwrap()));
    });
    sink.wait(|(durable, _)| *durable == 2000);
    thread.stop();
    authors.iter().for_each(|author| author.check(&store));
    store.close().unwrap();
    let closed = authors[0].write(&store, partition(0), b"x").unwrap_err();
    assert!(matches!(closed, StoreError::Closed));
}

#[test]
fn the_thread_reports_the_failure_once_and_ends() {
    let disk = MemoryDisk::new();
    let (store, _) = open(&disk);
    let sink = Arc::new(Count::default());
    let mut author = Author::default();
    author.write(&store, partition(0), b"x").unwrap();
    // With a file made ahead, the next write is the commit's.
    store.prepare_once().unwrap();
    disk.fail_write(1);
    let thread = CommitThread::spawn(Arc::clone(&store), sink.clone()).unwrap();
    sink.wait(|(_, failed)| failed.is_some());
    thread.stop();
    let state = sink.durable.lock().unwrap();
    assert_eq!(state.0, 0);
}

struct Broken;

impl CommitSink for Broken {
    fn durable(&self, _: &[Committed]) {
        panic!("a planned panic of the sink");
    }

    fn failed(&self, _: &StoreError) {}
}

#[test]
fn writers_are_told_when_the_thread_is_gone() {
    let (store, _) = open(&MemoryDisk::new());
    let thread = CommitThread::spawn(Arc::clone(&store), Arc::new(Broken)).unwrap();
    let mut author = Author::default();
    author.write(&store, partition(0), b"x").unwrap();
    thread.stop();
    let told = author.write(&store, partition(0), b"y").unwrap_err();
    assert_eq!(
        told.to_string(),
        "store poisoned: the commit thread panicked"
    );
}
