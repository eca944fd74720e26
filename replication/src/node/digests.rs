//! Compares copies that rest with their homes.
//!
//! **Owns**: telling digests, comparing and answering them, what is done to who is wrong.
//! **Does not own**: making a digest (storage), who is wrong (`digest_round`), when homes tell
//! (`scrub`).
//!
//! ```text
//! home tells its digest -> each copy at the same position compares and answers with its own
//!   -> the home counts: a copy is wrong -> it is told, goes out of service, fetches a snapshot
//!                       the home is wrong -> it goes out of service
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use domicile_proto::PartitionId;
use domicile_storage::StoreError;

use super::digest_round::{DigestRound, Verdict};
use super::interior::NodeCore;
use super::keeper::CLOSE_POLL;
use crate::driver::{PartitionDigest, Slot, lock};

/// Rows of a digest read in a second: an eighth of what a processor can. Doubled, so is the share.
const DIGEST_ROWS_PER_S: u64 = 100_000;

/// How an alarm begins that is raised here.
const DIFFERS: &str = "differs from its home at ";

/// The last comparison of each partition whose home is here.
pub(crate) type DigestRounds = BTreeMap<PartitionId, DigestRound>;

/// Runs until the node closes or its store fails: a pass over the disk may take hours meanwhile.
pub(super) fn run_digests(core: &NodeCore) {
    let closed = core.closed.subscribe();
    let mut differing = BTreeSet::new();
    while !*closed.borrow() && core.store.poison_cause().is_none() {
        compare_digests(core, &mut differing);
        weigh_answers(core);
        std::thread::sleep(CLOSE_POLL);
    }
}

/// Tells the copies of partitions that rest what they must have.
pub(super) fn tell_digests(core: &NodeCore) -> Result<(), StoreError> {
    for slot in core.driver.slots().filter(|slot| slot.is_home()) {
        let copies = slot.keyspace().copies();
        if copies == 0 || slot.is_damaged() || slot.watermark().is_none() {
            continue;
        }
        let waits = lock(&core.digest_rounds)
            .get(&slot.partition)
            .is_some_and(DigestRound::waits);
        if waits {
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
            is_final: copies == 1,
        };
        let round = DigestRound::new(digest, copies);
        lock(&core.digest_rounds).insert(slot.partition, round);
        for peer in core.driver.peers.all().values() {
            peer.ship.digest(slot.partition, digest);
        }
    }
    Ok(())
}

/// Counts what copies answered, and acts on what it comes to.
fn weigh_answers(core: &NodeCore) {
    let answers = std::mem::take(&mut *lock(&core.digest_answers));
    let mut rounds = lock(&core.digest_rounds);
    for ((partition, region), said) in answers {
        let (Some(slot), Some(round)) = (core.driver.slot(partition), rounds.get_mut(&partition))
        else {
            continue;
        };
        match round.answer(region, said) {
            Verdict::Open if round.waits() => {
                let seq = said.seq;
                tracing::error!(%partition, %seq, "a copy differs, and others have not answered");
            }
            Verdict::Open => {}
            Verdict::Copies(regions) => {
                let told = PartitionDigest {
                    is_final: true,
                    ..round.own()
                };
                for region in regions {
                    if let Some(signal) = core.driver.peers.ship(region) {
                        signal.digest(partition, told);
                    }
                }
            }
            Verdict::Home { .. } if slot.is_damaged() => {}
            Verdict::Home { copies } => {
                let damage = format!("differs from {copies} copies, which agree, at {}", said.seq);
                tracing::error!(%partition, %damage, "this home shows what was never written");
                put_out_of_service(core, &slot, &damage);
            }
        }
    }
}

/// Compares what homes said with what is here. `differing` is what differed before.
fn compare_digests(core: &NodeCore, differing: &mut BTreeSet<PartitionId>) {
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
                    differ(core, &slot, shown);
                    differing.insert(partition);
                } else if differing.remove(&partition) {
                    slot.clear_alarm(DIFFERS);
                }
                if let Some(home) = core.driver.peers.source(slot.home()) {
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
        slot.set_alarm(Some(format!(
            "{DIFFERS}{seq}: others are asked who is wrong"
        )));
        return;
    }
    tracing::error!(%partition, %seq, "this copy is not what its home is at the same position");
    put_out_of_service(core, slot, &format!("{DIFFERS}{seq}"));
    core.wanted.want(partition, seq);
    if let Some(source) = core.driver.peers.source(slot.home()) {
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
