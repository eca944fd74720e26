//! Damage that is found before it is needed, and what stands for it.
//!
//! **Owns**: bytes changed behind the back of an open store.
//! **Does not own**: damage found at open (`damage`).

use std::sync::Arc;

use domicile_proto::Seq;

use super::fixture::*;
use crate::engine::MemoryEngine;
use crate::{EngineChoice, MemoryDisk, OnDamage, Place, SnapshotPlan, Store, StoreOptions};

const PLAN: SnapshotPlan = SnapshotPlan {
    now_ms: 1,
    requests_max: 5,
};

fn quarantining(engine: EngineChoice) -> StoreOptions {
    StoreOptions {
        on_damage: OnDamage::Quarantine,
        ..options_with(engine)
    }
}

/// An open store with three frames of two partitions, all of it in the engine, and their places.
fn three_frames(disk: &MemoryDisk, engine: &Arc<MemoryEngine>) -> (Arc<Store>, Author, Vec<Place>) {
    let given = EngineChoice::Given(Arc::clone(engine) as _);
    let (store, _) = try_open(disk, quarantining(given)).unwrap();
    let mut author = Author::default();
    let mut places = vec![store.durable_end()];
    for round in 0..3_u8 {
        for bucket in 0..2 {
            let value = [round + 1; 20];
            author.write(&store, partition(bucket), &value).unwrap();
        }
        author.commit(&store).unwrap();
        places.push(store.durable_end());
    }
    store.flush_once().unwrap();
    (store, author, places)
}

#[test]
fn every_flipped_bit_is_found_and_a_snapshot_stands_for_what_is_lost() {
    let whole = MemoryDisk::new();
    let (_, _, places) = three_frames(&whole, &Arc::default());
    let bytes = file_bytes(&whole, FIRST_FILE);
    let (mut named, mut unnamed) = (0, 0);
    for at in places[0].offset..places[3].offset {
        let (disk, engine) = (MemoryDisk::new(), Arc::default());
        let (store, mut author, _) = three_frames(&disk, &engine);
        let flipped = bytes[at as usize] ^ (1 << (at % 8));
        overwrite(&disk, FIRST_FILE, at, &[flipped]);
        let report = store.scrub_journal(&mut |_| true).unwrap();
        assert!(!report.damage.is_empty(), "a flip at {at} was not found");
        let first = &report.damage[0];
        assert!(first.error.to_string().contains(FIRST_FILE), "{first:?}");
        for damage in &report.damage {
            match damage.lost {
                Some(_) => named += 1,
                None => unnamed += 1,
            }
        }
        for bucket in 0..2 {
            store
                .snapshot(partition(bucket), PLAN, &mut |_| true)
                .unwrap();
        }
        for damage in &report.damage {
            let all = [partition(0), partition(1)].map(|id| (id, Seq::new(3)));
            let lost = damage.lost.map_or(all.to_vec(), |lost| vec![lost]);
            for (id, upto) in lost {
                store.close_hole(id, damage.place).unwrap();
                assert!(
                    store.log_start(id) > Seq::FIRST,
                    "{id} up to {upto}, flip at {at}"
                );
            }
        }
        for bucket in 0..2 {
            author.write(&store, partition(bucket), b"goes on").unwrap();
        }
        author.commit(&store).unwrap();
        author.check(&store);
        drop(store);
        // Also without the engine: the snapshots have what the journal lost.
        let left = disk.crash();
        let (store, recovery) = try_open(&left, quarantining(EngineChoice::Memory)).unwrap();
        assert!(recovery.damaged.is_empty(), "flip at {at}: {recovery:?}");
        for bucket in 0..2 {
            author.check_cells(&store, partition(bucket), Seq::new(4));
        }
    }
    assert!(named > 100 && unnamed > 20, "{named} {unnamed}");
}

#[test]
fn a_sound_journal_has_nothing_to_find_and_a_pace_is_kept() {
    let disk = MemoryDisk::new();
    let (store, _, _) = three_frames(&disk, &Arc::default());
    let report = store.scrub_journal(&mut |_| true).unwrap();
    assert!(
        report.damage.is_empty() && report.segments == 6,
        "{report:?}"
    );
    let report = store.scrub_journal(&mut |_| false).unwrap();
    assert_eq!(report.segments, 0);
}

#[test]
fn a_damaged_snapshot_is_replaced() {
    let disk = MemoryDisk::new();
    let (store, author, _) = three_frames(&disk, &Arc::default());
    let header = store
        .snapshot(partition(0), PLAN, &mut |_| true)
        .unwrap()
        .unwrap();
    store.scrub_snapshot(partition(0), &mut |_| true).unwrap();
    let dir = std::path::Path::new(DIR).join("snapshots");
    let names = crate::Disk::list(&disk, &dir).unwrap();
    let path = dir.join(&names[0]);
    overwrite(
        &disk,
        path.to_str().unwrap(),
        header.file_bytes - 10,
        &[0xff; 4],
    );
    let found = store
        .scrub_snapshot(partition(0), &mut |_| true)
        .unwrap_err();
    assert!(found.to_string().contains("checksum mismatch"), "{found}");
    let again = store.snapshot(partition(0), PLAN, &mut |_| true).unwrap();
    assert_eq!(again.unwrap().seq, header.seq);
    store.scrub_snapshot(partition(0), &mut |_| true).unwrap();
    drop(store);
    let (store, _) = open(&disk.crash());
    author.check_cells(&store, partition(0), Seq::new(3));
}

#[test]
fn a_digest_is_the_same_for_the_same_cells_and_of_one_position() {
    let disk = MemoryDisk::new();
    let (store, mut author, _) = three_frames(&disk, &Arc::default());
    let digest = |store: &Store| store.cells(partition(0)).digest(&mut |_| true).unwrap();
    let before = digest(&store).unwrap();
    drop(store);
    // From the journal alone, all of it in the overlay.
    let (store, _) = open(&disk.crash());
    author.check_cells(&store, partition(0), Seq::new(3));
    assert_eq!(digest(&store).unwrap(), before);
    author.make_visible(&store, &[]);
    author.write(&store, partition(0), b"other").unwrap();
    author.commit(&store).unwrap();
    let after = digest(&store).unwrap();
    assert!(after.0 > before.0 && after.1 != before.1, "{after:?}");
    assert_eq!(
        store.cells(partition(0)).digest(&mut |_| false).unwrap(),
        None
    );
}

/// A large one is read for minutes: the next one is taken meanwhile, not blamed for the last.
#[test]
fn snapshots_are_taken_while_one_is_read_again() {
    let disk = MemoryDisk::new();
    let (store, mut author, _) = three_frames(&disk, &Arc::default());
    let first = store.snapshot(partition(0), PLAN, &mut |_| true).unwrap();
    let first = first.unwrap();
    let dir = std::path::Path::new(DIR).join("snapshots");
    let names = crate::Disk::list(&disk, &dir).unwrap();
    let path = format!("{DIR}/snapshots/{}", names[0]);
    let mut newer = None;
    let mut pace = |_| {
        if newer.is_none() {
            author.write(&store, partition(0), b"newer").unwrap();
            author.commit(&store).unwrap();
            store.flush_once().unwrap();
            // Damage that nobody needs any more.
            overwrite(&disk, &path, first.file_bytes - 10, &[0xff; 4]);
            newer = store.snapshot(partition(0), PLAN, &mut |_| true).unwrap();
        }
        true
    };
    store.scrub_snapshot(partition(0), &mut pace).unwrap();
    assert!(newer.unwrap().seq > first.seq);
    assert_eq!(store.last_snapshot(partition(0)), newer);
    store.scrub_snapshot(partition(0), &mut |_| true).unwrap();
}

/// Regression: a page that could not be read made a node that did not open, if it was a first one.
#[test]
fn a_snapshot_whose_first_page_cannot_be_read_is_replaced() {
    let disk = MemoryDisk::new();
    let (store, author, _) = three_frames(&disk, &Arc::default());
    let header = store.snapshot(partition(0), PLAN, &mut |_| true).unwrap();
    let dir = std::path::Path::new(DIR).join("snapshots");
    let names = crate::Disk::list(&disk, &dir).unwrap();
    disk.spoil(&dir.join(&names[0]), 0..1);
    let found = store.scrub_snapshot(partition(0), &mut |_| true);
    assert!(
        matches!(found, Err(crate::StoreError::Corrupt { .. })),
        "{found:?}"
    );
    let again = store.snapshot(partition(0), PLAN, &mut |_| true).unwrap();
    assert_eq!(again.unwrap().seq, header.unwrap().seq);
    drop(store);
    let disk = disk.crash();
    let names = crate::Disk::list(&disk, &dir).unwrap();
    let name = names.iter().find(|it| it.ends_with(".snapshot")).unwrap();
    disk.spoil(&dir.join(name), 0..1);
    let (store, _) = try_open(&disk, quarantining(EngineChoice::Memory)).unwrap();
    author.check_cells(&store, partition(0), Seq::new(3));
}
