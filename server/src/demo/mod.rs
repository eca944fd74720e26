//! Three regions on one machine, in about a minute: what distance costs, and what a loss costs.
//!
//! **Owns** the story, its figures and its last words; the verbs of a second terminal.
//!
//! **Does not own** servers, links and loss (`rig`), loads and histograms (`bench`), flags (`cli`).

mod chaos;
mod control;
mod ending;
mod options;
mod recovery;
mod scenes;
mod story;
mod workload;

pub use chaos::Chaos;
pub use control::tell;
pub use options::DemoOptions;
pub use story::run;
