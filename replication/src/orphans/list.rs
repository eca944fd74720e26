//! The orphan files of a node, each with what became of its records.
//!
//! **Owns**: putting names to ids, the keyspace of a file.
//! **Does not own**: the files (storage).

use std::sync::Arc;

use domicile_proto::{Epoch, Keyspace, Name, NodeId, Reason};
use domicile_storage::{OrphanCounts, OrphanFile, Store, StoreError};

use super::call::{OrphanFileStatus, OrphanListing};
use crate::error::Error;
use crate::node::NodeCore;
use crate::ownership::blocking;

impl NodeCore {
    pub(crate) async fn orphan_files(&self) -> Result<OrphanListing, Error> {
        let store = Arc::clone(&self.store);
        let (read, damaged) = blocking(move || read_all(&store)).await?;
        let status = |(file, reign, counts): (OrphanFile, Epoch, OrphanCounts)| OrphanFileStatus {
            file,
            keyspace: self
                .topology
                .keyspace(file.partition.keyspace)
                .map(|keyspace| keyspace.name.clone()),
            reign,
            reign_region: self.region_of(reign.node),
            superseded_by_region: self.region_of(file.superseded_by.node),
            counts,
        };
        Ok(OrphanListing {
            files: read.into_iter().map(status).collect(),
            damaged,
        })
    }

    /// The keyspace of an orphan file, for what is more than looking.
    ///
    /// # Errors
    /// `KEYSPACE_NOT_FOUND` if this node does not know it; `DATA_RESIDENCY` if it may not be here.
    pub(super) fn keyspace_of(&self, file: &OrphanFile) -> Result<Arc<Keyspace>, Error> {
        let id = file.partition.keyspace;
        let keyspace = self.topology.keyspace(id).ok_or_else(|| {
            let message = format!("the orphans are of keyspace {id}, which is not known here");
            Error::new(Reason::KeyspaceNotFound, message)
        })?;
        self.check_residency(&keyspace)?;
        Ok(keyspace)
    }

    fn region_of(&self, node: NodeId) -> Option<Name> {
        if node == self.store.node_id() {
            return Some(self.topology.own.name.clone());
        }
        let region = self.plane.as_ref()?.map().node(node)?.region;
        Some(self.topology.region(region)?.name.clone())
    }
}

type Read = (Vec<(OrphanFile, Epoch, OrphanCounts)>, Vec<String>);

fn read_all(store: &Store) -> Result<Read, StoreError> {
    let list = store.orphan_files()?;
    let mut damaged: Vec<String> = list.damaged.iter().map(StoreError::to_string).collect();
    let mut read = Vec::new();
    for file in list.files {
        match read_one(store, &file) {
            Ok(Some((reign, counts))) => read.push((file, reign, counts)),
            Ok(None) => damaged.push(format!("orphans {} have no record", file.id())),
            Err(error) => damaged.push(error.to_string()),
        }
    }
    Ok((read, damaged))
}

fn read_one(store: &Store, file: &OrphanFile) -> Result<Option<(Epoch, OrphanCounts)>, StoreError> {
    let counts = store.orphan_counts_of(file)?;
    let first = store.orphan_records(file.id())?.next().transpose()?;
    Ok(first.map(|orphan| (orphan.position.epoch, counts)))
}
