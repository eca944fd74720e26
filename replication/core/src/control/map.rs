//! Who is home of what: the state that the control plane agrees on.
//!
//! **Owns**: what each command does, every check of it.
//! **Does not own**: agreeing on their order (the control plane), detecting that a home is lost.
//!
//! A pure function of the commands applied so far: everybody who applies the same ones in the same
//! order has the same map. A change of home names the epoch that it ends, so of two for the same
//! reign only the first counts; the new epoch is minted here and nowhere else.

mod parts;

use std::collections::BTreeMap;

use domicile_proto::{Epoch, Keyspace, KeyspaceId, Name, NodeId, PartitionId, RegionId};

use super::command::{Command, CommandRefused, Decision, Evidence, Lost, Note};
use super::fencing::{Fencing, revokes};
use super::history::{Change, History, Why};
use crate::planted::{Bug, is_planted};

pub use parts::MapParts;

/// The first reign's number.
const FIRST_COUNTER: u64 = 1;

/// A region of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// Its name.
    pub name: Name,
    /// Whether it holds no data.
    pub is_witness: bool,
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
    /// To whom it is being handed, if it is.
    pub moving_to: Option<NodeId>,
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
    keyspaces: BTreeMap<KeyspaceId, Keyspace>,
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
    pub fn keyspaces(&self) -> impl Iterator<Item = &Keyspace> {
        self.keyspaces.values()
    }

    /// Every region.
    pub fn regions(&self) -> impl Iterator<Item = (RegionId, &Region)> {
        self.regions.iter().map(|(id, it)| (*id, it))
    }

    /// Every node that is in service.
    pub fn live_nodes(&self) -> impl Iterator<Item = (NodeId, RegionId)> {
        let live = self.nodes.iter().filter(|(_, it)| !it.is_retired);
        live.map(|(id, it)| (*id, it.region))
    }

    /// How the homes of a keyspace are fenced.
    #[must_use]
    pub fn fencing(&self, keyspace: &Keyspace) -> Fencing {
        Fencing::of(keyspace, self.voters())
    }

    /// A keyspace's policy.
    #[must_use]
    pub fn keyspace(&self, id: KeyspaceId) -> Option<&Keyspace> {
        self.keyspaces.get(&id)
    }

    /// A node.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<Node> {
        self.nodes.get(&id).copied()
    }

    /// Regions, which vote one each.
    #[must_use]
    pub fn voters(&self) -> usize {
        self.regions.len()
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
            } => self.add_region(*region, name, *is_witness),
            Command::RemoveRegion { region } => self.remove_region(*region),
            Command::AddNode { node, region } => self.add_node(*node, *region),
            Command::RetireNode { node } => self.retire_node(*node),
            Command::CreateKeyspace(keyspace) => self.create_keyspace(keyspace),
            Command::AlterKeyspace(keyspace) => self.alter_keyspace(keyspace),
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
            Command::BeginSwitchover {
                partition,
                from,
                to,
            } => self.begin_switchover(*partition, *from, *to),
            Command::CommitSwitchover { partition, from } => {
                let to = self.switching(*partition, *from)?;
                self.mint(*partition, to, Why::Planned)
            }
            Command::AbortSwitchover { partition, from } => {
                self.switching(*partition, *from)?;
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
        name: &Name,
        is_witness: bool,
    ) -> Result<(), CommandRefused> {
        let is_known = self.regions.values().any(|it| it.name == *name);
        if is_known || self.regions.contains_key(&region) {
            return Err(CommandRefused::RegionExists(region));
        }
        let name = name.clone();
        self.regions.insert(region, Region { name, is_witness });
        Ok(())
    }

    fn remove_region(&mut self, region: RegionId) -> Result<(), CommandRefused> {
        self.region(region)?;
        let mut keyspaces = self.keyspaces.values();
        if let Some(user) = keyspaces.find(|it| it.regions.contains(&region)) {
            let keyspace = user.name.clone();
            return Err(CommandRefused::RegionInUse { region, keyspace });
        }
        self.regions.remove(&region);
        for node in self.nodes.values_mut().filter(|it| it.region == region) {
            node.is_retired = true;
        }
        Ok(())
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
        for it in self.partitions.values_mut() {
            it.moving_to = it.moving_to.filter(|to| *to != node);
        }
        self.nodes.entry(node).and_modify(|it| it.is_retired = true);
        Ok(())
    }

    fn create_keyspace(&mut self, keyspace: &Keyspace) -> Result<(), CommandRefused> {
        if let Some(other) = self.keyspaces.get(&keyspace.id()) {
            let (name, other) = (keyspace.name.clone(), other.name.clone());
            return Err(match name == other {
                true => CommandRefused::KeyspaceExists(name),
                false => CommandRefused::KeyspaceIdTaken { name, other },
            });
        }
        for region in &keyspace.regions {
            if self.region(*region)?.is_witness {
                let (region, problem) = (*region, "a witness holds no data");
                return Err(CommandRefused::Region { region, problem });
            }
        }
        let mut created = BTreeMap::new();
        for partition in keyspace.partitions() {
            let region = partition.region;
            let mut nodes = self.nodes.iter();
            let home = nodes.find(|(_, it)| it.region == region && !it.is_retired);
            let Some((home, _)) = home else {
                let problem = "no node in it";
                return Err(CommandRefused::Region { region, problem });
            };
            let epoch = Epoch {
                counter: FIRST_COUNTER,
                node: *home,
            };
            let assignment = Assignment {
                home: *home,
                epoch,
                moving_to: None,
                lost: None,
            };
            created.insert(partition, assignment);
        }
        self.partitions.extend(created);
        self.keyspaces.insert(keyspace.id(), keyspace.clone());
        Ok(())
    }

    fn alter_keyspace(&mut self, keyspace: &Keyspace) -> Result<(), CommandRefused> {
        let id = keyspace.id();
        let before = self.keyspace(id).ok_or(CommandRefused::NoKeyspace(id))?;
        let name = || keyspace.name.clone();
        for (what, is_same) in [
            ("its name", before.name == keyspace.name),
            ("its regions", before.regions == keyspace.regions),
            ("its placement", before.placement == keyspace.placement),
            ("its delimiter", before.delimiter == keyspace.delimiter),
            ("its number of buckets", before.buckets == keyspace.buckets),
        ] {
            if !is_same {
                let keyspace = name();
                return Err(CommandRefused::Unalterable { keyspace, what });
            }
        }
        // A level that changes while a home is given up or handed on would change what fences it.
        let mut partitions = self.partitions.iter();
        let unsettled = partitions.find(|(partition, it)| {
            partition.keyspace == id && (it.lost.is_some() || it.moving_to.is_some())
        });
        if let Some((partition, _)) = unsettled {
            let (partition, problem) = (*partition, "its home is changing: alter it afterwards");
            return Err(CommandRefused::Switchover { partition, problem });
        }
        self.keyspaces.insert(id, keyspace.clone());
        Ok(())
    }

    fn begin_take_over(
        &mut self,
        partition: PartitionId,
        from: Epoch,
        lost: Lost,
    ) -> Result<(), CommandRefused> {
        let before = self.check_epoch(partition, from)?;
        match before.lost {
            None => self.assign(partition, |it| it.lost = Some(lost)),
            // An operator has something to add, once.
            Some(Lost { word: None, .. }) if lost.word.is_some() => {
                self.assign(partition, |it| {
                    it.lost = it.lost.map(|it| it.said(lost.word))
                });
            }
            Some(_) => {
                let problem = "its home is being given up already";
                return Err(CommandRefused::TakeOver { partition, problem });
            }
        }
        Ok(())
    }

    fn take_over(
        &mut self,
        partition: PartitionId,
        from: Epoch,
        to: NodeId,
        evidence: &Evidence,
        decision: Decision,
    ) -> Result<(), CommandRefused> {
        let before = self.check_epoch(partition, from)?;
        let Some(lost) = before.lost else {
            let problem = "its home is not given up: begin with that";
            return Err(CommandRefused::TakeOver { partition, problem });
        };
        let region = self.check_successor(partition, to)?;
        self.check_evidence(partition, region, evidence)?;
        self.mint(partition, to, Why::Lost(lost, decision))
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

    fn begin_switchover(
        &mut self,
        partition: PartitionId,
        from: Epoch,
        to: NodeId,
    ) -> Result<(), CommandRefused> {
        let before = self.check_epoch(partition, from)?;
        self.check_successor(partition, to)?;
        if before.home == to || before.lost.is_some() {
            let problem = match before.home == to {
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

    /// To whom the partition is being handed.
    fn switching(&self, partition: PartitionId, from: Epoch) -> Result<NodeId, CommandRefused> {
        let problem = "no switchover is under way";
        let before = self.check_epoch(partition, from)?;
        if before.lost.is_some() {
            let problem = "its home is being given up, and whoever follows with it";
            return Err(CommandRefused::Switchover { partition, problem });
        }
        let to = before.moving_to;
        to.ok_or(CommandRefused::Switchover { partition, problem })
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
        self.assign(partition, |it| {
            *it = Assignment {
                home: to,
                epoch,
                moving_to: None,
                lost: None,
            };
        });
        self.history.push(Change {
            partition,
            from: before.epoch,
            to: epoch,
            why,
            opened_ms: None,
            served_ms: None,
            orphaned: Vec::new(),
            actual: None,
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

    fn check_evidence(
        &self,
        partition: PartitionId,
        successor: RegionId,
        evidence: &Evidence,
    ) -> Result<(), CommandRefused> {
        let keyspace = self.keyspace_of(partition)?;
        let fencing = Fencing::of(keyspace, self.voters());
        let refused = |problem: String| {
            Err(CommandRefused::NotFenced {
                partition,
                fencing,
                problem,
            })
        };
        match evidence {
            Evidence::LeaseRanOut if fencing != Fencing::Lease => {
                refused("homes of this keyspace have no lease".to_owned())
            }
            Evidence::LeaseRanOut | Evidence::HomePromised => Ok(()),
            Evidence::AcksRevoked { .. } if fencing != Fencing::AckRevocation => {
                refused("its home acknowledges without its copies".to_owned())
            }
            Evidence::AcksRevoked { by } => {
                let home = self.partition(partition)?.home;
                let home_region = self.nodes.get(&home).map(|node| node.region);
                let mut by: Vec<RegionId> = by.clone();
                by.retain(|it| keyspace.regions.contains(it) && Some(*it) != home_region);
                by.sort_unstable();
                by.dedup();
                let (copies, promised) = (keyspace.copies(), by.len());
                if !revokes(keyspace.ack, copies, promised) {
                    let level = keyspace.ack;
                    return refused(format!(
                        "{promised} of {copies} copies have promised, and {level} needs fewer"
                    ));
                }
                if !by.contains(&successor) {
                    return refused(format!("region {successor} has promised nothing"));
                }
                Ok(())
            }
            Evidence::Operator {
                is_fenced,
                accepts_split_brain,
            } => match is_fenced | accepts_split_brain {
                true => Ok(()),
                false => refused("neither evidence nor consent to two homes at once".to_owned()),
            },
        }
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
        let found = self.regions.get(&region);
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
