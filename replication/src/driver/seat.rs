//! A partition's home changes while the node is open: here, away, or between two others.
//!
//! **Owns**: the exchange of a slot's core; what a node promises, and what it then has.
//! **Does not own**: what the map says (assignments), what a home or a copy is (the core).
//!
//! A core is opened for one place and policy. When either changes, the old one takes no more part
//! (it heard of a promise), what was on its way to the disk arrives, and a new one starts from what
//! the store has then, as it would after a restart.

use std::sync::{Arc, MutexGuard};

use domicile_core::{Input, Moment, Partition};
use domicile_proto::{Epoch, Keyspace, PartitionId};
use domicile_storage::StoreError;

use super::slot::{Slot, SlotState};
use super::work::Driver;

impl Driver {
    /// Promises all of these durably, and tells the cores that are here.
    pub(crate) fn promise(&self, promises: &[(PartitionId, Epoch)]) -> Result<(), StoreError> {
        if promises.is_empty() {
            return Ok(());
        }
        self.store.promise_all(promises)?;
        for (partition, epoch) in promises {
            if let Some(slot) = self.slot(*partition) {
                self.input(&slot, Input::Promised { epoch: *epoch });
            }
        }
        Ok(())
    }

    /// The node's lease was renewed.
    pub(crate) fn renew_lease(&self, until: Moment) {
        if !self.lease.renew(until, self.clock.now()) {
            return;
        }
        // It had run out: what waited for it goes on now, not when the next caller comes.
        for slot in self.slots().filter(|slot| slot.is_home()) {
            self.input(&slot, Input::Lease { until });
        }
    }

    /// Puts a core opened for another place into a slot whose old one has come to rest.
    ///
    /// # Panics
    /// If callers wait: a core that heard of a promise has answered them all.
    pub(crate) fn reseat(&self, slot: &Slot, keyspace: Arc<Keyspace>, core: Partition) {
        self.exchange(slot, slot.lock(), keyspace, core);
    }

    /// The same of a slot that may have taken something since its log was looked at, as one that
    /// was wounded does once it is healed; false: it has, and nothing is exchanged.
    ///
    /// # Panics
    /// As there.
    pub(crate) fn try_reseat(&self, slot: &Slot, keyspace: Arc<Keyspace>, core: Partition) -> bool {
        let state = slot.lock();
        let appended_upto = state.core.appended_upto();
        let is_quiet = appended_upto == state.core.durable_upto();
        let is_outrun = !state.installing && appended_upto > core.appended_upto();
        if !is_quiet || is_outrun {
            return false;
        }
        self.exchange(slot, state, keyspace, core);
        true
    }

    fn exchange(
        &self,
        slot: &Slot,
        mut state: MutexGuard<'_, SlotState>,
        keyspace: Arc<Keyspace>,
        core: Partition,
    ) {
        let waiting = state.waiters.len();
        assert!(waiting == 0, "{}: {waiting} callers wait", slot.partition);
        slot.take_seat(&mut state, keyspace, core);
        drop(state);
        slot.forget_arrivals();
        self.input(slot, Input::Tick);
        // Readers that wait for the old home decide anew.
        slot.wake_readers();
    }
}
