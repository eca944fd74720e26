//! Tests of the engine on disk: the conformance suite, chunks, torn and damaged files.

use super::*;
use crate::engine::conformance::{Subject, conformance_suite};

const CACHE_BYTES: u64 = 16 << 20;

struct Opened {
    engine: SledEngine,
    directory: tempfile::TempDir,
}

fn open() -> Opened {
    let directory = tempfile::tempdir().unwrap();
    Opened {
        engine: SledEngine::open(directory.path(), CACHE_BYTES).unwrap(),
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
            engine: SledEngine::open(directory.path(), CACHE_BYTES).unwrap(),
            directory,
        }
    }

    fn rows_inside(&self) -> usize {
        self.engine.database().unwrap().iter().count()
    }
}

conformance_suite!(open());

#[test]
fn large_values_leave_no_file_of_their_own() {
    let opened = open();
    for round in 0..4u8 {
        let value = Bytes::from(vec![round; 1 << 20]);
        let rows = (0..8u8).map(|row| RowChange::Set {
            row: Bytes::copy_from_slice(&[b'c', row]),
            value: value.clone(),
        });
        opened.engine.apply(rows.collect()).unwrap();
        opened.engine.sync().unwrap();
    }
    let blobs = std::fs::read_dir(opened.directory.path().join("blobs"))
        .unwrap()
        .count();
    assert_eq!(blobs, 0);
}

#[test]
fn a_missing_chunk_is_damage_and_names_the_row() {
    let opened = open();
    let row = Bytes::from_static(b"c1");
    let value = Bytes::from(vec![5; 10_000]);
    opened
        .engine
        .apply(vec![RowChange::Set {
            row: row.clone(),
            value,
        }])
        .unwrap();
    opened
        .engine
        .database()
        .unwrap()
        .remove(chunks::chunk_row(&row, 1))
        .unwrap();
    let error = opened.engine.get(&row).unwrap_err();
    assert!(matches!(error, EngineError::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("63, 31"), "{error}");
    assert!(error.is_cured_by_rebuild());
}

#[test]
fn torn_snapshots_are_removed_before_opening() {
    let opened = open();
    opened
        .engine
        .apply(vec![RowChange::Set {
            row: "ca".into(),
            value: "1".into(),
        }])
        .unwrap();
    let Opened { engine, directory } = opened;
    drop(engine);
    let torn = directory.path().join("snap.0000000000000007.generating");
    std::fs::write(&torn, b"half of a snapshot").unwrap();
    let engine = SledEngine::open(directory.path(), CACHE_BYTES).unwrap();
    assert!(!torn.exists());
    assert_eq!(engine.get(b"ca").unwrap(), Some("1".into()));
}

#[test]
fn a_directory_that_is_no_database_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(
        directory.path().join("conf"),
        b"this is no sled configuration",
    )
    .unwrap();
    std::fs::write(directory.path().join("db"), vec![0x5a; 1 << 20]).unwrap();
    let error = SledEngine::open(directory.path(), CACHE_BYTES).unwrap_err();
    assert!(error.is_cured_by_rebuild(), "{error}");
}

#[test]
fn readers_of_a_chunked_value_see_one_write_or_another() {
    let opened = open();
    let row = Bytes::from_static(b"crow");
    let write = |fill: u8, len: usize| {
        let value = Bytes::from(vec![fill; len]);
        opened
            .engine
            .apply(vec![RowChange::Set {
                row: row.clone(),
                value,
            }])
            .unwrap();
    };
    write(0, 40_000);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            for _ in 0..300 {
                let value = opened.engine.get(&row).unwrap().unwrap();
                assert!(
                    value.iter().all(|byte| *byte == value[0]),
                    "a mix of two writes"
                );
                assert_eq!(value.len(), 40_000 + 5_000 * usize::from(value[0] % 3));
            }
        });
        for fill in 0..=255u8 {
            write(fill, 40_000 + 5_000 * usize::from(fill % 3));
        }
        reader.join().unwrap();
    });
}

/// Upstream's 0.34.7 stops here for good: the writer waits for the file to be shortened, in a
/// queue whose every thread waits for the writer (spacejam/sled#1269).
#[test]
fn a_file_that_shrinks_and_grows_stops_no_writer() {
    const WRITES: u32 = 16_000;
    let (done, finished) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let opened = open();
        for write in 0..WRITES {
            // Each write frees what the one before it took: the file has one segment or twenty.
            let value = Bytes::from(vec![write as u8; 40_000 + 5_000 * (write as usize % 3)]);
            let row = Bytes::from_static(b"crow");
            opened
                .engine
                .apply(vec![RowChange::Set { row, value }])
                .unwrap();
        }
        done.send(()).unwrap();
    });
    let finished = finished.recv_timeout(Duration::from_secs(60));
    assert_eq!(finished, Ok(()), "the writer hangs");
}

#[test]
fn a_panic_inside_the_engine_comes_out_as_an_error() {
    let error = guarded::<()>("get", || panic!("broken at {}", 7)).unwrap_err();
    assert_eq!(error.to_string(), "engine get panicked: broken at 7");
    assert!(error.is_cured_by_rebuild());
}
