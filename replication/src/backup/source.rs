//! A backup on its way out of a node.
//!
//! **Owns**: that there is one at a time, the pace, that the journal is kept meanwhile, that it is
//! given up before the disk is full.
//! **Does not own**: what it consists of (storage), where it goes (the caller).

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use domicile_core::REQUESTS_MAX;
use domicile_proto::{Keyspace, Name, PartitionId, Reason};
use domicile_storage::SnapshotPlan;
use domicile_storage::backup::{BackupPiece, BackupReader};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::call::{BackupCall, CheckedCall};
use crate::clock::Clock;
use crate::driver::lock;
use crate::error::Error;
use crate::node::{Node, NodeCore};
use crate::options::RegionSpec;

/// How fast a backup is read. Doubled, it competes as much more with commits for the disk; halved,
/// 1 GiB takes a minute instead of half of one.
const BYTES_PER_S: u64 = 32 << 20;

/// Whose turn it is: backup or cut of the journal.
#[derive(Debug)]
pub(crate) struct BackupTurn {
    backups: Arc<Semaphore>,
    cutting: Mutex<()>,
}

impl Default for BackupTurn {
    fn default() -> Self {
        Self {
            backups: Arc::new(Semaphore::new(1)),
            cutting: Mutex::new(()),
        }
    }
}

impl BackupTurn {
    /// Cuts the journal unless a backup reads it.
    pub(crate) fn cut<T>(&self, cut: impl FnOnce() -> T) -> Option<T> {
        let _held = lock(&self.cutting);
        (self.backups.available_permits() > 0).then(cut)
    }

    fn begin(&self) -> Result<OwnedSemaphorePermit, Error> {
        let permit = Arc::clone(&self.backups).try_acquire_owned();
        let permit = permit.map_err(|_| {
            Error::new(
                Reason::Overloaded,
                "another backup is under way: 1, limit 1",
            )
        })?;
        // A cut that is under way ends first; none begins behind it.
        drop(lock(&self.cutting));
        Ok(permit)
    }
}

/// One backup, to be read to its end. While it lives no file of the journal is deleted.
pub struct BackupSource {
    core: Arc<NodeCore>,
    keyspaces: Vec<Arc<Keyspace>>,
    place: RegionSpec,
    reader: BackupReader,
    created_at_ms: u64,
    began: Instant,
    bytes: u64,
    _permit: OwnedSemaphorePermit,
}

impl Node {
    /// Begins a backup of what this node holds.
    ///
    /// # Errors
    /// `DATA_RESIDENCY` for a keyspace that may not be where the backup will lie;
    /// `KEYSPACE_NOT_FOUND`, `REGION_NOT_FOUND`; `CHECKSUM_MISMATCH` for a partition that is
    /// damaged here; `OVERLOADED` while another one is under way.
    pub fn backup(&self, call: BackupCall) -> Result<BackupSource, Error> {
        let core = Arc::clone(self.core());
        let CheckedCall {
            keyspaces,
            place,
            known,
        } = call.check(&core)?;
        let permit = core.backup_turn.begin()?;
        let created_at_ms = Clock::wall_ms();
        let plan = SnapshotPlan {
            now_ms: created_at_ms,
            requests_max: REQUESTS_MAX,
        };
        let mut partitions: Vec<PartitionId> =
            keyspaces.iter().flat_map(|it| it.partitions()).collect();
        partitions.sort_unstable();
        let reader = BackupReader::new(Arc::clone(&core.store), partitions, &known, plan);
        Ok(BackupSource {
            core,
            keyspaces,
            place,
            reader,
            created_at_ms,
            began: Instant::now(),
            bytes: 0,
            _permit: permit,
        })
    }
}

impl BackupSource {
    /// Whose data.
    #[must_use]
    pub fn cluster(&self) -> &Name {
        &self.core.topology.cluster
    }

    /// Which keyspaces are in it.
    #[must_use]
    pub fn keyspaces(&self) -> &[Arc<Keyspace>] {
        &self.keyspaces
    }

    /// In which region it will lie.
    #[must_use]
    pub fn place_region(&self) -> &RegionSpec {
        &self.place
    }

    /// When it was begun, in ms since 1970.
    #[must_use]
    pub fn created_at_ms(&self) -> u64 {
        self.created_at_ms
    }

    /// The next piece; `None` behind the last. Blocks: on the disk, and to keep the pace.
    ///
    /// # Errors
    /// `DRAINING` once the node closes; `DISK_FULL` when the journal that is kept for the backup
    /// leaves too little room; what the store says.
    pub fn read_on(&mut self) -> Result<Option<BackupPiece>, Error> {
        if *self.core.closed.borrow() {
            return Err(Error::new(Reason::Draining, "the node is closing"));
        }
        self.core.store.check_space()?;
        let piece = self.reader.read_on(&mut self.core.snapshot_pace())?;
        self.core.driver.room.notify_waiters();
        let bytes = match &piece {
            Some(BackupPiece::Bytes(bytes) | BackupPiece::Segments(bytes)) => bytes.len(),
            _ => 0,
        };
        self.bytes += bytes as u64;
        let due = Duration::from_secs_f64(self.bytes as f64 / BYTES_PER_S as f64);
        std::thread::sleep(due.saturating_sub(self.began.elapsed()));
        Ok(piece)
    }
}
