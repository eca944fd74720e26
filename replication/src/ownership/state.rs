//! What a node keeps of its ownership: its lease.
//!
//! **Owns**: the lease's bookkeeping behind a lock.
//! **Does not own**: its rules (core), what it guards (driver).

use std::sync::Mutex;

use domicile_core::Moment;
use domicile_core::control::{ControlTimes, Grant, LeaseHolder};
use tokio::sync::Notify;

use crate::driver::{Driver, lock};

/// The lease of one node.
#[derive(Debug, Default)]
pub(crate) struct Ownership {
    state: Mutex<State>,
    /// A log was cut whose cells have to be healed.
    pub(crate) wounds: Notify,
}

#[derive(Debug, Default)]
struct State {
    holder: LeaseHolder,
    applied_version: u64,
}

impl Ownership {
    /// A lease is asked for now; the number to ask with.
    pub(crate) fn ask(&self, now: Moment) -> u64 {
        lock(&self.state).holder.ask(now)
    }

    /// It was granted.
    pub(crate) fn granted(&self, driver: &Driver, grant: Grant, times: &ControlTimes) {
        let mut state = lock(&self.state);
        let version = state.applied_version;
        state.holder.granted(grant, times, version);
        let until = state.holder.until();
        drop(state);
        if let Some(until) = until {
            driver.renew_lease(until);
        }
    }

    /// No core of this node goes on in a reign that the map of this version has ended.
    pub(crate) fn applied(&self, driver: &Driver, version: u64) {
        let mut state = lock(&self.state);
        state.applied_version = state.applied_version.max(version);
        state.holder.applied(version);
        let until = state.holder.until();
        drop(state);
        if let Some(until) = until {
            driver.renew_lease(until);
        }
    }
}
