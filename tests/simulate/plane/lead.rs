//! While a process leads the control plane: leases are granted, lost homes succeeded.
//!
//! **Owns**: one supervisor for each lead, and carrying out what it decides.
//! **Does not own**: the decisions (core), being leader (`raft`).
//!
//! What is proposed here is put down only if this very lead is confirmed by a majority first: what
//! a supervisor knows of leases is all there is to know only while it is the only one.

use std::collections::BTreeMap;
use std::sync::Arc;

use domicile_core::Moment;
use domicile_core::control::{
    Command, Lost, OperatorWord, PromisedEnd, Supervisor, SupervisorEffect, SupervisorInput,
};
use domicile_proto::{Epoch, KeyspaceId, NodeId, PartitionId};

use crate::faults::Alteration;
use crate::node::Process;
use crate::packets::Body;
use crate::plan::{index_of_node, node_id};
use crate::planted::{NodeBug, is_planted};
use crate::queue::Wake;
use crate::scene::Scene;

/// How often a process that does not lead looks whether it does, in us.
const LOOK_US: u64 = 20_000;

/// One lead.
pub(crate) struct Lead {
    term: u64,
    supervisor: Supervisor,
    heard: BTreeMap<(PartitionId, Epoch), BTreeMap<NodeId, PromisedEnd>>,
}

/// What waits until a majority has confirmed a lead.
pub(crate) struct Pending {
    round: u64,
    term: u64,
    what: Confirmed,
}

enum Confirmed {
    Begin,
    Grant {
        node: usize,
        incarnation: u64,
        ask: u64,
        heard: Moment,
        via: usize,
    },
    Propose(Vec<Command>),
}

impl Process {
    /// Begins a lead, ends it, lets its time pass.
    pub(crate) fn look_around(&mut self, scene: &mut Scene) {
        let (term, leads) = (self.host.raft.term, self.host.raft.is_leader());
        if self
            .lead
            .as_ref()
            .is_some_and(|lead| !leads || lead.term != term)
        {
            self.lead = None;
        }
        let is_beginning = self
            .pending
            .iter()
            .any(|it| it.term == term && matches!(it.what, Confirmed::Begin));
        if leads && self.lead.is_none() && !is_beginning {
            self.confirm(Confirmed::Begin, scene);
        }
        let us = match &self.lead {
            None => LOOK_US,
            Some(lead) => {
                let now = self.moment(scene);
                let at = lead.supervisor.next_timeout(now);
                at.since(now).as_micros() as u64
            }
        };
        self.wake_in(us, Wake::Lead, scene);
        self.supervise(SupervisorInput::Tick, scene);
    }

    fn confirm(&mut self, what: Confirmed, scene: &mut Scene) {
        let mut out = Vec::new();
        let round = self.host.raft.begin_round(scene.now_us, &mut out);
        let term = self.host.raft.term;
        self.pending.push(Pending { round, term, what });
        for (to, body) in out {
            self.send(to, body);
        }
    }

    /// What was confirmed is done; what cannot be any more is forgotten.
    pub(crate) fn act_on_confirmed(&mut self, scene: &mut Scene) {
        let raft = &self.host.raft;
        let (term, leads, round) = (raft.term, raft.is_leader(), raft.confirmed_round());
        let is_ready = leads && raft.is_settled() && self.host.applied == raft.commit;
        let mut ready = Vec::new();
        self.pending.retain_mut(|it| {
            if it.term != term || !leads {
                return false;
            }
            if it.round > round || !is_ready {
                return true;
            }
            ready.push(std::mem::replace(&mut it.what, Confirmed::Begin));
            false
        });
        for what in ready {
            self.confirmed(what, scene);
        }
    }

    fn confirmed(&mut self, what: Confirmed, scene: &mut Scene) {
        match what {
            Confirmed::Begin => {
                let node = self.host.index;
                scene.note(|| format!("n{node} leads the control plane"));
                let supervisor = Supervisor::new(scene.plan.times, self.moment(scene));
                self.lead = Some(Lead {
                    term: self.host.raft.term,
                    supervisor,
                    heard: BTreeMap::new(),
                });
            }
            Confirmed::Grant {
                node,
                incarnation,
                ask,
                heard,
                via,
            } => {
                let input = SupervisorInput::Grant {
                    node: node_id(node),
                    ask,
                    heard,
                };
                let granted = self.supervise(input, scene);
                if let Some(grant) = granted {
                    if node == self.host.index {
                        return self.on_granted(node, incarnation, grant, scene);
                    }
                    let granted = Body::Granted {
                        node,
                        incarnation,
                        grant,
                    };
                    self.send(via, granted);
                }
            }
            Confirmed::Propose(commands) => {
                let mut out = Vec::new();
                self.host.raft.propose(scene.now_us, commands, &mut out);
                for (to, body) in out {
                    self.send(to, body);
                }
            }
        }
    }

    /// A node asks for a lease.
    pub(crate) fn on_ask(
        &mut self,
        node: usize,
        (incarnation, ask): (u64, u64),
        via: usize,
        scene: &mut Scene,
    ) {
        if self.lead.is_none() {
            return;
        }
        let heard = SupervisorInput::Heard {
            node: node_id(node),
            incarnation,
        };
        self.supervise(heard, scene);
        let heard = self.moment(scene);
        let granted = Confirmed::Grant {
            node,
            incarnation,
            ask,
            heard,
            via,
        };
        if is_planted(NodeBug::GrantUnconfirmed) {
            return self.confirmed(granted, scene);
        }
        self.confirm(granted, scene);
    }

    pub(crate) fn on_promised(
        &mut self,
        from: usize,
        term: u64,
        answers: Vec<(PartitionId, Epoch, PromisedEnd)>,
        scene: &mut Scene,
    ) {
        if self.lead.as_ref().is_none_or(|lead| lead.term != term) {
            return;
        }
        let node = node_id(from);
        for (partition, floor, end) in answers {
            // As the supervisor hears of it: one by one.
            if let Some(lead) = &mut self.lead {
                let heard = lead.heard.entry((partition, floor)).or_default();
                heard.insert(node, end);
            }
            let input = SupervisorInput::Promised {
                node,
                partition,
                floor,
                end,
            };
            self.supervise(input, scene);
        }
    }

    /// An operator gives a home up.
    pub(crate) fn give_up(
        &mut self,
        partition: PartitionId,
        word: OperatorWord,
        scene: &mut Scene,
    ) {
        let assignment = self.host.map.assignment(partition);
        let (Some(assignment), true) = (assignment, self.lead.is_some()) else {
            return;
        };
        let wall_ms = self.wall_ms(scene);
        let begin = Command::BeginTakeOver {
            partition,
            from: assignment.epoch,
            lost: Lost {
                heard_ms: wall_ms,
                noticed_ms: wall_ms,
                word: Some(word),
            },
        };
        self.confirm(Confirmed::Propose(vec![begin]), scene);
    }

    /// An operator wants a partition to be handed on.
    pub(crate) fn switch_over(&mut self, partition: PartitionId, to: usize, scene: &mut Scene) {
        if let Some(assignment) = self.host.map.assignment(partition) {
            let begin = Command::BeginSwitchover {
                partition,
                from: assignment.epoch,
                to: node_id(to),
            };
            self.on_told(begin, scene);
        }
    }

    /// An operator alters a keyspace, as it is known where the control plane is led.
    pub(crate) fn alter(
        &mut self,
        keyspace: KeyspaceId,
        alteration: Alteration,
        scene: &mut Scene,
    ) {
        let map = &self.host.map;
        let known = map.keyspace(keyspace).zip(map.keyspace_version(keyspace));
        if let Some((before, from)) = known
            && let Some(after) = alteration.of(before)
        {
            let keyspace = Box::new(after);
            self.on_told(Command::AlterKeyspace { keyspace, from }, scene);
        }
    }

    /// Whoever leads puts before the map what a node has to say.
    pub(crate) fn on_told(&mut self, command: Command, scene: &mut Scene) {
        if self.lead.is_some() {
            self.confirm(Confirmed::Propose(vec![command]), scene);
        }
    }

    /// Says something to the leader, as far as one is known.
    pub(crate) fn tell(&mut self, command: Command, scene: &mut Scene) {
        if self.lead.is_some() {
            return self.on_told(command, scene);
        }
        let own = self.host.index;
        if let Some(leader) = self.host.raft.leader.filter(|leader| *leader != own) {
            self.send(leader, Body::Tell { command });
        }
    }

    /// One step of the supervisor; a grant is handed back.
    fn supervise(
        &mut self,
        input: SupervisorInput,
        scene: &mut Scene,
    ) -> Option<domicile_core::control::Grant> {
        let (now, wall_ms) = (self.moment(scene), self.wall_ms(scene));
        let map = Arc::clone(&self.host.map);
        let lead = self.lead.as_mut()?;
        let mut effects = Vec::new();
        lead.supervisor
            .step(now, wall_ms, &map, input, &mut effects);
        let (mut granted, mut commands) = (None, Vec::new());
        let mut asks: BTreeMap<NodeId, Vec<(PartitionId, Epoch)>> = BTreeMap::new();
        for effect in effects {
            match effect {
                SupervisorEffect::Propose(more) => commands.extend(more),
                SupervisorEffect::AskPromise {
                    node,
                    partition,
                    floor,
                } => asks.entry(node).or_default().push((partition, floor)),
                SupervisorEffect::Grant { grant, .. } => granted = Some(grant),
            }
        }
        let term = lead.term;
        for command in &commands {
            if let Command::TakeOver {
                partition,
                from,
                to,
                ..
            } = command
            {
                let floor = map.assignment(*partition).map(|it| it.floor());
                let heard = floor.and_then(|floor| lead.heard.get(&(*partition, floor)));
                let heard = heard.cloned().unwrap_or_default();
                scene.truth.proposed.insert((*partition, *from, *to), heard);
            }
        }
        if !commands.is_empty() {
            self.confirm(Confirmed::Propose(commands), scene);
        }
        let own = self.host.index;
        for (to, asked) in asks {
            match index_of_node(to) {
                to if to == own => self.promise(own, term, asked, scene),
                to => {
                    let ask = Body::AskPromises { term, asked };
                    scene.truth.asks(own, to, ask.clone());
                    self.send(to, ask);
                }
            }
        }
        granted
    }
}
