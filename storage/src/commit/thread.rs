//! The thread that commits, and the one that makes journal files ahead of it.
//!
//! **Owns**: when a commit is attempted, who is told.
//! **Does not own**: the commit itself; a simulator calls `Store::commit_once` without any thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use super::Committed;
use crate::error::StoreError;
use crate::store::Store;

/// A file that could not be made ahead is tried again after 10 s: the commit path makes its own
/// meanwhile. Sooner, a full disk would be asked for room all the time.
const PREPARE_PAUSE: Duration = Duration::from_secs(10);

/// The next file is looked after at least every minute, whether or not it was asked for.
const PREPARE_WAIT_MAX: Duration = Duration::from_secs(60);

/// How often it is looked for calls that do not come back: the limit is overrun by as much.
/// Doubled, by twice as much.
const STALL_POLL: Duration = Duration::from_millis(100);

/// Who is told what became of commits. Called in the commit thread: the next commit waits.
pub trait CommitSink: Send + Sync {
    /// These segments are durable.
    fn durable(&self, commits: &[Committed]);

    /// The store is poisoned: nothing that is not durable yet is known to be, ever. Called at the
    /// end, and once more before if a call never came back.
    fn failed(&self, error: &StoreError);
}

/// The running threads.
#[derive(Debug)]
pub struct CommitThread {
    store: Arc<Store>,
    commit: Option<JoinHandle<()>>,
    prepare: Option<JoinHandle<()>>,
    watch: Option<JoinHandle<()>>,
    is_over: Arc<AtomicBool>,
}

impl CommitThread {
    /// Starts committing what is submitted to `store`.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the operating system gives no thread.
    pub fn spawn(store: Arc<Store>, sink: Arc<dyn CommitSink>) -> Result<Self, StoreError> {
        let start = |name: &str, run: Box<dyn FnOnce() + Send>| {
            let spawned = Builder::new().name(name.to_owned()).spawn(run);
            spawned.map_err(|error| StoreError::io("start thread for", store.dir(), error))
        };
        let committing = Arc::clone(&store);
        let preparing = Arc::clone(&store);
        let prepare = start("domicile-ahead", Box::new(move || prepare_loop(&preparing)))?;
        let (watching, watch_sink) = (Arc::clone(&store), Arc::clone(&sink));
        let is_over = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&is_over);
        let watch = start(
            "domicile-watch",
            Box::new(move || watch_loop(&watching, &*watch_sink, &until)),
        );
        let commit = start(
            "domicile-commit",
            Box::new(move || commit_loop(&committing, &*sink)),
        );
        let mut threads = Self {
            store,
            commit: None,
            prepare: Some(prepare),
            watch: None,
            is_over,
        };
        threads.watch = Some(watch?);
        threads.commit = Some(commit?);
        Ok(threads)
    }

    /// Commits what is queued and ends the threads. Nothing may be submitted any more.
    pub fn stop(mut self) {
        self.store.stop_threads();
        self.end_watch();
        let threads = [self.commit.take(), self.prepare.take(), self.watch.take()];
        for thread in threads.into_iter().flatten() {
            // A panic in the thread was its last word; there is nothing to add.
            thread.join().ok();
        }
    }
}

impl Drop for CommitThread {
    /// Ends the threads without waiting for them.
    fn drop(&mut self) {
        self.store.stop_threads();
        self.end_watch();
    }
}

impl CommitThread {
    fn end_watch(&self) {
        self.is_over.store(true, Ordering::Release);
        if let Some(watch) = &self.watch {
            watch.thread().unpark();
        }
    }
}

/// Looks for calls that do not come back; the first one fails the store.
fn watch_loop(store: &Store, sink: &dyn CommitSink, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Acquire) {
        if let Err(error) = store.check_stalls() {
            sink.failed(&error);
            return;
        }
        std::thread::park_timeout(STALL_POLL);
    }
}

fn commit_loop(store: &Store, sink: &dyn CommitSink) {
    let _guard = PanicGuard(store);
    while store.wait_for_work() {
        match store.commit_once() {
            Ok(commits) => sink.durable(&commits),
            // The store was closed first; it commits what is queued itself.
            Err(StoreError::Closed) => return,
            Err(error) => {
                sink.failed(&error);
                return;
            }
        }
    }
}

/// Without the thread nothing is ever durable again: writers are told instead of left waiting.
struct PanicGuard<'a>(&'a Store);

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.poison("the commit thread panicked");
        }
    }
}

fn prepare_loop(store: &Store) {
    while store.wait_until_wanted(PREPARE_WAIT_MAX) {
        if let Err(error) = store.prepare_once() {
            tracing::warn!(%error, "no journal file made ahead");
            store.pause_preparing(PREPARE_PAUSE);
        }
    }
}
