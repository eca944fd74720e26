//! Who is part of the control plane.
//!
//! **Owns**: a member as the others know it, the set of voters and learners.
//! **Does not own**: changing it (membership).

use std::collections::{BTreeMap, BTreeSet};

use domicile_proto::{NodeId, RegionId};

/// Where a node is and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its region; at most one voter a region joins by itself.
    pub region: RegionId,
    /// Where it answers, best first; what a text means is up to the transport.
    pub addresses: Vec<String>,
}

/// A member as consensus keeps it: `None` only in tests of the storage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Seat(pub(super) Option<Member>);

/// Who votes, and who only follows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    /// Everyone with a vote, in the old set or in the new one while it changes.
    pub voters: BTreeSet<NodeId>,
    /// Everyone, voters and learners.
    pub members: BTreeMap<NodeId, Member>,
    /// A change of voters is under way.
    pub changing: bool,
}

impl Members {
    /// The voter of a region, if there is one besides `node`.
    #[must_use]
    pub fn other_voter_of(&self, region: RegionId, node: NodeId) -> Option<NodeId> {
        let mut voters = self.voters.iter().copied();
        voters.find(|voter| {
            let member = self.members.get(voter);
            *voter != node && member.is_some_and(|member| member.region == region)
        })
    }
}

/// The leader as this node knows it; it may have been succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// Which node.
    pub node: NodeId,
    /// Where, unless it is no member (any more) that this node knows.
    pub member: Option<Member>,
}
