//! Which snapshots a data directory holds: the newest whole one of each partition.
//!
//! **Owns**: finding them at open, adding one, removing those that a newer one replaces.
//! **Does not own**: their content (`file`), what they allow to be deleted (`retention`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use domicile_proto::{ChainHash, Epoch, NodeId, PartitionId, Seq};

use super::file::{
    RECEIVED_SUFFIX, REQUESTS_SUFFIX, SnapshotReader, SnapshotWriter, UNFINISHED_SUFFIX,
    foreign_path_of, is_snapshot, path_of, remove,
};
use super::format::{Block, KeptRequest, SnapshotHeader, SnapshotOrigin};
use crate::disk::Disk;
use crate::error::StoreError;
use crate::options::OnDamage;
use crate::planted::{Bug, is_planted};

/// What is appended to the name of a snapshot that is damaged.
const DAMAGED_SUFFIX: &str = ".damaged";

/// The directory of snapshots in a data directory.
pub(crate) const SNAPSHOT_DIR: &str = "snapshots";

/// The snapshots of a data directory.
#[derive(Debug)]
pub(crate) struct SnapshotSet {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    node: NodeId,
    newest: BTreeMap<PartitionId, SnapshotHeader>,
    /// From elsewhere, whole, not installed yet.
    received: BTreeMap<PartitionId, SnapshotHeader>,
    /// Partitions whose snapshot a cut took away and of which the requests are left.
    requests_left: BTreeSet<PartitionId>,
    /// Those that hold what was cut from their partition's log: files to be removed.
    aside: BTreeMap<PartitionId, Vec<PathBuf>>,
}

impl SnapshotSet {
    /// Finds the snapshots in a data directory; removes unfinished ones, and those that a newer one
    /// has replaced.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] and its kin for a header that cannot be believed, where that is not
    /// tolerated: the journal before it may be gone. What the operating system says.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        data: &Path,
        node: NodeId,
        on_damage: OnDamage,
    ) -> Result<Self, StoreError> {
        let (set, superfluous) = Self::find(disk, data, node, on_damage)?;
        if set.disk.exists(&set.dir) {
            // A process that was killed may have renamed a snapshot and not made that durable.
            let synced = set.disk.sync_dir(&set.dir);
            synced.map_err(|error| StoreError::io("sync", &set.dir, error))?;
        }
        for path in superfluous {
            remove(&*set.disk, &path)?;
        }
        Ok(set)
    }

    /// Finds the snapshots and changes nothing; the files that are superfluous are named.
    ///
    /// # Errors
    /// As [`SnapshotSet::open`].
    pub(crate) fn find(
        disk: Arc<dyn Disk>,
        data: &Path,
        node: NodeId,
        on_damage: OnDamage,
    ) -> Result<(Self, Vec<PathBuf>), StoreError> {
        let dir = data.join(SNAPSHOT_DIR);
        let names = match disk.list(&dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            names => names.map_err(|error| StoreError::io("list", &dir, error))?,
        };
        let mut superfluous = Vec::new();
        let mut newest: BTreeMap<PartitionId, SnapshotHeader> = BTreeMap::new();
        let (mut received, mut requests_left) = (BTreeMap::new(), BTreeSet::new());
        for name in names {
            let path = dir.join(&name);
            if name.ends_with(UNFINISHED_SUFFIX) {
                superfluous.push(path);
                continue;
            }
            if name.ends_with(RECEIVED_SUFFIX) {
                // A damaged one is as good as none: it can be asked for anew.
                if let Ok(reader) = SnapshotReader::open(&*disk, &path, node) {
                    received.insert(reader.header().partition, *reader.header());
                }
                continue;
            }
            if name.ends_with(REQUESTS_SUFFIX) {
                requests_left.extend(partition_of_requests(&*disk, &path, node));
                continue;
            }
            if !is_snapshot(&name) {
                continue;
            }
            let header = match SnapshotReader::open(&*disk, &path, node) {
                Err(error @ StoreError::Corrupt { .. }) if on_damage == OnDamage::Quarantine => {
                    // It stays where it is, for whoever wants to look into it.
                    tracing::error!(%error, "a snapshot is damaged");
                    continue;
                }
                opened => *opened?.header(),
            };
            if path_of(&dir, header.partition, header.seq) != path {
                let problem = format!("snapshot of {} at {}", header.partition, header.seq);
                return Err(StoreError::corrupt(&path, 0, problem));
            }
            match newest.get(&header.partition) {
                Some(other) if other.seq > header.seq => superfluous.push(path),
                other => {
                    superfluous.extend(other.map(|it| path_of(&dir, it.partition, it.seq)));
                    newest.insert(header.partition, header);
                }
            }
        }
        for partition in newest.keys().filter(|id| requests_left.remove(id)) {
            superfluous.push(foreign_path_of(&dir, *partition, REQUESTS_SUFFIX));
        }
        let set = Self {
            disk,
            dir,
            node,
            newest,
            received,
            requests_left,
            aside: BTreeMap::new(),
        };
        Ok((set, superfluous))
    }

    /// Of which of these partitions no snapshot reaches so far, each with what is wrong: for them
    /// the journal was cut.
    pub(crate) fn uncovered(
        &self,
        covered: &[(PartitionId, Seq)],
    ) -> BTreeMap<PartitionId, StoreError> {
        let mut uncovered = BTreeMap::new();
        for (partition, seq) in covered {
            let both = [self.get(*partition), self.received(*partition)];
            let found = both.into_iter().flatten().map(|found| found.seq).max();
            if found.is_none_or(|found| found < *seq) {
                let path = path_of(&self.dir, *partition, *seq);
                let found = found.map_or("none".to_owned(), |found| found.to_string());
                let problem = format!("the journal was cut for this snapshot; found {found}");
                uncovered.insert(*partition, StoreError::corrupt(&path, 0, problem));
            }
        }
        uncovered
    }

    /// One that was received and not installed yet.
    pub(crate) fn received(&self, partition: PartitionId) -> Option<&SnapshotHeader> {
        self.received.get(&partition)
    }

    /// Takes note of one that was received.
    pub(crate) fn add_received(&mut self, header: SnapshotHeader) {
        self.received.insert(header.partition, header);
    }

    /// One that was received, to be read from its beginning.
    ///
    /// # Errors
    /// As [`SnapshotReader::open`].
    pub(crate) fn read_received(
        &self,
        partition: PartitionId,
    ) -> Result<SnapshotReader, StoreError> {
        let path = foreign_path_of(&self.dir, partition, RECEIVED_SUFFIX);
        SnapshotReader::open(&*self.disk, &path, self.node)
    }

    /// Makes the one that was received the last one of its partition, whatever there was.
    ///
    /// # Errors
    /// What the operating system says; it is then still the one that was received.
    pub(crate) fn adopt(&mut self, partition: PartitionId) -> Result<(), StoreError> {
        let Some(header) = self.received.get(&partition).copied() else {
            return Ok(());
        };
        let path = path_of(&self.dir, partition, header.seq);
        if let Some(older) = self.newest.get(&partition) {
            remove(&*self.disk, &path_of(&self.dir, partition, older.seq))?;
            // Both of them after a loss of power: the one that is newer by its number would count.
            let synced = self.disk.sync_dir(&self.dir);
            synced.map_err(|error| StoreError::io("sync", &self.dir, error))?;
        }
        let received = foreign_path_of(&self.dir, partition, RECEIVED_SUFFIX);
        let renamed = self.disk.rename(&received, &path);
        renamed
            .and_then(|()| self.disk.sync_dir(&self.dir))
            .map_err(|error| StoreError::io("rename", &received, error))?;
        self.received.remove(&partition);
        self.newest.insert(partition, header);
        self.drop_requests(partition)
    }

    /// No longer counts on what holds records above `fork` of a partition, whose log was cut there;
    /// whether any of it has still to be removed.
    pub(crate) fn set_aside(&mut self, partition: PartitionId, fork: Seq) -> bool {
        let holds_cut = |it: Option<&SnapshotHeader>| {
            it.is_some_and(|it| it.newest_seq > fork) && !is_planted(Bug::KeepOrphanSnapshot)
        };
        let mut paths = Vec::new();
        if holds_cut(self.newest.get(&partition)) {
            let own = self.newest.remove(&partition);
            paths.extend(own.map(|it| path_of(&self.dir, partition, it.seq)));
        }
        if holds_cut(self.received.get(&partition)) {
            self.received.remove(&partition);
            paths.push(foreign_path_of(&self.dir, partition, RECEIVED_SUFFIX));
        }
        let aside = self.aside.entry(partition).or_default();
        aside.extend(paths);
        !aside.is_empty()
    }

    /// Removes, durably, what was set aside of a partition, but for the requests up to `upto`: they
    /// are those of the log that stays, and nothing else may have them.
    ///
    /// # Errors
    /// What the operating system says; it stays set aside.
    pub(crate) fn remove_aside(
        &mut self,
        partition: PartitionId,
        upto: Seq,
    ) -> Result<(), StoreError> {
        if let Some(path) = self.own_aside(partition)
            && !is_planted(Bug::ForgetCutRequests)
        {
            match self.leave_requests(&path, upto) {
                // What it had cannot be had from anywhere.
                Err(error @ StoreError::Corrupt { .. }) => {
                    tracing::error!(%error, "requests are lost with a damaged snapshot");
                }
                left => left?,
            }
        }
        for path in self.aside.get(&partition).into_iter().flatten() {
            remove(&*self.disk, path)?;
        }
        let synced = self.disk.sync_dir(&self.dir);
        synced.map_err(|error| StoreError::io("sync", &self.dir, error))?;
        self.aside.remove(&partition);
        Ok(())
    }

    /// The own snapshot that was set aside of a partition, if it is still there.
    fn own_aside(&self, partition: PartitionId) -> Option<PathBuf> {
        let mut paths = self.aside.get(&partition)?.iter();
        let is_own = |path: &&PathBuf| is_snapshot(&path.to_string_lossy());
        let path = paths.find(is_own)?;
        self.disk.exists(path).then(|| path.clone())
    }

    /// Writes the requests up to `upto` of a snapshot to a file of their own, durably.
    fn leave_requests(&mut self, path: &Path, upto: Seq) -> Result<(), StoreError> {
        let reader = SnapshotReader::open(&*self.disk, path, self.node)?;
        let header = *reader.header();
        let (mut reigns, mut requests) = front(reader)?;
        requests.retain(|request| request.seq <= upto);
        reigns.retain(|(_, first)| *first <= upto);
        let (Some(last), Some((epoch, _))) = (requests.last(), reigns.last()) else {
            return Ok(());
        };
        let left = SnapshotHeader {
            node: self.node,
            origin: SnapshotOrigin::Taken,
            epoch: *epoch,
            seq: last.seq,
            newest_seq: last.seq,
            chain: ChainHash::START,
            ..header
        };
        let partition = header.partition;
        let disk = Arc::clone(&self.disk);
        let writer = SnapshotWriter::begin(disk, &self.dir, partition, &reigns, &requests)?;
        writer.finish_as(
            &foreign_path_of(&self.dir, partition, REQUESTS_SUFFIX),
            left,
        )?;
        self.requests_left.insert(partition);
        Ok(())
    }

    /// Removes the requests that were left of a partition: its snapshot has them.
    fn drop_requests(&mut self, partition: PartitionId) -> Result<(), StoreError> {
        if !self.requests_left.remove(&partition) {
            return Ok(());
        }
        let path = foreign_path_of(&self.dir, partition, REQUESTS_SUFFIX);
        remove(&*self.disk, &path)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn node(&self) -> NodeId {
        self.node
    }

    pub(crate) fn get(&self, partition: PartitionId) -> Option<&SnapshotHeader> {
        self.newest.get(&partition)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.newest.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &SnapshotHeader> {
        self.newest.values()
    }

    /// The directory, made if missing.
    ///
    /// # Errors
    /// What the operating system says.
    pub(crate) fn make_dir(&self) -> Result<PathBuf, StoreError> {
        let made = || {
            self.disk.create_dir_all(&self.dir)?;
            self.disk.sync_dir(self.dir.parent().unwrap_or(&self.dir))
        };
        made().map_err(|error| StoreError::io("create", &self.dir, error))?;
        Ok(self.dir.clone())
    }

    /// A snapshot to be read from its beginning.
    ///
    /// # Errors
    /// As [`SnapshotReader::open`].
    pub(crate) fn read(&self, header: &SnapshotHeader) -> Result<SnapshotReader, StoreError> {
        let path = path_of(&self.dir, header.partition, header.seq);
        SnapshotReader::open(&*self.disk, &path, self.node)
    }

    /// The requests in the last snapshot of a partition, in order, or what a cut has left of them;
    /// none without either.
    ///
    /// # Errors
    /// As [`SnapshotReader::open`].
    pub(crate) fn requests(&self, partition: PartitionId) -> Result<Vec<KeptRequest>, StoreError> {
        let reader = match self.get(partition) {
            Some(header) => self.read(header)?,
            None if self.requests_left.contains(&partition) => {
                let path = foreign_path_of(&self.dir, partition, REQUESTS_SUFFIX);
                SnapshotReader::open(&*self.disk, &path, self.node)?
            }
            None => return Ok(Vec::new()),
        };
        front(reader).map(|(_, requests)| requests)
    }

    /// No longer counts on a snapshot, which is damaged: it is put aside under another name, so
    /// that no later open counts on it.
    pub(crate) fn forget(&mut self, partition: PartitionId) {
        self.requests_left.remove(&partition);
        let Some(header) = self.newest.remove(&partition) else {
            return;
        };
        let path = path_of(&self.dir, partition, header.seq);
        let mut aside = path.clone().into_os_string();
        aside.push(DAMAGED_SUFFIX);
        let moved = self.disk.rename(&path, Path::new(&aside));
        if let Err(error) = moved.and_then(|()| self.disk.sync_dir(&self.dir)) {
            tracing::warn!(path = %path.display(), %error, "a damaged snapshot stays where it is");
        }
    }

    /// Takes note of a snapshot that is durable, and removes the one that it replaces.
    ///
    /// # Errors
    /// What the operating system says of the removal; the next open removes it.
    pub(crate) fn add(&mut self, header: SnapshotHeader) -> Result<(), StoreError> {
        match self.newest.insert(header.partition, header) {
            Some(older) if older.seq != header.seq => {
                let path = path_of(&self.dir, older.partition, older.seq);
                remove(&*self.disk, &path)?;
            }
            _ => {}
        }
        self.drop_requests(header.partition)
    }
}

/// Of which partition requests are left there; `None` if the file is damaged.
fn partition_of_requests(disk: &dyn Disk, path: &Path, node: NodeId) -> Option<PartitionId> {
    let opened = SnapshotReader::open(disk, path, node);
    let opened = opened.inspect_err(|error| {
        tracing::error!(%error, "requests that are left are damaged");
    });
    Some(opened.ok()?.header().partition)
}

/// What a snapshot has before its cells: reigns and requests, in order.
type Front = (Vec<(Epoch, Seq)>, Vec<KeptRequest>);

fn front(mut reader: SnapshotReader) -> Result<Front, StoreError> {
    let (mut reigns, mut requests) = (Vec::new(), Vec::new());
    while let Some(block) = reader.next()? {
        match block {
            Block::Reigns(more) => reigns.extend(more),
            Block::Requests(more) => requests.extend(more),
            // They come last.
            Block::Cells(_) => break,
        }
    }
    Ok((reigns, requests))
}
