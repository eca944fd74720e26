//! What happens after damage was found, or after an installation failed.
//!
//! **Owns**: sequences of a failure and what the store did next.
//! **Does not own**: finding damage (`damage`, `scrub`), installing (`install`).

use std::path::Path;
use std::sync::Arc;

use domicile_proto::Seq;

use super::fixture::*;
use crate::engine::MemoryEngine;
use crate::{
    EngineChoice, MemoryDisk, OnDamage, SnapshotHeader, SnapshotPlan, Store, StoreError,
    StoreOptions,
};

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

fn given(engine: &Arc<MemoryEngine>) -> EngineChoice {
    EngineChoice::Given(Arc::clone(engine) as _)
}

/// a quarantine is forgotten by the next flush and restart.
fn forgotten(unnamed: bool) {
    let (disk, engine) = (MemoryDisk::new(), Arc::default());
    let (store, _) = try_open(&disk, quarantining(given(&engine))).unwrap();
    let mut author = Author::default();
    for bucket in 0..2 {
        author.write(&store, partition(bucket), &[1; 20]).unwrap();
    }
    author.commit(&store).unwrap();
    // It rests: everything is applied and in the engine.
    store.flush_once().unwrap();
    // Acknowledged writes.
    let lost = store.durable_end();
    author.write(&store, partition(0), &[2; 20]).unwrap();
    author.commit(&store).unwrap();
    author.write(&store, partition(1), &[3; 20]).unwrap();
    author.commit(&store).unwrap();
    drop(store);
    let disk = disk.crash();
    let at = lost.offset + if unnamed { 0 } else { 32 + 80 };
    overwrite(&disk, FIRST_FILE, at, &[0xff; 2]);
    let (store, recovery) = try_open(&disk, quarantining(given(&engine))).unwrap();
    let damaged: Vec<_> = recovery.damaged.iter().map(|(id, _)| *id).collect();
    assert_eq!(damaged, [partition(0)], "{recovery:?}");
    author.make_visible(&store, &[]);
    store.cells(partition(1)).advance(Seq::new(2));
    // An orderly end, and a start.
    store.close().unwrap();
    drop(store);
    let (_, recovery) = try_open(&disk.crash(), quarantining(given(&engine))).unwrap();
    let damaged: Vec<_> = recovery.damaged.iter().map(|(id, _)| *id).collect();
    let served: Vec<_> = recovery
        .partitions
        .iter()
        .map(|it| (it.partition, it.last_seq))
        .collect();
    assert_eq!(damaged, [partition(0)], "taken for whole: {served:?}");
}

#[test]
fn a_quarantine_outlives_a_restart_named() {
    forgotten(false);
}

#[test]
fn a_quarantine_outlives_a_restart_unnamed() {
    forgotten(true);
}

/// a flipped bit in the frame that the checkpoint names stops the whole node.
#[test]
fn damage_to_the_last_frame_of_the_checkpoint_costs_only_its_partitions() {
    let (disk, engine) = (MemoryDisk::new(), Arc::default());
    let (store, _) = try_open(&disk, quarantining(given(&engine))).unwrap();
    let mut author = Author::default();
    for bucket in 0..2 {
        author.write(&store, partition(bucket), &[1; 20]).unwrap();
    }
    author.commit(&store).unwrap();
    let end = store.durable_end();
    store.close().unwrap();
    drop(store);
    let disk = disk.crash();
    overwrite(&disk, FIRST_FILE, end.offset - 1, &[0xff]);
    let opened = try_open(&disk, quarantining(given(&engine)));
    opened.map(drop).unwrap();
}

/// A source with 12 records of partition 0 and a snapshot of them.
fn source() -> (Arc<Store>, SnapshotHeader, Vec<u8>) {
    let (store, _) = open(&MemoryDisk::new());
    let mut author = Author::default();
    for _ in 0..12 {
        author.write(&store, partition(0), &[1; 900]).unwrap();
        author.commit(&store).unwrap();
    }
    store.flush_once().unwrap();
    let header = store.snapshot(partition(0), PLAN, &mut |_| true);
    let header = header.unwrap().unwrap();
    let out = store.outgoing_snapshot(partition(0)).unwrap().unwrap();
    let bytes = out.read(out.first_offset(), 1 << 22).unwrap().to_vec();
    (store, header, bytes)
}

/// Changes the payload of the first block of a kind and makes its checksum right.
fn edit(bytes: &mut [u8], kind: u16, change: impl FnOnce(&mut [u8])) {
    let mut at = 0;
    while at < bytes.len() {
        let found = u16::from_le_bytes([bytes[at + 4], bytes[at + 5]]);
        let len = u32::from_le_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize;
        if found == kind {
            change(&mut bytes[at + 16..at + 16 + len]);
            let mut hasher = crc32fast::Hasher::new();
            hasher.update(&u32::from(kind).to_le_bytes());
            hasher.update(&(len as u32).to_le_bytes());
            hasher.update(&bytes[at + 16..at + 16 + len]);
            let crc = hasher.finalize().to_le_bytes();
            bytes[at + 12..at + 16].copy_from_slice(&crc);
            return;
        }
        at += 16 + len;
    }
    panic!("no block of kind {kind}");
}

/// reigns of a snapshot are written into the journal unchecked.
#[test]
fn a_snapshot_whose_reigns_cannot_be_is_refused() {
    let (_source, header, mut bytes) = source();
    edit(&mut bytes, 1, |reigns| {
        reigns[16..24].copy_from_slice(&99_u64.to_le_bytes());
    });
    let disk = MemoryDisk::new();
    let (copy, _) = try_open(&disk, quarantining(EngineChoice::Memory)).unwrap();
    let mut author = Author::default();
    author.write(&copy, partition(1), b"a neighbour").unwrap();
    author.commit(&copy).unwrap();
    author
        .write(&copy, partition(1), b"in the same frame")
        .unwrap();
    let mut incoming = copy.begin_incoming(header).unwrap();
    incoming.write(&bytes).unwrap();
    let finished = copy.finish_incoming(incoming);
    let refused = finished.is_err() || copy.install_received(partition(0)).is_err();
    author.commit(&copy).unwrap();
    author.write(&copy, partition(1), b"behind").unwrap();
    author.commit(&copy).unwrap();
    drop(copy);
    let (copy, recovery) = try_open(&disk.crash(), quarantining(EngineChoice::Memory)).unwrap();
    assert!(
        recovery.damaged.is_empty(),
        "refused: {refused}; {recovery:?}"
    );
    author.check(&copy);
}

/// a cell that this build does not know (a newer source) makes the node never open again.
#[test]
fn a_snapshot_with_a_cell_of_another_version_does_not_stop_the_node() {
    let (_source, header, mut bytes) = source();
    edit(&mut bytes, 4, |cells| {
        // Nothing in common with a cell before, the key's length, the value's in two bytes.
        let key = usize::from(cells[1]);
        cells[5 + key] |= 4;
    });
    let disk = MemoryDisk::new();
    let (copy, _) = try_open(&disk, quarantining(EngineChoice::Memory)).unwrap();
    let mut author = Author::default();
    author.write(&copy, partition(1), b"a neighbour").unwrap();
    author.commit(&copy).unwrap();
    let mut incoming = copy.begin_incoming(header).unwrap();
    incoming.write(&bytes).unwrap();
    let error = copy.finish_incoming(incoming).unwrap_err();
    drop(copy);
    let opened = try_open(&disk.crash(), quarantining(EngineChoice::Memory));
    let (copy, _) = opened.unwrap_or_else(|it| panic!("after {error}: {it}"));
    author.check(&copy);
}

fn snapshot_path(disk: &MemoryDisk) -> String {
    let dir = Path::new(DIR).join("snapshots");
    let names = crate::Disk::list(disk, &dir).unwrap();
    let name = names.iter().find(|it| it.ends_with(".snapshot")).unwrap();
    dir.join(name).to_str().unwrap().to_owned()
}

/// an adopted snapshot is damaged, the engine is gone, the rebase is still in the journal.
#[test]
fn a_damaged_snapshot_behind_a_rebase_costs_only_its_partition() {
    let (_source, header, bytes) = source();
    let disk = MemoryDisk::new();
    let (copy, _) = try_open(&disk, quarantining(EngineChoice::Memory)).unwrap();
    let mut author = Author::default();
    author.write(&copy, partition(1), b"a neighbour").unwrap();
    author.commit(&copy).unwrap();
    let mut incoming = copy.begin_incoming(header).unwrap();
    incoming.write(&bytes).unwrap();
    copy.finish_incoming(incoming).unwrap();
    copy.install_received(partition(0)).unwrap();
    drop(copy);
    let disk = disk.crash();
    let path = snapshot_path(&disk);
    overwrite(&disk, &path, header.file_bytes - 10, &[0xff; 4]);
    let opened = try_open(&disk, quarantining(EngineChoice::Memory));
    let (copy, recovery) = opened.unwrap_or_else(|it| panic!("{it}"));
    assert_eq!(recovery.damaged.len(), 1, "{recovery:?}");
    author.check(&copy);
}

/// the last frame of a file that is not the last one is zeros.
#[test]
fn a_zeroed_last_frame_of_a_file_costs_only_its_partitions() {
    let disk = MemoryDisk::new();
    let (store, _) = try_open(&disk, quarantining(EngineChoice::Memory)).unwrap();
    let mut author = Author::default();
    let mut last = (store.durable_end(), store.durable_end());
    author.write(&store, partition(1), b"a neighbour").unwrap();
    author.commit(&store).unwrap();
    while store.durable_end().file.get() < 2 {
        let before = store.durable_end();
        author.write(&store, partition(0), &[1; 9_000]).unwrap();
        author.commit(&store).unwrap();
        if store.durable_end().file.get() == 1 {
            last = (before, store.durable_end());
        }
    }
    author.write(&store, partition(1), b"behind it").unwrap();
    author.commit(&store).unwrap();
    author.write(&store, partition(0), b"behind it").unwrap();
    author.commit(&store).unwrap();
    store.flush_once().unwrap();
    let zeros = vec![0; (last.1.offset - last.0.offset) as usize];
    overwrite(&disk, FIRST_FILE, last.0.offset, &zeros);
    let report = store.scrub_journal(&mut |_| true).unwrap();
    let found = !report.damage.is_empty();
    drop(store);
    let opened = try_open(&disk.crash(), quarantining(EngineChoice::Memory));
    let (_, recovery) = opened.unwrap_or_else(|it| panic!("scrub found it: {found}; open: {it}"));
    assert!(found, "scrub");
    let damaged: Vec<_> = recovery.damaged.iter().map(|(id, _)| *id).collect();
    assert_eq!(damaged, [partition(0)], "{recovery:?}");
}

/// The fill failed once, another snapshot took the received one's name, the machine ended.
#[test]
fn a_second_snapshot_does_not_take_away_what_a_rebase_needs() {
    let (source_store, header, bytes) = source();
    let (disk, engine) = (MemoryDisk::new(), Arc::new(MemoryEngine::new()));
    let (copy, _) = try_open(&disk, quarantining(given(&engine))).unwrap();
    // What it had: another log, longer, and a snapshot of it.
    let mut other = Author::default();
    other.new_epoch();
    for _ in 0..40 {
        other.write(&copy, partition(0), &[9; 300]).unwrap();
    }
    other.commit(&copy).unwrap();
    let mut author = Author::default();
    author.write(&copy, partition(1), b"a neighbour").unwrap();
    author.commit(&copy).unwrap();
    copy.flush_once().unwrap();
    copy.snapshot(partition(0), PLAN, &mut |_| true)
        .unwrap()
        .unwrap();
    let mut incoming = copy.begin_incoming(header).unwrap();
    incoming.write(&bytes).unwrap();
    copy.finish_incoming(incoming).unwrap();
    engine.stop_after(2);
    copy.install_received(partition(0)).unwrap_err();
    engine.resume();
    // The bootstrapper tries again: a newer snapshot.
    let mut home = Author::default();
    for _ in 0..12 {
        home.written
            .entry(partition(0))
            .or_default()
            .push(record(b"x", b"x", 1));
    }
    home.write(&source_store, partition(0), b"more").unwrap();
    home.commit(&source_store).unwrap();
    source_store.flush_once().unwrap();
    let newer = source_store
        .snapshot(partition(0), PLAN, &mut |_| true)
        .unwrap()
        .unwrap();
    let out = source_store
        .outgoing_snapshot(partition(0))
        .unwrap()
        .unwrap();
    let bytes = out.read(out.first_offset(), 1 << 22).unwrap();
    let mut incoming = copy.begin_incoming(newer).unwrap();
    incoming.write(&bytes).unwrap();
    let refused = copy.finish_incoming(incoming).unwrap_err();
    assert!(matches!(refused, StoreError::Unfilled { .. }), "{refused}");
    drop(copy);
    for engine in [given(&engine), EngineChoice::Memory] {
        let (copy, recovery) = try_open(&disk.crash(), quarantining(engine)).unwrap();
        assert!(recovery.damaged.is_empty(), "{recovery:?}");
        assert_eq!(copy.tail(partition(0)).unwrap().last_seq, header.seq);
        author.check(&copy);
    }
}

/// An install that fails before anything happened opens what recovery had closed.
#[test]
fn a_failed_install_leaves_a_quarantined_partition_closed() {
    let (_source, header, bytes) = source();
    let (disk, engine) = (MemoryDisk::new(), Arc::new(MemoryEngine::new()));
    let (copy, _) = try_open(&disk, quarantining(given(&engine))).unwrap();
    let mut author = Author::default();
    author.new_epoch();
    let mut at = Vec::new();
    for _ in 0..3 {
        at.push(copy.durable_end());
        author.write(&copy, partition(0), &[7; 300]).unwrap();
        author.commit(&copy).unwrap();
    }
    drop(copy);
    let disk = disk.crash();
    overwrite(&disk, FIRST_FILE, at[1].offset + 150, &[0xff; 2]);
    let (copy, recovery) = try_open(&disk, quarantining(given(&engine))).unwrap();
    assert_eq!(recovery.damaged.len(), 1);
    assert!(!copy.cells(partition(0)).is_readable());
    let mut incoming = copy.begin_incoming(header).unwrap();
    incoming.write(&bytes).unwrap();
    copy.finish_incoming(incoming).unwrap();
    engine.stop_after(0);
    copy.install_received(partition(0)).unwrap_err();
    engine.resume();
    assert!(
        !copy.cells(partition(0)).is_readable(),
        "half a partition answers reads"
    );
}

/// nothing is installed in, nor committed to, a directory that was given back.
#[test]
fn a_closed_store_installs_nothing() {
    let (_source, header, bytes) = source();
    let disk = MemoryDisk::new();
    let (copy, _) = try_open(&disk, quarantining(EngineChoice::Memory)).unwrap();
    let mut incoming = copy.begin_incoming(header).unwrap();
    incoming.write(&bytes).unwrap();
    copy.finish_incoming(incoming).unwrap();
    let end = copy.durable_end();
    copy.close().unwrap();
    let (next, _) = try_open(&disk, quarantining(EngineChoice::Memory)).unwrap();
    let installed = copy.install_received(partition(0));
    assert!(
        installed.is_err(),
        "{installed:?}, journal {end} -> {}",
        copy.durable_end()
    );
    drop(next);
}
