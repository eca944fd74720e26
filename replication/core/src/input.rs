//! What can happen to a partition.
//!
//! **Owns**: the closed list of inputs, who sends each and what must hold.
//! **Does not own**: what follows from them (`home`, `copy`).

use domicile_proto::{AckLevel, ChainHash, Epoch, NodeId, RegionId, SegmentHeader, Seq};

use crate::moment::Moment;
use crate::write::Write;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Sent by the front of the node, to a home. Answered by exactly one
    /// [`Effect::Reply`](crate::Effect::Reply) for its ticket, now or later.
    Write(Write),
    /// Sent by the commit thread, to both roles: our own journal holds everything up to here.
    /// Never beyond what was appended.
    Durable {
        /// The last durable record.
        upto: Seq,
    },
    /// Sent by the peer's connection, to a home: a copy (re)connected and said what it has.
    /// Untrusted.
    CopyAttached {
        /// Which copy.
        region: RegionId,
        /// The last record it has in memory or on disk.
        received_upto: Seq,
        /// The last record it has on disk.
        durable_upto: Seq,
        /// The reign of its last record; `None` if it has none.
        epoch: Option<Epoch>,
        /// The chain hash after its last record received.
        chain: ChainHash,
        /// The chain hash after the same record in this home's journal, read by the driver; `None`
        /// if no segment here ends with it.
        own_chain: Option<ChainHash>,
        /// The first record that this home's journal still has.
        log_start: Seq,
    },
    /// Sent by the peer's connection, to a home: the copy may have restarted, so what it had only
    /// received no longer counts.
    CopyDetached {
        /// Which copy.
        region: RegionId,
    },
    /// Sent by a copy, to a home; may be late, doubled, out of order. Untrusted.
    Ack {
        /// Which copy.
        region: RegionId,
        /// The reign of the home that it answers to (said when the stream was opened): not that of
        /// the copy's last record.
        epoch: Epoch,
        /// The last record it has in memory or on disk.
        received_upto: Seq,
        /// The last record it has on disk.
        durable_upto: Seq,
    },
    /// Sent by the receiver, to a copy: a segment was decoded and its checksums hold. The driver
    /// made sure beforehand that the store has room for it. Otherwise untrusted.
    Received {
        /// What it says of itself.
        header: SegmentHeader,
        /// The chain hash after it.
        chain: ChainHash,
        /// The reign of the home that sent it: what it sends may be of an older one.
        reign: Epoch,
        /// What its records' callers wait for.
        awaited: Awaited,
    },
    /// Sent by the bootstrap, to a copy: a snapshot has taken the place of everything it had, and
    /// its log goes on behind. Nothing that it had received before is still on its way to the disk.
    Installed {
        /// The reign of the last record in the snapshot.
        epoch: Epoch,
        /// That record.
        seq: Seq,
        /// The chain hash after it.
        chain: ChainHash,
        /// Every reign up to it with its first record, oldest first.
        reigns: Vec<(Epoch, Seq)>,
    },
    /// Sent by the driver, to both roles: it is on disk here that nothing of a lower reign is
    /// taken. A home of a lower one has been succeeded.
    Promised {
        /// The reign.
        epoch: Epoch,
    },
    /// Sent by the driver, to a home: until then no other node may acknowledge in its place. Comes
    /// before the step that relies on it; without one, a home that needs it does nothing.
    Lease {
        /// On the driver's clock, drift margin taken off.
        until: Moment,
    },
    /// Sent by the home's beat, to a copy. Untrusted.
    Watermark {
        /// The home's reign.
        epoch: Epoch,
        /// Up to where its records are visible.
        visible_upto: Seq,
    },
    /// Sent by whoever moves the partition, to a home: it ends its reign with a mark, and `to`
    /// begins the next one once it has that. Nothing happens where the reign is over already or the
    /// lease has run out: whoever has none may not know what was decided.
    HandOn {
        /// The node that follows.
        to: NodeId,
        /// The policy of the keyspace that its reign goes by.
        revision: u64,
    },
    /// Sent by the driver, to a home that wants it: the control plane has on record that it
    /// acknowledges with less than its level from now on.
    DegradeRecorded,
    /// Sent by the driver when [`next_timeout`](crate::Partition::next_timeout) is due, and once
    /// after opening: what recovery allows at once comes out of that first one.
    Tick,
    /// Sent by the commit thread: the store has failed for good.
    Poisoned,
}

/// Which acks of a segment somebody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Awaited {
    /// That it was received.
    pub received: bool,
    /// That it is durable.
    pub durable: bool,
}

impl Awaited {
    /// What a segment waits for whose records were asked at `levels`, where there are `copies`
    /// copies. For the end of a reign whoever writes waits: until its successor has it nobody is
    /// home, and nobody else follows.
    #[must_use]
    pub fn of(levels: &[AckLevel], ends_reign: bool, copies: usize) -> Self {
        let mut awaited = Self {
            received: false,
            durable: ends_reign,
        };
        for level in levels {
            let durable = level.durable_needed(copies);
            awaited.received |= level.received_needed(copies) > durable;
            awaited.durable |= durable > 0;
        }
        awaited
    }
}

impl Input {
    /// Its name, for reports.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Write(_) => "write",
            Self::Durable { .. } => "durable",
            Self::CopyAttached { .. } => "copy attached",
            Self::CopyDetached { .. } => "copy detached",
            Self::Ack { .. } => "ack",
            Self::Received { .. } => "received",
            Self::Installed { .. } => "installed",
            Self::Promised { .. } => "promised",
            Self::Lease { .. } => "lease",
            Self::HandOn { .. } => "hand on",
            Self::Watermark { .. } => "watermark",
            Self::DegradeRecorded => "degrade recorded",
            Self::Tick => "tick",
            Self::Poisoned => "poisoned",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_awaited_is_what_any_record_waits_for() {
        let awaited = |levels: &[AckLevel], ends_reign| Awaited::of(levels, ends_reign, 2);
        assert_eq!(awaited(&[AckLevel::Async], false), Awaited::default());
        let durable = Awaited {
            received: false,
            durable: true,
        };
        assert_eq!(awaited(&[AckLevel::Async], true), durable);
        let received = Awaited {
            received: true,
            durable: false,
        };
        assert_eq!(
            awaited(&[AckLevel::Async, AckLevel::SEMI_SYNC], false),
            received
        );
        assert_eq!(
            awaited(&[AckLevel::SEMI_SYNC], true),
            Awaited {
                received: true,
                ..durable
            }
        );
    }
}
