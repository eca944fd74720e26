//! The cells of one partition.
//!
//! **Owns**: the locks of its queue and overlay, folding, point reads.
//! **Does not own**: range reads (`scan`), cells past their time (`due`), writing to the engine
//! (`flush`).
//!
//! Locks, always taken in this order: `folding`, `unapplied`, `overlay`. None is held while the
//! engine is written; a read holds `overlay` over the engine only after it lost a race thrice.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard};

use domicile_proto::{Epoch, PartitionId, Seq};

use super::cell::{Cell, CellRead};
use super::occupancy::Occupancy;
use super::overlay::{Frozen, Overlay};
use super::rows::{CellPrefix, PartitionMarks};
use super::unapplied::{Unapplied, UnappliedQueue, UnappliedRecord};
use crate::engine::{Engine, EngineError};

/// Records folded under one hold of the overlay's lock: at 0.3 to 0.8 us each, readers wait 0.2 ms
/// at most. Twice as many double that and save one lock in 512 records.
const FOLD_SLICE_RECORDS: usize = 256;

/// Tries of a read without a lock over the engine. A try fails only if a flush began during it,
/// which happens a few times a second at most.
const UNLOCKED_TRIES: u32 = 3;

const UNPOISONED: &str = "no code panics while it holds this lock, short of a broken invariant";

/// The cells of one partition: records go in by [`enqueue`](Self::enqueue), become readable by
/// [`advance`](Self::advance).
///
/// - Records are enqueued without holes and applied in that order, each as a whole.
/// - A read sees every record up to its `applied_upto` and none after.
pub struct PartitionCells {
    partition: PartitionId,
    pub(super) prefix: CellPrefix,
    pub(super) engine: Arc<dyn Engine>,
    occupancy: Arc<Occupancy>,
    /// Serialises folds; keeps the allocation of the slice being folded.
    folding: Mutex<Vec<Unapplied>>,
    unapplied: Mutex<UnappliedQueue>,
    overlay: RwLock<Overlay>,
    /// Written under the overlay's write lock.
    applied_upto: AtomicU64,
    /// How often the overlay was frozen. Raised under the overlay's write lock, before any cell
    /// of that freeze is in the engine: a read that finds it unchanged saw no newer cell there.
    freezes: AtomicU64,
    /// The engine's intent mark: none of its cells is newer.
    intent_upto: AtomicU64,
    /// The engine's cells may be as new as this: until as much is applied, what it shows is no
    /// state of the partition. The highest number there is while they are being replaced.
    readable_from: AtomicU64,
    /// The log was cut and the engine's cells are not those of the fork: nothing is taken.
    is_wounded: AtomicBool,
}

impl PartitionCells {
    pub(super) fn new(
        marks: PartitionMarks,
        engine: Arc<dyn Engine>,
        occupancy: Arc<Occupancy>,
    ) -> Self {
        let PartitionMarks {
            partition,
            applied_upto,
            intent_upto,
        } = marks;
        Self {
            partition,
            prefix: CellPrefix::of(partition),
            engine,
            occupancy,
            folding: Mutex::default(),
            unapplied: Mutex::new(UnappliedQueue::starting_after(applied_upto)),
            overlay: RwLock::default(),
            applied_upto: AtomicU64::new(applied_upto.get()),
            freezes: AtomicU64::new(0),
            intent_upto: AtomicU64::new(intent_upto.get()),
            readable_from: AtomicU64::new(intent_upto.get()),
            is_wounded: AtomicBool::new(false),
        }
    }

    /// Whose cells these are.
    #[must_use]
    pub fn partition(&self) -> PartitionId {
        self.partition
    }

    /// The last record that reads see.
    #[must_use]
    pub fn applied_upto(&self) -> Seq {
        Seq::new(self.applied_upto.load(Ordering::Acquire))
    }

    /// The engine's intent mark: none of its cells is newer.
    #[must_use]
    pub fn intent_upto(&self) -> Seq {
        Seq::new(self.intent_upto.load(Ordering::Acquire))
    }

    /// Whether reads are answered: not while the engine's cells are newer than what is applied, or
    /// are being replaced.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.applied_upto.load(Ordering::Acquire) >= self.readable_from.load(Ordering::Acquire)
    }

    /// Answers no read until [`PartitionCells::reopen`]: those under way come to nothing.
    ///
    /// # Panics
    /// As [`PartitionCells::enqueued_upto`].
    pub(crate) fn close(&self) {
        let overlay = self.overlay.write().expect(UNPOISONED);
        self.readable_from.store(u64::MAX, Ordering::Release);
        self.freezes.fetch_add(1, Ordering::AcqRel);
        drop(overlay);
    }

    /// Forgets everything above the engine: its cells are, or will be, those of a snapshot that has
    /// every record up to `applied_upto` and none above `intent_upto`.
    ///
    /// # Panics
    /// If a flush is under way, or the cells answer reads.
    pub(crate) fn rebase(&self, applied_upto: Seq, intent_upto: Seq) {
        assert!(!self.is_readable(), "{} rebased while read", self.partition);
        let _fold = self.folding.lock().expect(UNPOISONED);
        let mut queue = self.unapplied.lock().expect(UNPOISONED);
        let mut overlay = self.overlay.write().expect(UNPOISONED);
        self.occupancy.unapplied_bytes.subtract(queue.bytes());
        self.occupancy.unapplied_records.subtract(queue.len());
        *queue = UnappliedQueue::starting_after(applied_upto);
        let (bytes, records) = overlay.clear();
        self.occupancy.active_bytes.subtract(bytes);
        self.occupancy.records_since_flush.subtract(records);
        let applied_upto = applied_upto.get();
        self.applied_upto.store(applied_upto, Ordering::Release);
        let intent_upto = intent_upto.get();
        self.intent_upto.store(intent_upto, Ordering::Release);
    }

    /// Takes nothing until [`PartitionCells::mend`]: the log was cut.
    pub(crate) fn wound(&self) {
        self.is_wounded.store(true, Ordering::Release);
    }

    /// Takes records again.
    pub(crate) fn mend(&self) {
        self.is_wounded.store(false, Ordering::Release);
    }

    /// Whether the log was cut and the cells are not those of the fork yet: nothing is taken.
    #[must_use]
    pub fn is_wounded(&self) -> bool {
        self.is_wounded.load(Ordering::Acquire)
    }

    /// Answers reads again: there is nothing of the partition, here or elsewhere.
    ///
    /// # Panics
    /// If something was enqueued.
    pub fn reopen_empty(&self) {
        let enqueued_upto = self.enqueued_upto();
        assert!(
            enqueued_upto == Seq::NONE,
            "{} up to {enqueued_upto} taken for empty",
            self.partition
        );
        self.reopen();
    }

    /// Answers reads again, once everything that the engine may hold is applied.
    pub(crate) fn reopen(&self) {
        let intent_upto = self.intent_upto.load(Ordering::Acquire);
        self.readable_from.store(intent_upto, Ordering::Release);
    }

    /// The last record enqueued.
    ///
    /// # Panics
    /// Never, unless another call of this partition panicked.
    #[must_use]
    pub fn enqueued_upto(&self) -> Seq {
        self.unapplied.lock().expect(UNPOISONED).enqueued_upto()
    }

    /// How many records are enqueued and not applied.
    ///
    /// # Panics
    /// As [`PartitionCells::enqueued_upto`].
    #[must_use]
    pub fn unapplied_records(&self) -> u64 {
        self.unapplied.lock().expect(UNPOISONED).len()
    }

    /// What they take in memory.
    ///
    /// # Panics
    /// As [`PartitionCells::enqueued_upto`].
    #[must_use]
    pub fn unapplied_bytes(&self) -> u64 {
        self.unapplied.lock().expect(UNPOISONED).bytes()
    }

    /// Takes the next record, which is not readable yet.
    ///
    /// # Panics
    /// If `seq` is not the one after the last enqueued.
    pub fn enqueue(&self, epoch: Epoch, seq: Seq, record: UnappliedRecord) {
        self.enqueue_all(epoch, seq, std::iter::once(record));
    }

    /// Takes the next records, the first of which is at `first_seq`.
    ///
    /// # Panics
    /// If `first_seq` is not the one after the last enqueued.
    pub fn enqueue_all(
        &self,
        epoch: Epoch,
        first_seq: Seq,
        records: impl IntoIterator<Item = UnappliedRecord>,
    ) {
        let mut bytes = 0;
        let mut seq = first_seq;
        let mut queue = self.unapplied.lock().expect(UNPOISONED);
        for record in records {
            bytes += queue.push(epoch, seq, record);
            seq = seq.next();
        }
        // Counted before the lock is given back, or a fold could subtract them first.
        self.occupancy.unapplied_bytes.add(bytes);
        self.occupancy.unapplied_records.add(seq.since(first_seq));
    }

    /// Makes records up to `upto` readable, as far as they are enqueued; returns how many. Works
    /// in memory alone.
    ///
    /// # Panics
    /// As [`PartitionCells::enqueued_upto`].
    pub fn advance(&self, upto: Seq) -> u64 {
        let mut slice = self.folding.lock().expect(UNPOISONED);
        let mut applied = 0;
        loop {
            let drained_bytes = {
                let mut queue = self.unapplied.lock().expect(UNPOISONED);
                queue.drain(upto, FOLD_SLICE_RECORDS, &mut slice)
            };
            let records = slice.len();
            if records > 0 {
                self.fold(&mut slice);
                self.occupancy.unapplied_bytes.subtract(drained_bytes);
                self.occupancy.unapplied_records.subtract(records as u64);
                applied += records as u64;
            }
            if records < FOLD_SLICE_RECORDS {
                return applied;
            }
        }
    }

    fn fold(&self, slice: &mut Vec<Unapplied>) {
        let Some(last) = slice.last().map(|unapplied| unapplied.seq) else {
            return;
        };
        let records = slice.len() as u64;
        let mut overlay = self.overlay.write().expect(UNPOISONED);
        let before = overlay.bytes();
        slice
            .drain(..)
            .for_each(|unapplied| overlay.fold(unapplied));
        self.applied_upto.store(last.get(), Ordering::Release);
        // Counted before the lock is given back, or a freeze could subtract them first.
        self.occupancy.active_bytes.change(before, overlay.bytes());
        self.occupancy.records_since_flush.add(records);
    }

    /// The cell of a key.
    ///
    /// # Errors
    /// [`EngineError`] if the engine had to be asked and failed.
    ///
    /// # Panics
    /// As [`PartitionCells::enqueued_upto`].
    pub fn get(&self, key: &[u8]) -> Result<CellRead, EngineError> {
        self.read_consistently(|view| {
            let applied_upto = view.applied_upto;
            if let Some(cell) = view.overlay().find(key) {
                let cell = cell.value.is_some().then(|| cell.clone());
                return Ok(CellRead { cell, applied_upto });
            }
            view.release();
            let stored = self.engine.get(&self.prefix.row(key))?;
            let cell = stored.map(|stored| Cell::decode(&stored)).transpose()?;
            Ok(CellRead { cell, applied_upto })
        })
    }

    /// The cell of a key as far as records are applied, or newer: what the engine holds beyond that
    /// is not hidden. Only of use to whoever folds the log over it.
    ///
    /// # Errors
    /// As [`PartitionCells::get`]; while the engine's cells are being replaced.
    pub(crate) fn get_ahead(&self, key: &[u8]) -> Result<CellRead, EngineError> {
        // Held over the engine: no flush begins meanwhile.
        let overlay = self.overlay.read().expect(UNPOISONED);
        let applied_upto = self.applied_upto();
        let readable_from = self.readable_from.load(Ordering::Acquire);
        if readable_from == u64::MAX {
            let needed_upto = Seq::new(readable_from);
            return Err(EngineError::Filling {
                applied_upto,
                needed_upto,
            });
        }
        let cell = match overlay.find(key) {
            Some(cell) => cell.value.is_some().then(|| cell.clone()),
            None => {
                let stored = self.engine.get(&self.prefix.row(key))?;
                stored.map(|stored| Cell::decode(&stored)).transpose()?
            }
        };
        drop(overlay);
        Ok(CellRead { cell, applied_upto })
    }

    /// Reads overlay and engine as of one moment: again, if the engine may have changed meanwhile.
    pub(super) fn read_consistently<T>(
        &self,
        mut read: impl FnMut(&mut View<'_>) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        for _ in 0..UNLOCKED_TRIES {
            let mut view = self.view()?;
            let freezes = view.freezes;
            let answer = read(&mut view)?;
            if self.freezes.load(Ordering::Acquire) == freezes {
                return Ok(answer);
            }
        }
        let mut view = self.view()?;
        view.is_held = true;
        read(&mut view)
    }

    pub(super) fn view(&self) -> Result<View<'_>, EngineError> {
        let overlay = self.overlay.read().expect(UNPOISONED);
        let applied_upto = self.applied_upto();
        let readable_from = self.readable_from.load(Ordering::Acquire);
        if applied_upto.get() < readable_from {
            let needed_upto = Seq::new(readable_from);
            return Err(EngineError::Filling {
                applied_upto,
                needed_upto,
            });
        }
        let freezes = self.freezes.load(Ordering::Acquire);
        Ok(View {
            overlay: Some(overlay),
            applied_upto,
            freezes,
            is_held: false,
        })
    }

    /// Moves the active overlay aside for a flush.
    pub(super) fn freeze(&self) -> Option<Arc<Frozen>> {
        let mut overlay = self.overlay.write().expect(UNPOISONED);
        let frozen = overlay.freeze(self.applied_upto())?;
        self.freezes.fetch_add(1, Ordering::AcqRel);
        self.occupancy.active_bytes.subtract(frozen.bytes);
        self.occupancy.records_since_flush.subtract(frozen.records);
        self.occupancy.frozen_bytes.add(frozen.bytes);
        Some(frozen)
    }

    /// Raises the intent mark for a flush up to `upto`; what it is then.
    pub(super) fn raise_intent(&self, upto: Seq) -> Seq {
        let before = self.intent_upto.fetch_max(upto.get(), Ordering::AcqRel);
        Seq::new(before).max(upto)
    }

    /// Forgets the frozen overlay: the engine has its cells.
    pub(super) fn thaw(&self) {
        let frozen = self.overlay.write().expect(UNPOISONED).frozen.take();
        let frozen = frozen.expect("thawed by the flush that froze it, once");
        self.occupancy.frozen_bytes.subtract(frozen.bytes);
        // The map is dropped by whoever holds it last, without the lock.
    }

    /// Counts anew what the counters say.
    #[cfg(test)]
    pub(super) fn recount(&self) -> (u64, u64) {
        let overlay = self.overlay.read().expect(UNPOISONED);
        let active = super::overlay::count_bytes(&overlay.active);
        assert_eq!(active, overlay.bytes());
        let frozen = overlay.frozen.as_ref().map_or(0, |frozen| {
            assert_eq!(super::overlay::count_bytes(&frozen.cells), frozen.bytes);
            frozen.bytes
        });
        (active, frozen)
    }
}

impl fmt::Debug for PartitionCells {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("PartitionCells")
            .field("partition", &self.partition)
            .field("applied_upto", &self.applied_upto())
            .finish_non_exhaustive()
    }
}

/// The overlay as of one moment.
pub(super) struct View<'a> {
    overlay: Option<RwLockReadGuard<'a, Overlay>>,
    pub(super) applied_upto: Seq,
    freezes: u64,
    is_held: bool,
}

impl View<'_> {
    /// The overlay, until released.
    pub(super) fn overlay(&self) -> &Overlay {
        self.overlay
            .as_deref()
            .expect("asked before it is released")
    }

    /// A number that is another one after every freeze and after every thaw: while it stays, the
    /// frozen map is the same, and so is the engine unless something is frozen.
    pub(super) fn generation(&self) -> u64 {
        2 * self.freezes + u64::from(self.overlay().frozen.is_some())
    }

    /// Ends the use of the overlay. Gives its lock back, unless the read holds it to the end to
    /// keep a flush from beginning.
    pub(super) fn release(&mut self) {
        if !self.is_held {
            self.overlay = None;
        }
    }
}
