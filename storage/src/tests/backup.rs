//! Backups of a store that is written to, and directories made of them: the state at any record
//! that a backup reaches, damage everywhere, an end at every operation of a restore.
//!
//! **Owns**: a place in memory, the model that a restored directory is compared with.
//! **Does not own**: places on disks or elsewhere (server), the formats' own tests.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use domicile_proto::{Bucket, Hlc, KeyspaceId, Name, PartitionId, RegionId, Seq};
use proptest::prelude::*;

use super::fixture::*;
use crate::backup::{
    BackupDraft, BackupKeyspace, BackupManifest, BackupNumber, BackupPiece, BackupReader,
    BackupSubject, FileStep, Restore, RestorePoint, RestoreReport,
};
use crate::retention::NOTHING;
use crate::{Disk, MemoryDisk, SnapshotPlan, Store, StoreError, StoreOptions, verify};

const PLAN: SnapshotPlan = SnapshotPlan {
    now_ms: 5_000,
    requests_max: 5,
};

/// Bytes given to a restore at once: several pieces of most files, none the size of a segment.
const PIECE_BYTES: usize = 3_001;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn part(bucket: u16) -> PartitionId {
    PartitionId {
        keyspace: KeyspaceId::of(&name("users")),
        region: RegionId::new(7).unwrap(),
        bucket: Bucket::new(bucket),
    }
}

/// Records of ten in ten are written in the same millisecond.
fn written_ms(seq: Seq) -> u64 {
    1_000 + seq.get() / 3
}

fn write(author: &mut Author, store: &Store, id: PartitionId, value: &[u8]) {
    let seq = author.last_seq(id).next();
    let key = format!("key-{}", seq.get() % 7);
    let mut record = record(key.as_bytes(), value, u128::from(seq.get()));
    record.head.hlc = Hlc::at_ms(written_ms(seq));
    let visible = Seq::new(seq.get() - 1);
    store
        .submit_record(id, author.epoch(), seq, visible, record.clone())
        .unwrap();
    author.written.entry(id).or_default().push(record);
}

/// Writes commits of one to five records, which become segments of as many.
fn write_many(author: &mut Author, store: &Store, buckets: u16, commits: u64) {
    for commit in 0..commits {
        for bucket in 0..buckets {
            for _ in 0..=commit % 5 {
                write(author, store, part(bucket), &[commit as u8; 120]);
            }
        }
        author.commit(store).unwrap();
    }
}

/// Files by name.
type Place = BTreeMap<String, Vec<u8>>;

fn subject(store: &Store) -> BackupSubject {
    BackupSubject {
        created_at_ms: 5_000,
        node: store.node_id(),
        cluster: name("test"),
        region: name("eu"),
        place_region: name("eu"),
        keyspaces: vec![BackupKeyspace {
            name: name("users"),
            regions: vec![name("eu")],
            policy: String::new(),
        }],
    }
}

/// Takes a backup; `meanwhile` is called before each piece.
fn create(
    store: &Arc<Store>,
    place: &mut Place,
    previous: Option<&BackupManifest>,
    meanwhile: &mut dyn FnMut(),
) -> Result<BackupManifest, StoreError> {
    let known = previous.map_or(Vec::new(), BackupDraft::known);
    let mut reader = BackupReader::new(Arc::clone(store), (0..4).map(part), &known, PLAN);
    let number = previous.map_or(BackupNumber::FIRST, |it| it.number.next());
    let mut draft = BackupDraft::new(subject(store), number, previous, "token")?;
    let mut file = String::new();
    loop {
        meanwhile();
        let Some(piece) = reader.read_on(&mut |_| true)? else {
            return draft.finish();
        };
        for step in draft.take(piece)? {
            match step {
                FileStep::Begin(name) => {
                    assert!(
                        place.insert(name.clone(), Vec::new()).is_none(),
                        "{name} twice"
                    );
                    file = name;
                }
                FileStep::Write(bytes) => place.get_mut(&file).unwrap().extend(bytes),
                FileStep::End => {}
            }
        }
    }
}

fn restore(
    disk: &MemoryDisk,
    place: &Place,
    manifest: &BackupManifest,
    points: &BTreeMap<PartitionId, RestorePoint>,
) -> Result<RestoreReport, StoreError> {
    let options = StoreOptions {
        node_id: None,
        ..options()
    };
    let mut restore = Restore::begin(
        Arc::new(disk.clone()),
        Path::new(DIR),
        options,
        manifest,
        points,
    )?;
    for file in restore.files() {
        restore.begin_file(&file);
        for piece in place[&file.name].chunks(PIECE_BYTES) {
            restore.write(&Bytes::copy_from_slice(piece))?;
        }
        restore.end_file()?;
    }
    restore.finish()
}

fn all(manifest: &BackupManifest, point: RestorePoint) -> BTreeMap<PartitionId, RestorePoint> {
    let partitions = manifest.partitions.iter();
    partitions.map(|it| (it.partition, point)).collect()
}

fn open_restored(disk: &MemoryDisk) -> Arc<Store> {
    let options = StoreOptions {
        node_id: None,
        ..options()
    };
    try_open(disk, options).unwrap().0
}

/// Compares a restored partition with the fold of what was written up to `upto`; a cell may have
/// the version of the new reign.
fn check_restored(author: &Author, store: &Store, id: PartitionId, upto: Seq) {
    assert_eq!(store.tail(id).unwrap().last_seq, upto, "end of {id}");
    let mut model = author.clone();
    model
        .written
        .get_mut(&id)
        .unwrap()
        .truncate(upto.get() as usize);
    model.check_cells(store, id, upto);
}

fn check_sound(disk: &MemoryDisk) {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let report = verify(&disk, Path::new(DIR)).unwrap();
    assert!(report.is_sound(), "{report:?}");
}

#[test]
fn a_backup_taken_beside_writers_is_restored_to_its_end() {
    let (store, _) = open(&MemoryDisk::new());
    let mut author = Author::default();
    write_many(&mut author, &store, 3, 40);
    let mut place = Place::new();
    let mut meanwhile = || {
        write_many(&mut author, &store, 3, 3);
        store.flush_once().unwrap();
    };
    let manifest = create(&store, &mut place, None, &mut meanwhile).unwrap();
    let disk = MemoryDisk::new();
    let report = restore(&disk, &place, &manifest, &all(&manifest, RestorePoint::End)).unwrap();
    assert_ne!(report.node, store.node_id());
    check_sound(&disk);
    let restored = open_restored(&disk);
    assert_eq!(restored.node_id(), report.node);
    assert_eq!(manifest.partitions.len(), 3);
    for partition in &manifest.partitions {
        let (id, (last_seq, chain)) = (partition.partition, partition.end());
        // What was written while the first snapshot was on its way is in it, too.
        assert!(last_seq > partition.snapshot.unwrap().seq, "{partition:?}");
        check_restored(&author, &restored, id, last_seq);
        assert_eq!(restored.tail(id).unwrap().chain, chain);
        assert_eq!(partition.newest_ms, written_ms(last_seq));
        assert_eq!(partition.oldest_ms, written_ms(partition.oldest_seq()));
    }
}

#[test]
fn every_record_that_a_backup_reaches_can_be_restored() {
    let (store, _) = open(&MemoryDisk::new());
    let mut author = Author::default();
    write_many(&mut author, &store, 2, 6);
    let mut place = Place::new();
    let first = create(&store, &mut place, None, &mut || {}).unwrap();
    write_many(&mut author, &store, 2, 9);
    let manifest = create(&store, &mut place, Some(&first), &mut || {}).unwrap();
    let whole = manifest.partition(part(0)).unwrap().clone();
    assert_eq!(whole.snapshot.unwrap().seq, first.partitions[0].last_seq());
    let (oldest, last) = (whole.oldest_seq(), whole.last_seq());
    assert!(last.since(oldest) > 10, "{whole:?}");
    let mut reigns = 0;
    for seq in oldest.get()..=last.get() {
        let seq = Seq::new(seq);
        let disk = MemoryDisk::new();
        let points = BTreeMap::from([(part(0), RestorePoint::Seq(seq))]);
        let report = restore(&disk, &place, &manifest, &points).unwrap();
        check_sound(&disk);
        let restored = open_restored(&disk);
        check_restored(&author, &restored, part(0), seq);
        assert!(
            restored.tail(part(1)).is_none(),
            "restored without being asked for"
        );
        let tail = restored.tail(part(0)).unwrap();
        let own = store.chain_at(part(0), seq).unwrap();
        if tail.epoch.node == report.node {
            // In the midst of a segment: another history, and a reign that says so.
            reigns += 1;
            assert!(own.is_none(), "a new reign at the end of a segment, {seq}");
            assert_eq!(tail.epoch.counter, author.epoch().counter + 1);
        } else {
            assert_eq!(own, Some(tail.chain), "{seq}");
        }
    }
    assert!(reigns > 5, "{reigns} points in the midst of a segment");
}

#[test]
fn a_point_that_a_backup_does_not_reach_is_refused_with_what_it_reaches() {
    let (store, _) = open(&MemoryDisk::new());
    let mut author = Author::default();
    write_many(&mut author, &store, 1, 20);
    let mut place = Place::new();
    let manifest = create(&store, &mut place, None, &mut || {}).unwrap();
    let oldest = manifest.partitions[0].oldest_seq();
    let last = manifest.partitions[0].last_seq();
    let before = Seq::new(oldest.get() - 1);
    for point in [
        RestorePoint::Seq(before),
        RestorePoint::Seq(last.next()),
        RestorePoint::Time(written_ms(oldest) - 1),
    ] {
        let disk = MemoryDisk::new();
        let refused = restore(&disk, &place, &manifest, &all(&manifest, point));
        let refused = refused.unwrap_err().to_string();
        assert!(
            refused.contains(&format!("from record {oldest}")),
            "{refused}"
        );
        assert!(
            !disk.exists(Path::new(DIR)),
            "{point:?} left something behind"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// At any time: what was written up to it, of every partition.
    #[test]
    fn any_time_can_be_restored(
        commits in prop::collection::vec((1..4_u16, 1..7_u64, any::<bool>()), 2..8),
        at in any::<prop::sample::Index>(),
    ) {
        let (store, _) = open(&MemoryDisk::new());
        let (mut author, mut place) = (Author::default(), Place::new());
        let mut last: Option<BackupManifest> = None;
        for (buckets, count, backs_up) in commits {
            write_many(&mut author, &store, buckets, count);
            if backs_up || last.is_none() {
                last = Some(create(&store, &mut place, last.as_ref(), &mut || {}).unwrap());
            }
        }
        let manifest = last.unwrap();
        let oldest_ms = manifest.partitions.iter().map(|it| it.oldest_ms).max().unwrap();
        let newest_ms = manifest.partitions.iter().map(|it| it.newest_ms).max().unwrap();
        let window = newest_ms.max(oldest_ms) - oldest_ms + 2;
        let at_ms = oldest_ms + at.index(window as usize) as u64;
        let disk = MemoryDisk::new();
        restore(&disk, &place, &manifest, &all(&manifest, RestorePoint::Time(at_ms))).unwrap();
        let restored = open_restored(&disk);
        for partition in &manifest.partitions {
            let last = partition.last_seq().get();
            let upto = (1..=last).take_while(|seq| written_ms(Seq::new(*seq)) <= at_ms).count();
            check_restored(&author, &restored, partition.partition, Seq::new(upto as u64));
        }
    }
}

#[test]
fn a_later_backup_adds_to_the_earlier_and_leaves_it_as_it_is() {
    let (store, _) = open(&MemoryDisk::new());
    let (mut author, mut place) = (Author::default(), Place::new());
    write_many(&mut author, &store, 2, 10);
    let first = create(&store, &mut place, None, &mut || {}).unwrap();
    let before = place.clone();
    write_many(&mut author, &store, 3, 10);
    let second = create(&store, &mut place, Some(&first), &mut || {}).unwrap();
    // Nothing new: nothing but a manifest.
    let files = place.len();
    let third = create(&store, &mut place, Some(&second), &mut || {}).unwrap();
    assert_eq!(place.len(), files);
    assert_eq!(third.partitions, second.partitions);
    assert!(before.iter().all(|(name, bytes)| place[name] == *bytes));
    for (manifest, partitions) in [(&first, 2), (&second, 3), (&third, 3)] {
        let disk = MemoryDisk::new();
        restore(&disk, &place, manifest, &all(manifest, RestorePoint::End)).unwrap();
        let restored = open_restored(&disk);
        assert_eq!(manifest.partitions.len(), partitions);
        for partition in &manifest.partitions {
            check_restored(
                &author,
                &restored,
                partition.partition,
                partition.last_seq(),
            );
        }
    }
    let oldest = |it: &BackupManifest| it.partition(part(0)).unwrap().oldest_seq();
    assert_eq!(
        oldest(&first),
        oldest(&third),
        "the window grows at its end"
    );
}

/// The journal was cut between two backups, for a snapshot that is newer than the first one.
#[test]
fn a_journal_that_was_cut_between_two_backups_begins_anew() {
    let (store, _) = open(&MemoryDisk::new());
    let (mut author, mut place) = (Author::default(), Place::new());
    write_many(&mut author, &store, 1, 10);
    let first = create(&store, &mut place, None, &mut || {}).unwrap();
    for _ in 0..12 {
        for _ in 0..3 {
            write(&mut author, &store, part(0), &[3; 9_000]);
        }
        author.commit(&store).unwrap();
        write_many(&mut author, &store, 1, 2);
    }
    store.flush_once().unwrap();
    store
        .snapshot(part(0), PLAN, &mut |_| true)
        .unwrap()
        .unwrap();
    store.trim(&|_| NOTHING).unwrap();
    assert!(store.log_start(part(0)) > first.partitions[0].last_seq().next());
    let second = create(&store, &mut place, Some(&first), &mut || {}).unwrap();
    let window = |it: &BackupManifest| (it.partitions[0].oldest_seq(), it.partitions[0].last_seq());
    assert!(window(&second).0 > window(&first).1, "{second:?}");
    let old = &first.files[0].name;
    assert!(second.files.iter().all(|it| it.name != *old), "{second:?}");
    for manifest in [&first, &second] {
        let disk = MemoryDisk::new();
        restore(&disk, &place, manifest, &all(manifest, RestorePoint::End)).unwrap();
        check_restored(&author, &open_restored(&disk), part(0), window(manifest).1);
    }
}

/// Files and a manifest of which each has several parts.
fn sample() -> (Arc<Store>, Author, Place, BackupManifest) {
    let (store, _) = open(&MemoryDisk::new());
    let (mut author, mut place) = (Author::default(), Place::new());
    write_many(&mut author, &store, 2, 4);
    let first = create(&store, &mut place, None, &mut || {}).unwrap();
    write_many(&mut author, &store, 2, 7);
    let manifest = create(&store, &mut place, Some(&first), &mut || {}).unwrap();
    (store, author, place, manifest)
}

#[test]
fn damage_to_any_file_is_named_and_leaves_a_directory_that_nobody_opens() {
    let (_store, author, place, manifest) = sample();
    let points = all(&manifest, RestorePoint::End);
    for file in &manifest.files {
        let whole = &place[&file.name];
        let mut damaged: Vec<Vec<u8>> = Vec::new();
        for at in (0..whole.len()).step_by(97).chain([whole.len() - 1]) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            damaged.push(bytes);
        }
        for len in [0, 1, 31, 32, 4_000, 4_096, whole.len() - 1] {
            damaged.push(whole[..len.min(whole.len() - 1)].to_vec());
        }
        damaged.push([&whole[..], b"more"].concat());
        for (index, bytes) in damaged.into_iter().enumerate() {
            let mut place = place.clone();
            place.insert(file.name.clone(), bytes);
            let disk = MemoryDisk::new();
            let refused = restore(&disk, &place, &manifest, &points)
                .unwrap_err()
                .to_string();
            assert!(
                refused.contains(&file.name),
                "{index} of {}: {refused}",
                file.name
            );
            let refused = refusal(&disk);
            assert!(refused.contains("unfinished restore"), "{refused}");
        }
    }
    // Another file of the same kind in its place.
    let mut swapped = place.clone();
    let names: Vec<_> = manifest.files.iter().map(|it| &it.name).collect();
    swapped.insert(names[0].clone(), place[names[1]].clone());
    let disk = MemoryDisk::new();
    let refused = restore(&disk, &swapped, &manifest, &points)
        .unwrap_err()
        .to_string();
    assert!(refused.contains(names[0].as_str()), "{refused}");
    // The same directory takes the whole one.
    restore(&disk, &place, &manifest, &points).unwrap();
    let end = manifest.partitions[1].last_seq();
    check_restored(&author, &open_restored(&disk), part(1), end);
}

#[test]
fn a_restore_that_ends_anywhere_is_refused_until_it_was_repeated() {
    let (_store, author, place, manifest) = sample();
    let point = RestorePoint::Seq(Seq::new(manifest.partitions[0].last_seq().get() - 2));
    let points = all(&manifest, point);
    let whole = MemoryDisk::new();
    restore(&whole, &place, &manifest, &points).unwrap();
    let operations = whole.operations();
    assert!(operations > 30, "{operations}");
    let mut unfinished = 0;
    for dies_at in 1..=operations {
        let disk = MemoryDisk::new();
        disk.freeze_at_operation(dies_at);
        let died = restore(&disk, &place, &manifest, &points);
        died.expect_err("the machine did not die");
        for left in [
            disk.crash(),
            disk.power_loss(dies_at),
            disk.power_loss(dies_at + 1),
        ] {
            let what = format!("ended at {dies_at} of {operations}");
            let is_whole = left.exists(Path::new("/data/identity"))
                && !left.exists(Path::new("/data/restoring"));
            if !is_whole {
                unfinished += usize::from(left.exists(Path::new("/data/restoring")));
                let repeated = restore(&left, &place, &manifest, &points);
                repeated.unwrap_or_else(|error| panic!("{what}: {error}"));
            }
            check_sound(&left);
            let restored = open_restored(&left);
            let RestorePoint::Seq(seq) = point else {
                unreachable!()
            };
            for partition in &manifest.partitions {
                check_restored(&author, &restored, partition.partition, seq);
            }
        }
    }
    assert!(unfinished > 50, "{unfinished}");
}

#[test]
fn a_restore_takes_no_directory_in_which_there_is_anything() {
    let (_store, _, place, manifest) = sample();
    let points = all(&manifest, RestorePoint::End);
    let disk = MemoryDisk::new();
    restore(&disk, &place, &manifest, &points).unwrap();
    let before = disk.list(Path::new(DIR)).unwrap();
    let refused = restore(&disk, &place, &manifest, &points).unwrap_err();
    assert!(matches!(refused, StoreError::NotEmpty { .. }), "{refused}");
    assert_eq!(disk.list(Path::new(DIR)).unwrap(), before);
    open_restored(&disk);
}

#[test]
fn pieces_that_do_not_follow_are_no_backup() {
    let (store, _) = open(&MemoryDisk::new());
    let mut author = Author::default();
    write_many(&mut author, &store, 2, 40);
    let mut reader = BackupReader::new(Arc::clone(&store), (0..2).map(part), &[], PLAN);
    let mut pieces = Vec::new();
    let mut has_written = false;
    while let Some(piece) = reader.read_on(&mut |_| true).unwrap() {
        if !has_written {
            write_many(&mut author, &store, 2, 20);
            has_written = true;
        }
        pieces.push(piece);
    }
    let draft = |pieces: Vec<BackupPiece>| {
        let mut draft =
            BackupDraft::new(subject(&store), BackupNumber::FIRST, None, "token").unwrap();
        for piece in pieces {
            draft.take(piece)?;
        }
        draft.finish()
    };
    draft(pieces.clone()).unwrap();
    for left_out in 0..pieces.len() {
        let mut fewer = pieces.clone();
        fewer.remove(left_out);
        assert!(
            draft(fewer).is_err(),
            "without {left_out} of {}",
            pieces.len()
        );
    }
    let other = BackupSubject {
        node: node(99),
        ..subject(&store)
    };
    let manifest = draft(pieces).unwrap();
    let number = manifest.number.next();
    assert!(BackupDraft::new(other, number, Some(&manifest), "token").is_err());
}

/// Whichever way a frame is damaged, the partition whose records are gone is named.
#[test]
fn a_journal_that_is_damaged_at_the_node_is_no_backup_of_whose_it_is() {
    let ways: [fn(&mut [u8]); 3] = [
        |frame| frame[frame.len() - 1] ^= 4,
        |frame| frame.fill(0),
        |frame| frame.fill(0xde),
    ];
    for damage in ways {
        let disk = MemoryDisk::new();
        let (store, _) = open(&disk);
        let mut author = Author::default();
        write_many(&mut author, &store, 1, 3);
        store.flush_once().unwrap();
        let mut calls = 0;
        // Behind the snapshot, before the log is read.
        let mut meanwhile = || {
            calls += 1;
            if calls != 2 {
                return;
            }
            let from = store.durable_end().offset;
            write_many(&mut author, &store, 1, 1);
            let upto = store.durable_end().offset;
            write_many(&mut author, &store, 1, 1);
            let mut frame = file_bytes(&disk, FIRST_FILE)[from as usize..upto as usize].to_vec();
            damage(&mut frame);
            overwrite(&disk, FIRST_FILE, from, &frame);
        };
        let refused = create(&store, &mut Place::new(), None, &mut meanwhile);
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains(&part(0).to_string()), "{refused}");
    }
}

/// What lies damaged on the node's own disk is found when it is backed up, not at the restore.
#[test]
fn a_snapshot_that_is_damaged_at_the_node_is_no_backup() {
    let disk = MemoryDisk::new();
    let (store, _) = open(&disk);
    let mut author = Author::default();
    write_many(&mut author, &store, 1, 10);
    store.flush_once().unwrap();
    store
        .snapshot(part(0), PLAN, &mut |_| true)
        .unwrap()
        .unwrap();
    let dir = Path::new("/data/snapshots");
    let names = disk.list(dir).unwrap();
    let file = dir.join(&names[0]);
    let file = file.to_str().unwrap();
    let whole = file_bytes(&disk, file);
    for at in (4_096..whole.len()).step_by(53) {
        overwrite(&disk, file, at as u64, &[whole[at] ^ 4]);
        let refused = create(&store, &mut Place::new(), None, &mut || {});
        let refused = refused.unwrap_err().to_string();
        assert!(
            refused.contains("snapshot") || refused.contains("block"),
            "{at}: {refused}"
        );
        overwrite(&disk, file, at as u64, &whole[at..=at]);
    }
    create(&store, &mut Place::new(), None, &mut || {}).unwrap();
}
