//! The handle by which an application holds a node.
//!
//! **Owns**: the public calls; ending the node's tasks when the last handle goes.
//! **Does not own**: what the calls do (their own files).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use domicile_core::control::OperatorWord;
use domicile_proto::{Keyspace, Name, NodeId, Operation, RegionId, RequestId};
use tokio::sync::mpsc;

use super::builder::NodeBuilder;
use super::failover::FailoverPlan;
use super::handle::KeyspaceHandle;
use super::homes::{GivenUp, HomeChange, OrphanRecord, Switchover};
use super::interior::NodeCore;
use super::keyspaces::{Alteration, VersionedPolicy, no_keyspace};
use super::open::Threads;
use super::status::{Detail, NodeStatus};
use crate::buffer::{BufferNumber, BufferPage, BufferedWrite, Written};
use crate::call::{ReadAnswer, ReadCall, ScanCall, ScanPage, WriteCall};
use crate::error::Error;
use crate::options::{NodeOptions, RegionSpec};
use crate::orphans::{
    OrphanDiscard, OrphanListing, OrphanReplay, OrphanShow, OrphanShown, OrphanStream, ReplayStep,
};
use crate::receipt::Receipt;
use crate::watching::{WatchCall, WatchMessages};

/// A node: one data directory, opened. Clones share it.
///
/// Dropping the last handle ends its tasks without waiting; [`Node::close`] is what guarantees an
/// orderly end. Acknowledged writes are safe either way.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    core: Arc<NodeCore>,
    threads: Mutex<Option<Threads>>,
    peer_address: Option<SocketAddr>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.core.driver.begin_closing();
        self.core.closed.send_replace(true);
    }
}

impl Node {
    /// A builder for an embedded node with its data in `data`.
    pub fn builder(data: impl Into<PathBuf>) -> NodeBuilder {
        NodeBuilder::new(data.into())
    }

    /// Opens a node. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Options that contradict each other; a directory that is held, damaged or of another node; an
    /// address in use.
    pub async fn open(options: NodeOptions) -> Result<Self, Error> {
        let (core, threads, opened) = super::open::open(options).await?;
        let threads = Mutex::new(Some(threads));
        let peer_address = opened.peer_address;
        Ok(Self {
            inner: Arc::new(Inner {
                core,
                threads,
                peer_address,
            }),
        })
    }

    pub(crate) fn core(&self) -> &Arc<NodeCore> {
        &self.inner.core
    }

    /// The own region's name.
    #[must_use]
    pub fn region(&self) -> &Name {
        &self.core().topology.own.name
    }

    /// The own node id, minted with the data directory.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.core().store.node_id()
    }

    /// Where peers may dial in, as bound.
    #[must_use]
    pub fn peer_address(&self) -> Option<SocketAddr> {
        self.inner.peer_address
    }

    /// All regions of the cluster, as this node knows them now.
    #[must_use]
    pub fn regions(&self) -> Arc<Vec<RegionSpec>> {
        self.core().topology.regions()
    }

    /// The name of a region; its id in text if it is unknown.
    #[must_use]
    pub fn region_name(&self, region: RegionId) -> String {
        let spec = self.core().topology.region(region);
        spec.map_or_else(|| region.to_string(), |spec| spec.name.to_string())
    }

    /// A hash of regions and keyspaces; nodes whose digests differ refuse each other.
    #[must_use]
    pub fn policy_digest(&self) -> u64 {
        self.core().topology.digest()
    }

    /// All keyspaces.
    #[must_use]
    pub fn keyspaces(&self) -> Vec<Arc<Keyspace>> {
        self.core().topology.keyspaces()
    }

    /// Every change of home that the control plane remembers, oldest first.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` where homes are static.
    pub fn home_changes(&self) -> Result<Vec<HomeChange>, Error> {
        self.core().home_changes()
    }

    /// Hands partitions on to the region `to`, as planned and with nothing lost: those of a region,
    /// or of all; of a keyspace, or of all that may be there. From any node. Each partition's
    /// writes stop for about a round trip, and it stays where it is if the other region does not
    /// keep up.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` where homes are static or no node of the region is known; `NO_HOME` while
    /// the control plane has no leader.
    pub async fn switch_over(
        &self,
        from: Option<RegionId>,
        to: RegionId,
        keyspace: Option<&Name>,
        within: Duration,
    ) -> Result<Switchover, Error> {
        self.core().switch_over(from, to, keyspace, within).await
    }

    /// Adds a region to the cluster, or brings one back that was removed. From any node; the
    /// region's own node, configured with all regions, may be started before or after. It holds no
    /// data before keyspaces are altered to list it.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` where homes are static, there is one of that name or id, or while homes
    /// change that would be fenced in another way with one voter more; `NO_HOME` while the control
    /// plane has no leader; `RECOVERING` if it is done and not known here in time.
    pub async fn add_region(&self, region: RegionSpec, within: Duration) -> Result<(), Error> {
        self.core().add_region(region, within).await
    }

    /// Removes a region that no keyspace lists, with its nodes, for good: they vote no more, and
    /// nobody speaks with them. From any node.
    ///
    /// # Errors
    /// As [`Node::add_region`]; `INVALID_ARGUMENT` where a keyspace lists it; `NO_HOME` if it is
    /// done and its node still votes, as the majority that takes is not up.
    pub async fn remove_region(&self, region: RegionId, within: Duration) -> Result<(), Error> {
        self.core().remove_region(region, within).await
    }

    /// Makes a keyspace, at every region that it lists. From any node; it is open here when this
    /// returns.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` where homes are static, there is one of that name, or a region has no
    /// node or is a witness; `NO_HOME` while the control plane has no leader; `RECOVERING` if it is
    /// made and not open here in time.
    pub async fn create_keyspace(&self, keyspace: Keyspace, within: Duration) -> Result<(), Error> {
        self.core().create_keyspace(keyspace, within).await
    }

    /// Alters a keyspace: its level, its times and limits, who may succeed whom, and regions that
    /// are added. From any node. Each home goes by it from a new reign on, which takes it a few
    /// milliseconds; waits for them. `from` is the version that it was made from
    /// ([`Node::versioned_policy`]).
    ///
    /// # Errors
    /// `KEYSPACE_ALTERED` if somebody was faster: look again and decide. `INVALID_ARGUMENT` where
    /// homes are static, where what is asked cannot be altered, or while a home changes or does
    /// not go by the last alteration; `NO_HOME` while the control plane has no leader.
    pub async fn alter_keyspace(
        &self,
        keyspace: Keyspace,
        from: u64,
        within: Duration,
    ) -> Result<Alteration, Error> {
        self.core().alter_keyspace(keyspace, from, within).await
    }

    /// A keyspace's policy as the regions have agreed on it, and its version.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` where homes are static; `KEYSPACE_NOT_FOUND`.
    pub fn versioned_policy(&self, name: &str) -> Result<VersionedPolicy, Error> {
        self.core().versioned_policy(name)
    }

    /// How many older changes of home are not remembered any more.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` where homes are static.
    pub fn home_changes_forgotten(&self) -> Result<u64, Error> {
        self.core().home_changes_forgotten()
    }

    /// What would become of a region's homes if it were lost now, a partition each: of a keyspace,
    /// or of all. The home itself knows best what would be lost.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` where homes are static.
    pub fn failover_plan(
        &self,
        region: RegionId,
        keyspace: Option<&Name>,
    ) -> Result<Vec<FailoverPlan>, Error> {
        self.core().failover_plan(region, keyspace)
    }

    /// Gives up the homes of a region, by an operator's word. Whoever else has most takes
    /// over, as soon as the old home is fenced. From any node.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` where homes are static, or where nothing proves that the old homes are
    /// off and the operator does not say so; `DATA_RESIDENCY`; `NO_HOME` while the control plane
    /// has no leader.
    pub async fn give_up_homes(
        &self,
        region: RegionId,
        keyspace: Option<&Name>,
        word: OperatorWord,
    ) -> Result<GivenUp, Error> {
        self.core().give_up_homes(region, keyspace, word).await
    }

    /// The longest that writes of a keyspace would stop if a home were lost while a majority of
    /// voters is up; `Some(None)`: until an operator acts; `None`: homes are static.
    #[must_use]
    pub fn takeover_max(&self, keyspace: &Keyspace) -> Option<Option<Duration>> {
        self.core().takeover_max(keyspace)
    }

    /// The records here that a new home never had, file by file.
    ///
    /// # Errors
    /// What the disk says; a damaged file.
    pub async fn orphans(&self) -> Result<Vec<OrphanRecord>, Error> {
        self.core().orphans().await
    }

    /// The orphan files here, and what became of their records.
    ///
    /// # Errors
    /// What the disk says; a damaged file is named in the answer.
    pub async fn orphan_files(&self) -> Result<OrphanListing, Error> {
        self.core().orphan_files().await
    }

    /// Shows the records of an orphan file, in order. With values: whoever asks keeps them where
    /// the call says.
    ///
    /// # Errors
    /// `ORPHANS_NOT_FOUND`; `REGION_NOT_FOUND` and `DATA_RESIDENCY` for an export; what the disk
    /// says.
    pub async fn show_orphans(&self, call: OrphanShow) -> Result<OrphanStream<OrphanShown>, Error> {
        self.core().show_orphans(call).await
    }

    /// Writes the open records of an orphan file again, through their home and under their request
    /// ids, if their keys have not been written since the fork by others. May be broken off and
    /// called again: each is done once.
    ///
    /// # Errors
    /// `ORPHANS_NOT_FOUND`, `KEYSPACE_NOT_FOUND`, `DATA_RESIDENCY`; `INVALID_ARGUMENT` for a record
    /// that the file has not; `OVERLOADED` while another replays or discards. In the stream, and
    /// the end of it: the home does not answer.
    pub async fn replay_orphans(
        &self,
        call: OrphanReplay,
    ) -> Result<OrphanStream<ReplayStep>, Error> {
        self.core().replay_orphans(call).await
    }

    /// Gives up open records of an orphan file, for good; each is told once that is durable. The
    /// file stays.
    ///
    /// # Errors
    /// `ORPHANS_NOT_FOUND`; `INVALID_ARGUMENT` for records that the file has not; `OVERLOADED`
    /// while another replays or discards.
    pub async fn discard_orphans(
        &self,
        call: OrphanDiscard,
    ) -> Result<OrphanStream<OrphanShown>, Error> {
        self.core().discard_orphans(call).await
    }

    /// A keyspace's policy.
    ///
    /// # Errors
    /// `KEYSPACE_NOT_FOUND`.
    pub fn policy(&self, name: &str) -> Result<Arc<Keyspace>, Error> {
        let found = self.core().topology.keyspace_named(name);
        found.ok_or_else(|| no_keyspace(name))
    }

    /// A keyspace to work with.
    ///
    /// # Errors
    /// `KEYSPACE_NOT_FOUND`.
    pub fn keyspace(&self, name: &str) -> Result<KeyspaceHandle, Error> {
        Ok(KeyspaceHandle::new(self.clone(), self.policy(name)?))
    }

    /// Does a write, here or at its home, and waits for its level; or keeps it for its home, where
    /// the call and the keyspace's failover allow that. It is submitted when the future is first
    /// polled; dropping the future later does not undo it.
    pub fn write(
        &self,
        call: WriteCall,
    ) -> impl Future<Output = Result<Written, Error>> + Send + 'static {
        let core = Arc::clone(self.core());
        async move { core.write_or_keep(call).await }
    }

    /// Resolves when the store can take a write: at once unless the disk or the engine is behind.
    pub fn room(&self) -> impl Future<Output = ()> + Send + 'static {
        let driver = Arc::clone(&self.core().driver);
        async move { driver.wait_room(0).await }
    }

    /// Whether the store can take a write now.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.core().driver.has_room(0)
    }

    /// Submits a write at once; its result arrives on `results` with its tag. The caller bounds how
    /// many are outstanding, and asks [`Node::has_room`] before: without room the write waits in a
    /// task of its own, where a later one may overtake it. Must be called within a tokio runtime.
    pub fn write_tagged(
        &self,
        call: WriteCall,
        tag: u64,
        results: &mpsc::UnboundedSender<(u64, Result<Written, Error>)>,
    ) {
        let core = self.core();
        let keyspace = Arc::clone(&call.keyspace);
        if let Some(checked) = core.write_at_once(call, tag, results) {
            let (core, results) = (Arc::clone(core), results.clone());
            tokio::spawn(async move {
                let result = core.write_checked_or_keep(&keyspace, checked).await;
                // A caller that has gone away needs no answer.
                drop(results.send((tag, result)));
            });
        }
    }

    /// Reads one key.
    ///
    /// # Errors
    /// An invalid key, no reachable home, a session that a takeover cut off.
    pub async fn read(&self, call: ReadCall) -> Result<ReadAnswer, Error> {
        self.core().read(call).await
    }

    /// Reads one page of a range.
    ///
    /// # Errors
    /// As [`Node::read`]; a limit outside 1 to 10,000.
    pub async fn scan(&self, call: ScanCall) -> Result<ScanPage, Error> {
        self.core().scan(call).await
    }

    /// Begins a watch, served from this node's own journal: what is visible here. Must be called
    /// within a tokio runtime.
    ///
    /// # Errors
    /// `DATA_RESIDENCY` if the keyspace may not be here; `OVERLOADED` above the limit of watches;
    /// `INVALID_ARGUMENT` for a token of another keyspace or of too few partitions; `COMPACTED` if
    /// the journal no longer has what follows; `SESSION_LOST` if what was seen is not in this log.
    pub fn watch(&self, call: WatchCall) -> Result<WatchMessages, Error> {
        self.core().watch(call)
    }

    /// What became of a write: its receipt as of now, or `None` if the id is not remembered.
    ///
    /// # Errors
    /// No reachable home.
    pub async fn outcome(
        &self,
        keyspace: &Arc<Keyspace>,
        key: Bytes,
        request_id: RequestId,
    ) -> Result<Option<Receipt>, Error> {
        self.core().outcome(keyspace, key, request_id).await
    }

    /// The write that this node keeps under an id for its home, if it keeps one: accepted, not
    /// applied, or refused by its home meanwhile.
    #[must_use]
    pub fn buffered_of(&self, keyspace: &Keyspace, request_id: RequestId) -> Option<BufferedWrite> {
        self.core().buffered_of(keyspace.id(), request_id)
    }

    /// Writes that this node keeps for homes that it could not reach, behind `after`, oldest first:
    /// at most so many, of one keyspace or of all.
    #[must_use]
    pub fn buffered(
        &self,
        keyspace: Option<&Keyspace>,
        after: BufferNumber,
        limit: usize,
    ) -> BufferPage {
        self.core()
            .buffered(keyspace.map(Keyspace::id), after, limit)
    }

    /// One of them, with what it does.
    ///
    /// # Errors
    /// `BUFFERED_NOT_FOUND`; `CHECKSUM_MISMATCH` if its bytes are damaged.
    pub async fn buffered_operations(
        &self,
        number: BufferNumber,
    ) -> Result<(BufferedWrite, Vec<Operation>), Error> {
        self.core().buffered_operations(number).await
    }

    /// Gives up those from `first` to `last`, which are then never applied from here; with
    /// `refused_only` those that their homes refused. How many. One that is on its way to its home
    /// at the moment may be done there.
    ///
    /// # Errors
    /// `BUFFERED_NOT_FOUND`: none of them is there.
    pub async fn discard_buffered(
        &self,
        first: BufferNumber,
        last: BufferNumber,
        refused_only: bool,
    ) -> Result<u64, Error> {
        let range = (first, last);
        self.core().discard_buffered(range, refused_only).await
    }

    /// What this node knows of itself, its peers and its partitions.
    #[must_use]
    pub fn status(&self, detail: Detail) -> NodeStatus {
        super::status::status(self.core(), detail)
    }

    /// Ends the node in order: refuses new writes, waits up to 5 s for those in flight, flushes,
    /// releases the directory. A second call does nothing.
    ///
    /// # Errors
    /// The final flush failed; acknowledged writes are in the journal nevertheless.
    pub async fn close(&self) -> Result<(), Error> {
        let threads = self
            .inner
            .threads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match threads {
            Some(threads) => super::close::close(Arc::clone(self.core()), threads).await,
            None => Ok(()),
        }
    }
}
