//! What travels between machines.
//!
//! **Owns**: the closed list of messages; in the product they are those of the peers' doors.
//! **Does not own**: how they travel (`network`).

use std::collections::BTreeMap;

use bytes::Bytes;
use domicile_core::control::{Command, Grant, PromisedEnd};
use domicile_proto::{ChainHash, Epoch, Hlc, PartitionId, Segment, Seq};
use domicile_storage::{Cell, SnapshotHeader};

use crate::clients::{Answer, Call};
use crate::plane::{Append, Appended, Vote, Voted};

/// One end of a way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Node(usize),
    /// A caller, who is in a region.
    Client(usize),
}

/// A message on its way.
#[derive(Debug, Clone)]
pub(crate) struct Packet {
    pub(crate) from: Place,
    pub(crate) to: Place,
    pub(crate) body: Body,
}

/// What it says.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    /// On the connection of a stream, in order.
    Stream {
        conn: u64,
        frame: Frame,
    },
    /// To the consensus of the control plane.
    Append(Append),
    Appended(Appended),
    Vote(Vote),
    Voted(Voted),
    /// A lease is asked for, for this node, by way of another or not.
    Renew {
        node: usize,
        incarnation: u64,
        ask: u64,
        relayed: bool,
    },
    Granted {
        node: usize,
        incarnation: u64,
        grant: Grant,
    },
    /// A leader asks for promises.
    AskPromises {
        term: u64,
        asked: Vec<(PartitionId, Epoch)>,
    },
    Promised {
        term: u64,
        answers: Vec<(PartitionId, Epoch, PromisedEnd)>,
    },
    /// A node has something to say to the leader.
    Tell {
        command: Command,
    },
    /// A wounded copy asks its home.
    ReadCells {
        process: u64,
        partition: PartitionId,
        keys: Vec<Bytes>,
        seq_min: Seq,
    },
    Cells {
        process: u64,
        partition: PartitionId,
        cells: Vec<(Bytes, Option<Cell>)>,
        at: Seq,
    },
    /// A copy asks for a snapshot.
    FetchSnapshot {
        process: u64,
        partition: PartitionId,
        seq_min: Seq,
    },
    Snapshot {
        process: u64,
        partition: PartitionId,
        found: Option<(SnapshotHeader, Bytes)>,
    },
    /// A caller's.
    Request {
        call: Call,
    },
    Answer {
        call: Call,
        answer: Answer,
    },
}

/// A frame of a stream.
#[derive(Debug, Clone)]
pub(crate) enum Frame {
    /// The home begins.
    ShipHello,
    /// What the copy holds.
    CopyHello(BTreeMap<PartitionId, HeldMark>),
    /// Segments, and the reigns in which older ones are sent.
    Segments(Vec<Segment>, BTreeMap<PartitionId, Epoch>),
    Beat {
        is_regular: bool,
        hlc: Hlc,
        watermarks: BTreeMap<PartitionId, (Epoch, Seq)>,
    },
    Echo,
    Acks(BTreeMap<PartitionId, HeldMark>),
    Rejection {
        partition: PartitionId,
        cause: Rejected,
    },
    Forked(HomeLog),
    NeedsSnapshot(Vec<PartitionId>),
    /// The other end knows of no such connection, or ends it.
    Reset,
}

/// Why a segment was refused, as far as the home acts upon it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rejected {
    Gap(Seq),
    /// Not to be held here, or a snapshot comes first.
    LeaveOut,
    /// The stream is to begin anew.
    Other,
}

/// What a copy holds of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HeldMark {
    pub(crate) epoch: Option<Epoch>,
    pub(crate) received_upto: Seq,
    pub(crate) durable_upto: Seq,
    pub(crate) chain: Option<ChainHash>,
    pub(crate) is_damaged: bool,
}

/// A home's log, as it tells a copy whose log has left it.
#[derive(Debug, Clone)]
pub(crate) struct HomeLog {
    pub(crate) partition: PartitionId,
    pub(crate) reigns: Vec<(Epoch, Seq)>,
    pub(crate) last_seq: Seq,
}
