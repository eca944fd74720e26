//! What a write is told that may have been kept, and what an operator asks of those that are.
//!
//! **Owns**: the plain structs.
//! **Does not own**: keeping and sending (`keep`, `send`), the receipt of a write that was done.

use domicile_proto::{PartitionId, Reason, RequestId};
use domicile_storage::{BufferNumber, BufferedWrite};

use crate::error::Error;
use crate::receipt::Receipt;

/// What is to become of a write whose home cannot be reached, where its keyspace allows a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unapplied {
    /// It is refused: an answer that is no error always has a position.
    #[default]
    Refused,
    /// It is kept here until its home can be reached: accepted, not applied.
    Kept,
}

/// A write that is on the disk of this node and waits for its home. It is not applied: no read sees
/// it, other writes may come before it, and its home may still refuse it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// By which this node's buffer names it.
    pub number: BufferNumber,
    /// Where it belongs.
    pub partition: PartitionId,
    /// Under which id it is done at most once, and its outcome is asked for.
    pub request_id: RequestId,
    /// When it was accepted, in ms since 1970.
    pub accepted_at_ms: u64,
}

/// What a write is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// It is done.
    Applied(Receipt),
    /// It is kept for its home, and not done.
    Accepted(Accepted),
}

impl Written {
    /// The receipt of a write that is done.
    ///
    /// # Errors
    /// `INDETERMINATE`: it is accepted, and not done so far.
    pub fn applied(self) -> Result<Receipt, Error> {
        match self {
            Self::Applied(receipt) => Ok(receipt),
            Self::Accepted(accepted) => {
                let message = "accepted, not applied: it waits for its home";
                let error = Error::new(Reason::Indeterminate, message);
                Err(error.with("request_id", accepted.request_id))
            }
        }
    }
}

/// Some of the writes that are kept here, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BufferPage {
    /// They.
    pub writes: Vec<BufferedWrite>,
    /// There are more behind the last.
    pub is_cut: bool,
    /// What is wrong with the buffer; empty: nothing. What is shown is then what is intact.
    pub damaged: String,
}
