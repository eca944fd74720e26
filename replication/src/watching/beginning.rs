//! How a watch begins: what is refused, and where each partition is taken up.
//!
//! **Owns**: the checks, the place of each partition, starting the task.
//! **Does not own**: what happens after (`pump`).

use std::sync::Arc;

use domicile_proto::{PartitionId, Position, Reason, ResumeToken, Seq};
use domicile_storage::Place;

use super::call::{WatchCall, WatchFrom};
use super::cursor::{Follower, WatchCursor};
use super::outlet::{Outlet, WatchMessages};
use super::pump::{Pump, Untold};
use crate::driver::{Slot, WatchSignal};
use crate::error::Error;
use crate::node::NodeCore;

impl NodeCore {
    /// Begins a watch. Must be called within a runtime.
    ///
    /// # Errors
    /// `DATA_RESIDENCY` if the keyspace may not be here; `OVERLOADED` above the limit of watches;
    /// `INVALID_ARGUMENT` for a token of another keyspace or of too few partitions; `COMPACTED` and
    /// `SESSION_LOST` as a watch that is under way.
    pub(crate) fn watch(self: &Arc<Self>, call: WatchCall) -> Result<WatchMessages, Error> {
        self.check_holds(&call)?;
        if *self.closed.borrow() {
            return Err(super::cursor_read::closing());
        }
        let place = self.watches.enter()?;
        let signal = Arc::new(WatchSignal::default());
        let (mut slots, mut followers) = (Vec::new(), Vec::new());
        for partition in call.partitions()? {
            let slot = self.driver.slot(partition).ok_or_else(|| {
                let message = format!("no partition {partition}");
                Error::new(Reason::KeyspaceNotFound, message)
            })?;
            followers.push(self.follower(&slot, &call)?);
            slots.push(slot);
        }
        let cursor = WatchCursor::new(followers, call.keys);
        let outlet = Outlet::new(call.keyspace.id(), cursor.positions());
        // From here on dropping the pump takes the signals back. What moved before they were added
        // is found by the first pass, which nothing has to wake.
        slots.iter().for_each(|slot| slot.watchers.add(&signal));
        let pump = Pump {
            node: Arc::clone(self),
            slots,
            cursor,
            outlet: Arc::clone(&outlet),
            signal,
            place,
            patience: call.patience,
            untold: Untold::new(),
        };
        tokio::spawn(pump.run());
        Ok(WatchMessages::new(outlet))
    }

    /// Refuses what this node does not hold, and says who does.
    fn check_holds(&self, call: &WatchCall) -> Result<(), Error> {
        self.check_residency(&call.keyspace).map_err(|error| {
            let holders = call.keyspace.regions.iter();
            let names = holders.filter_map(|id| self.topology.region(*id));
            let names: Vec<String> = names.map(|region| region.name.to_string()).collect();
            let names = names.join(", ");
            let message = format!("{error}; watch it in {names}");
            let told = Error::new(error.reason(), message).with("held_by", names);
            error
                .metadata()
                .iter()
                .fold(told, |told, (name, value)| told.with(name, value))
        })
    }

    fn follower(&self, slot: &Arc<Slot>, call: &WatchCall) -> Result<Follower, Error> {
        let partition = slot.partition;
        // The end first: what becomes durable after it lies behind it.
        let end = self.store.durable_end();
        let seen = match &call.from {
            WatchFrom::Now => self.visible_end(slot),
            WatchFrom::First => None,
            WatchFrom::Oldest => self.before_oldest(slot),
            WatchFrom::Token(token) => position_in(token, call, partition)?,
        };
        let mut follower = Follower::new(Arc::clone(&slot.cells), seen, Place::START);
        let reach = self.store.reach(partition, follower.next);
        follower.check(&reach)?;
        let wanted = seen.map_or(Seq::NONE, |position| position.seq);
        let reached = slot.held_mark().received_upto;
        if slot.is_home() && wanted > reached {
            return Err(beyond(partition, wanted, reached));
        }
        let is_at_end = reach.durable_upto < follower.next;
        follower.place = if is_at_end { end } else { reach.place };
        Ok(follower)
    }

    /// The last record that reads see here.
    fn visible_end(&self, slot: &Slot) -> Option<Position> {
        let seq = slot.cells.applied_upto();
        slot.position(seq)
    }

    /// The record before the first that the journal still has.
    fn before_oldest(&self, slot: &Slot) -> Option<Position> {
        let oldest = self.store.reach(slot.partition, Seq::FIRST).oldest;
        let reach = self.store.reach(slot.partition, oldest);
        let epoch = reach.epoch_before.or(reach.oldest_epoch);
        let seq = Seq::new(oldest.get() - 1);
        let epoch = epoch.filter(|_| seq > Seq::NONE)?;
        Some(Position { epoch, seq })
    }
}

fn position_in(
    token: &ResumeToken,
    call: &WatchCall,
    partition: PartitionId,
) -> Result<Option<Position>, Error> {
    let invalid = |message: String| Error::new(Reason::InvalidArgument, message);
    let own = call.keyspace.id();
    if token.keyspace() != own {
        let (actual, name) = (token.keyspace(), &call.keyspace.name);
        let message = format!("the token is of keyspace {actual}, {name} is {own}");
        return Err(invalid(message).with("field", "positions"));
    }
    let Some(seen) = token.get(partition) else {
        let message = format!("the token lacks partition {partition}, which is watched");
        return Err(invalid(message).with("field", "positions"));
    };
    let beyond_all = seen.filter(|position| position.seq == Seq::new(u64::MAX));
    if let Some(Position { seq, .. }) = beyond_all {
        let message = format!("position {seq} of partition {partition}: no record follows it");
        return Err(invalid(message).with("field", "positions"));
    }
    Ok(seen)
}

/// As a session that saw what this home never had.
fn beyond(partition: PartitionId, wanted: Seq, reached: Seq) -> Error {
    let message = format!("the watch saw {partition} up to {wanted}, the log ends at {reached}");
    Error::new(Reason::SessionLost, message)
        .with("fork", reached)
        .with("lost_from", reached.next())
        .with("lost_upto", wanted)
}
