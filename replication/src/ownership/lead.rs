//! While this node leads the control plane: leases are granted, lost homes succeeded.
//!
//! **Owns**: one supervisor for each lead, and carrying out what it decides.
//! **Does not own**: the decisions (core), being leader (control).
//!
//! What is proposed here is not forwarded to another leader, and only if this very lead is
//! confirmed first: what a supervisor knows of leases is all there is to know only while it is the
//! only one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domicile_core::Moment;
use domicile_core::control::{
    Command, ControlMap, Grant, PromisedEnd, Supervisor, SupervisorEffect, SupervisorInput, Unheard,
};
use domicile_proto::{Epoch, NodeId, PartitionId, Seq, v1};
use domicile_storage::control_log::Term;
use tokio::sync::{mpsc, oneshot};

use super::plane::{Plane, read_results, region_of};
use super::promises::{Promised, promise};
use super::wire::encode_commands;
use crate::clock::Clock;
use crate::node::NodeCore;
use crate::peers::{partition_of_bytes, read_epoch};

/// How often a node that does not lead looks whether it does.
const LOOK: Duration = Duration::from_millis(20);

/// What the leader's task hears.
#[derive(Debug)]
pub(crate) enum LeadInput {
    /// A node asks for a lease.
    Ask {
        node: NodeId,
        incarnation: u64,
        ask: u64,
        reply: oneshot::Sender<Grant>,
    },
    /// A majority has confirmed this lead since a node asked.
    Confirmed {
        term: Term,
        node: NodeId,
        ask: u64,
        heard: Moment,
        reply: oneshot::Sender<Grant>,
    },
    /// A node has promised.
    Promised {
        term: Term,
        node: NodeId,
        promised: Vec<Promised>,
    },
}

/// One lead.
struct Lead {
    term: Term,
    supervisor: Supervisor,
}

/// Leads whenever this node is the leader, until it closes.
pub(crate) async fn run_lead(
    node: Arc<NodeCore>,
    plane: Arc<Plane>,
    mut inputs: mpsc::Receiver<LeadInput>,
) {
    let mut lead: Option<Lead> = None;
    let mut maps = plane.maps.clone();
    loop {
        let wait = match &lead {
            None => LOOK,
            Some(lead) => {
                let now = node.clock.now();
                lead.supervisor.next_timeout(now).since(now)
            }
        };
        let input = tokio::select! {
            () = node.closed() => return,
            input = inputs.recv() => match input {
                Some(input) => Some(input),
                None => return,
            },
            changed = maps.changed() => match changed {
                Ok(()) => None,
                Err(_) => return,
            },
            () = tokio::time::sleep(wait) => None,
        };
        look(&node, &plane, &mut lead).await;
        let Some(lead) = &mut lead else {
            continue;
        };
        let map = Arc::clone(&maps.borrow_and_update());
        step(&node, &plane, lead, &map, input);
    }
}

/// Begins a lead, or ends it.
async fn look(node: &NodeCore, plane: &Plane, lead: &mut Option<Lead>) {
    let term = plane.consensus.term();
    let leads = plane.consensus.is_leader();
    if lead
        .as_ref()
        .is_some_and(|lead| !leads || lead.term != term)
    {
        tracing::info!("leads the control plane no longer");
        *lead = None;
    }
    if lead.is_some() || !leads {
        return;
    }
    // What was committed before is applied here then, above all what was given up.
    if let Ok(confirmed) = plane.consensus.confirm_leadership(plane.times.lease).await {
        tracing::info!(?term, "leads the control plane");
        *lead = Some(Lead {
            term: confirmed.term,
            supervisor: Supervisor::new(plane.times, node.clock.now()),
        });
    }
}

fn step(
    core: &Arc<NodeCore>,
    plane: &Arc<Plane>,
    lead: &mut Lead,
    map: &ControlMap,
    input: Option<LeadInput>,
) {
    let (now, wall_ms) = (core.clock.now(), Clock::wall_ms());
    let mut effects = Vec::new();
    let supervisor = &mut lead.supervisor;
    let mut step = |input, effects: &mut Vec<SupervisorEffect>| {
        supervisor.step(now, wall_ms, map, input, effects);
    };
    match input {
        None => step(SupervisorInput::Tick, &mut effects),
        Some(LeadInput::Ask {
            node,
            incarnation,
            ask,
            reply,
        }) => {
            step(SupervisorInput::Heard { node, incarnation }, &mut effects);
            let (term, heard) = (lead.term, now);
            let confirmed = LeadInput::Confirmed {
                term,
                node,
                ask,
                heard,
                reply,
            };
            confirm(plane, term, confirmed);
        }
        // What an older lead of this node asked for.
        Some(LeadInput::Confirmed { term, .. } | LeadInput::Promised { term, .. })
            if term != lead.term =>
        {
            return;
        }
        Some(LeadInput::Confirmed {
            node,
            ask,
            heard,
            reply,
            ..
        }) => {
            step(SupervisorInput::Grant { node, ask, heard }, &mut effects);
            // Whoever asked may have given up waiting: then the lease is of no use to anybody.
            take_grant(&mut effects).map(|grant| reply.send(grant));
        }
        Some(LeadInput::Promised { node, promised, .. }) => {
            let promised = promised.into_iter().map(|it| promise_of(node, it));
            promised.for_each(|input| step(input, &mut effects));
        }
    }
    carry_out(core, plane, lead.term, effects);
}

fn promise_of(node: NodeId, (partition, floor, end): Promised) -> SupervisorInput {
    SupervisorInput::Promised {
        node,
        partition,
        floor,
        end,
    }
}

fn take_grant(effects: &mut Vec<SupervisorEffect>) -> Option<Grant> {
    let mut granted = None;
    effects.retain(|effect| match effect {
        SupervisorEffect::Grant { grant, .. } => {
            granted = Some(*grant);
            false
        }
        _ => true,
    });
    granted
}

/// Asks for a confirmation of this very lead, and says so if it comes.
fn confirm(plane: &Arc<Plane>, term: Term, then: LeadInput) {
    let plane = Arc::clone(plane);
    tokio::spawn(async move {
        let confirmed = plane.consensus.confirm_leadership(plane.times.lease).await;
        if confirmed.is_ok_and(|confirmed| confirmed.term == term) {
            // If there is no room the node asks again.
            let _ = plane.lead.try_send(then);
        }
    });
}

fn carry_out(node: &Arc<NodeCore>, plane: &Arc<Plane>, term: Term, effects: Vec<SupervisorEffect>) {
    let mut commands: Vec<Command> = Vec::new();
    let mut asks: BTreeMap<NodeId, Vec<(PartitionId, Epoch)>> = BTreeMap::new();
    for effect in effects {
        match effect {
            SupervisorEffect::Propose(more) => commands.extend(more),
            SupervisorEffect::AskPromise {
                node,
                partition,
                floor,
            } => asks.entry(node).or_default().push((partition, floor)),
            SupervisorEffect::Grant { .. } => {}
        }
    }
    if !commands.is_empty() {
        for command in &commands {
            tracing::warn!(?command, "the leader decides");
        }
        tokio::spawn(propose(Arc::clone(plane), term, commands));
    }
    for (to, asked) in asks {
        tokio::spawn(ask(Arc::clone(node), Arc::clone(plane), term, to, asked));
    }
}

async fn propose(plane: Arc<Plane>, term: Term, commands: Vec<Command>) {
    let within = plane.times.lease;
    let confirmed = plane.consensus.confirm_leadership(within).await;
    if !confirmed.is_ok_and(|confirmed| confirmed.term == term) {
        return;
    }
    let proposed = plane
        .consensus
        .propose_as_leader(encode_commands(&commands), within);
    let refused = match proposed.await {
        Ok(answer) => read_results(&answer).unwrap_or_default(),
        Err(error) => return tracing::warn!(%error, "what was decided could not be put down"),
    };
    for (command, why) in commands
        .iter()
        .zip(refused)
        .filter(|(_, why)| !why.is_empty())
    {
        tracing::warn!(?command, why, "what was decided was refused");
    }
}

async fn ask(
    node: Arc<NodeCore>,
    plane: Arc<Plane>,
    term: Term,
    to: NodeId,
    asked: Vec<(PartitionId, Epoch)>,
) {
    let promised = match to == node.store.node_id() {
        true => promise(&node, asked)
            .await
            .map_err(|error| error.to_string()),
        false => ask_there(&node, &plane, to, asked).await,
    };
    match promised {
        Ok(promised) => {
            let promised = LeadInput::Promised {
                term,
                node: to,
                promised,
            };
            let _ = plane.lead.try_send(promised);
        }
        Err(error) => tracing::debug!(%to, error, "no promise so far"),
    }
}

async fn ask_there(
    node: &NodeCore,
    plane: &Plane,
    to: NodeId,
    asked: Vec<(PartitionId, Epoch)>,
) -> Result<Vec<Promised>, String> {
    let region = region_of(plane, to).ok_or("its region is not known")?;
    let client = plane.clients.of(region);
    let mut client = client.ok_or("no way to it")?;
    let floors = asked
        .iter()
        .map(|(partition, floor)| put_floor(*partition, *floor));
    let request = v1::AskPromisesRequest {
        cluster: node.topology.cluster.to_string(),
        floors: floors.collect(),
    };
    let answer = tokio::time::timeout(plane.times.lease, client.ask_promises(request)).await;
    let answer = answer.map_err(|_| "no answer in time")?;
    let answer = answer
        .map_err(|status| status.message().to_owned())?
        .into_inner();
    if answer.node != to.get() {
        return Err(format!("{} answered for it", answer.node));
    }
    let answers = answer.answers.into_iter().map(take_answer);
    answers
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| "a malformed answer".to_owned())
}

fn put_floor(partition: PartitionId, floor: Epoch) -> v1::PromiseFloor {
    v1::PromiseFloor {
        partition: Bytes::copy_from_slice(&partition.to_bytes()),
        floor_counter: floor.counter,
        floor_node: floor.node.get(),
    }
}

fn take_floor(floor: &v1::PromiseFloor) -> Option<(PartitionId, Epoch)> {
    let partition = partition_of_bytes(&floor.partition).ok()?;
    let floor = read_epoch(floor.floor_counter, floor.floor_node)?;
    Some((partition, floor))
}

fn take_answer(answer: v1::PromiseAnswer) -> Option<Promised> {
    let (partition, floor) = take_floor(&answer.promised?)?;
    let end = PromisedEnd {
        epoch: read_epoch(answer.epoch_counter, answer.epoch_node),
        upto: Seq::new(answer.upto),
        known_upto: Seq::new(answer.known_upto),
        is_sound: answer.sound,
        unheard: answer.silent_ms.map(|silent_ms| Unheard {
            silent: Duration::from_millis(silent_ms),
            a_second: answer.records_a_second,
        }),
    };
    Some((partition, floor, end))
}

/// Another node leads and asks for promises.
///
/// # Errors
/// A malformed message; what the disk says.
pub(crate) async fn answer_promises(
    node: &Arc<NodeCore>,
    request: v1::AskPromisesRequest,
) -> Result<v1::AskPromisesResponse, Box<dyn std::error::Error + Send + Sync>> {
    let floors: Option<Vec<_>> = request.floors.iter().map(take_floor).collect();
    let floors = floors.ok_or("a floor of no partition or no node")?;
    let promised = promise(node, floors).await?;
    let answers = promised
        .into_iter()
        .map(|(partition, floor, end)| v1::PromiseAnswer {
            promised: Some(put_floor(partition, floor)),
            epoch_counter: end.epoch.map_or(0, |epoch| epoch.counter),
            epoch_node: end.epoch.map_or(0, |epoch| epoch.node.get()),
            upto: end.upto.get(),
            known_upto: end.known_upto.get(),
            sound: end.is_sound,
            silent_ms: end
                .unheard
                .map(|it| u64::try_from(it.silent.as_millis()).unwrap_or(u64::MAX)),
            records_a_second: end.unheard.map_or(0, |it| it.a_second),
        });
    Ok(v1::AskPromisesResponse {
        node: node.store.node_id().get(),
        answers: answers.collect(),
    })
}
