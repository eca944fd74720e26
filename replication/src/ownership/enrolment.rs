//! A node takes its place in the map, and the leader sees to it that the members follow the map.
//!
//! **Owns**: what the map lacks of what this node was told; forgetting who was replaced or removed.
//! **Does not own**: what a command does (core), who votes (control).

use std::sync::Arc;
use std::time::Duration;

use domicile_core::control::{Assignment, Command, ControlMap, Lost, OperatorWord};
use domicile_proto::{Epoch, NodeId, PartitionId, RegionId};

use super::plane::{Plane, note_refused};
use crate::clock::Clock;
use crate::node::NodeCore;

/// How often a node looks whether it is in the map: a person waits for a cluster to form.
const ENROL_INTERVAL: Duration = Duration::from_millis(200);

/// How long a command of enrolment may take before it is tried again.
const ENROL_PATIENCE: Duration = Duration::from_secs(5);

/// Brings this node, its region and the declared keyspaces into the map.
pub(crate) async fn run_enrolment(node: Arc<NodeCore>, plane: Arc<Plane>) {
    loop {
        if plane.consensus.is_leader() {
            dismiss_removed(&plane).await;
        }
        let commands = missing(&node, &plane);
        if !commands.is_empty() {
            match plane.propose(&commands, ENROL_PATIENCE).await {
                Ok(refused) => note_refused(&refused),
                Err(error) => tracing::debug!(%error, "not in the map so far"),
            }
        }
        tokio::select! {
            () = node.closed() => return,
            () = tokio::time::sleep(ENROL_INTERVAL) => {}
        }
    }
}

/// What the map lacks of what this node was told.
fn missing(node: &NodeCore, plane: &Plane) -> Vec<Command> {
    let map = plane.map();
    let mut commands = Vec::new();
    for region in node.topology.regions().iter() {
        let known = map.regions().find(|(id, _)| *id == region.id);
        // The region itself may not know how the others reach it.
        let is_known =
            known.is_some_and(|(_, it)| it.peer_address.is_some() || region.peer_address.is_none());
        if !is_known && !map.has_left(region.id) {
            commands.push(Command::AddRegion {
                region: region.id,
                name: region.name.clone(),
                is_witness: region.is_witness,
                peer_address: region.peer_address.clone(),
                is_return: false,
            });
        }
    }
    let (own, region) = (node.store.node_id(), node.topology.own.id);
    if map.node(own).is_none() && !map.has_left(region) {
        commands.push(Command::AddNode { node: own, region });
    }
    if let Some(lost) = plane.replaces {
        commands.extend(retiring(&map, lost, region));
    }
    let has_node = |region| map.live_nodes().any(|(_, at)| at == region);
    let possible = plane.declared.iter().filter(|keyspace| {
        let is_new = map.keyspace(keyspace.id()).is_none();
        is_new && keyspace.regions.iter().all(|region| has_node(*region))
    });
    if plane.consensus.is_leader() {
        commands.extend(possible.map(|it| Command::CreateKeyspace(Box::new(it.clone()))));
    }
    commands
}

/// Lets nobody vote whose region has left. Repeated until it is so, by whoever leads.
async fn dismiss_removed(plane: &Plane) {
    let map = plane.map();
    let members = plane.consensus.members().members.into_iter();
    let removed = members.filter(|(_, member)| map.has_left(member.region));
    for (node, member) in removed.collect::<Vec<_>>() {
        let dismissed = plane.consensus.remove_voter(node, ENROL_PATIENCE).await;
        let region = member.region;
        match dismissed {
            Ok(()) => tracing::info!(%node, %region, "its region has left: it votes no more"),
            Err(error) => tracing::warn!(%node, %region, %error, "it still votes"),
        }
    }
}

/// Homes given up in one command: about 100 bytes each, far below what one command may hold.
pub(crate) const GIVEN_UP_AT_ONCE: usize = 1024;

/// Gives a home up by an operator's word, now.
pub(crate) fn given_up(partition: PartitionId, from: Epoch, word: OperatorWord) -> Command {
    let now_ms = Clock::wall_ms();
    Command::BeginTakeOver {
        partition,
        from,
        lost: Lost {
            heard_ms: now_ms,
            noticed_ms: now_ms,
            word: Some(word),
        },
    }
}

/// What it takes to forget a node of this region whose disk is lost: first its homes are taken
/// over, where another region has what it had.
fn retiring(map: &ControlMap, lost: NodeId, region: RegionId) -> Vec<Command> {
    let known = map.node(lost);
    if known.is_none_or(|it| it.is_retired || it.region != region) {
        return Vec::new();
    }
    let homes = map.assignments().filter(|(_, it)| it.home == lost);
    let homes: Vec<(PartitionId, Assignment)> = homes.collect();
    if homes.is_empty() {
        return vec![Command::RetireNode { node: lost }];
    }
    // Whoever says that the disk is lost says that the node will not come back.
    let word = OperatorWord {
        is_fenced: true,
        accepts_split_brain: false,
        to: None,
    };
    let is_elsewhere = |partition: PartitionId| {
        let keyspace = map.keyspace(partition.keyspace);
        keyspace.is_some_and(|it| it.copies() > 0)
    };
    let unsaid = homes.into_iter().filter(|(partition, it)| {
        let is_said = it.lost.is_some_and(|lost| lost.word.is_some());
        !is_said && is_elsewhere(*partition)
    });
    let unsaid = unsaid.take(GIVEN_UP_AT_ONCE);
    unsaid
        .map(|(partition, it)| given_up(partition, it.epoch, word))
        .collect()
}
