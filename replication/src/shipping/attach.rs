//! The beginning of a stream: what the copy holds, compared with the own log.
//!
//! **Owns**: from which record on each partition is shipped, and which are left out.
//! **Does not own**: shipping (shipper), how a copy stands (the core).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use domicile_core::{Input, Standing};
use domicile_proto::{AckLevel, ChainHash, Epoch, PartitionId, Seq, v1};
use domicile_storage::StoreError;

use super::cursor::{ShipCursor, ShipNext, Shipped};
use super::shipper::Failure;
use crate::driver::{HeldMark, Slot};
use crate::node::NodeCore;
use crate::peers::{PeerLink, read_mark};

/// The counter of a home's first reign: a home that has it never followed another one.
const FIRST_REIGN: u64 = 1;

/// What a copy says it holds, and the hashes of our log at those places.
pub(super) type Marks = BTreeMap<PartitionId, HeldMark>;
pub(super) type Chains = BTreeMap<PartitionId, Option<ChainHash>>;

/// The partitions of a stream, each in the reign that the copy's acks on it will answer to.
pub(super) type Reigns = BTreeMap<PartitionId, (Arc<Slot>, Epoch)>;

/// A stream that may begin.
pub(super) struct Attached {
    pub(super) cursor: ShipCursor,
    pub(super) reigns: Reigns,
    /// Partitions that need a snapshot there.
    pub(super) behind: Vec<PartitionId>,
    /// Partitions whose logs have to be cut there.
    pub(super) forked: Vec<v1::Forked>,
}

/// What the copy says it holds.
pub(super) fn read_marks(hello: &v1::CopyHello, link: &PeerLink) -> Result<Marks, Failure> {
    if hello.region != link.spec.name.as_str() {
        let (actual, expected) = (&hello.region, &link.spec.name);
        return Err(format!("the node there is of region {actual:?}, expected {expected}").into());
    }
    let marks = hello.marks.iter().map(read_mark);
    Ok(marks.collect::<Result<Marks, _>>()?)
}

/// The chain hashes of our own log where the copy's logs end.
pub(super) async fn own_chains(node: &Arc<NodeCore>, marks: &Marks) -> Result<Chains, Failure> {
    let (node, marks) = (Arc::clone(node), marks.clone());
    let read = tokio::task::spawn_blocking(move || {
        let ends = marks.iter().map(|(id, mark)| (*id, mark.received_upto));
        ends.map(|(id, seq)| Ok((id, node.store.chain_at(id, seq)?)))
            .collect::<Result<Chains, StoreError>>()
    });
    Ok(read.await??)
}

/// Takes the copy's marks into the cores and places the cursor.
pub(super) fn attach(
    node: &NodeCore,
    link: &PeerLink,
    slots: &BTreeMap<PartitionId, Arc<Slot>>,
    marks: &Marks,
    chains: &Chains,
) -> Result<Attached, Failure> {
    let (mut next, mut reigns) = (BTreeMap::new(), BTreeMap::new());
    let mut left_out = LeftOut::default();
    for (partition, slot) in slots {
        let Some(mark) = marks.get(partition) else {
            // It knows of another home so far. Once it has learnt of this one it ends the stream.
            left_out.unknown += 1;
            continue;
        };
        let region = link.region();
        node.driver.input(
            slot,
            Input::CopyAttached {
                region,
                received_upto: mark.received_upto,
                durable_upto: mark.durable_upto,
                epoch: mark.epoch,
                chain: mark.chain.unwrap_or_default(),
                own_chain: chains.get(partition).copied().flatten(),
                log_start: node.store.log_start(*partition),
            },
        );
        let reign = slot.epoch().map(|epoch| (Arc::clone(slot), epoch));
        reigns.extend(reign.map(|reign| (*partition, reign)));
        match slot.standing(region) {
            Some(Standing::Diverged) => {
                check_set_back(node, slot, mark);
                left_out.diverged += 1;
                left_out.forked.extend(forked(node, slot, mark));
            }
            Some(Standing::Behind) => left_out.behind.push(*partition),
            _ if mark.is_damaged => left_out.behind.push(*partition),
            _ => {
                slot.keep_all(region);
                if let Some(reign) = slot.epoch() {
                    let from = mark.received_upto.next();
                    next.insert(*partition, ShipNext { from, reign });
                }
            }
        }
    }
    link.update(|status| {
        status.connected = true;
        status.last_error = left_out.text();
    });
    tell_watermarks(link, slots);
    let shipped = match left_out.is_empty() {
        true => Shipped::All,
        false => Shipped::Some,
    };
    let cursor = ShipCursor::new(&node.store, next, shipped);
    let LeftOut { behind, forked, .. } = left_out;
    Ok(Attached {
        cursor,
        reigns,
        behind,
        forked,
    })
}

/// A copy that restarted knows only the watermarks that segments carried; one that was on its way
/// when the last stream broke is lost. So every stream begins with all of them.
fn tell_watermarks(link: &PeerLink, slots: &BTreeMap<PartitionId, Arc<Slot>>) {
    for (partition, slot) in slots {
        if let Some((epoch, visible_upto)) = slot.watermark()
            && slot.keyspace().ack != AckLevel::Async
        {
            link.ship.watermark(*partition, epoch, visible_upto);
        }
    }
}

/// What tells a copy of an older reign where its log leaves this home's.
fn forked(node: &NodeCore, slot: &Slot, mark: &HeldMark) -> Option<v1::Forked> {
    // Where homes are static no change of home explains it: this one was restored from a backup, or
    // has lost its disk, and the copies may have what it lost.
    node.plane.as_ref()?;
    let own = slot.epoch()?;
    // One of this reign or a later one is not explained by a change of home: nothing is cut then.
    if mark.epoch.is_none_or(|epoch| epoch >= own) {
        return None;
    }
    let mut reigns = Vec::new();
    let mut last_seq = Seq::NONE;
    // A home that has nothing so far has no log either: all that the copy has is beyond the fork.
    if let Some(tail) = node.store.tail(slot.partition) {
        last_seq = tail.last_seq;
        reigns = tail.epoch_history;
    }
    if reigns.last().is_none_or(|(epoch, _)| *epoch < own) {
        // Its mark is not durable yet.
        reigns.push((own, last_seq.next()));
    }
    let reign = |(epoch, first_seq): (Epoch, Seq)| v1::Reign {
        epoch_counter: epoch.counter,
        epoch_node: epoch.node.get(),
        first_seq: first_seq.get(),
    };
    Some(v1::Forked {
        partition: Bytes::copy_from_slice(&slot.partition.to_bytes()),
        reigns: reigns.into_iter().map(reign).collect(),
        last_seq: last_seq.get(),
    })
}

/// Whether a copy shows that this home has lost what it once had on disk: it has more of this very
/// reign, or it follows a reign that was before the first one here. Whatever the home would write
/// now, it would write in the same places again.
fn check_set_back(node: &NodeCore, slot: &Slot, mark: &HeldMark) {
    let own = slot.held_mark();
    let (has, had) = (own.durable_upto, mark.durable_upto);
    let damage = match (own.epoch, mark.epoch) {
        (Some(own), Some(copy)) if own == copy && had > has => {
            format!("set back: it ends at {has}, a copy has what it wrote up to {had}")
        }
        (Some(own), Some(copy)) if own != copy && own.counter == FIRST_REIGN => {
            format!("its directory is new: a copy has {had} records of the reign {copy}")
        }
        _ => return,
    };
    node.driver.quarantine(slot, &damage);
}

/// Partitions that a copy is not shipped.
#[derive(Debug, Default)]
struct LeftOut {
    /// The peer does not know that this node is their home.
    unknown: usize,
    /// It has records that this home never wrote.
    diverged: usize,
    /// Of those, the ones that it can mend by itself.
    forked: Vec<v1::Forked>,
    /// What they lack was cut from the journal, or they are damaged: they get snapshots.
    behind: Vec<PartitionId>,
}

impl LeftOut {
    fn is_empty(&self) -> bool {
        self.unknown == 0 && self.diverged == 0 && self.behind.is_empty()
    }

    fn text(&self) -> String {
        let mut texts = Vec::new();
        if self.unknown > 0 {
            let unknown = self.unknown;
            texts.push(format!("{unknown} partitions have another home there"));
        }
        if self.diverged > 0 {
            let diverged = self.diverged;
            texts.push(format!(
                "{diverged} partitions there do not follow this home's log"
            ));
        }
        if !self.behind.is_empty() {
            let behind = self.behind.len();
            texts.push(format!("{behind} partitions there need a snapshot"));
        }
        texts.join("; ")
    }
}
