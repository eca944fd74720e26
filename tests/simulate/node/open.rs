//! From a disk to a process.
//!
//! **Owns**: the order in which things start, so that nothing is served before it is recovered.
//! **Does not own**: recovery itself (storage), the seats of partitions (`seating`).

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use domicile_core::Moment;
use domicile_core::control::LeaseHolder;
use domicile_proto::{Hlc, PartitionId, Seq};
use domicile_storage::{EngineChoice, OnDamage, Store, StoreOptions};

use super::process::{Host, Process};
use super::seating::Seating;
use super::switchover::Switches;
use crate::network::REGIONS;
use crate::queue::Wake;
use crate::scene::Scene;

/// The directory on a disk in memory.
pub(crate) const DIR: &str = "/data";

/// What became of a machine that was switched on.
pub(crate) enum Opened {
    Up(Box<Process>),
    /// It died meanwhile, or the directory is refused.
    Down(Box<Host>, String),
}

impl Process {
    /// Opens the directory and begins.
    pub(crate) fn open(mut host: Host, scene: &mut Scene) -> Opened {
        host.processes += 1;
        let options = StoreOptions {
            node_id: Some(host.id),
            journal_file_bytes: 64 << 10,
            engine: EngineChoice::Given(Arc::clone(&host.engine) as _),
            on_damage: OnDamage::Quarantine,
            ..StoreOptions::default()
        };
        let disk = Arc::new(host.disk.clone());
        let (store, recovery) = match Store::open(disk, Path::new(DIR), options) {
            Ok(opened) => opened,
            Err(error) => return Opened::Down(Box::new(host), error.to_string()),
        };
        if !recovery.damaged.is_empty() || recovery.unknown_damage.is_some() {
            let (damaged, unknown) = (&recovery.damaged, &recovery.unknown_damage);
            let problem = format!("n{} opened with {damaged:?} {unknown:?}", host.index);
            scene.fail("I16 fail-stop", problem);
        }
        let ids: Vec<_> = recovery.partitions.iter().map(|it| it.partition).collect();
        if let Err(problem) = scene.truth.reopened(host.index, &store, &ids, scene.now_us) {
            scene.fail("I1 ack truth", problem);
        }
        let started_us = host.clocks.boot_us(scene.now_us);
        let mut process = Self {
            number: host.processes,
            started_us,
            store,
            slots: BTreeMap::new(),
            hlc: Hlc::ZERO,
            lease_until: Moment::START,
            holder: LeaseHolder::default(),
            applied_version: 0,
            queued: None,
            is_committing: false,
            is_poisoned: false,
            out: BTreeMap::new(),
            incoming: BTreeMap::new(),
            lead: None,
            pending: Vec::new(),
            seating: Seating::default(),
            switches: Switches::default(),
            promising: VecDeque::new(),
            rejoins: Vec::new(),
            wanted: BTreeMap::new(),
            fetches: 0,
            is_polled: false,
            outbox: Vec::new(),
            host,
        };
        process.begin(scene);
        Opened::Up(Box::new(process))
    }

    fn begin(&mut self, scene: &mut Scene) {
        // Which of the map's commands are known again at once is up to what the log remembers.
        let (now_us, applied) = (scene.now_us, self.host.applied as u64);
        let applied = match scene.chance.percent(50) {
            true => applied,
            false => scene.chance.below(applied + 1),
        };
        self.restart_consensus(now_us, applied as usize, scene);
        let own = self.host.index;
        for peer in (0..REGIONS).filter(|peer| *peer != own) {
            self.begin_shipping(peer, scene);
        }
        self.begin_seating(scene);
        for what in [Wake::Lease, Wake::Lead, Wake::Consensus] {
            let us = scene.chance.below(5_000);
            self.wake_in(us, what, scene);
        }
        let us = scene.chance.below(scene.plan.flush_us);
        self.wake_in(us, Wake::Flush, scene);
        self.wake_in(1_000, Wake::Mend, scene);
    }

    /// Where a partition's log ends on disk.
    pub(super) fn last_seq(&self, partition: PartitionId) -> Seq {
        let tail = self.store.tail(partition);
        tail.map_or(Seq::NONE, |tail| tail.last_seq)
    }
}
