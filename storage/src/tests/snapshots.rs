//! Snapshots and a journal that was cut for them: power loss and kill -9 at every operation, an
//! engine that is lost or too old, damage.
//!
//! **Owns**: a scripted life with snapshots and trims, ended everywhere.
//! **Does not own**: the bytes of a snapshot (its module's tests).

use std::path::Path;
use std::sync::Arc;

use domicile_proto::{PartitionId, Seq};

use super::fixture::*;
use crate::disk::Disk;
use crate::engine::MemoryEngine;
use crate::retention::NOTHING;
use crate::{
    EngineChoice, FileNumber, KeptRequest, MemoryDisk, Pin, SnapshotPlan, Store, StoreError, verify,
};

/// Ways in which each life ends, per operation; more only takes longer.
const SEEDS: u64 = 4;

/// Requests in snapshots: less than a partition's records, so that some drop out.
const PLAN: SnapshotPlan = SnapshotPlan {
    now_ms: 1,
    requests_max: 5,
};

/// Nobody but the store itself needs the log.
fn nobody(_: PartitionId) -> Seq {
    NOTHING
}

/// Fills about a journal file, so that the next commit rolls.
fn fill(store: &Store, life: &mut Life, bucket: u16) -> Result<(), StoreError> {
    for _ in 0..2 {
        life.submitted
            .write(store, partition(bucket), &[7; 28_000])?;
        life.submitted.commit(store)?;
        life.acked = life.submitted.clone();
    }
    Ok(())
}

/// Writes, flushes, takes snapshots, cuts the journal, is opened again, does it all once more.
fn live(disk: &MemoryDisk, engine: &Arc<MemoryEngine>, life: &mut Life) -> Result<(), StoreError> {
    for generation in 0..2_u8 {
        let given = EngineChoice::Given(Arc::clone(engine) as _);
        let (store, _) = try_open(disk, options_with(given))?;
        for round in 0..3_u8 {
            for bucket in 0..=u16::from(round) {
                let value = vec![10 * generation + round; 700];
                life.submitted.write(&store, partition(bucket), &value)?;
            }
            life.submitted.commit(&store)?;
            life.acked = life.submitted.clone();
            fill(&store, life, u16::from(round))?;
            store.flush_once()?;
            // The first time the last partition is left out, and keeps its files.
            for bucket in 0..u16::from(round + generation) {
                store.snapshot(partition(bucket), PLAN, &mut |_| true)?;
            }
            store.trim(&nobody)?;
        }
        store.close()?;
    }
    Ok(())
}

#[test]
fn the_script_cuts_the_journal_and_nothing_is_missed() {
    let (disk, engine, mut life) = (MemoryDisk::new(), Arc::default(), Life::default());
    live(&disk, &engine, &mut life).unwrap();
    let (store, recovery) = open(&disk);
    assert!(recovery.restored_cells > 0, "{recovery:?}");
    assert!(
        store.journal_start().file > FileNumber::new(3),
        "{:?}",
        store.journal_start()
    );
    life.submitted.check(&store);
    assert_eq!(
        disk.list(&Path::new(DIR).join("snapshots")).unwrap().len(),
        3
    );
}

#[test]
pub(super) fn what_was_acked_survives_an_end_at_every_operation() {
    let whole = MemoryDisk::new();
    live(&whole, &Arc::default(), &mut Life::default()).unwrap();
    let operations = whole.operations();
    assert!(operations > 100, "{operations} operations are no life");
    for dies_at in 1..=operations {
        let (disk, engine, mut life) = (MemoryDisk::new(), Arc::default(), Life::default());
        disk.freeze_at_operation(dies_at);
        live(&disk, &engine, &mut life).expect_err("the machine did not die");
        for seed in 0..SEEDS {
            let what = format!("power lost at operation {dies_at} of {operations}, seed {seed}");
            life.check_after(&disk.power_loss(seed), EngineChoice::Memory, &what);
        }
        let what = format!("killed at {dies_at}");
        life.check_after(&disk.crash(), EngineChoice::Memory, &what);
        let what = format!("power lost at operation {dies_at}, engine kept");
        let given = EngineChoice::Given(engine as _);
        life.check_after(&disk.power_loss(dies_at), given, &what);
    }
}

/// Killed, opened, cut, and only then without power: what the first process left unsynced must not
/// be counted on.
#[test]
fn a_cut_after_a_kill_survives_a_loss_of_power() {
    let whole = MemoryDisk::new();
    live(&whole, &Arc::default(), &mut Life::default()).unwrap();
    for dies_at in 1..=whole.operations() {
        let (disk, engine, mut life) = (MemoryDisk::new(), Arc::default(), Life::default());
        disk.freeze_at_operation(dies_at);
        live(&disk, &engine, &mut life).expect_err("the machine did not die");
        let killed = disk.crash();
        let engine: Arc<MemoryEngine> = engine;
        engine.resume();
        let given = || EngineChoice::Given(Arc::clone(&engine) as _);
        let untouched = disk.crash();
        drop(try_open(&untouched, options_with(EngineChoice::Memory)).unwrap());
        for seed in 0..12 {
            let what = format!("killed at {dies_at}, opened, power lost, seed {seed}");
            life.check_after(&untouched.power_loss(seed), EngineChoice::Memory, &what);
        }
        let (store, recovery) = try_open(&killed, options_with(given())).unwrap();
        for each in &recovery.partitions {
            store.cells(each.partition).advance(each.last_seq);
        }
        store.flush_once().unwrap();
        for each in &recovery.partitions {
            store.snapshot(each.partition, PLAN, &mut |_| true).unwrap();
        }
        store.trim(&nobody).unwrap();
        drop(store);
        let what = format!("killed at {dies_at}, cut, opened again");
        let (store, _) = try_open(&killed, options_with(given()))
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        drop(store);
        for seed in 0..2 {
            let what = format!("killed at {dies_at}, cut, power lost, seed {seed}");
            life.check_after(&killed.power_loss(seed), EngineChoice::Memory, &what);
        }
    }
}

/// Regression: what a snapshot covers and the journal keeps for a copy was not in the index of a
/// restored engine, and the copy looked diverged.
#[test]
fn what_is_kept_for_a_copy_is_found_after_a_restore() {
    let (disk, mut life) = (MemoryDisk::new(), Life::default());
    let (store, _) = open(&disk);
    for _ in 0..4 {
        fill(&store, &mut life, 0).unwrap();
    }
    store.flush_once().unwrap();
    store.snapshot(partition(0), PLAN, &mut |_| true).unwrap();
    store.trim(&|_| Seq::new(4)).unwrap();
    let start = store.log_start(partition(0));
    assert!(start > Seq::FIRST && start <= Seq::new(4), "{start}");
    let chains = |store: &Store| {
        let chain = |seq| store.chain_at(partition(0), Seq::new(seq)).unwrap();
        [chain(start.get() - 1), chain(4), chain(5), chain(8)]
    };
    let before = chains(&store);
    assert!(before.iter().all(Option::is_some), "{before:?}");
    drop(store);
    let (store, recovery) = open(&disk);
    assert!(recovery.restored_cells > 0);
    assert_eq!(store.log_start(partition(0)), start);
    assert_eq!(chains(&store), before);
    life.submitted.check(&store);
}

#[test]
fn a_snapshot_that_is_given_up_leaves_nothing_behind() {
    let (disk, mut life) = (MemoryDisk::new(), Life::default());
    let (store, _) = open(&disk);
    fill(&store, &mut life, 0).unwrap();
    store.flush_once().unwrap();
    let stopped = store.snapshot(partition(0), PLAN, &mut |_| false).unwrap();
    assert_eq!(stopped, None);
    let dir = Path::new(DIR).join("snapshots");
    assert!(disk.list(&dir).unwrap().is_empty());
    disk.set_space_left(Some(10_000));
    store
        .snapshot(partition(0), PLAN, &mut |_| true)
        .unwrap_err();
    assert!(disk.list(&dir).unwrap().is_empty(), "{:?}", disk.list(&dir));
    disk.set_space_left(None);
    assert!(
        store
            .snapshot(partition(0), PLAN, &mut |_| true)
            .unwrap()
            .is_some()
    );
}

#[test]
fn a_restore_that_is_interrupted_is_begun_anew() {
    let (disk, mut life) = (MemoryDisk::new(), Life::default());
    live(&disk, &Arc::default(), &mut life).unwrap();
    for stops_after in 0..12 {
        let engine = Arc::new(MemoryEngine::new());
        engine.stop_after(stops_after);
        let given = || EngineChoice::Given(Arc::clone(&engine) as _);
        if let Ok((store, _)) = try_open(&disk, options_with(given())) {
            // It stopped later than the restore took.
            assert!(stops_after > 3, "{stops_after}");
            drop(store);
        }
        engine.resume();
        let (store, _) = try_open(&disk, options_with(given())).unwrap();
        life.submitted.check(&store);
    }
}

#[test]
fn an_engine_from_before_the_cut_is_refused_or_rebuilt() {
    let (disk, engine, mut life) = (MemoryDisk::new(), Arc::default(), Life::default());
    let given = |engine: &Arc<MemoryEngine>| EngineChoice::Given(Arc::clone(engine) as _);
    let (store, _) = try_open(&disk, options_with(given(&engine))).unwrap();
    fill(&store, &mut life, 0).unwrap();
    store.flush_once().unwrap();
    let old = Arc::new(engine.image());
    fill(&store, &mut life, 0).unwrap();
    store.flush_once().unwrap();
    store.snapshot(partition(0), PLAN, &mut |_| true).unwrap();
    fill(&store, &mut life, 0).unwrap();
    let report = store.trim(&nobody).unwrap();
    assert!(report.files > 0, "{report:?}");
    store.close().unwrap();
    drop(store);
    let refused = try_open(&disk, options_with(given(&old))).unwrap_err();
    assert!(
        refused.to_string().contains("the journal begins with file"),
        "{refused}"
    );
    let (store, _) = open(&disk);
    life.submitted.check(&store);
}

#[test]
fn nothing_is_cut_that_somebody_needs() {
    let (disk, mut life) = (MemoryDisk::new(), Life::default());
    let (store, _) = open(&disk);
    for bucket in [0, 1, 0, 0] {
        fill(&store, &mut life, bucket).unwrap();
    }
    store.flush_once().unwrap();
    let report = store.trim(&nobody).unwrap();
    assert_eq!(
        (report.files, report.pinned_by),
        (0, Some(Pin::Uncovered(partition(0)))),
        "no snapshot"
    );
    store.snapshot(partition(0), PLAN, &mut |_| true).unwrap();
    let report = store.trim(&nobody).unwrap();
    let pin = Some(Pin::Uncovered(partition(1)));
    assert_eq!(report.pinned_by, pin, "written once, pins the rest");
    let pinned_at = report.first;
    store.snapshot(partition(1), PLAN, &mut |_| true).unwrap();
    // A copy lacks everything from record 3 on.
    let report = store.trim(&|id| match id == partition(0) {
        true => Seq::new(3),
        false => nobody(id),
    });
    let report = report.unwrap();
    assert_eq!(report.pinned_by, Some(Pin::Needed(partition(0))));
    assert!(store.log_start(partition(0)) <= Seq::new(3));
    let tail = store.tail(partition(0)).unwrap();
    assert_eq!(
        store.chain_at(partition(0), tail.last_seq).unwrap(),
        Some(tail.chain)
    );
    let before_start = Seq::new(store.log_start(partition(0)).get() - 1);
    let chain = store.chain_at(partition(0), before_start).unwrap();
    assert!(
        chain.is_some(),
        "a copy that has all but what is left must not look diverged"
    );
    let report = store.trim(&nobody).unwrap();
    assert!(report.first > pinned_at && report.files > 0, "{report:?}");
    assert!(store.log_start(partition(0)) > Seq::new(3));
    life.submitted.check(&store);
    let again = store.trim(&nobody).unwrap();
    assert_eq!(again.files, 0);
}

#[test]
fn a_snapshot_remembers_the_last_requests_when_their_log_is_cut() {
    let (disk, mut life) = (MemoryDisk::new(), Life::default());
    let (store, _) = open(&disk);
    let mut expected: Vec<u64> = Vec::new();
    for round in 1..=4 {
        fill(&store, &mut life, 0).unwrap();
        expected.extend([2 * round - 1, 2 * round]);
        store.flush_once().unwrap();
        store.snapshot(partition(0), PLAN, &mut |_| true).unwrap();
        store.trim(&nobody).unwrap();
        let kept = store.snapshot_requests(partition(0)).unwrap();
        let found: Vec<u64> = kept.iter().map(|request| request.seq.get()).collect();
        assert_eq!(found, expected[expected.len().saturating_sub(5)..]);
        for request in kept {
            let record = &life.acked.written[&partition(0)][request.seq.get() as usize - 1];
            assert_eq!(Some(request), KeptRequest::of(request.seq, record));
        }
    }
    assert!(
        store.log_start(partition(0)) > Seq::new(4),
        "their log was cut"
    );
}

#[test]
fn a_missing_file_is_not_taken_for_a_cut_one() {
    let (disk, mut life) = (MemoryDisk::new(), Life::default());
    live(&disk, &Arc::default(), &mut life).unwrap();
    let (store, _) = open(&disk);
    fill(&store, &mut life, 0).unwrap();
    fill(&store, &mut life, 0).unwrap();
    let first = store.journal_start().file;
    store.close().unwrap();
    let path = first.path(&Path::new(DIR).join("journal"));
    disk.remove_file(&path).unwrap();
    let refused = refusal(&disk);
    assert!(
        refused.contains("journal file missing") && refused.contains(path.to_str().unwrap()),
        "{refused}"
    );
}

#[test]
fn a_missing_snapshot_is_not_taken_for_an_empty_partition() {
    let (disk, mut life) = (MemoryDisk::new(), Life::default());
    live(&disk, &Arc::default(), &mut life).unwrap();
    let dir = Path::new(DIR).join("snapshots");
    let name = disk.list(&dir).unwrap().remove(1);
    disk.remove_file(&dir.join(&name)).unwrap();
    let refused = refusal(&disk);
    assert!(
        refused.contains("the journal was cut for this snapshot") && refused.contains(&name),
        "{refused}"
    );
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let report = verify(&shared, Path::new(DIR)).unwrap();
    assert_eq!(report.damage.unwrap().to_string(), refused);
}

#[test]
pub(super) fn a_damaged_snapshot_is_named_where_the_engine_needs_it() {
    let (disk, engine, mut life) = (MemoryDisk::new(), Arc::default(), Life::default());
    live(&disk, &engine, &mut life).unwrap();
    let dir = Path::new(DIR).join("snapshots");
    let name = disk.list(&dir).unwrap().remove(0);
    let path = dir.join(&name);
    overwrite(&disk, path.to_str().unwrap(), 4096 + 30, &[0xff; 4]);
    let refused = refusal(&disk);
    assert!(
        refused.contains("corrupt file") && refused.contains(&name),
        "{refused}"
    );
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let report = verify(&shared, Path::new(DIR)).unwrap();
    assert!(!report.is_sound(), "{report:?}");
    // An engine that is whole does not read it.
    let given = EngineChoice::Given(engine as _);
    let (store, _) = try_open(&disk, options_with(given)).unwrap();
    life.submitted.check(&store);
}
