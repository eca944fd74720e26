//! Homes that acknowledge with less than their level, and what that means once they are lost.

use std::time::{Duration, Instant};

use domicile::{AckLevel, Keyspace, Node, OnTimeout, OperatorWord, Reason, Receipt};
use domicile_replication::FailoverPlan;

use crate::rig::{Cluster, PATIENCE, keyspace, region, until};
use crate::takeover::{put_at_last, start, until_local, value_at};

/// Two regions hold it, the third one votes.
fn yielding() -> Keyspace {
    Keyspace {
        regions: vec![region("eu"), region("us")],
        on_timeout: OnTimeout::Degrade,
        ack_timeout: Duration::from_millis(200),
        ..keyspace("yielding", AckLevel::SEMI_SYNC, "eu")
    }
}

/// Writes until one is acknowledged by the home alone; all that were so acknowledged.
async fn put_degraded(node: &Node, key: &str) -> Receipt {
    let started = Instant::now();
    loop {
        let space = node.keyspace("yielding").unwrap();
        let put = space.put(key, "alone").timeout(Duration::from_secs(2));
        match put.await {
            Ok(receipt) if receipt.degraded => return receipt,
            other => assert!(started.elapsed() < PATIENCE, "never degraded: {other:?}"),
        }
    }
}

/// What would become of the partition that holds the key.
fn plan_of(node: &Node, receipt: &Receipt) -> FailoverPlan {
    let plan = node.failover_plan(region("eu"), None).unwrap();
    let mut plan = plan.into_iter();
    plan.find(|it| it.partition == receipt.partition)
        .expect("it is at home in eu")
}

/// What its home acknowledged alone is nowhere else. Lost then, it is not taken over by itself: its
/// keys wait for it, or for an operator, who is told why; the report says so, too, and every such
/// write is among the orphans.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_home_that_acknowledged_alone_waits_for_an_operator() {
    let mut cluster = start(vec![yielding()]).await;
    put_at_last(&cluster, "eu", "yielding", "before").await;
    until_local(&cluster, "us", "yielding", "before", Some("eu")).await;
    cluster.close("us").await;
    let alone = put_degraded(cluster.node("eu"), "before").await;
    let ap = cluster.node("ap");
    let told = || !plan_of(ap, &alone).is_automatic;
    until("it is on record", told).await;
    let obstacle = plan_of(ap, &alone).obstacle.unwrap();
    assert!(obstacle.contains("acknowledges alone"), "{obstacle}");
    cluster.close("eu").await;
    cluster.open("us").await;
    // A leader was elected, the lease ran out long ago.
    let us = cluster.node("us");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let refused = us.keyspace("yielding").unwrap().put("before", "us");
    let refused = refused.timeout(Duration::from_secs(1)).await.unwrap_err();
    assert!(
        matches!(refused.reason(), Reason::NoHome | Reason::Indeterminate),
        "{refused}"
    );
    let word = OperatorWord {
        is_fenced: true,
        accepts_split_brain: false,
        to: None,
    };
    let given = us.give_up_homes(region("eu"), None, word).await.unwrap();
    assert!(given.partitions > 0, "{given:?}");
    put_at_last(&cluster, "us", "yielding", "before").await;
    let changes = cluster.node("us").home_changes().unwrap();
    let mut changes = changes.iter().filter(|it| it.degraded_ms.is_some());
    assert!(changes.any(|it| it.partition == alone.partition));
    cluster.open("eu").await;
    until_local(&cluster, "eu", "yielding", "before", Some("us")).await;
    let orphans = cluster.node("eu").orphans().await.unwrap();
    let is_kept = orphans.iter().any(|it| {
        let record = &it.orphan.record.head;
        record.request_id == alone.request_id
    });
    assert!(is_kept, "{alone:?} is not among {} orphans", orphans.len());
    cluster.stop().await;
}

/// Once a copy has everything again the home may be taken over by itself, and nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stretch_is_off_the_record_once_the_copy_has_everything() {
    let mut cluster = start(vec![yielding()]).await;
    put_at_last(&cluster, "eu", "yielding", "before").await;
    cluster.close("us").await;
    let alone = put_degraded(cluster.node("eu"), "before").await;
    let ap = cluster.node("ap");
    until("it is on record", || !plan_of(ap, &alone).is_automatic).await;
    // It is so over a restart of the home, which does not know by itself.
    cluster.close("eu").await;
    cluster.open("eu").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!plan_of(cluster.node("ap"), &alone).is_automatic);
    cluster.open("us").await;
    let ap = cluster.node("ap");
    until("it is off the record", || plan_of(ap, &alone).is_automatic).await;
    cluster.close("eu").await;
    put_at_last(&cluster, "us", "yielding", "after").await;
    let kept = value_at(&cluster, "us", "yielding", "before").await;
    assert_eq!(kept.as_deref(), Some("alone"));
    cluster.stop().await;
}

/// Without a leader nothing is put on record, and nothing is acknowledged alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_home_without_a_control_plane_does_not_degrade() {
    let mut cluster: Cluster = start(vec![yielding()]).await;
    put_at_last(&cluster, "eu", "yielding", "before").await;
    cluster.close("us").await;
    cluster.close("ap").await;
    let space = cluster.node("eu").keyspace("yielding").unwrap();
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        let put = space.put("before", "eu").timeout(Duration::from_secs(1));
        let answer = put.await;
        assert!(answer.is_err(), "{answer:?}");
    }
    cluster.open("us").await;
    put_at_last(&cluster, "eu", "yielding", "after").await;
    cluster.stop().await;
}
