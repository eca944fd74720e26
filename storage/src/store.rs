//! One open data directory: journal, cells and engine under one roof.
//!
//! **Owns**: the parts and their life, from lock to release.
//! **Does not own**: who may write and what is visible (the core); threads (the caller's).
//!
//! ```text
//! <data>/lock                      held while open
//! <data>/reserve                   room to give up when the device is full
//! <data>/identity                  whose directory; written last
//! <data>/journal/                  the truth
//! <data>/snapshots/                partitions as they were; before them the journal may be cut
//! <data>/orphans/                  what was cut from logs
//! <data>/buffer/                   writes that wait for homes that cannot be reached
//! <data>/engine/                   rows; may vanish at any moment
//! <data>/engine.quarantined-<n>/   engines that failed
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domicile_proto::{Epoch, NodeId, PartitionId, Position, Record, Seq};

use crate::cells::{
    CellStats, CellStore, FlushReport, PartitionCells, UnappliedRecord, read_refilled,
};
use crate::checkpoint;
use crate::commit::{
    CommitQueue, CommitStatistic, CommitStats, CommitUrgency, Committed, Committer, Health,
    Published, Stalls,
};
use crate::condemned::Condemned;
use crate::disk::{Disk, DiskLock};
use crate::error::StoreError;
use crate::incoming::CheckedSegment;
use crate::journal::Place;
use crate::journal::files::FileSet;
use crate::opening::{self, Opened, Purpose};
use crate::options::StoreOptions;
use crate::orphans::Ledger;
use crate::promises::Promises;
use crate::recovery::Recovery;
use crate::snapshot::SnapshotSet;
use crate::space::Space;

/// An open data directory. Shared by all threads of a node.
///
/// - What [`Store::commit_once`] returned is durable.
/// - After the first failed write or sync nothing is accepted any more.
/// - Submits of one partition come in the order of their sequence numbers: the caller serialises
///   them, and takes the same lock before it acts on what a commit returned.
pub struct Store {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    node: NodeId,
    health: Health,
    queue: CommitQueue,
    committer: Mutex<Committer>,
    published: Mutex<Published>,
    files: FileSet,
    cells: CellStore,
    snapshots: Mutex<SnapshotSet>,
    /// Held while one is taken: they would share the disk's time and finish no sooner.
    snapshotting: Mutex<()>,
    /// The place that the engine's checkpoint replays from.
    replay_place: Mutex<Place>,
    statistic: CommitStatistic,
    condemned: Mutex<Condemned>,
    /// Up to where partitions may have had records when they were last filled after a loss.
    refills: Mutex<BTreeMap<PartitionId, Position>>,
    promises: Mutex<Promises>,
    ledger: Mutex<Ledger>,
    stalls: Arc<Stalls>,
    stall_max: Duration,
    space: Space,
    /// Held over a checkpoint and its flush: checkpoints reach the engine in order.
    flushing: Mutex<()>,
    lock: Mutex<Option<Box<dyn DiskLock>>>,
}

/// A store in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreStats {
    /// Bytes of the journal's files.
    pub journal_bytes: u64,
    /// Bytes that wait for a commit or are in one.
    pub queue_bytes: u64,
    /// Partitions with a durable record.
    pub partitions: u64,
    /// A word for the engine.
    pub engine: &'static str,
    /// Bytes of the engine's files.
    pub engine_bytes: u64,
    /// The cells.
    pub cells: CellStats,
}

impl Store {
    /// Opens `dir`, made if missing: takes its lock, checks whose it is, replays its journal.
    ///
    /// # Errors
    /// [`StoreError::Locked`]; [`StoreError::NotAStore`] and [`StoreError::ForeignNode`] for the
    /// wrong directory; [`StoreError::UnfinishedRestore`]; [`StoreError::Corrupt`] for damage,
    /// which nothing is cut for.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: StoreOptions,
    ) -> Result<(Arc<Self>, Recovery), StoreError> {
        Self::open_for(disk, dir, options, Purpose::Serve)
    }

    /// As [`Store::open`], for one purpose or another.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub(crate) fn open_for(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: StoreOptions,
        purpose: Purpose,
    ) -> Result<(Arc<Self>, Recovery), StoreError> {
        let options = options.bounded();
        let Opened {
            lock,
            files,
            cells,
            published,
            snapshots,
            replay_from,
            stalls,
            condemned,
            promises,
            ledger,
            writer,
            recovery,
        } = opening::open(&disk, dir, &options, purpose)?;
        let refills = read_refilled(&**cells.engine())?;
        let ends = published
            .tails
            .iter()
            .map(|(partition, tail)| (partition, tail.last_seq));
        let store = Self {
            disk,
            dir: dir.to_owned(),
            node: recovery.node_id,
            health: Health::default(),
            queue: CommitQueue::new(options.queue_bytes_max, ends),
            committer: Mutex::new(Committer::new(writer, &published.tails)),
            published: Mutex::new(published),
            files,
            cells,
            snapshots: Mutex::new(snapshots),
            snapshotting: Mutex::new(()),
            replay_place: Mutex::new(replay_from),
            statistic: CommitStatistic::default(),
            condemned: Mutex::new(condemned),
            refills: Mutex::new(refills),
            promises: Mutex::new(promises),
            ledger: Mutex::new(ledger),
            stalls,
            stall_max: options.stall_max,
            space: Space::default(),
            flushing: Mutex::new(()),
            lock: Mutex::new(Some(lock)),
        };
        Ok((Arc::new(store), recovery))
    }

    /// Whose directory it is.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.node
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The cells of a partition; worth keeping.
    #[must_use]
    pub fn cells(&self, partition: PartitionId) -> Arc<PartitionCells> {
        self.cells.partition(partition)
    }

    /// Whether so many bytes more may be submitted now. To be asked before a record is given a
    /// sequence number: one that is refused afterwards leaves a hole.
    #[must_use]
    pub fn has_room(&self, bytes: u64) -> bool {
        self.queue.has_room(bytes)
    }

    /// Queues a record sequenced here for the next commit, and in its partition's cells as not yet
    /// visible. `visible_upto` is how far the partition's records are visible by now.
    ///
    /// # Errors
    /// [`StoreError::InvalidRecord`], [`StoreError::QueueFull`], [`StoreError::Wounded`],
    /// [`StoreError::Poisoned`], [`StoreError::Closed`]: nothing is queued then.
    ///
    /// # Panics
    /// If `seq` is not the one after the partition's last.
    pub fn submit_record(
        &self,
        partition: PartitionId,
        epoch: Epoch,
        seq: Seq,
        visible_upto: Seq,
        record: Record,
    ) -> Result<(), StoreError> {
        let cells = self.accepting(partition)?;
        let Record { head, body } = &record;
        let unapplied = UnappliedRecord::new(head, body, body.bytes().len()).map_err(|source| {
            StoreError::InvalidRecord {
                partition,
                seq,
                source,
            }
        })?;
        self.queue
            .submit_record(partition, (epoch, seq), visible_upto, head, body)?;
        cells.enqueue(epoch, seq, unapplied);
        Ok(())
    }

    /// Queues a segment from the partition's home for the next commit, unchanged, and its records
    /// in the partition's cells as not yet visible. They may be made visible before they are
    /// durable: they are not flushed before.
    ///
    /// # Errors
    /// [`StoreError::QueueFull`], [`StoreError::Wounded`], [`StoreError::Poisoned`],
    /// [`StoreError::Closed`]: nothing is queued then.
    ///
    /// # Panics
    /// If the segment does not continue the partition's log.
    pub fn submit_segment(
        &self,
        segment: CheckedSegment,
        urgency: CommitUrgency,
    ) -> Result<(), StoreError> {
        let header = *segment.header();
        let cells = self.accepting(header.partition)?;
        let (segment, chain, records) = segment.into_parts();
        self.queue.submit_segment(segment, chain, urgency)?;
        cells.enqueue_all(header.epoch, header.first_seq, records);
        Ok(())
    }

    /// What is queued and was not urgent is now.
    pub fn hasten(&self) {
        self.queue.hasten();
    }

    /// Commits everything that is queued: one write, one sync. Empty if nothing was. What
    /// [`Store::flush_once`] had to commit meanwhile is told of here, once.
    ///
    /// # Errors
    /// What the disk says, once; [`StoreError::Poisoned`] ever after.
    pub fn commit_once(&self) -> Result<Vec<Committed>, StoreError> {
        self.health.check()?;
        let mut committer = self.committer()?;
        let committed = self.commit_queued(&mut committer)?;
        let mut untold = committer.take_untold();
        if untold.is_empty() {
            return Ok(committed);
        }
        untold.extend(committed);
        Ok(untold)
    }

    /// Makes the next journal file ahead of need; `false` if there is nothing to do.
    ///
    /// # Errors
    /// What the operating system says; commits then make their own files.
    pub fn prepare_once(&self) -> Result<bool, StoreError> {
        self.health.check()?;
        self.files.prepare()
    }

    /// Whether a flush is due.
    #[must_use]
    pub fn needs_flush(&self) -> bool {
        self.cells.needs_flush()
    }

    /// Records that are visible and not in the engine: what a restart now would replay.
    #[must_use]
    pub fn unflushed_records(&self) -> u64 {
        self.cells.stats().records_since_flush
    }

    /// Whether the cells take more memory than allowed: writes are to pause until a flush.
    #[must_use]
    pub fn is_stalled(&self) -> bool {
        self.cells.is_stalled()
    }

    /// Lets the engine do a piece of what flushes left behind, if the store is well and has room.
    ///
    /// # Errors
    /// [`StoreError::Engine`].
    pub fn tidy_engine(&self) -> Result<(), StoreError> {
        if self.health.check().is_ok() && self.check_space().is_ok() {
            self.cells.engine().tidy()?;
        }
        Ok(())
    }

    /// Writes the cells that are visible into the engine, with the place to replay from.
    ///
    /// # Errors
    /// [`StoreError::Engine`]: nothing is lost, the next call tries again.
    pub fn flush_once(&self) -> Result<FlushReport, StoreError> {
        self.health.check()?;
        self.flush()
    }

    /// What commits cost so far.
    #[must_use]
    pub fn commit_stats(&self) -> CommitStats {
        self.statistic.stats()
    }

    /// The store in numbers.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        let engine = self.cells.engine();
        StoreStats {
            journal_bytes: self.files.bytes(),
            queue_bytes: self.queue.bytes(),
            partitions: self.published().tails.iter().count() as u64,
            engine: engine.name(),
            engine_bytes: engine.bytes_on_disk(),
            cells: self.cells.stats(),
        }
    }

    /// Bytes that may still be written.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn free_bytes(&self) -> Result<u64, StoreError> {
        let free = self.disk.free_bytes(&self.dir);
        free.map_err(|error| StoreError::io("measure", &self.dir, error))
    }

    /// Poisons the store if a commit or the engine has been at one call for too long.
    ///
    /// # Errors
    /// [`StoreError::Stalled`], once and ever after.
    pub(crate) fn check_stalls(&self) -> Result<(), StoreError> {
        let limit = self.stall_max;
        let watched = [
            ("a commit", &self.stalls.commit),
            ("the engine", &self.stalls.engine),
        ];
        for (what, stall) in watched {
            if let Some(elapsed) = stall.elapsed().filter(|elapsed| *elapsed > limit) {
                let error = StoreError::Stalled {
                    what,
                    elapsed,
                    limit,
                };
                self.health.poison(&error.to_string());
                return Err(error);
            }
        }
        Ok(())
    }

    /// The failure after which nothing is accepted any more, if there was one.
    #[must_use]
    pub fn poison_cause(&self) -> Option<Arc<str>> {
        self.health.cause()
    }

    /// Commits what is queued, flushes, and gives the directory back. Every later change is
    /// refused; closing again does nothing.
    ///
    /// # Errors
    /// What the commit or the flush says; the directory is given back nevertheless.
    pub fn close(&self) -> Result<(), StoreError> {
        if !self.health.close() {
            return Ok(());
        }
        self.stop_threads();
        let committed = match self.health.cause() {
            Some(cause) => Err(StoreError::Poisoned { cause }),
            None => self
                .committer()
                .and_then(|mut it| self.commit_queued(&mut it).map(drop)),
        };
        let flushed = self.flush().map(|_| ());
        // A snapshot that is being taken or installed works on the directory.
        let snapshotting = self.hold_snapshots();
        self.cells.engine().close();
        lock(&self.lock).take();
        drop(snapshotting);
        committed.and(flushed)
    }

    /// # Errors
    /// [`StoreError::Poisoned`], [`StoreError::Closed`].
    pub(crate) fn check_open(&self) -> Result<(), StoreError> {
        self.health.check()
    }

    /// Accepts nothing any more.
    pub(crate) fn poison(&self, cause: &str) {
        self.health.poison(cause);
    }

    /// Waits for something to commit; `false` once the threads are to end and nothing is queued.
    pub(crate) fn wait_for_work(&self) -> bool {
        self.queue.wait()
    }

    pub(crate) fn wait_until_wanted(&self, timeout: Duration) -> bool {
        self.files.wait_until_wanted(timeout)
    }

    pub(crate) fn pause_preparing(&self, pause: Duration) {
        self.files.pause_preparing(pause);
    }

    pub(crate) fn stop_threads(&self) {
        self.queue.stop();
        self.files.stop_preparing();
    }

    fn committer(&self) -> Result<MutexGuard<'_, Committer>, StoreError> {
        self.committer.lock().map_err(|_| {
            // Half a commit may be in there; nobody can tell what it came to.
            let cause = "a commit panicked";
            self.health.poison(cause);
            StoreError::Poisoned {
                cause: cause.into(),
            }
        })
    }

    fn commit_queued(&self, committer: &mut Committer) -> Result<Vec<Committed>, StoreError> {
        if let Some(cause) = self.health.cause() {
            return Err(StoreError::Poisoned { cause });
        }
        let committed = committer.commit(
            &self.queue,
            &self.files,
            &self.published,
            &self.statistic,
            &self.stalls,
        );
        if let (Ok(_), Some(cause)) = (&committed, self.health.cause()) {
            // It took longer than anybody was to wait: who waited has been told otherwise.
            return Err(StoreError::Poisoned { cause });
        }
        if let Err(error) = &committed {
            self.health.poison(&error.to_string());
            self.queue.taken_is_done();
        }
        committed
    }

    /// The cells of a partition that records may be submitted to.
    fn accepting(&self, partition: PartitionId) -> Result<Arc<PartitionCells>, StoreError> {
        self.health.check()?;
        let cells = self.cells.partition(partition);
        match cells.is_wounded() {
            true => Err(StoreError::Wounded { partition }),
            false => Ok(cells),
        }
    }

    /// Commits what is queued, on behalf of a flush, and leaves it to the committer to tell.
    pub(crate) fn commit_before_flush(&self) -> Result<(), StoreError> {
        // The lock alone waits for a commit that is under way.
        let mut committer = self.committer()?;
        let committed = self.commit_queued(&mut committer);
        if committed.as_ref().is_ok_and(Vec::is_empty) {
            return Ok(());
        }
        let outcome = committed.map(|committed| committer.leave_untold(committed));
        drop(committer);
        self.queue.tell();
        outcome
    }

    /// Partitions that have lost something here.
    pub(crate) fn condemned(&self) -> MutexGuard<'_, Condemned> {
        lock(&self.condemned)
    }

    pub(crate) fn refills(&self) -> MutexGuard<'_, BTreeMap<PartitionId, Position>> {
        lock(&self.refills)
    }

    /// What was promised here.
    pub(crate) fn promises(&self) -> MutexGuard<'_, Promises> {
        lock(&self.promises)
    }

    /// Held over a flush: nothing reaches the engine meanwhile.
    pub(crate) fn hold_flushing(&self) -> MutexGuard<'_, ()> {
        lock(&self.flushing)
    }

    pub(crate) fn queue(&self) -> &CommitQueue {
        &self.queue
    }

    /// The list of cuts.
    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    /// Held while a snapshot is taken or installed, or a log is cut.
    pub(crate) fn hold_snapshots(&self) -> MutexGuard<'_, ()> {
        lock(&self.snapshotting)
    }

    fn flush(&self) -> Result<FlushReport, StoreError> {
        let order = lock(&self.flushing);
        self.flush_in_order(&order)
    }

    pub(crate) fn flush_in_order(
        &self,
        _order: &MutexGuard<'_, ()>,
    ) -> Result<FlushReport, StoreError> {
        // Read before the journal's end is: an older mark only replays more.
        let applied = checkpoint::applied_marks(&self.cells, &self.published());
        let applied = |partition| {
            let found = applied.binary_search_by_key(&partition, |(id, _)| *id);
            found.map_or(Seq::NONE, |index| applied[index].1)
        };
        let start = self.journal_start();
        let (rows, replay_from) =
            checkpoint::compute(self.node, &mut self.published(), &applied, start);
        let freeze = self.cells.freeze_once(rows);
        // A copy may show what is not durable yet. The engine may never be ahead of the journal:
        // what is frozen was queued before, so it is durable after this.
        let flushed = self
            .commit_before_flush()
            .and_then(|()| Ok(self.cells.write_frozen(freeze)?));
        if flushed.as_ref().map_or(true, |report| report.retried) {
            self.published().index.save_again();
        } else {
            *lock(&self.replay_place) = replay_from;
        }
        flushed
    }

    pub(crate) fn published(&self) -> MutexGuard<'_, Published> {
        lock(&self.published)
    }

    pub(crate) fn snapshots(&self) -> MutexGuard<'_, SnapshotSet> {
        lock(&self.snapshots)
    }

    pub(crate) fn space(&self) -> &Space {
        &self.space
    }

    pub(crate) fn cell_store(&self) -> &CellStore {
        &self.cells
    }

    pub(crate) fn files(&self) -> &FileSet {
        &self.files
    }

    pub(crate) fn disk(&self) -> Arc<dyn Disk> {
        Arc::clone(&self.disk)
    }

    pub(crate) fn replay_place(&self) -> Place {
        *lock(&self.replay_place)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Store {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("Store");
        shown
            .field("dir", &self.dir)
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}
