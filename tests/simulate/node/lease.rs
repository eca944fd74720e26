//! The process keeps its lease, and its part in the consensus.
//!
//! **Owns**: asking the leader, by way of another node if need be; applying the map; the messages
//! of the consensus.
//! **Does not own**: what a grant is worth (core), granting (`plane`).

use std::sync::Arc;
use std::time::Duration;

use domicile_core::Input;
use domicile_core::Moment;
use domicile_core::control::Grant;
use domicile_proto::PartitionId;

use super::process::Process;
use crate::invariants;
use crate::network::REGIONS;
use crate::packets::{Body, Place};
use crate::planted::{NodeBug, is_planted};
use crate::queue::Wake;
use crate::scene::Scene;

/// How often the consensus looks at its timers, in us.
const CONSENSUS_US: u64 = 20_000;

impl Process {
    pub(super) fn ask_lease(&mut self, scene: &mut Scene) {
        let every = scene.plan.times.ask_every;
        self.wake_after(every, Wake::Lease, scene);
        let now = match is_planted(NodeBug::LeaseByWall) {
            true => Moment::from_micros(self.wall_ms(scene) * 1000),
            false => self.moment(scene),
        };
        let ask = self.holder.ask(now);
        let (own, incarnation) = (self.host.index, self.number);
        if self.host.raft.is_leader() {
            return self.on_ask(own, (incarnation, ask), own, scene);
        }
        let renew = |relayed| Body::Renew {
            node: own,
            incarnation,
            ask,
            relayed,
        };
        let leader = self.host.raft.leader;
        let has_lease = self.moment(scene).plus(every * 2) < self.lease_until;
        for to in (0..REGIONS).filter(|to| *to != own) {
            // The way to the leader may be cut, and one over a third node not.
            if leader == Some(to) || !has_lease {
                self.send(to, renew(false));
            }
        }
    }

    pub(super) fn on_renew(
        &mut self,
        (node, from): (usize, usize),
        (incarnation, ask): (u64, u64),
        relayed: bool,
        scene: &mut Scene,
    ) {
        if self.host.raft.is_leader() {
            return self.on_ask(node, (incarnation, ask), from, scene);
        }
        let leader = self.host.raft.leader.filter(|leader| *leader != from);
        if let (Some(to), false) = (leader, relayed) {
            let renew = Body::Renew {
                node,
                incarnation,
                ask,
                relayed: true,
            };
            self.send(to, renew);
        }
    }

    /// A grant, for this process or to be passed on.
    pub(crate) fn on_granted(
        &mut self,
        node: usize,
        incarnation: u64,
        grant: Grant,
        scene: &mut Scene,
    ) {
        if node != self.host.index {
            let granted = Body::Granted {
                node,
                incarnation,
                grant,
            };
            return self.send(node, granted);
        }
        if incarnation != self.number && !is_planted(NodeBug::GrantOfAnotherLife) {
            return;
        }
        let mut times = scene.plan.times;
        if is_planted(NodeBug::LeaseTwiceAsLong) {
            times.lease *= 2;
        }
        self.holder.granted(grant, &times, self.applied_version);
        if is_planted(NodeBug::LeaseFromGrant) {
            let until = self.moment(scene).plus(times.usable());
            self.lease_until = self.lease_until.max(until);
        }
        self.renew(scene);
    }

    /// No core of this process goes on in a reign that the map of this version has ended.
    pub(super) fn map_applied(&mut self, version: u64, scene: &mut Scene) {
        self.applied_version = self.applied_version.max(version);
        self.holder.applied(version);
        self.renew(scene);
    }

    fn renew(&mut self, scene: &mut Scene) {
        let Some(mut until) = self.holder.until() else {
            return;
        };
        let now = self.moment(scene);
        if is_planted(NodeBug::LeaseByWall) {
            let ahead_us = until.micros().saturating_sub(self.wall_ms(scene) * 1000);
            until = now.plus(Duration::from_micros(ahead_us));
        }
        let before = self.lease_until;
        self.lease_until = before.max(until);
        if before <= now && until > now {
            let homes = self.slots.iter().filter(|(_, slot)| slot.is_home);
            let homes: Vec<PartitionId> = homes.map(|(id, _)| *id).collect();
            for partition in homes {
                self.input(partition, Input::Lease { until }, scene);
            }
        }
    }

    pub(super) fn wake_consensus(&mut self, scene: &mut Scene) {
        self.wake_in(CONSENSUS_US, Wake::Consensus, scene);
        let mut out = Vec::new();
        self.host.raft.wake(scene.now_us, &mut out);
        self.consensus_sends(out, scene);
    }

    pub(super) fn on_consensus(&mut self, body: Body, scene: &mut Scene) {
        let mut out = Vec::new();
        let (raft, now_us) = (&mut self.host.raft, scene.now_us);
        match body {
            Body::Append(append) => raft.on_append(now_us, append, &mut out),
            Body::Appended(answer) => raft.on_appended(answer, &mut out),
            Body::Vote(vote) => raft.on_vote(now_us, vote, &mut out),
            Body::Voted(voted) => raft.on_voted(now_us, voted, &mut out),
            _ => {}
        }
        self.consensus_sends(out, scene);
    }

    pub(crate) fn consensus_sends(&mut self, out: Vec<(usize, Body)>, scene: &mut Scene) {
        let sent = out.into_iter().map(|(to, body)| (Place::Node(to), body));
        self.outbox.extend(sent);
        self.apply_committed(scene);
        self.act_on_confirmed(scene);
    }

    pub(super) fn restart_consensus(&mut self, now_us: u64, applied: usize, scene: &mut Scene) {
        let applied = applied.max(1);
        self.host.raft.restart(now_us, applied);
        (self.host.applied, self.host.map) = (0, Arc::default());
        self.apply_committed(scene);
    }

    fn apply_committed(&mut self, scene: &mut Scene) {
        if self.host.applied >= self.host.raft.commit {
            return;
        }
        let mut map = (*self.host.map).clone();
        while self.host.applied < self.host.raft.commit {
            let entry = Arc::clone(&self.host.raft.log[self.host.applied]);
            self.host.applied += 1;
            let is_first = scene.truth.is_first_to_apply(self.host.applied);
            for command in &entry.commands {
                let before = is_first.then(|| map.clone());
                let refused = map.apply(command).err();
                if let Some(before) = before {
                    scene.note(|| format!("map: {command:?} {refused:?}"));
                    let is_done = refused.is_none();
                    scene
                        .truth
                        .decided(scene.now_us, &before, &map, command, is_done);
                    invariants::policy::decided(&map, scene);
                }
            }
        }
        self.host.map = Arc::new(map);
        self.look_at_switchovers(scene);
    }
}
