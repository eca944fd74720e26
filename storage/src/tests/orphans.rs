//! An old home whose tail the new one never had: sealed, cut, healed; killed and without power at
//! every operation, with the engine lost, kept and older.
//!
//! **Owns**: a scripted return, ended everywhere.
//! **Does not own**: what may be cut and what may not (`orphans_rules`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use domicile_proto::{Epoch, PartitionId, Record, Segment, Seq};

use super::fixture::*;
use crate::engine::MemoryEngine;
use crate::retention::NOTHING;
use crate::{
    AfterCut, Cell, CheckedSegment, CommitUrgency, CutPlan, Disk, EngineChoice, HealProgress,
    MemoryDisk, OnDamage, Recovery, SnapshotPlan, Store, StoreError, StoreOptions, verify,
};

/// Ways in which each life ends, per operation; more only takes longer.
const SEEDS: u64 = 3;

/// The last record that both logs have.
pub(super) const FORK: Seq = Seq::new(6);

/// What the old home wrote.
const OLD_END: u64 = 10;

/// A journal file holds five of them.
const VALUE_BYTES: usize = 12_000;

pub(super) const SNAPSHOT: SnapshotPlan = SnapshotPlan {
    now_ms: 1,
    requests_max: 100,
};

/// What the old home has done with its records before it is told of the fork.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Past {
    /// None of the tail is in the engine.
    Unflushed,
    /// All of it is.
    Flushed,
    /// As well, and a snapshot is from before the fork.
    Covered,
    /// As well, a snapshot holds all of it, and the journal lacks what is before the fork.
    Orphaned,
}

const PASTS: [Past; 4] = [
    Past::Unflushed,
    Past::Flushed,
    Past::Covered,
    Past::Orphaned,
];

/// The new home.
pub(super) struct Home {
    pub(super) store: Arc<Store>,
    pub(super) author: Author,
    /// Its cells as it had applied `asked_at`.
    cells: BTreeMap<Bytes, Cell>,
    pub(super) asked_at: Seq,
}

impl Home {
    /// A home that has `shared` of what `old` has, and goes on from there.
    pub(super) fn new(old: &Store, author: &Author, shared: Seq, reign: u64) -> Self {
        let (store, _) = open(&MemoryDisk::new());
        ship(old, &store, Seq::NONE, shared).unwrap();
        let mut author = author.clone();
        let written = author.written.entry(partition(0)).or_default();
        written.truncate(shared.get() as usize);
        author.written.retain(|id, _| *id == partition(0));
        (1..reign).for_each(|_| author.new_epoch());
        let mut home = Self {
            store,
            author,
            cells: BTreeMap::new(),
            asked_at: Seq::NONE,
        };
        home.write(2);
        home.asked_at = home.author.last_seq(partition(0));
        let scan = |cells: &crate::PartitionCells| {
            let (from, upto) = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
            let forward = crate::engine::Direction::Forward;
            cells.scan(from, upto, forward, 100).unwrap().rows
        };
        home.cells = scan(&home.store.cells(partition(0))).into_iter().collect();
        home.store.flush_once().unwrap();
        let taken = home.store.snapshot(partition(0), SNAPSHOT, &mut |_| true);
        assert_eq!(taken.unwrap().unwrap().newest_seq, home.asked_at);
        home.write(2);
        home
    }

    fn write(&mut self, records: u8) {
        for number in 0..records {
            let value = [b'h', number];
            self.author
                .write(&self.store, partition(0), &value)
                .unwrap();
            self.author.commit(&self.store).unwrap();
        }
    }

    pub(super) fn plan(&self) -> CutPlan {
        CutPlan {
            superseded_by: self.author.epoch(),
            now_ms: 77,
        }
    }

    pub(super) fn answer(&self, keys: Vec<Bytes>) -> Vec<(Bytes, Option<Cell>)> {
        let cells = keys.into_iter();
        let answered = cells.map(|key| {
            let cell = self.cells.get(&key).cloned();
            (key, cell)
        });
        answered.collect()
    }

    pub(super) fn heal(&self, copy: &Store) -> Result<(), StoreError> {
        while copy.wound(partition(0)).is_some() {
            let keys = copy.wounded_keys(partition(0), 3)?;
            let done = copy.heal(partition(0), &self.answer(keys), self.asked_at)?;
            let readable_from = self.asked_at;
            let is_last = done == HealProgress::Done { readable_from };
            assert!(is_last || done == HealProgress::More, "{done:?}");
            assert_eq!(is_last, copy.wound(partition(0)).is_none());
        }
        Ok(())
    }

    /// Sends the last snapshot and has it installed.
    pub(super) fn bootstrap(&self, copy: &Store) -> Result<(), StoreError> {
        let snapshot = self.store.outgoing_snapshot(partition(0))?.unwrap();
        let mut incoming = copy.begin_incoming(*snapshot.header())?;
        incoming.write(&snapshot.read(incoming.offset(), 1 << 20)?)?;
        copy.finish_incoming(incoming)?;
        copy.install_received(partition(0)).map(drop)
    }

    /// What the one who returns does, from wherever it is.
    fn rejoin(&self, copy: &Store, fork: Seq, is_damaged: bool) -> Result<(), StoreError> {
        if is_damaged {
            return self.bootstrap(copy);
        }
        let tail = copy.tail(partition(0));
        let last_seq = tail.as_ref().map_or(Seq::NONE, |tail| tail.last_seq);
        let own = self.store.chain_at(partition(0), last_seq)?;
        let is_shared = tail.is_none_or(|tail| own == Some(tail.chain));
        if !is_shared || last_seq == fork {
            let report = copy.cut(partition(0), fork, self.plan())?;
            assert_eq!(report.fork.seq, fork);
            assert_eq!(report.orphans.is_none(), is_shared);
            assert_ne!(report.cells, AfterCut::NeedsSnapshot);
            let is_wounded = report.cells == AfterCut::Wounded;
            assert_eq!(copy.wound(partition(0)).is_some(), is_wounded);
        }
        self.heal(copy)
    }

    /// Ships what the copy lacks, up to `upto`.
    pub(super) fn ship(&self, copy: &Store, upto: Seq) -> Result<(), StoreError> {
        let tail = copy.tail(partition(0));
        let after = tail.map_or(Seq::NONE, |tail| tail.last_seq);
        ship(&self.store, copy, after, upto)
    }

    /// Checks that a copy has what the home has, and nothing else.
    pub(super) fn check(&self, copy: &Store, what: &str) {
        let stores = [copy, &*self.store];
        let ends = stores.map(|store| {
            let tail = store.tail(partition(0)).unwrap();
            (tail.last_seq, tail.chain, tail.epoch_history)
        });
        assert_eq!(ends[0], ends[1], "{what}");
        let cells = copy.cells(partition(0));
        assert!(
            cells.is_readable() && !cells.is_wounded(),
            "{what}: {cells:?}"
        );
        let last = self.author.last_seq(partition(0));
        self.author.check_cells(copy, partition(0), last);
        let digest = |store: &Store| {
            let cells = store.cells(partition(0));
            cells.advance(last);
            cells.digest(&mut |_| true).unwrap()
        };
        assert_eq!(digest(copy), digest(&self.store), "{what}");
        let from = copy.log_start(partition(0));
        let found = copy.records(partition(0), from).map(Result::unwrap);
        let records = &self.author.written[&partition(0)][from.get() as usize - 1..];
        let found: Vec<_> = found.map(|(_, _, record)| record).collect();
        assert_eq!(found, records, "{what}");
        let kept = copy.snapshot_requests(partition(0)).unwrap().into_iter();
        let mut remembered: BTreeSet<Seq> = kept.map(|request| request.seq).collect();
        remembered.extend((from.get()..=last.get()).map(Seq::new));
        let all: BTreeSet<Seq> = (1..=last.get()).map(Seq::new).collect();
        assert_eq!(remembered, all, "{what}: requests");
        let scrubbed = copy.scrub_journal(&mut |_| true).unwrap();
        assert!(scrubbed.damage.is_empty(), "{what}: {scrubbed:?}");
    }
}

/// Ships the records after `after` up to `upto`, and has them committed and shown.
pub(super) fn ship(from: &Store, copy: &Store, after: Seq, upto: Seq) -> Result<(), StoreError> {
    for segment in segments(from) {
        let header = *segment.header();
        let is_wanted = header.first_seq > after && header.last_seq() <= upto;
        if header.partition == partition(0) && is_wanted {
            let segment = CheckedSegment::new(segment, 1 << 20)?;
            copy.submit_segment(segment, CommitUrgency::Now)?;
            copy.commit_once()?;
            copy.cells(partition(0)).advance(header.last_seq());
        }
    }
    Ok(())
}

/// The log of all partitions, as a shipper reads it.
pub(super) fn segments(store: &Store) -> Vec<Segment> {
    let (mut at, end) = (store.journal_start(), store.durable_end());
    let mut segments = Vec::new();
    while at < end {
        let chunk = store.read(at, end, 1 << 20).unwrap();
        segments.extend(chunk.segments.into_iter().map(|(_, segment)| segment));
        at = chunk.next;
    }
    segments
}

/// What the old home came to.
#[derive(Default)]
pub(super) struct Old {
    pub(super) author: Author,
    acked: Seq,
    /// Operations of the disk before the cut.
    before_cut: u64,
    /// Syncs before it.
    syncs_before: u64,
    /// The disk and the engine at several moments.
    images: Vec<(MemoryDisk, Arc<MemoryEngine>)>,
}

impl Old {
    /// Writes as a home, up to the moment when it hears of the other one.
    pub(super) fn reign(&mut self, store: &Store, past: Past) -> Result<(), StoreError> {
        self.author.write(store, partition(1), b"neighbour")?;
        for seq in 1..=OLD_END {
            let value = vec![seq as u8; VALUE_BYTES];
            // One key is in the tail alone.
            match seq {
                OLD_END => self
                    .author
                    .write_key(store, partition(0), b"lost", &value)?,
                _ => self.author.write(store, partition(0), &value)?,
            };
            self.author.commit(store)?;
            self.acked = Seq::new(seq);
            if seq == 4 {
                store.flush_once()?;
            }
            if seq == 4 && past == Past::Covered {
                store.snapshot(partition(0), SNAPSHOT, &mut |_| true)?;
            }
        }
        if past != Past::Unflushed {
            store.flush_once()?;
        }
        if past == Past::Orphaned {
            for bucket in 0..2 {
                store.snapshot(partition(bucket), SNAPSHOT, &mut |_| true)?;
            }
            store.trim(&needed_from)?;
            let start = store.log_start(partition(0));
            assert!(start > Seq::FIRST && start <= FORK.next(), "{start}");
        }
        Ok(())
    }

    fn look(&mut self, disk: &MemoryDisk, engine: &MemoryEngine) {
        self.images.push((disk.crash(), Arc::new(engine.image())));
    }

    fn live(
        &mut self,
        disk: &MemoryDisk,
        engine: &Arc<MemoryEngine>,
        home: &Home,
        past: Past,
    ) -> Result<(), StoreError> {
        let given = || options_with(EngineChoice::Given(Arc::clone(engine) as _));
        let (store, _) = try_open(disk, given())?;
        self.reign(&store, past)?;
        (self.before_cut, self.syncs_before) = (disk.operations(), disk.syncs());
        self.look(disk, engine);
        let report = store.cut(partition(0), FORK, home.plan())?;
        self.look(disk, engine);
        let expected = match past {
            Past::Unflushed => AfterCut::Whole,
            Past::Flushed | Past::Covered | Past::Orphaned => AfterCut::Wounded,
        };
        assert_eq!(report.cells, expected);
        home.heal(&store)?;
        self.look(disk, engine);
        home.ship(&store, home.asked_at)?;
        store.flush_once()?;
        self.look(disk, engine);
        store.snapshot(partition(0), SNAPSHOT, &mut |_| true)?;
        store.close()?;
        drop(store);
        self.look(disk, engine);

        let (store, _) = try_open(disk, given())?;
        home.ship(&store, NOTHING)?;
        store.flush_once()?;
        self.look(disk, engine);
        store.close()
    }

    /// Checks that each record that was cut is kept exactly once, and no other.
    fn check_orphans(&self, store: &Store, what: &str) {
        let list = store.orphan_files().unwrap();
        assert!(list.damaged.is_empty(), "{what}: {list:?}");
        let mut found: Vec<(Epoch, Seq, Record)> = Vec::new();
        for file in &list.files {
            for orphan in store.orphan_records(file.id()).unwrap() {
                let orphan = orphan.unwrap();
                found.push((orphan.position.epoch, orphan.position.seq, orphan.record));
            }
        }
        let kept = FORK.plus(found.len() as u64);
        assert!(
            kept >= self.acked,
            "{what}: kept up to {kept} of {}",
            self.acked
        );
        let written = &self.author.written[&partition(0)][FORK.get() as usize..];
        let written = written.iter().zip(FORK.get() + 1..);
        let written = written.map(|(record, seq)| (epoch(1), Seq::new(seq), record.clone()));
        let expected: Vec<_> = written.take(found.len()).collect();
        assert!(found == expected, "{what}: {} orphans", found.len());
    }

    /// Opens what is left, brings the return to its end, and compares with the home.
    fn check_after(&self, disk: &MemoryDisk, engine: EngineChoice, home: &Home, what: &str) {
        let tolerant = StoreOptions {
            on_damage: OnDamage::Quarantine,
            ..options_with(engine)
        };
        let opened = try_open(disk, tolerant);
        let (store, recovery) = opened.unwrap_or_else(|error| panic!("{what}: {error}"));
        let is_damaged = is_damaged(&recovery, what);
        home.rejoin(&store, FORK, is_damaged)
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        home.ship(&store, NOTHING).unwrap();
        home.check(&store, what);
        self.check_orphans(&store, what);
        store.flush_once().unwrap();
        store
            .snapshot(partition(0), SNAPSHOT, &mut |_| true)
            .unwrap();
        store.close().unwrap();
        drop(store);
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let report = verify(&shared, Path::new(DIR)).unwrap();
        assert!(report.is_sound(), "{what}: {report:?}");
        let (store, _) = open(disk);
        home.check(&store, what);
        self.check_orphans(&store, what);
    }
}

/// Whether the partition has to be filled from elsewhere; nothing else may have to.
pub(super) fn is_damaged(recovery: &Recovery, what: &str) -> bool {
    let damaged: Vec<_> = recovery.damaged.iter().map(|(id, _)| *id).collect();
    assert!(
        damaged.iter().all(|id| *id == partition(0)),
        "{what}: {recovery:?}"
    );
    assert!(recovery.unknown_damage.is_none(), "{what}: {recovery:?}");
    !damaged.is_empty()
}

/// Others need the tail.
fn needed_from(id: PartitionId) -> Seq {
    if id == partition(0) {
        FORK.next()
    } else {
        NOTHING
    }
}

pub(super) fn new_home() -> Home {
    let (store, _) = open(&MemoryDisk::new());
    let mut old = Old::default();
    old.reign(&store, Past::Unflushed).unwrap();
    Home::new(&store, &old.author, FORK, 2)
}

#[test]
pub(super) fn a_cut_survives_an_end_at_every_operation() {
    let home = new_home();
    for past in PASTS {
        let (whole, mut old) = (MemoryDisk::new(), Old::default());
        old.live(&whole, &Arc::default(), &home, past).unwrap();
        old.check_after(&whole.crash(), EngineChoice::Memory, &home, "whole");
        let (from, operations) = (old.before_cut, whole.operations());
        for dies_at in from..=operations {
            let (disk, engine, mut old) = (MemoryDisk::new(), Arc::default(), Old::default());
            disk.freeze_at_operation(dies_at);
            old.live(&disk, &engine, &home, past)
                .expect_err("the machine did not die");
            let what = format!("{past:?}: killed at {dies_at} of {operations}");
            old.check_after(&disk.crash(), EngineChoice::Memory, &home, &what);
            for seed in 0..SEEDS {
                let what = format!("{past:?}: power lost at {dies_at}, seed {seed}");
                let left = disk.power_loss(seed);
                old.check_after(&left, EngineChoice::Memory, &home, &what);
            }
            let what = format!("{past:?}: power lost at {dies_at}, engine kept");
            let given = EngineChoice::Given(engine as _);
            old.check_after(&disk.power_loss(dies_at), given, &home, &what);
        }
    }
}

/// What an engine on disk has after a loss of power: what it had at any moment before.
#[test]
fn an_engine_that_is_older_than_the_journal_is_healed_or_folded_again() {
    let home = new_home();
    for past in PASTS {
        let (whole, mut old) = (MemoryDisk::new(), Old::default());
        old.live(&whole, &Arc::default(), &home, past).unwrap();
        for (at, (disk, _)) in old.images.iter().enumerate() {
            for (then, (_, engine)) in old.images[..=at].iter().enumerate() {
                let what = format!("{past:?}: the disk at {at}, the engine at {then}");
                let given = EngineChoice::Given(Arc::new(engine.image()));
                old.check_after(&disk.crash(), given, &home, &what);
            }
        }
    }
}

/// Killed during the return, then killed again while the next process goes on with it.
#[test]
fn a_second_end_while_a_cut_is_brought_to_its_end_changes_nothing() {
    let home = new_home();
    for past in [Past::Flushed, Past::Orphaned] {
        let (whole, mut old) = (MemoryDisk::new(), Old::default());
        old.live(&whole, &Arc::default(), &home, past).unwrap();
        for dies_at in (old.before_cut..old.before_cut + 24).step_by(3) {
            let (disk, engine, mut old) = (MemoryDisk::new(), Arc::default(), Old::default());
            disk.freeze_at_operation(dies_at);
            old.live(&disk, &engine, &home, past)
                .expect_err("the machine did not die");
            for again_at in 1..=16 {
                let (left, engine) = (disk.crash(), Arc::new(engine.image()));
                left.freeze_at_operation(again_at);
                let given = options_with(EngineChoice::Given(Arc::clone(&engine) as _));
                if let Ok((store, _)) = try_open(&left, given) {
                    drop(home.rejoin(&store, FORK, false));
                }
                let what = format!("{past:?}: killed at {dies_at}, again at {again_at}");
                let given = EngineChoice::Given(engine as _);
                old.check_after(&left.power_loss(again_at), given, &home, &what);
            }
        }
    }
}

/// A sync that fails once costs this process, and nothing that was sealed or acknowledged.
#[test]
fn a_sync_that_fails_once_costs_no_orphan() {
    let home = new_home();
    for past in PASTS {
        let (whole, mut old) = (MemoryDisk::new(), Old::default());
        old.live(&whole, &Arc::default(), &home, past).unwrap();
        for nth in old.syncs_before + 1..=whole.syncs() {
            let (disk, engine, mut old) = (MemoryDisk::new(), Arc::default(), Old::default());
            disk.fail_sync(nth);
            drop(old.live(&disk, &engine, &home, past));
            let what = format!("{past:?}: sync {nth} failed, killed");
            let killed = disk.crash();
            old.check_after(&killed, EngineChoice::Memory, &home, &what);
            let what = format!("{past:?}: sync {nth} failed, killed, power lost");
            let left = killed.power_loss(nth);
            old.check_after(&left, EngineChoice::Memory, &home, &what);
        }
    }
}

/// The engine keeps the first batches only, the machine ends, or the same process tries again.
#[test]
fn a_heal_that_stops_at_any_batch_is_done_again() {
    let home = new_home();
    for past in [Past::Flushed, Past::Orphaned] {
        for stops_after in 0..6 {
            for is_killed in [false, true] {
                let (disk, engine) = (MemoryDisk::new(), Arc::new(MemoryEngine::new()));
                let given = || options_with(EngineChoice::Given(Arc::clone(&engine) as _));
                let (store, _) = try_open(&disk, given()).unwrap();
                let mut old = Old::default();
                old.reign(&store, past).unwrap();
                let report = store.cut(partition(0), FORK, home.plan()).unwrap();
                assert_eq!(report.cells, AfterCut::Wounded);
                engine.stop_after(stops_after);
                let healed = home.heal(&store);
                assert_eq!(
                    healed.is_err(),
                    stops_after < 3,
                    "{stops_after}: {healed:?}"
                );
                engine.resume();
                if !is_killed {
                    home.heal(&store).unwrap();
                }
                drop(store);
                let what = format!("{past:?}: stopped after {stops_after}, {is_killed}");
                let given = EngineChoice::Given(engine as _);
                old.check_after(&disk.crash(), given, &home, &what);
            }
        }
    }
}
