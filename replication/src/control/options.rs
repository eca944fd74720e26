//! How a node takes part in consensus.
//!
//! **Owns**: the settings and their checks.
//! **Does not own**: where they come from (configuration).

use std::collections::BTreeSet;

use domicile_proto::hash::hash64;
use domicile_proto::{NodeId, RegionId};

use super::error::ControlError;
use super::member::Member;
use super::timings::Timings;

/// A snapshot is taken after so many entries: some hundred kilobytes of commands, read again at an
/// open. Doubled, an open takes twice as long; halved, snapshots are written twice as often.
pub const SNAPSHOT_ENTRIES: u64 = 1000;

/// The settings of one node.
#[derive(Debug, Clone)]
pub struct Options {
    /// Who this is: the identity of its data directory, and of its control log.
    pub node: NodeId,
    /// Where it is, and how the others reach it.
    pub member: Member,
    /// The voters that a cluster is founded with, one a region, in the same order at every node.
    /// The first one founds it. Looked at only by a node that is part of no cluster yet.
    pub founders: Vec<Member>,
    /// The voter whose place this node takes when it joins: one of its region that lost its disk.
    pub replaces: Option<NodeId>,
    /// How long to wait for what.
    pub timings: Timings,
    /// After how many entries a snapshot is taken; [`SNAPSHOT_ENTRIES`] but for tests.
    pub snapshot_entries: u64,
}

impl Options {
    /// The settings of a node that replaces nobody.
    #[must_use]
    pub fn new(node: NodeId, member: Member, founders: Vec<Member>, timings: Timings) -> Self {
        Self {
            node,
            member,
            founders,
            replaces: None,
            timings,
            snapshot_entries: SNAPSHOT_ENTRIES,
        }
    }

    /// # Errors
    /// [`ControlError::Settings`].
    pub(super) fn check(&self) -> Result<(), ControlError> {
        let regions: BTreeSet<RegionId> =
            self.founders.iter().map(|founder| founder.region).collect();
        let problem = if self.founders.is_empty() {
            "no founders".to_owned()
        } else if regions.len() < self.founders.len() {
            let (actual, regions) = (self.founders.len(), regions.len());
            format!("{actual} founders in {regions} regions, one a region expected")
        } else if self.replaces == Some(self.node) {
            format!("node {} cannot replace itself", self.node)
        } else if self.snapshot_entries == 0 {
            "a snapshot after 0 entries".to_owned()
        } else {
            return Ok(());
        };
        Err(ControlError::Settings { problem })
    }

    /// Whether this node is the one that founds the cluster.
    pub(super) fn founds(&self) -> bool {
        self.founders
            .first()
            .is_some_and(|first| first.region == self.member.region)
    }

    /// What all founders must agree on: the regions, in order.
    pub(super) fn charter(&self) -> u64 {
        let regions = self
            .founders
            .iter()
            .flat_map(|member| member.region.get().to_le_bytes());
        hash64(&regions.collect::<Vec<u8>>())
    }
}
