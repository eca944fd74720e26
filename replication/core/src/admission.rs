//! Letting a write in: everything that is asked before it gets its place.
//!
//! **Owns**: the checks of a write, their order, the answer to a request that is known.
//! **Does not own**: when it is answered (`settlement`).
//!
//! ```text
//! level? -> known request? -> store well, not succeeded? -> lease? -> forgotten request?
//! -> deadline? -> preconditions? -> room? -> loss? -> append
//! ```
//! A known request comes before all that says "not written", as its write may well be.

use domicile_proto::{AckLevel, OnTimeout, RecordHead, RecordKind, Seq};

use crate::ack_tracker::Needs;
use crate::config::LeaseNeed;
use crate::effect::Effect;
use crate::event::Event;
use crate::home::{Home, Origin};
use crate::moment::Moment;
use crate::planted::{Bug, is_planted};
use crate::recovered::RememberedRequest;
use crate::refusal::{Bound, Refusal};
use crate::waiters::Waiter;
use crate::write::{EarlierTries, KeyChange, Precondition, Purpose, Write};

/// Callers that may wait, for each record that may be in flight: the one that wrote it and, on
/// average, one that asks for a stronger level, repeats its request, or is slowed. Doubling it lets
/// a storm of repeated requests hold twice the memory (about 150 bytes a caller).
const WAITERS_PER_RECORD: u64 = 2;

impl Home {
    /// A write is asked for; it is answered now or once it is let in.
    pub(crate) fn write(&mut self, now: Moment, write: Write, effects: &mut Vec<Effect>) {
        let level = write.level.unwrap_or(self.config.ack);
        if let Err(refusal) = self.check_level(level) {
            return self.refuse(&write, refusal, effects);
        }
        if let Some(known) = self.requests.get(write.request_id) {
            return self.join(now, &write, level, known, effects);
        }
        match self.check(now, &write, effects) {
            Ok(()) => self.append(now, write, level, effects),
            Err(refusal) => self.refuse(&write, refusal, effects),
        }
    }

    fn check_level(&self, asked: AckLevel) -> Result<(), Refusal> {
        let (keyspace, copies) = (self.config.ack, self.config.copies());
        let is_reachable = asked.received_needed(copies) <= copies;
        if is_reachable && asked.covers(keyspace, copies) {
            return Ok(());
        }
        Err(Refusal::InvalidLevel {
            asked,
            keyspace,
            copies,
        })
    }

    fn check(
        &mut self,
        now: Moment,
        write: &Write,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        self.check_phase()?;
        if !is_planted(Bug::AppendWithoutLease) {
            self.check_lease(LeaseNeed::Everything, now)?;
        }
        self.check_earlier_tries(write.earlier_tries)?;
        if write.deadline <= now {
            let late_ms = now.since(write.deadline).as_millis();
            let late_ms = u64::try_from(late_ms).unwrap_or(u64::MAX);
            return Err(Refusal::DeadlineExceeded { late_ms });
        }
        self.check_preconditions(&write.preconditions)?;
        self.in_flight.check_room(write.bytes)?;
        self.check_waiters()?;
        self.check_loss(now, write.bytes, effects)
    }

    /// A write that is not remembered is a new one only as far back as all are remembered; before
    /// that the log has to have been searched, and it has to be this one.
    fn check_earlier_tries(&self, tries: EarlierTries) -> Result<(), Refusal> {
        let EarlierTries::NotInLogUpto(searched_upto) = tries else {
            return Ok(());
        };
        let forgotten_upto = self.requests.forgotten_upto();
        let is_searched = searched_upto.is_some_and(|upto| {
            let appended_upto = self.appended.upto();
            let is_ours = self.epochs.covers(upto.epoch, upto.seq, appended_upto);
            is_ours && upto.seq >= forgotten_upto
        });
        if is_searched || forgotten_upto == Seq::NONE || is_planted(Bug::ForgetRequests) {
            return Ok(());
        }
        Err(Refusal::RequestsForgotten {
            searched_upto,
            forgotten_upto,
        })
    }

    fn check_preconditions(&self, preconditions: &[Precondition]) -> Result<(), Refusal> {
        if !preconditions.is_empty() {
            // The keys of recovered records that are not visible yet are known to nobody but the
            // disk: neither in flight nor among the applied cells.
            self.check_recovered()?;
        }
        for (
            index,
            Precondition {
                key,
                expected,
                observed,
            },
        ) in preconditions.iter().enumerate()
        {
            let in_flight = self.in_flight.newest(key);
            let in_flight = in_flight.filter(|_| !is_planted(Bug::CasIgnoresInFlight));
            let current = match in_flight {
                Some((seq, KeyChange::Put)) => Some(self.version(seq)),
                Some((_, KeyChange::Delete)) => None,
                None => *observed,
            };
            if !expected.holds(current) {
                return Err(Refusal::VersionMismatch { index, current });
            }
        }
        Ok(())
    }

    fn check_waiters(&self) -> Result<(), Refusal> {
        let actual = self.waiters.len() as u64 + self.delayed.len() as u64 + 1;
        let limit = u64::from(self.config.window.records_max) * WAITERS_PER_RECORD;
        if actual > limit {
            return Err(Refusal::Overloaded {
                bound: Bound::Waiters,
                actual,
                limit,
            });
        }
        Ok(())
    }

    fn check_loss(
        &mut self,
        now: Moment,
        bytes: u32,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        if !self.guard.is_set() || self.config.copies() == 0 {
            return Ok(());
        }
        let mut loss = self.loss(now);
        if self.acks_alone() {
            loss.writes += 1;
            loss.bytes += u64::from(bytes);
        }
        let mut report: Option<Event> = None;
        let admitted = self.guard.admit(loss, &mut report);
        effects.extend(report.map(Effect::Event));
        admitted
    }

    fn append(&mut self, now: Moment, write: Write, level: AckLevel, effects: &mut Vec<Effect>) {
        let Write {
            ticket,
            purpose,
            request_id,
            fingerprint,
            bytes,
            keys,
            hlc,
            deadline,
            ..
        } = write;
        let seq = self.appended.upto().next();
        self.appended.raise(seq);
        let kind = match purpose {
            Purpose::Request => RecordKind::Write,
            Purpose::Expiry => RecordKind::Expiry,
        };
        if purpose == Purpose::Request {
            let request = RememberedRequest {
                request_id,
                seq,
                fingerprint,
                hlc,
                level,
            };
            self.requests.insert(request, now);
        }
        self.in_flight.push(seq, bytes, keys, now);
        self.lag.record(seq, bytes, now);
        self.counters.appended += 1;
        let head = RecordHead {
            kind,
            level,
            hlc,
            generation: 0,
            request_id,
        };
        effects.push(Effect::Append {
            ticket,
            seq,
            head,
            visible_upto: self.visible.upto(),
        });
        let needs = Needs::of(level, self.config.copies());
        let timeout = self.timeout_of(needs, deadline, now);
        let origin = Origin::Appended;
        self.waiters.insert(
            needs,
            Waiter {
                ticket,
                seq,
                level,
                origin,
                timeout,
            },
        );
    }

    /// A request whose record is there: a receipt if its level is met, else it waits as well.
    fn join(
        &mut self,
        now: Moment,
        write: &Write,
        level: AckLevel,
        known: RememberedRequest,
        effects: &mut Vec<Effect>,
    ) {
        let Write {
            ticket, deadline, ..
        } = *write;
        let seq = known.seq;
        if known.fingerprint != write.fingerprint {
            let position = self.position(seq);
            return self.refuse(write, Refusal::RequestIdReused { position }, effects);
        }
        self.counters.duplicates += 1;
        let needs = Needs::of(level, self.config.copies());
        let timeout = self.timeout_of(needs, deadline, now);
        let waiter = Waiter {
            ticket,
            seq,
            level,
            origin: Origin::Remembered,
            timeout,
        };
        let has_lease = self.check_lease(LeaseNeed::Everything, now).is_ok();
        let may_acknowledge = has_lease && !self.is_succeeded;
        // A lease that has just come back may have let levels be met that are not shown so far: the
        // step that it comes with shows them, and answers.
        let is_shown = self.visible.covers(seq);
        if may_acknowledge && is_shown && self.freed_upto(needs) >= seq {
            return self.acknowledge(waiter, effects);
        }
        // It is in the log, so nothing that means "not written" may be answered.
        let cannot_wait = self.phase.is_over() || self.check_waiters().is_err();
        if cannot_wait || deadline <= now {
            return self.give_up(waiter, effects);
        }
        self.waiters.insert(needs, waiter);
    }

    /// Up to where callers who wait for these needs are set free.
    pub(crate) fn freed_upto(&self, needs: Needs) -> Seq {
        if needs == self.needs {
            self.visible.upto()
        } else {
            self.met_upto(needs)
        }
    }

    fn timeout_of(&self, needs: Needs, deadline: Moment, now: Moment) -> Moment {
        let by_policy = now.plus(self.config.ack_timeout);
        match self.config.on_timeout {
            OnTimeout::Fail => deadline.min(by_policy),
            OnTimeout::Block => deadline,
            // The state covers the keyspace's level. Who asked for more is told the truth in time.
            OnTimeout::Degrade if needs == self.needs => deadline,
            OnTimeout::Degrade => deadline.min(by_policy),
        }
    }

    fn refuse(&mut self, write: &Write, refusal: Refusal, effects: &mut Vec<Effect>) {
        let counter = match refusal {
            Refusal::Overloaded { .. } => &mut self.counters.overloaded,
            Refusal::RpoExceeded { .. } => &mut self.counters.rpo_exceeded,
            Refusal::VersionMismatch { .. } => &mut self.counters.mismatched,
            _ => &mut self.counters.refused,
        };
        *counter += 1;
        effects.push(Effect::Reply {
            ticket: write.ticket,
            result: Err(refusal),
        });
    }
}
