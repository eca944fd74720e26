//! Consensus of the control plane: one order of commands for all nodes, kept through the loss of
//! any minority of voters.
//!
//! ```text
//!  propose(command)                         Machine::apply(command) at every node, same order
//!      |                                             ^
//!  consensus --leader elsewhere--> calls             | state: what is applied, snapshots
//!      |                            |                |
//!      '---------> openraft <-------'-- answer <-- transport <-- other nodes
//!                     |  ^
//!        log (storage) <-'  election, leadership: its timers, and a leader's doubts
//! ```
//! openraft is named in this room only. It is given what it lacks in 0.9.25: elections in disjoint
//! windows after a sounding (`election`), a leader's check of its quorum (`leadership`), and
//! messages that cannot make it panic (`wire`).

mod answer;
mod calls;
mod confirm;
mod consensus;
mod core;
mod election;
mod error;
mod formation;
mod leadership;
mod log;
mod machine;
mod member;
mod membership;
mod network;
mod options;
mod raft;
mod state;
mod timings;
mod transport;
mod wire;

#[cfg(test)]
mod tests;

pub use confirm::Confirmed;
pub use consensus::Consensus;
pub use error::ControlError;
pub use machine::Machine;
pub use member::{Leader, Member, Members};
pub use options::{Options, SNAPSHOT_ENTRIES};
pub use state::Applied;
pub use timings::{Pace, Timings};
pub use transport::{Transport, TransportError};
pub use wire::{COMMAND_BYTES_MAX, MESSAGE_BYTES_MAX};
