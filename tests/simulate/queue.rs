//! What is going to happen, in the order of true time.
//!
//! **Owns**: the one queue of a run, its closed list of events.
//! **Does not own**: what an event does (`world`).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use domicile_core::Moment;
use domicile_proto::PartitionId;
use domicile_storage::Committed;

use crate::faults::Fault;
use crate::packets::Packet;

/// One thing that happens.
#[derive(Debug)]
pub(crate) enum Event {
    /// A packet arrives.
    Arrive(Box<Packet>),
    /// Something in one process; void once the process is another one.
    Wake {
        node: usize,
        process: u64,
        what: Wake,
    },
    /// A machine is switched on.
    Start(usize),
    /// A caller does something.
    Client { client: usize, wake: u64 },
    /// And tries something again.
    Retry { client: usize, wake: u64 },
    /// Something goes wrong, or is mended.
    Fault(Fault),
}

/// What wakes a process.
#[derive(Debug)]
pub(crate) enum Wake {
    /// The disk is free: what is queued is committed.
    Commit,
    /// The commit is told to the cores.
    Told(Vec<Committed>),
    /// A core's time has come.
    Tick(PartitionId, Moment),
    /// What waits for a partition to rest looks again.
    Poll,
    /// A stream to a peer is begun.
    Dial(usize, u64),
    /// A beat to a peer is due, on this connection.
    Beat(usize, u64),
    /// What rejections asked for on this connection is done.
    Rewind(usize, u64),
    /// Acks to a peer are due.
    Acks(usize),
    /// A lease is asked for.
    Lease,
    /// The leader of the control plane looks around.
    Lead,
    /// The consensus looks at its timers.
    Consensus,
    /// Cells are flushed.
    Flush,
    /// A new map is looked at.
    Seat,
    /// Switchovers are looked after.
    Switch,
    /// Wounds are mended, snapshots fetched.
    Mend,
    /// A poisoned process is ended by whoever runs it.
    Restart,
}

struct Item {
    at_us: u64,
    number: u64,
    event: Event,
}

impl PartialEq for Item {
    fn eq(&self, other: &Self) -> bool {
        (self.at_us, self.number) == (other.at_us, other.number)
    }
}

impl Eq for Item {}

impl PartialOrd for Item {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Item {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_us, self.number).cmp(&(other.at_us, other.number))
    }
}

/// The queue. Events of one moment happen in the order in which they were put in.
#[derive(Default)]
pub(crate) struct Queue {
    items: BinaryHeap<Reverse<Item>>,
    next_number: u64,
}

impl Queue {
    pub(crate) fn push(&mut self, at_us: u64, event: Event) {
        let number = self.next_number;
        self.next_number += 1;
        self.items.push(Reverse(Item {
            at_us,
            number,
            event,
        }));
    }

    /// The next event and when it happens, if that is before `end_us`.
    pub(crate) fn pop(&mut self, end_us: u64) -> Option<(u64, Event)> {
        let Reverse(first) = self.items.peek()?;
        if first.at_us >= end_us {
            return None;
        }
        let Reverse(item) = self.items.pop()?;
        Some((item.at_us, item.event))
    }
}
