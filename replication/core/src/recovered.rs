//! What the store found on its disk, from which a partition starts.
//!
//! **Owns**: the shape of it.
//! **Does not own**: finding it (storage), minting an epoch (the driver).

use domicile_proto::{AckLevel, ChainHash, Epoch, Hlc, NodeId, RequestId, Seq};

/// A request whose record is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RememberedRequest {
    /// Under which id it was asked for.
    pub request_id: RequestId,
    /// Where its record is.
    pub seq: Seq,
    /// The hash of its content.
    pub fingerprint: u64,
    /// When it was sequenced.
    pub hlc: Hlc,
    /// The level promised to its writer.
    pub level: AckLevel,
}

/// What is known of a partition when its node starts. Everything in it is durable.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovered {
    /// The reign: at a home recovered or minted by the driver, at a copy that of its last record.
    pub epoch: Option<Epoch>,
    /// The highest reign that was promised here: nothing of a lower one is taken.
    pub promised: Option<Epoch>,
    /// Each reign in the log and its first record, oldest first. Empty: the whole log is `epoch`'s.
    pub epoch_history: Vec<(Epoch, Seq)>,
    /// The last record.
    pub last_seq: Seq,
    /// The chain hash after it.
    pub chain: ChainHash,
    /// Up to where records were known to be visible; more may have been.
    pub visible_upto: Seq,
    /// Encoded bytes of the records up to `last_seq`; zero if unknown, and the potential loss in
    /// bytes then leaves them out.
    pub bytes: u64,
    /// At a home that stopped while degraded: the begin mark that no end mark follows.
    pub degraded_since: Option<Seq>,
    /// At a home: the node that it has handed on to, if its last record says so.
    pub handed_to: Option<NodeId>,
    /// The requests of the last records of kind write, in the order of their places.
    pub requests: Vec<RememberedRequest>,
}
