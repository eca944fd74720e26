//! Reads by declared freshness, and scans that span partitions and regions.

use std::time::{Duration, Instant};

use domicile::{Consistency, Keyspace, Placement, SessionMark};

use crate::rig::{Cluster, PATIENCE, keyspace, keyspaces, region};

const NEAR: Duration = Duration::from_millis(4);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_reads_its_own_writes_at_a_copy() {
    let cluster = Cluster::start(Duration::from_millis(40), keyspaces()).await;
    let (eu, us) = (cluster.node("eu"), cluster.node("us"));
    let writer = eu.keyspace("fast").unwrap();
    let reader = us.keyspace("fast").unwrap();
    for index in 0..20 {
        let value = format!("v{index}");
        let receipt = writer.put("k/1", value.clone()).await.unwrap();
        let mark = SessionMark {
            partition: receipt.partition,
            position: receipt.position(),
        };
        let call = domicile::ReadCall {
            keyspace: reader.policy().clone(),
            key: "k/1".into(),
            consistency: Consistency::Session(vec![mark]),
            timeout: Some(PATIENCE),
            forwarding: domicile::Forwarding::LocalOnly,
        };
        let answer = us.read(call).await.unwrap();
        assert_eq!(answer.entry.unwrap().value, value);
        assert_eq!(answer.region, region("us"), "the copy itself must answer");
        assert!(answer.position.unwrap() >= receipt.position());
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn staleness_is_told_and_bounds_are_kept() {
    let cluster = Cluster::start(NEAR, keyspaces()).await;
    let us = cluster.node("us");
    cluster
        .node("eu")
        .keyspace("fast")
        .unwrap()
        .put("k/1", "old")
        .await
        .unwrap();
    let read = |consistency| domicile::ReadCall {
        keyspace: us.policy("fast").unwrap(),
        key: "k/1".into(),
        consistency,
        timeout: Some(Duration::from_secs(1)),
        forwarding: domicile::Forwarding::Allowed,
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = us.read(read(Consistency::Local)).await.unwrap();
        if answer.entry.is_some() && answer.staleness < Duration::from_secs(1) {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "never fresh: {:?}",
            answer.staleness
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    cluster.wan.isolate("eu").unwrap();
    let cut_at = Instant::now();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let waited = cut_at.elapsed();
        let answer = us.read(read(Consistency::Local)).await.unwrap();
        // Beats are 100 ms apart, so one may have come just before the cut.
        assert!(
            answer.staleness + Duration::from_millis(250) > waited,
            "staleness understated"
        );
        if waited > Duration::from_millis(600) {
            break;
        }
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let bound = Duration::from_millis(100);
    let refused = us.read(read(Consistency::Bounded(bound))).await;
    assert!(
        refused.is_err(),
        "a bounded read was answered beyond its bound"
    );
    let local = us.read(read(Consistency::Local)).await.unwrap();
    assert_eq!(local.entry.unwrap().value, "old");
    cluster.stop().await;
}

fn spread(name: &str) -> Keyspace {
    let mut spread = keyspace(name, domicile::AckLevel::Async, "eu");
    spread.placement = Placement::Hash;
    spread
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scans_merge_partitions_of_all_regions_in_order() {
    let cluster = Cluster::start(NEAR, vec![spread("wide")]).await;
    let eu = cluster.node("eu").keyspace("wide").unwrap();
    let mut expected: Vec<String> = (0..400).map(|n| format!("g{:03}/k", n)).collect();
    for key in &expected {
        eu.put(key, key.clone()).await.unwrap();
    }
    expected.sort();
    let keys = |rows: Vec<domicile::Entry>| -> Vec<String> {
        rows.into_iter()
            .map(|row| String::from_utf8(row.key.to_vec()).unwrap())
            .collect()
    };
    assert_eq!(keys(eu.scan("").collect().await.unwrap()), expected);
    let from_us = cluster.node("us").keyspace("wide").unwrap();
    assert_eq!(
        keys(from_us.scan("g1").limit(7).collect().await.unwrap()),
        expected[100..107]
    );
    let mut backward = expected.clone();
    backward.reverse();
    assert_eq!(
        keys(eu.scan("").reverse().collect().await.unwrap()),
        backward
    );
    let range = eu
        .scan("")
        .from("g010")
        .upto("g012")
        .collect()
        .await
        .unwrap();
    assert_eq!(keys(range), ["g010/k", "g011/k"]);
    assert_eq!(keys(eu.scan("g399/").collect().await.unwrap()), ["g399/k"]);
    assert!(eu.scan("zzz").collect().await.unwrap().is_empty());

    // Page by page, however small, gives the same rows.
    let mut paged = Vec::new();
    let mut call = domicile::ScanCall {
        keyspace: eu.policy().clone(),
        from: Default::default(),
        upto: Default::default(),
        prefix: Default::default(),
        direction: domicile::Direction::Forward,
        limit: 3,
        resume_after: None,
        consistency: Consistency::Home,
        timeout: None,
        forwarding: domicile::Forwarding::Allowed,
    };
    for _ in 0..expected.len() {
        let page = cluster.node("ap").scan(call.clone()).await.unwrap();
        paged.extend(keys(page.entries));
        match page.resume_after {
            Some(after) => call.resume_after = Some(after),
            None => break,
        }
    }
    assert_eq!(paged, expected);
    cluster.stop().await;
}
