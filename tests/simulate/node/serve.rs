//! Callers are served.
//!
//! **Owns**: what the product's front does with a write and a read, at the home or at a copy.
//! **Does not own**: what callers make of it (`clients`).

use domicile_core::{
    EarlierTries, Expected as CoreExpected, Input, KeyChange, Precondition, Purpose,
    SessionStanding, Ticket, Write,
};
use domicile_proto::record::RecordBody;
use domicile_proto::{Operation, PartitionId, Position, Record};

use super::process::Process;
use super::step::Cargo;
use crate::clients::{Answer, Call, Freshness, Kind, Seen};
use crate::planted::{NodeBug, is_planted};
use crate::scene::Scene;

impl Process {
    pub(super) fn serve(&mut self, call: Call, scene: &mut Scene) {
        let Some(slot) = self.slots.get(&call.op.partition) else {
            let map = &self.host.map;
            let assignment = map.assignment(call.op.partition);
            let home = assignment.and_then(|it| map.node(it.home));
            let answer = match home.filter(|it| it.region != self.host.region) {
                Some(home) => Answer::WrongHome(home.region),
                None => Answer::Unavailable("no such partition"),
            };
            return self.answer(call, answer);
        };
        let (is_home, home) = (slot.is_home, slot.home);
        let follows = slot
            .handed_on
            .filter(|_| !is_planted(NodeBug::ServeWhenHandedOn));
        if let Some(follows) = follows {
            return self.answer(call, Answer::WrongHome(follows));
        }
        match &call.op.kind {
            Kind::Read(freshness) => {
                let freshness = freshness.clone();
                self.read(call, &freshness, scene);
            }
            _ if !is_home => self.answer(call, Answer::WrongHome(home)),
            _ => self.write(call, scene),
        }
    }

    fn write(&mut self, call: Call, scene: &mut Scene) {
        let (partition, key) = (call.op.partition, call.op.key.clone());
        if self.slots[&partition].is_damaged || self.store.is_stalled() {
            return self.answer(call, Answer::Unavailable("damaged or stalled"));
        }
        let (operation, change) = match &call.op.kind {
            Kind::Delete => (Operation::Delete { key: key.clone() }, KeyChange::Delete),
            Kind::Put(value) | Kind::Swap(_, value) => {
                let put = Operation::Put {
                    key: key.clone(),
                    value: value.clone(),
                    expiry: None,
                };
                (put, KeyChange::Put)
            }
            Kind::Read(_) => return,
        };
        let body = RecordBody::encode(&[operation]).expect("small");
        let mut preconditions = Vec::new();
        if let Kind::Swap(expected, _) = &call.op.kind {
            let Ok(read) = self.store.cells(partition).get(&key) else {
                return self.answer(call, Answer::Unavailable("not readable"));
            };
            preconditions.push(Precondition {
                key: key.clone(),
                expected: expected.map_or(CoreExpected::Absent, CoreExpected::Version),
                observed: read.cell.map(|cell| cell.version),
            });
        }
        let hlc = self.stamp(scene);
        let (now, timeout_us) = (self.moment(scene), scene.plan.client_timeout_us);
        let deadline = now.plus(std::time::Duration::from_micros(timeout_us));
        let Some(slot) = self.slots.get_mut(&partition) else {
            return;
        };
        slot.next_ticket += 1;
        let ticket = Ticket::new(slot.next_ticket);
        let input = Input::Write(Write {
            ticket,
            purpose: Purpose::Request,
            request_id: call.op.request_id,
            fingerprint: body.fingerprint(),
            bytes: Record::encoded_len(&body) as u32,
            keys: vec![(key, change)],
            preconditions,
            level: call.op.level,
            hlc,
            deadline,
            earlier_tries: EarlierTries::Remembered,
        });
        slot.waiters.insert(ticket, call);
        self.step(partition, input, Cargo::Body(body), scene);
    }

    /// Whether the home may answer reads of the newest.
    pub(super) fn check_reads_open(&mut self, partition: PartitionId, scene: &Scene) -> bool {
        let (now, until) = (self.moment(scene), self.lease_until);
        let Some(slot) = self.slots.get_mut(&partition) else {
            return false;
        };
        if is_planted(NodeBug::ReadWithoutLease) && slot.reads_open {
            return true;
        }
        let has_lease = !slot.needs_lease || now < until;
        if has_lease && slot.reads_open {
            return true;
        }
        slot.core.renew_lease(until);
        if slot.is_damaged || slot.core.read_gate(now).is_err() {
            return false;
        }
        slot.reads_open = true;
        true
    }

    fn read(&mut self, call: Call, freshness: &Freshness, scene: &Scene) {
        let partition = call.op.partition;
        let slot = &self.slots[&partition];
        let (is_home, home, is_damaged) = (slot.is_home, slot.home, slot.is_damaged);
        if is_home {
            if !self.check_reads_open(partition, scene) {
                return self.answer(call, Answer::Unavailable("reads are closed"));
            }
        } else if is_damaged || !self.store.cells(partition).is_readable() {
            return self.answer(call, Answer::WrongHome(home));
        }
        match freshness {
            Freshness::Home if !is_home => return self.answer(call, Answer::WrongHome(home)),
            Freshness::Session(epoch, seq) => {
                let (epoch, seq) = (*epoch, *seq);
                let applied = self.store.cells(partition).applied_upto();
                let core = &self.slots[&partition].core;
                match core.session_standing(Position { epoch, seq }) {
                    SessionStanding::Lost(_) => return self.answer(call, Answer::SessionLost),
                    SessionStanding::Held if applied >= seq => {}
                    // It may be here later; a home that does not know of its successor has to be
                    // told of it first.
                    _ => return self.answer(call, Answer::WrongHome(home)),
                }
            }
            Freshness::Home | Freshness::Local => {}
        }
        let read = self.store.cells(partition).get(&call.op.key);
        let Ok(read) = read else {
            return self.answer(call, Answer::Unavailable("not readable"));
        };
        let slot = &self.slots[&partition];
        let seen = Seen {
            node: self.host.index,
            is_home,
            epoch: slot.core.epoch(),
            position: slot.core.position(read.applied_upto),
            applied_upto: read.applied_upto,
            version: read.cell.as_ref().map(|cell| cell.version),
            value: read.cell.and_then(|cell| cell.value),
        };
        self.answer(call, Answer::Read(seen));
    }
}
