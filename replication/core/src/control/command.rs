//! What may be decided about the cluster, and why it may be refused.
//!
//! **Owns**: the closed lists of commands and refusals.
//! **Does not own**: what they do to the map (`map`).

use domicile_proto::{Epoch, Keyspace, KeyspaceId, Name, NodeId, PartitionId, RegionId, Seq};

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
        /// Where the others dial it, if whoever says so knows.
        peer_address: Option<String>,
        /// It may have been removed before. Else that stands: a node that was told of the region
        /// by its configuration does not bring it back.
        is_return: bool,
    },
    /// A region that no keyspace lists leaves, and its nodes with it.
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
    /// The policy of a keyspace becomes another one: its levels, its times, who may succeed whom.
    /// Regions, placement, delimiter and buckets stay, as they say where keys are.
    AlterKeyspace {
        /// What it is to be.
        keyspace: Box<Keyspace>,
        /// The version that this was made from: of two made from the same one, one is refused.
        from: u64,
    },
    /// The home of a partition counts as lost: it is not to go on in this reign once it hears of
    /// it, whatever becomes of the takeover.
    BeginTakeOver {
        /// Of which.
        partition: PartitionId,
        /// The epoch that is to end.
        from: Epoch,
        /// When it was last heard of and when it was given up, wall clock of the leader.
        lost: Lost,
    },
    /// Another node becomes home of a partition, because its home is lost; or the same one, in a
    /// new reign, because it came back before it was succeeded.
    TakeOver {
        /// Of which.
        partition: PartitionId,
        /// The epoch that is to end: of two who want the same one, one is refused.
        from: Epoch,
        /// The new home.
        to: NodeId,
        /// Why the old home cannot acknowledge any more.
        evidence: Evidence,
        /// When and upon what it was decided.
        decision: Decision,
    },
    /// What is known of a change of home afterwards.
    Note {
        /// Of which partition.
        partition: PartitionId,
        /// The reign that began.
        epoch: Epoch,
        /// What.
        note: Note,
    },
    /// A home is about to acknowledge with less than its keyspace's level.
    BeginDegraded(DegradedStretch),
    /// Its copies have all of it again.
    EndDegraded(DegradedStretch),
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
        /// The new home: a change to another node is not ended by this.
        to: NodeId,
        /// The policy that its reign goes by, as the one before it ended; `None`: the present one.
        revision: Option<u64>,
    },
    /// The home goes on as before.
    AbortSwitchover {
        /// Of which.
        partition: PartitionId,
        /// The epoch in which it began.
        from: Epoch,
        /// The node that would have been the new home.
        to: NodeId,
    },
}

/// A time in which a home may acknowledge with less than its keyspace's level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DegradedStretch {
    /// Of which partition.
    pub partition: PartitionId,
    /// In which reign.
    pub epoch: Epoch,
    /// Since when, in milliseconds since 1970; names the stretch, and only grows.
    pub since_ms: u64,
}

/// When a home was lost, in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lost {
    /// When it was last heard of.
    pub heard_ms: u64,
    /// When it was given up, or an operator said so.
    pub noticed_ms: u64,
    /// What the operator said, if it was one.
    pub word: Option<OperatorWord>,
}

impl Lost {
    /// The same, and what an operator said.
    #[must_use]
    pub fn said(self, word: Option<OperatorWord>) -> Self {
        Self { word, ..self }
    }
}

/// What an operator says of a takeover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OperatorWord {
    /// They saw that the old home is off.
    pub is_fenced: bool,
    /// Two homes at once are accepted.
    pub accepts_split_brain: bool,
    /// Who is to take over, even if another copy has more; `None`: whoever has most.
    pub to: Option<RegionId>,
}

/// When a successor was decided on, and what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Decision {
    /// When the old home was fenced, in milliseconds since 1970.
    pub fenced_ms: u64,
    /// When the successor was chosen.
    pub decided_ms: u64,
    /// The last record that the successor has.
    pub upto: Seq,
    /// The last record that the old home was known to have; the successor's where nothing was.
    pub known_upto: Seq,
    /// How many more it may have had that nobody heard of, by how fast it wrote and for how long
    /// it was not heard; `None`: nobody can tell.
    pub unheard_max: Option<u64>,
}

/// What became of a change of home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    /// The new home began its reign.
    Opened {
        /// When, in milliseconds since 1970.
        at_ms: u64,
    },
    /// It acknowledged the first write of a client.
    Served {
        /// When, in milliseconds since 1970.
        at_ms: u64,
    },
    /// A node had records that the new home never had; they are sealed there.
    Orphaned {
        /// Which node.
        node: NodeId,
        /// Its records beyond the fork.
        records: u64,
        /// Their encoded bytes.
        bytes: u64,
        /// At the old home: of them, the writes that it may have acknowledged, and their bytes.
        lost: Option<(u64, u64)>,
    },
}

/// Why an old home cannot acknowledge any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Evidence {
    /// Its lease has run out, by the clock of whoever granted it; so has that of the node to which
    /// the partition was being handed.
    LeaseRanOut,
    /// It has promised itself to take no part in its reign any more, and so has the node to which
    /// the partition was being handed, if it was.
    HomePromised,
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
    /// Somebody removed it.
    #[error("region {0} was removed")]
    RegionRemoved(RegionId),
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
    /// Somebody else has altered it.
    #[error(
        "keyspace {keyspace} is at version {actual} by now, this alteration was made from \
         {expected}: look at it and decide again"
    )]
    KeyspaceAltered {
        /// Which keyspace.
        keyspace: Name,
        /// Its version.
        actual: u64,
        /// The one that the alteration was made from.
        expected: u64,
    },
    /// What cannot be altered.
    #[error("keyspace {keyspace}: {what} cannot be altered")]
    Unalterable {
        /// Which keyspace.
        keyspace: Name,
        /// Which part of it.
        what: &'static str,
    },
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
    /// A degraded stretch that cannot begin or is not the present one.
    #[error("{partition}: {problem}")]
    Degraded {
        /// Which partition.
        partition: PartitionId,
        /// What is wrong.
        problem: &'static str,
    },
    /// The home is being given up, or is not.
    #[error("{partition}: {problem}")]
    TakeOver {
        /// Which partition.
        partition: PartitionId,
        /// What is wrong.
        problem: &'static str,
    },
    /// A planned change is under way, or none is.
    #[error("{partition}: {problem}")]
    Switchover {
        /// Which partition.
        partition: PartitionId,
        /// What is wrong.
        problem: &'static str,
    },
}
