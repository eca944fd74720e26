//! The end of a run: what is still to be shown to work, and all that is looked at last.
//!
//! **Owns**: the order of the last checks.
//! **Does not own**: the checks (`invariants`).

use std::path::Path;
use std::sync::Arc;

use domicile_core::control::ControlMap;
use domicile_proto::PartitionId;
use domicile_storage::engine::MemoryEngine;
use domicile_storage::{EngineChoice, OnDamage, Store, StoreOptions};

use crate::clients::{Freshness, Kind, Op};
use crate::invariants::{ack_truth, liveness, once, reads, state_is_fold, tail_kept};
use crate::node::{DIR, Process};
use crate::plan::{Mode, index_of_node};
use crate::queue::Event;
use crate::scene::Scene;
use crate::world::{Machine, World};

/// Every partition is to take a write and answer a read once the trouble is over.
pub(crate) fn set_agenda(world: &mut World) {
    let plan = Arc::clone(&world.scene.plan);
    let client = &mut world.clients[0];
    let mut seen: Vec<PartitionId> = Vec::new();
    for (keyspace, key) in &plan.keys {
        let partition = plan.keyspaces[*keyspace].partition_of(key);
        if seen.contains(&partition) {
            continue;
        }
        seen.push(partition);
        for kind in [
            Kind::Put(bytes::Bytes::from("probe")),
            Kind::Read(Freshness::Home),
        ] {
            let request_id = client.new_id();
            client.agenda.push(Op {
                partition,
                key: key.clone(),
                kind,
                request_id,
                level: None,
                is_probe: true,
            });
        }
    }
    client.begin_agenda(&mut world.scene);
}

/// All that is looked at last.
pub(crate) fn judge(world: &mut World) {
    let mut processes: Vec<&Process> = Vec::new();
    for machine in &world.machines {
        match machine {
            Machine::On(process) => processes.push(process),
            Machine::Off(_) | Machine::Nowhere => {
                let problem = "a machine is off in the end".to_owned();
                return world.scene.fail("I15 liveness", problem);
            }
        }
    }
    let newest = processes.iter().map(|process| &process.host.map);
    let map = newest.max_by_key(|map| map.version()).map(Arc::clone);
    let map: Arc<ControlMap> = map.unwrap_or_default();
    let scene = &mut world.scene;
    let home_of = |partition| map.assignment(partition).map(|it| index_of_node(it.home));
    ack_truth::check(home_of, scene);
    for (partition, assignment) in map.assignments() {
        let home = index_of_node(assignment.home);
        if let Some(tail) = processes[home].store.tail(partition) {
            once::check(partition, &tail.epoch_history, tail.last_seq, scene);
        }
        for (node, process) in processes.iter().enumerate() {
            state_is_fold::check(node, partition, &process.store, scene);
            tail_kept::cut(node, partition, &process.store, scene);
        }
    }
    reads::check(scene);
    for process in &processes {
        rebuild(process, &map, scene);
    }
    if scene.plan.mode == Mode::Liveness {
        liveness::check(&map, &processes, &world.clients, scene);
    }
}

/// Without its engine a node comes to the same cells.
fn rebuild(process: &Process, map: &ControlMap, scene: &mut Scene) {
    let options = StoreOptions {
        node_id: Some(process.host.id),
        engine: EngineChoice::Given(Arc::new(MemoryEngine::new())),
        on_damage: OnDamage::Quarantine,
        ..StoreOptions::default()
    };
    let disk = Arc::new(process.host.disk.crash());
    let node = process.host.index;
    let store = match Store::open(disk, Path::new(DIR), options) {
        Ok((store, _)) => store,
        Err(error) => return scene.fail("I7 state = fold(log)", format!("n{node}: {error}")),
    };
    for (partition, _) in map.assignments() {
        let upto = process.store.cells(partition).applied_upto();
        store.cells(partition).advance(upto);
        state_is_fold::check(node, partition, &store, scene);
    }
}

impl crate::clients::Client {
    fn begin_agenda(&mut self, scene: &mut Scene) {
        let (client, wake) = self.wakes();
        scene.after(1_000, Event::Client { client, wake });
    }
}
