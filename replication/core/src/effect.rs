//! What a partition asks of its driver.
//!
//! **Owns**: the closed list of effects and the order between them.
//! **Does not own**: carrying them out. None waits: the answer is a later input.

use domicile_proto::Epoch;
use domicile_proto::{ChainHash, PartitionId, RecordHead, RegionId, Seq};

use crate::event::Event;
use crate::receipt::Receipt;
use crate::refusal::Refusal;
use crate::write::Ticket;

/// Why a copy did not take a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RejectCause {
    /// This node is the partition's home.
    #[error("not a copy: the home is region {home_region}")]
    NotACopy {
        /// The home.
        home_region: RegionId,
    },
    /// The segment is another partition's.
    #[error("wrong partition: segment of {actual}, this is {expected}")]
    WrongPartition {
        /// The segment's.
        actual: PartitionId,
        /// This one.
        expected: PartitionId,
    },
    /// A later reign was promised, or has written here.
    #[error("stale epoch: {actual}, and {promised} is known")]
    StaleEpoch {
        /// The sender's, or the segment's.
        actual: Epoch,
        /// The latest one promised, or that wrote here.
        promised: Epoch,
    },
    /// Records before it are missing; ship from `expected` on.
    #[error("gap: segment starts at {actual}, expected {expected}")]
    Gap {
        /// The next record wanted.
        expected: Seq,
        /// The segment's first.
        actual: Seq,
    },
    /// All of it is here. An ack goes out beside this, as the home seems not to know.
    #[error("duplicate: everything up to {upto} is here")]
    Duplicate {
        /// The last record here.
        upto: Seq,
    },
    /// It begins among records that are here and ends beyond: not cut where ours was.
    #[error("overlap: segment {first_seq} to {last_seq}, expected {expected}")]
    Overlap {
        /// The next record wanted.
        expected: Seq,
        /// The segment's first.
        first_seq: Seq,
        /// The segment's last.
        last_seq: Seq,
    },
    /// The histories differ before it: the logs have forked.
    #[error("chain mismatch before {at}: segment follows {actual}, log ends in {expected}")]
    ChainMismatch {
        /// The segment's first record.
        at: Seq,
        /// The hash of the log here.
        expected: ChainHash,
        /// The hash that the segment follows.
        actual: ChainHash,
    },
    /// The store has failed.
    #[error("the store has failed")]
    Poisoned,
}

/// Whether somebody waits for what is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Nobody does: it may wait a moment for company.
    Soon,
    /// A caller's level depends on it.
    Now,
}

impl Urgency {
    pub(crate) fn of(is_awaited: bool) -> Self {
        if is_awaited { Self::Now } else { Self::Soon }
    }
}

/// One thing to do. Effects are carried out in order: what an effect enables comes after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Home: submit the record whose body is under the ticket; [`Durable`](crate::Input::Durable)
    /// follows.
    Append {
        /// Whose body.
        ticket: Ticket,
        /// Its place, one after the last.
        seq: Seq,
        /// Its head.
        head: RecordHead,
        /// Up to where records are visible.
        visible_upto: Seq,
    },
    /// Home: submit a mark (empty body). The head's stamp is the newest that the core has seen: the
    /// driver may replace it by a newer one.
    AppendMark {
        /// Its place, one after the last.
        seq: Seq,
        /// Its head, of kind degrade begin or end.
        head: RecordHead,
        /// Up to where records are visible.
        visible_upto: Seq,
    },
    /// Home: answer a caller. Comes after the [`Effect::Visible`] that covers it.
    Reply {
        /// Whom.
        ticket: Ticket,
        /// What.
        result: Result<Receipt, Refusal>,
    },
    /// Copy: submit the segment just given.
    Store {
        /// Whether a caller waits until it is durable here.
        urgency: Urgency,
    },
    /// Copy: do not.
    Reject {
        /// Why.
        cause: RejectCause,
    },
    /// Home: everything up to here may be sent to copies.
    Ship {
        /// The last durable record.
        upto: Seq,
        /// Whether a caller waits for copies.
        urgency: Urgency,
    },
    /// Both: fold everything up to here into the cells.
    Visible {
        /// The last visible record.
        upto: Seq,
    },
    /// Copy: tell the home. Later ones replace earlier ones.
    SendAck {
        /// The last record in memory or on disk.
        received_upto: Seq,
        /// The last record on disk.
        durable_upto: Seq,
        /// Whether a caller at the home may wait for it.
        urgency: Urgency,
    },
    /// Both: tell whoever listens.
    Event(Event),
}
