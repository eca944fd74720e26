//! Tests of the engine of the feature `fjall`: the conformance suite, torn and damaged files.

use std::path::PathBuf;

use super::*;
use crate::engine::conformance::{Subject, conformance_suite};

const CACHE_BYTES: u64 = 16 << 20;

struct Opened {
    engine: FjallEngine,
    directory: tempfile::TempDir,
}

fn open() -> Opened {
    let directory = tempfile::tempdir().unwrap();
    Opened {
        engine: FjallEngine::open(directory.path(), CACHE_BYTES).unwrap(),
        directory,
    }
}

impl Subject for Opened {
    fn engine(&self) -> &dyn Engine {
        &self.engine
    }

    fn reopen(self) -> Self {
        let Self { engine, directory } = self;
        drop(engine);
        Self {
            engine: FjallEngine::open(directory.path(), CACHE_BYTES).unwrap(),
            directory,
        }
    }

    fn rows_inside(&self) -> usize {
        self.engine.with("count", |open| open.rows.len()).unwrap()
    }
}

conformance_suite!(open());

fn set(row: &str, value: impl Into<Bytes>) -> RowChange {
    RowChange::Set {
        row: row.to_owned().into(),
        value: value.into(),
    }
}

/// Makes a table of what is in memory.
fn make_table(engine: &FjallEngine) {
    let made = engine.with("make a table", |open| open.rows.rotate_memtable_and_wait());
    made.unwrap();
}

/// The files below a directory whose names satisfy a condition.
fn files(directory: &Path, wanted: fn(&str) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, wanted));
        } else if wanted(&path.file_name().unwrap().to_string_lossy()) {
            found.push(path);
        }
    }
    found
}

fn journal_of(directory: &Path) -> PathBuf {
    let mut journals = files(directory, |name| name.ends_with(".jnl"));
    assert_eq!(journals.len(), 1);
    journals.remove(0)
}

/// An engine of numbered batches, closed, and what it wrote to its journal: rows `ca` and `cb` of
/// the nth have the value n, 3,000 bytes of it.
struct Batches {
    directory: tempfile::TempDir,
    journal: Vec<u8>,
}

impl Batches {
    fn write(count: u32) -> Self {
        let Opened { engine, directory } = open();
        for number in 1..=count {
            let value = number.to_be_bytes().repeat(750);
            engine
                .apply(vec![set("ca", value.clone()), set("cb", value)])
                .unwrap();
        }
        drop(engine);
        let path = journal_of(directory.path());
        let mut journal = std::fs::read(&path).unwrap();
        let last = journal.iter().rposition(|byte| *byte != 0).unwrap();
        journal.truncate(last + 1);
        std::fs::write(path, b"").unwrap();
        Self { directory, journal }
    }

    /// A copy with these bytes in the journal, and zeros up to `len`.
    fn with_journal(&self, bytes: &[u8], len: u64) -> tempfile::TempDir {
        let copy = copy_of(self.directory.path());
        let path = journal_of(copy.path());
        std::fs::write(&path, bytes).unwrap();
        let journal = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        journal.set_len(len).unwrap();
        copy
    }
}

/// The number of the last batch that is there, after checking that all of it is.
fn last_batch(engine: &FjallEngine) -> Option<u32> {
    let number = |row: &[u8]| {
        let value = engine.get(row).unwrap()?;
        assert_eq!(value.len(), 3000);
        Some(u32::from_be_bytes(value[..4].try_into().unwrap()))
    };
    let (first, second) = (number(b"ca"), number(b"cb"));
    assert_eq!(first, second, "a batch is there in part");
    first
}

#[test]
fn values_of_a_mebibyte_are_freed_when_they_are_overwritten() {
    let opened = open();
    for round in 0..12u8 {
        let value = Bytes::from(vec![round; 1 << 20]);
        let rows = (0..8u8).map(|row| set(&format!("c{row}"), value.clone()));
        opened.engine.apply(rows.collect()).unwrap();
        make_table(&opened.engine);
    }
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        // 96 MiB were written, 8 are alive; with a journal of 64 at most, 100 is all but the rest.
        let tables = |name: &str| name.parse::<u64>().is_ok();
        let tables = files(opened.directory.path(), tables);
        let bytes: u64 = tables
            .iter()
            .filter_map(|path| Some(path.metadata().ok()?.len()))
            .sum();
        if bytes < 48 << 20 {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{bytes} bytes stay");
        // Those who free them need the processor.
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(opened.engine.bytes_on_disk() > 8 << 20);
}

#[test]
fn a_journal_cut_anywhere_keeps_a_prefix_of_the_batches() {
    const BATCHES: u32 = 5;
    let batches = Batches::write(BATCHES);
    let written = batches.journal.len();
    let mut reached = Vec::new();
    for cut in (0..written).step_by(331).chain([written - 1, written]) {
        for len in [cut as u64, 64 << 20] {
            let copy = batches.with_journal(&batches.journal[..cut], len);
            match FjallEngine::open(copy.path(), CACHE_BYTES) {
                Ok(engine) => {
                    reached.push(last_batch(&engine));
                    engine.apply(vec![set("ca", "next")]).unwrap();
                    drop(engine);
                    let engine = FjallEngine::open(copy.path(), CACHE_BYTES).unwrap();
                    assert_eq!(engine.get(b"ca").unwrap(), Some("next".into()));
                }
                Err(error) => assert!(error.is_cured_by_rebuild(), "{cut}: {error}"),
            }
        }
    }
    assert!(reached.is_sorted(), "{reached:?}");
    assert_eq!(reached.first(), Some(&None));
    assert_eq!(reached.last(), Some(&Some(BATCHES)));
}

#[test]
fn pages_that_a_loss_of_power_took_end_the_journal_or_are_found() {
    const BATCHES: u32 = 12;
    const PAGE: usize = 512;
    let batches = Batches::write(BATCHES);
    let written = batches.journal.len();
    let (mut shorter, mut refused) = (0, 0);
    for page in 0..written.div_ceil(PAGE) {
        let mut torn = batches.journal.clone();
        torn[page * PAGE..((page + 1) * PAGE).min(written)].fill(0);
        let copy = batches.with_journal(&torn, 64 << 20);
        match FjallEngine::open(copy.path(), CACHE_BYTES) {
            Ok(engine) => {
                let found = last_batch(&engine).unwrap_or(0);
                assert!(found < BATCHES, "page {page}: nothing is missing");
                // Batches take the same room each: what is there ends before the hole.
                let end_of_found = written * found as usize / BATCHES as usize;
                assert!(end_of_found <= (page + 1) * PAGE, "page {page}: {found}");
                shorter += 1;
            }
            Err(error) => {
                assert!(error.is_cured_by_rebuild(), "page {page}: {error}");
                refused += 1;
            }
        }
    }
    assert!(
        shorter > 0 && refused > 0,
        "{shorter} shorter, {refused} refused"
    );
}

#[test]
fn damaged_missing_and_torn_files_are_errors_that_a_rebuild_cures() {
    let Opened { engine, directory } = open();
    let rows = (0..2000).map(|row| set(&format!("c{row:05}"), vec![7; 200]));
    engine.apply(rows.collect()).unwrap();
    make_table(&engine);
    drop(engine);
    let number = |name: &str| name.parse::<u64>().is_ok();
    let tables = files(directory.path(), number);
    assert!(!tables.is_empty());
    let lists = files(directory.path(), |name| {
        name == "current" || name == "version"
    });
    assert!(lists.len() >= 3, "{lists:?}");
    for path in tables.iter().chain(&lists) {
        let relative = path.strip_prefix(directory.path()).unwrap();
        for what in ["missing", "empty", "other bytes"] {
            let copy = copy_of(directory.path());
            let damaged = copy.path().join(relative);
            let len = std::fs::metadata(path).unwrap().len() as usize;
            match what {
                "missing" => std::fs::remove_file(damaged).unwrap(),
                "empty" => std::fs::write(damaged, b"").unwrap(),
                _ => std::fs::write(damaged, vec![0x5a; len]).unwrap(),
            }
            let answer = FjallEngine::open(copy.path(), CACHE_BYTES).and_then(|engine| {
                let every = (Bound::Unbounded, Bound::Unbounded);
                engine.scan(every.0, every.1, Direction::Forward, 10_000)
            });
            match answer {
                Err(error) => {
                    let whose = relative.display();
                    assert!(error.is_cured_by_rebuild(), "{whose} {what}: {error}");
                }
                // Without its list a tree is taken for new; the store finds no checkpoint in it.
                Ok(rows) => {
                    let is_list = lists.contains(path) && what == "missing";
                    assert!(is_list && rows.is_empty(), "{relative:?} {what}");
                }
            }
        }
    }
}

#[test]
fn a_directory_that_is_no_database_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("version"), b"no fjall").unwrap();
    std::fs::write(directory.path().join("0.jnl"), vec![0x5a; 1 << 20]).unwrap();
    let error = FjallEngine::open(directory.path(), CACHE_BYTES).unwrap_err();
    assert!(error.is_cured_by_rebuild(), "{error}");
}

#[test]
fn what_a_kill_left_of_the_first_opening_is_cured_by_a_rebuild() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("lock"), b"").unwrap();
    std::fs::write(directory.path().join("0.jnl"), b"").unwrap();
    let error = FjallEngine::open(directory.path(), CACHE_BYTES).unwrap_err();
    assert!(error.is_cured_by_rebuild(), "{error}");
}

#[test]
fn a_directory_that_another_holds_is_no_damage() {
    let opened = open();
    let error = FjallEngine::open(opened.directory.path(), CACHE_BYTES).unwrap_err();
    assert!(!error.is_cured_by_rebuild(), "{error}");
    opened.engine.close();
    assert!(matches!(opened.engine.get(b"ca"), Err(EngineError::Closed)));
    let again = FjallEngine::open(opened.directory.path(), CACHE_BYTES).unwrap();
    again.apply(vec![set("ca", "1")]).unwrap();
}

/// fjall's worker seals it later, and not at all while it merges tables.
#[test]
fn a_full_memtable_is_sealed_before_the_next_batch() {
    let opened = open();
    let sealed = || {
        let count = |open: &Open| Ok(open.rows.sealed_memtable_count() + open.rows.table_count());
        opened.engine.with("count", count).unwrap()
    };
    let value = Bytes::from(vec![7; 1 << 20]);
    let mebibytes = MEMTABLE_BYTES >> 20;
    for number in 1..=3 * mebibytes {
        assert_eq!(sealed() > 0, number > mebibytes, "after {number} MiB");
        let row = format!("c{number:05}");
        opened.engine.apply(vec![set(&row, value.clone())]).unwrap();
    }
    assert!(sealed() >= 1);
}

#[test]
fn a_reader_sees_one_write_of_a_row_or_another() {
    let opened = open();
    let write = |fill: u8| {
        let value = vec![fill; 40_000 + 5_000 * usize::from(fill % 3)];
        opened.engine.apply(vec![set("crow", value)]).unwrap();
    };
    write(0);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            for _ in 0..300 {
                let value = opened.engine.get(b"crow").unwrap().unwrap();
                assert!(value.iter().all(|byte| *byte == value[0]), "a mix of two");
                assert_eq!(value.len(), 40_000 + 5_000 * usize::from(value[0] % 3));
            }
        });
        (0..=255u8).for_each(write);
        reader.join().unwrap();
    });
}

#[test]
fn a_panic_inside_the_engine_comes_out_as_an_error() {
    let error = guarded::<()>("get", || panic!("broken at {}", 7)).unwrap_err();
    assert_eq!(error.to_string(), "engine get panicked: broken at 7");
    assert!(error.is_cured_by_rebuild());
}

fn copy_of(directory: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_into(directory, copy.path());
    copy
}

fn copy_into(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            std::fs::create_dir(&target).unwrap();
            copy_into(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Three tables are too few for a merge; what they have of the same rows would stay.
#[test]
fn what_a_load_left_behind_is_merged_when_it_is_over() {
    let opened = open();
    let engine = &opened.engine;
    let value = Bytes::from(vec![b'v'; 1 << 20]);
    let write = |rows: u32| {
        for number in 0..rows {
            engine
                .apply(vec![set(&format!("c{number}"), value.clone())])
                .unwrap();
        }
    };
    let measure = |measured: fn(&Open) -> u64| {
        let found = engine.with("measure", |open| Ok(measured(open)));
        found.unwrap()
    };
    let tables = || measure(|open| open.rows.table_count() as u64);
    let tables_bytes = || measure(|open| open.rows.disk_space());
    // Each is a table before the next one is begun: together they would be one. The last one is
    // sealed by its last row, the 32nd.
    for _ in 0..2 {
        write(15);
        make_table(engine);
    }
    write(2);
    let until = |is_done: &dyn Fn() -> bool| {
        let is_done = (0..2_000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(5));
            is_done()
        });
        assert!(is_done, "not within 10 s");
    };
    until(&|| tables() >= 3);
    let live_bytes = 15 << 20;
    assert!(tables_bytes() > 2 * live_bytes, "{}", tables_bytes());
    until(&|| {
        engine.tidy().unwrap();
        tables_bytes() < live_bytes * 5 / 4
    });
    // It comes to an end, begins no more for what is written now and then, and leaves no row.
    until(&|| {
        engine.tidy().unwrap();
        measure(|open| open.debt.lock().unwrap().steps) == 0
    });
    for number in 0..20 {
        engine.apply(vec![set("c0", "small")]).unwrap();
        let owed = measure(|open| open.debt.lock().unwrap().steps);
        assert_eq!(owed, 0, "{number} small writes owe merges");
    }
    assert_eq!(opened.rows_inside(), 15);
    let opened = opened.reopen();
    assert_eq!(opened.rows_inside(), 15);
}

/// Regression: it was waited for, and a worker that had died was never done.
#[test]
fn tidying_up_does_not_wait_for_a_worker_that_has_died() {
    let opened = open();
    let engine = &opened.engine;
    let value = Bytes::from(vec![b'v'; 1 << 20]);
    for number in 0..40 {
        engine
            .apply(vec![set(&format!("c{number}"), value.clone())])
            .unwrap();
    }
    for tables in files(opened.directory.path(), |name| !name.ends_with(".jnl")) {
        if tables.parent().is_some_and(|dir| dir.ends_with("tables")) {
            drop(std::fs::remove_dir_all(tables.parent().unwrap()));
        }
    }
    for _ in 0..50 {
        // An error or not: it comes back.
        drop(engine.tidy());
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}
