//! Calls that do not come back: the store fails with a reason, and never acknowledges after it.
//!
//! **Owns**: a disk and an engine that hang.
//! **Does not own**: how a call is watched (`commit::stall`).

use std::ops::Bound;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::fixture::*;
use crate::engine::{Direction, Engine, EngineError, MemoryEngine, RowChange};
use crate::{
    CommitSink, CommitThread, Committed, EngineChoice, MemoryDisk, StoreError, StoreOptions,
};

/// Soon: nothing else in these tests takes as long.
const STALL_MAX: Duration = Duration::from_millis(150);

fn hasty(engine: EngineChoice) -> StoreOptions {
    StoreOptions {
        stall_max: STALL_MAX,
        ..options_with(engine)
    }
}

#[derive(Default)]
struct Heard {
    state: Mutex<(u64, Vec<String>)>,
    changed: Condvar,
}

impl Heard {
    fn wait_failed(&self) -> String {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut state = self.state.lock().unwrap();
        while state.1.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no failure within a minute");
            state = self.changed.wait_timeout(state, left).unwrap().0;
        }
        state.1[0].clone()
    }
}

impl CommitSink for Heard {
    fn durable(&self, commits: &[Committed]) {
        self.state.lock().unwrap().0 += commits.len() as u64;
        self.changed.notify_all();
    }

    fn failed(&self, error: &StoreError) {
        self.state.lock().unwrap().1.push(error.to_string());
        self.changed.notify_all();
    }
}

#[test]
fn a_sync_that_does_not_come_back_fails_the_store_and_is_never_acknowledged() {
    let disk = MemoryDisk::new();
    let (store, _) = try_open(&disk, hasty(EngineChoice::Memory)).unwrap();
    store.prepare_once().unwrap();
    let heard = Arc::new(Heard::default());
    let thread = CommitThread::spawn(Arc::clone(&store), heard.clone()).unwrap();
    let mut author = Author::default();
    disk.hold_syncs();
    author.write(&store, partition(0), b"x").unwrap();
    let reason = heard.wait_failed();
    let expected = "a commit has been under way for ";
    assert!(
        reason.starts_with(expected) && reason.ends_with("limit 150 ms"),
        "{reason}"
    );
    assert_eq!(store.poison_cause().as_deref(), Some(reason.as_str()));
    let refused = author
        .clone()
        .write(&store, partition(0), b"y")
        .unwrap_err();
    assert_eq!(refused.to_string(), format!("store poisoned: {reason}"));
    // It comes back after all: too late to be acknowledged, and yet it may be there.
    disk.let_syncs_go();
    thread.stop();
    let state = heard.state.lock().unwrap();
    assert_eq!(state.0, 0, "acknowledged after the failure");
    drop(state);
    drop(store);
    let (store, recovery) = open(&disk.crash());
    author.forget_after(&recovery);
    author.check(&store);
}

/// An engine whose writes hang once they are told to.
#[derive(Default)]
struct HangingEngine {
    engine: MemoryEngine,
    hangs: Mutex<bool>,
    let_go: Condvar,
}

impl HangingEngine {
    fn hang(&self, hangs: bool) {
        *self.hangs.lock().unwrap() = hangs;
        self.let_go.notify_all();
    }
}

impl Engine for HangingEngine {
    fn get(&self, row: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.engine.get(row)
    }

    fn apply(&self, batch: Vec<RowChange>) -> Result<(), EngineError> {
        let hangs = self.hangs.lock().unwrap();
        drop(self.let_go.wait_while(hangs, |hangs| *hangs).unwrap());
        self.engine.apply(batch)
    }

    fn scan(
        &self,
        from: Bound<&[u8]>,
        upto: Bound<&[u8]>,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
        self.engine.scan(from, upto, direction, limit)
    }

    fn sync(&self) -> Result<(), EngineError> {
        Ok(())
    }

    fn bytes_on_disk(&self) -> u64 {
        0
    }

    fn name(&self) -> &'static str {
        "hanging"
    }
}

#[test]
fn an_engine_that_hangs_fails_the_store_instead_of_stopping_its_writers_for_ever() {
    let disk = MemoryDisk::new();
    let engine = Arc::new(HangingEngine::default());
    let given = EngineChoice::Given(Arc::clone(&engine) as _);
    let (store, _) = try_open(&disk, hasty(given)).unwrap();
    let heard = Arc::new(Heard::default());
    let mut author = Author::default();
    author.write(&store, partition(0), b"x").unwrap();
    author.commit(&store).unwrap();
    let thread = CommitThread::spawn(Arc::clone(&store), heard.clone()).unwrap();
    engine.hang(true);
    std::thread::scope(|scope| {
        let flusher = scope.spawn(|| store.flush_once());
        let reason = heard.wait_failed();
        assert!(
            reason.starts_with("the engine has been under way for "),
            "{reason}"
        );
        engine.hang(false);
        drop(flusher.join().unwrap());
    });
    thread.stop();
    drop(store);
    let (store, _) = open(&disk.crash());
    author.check(&store);
}
