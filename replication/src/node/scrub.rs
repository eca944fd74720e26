//! Reads again what was written long ago, and compares copies that rest with their homes.
//!
//! **Owns**: when and how fast, what is done about what is found.
//! **Does not own**: reading and checking (storage), fetching another state (bootstrap).
//!
//! ```text
//! journal damaged        -> a snapshot stands for it, the log begins anew behind it
//! snapshot damaged       -> another one is taken
//! digest differs at the same position -> the side with fewer others is out of service; a copy then
//!                                        fetches a snapshot
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use domicile_proto::{PartitionId, Seq};
use domicile_storage::{Place, ScrubDamage, StoreError};

use super::digest_round::{DigestRound, Verdict};
use super::interior::NodeCore;
use super::keeper::CLOSE_POLL;
use crate::driver::{PartitionDigest, Slot, lock};

/// The first pass begins this long after the open, or sooner if passes are closer than that: a node
/// that starts has other things to do.
const FIRST_PAUSE_MAX: Duration = Duration::from_secs(60);

/// Rows of a digest read in a second: an eighth of what a processor can. Doubled, so is the share.
const DIGEST_ROWS_PER_S: u64 = 100_000;

/// The last comparison of each partition whose home is here.
type Rounds = BTreeMap<PartitionId, DigestRound>;

/// Runs until the node closes or its store fails.
pub(super) fn run_scrub(core: &NodeCore) {
    let closed = core.closed.subscribe();
    let mut next = Instant::now() + core.scrubbing.pause.min(FIRST_PAUSE_MAX);
    let mut known = BTreeMap::new();
    let (mut rounds, mut disputed) = (BTreeMap::new(), BTreeSet::new());
    while !*closed.borrow() && core.store.poison_cause().is_none() {
        compare_digests(core, &mut disputed);
        weigh_answers(core, &mut rounds);
        if core.scrubbing.bytes_per_s == 0 || Instant::now() < next {
            std::thread::sleep(CLOSE_POLL);
            continue;
        }
        if let Err(error) = pass(core, &mut known, &mut rounds) {
            tracing::error!(%error, "reading the disk again came to no end");
        }
        core.scrubbing.passes.fetch_add(1, Ordering::Relaxed);
        next = Instant::now() + core.scrubbing.pause;
    }
}

/// One pass over everything. `known` is the damage that earlier ones have told of, and whether it
/// is made up for.
fn pass(
    core: &NodeCore,
    known: &mut BTreeMap<Place, bool>,
    rounds: &mut Rounds,
) -> Result<(), StoreError> {
    let report = core.store.scrub_journal(&mut pace(core))?;
    let (bytes, segments) = (report.bytes, report.segments);
    tracing::debug!(bytes, segments, "the journal was read again");
    for damage in &report.damage {
        let is_mended = known.entry(damage.place).or_insert_with(|| {
            core.scrubbing.damage_found.fetch_add(1, Ordering::Relaxed);
            tracing::error!(error = %damage.error, lost = ?damage.lost, "damage was found");
            false
        });
        if !*is_mended {
            *is_mended = mend(core, damage)?;
        }
    }
    let partitions: Vec<PartitionId> = core.driver.slots().map(|slot| slot.partition).collect();
    for partition in partitions {
        match core.store.scrub_snapshot(partition, &mut pace(core)) {
            Err(error @ StoreError::Corrupt { .. }) => {
                core.scrubbing.damage_found.fetch_add(1, Ordering::Relaxed);
                tracing::error!(%error, "damage was found: another snapshot is taken");
                core.take_snapshot(partition)?;
            }
            checked => checked?,
        }
    }
    tell_digests(core, rounds)
}

fn pace(core: &NodeCore) -> impl FnMut(u64) -> bool + '_ {
    core.pace(core.scrubbing.bytes_per_s)
}

/// Makes up for a hole in the journal; whether all of it is made up for.
fn mend(core: &NodeCore, damage: &ScrubDamage) -> Result<bool, StoreError> {
    let concerned: Vec<(PartitionId, Seq)> = match damage.lost {
        Some(lost) => vec![lost],
        None => {
            let slots = core.driver.slots().map(|slot| slot.partition);
            let ends = slots.map(|id| (id, core.store.tail(id)));
            ends.filter_map(|(id, tail)| Some((id, tail?.last_seq)))
                .collect()
        }
    };
    core.store.flush_once()?;
    core.driver.room.notify_waiters();
    let mut is_mended = true;
    for (partition, upto) in concerned {
        if let Err(error) = core.take_snapshot(partition) {
            tracing::error!(%partition, %error, "no snapshot was taken");
        }
        let covered = core.store.last_snapshot(partition);
        if covered.is_some_and(|snapshot| snapshot.seq >= upto) {
            core.store.close_hole(partition, damage.place)?;
            tracing::info!(%partition, %upto, "a snapshot stands for what is damaged");
        } else {
            tracing::error!(%partition, %upto, "no snapshot has what is damaged yet");
            is_mended = false;
        }
    }
    Ok(is_mended)
}

/// Tells the copies of partitions that rest what they must have.
fn tell_digests(core: &NodeCore, rounds: &mut Rounds) -> Result<(), StoreError> {
    for slot in core.driver.slots().filter(|slot| slot.is_home) {
        let copies = slot.keyspace.regions.len() - 1;
        if copies == 0 || slot.is_damaged() || slot.watermark().is_none() {
            continue;
        }
        let before = rounds.get(&slot.partition);
        let is_disputed = before.is_some_and(DigestRound::is_disputed);
        if is_disputed && before.is_some_and(DigestRound::is_young) {
            continue;
        }
        let mut pace = core.pace(DIGEST_ROWS_PER_S);
        let Some((seq, digest)) = slot.cells.digest(&mut pace)? else {
            continue;
        };
        // Only of what rests: then the log ends where the cells do.
        let tail = core.store.tail(slot.partition);
        let Some(tail) = tail.filter(|tail| tail.last_seq == seq) else {
            continue;
        };
        let digest = PartitionDigest {
            epoch: tail.epoch,
            seq,
            chain: tail.chain,
            digest,
            is_final: copies == 1 || is_disputed,
        };
        rounds.insert(slot.partition, DigestRound::new(digest, copies));
        for signal in core.driver.ship_signals.values() {
            signal.digest(slot.partition, digest);
        }
    }
    Ok(())
}

/// Counts what copies answered, and acts on what it comes to.
fn weigh_answers(core: &NodeCore, rounds: &mut Rounds) {
    let answers = std::mem::take(&mut *lock(&core.digest_answers));
    for ((partition, region), said) in answers {
        let (Some(slot), Some(round)) = (core.driver.slot(partition), rounds.get_mut(&partition))
        else {
            continue;
        };
        match round.answer(region, said) {
            Verdict::Open => {}
            Verdict::Copies(regions) => {
                let told = PartitionDigest {
                    is_final: true,
                    ..round.own()
                };
                for region in regions {
                    if let Some(signal) = core.driver.ship_signals.get(&region) {
                        signal.digest(partition, told);
                    }
                }
            }
            Verdict::Home { .. } if slot.is_damaged() => {}
            Verdict::Home { copies } => {
                let damage = format!("differs from {copies} copies, which agree, at {}", said.seq);
                tracing::error!(%partition, %damage, "this home shows what was never written");
                put_out_of_service(core, slot, &damage);
            }
        }
    }
}

/// Compares what homes said with what is here. `disputed` is what differed the last time, with
/// nobody told yet who is wrong.
fn compare_digests(core: &NodeCore, disputed: &mut BTreeSet<PartitionId>) {
    let heard = std::mem::take(&mut *lock(&core.digests));
    for (partition, expected) in heard {
        let seq = expected.seq;
        let Some(slot) = core.driver.slot(partition) else {
            continue;
        };
        // Of the same history: another one is no wrong state, and not this task's to judge.
        let tail = core.store.tail(partition);
        let is_same = tail.is_some_and(|tail| {
            (tail.epoch, tail.last_seq, tail.chain) == (expected.epoch, seq, expected.chain)
        });
        if !is_same || slot.cells.applied_upto() != seq || slot.is_damaged() {
            continue;
        }
        match slot.cells.digest(&mut core.pace(DIGEST_ROWS_PER_S)) {
            Ok(Some((at, digest))) if at == seq => {
                let compared = &core.scrubbing.digests_compared;
                compared.fetch_add(1, Ordering::Relaxed);
                let shown = PartitionDigest { digest, ..expected };
                if digest != expected.digest {
                    differ(core, slot, shown);
                    disputed.insert(partition);
                } else if disputed.remove(&partition) {
                    slot.set_alarm(None);
                }
                if let Some(home) = core.driver.source_signals.get(&slot.home)
                    && !expected.is_final
                {
                    home.answer_digest(partition, shown);
                }
            }
            // It went on meanwhile, or is being filled: another time.
            Ok(_) => {}
            Err(error) => tracing::warn!(%partition, %error, "no digest was made"),
        }
    }
}

/// A copy shows something else than its home does.
fn differ(core: &NodeCore, slot: &Slot, shown: PartitionDigest) {
    let (partition, seq) = (slot.partition, shown.seq);
    core.scrubbing
        .digests_unequal
        .fetch_add(1, Ordering::Relaxed);
    if !shown.is_final {
        tracing::error!(%partition, %seq, "this copy is not what its home is: others are asked");
        let text = format!("differs from its home at {seq}, and it is not known who is wrong");
        slot.set_alarm(Some(text));
        return;
    }
    tracing::error!(%partition, %seq, "this copy is not what its home is at the same position");
    put_out_of_service(core, slot, &format!("differs from its home at {seq}"));
    core.wanted.want(partition, seq);
    if let Some(source) = core.driver.source_signals.get(&slot.home) {
        // The next hello says that nothing of it counts.
        source.end_stream();
    }
}

fn put_out_of_service(core: &NodeCore, slot: &Slot, damage: &str) {
    let partition = slot.partition;
    core.driver.quarantine(slot, damage);
    if let Err(error) = core.store.condemn(&[partition]) {
        tracing::error!(%partition, %error, "a restart would forget that it is damaged");
    }
}
