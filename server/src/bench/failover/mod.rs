//! What a change of homes costs: a lost one, a planned one, and none at all.
//!
//! **Owns** `bench failover`: its clients, its four parts and their figures.
//!
//! **Does not own** losing a region (`rig`), deciding who takes over (the nodes), the form of the
//! report.
//!
//! ```text
//! course -> takeover   -> scene, writer, account      a home is lost, and is back
//!        |- switchover -> scene, writer, account      a home is handed on
//!        |- steady                                    agreed homes against static ones
//!        `- idle                                      many partitions of which none is written
//! ```

mod account;
mod course;
mod idle;
mod operator;
mod options;
mod scene;
mod steady;
mod switchover;
mod takeover;
mod takeover_rows;
mod writer;

pub(super) use course::run;
pub use options::{FailoverOptions, FailoverPart};
