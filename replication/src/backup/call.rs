//! What a backup is asked for with, and whether it may be given.
//!
//! **Owns**: the call's shape, residency, that nothing damaged is backed up as if it were whole.
//! **Does not own**: reading (`source`).

use std::sync::Arc;

use domicile_proto::{Keyspace, Reason};
use domicile_storage::backup::KnownEnd;

use crate::error::Error;
use crate::node::NodeCore;
use crate::options::RegionSpec;

/// What is to be backed up, and where it goes.
#[derive(Debug, Clone, Default)]
pub struct BackupCall {
    /// These keyspaces; if none is named, all that the node holds.
    pub keyspaces: Vec<String>,
    /// The name of the region in which the backup will lie; the node's own if `None`.
    pub place_region: Option<String>,
    /// How far an earlier backup in the same place has its partitions.
    pub known: Vec<KnownEnd>,
}

/// A call that may be done.
pub(super) struct CheckedCall {
    pub(super) keyspaces: Vec<Arc<Keyspace>>,
    pub(super) place: RegionSpec,
    pub(super) known: Vec<KnownEnd>,
}

impl BackupCall {
    /// Fails closed: a keyspace that may not be in the place is named, not left out.
    ///
    /// # Errors
    /// `KEYSPACE_NOT_FOUND`, `REGION_NOT_FOUND`, `DATA_RESIDENCY`; `CHECKSUM_MISMATCH` for a
    /// partition that is damaged here.
    pub(super) fn check(self, core: &NodeCore) -> Result<CheckedCall, Error> {
        let topology = &core.topology;
        let place = match &self.place_region {
            None => topology.own.clone(),
            Some(name) => {
                let found = topology.region_named(name);
                found.ok_or_else(|| {
                    let shown: String = name.chars().take(64).collect();
                    Error::new(Reason::RegionNotFound, format!("no region {shown:?}"))
                })?
            }
        };
        let keyspaces = self.chosen(core)?;
        for keyspace in &keyspaces {
            core.check_residency(keyspace)?;
            if !keyspace.regions.contains(&place.id) {
                let message = format!(
                    "keyspace {} may not be in region {}, where the backup would lie",
                    keyspace.name, place.name
                );
                return Err(Error::new(Reason::DataResidency, message)
                    .with("keyspace", &keyspace.name)
                    .with("region", &place.name));
            }
        }
        let damaged = core.driver.slots().find(|slot| {
            let is_chosen = keyspaces.iter().any(|it| it.id() == slot.keyspace().id());
            is_chosen && slot.is_damaged()
        });
        if let Some(slot) = damaged {
            let (partition, keyspace) = (slot.partition, &slot.keyspace().name);
            let message = format!("partition {partition} of keyspace {keyspace} is damaged here");
            return Err(Error::new(Reason::ChecksumMismatch, message)
                .with("keyspace", keyspace)
                .with("partition", partition));
        }
        Ok(CheckedCall {
            keyspaces,
            place,
            known: self.known,
        })
    }

    fn chosen(&self, core: &NodeCore) -> Result<Vec<Arc<Keyspace>>, Error> {
        let topology = &core.topology;
        let own = topology.own.id;
        if self.keyspaces.is_empty() {
            let held = topology.keyspaces().into_iter();
            return Ok(held.filter(|it| it.regions.contains(&own)).collect());
        }
        let mut chosen: Vec<Arc<Keyspace>> = Vec::new();
        for name in &self.keyspaces {
            let found = topology.keyspace_named(name);
            let found = found.ok_or_else(|| {
                let shown: String = name.chars().take(64).collect();
                Error::new(Reason::KeyspaceNotFound, format!("no keyspace {shown:?}"))
            })?;
            if chosen.iter().all(|it| it.id() != found.id()) {
                chosen.push(found);
            }
        }
        Ok(chosen)
    }
}
