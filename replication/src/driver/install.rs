//! A partition out of service, and a snapshot that takes its place.
//!
//! **Owns**: what a damaged partition may still do, the moment at which a snapshot counts.
//! **Does not own**: finding damage (storage), fetching snapshots (bootstrap).

use std::sync::Arc;

use domicile_core::Input;
use domicile_storage::SnapshotHeader;

use super::outbox::Outbox;
use super::slot::Slot;
use super::work::Driver;

impl Driver {
    /// The partition is damaged here: it is not served, nothing of it is taken, and its home, if
    /// that is here, accepts nothing.
    pub(crate) fn quarantine(&self, slot: &Slot, damage: &str) {
        slot.set_damage(damage);
        if slot.is_home() {
            let mut outbox = Outbox::default();
            let mut state = slot.lock();
            self.poison(slot, &mut state, &mut outbox);
            drop(state);
            self.deliver(outbox);
        }
    }

    /// From now on no segment of the partition is taken, until the result is dropped.
    pub(crate) fn begin_install<'slot>(&self, slot: &'slot Slot) -> Installing<'slot> {
        slot.set_installing(true);
        Installing(slot)
    }

    /// From now on no segment of the partition is taken, until the result is dropped; `None` if a
    /// snapshot is taking its place, or it is damaged and waits for one.
    pub(crate) fn close_intake(&self, slot: &Arc<Slot>) -> Option<ClosedIntake> {
        let is_closed = slot.try_close_intake();
        is_closed.then(|| ClosedIntake {
            slot: Arc::clone(slot),
            stays: false,
        })
    }

    /// Segments of the partition are taken again.
    pub(crate) fn open_intake(&self, slot: &Slot) {
        slot.set_installing(false);
    }

    /// A snapshot has taken the place of what a copy had.
    pub(crate) fn installed(&self, slot: &Slot, header: &SnapshotHeader) {
        slot.forget_arrivals();
        let SnapshotHeader {
            epoch, seq, chain, ..
        } = *header;
        let tail = self.store.tail(slot.partition);
        let installed = Input::Installed {
            epoch,
            seq,
            chain,
            reigns: tail.map_or_else(Vec::new, |tail| tail.epoch_history),
        };
        self.input(slot, installed);
        // Not before: a hello meanwhile would claim what the core had before.
        slot.clear_damage();
        // Who watched from before finds what it lacks cut; who waits may find enough.
        slot.wake_readers();
    }

    /// A copy that may have lost records has lost none: there are none.
    pub(crate) fn found_empty(&self, slot: &Slot) {
        slot.clear_damage();
        slot.set_installing(false);
        self.store.cells(slot.partition).reopen_empty();
        if let Err(error) = self.store.absolve(slot.partition) {
            let partition = slot.partition;
            tracing::warn!(%partition, %error, "it counts as damaged at the next open");
        }
    }
}

/// A partition whose place a snapshot takes.
pub(crate) struct Installing<'slot>(&'slot Slot);

impl Drop for Installing<'_> {
    fn drop(&mut self) {
        self.0.set_installing(false);
    }
}

/// A partition that takes no segment until this is dropped.
pub(crate) struct ClosedIntake {
    slot: Arc<Slot>,
    stays: bool,
}

impl ClosedIntake {
    /// Of a partition that is closed already, by a wound.
    pub(crate) fn of(slot: &Arc<Slot>) -> Self {
        Self {
            slot: Arc::clone(slot),
            stays: false,
        }
    }

    /// It stays closed until somebody opens it.
    pub(crate) fn stay(mut self) {
        self.stays = true;
    }

    /// Segments are taken again; whether one was refused meanwhile, so that its home sends no more
    /// of the partition before it hears another hello.
    pub(crate) fn open(self) -> bool {
        let slot = Arc::clone(&self.slot);
        drop(self);
        slot.take_turned_away()
    }
}

impl Drop for ClosedIntake {
    fn drop(&mut self) {
        if !self.stays {
            self.slot.set_installing(false);
        }
    }
}
