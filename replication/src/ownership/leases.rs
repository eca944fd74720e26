//! A node keeps its lease, and its place in the map.
//!
//! **Owns**: asking the leader again and again, by way of another node if need be; joining the map.
//! **Does not own**: what a grant is worth (core), granting (`lead`).

use std::sync::Arc;
use std::time::Duration;

use domicile_core::control::{Assignment, Command, ControlMap, Grant, Lost, OperatorWord};
use domicile_proto::{Epoch, NodeId, PartitionId, RegionId, v1};
use tokio::sync::oneshot;

use super::lead::LeadInput;
use super::plane::{Plane, region_of};
use crate::clock::Clock;
use crate::error::Error;
use crate::node::NodeCore;

/// How often a node looks whether it is in the map: a person waits for a cluster to form.
const ENROL_INTERVAL: Duration = Duration::from_millis(200);

/// How long a command of enrolment may take before it is tried again.
const ENROL_PATIENCE: Duration = Duration::from_secs(5);

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Asks for a lease again and again until the node closes.
pub(crate) async fn run_leases(node: Arc<NodeCore>, plane: Arc<Plane>) {
    let mut beat = tokio::time::interval(plane.times.ask_every);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = node.closed() => return,
            _ = beat.tick() => {}
        }
        let (node, plane) = (Arc::clone(&node), Arc::clone(&plane));
        tokio::spawn(async move {
            let ask = node.ownership.ask(node.clock.now());
            let answer = tokio::time::timeout(plane.times.lease, renew(&node, &plane, ask)).await;
            match answer {
                Ok(Ok(grant)) => node.ownership.granted(&node.driver, grant, &plane.times),
                Ok(Err(error)) => tracing::debug!(%error, "no lease so far"),
                Err(_) => tracing::debug!("no answer to an ask for a lease"),
            }
        });
    }
}

async fn renew(node: &NodeCore, plane: &Plane, ask: u64) -> Result<Grant, Failure> {
    let (own, incarnation) = (node.store.node_id(), plane.incarnation);
    if plane.consensus.is_leader() {
        return ask_here(plane, own, incarnation, ask).await;
    }
    let request = v1::RenewLeaseRequest {
        cluster: node.topology.cluster.to_string(),
        node: own.get(),
        incarnation,
        ask,
        relayed: false,
    };
    let leader = plane.consensus.leader().map(|leader| leader.node);
    let region = leader.and_then(|leader| region_of(plane, leader));
    let direct = region.and_then(|region| plane.clients.get(&region).cloned());
    let patience = plane.times.lease / 2;
    if let Some(mut client) = direct {
        let answer = tokio::time::timeout(patience, client.renew_lease(request.clone())).await;
        if let Ok(Ok(answer)) = answer {
            return Ok(read_grant(&answer.into_inner()));
        }
    }
    // The way to the leader may be cut, and one over a third node not.
    let others = plane.clients.iter().filter(|(id, _)| Some(**id) != region);
    let asked = others.map(|(_, client)| {
        let (mut client, request) = (client.clone(), request.clone());
        Box::pin(async move { client.renew_lease(request).await })
    });
    let asked: Vec<_> = asked.collect();
    if asked.is_empty() {
        return Err("nobody to ask for a lease".into());
    }
    let (answer, _) = futures::future::select_ok(asked).await?;
    Ok(read_grant(&answer.into_inner()))
}

fn read_grant(answer: &v1::RenewLeaseResponse) -> Grant {
    Grant {
        ask: answer.ask,
        map_version: answer.map_version,
    }
}

async fn ask_here(
    plane: &Plane,
    node: NodeId,
    incarnation: u64,
    ask: u64,
) -> Result<Grant, Failure> {
    let (reply, answer) = oneshot::channel();
    let input = LeadInput::Ask {
        node,
        incarnation,
        ask,
        reply,
    };
    plane.lead.try_send(input)?;
    Ok(answer.await?)
}

/// Another node asks for a lease; it is passed on if somebody else leads.
///
/// # Errors
/// Nobody that this node can reach leads, or the leader is not confirmed as one.
pub(crate) async fn answer_renewal(
    node: &NodeCore,
    plane: &Plane,
    request: v1::RenewLeaseRequest,
) -> Result<v1::RenewLeaseResponse, Failure> {
    if plane.consensus.is_leader() {
        let from = NodeId::new(request.node)?;
        let asked = ask_here(plane, from, request.incarnation, request.ask);
        let grant = tokio::time::timeout(plane.times.lease, asked).await??;
        return Ok(v1::RenewLeaseResponse {
            ask: grant.ask,
            map_version: grant.map_version,
        });
    }
    if request.relayed {
        return Err("this node does not lead".into());
    }
    let leader = plane.consensus.leader().ok_or("no leader is known")?;
    let region = region_of(plane, leader.node).ok_or("the leader's region is not known")?;
    let client = plane.clients.get(&region).cloned();
    let mut client = client.ok_or("no way to the leader")?;
    let relayed = v1::RenewLeaseRequest {
        cluster: node.topology.cluster.to_string(),
        relayed: true,
        ..request
    };
    let answer = tokio::time::timeout(plane.times.lease, client.renew_lease(relayed)).await;
    Ok(answer??.into_inner())
}

/// Brings this node, its region and the declared keyspaces into the map.
pub(crate) async fn run_enrolment(node: Arc<NodeCore>, plane: Arc<Plane>) {
    loop {
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

fn note_refused(refused: &[String]) {
    for why in refused.iter().filter(|why| !why.is_empty()) {
        tracing::debug!(why, "refused by the control plane");
    }
}

/// What the map lacks of what this node was told.
fn missing(node: &NodeCore, plane: &Plane) -> Vec<Command> {
    let map = plane.map();
    let mut commands = Vec::new();
    for region in &node.topology.regions {
        if map.regions().all(|(id, _)| id != region.id) {
            commands.push(Command::AddRegion {
                region: region.id,
                name: region.name.clone(),
                is_witness: region.is_witness,
            });
        }
    }
    let (own, region) = (node.store.node_id(), node.topology.own.id);
    if map.node(own).is_none() {
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

/// Tells the map something about a change of home; it is tried for a while.
pub(crate) async fn tell(plane: &Plane, command: Command) -> Result<(), Error> {
    let refused = plane.propose(&[command], ENROL_PATIENCE).await?;
    note_refused(&refused);
    Ok(())
}
