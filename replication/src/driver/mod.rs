//! The driver: partitions as slots, and the only caller of the core's `step`.
//!
//! ```text
//!   write, segment, ack, tick           commit thread
//!            |                               |
//!            v                               v
//!   +-- slot lock: core.step ------------- Durable --+
//!   |     Append, Store -> store queue               |
//!   |     Visible       -> cells.advance             |
//!   |     Reply, Ship   -> outbox                    |
//!   +------------------------------------------------+
//!            | unlocked
//!            v
//!   outbox.deliver: replies, wake shippers, wake readers
//! ```

mod arrival_rate;
mod install;
mod lease;
mod outbox;
mod peer_signals;
mod requests;
mod seat;
mod signals;
mod slot;
mod timers;
mod watchers;
mod work;

pub(crate) use install::ClosedIntake;
pub(crate) use outbox::ReplyTo;
pub(crate) use requests::remembered_requests;
pub(crate) use signals::{HeldMark, PartitionDigest, ShipSignal, SourceSignal, StreamState, lock};
pub(crate) use slot::Slot;
pub(crate) use watchers::WatchSignal;
pub(crate) use work::{Driver, PreparedWrite, Refused};
