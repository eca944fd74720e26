//! How a node is opened: everything it must be told, already checked.
//!
//! **Owns**: the plain options of a node and their defaults.
//! **Does not own**: files, flags and environment (the server's `config`).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use domicile_core::control::Haste;
use domicile_proto::{Keyspace, Name, NodeId, RegionId};
use domicile_storage::{EngineChoice, StoreOptions};

use crate::control::Pace;

/// Which engine serves the cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Engine {
    /// sled, on disk.
    #[default]
    Sled,
    /// fjall, on disk; only in builds with the cargo feature `fjall`.
    Fjall,
    /// Memory; rebuilt from the journal at every open.
    Memory,
}

impl Engine {
    /// All of them, whether or not this build has them.
    pub const ALL: [Self; 3] = [Self::Sled, Self::Fjall, Self::Memory];

    /// The word for it in a configuration.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Sled => "sled",
            Self::Fjall => "fjall",
            Self::Memory => "memory",
        }
    }

    /// Whether this build has it. If not, its cargo feature is named as it is.
    #[must_use]
    pub fn is_built(self) -> bool {
        self.choice().is_built()
    }

    pub(crate) const fn choice(self) -> EngineChoice {
        match self {
            Self::Sled => EngineChoice::Sled,
            Self::Fjall => EngineChoice::Fjall,
            Self::Memory => EngineChoice::Memory,
        }
    }
}

/// One region of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionSpec {
    /// Its name.
    pub name: Name,
    /// Its id.
    pub id: RegionId,
    /// Where its node listens for peers, as `http://host:port`; `None` for the own region.
    pub peer_address: Option<String>,
    /// Whether it votes and holds no data.
    pub is_witness: bool,
}

impl RegionSpec {
    /// A region whose id follows from its name.
    #[must_use]
    pub fn new(name: Name, peer_address: Option<String>) -> Self {
        let id = RegionId::of(&name);
        Self {
            name,
            id,
            peer_address,
            is_witness: false,
        }
    }
}

/// How homes are agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlOptions {
    /// The largest round trip between two regions: all times follow from it.
    pub rtt_max: Duration,
    /// How soon a silent node is given up.
    pub haste: Haste,
}

impl ControlOptions {
    pub(crate) fn pace(self) -> Pace {
        match self.haste {
            Haste::Default => Pace::Steady,
            Haste::Aggressive => Pace::Aggressive,
        }
    }
}

/// Everything a node must be told.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// The cluster; nodes of another one are refused.
    pub cluster: Name,
    /// The own region.
    pub region: Name,
    /// All regions, the own one included.
    pub regions: Vec<RegionSpec>,
    /// All keyspaces.
    pub keyspaces: Vec<Keyspace>,
    /// How homes are agreed on; `None`: they are static, each partition in its region.
    pub control: Option<ControlOptions>,
    /// The node of this region whose disk is lost, and whose place this one takes: it never comes
    /// back. Its homes are taken over, and it is forgotten.
    pub replaces: Option<NodeId>,
    /// Where peers may dial in; `None`: nowhere.
    pub listen: Option<SocketAddr>,
    /// The data directory.
    pub data: PathBuf,
    /// Which engine serves the cells.
    pub engine: Engine,
    /// The engine's cache, in bytes.
    pub engine_cache_bytes: u64,
    /// Cells in memory that the engine does not have yet, in bytes.
    pub overlay_bytes_max: u64,
    /// Size of a journal file, in bytes.
    pub journal_file_bytes: u64,
    /// Size of the journal above which what nobody needs of it is deleted, in bytes.
    pub journal_keep_bytes: u64,
    /// How much of the journal is kept for a copy that lacks it, in bytes; above it the copy needs
    /// a snapshot once it is back.
    pub copy_keep_bytes: u64,
    /// How long a commit or the engine may be at one call before the node counts as failed.
    pub stall_max: Duration,
    /// How fast what was written long ago is read again, in bytes a second; 0: not at all.
    pub scrub_bytes_per_s: u64,
    /// How long between the end of one such pass and the next.
    pub scrub_pause: Duration,
    /// The age of the oldest write that is kept for a copy that lacks it.
    pub copy_keep: Duration,
    /// Watches at once; further ones are refused.
    pub watches_max: usize,
}

/// 512 MiB: a copy that was away for as many writes catches up from the journal. Doubled, so is
/// that, and the disk that it takes.
const JOURNAL_KEEP_BYTES: u64 = 512 << 20;

/// 4 GiB: hours of a usual load, and a disk that is not full at once when a region is lost.
/// Doubled, so is what an absent copy may take.
const COPY_KEEP_BYTES: u64 = 4 << 30;

/// A day: who is away for longer is hardly away by accident, and a snapshot is cheaper than the log
/// of days. Doubled, a small keyspace keeps as much more of it.
const COPY_KEEP: Duration = Duration::from_secs(24 * 3600);
/// 1,024, as many as connections: an idle one costs a few KiB, a stuck one half a mebibyte for some
/// seconds. Doubled, so is that.
const WATCHES_MAX: usize = 1024;

/// 4 MiB: a gibibyte in four minutes, and no more than a hundredth of a disk's time. Doubled, it
/// takes as much more from commits.
const SCRUB_BYTES_PER_S: u64 = 4 << 20;

/// An hour. Doubled, damage is found that much later.
const SCRUB_PAUSE: Duration = Duration::from_secs(3600);

impl NodeOptions {
    /// One region named `local`, no peers, no keyspaces yet.
    ///
    /// # Panics
    /// Never: the names used are within the grammar.
    #[must_use]
    pub fn single(data: impl Into<PathBuf>) -> Self {
        let region = Name::new("local").expect("a constant within the grammar");
        let store = StoreOptions::default();
        Self {
            cluster: Name::new("domicile").expect("a constant within the grammar"),
            regions: vec![RegionSpec::new(region.clone(), None)],
            region,
            keyspaces: Vec::new(),
            control: None,
            replaces: None,
            listen: None,
            data: data.into(),
            engine: Engine::Sled,
            engine_cache_bytes: store.engine_cache_bytes,
            overlay_bytes_max: store.overlay_bytes_max,
            journal_file_bytes: store.journal_file_bytes,
            journal_keep_bytes: JOURNAL_KEEP_BYTES,
            copy_keep_bytes: COPY_KEEP_BYTES,
            copy_keep: COPY_KEEP,
            stall_max: store.stall_max,
            scrub_bytes_per_s: SCRUB_BYTES_PER_S,
            scrub_pause: SCRUB_PAUSE,
            watches_max: WATCHES_MAX,
        }
    }
}
