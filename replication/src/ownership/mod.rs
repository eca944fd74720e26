//! Who is home of what, as far as this node is concerned: what the map says is done to its slots.
//!
//! ```text
//!   map (agreed on) --watch--> seating: fence what is over, then lease counts, then exchange cores
//!   leader: asks "promise" --> promises: durable, all that came before is on disk, what it has
//!   new home finds a copy forked --> rejoin: seal, cut, heal, go on
//! ```

mod promises;
mod rejoin;
mod seating;
mod state;

pub(crate) use promises::{Promised, promise};
pub(crate) use rejoin::{HEAL_KEYS_MAX, cells_here, rejoin, run_mender};
pub(crate) use seating::{Seat, Seats, blocking, config_of, open_core, run_seating};
pub(crate) use state::Ownership;
