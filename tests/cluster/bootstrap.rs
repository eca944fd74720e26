//! Copies that the log cannot help any more: snapshots between regions.

use std::num::{NonZeroU16, NonZeroU64};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use domicile::{AckLevel, Detail, Node};
use domicile_proto::v1;
use domicile_proto::v1::peer_client::PeerClient;
use domicile_server::wan::LinkConditions;

use crate::rig::{Cluster, keyspace, keyspaces, partition, until, until_alike};

const NEAR: Duration = Duration::from_millis(4);

/// Above it a journal is cut: four of the test's files.
const KEEP_BYTES: u64 = 4 << 20;

/// Above it nothing is kept for a copy.
const COPY_KEEP_BYTES: u64 = 10 << 20;

/// Slow enough to be interrupted: a transfer of 2 MB takes a second.
const NARROW: NonZeroU64 = NonZeroU64::new(2_000_000).unwrap();

/// Keys that are written once; together the snapshot's bulk.
const KEYS: u32 = 60;

async fn start() -> Cluster {
    let mut one = keyspace("one", AckLevel::Async, "eu");
    one.buckets = NonZeroU16::MIN;
    let mut semi = keyspace("semi", AckLevel::SEMI_SYNC, "eu");
    semi.buckets = NonZeroU16::MIN.saturating_add(1);
    Cluster::start_with(NEAR, vec![one, semi], |options| {
        options.journal_file_bytes = 1 << 20;
        options.journal_keep_bytes = KEEP_BYTES;
        options.copy_keep_bytes = COPY_KEEP_BYTES;
    })
    .await
}

/// Keys with values of 30 kB, which stay, and much else, which is overwritten.
async fn write_much(node: &Node, name: &str, round: u32) {
    let space = node.keyspace(name).unwrap();
    for index in 0..KEYS {
        let value = vec![(round + index) as u8; 30_000];
        space.put(format!("stays/{index}"), value).await.unwrap();
    }
    for index in 0..400_u32 {
        let value = vec![(round + index) as u8; 50_000];
        space.put(format!("g{}/k", index % 4), value).await.unwrap();
    }
}

async fn until_cut(cluster: &Cluster, node: &str) {
    until("the journal is cut", || {
        let status = cluster.node(node).status(Detail::Summary);
        status.disk.journal_bytes <= KEEP_BYTES + (3 << 20)
    })
    .await;
}

async fn lose_disk(cluster: &mut Cluster, node: &str) {
    cluster.close(node).await;
    std::fs::remove_dir_all(cluster.data_of(node)).unwrap();
    cluster.open(node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_lost_its_disk_is_filled_while_its_home_is_written_to() {
    let mut cluster = start().await;
    for name in ["one", "semi"] {
        write_much(cluster.node("eu"), name, 1).await;
    }
    until_cut(&cluster, "eu").await;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (space, stop) = (
            cluster.node("eu").keyspace("one").unwrap(),
            Arc::clone(&stop),
        );
        tokio::spawn(async move {
            for index in 0..20_000_u32 {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let key = format!("busy/{}", index % 100);
                space.put(key, index.to_string()).await.unwrap();
            }
        })
    };
    lose_disk(&mut cluster, "us").await;
    until("a snapshot was installed", || {
        let us = partition(&cluster, "us", "one");
        us.applied_upto > domicile::Seq::NONE
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    for name in ["one", "semi"] {
        until_alike(&cluster, name).await;
    }
    // It is a copy like any other: a write that waits for it is acknowledged by it.
    cluster.wan.isolate("ap").unwrap();
    let semi = cluster.node("eu").keyspace("semi").unwrap();
    let receipt = semi.put("after/1", "v").await.unwrap();
    assert_eq!(receipt.achieved, AckLevel::SEMI_SYNC);
    drop(semi);
    cluster.wan.heal("ap").unwrap();
    // And what it has survives a restart, with the engine and without.
    cluster.close("us").await;
    cluster.open("us").await;
    until_alike(&cluster, "one").await;
    cluster.close("us").await;
    std::fs::remove_dir_all(cluster.data_of("us").join("engine")).unwrap();
    cluster.open("us").await;
    until_alike(&cluster, "one").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_outruns_its_budget_no_longer_keeps_the_journal() {
    let cluster = start().await;
    write_much(cluster.node("eu"), "one", 1).await;
    cluster.wan.isolate("ap").unwrap();
    write_much(cluster.node("eu"), "one", 2).await;
    until_cut(&cluster, "eu").await;
    let home = partition(&cluster, "eu", "one");
    let of = |name: &str| home.copies.iter().find(|it| it.region == name).unwrap();
    assert!(of("ap").needs_snapshot, "{:?}", home.copies);
    assert!(!of("us").needs_snapshot, "{:?}", home.copies);
    cluster.wan.heal("ap").unwrap();
    until_alike(&cluster, "one").await;
    until("the home knows", || {
        let home = partition(&cluster, "eu", "one");
        home.copies.iter().all(|it| !it.needs_snapshot)
    })
    .await;
    cluster.stop().await;
}

/// The receiver dies in the middle, then the sender is out of reach: it goes on, from another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_that_is_interrupted_goes_on_and_changes_its_source() {
    let mut cluster = start().await;
    write_much(cluster.node("eu"), "one", 1).await;
    for node in ["eu", "us"] {
        until_cut(&cluster, node).await;
    }
    let narrow = LinkConditions {
        bandwidth_bytes_per_s: Some(NARROW),
        ..LinkConditions::with_rtt(NEAR)
    };
    let link = cluster.wan.link("ap", "eu").unwrap();
    link.set_conditions(narrow).unwrap();
    lose_disk(&mut cluster, "ap").await;
    let received = |cluster: &Cluster| {
        let alarm = partition(cluster, "ap", "one").alarm;
        let kib = alarm.strip_prefix("receives a snapshot: ")?.split_once(' ');
        kib.and_then(|(kib, _)| kib.parse::<u64>().ok())
    };
    until("some of it has come", || {
        received(&cluster).is_some_and(|kib| kib >= 600)
    })
    .await;
    cluster.close("ap").await;
    cluster.open("ap").await;
    let mut first = None;
    until("it goes on", || {
        first = received(&cluster);
        first.is_some()
    })
    .await;
    assert!(first.unwrap() >= 600, "went on from {first:?} KiB");
    cluster.wan.link("ap", "eu").unwrap().cut();
    // The other copy has a snapshot of the same log.
    until("another source has sent one", || {
        partition(&cluster, "ap", "one").applied_upto > domicile::Seq::NONE
    })
    .await;
    cluster.wan.link("ap", "eu").unwrap().heal();
    until_alike(&cluster, "one").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_sent_to_no_region_that_may_not_hold_it() {
    let cluster = Cluster::start(NEAR, keyspaces()).await;
    let eu = cluster.node("eu");
    let european = eu.keyspace("european").unwrap();
    european.put("k/1", "canary").await.unwrap();
    let address = format!("http://{}", eu.peer_address().unwrap());
    let mut client = PeerClient::connect(address).await.unwrap();
    let partition = european.policy().partition_of(b"k/1");
    let request = |from: &str, protocol| v1::FetchSnapshotRequest {
        protocol,
        cluster: "domicile".to_owned(),
        region: from.to_owned(),
        policy_digest: eu.policy_digest(),
        partition: Bytes::copy_from_slice(&partition.to_bytes()),
        seq_min: 0,
        header: Bytes::new(),
        offset: 0,
    };
    let refused = client.fetch_snapshot(request("ap", 3)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied, "{refused}");
    let refused = client.fetch_snapshot(request("xx", 3)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::NotFound, "{refused}");
    let refused = client.fetch_snapshot(request("us", 2)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused}");
    // Whoever may hold it gets it, and it holds the value.
    let mut chunks = client
        .fetch_snapshot(request("us", 3))
        .await
        .unwrap()
        .into_inner();
    let first = chunks.message().await.unwrap().unwrap();
    let found = first.bytes.windows(6).any(|bytes| bytes == b"canary");
    assert!(found, "{} bytes", first.bytes.len());
    drop(european);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_away_for_too_long_no_longer_keeps_the_journal() {
    let one = keyspace("one", AckLevel::Async, "eu");
    let cluster = Cluster::start_with(NEAR, vec![one], |options| {
        options.journal_file_bytes = 1 << 20;
        options.journal_keep_bytes = KEEP_BYTES;
        options.copy_keep = Duration::from_millis(300);
    })
    .await;
    cluster.wan.isolate("ap").unwrap();
    write_much(cluster.node("eu"), "one", 1).await;
    until_cut(&cluster, "eu").await;
    cluster.wan.heal("ap").unwrap();
    until_alike(&cluster, "one").await;
    cluster.stop().await;
}
