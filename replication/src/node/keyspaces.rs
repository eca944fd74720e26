//! Keyspaces are made and altered while the cluster runs.
//!
//! **Owns**: proposing it, waiting until it is in force.
//! **Does not own**: what may be altered (the map), putting it in force (the homes).

use std::sync::Arc;
use std::time::Duration;

use domicile_core::control::{Command, ControlMap};
use domicile_proto::{Keyspace, KeyspaceId, PartitionId, Reason};
use tokio::time::Instant;

use super::homes::homes_are_static;
use super::interior::NodeCore;
use crate::error::Error;

/// How often it is looked whether this node has opened what the map has.
const LOOK: Duration = Duration::from_millis(5);

/// How far an alteration has come.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Alteration {
    /// Partitions whose home goes by it.
    pub in_force: Vec<PartitionId>,
    /// Partitions whose home does not so far: it will with its next reign, as soon as it is heard
    /// of.
    pub waiting: Vec<PartitionId>,
}

/// A keyspace's policy and its version, at one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionedPolicy {
    /// The policy.
    pub keyspace: Arc<Keyspace>,
    /// How often it was made or altered so far.
    pub version: u64,
}

impl NodeCore {
    pub(super) async fn create_keyspace(
        &self,
        keyspace: Keyspace,
        within: Duration,
    ) -> Result<(), Error> {
        let (id, deadline) = (keyspace.id(), Instant::now() + within);
        let is_known = |map: &ControlMap| map.keyspace(id).is_some();
        let map = self.decide_on(Command::CreateKeyspace, keyspace, is_known, deadline);
        let map = map.await?;
        let own = self.topology.own.id;
        let is_here = map.keyspace(id).is_some_and(|it| it.regions.contains(&own));
        let partitions = map.assignments().map(|(partition, _)| partition);
        let partitions = partitions.filter(|partition| partition.keyspace == id);
        let mut unopened: Vec<PartitionId> = partitions.collect();
        while Instant::now() < deadline {
            unopened.retain(|partition| is_here && self.driver.slot(*partition).is_none());
            if unopened.is_empty() && self.topology.keyspace(id).is_some() {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
        let message = "made, and not open at this node so far".to_owned();
        Err(Error::new(Reason::Recovering, message))
    }

    pub(super) async fn alter_keyspace(
        &self,
        keyspace: Keyspace,
        from: u64,
        within: Duration,
    ) -> Result<Alteration, Error> {
        let (id, deadline) = (keyspace.id(), Instant::now() + within);
        let alter = |keyspace| Command::AlterKeyspace { keyspace, from };
        let is_later = |map: &ControlMap| map.keyspace_version(id) > Some(from);
        let map = self.decide_on(alter, keyspace, is_later, deadline).await;
        let map = map.map_err(|error| self.altered_since(id, from, error))?;
        let mut found = alteration(&map, id);
        let plane = self.plane.as_ref().ok_or_else(homes_are_static)?;
        let mut maps = plane.maps.clone();
        while !found.waiting.is_empty() {
            let changed = tokio::time::timeout_at(deadline, maps.changed()).await;
            if !changed.is_ok_and(|changed| changed.is_ok()) {
                break;
            }
            found = alteration(&maps.borrow_and_update(), id);
        }
        Ok(found)
    }

    /// The policy of a keyspace as the map has it, and what an alteration of it is to name.
    pub(super) fn versioned_policy(&self, name: &str) -> Result<VersionedPolicy, Error> {
        let plane = self.plane.as_ref().ok_or_else(homes_are_static)?;
        let map = plane.map();
        let found = map.keyspaces().find(|it| it.name.as_str() == name);
        let found = found.and_then(|keyspace| {
            let version = map.keyspace_version(keyspace.id())?;
            let keyspace = Arc::clone(keyspace);
            Some(VersionedPolicy { keyspace, version })
        });
        found.ok_or_else(|| no_keyspace(name))
    }

    /// Tells whoever was refused because another one was faster that this is why.
    fn altered_since(&self, id: KeyspaceId, from: u64, error: Error) -> Error {
        let plane = self.plane.as_ref();
        let now = plane.and_then(|plane| plane.map().keyspace_version(id));
        match error.reason() == Reason::InvalidArgument && now > Some(from) {
            true => Error::new(Reason::KeyspaceAltered, error.to_string()),
            false => error,
        }
    }

    /// Puts a command about a keyspace before the map.
    async fn decide_on(
        &self,
        command: impl FnOnce(Box<Keyspace>) -> Command,
        keyspace: Keyspace,
        is_overtaken: impl Fn(&ControlMap) -> bool,
        deadline: Instant,
    ) -> Result<Arc<ControlMap>, Error> {
        let meant = checked(keyspace)?;
        let command = command(Box::new(meant.clone()));
        let is_done = |map: &ControlMap| map.keyspace(meant.id()) == Some(&meant);
        self.decide(command, is_done, is_overtaken, deadline).await
    }
}

/// The error of who asks for a keyspace that is not there.
pub(super) fn no_keyspace(name: &str) -> Error {
    let shown: String = name.chars().take(64).collect();
    Error::new(Reason::KeyspaceNotFound, format!("no keyspace {shown:?}"))
}

fn checked(keyspace: Keyspace) -> Result<Keyspace, Error> {
    let invalid = |error| Error::new(Reason::InvalidArgument, format!("{error}"));
    keyspace.validate().map_err(invalid)
}

fn alteration(map: &ControlMap, id: KeyspaceId) -> Alteration {
    let mut found = Alteration::default();
    for (partition, assignment) in map.assignments().filter(|(it, _)| it.keyspace == id) {
        match map.is_outdated(partition, assignment) {
            true => found.waiting.push(partition),
            false => found.in_force.push(partition),
        }
    }
    found
}
