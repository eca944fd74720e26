//! A partition at a copy: one that follows.
//!
//! **Owns**: which segments are taken, the copy's marks, what its readers may see.
//! **Does not own**: a segment's bytes and checksums (proto, checked by the receiver).

use domicile_proto::{AckLevel, ChainHash, Epoch, SegmentHeader, Seq};

use crate::config::PartitionConfig;
use crate::effect::{Effect, RejectCause, Urgency};
use crate::epochs::EPOCHS_MAX;
use crate::event::Event;
use crate::home::Phase;
use crate::input::{Awaited, Input};
use crate::mark::Mark;
use crate::moment::Moment;
use crate::planted::{Bug, is_planted};
use crate::recovered::Recovered;
use crate::refusal::Refusal;
use crate::status::{Counters, PartitionStatus, Role, RpoPressure};

/// The state of a copy. Between steps `durable <= received` holds, and `visible` grows up to
/// `received` in an asynchronous keyspace, `durable` in any other.
#[derive(Debug)]
pub(crate) struct Copy {
    config: PartitionConfig,
    /// The reign of the last record, below which no segment is taken.
    epoch: Option<Epoch>,
    /// Every reign with its first record, oldest first; what was only received included.
    reigns: Vec<(Epoch, Seq)>,
    /// The highest reign that was promised, below which no segment is taken either.
    promised: Option<Epoch>,
    /// The reign that shipped the last segment.
    shipped_by: Option<Epoch>,
    /// The chain hash after the last record received.
    chain: ChainHash,
    received: Mark,
    durable: Mark,
    visible: Mark,
    /// The last record for whose durability here a caller waits.
    durable_awaited_upto: Seq,
    /// Up to where the home has made this log visible, as far as it was heard.
    home_visible: Mark,
    /// A watermark of a reign from which no segment has come: whether it is about this log is only
    /// known once one has.
    foreseen: Option<(Epoch, Seq)>,
    opened: Moment,
    phase: Phase,
    counters: Counters,
}

impl Copy {
    /// A copy that goes on where its log ends.
    pub(crate) fn open(config: PartitionConfig, recovered: Recovered, now: Moment) -> Self {
        let Recovered {
            epoch,
            promised,
            last_seq,
            chain,
            mut epoch_history,
            visible_upto,
            ..
        } = recovered;
        let visible = Mark::at(visible_upto.min(last_seq));
        if epoch_history.is_empty() {
            epoch_history.extend(epoch.map(|epoch| (epoch, Seq::FIRST)));
        }
        Self {
            config,
            epoch,
            reigns: epoch_history,
            promised,
            shipped_by: None,
            chain,
            received: Mark::at(last_seq),
            durable: Mark::at(last_seq),
            visible,
            durable_awaited_upto: Seq::NONE,
            home_visible: visible,
            foreseen: None,
            opened: now,
            phase: Phase::Opened,
            counters: Counters::default(),
        }
    }

    /// One step.
    pub(crate) fn step(&mut self, input: Input, effects: &mut Vec<Effect>) {
        if self.phase == Phase::Opened {
            self.phase = Phase::Running;
        }
        match input {
            Input::Write(write) => {
                self.counters.refused += 1;
                let refusal = Refusal::NotHome {
                    home_region: self.config.home_region,
                };
                effects.push(Effect::Reply {
                    ticket: write.ticket,
                    result: Err(refusal),
                });
            }
            Input::Received {
                header,
                chain,
                reign,
                awaited,
            } => self.on_segment(&header, chain, reign, awaited, effects),
            _ if self.phase == Phase::Poisoned => {}
            Input::Durable { upto } => {
                let received = self.received;
                assert!(
                    received.covers(upto),
                    "durable up to {upto}, received up to {received}"
                );
                let was_awaited = !self.durable.covers(self.durable_awaited_upto);
                if self.durable.raise(upto) {
                    self.send_ack(Urgency::of(was_awaited), effects);
                }
            }
            Input::Watermark {
                epoch,
                visible_upto,
            } => {
                self.on_watermark(epoch, visible_upto, effects);
            }
            Input::Installed {
                epoch,
                seq,
                chain,
                reigns,
            } => {
                self.install(epoch, seq, chain, effects);
                self.reigns = reigns;
            }
            Input::Promised { epoch } => self.promised = self.promised.max(Some(epoch)),
            Input::Poisoned => {
                self.phase = Phase::Poisoned;
                effects.push(Effect::Event(Event::Stopped));
            }
            Input::CopyAttached { .. }
            | Input::CopyDetached { .. }
            | Input::Ack { .. }
            | Input::HandOn { .. }
            | Input::DegradeRecorded
            | Input::Lease { .. } => {
                effects.push(Effect::Event(Event::Misdirected {
                    input: input.name(),
                }));
            }
            Input::Tick => {}
        }
        self.raise_visible(effects);
    }

    /// Everything is as the snapshot says; what was there before counts for nothing.
    fn install(&mut self, epoch: Epoch, seq: Seq, chain: ChainHash, effects: &mut Vec<Effect>) {
        let (received, durable) = (self.received, self.durable);
        assert!(
            received == durable,
            "installed while {received} was received and {durable} durable"
        );
        effects.push(Effect::Event(Event::Installed {
            had_upto: received.upto(),
            upto: seq,
        }));
        (self.epoch, self.chain) = (Some(epoch), chain);
        // Not raised: what was there may have been another log, or a longer one.
        let at = Mark::at(seq);
        (self.received, self.durable, self.visible) = (at, at, at);
        (self.home_visible, self.foreseen) = (at, None);
        self.durable_awaited_upto = Seq::NONE;
    }

    fn on_segment(
        &mut self,
        header: &SegmentHeader,
        chain: ChainHash,
        reign: Epoch,
        awaited: Awaited,
        effects: &mut Vec<Effect>,
    ) {
        if let Err(cause) = self.check(header, chain, reign) {
            self.counters.rejected += 1;
            effects.push(Effect::Reject { cause });
            if matches!(cause, RejectCause::Duplicate { .. }) {
                self.send_ack(Urgency::Now, effects);
            }
            return;
        }
        let (last_seq, epoch) = (header.last_seq(), header.epoch);
        assert!(
            self.epoch.is_none_or(|e| e <= epoch),
            "{epoch} taken after {:?}",
            self.epoch
        );
        if self.epoch != Some(epoch) {
            if self.reigns.len() >= EPOCHS_MAX {
                self.reigns.remove(0);
            }
            self.reigns.push((epoch, header.first_seq));
        }
        self.epoch = Some(epoch);
        self.promised = self.promised.max(Some(reign));
        self.shipped_by = self.shipped_by.max(Some(reign));
        self.chain = chain;
        self.received.raise(last_seq);
        // Its chain holds, so this log is a prefix of the home's and the mark is about it. Nothing
        // beyond the segment can have been visible when it was written.
        self.home_visible.raise(header.visible_upto.min(last_seq));
        if let Some((foreseen, upto)) = self.foreseen
            && foreseen <= epoch
        {
            self.foreseen = None;
            if foreseen == epoch {
                self.home_visible.raise(upto);
            }
        }
        self.counters.stored += 1;
        if awaited.durable {
            self.durable_awaited_upto = last_seq;
        }
        effects.push(Effect::Store {
            urgency: Urgency::of(awaited.durable),
        });
        self.send_ack(Urgency::of(awaited.received), effects);
    }

    fn check(
        &self,
        header: &SegmentHeader,
        chain: ChainHash,
        reign: Epoch,
    ) -> Result<(), RejectCause> {
        if self.phase == Phase::Poisoned {
            return Err(RejectCause::Poisoned);
        }
        let (actual, expected) = (header.partition, self.config.partition);
        if actual != expected {
            return Err(RejectCause::WrongPartition { actual, expected });
        }
        // Who sends counts, not who wrote: a new home ships what older ones have left it.
        let stale = |actual, promised| Err(RejectCause::StaleEpoch { actual, promised });
        let is_known = !is_planted(Bug::IgnorePromise) && !is_planted(Bug::IgnoreEpoch);
        if let Some(promised) = self.promised.filter(|promised| reign < *promised)
            && is_known
        {
            return stale(reign, promised);
        }
        if let Some(present) = self.epoch.filter(|present| header.epoch < *present)
            && !is_planted(Bug::IgnoreEpoch)
        {
            return stale(header.epoch, present);
        }
        if reign < header.epoch {
            return stale(reign, header.epoch);
        }
        let (upto, first_seq, last_seq) =
            (self.received.upto(), header.first_seq, header.last_seq());
        let expected = upto.next();
        if first_seq > expected {
            return Err(RejectCause::Gap {
                expected,
                actual: first_seq,
            });
        }
        // The same last record under another hash: the same places were written twice.
        if last_seq == upto && chain != self.chain {
            let (at, expected, actual) = (first_seq, self.chain, chain);
            return Err(RejectCause::ChainMismatch {
                at,
                expected,
                actual,
            });
        }
        if last_seq <= upto {
            return Err(RejectCause::Duplicate { upto });
        }
        if first_seq < expected {
            return Err(RejectCause::Overlap {
                expected,
                first_seq,
                last_seq,
            });
        }
        if header.previous != self.chain {
            let (at, expected, actual) = (first_seq, self.chain, header.previous);
            return Err(RejectCause::ChainMismatch {
                at,
                expected,
                actual,
            });
        }
        Ok(())
    }

    fn on_watermark(&mut self, epoch: Epoch, visible_upto: Seq, effects: &mut Vec<Effect>) {
        match self.epoch {
            Some(present) if epoch < present => {
                effects.push(Effect::Event(Event::WatermarkIgnored { epoch }));
            }
            Some(present) if epoch == present => {
                self.home_visible.raise(visible_upto);
            }
            _ => {
                let known = self.foreseen.unwrap_or((epoch, Seq::NONE));
                self.foreseen = Some(known.max((epoch, visible_upto)));
            }
        }
    }

    fn raise_visible(&mut self, effects: &mut Vec<Effect>) {
        // An asynchronous home ships only what its readers see already, so on arrival its level is
        // known to be met. What other reigns left here may have gone by another level.
        let newest = self.shipped_by.max(self.epoch);
        let is_known = self.config.reign.is_none() || newest == self.config.reign;
        let (limit, known_upto) = match self.config.ack {
            AckLevel::Async if is_known => (self.received, self.received.upto()),
            _ if is_planted(Bug::ShowReceived) => (self.received, self.received.upto()),
            _ => (self.durable, self.home_visible.upto()),
        };
        let goal = known_upto.min(limit.upto());
        if self.phase == Phase::Running && self.visible.raise(goal) {
            effects.push(Effect::Visible {
                upto: self.visible.upto(),
            });
        }
        let (visible, durable, received) = (self.visible, self.durable, self.received);
        assert!(
            visible <= received,
            "visible {visible} above {received}, durable {durable}"
        );
        assert!(
            durable <= received,
            "durable {durable} above received {received}"
        );
    }

    fn send_ack(&self, urgency: Urgency, effects: &mut Vec<Effect>) {
        effects.push(Effect::SendAck {
            received_upto: self.received.upto(),
            durable_upto: self.durable.upto(),
            urgency,
        });
    }

    /// Every reign with its first record, oldest first.
    pub(crate) fn reigns(&self) -> &[(Epoch, Seq)] {
        &self.reigns
    }

    /// The reign of the last record.
    pub(crate) fn epoch(&self) -> Option<Epoch> {
        self.epoch
    }

    /// The chain hash after the last record received.
    pub(crate) fn chain(&self) -> ChainHash {
        self.chain
    }

    /// The last record that the home is known to have had.
    pub(crate) fn home_upto(&self) -> Seq {
        let foreseen = self.foreseen.map_or(Seq::NONE, |(_, upto)| upto);
        let told = self.home_visible.upto().max(foreseen);
        told.max(self.received.upto())
    }

    /// Whether the store has failed.
    pub(crate) fn is_poisoned(&self) -> bool {
        self.phase == Phase::Poisoned
    }

    /// Reads of the newest are the home's to serve.
    pub(crate) fn read_gate(&self) -> Result<Seq, Refusal> {
        Err(Refusal::NotHome {
            home_region: self.config.home_region,
        })
    }

    /// A copy has no timers; the first step is due at once.
    pub(crate) fn next_timeout(&self) -> Option<Moment> {
        (self.phase == Phase::Opened).then_some(self.opened)
    }

    /// The partition's policy.
    pub(crate) fn config(&self) -> &PartitionConfig {
        &self.config
    }

    /// The last record received, durable, visible.
    pub(crate) fn marks(&self) -> (Seq, Seq, Seq) {
        (
            self.received.upto(),
            self.durable.upto(),
            self.visible.upto(),
        )
    }

    /// The copy at a glance.
    pub(crate) fn status(&self) -> PartitionStatus {
        let (appended_upto, durable_upto, visible_upto) = self.marks();
        PartitionStatus {
            role: Role::Copy,
            epoch: self.epoch,
            appended_upto,
            durable_upto,
            visible_upto,
            recovering_upto: None,
            copies: Vec::new(),
            degraded: None,
            wants_degrade: false,
            effective_level: self.config.ack,
            rpo_pressure: RpoPressure::Free,
            in_flight_records: appended_upto.since(visible_upto),
            in_flight_bytes: 0,
            waiters: 0,
            requests: 0,
            poisoned: self.phase == Phase::Poisoned,
            counters: self.counters,
        }
    }
}
