//! The cells of all partitions of a node, above one engine.
//!
//! **Owns**: the partitions' handles, the recovered marks, the bounds of memory, the flush that is
//! under way or due again.
//! **Does not own**: the engine's directory, the thread that flushes (`store` of the crate).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use domicile_proto::PartitionId;

use super::flush::{Checkpoint, FlushReport, Generation};
use super::occupancy::{CellStats, Occupancy};
use super::partition::PartitionCells;
use super::rows::{PartitionMarks, check_format, read_marks};
use crate::engine::{Engine, EngineError};

const UNPOISONED: &str = "no code panics while it holds this lock, short of a broken invariant";

/// The bounds of the cells' memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CellOptions {
    /// Bytes of active and frozen overlay together. A flush is due at half of it, writers are to
    /// pause above it. Twice as much doubles memory, and what a flush coalesces.
    pub overlay_bytes_max: u64,
    /// Records folded since the last flush at which one is due, however small the overlay is:
    /// bounds what a replay after a crash must fold. At twice the value reopening takes twice as
    /// long, and a hot set of keys is written half as often.
    pub replay_records_max: u64,
    /// Cells in one batch of a flush. sled shuts out all readers while it applies one: about 1 ms
    /// at 64. At twice the value they wait twice as long and nothing is faster.
    pub batch_rows_max: usize,
}

impl Default for CellOptions {
    /// 128 MiB: a hot set of 100,000 keys (37 MiB) fits twice, so that a flush of it never makes
    /// writers pause. And a million records: one to two seconds of replay. At 80,000 writes a
    /// second over 100,000 keys that is a flush each 12 s, which takes sled about 1.5 s of a core.
    fn default() -> Self {
        Self {
            overlay_bytes_max: 128 << 20,
            replay_records_max: 1_000_000,
            batch_rows_max: 64,
        }
    }
}

/// What a freeze found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freeze {
    /// Nothing left behind: what was applied until now is frozen.
    New,
    /// What an earlier flush had frozen and could not write.
    Earlier,
}

/// The cells of a node.
///
/// - At most one generation is frozen at a time.
/// - The engine's applied mark of a partition moves only after all its cells up to there.
pub struct CellStore {
    engine: Arc<dyn Engine>,
    options: CellOptions,
    occupancy: Arc<Occupancy>,
    marks: Vec<PartitionMarks>,
    partitions: Mutex<BTreeMap<PartitionId, Arc<PartitionCells>>>,
    /// The frozen generation that a failed flush left behind. Locked over a whole flush.
    flushing: Mutex<Option<Generation>>,
    has_failed_flush: AtomicBool,
}

impl fmt::Debug for CellStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("CellStore")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl CellStore {
    /// Takes over an engine and reads its marks.
    ///
    /// # Errors
    /// [`EngineError`] if its rows cannot be read or are of another format.
    pub fn open(engine: Arc<dyn Engine>, options: CellOptions) -> Result<Self, EngineError> {
        check_format(&*engine)?;
        let marks = read_marks(&*engine)?;
        Ok(Self {
            engine,
            options,
            occupancy: Arc::default(),
            marks,
            partitions: Mutex::default(),
            flushing: Mutex::default(),
            has_failed_flush: AtomicBool::new(false),
        })
    }

    /// The marks found when the engine was opened, in the order of partitions.
    #[must_use]
    pub fn marks(&self) -> &[PartitionMarks] {
        &self.marks
    }

    /// The engine.
    #[must_use]
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// The cells of a partition; they start at its recovered applied mark.
    ///
    /// # Panics
    /// Never, unless another call of this store panicked.
    #[must_use]
    pub fn partition(&self, partition: PartitionId) -> Arc<PartitionCells> {
        let mut partitions = self.partitions.lock().expect(UNPOISONED);
        let cells = partitions.entry(partition).or_insert_with(|| {
            let found = self
                .marks
                .binary_search_by_key(&partition, |marks| marks.partition);
            let none = PartitionMarks::none(partition);
            let marks = found.map_or(none, |index| self.marks[index]);
            let engine = Arc::clone(&self.engine);
            let occupancy = Arc::clone(&self.occupancy);
            Arc::new(PartitionCells::new(marks, engine, occupancy))
        });
        Arc::clone(cells)
    }

    /// Moves what was applied aside for a flush, together with the checkpoint's rows, unless an
    /// earlier flush has left something behind. Between this and [`CellStore::write_frozen`] the
    /// caller makes sure that the journal has what was applied.
    ///
    /// # Panics
    /// As [`CellStore::partition`].
    pub fn freeze_once(&self, checkpoint: Checkpoint) -> Freeze {
        let mut flushing = self.flushing.lock().expect(UNPOISONED);
        if flushing.is_some() {
            return Freeze::Earlier;
        }
        *flushing = Some(self.freeze(checkpoint));
        Freeze::New
    }

    /// Writes what is frozen to the engine. Reads and folds go on meanwhile. After an error it
    /// stays readable and the next call writes it again, with its own checkpoint.
    ///
    /// # Errors
    /// [`EngineError`]; the caller tries again later.
    ///
    /// # Panics
    /// As [`CellStore::partition`].
    pub fn write_frozen(&self, freeze: Freeze) -> Result<FlushReport, EngineError> {
        let mut flushing = self.flushing.lock().expect(UNPOISONED);
        let retried = freeze == Freeze::Earlier;
        let Some(generation) = flushing.take() else {
            return Ok(FlushReport::default());
        };
        match generation.write(&*self.engine, self.options.batch_rows_max) {
            Ok(report) => {
                generation.thaw();
                self.has_failed_flush.store(false, Ordering::Relaxed);
                self.occupancy.flushes.add(1);
                self.engine.sync()?;
                Ok(FlushReport { retried, ..report })
            }
            Err(error) => {
                *flushing = Some(generation);
                self.has_failed_flush.store(true, Ordering::Relaxed);
                self.occupancy.flush_failures.add(1);
                Err(error)
            }
        }
    }

    /// Both at once, for callers that apply only what is durable.
    ///
    /// # Errors
    /// As [`CellStore::write_frozen`].
    ///
    /// # Panics
    /// As [`CellStore::partition`].
    pub fn flush_once(&self, checkpoint: Checkpoint) -> Result<FlushReport, EngineError> {
        let freeze = self.freeze_once(checkpoint);
        self.write_frozen(freeze)
    }

    fn freeze(&self, checkpoint: Checkpoint) -> Generation {
        let partitions: Vec<_> = self
            .partitions
            .lock()
            .expect(UNPOISONED)
            .values()
            .map(Arc::clone)
            .collect();
        Generation::freeze(partitions.into_iter(), checkpoint)
    }

    /// Whether a flush is due: half of the memory is used, a replay would take long, or the last
    /// flush failed.
    #[must_use]
    pub fn needs_flush(&self) -> bool {
        self.occupancy.active_bytes.get() >= self.options.overlay_bytes_max / 2
            || self.occupancy.records_since_flush.get() >= self.options.replay_records_max
            || self.has_failed_flush.load(Ordering::Relaxed)
    }

    /// Whether the overlays take more memory than allowed: writers are to pause until a flush.
    #[must_use]
    pub fn is_stalled(&self) -> bool {
        self.occupancy.overlay_bytes() > self.options.overlay_bytes_max
    }

    /// The counts as they are now.
    #[must_use]
    pub fn stats(&self) -> CellStats {
        self.occupancy.stats()
    }
}
