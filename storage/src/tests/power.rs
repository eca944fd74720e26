//! Power loss and kill -9 at every operation of the disk.
//!
//! **Owns**: a scripted life of a store, ended everywhere.
//! **Does not own**: what a disk does then (disk in memory).

use std::sync::Arc;

use super::fixture::*;
use crate::engine::MemoryEngine;
use crate::{EngineChoice, MemoryDisk, StoreError};

/// Ways in which each life ends, per operation; more only takes longer.
const SEEDS: u64 = 6;

/// Opens, writes to three partitions, commits, flushes, rolls, closes, opens again.
fn live(disk: &MemoryDisk, engine: &Arc<MemoryEngine>, life: &mut Life) -> Result<(), StoreError> {
    for generation in 0..2_u8 {
        let given = EngineChoice::Given(Arc::clone(engine) as _);
        let (store, recovery) = try_open(disk, options_with(given))?;
        assert_eq!(recovery.torn_tail, None);
        for round in 0..8_u8 {
            for bucket in 0..=u16::from(round % 3) {
                let value = vec![round + 1; 900 * usize::from(round)];
                life.submitted.write(&store, partition(bucket), &value)?;
            }
            life.submitted.commit(&store)?;
            life.acked = life.submitted.clone();
            match round {
                2 => drop(store.flush_once()),
                4 if generation == 0 => drop(store.prepare_once()?),
                _ => {}
            }
        }
        // A frame that fills what is left of the file, so that the next one rolls.
        life.submitted
            .write(&store, partition(0), &vec![9; 30_000])?;
        life.submitted.commit(&store)?;
        life.acked = life.submitted.clone();
        store.close()?;
    }
    Ok(())
}

fn check_after(disk: &MemoryDisk, engine: EngineChoice, life: &Life, what: &str) {
    let (found, report) = life.check_after(disk, engine, what);
    assert!(report.torn_tail.is_none(), "{what}: {report:?}");
    assert_eq!(
        report.records(),
        found.written.values().map(Vec::len).sum::<usize>() as u64
    );
}

#[test]
pub(super) fn what_was_acked_survives_an_end_at_every_operation() {
    let whole = MemoryDisk::new();
    live(&whole, &Arc::default(), &mut Life::default()).unwrap();
    let operations = whole.operations();
    assert!(operations > 50, "{operations} operations are no life");
    for dies_at in 1..=operations {
        let (disk, engine, mut life) = (MemoryDisk::new(), Arc::default(), Life::default());
        disk.freeze_at_operation(dies_at);
        live(&disk, &engine, &mut life).expect_err("the machine did not die");
        for seed in 0..SEEDS {
            let what = format!("power lost at operation {dies_at} of {operations}, seed {seed}");
            check_after(&disk.power_loss(seed), EngineChoice::Memory, &life, &what);
        }
        check_after(
            &disk.crash(),
            EngineChoice::Memory,
            &life,
            &format!("killed at {dies_at}"),
        );
        let what = format!("power lost at operation {dies_at}, engine kept");
        check_after(
            &disk.power_loss(dies_at),
            EngineChoice::Given(engine as _),
            &life,
            &what,
        );
    }
}

#[test]
fn a_second_end_during_recovery_changes_nothing() {
    let whole = MemoryDisk::new();
    live(&whole, &Arc::default(), &mut Life::default()).unwrap();
    let operations = whole.operations();
    for dies_at in (operations / 3..=operations).step_by(7) {
        let (disk, mut life) = (MemoryDisk::new(), Life::default());
        disk.freeze_at_operation(dies_at);
        live(&disk, &Arc::default(), &mut life).expect_err("the machine did not die");
        for again_at in 1..=5 {
            let disk = disk.power_loss(again_at);
            disk.freeze_at_operation(again_at);
            drop(try_open(&disk, options()));
            let what = format!("power lost at {dies_at}, again at {again_at} of recovery");
            check_after(
                &disk.power_loss(dies_at),
                EngineChoice::Memory,
                &life,
                &what,
            );
        }
    }
}

/// A kill leaves bytes that a later loss of power would take; recovery must make them durable
/// before it counts on them.
#[test]
fn what_recovery_found_survives_a_loss_of_power() {
    let disk = MemoryDisk::new();
    let (store, _) = open(&disk);
    let mut author = Author::default();
    author.write(&store, partition(0), &[1; 5000]).unwrap();
    // The write went through, the sync did not.
    disk.freeze_at_operation(2);
    assert!(store.commit_once().is_err());
    let killed = disk.crash();
    let (store, recovery) = open(&killed);
    assert_eq!(recovery.partitions[0].last_seq.get(), 1);
    author.check(&store);
    for seed in 0..20 {
        let (store, recovery) = open(&killed.power_loss(seed));
        assert_eq!(recovery.torn_tail, None, "seed {seed}");
        author.check(&store);
    }
}

/// The engine keeps the first batches of a flush, the machine ends: what they lack is folded again.
#[test]
pub(super) fn a_flush_that_stops_at_any_batch_is_folded_again() {
    // Each cell has a row in the index: 32 cells fill a batch.
    for stops_after in 0..13 {
        let (disk, engine) = (MemoryDisk::new(), Arc::new(MemoryEngine::new()));
        let given = || options_with(EngineChoice::Given(Arc::clone(&engine) as _));
        let (store, _) = try_open(&disk, given()).unwrap();
        let mut author = Author::default();
        for bucket in 0..300 {
            author.write(&store, partition(bucket), b"value").unwrap();
        }
        author.commit(&store).unwrap();
        engine.stop_after(stops_after);
        let flushed = store.flush_once();
        assert_eq!(
            flushed.is_ok(),
            stops_after >= 11,
            "{stops_after}: {flushed:?}"
        );
        drop(store);
        engine.resume();
        let (store, _) = try_open(&disk.crash(), given()).unwrap();
        author.check(&store);
    }
}

/// Regression: after a sync that failed the kernel reads back what it will never write. A process
/// that was started again found the frame, synced, acknowledged what came after it, and lost both
/// with the power.
#[test]
fn a_frame_whose_sync_failed_is_written_again_by_the_next_process() {
    for bytes in [20, 40_000] {
        let disk = MemoryDisk::new();
        let (store, _) = open(&disk);
        let mut author = Author::default();
        author.write(&store, partition(0), &[1; 30_000]).unwrap();
        author.commit(&store).unwrap();
        author.write(&store, partition(0), &vec![2; bytes]).unwrap();
        // With the larger value the sync is that of a new file.
        disk.fail_sync(1);
        let error = store.commit_once().unwrap_err();
        assert!(error.to_string().contains("EIO on sync"), "{error}");
        author.write(&store, partition(0), b"refused").unwrap_err();
        store.commit_once().unwrap_err();
        let killed = disk.crash();
        let (store, recovery) = open(&killed);
        author.forget_after(&recovery);
        author.write(&store, partition(0), b"goes on").unwrap();
        author.commit(&store).unwrap();
        for seed in 0..20 {
            let (store, recovery) = open(&killed.power_loss(seed));
            assert_eq!(recovery.torn_tail, None, "{bytes} bytes, seed {seed}");
            author.check(&store);
        }
    }
}
