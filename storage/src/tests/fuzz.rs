//! Every reader of files and rows under tampered bytes.
//!
//! **Owns**: a data directory, an engine and a snapshot to tamper with; what must not happen.
//! **Does not own**: the tampering (`proto`); tests of one damage each (`damage`, the formats).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use domicile_proto::hostile::{Chance, Seed, Target, seal_end, seal_segment, tamper, unsealed};
use domicile_proto::{PartitionId, Segment, SegmentHeader, Seq};

use super::fixture::*;
use crate::disk::{Disk, OpenMode};
use crate::engine::{Direction, Engine, MemoryEngine, RowChange};
use crate::journal::FileNumber;
use crate::journal::frame::{CommitNumber, FRAME_HEADER_BYTES, FrameHeader};
use crate::journal::rebase::{REBASE_HEAD_BYTES, REBASE_MAGIC, Rebase};
use crate::retention::NOTHING;
use crate::{
    CheckedSegment, EngineChoice, MemoryDisk, OnDamage, Place, SnapshotHeader, SnapshotPlan, Store,
    StoreOptions, verify,
};

/// Bytes before the first frame of a journal file, and before the first block of a snapshot.
const PAGE_BYTES: usize = 4096;

/// Bytes of a block of a snapshot before its payload.
const BLOCK_HEADER_BYTES: usize = 16;

/// Cases of each target, which opens a store several times for each: a second or two.
const CASES: u64 = 2_000;

/// Bytes in memory for each of a case's: its copies on the disk in memory, in a buffer and decoded.
const MEMORY_PER_BYTE: usize = 48;

/// Bytes that opening a store takes whatever it reads: a journal file of 64 KiB preallocated and
/// read whole, the next one, buffers and maps.
const MEMORY_FLAT: usize = 2 << 20;

fn held(run: &mut dyn FnMut()) -> u64 {
    allocation_counter::measure(run).bytes_max
}

fn attack(valid: &[Vec<u8>], seal: &dyn Fn(&mut Vec<u8>), decode: &dyn Fn(&[u8])) {
    let target = Target {
        command: "cargo test -p domicile-storage fuzz",
        cases: CASES,
        valid,
        seal,
        memory_per_byte: MEMORY_PER_BYTE,
        memory_flat: MEMORY_FLAT,
    };
    target.attack(held, decode);
}

/// Replaces a file whole.
fn put(disk: &MemoryDisk, path: &Path, bytes: &[u8]) {
    if disk.exists(path) {
        disk.remove_file(path).unwrap();
    }
    let file = disk.open(path, OpenMode::CreateNew).unwrap();
    file.write_at(bytes, 0).unwrap();
}

fn quarantine() -> StoreOptions {
    StoreOptions {
        on_damage: OnDamage::Quarantine,
        ..options()
    }
}

/// Opens what is there in both ways, reads all of it, and checks it offline: an error or a store,
/// nothing else. A store that opens takes a write.
fn open_both_ways(disk: &MemoryDisk, engine: &dyn Fn() -> EngineChoice) {
    let shared: Arc<dyn Disk> = Arc::new(disk.crash());
    let _ = verify(&shared, Path::new(DIR));
    for options in [options(), quarantine()] {
        let engine = engine();
        let opened = try_open(&disk.crash(), StoreOptions { engine, ..options });
        let Ok((store, recovery)) = opened else {
            continue;
        };
        for each in &recovery.partitions {
            read_all(&store, each.partition);
        }
        let fresh = partition(9);
        if store.tail(fresh).is_none() {
            let record = record(b"key", b"value", 1);
            let (seq, upto) = (Seq::FIRST, Seq::NONE);
            store
                .submit_record(fresh, epoch(9), seq, upto, record)
                .unwrap();
            store.commit_once().unwrap();
        }
        let _ = store.flush_once();
        let _ = store.trim(&|_| NOTHING);
    }
}

fn read_all(store: &Store, partition: PartitionId) {
    for record in store.records(partition, store.log_start(partition)) {
        if record.is_err() {
            break;
        }
    }
    let cells = store.cells(partition);
    let _ = cells.get(b"key-1");
    let _ = store.snapshot_requests(partition);
    let _ = store.resume_incoming(partition);
    let _ = store.outgoing_snapshot(partition);
}

/// A directory with two partitions, a rebase, a snapshot and a note of a cut journal; its engine.
struct Directory {
    disk: MemoryDisk,
    engine: Arc<MemoryEngine>,
}

impl Directory {
    fn new() -> Self {
        let (disk, engine) = (MemoryDisk::new(), Arc::new(MemoryEngine::new()));
        let given = EngineChoice::Given(Arc::clone(&engine) as _);
        let (store, _) = try_open(&disk, options_with(given)).unwrap();
        let mut author = Author::default();
        for round in 0..8_u8 {
            // The first file is filled and cut; what is left is small, so that many cases hit
            // more than values.
            let len = if round < 2 { 28_000 } else { 20 };
            for bucket in 0..2 {
                author
                    .write(&store, partition(bucket), &vec![round; len])
                    .unwrap();
            }
            author.commit(&store).unwrap();
            if round == 4 {
                author.new_epoch();
            }
        }
        store.flush_once().unwrap();
        let plan = SnapshotPlan {
            now_ms: 1,
            requests_max: 5,
        };
        for bucket in 0..2 {
            let taken = store.snapshot(partition(bucket), plan, &mut |_| true);
            assert!(taken.unwrap().is_some());
        }
        install(&store);
        assert!(store.trim(&|_| NOTHING).unwrap().files > 0);
        author.write(&store, partition(0), b"behind").unwrap();
        author.commit(&store).unwrap();
        drop(store);
        let disk = disk.crash();
        Self { disk, engine }
    }

    /// The paths of all files, with the folder of each.
    fn files(&self, folder: &str) -> Vec<PathBuf> {
        let dir = Path::new(DIR).join(folder);
        let names = self.disk.list(&dir).unwrap();
        names.iter().map(|name| dir.join(name)).collect()
    }

    fn bytes(&self, path: &Path) -> Vec<u8> {
        file_bytes(&self.disk, path.to_str().unwrap())
    }

    /// Attacks one file: opens the directory with each case in its place.
    fn attack_file(
        &self,
        path: &Path,
        seal: &dyn Fn(&mut Vec<u8>),
        engine: &dyn Fn() -> EngineChoice,
    ) {
        let mut whole = self.bytes(path);
        if path.extension().is_some_and(|is| is == "journal") {
            let used = whole.iter().rposition(|byte| *byte != 0).unwrap();
            whole.truncate(used + 1);
        }
        attack(&[whole], seal, &|bytes| {
            let disk = self.disk.crash();
            put(&disk, path, bytes);
            open_both_ways(&disk, engine);
        });
    }

    fn engine(&self) -> EngineChoice {
        EngineChoice::Given(Arc::new(self.engine.image()))
    }
}

/// Bootstraps partition 2 from another node, so that a rebase is in the journal.
fn install(store: &Store) {
    let (source, _) = open(&MemoryDisk::new());
    let mut author = Author::default();
    author.write(&source, partition(2), b"elsewhere").unwrap();
    author.commit(&source).unwrap();
    source.flush_once().unwrap();
    let plan = SnapshotPlan {
        now_ms: 1,
        requests_max: 5,
    };
    source.snapshot(partition(2), plan, &mut |_| true).unwrap();
    let snapshot = source.outgoing_snapshot(partition(2)).unwrap().unwrap();
    let mut incoming = store.begin_incoming(*snapshot.header()).unwrap();
    while !incoming.is_complete() {
        let piece = snapshot.read(incoming.offset(), 1 << 20).unwrap();
        incoming.write(&piece).unwrap();
    }
    store.finish_incoming(incoming).unwrap();
    store.install_received(partition(2)).unwrap();
}

/// Puts the checksums of a journal file right: frames where they follow each other, and the
/// entries in them.
fn seal_journal(number: FileNumber) -> impl Fn(&mut Vec<u8>) {
    move |bytes| {
        let mut at = PAGE_BYTES;
        while let Some(head) = bytes.get(at..at + FRAME_HEADER_BYTES) {
            let mut fields = &head[8..24];
            let header = FrameHeader {
                number: CommitNumber::new(fields.get_u64_le()),
                len: fields.get_u32_le(),
                entries: fields.get_u32_le(),
            };
            if head.iter().all(|byte| *byte == 0) {
                return;
            }
            let place = Place {
                file: number,
                offset: at as u64,
            };
            let sealed = header.encode(node(1), place);
            bytes[at..at + FRAME_HEADER_BYTES].copy_from_slice(&sealed);
            at += FRAME_HEADER_BYTES;
            let end = at.saturating_add(header.len as usize).min(bytes.len());
            seal_entries(&mut bytes[at..end], header.entries);
            at = end;
        }
    }
}

fn seal_entries(mut bytes: &mut [u8], entries: u32) {
    for _ in 0..entries.min(64) {
        let len = if bytes.starts_with(&REBASE_MAGIC) {
            seal_rebase(bytes);
            Rebase::len_of(bytes)
        } else {
            seal_segment(bytes);
            SegmentHeader::decode(bytes).ok().map(|it| it.segment_len())
        };
        let Some(len) = len.filter(|len| *len <= bytes.len()) else {
            return;
        };
        bytes = &mut bytes[len..];
    }
}

fn seal_rebase(bytes: &mut [u8]) {
    let Some(len) = Rebase::len_of(bytes).filter(|len| *len <= bytes.len()) else {
        return;
    };
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..REBASE_HEAD_BYTES - 4]);
    hasher.update(&bytes[REBASE_HEAD_BYTES..len]);
    let crc = hasher.finalize().to_le_bytes();
    bytes[REBASE_HEAD_BYTES - 4..REBASE_HEAD_BYTES].copy_from_slice(&crc);
}

/// Puts the checksums of a snapshot right: that of the header and those of the blocks.
fn seal_snapshot(bytes: &mut [u8]) {
    seal_snapshot_header(bytes);
    let mut at = PAGE_BYTES;
    while let Some(head) = bytes.get(at..at + BLOCK_HEADER_BYTES) {
        let (mut kind, mut len) = (&head[4..6], &head[8..12]);
        let (kind, len) = (kind.get_u16_le(), len.get_u32_le());
        let payload_at = at + BLOCK_HEADER_BYTES;
        let end = payload_at.saturating_add(len as usize).min(bytes.len());
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&u32::from(kind).to_le_bytes());
        hasher.update(&len.to_le_bytes());
        hasher.update(&bytes[payload_at..end]);
        let crc = hasher.finalize().to_le_bytes();
        bytes[at + 12..payload_at].copy_from_slice(&crc);
        at = end;
    }
}

fn seal_snapshot_header(bytes: &mut [u8]) {
    if bytes.len() >= 100 {
        let crc = crc32fast::hash(&bytes[..96]);
        bytes[96..100].copy_from_slice(&crc.to_le_bytes());
    }
}

/// With the engine that knows the journal, and without one, when all of it is replayed.
#[test]
fn fuzz_journal_files() {
    let directory = Directory::new();
    let journals = directory.files("journal");
    let numbered = journals.iter().filter_map(|path| {
        let number = path.file_stem()?.to_str()?.parse().ok()?;
        Some((path, FileNumber::new(number)))
    });
    let (path, number) = numbered
        .max_by_key(|(_, number)| *number)
        .expect("a journal has a file");
    let seal = seal_journal(number);
    directory.attack_file(path, &seal, &|| directory.engine());
    directory.attack_file(path, &seal, &|| EngineChoice::Memory);
}

#[test]
fn fuzz_the_header_of_a_journal_file() {
    let directory = Directory::new();
    let path = directory
        .files("journal")
        .into_iter()
        .find(|it| it.extension().is_some());
    let path = path.expect("a journal has a file");
    let whole = directory.bytes(&path);
    let seal = |bytes: &mut Vec<u8>| {
        if bytes.len() >= 28 {
            let crc = crc32fast::hash(&bytes[..24]);
            bytes[24..28].copy_from_slice(&crc.to_le_bytes());
        }
    };
    attack(&[whole[..28].to_vec()], &seal, &|bytes| {
        let disk = directory.disk.crash();
        let tampered = [bytes, &whole[bytes.len().min(PAGE_BYTES)..]].concat();
        put(&disk, &path, &tampered);
        open_both_ways(&disk, &|| EngineChoice::Memory);
    });
}

#[test]
fn fuzz_the_note_of_a_cut_journal_and_the_identity() {
    let directory = Directory::new();
    let note = Path::new(DIR).join("journal/first");
    directory.attack_file(&note, &seal_end, &|| directory.engine());
    directory.attack_file(&note, &seal_end, &|| EngineChoice::Memory);
    let identity = Path::new(DIR).join("identity");
    directory.attack_file(&identity, &seal_end, &|| directory.engine());
}

#[test]
fn fuzz_snapshots() {
    let directory = Directory::new();
    for path in directory.files("snapshots") {
        directory.attack_file(&path, &|bytes| seal_snapshot(bytes), &|| {
            EngineChoice::Memory
        });
    }
}

/// A snapshot as another node sends it, header and blocks, into a node that has half a log of the
/// partition already.
#[test]
fn fuzz_a_snapshot_on_its_way() {
    let directory = Directory::new();
    let whole = directory.bytes(&directory.files("snapshots")[0]);
    let (store, _) = open(&MemoryDisk::new());
    attack(&[whole], &|bytes| seal_snapshot(bytes), &|bytes| {
        let head = &bytes[..bytes.len().min(PAGE_BYTES)];
        let Ok(header) = SnapshotHeader::from_bytes(head, "a peer") else {
            return;
        };
        assert_eq!(
            SnapshotHeader::from_bytes(&header.to_bytes(), "itself").unwrap(),
            header
        );
        let mut incoming = store.begin_incoming(header).unwrap();
        let blocks = bytes.get(PAGE_BYTES..).unwrap_or_default();
        let written = blocks
            .chunks(50)
            .try_for_each(|piece| incoming.write(piece));
        drop(store.resume_incoming(header.partition).unwrap());
        let installed = written
            .and_then(|()| store.finish_incoming(incoming).map(drop))
            .and_then(|()| store.install_received(header.partition).map(drop));
        if installed.is_ok() {
            read_all(&store, header.partition);
        }
        assert_eq!(
            store.poison_cause(),
            None,
            "a peer's bytes stopped the node"
        );
    });
}

/// One row of the engine with other bytes, as key or as value.
#[test]
fn fuzz_rows_of_the_engine() {
    let directory = Directory::new();
    let all = |engine: &MemoryEngine| {
        let everything = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
        engine
            .scan(everything.0, everything.1, Direction::Forward, 1_000)
            .unwrap()
    };
    let rows = all(&directory.engine);
    let tags: std::collections::BTreeSet<u8> = rows.iter().map(|(row, _)| row[0]).collect();
    assert_eq!(
        tags,
        b"cimtx".iter().copied().collect(),
        "a kind of row is missing"
    );
    for (row, value) in &rows {
        let sealed = row.starts_with(b"mjournal");
        let seal: &dyn Fn(&mut Vec<u8>) = if sealed { &seal_end } else { &unsealed };
        let few = rows.len() as u64;
        let target = Target {
            command: "cargo test -p domicile-storage fuzz_rows",
            cases: CASES / few,
            valid: &[value.to_vec()],
            seal,
            memory_per_byte: MEMORY_PER_BYTE,
            memory_flat: MEMORY_FLAT,
        };
        target.attack(held, &|bytes| {
            let engine = directory.engine.image();
            let mut chance = Chance::of(Seed::new(crc32fast::hash(bytes).into()));
            let mut changes = vec![RowChange::Set {
                row: row.clone(),
                value: Bytes::copy_from_slice(bytes),
            }];
            if bytes.len() % 4 == 0 {
                let mut moved = row.to_vec();
                tamper(&mut moved, row, &mut chance);
                moved.insert(0, row[0]);
                let value = value.clone();
                let row = moved.into();
                changes.push(RowChange::Set { row, value });
            }
            engine.apply(changes).unwrap();
            let engine = Arc::new(engine);
            let given = || EngineChoice::Given(Arc::new(engine.image()) as _);
            open_both_ways(&directory.disk, &given);
        });
    }
}

/// A segment that a peer sent, sealed by whoever made it.
#[test]
fn fuzz_segments_from_elsewhere() {
    let (source, _) = open(&MemoryDisk::new());
    let mut author = Author::default();
    for _ in 0..3 {
        author.write(&source, partition(0), b"value").unwrap();
    }
    author.commit(&source).unwrap();
    let read = source.read(source.journal_start(), source.durable_end(), 1 << 20);
    let (_, segment) = read.unwrap().segments.remove(0);
    let seal = |bytes: &mut Vec<u8>| seal_segment(bytes);
    attack(&[segment.bytes().to_vec()], &seal, &|bytes| {
        let mut front = Bytes::copy_from_slice(bytes);
        let Ok(segment) = Segment::decode_front(&mut front) else {
            return;
        };
        let Ok(checked) = CheckedSegment::new(segment, bytes.len()) else {
            return;
        };
        let _ = (checked.levels(), checked.chain(), checked.first_hlc());
    });
}
