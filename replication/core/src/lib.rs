//! The rules of replication: one partition as a pure state machine, at its home and at its copies.
//!
//! Inputs say what happened (a write was asked for, the disk made something durable, a copy
//! acknowledged, time passed); effects say what is to be done. No effect waits: its result is a
//! later input.
//!
//! ```text
//! home    1 ............ visible ............ durable ............ appended
//!                           |                    |                     '- Append was asked for
//!                           |                    '- fsynced here; may be shipped
//!                           '- the keyspace's level is met; readers see it; writers are answered
//!
//! a copy, as its home sees it (never beyond the home's durable mark)
//!         1 ...... durable there ...... received there
//!                           visible = min(home durable, k-th best received, q-th best durable)
//!
//! copy    1 ...... visible ............ durable ............ received
//!                     |                    |                    '- Store was asked for; acked
//!                     |                    '- fsynced here; acked
//!                     '- known to be visible at the home, and durable here
//!         (async: visible = received; what is shipped is visible at the home already)
//! ```
//! Every mark is "up to and including"; every one of them only grows. The one exception is what a
//! home believes of a copy, which starts again when the copy connects again.
//!
//! Map:
//! - [`partition`]: the public noun; the entrance to both roles
//! - [`input`], [`effect`], [`event`]: what can happen, what is to be done, what is worth telling
//! - [`write`](mod@write), [`receipt`], [`refusal`]: a write, and the two answers to it
//! - [`config`], [`recovered`]: what a partition starts from
//! - [`control`]: who is home of what, who may become it, and when: leases and takeovers
//! - [`status`]: a partition at a glance
//! - [`moment`], [`region_set`]: time, and sets of regions
//! - `home`, `admission`, `settlement`, `overview`: the home: its state, letting writes in, what
//!   marks set free, what it shows
//! - `copy`: the copy
//! - `mark`: the one type of a watermark
//! - `epochs`: which reign wrote what, and where two logs part
//! - `session`: whether a log has what a session has seen
//! - `ack_tracker`: who holds what
//! - `waiters`, `delayed`: callers that wait for a level, replies that are held
//! - `in_flight`, `requests`: the window, the table of request ids
//! - `lag`, `rpo_guard`: the potential loss, and its limit
//! - `degrade`: the recorded state of acknowledging with less
//! - `planted`: bugs that tests plant to see them caught
//!
//! This crate never does IO, reads no clock, starts no thread, draws no random number and never
//! panics on anything that a peer or a client can send.

pub mod config;
pub mod control;
pub mod effect;
pub mod event;
pub mod input;
pub mod moment;
pub mod partition;
pub mod receipt;
pub mod recovered;
pub mod refusal;
pub mod region_set;
pub mod status;
pub mod write;

mod ack_tracker;
mod admission;
mod copy;
mod degrade;
mod delayed;
mod epochs;
mod home;
mod in_flight;
mod lag;
mod mark;
mod overview;
#[cfg(not(feature = "planted"))]
mod planted;
#[cfg(feature = "planted")]
pub mod planted;
mod requests;
mod rpo_guard;
mod session;
mod settlement;
mod waiters;

pub use config::{ConfigError, LeaseNeed, PartitionConfig, Window};
pub use effect::{Effect, RejectCause, Urgency};
pub use epochs::fork;
pub use event::{AckFault, Event};
pub use home::{Handover, handed_to};
pub use input::{Awaited, Input};
pub use moment::Moment;
pub use partition::Partition;
pub use receipt::{Outcome, Receipt};
pub use recovered::{Recovered, RememberedRequest};
pub use refusal::{Bound, Refusal, RpoMeasure};
pub use region_set::RegionSet;
pub use requests::{REQUEST_AGE_MAX, REQUESTS_MAX};
pub use session::SessionStanding;
pub use status::{
    CopyStatus, Counters, DegradedRange, PartitionStatus, Role, Rpo, RpoPressure, Standing,
};
pub use write::{EarlierTries, Expected, KeyChange, Precondition, Purpose, Ticket, Write};
