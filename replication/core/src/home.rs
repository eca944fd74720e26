//! A partition at its home: the one that sequences.
//!
//! **Owns**: the home's marks and every part of its state; which input goes where.
//! **Does not own**: letting writes in (`admission`), what marks set free (`settlement`), what is
//! shown (`overview`).

use domicile_proto::{
    AckLevel, Epoch, NodeId, Position, RecordHead, RecordKind, RequestId, Seq, Version,
};

use crate::ack_tracker::{AckTracker, Claim, LogEnd, Needs, OwnMarks};
use crate::config::{ConfigError, LeaseNeed, PartitionConfig};
use crate::degrade::Degrade;
use crate::delayed::Delayed;
use crate::effect::{Effect, RejectCause, Urgency};
use crate::epochs::Epochs;
use crate::event::Event;
use crate::in_flight::InFlight;
use crate::input::Input;
use crate::lag::Lag;
use crate::mark::Mark;
use crate::moment::Moment;
use crate::planted::{Bug, is_planted};
use crate::receipt::Receipt;
use crate::recovered::Recovered;
use crate::refusal::Refusal;
use crate::requests::Requests;
use crate::rpo_guard::RpoGuard;
use crate::status::{Counters, Rpo};
use crate::waiters::Waiters;

/// Bytes of a mark's record, which has no body: the head alone.
const MARK_BYTES: u32 = domicile_proto::record::RECORD_HEAD_BYTES as u32;

/// The state of a home. Between steps `visible <= durable <= appended` holds.
#[derive(Debug)]
pub(crate) struct Home {
    pub(crate) config: PartitionConfig,
    /// What the keyspace's level needs.
    pub(crate) needs: Needs,
    pub(crate) epochs: Epochs,
    pub(crate) appended: Mark,
    pub(crate) durable: Mark,
    pub(crate) visible: Mark,
    /// The last record when the node started: readers wait until it is visible.
    pub(crate) recovering_upto: Seq,
    /// The first record of this reign. What lies before it was written by older homes, and counts
    /// as met only together with it: a copy may hold those records and still be passed over for
    /// one that holds a later reign's.
    pub(crate) reign_first: Seq,
    /// Until when no other node may take this one's place.
    pub(crate) lease_until: Option<Moment>,
    pub(crate) opened: Moment,
    pub(crate) phase: Phase,
    /// It was succeeded, or is about to be: nothing is acknowledged any more, whatever else comes.
    pub(crate) is_succeeded: bool,
    pub(crate) acks: AckTracker,
    pub(crate) waiters: Waiters,
    pub(crate) delayed: Delayed,
    pub(crate) in_flight: InFlight,
    pub(crate) requests: Requests,
    pub(crate) lag: Lag,
    pub(crate) guard: RpoGuard,
    pub(crate) degrade: Degrade,
    pub(crate) counters: Counters,
}

/// Where a partition is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// No step was made so far.
    Opened,
    /// The normal course.
    Running,
    /// The last record of the reign is appended: nothing is added, and what is there is still
    /// acknowledged, as the node that follows begins with all of it.
    HandedOn(NodeId),
    /// A later reign was promised: another home takes this one's place.
    Fenced(Epoch),
    /// The store failed.
    Poisoned,
}

impl Phase {
    /// Whether nothing is begun any more.
    pub(crate) fn is_over(self) -> bool {
        matches!(self, Self::Fenced(_) | Self::Poisoned)
    }
}

impl Home {
    /// A home that goes on where its log ends.
    ///
    /// # Errors
    /// A config or a history that cannot be.
    pub(crate) fn open(
        config: PartitionConfig,
        recovered: Recovered,
        now: Moment,
    ) -> Result<Self, ConfigError> {
        let Recovered {
            epoch,
            promised,
            epoch_history,
            last_seq,
            requests,
            handed_to,
            visible_upto,
            degraded_since,
            bytes,
            ..
        } = recovered;
        let epoch = epoch.ok_or(ConfigError::NoEpoch)?;
        // It was succeeded, or is about to be: what it has stays, nothing is added.
        let succeeded = promised.filter(|promised| *promised > epoch);
        let phase = match (succeeded, handed_to) {
            (Some(promised), _) => Phase::Fenced(promised),
            (None, Some(to)) => Phase::HandedOn(to),
            (None, None) => Phase::Opened,
        };
        let epochs = Epochs::new(epoch_history, epoch, last_seq)?;
        // From disk: a mark beyond the log's end means no more than the end.
        let visible_upto = visible_upto.min(last_seq);
        let degraded_since = degraded_since.filter(|since| *since <= last_seq);
        let copies = config.copies();
        let needs = Needs::of(config.ack, copies);
        Ok(Self {
            needs,
            appended: Mark::at(last_seq),
            durable: Mark::at(last_seq),
            visible: Mark::at(visible_upto),
            recovering_upto: last_seq,
            reign_first: epochs.first_of_present(),
            lease_until: None,
            opened: now,
            phase,
            is_succeeded: succeeded.is_some(),
            acks: AckTracker::new(&config),
            waiters: Waiters::new(needs),
            delayed: Delayed::default(),
            in_flight: InFlight::new(config.window, last_seq),
            requests: Requests::recover(requests, last_seq, now),
            lag: Lag::new(last_seq, bytes, now, copies),
            guard: RpoGuard::new(config.max_rpo),
            degrade: Degrade::new(config.ack_timeout, degraded_since, now),
            counters: Counters::default(),
            epochs,
            config,
        })
    }

    /// One step.
    pub(crate) fn step(&mut self, now: Moment, input: Input, effects: &mut Vec<Effect>) {
        if self.phase == Phase::Opened {
            self.begin(now, effects);
        }
        match input {
            // Known requests are answered even when nothing else is done any more.
            Input::Write(write) => return self.write(now, write, effects),
            Input::Received { .. } => return self.reject(effects),
            Input::Poisoned if self.phase != Phase::Poisoned => {
                return self.stop(Phase::Poisoned, effects);
            }
            input if self.phase.is_over() => return self.step_behind_the_end(input),
            Input::Poisoned => {}
            Input::Promised { .. } if is_planted(Bug::IgnorePromise) => {}
            Input::Promised { epoch } if epoch > self.epochs.present() => {
                self.is_succeeded = true;
                return self.stop(Phase::Fenced(epoch), effects);
            }
            Input::Promised { .. } => {}
            Input::HandOn { to, revision } => {
                self.hand_on(Handover { to, revision }, now, effects);
            }
            Input::DegradeRecorded => self.degrade.recorded(),
            Input::Lease { until } => self.lease_until = self.lease_until.max(Some(until)),
            Input::Durable { upto } => self.on_durable(upto, effects),
            Input::CopyAttached { .. } => self.on_attached(&input, effects),
            Input::CopyDetached { region } => {
                effects.extend(self.acks.detach(region).map(Effect::Event));
            }
            Input::Ack {
                region,
                epoch,
                received_upto,
                durable_upto,
            } => {
                let claim = Claim {
                    region,
                    received_upto,
                    durable_upto,
                };
                self.on_ack(claim, epoch, effects);
            }
            Input::Watermark { .. } | Input::Installed { .. } => {
                effects.push(Effect::Event(Event::Misdirected {
                    input: input.name(),
                }));
            }
            Input::Tick => {}
        }
        self.settle(now, effects);
    }

    /// What is still taken in once nothing is begun any more.
    fn step_behind_the_end(&mut self, input: Input) {
        match (input, self.phase) {
            (Input::Promised { epoch }, Phase::Poisoned) => {
                self.is_succeeded |= epoch > self.epochs.present();
            }
            // What was on its way to the disk arrives there; it sets nothing free any more.
            (Input::Durable { upto }, Phase::Fenced(_)) => {
                self.durable.raise(upto);
            }
            _ => {}
        }
    }

    fn begin(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        self.phase = Phase::Running;
        let is_new = self.reign_first > Seq::FIRST && self.appended.upto() < self.reign_first;
        if is_new && !is_planted(Bug::NoReignMark) {
            self.append_mark(RecordKind::ReignBegin, now, effects);
        }
        self.ship(effects);
        self.settle(now, effects);
    }

    /// Ends the reign, if it goes on: whoever has its last record may begin the next one.
    fn hand_on(&mut self, handover: Handover, now: Moment, effects: &mut Vec<Effect>) {
        let has_lease = self.check_lease(LeaseNeed::Reads, now).is_ok();
        if self.phase == Phase::Running && has_lease {
            let (id, to) = (handover.mark_id(), handover.to);
            let at = self.append_mark_of(RecordKind::ReignEnd, id, now, effects);
            self.phase = Phase::HandedOn(to);
            effects.push(Effect::Event(Event::HandedOn { at, to }));
        }
    }

    fn on_attached(&mut self, input: &Input, effects: &mut Vec<Effect>) {
        let &Input::CopyAttached {
            region,
            received_upto,
            durable_upto,
            epoch,
            chain,
            own_chain,
            log_start,
        } = input
        else {
            return;
        };
        let claim = Claim {
            region,
            received_upto,
            durable_upto,
        };
        let end = LogEnd {
            epoch,
            chain,
            own_chain,
            log_start,
        };
        let own = self.own_marks();
        let event = self.acks.attach(claim, end, &self.epochs, own);
        effects.extend(event.map(Effect::Event));
    }

    fn on_ack(&mut self, claim: Claim, epoch: Epoch, effects: &mut Vec<Effect>) {
        let own = self.own_marks();
        let event = self.acks.ack(claim, epoch, self.epochs.present(), own);
        if matches!(event, Some(Event::AckIgnored { .. })) {
            self.counters.acks_ignored += 1;
        }
        effects.extend(event.map(Effect::Event));
        self.forget_lag();
    }

    fn own_marks(&self) -> OwnMarks {
        OwnMarks {
            appended: self.appended,
            durable: self.durable,
        }
    }

    fn forget_lag(&mut self) {
        if let Some(upto) = self.acks.least_durable() {
            self.lag.forget_upto(upto);
        }
    }

    fn on_durable(&mut self, upto: Seq, effects: &mut Vec<Effect>) {
        let appended = self.appended;
        assert!(
            appended.covers(upto),
            "durable up to {upto}, appended up to {appended}"
        );
        let upto = match is_planted(Bug::DurableTooEarly) {
            true => appended.upto(),
            false => upto,
        };
        if self.durable.raise(upto) {
            self.acks.on_durable(self.durable);
            self.forget_lag();
            self.ship(effects);
        }
    }

    fn ship(&self, effects: &mut Vec<Effect>) {
        let upto = self.durable.upto();
        if self.config.copies() > 0 && upto > Seq::NONE {
            let is_awaited = self.needs.received > 0
                || self.waiters.await_copies()
                || matches!(self.phase, Phase::HandedOn(_));
            effects.push(Effect::Ship {
                upto,
                urgency: Urgency::of(is_awaited),
            });
        }
    }

    fn reject(&mut self, effects: &mut Vec<Effect>) {
        self.counters.rejected += 1;
        let home_region = self.config.home_region;
        let cause = RejectCause::NotACopy { home_region };
        effects.push(Effect::Reject { cause });
    }

    /// Up to where a level is met: here and at the copies that it needs.
    pub(crate) fn met_upto(&self, needs: Needs) -> Seq {
        let durable = self.durable.upto();
        let met = self.acks.met_upto(needs);
        let met = met.map_or(durable, |met| met.min(durable));
        if met < self.reign_first && !is_planted(Bug::CountOldReigns) {
            return met.min(self.visible.upto());
        }
        met
    }

    /// Whether what this home does cannot collide with what another one does.
    ///
    /// # Errors
    /// [`Refusal::NoLease`] where it needs one and has none.
    pub(crate) fn check_lease(&self, need: LeaseNeed, now: Moment) -> Result<(), Refusal> {
        if self.config.lease < need || self.lease_until.is_some_and(|until| now < until) {
            return Ok(());
        }
        let late = self.lease_until.map(|until| now.since(until).as_millis());
        let late_ms = late.map(|late_ms| u64::try_from(late_ms).unwrap_or(u64::MAX));
        Err(Refusal::NoLease { late_ms })
    }

    /// What would be lost of everything that this home has acknowledged, or will without asking
    /// anybody else, if the best copy took over now. Nothing where there is no copy.
    pub(crate) fn loss(&self, now: Moment) -> Rpo {
        let Some(best) = self.acks.best_durable() else {
            return Rpo::default();
        };
        if self.acks_alone() {
            self.lag.between(best, self.appended.upto(), 0, now)
        } else {
            self.lag
                .between(best, self.visible.upto(), self.in_flight.bytes(), now)
        }
    }

    /// Whether a write is acknowledged once it is durable here, so that all that is appended is as
    /// good as acknowledged.
    pub(crate) fn acks_alone(&self) -> bool {
        self.needs.received == 0 || self.degrade.began().is_some()
    }

    /// Appends a mark. Marks are let in whatever is in flight: there are two in a degraded stretch.
    pub(crate) fn append_mark(
        &mut self,
        kind: RecordKind,
        now: Moment,
        effects: &mut Vec<Effect>,
    ) -> Seq {
        let node = self.epochs.present().node;
        let id = mark_id(node, self.appended.upto().next().get());
        self.append_mark_of(kind, id, now, effects)
    }

    fn append_mark_of(
        &mut self,
        kind: RecordKind,
        request_id: RequestId,
        now: Moment,
        effects: &mut Vec<Effect>,
    ) -> Seq {
        let seq = self.appended.upto().next();
        self.appended.raise(seq);
        self.in_flight.push(seq, MARK_BYTES, Vec::new(), now);
        self.lag.record(seq, MARK_BYTES, now);
        let head = RecordHead {
            kind,
            level: self.config.ack,
            hlc: self.requests.newest(),
            generation: 0,
            request_id,
        };
        effects.push(Effect::AppendMark {
            seq,
            head,
            visible_upto: self.visible.upto(),
        });
        seq
    }

    /// The place of a record.
    pub(crate) fn position(&self, seq: Seq) -> Position {
        Position {
            epoch: self.epochs.of(seq),
            seq,
        }
    }

    /// The version of the cells that a record wrote.
    pub(crate) fn version(&self, seq: Seq) -> Version {
        Version {
            generation: 0,
            epoch: self.epochs.of(seq),
            seq,
        }
    }

    /// The truth about a record, as of now.
    pub(crate) fn receipt(&self, seq: Seq, asked: AckLevel, origin: Origin) -> Receipt {
        let mut achieved = self.acks.achieved(seq);
        let mut is_degraded = self.degrade.is_in_force(self.durable.upto());
        if is_planted(Bug::ClaimLevel) {
            is_degraded = false;
            achieved.received = achieved.copies;
            achieved.durable = achieved.copies;
        }
        Receipt {
            position: self.position(seq),
            version: self.version(seq),
            asked,
            achieved,
            durable_in: self.acks.durable_in(seq, self.durable),
            degraded: is_degraded || !achieved.meets(asked),
            duplicate: origin == Origin::Remembered,
        }
    }
}

/// Whether a request made its record or found it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It was appended for it.
    Appended,
    /// It was there, under the same request id.
    Remembered,
}

/// A mark is nobody's request, yet a record has an id: a node and its place, which no client
/// library makes.
fn mark_id(node: NodeId, number: u64) -> RequestId {
    let id = u128::from(node.get()) << 64 | u128::from(number);
    RequestId::new(id).expect("a node id is not zero")
}

/// What follows on a reign that is handed on, as its last record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handover {
    /// The node that follows as home.
    pub to: NodeId,
    /// The policy of the keyspace that its reign goes by: whoever begins it goes by that, whatever
    /// it knows of the map.
    pub revision: u64,
}

impl Handover {
    fn mark_id(self) -> RequestId {
        mark_id(self.to, self.revision)
    }
}

/// What follows, if this is the last record of a reign that was handed on.
#[must_use]
pub fn handed_to(head: &RecordHead) -> Option<Handover> {
    let id = head.request_id.get();
    let is_end = head.kind == RecordKind::ReignEnd;
    let to = NodeId::new((id >> 64) as u64).ok().filter(|_| is_end)?;
    let revision = id as u64;
    Some(Handover { to, revision })
}
