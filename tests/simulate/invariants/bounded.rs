//! I14: what a home holds stays within its window.
//!
//! **Owns**: records in flight and callers that wait.
//! **Does not own**: what storage bounds by itself.

use domicile_core::{Moment, Partition, Role};

use crate::scene::Scene;

/// Marks and what was recovered are let in whatever is in flight.
const BESIDE: u64 = 4;

/// Looking is not free: every so many steps of a home.
const EVERY: u64 = 16;

pub(crate) fn check(core: &Partition, now: Moment, scene: &mut Scene) {
    let appended = core.appended_upto();
    if core.role() != Role::Home || !appended.get().is_multiple_of(EVERY) {
        return;
    }
    let status = core.status(now);
    let records_max = u64::from(core.config().window.records_max);
    let is_recovered = status.recovering_upto.is_none();
    let too_many = is_recovered && status.in_flight_records > records_max + BESIDE;
    if too_many || status.waiters as u64 > 2 * records_max + 1 {
        scene.fail("I14 bounded", format!("{status:?}"));
    }
}
