//! Reads again what was written long ago.
//!
//! **Owns**: when and how fast, what is done about what is found.
//! **Does not own**: reading and checking (storage), comparing copies with homes (`digests`).
//!
//! ```text
//! journal damaged        -> a snapshot stands for it, the log begins anew behind it
//! snapshot damaged       -> another one is taken
//! ```
//!
//! After each pass homes tell the digests of what rests (`digests`).

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use domicile_proto::{PartitionId, Seq};
use domicile_storage::{Place, ScrubDamage, StoreError};

use super::digests::tell_digests;
use super::interior::NodeCore;
use super::keeper::CLOSE_POLL;

/// The first pass begins this long after the open, or sooner if passes are closer than that: a node
/// that starts has other things to do.
const FIRST_PAUSE_MAX: Duration = Duration::from_secs(60);

/// Runs until the node closes or its store fails.
pub(super) fn run_scrub(core: &NodeCore) {
    let closed = core.closed.subscribe();
    let mut next = Instant::now() + core.scrubbing.pause.min(FIRST_PAUSE_MAX);
    let mut known = BTreeMap::new();
    while !*closed.borrow() && core.store.poison_cause().is_none() {
        if core.scrubbing.bytes_per_s == 0 || Instant::now() < next {
            std::thread::sleep(CLOSE_POLL);
            continue;
        }
        if let Err(error) = pass(core, &mut known) {
            tracing::error!(%error, "reading the disk again came to no end");
        }
        core.scrubbing.passes.fetch_add(1, Ordering::Relaxed);
        next = Instant::now() + core.scrubbing.pause;
    }
}

/// One pass over everything. `known` is the damage that earlier ones have told of, and whether it
/// is made up for.
fn pass(core: &NodeCore, known: &mut BTreeMap<Place, bool>) -> Result<(), StoreError> {
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
            // The others are no worse for that.
            Err(error) => tracing::error!(%partition, %error, "a snapshot cannot be read again"),
            Ok(()) => {}
        }
    }
    tell_digests(core)
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
