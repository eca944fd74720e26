//! Who is home of what: the state that the control plane agrees on.
//!
//! **Owns**: what each command does, every check of it.
//! **Does not own**: agreeing on their order (the control plane), detecting that a home is lost.
//!
//! A pure function of the commands applied so far: everybody who applies the same ones in the same
//! order has the same map. A change of home names the epoch that it ends, so of two for the same
//! reign only the first counts; the new epoch is minted here and nowhere else.

use std::collections::BTreeMap;

use domicile_proto::{Epoch, Keyspace, KeyspaceId, Name, NodeId, PartitionId, RegionId};

use super::command::{Command, CommandRefused, Evidence};
use super::fencing::{Fencing, revokes};

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
}

/// The whole map.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ControlMap {
    regions: BTreeMap<RegionId, Region>,
    nodes: BTreeMap<NodeId, Node>,
    keyspaces: BTreeMap<KeyspaceId, Keyspace>,
    partitions: BTreeMap<PartitionId, Assignment>,
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
            Command::TakeOver {
                partition,
                from,
                to,
                evidence,
            } => self.take_over(*partition, *from, *to, evidence),
            Command::BeginSwitchover {
                partition,
                from,
                to,
            } => self.begin_switchover(*partition, *from, *to),
            Command::CommitSwitchover { partition, from } => {
                let to = self.switching(*partition, *from)?;
                self.mint(*partition, to)
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
            };
            created.insert(partition, assignment);
        }
        self.partitions.extend(created);
        self.keyspaces.insert(keyspace.id(), keyspace.clone());
        Ok(())
    }

    fn take_over(
        &mut self,
        partition: PartitionId,
        from: Epoch,
        to: NodeId,
        evidence: &Evidence,
    ) -> Result<(), CommandRefused> {
        self.check_epoch(partition, from)?;
        let region = self.check_successor(partition, to)?;
        self.check_evidence(partition, region, evidence)?;
        self.mint(partition, to)
    }

    fn begin_switchover(
        &mut self,
        partition: PartitionId,
        from: Epoch,
        to: NodeId,
    ) -> Result<(), CommandRefused> {
        let before = self.check_epoch(partition, from)?;
        self.check_successor(partition, to)?;
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
        let to = before.moving_to;
        to.ok_or(CommandRefused::Switchover { partition, problem })
    }

    /// A new reign, of a node that was checked.
    fn mint(&mut self, partition: PartitionId, to: NodeId) -> Result<(), CommandRefused> {
        let before = self.partition(partition)?;
        let counter = before.epoch.counter.checked_add(1);
        let counter = counter.ok_or(CommandRefused::EpochsExhausted(partition))?;
        self.assign(partition, |it| {
            *it = Assignment {
                home: to,
                epoch: Epoch { counter, node: to },
                moving_to: None,
            };
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
        if self.partition(partition)?.home == to {
            return problem("it is the home already");
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
            Evidence::LeaseRanOut => Ok(()),
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
