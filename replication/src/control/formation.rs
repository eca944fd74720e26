//! How a node becomes part of the one cluster.
//!
//! **Owns**: founding, joining, and never doing either a second time.
//! **Does not own**: what the leader does with a node that joins (membership).
//!
//! ```text
//! members known? --yes--> this node is a voter, where it says: nothing to do, whoever is up
//!      |                   a learner, or elsewhere: joins (again)      not among them: removed
//!      no
//!      |-- of the first founder's region: asks all other founders
//!      |       all are of no cluster, ready for mine, and know the same founders
//!      |                                        -> founds: all of them are voters at once
//!      |       one is of a cluster              -> joins it
//!      |       one does not answer              -> asks again
//!      '-- of another region                    -> joins: asks all founders and members
//! ```
//! Exactly one cluster comes out of it. Only the node of the first region founds one, and only when
//! every other founder says that it has none: a founder that lost its disk and is new to all finds
//! the cluster at whichever founder is left, and waits as long as one of them is silent, for that
//! one may know. What a founding writes is one entry of the founder's own log, synced: before it
//! nothing has happened, after it the founder is a member and asks for votes like any other. A node
//! that is ready for one founder is not for another for a while, so that two processes of one
//! region cannot both found. A node with members in its log does none of this: a restart needs
//! nobody's permission.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use domicile_proto::NodeId;
use domicile_proto::v1::control_reply::Reply;
use domicile_proto::v1::control_request::Request;
use domicile_proto::v1::{ControlFounding, ControlFoundingReply, ControlJoin};
use futures::future::join_all;
use tokio::time::Instant;

use super::calls::unexpected;
use super::core::Core;
use super::error::ControlError;
use super::member::{Leader, Member};
use super::wire::{put_member, take_node};

/// Between two attempts: a person waits for a cluster to form. Doubled, they wait longer; halved,
/// a node that waits for another region asks twice as often for nothing.
const RETRY: Duration = Duration::from_millis(500);

/// For how long a joining node's log may take to arrive: a snapshot of 64 MiB over a slow link.
const JOIN_MAX: Duration = Duration::from_secs(60);

/// For how long a node is ready for one founder only: longer than a founding takes.
const PROMISE: Duration = Duration::from_secs(10);

/// Forms or joins a cluster, then returns.
pub(super) async fn run(core: Arc<Core>) {
    loop {
        match step(&core).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(error @ ControlError::Stopped { .. }) => {
                tracing::info!(node = %core.node(), %error, "formation ends");
                return;
            }
            Err(error) => {
                tracing::info!(node = %core.node(), %error, "not part of a cluster yet");
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// One attempt; `true` once there is nothing left to do.
async fn step(core: &Core) -> Result<bool, ControlError> {
    // Asked itself, openraft has read its log; its metrics may not have been told yet.
    let members = core.view().await?.members;
    if !members.voters.is_empty() {
        let known = members.members.get(&core.node());
        let settled = known.is_none_or(|known| {
            members.voters.contains(&core.node()) && *known == core.options.member
        });
        if known.is_none() {
            tracing::warn!(node = %core.node(), "no member any more: it was removed");
        }
        if settled {
            return Ok(true);
        }
        join(core).await?;
        return Ok(false);
    }
    if core.options.founds() {
        found(core).await?;
    } else {
        join(core).await?;
    }
    Ok(false)
}

async fn found(core: &Core) -> Result<(), ControlError> {
    let others = &core.options.founders[1..];
    let charter = core.options.charter();
    let asked = others.iter().map(|member| {
        let request = Request::Founding(ControlFounding { charter });
        core.calls.ask(None, member, request, patience(core))
    });
    let mut founders = BTreeMap::from([(core.node(), core.options.member.clone())]);
    let mut problem = None;
    for (member, reply) in others.iter().zip(join_all(asked).await) {
        let reply = match reply {
            Ok(Reply::Founding(reply)) => reply,
            Ok(other) => return Err(unexpected(&other)),
            Err(error) => {
                problem = Some(format!("founder of {:?}: {error}", member.region));
                continue;
            }
        };
        if !reply.ready {
            return join(core).await;
        }
        let node = take_node(reply.node)?;
        if reply.region != u32::from(member.region.get()) {
            let actual = reply.region;
            problem = Some(format!(
                "{:?} expected, {node} is in {actual}",
                member.region
            ));
        } else if founders.insert(node, member.clone()).is_some() {
            problem = Some(format!("{node} answers for two regions"));
        }
    }
    if let Some(problem) = problem {
        return Err(ControlError::unavailable(problem));
    }
    let seats = founders
        .iter()
        .map(|(node, member)| (node.get(), Core::seat_of(member)));
    let seats: BTreeMap<_, _> = seats.collect();
    tracing::info!(node = %core.node(), founders = ?founders.keys(), "founding the cluster");
    let founded = core.raft.0.initialize(seats).await;
    founded.map_err(|error| ControlError::unavailable(error.to_string()))
}

/// Whether this node is ready to belong to `founder`'s cluster.
///
/// # Errors
/// [`ControlError::Unavailable`] if it is configured differently or promised to another founder.
pub(super) async fn answer_founding(
    core: &Core,
    founder: NodeId,
    founding: &ControlFounding,
) -> Result<ControlFoundingReply, ControlError> {
    if founding.charter != core.options.charter() {
        let problem = "configured with other founders, or in another order";
        return Err(ControlError::unavailable(problem));
    }
    let view = core.view().await?;
    let ready = view.members.voters.is_empty() && view.last.is_none();
    if ready {
        let mut promised = core.promised.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match *promised {
            Some((other, at)) if other != founder && now - at < PROMISE => {
                return Err(ControlError::unavailable(format!(
                    "ready for {other} already"
                )));
            }
            _ => *promised = Some((founder, now)),
        }
    }
    Ok(ControlFoundingReply {
        node: core.node().get(),
        region: core.options.member.region.get().into(),
        ready,
    })
}

/// Asks the leader to make this node a voter, wherever the leader is.
async fn join(core: &Core) -> Result<(), ControlError> {
    let members = core.members().members;
    let others = members.iter().filter(|(node, _)| **node != core.node());
    let mut places: Vec<Member> = others.map(|(_, member)| member.clone()).collect();
    let own = &core.options.member;
    let founders = core
        .options
        .founders
        .iter()
        .filter(|founder| founder.region != own.region);
    places.extend(
        founders
            .filter(|founder| !members.values().any(|m| m == *founder))
            .cloned(),
    );
    let mut last = ControlError::unavailable("nobody to join");
    for place in places {
        match ask_to_join(core, &place).await {
            Err(ControlError::NotLeader {
                leader:
                    Some(Leader {
                        member: Some(leader),
                        ..
                    }),
            }) if leader != place => match ask_to_join(core, &leader).await {
                Ok(()) => return Ok(()),
                Err(error) => last = error,
            },
            Ok(()) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn ask_to_join(core: &Core, place: &Member) -> Result<(), ControlError> {
    // Whoever does not lead answers at once; a leader answers when all is done.
    let within = JOIN_MAX;
    let request = Request::Join(ControlJoin {
        member: Some(put_member(core.node().get(), Some(&core.options.member))),
        replaces: core.options.replaces.map_or(0, NodeId::get),
        within_ms: within.as_millis() as u32,
    });
    match core.calls.ask(None, place, request, within).await? {
        Reply::Changed(_) => Ok(()),
        other => Err(unexpected(&other)),
    }
}

fn patience(core: &Core) -> Duration {
    core.timings.lease + core.timings.rtt_max * 2
}
