//! What a partition reports beside its work: for logs, metrics and operators.
//!
//! **Owns**: the closed list of events.
//! **Does not own**: what is done about them; dropping every event changes nothing in the core.

use std::time::Duration;

use domicile_proto::{Epoch, NodeId, RegionId, Seq};

use crate::refusal::RpoMeasure;

/// Why an ack counted for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckFault {
    /// It answers to another reign.
    ForeignEpoch {
        /// That reign.
        epoch: Epoch,
    },
    /// The copy did not say what it has since it last connected.
    NotAttached,
    /// Nothing of the copy counts: it diverged, or needs a snapshot.
    NotFollowing,
    /// It says less than an earlier one: late or doubled.
    Regressed {
        /// What it said was received.
        received_upto: Seq,
        /// What it said was durable.
        durable_upto: Seq,
    },
}

/// Something worth telling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Writes are to be acknowledged with less than the keyspace's level, once that is on record.
    DegradeWanted,
    /// Writes are acknowledged with less than the keyspace's level, from this mark on.
    DegradeBegan {
        /// The begin mark.
        at: Seq,
    },
    /// The keyspace's level holds again.
    DegradeEnded {
        /// The begin mark.
        began: Seq,
        /// The end mark.
        at: Seq,
        /// How long it lasted.
        lasted: Duration,
    },
    /// A copy has records that this home never wrote; its marks do not count.
    CopyDiverged {
        /// Which copy.
        region: RegionId,
        /// The reign of its last record.
        epoch: Option<Epoch>,
        /// The last record it says it has.
        upto: Seq,
        /// The last record here.
        appended_upto: Seq,
    },
    /// A copy lacks records that this home's log no longer has; it needs a snapshot.
    CopyBehind {
        /// Which copy.
        region: RegionId,
        /// The last record it says it has.
        upto: Seq,
        /// The first record that the log here still has.
        log_start: Seq,
    },
    /// This copy's log begins anew after a snapshot.
    Installed {
        /// The last record it had before.
        had_upto: Seq,
        /// The last record in the snapshot.
        upto: Seq,
    },
    /// A copy came back with less than it had made durable: its disk was lost or replaced.
    CopyRegressed {
        /// Which copy.
        region: RegionId,
        /// What it had.
        had_upto: Seq,
        /// What it has.
        has_upto: Seq,
    },
    /// A region that holds no copy of this partition spoke as if it did.
    UnknownCopy {
        /// Which region.
        region: RegionId,
    },
    /// An ack counted for nothing.
    AckIgnored {
        /// Which copy sent it.
        region: RegionId,
        /// Why.
        cause: AckFault,
    },
    /// A copy claimed more than was ever written; the claim was cut to what is durable here.
    AckClamped {
        /// Which copy.
        region: RegionId,
        /// What it claimed.
        claimed_upto: Seq,
        /// What it counts for.
        durable_upto: Seq,
    },
    /// The potential loss has passed three quarters of a limit: replies are slowed.
    RpoSlowed {
        /// Which limit.
        what: RpoMeasure,
        /// The potential loss.
        actual: u64,
        /// The limit.
        limit: u64,
    },
    /// The potential loss has reached a limit: writes are refused.
    RpoRefusing {
        /// Which limit.
        what: RpoMeasure,
        /// The potential loss with the refused write.
        actual: u64,
        /// The limit.
        limit: u64,
    },
    /// The potential loss is below half of every limit again.
    RpoRelaxed,
    /// Everything that was durable when the node started is visible: reads are served.
    ReadsOpened {
        /// Up to where.
        visible_upto: Seq,
    },
    /// A beat of a reign other than that of the copy's log.
    WatermarkIgnored {
        /// That reign.
        epoch: Epoch,
    },
    /// An input that this role has no use for.
    Misdirected {
        /// Its name.
        input: &'static str,
    },
    /// This home has ended its reign: that node follows once it has its last record.
    HandedOn {
        /// The last record.
        at: Seq,
        /// The node.
        to: NodeId,
    },
    /// This home has been succeeded: it does nothing any more.
    Fenced {
        /// The reign that was promised.
        promised: Epoch,
    },
    /// The store failed; nothing is done any more.
    Stopped,
}
