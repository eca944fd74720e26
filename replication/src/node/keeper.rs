//! Keeps the journal within its budget: snapshots of what pins it, then the cut.
//!
//! **Owns**: when a snapshot is taken, its pace, what copies still need, which outran their budget.
//! **Does not own**: the condition for deleting a file (storage), sending snapshots (bootstrap).

use std::time::{Duration, Instant};

use domicile_core::REQUESTS_MAX;
use domicile_proto::PartitionId;
use domicile_storage::retention::NOTHING;
use domicile_storage::{Pin, SnapshotHeader, SnapshotPlan, StoreError, TrimReport};

use super::interior::NodeCore;
use crate::clock::Clock;
use crate::driver::lock;

/// How often the journal's size is looked at. A file takes longer than that to fill on most disks;
/// doubled, the budget is overrun by as much more.
const KEEP_POLL: Duration = Duration::from_secs(1);

/// How long a close waits for the keeper to notice, beside a snapshot that is under way.
pub(super) const CLOSE_POLL: Duration = Duration::from_millis(50);

/// After an error, or when nothing could be cut, the next attempt waits this long.
const KEEP_RETRY: Duration = Duration::from_secs(10);

/// How fast a snapshot is written. Doubled, it competes as much more with commits for the disk;
/// halved, a partition of 1 GiB takes a minute instead of half of one.
const SNAPSHOT_BYTES_PER_S: u64 = 32 << 20;

/// Snapshots in one go. More partitions than that wait for the next second.
const SNAPSHOTS_MAX: usize = 64;

/// Runs until the node closes or its store fails.
pub(super) fn run_keeper(core: &NodeCore) {
    let closed = core.closed.subscribe();
    let mut look_at = Instant::now();
    let mut keep_at = look_at;
    cover(core);
    while !*closed.borrow() && core.store.poison_cause().is_none() {
        let now = Instant::now();
        if now < look_at {
            std::thread::sleep(CLOSE_POLL);
            continue;
        }
        look_at = now + KEEP_POLL;
        look_at_space(core);
        let is_low = core.store.check_space().is_err();
        let is_over = core.store.stats().journal_bytes > core.journal_keep_bytes;
        if now < keep_at || !(is_over || is_low) {
            continue;
        }
        match keep(core) {
            Ok(true) => {}
            // Nothing to be had: what is there is needed. Asked every second, the engine would be
            // given a hot set of keys as often.
            Ok(false) => keep_at = now + KEEP_RETRY,
            Err(error) => {
                tracing::error!(%error, "the journal was not cut; it is tried again");
                keep_at = now + KEEP_RETRY;
            }
        }
    }
}

/// Takes the snapshots that were found missing: an engine that is lost would need them.
fn cover(core: &NodeCore) {
    let uncovered = std::mem::take(&mut *lock(&core.uncovered));
    for partition in uncovered {
        tracing::warn!(%partition, "its last snapshot is missing or damaged: a new one is taken");
        if let Err(error) = core.take_snapshot(partition) {
            tracing::error!(%partition, %error, "no snapshot was taken");
        }
    }
}

fn look_at_space(core: &NodeCore) {
    match core.store.look_at_space() {
        Ok(report) if report.has_changed => {
            let (free_bytes, limit) = (report.free_bytes, report.low_water_bytes);
            if report.is_low {
                tracing::error!(
                    free_bytes,
                    limit,
                    "the disk is nearly full: writes are refused"
                );
            } else {
                tracing::info!(
                    free_bytes,
                    limit,
                    "the disk has room: writes are accepted again"
                );
            }
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "how much room the disk has is not known"),
    }
}

/// Cuts the journal, and takes snapshots of what keeps it, until it is within its budget or
/// nothing more can be done. Whether anything was cut.
fn keep(core: &NodeCore) -> Result<bool, StoreError> {
    let store = &core.store;
    // For writes that wait for their home the log is kept as for a copy, within the same budget.
    let is_within_budget = store.stats().journal_bytes <= core.copy_budget.bytes;
    let needed_from = |id: PartitionId| {
        let slot = core.driver.slot(id);
        let by_copies = slot.map_or(NOTHING, |slot| slot.needed_from());
        match is_within_budget {
            true => by_copies.min(core.buffer.log_needed_from(id)),
            false => by_copies,
        }
    };
    let (mut has_cut, mut has_flushed) = (false, false);
    for _ in 0..SNAPSHOTS_MAX {
        let Some(report) = core.backup_turn.cut(|| store.trim(&needed_from)) else {
            return Ok(has_cut);
        };
        let report = report?;
        has_cut |= report.files > 0;
        if report.files > 0 {
            let (files, bytes) = (report.files, report.bytes);
            tracing::info!(files, bytes, first = %report.first, "journal cut");
        }
        // A device that is nearly full has no room for a snapshot either.
        let may_write = store.check_space().is_ok();
        let is_over = store.stats().journal_bytes > core.journal_keep_bytes;
        let taken = match report.pinned_by {
            _ if !is_over => return Ok(has_cut),
            Some(Pin::Needed(partition)) => {
                if !outrun(core, partition, &report)? {
                    return Ok(has_cut);
                }
                continue;
            }
            _ if !may_write => return Ok(has_cut),
            Some(Pin::Uncovered(partition)) => core.take_snapshot(partition)?,
            None => None,
        };
        if taken.is_none() {
            // The engine is behind, or replays from there.
            if has_flushed || store.unflushed_records() == 0 {
                return Ok(has_cut);
            }
            store.flush_once()?;
            core.driver.room.notify_waiters();
            has_flushed = true;
        }
    }
    Ok(has_cut)
}

/// Gives up the copies of a partition that keep the journal's first file and have outrun their
/// budget: they need a snapshot. Whether there were such.
fn outrun(
    core: &NodeCore,
    partition: PartitionId,
    report: &TrimReport,
) -> Result<bool, StoreError> {
    let (store, budget) = (&core.store, core.copy_budget);
    let Some(slot) = core.driver.slot(partition) else {
        return Ok(false);
    };
    let kept_bytes = store.stats().journal_bytes;
    let mut found = false;
    for (region, from) in slot.lacking() {
        let place = store.locate(partition, from);
        if from == NOTHING || place.is_some_and(|place| place.file > report.first) {
            continue;
        }
        let from = from.max(store.log_start(partition));
        let written = store.written_at(partition, from)?;
        let now_ms = Clock::wall_ms();
        let age_ms = written.map_or(0, |hlc| now_ms.saturating_sub(hlc.wall_ms()));
        if kept_bytes > budget.bytes || Duration::from_millis(age_ms) > budget.age {
            slot.outrun(region);
            found = true;
            tracing::warn!(
                %partition, %region, kept_bytes, age_ms,
                "a copy outran its budget: its log is no longer kept, it needs a snapshot"
            );
        }
    }
    Ok(found)
}

impl NodeCore {
    /// Lets work go on no faster than this many a second, and ends it when the node closes.
    pub(crate) fn pace(&self, per_s: u64) -> impl FnMut(u64) -> bool + '_ {
        let began = Instant::now();
        move |done: u64| {
            let due = Duration::from_secs_f64(done as f64 / per_s.max(1) as f64);
            while began.elapsed() < due && !*self.closed.borrow() {
                std::thread::sleep(CLOSE_POLL.min(due.saturating_sub(began.elapsed())));
            }
            !*self.closed.borrow()
        }
    }

    /// Lets a snapshot be written no faster than it may, and ends it when the node closes.
    pub(crate) fn snapshot_pace(&self) -> impl FnMut(u64) -> bool + '_ {
        self.pace(SNAPSHOT_BYTES_PER_S)
    }

    /// Takes a snapshot of what the engine holds of a partition, if that is anything new.
    pub(crate) fn take_snapshot(
        &self,
        partition: PartitionId,
    ) -> Result<Option<SnapshotHeader>, StoreError> {
        let plan = SnapshotPlan {
            now_ms: Clock::wall_ms(),
            requests_max: REQUESTS_MAX,
        };
        let began = Instant::now();
        let mut pace = self.snapshot_pace();
        let taken = self.store.snapshot(partition, plan, &mut pace)?;
        if let Some(taken) = &taken {
            let elapsed_ms = began.elapsed().as_millis() as u64;
            tracing::info!(
                %partition, seq = %taken.seq, cells = taken.cells, bytes = taken.file_bytes,
                elapsed_ms,
                "snapshot taken"
            );
        }
        Ok(taken)
    }
}
