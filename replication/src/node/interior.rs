//! What all parts of a node share.
//!
//! **Owns**: the references between topology, driver, store and links; the signal to end.
//! **Does not own**: threads and tasks (`open` starts, `close` ends them).

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use domicile_proto::{Keyspace, PartitionId, Reason, RegionId};
use domicile_storage::Store;
use tokio::sync::{Semaphore, watch};

use super::digests::DigestRounds;
use super::open::Damage;
use crate::backup::BackupTurn;
use crate::bootstrap::Wanted;
use crate::buffer::Buffer;
use crate::clock::Clock;
use crate::driver::{Driver, PartitionDigest, Slot};
use crate::error::Error;
use crate::orphans::OrphanTally;
use crate::ownership::{Ownership, Plane};
use crate::peers::{Links, PeerLink};
use crate::topology::Topology;
use crate::watching::WatchCount;

/// How long a call waits that does not say: longer than any keyspace's default, so that the
/// keyspace's policy decides and not this.
pub(super) const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// The inside of a node.
pub(crate) struct NodeCore {
    pub(crate) topology: Topology,
    pub(crate) clock: Arc<Clock>,
    pub(crate) store: Arc<Store>,
    pub(crate) driver: Arc<Driver>,
    pub(crate) links: Links,
    pub(crate) started: Instant,
    /// What the journal may hold beyond what is needed.
    pub(crate) journal_keep_bytes: u64,
    /// What it keeps beyond that for copies that lack it.
    pub(crate) copy_budget: CopyBudget,
    /// What was found damaged at the open.
    pub(crate) damage: Damage,
    /// Partitions whose last snapshot is missing or damaged, and that need one soon.
    pub(crate) uncovered: Mutex<Vec<PartitionId>>,
    /// What homes said of partitions that rest: to be compared with what is here.
    pub(crate) digests: Mutex<BTreeMap<PartitionId, PartitionDigest>>,
    /// The comparisons of what this node is home of.
    pub(crate) digest_rounds: Mutex<DigestRounds>,
    /// What copies answered to what this home said of its own.
    pub(crate) digest_answers: Mutex<BTreeMap<(PartitionId, RegionId), PartitionDigest>>,
    pub(crate) scrubbing: Scrubbing,
    /// Partitions that want a snapshot.
    pub(crate) wanted: Wanted,
    /// Snapshots that may still be sent at once.
    pub(crate) snapshots_sent: Arc<Semaphore>,
    /// Whether the journal may be cut, or a backup reads it.
    pub(crate) backup_turn: BackupTurn,
    /// What is kept for homes that cannot be reached.
    pub(crate) buffer: Buffer,
    pub(crate) orphan_tally: OrphanTally,
    pub(crate) ownership: Ownership,
    /// `None`: homes are static.
    pub(crate) plane: Option<Arc<Plane>>,
    pub(crate) watches: Arc<WatchCount>,
    pub(crate) closed: watch::Sender<bool>,
}

/// How what was written is read again, and what that came to.
#[derive(Debug, Default)]
pub(crate) struct Scrubbing {
    /// How fast; 0: not at all.
    pub(crate) bytes_per_s: u64,
    /// How long between two passes.
    pub(crate) pause: Duration,
    pub(crate) passes: AtomicU64,
    pub(crate) damage_found: AtomicU64,
    pub(crate) digests_compared: AtomicU64,
    pub(crate) digests_unequal: AtomicU64,
}

/// How much of the journal is kept for a copy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CopyBudget {
    pub(crate) bytes: u64,
    pub(crate) age: Duration,
}

/// Where a call goes.
pub(super) enum Route {
    /// This node is the home.
    Here(Arc<Slot>),
    /// Another region is.
    There(Arc<PeerLink>),
}

impl NodeCore {
    /// Resolves once the node is closing.
    pub(crate) fn closed(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut closed = self.closed.subscribe();
        async move {
            // An error means that the sender is gone, and with it the node.
            drop(closed.wait_for(|closed| *closed).await);
        }
    }

    /// All streams from and to peers end and begin anew, with what is home and copy then.
    pub(crate) fn begin_streams_anew(&self) {
        for link in self.links.all() {
            link.source.end_stream();
            link.begin_anew.notify_one();
        }
    }

    pub(crate) fn link(&self, region: RegionId) -> Option<Arc<PeerLink>> {
        self.links.of(region)
    }

    /// Refuses what this region may not even pass on.
    pub(crate) fn check_residency(&self, keyspace: &Keyspace) -> Result<(), Error> {
        let own = &self.topology.own;
        if keyspace.regions.contains(&own.id) {
            return Ok(());
        }
        let message = format!(
            "keyspace {} may not be handled in region {}",
            keyspace.name, own.name
        );
        Err(Error::new(Reason::DataResidency, message)
            .with("keyspace", &keyspace.name)
            .with("region", &own.name))
    }

    pub(super) fn route(
        &self,
        partition: PartitionId,
        forwarding: crate::call::Forwarding,
    ) -> Result<Route, Error> {
        let missing = || {
            Error::new(
                Reason::KeyspaceNotFound,
                format!("no partition {partition}"),
            )
        };
        let slot = self.driver.slot(partition).ok_or_else(missing)?;
        let handed_on = slot.handed_on();
        if slot.is_home() && handed_on.is_none() {
            return Ok(Route::Here(slot));
        }
        let home = handed_on.unwrap_or_else(|| slot.home());
        if home == self.topology.own.id {
            let message = format!("{partition}: its home is gone and has no successor so far");
            return Err(Error::new(Reason::NoHome, message));
        }
        let name = || {
            let spec = self.topology.region(home);
            spec.map_or(String::new(), |spec| spec.name.to_string())
        };
        if forwarding == crate::call::Forwarding::LocalOnly {
            let (name, own) = (name(), &self.topology.own.name);
            let error = Error::new(
                Reason::WrongHome,
                format!("the home of this key is region {name}, this is {own}"),
            );
            let endpoint = self
                .link(home)
                .and_then(|link| link.spec.peer_address.clone());
            return Err(error
                .with("home", name)
                .with("endpoint", endpoint.unwrap_or_default()));
        }
        match self.link(home) {
            Some(link) => Ok(Route::There(link)),
            None => {
                let name = name();
                let message = format!("no link to home region {name}");
                Err(Error::new(Reason::NoHome, message).with("home", name))
            }
        }
    }
}
