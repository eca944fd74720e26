//! The map in parts, as it is written down and read.
//!
//! **Owns**: the shape, both directions.
//! **Does not own**: what is in it (map), the bytes (whoever writes them).

use std::collections::BTreeMap;

use domicile_proto::{KeyspaceId, NodeId, PartitionId, RegionId};

use super::{Assignment, ControlMap, Node, Policies, Region};
use crate::control::history::History;

/// A map in parts, as it is told to whoever joins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MapParts {
    /// Regions.
    pub regions: BTreeMap<RegionId, Region>,
    /// Nodes, retired ones too.
    pub nodes: BTreeMap<NodeId, Node>,
    /// Keyspaces, with what their reigns go by.
    pub keyspaces: BTreeMap<KeyspaceId, Policies>,
    /// Who is home of what.
    pub partitions: BTreeMap<PartitionId, Assignment>,
    /// What changed hands.
    pub history: History,
    /// Commands that changed it so far.
    pub version: u64,
}

impl From<MapParts> for ControlMap {
    fn from(parts: MapParts) -> Self {
        let MapParts {
            regions,
            nodes,
            keyspaces,
            partitions,
            history,
            version,
        } = parts;
        Self {
            regions,
            nodes,
            keyspaces,
            partitions,
            history,
            version,
        }
    }
}

impl From<ControlMap> for MapParts {
    fn from(map: ControlMap) -> Self {
        let ControlMap {
            regions,
            nodes,
            keyspaces,
            partitions,
            history,
            version,
        } = map;
        Self {
            regions,
            nodes,
            keyspaces,
            partitions,
            history,
            version,
        }
    }
}
