//! What may be cut and healed, and what is refused.
//!
//! **Owns**: one test a rule.
//! **Does not own**: ends of the process while a log is cut (`orphans`).

use std::path::Path;
use std::sync::Arc;

use domicile_proto::{Position, Seq};

use super::fixture::*;
use super::orphans::{FORK, Home, Old, Past, is_damaged, new_home, segments};
use crate::disk::OpenMode;
use crate::engine::MemoryEngine;
use crate::retention::NOTHING;
use crate::{
    AfterCut, CheckedSegment, CommitUrgency, Disk, EngineChoice, Inspected, MemoryDisk, OnDamage,
    OrphanState, Store, StoreError, StoreOptions, inspect, verify,
};

fn reigned(disk: &MemoryDisk, past: Past) -> (Arc<Store>, Old) {
    let ((store, _), mut old) = (open(disk), Old::default());
    old.reign(&store, past).unwrap();
    (store, old)
}

#[test]
fn a_fork_that_the_log_does_not_have_is_refused_and_nothing_is_cut() {
    let (disk, home) = (MemoryDisk::new(), new_home());
    let (store, mut old) = reigned(&disk, Past::Unflushed);
    for _ in 0..2 {
        old.author
            .write(&store, partition(0), b"one segment")
            .unwrap();
    }
    old.author.commit(&store).unwrap();
    let refused = |fork: u64| {
        let error = store
            .cut(partition(0), Seq::new(fork), home.plan())
            .unwrap_err();
        assert!(matches!(error, StoreError::BadFork { .. }), "{error}");
        error.to_string()
    };
    assert!(refused(13).ends_with("its log ends at 12"));
    assert!(refused(11).ends_with("no segment ends there"));
    assert_eq!(store.orphan_files().unwrap().files, []);
    old.author.check(&store);
    let nothing = store.cut(partition(0), Seq::new(12), home.plan()).unwrap();
    assert_eq!((nothing.orphans, nothing.cells), (None, AfterCut::Whole));
    old.author.check(&store);
}

#[test]
fn a_fork_that_was_deleted_from_the_journal_is_refused() {
    let (disk, home) = (MemoryDisk::new(), new_home());
    let (store, _) = reigned(&disk, Past::Orphaned);
    let error = store
        .cut(partition(0), Seq::FIRST, home.plan())
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("the journal has its records from"),
        "{error}"
    );
}

#[test]
fn a_wounded_partition_answers_nothing_and_takes_nothing_until_it_is_healed() {
    let (disk, home) = (MemoryDisk::new(), new_home());
    let (store, _) = reigned(&disk, Past::Flushed);
    store.cut(partition(0), FORK, home.plan()).unwrap();
    let wound = store.wound(partition(0)).unwrap();
    assert_eq!((wound.fork, wound.ask_from), (FORK, FORK));
    store
        .cells(partition(0))
        .get(b"key-1")
        .expect_err("wounded");
    let segments = segments(&home.store).into_iter();
    let mut next = segments.filter(|it| it.header().first_seq == FORK.next());
    let next = next.next().unwrap();
    let next = CheckedSegment::new(next, 1 << 20).unwrap();
    let refused = store.submit_segment(next, CommitUrgency::Now).unwrap_err();
    assert!(matches!(refused, StoreError::Wounded { .. }), "{refused}");
    assert!(
        store
            .snapshot(partition(0), super::orphans::SNAPSHOT, &mut |_| true)
            .unwrap()
            .is_none()
    );

    let keys = store.wounded_keys(partition(0), 100).unwrap();
    assert_eq!(keys, ["key-0", "key-1", "key-2", "lost"]);
    let bad = |keys: &[bytes::Bytes], at: Seq| {
        let error = store
            .heal(partition(0), &home.answer(keys.to_vec()), at)
            .unwrap_err();
        assert!(matches!(error, StoreError::BadHeal { .. }), "{error}");
        error.to_string()
    };
    assert!(bad(&[], home.asked_at).ends_with("0 cells given, not those of the next 1 keys"));
    assert!(bad(&keys[1..], home.asked_at).contains("3 cells given"));
    assert!(bad(&keys, Seq::new(5)).ends_with("the home was asked at 5, 6 is the least"));
    assert!(bad(&keys[..1], FORK).contains("newer than position 6"));
    home.heal(&store).unwrap();
    let error = store.heal(partition(0), &[], home.asked_at).unwrap_err();
    assert!(error.to_string().ends_with("it is not wounded"), "{error}");
    // What the home was asked at is not reached yet.
    store
        .cells(partition(0))
        .get(b"key-1")
        .expect_err("not there yet");
    home.ship(&store, NOTHING).unwrap();
    home.check(&store, "healed");
}

/// Fault 14: the tail does not fit.
#[test]
fn a_device_that_is_full_costs_nothing_and_the_cut_can_be_made_later() {
    let home = new_home();
    for left in [0, 5_000, 20_000] {
        let disk = MemoryDisk::new();
        let (store, old) = reigned(&disk, Past::Flushed);
        disk.set_space_left(Some(left));
        let error = store.cut(partition(0), FORK, home.plan()).unwrap_err();
        assert!(error.to_string().starts_with("cannot seal "), "{error}");
        assert_eq!(store.poison_cause(), None);
        assert_eq!(
            disk.list(Path::new("/data/orphans")).unwrap(),
            Vec::<String>::new()
        );
        old.author.check(&store);
        disk.set_space_left(None);
        store.cut(partition(0), FORK, home.plan()).unwrap();
        home.heal(&store).unwrap();
        home.ship(&store, NOTHING).unwrap();
        home.check(&store, "later");
    }
}

/// Fault 36: a second home before the first one was followed, with less in common.
#[test]
fn a_second_cut_before_the_first_is_healed_is_healed_with_it() {
    for (past, second_fork) in [(Past::Flushed, 4), (Past::Covered, 5), (Past::Unflushed, 5)] {
        let (disk, engine) = (MemoryDisk::new(), Arc::new(MemoryEngine::new()));
        let given = || options_with(EngineChoice::Given(Arc::clone(&engine) as _));
        let (store, _) = try_open(&disk, given()).unwrap();
        let mut old = Old::default();
        old.reign(&store, past).unwrap();
        let (first, fork) = (new_home(), Seq::new(second_fork));
        let second = Home::new(&store, &old.author, fork, 3);
        store.cut(partition(0), FORK, first.plan()).unwrap();
        store.cut(partition(0), fork, second.plan()).unwrap();
        drop(store);
        let (store, recovery) = try_open(&disk.crash(), given()).unwrap();
        assert_eq!(recovery.wounded.is_empty(), past == Past::Unflushed);
        second.heal(&store).unwrap();
        second.ship(&store, NOTHING).unwrap();
        second.check(&store, "second");
        let files = store.orphan_files().unwrap().files;
        let ranges: Vec<_> = files
            .iter()
            .map(|it| (it.first_seq().get(), it.last_seq.get(), it.superseded_by))
            .collect();
        assert_eq!(ranges, [(7, 10, epoch(2)), (second_fork + 1, 6, epoch(3))]);
    }
}

/// A tail of the next reign is another file; what was cut before is not served by then either.
#[test]
fn a_tail_of_each_reign_has_its_own_file() {
    let disk = MemoryDisk::new();
    let (store, old) = reigned(&disk, Past::Unflushed);
    let first = new_home();
    store.cut(partition(0), FORK, first.plan()).unwrap();
    first.ship(&store, NOTHING).unwrap();
    let second = Home::new(&first.store, &first.author, Seq::new(8), 3);
    store.cut(partition(0), Seq::new(8), second.plan()).unwrap();
    second.ship(&store, NOTHING).unwrap();
    second.check(&store, "second");
    let files = store.orphan_files().unwrap().files;
    let records: Vec<_> = files
        .iter()
        .flat_map(|file| store.orphan_records(file.id()).unwrap())
        .map(|orphan| orphan.unwrap().record)
        .collect();
    let expected = [
        &old.author.written[&partition(0)][6..],
        &first.author.written[&partition(0)][8..],
    ];
    assert_eq!(records, expected.concat());
    drop(store);
    let (store, _) = open(&disk);
    second.check(&store, "reopened");
}

/// Not one record is shared: the partition is as if it had never been written.
#[test]
fn a_log_of_which_nothing_is_shared_goes_back_to_nothing() {
    for past in [Past::Unflushed, Past::Flushed, Past::Covered] {
        let (disk, engine) = (MemoryDisk::new(), Arc::new(MemoryEngine::new()));
        let given = || options_with(EngineChoice::Given(Arc::clone(&engine) as _));
        let (store, _) = try_open(&disk, given()).unwrap();
        let mut old = Old::default();
        old.reign(&store, past).unwrap();
        let home = Home::new(&store, &old.author, Seq::NONE, 2);
        let report = store.cut(partition(0), Seq::NONE, home.plan()).unwrap();
        assert_eq!(report.cells, AfterCut::Wounded);
        assert_eq!(report.orphans.unwrap().records, 10);
        for is_kept in [true, false] {
            let engine = Arc::new(engine.image());
            let engine = if is_kept {
                EngineChoice::Given(engine)
            } else {
                EngineChoice::Memory
            };
            let left = disk.crash();
            let (store, recovery) = try_open(&left, options_with(engine)).unwrap();
            assert_eq!(store.tail(partition(0)), None);
            assert_eq!(recovery.wounded.len(), usize::from(is_kept));
            home.heal(&store).unwrap();
            home.ship(&store, NOTHING).unwrap();
            home.check(&store, "from nothing");
            store.close().unwrap();
            drop(store);
            let (store, _) = open(&left);
            home.check(&store, "reopened");
        }
        // The engine's row of the old tail is gone once a checkpoint was written.
        store.flush_once().unwrap();
        drop(store);
        let (store, _) = try_open(&disk, given()).unwrap();
        assert_eq!(store.tail(partition(0)), None);
    }
}

/// What it acknowledged may be missing until it has come so far again.
#[test]
fn a_partition_that_was_filled_anew_is_short_until_it_is_where_it_was() {
    let (disk, engine) = (MemoryDisk::new(), Arc::new(MemoryEngine::new()));
    let given = || options_with(EngineChoice::Given(Arc::clone(&engine) as _));
    let (store, _) = try_open(&disk, given()).unwrap();
    let mut old = Old::default();
    old.reign(&store, Past::Flushed).unwrap();
    let had = |seq| Position {
        epoch: epoch(1),
        seq: Seq::new(seq),
    };
    assert_eq!(store.refilled(partition(0)), None);
    store.note_refilled(partition(0), had(10)).unwrap();
    assert!(!store.is_short(partition(0)));
    store.note_refilled(partition(0), had(12)).unwrap();
    // An earlier place does not take that back.
    store.note_refilled(partition(0), had(3)).unwrap();
    assert!(store.is_short(partition(0)));
    drop(store);
    let (store, _) = try_open(&disk, given()).unwrap();
    assert_eq!(store.refilled(partition(0)), Some(had(12)));
    for is_short in [true, false] {
        old.author.write(&store, partition(0), b"more").unwrap();
        old.author.commit(&store).unwrap();
        assert_eq!(store.is_short(partition(0)), is_short);
    }
    // A later reign has what was acknowledged before it.
    store.note_refilled(partition(0), had(99)).unwrap();
    assert!(store.is_short(partition(0)));
    old.author.new_epoch();
    old.author.write(&store, partition(0), b"more").unwrap();
    old.author.commit(&store).unwrap();
    assert!(!store.is_short(partition(0)));
}

/// Once the log is cut, that is told by whichever call gets to the end.
#[test]
fn a_cut_that_came_to_an_error_after_it_is_reported_by_the_next_call() {
    let home = new_home();
    let whole = MemoryDisk::new();
    let (store, _) = reigned(&whole, Past::Flushed);
    let before = whole.syncs();
    store.cut(partition(0), FORK, home.plan()).unwrap();
    let mut told_later = 0;
    for nth in 1..=whole.syncs() - before {
        let disk = MemoryDisk::new();
        let (store, _) = reigned(&disk, Past::Flushed);
        disk.fail_sync(nth);
        let first = store.cut(partition(0), FORK, home.plan());
        if first.is_ok() || store.poison_cause().is_some() {
            continue;
        }
        let is_cut = store.tail(partition(0)).unwrap().last_seq == FORK;
        told_later += usize::from(is_cut);
        let report = match is_cut && nth % 2 == 0 {
            true => store.finish_cut(partition(0)).unwrap(),
            false => store.cut(partition(0), FORK, home.plan()).unwrap(),
        };
        assert_eq!(report.orphans.unwrap().records, 4, "sync {nth} failed");
        assert_eq!(report.cells, AfterCut::Wounded);
        home.heal(&store).unwrap();
        let again = store.cut(partition(0), FORK, home.plan()).unwrap();
        assert_eq!(again.orphans, None);
    }
    assert!(told_later > 1, "{told_later} syncs failed after the cut");
}

/// What cells were healed with is newer than the log, the log goes back again, and an orphan file
/// is not there any more: nobody can tell which of them are wrong.
#[test]
fn cells_that_nobody_can_heal_are_replaced_by_a_snapshot() {
    let (disk, engine) = (MemoryDisk::new(), Arc::new(MemoryEngine::new()));
    let given = || StoreOptions {
        on_damage: OnDamage::Quarantine,
        ..options_with(EngineChoice::Given(Arc::clone(&engine) as _))
    };
    let (store, _) = try_open(&disk, given()).unwrap();
    let mut old = Old::default();
    old.reign(&store, Past::Flushed).unwrap();
    let first = new_home();
    store.cut(partition(0), FORK, first.plan()).unwrap();
    first.heal(&store).unwrap();
    let names = disk.list(Path::new("/data/orphans")).unwrap();
    let file = names.iter().find(|name| name.ends_with(".orphans"));
    let path = Path::new("/data/orphans").join(file.unwrap());
    disk.remove_file(&path).unwrap();
    let second = Home::new(&store, &old.author, Seq::new(5), 3);
    let report = store.cut(partition(0), Seq::new(5), second.plan()).unwrap();
    assert_eq!(report.cells, AfterCut::NeedsSnapshot);
    assert_eq!(store.wound(partition(0)), None);
    for is_reopened in [false, true] {
        let left = disk.crash();
        let engine = EngineChoice::Given(Arc::new(engine.image()));
        let reopened = is_reopened.then(|| {
            let options = StoreOptions {
                on_damage: OnDamage::Quarantine,
                ..options_with(engine)
            };
            let (store, recovery) = try_open(&left, options).unwrap();
            assert!(is_damaged(&recovery, "reopened"));
            assert_eq!(recovery.wounded, []);
            store
        });
        if let Some(store) = reopened {
            second.bootstrap(&store).unwrap();
            second.ship(&store, NOTHING).unwrap();
            second.check(&store, "reopened");
        }
    }
    second.bootstrap(&store).unwrap();
    second.ship(&store, NOTHING).unwrap();
    second.check(&store, "in the same process");
}

/// A store whose log was cut, and whose cells a first home healed: it says that it wrote one key
/// that the next one never does. Of its log one record has come, of two that it had.
fn healed_ahead(disk: &MemoryDisk, options: StoreOptions) -> (Arc<Store>, Home) {
    let (store, _) = try_open(disk, options).unwrap();
    let mut old = Old::default();
    old.reign(&store, Past::Flushed).unwrap();
    assert!(!store.wound_again(partition(0)).unwrap(), "never cut");
    let first = new_home();
    store.cut(partition(0), FORK, first.plan()).unwrap();
    assert!(!store.wound_again(partition(0)).unwrap(), "wounded already");
    let keys = store.wounded_keys(partition(0), 100).unwrap();
    let mut cells = first.answer(keys);
    let (known, lost) = (cells[1].1.clone(), cells.last_mut().unwrap());
    assert_eq!((lost.0.as_ref(), &lost.1), (&b"lost"[..], &None));
    lost.1 = Some(known.unwrap());
    store.heal(partition(0), &cells, first.asked_at).unwrap();
    first.ship(&store, FORK.next()).unwrap();
    (store, first)
}

/// The home that healed them is lost before its log came, and the next one says something else.
#[test]
fn cells_healed_by_a_home_whose_log_did_not_come_are_healed_by_the_next_one() {
    for is_reopened in [false, true] {
        let (disk, engine) = (MemoryDisk::new(), Arc::new(MemoryEngine::new()));
        let given = || options_with(EngineChoice::Given(Arc::clone(&engine) as _));
        let (mut store, first) = healed_ahead(&disk, given());
        if is_reopened {
            drop(store);
            (store, _) = try_open(&disk, given()).unwrap();
        }
        assert_eq!(store.wound(partition(0)), None);
        let second = Home::new(&store, &first.author, FORK.next(), 2);
        assert!(store.wound_again(partition(0)).unwrap());
        let wound = store.wound(partition(0)).unwrap();
        assert_eq!(wound.orphans.len(), 1);
        second.heal(&store).unwrap();
        second.ship(&store, NOTHING).unwrap();
        second.check(&store, "healed by the next home");
        assert!(!store.wound_again(partition(0)).unwrap(), "not ahead");
    }
}

/// As well, and the next home has less in common with it than what came.
#[test]
fn a_log_that_is_cut_again_before_the_healing_home_s_log_came_is_healed_by_the_next_home() {
    for (is_reopened, is_flushed) in [(false, false), (false, true), (true, false), (true, true)] {
        let (disk, engine) = (MemoryDisk::new(), Arc::new(MemoryEngine::new()));
        let given = || options_with(EngineChoice::Given(Arc::clone(&engine) as _));
        let (mut store, first) = healed_ahead(&disk, given());
        if is_flushed {
            store.flush_once().unwrap();
        }
        let second = Home::new(&store, &first.author, FORK, 2);
        let report = store.cut(partition(0), FORK, second.plan()).unwrap();
        assert_eq!(report.cells, AfterCut::Wounded);
        if is_reopened {
            drop(store);
            let (reopened, recovery) = try_open(&disk, given()).unwrap();
            store = reopened;
            assert_eq!(recovery.wounded, [partition(0)]);
        }
        let wound = store.wound(partition(0)).unwrap();
        assert_eq!((wound.fork, wound.orphans.len()), (FORK, 2));
        let keys = store.wounded_keys(partition(0), 100).unwrap();
        assert_eq!(keys.last().unwrap(), "lost");
        second.heal(&store).unwrap();
        second.ship(&store, NOTHING).unwrap();
        second.check(&store, "healed by the next home");
    }
}

#[test]
fn what_was_decided_of_orphans_is_kept_and_a_damaged_file_costs_nothing_else() {
    let (disk, home) = (MemoryDisk::new(), new_home());
    let (store, _) = reigned(&disk, Past::Unflushed);
    let first = store
        .cut(partition(0), FORK, home.plan())
        .unwrap()
        .orphans
        .unwrap();
    assert_eq!((first.sealed_at_ms, first.superseded_by), (77, epoch(2)));
    let second = store
        .cut(partition(0), Seq::new(5), home.plan())
        .unwrap()
        .orphans
        .unwrap();
    let decide = |first: u64, last: u64, state| {
        let (from, upto) = (Seq::new(first), Seq::new(last));
        store
            .decide_orphans(second.id(), from, upto, OrphanState::Open, 1)
            .unwrap_err();
        let id = store.orphan_files().unwrap().files[0].id();
        store.decide_orphans(id, from, upto, state, 5).unwrap();
    };
    decide(7, 9, OrphanState::Discarded);
    decide(8, 8, OrphanState::Replayed);
    drop(store);
    let (store, _) = open(&disk.power_loss(3));
    let states = store.orphan_records(first.id()).unwrap();
    let states: Vec<_> = states.map(|orphan| orphan.unwrap().state).collect();
    let expected = [
        OrphanState::Discarded,
        OrphanState::Replayed,
        OrphanState::Discarded,
        OrphanState::Open,
    ];
    assert_eq!(states, expected);
    let counts = store.orphan_counts().unwrap();
    assert_eq!((counts.files, counts.records(), counts.open), (2, 5, 2));
    assert_eq!((counts.discarded, counts.replayed), (2, 1));
    drop(store);

    let path = "/data/orphans/0000000100070000-0000000001.orphans";
    let damaged = disk.crash();
    let file = damaged.open(Path::new(path), OpenMode::ReadWrite).unwrap();
    file.write_at(b"x", 20_000).unwrap();
    let (store, recovery) = open(&damaged);
    assert_eq!(recovery.partitions.len(), 2);
    let scan = store.orphan_records(first.id()).unwrap();
    let found: Vec<_> = scan.collect();
    let error = found.last().unwrap().as_ref().unwrap_err().to_string();
    assert_eq!(found.len(), 2, "{error}");
    assert!(
        error.contains(path) && error.contains("at offset 1"),
        "{error}"
    );
    assert_eq!(store.orphan_records(second.id()).unwrap().count(), 1);
    file.write_at(b"x", 50).unwrap();
    let list = store.orphan_files().unwrap();
    assert_eq!((list.files.len(), list.damaged.len()), (1, 1));
    assert!(
        list.damaged[0].to_string().contains("at offset 0"),
        "{list:?}"
    );
    assert_eq!(store.orphan_counts().unwrap().damaged_files, 1);
    drop(store);
    let shared: Arc<dyn Disk> = Arc::new(damaged);
    let report = verify(&shared, Path::new(DIR)).unwrap();
    assert!(report.damage.unwrap().to_string().contains(path));
}

#[test]
fn what_was_cut_is_neither_verified_nor_inspected_as_a_part_of_the_log() {
    let (disk, home) = (MemoryDisk::new(), new_home());
    let (store, _) = reigned(&disk, Past::Unflushed);
    let orphans = store
        .cut(partition(0), FORK, home.plan())
        .unwrap()
        .orphans
        .unwrap();
    drop(store);
    let shared: Arc<dyn Disk> = Arc::new(disk);
    let report = verify(&shared, Path::new(DIR)).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(
        (report.partitions[0].last_seq, report.partitions[0].records),
        (FORK, 6)
    );
    assert_eq!(report.orphans, [orphans]);
    let (mut segments, mut cuts) = (0, Vec::new());
    let mut visit = |found| {
        match found {
            Inspected::Segment { header, .. } if header.partition == partition(0) => {
                assert!(header.last_seq() <= FORK, "{header:?}");
                segments += 1;
            }
            Inspected::Cut {
                seq, end, orphans, ..
            } => cuts.push((seq, end, orphans)),
            _ => {}
        }
        Ok(())
    };
    inspect(&shared, Path::new(DIR), &mut visit).unwrap();
    assert_eq!(segments, 6);
    assert_eq!(cuts, [(FORK, Seq::new(10), orphans.number)]);
}
