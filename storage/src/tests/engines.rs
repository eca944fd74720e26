//! Both engines on disk: which one a directory is of, and what a kill leaves of it.
//!
//! **Owns**: changing the engine of a directory, images of a directory under load.
//! **Does not own**: what one engine does with its own files (its tests).
//!
//! The image of a killed process is taken from one that is stopped: a copy made while it runs
//! mixes files of several moments, which no end of a process does.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use domicile_proto::{PartitionId, Record, Seq};
use rustix::process::{Pid, Signal, kill_process};

use super::fixture::*;
use crate::disk::Disk;
use crate::retention::NOTHING;
use crate::{EngineChoice, OsDisk, Recovery, SnapshotPlan, Store, StoreOptions, verify};

const PLAN: SnapshotPlan = SnapshotPlan {
    now_ms: 1,
    requests_max: 5,
};

/// The engines on disk that this build has.
pub(super) fn engines_on_disk() -> Vec<EngineChoice> {
    let all = [EngineChoice::Sled, EngineChoice::Fjall];
    all.into_iter().filter(EngineChoice::is_built).collect()
}

fn open(path: &Path, engine: &EngineChoice) -> (Arc<Store>, Recovery) {
    let options = StoreOptions {
        engine_cache_bytes: 4 << 20,
        ..options_with(engine.clone())
    };
    Store::open(Arc::new(OsDisk::new()), path, options).unwrap()
}

#[test]
fn another_engine_is_filled_from_snapshots_and_journal_and_back() {
    let engines = engines_on_disk();
    for (from, to) in engines.iter().zip(engines.iter().rev()) {
        if format!("{from:?}") == format!("{to:?}") {
            continue;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let (store, _) = open(path, from);
        let mut author = Author::default();
        let write = |store: &Store, author: &mut Author, count: u8| {
            for round in 0..count {
                let bucket = u16::from(round % 3);
                author
                    .write(store, partition(bucket), &[round; 6000])
                    .unwrap();
                author.commit(store).unwrap();
            }
        };
        write(&store, &mut author, 60);
        store.flush_once().unwrap();
        for bucket in 0..3 {
            store
                .snapshot(partition(bucket), PLAN, &mut |_| true)
                .unwrap();
        }
        write(&store, &mut author, 30);
        store.flush_once().unwrap();
        store.trim(&|_| NOTHING).unwrap();
        let (from_name, start) = (store.stats().engine, store.journal_start());
        assert!(start.file.get() > 1, "nothing was cut");
        store.close().unwrap();
        drop(store);
        for (engine, before) in [(to, from_name), (from, "")] {
            let (store, recovery) = open(path, engine);
            let name = store.stats().engine;
            let why = recovery.engine_rebuilt.clone().unwrap_or_default();
            let expected = format!("the engine directory was made by {before}");
            assert!(why.contains(&expected), "{name}: {why}");
            assert!(why.ends_with(&format!("not by {name}")), "{name}: {why}");
            assert!(recovery.restored_cells > 0, "{recovery:?}");
            author.check(&store);
            write(&store, &mut author, 5);
            store.close().unwrap();
            drop(store);
            let (store, recovery) = open(path, engine);
            assert_eq!(
                (recovery.engine_rebuilt, recovery.replayed_records),
                (None, 0)
            );
            author.check(&store);
            store.close().unwrap();
        }
        assert!(path.join("engine.quarantined-2").exists());
        let disk: Arc<dyn Disk> = Arc::new(OsDisk::new());
        assert!(verify(&disk, path).unwrap().is_sound());
    }
}

#[test]
fn a_directory_whose_maker_is_unreadable_is_put_aside() {
    for engine in engines_on_disk() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let (store, _) = open(path, &engine);
        let mut author = Author::default();
        author.write(&store, partition(0), b"value").unwrap();
        author.commit(&store).unwrap();
        store.close().unwrap();
        drop(store);
        std::fs::write(path.join("engine/made-by"), [0xff; 100]).unwrap();
        let (store, recovery) = open(path, &engine);
        assert!(recovery.engine_rebuilt.is_some());
        assert!(path.join("engine.quarantined-1").exists());
        author.check(&store);
    }
}

#[test]
fn an_engine_that_is_not_built_is_refused_by_its_feature_and_touches_nothing() {
    let engine = EngineChoice::Fjall;
    if engine.is_built() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let disk = Arc::new(OsDisk::new());
    let refusal = Store::open(disk, directory.path(), options_with(engine)).unwrap_err();
    let expected = "engine fjall is not in this build, which lacks the cargo feature `fjall`";
    assert!(refusal.to_string().contains(expected), "{refusal}");
    assert!(!directory.path().join("engine").exists());
    assert!(!directory.path().join("engine.quarantined-1").exists());
}

/// Keys of each partition under load, and bytes of their values: a flush writes some MiB, so that
/// both engines clean up behind themselves several times.
const KEYS: u64 = 400;
const VALUE_BYTES: usize = 12_000;

/// Records between two flushes, of all partitions.
const FLUSH_RECORDS: u64 = 500;

/// Partitions under load.
const BUCKETS: u16 = 2;

/// Records of a load, should nobody end it.
const RECORDS_MAX: u64 = 60_000;

/// Images of each engine.
const IMAGES: u64 = 12;

/// How long a loaded process may take to get anywhere.
const PATIENCE: Duration = Duration::from_secs(60);

/// Tells the test that it is the process under load, and where, and with which engine.
const LOADED_DIR: &str = "DOMICILE_TEST_LOADED_DIR";
const LOADED_ENGINE: &str = "DOMICILE_TEST_LOADED_ENGINE";

fn nth(seq: Seq) -> Record {
    let key = format!("key-{}", seq.get() % KEYS);
    let value = seq.get().to_le_bytes().repeat(VALUE_BYTES / 8);
    record(key.as_bytes(), &value, u128::from(seq.get()))
}

fn loaded_options(engine: EngineChoice) -> StoreOptions {
    StoreOptions {
        journal_file_bytes: 2 << 20,
        engine_cache_bytes: 4 << 20,
        ..options_with(engine)
    }
}

/// Writes, commits, flushes, takes snapshots and cuts the journal until it is killed.
fn load(path: &Path, engine: EngineChoice) {
    let disk = Arc::new(OsDisk::new());
    let (store, _) = Store::open(disk, path, loaded_options(engine)).unwrap();
    for number in 0..RECORDS_MAX {
        let bucket = partition((number % u64::from(BUCKETS)) as u16);
        let seq = Seq::new(number / u64::from(BUCKETS) + 1);
        let visible = Seq::new(seq.get() - 1);
        store
            .submit_record(bucket, epoch(1), seq, visible, nth(seq))
            .unwrap();
        if number % 16 == 15 {
            for commit in store.commit_once().unwrap() {
                store.cells(commit.partition).advance(commit.last_seq);
            }
        }
        if number % FLUSH_RECORDS == FLUSH_RECORDS - 1 {
            store.flush_once().unwrap();
        }
        if number % (8 * FLUSH_RECORDS) == 8 * FLUSH_RECORDS - 1 {
            for bucket in 0..BUCKETS {
                store
                    .snapshot(partition(bucket), PLAN, &mut |_| true)
                    .unwrap();
            }
            store.trim(&|_| NOTHING).unwrap();
        }
    }
}

/// A process under load, killed when dropped.
struct Loaded(Child);

impl Loaded {
    fn start(path: &Path, engine: &EngineChoice) -> Self {
        let test = "tests::engines::a_kill_at_any_moment_leaves_an_engine_that_folds_the_log";
        let child = Command::new(std::env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture"])
            .env(LOADED_DIR, path)
            .env(LOADED_ENGINE, format!("{engine:?}"))
            .stdout(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.0);
        kill_process(pid, signal).unwrap();
        if signal == Signal::STOP {
            // Sent is not stopped: all threads are once the process is.
            let deadline = Instant::now() + PATIENCE;
            let status = format!("/proc/{}/stat", self.0.id());
            while !std::fs::read_to_string(&status).unwrap().contains(") T ") {
                assert!(Instant::now() < deadline, "it does not stop");
                std::thread::yield_now();
            }
        }
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn copy_into(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (source, target) = {
            let entry = entry.unwrap();
            (entry.path(), to.join(entry.file_name()))
        };
        if source.is_dir() {
            copy_into(&source, &target);
        } else {
            std::fs::copy(&source, target).unwrap();
        }
    }
}

/// Takes the last pages of the newest of fjall's journal files, as a loss of power may; whether
/// there is one.
fn lose_pages(engine_dir: &Path, random: u64) -> bool {
    let entries = std::fs::read_dir(engine_dir).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let number = |path: &Path| path.file_stem()?.to_str()?.parse::<u64>().ok();
    let journals = paths.filter(|path| path.extension().is_some_and(|end| end == "jnl"));
    let Some(newest) = journals.max_by_key(|path| number(path)) else {
        return false;
    };
    let mut bytes = std::fs::read(&newest).unwrap();
    let written = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    let from = (random % (written as u64 + 1)) as usize & !4095;
    let len = [4096, written - from][(random >> 40) as usize % 2];
    let upto = (from + len).min(bytes.len());
    bytes[from..upto].fill(0);
    std::fs::write(newest, bytes).unwrap();
    true
}

/// Opens an image and checks that log and cells are those of the load, up to what it has; why its
/// engine was rebuilt, if it was.
fn check_image(path: &Path, engine: &EngineChoice, what: &str) -> Option<String> {
    let disk: Arc<dyn Disk> = Arc::new(OsDisk::new());
    let opened = Store::open(Arc::clone(&disk), path, loaded_options(engine.clone()));
    let (store, recovery) = opened.unwrap_or_else(|error| panic!("{what}: {error}"));
    for found in &recovery.partitions {
        check_partition(&store, found.partition, found.last_seq, what);
    }
    store.close().unwrap();
    drop(store);
    assert!(verify(&disk, path).unwrap().is_sound(), "{what}");
    recovery.engine_rebuilt
}

fn check_partition(store: &Store, partition: PartitionId, last_seq: Seq, what: &str) {
    let mut next = store.log_start(partition);
    for record in store.records(partition, next) {
        let (_, seq, record) = record.unwrap();
        assert_eq!(seq, next, "{what}");
        assert_eq!(record, nth(seq), "{what}: record {seq}");
        next = seq.next();
    }
    assert_eq!(next, last_seq.next(), "{what}");
    let cells = store.cells(partition);
    cells.advance(last_seq);
    for key in 0..KEYS {
        // The last number up to there of those that write this key.
        let back = (last_seq.get() + KEYS - key) % KEYS;
        let newest = last_seq.get().checked_sub(back).filter(|seq| *seq > 0);
        let cell = cells.get(format!("key-{key}").as_bytes()).unwrap().cell;
        let Some(newest) = newest else {
            assert_eq!(cell, None, "{what}: key {key} up to {last_seq}");
            continue;
        };
        let cell = cell.unwrap_or_else(|| panic!("{what}: key {key} up to {last_seq} is gone"));
        assert_eq!(cell.version.seq, Seq::new(newest), "{what}: key {key}");
        let expected = newest.to_le_bytes().repeat(VALUE_BYTES / 8);
        assert!(
            cell.value.unwrap() == expected,
            "{what}: value of key {key}"
        );
    }
}

#[test]
fn a_kill_at_any_moment_leaves_an_engine_that_folds_the_log() {
    if let (Ok(path), Ok(name)) = (std::env::var(LOADED_DIR), std::env::var(LOADED_ENGINE)) {
        let mut engines = engines_on_disk().into_iter();
        let engine = engines.find(|engine| format!("{engine:?}") == name);
        return load(Path::new(&path), engine.unwrap());
    }
    let seed = std::env::var("DOMICILE_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or(20_261_124);
    println!("DOMICILE_SEED={seed} cargo test -p domicile-storage --features fjall engines");
    let mut random = seed;
    let mut draw = move || {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        random >> 8
    };
    for engine in engines_on_disk() {
        let directory = tempfile::tempdir().unwrap();
        let live = directory.path().join("live");
        let loaded = Loaded::start(&live, &engine);
        let deadline = Instant::now() + PATIENCE;
        while !live.join("engine").exists() {
            assert!(Instant::now() < deadline, "{engine:?} does not start");
            std::thread::yield_now();
        }
        let mut rebuilt = Vec::new();
        for image in 0..IMAGES {
            // The moment of the image, in a load that goes on anyhow.
            std::thread::sleep(Duration::from_millis(20 + draw() % 400));
            let copy = directory.path().join("copy");
            loaded.signal(Signal::STOP);
            copy_into(&live, &copy);
            loaded.signal(Signal::CONT);
            let what = format!("{engine:?}, image {image}, seed {seed}");
            if image % 3 == 2 && lose_pages(&copy.join("engine"), draw()) {
                check_image(&copy, &engine, &format!("{what}, pages lost"));
            } else {
                rebuilt.extend(check_image(&copy, &engine, &what));
            }
            std::fs::remove_dir_all(copy).unwrap();
        }
        assert_eq!(rebuilt, Vec::<String>::new(), "{engine:?} after a kill");
    }
}
