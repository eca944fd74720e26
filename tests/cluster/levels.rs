//! What each acknowledgement level waits for, and what its receipt says.

use std::time::{Duration, Instant};

use domicile::{AckLevel, Consistency, ErrorKind, Reason};

use crate::rig::{Cluster, keyspaces, region, until};

const RTT: Duration = Duration::from_millis(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receipts_tell_the_truth_about_each_level() {
    let cluster = Cluster::start(RTT, keyspaces()).await;
    let eu = cluster.node("eu");

    let receipt = eu
        .keyspace("fast")
        .unwrap()
        .put("a/1", "async")
        .await
        .unwrap();
    assert_eq!(receipt.asked, AckLevel::Async);
    assert_eq!(
        receipt.achieved,
        AckLevel::Async,
        "nothing else can hold it within microseconds"
    );
    assert_eq!(receipt.durable_in, [region("eu")]);

    let started = Instant::now();
    let receipt = eu
        .keyspace("semi")
        .unwrap()
        .put("a/1", "semi")
        .await
        .unwrap();
    assert!(
        started.elapsed() >= RTT,
        "semi-sync answered before light could"
    );
    assert!(
        receipt.achieved.covers(AckLevel::SEMI_SYNC, 2),
        "{receipt:?}"
    );

    let started = Instant::now();
    let receipt = eu
        .keyspace("safe")
        .unwrap()
        .put("a/1", "sync")
        .await
        .unwrap();
    assert!(started.elapsed() >= RTT, "sync answered before light could");
    assert_eq!(receipt.achieved, AckLevel::SYNC);
    assert_eq!(receipt.durable_in.len(), 3);
    assert!(!receipt.degraded && !receipt.duplicate);

    // A request may ask for more than its keyspace, never for less.
    let fast = eu.keyspace("fast").unwrap();
    let receipt = fast
        .put("a/2", "stronger")
        .ack(AckLevel::SYNC)
        .await
        .unwrap();
    assert_eq!(
        (receipt.asked, receipt.achieved),
        (AckLevel::SYNC, AckLevel::SYNC)
    );
    let safe = eu.keyspace("safe").unwrap();
    let error = safe
        .put("a/2", "weaker")
        .ack(AckLevel::Async)
        .await
        .unwrap_err();
    assert_eq!(error.reason(), Reason::InvalidLevel);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_level_that_is_not_met_is_indeterminate_and_later_definite() {
    let cluster = Cluster::start(Duration::from_millis(10), keyspaces()).await;
    let hasty = cluster.node("eu").keyspace("hasty").unwrap();
    hasty.put("k/0", "before").await.unwrap();
    cluster.wan.isolate("ap").unwrap();

    let id: domicile::RequestId = "0000000000000000000000000000abcd".parse().unwrap();
    let error = hasty.put("k/1", "v").request_id(id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Indeterminate);
    assert_eq!(error.metadata()["request_id"], id.to_string());
    let unseen = hasty.get("k/1").await.unwrap();
    assert!(
        unseen.is_none(),
        "a write was shown that its level does not cover yet"
    );

    cluster.wan.heal("ap").unwrap();
    let node = cluster.node("eu");
    let policy = node.policy("hasty").unwrap();
    let deadline = Instant::now() + crate::rig::PATIENCE;
    loop {
        let outcome = node.outcome(&policy, "k/1".into(), id).await.unwrap();
        let receipt = outcome.expect("the id is remembered");
        if receipt.achieved == AckLevel::SYNC {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "the level was never met: {receipt:?}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let again = hasty.put("k/1", "v").request_id(id).await.unwrap();
    assert!(again.duplicate, "a retry was done twice: {again:?}");
    assert_eq!(hasty.get("k/1").await.unwrap().unwrap().value, "v");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn degrading_is_told_in_receipts_and_ends_when_the_copy_is_back() {
    let cluster = Cluster::start(Duration::from_millis(10), keyspaces()).await;
    let node = cluster.node("eu");
    let yielding = node.keyspace("yielding").unwrap();
    assert!(!yielding.put("k/0", "before").await.unwrap().degraded);
    cluster.wan.isolate("ap").unwrap();

    let receipt = yielding.put("k/1", "v").await.unwrap();
    assert!(receipt.degraded, "{receipt:?}");
    assert_ne!(receipt.achieved, AckLevel::SYNC);
    let degraded = || {
        let status = node.status(domicile::Detail::Summary);
        let keyspace = status
            .keyspaces
            .iter()
            .find(|each| each.name == "yielding")
            .unwrap();
        keyspace.degraded_partitions
    };
    assert_eq!(degraded(), 1);

    cluster.wan.heal("ap").unwrap();
    until("the degraded state ends", || degraded() == 0).await;
    let receipt = yielding.put("k/2", "v").await.unwrap();
    assert!(
        !receipt.degraded && receipt.achieved == AckLevel::SYNC,
        "{receipt:?}"
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_shows_a_write_only_once_its_level_is_met() {
    let cluster = Cluster::start(Duration::from_millis(10), keyspaces()).await;
    let (eu, us) = (cluster.node("eu"), cluster.node("us"));
    cluster.wan.isolate("ap").unwrap();
    let hasty = eu.keyspace("hasty").unwrap();
    hasty.put("k/1", "v").await.unwrap_err();

    let held = || {
        let status = us.status(domicile::Detail::Partitions);
        let mut partitions = status
            .partitions
            .into_iter()
            .filter(|each| each.keyspace == "hasty");
        partitions.any(|each| each.durable_upto.get() > 0)
    };
    until("the other copy holds it durably", held).await;
    let there = us.keyspace("hasty").unwrap();
    let read = || there.get("k/1").consistency(Consistency::Local);
    assert!(
        read().await.unwrap().is_none(),
        "shown at a copy before its level was met"
    );

    cluster.wan.heal("ap").unwrap();
    let deadline = Instant::now() + crate::rig::PATIENCE;
    while read().await.unwrap().is_none() {
        assert!(
            Instant::now() < deadline,
            "the watermark never reached the copy"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn potential_loss_is_counted_while_a_copy_is_away() {
    let cluster = Cluster::start(Duration::from_millis(5), keyspaces()).await;
    let node = cluster.node("eu");
    cluster.wan.isolate("eu").unwrap();
    let fast = node.keyspace("fast").unwrap();
    for index in 0..50 {
        fast.put(format!("g{index}/k"), "v").await.unwrap();
    }
    let at_risk = || {
        let status = node.status(domicile::Detail::Summary);
        status
            .keyspaces
            .iter()
            .find(|each| each.name == "fast")
            .unwrap()
            .at_risk
    };
    assert_eq!(at_risk().writes, 50);
    assert!(at_risk().bytes > 50 * 36);
    cluster.wan.heal("eu").unwrap();
    until("the copies have it all", || at_risk().writes == 0).await;
    cluster.stop().await;
}
