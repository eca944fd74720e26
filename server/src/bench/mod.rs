//! Measurements: what Domicile costs, against what the machine allows and physics demands.
//!
//! **Owns** loads, histograms, ceilings, checks and reports; the verbs of `domicile bench`.
//!
//! **Does not own** servers, links and the loss of a region (`rig`), nor flags (`cli`).
//!
//! ```text
//! command -> acks throughput pipelined embedded lag catch_up memory reopen engines failover
//!              |                                                         what is measured
//!              |- stage                                                on what
//!              |- series -> load -> unary | stream, pace                how
//!              |- failover -> the client library, series             homes that change
//!              |- engines -> engine_life -> disk_use                    a process each
//!              |- crash -> load + rig's ledger                          what a loss costs
//!              `- checks, report -> page -> chart; hgrm                 what comes of it
//! ```

mod acks;
mod bare;
mod catch_up;
mod ceiling;
mod chart;
mod checks;
mod command;
mod crash;
mod disk_ceiling;
mod disk_use;
mod embedded;
mod engine_life;
mod engines;
mod failover;
mod hgrm;
mod lag;
mod load;
mod memory;
mod options;
mod pace;
mod page;
mod pipelined;
mod recorder;
mod reopen;
mod report;
mod series;
mod stage;
mod stream;
mod throughput;
mod unary;

pub use acks::LEVELS;
pub(crate) use acks::loss_cells;
pub use ceiling::{CeilingMode, CeilingOptions, serve_ceiling};
pub use checks::{Bound, Check, Distances, Kind, Verdict, checks_table, outcome};
pub use command::run;
pub use crash::{CrashLoad, CrashPlan, CrashReport, LoadedLoss, crash_under_load, load_until_lost};
pub use engine_life::{EngineLife, live_engine_life};
pub use failover::{FailoverOptions, FailoverPart};
pub use load::{Acks, LoadPlan, LoadResult, Order, Second, Shape, run_load};
pub use options::{Bench, BenchOptions, Ending, KEYS_DEFAULT, MANY_KEYS_DEFAULT, Transport};
pub use pace::Pace;
pub use recorder::{Errors, Latencies, Summary, errors_text, median, ms};
