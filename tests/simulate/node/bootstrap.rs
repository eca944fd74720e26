//! A snapshot of the home in place of what a partition is here.
//!
//! **Owns**: fetching what is wanted, sending it, the order of installing it in store and core.
//! **Does not own**: finding out that one is needed (`rejoin`, `receive`), the files (storage).

use bytes::Bytes;
use domicile_core::Input;
use domicile_proto::{PartitionId, Position, Seq};
use domicile_storage::{SnapshotHeader, SnapshotPlan, StoreError};

use super::process::Process;
use crate::network::REGIONS;
use crate::packets::Body;
use crate::plan::{index_of, index_of_node};
use crate::scene::Scene;

/// Requests that a snapshot keeps: all of a run.
const REQUESTS_MAX: usize = 65_536;

impl Process {
    pub(super) fn fetch_wanted(&mut self, scene: &mut Scene) {
        for (partition, seq_min) in self.wanted.clone() {
            let Some(slot) = self.slots.get(&partition).filter(|slot| !slot.is_home) else {
                continue;
            };
            let is_damaged = slot.is_damaged;
            let home = self.home_by_map(partition);
            let source = self.source_of(home);
            let is_home = source == home;
            let received = self.store.received_snapshot(partition);
            if received.is_some_and(|it| it.seq >= seq_min || is_damaged) {
                self.install(partition, scene);
                continue;
            }
            let (process, reign) = (self.number, self.reign_of(partition));
            if let Some(slot) = self.slots.get_mut(&partition) {
                slot.healing = reign.filter(|_| is_home);
            }
            self.fetches += 1;
            self.send(
                source,
                Body::FetchSnapshot {
                    process,
                    partition,
                    seq_min,
                },
            );
        }
    }

    /// Who is asked for a snapshot: the home, then whoever else holds the partition, in turn.
    fn source_of(&self, home: usize) -> usize {
        let own = self.host.index;
        let others = (0..REGIONS).filter(|it| *it != home);
        let all = std::iter::once(home).chain(others);
        let all: Vec<usize> = all.filter(|it| *it != own).collect();
        all[(self.fetches % all.len() as u64) as usize]
    }

    /// Where its home is, as the map says: a damaged partition keeps the place that it was opened
    /// for.
    fn home_by_map(&self, partition: PartitionId) -> usize {
        let assignment = self.host.map.assignment(partition);
        let home = assignment.map(|it| index_of_node(it.home));
        home.unwrap_or_else(|| index_of(self.slots[&partition].home))
    }

    pub(super) fn send_snapshot(
        &mut self,
        (from, process): (usize, u64),
        partition: PartitionId,
        seq_min: Seq,
        scene: &mut Scene,
    ) {
        let is_served = self.slots.get(&partition).is_some_and(|it| !it.is_damaged);
        if !is_served {
            return;
        }
        let found = match self.store.tail(partition) {
            None => Ok(None),
            Some(_) => self.snapshot_from(partition, seq_min, scene),
        };
        self.hear_of_commits();
        let node = self.host.index;
        scene.note(|| {
            let header = found.as_ref().map(|it| it.as_ref().map(|it| it.0.seq));
            format!("n{node} {partition:?} snapshot of {seq_min} for n{from}: {header:?}")
        });
        let nothing = self.store.tail(partition).is_none();
        if let Ok(found) = found
            && (nothing || found.is_some())
        {
            let answer = Body::Snapshot {
                process,
                partition,
                found,
            };
            self.send(from, answer);
        }
    }

    fn snapshot_from(
        &mut self,
        partition: PartitionId,
        seq_min: Seq,
        scene: &Scene,
    ) -> Result<Option<(SnapshotHeader, Bytes)>, StoreError> {
        self.store.flush_once()?;
        let plan = SnapshotPlan {
            now_ms: self.wall_ms(scene),
            requests_max: REQUESTS_MAX,
        };
        self.store.snapshot(partition, plan, &mut |_| true)?;
        let outgoing = self.store.outgoing_snapshot(partition)?;
        let Some(outgoing) = outgoing.filter(|it| it.header().seq >= seq_min) else {
            return Ok(None);
        };
        let (header, first) = (*outgoing.header(), outgoing.first_offset());
        let bytes = outgoing.read(first, header.file_bytes as usize)?;
        Ok(Some((header, bytes)))
    }

    pub(super) fn take_snapshot(
        &mut self,
        from: usize,
        partition: PartitionId,
        found: Option<(SnapshotHeader, Bytes)>,
        scene: &mut Scene,
    ) {
        let home = match self.slots.get(&partition) {
            Some(slot) if !slot.is_home => self.home_by_map(partition),
            _ => return,
        };
        let Some(slot) = self.slots.get_mut(&partition) else {
            return;
        };
        if !self.wanted.contains_key(&partition) {
            return;
        }
        let Some((header, bytes)) = found else {
            if self.store.tail(partition).is_none() && from == home {
                // A copy that may have lost records has lost none: there are none.
                (slot.is_damaged, slot.installing) = (false, false);
                self.wanted.remove(&partition);
                self.say_hello_again(partition);
            }
            return;
        };
        // Another copy of before a reign that was promised does not stand for what was
        // acknowledged in it here.
        let promised = self.store.promised(partition);
        let is_present = from == home && self.reign_of(partition) >= promised;
        if Some(header.epoch) < promised && !is_present {
            return;
        }
        let write = || {
            let mut incoming = self.store.begin_incoming(header)?;
            incoming.write(&bytes)?;
            self.store.finish_incoming(incoming)
        };
        let written = write();
        let node = self.host.index;
        scene.note(|| format!("n{node} {partition:?} received a snapshot: {written:?}"));
        if written.is_ok() {
            let reign = self.reign_of(partition);
            if let Some(slot) = self.slots.get_mut(&partition) {
                // Asked of the home that the map names now, or of nobody knows whom.
                slot.ahead_by = reign.filter(|_| slot.healing == reign);
            }
            self.install(partition, scene);
        }
    }

    fn install(&mut self, partition: PartitionId, scene: &mut Scene) {
        let Some(slot) = self.slots.get_mut(&partition) else {
            return;
        };
        slot.installing = true;
        if !slot.is_quiet() {
            // It is tried again; until then nothing is taken.
            return;
        }
        if slot.is_damaged
            && let (Some(epoch), seq) = (slot.core.epoch(), slot.core.appended_upto())
            && self
                .store
                .note_refilled(partition, Position { epoch, seq })
                .is_err()
        {
            return;
        }
        let node = self.host.index;
        if let Some(received) = self.store.received_snapshot(partition) {
            scene.truth.log(node, partition).installing = Some(received.seq);
        }
        let installed = self.store.install_received(partition);
        self.hear_of_commits();
        scene.note(|| format!("n{node} {partition:?} installed: {installed:?}"));
        let Ok(header) = installed else {
            return self.quarantine(partition, scene);
        };
        let SnapshotHeader {
            epoch, seq, chain, ..
        } = header;
        scene.truth.installed(node, partition, &self.store);
        let tail = self.store.tail(partition);
        let installed = Input::Installed {
            epoch,
            seq,
            chain,
            reigns: tail.map_or_else(Vec::new, |tail| tail.epoch_history),
        };
        self.installed(partition, installed, scene);
        self.wanted.remove(&partition);
        self.say_hello_again(partition);
    }
}
