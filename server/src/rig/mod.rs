//! Real servers on one machine, at a distance from each other: what `bench` and `demo` stand on.
//!
//! **Owns** processes, links, directories and configuration of a run; losing a region; the client's
//! list of acknowledged writes and its comparison with what survives.
//!
//! **Does not own** load and figures (`bench`), the story (`demo`), the bytes' delay (`wan`).

mod cluster;
mod console;
mod door;
mod echo;
mod keys;
mod ledger;
mod machine;
mod outcome;
mod ports;
mod process;
mod processors;
mod random;
mod rtts;
mod run;
mod scratch;
mod settings;
mod stop;
mod survivors;
mod table;

pub use cluster::{Cluster, ClusterPlan, Crash, MeasuredRtt};
pub use console::Console;
pub use door::Door;
pub use keys::{KEY_BYTES, Keys, VALUE_BYTES_DEFAULT};
pub use ledger::{Ack, Comparison, Held, Holdings, Loss, compare};
pub use machine::{Machine, load_average, processor_time, resident_kib};
pub use outcome::ExitOutcome;
pub use ports::free_addresses;
pub use process::{Process, run_leashed};
pub use processors::{Halves, keep_process_to, keep_thread_to};
pub use random::Random;
pub use rtts::{RTT_MAX, RttError, Rtts};
pub use run::run_to_its_end;
pub use scratch::Scratch;
pub use settings::{HomePlan, HomesPlan, KeyspacePlan};
pub use stop::{Interrupted, Stop};
pub use survivors::{Survivors, held_in_journal, shown_when_quiet};
pub use table::{Table, thousands};
