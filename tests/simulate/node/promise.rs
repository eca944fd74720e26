//! A leader asks this process to promise: nothing below a floor is taken any more, and this is what
//! it has.
//!
//! **Owns**: that the promise is durable, and what came before it on disk, before the answer.
//! **Does not own**: who may ask, and what is made of the answer (the leader).

use domicile_core::Input;
use domicile_core::control::PromisedEnd;
use domicile_proto::{Epoch, PartitionId, Seq};
use domicile_storage::StoreError;

use super::process::Process;
use crate::packets::Body;
use crate::planted::{NodeBug, is_planted};
use crate::scene::Scene;

/// How long a partition may take to come to rest before it is left out, in us.
const REST_US: u64 = 500_000;

/// One question, partition by partition.
#[derive(Debug)]
pub(super) struct Promising {
    from: usize,
    term: u64,
    held: Vec<(PartitionId, Epoch)>,
    at: usize,
    is_closed: bool,
    deadline_us: u64,
    answers: Vec<(PartitionId, Epoch, PromisedEnd)>,
}

impl Process {
    /// Promises all of these durably, and tells the cores that are here.
    pub(super) fn promise_here(
        &mut self,
        promises: &[(PartitionId, Epoch)],
        scene: &mut Scene,
    ) -> Result<(), StoreError> {
        if promises.is_empty() {
            return Ok(());
        }
        if !is_planted(NodeBug::PromiseNotPersisted) {
            self.store.promise_all(promises)?;
        }
        for (partition, epoch) in promises {
            let epoch = *epoch;
            scene.truth.promised(self.host.index, *partition, epoch);
            self.input(*partition, Input::Promised { epoch }, scene);
        }
        Ok(())
    }

    pub(crate) fn promise(
        &mut self,
        from: usize,
        term: u64,
        asked: Vec<(PartitionId, Epoch)>,
        scene: &mut Scene,
    ) {
        let mut held = asked;
        held.retain(|(partition, _)| self.slots.contains_key(partition));
        if let Err(error) = self.promise_here(&held, scene) {
            let node = self.host.index;
            return scene.note(|| format!("n{node} did not promise: {error}"));
        }
        self.promising.push_back(Promising {
            from,
            term,
            held,
            at: 0,
            is_closed: false,
            deadline_us: scene.now_us + REST_US,
            answers: Vec::new(),
        });
        self.go_on_promising(scene);
    }

    pub(super) fn go_on_promising(&mut self, scene: &mut Scene) {
        let mut left = std::mem::take(&mut self.promising);
        while let Some(mut promising) = left.pop_front() {
            if self.advance(&mut promising, scene) {
                let (to, term) = (promising.from, promising.term);
                let answers = promising.answers;
                let node = self.host.index;
                scene.note(|| format!("n{node} promised to n{to}: {answers:?}"));
                if to == self.host.index {
                    self.on_promised(to, term, answers, scene);
                } else {
                    self.send(to, Body::Promised { term, answers });
                }
            } else {
                self.promising.push_back(promising);
                self.poll(scene);
            }
        }
    }

    /// Whether all of it is answered.
    fn advance(&mut self, promising: &mut Promising, scene: &Scene) -> bool {
        while let Some((partition, floor)) = promising.held.get(promising.at).copied() {
            let is_wounded = self.store.wound(partition).is_some();
            let last_seq = self.last_seq(partition);
            let is_ahead = self.is_ahead_of(partition, None);
            let is_short = self.store.is_short(partition) && !is_planted(NodeBug::TrustRefilled);
            let Some(slot) = self.slots.get_mut(&partition) else {
                promising.at += 1;
                continue;
            };
            if slot.is_damaged || is_ahead {
                promising.answers.push((partition, floor, unsound()));
                promising.next(scene);
                continue;
            }
            if !promising.is_closed && !slot.try_close_intake() {
                if is_wounded {
                    promising.answers.push((partition, floor, unsound()));
                }
                promising.next(scene);
                continue;
            }
            promising.is_closed = true;
            let is_quiet = slot.is_quiet() || is_planted(NodeBug::PromiseBeforeDurable);
            if !is_quiet && scene.now_us < promising.deadline_us {
                return false;
            }
            slot.open_intake();
            let is_forgotten = slot.turned_away && !is_planted(NodeBug::SilentAfterPromise);
            if is_quiet {
                let home_upto = slot.core.home_upto();
                let tail = self.store.tail(partition);
                let end = PromisedEnd {
                    epoch: tail.map(|tail| tail.epoch),
                    upto: last_seq,
                    known_upto: home_upto.max(last_seq),
                    // It was filled anew, and may lack what it acknowledged before.
                    is_sound: !is_short,
                    unheard: None,
                };
                promising.answers.push((partition, floor, end));
            }
            if is_forgotten {
                self.say_hello_again(partition);
            }
            promising.next(scene);
        }
        true
    }
}

impl Promising {
    fn next(&mut self, scene: &Scene) {
        self.at += 1;
        self.is_closed = false;
        self.deadline_us = scene.now_us + REST_US;
    }
}

/// It may have lost records, or its cells wait to be healed: it promises and leads nobody.
fn unsound() -> PromisedEnd {
    PromisedEnd {
        epoch: None,
        upto: Seq::NONE,
        known_upto: Seq::NONE,
        is_sound: false,
        unheard: None,
    }
}
