//! I15: once the trouble is over there is one home a partition, all copies are equal, and callers
//! are served.
//!
//! **Owns**: that, and saying what stands in its way.
//! **Does not own**: how long it may take (`plan`).

use domicile_core::control::ControlMap;
use domicile_proto::{PartitionId, Seq};

use crate::clients::Client;
use crate::node::Process;
use crate::plan::index_of_node;
use crate::scene::Scene;

pub(crate) fn check(
    map: &ControlMap,
    processes: &[&Process],
    clients: &[Client],
    scene: &mut Scene,
) {
    let mut problems = Vec::new();
    for (partition, assignment) in map.assignments() {
        let home = index_of_node(assignment.home);
        if assignment.moving_to.is_some() {
            problems.push(format!("{partition:?} is still handed on: {assignment:?}"));
        }
        if assignment.lost.is_some() {
            problems.push(format!("{partition:?} has no home: {assignment:?}"));
            continue;
        }
        if map.is_outdated(partition, assignment) {
            problems.push(format!(
                "{partition:?} does not go by the last alteration: {assignment:?}"
            ));
        }
        let regions = map.keyspace(partition.keyspace).map(|it| &it.regions);
        let holders = processes
            .iter()
            .filter(|process| regions.is_some_and(|it| it.contains(&process.host.region)));
        for process in holders {
            problems.extend(differs(process, processes[home], partition));
        }
        let core = &processes[home].slots.get(&partition);
        let is_home =
            core.is_some_and(|it| it.is_home && it.core.epoch() == Some(assignment.epoch));
        if !is_home {
            problems.push(format!(
                "{partition:?}: n{home} does not know that it is home"
            ));
        }
    }
    if clients.iter().any(Client::is_busy) {
        problems.push("callers are not served".to_owned());
    }
    if let Some(problem) = problems.into_iter().next() {
        scene.fail("I15 liveness", problem);
    }
}

fn differs(process: &Process, home: &Process, partition: PartitionId) -> Option<String> {
    let node = process.host.index;
    let Some(slot) = process.slots.get(&partition) else {
        return Some(format!("{partition:?} is not known at n{node}"));
    };
    let is_home = node == home.host.index;
    if slot.is_home != is_home {
        return Some(format!("{partition:?} has two homes, or none: n{node}"));
    }
    let end = |process: &Process| {
        let tail = process.store.tail(partition);
        tail.map_or((Seq::NONE, None), |tail| (tail.last_seq, Some(tail.chain)))
    };
    let applied = |process: &Process| process.store.cells(partition).applied_upto();
    let (ends, applieds) = ((end(process), end(home)), (applied(process), applied(home)));
    if ends.0 != ends.1 || applieds.0 != applieds.1 || slot.is_damaged {
        return Some(format!(
            "{partition:?} at n{node} ends at {ends:?}, applied {applieds:?}, wound {:?}, intake \
             closed {}",
            process.store.wound(partition),
            slot.installing
        ));
    }
    None
}
