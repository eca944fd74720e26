//! Callers: they write, read, give up waiting, and try again under the same request id.
//!
//! **Owns**: what callers ask, what they make of answers, whom they ask next.
//! **Does not own**: serving them (`node`), judging what they were told (`invariants`).

use std::collections::BTreeMap;

use bytes::Bytes;
use domicile_core::{Receipt, Refusal};
use domicile_proto::{AckLevel, Epoch, PartitionId, Position, RegionId, RequestId, Seq, Version};

use crate::network::REGIONS;
use crate::packets::{Body, Place};
use crate::plan::index_of;
use crate::queue::Event;
use crate::scene::Scene;
use crate::truth::{Called, Outcome};

/// Tries of one call before a caller goes on with another one.
const TRIES_MAX: u32 = 12;

/// How fresh a read has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Freshness {
    Home,
    Local,
    /// At least as new as this record.
    Session(Epoch, Seq),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Put(Bytes),
    Delete,
    /// If it is in this version, or absent.
    Swap(Option<Version>, Bytes),
    Read(Freshness),
}

/// What is asked.
#[derive(Debug, Clone)]
pub(crate) struct Op {
    pub(crate) partition: PartitionId,
    pub(crate) key: Bytes,
    pub(crate) kind: Kind,
    pub(crate) request_id: RequestId,
    pub(crate) level: Option<AckLevel>,
    /// A read that follows a write of its own, which it has to see.
    pub(crate) is_probe: bool,
}

/// One try of it.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) client: usize,
    pub(crate) attempt: u64,
    pub(crate) op: Op,
}

/// What a read saw.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) node: usize,
    pub(crate) is_home: bool,
    pub(crate) epoch: Option<Epoch>,
    /// What the caller's session remembers of it.
    pub(crate) position: Option<Position>,
    pub(crate) applied_upto: Seq,
    pub(crate) version: Option<Version>,
    pub(crate) value: Option<Bytes>,
}

#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Write(Result<Receipt, Refusal>),
    Read(Seen),
    WrongHome(RegionId),
    Unavailable(&'static str),
    SessionLost,
}

struct Current {
    op: Op,
    began_us: u64,
    tries: u32,
    /// Some try was not told that nothing was written.
    is_unknown: bool,
}

/// One caller.
pub(crate) struct Client {
    index: usize,
    current: Option<Current>,
    attempt: u64,
    wake: u64,
    made: u64,
    homes: BTreeMap<PartitionId, usize>,
    tokens: BTreeMap<PartitionId, (Epoch, Seq)>,
    versions: BTreeMap<(PartitionId, Bytes), Option<Version>>,
    /// What is still to be shown to work once the trouble is over.
    pub(crate) agenda: Vec<Op>,
}

impl Client {
    pub(crate) fn new(index: usize, scene: &mut Scene) -> Self {
        let mut client = Self {
            index,
            current: None,
            attempt: 0,
            wake: 0,
            made: 0,
            homes: BTreeMap::new(),
            tokens: BTreeMap::new(),
            versions: BTreeMap::new(),
            agenda: Vec::new(),
        };
        client.sleep(scene.chance.below(500_000), scene);
        client
    }

    fn sleep(&mut self, us: u64, scene: &mut Scene) {
        self.wake += 1;
        let (client, wake) = (self.index, self.wake);
        scene.after(us, Event::Client { client, wake });
    }

    pub(crate) fn wake(&mut self, wake: u64, scene: &mut Scene) {
        if wake != self.wake {
            return;
        }
        if self.current.is_some() {
            return self.try_again(true, scene);
        }
        let op = match scene.now_us < scene.plan.busy_end_us {
            true => Some(self.choose(scene)),
            false => self.agenda.pop(),
        };
        let Some(op) = op else {
            return;
        };
        self.current = Some(Current {
            op,
            began_us: scene.now_us,
            tries: 0,
            is_unknown: false,
        });
        self.ask(scene);
    }

    /// The id of a new request.
    pub(crate) fn new_id(&mut self) -> RequestId {
        self.made += 1;
        let id = (self.index as u128 + 1) << 64 | u128::from(self.made);
        RequestId::new(1 << 100 | id).expect("not zero")
    }

    fn choose(&mut self, scene: &mut Scene) -> Op {
        let plan = std::sync::Arc::clone(&scene.plan);
        let index = scene.chance.below(plan.keys.len() as u64) as usize;
        let (keyspace, key) = &plan.keys[index];
        let keyspace = &plan.keyspaces[*keyspace];
        let partition = keyspace.partition_of(key);
        let request_id = self.new_id();
        let value = Bytes::from(format!("c{}-{}", self.index, self.made));
        let kind = match scene.chance.below(100) {
            0..45 => Kind::Put(value),
            45..53 => Kind::Delete,
            53..65 => {
                let known = self.versions.get(&(partition, key.clone()));
                Kind::Swap(known.copied().flatten(), value)
            }
            65..80 => Kind::Read(Freshness::Home),
            80..90 => Kind::Read(Freshness::Local),
            _ => match self.tokens.get(&partition) {
                Some((epoch, seq)) => Kind::Read(Freshness::Session(*epoch, *seq)),
                None => Kind::Read(Freshness::Home),
            },
        };
        let level = match scene.chance.percent(10) {
            true if AckLevel::SYNC.covers(keyspace.ack, REGIONS - 1) => Some(AckLevel::SYNC),
            _ => None,
        };
        Op {
            partition,
            key: key.clone(),
            kind,
            request_id,
            level,
            is_probe: false,
        }
    }

    fn ask(&mut self, scene: &mut Scene) {
        let Some(current) = &mut self.current else {
            return;
        };
        current.tries += 1;
        self.attempt += 1;
        let partition = current.op.partition;
        let own = self.index % REGIONS;
        let home = *self
            .homes
            .entry(partition)
            .or_insert(index_of(partition.region));
        let is_first = current.tries == 1;
        let to = match &current.op.kind {
            Kind::Read(Freshness::Local) => own,
            Kind::Read(Freshness::Session(..)) if is_first => own,
            _ => home,
        };
        let call = Call {
            client: self.index,
            attempt: self.attempt,
            op: current.op.clone(),
        };
        let (client, op) = (self.index, &current.op);
        scene.note(|| format!("c{client} asks n{to}: {:?} {:?}", op.kind, op.request_id));
        let timeout_us = scene.plan.client_timeout_us;
        scene.send(
            Place::Client(self.index),
            Place::Node(to),
            Body::Request { call },
        );
        self.sleep(timeout_us, scene);
    }

    /// The same again, elsewhere if nothing was heard, or something else if it was often enough.
    fn try_again(&mut self, is_silent: bool, scene: &mut Scene) {
        let Some(current) = &mut self.current else {
            return;
        };
        current.is_unknown |= is_silent;
        let is_read = matches!(current.op.kind, Kind::Read(_));
        let is_over = current.tries >= TRIES_MAX && !current.op.is_probe;
        if is_over || (is_read && scene.chance.percent(20) && !current.op.is_probe) {
            let outcome = match current.is_unknown {
                true => Outcome::Unknown,
                false => Outcome::Refused,
            };
            return self.end(outcome, scene);
        }
        if is_silent {
            let partition = current.op.partition;
            let home = scene.chance.below(REGIONS as u64) as usize;
            self.homes.insert(partition, home);
        }
        self.ask(scene);
    }

    fn end(&mut self, outcome: Outcome, scene: &mut Scene) {
        let Some(Current { op, began_us, .. }) = self.current.take() else {
            return;
        };
        let client = self.index;
        scene.note(|| format!("c{client} ends {:?}: {outcome:?}", op.request_id));
        scene.truth.calls.push(Called {
            op,
            began_us,
            ended_us: scene.now_us,
            outcome,
        });
        let think_us = match scene.now_us < scene.plan.busy_end_us {
            true => scene.chance.below(2 * scene.plan.think_us),
            false => 1_000,
        };
        self.sleep(think_us, scene);
    }

    /// What its session has seen, which never goes back.
    fn saw(&mut self, partition: PartitionId, position: Position) {
        let seen = (position.epoch, position.seq);
        let token = self.tokens.entry(partition).or_insert(seen);
        *token = (*token).max(seen);
    }

    pub(crate) fn hear(&mut self, call: Call, answer: Answer, scene: &mut Scene) {
        let is_current = call.attempt == self.attempt;
        let Some(current) = self.current.as_mut().filter(|_| is_current) else {
            return;
        };
        let partition = call.op.partition;
        match answer {
            Answer::Write(Ok(receipt)) => {
                self.saw(partition, receipt.position);
                let is_deleted = call.op.kind == Kind::Delete;
                let version = (!is_deleted).then_some(receipt.version);
                self.versions.insert((partition, call.op.key), version);
                self.end(Outcome::Wrote(receipt), scene);
            }
            Answer::Write(Err(refusal)) => self.refused(partition, refusal, scene),
            Answer::Read(seen) => {
                if let Some(position) = seen.position {
                    self.saw(partition, position);
                }
                self.versions.insert((partition, call.op.key), seen.version);
                self.end(Outcome::Read(seen), scene);
            }
            Answer::WrongHome(home) => {
                self.homes.insert(partition, index_of(home));
                let us = scene.chance.between(1_000, 50_000);
                self.wait_and_try_again(us, scene);
            }
            Answer::Unavailable(why) => {
                scene.note(|| format!("unavailable: {why}"));
                let us = scene.chance.between(10_000, 300_000);
                self.wait_and_try_again(us, scene);
            }
            Answer::SessionLost => {
                self.tokens.remove(&partition);
                let outcome = match current.is_unknown {
                    true => Outcome::Unknown,
                    false => Outcome::SessionLost,
                };
                self.end(outcome, scene);
            }
        }
    }

    /// Nobody answered yet what is asked again after a while; it does not count as silence.
    fn wait_and_try_again(&mut self, us: u64, scene: &mut Scene) {
        self.attempt += 1;
        let home = scene.chance.below(REGIONS as u64) as usize;
        if scene.chance.percent(20)
            && let Some(current) = &self.current
        {
            self.homes.insert(current.op.partition, home);
        }
        if let Some(current) = &mut self.current {
            // What waits to be tried again is told from what waits for an answer by no tries.
            let is_over = current.tries >= TRIES_MAX && !current.op.is_probe;
            if is_over {
                return self.try_again(false, scene);
            }
        }
        self.retry_in(us, scene);
    }

    fn retry_in(&mut self, us: u64, scene: &mut Scene) {
        self.wake += 1;
        let (client, wake) = (self.index, self.wake);
        scene.after(us, Event::Retry { client, wake });
    }

    /// What was to be tried again is.
    pub(crate) fn retry(&mut self, wake: u64, scene: &mut Scene) {
        if wake == self.wake {
            self.ask(scene);
        }
    }

    fn refused(&mut self, partition: PartitionId, refusal: Refusal, scene: &mut Scene) {
        let Some(current) = &mut self.current else {
            return;
        };
        let us = scene.chance.between(1_000, 200_000);
        match refusal {
            Refusal::Indeterminate { .. } => {
                current.is_unknown = true;
                self.wait_and_try_again(us, scene);
            }
            Refusal::NotHome { home_region } => {
                self.homes.insert(partition, index_of(home_region));
                self.wait_and_try_again(us, scene);
            }
            Refusal::VersionMismatch { current: now, .. } => {
                let key = current.op.key.clone();
                let outcome = match current.is_unknown {
                    true => Outcome::Unknown,
                    false => Outcome::Refused,
                };
                self.versions.insert((partition, key), now);
                self.end(outcome, scene);
            }
            _ => self.wait_and_try_again(us, scene),
        }
    }

    /// Which caller it is, and by which event it wakes.
    pub(crate) fn wakes(&self) -> (usize, u64) {
        (self.index, self.wake)
    }

    /// Whether something is still to be shown to work.
    pub(crate) fn is_busy(&self) -> bool {
        !self.agenda.is_empty() || self.current.as_ref().is_some_and(|it| it.op.is_probe)
    }
}
