//! Tests of the map: each refusal, and that no two homes ever share a reign.

use std::collections::BTreeMap;

use domicile_proto::{AckLevel, Epoch, Keyspace, Name, NodeId, OnTimeout, PartitionId, RegionId};
use proptest::prelude::*;

use super::*;

fn region(id: u16) -> RegionId {
    RegionId::new(id).unwrap()
}

fn node(id: u64) -> NodeId {
    NodeId::new(id).unwrap()
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn keyspace(text: &str, regions: &[u16], ack: AckLevel) -> Keyspace {
    let regions: Vec<RegionId> = regions.iter().copied().map(region).collect();
    let home = regions[0];
    Keyspace {
        ack,
        ..Keyspace::new(name(text), regions, home)
    }
}

/// Three regions of which the third is a witness if asked, one node each: 11, 12, 13.
fn cluster(has_witness: bool) -> ControlMap {
    let mut map = ControlMap::default();
    for id in 1..=3 {
        map.apply(&Command::AddRegion {
            region: region(id),
            name: name(&format!("r{id}")),
            is_witness: has_witness && id == 3,
            peer_address: None,
            is_return: false,
        })
        .unwrap();
        map.apply(&Command::AddNode {
            node: node(10 + u64::from(id)),
            region: region(id),
        })
        .unwrap();
    }
    map
}

fn create(map: &mut ControlMap, keyspace: Keyspace) -> PartitionId {
    let partition = keyspace.partitions()[0];
    map.apply(&Command::CreateKeyspace(Box::new(keyspace)))
        .unwrap();
    partition
}

/// The command that ends a takeover, which is begun here.
fn take_over(map: &mut ControlMap, partition: PartitionId, to: u64, evidence: Evidence) -> Command {
    let assignment = map.assignment(partition).unwrap();
    let from = assignment.epoch;
    if assignment.lost.is_none() {
        let lost = Lost::default();
        map.apply(&Command::BeginTakeOver {
            partition,
            from,
            lost,
        })
        .unwrap();
    }
    Command::TakeOver {
        partition,
        from,
        to: node(to),
        evidence,
        decision: Decision::default(),
    }
}

fn refusal(map: &mut ControlMap, command: &Command) -> String {
    let before = map.clone();
    let refused = map.apply(command).unwrap_err().to_string();
    assert_eq!(*map, before, "a refused command changes nothing");
    refused
}

#[test]
fn a_keyspace_begins_at_the_nodes_of_its_regions() {
    let mut map = cluster(true);
    let partition = create(&mut map, keyspace("users", &[1, 2], AckLevel::Async));
    let found = map.assignment(partition).unwrap();
    assert_eq!((found.home, found.epoch.counter), (node(11), 1));
    assert_eq!(found.epoch.node, node(11));
    let again = Command::CreateKeyspace(Box::new(keyspace("users", &[1], AckLevel::Async)));
    assert_eq!(refusal(&mut map, &again), "keyspace users exists");
    let at_witness = keyspace("more", &[1, 3], AckLevel::Async);
    let refused = refusal(&mut map, &Command::CreateKeyspace(Box::new(at_witness)));
    assert!(refused.ends_with("a witness holds no data"), "{refused}");
    let refused = refusal(&mut map, &Command::RemoveRegion { region: region(2) });
    assert!(refused.contains("holds keyspace users"), "{refused}");
}

#[test]
fn of_two_takeovers_of_one_reign_one_counts() {
    let mut map = cluster(false);
    let partition = create(&mut map, keyspace("users", &[1, 2, 3], AckLevel::Async));
    let first = take_over(&mut map, partition, 12, Evidence::LeaseRanOut);
    let second = take_over(&mut map, partition, 13, Evidence::LeaseRanOut);
    map.apply(&first).unwrap();
    let refused = refusal(&mut map, &second);
    assert!(refused.contains("is in 2@"), "{refused}");
    // Said twice, as after a lost answer, it is refused too, and the map says who is home.
    let refused = refusal(&mut map, &first);
    assert!(refused.contains("by now"), "{refused}");
    let found = map.assignment(partition).unwrap();
    assert_eq!((found.home, found.epoch.counter), (node(12), 2));
}

#[test]
fn a_home_that_may_still_acknowledge_is_not_succeeded() {
    let operator = |is_fenced, accepts_split_brain| Evidence::Operator {
        is_fenced,
        accepts_split_brain,
    };
    let by = |regions: &[u16]| Evidence::AcksRevoked {
        by: regions.iter().copied().map(region).collect(),
    };
    let quorum = AckLevel::Sync {
        quorum: std::num::NonZeroU8::new(2),
    };
    // Level, evidence, whether node 12 may take over from node 11 in region 1.
    let cases = [
        (AckLevel::Async, Evidence::LeaseRanOut, true),
        (AckLevel::Async, by(&[2, 3]), false),
        (AckLevel::Async, operator(false, false), false),
        (AckLevel::Async, operator(true, false), true),
        (AckLevel::Async, operator(false, true), true),
        (AckLevel::SYNC, Evidence::LeaseRanOut, false),
        (AckLevel::SYNC, by(&[]), false),
        (AckLevel::SYNC, by(&[2]), true),
        (AckLevel::SYNC, by(&[3]), false),
        (quorum, by(&[2]), false),
        (quorum, by(&[2, 2]), false),
        (quorum, by(&[1, 2]), false),
        (quorum, by(&[2, 3]), true),
        (AckLevel::SEMI_SYNC, by(&[2]), false),
        (AckLevel::SEMI_SYNC, by(&[2, 3]), true),
    ];
    for (ack, evidence, is_fenced) in cases {
        let mut map = cluster(false);
        let partition = create(&mut map, keyspace("users", &[1, 2, 3], ack));
        let command = take_over(&mut map, partition, 12, evidence.clone());
        match is_fenced {
            true => map.apply(&command).unwrap(),
            false => drop(refusal(&mut map, &command)),
        }
        let expected = if is_fenced { 12 } else { 11 };
        let found = map.assignment(partition).unwrap().home;
        assert_eq!(found, node(expected), "{ack}: {evidence:?}");
    }
}

#[test]
fn two_regions_need_an_operator_unless_their_level_fences() {
    let mut map = ControlMap::default();
    for id in 1..=2 {
        let (region, name) = (region(id), name(&format!("r{id}")));
        let is_witness = false;
        map.apply(&Command::AddRegion {
            region,
            name,
            is_witness,
            peer_address: None,
            is_return: false,
        })
        .unwrap();
        let node = node(10 + u64::from(id));
        map.apply(&Command::AddNode { node, region }).unwrap();
    }
    let partition = create(&mut map, keyspace("users", &[1, 2], AckLevel::Async));
    let by_lease = take_over(&mut map, partition, 12, Evidence::LeaseRanOut);
    let refused = refusal(&mut map, &by_lease);
    assert!(refused.contains("have no lease"), "{refused}");
    let partition = create(&mut map, keyspace("paid", &[1, 2], AckLevel::SYNC));
    let by = vec![region(2)];
    let by_acks = take_over(&mut map, partition, 12, Evidence::AcksRevoked { by });
    map.apply(&by_acks).unwrap();
}

#[test]
fn residency_binds_whoever_takes_over() {
    let mut map = cluster(false);
    let partition = create(&mut map, keyspace("users", &[1, 2], AckLevel::Async));
    let outside = take_over(&mut map, partition, 13, Evidence::LeaseRanOut);
    let refused = refusal(&mut map, &outside);
    assert!(refused.contains("may not hold the keyspace"), "{refused}");
    let unknown = take_over(&mut map, partition, 99, Evidence::LeaseRanOut);
    assert!(refusal(&mut map, &unknown).contains("not of this cluster"));
}

fn commit(partition: PartitionId, from: Epoch, to: NodeId) -> Command {
    Command::CommitSwitchover {
        partition,
        from,
        to,
        revision: None,
    }
}

fn abort(partition: PartitionId, from: Epoch, to: NodeId) -> Command {
    Command::AbortSwitchover {
        partition,
        from,
        to,
    }
}

#[test]
fn a_switchover_is_begun_and_ended_once() {
    let mut map = cluster(false);
    let partition = create(&mut map, keyspace("users", &[1, 2, 3], AckLevel::Async));
    let from = map.assignment(partition).unwrap().epoch;
    let begin = |to| Command::BeginSwitchover {
        partition,
        from,
        to: node(to),
    };
    let commit = |to| commit(partition, from, node(to));
    let abort = |to| abort(partition, from, node(to));
    assert!(refusal(&mut map, &commit(12)).contains("no switchover is under way"));
    (0..2).for_each(|_| map.apply(&begin(12)).unwrap());
    assert!(refusal(&mut map, &begin(13)).contains("another switchover"));
    map.apply(&abort(12)).unwrap();
    assert!(refusal(&mut map, &abort(12)).contains("no switchover is under way"));
    map.apply(&begin(13)).unwrap();
    // What was called off comes to its end late, and is not this one.
    for late in [commit(12), abort(12)] {
        assert!(refusal(&mut map, &late).contains("being handed to another node"));
    }
    let commit = commit(13);
    map.apply(&commit).unwrap();
    let found = map.assignment(partition).unwrap();
    assert_eq!((found.home, found.epoch.counter), (node(13), 2));
    assert_eq!(found.moving_to, None);
    assert!(refusal(&mut map, &commit).contains("by now"));
    // A home that is lost while it drains is succeeded by anybody who may.
    let from = found.epoch;
    let to = node(11);
    map.apply(&Command::BeginSwitchover {
        partition,
        from,
        to,
    })
    .unwrap();
    let lost = take_over(&mut map, partition, 12, Evidence::LeaseRanOut);
    map.apply(&lost).unwrap();
    let found = map.assignment(partition).unwrap();
    // Two up: node 11 may have begun the reign between by itself.
    assert_eq!((found.moving_to, found.epoch.counter), (None, 4));
}

#[test]
fn a_home_is_given_up_before_it_is_succeeded() {
    let mut map = cluster(false);
    let partition = create(&mut map, keyspace("users", &[1, 2, 3], AckLevel::Async));
    let from = map.assignment(partition).unwrap().epoch;
    let command = Command::TakeOver {
        partition,
        from,
        to: node(12),
        evidence: Evidence::LeaseRanOut,
        decision: Decision::default(),
    };
    assert!(refusal(&mut map, &command).contains("is not given up"));
    let lost = Lost {
        word: None,
        heard_ms: 1000,
        noticed_ms: 2500,
    };
    let begin = Command::BeginTakeOver {
        partition,
        from,
        lost,
    };
    map.apply(&begin).unwrap();
    assert!(refusal(&mut map, &begin).contains("being given up already"));
    let moving = Command::BeginSwitchover {
        partition,
        from,
        to: node(12),
    };
    assert!(refusal(&mut map, &moving).contains("is being given up"));
    // It came back in time: it goes on, in a reign of its own.
    let back = take_over(&mut map, partition, 11, Evidence::HomePromised);
    map.apply(&back).unwrap();
    let found = map.assignment(partition).unwrap();
    assert_eq!(
        (found.home, found.epoch.counter, found.lost),
        (node(11), 2, None)
    );
    let note = |note| Command::Note {
        partition,
        epoch: found.epoch,
        note,
    };
    map.apply(&note(Note::Opened { at_ms: 4000 })).unwrap();
    map.apply(&note(Note::Opened { at_ms: 9000 })).unwrap();
    let orphaned = |node, records, is_home: bool| Note::Orphaned {
        node,
        records,
        bytes: 100 * records,
        lost: is_home.then_some((records - 1, 90 * records)),
    };
    map.apply(&note(orphaned(node(12), 3, false))).unwrap();
    map.apply(&note(orphaned(node(11), 5, true))).unwrap();
    let change = map.history().iter().next_back().unwrap();
    assert_eq!(change.actual, Some((4, 450)));
    assert_eq!(change.orphaned.len(), 2);
    let times = change.times().unwrap();
    assert_eq!(times.detect.as_millis(), 1500);
    assert_eq!((times.promote.as_millis(), times.route), (4000, None));
}

#[test]
fn what_says_where_keys_are_cannot_be_altered() {
    let mut map = cluster(false);
    let partition = create(&mut map, keyspace("users", &[1, 2, 3], AckLevel::Async));
    alter(&mut map, &keyspace("users", &[1, 2, 3], AckLevel::SYNC));
    let alter = |keyspace| alteration(keyspace, 2);
    let found = map.keyspace(partition.keyspace).unwrap();
    assert_eq!(found.ack, AckLevel::SYNC);
    let refused = refusal(&mut map, &alter(keyspace("users", &[1, 2], AckLevel::SYNC)));
    assert!(
        refused.contains("behind them cannot be altered"),
        "{refused}"
    );
    let refused = refusal(
        &mut map,
        &alter(keyspace("others", &[1, 2], AckLevel::SYNC)),
    );
    assert!(refused.contains("no keyspace"), "{refused}");
    renew(&mut map, partition);
    let by = vec![region(2)];
    take_over(&mut map, partition, 12, Evidence::AcksRevoked { by });
    let refused = refusal(
        &mut map,
        &alter(keyspace("users", &[1, 2, 3], AckLevel::Async)),
    );
    assert!(refused.contains("its home is changing"), "{refused}");
}

#[test]
fn a_node_that_lost_its_disk_returns_under_a_new_identity() {
    let mut map = cluster(false);
    let partition = create(&mut map, keyspace("users", &[1, 2, 3], AckLevel::Async));
    let retire = Command::RetireNode { node: node(11) };
    assert!(refusal(&mut map, &retire).contains("is home of"));
    let lost = take_over(&mut map, partition, 12, Evidence::LeaseRanOut);
    for partition in map.clone().assignments().map(|(id, _)| id) {
        let lost = take_over(&mut map, partition, 12, Evidence::LeaseRanOut);
        map.apply(&lost).unwrap();
    }
    assert!(refusal(&mut map, &lost).contains("by now"));
    map.apply(&retire).unwrap();
    let known = Command::AddNode {
        node: node(11),
        region: region(1),
    };
    assert!(refusal(&mut map, &known).contains("under a new identity"));
    let back = take_over(&mut map, partition, 11, Evidence::LeaseRanOut);
    assert!(refusal(&mut map, &back).contains("retired"));
    let fresh = Command::AddNode {
        node: node(21),
        region: region(1),
    };
    map.apply(&fresh).unwrap();
    let back = take_over(&mut map, partition, 21, Evidence::LeaseRanOut);
    map.apply(&back).unwrap();
    assert_eq!(map.assignment(partition).unwrap().epoch.node, node(21));
}

#[test]
fn a_home_that_degrades_is_not_fenced_by_its_copies() {
    let mut map = cluster(false);
    let degrading = Keyspace {
        on_timeout: OnTimeout::Degrade,
        ..keyspace("users", &[1, 2, 3], AckLevel::SYNC)
    };
    let partition = create(&mut map, degrading);
    let by = vec![region(2), region(3)];
    let by_acks = take_over(&mut map, partition, 12, Evidence::AcksRevoked { by });
    let refused = refusal(&mut map, &by_acks);
    assert!(
        refused.contains("acknowledges without its copies"),
        "{refused}"
    );
}

fn command() -> impl Strategy<Value = Command> {
    let partitions = keyspace("a", &[1, 2, 3], AckLevel::Async).partitions();
    let others = keyspace("b", &[2, 1], AckLevel::SYNC).partitions();
    let partitions = [&partitions[..2], &others[..2]].concat();
    let partition = prop::sample::select(partitions);
    let epoch = (1..5_u64, 10..25_u64);
    let epoch = epoch.prop_map(|(counter, id)| Epoch {
        counter,
        node: node(id),
    });
    let evidence = prop_oneof![
        Just(Evidence::LeaseRanOut),
        Just(Evidence::HomePromised),
        prop::collection::vec((1..4_u16).prop_map(region), 0..3)
            .prop_map(|by| Evidence::AcksRevoked { by }),
        any::<(bool, bool)>().prop_map(|(is_fenced, accepts_split_brain)| Evidence::Operator {
            is_fenced,
            accepts_split_brain
        }),
    ];
    let change = (partition, epoch, 10..25_u64, evidence, 0..5);
    let change = change.prop_map(|(partition, from, to, evidence, kind)| {
        let to = node(to);
        match kind {
            0 => Command::TakeOver {
                partition,
                from,
                to,
                evidence,
                decision: Decision::default(),
            },
            4 => Command::BeginTakeOver {
                partition,
                from,
                lost: Lost::default(),
            },
            1 => Command::BeginSwitchover {
                partition,
                from,
                to,
            },
            2 => commit(partition, from, to),
            _ => abort(partition, from, to),
        }
    });
    prop_oneof![
        8 => change,
        1 => (10..25_u64, 1..4_u16).prop_map(|(id, at)| Command::AddNode {
            node: node(id),
            region: region(at),
        }),
        1 => (10..25_u64).prop_map(|id| Command::RetireNode { node: node(id) }),
        1 => (1..5_u16).prop_map(|id| Command::RemoveRegion { region: region(id) }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// One home a reign, reigns that only grow, homes where the data may be and that are there.
    #[test]
    fn no_commands_make_two_homes_of_one_reign(
        commands in prop::collection::vec((command(), any::<bool>()), 1..60),
    ) {
        let mut map = cluster(false);
        create(&mut map, keyspace("a", &[1, 2, 3], AckLevel::Async));
        create(&mut map, keyspace("b", &[2, 1], AckLevel::SYNC));
        let mut reigns: BTreeMap<(PartitionId, Epoch), NodeId> = BTreeMap::new();
        for (mut command, is_current) in commands {
            // Half of them know the present epoch; otherwise hardly any would count.
            if let Command::TakeOver { partition, from, .. }
            | Command::BeginTakeOver { partition, from, .. }
            | Command::BeginSwitchover { partition, from, .. }
            | Command::CommitSwitchover { partition, from, .. }
            | Command::AbortSwitchover { partition, from, .. } = &mut command
                && is_current
            {
                *from = map.assignment(*partition).unwrap().epoch;
            }
            let before = map.clone();
            let applied = map.apply(&command);
            prop_assert_eq!(map.version(), before.version() + u64::from(applied.is_ok()));
            if applied.is_err() {
                prop_assert_eq!(&map, &before);
            }
            for (partition, found) in map.assignments() {
                let earlier = before.assignment(partition).unwrap();
                prop_assert!(found.epoch >= earlier.epoch);
                prop_assert!(found.epoch > earlier.epoch || found.home == earlier.home);
                let home = reigns.entry((partition, found.epoch)).or_insert(found.home);
                prop_assert_eq!(*home, found.home);
                prop_assert_eq!(found.epoch.node, found.home);
                let node = map.node(found.home).unwrap();
                prop_assert!(!node.is_retired);
                let keyspace = map.keyspace(partition.keyspace).unwrap();
                prop_assert!(keyspace.regions.contains(&node.region));
            }
        }
    }
}

fn alteration(keyspace: Keyspace, from: u64) -> Command {
    let keyspace = Box::new(keyspace);
    Command::AlterKeyspace { keyspace, from }
}

fn alter(map: &mut ControlMap, keyspace: &Keyspace) {
    let from = map.keyspace_version(keyspace.id()).unwrap();
    map.apply(&alteration(keyspace.clone(), from)).unwrap();
}

/// Puts the present policy of a partition's keyspace in force by new reigns of the same homes.
fn renew(map: &mut ControlMap, partition: PartitionId) {
    let keyspace = partition.keyspace;
    let all = map.assignments().filter(|(id, _)| id.keyspace == keyspace);
    let all: Vec<(PartitionId, Assignment)> = all.collect();
    assert!(all.iter().any(|(id, _)| *id == partition));
    for (partition, assignment) in all {
        map.apply(&map.renewal(partition, assignment).unwrap())
            .unwrap();
        let commit = commit(partition, assignment.epoch, assignment.home);
        map.apply(&commit).unwrap();
    }
}

#[test]
fn a_reign_goes_by_the_policy_that_it_began_with() {
    let mut map = cluster(false);
    let before = keyspace("users", &[1, 2, 3], AckLevel::Async);
    let partition = create(&mut map, before.clone());
    let after = keyspace("users", &[1, 2, 3], AckLevel::SYNC);
    alter(&mut map, &after);
    let assignment = map.assignment(partition).unwrap();
    assert_eq!(
        *map.policy(partition, assignment.revision).unwrap().keyspace,
        before
    );
    assert_eq!(map.keyspace(partition.keyspace), Some(&after));
    // The home may acknowledge by itself still: its copies' promises say nothing about it.
    let by = [2, 3].into_iter().map(region).collect();
    let revoked = take_over(
        &mut map.clone(),
        partition,
        12,
        Evidence::AcksRevoked { by },
    );
    let mut lost = map.clone();
    let waited = take_over(&mut lost, partition, 12, Evidence::LeaseRanOut);
    let refused = refusal(&mut lost, &revoked);
    assert!(refused.contains("without its copies"), "{refused}");
    lost.apply(&waited).unwrap();
    let present = map.present_policy(partition).unwrap().revision;
    assert_eq!(lost.assignment(partition).unwrap().revision, present);
    // One alteration after the other.
    let refused = refusal(&mut map, &alteration(before.clone(), 2));
    assert!(
        refused.contains("does not go by the last alteration"),
        "{refused}"
    );
    renew(&mut map, partition);
    let assignment = map.assignment(partition).unwrap();
    assert_eq!((assignment.home, assignment.epoch.counter), (node(11), 2));
    assert!(!map.is_outdated(partition, assignment));
    assert_eq!(map.history().iter().count(), 0, "its home is the same");
    alter(&mut map, &before);
}

#[test]
fn while_it_renews_itself_a_home_is_fenced_as_both_policies_ask() {
    let mut map = cluster(false);
    let partition = create(&mut map, keyspace("users", &[1, 2, 3], AckLevel::SYNC));
    alter(&mut map, &keyspace("users", &[1, 2, 3], AckLevel::Async));
    let assignment = map.assignment(partition).unwrap();
    map.apply(&map.renewal(partition, assignment).unwrap())
        .unwrap();
    let waited = take_over(&mut map, partition, 12, Evidence::LeaseRanOut);
    let refused = refusal(&mut map, &waited);
    assert!(refused.contains("have no lease"), "{refused}");
    let by = vec![region(2)];
    let both = take_over(&mut map, partition, 12, Evidence::AcksRevoked { by });
    map.apply(&both).unwrap();
    let found = map.assignment(partition).unwrap();
    assert_eq!(
        found.epoch.counter, 3,
        "above the reign that may have begun"
    );
}

#[test]
fn a_third_voter_brings_leases_with_the_next_reign() {
    let mut map = ControlMap::default();
    let add = |map: &mut ControlMap, id: u16| {
        let command = Command::AddRegion {
            region: region(id),
            name: name(&format!("r{id}")),
            is_witness: id == 3,
            peer_address: None,
            is_return: false,
        };
        map.apply(&command).unwrap();
    };
    for id in 1..=2 {
        add(&mut map, id);
        let command = Command::AddNode {
            node: node(10 + u64::from(id)),
            region: region(id),
        };
        map.apply(&command).unwrap();
    }
    let partition = create(&mut map, keyspace("users", &[1, 2], AckLevel::Async));
    add(&mut map, 3);
    // The home was opened without a lease: that it would have run out proves nothing.
    let mut lost = map.clone();
    let waited = take_over(&mut lost, partition, 12, Evidence::LeaseRanOut);
    let refused = refusal(&mut lost, &waited);
    assert!(refused.contains("have no lease"), "{refused}");
    renew(&mut map, partition);
    let waited = take_over(&mut map, partition, 12, Evidence::LeaseRanOut);
    map.apply(&waited).unwrap();
}

#[test]
fn who_may_succeed_is_altered_at_once_and_regions_grow_at_the_end() {
    let mut map = cluster(false);
    let before = keyspace("users", &[1, 2], AckLevel::Async);
    let partition = create(&mut map, before.clone());
    let read_only = Keyspace {
        failover: domicile_proto::Failover::ReadOnly,
        ..before.clone()
    };
    alter(&mut map, &read_only);
    assert!(!map.is_outdated(partition, map.assignment(partition).unwrap()));
    let more = keyspace("users", &[1, 2, 3], AckLevel::Async);
    alter(&mut map, &more);
    assert!(map.is_outdated(partition, map.assignment(partition).unwrap()));
    renew(&mut map, partition);
    let fewer = alteration(before, 3);
    let refused = refusal(&mut map, &fewer);
    assert!(
        refused.contains("its regions, but for new ones"),
        "{refused}"
    );
}

/// Of two who alter the same keyspace at once the later one is told so, whatever it is that they
/// alter: what it was made from is not there any more.
#[test]
fn an_alteration_holds_only_for_what_it_was_made_from() {
    let mut map = cluster(false);
    let before = keyspace("users", &[1, 2, 3], AckLevel::Async);
    let partition = create(&mut map, before.clone());
    let id = partition.keyspace;
    assert_eq!(map.keyspace_version(id), Some(1));
    let successors = |ids: &[u16]| Keyspace {
        successors: ids.iter().copied().map(region).collect(),
        ..before.clone()
    };
    let one = alteration(successors(&[3, 2]), 1);
    let other = alteration(successors(&[2, 3]), 1);
    map.apply(&one).unwrap();
    let refused = refusal(&mut map, &other);
    assert_eq!(
        refused,
        "keyspace users is at version 2 by now, this alteration was made from 1: look at it and \
         decide again"
    );
    // As after a lost answer.
    map.apply(&one).unwrap();
    assert_eq!(map.keyspace_version(id), Some(2));
    assert_eq!(map.keyspace(id), Some(&successors(&[3, 2])));
    let level = |from| alteration(keyspace("users", &[1, 2, 3], AckLevel::SYNC), from);
    let refused = refusal(&mut map, &level(1));
    assert!(refused.contains("at version 2 by now"), "{refused}");
    map.apply(&level(2)).unwrap();
    assert_eq!(map.keyspace_version(id), Some(3));
}

/// Its home may have ended its reign in favour of a node that never comes: the leader takes that
/// over, and only then is the node forgotten.
#[test]
fn a_node_that_something_is_handed_to_is_not_forgotten() {
    let mut map = cluster(false);
    let partition = create(&mut map, keyspace("users", &[1, 2, 3], AckLevel::Async));
    let from = map.assignment(partition).unwrap().epoch;
    let to = node(12);
    map.apply(&Command::BeginSwitchover {
        partition,
        from,
        to,
    })
    .unwrap();
    let retire = Command::RetireNode { node: to };
    let refused = refusal(&mut map, &retire);
    assert!(refused.contains("being handed to the node"), "{refused}");
    map.apply(&abort(partition, from, to)).unwrap();
    map.apply(&retire).unwrap();
}

fn degraded(partition: PartitionId, epoch: Epoch, since_ms: u64, begins: bool) -> Command {
    let stretch = DegradedStretch {
        partition,
        epoch,
        since_ms,
    };
    match begins {
        true => Command::BeginDegraded(stretch),
        false => Command::EndDegraded(stretch),
    }
}

/// What it acknowledged alone is nowhere else: nobody but an operator gives that up.
#[test]
fn a_home_that_acknowledges_alone_is_not_given_up_by_itself() {
    let mut map = cluster(false);
    let partition = create(&mut map, keyspace("users", &[1, 2, 3], AckLevel::SEMI_SYNC));
    let epoch = map.assignment(partition).unwrap().epoch;
    map.apply(&degraded(partition, epoch, 70, true)).unwrap();
    let lost = |word| Command::BeginTakeOver {
        partition,
        from: epoch,
        lost: Lost {
            word,
            ..Lost::default()
        },
    };
    let refused = refusal(&mut map, &lost(None));
    assert!(refused.ends_with("an operator decides"), "{refused}");
    // The end of an earlier stretch, late.
    let refused = refusal(&mut map, &degraded(partition, epoch, 60, false));
    assert!(refused.contains("no such degraded stretch"), "{refused}");
    let refused = refusal(&mut map, &degraded(partition, epoch, 60, true));
    assert!(refused.contains("a later degraded stretch"), "{refused}");
    let mut over = map.clone();
    over.apply(&degraded(partition, epoch, 70, false)).unwrap();
    over.apply(&lost(None)).unwrap();
    let refused = refusal(&mut over, &degraded(partition, epoch, 80, true));
    assert!(refused.contains("being given up"), "{refused}");
    let word = OperatorWord {
        is_fenced: true,
        accepts_split_brain: false,
        to: None,
    };
    map.apply(&lost(Some(word))).unwrap();
    map.apply(&take_over(
        &mut map.clone(),
        partition,
        12,
        Evidence::HomePromised,
    ))
    .unwrap();
    let change = map.history().iter().next_back().unwrap();
    assert_eq!(change.degraded_ms, Some(70));
    assert_eq!(map.assignment(partition).unwrap().degraded_ms, None);
}

/// The same node goes on, and has alone still what it had alone before.
#[test]
fn a_new_reign_of_the_same_home_keeps_the_record_of_its_stretch() {
    let mut map = cluster(false);
    let before = keyspace("users", &[1, 2, 3], AckLevel::SEMI_SYNC);
    let partition = create(&mut map, before.clone());
    let epoch = map.assignment(partition).unwrap().epoch;
    map.apply(&degraded(partition, epoch, 70, true)).unwrap();
    alter(
        &mut map,
        &Keyspace {
            ack: AckLevel::Async,
            ..before
        },
    );
    renew(&mut map, partition);
    let found = map.assignment(partition).unwrap();
    assert!(found.epoch > epoch);
    assert_eq!(found.degraded_ms, Some(70));
}

/// It is back, and the node that it was handing on to is not: enough copies refuse that one. By
/// their promises it could not go on, and nobody else had as much: no home for ever.
#[test]
fn a_home_that_is_back_goes_on_by_the_promises_of_copies() {
    let mut map = cluster(false);
    let partition = create(&mut map, keyspace("users", &[1, 2, 3], AckLevel::SYNC));
    let from = map.assignment(partition).unwrap().epoch;
    map.apply(&Command::BeginSwitchover {
        partition,
        from,
        to: node(12),
    })
    .unwrap();
    let by = vec![region(3)];
    let revoked = Evidence::AcksRevoked { by };
    let away = take_over(&mut map, partition, 12, revoked.clone());
    let refused = refusal(&mut map, &away);
    assert!(refused.contains("has promised nothing"), "{refused}");
    let back = take_over(&mut map, partition, 11, revoked);
    map.apply(&back).unwrap();
    let found = map.assignment(partition).unwrap();
    assert_eq!((found.home, found.epoch.counter), (node(11), 3));
}
