//! The control log against a model, against the loss of power at every operation, and damaged.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use domicile_proto::NodeId;
use proptest::prelude::*;

use super::contents::Contents;
use super::frame::{Frame, FrameHeader, HEADER_BYTES, header};
use super::scan::scan;
use super::{
    ControlLog, ControlSnapshot, Entry, EntryId, Expected, LOG_FILE, LogIndex, PAYLOAD_BYTES_MAX,
    Term, Vote,
};
use crate::disk::{Disk, MemoryDisk, OpenMode};
use crate::error::StoreError;
use crate::planted::{Bug, is_caught};

const DIR: &str = "/data/control";

fn node(id: u64) -> NodeId {
    NodeId::new(id).unwrap()
}

fn disk() -> MemoryDisk {
    let disk = MemoryDisk::new();
    disk.create_dir_all(Path::new("/data")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk
}

fn open(disk: &MemoryDisk, expected: Expected) -> Result<ControlLog, StoreError> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    ControlLog::open(&disk, Path::new(DIR), node(7), expected)
}

fn id(term: u64, index: u64) -> EntryId {
    EntryId {
        term: Term::new(term),
        leader: NodeId::new(term + 10).ok(),
        index: LogIndex::new(index),
    }
}

/// Not compressible into sectors of zeros, so that damage in it is told from a torn write.
fn entry(term: u64, index: u64, len: usize) -> Entry {
    Entry {
        id: id(term, index),
        payload: Bytes::from(vec![index as u8 | 1; len]),
    }
}

fn vote(term: u64, committed: bool) -> Vote {
    Vote {
        term: Term::new(term),
        candidate: NodeId::new(term + 10).ok(),
        committed,
    }
}

/// One call, so that a life can be repeated and stopped at any operation of the disk.
#[derive(Debug, Clone)]
enum Call {
    Vote(Vote),
    Append(Vec<Entry>),
    Truncate(LogIndex),
    Purge(EntryId),
}

impl Call {
    fn run(&self, log: &mut ControlLog) -> Result<(), StoreError> {
        match self {
            Self::Vote(vote) => log.save_vote(*vote),
            Self::Append(entries) => log.append(entries.clone()),
            Self::Truncate(from) => log.truncate(*from),
            Self::Purge(upto) => log.purge(*upto),
        }
    }
}

/// What a reopened log must be: all but the committed hint, which may be older.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Model {
    contents: Contents,
    vote: Option<Vote>,
}

impl Model {
    fn after(&self, call: &Call) -> Self {
        let mut after = self.clone();
        match call {
            Call::Vote(vote) => after.vote = Some(*vote),
            Call::Append(entries) => after.contents.append(entries.clone()),
            Call::Truncate(from) => after.contents.truncate(*from),
            Call::Purge(upto) => after.contents.purge(*upto),
        }
        after
    }

    fn of(log: &ControlLog) -> Self {
        let everything = LogIndex::new(0)..LogIndex::new(u64::MAX);
        Self {
            contents: Contents {
                purged: log.purged(),
                entries: log.read(everything, usize::MAX).into(),
                committed: None,
            },
            vote: log.vote(),
        }
    }
}

/// Votes, entries of several sectors, a truncation, a purge in the middle and one that makes the
/// file be written anew.
fn life() -> Vec<Call> {
    let large: Vec<Entry> = (8..14).map(|index| entry(3, index, 200 << 10)).collect();
    vec![
        Call::Vote(vote(1, false)),
        Call::Append(vec![entry(0, 0, 60)]),
        Call::Vote(vote(1, true)),
        Call::Append((1..4).map(|index| entry(1, index, 700)).collect()),
        Call::Append(vec![entry(1, 4, 10)]),
        Call::Vote(vote(2, false)),
        Call::Truncate(LogIndex::new(3)),
        Call::Append((3..8).map(|index| entry(2, index, 300)).collect()),
        Call::Purge(id(2, 5)),
        Call::Append(large),
        Call::Vote(vote(3, true)),
        Call::Purge(id(3, 12)),
        Call::Append(vec![entry(3, 14, 1000)]),
    ]
}

#[test]
fn what_was_told_survives_an_end_at_every_operation() {
    let operations = {
        let disk = disk();
        let mut log = open(&disk, Expected::New).unwrap();
        life().iter().for_each(|call| call.run(&mut log).unwrap());
        disk.operations()
    };
    assert!(operations > 40, "{operations}");
    for dies_at in 1..=operations {
        let disk = disk();
        disk.freeze_at_operation(dies_at);
        let (told, under_way) = live(&disk);
        for left in (0..6)
            .map(|seed| disk.power_loss(seed))
            .chain([disk.crash()])
        {
            check_reopened(&left, told.as_ref(), &under_way, dies_at);
        }
    }
}

/// What was told before the end, and the state that the call under way leads to.
fn live(disk: &MemoryDisk) -> (Option<Model>, Model) {
    let Ok(mut log) = open(disk, Expected::New) else {
        return (None, Model::default());
    };
    let mut told = Model::default();
    for call in life() {
        let after = told.after(&call);
        match call.run(&mut log) {
            Ok(()) => told = after,
            Err(_) => return (Some(told), after),
        }
    }
    (Some(told.clone()), told)
}

fn check_reopened(left: &MemoryDisk, told: Option<&Model>, under_way: &Model, dies_at: u64) {
    let expected = if told.is_some() {
        Expected::Known
    } else {
        Expected::New
    };
    let log = open(left, expected).unwrap_or_else(|error| panic!("died at {dies_at}: {error}"));
    let found = Model::of(&log);
    assert!(
        told.is_some_and(|told| *told == found) || found == *under_way,
        "died at {dies_at}: {found:?}"
    );
    drop(log);
    let again = open(left, Expected::Known).unwrap();
    assert_eq!(Model::of(&again), found, "died at {dies_at}: opened twice");
}

#[test]
fn a_vote_without_its_sync_is_caught() {
    let test = what_was_told_survives_an_end_at_every_operation;
    assert!(is_caught(Bug::SkipVoteSync, test));
}

#[test]
fn entries_without_their_sync_are_caught() {
    let test = what_was_told_survives_an_end_at_every_operation;
    assert!(is_caught(Bug::SkipEntrySync, test));
}

#[test]
fn entries_told_before_their_sync_are_caught() {
    let test = what_was_told_survives_an_end_at_every_operation;
    assert!(is_caught(Bug::AckEntryBeforeSync, test));
    assert!(is_caught(Bug::AckEntryBeforeSync, a_failed_sync_poisons));
}

#[test]
fn a_failed_sync_poisons() {
    for fail in [MemoryDisk::fail_sync, MemoryDisk::fail_write] {
        let disk = disk();
        let mut log = open(&disk, Expected::New).unwrap();
        log.append(vec![entry(0, 0, 10)]).unwrap();
        fail(&disk, 1);
        let failed = log.append(vec![entry(1, 1, 10)]).unwrap_err();
        assert!(matches!(failed, StoreError::Io { .. }), "{failed}");
        for call in [
            Call::Append(vec![entry(1, 1, 10)]),
            Call::Vote(vote(2, false)),
            Call::Truncate(LogIndex::new(0)),
            Call::Purge(id(0, 0)),
        ] {
            let refused = call.run(&mut log).unwrap_err();
            assert!(matches!(refused, StoreError::Poisoned { .. }), "{refused}");
        }
        assert_eq!(
            open(&disk.power_loss(1), Expected::Known).unwrap().last(),
            Some(id(0, 0))
        );
    }
    let disk = disk();
    let mut log = open(&disk, Expected::New).unwrap();
    disk.fail_sync(1);
    log.save_vote(vote(1, false)).unwrap_err();
    let refused = log.save_vote(vote(1, false)).unwrap_err();
    assert!(matches!(refused, StoreError::Poisoned { .. }), "{refused}");
}

#[test]
fn a_full_disk_loses_nothing_that_was_told() {
    let disk = disk();
    let mut log = open(&disk, Expected::New).unwrap();
    disk.set_space_left(Some(20_000));
    let mut told = 0;
    while log.append(vec![entry(1, told, 900)]).is_ok() {
        told += 1;
    }
    assert!((15..23).contains(&told), "{told}");
    disk.set_space_left(None);
    let mut again = open(&disk.crash(), Expected::Known).unwrap();
    assert_eq!(again.last(), Some(id(1, told - 1)));
    again.append(vec![entry(1, told, 900)]).unwrap();
}

#[test]
fn a_lost_log_is_never_a_fresh_one() {
    let disk = disk();
    let missing = open(&disk, Expected::Known).unwrap_err();
    assert_eq!(
        missing.to_string(),
        format!(
            "control log lost: no {DIR}/log of node {}; the node must return under a new id",
            node(7)
        )
    );
    let mut log = open(&disk, Expected::New).unwrap();
    log.save_vote(vote(4, false)).unwrap();
    log.snapshots().write(&snapshot(10)).unwrap();
    drop(log);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let foreign = ControlLog::open(&shared, Path::new(DIR), node(8), Expected::Known);
    assert!(matches!(foreign, Err(StoreError::ForeignNode { .. })));
    for (name, expected) in [
        ("vote", Expected::Known),
        ("vote", Expected::New),
        ("log", Expected::Known),
        // The vote, or the snapshot, shows that there was one.
        ("log", Expected::New),
    ] {
        let without = disk.crash();
        without.remove_file(&Path::new(DIR).join(name)).unwrap();
        let refused = open(&without, expected).unwrap_err();
        let is_right = matches!(
            refused,
            StoreError::ControlLogMissing { .. } | StoreError::NotAStore { .. }
        );
        assert!(is_right, "{name}: {refused}");
    }
    assert_eq!(
        open(&disk, Expected::Known).unwrap().vote(),
        Some(vote(4, false))
    );
}

#[test]
fn what_does_not_follow_or_fit_is_refused_and_changes_nothing() {
    let mut log = open(&disk(), Expected::New).unwrap();
    log.append(vec![entry(1, 0, 1), entry(1, 1, 1)]).unwrap();
    log.purge(id(1, 0)).unwrap();
    let gap = log.append(vec![entry(1, 3, 1)]).unwrap_err();
    assert_eq!(
        gap.to_string(),
        "control log out of order: index 3, index 2 expected"
    );
    let hole = log
        .append(vec![entry(1, 2, 1), entry(1, 4, 1)])
        .unwrap_err();
    assert!(matches!(hole, StoreError::ControlLogOrder { .. }), "{hole}");
    let below = log.truncate(LogIndex::new(0)).unwrap_err();
    assert!(
        matches!(below, StoreError::ControlLogOrder { .. }),
        "{below}"
    );
    let large = log
        .append(vec![entry(1, 2, PAYLOAD_BYTES_MAX + 1)])
        .unwrap_err();
    assert_eq!(
        large.to_string(),
        "entry of the control log too large: 262145 bytes, limit 262144"
    );
    log.append(vec![entry(1, 0, 1)]).unwrap();
    assert_eq!(log.last(), Some(id(1, 1)));
    log.append(vec![entry(1, 2, PAYLOAD_BYTES_MAX)]).unwrap();
}

#[test]
fn reading_is_bounded_and_gives_one_at_least() {
    let mut log = open(&disk(), Expected::New).unwrap();
    log.append((0..10).map(|index| entry(1, index, 100)).collect())
        .unwrap();
    log.purge(id(1, 2)).unwrap();
    let read = |from, end, bytes_max| -> Vec<u64> {
        let found = log.read(LogIndex::new(from)..LogIndex::new(end), bytes_max);
        found.iter().map(|entry| entry.id.index.get()).collect()
    };
    assert_eq!(read(0, 5, usize::MAX), [3, 4]);
    assert_eq!(read(5, 100, 250), [5, 6]);
    assert_eq!(read(5, 100, 1), [5]);
    assert_eq!(read(10, 100, 1), [0; 0]);
    assert_eq!(read(6, 6, 1), [0; 0]);
}

#[test]
fn the_committed_hint_rides_on_the_next_entries() {
    let disk = disk();
    let mut log = open(&disk, Expected::New).unwrap();
    log.append(vec![entry(1, 0, 1), entry(1, 1, 1)]).unwrap();
    log.note_committed(Some(id(1, 0)));
    assert_eq!(
        open(&disk.crash(), Expected::Known).unwrap().committed(),
        None
    );
    log.append(vec![entry(1, 2, 1)]).unwrap();
    assert_eq!(
        open(&disk.crash(), Expected::Known).unwrap().committed(),
        Some(id(1, 0))
    );
}

fn snapshot(len: usize) -> ControlSnapshot {
    ControlSnapshot {
        head: Bytes::from_static(b"upto 3"),
        state: Bytes::from(vec![b'm'; len]),
    }
}

#[test]
fn a_snapshot_is_there_whole_or_not_at_all() {
    let prepared = || {
        let disk = disk();
        let log = open(&disk, Expected::New).unwrap();
        log.snapshots().write(&snapshot(600)).unwrap();
        (disk, log.snapshots())
    };
    let (disk, snapshots) = prepared();
    let before = disk.operations();
    snapshots.write(&snapshot(900)).unwrap();
    for dies_at in 1..=disk.operations() - before {
        let (disk, snapshots) = prepared();
        disk.freeze_at_operation(dies_at);
        let told = snapshots.write(&snapshot(900)).is_ok();
        for left in (0..8)
            .map(|seed| disk.power_loss(seed))
            .chain([disk.crash()])
        {
            let found = open(&left, Expected::Known).unwrap().snapshots().read();
            let len = found.unwrap().unwrap().state.len();
            assert!(
                len == 900 || (!told && len == 600),
                "{len}, died at {dies_at}"
            );
        }
    }
    let file = disk
        .open(&Path::new(DIR).join("snapshot"), OpenMode::ReadWrite)
        .unwrap();
    let golden = b"DCLS\x01\0\0\0\x07\0\0\0\0\0\0\0\x06\0\0\0upto 3mmm";
    let mut bytes = vec![0; golden.len()];
    file.read_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, golden);
    file.write_at(b"x", 300).unwrap();
    let damaged = snapshots.read().unwrap_err();
    assert!(matches!(damaged, StoreError::Corrupt { .. }), "{damaged}");
}

fn bytes_of(disk: &MemoryDisk) -> Vec<u8> {
    let file = disk
        .open(&Path::new(DIR).join(LOG_FILE), OpenMode::Read)
        .unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    bytes
}

fn small_life() -> (Vec<u8>, usize) {
    let disk = disk();
    let mut log = open(&disk, Expected::New).unwrap();
    log.append(vec![entry(0, 0, 9), entry(1, 1, 700)]).unwrap();
    log.truncate(LogIndex::new(1)).unwrap();
    let before = bytes_of(&disk).len();
    log.append(vec![entry(2, 1, 30), entry(2, 2, 600)]).unwrap();
    (bytes_of(&disk), before)
}

#[test]
fn every_flipped_bit_is_damage_with_its_place() {
    let (bytes, _) = small_life();
    let path = Path::new("/log");
    scan(&bytes, node(7), path).unwrap();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        match scan(&flipped, node(7), path).unwrap_err() {
            StoreError::Corrupt { offset, .. } => {
                assert!(offset <= bit as u64 / 8, "bit {bit}: offset {offset}");
            }
            other => panic!("bit {bit}: {other}"),
        }
    }
}

#[test]
fn a_tail_torn_at_any_byte_or_sector_is_cut() {
    let (bytes, before) = small_life();
    let path = Path::new("/log");
    for len in before..bytes.len() {
        let found = scan(&bytes[..len], node(7), path).unwrap();
        assert_eq!(found.end, before, "cut at {len}");
        assert_eq!(found.contents.last(), Some(id(0, 0)), "cut at {len}");
    }
    let first = before / 512;
    for sector in first..=bytes.len() / 512 {
        let mut torn = bytes.clone();
        let range = (sector * 512).max(before)..((sector + 1) * 512).min(bytes.len());
        torn[range].fill(0);
        let found = scan(&torn, node(7), path).unwrap();
        assert_eq!(found.end, before, "sector {sector}");
    }
}

#[test]
fn the_bytes_are_those_that_docs_control_says() {
    assert_eq!(header(node(7))[..16], *b"DCLG\x01\0\0\0\x07\0\0\0\0\0\0\0");
    let append = Frame::Append {
        committed: Some(id(1, 2)),
        entries: vec![Entry {
            id: id(1, 3),
            payload: Bytes::from_static(b"abc"),
        }],
    };
    let bytes = append.encode(0x1234);
    let golden = b"DCLF\x01\0\0\0\x34\x12\0\0\0\0\0\0\x3c\0\0\0";
    assert_eq!(bytes[..20], *golden);
    let body = b"\x01\x01\0\0\0\0\0\0\0\x0b\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x01\0\0\0\
        \x01\0\0\0\0\0\0\0\x0b\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x03\0\0\0abcFLCD";
    assert_eq!(bytes[28..], *body);
    let frames = [
        append,
        Frame::Truncate {
            from: LogIndex::new(9),
        },
        Frame::Purge { upto: id(2, 4) },
    ];
    for frame in frames {
        let bytes = frame.encode(77);
        let header = FrameHeader::decode(&bytes, 77).unwrap();
        let body = header.body(&bytes).unwrap();
        assert_eq!(header.decode_body(body).unwrap(), frame);
        assert_eq!(FrameHeader::decode(&bytes, 78), None);
    }
    let truncate = Frame::Truncate {
        from: LogIndex::new(9),
    };
    assert_eq!(truncate.encode(0)[4], 2);
    assert_eq!(truncate.encode(0)[28..], *b"\x09\0\0\0\0\0\0\0FLCD");
    let purge = Frame::Purge { upto: id(2, 4) };
    assert_eq!(purge.encode(0)[4], 3);
    assert_eq!(purge.encode(0)[28..36], *b"\x02\0\0\0\0\0\0\0");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Random lives with reopening in between agree with the model.
    #[test]
    fn random_lives_match_the_model(steps in prop::collection::vec((0..6_u8, 0..9_u64), 1..60)) {
        let disk = disk();
        let mut log = open(&disk, Expected::New).unwrap();
        let mut model = Model::default();
        for (step, number) in steps {
            let last = model.contents.last().map_or(0, |last| last.index.get());
            let next = model.contents.last().map_or(0, |last| last.index.get() + 1);
            let purged = model.contents.purged.map_or(0, |purged| purged.index.get() + 1);
            let call = match step {
                0 => Call::Vote(vote(number, number % 2 == 0)),
                1 | 2 => {
                    let entries = (next..next + number).map(|index| entry(number, index, 40));
                    Call::Append(entries.collect())
                }
                3 => Call::Truncate(LogIndex::new((last.saturating_sub(number)).max(purged))),
                4 => Call::Purge(id(number, (last + 1).saturating_sub(number))),
                _ => {
                    drop(log);
                    log = open(&disk, Expected::Known).unwrap();
                    continue;
                }
            };
            call.run(&mut log).unwrap();
            model = model.after(&call);
            prop_assert_eq!(&Model::of(&log), &model);
        }
        let again = open(&disk.power_loss(1), Expected::Known).unwrap();
        prop_assert_eq!(Model::of(&again), model);
    }

    /// Whoever can write a checksum can write anything before it.
    #[test]
    fn no_bytes_make_the_reader_panic(
        kind in 0..5_u8,
        body in prop::collection::vec(any::<u8>(), 0..200),
        behind in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let mut frame = Frame::Truncate { from: LogIndex::new(0) }.encode(HEADER_BYTES as u64);
        frame[4] = kind;
        frame[16..20].copy_from_slice(&(body.len() as u32).to_le_bytes());
        frame[20..24].copy_from_slice(&crc32fast::hash(&body).to_le_bytes());
        let crc = crc32fast::hash(&frame[..24]);
        frame[24..28].copy_from_slice(&crc.to_le_bytes());
        let bytes = [&header(node(7))[..], &frame[..28], &body, b"FLCD", &behind].concat();
        let _ = scan(&bytes, node(7), Path::new("/log"));
        let _ = scan(&behind, node(7), Path::new("/log"));
    }
}
