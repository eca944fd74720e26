//! What may be decided about the cluster, and why it may be refused.
//!
//! **Owns**: the closed lists of commands and refusals.
//! **Does not own**: what they do to the map (`map`).

use domicile_proto::{Epoch, Keyspace, KeyspaceId, Name, NodeId, PartitionId, RegionId};

use super::fencing::Fencing;

/// One decision. Commands are ordered by the control plane; each is checked when it is applied, by
/// everybody alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A region joins; a witness votes and holds nothing.
    AddRegion {
        /// Its id.
        region: RegionId,
        /// Its name.
        name: Name,
        /// Whether it holds no data.
        is_witness: bool,
    },
    /// A region that no keyspace lists leaves.
    RemoveRegion {
        /// Which.
        region: RegionId,
    },
    /// A node joins under the identity of its directory.
    AddNode {
        /// Its identity.
        node: NodeId,
        /// Where it is.
        region: RegionId,
    },
    /// A node is gone for good: its disk is lost, or it was taken out of service.
    RetireNode {
        /// Which.
        node: NodeId,
    },
    /// A keyspace begins, each partition at a node of the region that it is placed in.
    CreateKeyspace(Box<Keyspace>),
    /// Another node becomes home of a partition, because its home is lost.
    TakeOver {
        /// Of which.
        partition: PartitionId,
        /// The epoch that is to end: of two who want the same one, one is refused.
        from: Epoch,
        /// The new home.
        to: NodeId,
        /// Why the old home cannot acknowledge any more.
        evidence: Evidence,
    },
    /// A planned change of home begins: the home drains.
    BeginSwitchover {
        /// Of which.
        partition: PartitionId,
        /// The present epoch.
        from: Epoch,
        /// The new home.
        to: NodeId,
    },
    /// The home has drained and the new one has everything.
    CommitSwitchover {
        /// Of which.
        partition: PartitionId,
        /// The epoch in which it began.
        from: Epoch,
    },
    /// The home goes on as before.
    AbortSwitchover {
        /// Of which.
        partition: PartitionId,
        /// The epoch in which it began.
        from: Epoch,
    },
}

/// Why an old home cannot acknowledge any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Evidence {
    /// Its lease has run out, by the clock of whoever granted it.
    LeaseRanOut,
    /// These copies have durably promised to take nothing of its epoch.
    AcksRevoked {
        /// Which.
        by: Vec<RegionId>,
    },
    /// Somebody says so.
    Operator {
        /// They saw that it is off.
        is_fenced: bool,
        /// Two homes at once are accepted: both acknowledge, and one's writes become orphans.
        accepts_split_brain: bool,
    },
}

/// Why a command changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandRefused {
    /// There is one already.
    #[error("region {0} exists")]
    RegionExists(RegionId),
    /// There is none, or it is a witness where data is to be.
    #[error("region {region}: {problem}")]
    Region {
        /// Which.
        region: RegionId,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Keyspaces list it.
    #[error("region {region} holds keyspace {keyspace}: alter that first")]
    RegionInUse {
        /// Which.
        region: RegionId,
        /// One of them.
        keyspace: Name,
    },
    /// Identities are never used again.
    #[error("node {0} was known before: a directory that was lost returns under a new identity")]
    NodeKnown(NodeId),
    /// It is not there, is retired, or is in the wrong place.
    #[error("node {node}: {problem}")]
    Node {
        /// Which.
        node: NodeId,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// It is home of something.
    #[error("node {node} is home of {partition} in {epoch}: take that over first")]
    NodeIsHome {
        /// Which.
        node: NodeId,
        /// One of its partitions.
        partition: PartitionId,
        /// In which reign.
        epoch: Epoch,
    },
    /// There is one of that name.
    #[error("keyspace {0} exists")]
    KeyspaceExists(Name),
    /// Two names with one id.
    #[error("keyspace {name} has the id of {other}: choose another name")]
    KeyspaceIdTaken {
        /// The new one.
        name: Name,
        /// The one there is.
        other: Name,
    },
    /// There is none.
    #[error("no keyspace {0}")]
    NoKeyspace(KeyspaceId),
    /// There is none.
    #[error("no partition {0}")]
    NoPartition(PartitionId),
    /// Somebody else was faster.
    #[error("{partition} is in {actual}, not {expected}, by now")]
    StaleEpoch {
        /// Which partition.
        partition: PartitionId,
        /// Its epoch.
        actual: Epoch,
        /// The one asked for.
        expected: Epoch,
    },
    /// The home may still acknowledge.
    #[error("{partition} is fenced by {fencing:?}: {problem}")]
    NotFenced {
        /// Which partition.
        partition: PartitionId,
        /// How it is fenced.
        fencing: Fencing,
        /// What is missing.
        problem: String,
    },
    /// Epochs are used up.
    #[error("{0} had as many homes as can be counted")]
    EpochsExhausted(PartitionId),
    /// A planned change is under way, or none is.
    #[error("{partition}: {problem}")]
    Switchover {
        /// Which partition.
        partition: PartitionId,
        /// What is wrong.
        problem: &'static str,
    },
}
