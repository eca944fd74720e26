//! A node keeps its lease.
//!
//! **Owns**: asking the leader again and again, by way of another node if need be.
//! **Does not own**: what a grant is worth (core), granting (`lead`).

use std::sync::Arc;

use domicile_core::control::Grant;
use domicile_proto::{NodeId, v1};
use tokio::sync::oneshot;

use super::lead::LeadInput;
use super::plane::{Plane, region_of};
use crate::node::NodeCore;

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
    let direct = region.and_then(|region| plane.clients.of(region));
    let patience = plane.times.lease / 2;
    if let Some(mut client) = direct {
        let answer = tokio::time::timeout(patience, client.renew_lease(request.clone())).await;
        if let Ok(Ok(answer)) = answer {
            return Ok(read_grant(&answer.into_inner()));
        }
    }
    // The way to the leader may be cut, and one over a third node not.
    let others = plane.clients.all().into_iter();
    let others = others.filter(|(id, _)| Some(*id) != region);
    let asked = others.map(|(_, mut client)| {
        let request = request.clone();
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
    let client = plane.clients.of(region);
    let mut client = client.ok_or("no way to the leader")?;
    let relayed = v1::RenewLeaseRequest {
        cluster: node.topology.cluster.to_string(),
        relayed: true,
        ..request
    };
    let answer = tokio::time::timeout(plane.times.lease, client.renew_lease(relayed)).await;
    Ok(answer??.into_inner())
}
