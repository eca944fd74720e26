//! The beginning of a stream: what the copy holds, compared with the own log.
//!
//! **Owns**: from which record on each partition is shipped, and which are left out.
//! **Does not own**: shipping (`ship`), how a copy stands (the core).

use std::collections::BTreeMap;

use domicile_core::{Input, Standing};
use domicile_proto::{PartitionId, Seq};

use super::process::Process;
use super::ship::{ShipNext, Stream};
use crate::packets::{Frame, HeldMark, HomeLog};
use crate::plan::region;
use crate::planted::{NodeBug, is_planted};
use crate::scene::Scene;

#[derive(Default)]
struct LeftOut {
    behind: Vec<PartitionId>,
    forked: Vec<HomeLog>,
}

impl Process {
    pub(super) fn on_copy_hello(
        &mut self,
        peer: usize,
        conn: u64,
        marks: &BTreeMap<PartitionId, HeldMark>,
        scene: &mut Scene,
    ) {
        if !self.is_conn(peer, conn) || self.out[&peer].stream.is_some() {
            return;
        }
        self.heard_copy(peer, conn, scene);
        let (mut next, mut reigns) = (BTreeMap::new(), BTreeMap::new());
        let mut left_out = LeftOut::default();
        for partition in self.out[&peer].dialled.clone() {
            let Some(mark) = marks.get(&partition) else {
                continue;
            };
            if !self.attach(peer, partition, mark, scene) {
                return self.end_stream(peer, false, scene);
            }
            let slot = &self.slots[&partition];
            if let Some(epoch) = slot.core.epoch() {
                reigns.insert(partition, epoch);
            }
            match slot.core.standing(region(peer)) {
                Some(Standing::Diverged) => left_out.forked.extend(self.forked(partition, mark)),
                Some(Standing::Behind) => left_out.behind.push(partition),
                _ if mark.is_damaged => left_out.behind.push(partition),
                _ => {
                    if let Some(reign) = slot.core.epoch() {
                        let from = mark.received_upto.next();
                        next.insert(partition, ShipNext { from, reign });
                    }
                }
            }
        }
        self.all_watermarks(peer);
        let stream = self.stream(next, reigns);
        if let Some(out) = self.out.get_mut(&peer) {
            out.stream = Some(stream);
        }
        if !left_out.behind.is_empty() {
            self.send_frame(peer, conn, Frame::NeedsSnapshot(left_out.behind));
        }
        for forked in left_out.forked {
            self.send_frame(peer, conn, Frame::Forked(forked));
        }
    }

    /// Takes the copy's mark into the core; false if the disk does not say what our log has.
    fn attach(
        &mut self,
        peer: usize,
        partition: PartitionId,
        mark: &HeldMark,
        scene: &mut Scene,
    ) -> bool {
        let Ok(own_chain) = self.store.chain_at(partition, mark.received_upto) else {
            return false;
        };
        let input = Input::CopyAttached {
            region: region(peer),
            received_upto: mark.received_upto,
            durable_upto: mark.durable_upto,
            epoch: mark.epoch,
            chain: mark.chain.unwrap_or_default(),
            own_chain,
            log_start: self.store.log_start(partition),
        };
        self.input(partition, input, scene);
        true
    }

    fn stream(
        &self,
        next: BTreeMap<PartitionId, ShipNext>,
        reigns: BTreeMap<PartitionId, domicile_proto::Epoch>,
    ) -> Stream {
        let end = self.store.durable_end();
        let start = self.store.journal_start();
        let lacking = next
            .iter()
            .filter(|(id, next)| next.from <= self.last_seq(**id));
        let starts = lacking.map(|(id, next)| self.store.locate(*id, next.from).unwrap_or(start));
        let place = starts.min().unwrap_or(end).min(end);
        Stream {
            place,
            next,
            reigns,
        }
    }

    /// What tells a copy of an older reign where its log leaves this home's.
    fn forked(&self, partition: PartitionId, mark: &HeldMark) -> Option<HomeLog> {
        let own = self.slots[&partition].core.epoch()?;
        if mark.epoch.is_none_or(|epoch| epoch >= own) {
            return None;
        }
        let mut reigns = Vec::new();
        let mut last_seq = Seq::NONE;
        if let Some(tail) = self.store.tail(partition) {
            last_seq = tail.last_seq;
            reigns = tail.epoch_history;
        }
        if reigns.last().is_none_or(|(epoch, _)| *epoch < own) {
            reigns.push((own, last_seq.next()));
        }
        if is_planted(NodeBug::CutByWatermark) {
            // As if a log were a prefix whenever it is no longer.
            reigns.retain(|(epoch, _)| *epoch != own);
            let shown = mark.epoch.map(|epoch| vec![(epoch, Seq::FIRST)]);
            reigns = shown.unwrap_or(reigns);
            reigns.push((own, last_seq.next()));
        }
        Some(HomeLog {
            partition,
            reigns,
            last_seq,
        })
    }
}
