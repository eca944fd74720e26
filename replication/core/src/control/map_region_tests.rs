//! Tests of the map: regions that come, leave, and come back.

use domicile_proto::{Name, NodeId, RegionId};

use super::*;

fn region(id: u16) -> RegionId {
    RegionId::new(id).unwrap()
}

/// Three regions, one node each: 11, 12, 13.
fn cluster() -> ControlMap {
    let mut map = ControlMap::default();
    for id in 1..=3 {
        map.apply(&add_region(id, None, false)).unwrap();
        let (node, region) = (NodeId::new(10 + u64::from(id)).unwrap(), region(id));
        map.apply(&Command::AddNode { node, region }).unwrap();
    }
    map
}

fn refusal(map: &mut ControlMap, command: &Command) -> String {
    map.apply(command).unwrap_err().to_string()
}

fn add_region(id: u16, address: Option<&str>, is_return: bool) -> Command {
    Command::AddRegion {
        region: region(id),
        name: Name::new(format!("r{id}")).unwrap(),
        is_witness: false,
        peer_address: address.map(str::to_owned),
        is_return,
    }
}

/// Every node is told of regions by its own configuration, which may be older than the removal.
#[test]
fn a_region_that_was_removed_comes_back_only_by_word() {
    let mut map = cluster();
    map.apply(&Command::RemoveRegion { region: region(3) })
        .unwrap();
    assert_eq!((map.voters(), map.has_left(region(3))), (2, true));
    assert!(map.live_nodes().all(|(_, at)| at != region(3)));
    let refused = refusal(&mut map, &add_region(3, None, false));
    assert_eq!(refused, format!("region {} was removed", region(3)));
    let (region, node) = (region(3), NodeId::new(23).unwrap());
    let refused = refusal(&mut map, &Command::AddNode { node, region });
    assert!(refused.contains("not of this cluster"), "{refused}");
    map.apply(&add_region(3, Some("far:1"), true)).unwrap();
    assert_eq!((map.voters(), map.has_left(region)), (3, false));
    map.apply(&Command::AddNode { node, region }).unwrap();
}

/// The region itself does not know how the others reach it.
#[test]
fn the_address_of_a_region_is_learned_once() {
    let mut map = cluster();
    let exists = format!("region {} exists", region(1));
    assert_eq!(refusal(&mut map, &add_region(1, None, false)), exists);
    map.apply(&add_region(1, Some("near:1"), false)).unwrap();
    let other = add_region(1, Some("far:1"), true);
    assert_eq!(refusal(&mut map, &other), exists);
    let (_, found) = map.regions().next().unwrap();
    assert_eq!(found.peer_address.as_deref(), Some("near:1"));
}

#[test]
fn the_last_region_stays() {
    let mut map = cluster();
    for id in [1, 2] {
        map.apply(&Command::RemoveRegion { region: region(id) })
            .unwrap();
    }
    let refused = refusal(&mut map, &Command::RemoveRegion { region: region(3) });
    assert!(refused.ends_with("the only one"), "{refused}");
}
