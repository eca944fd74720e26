//! The engine: ordered rows of bytes that serve reads and may be lost at any moment.
//!
//! **Owns**: the contract of an engine and its implementations.
//! **Does not own**: what rows mean (`cells`, `store`), durability (the journal).
//!
//! An engine never carries an acknowledgement. It may be missing, old or half written when the
//! store opens; replaying the journal repairs it. So its only promises are order and the atomicity
//! of one batch, and that a batch it kept implies all batches before it.

mod chunks;
#[cfg(test)]
mod conformance;
mod error;
#[cfg(feature = "fjall")]
mod fjall;
mod memory;
mod rows;
mod sled;

pub use error::EngineError;
#[cfg(feature = "fjall")]
pub use fjall::FjallEngine;
pub use memory::MemoryEngine;
pub(crate) use rows::is_empty_range;
pub use rows::{Direction, Engine, RowChange};
pub use sled::SledEngine;
