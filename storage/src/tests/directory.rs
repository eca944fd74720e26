//! Whose directory it is, and what the engine is worth.
//!
//! **Owns**: tests of opening.
//! **Does not own**: tests of damage within the journal.

use std::path::Path;
use std::sync::Arc;

use super::engines::engines_on_disk;
use super::fixture::*;
use crate::disk::Disk;
use crate::engine::MemoryEngine;
use crate::{EngineChoice, MemoryDisk, OsDisk, Store, StoreError, StoreOptions, verify};

#[test]
fn a_directory_keeps_its_node() {
    let disk = MemoryDisk::new();
    let anyone = StoreOptions {
        node_id: None,
        ..options()
    };
    let (store, recovery) = try_open(&disk, anyone.clone()).unwrap();
    assert!(recovery.created);
    let minted = store.node_id();
    drop(store);
    let (store, recovery) = try_open(&disk, anyone).unwrap();
    assert!(!recovery.created);
    assert_eq!(store.node_id(), minted);
    drop(store);
    let other = StoreOptions {
        node_id: Some(node(77)),
        ..options()
    };
    let error = try_open(&disk, other).err().unwrap();
    assert!(matches!(error, StoreError::ForeignNode { .. }), "{error}");
}

#[test]
fn a_second_open_is_told_who_holds_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Store::open(Arc::new(OsDisk::new()), dir.path(), options());
    let (store, _) = open().unwrap();
    let message = open().err().unwrap().to_string();
    let holder = format!("is held by pid {}, since 2", std::process::id());
    assert!(
        message.starts_with("directory locked: ") && message.contains(&holder),
        "{message}"
    );
    store.close().unwrap();
    open().unwrap();
}

#[test]
fn directories_of_others_are_refused() {
    let disk = MemoryDisk::new();
    disk.create_dir_all(Path::new("/data/photos")).unwrap();
    assert!(
        refusal(&disk).starts_with("not a data directory: /data"),
        "{}",
        refusal(&disk)
    );

    let disk = MemoryDisk::new();
    drop(open(&disk));
    let mut author = Author::default();
    let (store, _) = open(&disk);
    author.write(&store, partition(0), b"v").unwrap();
    author.commit(&store).unwrap();
    drop(store);
    let without_identity = disk.crash();
    without_identity
        .remove_file(Path::new("/data/identity"))
        .unwrap();
    let message = refusal(&without_identity);
    assert!(
        message.contains("no identity file but holds \"journal/"),
        "{message}"
    );

    let without_journal = disk.crash();
    without_journal
        .remove_dir_all(Path::new("/data/journal"))
        .unwrap();
    let message = refusal(&without_journal);
    assert!(
        message.contains("journal missing under a known identity"),
        "{message}"
    );
    without_journal
        .create_dir_all(Path::new("/data/journal"))
        .unwrap();
    assert_eq!(refusal(&without_journal), message);
    let shared: Arc<dyn Disk> = Arc::new(without_journal);
    assert_eq!(
        verify(&shared, Path::new(DIR))
            .unwrap()
            .damage
            .unwrap()
            .to_string(),
        message
    );

    // Another node's journal under this node's identity.
    let other = MemoryDisk::new();
    let options = StoreOptions {
        node_id: Some(node(2)),
        ..options()
    };
    drop(try_open(&other, options).unwrap());
    overwrite(&disk, FIRST_FILE, 0, &file_bytes(&other, FIRST_FILE));
    let message = refusal(&disk);
    assert!(
        message.contains("written by node n0000000000000002, this directory belongs to n0000"),
        "{message}"
    );

    let newer = other.crash();
    overwrite(&newer, "/data/identity", 0, &[0; 20]);
    assert!(refusal(&newer).contains("bad magic of the identity"));
}

/// Opens with an engine that outlives the store.
fn open_with(
    disk: &MemoryDisk,
    engine: &Arc<MemoryEngine>,
) -> Result<(Arc<Store>, u64), StoreError> {
    let engine = EngineChoice::Given(Arc::clone(engine) as _);
    let (store, recovery) = try_open(
        disk,
        StoreOptions {
            engine,
            ..options()
        },
    )?;
    Ok((store, recovery.replayed_records))
}

#[test]
fn a_checkpoint_spares_the_replay_and_an_old_one_only_lengthens_it() {
    let disk = MemoryDisk::new();
    let engine = Arc::new(MemoryEngine::new());
    let (store, _) = open_with(&disk, &engine).unwrap();
    let mut author = Author::default();
    for round in 0..40_u8 {
        author
            .write(&store, partition(u16::from(round % 3)), &[round; 5000])
            .unwrap();
        author.commit(&store).unwrap();
        if round == 20 {
            assert!(store.flush_once().unwrap().cells > 0);
        }
    }
    drop(store);
    let (store, replayed) = open_with(&disk, &engine).unwrap();
    assert_eq!(replayed, 19);
    author.check(&store);
    store.close().unwrap();
    drop(store);
    let (store, replayed) = open_with(&disk, &engine).unwrap();
    assert_eq!(replayed, 0);
    author.check(&store);
    for bucket in 0..3 {
        let tail = store.tail(partition(bucket)).unwrap();
        assert_eq!(tail.epoch_history, [(epoch(1), domicile_proto::Seq::FIRST)]);
    }
    // Behind a checkpoint at its very end the journal goes on where it should.
    author.write(&store, partition(1), b"next").unwrap();
    author.commit(&store).unwrap();
    drop(store);
    let (store, replayed) = open_with(&disk, &engine).unwrap();
    assert_eq!(replayed, 1);
    author.check(&store);
    drop(store);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    assert!(verify(&shared, Path::new(DIR)).unwrap().is_sound());
}

#[test]
fn records_that_were_not_visible_are_replayed_and_stay_invisible() {
    let disk = MemoryDisk::new();
    let engine = Arc::new(MemoryEngine::new());
    let (store, _) = open_with(&disk, &engine).unwrap();
    let mut author = Author::default();
    for round in 0..6_u8 {
        for bucket in 0..2 {
            author
                .write(&store, partition(bucket), &[round; 3000])
                .unwrap();
        }
        let commits = store.commit_once().unwrap();
        // The second partition's copies are slow: nothing of it is visible.
        author.make_visible(&store, &commits[..1]);
        store.flush_once().unwrap();
    }
    drop(store);
    let engine = EngineChoice::Given(engine as _);
    let (store, recovery) = try_open(
        &disk,
        StoreOptions {
            engine,
            ..options()
        },
    )
    .unwrap();
    let [first, second] = &recovery.partitions[..] else {
        panic!("{recovery:?}")
    };
    assert_eq!((first.applied_upto.get(), first.last_seq.get()), (6, 6));
    assert_eq!(
        (second.applied_upto.get(), second.visible_upto.get()),
        (0, 0)
    );
    assert_eq!(second.last_seq.get(), 6);
    assert_eq!(store.cells(partition(1)).get(b"key-1").unwrap().cell, None);
    author.check(&store);
}

#[test]
fn an_engine_that_knows_more_than_the_journal_means_that_the_journal_lost_something() {
    let disk = MemoryDisk::new();
    let engine = Arc::new(MemoryEngine::new());
    let (store, _) = open_with(&disk, &engine).unwrap();
    let mut author = Author::default();
    author.write(&store, partition(0), b"first").unwrap();
    author.commit(&store).unwrap();
    let backup = disk.crash();
    author.write(&store, partition(0), b"second").unwrap();
    author.commit(&store).unwrap();
    store.close().unwrap();
    let error = open_with(&backup, &engine).err().unwrap();
    let expected = "journal ends before a commit that the engine knows";
    assert!(error.to_string().contains(expected), "{error}");
    open_with(&backup, &Arc::new(MemoryEngine::new())).unwrap();
}

#[test]
fn the_engine_may_be_deleted_damaged_or_someone_elses() {
    engines_on_disk()
        .iter()
        .for_each(engine_may_be_deleted_damaged_or_someone_elses);
}

fn engine_may_be_deleted_damaged_or_someone_elses(engine: &EngineChoice) {
    let dir = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(OsDisk::new());
    let open = |path: &Path, id| {
        let options = StoreOptions {
            node_id: Some(node(id)),
            engine_cache_bytes: 1 << 20,
            ..options_with(engine.clone())
        };
        Store::open(Arc::clone(&disk), path, options).unwrap()
    };
    let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
    let mut author = Author::default();
    let (store, recovery) = open(&ours, 1);
    assert_eq!(recovery.engine_rebuilt, None);
    for round in 0..100_u8 {
        author
            .write(&store, partition(u16::from(round % 3)), &[round; 300])
            .unwrap();
        author.commit(&store).unwrap();
    }
    store.close().unwrap();
    drop(store);
    let (store, recovery) = open(&ours, 1);
    assert_eq!(
        (recovery.engine_rebuilt, recovery.replayed_records),
        (None, 0)
    );
    author.check(&store);
    drop(store);

    std::fs::remove_dir_all(ours.join("engine")).unwrap();
    let (store, recovery) = open(&ours, 1);
    assert_eq!(recovery.engine_rebuilt.unwrap(), "engine directory missing");
    assert_eq!(recovery.replayed_records, 100);
    author.check(&store);
    store.close().unwrap();
    drop(store);

    let (store, _) = open(&theirs, 2);
    let mut other = Author::default();
    other.write(&store, partition(0), b"theirs").unwrap();
    other.commit(&store).unwrap();
    store.close().unwrap();
    drop(store);
    std::fs::remove_dir_all(ours.join("engine")).unwrap();
    std::fs::rename(theirs.join("engine"), ours.join("engine")).unwrap();
    let (store, recovery) = open(&ours, 1);
    let why = recovery.engine_rebuilt.unwrap();
    assert!(
        why.contains("engine of node 0000000000000002 in a directory of"),
        "{why}"
    );
    assert!(ours.join("engine.quarantined-1").exists());
    author.check(&store);
    store.close().unwrap();
    drop(store);
    let (store, recovery) = open(&ours, 1);
    assert_eq!(
        (recovery.engine_rebuilt, recovery.replayed_records),
        (None, 0)
    );
    author.check(&store);
}
