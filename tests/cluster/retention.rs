//! Journals that are cut: what is covered by snapshots goes, what a copy lacks stays.

use std::time::Duration;

use domicile::{AckLevel, Consistency, Detail};

use crate::rig::{Cluster, REGIONS, keyspace, until, wait_value};

const NEAR: Duration = Duration::from_millis(4);

/// Above it a journal is cut: four of the test's files.
const KEEP_BYTES: u64 = 4 << 20;

/// Within it a journal is once everybody has everything: the file being written, one made ahead,
/// and one that ends with what is not flushed.
const CUT_BYTES: u64 = KEEP_BYTES + (2 << 20);

async fn start() -> Cluster {
    let mut spaces = vec![keyspace("fast", AckLevel::Async, "eu")];
    spaces.push(keyspace("rare", AckLevel::Async, "eu"));
    spaces.push(keyspace("fresh", AckLevel::Async, "eu"));
    Cluster::start_with(NEAR, spaces, |options| {
        options.journal_file_bytes = 1 << 20;
        options.journal_keep_bytes = KEEP_BYTES;
    })
    .await
}

fn journal_bytes(cluster: &Cluster, node: &str) -> u64 {
    cluster
        .node(node)
        .status(Detail::Summary)
        .disk
        .journal_bytes
}

async fn until_cut(cluster: &Cluster, node: &str) {
    until("the journal is cut", || {
        journal_bytes(cluster, node) <= CUT_BYTES
    })
    .await;
}

/// Overwrites 40 keys with 20 MB in all.
async fn write_much(cluster: &Cluster, round: u8) {
    let fast = cluster.node("eu").keyspace("fast").unwrap();
    for index in 0..400_u32 {
        let value = vec![round.wrapping_add(index as u8); 50_000];
        fast.put(format!("g{}/k", index % 40), value).await.unwrap();
    }
}

async fn check(cluster: &Cluster, node: &str, round: u8) {
    let fast = cluster.node(node).keyspace("fast").unwrap();
    for index in 360..400_u32 {
        let key = format!("g{}/k", index % 40);
        let entry = fast
            .get(&key)
            .consistency(Consistency::Local)
            .await
            .unwrap();
        let value = entry
            .unwrap_or_else(|| panic!("{key} is gone at {node}"))
            .value;
        assert_eq!(value.len(), 50_000);
        let expected = round.wrapping_add(index as u8);
        assert!(
            value.iter().all(|byte| *byte == expected),
            "{key} at {node}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_is_cut_and_the_engine_may_be_lost_after_that() {
    let mut cluster = start().await;
    let rare = cluster.node("eu").keyspace("rare").unwrap();
    let id: domicile::RequestId = "000000000000000000000000000cafe1".parse().unwrap();
    let first = rare.put("k/1", "v").request_id(id).await.unwrap();
    drop(rare);
    write_much(&cluster, 1).await;
    for node in REGIONS {
        until_cut(&cluster, node).await;
    }
    for node in ["eu", "us"] {
        cluster.close(node).await;
        std::fs::remove_dir_all(cluster.data_of(node).join("engine")).unwrap();
        cluster.open(node).await;
        check(&cluster, node, 1).await;
        let rare = cluster.node(node).keyspace("rare").unwrap();
        let entry = rare
            .get("k/1")
            .consistency(Consistency::Local)
            .await
            .unwrap();
        assert_eq!(entry.unwrap().version, first.version);
    }
    cluster.connected("eu").await;
    // The write was cut from the log long ago; its request is remembered nevertheless.
    let rare = cluster.node("eu").keyspace("rare").unwrap();
    let again = rare.put("k/1", "v").request_id(id).await.unwrap();
    assert!(again.duplicate);
    assert_eq!(again.version, first.version);
    drop(rare);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_copy_lacks_stays_until_it_has_it() {
    let cluster = start().await;
    write_much(&cluster, 1).await;
    until_cut(&cluster, "eu").await;
    cluster.wan.isolate("ap").unwrap();
    write_much(&cluster, 2).await;
    until_cut(&cluster, "us").await;
    let kept = journal_bytes(&cluster, "eu");
    assert!(
        kept >= 20_000_000,
        "{kept} bytes are left for a copy that lacks 20 MB"
    );
    cluster.wan.heal("ap").unwrap();
    until_cut(&cluster, "eu").await;
    for node in REGIONS {
        check(&cluster, node, 2).await;
    }
    cluster.stop().await;
}

/// A copy that lost its disk cannot be helped by a journal that was cut, nor by a snapshot that it
/// cannot fetch; everything else goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_lacks_what_was_cut_stops_nobody_else() {
    let mut cluster = start().await;
    write_much(&cluster, 1).await;
    until_cut(&cluster, "eu").await;
    cluster.close("us").await;
    std::fs::remove_dir_all(cluster.data_of("us")).unwrap();
    for source in ["eu", "ap"] {
        cluster.wan.link("us", source).unwrap().cut();
    }
    cluster.open("us").await;
    until("the home says what the copy lacks", || {
        let status = cluster.node("eu").status(Detail::Summary);
        let us = status
            .peers
            .iter()
            .find(|peer| peer.region == "us")
            .unwrap();
        us.connected && us.last_error.contains("need a snapshot")
    })
    .await;
    let fresh = cluster.node("eu").keyspace("fresh").unwrap();
    fresh.put("k/1", "v").await.unwrap();
    wait_value(&cluster, "us", "fresh", "k/1", "v").await;
    drop(fresh);
    cluster.stop().await;
}
