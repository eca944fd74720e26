//! Segments that nobody waits for: when they are committed, and what may be seen before.
//!
//! **Owns**: tests of [`CommitUrgency::Soon`] and of flushes that meet it.
//! **Does not own**: what is urgent (the core).

use std::sync::Arc;
use std::time::{Duration, Instant};

use domicile_proto::{Segment, Seq};

use super::fixture::*;
use crate::engine::MemoryEngine;
use crate::{
    CheckedSegment, CommitUrgency, EngineChoice, MemoryDisk, Place, Store, StoreError, StoreOptions,
};

/// Segments of one partition as its home wrote them, and who wrote them.
fn written(count: u8) -> (Vec<Segment>, Author) {
    let (home, _) = open(&MemoryDisk::new());
    let mut author = Author::default();
    for round in 0..count {
        author.write(&home, partition(0), &[round; 700]).unwrap();
        author.commit(&home).unwrap();
    }
    let chunk = home.read(Place::START, home.durable_end(), 1 << 20);
    let segments = chunk.unwrap().segments;
    (segments.into_iter().map(|(_, each)| each).collect(), author)
}

/// Takes a segment as an asynchronous copy does: not urgent, and visible at once.
fn take(store: &Store, segment: &Segment) -> Result<(), StoreError> {
    let checked = CheckedSegment::new(segment.clone(), segment.bytes().len())?;
    store.submit_segment(checked, CommitUrgency::Soon)?;
    store
        .cells(partition(0))
        .advance(segment.header().last_seq());
    Ok(())
}

#[test]
fn the_committer_waits_for_company_until_somebody_is_in_a_hurry() {
    let (segments, mut author) = written(3);
    let (store, _) = open(&MemoryDisk::new());
    take(&store, &segments[0]).unwrap();
    let began = Instant::now();
    assert!(store.wait_for_work(), "what waits is committed in the end");
    assert!(
        began.elapsed() >= Duration::from_millis(1),
        "it did not wait"
    );
    assert_eq!(store.commit_once().unwrap().len(), 1);
    // Hastened, it is due: this would not return within a test's patience if it were not.
    take(&store, &segments[1]).unwrap();
    store.hasten();
    assert!(store.wait_for_work());
    // A record sequenced here takes the segment along, in one commit.
    take(&store, &segments[2]).unwrap();
    author.write(&store, partition(1), b"urgent").unwrap();
    assert!(store.wait_for_work());
    assert_eq!(store.commit_once().unwrap().len(), 3);
    author.check(&store);
}

#[test]
fn a_flush_commits_first_and_the_committer_tells() {
    let (segments, author) = written(2);
    let disk = MemoryDisk::new();
    let (store, _) = open(&disk);
    take(&store, &segments[0]).unwrap();
    assert_eq!(store.tail(partition(0)), None);
    store.flush_once().unwrap();
    let durable = store.tail(partition(0)).expect("durable by the flush");
    assert_eq!(durable.last_seq, Seq::new(1));
    assert!(store.wait_for_work(), "there is something to tell");
    take(&store, &segments[1]).unwrap();
    let told = store.commit_once().unwrap();
    let places: Vec<_> = told.iter().map(|each| each.last_seq.get()).collect();
    assert_eq!(places, [1, 2], "each once, in order");
    assert!(store.commit_once().unwrap().is_empty());
    author.check(&store);
}

/// Regression: the second flush took an empty queue and with it the word that there was something
/// to tell, so that the copy's home was not told until the next write.
#[test]
fn a_second_flush_does_not_silence_the_first() {
    let (segments, _) = written(1);
    let (store, _) = open(&MemoryDisk::new());
    take(&store, &segments[0]).unwrap();
    store.flush_once().unwrap();
    store.flush_once().unwrap();
    // With nothing else queued, this waits for ever if the word is lost.
    let waiting = Arc::clone(&store);
    let waiter = std::thread::spawn(move || waiting.wait_for_work());
    let deadline = Instant::now() + Duration::from_secs(20);
    while !waiter.is_finished() {
        assert!(Instant::now() < deadline, "nobody is told");
        std::thread::yield_now();
    }
    assert!(waiter.join().unwrap());
    assert_eq!(store.commit_once().unwrap().len(), 1);
}

#[test]
fn a_flush_that_cannot_commit_leaves_the_engine_as_it_was() {
    let (segments, _) = written(1);
    let disk = MemoryDisk::new();
    let (store, _) = open(&disk);
    take(&store, &segments[0]).unwrap();
    disk.freeze_at_operation(1);
    store.flush_once().expect_err("the disk is gone");
    assert!(store.poison_cause().is_some());
    assert!(
        store.wait_for_work(),
        "the committer is to tell of the failure"
    );
    assert!(matches!(
        store.commit_once(),
        Err(StoreError::Poisoned { .. })
    ));
}

/// A copy's life: everything is shown on arrival, some of it flushed before it was committed.
fn live(
    disk: &MemoryDisk,
    engine: &Arc<MemoryEngine>,
    segments: &[Segment],
    acked: &mut Seq,
) -> Result<(), StoreError> {
    let (store, _) = try_open(disk, with(engine))?;
    for (index, segment) in segments.iter().enumerate() {
        take(&store, segment)?;
        if index % 3 == 1 {
            store.flush_once()?;
        }
        if index % 4 == 3 {
            store.commit_once()?;
            *acked = segment.header().last_seq();
        }
    }
    store.close()?;
    *acked = segments
        .last()
        .map_or(Seq::NONE, |last| last.header().last_seq());
    Ok(())
}

fn with(engine: &Arc<MemoryEngine>) -> StoreOptions {
    StoreOptions {
        engine: EngineChoice::Given(Arc::clone(engine) as _),
        ..options()
    }
}

/// The engine outlives every loss of power here: were it ahead of the journal, a key would show a
/// record that the log does not have.
#[test]
fn the_engine_is_never_ahead_of_the_journal() {
    let (segments, author) = written(12);
    let whole = MemoryDisk::new();
    live(&whole, &Arc::default(), &segments, &mut Seq::NONE.clone()).unwrap();
    let operations = whole.operations();
    assert!(operations > 20, "{operations} operations are no life");
    for dies_at in 1..=operations {
        let (disk, engine, mut acked) = (MemoryDisk::new(), Arc::default(), Seq::NONE);
        disk.freeze_at_operation(dies_at);
        live(&disk, &engine, &segments, &mut acked).expect_err("the machine did not die");
        let what = format!("power lost at operation {dies_at} of {operations}");
        let opened = try_open(&disk.power_loss(dies_at), with(&engine));
        let (store, recovery) = opened.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(recovery.engine_rebuilt, None, "{what}");
        let kept = store
            .tail(partition(0))
            .map_or(Seq::NONE, |tail| tail.last_seq);
        assert!(kept >= acked, "{what}: kept {kept}, acked {acked}");
        author.check_cells(&store, partition(0), kept);
        // And it goes on from there.
        for segment in segments
            .iter()
            .filter(|each| each.header().first_seq > kept)
        {
            take(&store, segment).unwrap();
        }
        store.commit_once().unwrap();
        author.check(&store);
    }
}
