//! What grown marks and passed time set free: visibility, replies, the degraded state.
//!
//! **Owns**: the order in which a home's state is brought up to date after an input.
//! **Does not own**: the marks of copies (`ack_tracker`), letting writes in (`admission`).

use std::time::Duration;

use domicile_proto::{OnTimeout, RecordKind};

use crate::config::LeaseNeed;
use crate::effect::Effect;
use crate::event::Event;
use crate::home::{Home, Phase};
use crate::moment::Moment;
use crate::planted::{Bug, is_planted};
use crate::refusal::Refusal;
use crate::waiters::Waiter;

/// Later than every timeout.
const NEVER: Moment = Moment::from_micros(u64::MAX);

impl Home {
    /// Brings everything up to date. What became visible is told before the replies that it
    /// enables, and a level met at the last moment counts before the timeout does.
    ///
    /// Without a lease that it needs, nothing is set free: a successor may have taken over without
    /// the records that would be acknowledged. Whose time is up is told the truth.
    pub(crate) fn settle(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let has_lease = self.check_lease(LeaseNeed::Everything, now).is_ok()
            || is_planted(Bug::AckWithoutLease);
        self.degrade.sample(self.durable.upto(), now);
        if has_lease {
            if self.phase == Phase::Running {
                self.end_degraded(now, effects);
            }
            self.raise_visible(effects);
            self.answer_met(now, effects);
            while let Some(waiter) = self.delayed.take_due(now) {
                self.acknowledge(waiter, effects);
            }
        }
        while let Some(waiter) = self.waiters.take_expired(now) {
            self.give_up(waiter, effects);
        }
        if has_lease && self.phase == Phase::Running {
            self.begin_degraded(now, effects);
        }
        let (visible, durable, appended) = (self.visible, self.durable, self.appended);
        assert!(
            visible <= durable,
            "visible {visible} above durable {durable}"
        );
        assert!(
            durable <= appended,
            "durable {durable} above appended {appended}"
        );
    }

    fn raise_visible(&mut self, effects: &mut Vec<Effect>) {
        let durable = self.durable.upto();
        let is_degraded = self.degrade.is_in_force(durable);
        let goal = if is_degraded || is_planted(Bug::VisibleBeforeMet) {
            durable
        } else {
            self.met_upto(self.needs)
        };
        let was_recovering = !self.visible.covers(self.recovering_upto);
        if !self.visible.raise(goal) {
            return;
        }
        let visible_upto = self.visible.upto();
        self.in_flight.release(visible_upto);
        effects.push(Effect::Visible { upto: visible_upto });
        if was_recovering && self.visible.covers(self.recovering_upto) {
            effects.push(Effect::Event(Event::ReadsOpened { visible_upto }));
        }
    }

    fn answer_met(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let delay = self.reply_delay(now, effects);
        let mut group = 0;
        while let Some(needs) = self.waiters.needs_of(group) {
            let upto = self.freed_upto(needs);
            let visible = self.visible;
            assert!(
                visible.covers(upto),
                "level met up to {upto}, visible up to {visible}"
            );
            while let Some(waiter) = self.waiters.take_met(group, upto) {
                if delay.is_zero() && self.delayed.is_empty() {
                    self.acknowledge(waiter, effects);
                } else {
                    self.delayed.hold(now.plus(delay), waiter);
                }
            }
            group += 1;
        }
    }

    fn reply_delay(&mut self, now: Moment, effects: &mut Vec<Effect>) -> Duration {
        if !self.guard.is_set() || self.config.copies() == 0 {
            return Duration::ZERO;
        }
        let loss = self.loss(now);
        let mut report = None;
        let delay = self.guard.delay(loss, &mut report);
        effects.extend(report.map(Effect::Event));
        delay
    }

    /// Answers a caller whose level is met.
    pub(crate) fn acknowledge(&mut self, waiter: Waiter, effects: &mut Vec<Effect>) {
        let receipt = self.receipt(waiter.seq, waiter.level, waiter.origin);
        let (visible, seq) = (self.visible, waiter.seq);
        assert!(
            visible.covers(seq),
            "{seq} acknowledged, visible up to {visible}"
        );
        self.counters.acknowledged += 1;
        self.counters.degraded += u64::from(receipt.degraded);
        effects.push(Effect::Reply {
            ticket: waiter.ticket,
            result: Ok(receipt),
        });
    }

    /// Answers a caller whose level is not met and who waits no longer. The record stays.
    pub(crate) fn give_up(&mut self, waiter: Waiter, effects: &mut Vec<Effect>) {
        self.counters.indeterminate += 1;
        let refusal = Refusal::Indeterminate {
            position: self.position(waiter.seq),
            asked: waiter.level,
            achieved: self.acks.achieved(waiter.seq),
            durable_in: self.acks.durable_in(waiter.seq, self.durable),
        };
        effects.push(Effect::Reply {
            ticket: waiter.ticket,
            result: Err(refusal),
        });
    }

    /// It is over: nobody is left waiting, nothing is taken any more.
    pub(crate) fn stop(&mut self, phase: Phase, effects: &mut Vec<Effect>) {
        self.phase = phase;
        while let Some(waiter) = self.delayed.take_due(NEVER) {
            // Their level is met, yet a successor need not have what an asynchronous one had.
            match phase {
                Phase::Fenced(_) => self.give_up(waiter, effects),
                _ => self.acknowledge(waiter, effects),
            }
        }
        while let Some(waiter) = self.waiters.take_expired(NEVER) {
            self.give_up(waiter, effects);
        }
        let left = self.waiters.len() + self.delayed.len();
        assert!(left == 0, "{left} callers left waiting");
        effects.push(Effect::Event(match phase {
            Phase::Fenced(promised) => Event::Fenced { promised },
            _ => Event::Stopped,
        }));
    }

    /// When the degraded state begins if nothing else happens: the oldest record that is durable
    /// here and not visible has then waited for `ack_timeout`. A slow disk of our own is no reason.
    pub(crate) fn degraded_due(&self) -> Option<Moment> {
        let applies = self.phase == Phase::Running
            && self.config.on_timeout == OnTimeout::Degrade
            && self.needs.received > 0
            && self.degrade.began().is_none()
            && self.visible < self.durable;
        if !applies {
            return None;
        }
        let is_recovered = !self.visible.covers(self.recovering_upto);
        let since = if is_recovered {
            Some(self.opened)
        } else {
            self.in_flight.oldest_appended()
        };
        let since = since.expect("a record that is durable and not visible is in flight");
        Some(since.plus(self.config.ack_timeout))
    }

    fn begin_degraded(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let Some(due) = self.degraded_due() else {
            if self.degrade.began().is_none() {
                self.degrade.forget_record();
            }
            return;
        };
        if due > now {
            return;
        }
        if self.config.degrades_on_record {
            let is_news = !self.degrade.wants_record();
            if self.degrade.waits_for_record() {
                effects.extend(is_news.then_some(Effect::Event(Event::DegradeWanted)));
                return;
            }
        }
        let at = self.append_mark(RecordKind::DegradeBegin, now, effects);
        self.degrade.begin(at, now);
        effects.push(Effect::Event(Event::DegradeBegan { at }));
    }

    fn end_degraded(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let met = self.met_upto(self.needs);
        let (Some(began), true) = (
            self.degrade.began(),
            self.degrade.is_caught_up(met, self.durable.upto(), now),
        ) else {
            return;
        };
        let at = self.append_mark(RecordKind::DegradeEnd, now, effects);
        let lasted = self.degrade.end(at, now);
        effects.push(Effect::Event(Event::DegradeEnded { began, at, lasted }));
    }
}
