//! What a home shows of itself: reads may go on, requests became what, how it stands.
//!
//! **Owns**: the queries of a home; none changes anything.
//! **Does not own**: the shapes (`status`, `receipt`), reading cells (storage).

use domicile_proto::{AckLevel, RequestId, Seq};

use crate::config::LeaseNeed;
use crate::home::{Home, Origin, Phase};
use crate::moment::Moment;
use crate::planted::{Bug, is_planted};
use crate::receipt::Outcome;
use crate::refusal::Refusal;
use crate::status::{CopyStatus, PartitionStatus, Role};

impl Home {
    /// Whether everything that may have been seen before a restart is visible again.
    pub(crate) fn check_recovered(&self) -> Result<(), Refusal> {
        let (visible_upto, needed_upto) = (self.visible.upto(), self.recovering_upto);
        if visible_upto < needed_upto {
            return Err(Refusal::Recovering {
                visible_upto,
                needed_upto,
            });
        }
        Ok(())
    }

    /// Whether anything is done here any more.
    pub(crate) fn check_phase(&self) -> Result<(), Refusal> {
        match self.phase {
            Phase::Poisoned => Err(Refusal::Poisoned),
            Phase::Fenced(promised) => {
                let epoch = self.epochs.present();
                Err(Refusal::Fenced { epoch, promised })
            }
            Phase::HandedOn(_) if is_planted(Bug::WriteBehindTheEnd) => Ok(()),
            Phase::HandedOn(to) => Err(Refusal::HandedOn { to }),
            Phase::Opened | Phase::Running => Ok(()),
        }
    }

    /// Whether reads are served, and up to where.
    pub(crate) fn read_gate(&self, now: Moment) -> Result<Seq, Refusal> {
        self.check_phase()?;
        self.check_lease(LeaseNeed::Reads, now)?;
        self.check_recovered()?;
        Ok(self.visible.upto())
    }

    /// Whether its log may be told to a copy that waits for it. Also behind the end of the reign:
    /// that copy may be the one that is to follow, and takes nothing before it is healed.
    pub(crate) fn heal_gate(&self, now: Moment) -> Result<(), Refusal> {
        if !matches!(self.phase, Phase::HandedOn(_)) {
            self.check_phase()?;
        }
        self.check_lease(LeaseNeed::Reads, now)
    }

    /// What became of a request.
    pub(crate) fn outcome(&self, request_id: RequestId) -> Outcome {
        let Some(known) = self.requests.get(request_id) else {
            return Outcome::Unknown;
        };
        let receipt = self.receipt(known.seq, known.level, Origin::Appended);
        if self.visible.covers(known.seq) {
            Outcome::Known(receipt)
        } else {
            Outcome::Pending(receipt)
        }
    }

    /// When the next thing happens by itself, after a step that was made `now`.
    ///
    /// What is due and was not done in that step waits for a lease, whose coming is a step: a timer
    /// would go off again and again until then.
    pub(crate) fn next_timeout(&self, now: Moment) -> Option<Moment> {
        match self.phase {
            Phase::Opened => Some(self.opened),
            Phase::Fenced(_) | Phase::Poisoned => None,
            Phase::Running | Phase::HandedOn(_) => {
                let leased = [self.delayed.next_due(), self.degraded_due()];
                let leased = leased.into_iter().flatten().filter(|due| *due > now);
                leased.chain(self.waiters.next_timeout()).min()
            }
        }
    }

    /// The home at a glance.
    pub(crate) fn status(&self, now: Moment) -> PartitionStatus {
        let visible_upto = self.visible.upto();
        let copies = self.acks.copies().iter().map(|copy| CopyStatus {
            region: copy.region,
            standing: copy.standing,
            received_upto: copy.received_upto(),
            durable_upto: copy.durable_upto(),
            potential: self.lag.between(
                copy.durable_upto(),
                visible_upto,
                self.in_flight.bytes(),
                now,
            ),
        });
        let is_degraded = self.degrade.is_in_force(self.durable.upto());
        PartitionStatus {
            role: Role::Home,
            epoch: Some(self.epochs.present()),
            appended_upto: self.appended.upto(),
            durable_upto: self.durable.upto(),
            visible_upto,
            recovering_upto: self
                .check_recovered()
                .is_err()
                .then_some(self.recovering_upto),
            copies: copies.collect(),
            degraded: self.degrade.range(),
            wants_degrade: self.degrade.wants_record(),
            effective_level: if is_degraded {
                AckLevel::Async
            } else {
                self.config.ack
            },
            rpo_pressure: self.guard.pressure(),
            in_flight_records: self.appended.upto().since(visible_upto),
            in_flight_bytes: self.in_flight.bytes(),
            waiters: self.waiters.len() + self.delayed.len(),
            requests: self.requests.len(),
            poisoned: self.phase == Phase::Poisoned,
            counters: self.counters,
        }
    }
}
