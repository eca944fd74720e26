//! Who is home of what: the state that the control plane agrees on.
//!
//! **Owns**: what each command does, every check of it.
//! **Does not own**: agreeing on their order (the control plane), detecting that a home is lost.
//!
//! A pure function of the commands applied so far: everybody who applies the same ones in the same
//! order has the same map. A change of home names the epoch that it ends, so of two for the same
//! reign only the first counts; the new epoch is minted here and nowhere else.

mod parts;
mod policies;
mod takeovers;

use std::collections::BTreeMap;
use std::sync::Arc;

use domicile_proto::{Epoch, Keyspace, KeyspaceId, Name, NodeId, PartitionId, RegionId};

use super::command::{Command, CommandRefused, DegradedStretch, Lost, Note};
use super::history::{Change, History, Why};
use crate::planted::{Bug, is_planted};

pub use parts::MapParts;
pub use policies::{Policies, Policy};

/// The first reign's number.
const FIRST_COUNTER: u64 = 1;

/// A region of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// Its name.
    pub name: Name,
    /// Whether it holds no data.
    pub is_witness: bool,
    /// Where the others dial it, once somebody knew.
    pub peer_address: Option<String>,
    /// Whether it has left. It stays known, so that no node brings it back unasked.
    pub is_removed: bool,
}

/// A node of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// Where it is.
    pub region: RegionId,
    /// Whether it is gone for good. Its identity is never used again.
    pub is_retired: bool,
}

/// The home of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assignment {
    /// Which node.
    pub home: NodeId,
    /// Its reign: of no other node, and of no other time.
    pub epoch: Epoch,
    /// Which policy of its keyspace the reign goes by, from its beginning to its end.
    pub revision: u64,
    /// To whom it is being handed, if it is.
    pub moving_to: Option<NodeId>,
    /// Since when the home may acknowledge with less than its keyspace's level, in milliseconds
    /// since 1970: what it acknowledged since then may be nowhere else.
    pub degraded_ms: Option<u64>,
    /// Set while the home counts as lost and has no successor so far: its reign is over.
    pub lost: Option<Lost>,
}

impl Assignment {
    /// Nothing below it is taken any more once the home is given up. Its counter is that of the
    /// reign which will follow, and no node's id is lower.
    #[must_use]
    pub fn floor(&self) -> Epoch {
        let is_moving = self.moving_to.is_some() && !is_planted(Bug::MintBesideSwitchover);
        let step = if is_moving { 2 } else { 1 };
        Epoch {
            counter: self.epoch.counter.saturating_add(step),
            node: NodeId::LOWEST,
        }
    }
}

/// The whole map.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ControlMap {
    regions: BTreeMap<RegionId, Region>,
    nodes: BTreeMap<NodeId, Node>,
    keyspaces: BTreeMap<KeyspaceId, Policies>,
    partitions: BTreeMap<PartitionId, Assignment>,
    history: History,
    version: u64,
}

impl ControlMap {
    /// Commands that changed it so far.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// A partition's home.
    #[must_use]
    pub fn assignment(&self, partition: PartitionId) -> Option<Assignment> {
        self.partitions.get(&partition).copied()
    }

    /// Every partition with its home.
    pub fn assignments(&self) -> impl Iterator<Item = (PartitionId, Assignment)> {
        self.partitions.iter().map(|(id, it)| (*id, *it))
    }

    /// What changed hands.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Every keyspace.
    pub fn keyspaces(&self) -> impl Iterator<Item = &Arc<Keyspace>> {
        self.keyspaces.values().map(|it| &it.present.keyspace)
    }

    /// Every region that is part of the cluster.
    pub fn regions(&self) -> impl Iterator<Item = (RegionId, &Region)> {
        let present = self.regions.iter().filter(|(_, it)| !it.is_removed);
        present.map(|(id, it)| (*id, it))
    }

    /// Whether a region has left.
    #[must_use]
    pub fn has_left(&self, region: RegionId) -> bool {
        self.regions.get(&region).is_some_and(|it| it.is_removed)
    }

    /// Every node that is in service.
    pub fn live_nodes(&self) -> impl Iterator<Item = (NodeId, RegionId)> {
        let live = self.nodes.iter().filter(|(_, it)| !it.is_retired);
        live.map(|(id, it)| (*id, it.region))
    }

    /// A keyspace as it is to be.
    #[must_use]
    pub fn keyspace(&self, id: KeyspaceId) -> Option<&Keyspace> {
        self.keyspaces.get(&id).map(|it| &*it.present.keyspace)
    }

    /// How often a keyspace was made or altered so far, which an alteration is to name.
    #[must_use]
    pub fn keyspace_version(&self, id: KeyspaceId) -> Option<u64> {
        self.keyspaces.get(&id).map(|it| it.version)
    }

    /// A node.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<Node> {
        self.nodes.get(&id).copied()
    }

    /// Regions, which vote one each.
    #[must_use]
    pub fn voters(&self) -> usize {
        self.regions().count()
    }

    /// Does what a command says, or nothing.
    ///
    /// # Errors
    /// [`CommandRefused`] with what stands against it.
    pub fn apply(&mut self, command: &Command) -> Result<(), CommandRefused> {
        match command {
            Command::AddRegion {
                region,
                name,
                is_witness,
                peer_address,
                is_return,
            } => {
                let added = Region {
                    name: name.clone(),
                    is_witness: *is_witness,
                    peer_address: peer_address.clone(),
                    is_removed: false,
                };
                self.add_region(*region, added, *is_return)
            }
            Command::RemoveRegion { region } => self.remove_region(*region),
            Command::AddNode { node, region } => self.add_node(*node, *region),
            Command::RetireNode { node } => self.retire_node(*node),
            Command::CreateKeyspace(keyspace) => self.create_keyspace(keyspace),
            Command::AlterKeyspace { keyspace, from } => self.alter_keyspace(keyspace, *from),
            Command::BeginTakeOver {
                partition,
                from,
                lost,
            } => self.begin_take_over(*partition, *from, *lost),
            Command::TakeOver {
                partition,
                from,
                to,
                evidence,
                decision,
            } => self.take_over(*partition, *from, *to, evidence, *decision),
            Command::Note {
                partition,
                epoch,
                note,
            } => self.note(*partition, *epoch, *note),
            Command::BeginDegraded(stretch) => self.begin_degraded(*stretch),
            Command::EndDegraded(stretch) => self.end_degraded(*stretch),
            Command::BeginSwitchover {
                partition,
                from,
                to,
            } => self.begin_switchover(*partition, *from, *to),
            Command::CommitSwitchover {
                partition,
                from,
                to,
                revision,
            } => self.commit_switchover(*partition, *from, *to, *revision),
            Command::AbortSwitchover {
                partition,
                from,
                to,
            } => {
                self.check_switching(*partition, *from, *to)?;
                self.assign(*partition, |it| it.moving_to = None);
                Ok(())
            }
        }?;
        self.version += 1;
        Ok(())
    }

    fn add_region(
        &mut self,
        region: RegionId,
        added: Region,
        is_return: bool,
    ) -> Result<(), CommandRefused> {
        let others = self.regions.iter().filter(|(id, _)| **id != region);
        if let Some((other, _)) = others.into_iter().find(|(_, it)| it.name == added.name) {
            return Err(CommandRefused::RegionExists(*other));
        }
        match self.regions.get_mut(&region) {
            Some(known) if !known.is_removed => {
                let is_same = known.name == added.name && known.is_witness == added.is_witness;
                let is_news = known.peer_address.is_none() && added.peer_address.is_some();
                if !(is_same && is_news) {
                    return Err(CommandRefused::RegionExists(region));
                }
                known.peer_address = added.peer_address;
                return Ok(());
            }
            Some(_) if !is_return => return Err(CommandRefused::RegionRemoved(region)),
            Some(known) if known.name != added.name => {
                return Err(CommandRefused::RegionExists(region));
            }
            _ => {}
        }
        self.with_voters(self.voters() + 1, |map| {
            map.regions.insert(region, added);
        })
    }

    fn remove_region(&mut self, region: RegionId) -> Result<(), CommandRefused> {
        self.region(region)?;
        let user = self.keyspaces().find(|it| it.regions.contains(&region));
        if let Some(user) = user {
            let keyspace = user.name.clone();
            return Err(CommandRefused::RegionInUse { region, keyspace });
        }
        let left = self.voters() - 1;
        if left == 0 {
            let problem = "the only one";
            return Err(CommandRefused::Region { region, problem });
        }
        self.with_voters(left, |map| {
            map.regions
                .entry(region)
                .and_modify(|it| it.is_removed = true);
            for node in map.nodes.values_mut().filter(|it| it.region == region) {
                node.is_retired = true;
            }
        })
    }

    fn add_node(&mut self, node: NodeId, region: RegionId) -> Result<(), CommandRefused> {
        self.region(region)?;
        if self.nodes.contains_key(&node) {
            return Err(CommandRefused::NodeKnown(node));
        }
        let is_retired = false;
        self.nodes.insert(node, Node { region, is_retired });
        Ok(())
    }

    fn retire_node(&mut self, node: NodeId) -> Result<(), CommandRefused> {
        self.live_node(node)?;
        let mut homes = self.partitions.iter();
        if let Some((partition, it)) = homes.find(|(_, it)| it.home == node) {
            return Err(CommandRefused::NodeIsHome {
                node,
                partition: *partition,
                epoch: it.epoch,
            });
        }
        // The home may have ended its reign in favour of this node.
        let mut moving = self.partitions.iter();
        if let Some((partition, _)) = moving.find(|(_, it)| it.moving_to == Some(node)) {
            let (partition, problem) = (*partition, "it is being handed to the node: wait");
            return Err(CommandRefused::Switchover { partition, problem });
        }
        self.nodes.entry(node).and_modify(|it| it.is_retired = true);
        Ok(())
    }

    fn note(
        &mut self,
        partition: PartitionId,
        epoch: Epoch,
        note: Note,
    ) -> Result<(), CommandRefused> {
        match self.history.note(partition, epoch, note) {
            true => Ok(()),
            false => Err(CommandRefused::NoPartition(partition)),
        }
    }

    /// From now on the home is not taken over by itself. Of one that is given up already nobody
    /// waits for what it would acknowledge.
    fn begin_degraded(&mut self, stretch: DegradedStretch) -> Result<(), CommandRefused> {
        let DegradedStretch {
            partition,
            epoch,
            since_ms,
        } = stretch;
        let before = self.check_epoch(partition, epoch)?;
        if before.lost.is_some() {
            let problem = "its home is being given up";
            return Err(CommandRefused::Degraded { partition, problem });
        }
        if before.degraded_ms.is_some_and(|since| since > since_ms) {
            let problem = "a later degraded stretch is on record";
            return Err(CommandRefused::Degraded { partition, problem });
        }
        self.assign(partition, |it| it.degraded_ms = Some(since_ms));
        Ok(())
    }

    fn end_degraded(&mut self, stretch: DegradedStretch) -> Result<(), CommandRefused> {
        let partition = stretch.partition;
        let before = self.check_epoch(partition, stretch.epoch)?;
        if before.degraded_ms != Some(stretch.since_ms) {
            let problem = "no such degraded stretch is on record";
            return Err(CommandRefused::Degraded { partition, problem });
        }
        self.assign(partition, |it| it.degraded_ms = None);
        Ok(())
    }

    fn begin_switchover(
        &mut self,
        partition: PartitionId,
        from: Epoch,
        to: NodeId,
    ) -> Result<(), CommandRefused> {
        let before = self.check_epoch(partition, from)?;
        self.check_successor(partition, to)?;
        // A home follows on itself where an alteration is to come into force.
        let is_home_already = before.home == to && !self.is_outdated(partition, before);
        if is_home_already || before.lost.is_some() {
            let problem = match is_home_already {
                true => "it is the home already",
                false => "its home is being given up",
            };
            return Err(CommandRefused::Switchover { partition, problem });
        }
        if before.moving_to.is_some_and(|other| other != to) {
            let problem = "another switchover is under way";
            return Err(CommandRefused::Switchover { partition, problem });
        }
        self.assign(partition, |it| it.moving_to = Some(to));
        Ok(())
    }

    /// Whether the partition is being handed to this node. A change to another one that was begun
    /// meanwhile is not the one that is spoken of.
    fn check_switching(
        &self,
        partition: PartitionId,
        from: Epoch,
        to: NodeId,
    ) -> Result<(), CommandRefused> {
        let refused = |problem| CommandRefused::Switchover { partition, problem };
        let before = self.check_epoch(partition, from)?;
        if before.lost.is_some() {
            let problem = "its home is being given up, and whoever follows with it";
            return Err(refused(problem));
        }
        match before.moving_to {
            Some(other) if other == to || is_planted(Bug::EndAnySwitchover) => Ok(()),
            Some(_) => Err(refused("it is being handed to another node")),
            None => Err(refused("no switchover is under way")),
        }
    }

    fn commit_switchover(
        &mut self,
        partition: PartitionId,
        from: Epoch,
        to: NodeId,
        revision: Option<u64>,
    ) -> Result<(), CommandRefused> {
        self.check_switching(partition, from, to)?;
        self.check_revision(partition, revision)?;
        self.mint(partition, to, Why::Planned)?;
        if let Some(revision) = revision {
            self.assign(partition, |it| it.revision = revision);
        }
        Ok(())
    }

    /// A new reign, of a node that was checked. Above that of a planned change which may have come
    /// to its end unseen: its new home counts one up by itself.
    fn mint(&mut self, partition: PartitionId, to: NodeId, why: Why) -> Result<(), CommandRefused> {
        let before = self.partition(partition)?;
        let step = match why {
            Why::Lost(..) if is_planted(Bug::MintBesideSwitchover) => 1,
            Why::Lost(..) if before.moving_to.is_some() => 2,
            _ => 1,
        };
        let counter = before.epoch.counter.checked_add(step);
        let counter = counter.ok_or(CommandRefused::EpochsExhausted(partition))?;
        let epoch = Epoch { counter, node: to };
        let present = self.present_policy(partition);
        let revision = present.map_or(before.revision, |policy| policy.revision);
        self.assign(partition, |it| {
            *it = Assignment {
                home: to,
                epoch,
                revision,
                moving_to: None,
                // Whoever follows as planned has all of it; the same node has it alone still.
                degraded_ms: before.degraded_ms.filter(|_| before.home == to),
                lost: None,
            };
        });
        if why == Why::Planned && before.home == to {
            return Ok(());
        }
        self.history.push(Change {
            partition,
            from: before.epoch,
            to: epoch,
            why,
            opened_ms: None,
            served_ms: None,
            orphaned: Vec::new(),
            actual: None,
            degraded_ms: before.degraded_ms,
        });
        Ok(())
    }

    fn assign(&mut self, partition: PartitionId, change: impl FnOnce(&mut Assignment)) {
        self.partitions.entry(partition).and_modify(change);
    }

    fn check_epoch(
        &self,
        partition: PartitionId,
        expected: Epoch,
    ) -> Result<Assignment, CommandRefused> {
        let found = self.partition(partition)?;
        let actual = found.epoch;
        if actual != expected {
            return Err(CommandRefused::StaleEpoch {
                partition,
                actual,
                expected,
            });
        }
        Ok(found)
    }

    /// The region of a node that may become home. Residency: one of the keyspace's.
    fn check_successor(
        &self,
        partition: PartitionId,
        to: NodeId,
    ) -> Result<RegionId, CommandRefused> {
        let region = self.live_node(to)?.region;
        let problem = |problem| Err(CommandRefused::Node { node: to, problem });
        if !self.keyspace_of(partition)?.regions.contains(&region) {
            return problem("its region may not hold the keyspace");
        }
        Ok(region)
    }

    fn partition(&self, partition: PartitionId) -> Result<Assignment, CommandRefused> {
        let found = self.assignment(partition);
        found.ok_or(CommandRefused::NoPartition(partition))
    }

    fn keyspace_of(&self, partition: PartitionId) -> Result<&Keyspace, CommandRefused> {
        let id = partition.keyspace;
        self.keyspace(id).ok_or(CommandRefused::NoKeyspace(id))
    }

    fn region(&self, region: RegionId) -> Result<&Region, CommandRefused> {
        let problem = "not of this cluster";
        let found = self.regions.get(&region).filter(|it| !it.is_removed);
        found.ok_or(CommandRefused::Region { region, problem })
    }

    fn live_node(&self, node: NodeId) -> Result<Node, CommandRefused> {
        let problem = |problem| CommandRefused::Node { node, problem };
        let found = self.node(node).ok_or(problem("not of this cluster"))?;
        match found.is_retired {
            true => Err(problem("retired")),
            false => Ok(found),
        }
    }
}
