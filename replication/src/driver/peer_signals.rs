//! The signals of every peer; peers come and go.
//!
//! **Owns**: which peers there are.
//! **Does not own**: what a signal carries (signals).

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use domicile_proto::RegionId;

use super::signals::{ShipSignal, SourceSignal};

/// What wakes the streams to and from one peer.
#[derive(Debug, Default)]
pub(crate) struct PeerSignal {
    pub(crate) ship: Arc<ShipSignal>,
    pub(crate) source: Arc<SourceSignal>,
}

/// Those of all peers. It is looked at with every commit and changed hardly ever.
#[derive(Debug, Default)]
pub(crate) struct PeerSignals {
    by_region: RwLock<Arc<BTreeMap<RegionId, Arc<PeerSignal>>>>,
}

impl PeerSignals {
    pub(crate) fn new(peers: &[RegionId]) -> Self {
        let by_region = peers.iter().map(|region| (*region, Arc::default()));
        Self {
            by_region: RwLock::new(Arc::new(by_region.collect())),
        }
    }

    /// As of now.
    pub(crate) fn all(&self) -> Arc<BTreeMap<RegionId, Arc<PeerSignal>>> {
        let by_region = self.by_region.read();
        Arc::clone(&by_region.unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn of(&self, region: RegionId) -> Option<Arc<PeerSignal>> {
        self.all().get(&region).cloned()
    }

    pub(crate) fn ship(&self, region: RegionId) -> Option<Arc<ShipSignal>> {
        Some(Arc::clone(&self.of(region)?.ship))
    }

    pub(crate) fn source(&self, region: RegionId) -> Option<Arc<SourceSignal>> {
        Some(Arc::clone(&self.of(region)?.source))
    }

    /// Those of a peer, which may be new.
    pub(crate) fn add(&self, region: RegionId) -> Arc<PeerSignal> {
        let mut added = Arc::default();
        self.change(|peers| added = Arc::clone(peers.entry(region).or_default()));
        added
    }

    pub(crate) fn remove(&self, region: RegionId) {
        self.change(|peers| {
            peers.remove(&region);
        });
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<RegionId, Arc<PeerSignal>>)) {
        let mut by_region = self
            .by_region
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        change(Arc::make_mut(&mut by_region));
    }
}
