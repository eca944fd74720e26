//! The links to all peers; peers come and go.
//!
//! **Owns**: which there are.
//! **Does not own**: a link itself, when one comes (ownership).

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use domicile_proto::RegionId;

use super::link::PeerLink;

type ByRegion = BTreeMap<RegionId, Arc<PeerLink>>;

/// One a peer.
#[derive(Debug, Default)]
pub(crate) struct Links {
    by_region: RwLock<ByRegion>,
}

impl Links {
    fn known(&self) -> RwLockReadGuard<'_, ByRegion> {
        let by_region = self.by_region.read();
        by_region.unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn of(&self, region: RegionId) -> Option<Arc<PeerLink>> {
        self.known().get(&region).cloned()
    }

    /// As of now, by region.
    pub(crate) fn all(&self) -> Vec<Arc<PeerLink>> {
        self.known().values().cloned().collect()
    }

    /// In the place of the one there was, if there was.
    pub(crate) fn add(&self, link: Arc<PeerLink>) {
        let mut by_region = self
            .by_region
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let former = by_region.insert(link.region(), link);
        drop(by_region);
        if let Some(former) = former {
            former.end();
        }
    }

    /// Takes a link away; who uses it is told.
    pub(crate) fn remove(&self, region: RegionId) {
        let mut by_region = self
            .by_region
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let removed = by_region.remove(&region);
        drop(by_region);
        if let Some(link) = removed {
            link.end();
        }
    }
}
