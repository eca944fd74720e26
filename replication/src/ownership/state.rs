//! What a node keeps of its ownership: its lease, and what is being handed on.
//!
//! **Owns**: the bookkeeping of both, behind locks.
//! **Does not own**: its rules (core), what it guards (driver).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Mutex;

use domicile_core::Moment;
use domicile_core::control::{ControlTimes, Grant, LeaseHolder};
use domicile_proto::{Epoch, PartitionId};
use tokio::sync::Notify;

use crate::driver::{Driver, lock};

/// The lease of one node, and its switchovers.
#[derive(Debug, Default)]
pub(crate) struct Ownership {
    state: Mutex<State>,
    /// A log was cut whose cells have to be healed.
    pub(crate) wounds: Notify,
    /// A log was cut: what that has cost is to be told.
    pub(crate) cuts: Notify,
    switches: Mutex<Switches>,
    pub(crate) switch_ended: Notify,
    /// A partition was handed on, here or to here.
    pub(crate) handed: Notify,
}

/// Switchovers that this node takes part in.
#[derive(Debug, Default)]
struct Switches {
    /// Under way, each with the reign that it ends.
    running: BTreeMap<PartitionId, Epoch>,
    /// What has followed, though the map may not know so far.
    handed: BTreeMap<PartitionId, Handed>,
}

/// A reign that follows on one that was handed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Handed {
    pub(crate) epoch: Epoch,
    /// The policy that it goes by, where the log still says so.
    pub(crate) revision: Option<u64>,
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

    /// A switchover that ends this reign is begun, unless it was already.
    pub(crate) fn begin_switch(&self, partition: PartitionId, from: Epoch) -> bool {
        let mut switches = lock(&self.switches);
        let Entry::Vacant(free) = switches.running.entry(partition) else {
            return false;
        };
        free.insert(from);
        true
    }

    pub(crate) fn end_switch(&self, partition: PartitionId) {
        lock(&self.switches).running.remove(&partition);
        self.switch_ended.notify_one();
    }

    /// Whoever minted this reign has followed as home.
    pub(crate) fn hand(&self, partition: PartitionId, handed: Handed) {
        lock(&self.switches).handed.insert(partition, handed);
        self.handed.notify_one();
    }

    /// The reign that has followed on one that the map may still speak of.
    pub(crate) fn handed(&self, partition: PartitionId) -> Option<Handed> {
        lock(&self.switches).handed.get(&partition).copied()
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
