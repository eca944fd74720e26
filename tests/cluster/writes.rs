//! Writes from anywhere: forwarding, conditions, batches, exactly once, and clear refusals.

use std::time::Duration;

use bytes::Bytes;
use domicile::{ErrorKind, Operation, Reason};

use crate::rig::{Cluster, keyspaces};

const NEAR: Duration = Duration::from_millis(4);

fn put(key: &str, value: &str) -> Operation {
    Operation::Put {
        key: Bytes::from(key.to_owned()),
        value: Bytes::from(value.to_owned()),
        expiry: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_is_a_front_door() {
    let cluster = Cluster::start(NEAR, keyspaces()).await;
    let us = cluster.node("us").keyspace("fast").unwrap();
    let receipt = us.put("alice/name", "Ada").await.unwrap();
    let eu = cluster.node("eu").keyspace("fast").unwrap();
    let entry = eu.get("alice/name").await.unwrap().unwrap();
    assert_eq!(
        (entry.value.as_ref(), entry.version),
        (&b"Ada"[..], receipt.version)
    );
    let entry = us.get("alice/name").await.unwrap().unwrap();
    assert_eq!(
        entry.version, receipt.version,
        "a linearizable read went to the home"
    );

    let error = us.put("alice/name", "x").local_only().await.unwrap_err();
    assert_eq!(error.reason(), Reason::WrongHome);
    assert_eq!(error.metadata()["home"], "eu");

    // `ap` may not hold the keyspace, so it may not even pass it on.
    let ap = cluster.node("ap").keyspace("european").unwrap();
    let error = ap.put("k/1", "v").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Residency);
    let status = cluster.node("ap").status(domicile::Detail::Partitions);
    assert!(
        status
            .partitions
            .iter()
            .all(|each| each.keyspace != "european")
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreachable_home_is_said_so() {
    let cluster = Cluster::start(NEAR, keyspaces()).await;
    cluster.wan.isolate("eu").unwrap();
    let us = cluster.node("us").keyspace("fast").unwrap();
    let write = us.put("alice/name", "Ada").timeout(Duration::from_secs(2));
    let error = write.await.unwrap_err();
    let kinds = [ErrorKind::NoHome, ErrorKind::Indeterminate];
    assert!(kinds.contains(&error.kind()), "{error:?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_hold_against_writes_in_flight() {
    let cluster = Cluster::start(NEAR, keyspaces()).await;
    let safe = cluster.node("eu").keyspace("safe").unwrap();
    let first = safe.put("k/1", "1").if_absent().await.unwrap();
    let error = safe.put("k/1", "2").if_absent().await.unwrap_err();
    assert_eq!(error.reason(), Reason::VersionMismatch);
    assert_eq!(error.metadata()["current"], first.version.to_string());

    // Many race for one version; one wins, though none is visible yet when the others are judged.
    let racers = (0..16).map(|index| {
        let write = safe
            .put("k/1", format!("racer {index}"))
            .if_version(first.version);
        tokio::spawn(async move { write.await })
    });
    let mut won = 0;
    for racer in racers.collect::<Vec<_>>() {
        match racer.await.unwrap() {
            Ok(_) => won += 1,
            Err(error) => assert_eq!(error.reason(), Reason::VersionMismatch),
        }
    }
    assert_eq!(won, 1);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_all_or_nothing_within_a_group() {
    let cluster = Cluster::start(NEAR, keyspaces()).await;
    let us = cluster.node("us").keyspace("fast").unwrap();
    let receipt = us.batch([put("g/1", "a"), put("g/2", "b")]).await.unwrap();
    for key in ["g/1", "g/2"] {
        let entry = us.get(key).await.unwrap().unwrap();
        assert_eq!(entry.version, receipt.version);
    }
    let error = us
        .batch([put("g/1", "a"), put("h/1", "b")])
        .await
        .unwrap_err();
    assert_eq!(error.reason(), Reason::InvalidBatch);
    let error = us
        .batch([put("g/3", "c"), put("g/1", "d")])
        .if_version(receipt.version);
    assert_eq!(error.await.unwrap_err().reason(), Reason::VersionMismatch);
    assert!(
        us.get("g/3").await.unwrap().is_none(),
        "half a batch was done"
    );
    us.delete("g/1").await.unwrap();
    assert!(us.get("g/1").await.unwrap().is_none());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_id_is_done_once_from_any_door() {
    let cluster = Cluster::start(NEAR, keyspaces()).await;
    let id: domicile::RequestId = "000000000000000000000000000000ff".parse().unwrap();
    let (eu, us) = (cluster.node("eu"), cluster.node("us"));
    let first = eu
        .keyspace("fast")
        .unwrap()
        .put("k/1", "v")
        .request_id(id)
        .await
        .unwrap();
    let second = us
        .keyspace("fast")
        .unwrap()
        .put("k/1", "v")
        .request_id(id)
        .await
        .unwrap();
    assert!(!first.duplicate && second.duplicate);
    assert_eq!(first.version, second.version);
    let other = us
        .keyspace("fast")
        .unwrap()
        .put("k/1", "other")
        .request_id(id)
        .await;
    assert_eq!(other.unwrap_err().reason(), Reason::RequestIdReused);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn input_outside_the_limits_is_refused_with_its_size() {
    let cluster = Cluster::start(NEAR, keyspaces()).await;
    let node = cluster.node("us");
    let fast = node.keyspace("fast").unwrap();
    let refused = |result: Result<domicile::Receipt, domicile::Error>| {
        let error = result.unwrap_err();
        (error.reason(), error.to_string())
    };
    let (reason, text) = refused(fast.put("k".repeat(1025), "v").await);
    assert_eq!(
        (reason, text.as_str()),
        (Reason::InvalidKey, "key too large: 1025 bytes, limit 1024")
    );
    let (reason, _) = refused(fast.put("", "v").await);
    assert_eq!(reason, Reason::InvalidKey);
    let (reason, text) = refused(fast.put("k", vec![0; (1 << 20) + 1]).await);
    assert_eq!(reason, Reason::ValueTooLarge);
    assert_eq!(text, "value too large: 1048577 bytes, limit 1048576");
    let (reason, _) = refused(fast.batch([]).await);
    assert_eq!(reason, Reason::InvalidBatch);
    assert_eq!(
        node.keyspace("nope").err().unwrap().reason(),
        Reason::KeyspaceNotFound
    );
    // The largest that is allowed goes through, across regions too.
    let largest = vec![7; 1 << 20];
    fast.put("k".repeat(1024), largest.clone()).await.unwrap();
    let entry = fast.get("k".repeat(1024)).await.unwrap().unwrap();
    assert_eq!(entry.value, largest);
    cluster.stop().await;
}

/// A door in a region where the data may not be must not even see the request through.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_outside_the_keyspace_forwards_nothing() {
    let cluster = Cluster::start(Duration::from_millis(2), keyspaces()).await;
    let european = cluster.node("eu").keyspace("european").unwrap();
    european.put("k/1", "stays").await.unwrap();
    let outside = cluster.node("ap").keyspace("european").unwrap();
    let write = outside.put("k/1", "leaks").await.expect_err("a write");
    let read = outside.get("k/1").await.expect_err("a read");
    for refused in [write, read] {
        assert_eq!(refused.kind(), ErrorKind::Residency, "{refused}");
    }
    let kept = european.get("k/1").await.unwrap().unwrap();
    assert_eq!(kept.value, "stays");
    cluster.stop().await;
}
