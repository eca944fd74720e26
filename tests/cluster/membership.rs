//! Who belongs to the cluster: witnesses, and nodes whose disk is lost.

use std::time::{Duration, Instant};

use domicile::{
    AckLevel, Consistency, ControlOptions, Failover, Haste, Keyspace, NodeOptions, OnTimeout,
};

use crate::rig::{Cluster, PATIENCE, REGIONS, alarms, keyspace, region, until};
use crate::takeover::{put_at_last, start, until_local, value_at};

const RTT: Duration = Duration::from_millis(10);

fn in_two(name: &str, ack: AckLevel) -> Keyspace {
    Keyspace {
        regions: vec![region("eu"), region("us")],
        ..keyspace(name, ack, "eu")
    }
}

/// Two regions hold the data, a witness makes the majority: the home is lost, the other one takes
/// over by itself, and the witness holds and sees nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_witness_lets_one_of_two_regions_take_over() {
    let control = ControlOptions {
        rtt_max: 2 * RTT,
        haste: Haste::Aggressive,
    };
    let witnessed = |options: &mut NodeOptions| {
        options.control = Some(control);
        options.regions[2].is_witness = true;
    };
    let semi = Keyspace {
        on_timeout: OnTimeout::Degrade,
        ack_timeout: Duration::from_millis(300),
        ..in_two("semi", AckLevel::SEMI_SYNC)
    };
    let spaces = vec![in_two("fast", AckLevel::Async), semi];
    let mut cluster = Cluster::start_with(RTT, spaces, witnessed).await;
    for space in ["fast", "semi"] {
        put_at_last(&cluster, "us", space, "before").await;
        until_local(&cluster, "us", space, "before", Some("us")).await;
    }
    let everywhere = keyspace("everywhere", AckLevel::Async, "eu");
    let refused = cluster.node("us").create_keyspace(everywhere, PATIENCE);
    let refused = refused.await.unwrap_err().to_string();
    assert!(refused.contains("a witness holds no data"), "{refused}");
    cluster.close("eu").await;
    for space in ["fast", "semi"] {
        put_at_last(&cluster, "us", space, "after").await;
        assert_eq!(
            value_at(&cluster, "us", space, "before").await.as_deref(),
            Some("us")
        );
        let at_witness = cluster.node("ap").keyspace(space).unwrap();
        let refused = at_witness.get("before").await.unwrap_err();
        assert_eq!(refused.reason(), domicile::Reason::DataResidency);
    }
    let held = cluster.node("ap").status(domicile::Detail::Partitions);
    assert!(held.partitions.is_empty(), "a witness holds no partitions");
    cluster.stop().await;
}

/// A node loses its disk. It returns with an empty one under a new identity, by the operator's word
/// in the place of the old one: the old one's homes are taken over, also where that takes an
/// operator, everything arrives again, and the old one is forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_disk_is_lost_returns_in_the_place_of_its_former_self() {
    let manual = Keyspace {
        failover: Failover::ReadOnly,
        ..keyspace("manual", AckLevel::Async, "eu")
    };
    let spaces = vec![keyspace("fast", AckLevel::Async, "eu"), manual];
    let mut cluster = start(spaces).await;
    for space in ["fast", "manual"] {
        put_at_last(&cluster, "us", space, "before").await;
        for node in REGIONS {
            until_local(&cluster, node, space, "before", Some("us")).await;
        }
    }
    let lost = cluster.node("eu").node_id();
    cluster.close("eu").await;
    std::fs::remove_dir_all(cluster.data_of("eu")).unwrap();
    cluster.options_mut("eu").replaces = Some(lost);
    cluster.open("eu").await;
    assert_ne!(cluster.node("eu").node_id(), lost);
    for space in ["fast", "manual"] {
        put_at_last(&cluster, "ap", space, "after").await;
        until_local(&cluster, "eu", space, "before", Some("us")).await;
        until_local(&cluster, "eu", space, "after", Some("ap")).await;
    }
    // It is home again where it is handed to, and goes on so after a restart.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let us = cluster.node("us");
        let moved = us.switch_over(None, region("eu"), None, PATIENCE).await;
        let stayed = moved.unwrap().stayed;
        if stayed.is_empty() {
            break;
        }
        // What is still on its way there does not keep up.
        let seen = || REGIONS.map(|node| alarms(&cluster, node)).concat();
        assert!(Instant::now() < deadline, "{stayed:?}\n{}", seen());
    }
    cluster.close("eu").await;
    cluster.open("eu").await;
    put_at_last(&cluster, "eu", "fast", "again").await;
    let homes = || {
        let status = cluster.node("eu").status(domicile::Detail::Partitions);
        let homes = status.partitions.iter().map(|it| it.home_region.clone());
        homes.collect::<Vec<_>>()
    };
    until("its homes are here", || homes().iter().all(|it| it == "eu")).await;
    let read = cluster.node("us").keyspace("fast").unwrap();
    let read = read.get("again").consistency(Consistency::Home).await;
    assert!(read.unwrap().is_some());
    cluster.stop().await;
}
