//! Regions that are added and removed while the cluster runs.

use std::path::Path;
use std::time::{Duration, Instant};

use domicile::{
    AckLevel, Consistency, ControlOptions, Haste, Keyspace, Name, Node, NodeOptions, Reason,
    RegionSpec,
};

use crate::rig::{Cluster, PATIENCE, REGIONS, free_address, keyspace, region, until};
use crate::takeover::{put_at_last, start, until_local, value_at};

fn spec(name: &str, address: std::net::SocketAddr) -> RegionSpec {
    RegionSpec::new(Name::new(name).unwrap(), Some(format!("http://{address}")))
}

fn knows(node: &Node, name: &str) -> bool {
    node.regions().iter().any(|it| it.name.as_str() == name)
}

/// A node of a fourth region that dials the other three where they listen, and what the others are
/// told of it.
fn fourth(cluster: &mut Cluster, data: &Path) -> (NodeOptions, RegionSpec) {
    let address = free_address();
    let mut options = cluster.options_mut("eu").clone();
    let listens = REGIONS.map(|name| (name, cluster.options_mut(name).listen.unwrap()));
    let mut regions: Vec<RegionSpec> = listens.iter().map(|(name, at)| spec(name, *at)).collect();
    regions.push(RegionSpec::new(Name::new("sa").unwrap(), None));
    options.region = Name::new("sa").unwrap();
    options.regions = regions;
    options.listen = Some(address);
    options.data = data.join("sa");
    (options, spec("sa", address))
}

async fn until_shown(node: &Node, key: &str, expected: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let space = node.keyspace("fast").unwrap();
        let shown = space.get(key).consistency(Consistency::Local).await;
        if shown.is_ok_and(|it| it.is_some_and(|it| it.value == expected)) {
            return;
        }
        assert!(Instant::now() < deadline, "{key} never came");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A fourth region's node has no say before it is added. Then it votes, gets a keyspace, is a copy
/// and a front door, and goes on so after restarts, also beside nodes whose configuration does not
/// list it. What holds a keyspace is not removed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_is_added_while_the_cluster_runs() {
    let mut cluster = start(vec![keyspace("fast", AckLevel::Async, "eu")]).await;
    put_at_last(&cluster, "us", "fast", "before").await;
    let data = cluster.data.path().to_owned();
    let (options, added) = fourth(&mut cluster, &data);
    let sa = Node::open(options.clone()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(sa.keyspaces().is_empty(), "it took part unasked");
    assert!(!knows(cluster.node("us"), "sa"));
    let us = cluster.node("us");
    us.add_region(added.clone(), PATIENCE).await.unwrap();
    // Asked for again, as after a lost answer.
    us.add_region(added.clone(), PATIENCE).await.unwrap();
    let refused = RegionSpec {
        is_witness: true,
        ..added
    };
    let refused = us.add_region(refused, PATIENCE).await.unwrap_err();
    assert!(refused.to_string().contains("exists"), "{refused}");
    for node in REGIONS {
        until("it is known", || knows(cluster.node(node), "sa")).await;
    }
    until("it knows the map", || sa.keyspace("fast").is_ok()).await;
    let four = Keyspace {
        regions: ["eu", "us", "ap", "sa"].map(region).to_vec(),
        ..keyspace("fast", AckLevel::Async, "eu")
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        let from = us.versioned_policy("fast").unwrap().version;
        let altered = us.alter_keyspace(four.clone(), from, PATIENCE).await;
        match altered {
            Ok(altered) if altered.waiting.is_empty() => break,
            other => assert!(Instant::now() < deadline, "{other:?}"),
        }
    }
    until_shown(&sa, "before", "us").await;
    let put = sa.keyspace("fast").unwrap().put("through", "sa").await;
    assert_eq!(put.unwrap().partition.region, region("eu"));
    until_local(&cluster, "ap", "fast", "through", Some("sa")).await;
    let refused = us.remove_region(region("sa"), PATIENCE).await.unwrap_err();
    assert!(
        refused.to_string().contains("holds keyspace fast"),
        "{refused}"
    );
    // By its own configuration this node knows nothing of the fourth region.
    cluster.close("ap").await;
    sa.close().await.unwrap();
    cluster.open("ap").await;
    assert!(knows(cluster.node("ap"), "sa"), "it is known at the open");
    let sa = Node::open(options).await.unwrap();
    // With two of four away nothing is agreed on; with one away it is.
    cluster.close("eu").await;
    put_at_last(&cluster, "ap", "fast", "after").await;
    until_shown(&sa, "after", "ap").await;
    sa.close().await.unwrap();
    cluster.stop().await;
}

/// A region leaves for good: nobody brings it back unasked, not its own node and not those whose
/// configuration lists it. By word it comes back, with an empty directory, here as a witness, whose
/// vote lets the other two succeed each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_was_removed_stays_away_until_it_is_added_again() {
    let two = Keyspace {
        regions: vec![region("eu"), region("us")],
        ..keyspace("fast", AckLevel::Async, "eu")
    };
    let mut cluster = start(vec![two]).await;
    put_at_last(&cluster, "us", "fast", "before").await;
    until_local(&cluster, "us", "fast", "before", Some("us")).await;
    let eu = cluster.node("eu");
    eu.remove_region(region("ap"), PATIENCE).await.unwrap();
    for node in ["eu", "us"] {
        until("it is gone", || !knows(cluster.node(node), "ap")).await;
    }
    put_at_last(&cluster, "us", "fast", "meanwhile").await;
    // Its node and theirs start anew, with configurations that list it.
    cluster.close("ap").await;
    cluster.close("us").await;
    cluster.open("us").await;
    cluster.open("ap").await;
    put_at_last(&cluster, "us", "fast", "restarted").await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    for node in ["eu", "us"] {
        assert!(!knows(cluster.node(node), "ap"), "it is back at {node}");
    }
    // Two voters: whether eu is off nobody can prove.
    let plan = cluster
        .node("us")
        .failover_plan(region("eu"), None)
        .unwrap();
    assert!(plan.iter().all(|it| !it.is_automatic), "{plan:?}");
    cluster.close("ap").await;
    std::fs::remove_dir_all(cluster.data_of("ap")).unwrap();
    let listen = cluster.options_mut("ap").listen.unwrap();
    let witness = RegionSpec {
        is_witness: true,
        ..spec("ap", listen)
    };
    let us = cluster.node("us");
    us.add_region(witness, PATIENCE).await.unwrap();
    let own = cluster.options_mut("ap");
    own.regions[2].is_witness = true;
    own.control = Some(ControlOptions {
        haste: Haste::Aggressive,
        ..own.control.unwrap()
    });
    cluster.open("ap").await;
    let (us, eu) = (cluster.node("us"), region("eu"));
    let ready = || {
        let plan = us.failover_plan(eu, None).unwrap();
        plan.iter().all(|it| it.is_automatic)
    };
    until("the witness votes", ready).await;
    until("it has the map", || {
        !cluster.node("ap").keyspaces().is_empty()
    })
    .await;
    cluster.close("eu").await;
    put_at_last(&cluster, "us", "fast", "after").await;
    assert_eq!(
        value_at(&cluster, "us", "fast", "meanwhile")
            .await
            .as_deref(),
        Some("us")
    );
    let at_witness = cluster.node("ap").keyspace("fast").unwrap();
    let refused = at_witness.get("before").await.unwrap_err();
    assert_eq!(refused.reason(), Reason::DataResidency);
    cluster.stop().await;
}

/// With static homes there is nothing to agree on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn regions_of_static_homes_stay_as_they_are() {
    let cluster = Cluster::start(
        Duration::from_millis(2),
        vec![keyspace("fast", AckLevel::Async, "eu")],
    )
    .await;
    let added = spec("sa", free_address());
    let refused = cluster.node("eu").add_region(added, PATIENCE).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("homes are static"), "{refused}");
    cluster.stop().await;
}
