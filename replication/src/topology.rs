//! Which regions there are, and who may hold what.
//!
//! **Owns**: the checked regions and keyspaces, the partitions they imply, the digest by which two
//! nodes know that they were configured alike.
//! **Does not own**: who is home, and deciding on changes (the control plane's map, which this
//! follows).

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use domicile_core::control::ControlMap;
use domicile_proto::hash::hash64;
use domicile_proto::{Keyspace, KeyspaceId, Name, PartitionId, Reason, RegionId};

use crate::error::Error;
use crate::options::{NodeOptions, RegionSpec};

/// The map of one cluster, as one node sees it.
#[derive(Debug)]
pub(crate) struct Topology {
    pub(crate) cluster: Name,
    pub(crate) own: RegionSpec,
    regions: RwLock<Arc<Vec<RegionSpec>>>,
    keyspaces: RwLock<Keyspaces>,
    /// Regions and keyspaces come from the control plane: not all nodes know of each at the same
    /// time.
    is_agreed: bool,
}

/// What became other of the regions.
#[derive(Debug, Default)]
pub(crate) struct RegionsChange {
    pub(crate) added: Vec<RegionSpec>,
    pub(crate) left: Vec<RegionId>,
}

impl RegionsChange {
    pub(crate) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.left.is_empty()
    }
}

/// The keyspaces that are known now.
#[derive(Debug, Default)]
struct Keyspaces {
    by_id: BTreeMap<KeyspaceId, Arc<Keyspace>>,
    ids: BTreeMap<Name, KeyspaceId>,
}

impl Topology {
    /// Checks the options as a whole.
    pub(crate) fn new(options: &NodeOptions) -> Result<Self, Error> {
        let invalid = |message: String| Error::new(Reason::InvalidArgument, message);
        let mut seen: BTreeMap<RegionId, &RegionSpec> = BTreeMap::new();
        for region in &options.regions {
            if let Some(other) = seen.insert(region.id, region) {
                let (other, name, id) = (&other.name, &region.name, region.id);
                return Err(invalid(format!(
                    "regions {other} and {name} share the id {id}"
                )));
            }
        }
        let own = options
            .regions
            .iter()
            .find(|region| region.name == options.region);
        let Some(own) = own.cloned() else {
            return Err(invalid(format!(
                "own region {} is not among the regions",
                options.region
            )));
        };
        let mut keyspaces = Keyspaces::default();
        for keyspace in &options.keyspaces {
            let keyspace = keyspace
                .clone()
                .validate()
                .map_err(|e| invalid(e.to_string()))?;
            let is_witness = |id: &&RegionId| seen.get(id).is_some_and(|region| region.is_witness);
            if let Some(id) = keyspace.regions.iter().find(is_witness) {
                let name = &keyspace.name;
                return Err(invalid(format!(
                    "keyspace {name}: region {id} is a witness, which holds no data"
                )));
            }
            if let Some(id) = keyspace.regions.iter().find(|id| !seen.contains_key(id)) {
                return Err(invalid(format!(
                    "keyspace {}: unknown region {id}",
                    keyspace.name
                )));
            }
            keyspaces.ids.insert(keyspace.name.clone(), keyspace.id());
            let keyspace = Arc::new(keyspace);
            let other = keyspaces.by_id.insert(keyspace.id(), Arc::clone(&keyspace));
            if let Some(other) = other {
                let (a, b) = (&other.name, &keyspace.name);
                return Err(invalid(format!(
                    "keyspaces {a} and {b} share the id {}",
                    other.id()
                )));
            }
        }
        let (cluster, regions) = (options.cluster.clone(), options.regions.clone());
        Ok(Self {
            cluster,
            own,
            regions: RwLock::new(Arc::new(regions)),
            keyspaces: RwLock::new(keyspaces),
            is_agreed: options.control.is_some(),
        })
    }

    fn known(&self) -> RwLockReadGuard<'_, Keyspaces> {
        self.keyspaces
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn keyspace_named(&self, name: &str) -> Option<Arc<Keyspace>> {
        let (name, known) = (Name::new(name).ok()?, self.known());
        known.by_id.get(known.ids.get(&name)?).cloned()
    }

    pub(crate) fn keyspace(&self, id: KeyspaceId) -> Option<Arc<Keyspace>> {
        self.known().by_id.get(&id).cloned()
    }

    /// The keyspaces as of now, by id.
    pub(crate) fn keyspaces(&self) -> Vec<Arc<Keyspace>> {
        self.known().by_id.values().cloned().collect()
    }

    /// Forgets the keyspaces that were configured; those of the map take their place.
    pub(crate) fn forget_keyspaces(&self) {
        let mut known = self
            .keyspaces
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *known = Keyspaces::default();
    }

    /// A keyspace was made or altered.
    pub(crate) fn learn(&self, keyspace: Arc<Keyspace>) {
        let mut known = self
            .keyspaces
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        known.ids.insert(keyspace.name.clone(), keyspace.id());
        known.by_id.insert(keyspace.id(), keyspace);
    }

    /// The regions as of now, in the order in which they became known.
    pub(crate) fn regions(&self) -> Arc<Vec<RegionSpec>> {
        let known = self.regions.read();
        Arc::clone(&known.unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn region(&self, id: RegionId) -> Option<RegionSpec> {
        let regions = self.regions();
        regions.iter().find(|region| region.id == id).cloned()
    }

    pub(crate) fn region_named(&self, name: &str) -> Option<RegionSpec> {
        let regions = self.regions();
        let found = regions.iter().find(|region| region.name.as_str() == name);
        found.cloned()
    }

    /// Every region but the own one.
    pub(crate) fn peers(&self) -> Vec<RegionSpec> {
        let regions = self.regions();
        let others = regions.iter().filter(|region| region.id != self.own.id);
        others.cloned().collect()
    }

    /// Takes the regions of the map in: those that it has more, and not those that have left. What
    /// this node was configured with stays as it is, its own region too.
    pub(crate) fn follow(&self, map: &ControlMap) -> RegionsChange {
        let before = self.regions();
        // One whose address nobody knew so far is added again.
        let is_known = |id: RegionId, address: Option<&String>| {
            let known = before.iter().find(|known| known.id == id);
            known.is_some_and(|known| {
                known.peer_address.is_some() || address.is_none() || id == self.own.id
            })
        };
        let added = map
            .regions()
            .filter(|(id, it)| !is_known(*id, it.peer_address.as_ref()));
        let added = added.map(|(id, region)| RegionSpec {
            name: region.name.clone(),
            id,
            peer_address: region.peer_address.clone(),
            is_witness: region.is_witness,
        });
        let left = |region: &&RegionSpec| region.id != self.own.id && map.has_left(region.id);
        let change = RegionsChange {
            added: added.collect(),
            left: before.iter().filter(left).map(|it| it.id).collect(),
        };
        if !change.is_empty() {
            let is_added = |id| change.added.iter().any(|it| it.id == id);
            let stay = before
                .iter()
                .filter(|it| !change.left.contains(&it.id) && !is_added(it.id));
            let after = stay.chain(&change.added).cloned().collect();
            let mut regions = self.regions.write().unwrap_or_else(PoisonError::into_inner);
            *regions = Arc::new(after);
        }
        change
    }

    /// Every partition that this node holds, as home or copy. Residency: none other is opened.
    pub(crate) fn partitions(&self) -> Vec<(Arc<Keyspace>, PartitionId)> {
        let all = self.keyspaces().into_iter();
        let held = all.filter(|keyspace| keyspace.regions.contains(&self.own.id));
        held.flat_map(|keyspace| {
            let partitions = keyspace.partitions().into_iter();
            partitions.map(move |partition| (Arc::clone(&keyspace), partition))
        })
        .collect()
    }

    /// A hash of everything that both ends of a stream must agree on by configuration. What the
    /// control plane agrees on is none of it.
    pub(crate) fn digest(&self) -> u64 {
        if self.is_agreed {
            return hash64(format!("{} agreed", self.cluster).as_bytes());
        }
        let known = self.regions();
        let mut regions: Vec<_> = known
            .iter()
            .map(|r| (r.id, r.name.as_str(), r.is_witness))
            .collect();
        regions.sort_unstable();
        let keyspaces: Vec<_> = self
            .keyspaces()
            .iter()
            .map(|keyspace| {
                let Keyspace {
                    name,
                    regions,
                    placement,
                    delimiter,
                    buckets,
                    ack,
                    ..
                } = &**keyspace;
                format!("{name} {regions:?} {placement:?} {delimiter} {buckets} {ack}")
            })
            .collect();
        hash64(format!("{} {regions:?} {keyspaces:?}", self.cluster).as_bytes())
    }
}
