//! How a store is opened.
//!
//! **Owns**: the options, their defaults and bounds.
//! **Does not own**: policies of keyspaces (proto), options of a node (server).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use domicile_proto::NodeId;

use crate::cells::CellOptions;
use crate::engine::Engine;

/// Least bytes of a journal file: 64 KiB, so that tests can roll often. Smaller ones hold little
/// but their headers.
const JOURNAL_FILE_BYTES_MIN: u64 = 64 << 10;

/// Most bytes queued for one commit: 1 GiB, as a frame's length has 32 bits.
const QUEUE_BYTES_MAX_MAX: u64 = 1 << 30;

/// 20 s: a disk that recovers by itself has done so by then, and nobody waits for longer. Doubled,
/// a region with a dying disk counts as healthy for twice as long.
const STALL_MAX: Duration = Duration::from_secs(20);

/// What serves the cells.
#[derive(Clone, Default)]
pub enum EngineChoice {
    /// sled, in the data directory.
    #[default]
    Sled,
    /// fjall, in the data directory; only with the cargo feature `fjall`.
    Fjall,
    /// A new one in memory, rebuilt from the journal at every open.
    Memory,
    /// This one, which outlives the store.
    Given(Arc<dyn Engine>),
}

impl EngineChoice {
    /// Whether this build has it.
    #[must_use]
    pub const fn is_built(&self) -> bool {
        cfg!(feature = "fjall") || !matches!(self, Self::Fjall)
    }

    /// Whether it keeps its rows in the data directory.
    pub(crate) const fn is_on_disk(&self) -> bool {
        matches!(self, Self::Sled | Self::Fjall)
    }
}

impl fmt::Debug for EngineChoice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sled => formatter.write_str("Sled"),
            Self::Fjall => formatter.write_str("Fjall"),
            Self::Memory => formatter.write_str("Memory"),
            Self::Given(engine) => write!(formatter, "Given({})", engine.name()),
        }
    }
}

/// What an open does about damage to what was durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnDamage {
    /// It fails, and names the first of it. Nothing is changed.
    #[default]
    Refuse,
    /// It goes on with the partitions that are whole, and lists the others.
    Quarantine,
}

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// The node that a new directory is made for, minted if `None`; an existing directory must be
    /// its own.
    pub node_id: Option<NodeId>,
    /// Bytes of a journal file, at least 64 KiB. Twice as much is twice the zeros written ahead
    /// and half as many rolls.
    pub journal_file_bytes: u64,
    /// Bytes that may wait for a commit or be in one, at most 1 GiB. Twice as much admits bursts
    /// of twice the size, and the memory for them.
    pub queue_bytes_max: u64,
    /// How long a commit or a batch of the engine may take before the store counts as failed.
    pub stall_max: Duration,
    /// What is done about damage.
    pub on_damage: OnDamage,
    /// What serves the cells.
    pub engine: EngineChoice,
    /// Bytes of the engine's cache.
    pub engine_cache_bytes: u64,
    /// Bytes of cells that are not in the engine yet. Twice as much coalesces more, and takes that
    /// much more memory.
    pub overlay_bytes_max: u64,
    /// Records after which a flush is due, however few bytes of cells they made. Twice as many
    /// double the time of a replay after a crash.
    pub replay_records_max: u64,
}

impl Default for StoreOptions {
    /// 64 MiB each: journal file, queue, overlay. Twice as much for the engine: 10,000 hot keys of
    /// 10,000,000, and what leads to them, do not fit in 64 MiB.
    fn default() -> Self {
        let cells = CellOptions::default();
        Self {
            node_id: None,
            journal_file_bytes: 64 << 20,
            queue_bytes_max: 64 << 20,
            stall_max: STALL_MAX,
            on_damage: OnDamage::Refuse,
            engine: EngineChoice::Sled,
            engine_cache_bytes: 128 << 20,
            overlay_bytes_max: cells.overlay_bytes_max,
            replay_records_max: cells.replay_records_max,
        }
    }
}

impl StoreOptions {
    /// Those of the cells.
    pub(crate) fn cells(&self) -> CellOptions {
        CellOptions {
            overlay_bytes_max: self.overlay_bytes_max,
            replay_records_max: self.replay_records_max,
            ..CellOptions::default()
        }
    }

    /// The same options, within their bounds.
    pub(crate) fn bounded(mut self) -> Self {
        self.journal_file_bytes = self.journal_file_bytes.max(JOURNAL_FILE_BYTES_MIN);
        self.queue_bytes_max = self.queue_bytes_max.min(QUEUE_BYTES_MAX_MAX);
        self
    }
}
