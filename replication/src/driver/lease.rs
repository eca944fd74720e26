//! The node's lease, as all of its partitions see it.
//!
//! **Owns**: one moment, shared without a lock.
//! **Does not own**: asking for leases (assignments), what needs one (the core).

use std::sync::atomic::{AtomicU64, Ordering};

use domicile_core::Moment;

/// Until when this node's homes may go on. Only grows.
#[derive(Debug, Default)]
pub(crate) struct NodeLease {
    until_us: AtomicU64,
}

impl NodeLease {
    /// It is renewed; whether it had run out before.
    pub(crate) fn renew(&self, until: Moment, now: Moment) -> bool {
        let before = self.until_us.fetch_max(until.micros(), Ordering::AcqRel);
        before <= now.micros() && until > now
    }

    /// Until when; the origin of time while there was none.
    pub(crate) fn until(&self) -> Moment {
        Moment::from_micros(self.until_us.load(Ordering::Acquire))
    }
}
