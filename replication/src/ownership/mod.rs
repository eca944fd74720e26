//! Who is home of what, as far as this node is concerned: what the map says is done to its slots.
//!
//! ```text
//!   enrolment: what this node was told of regions, nodes and keyspaces --commands--> plane
//!   plane: commands --consensus--> machine: map --watch--> seating: fence what is over,
//!                                                          then leases count, then exchange cores
//!                              '-> regions: links to those that have come, none to those that left
//!   leases: ask the leader --> lead: confirmed, granted; homes of silent nodes succeeded
//!   lead: asks "promise" --> promises: durable, all that came before on disk, what is here
//!   switchover: the home's last record --shipped--> the node that follows begins; the map is told
//!   degrading: on record before a home acknowledges alone, and off it once copies have all
//!   a new home finds a copy forked --> rejoin: seal, cut, heal, go on
//!   account: what changes of home have cost here, by orphan files and map --commands--> plane
//! ```

mod account;
mod degrading;
mod enrolment;
mod lead;
mod leases;
mod machine;
mod plane;
mod promises;
mod regions;
mod rejoin;
mod seating;
mod state;
mod switchover;
mod wire;

pub(crate) use account::run_accounts;
pub(crate) use degrading::run_degrading;
pub(crate) use enrolment::{GIVEN_UP_AT_ONCE, given_up, run_enrolment};
pub(crate) use lead::{LeadInput, answer_promises, run_lead};
pub(crate) use leases::{answer_renewal, run_leases};
pub(crate) use plane::{Plane, region_of};
pub(crate) use regions::{link_of, run_regions};
pub(crate) use rejoin::{
    HEAL_KEYS_MAX, ask_again, reign_of, rejoin, run_mender, was_wounded_again,
};
pub(crate) use seating::{Seat, Seats, blocking, config_of, handed_on, open_core, run_seating};
pub(crate) use state::Ownership;
pub(crate) use switchover::run_switchovers;
