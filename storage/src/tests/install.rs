//! A snapshot of one node installed at another: interrupted, killed and without power at every
//! operation, over nothing, over the beginning of the same log, over another log that is longer.
//!
//! **Owns**: a scripted bootstrap, ended everywhere.
//! **Does not own**: when a node does it (replication).

use std::sync::Arc;

use domicile_proto::{PartitionId, Seq};

use super::fixture::*;
use crate::engine::MemoryEngine;
use crate::retention::NOTHING;
use crate::{
    CheckedSegment, CommitUrgency, EngineChoice, IncomingSnapshot, MemoryDisk, SnapshotHeader,
    SnapshotPlan, Store, StoreError,
};

/// Ways in which each life ends, per operation; more only takes longer.
const SEEDS: u64 = 3;

const PLAN: SnapshotPlan = SnapshotPlan {
    now_ms: 1,
    requests_max: 5,
};

/// Bytes of a snapshot sent at once: several pieces, none the size of a block.
const PIECE_BYTES: usize = 5_000;

/// What the copy has of the partition before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Past {
    Nothing,
    Beginning,
    LongerFork,
}

const PASTS: [Past; 3] = [Past::Nothing, Past::Beginning, Past::LongerFork];

/// The node whose snapshot it is. It went on writing while the snapshot was taken.
struct Source {
    store: Arc<Store>,
    author: Author,
    header: SnapshotHeader,
}

impl Source {
    fn new() -> Self {
        let (store, _) = open(&MemoryDisk::new());
        let mut author = Author::default();
        for _ in 0..12 {
            author.write(&store, partition(0), &[1; 900]).unwrap();
            author.commit(&store).unwrap();
        }
        store.flush_once().unwrap();
        let mut goes_on = |_| {
            if author.last_seq(partition(0)) < Seq::new(20) {
                author.write(&store, partition(0), &[2; 900]).unwrap();
                author.commit(&store).unwrap();
                store.flush_once().unwrap();
            }
            true
        };
        let header = store.snapshot(partition(0), PLAN, &mut goes_on);
        let header = header.unwrap().unwrap();
        assert!(header.newest_seq > header.seq, "{header:?}");
        for _ in 0..5 {
            author.write(&store, partition(0), &[3; 900]).unwrap();
            author.commit(&store).unwrap();
        }
        Self {
            store,
            author,
            header,
        }
    }

    /// Ships the records after `after` up to `upto`, and has them committed and shown.
    fn ship(&self, copy: &Store, after: Seq, upto: Seq) -> Result<(), StoreError> {
        let end = self.store.durable_end();
        let chunk = self.store.read(self.store.journal_start(), end, 1 << 20)?;
        for (_, segment) in chunk.segments {
            let header = *segment.header();
            if header.first_seq > after && header.last_seq() <= upto {
                let segment = CheckedSegment::new(segment, 1 << 20)?;
                copy.submit_segment(segment, CommitUrgency::Now)?;
                copy.commit_once()?;
                copy.cells(partition(0)).advance(header.last_seq());
            }
        }
        Ok(())
    }

    /// Sends the snapshot from where the copy has it; `pieces` at most.
    fn send(&self, copy: &Store, pieces: usize) -> Result<IncomingSnapshot, StoreError> {
        let snapshot = self.store.outgoing_snapshot(partition(0))?.unwrap();
        let mut incoming = match copy.resume_incoming(partition(0))? {
            Some(incoming) if incoming.header() == snapshot.header() => incoming,
            _ => copy.begin_incoming(*snapshot.header())?,
        };
        for _ in 0..pieces {
            incoming.write(&snapshot.read(incoming.offset(), PIECE_BYTES)?)?;
        }
        Ok(incoming)
    }

    fn bootstrap(&self, copy: &Store) -> Result<(), StoreError> {
        let incoming = self.send(copy, 1_000)?;
        assert!(incoming.is_complete(), "{incoming:?}");
        copy.finish_incoming(incoming)?;
        copy.install_received(partition(0))?;
        Ok(())
    }

    /// Whether the copy's log is a part of this one that goes beyond the snapshot.
    fn has_installed(&self, copy: &Store) -> bool {
        copy.tail(partition(0)).is_some_and(|tail| {
            let own = self.store.chain_at(partition(0), tail.last_seq);
            tail.last_seq >= self.header.seq && own.unwrap() == Some(tail.chain)
        })
    }
}

/// One like the first of two that were installed is received again, and the process ends before it
/// is installed: what the log begins with is the second.
#[test]
fn a_snapshot_that_was_installed_before_does_not_replace_the_last_one() {
    let (home, _) = open(&MemoryDisk::new());
    let (copy_disk, mut author) = (MemoryDisk::new(), Author::default());
    let (copy, _) = open(&copy_disk);
    let receive = |bytes: &(SnapshotHeader, bytes::Bytes)| {
        let mut incoming = copy.begin_incoming(bytes.0).unwrap();
        incoming.write(&bytes.1).unwrap();
        copy.finish_incoming(incoming).unwrap();
    };
    let mut sent = Vec::new();
    for _ in 0..2 {
        for _ in 0..3 {
            author.write(&home, partition(0), b"value").unwrap();
            author.commit(&home).unwrap();
        }
        home.flush_once().unwrap();
        home.snapshot(partition(0), PLAN, &mut |_| true)
            .unwrap()
            .unwrap();
        let outgoing = home.outgoing_snapshot(partition(0)).unwrap().unwrap();
        let bytes = outgoing.read(outgoing.first_offset(), 1 << 20).unwrap();
        sent.push((*outgoing.header(), bytes));
        receive(&sent[sent.len() - 1]);
        copy.install_received(partition(0)).unwrap();
    }
    receive(&sent[0]);
    drop(copy);
    let left = copy_disk.crash();
    for _ in 0..2 {
        let options = options_with(EngineChoice::Memory);
        let (copy, recovery) = try_open(&left, options).unwrap();
        assert!(recovery.damaged.is_empty(), "{recovery:?}");
        assert_eq!(copy.tail(partition(0)).unwrap().last_seq, Seq::new(6));
        assert_eq!(copy.last_snapshot(partition(0)).unwrap().seq, Seq::new(6));
        author.check_cells(&copy, partition(0), Seq::new(6));
    }
}

/// Nobody but the store itself needs the log.
fn nobody(_: PartitionId) -> Seq {
    NOTHING
}

fn live(
    disk: &MemoryDisk,
    engine: &Arc<MemoryEngine>,
    source: &Source,
    past: Past,
) -> Result<(), StoreError> {
    let given = || options_with(EngineChoice::Given(Arc::clone(engine) as _));
    let (copy, _) = try_open(disk, given())?;
    let mut other = Author::default();
    match past {
        Past::Nothing => {}
        Past::Beginning => source.ship(&copy, Seq::NONE, Seq::new(5))?,
        Past::LongerFork => {
            other.new_epoch();
            for _ in 0..40 {
                other.write(&copy, partition(0), &[9; 300])?;
            }
            other.commit(&copy)?;
            copy.flush_once()?;
            copy.snapshot(partition(0), PLAN, &mut |_| true)?;
        }
    }
    let mut neighbour = Author::default();
    for _ in 0..3 {
        neighbour.write(&copy, partition(1), &[4; 30_000])?;
        neighbour.commit(&copy)?;
    }
    copy.flush_once()?;
    copy.snapshot(partition(1), PLAN, &mut |_| true)?;
    copy.trim(&nobody)?;
    drop(source.send(&copy, 2)?);
    copy.close()?;
    drop(copy);

    let (copy, _) = try_open(disk, given())?;
    source.bootstrap(&copy)?;
    let cells = copy.cells(partition(0));
    assert!(!cells.is_readable(), "readable at {}", cells.applied_upto());
    cells.get(b"key-1").expect_err("no state of the partition");
    source.ship(&copy, source.header.seq, Seq::new(15))?;
    copy.flush_once()?;
    copy.close()?;
    drop(copy);

    let (copy, recovery) = try_open(disk, given())?;
    let found = recovery
        .partitions
        .iter()
        .find(|it| it.partition == partition(0));
    assert_eq!(found.unwrap().last_seq, Seq::new(15), "{recovery:?}");
    source.ship(&copy, Seq::new(15), Seq::new(99))?;
    neighbour.write(&copy, partition(1), &[5; 60_000])?;
    neighbour.commit(&copy)?;
    copy.flush_once()?;
    copy.snapshot(partition(0), PLAN, &mut |_| true)?;
    copy.snapshot(partition(1), PLAN, &mut |_| true)?;
    copy.trim(&nobody)?;
    copy.close()
}

/// Opens what is left, brings the bootstrap to its end, and compares with the source.
fn check_after(disk: &MemoryDisk, engine: EngineChoice, source: &Source, what: &str) {
    let opened = try_open(disk, options_with(engine));
    let (copy, _) = opened.unwrap_or_else(|error| panic!("{what}: {error}"));
    if !source.has_installed(&copy) {
        let done = source.bootstrap(&copy);
        done.unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    let at = copy.tail(partition(0)).unwrap().last_seq;
    source.ship(&copy, at, Seq::new(99)).unwrap();
    let check = |copy: &Store| {
        let ends = [copy, &*source.store].map(|store| {
            let tail = store.tail(partition(0)).unwrap();
            (tail.last_seq, tail.chain, tail.epoch_history)
        });
        assert_eq!(ends[0], ends[1], "{what}");
        let cells = copy.cells(partition(0));
        assert!(cells.is_readable(), "{what}: {cells:?}");
        let last = source.author.last_seq(partition(0));
        source.author.check_cells(copy, partition(0), last);
        let from = copy.log_start(partition(0));
        let found = copy.records(partition(0), from).map(Result::unwrap);
        let records = &source.author.written[&partition(0)][from.get() as usize - 1..];
        let found: Vec<_> = found.map(|(_, _, record)| record).collect();
        assert_eq!(found, records, "{what}");
    };
    check(&copy);
    copy.close().unwrap();
    drop(copy);
    let shared: Arc<dyn crate::Disk> = Arc::new(disk.clone());
    let report = crate::verify(&shared, std::path::Path::new(DIR)).unwrap();
    assert!(report.is_sound(), "{what}: {report:?}");
    let (copy, _) = open(disk);
    check(&copy);
}

#[test]
fn a_bootstrap_survives_an_end_at_every_operation() {
    let source = Source::new();
    for past in PASTS {
        let whole = MemoryDisk::new();
        live(&whole, &Arc::default(), &source, past).unwrap();
        check_after(&whole.crash(), EngineChoice::Memory, &source, "whole");
        let operations = whole.operations();
        for dies_at in 1..=operations {
            let (disk, engine) = (MemoryDisk::new(), Arc::default());
            disk.freeze_at_operation(dies_at);
            live(&disk, &engine, &source, past).expect_err("the machine did not die");
            let what = format!("{past:?}: killed at {dies_at} of {operations}");
            check_after(&disk.crash(), EngineChoice::Memory, &source, &what);
            for seed in 0..SEEDS {
                let what = format!("{past:?}: power lost at {dies_at}, seed {seed}");
                let left = disk.power_loss(seed);
                check_after(&left, EngineChoice::Memory, &source, &what);
            }
            let what = format!("{past:?}: power lost at {dies_at}, engine kept");
            let given = EngineChoice::Given(engine as _);
            check_after(&disk.power_loss(dies_at), given, &source, &what);
        }
    }
}

/// What was before a snapshot of an earlier record is read by nobody, although it is of later ones.
/// Regression: it was shipped to a copy that lacked these records.
#[test]
fn a_log_that_began_anew_further_back_is_read_without_what_was_before() {
    let source = Source::new();
    let disk = MemoryDisk::new();
    let (copy, _) = open(&disk);
    let (mut other, mut neighbour) = (Author::default(), Author::default());
    neighbour.write(&copy, partition(1), &[4; 100]).unwrap();
    other.new_epoch();
    for _ in 0..40 {
        other.write(&copy, partition(0), &[9; 300]).unwrap();
        other.commit(&copy).unwrap();
    }
    source.bootstrap(&copy).unwrap();
    source.ship(&copy, source.header.seq, Seq::new(99)).unwrap();
    let check = |copy: &Store| {
        let (mut at, end) = (copy.journal_start(), copy.durable_end());
        let (mut last, mut others) = (source.header.seq, 0);
        while at < end {
            let chunk = copy.read(at, end, 1 << 10).unwrap();
            for (_, segment) in &chunk.segments {
                let header = segment.header();
                if header.partition != partition(0) {
                    others += 1;
                    continue;
                }
                assert_eq!(header.first_seq, last.next(), "{header:?}");
                last = header.last_seq();
            }
            at = chunk.next;
        }
        assert_eq!(last, source.author.last_seq(partition(0)));
        assert_eq!(others, 1, "what is of others is read");
    };
    check(&copy);
    copy.close().unwrap();
    drop(copy);
    let (copy, _) = open(&disk);
    check(&copy);
}

/// The engine keeps the first batches only, the machine ends: the cells are filled again.
#[test]
fn cells_that_were_half_filled_are_filled_again() {
    let source = Source::new();
    for past in PASTS {
        for stops_after in 0..12 {
            let (disk, engine) = (MemoryDisk::new(), Arc::new(MemoryEngine::new()));
            let given = || EngineChoice::Given(Arc::clone(&engine) as _);
            let (copy, _) = try_open(&disk, options_with(given())).unwrap();
            if past == Past::Beginning {
                source.ship(&copy, Seq::NONE, Seq::new(5)).unwrap();
            }
            let incoming = source.send(&copy, 1_000).unwrap();
            copy.finish_incoming(incoming).unwrap();
            engine.stop_after(stops_after);
            let installed = copy.install_received(partition(0));
            match stops_after {
                0 => assert!(installed.is_err(), "without a batch"),
                11 => installed.as_ref().map(drop).unwrap(),
                _ => {}
            }
            if installed.is_err() {
                engine.resume();
                if stops_after % 2 == 0 {
                    // The same process may try again as well.
                    copy.install_received(partition(0)).unwrap();
                }
                drop(copy);
                let what = format!("{past:?}: stopped after {stops_after} batches");
                check_after(
                    &disk.crash(),
                    EngineChoice::Given(engine.clone()),
                    &source,
                    &what,
                );
            }
        }
    }
}

#[test]
fn a_damaged_snapshot_is_not_installed_and_can_be_sent_anew() {
    let source = Source::new();
    let disk = MemoryDisk::new();
    let (copy, _) = open(&disk);
    let mut incoming = copy.begin_incoming(source.header).unwrap();
    let snapshot = source
        .store
        .outgoing_snapshot(partition(0))
        .unwrap()
        .unwrap();
    let mut bytes = snapshot.read(incoming.offset(), 1 << 20).unwrap().to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    incoming.write(&bytes).unwrap();
    let more = incoming.write(&[0]).unwrap_err();
    assert!(more.to_string().contains("by its header"), "{more}");
    let refused = copy.finish_incoming(incoming).unwrap_err();
    assert!(
        refused.to_string().contains("checksum mismatch"),
        "{refused}"
    );
    assert!(copy.resume_incoming(partition(0)).unwrap().is_none());
    let missing = copy.install_received(partition(0)).unwrap_err();
    assert!(
        matches!(missing, StoreError::NoSnapshot { .. }),
        "{missing}"
    );
    drop(copy);
    check_after(&disk, EngineChoice::Memory, &source, "sent anew");
}

/// A transfer goes on behind what arrived whole, also when the disk lost the end of it.
#[test]
fn an_interrupted_transfer_goes_on_where_it_was() {
    let source = Source::new();
    let disk = MemoryDisk::new();
    let (copy, _) = open(&disk);
    let sent = source.send(&copy, 2).unwrap().offset();
    drop(copy);
    let (copy, _) = open(&disk.crash());
    let resumed = copy.resume_incoming(partition(0)).unwrap().unwrap();
    assert!(
        resumed.offset() > 4096 && resumed.offset() <= sent,
        "{resumed:?}"
    );
    let (copy, _) = open(&disk.power_loss(1));
    if let Some(resumed) = copy.resume_incoming(partition(0)).unwrap() {
        assert!(resumed.offset() <= sent, "{resumed:?}");
    }
    source.bootstrap(&copy).unwrap();
}

/// Regression: after a sync that failed, the pieces before it were counted as received, and a loss
/// of power took them from a snapshot that was installed already.
#[test]
fn a_sync_that_fails_once_costs_an_attempt_and_nothing_that_was_installed() {
    let source = Source::new();
    for past in PASTS {
        let whole = MemoryDisk::new();
        live(&whole, &Arc::default(), &source, past).unwrap();
        for nth in 1..=whole.syncs() {
            let disk = MemoryDisk::new();
            disk.fail_sync(nth);
            drop(live(&disk, &Arc::default(), &source, past));
            let killed = disk.crash();
            let (copy, _) = open(&killed);
            if !source.has_installed(&copy) {
                source.bootstrap(&copy).unwrap();
            }
            let at = copy.tail(partition(0)).unwrap().last_seq;
            source.ship(&copy, at, Seq::new(99)).unwrap();
            drop(copy);
            let what = format!("{past:?}, sync {nth} failed, power lost");
            check_after(
                &killed.power_loss(nth),
                EngineChoice::Memory,
                &source,
                &what,
            );
        }
    }
}
