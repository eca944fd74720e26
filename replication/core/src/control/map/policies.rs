//! Keyspaces in the map: made, altered, and which policy each reign goes by.
//!
//! **Owns**: the present policy and the one before it, what an alteration may change.
//! **Does not own**: putting it in force (the leader lets each home begin a new reign).
//!
//! A home goes by one policy from the beginning of its reign to its end, whatever the map says
//! meanwhile: else a leader might fence it by a level or a lease that it does not know of yet. So
//! what is altered comes into force, partition by partition, with the next reign.

use std::collections::BTreeMap;
use std::sync::Arc;

use domicile_proto::{Epoch, Keyspace, KeyspaceId, PartitionId, Placement, RegionId};

use super::{Assignment, Command, CommandRefused, ControlMap, FIRST_COUNTER};
use crate::control::fencing::Fencing;
use crate::planted::{Bug, is_planted};

/// The first policy of a keyspace.
const FIRST_REVISION: u64 = 1;

/// The version of a keyspace that was never altered.
const FIRST_VERSION: u64 = 1;

/// What homes of a keyspace go by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Which one: of two, the later has the higher.
    pub revision: u64,
    /// Levels, times, regions.
    pub keyspace: Arc<Keyspace>,
    /// What fences a home that goes by it.
    pub fencing: Fencing,
}

/// A keyspace, and what reigns that began earlier go by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policies {
    /// What new reigns go by.
    pub present: Policy,
    /// What the other ones do; no reign goes by one that is older.
    pub former: Option<Policy>,
    /// Counts what operators have made of it, also what begins no other policy.
    pub version: u64,
}

impl Policies {
    fn first(keyspace: &Keyspace, voters: usize) -> Self {
        Self {
            present: Policy {
                revision: FIRST_REVISION,
                keyspace: Arc::new(keyspace.clone()),
                fencing: Fencing::of(keyspace, voters),
            },
            former: None,
            version: FIRST_VERSION,
        }
    }

    fn of(&self, revision: u64) -> &Policy {
        let former = self.former.as_ref();
        let former = former.filter(|former| former.revision == revision);
        former.unwrap_or(&self.present)
    }

    /// Begins another policy, which all reigns go by that begin from now on.
    fn begin(&mut self, keyspace: Arc<Keyspace>, fencing: Fencing) {
        let next = Policy {
            revision: self.present.revision + 1,
            keyspace,
            fencing,
        };
        self.former = Some(std::mem::replace(&mut self.present, next));
    }
}

/// The same but for what only a leader goes by: who may succeed.
fn has_same_terms(one: &Keyspace, other: &Keyspace) -> bool {
    let one = Keyspace {
        failover: other.failover,
        successors: other.successors.clone(),
        ..one.clone()
    };
    one == *other
}

impl ControlMap {
    /// What a reign of the partition goes by.
    #[must_use]
    pub fn policy(&self, partition: PartitionId, revision: u64) -> Option<&Policy> {
        let policies = self.keyspaces.get(&partition.keyspace)?;
        Some(policies.of(revision))
    }

    /// This very policy of the partition's keyspace, if a reign may go by it.
    #[must_use]
    pub fn policy_of(&self, partition: PartitionId, revision: u64) -> Option<&Policy> {
        let found = self.policy(partition, revision);
        found.filter(|policy| policy.revision == revision)
    }

    pub(super) fn check_revision(
        &self,
        partition: PartitionId,
        revision: Option<u64>,
    ) -> Result<(), CommandRefused> {
        let is_known = |revision| self.policy_of(partition, revision).is_some();
        if revision.is_none_or(is_known) {
            return Ok(());
        }
        let problem = "its new reign goes by a policy that no reign goes by any more";
        Err(CommandRefused::Switchover { partition, problem })
    }

    /// The policy that reigns go by which begin now.
    #[must_use]
    pub fn present_policy(&self, partition: PartitionId) -> Option<&Policy> {
        let policies = self.keyspaces.get(&partition.keyspace)?;
        Some(&policies.present)
    }

    /// Everything that whoever acts as home may go by: a node to which it is being handed may have
    /// begun already.
    pub fn policies_in_force(
        &self,
        partition: PartitionId,
        assignment: Assignment,
    ) -> impl Iterator<Item = &Policy> {
        let policies = self.keyspaces.get(&partition.keyspace).into_iter();
        policies.flat_map(move |it| {
            let reign = match is_planted(Bug::FenceByPresentPolicy) {
                true => &it.present,
                false => it.of(assignment.revision),
            };
            let is_other = assignment.moving_to.is_some() && reign != &it.present;
            [Some(reign), is_other.then_some(&it.present)]
                .into_iter()
                .flatten()
        })
    }

    /// Whether a region holds a partition in this reign: one that was added opens it with the next.
    pub(crate) fn holds(
        &self,
        partition: PartitionId,
        assignment: Assignment,
        region: RegionId,
    ) -> bool {
        let reign = self.policy(partition, assignment.revision);
        reign.is_some_and(|policy| policy.keyspace.regions.contains(&region))
    }

    /// Whether its keyspace ever had another policy than the present one.
    pub(crate) fn is_altered(&self, partition: PartitionId) -> bool {
        let policies = self.keyspaces.get(&partition.keyspace);
        policies.is_some_and(|it| it.former.is_some())
    }

    /// Whether the home is to begin a new reign, as its policy was altered.
    #[must_use]
    pub fn is_outdated(&self, partition: PartitionId, assignment: Assignment) -> bool {
        let policies = self.keyspaces.get(&partition.keyspace);
        policies.is_some_and(|it| it.present.revision != assignment.revision)
    }

    pub(super) fn create_keyspace(&mut self, keyspace: &Keyspace) -> Result<(), CommandRefused> {
        if let Some(other) = self.keyspace(keyspace.id()) {
            let (name, other) = (keyspace.name.clone(), other.name.clone());
            return Err(match name == other {
                true => CommandRefused::KeyspaceExists(name),
                false => CommandRefused::KeyspaceIdTaken { name, other },
            });
        }
        self.check_holders(keyspace)?;
        let mut created = BTreeMap::new();
        for partition in keyspace.partitions() {
            let region = partition.region;
            let mut nodes = self.live_nodes();
            let Some((home, _)) = nodes.find(|(_, at)| *at == region) else {
                let problem = "no node in it";
                return Err(CommandRefused::Region { region, problem });
            };
            let counter = FIRST_COUNTER;
            let assignment = Assignment {
                home,
                epoch: Epoch {
                    counter,
                    node: home,
                },
                revision: FIRST_REVISION,
                moving_to: None,
                degraded_ms: None,
                lost: None,
            };
            created.insert(partition, assignment);
        }
        self.partitions.extend(created);
        let policies = Policies::first(keyspace, self.voters());
        self.keyspaces.insert(keyspace.id(), policies);
        Ok(())
    }

    /// That all regions of the keyspace are there and may hold data.
    fn check_holders(&self, keyspace: &Keyspace) -> Result<(), CommandRefused> {
        for region in &keyspace.regions {
            if self.region(*region)?.is_witness {
                let (region, problem) = (*region, "a witness holds no data");
                return Err(CommandRefused::Region { region, problem });
            }
        }
        Ok(())
    }

    pub(super) fn alter_keyspace(
        &mut self,
        keyspace: &Keyspace,
        from: u64,
    ) -> Result<(), CommandRefused> {
        let id = keyspace.id();
        let policies = self.keyspaces.get(&id);
        let policies = policies.ok_or(CommandRefused::NoKeyspace(id))?;
        let (before, version) = (&*policies.present.keyspace, policies.version);
        if before == keyspace {
            // Asked for again, as its answer was lost.
            return Ok(());
        }
        if version != from {
            return Err(CommandRefused::KeyspaceAltered {
                keyspace: before.name.clone(),
                actual: version,
                expected: from,
            });
        }
        let is_longer = keyspace.regions.starts_with(&before.regions);
        let has_same_regions = before.regions == keyspace.regions;
        for (what, is_possible) in [
            ("its name", before.name == keyspace.name),
            ("its regions, but for new ones behind them", is_longer),
            (
                "its regions, as its placement follows from all of them",
                has_same_regions || before.placement != Placement::Hash,
            ),
            ("its placement", before.placement == keyspace.placement),
            ("its delimiter", before.delimiter == keyspace.delimiter),
            ("its number of buckets", before.buckets == keyspace.buckets),
        ] {
            if !is_possible {
                let keyspace = keyspace.name.clone();
                return Err(CommandRefused::Unalterable { keyspace, what });
            }
        }
        self.check_holders(keyspace)?;
        let (is_same, fencing) = (
            has_same_terms(before, keyspace),
            Fencing::of(keyspace, self.voters()),
        );
        if !is_same {
            self.check_settled(id)?;
        }
        let keyspace = Arc::new(keyspace.clone());
        self.keyspaces.entry(id).and_modify(|it| {
            it.version += 1;
            match is_same {
                true => it.present.keyspace = keyspace,
                false => it.begin(keyspace, fencing),
            }
        });
        Ok(())
    }

    /// That every home of the keyspace goes by its present policy and is to stay: it would not be
    /// known else what whoever acts as home goes by.
    fn check_settled(&self, id: KeyspaceId) -> Result<(), CommandRefused> {
        let mut partitions = self.partitions.iter();
        let unsettled = partitions.find_map(|(partition, it)| {
            let problem = match it.lost.is_some() || it.moving_to.is_some() {
                true => "its home is changing: alter it afterwards",
                false if self.is_outdated(*partition, *it) => {
                    "its home does not go by the last alteration yet: alter it afterwards"
                }
                false => return None,
            };
            (partition.keyspace == id).then_some((*partition, problem))
        });
        match unsettled {
            Some((partition, problem)) => Err(CommandRefused::Switchover { partition, problem }),
            None => Ok(()),
        }
    }

    /// Does a command that changes how many vote, and with that what fences homes.
    pub(super) fn with_voters(
        &mut self,
        voters: usize,
        change: impl FnOnce(&mut Self),
    ) -> Result<(), CommandRefused> {
        let others = self.keyspaces.iter().filter_map(|(id, it)| {
            let fencing = Fencing::of(&it.present.keyspace, voters);
            (fencing != it.present.fencing).then_some((*id, fencing))
        });
        let others: Vec<(KeyspaceId, Fencing)> = others.collect();
        for (id, _) in &others {
            self.check_settled(*id)?;
        }
        change(self);
        for (id, fencing) in others {
            self.keyspaces.entry(id).and_modify(|it| {
                let keyspace = Arc::clone(&it.present.keyspace);
                it.begin(keyspace, fencing);
            });
        }
        Ok(())
    }

    /// The change of home by which the leader puts an alteration in force.
    #[must_use]
    pub fn renewal(&self, partition: PartitionId, assignment: Assignment) -> Option<Command> {
        let is_settled = assignment.lost.is_none() && assignment.moving_to.is_none();
        let is_due = is_settled && self.is_outdated(partition, assignment);
        is_due.then_some(Command::BeginSwitchover {
            partition,
            from: assignment.epoch,
            to: assignment.home,
        })
    }
}
