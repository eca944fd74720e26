//! Reading the journal by cursor, by sequence number and by partition.
//!
//! **Owns**: tests of `read`, `locate` and `records`.
//! **Does not own**: tests of the cells.

use domicile_proto::Seq;

use super::fixture::*;
use crate::retention::NOTHING;
use crate::{
    FileNumber, MemoryDisk, OnDamage, Place, SnapshotPlan, Store, StoreError, StoreOptions,
};

/// Several files, several partitions, frames of one and of many segments.
fn filled() -> (std::sync::Arc<Store>, Author, Vec<crate::Committed>) {
    let (store, _) = open(&MemoryDisk::new());
    let mut author = Author::default();
    let mut commits = Vec::new();
    for round in 0..60_u16 {
        for bucket in 0..=round % 5 {
            let value = vec![round as u8; usize::from(round % 7) * 700];
            author.write(&store, partition(bucket), &value).unwrap();
        }
        commits.extend(author.commit(&store).unwrap());
    }
    assert!(
        store.durable_end().file.get() >= 3,
        "{}",
        store.durable_end()
    );
    (store, author, commits)
}

#[test]
fn every_segment_is_read_once_whatever_the_bound() {
    let (store, _, commits) = filled();
    for bytes_max in [0, 1, 100, 1000, 5000, 70_000, 10 << 20] {
        let mut cursor = Place::START;
        let mut found = Vec::new();
        loop {
            let chunk = store.read(cursor, store.durable_end(), bytes_max).unwrap();
            if chunk.segments.is_empty() {
                break;
            }
            assert!(chunk.next > cursor);
            let bytes: usize = chunk.segments.iter().map(|(_, s)| s.bytes().len()).sum();
            let alone = chunk.segments.len() == 1;
            assert!(
                alone || bytes <= bytes_max,
                "{bytes} bytes, {bytes_max} asked for"
            );
            found.extend(chunk.segments);
            cursor = chunk.next;
        }
        assert_eq!(cursor, store.durable_end());
        assert_eq!(found.len(), commits.len());
        for ((place, segment), commit) in found.iter().zip(&commits) {
            assert_eq!(*place, commit.place);
            assert_eq!(segment.header().partition, commit.partition);
            assert_eq!(segment.header().first_seq, commit.first_seq);
            assert_eq!(segment.chain(), commit.chain);
        }
    }
}

#[test]
fn a_read_begins_at_any_segment_and_ends_at_any_place() {
    let (store, _, commits) = filled();
    for (index, commit) in commits.iter().enumerate() {
        let chunk = store.read(commit.place, store.durable_end(), 1).unwrap();
        assert_eq!(chunk.segments[0].0, commit.place);
        if let Some(later) = commits.get(index + 3) {
            let mut cursor = commit.place;
            let mut count = 0;
            while cursor < later.place {
                let chunk = store.read(cursor, later.place, 1 << 20).unwrap();
                count += chunk.segments.len();
                if chunk.segments.is_empty() {
                    break;
                }
                cursor = chunk.next;
            }
            assert_eq!(count, 3);
        }
    }
    let end = store.durable_end();
    let beyond = Place {
        offset: end.offset + 1000,
        ..end
    };
    assert!(store.read(end, beyond, 100).unwrap().segments.is_empty());
}

#[test]
fn a_cursor_that_is_no_place_is_refused() {
    let (store, _, commits) = filled();
    let place = Place {
        offset: commits[3].place.offset + 1,
        ..commits[3].place
    };
    let error = store.read(place, store.durable_end(), 1000).unwrap_err();
    assert!(
        matches!(error, StoreError::NoSuchPlace { place: named } if named == place),
        "{error}"
    );
}

#[test]
fn every_record_is_located_and_listed() {
    let (store, author, commits) = filled();
    for commit in &commits {
        for seq in [commit.first_seq, commit.last_seq] {
            let place = store.locate(commit.partition, seq).unwrap();
            assert!(place <= commit.place, "{place} is behind {}", commit.place);
        }
    }
    assert_eq!(store.locate(partition(99), Seq::FIRST), None);
    for (partition, records) in &author.written {
        let last = records.len() as u64;
        for from in [0, 1, 2, last / 2, last, last + 1, last + 100] {
            let found: Vec<_> = store.records(*partition, Seq::new(from)).collect();
            let expected = (last + 1).saturating_sub(from.max(1));
            assert_eq!(found.len() as u64, expected, "{partition} from {from}");
            let seqs = found.into_iter().map(|found| found.unwrap().1.get());
            assert!(seqs.eq(from.max(1)..=last));
        }
    }
}

#[test]
fn places_beyond_the_journal_are_refused_or_empty() {
    let (store, _) = open(&MemoryDisk::new());
    let end = store.durable_end();
    assert_eq!(store.read(Place::START, end, 100).unwrap().segments, []);
    let beyond = Place {
        file: FileNumber::new(9),
        offset: 0,
    };
    assert_eq!(store.read(beyond, beyond, 100).unwrap().segments, []);
    assert_eq!(store.records(partition(0), Seq::FIRST).count(), 0);
}

#[test]
fn the_chain_hash_is_known_where_a_segment_ends_and_nowhere_else() {
    let (store, _, commits) = filled();
    for commit in &commits {
        let (partition, last_seq) = (commit.partition, commit.last_seq);
        assert_eq!(
            store.chain_at(partition, last_seq).unwrap(),
            Some(commit.chain)
        );
    }
    let (mut author, mut inside) = (Author::default(), Vec::new());
    let (store, _) = open(&MemoryDisk::new());
    for _ in 0..20 {
        author.write(&store, partition(0), b"a").unwrap();
        author.write(&store, partition(0), b"b").unwrap();
        inside.extend(author.commit(&store).unwrap());
    }
    for commit in &inside {
        let at = |seq| store.chain_at(partition(0), seq).unwrap();
        assert_eq!(at(commit.first_seq), None, "inside {commit:?}");
        assert_eq!(at(commit.last_seq), Some(commit.chain));
    }
    assert_eq!(store.chain_at(partition(0), Seq::new(41)).unwrap(), None);
    assert_eq!(store.chain_at(partition(9), Seq::FIRST).unwrap(), None);
}

#[test]
fn a_reader_is_told_reigns_and_what_was_cut() {
    let (store, _) = open(&MemoryDisk::new());
    let mut author = Author::default();
    let id = partition(0);
    let nothing = store.reach(id, Seq::FIRST);
    assert_eq!((nothing.oldest, nothing.oldest_epoch), (Seq::FIRST, None));
    assert!(!nothing.is_cut(Seq::FIRST));
    for round in 0..8 {
        author.write(&store, id, &[7; 28_000]).unwrap();
        author.commit(&store).unwrap();
        if round == 3 {
            author.new_epoch();
        }
    }
    let before = |seq| store.reach(id, Seq::new(seq)).epoch_before;
    let first = Some(epoch(1));
    assert_eq!(
        [1, 2, 5, 6].map(before),
        [None, first, first, Some(epoch(2))]
    );
    assert_eq!([9, 10].map(before), [Some(epoch(2)), None]);
    assert_eq!(store.reach(id, Seq::new(3)).durable_upto, Seq::new(8));
    store.flush_once().unwrap();
    let plan = crate::SnapshotPlan {
        now_ms: 1,
        requests_max: 5,
    };
    store.snapshot(id, plan, &mut |_| true).unwrap().unwrap();
    store.trim(&|_| crate::retention::NOTHING).unwrap();
    let cut = store.reach(id, Seq::new(2));
    assert!(cut.oldest > Seq::new(2), "{cut:?}");
    assert_eq!(cut.oldest, store.log_start(id));
    assert!(cut.is_cut(Seq::new(2)) && cut.place >= store.journal_start());
    assert!(!cut.is_cut(cut.oldest));
    let end = store.durable_end();
    let found = store.reach(id, cut.oldest).place;
    let chunk = store.read(found, end, 1).unwrap();
    assert_eq!(chunk.segments[0].1.header().first_seq, cut.oldest);
}

/// A read that fails, with EIO or short, at every read of an open: what could not be read is no
/// torn tail and no damage, nothing is cut for it, and the next open has everything.
#[test]
fn a_failed_read_is_never_taken_for_a_torn_tail() {
    let disk = MemoryDisk::new();
    let (store, _) = open(&disk);
    let mut author = Author::default();
    for _ in 0..4 {
        author.write(&store, partition(0), &[1; 20_000]).unwrap();
        author.commit(&store).unwrap();
    }
    store.flush_once().unwrap();
    let plan = SnapshotPlan {
        now_ms: 1,
        requests_max: 5,
    };
    store.snapshot(partition(0), plan, &mut |_| true).unwrap();
    store.trim(&|_| NOTHING).unwrap();
    author.write(&store, partition(1), b"behind").unwrap();
    author.commit(&store).unwrap();
    drop(store);
    let counted = disk.crash();
    drop(open(&counted));
    let reads = counted.reads();
    assert!(reads > 5, "{reads} reads are no open");
    for nth in 1..=reads {
        for fail in [MemoryDisk::fail_read, MemoryDisk::shorten_read] {
            for on_damage in [OnDamage::Refuse, OnDamage::Quarantine] {
                let disk = disk.crash();
                fail(&disk, nth);
                let options = StoreOptions {
                    on_damage,
                    ..options()
                };
                if let Ok((store, recovery)) = try_open(&disk, options) {
                    assert_eq!(recovery.torn_tail, None, "read {nth}");
                    assert!(recovery.damaged.is_empty(), "read {nth}: {recovery:?}");
                    author.check(&store);
                }
                let (store, recovery) = open(&disk.crash());
                assert_eq!(recovery.torn_tail, None, "after read {nth}");
                author.check(&store);
            }
        }
    }
}

/// A read of an open store that fails is an error to its reader and nothing else.
#[test]
fn a_failed_read_costs_its_reader_alone() {
    let disk = MemoryDisk::new();
    let (store, _) = open(&disk);
    let mut author = Author::default();
    author.write(&store, partition(0), b"value").unwrap();
    author.commit(&store).unwrap();
    for fail in [MemoryDisk::fail_read, MemoryDisk::shorten_read] {
        fail(&disk, 1);
        let read: Result<Vec<_>, _> = store.records(partition(0), Seq::FIRST).collect();
        let error = read.unwrap_err().to_string();
        assert!(error.contains("injected fault: a failed read"), "{error}");
        author.write(&store, partition(0), b"goes on").unwrap();
        author.commit(&store).unwrap();
        author.check(&store);
    }
}
