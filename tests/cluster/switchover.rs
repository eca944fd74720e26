//! Homes that are handed on as planned: nothing is lost, and writers hardly notice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use domicile::{AckLevel, Consistency, ControlOptions, Haste, Keyspace, KeyspaceHandle};

use crate::rig::{Cluster, PATIENCE, REGIONS, keyspace, region, until};

const RTT: Duration = Duration::from_millis(20);

pub(crate) async fn start(keyspaces: Vec<Keyspace>) -> Cluster {
    let control = ControlOptions {
        rtt_max: 2 * RTT,
        haste: Haste::Aggressive,
    };
    let agreed = |options: &mut domicile::NodeOptions| options.control = Some(control);
    let cluster = Cluster::start_with(RTT, keyspaces, agreed).await;
    for node in REGIONS {
        until("the keyspaces are made", || {
            let status = cluster.node(node).status(domicile::Detail::Partitions);
            !status.partitions.is_empty()
        })
        .await;
    }
    cluster
}

/// What one writer was told.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) acked: BTreeMap<String, String>,
    pub(crate) failed: Vec<String>,
    pub(crate) longest_pause: Duration,
}

/// Writes keys of its own, one after the other, until it is told to stop.
pub(crate) async fn write(handle: KeyspaceHandle, name: String, stop: Arc<AtomicBool>) -> Told {
    let mut told = Told::default();
    let mut last_ack = Instant::now();
    for number in 0..100_000 {
        if stop.load(Ordering::Acquire) {
            break;
        }
        let (key, value) = (format!("{name}/{}", number % 50), number.to_string());
        let put = handle.put(key.clone(), value.clone());
        match put.timeout(Duration::from_secs(5)).await {
            Ok(_) => {
                told.acked.insert(key, value);
                told.longest_pause = told.longest_pause.max(last_ack.elapsed());
                last_ack = Instant::now();
            }
            Err(error) => told.failed.push(format!("{key}: {error}")),
        }
    }
    told
}

pub(crate) async fn shown(
    cluster: &Cluster,
    node: &str,
    keyspace: &str,
    key: &str,
) -> Option<String> {
    let handle = cluster.node(node).keyspace(keyspace).unwrap();
    let read = handle.get(key).consistency(Consistency::Home).await;
    let entry = read.unwrap_or_else(|error| panic!("{key} at {node}: {error}"))?;
    Some(String::from_utf8(entry.value.to_vec()).unwrap())
}

/// Writers at all regions keep on while everything moves to another region, to a third, and back
/// before anybody could have caught up: no write fails, none is lost, none is an orphan.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_go_on_while_homes_are_handed_around() {
    let spaces = vec![
        keyspace("fast", AckLevel::Async, "eu"),
        keyspace("semi", AckLevel::SEMI_SYNC, "eu"),
    ];
    let cluster = start(spaces).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for space in ["fast", "semi"] {
        for node in REGIONS {
            let handle = cluster.node(node).keyspace(space).unwrap();
            let task = write(handle, format!("{node}-{space}"), Arc::clone(&stop));
            writers.push((space, tokio::spawn(task)));
        }
    }
    for (at, to) in [("eu", "us"), ("eu", "ap"), ("us", "eu")] {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let moved = cluster
            .node(at)
            .switch_over(None, region(to), None, PATIENCE);
        let moved = moved.await.unwrap();
        assert!(moved.stayed.is_empty(), "to {to}: {moved:?}");
        assert_eq!(moved.moved.len(), 16, "to {to}");
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    stop.store(true, Ordering::Release);
    for (space, writer) in writers {
        let told = writer.await.unwrap();
        assert!(told.failed.is_empty(), "{space}: {:?}", told.failed);
        assert!(!told.acked.is_empty());
        eprintln!("{space}: longest pause {:?}", told.longest_pause);
        for (key, value) in told.acked {
            let seen = shown(&cluster, "ap", space, &key).await;
            assert_eq!(seen.as_ref(), Some(&value), "{key}");
        }
    }
    for node in REGIONS {
        assert_eq!(
            cluster.node(node).orphans().await.unwrap().len(),
            0,
            "{node}"
        );
        let changes = cluster.node(node).home_changes().unwrap();
        assert!(changes.iter().all(|it| it.is_planned), "{changes:?}");
    }
    cluster.stop().await;
}

/// A region that cannot be reached takes over nothing: the home goes on where it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switchover_to_a_region_that_is_away_is_called_off() {
    let cluster = start(vec![keyspace("fast", AckLevel::Async, "eu")]).await;
    let handle = cluster.node("eu").keyspace("fast").unwrap();
    handle.put("k", "before").timeout(PATIENCE).await.unwrap();
    cluster.wan.isolate("us").unwrap();
    let moved = cluster
        .node("eu")
        .switch_over(None, region("us"), None, PATIENCE);
    let moved = moved.await.unwrap();
    assert!(moved.moved.is_empty(), "{moved:?}");
    assert_eq!(moved.stayed.len(), 8, "{moved:?}");
    assert!(moved.stayed[0].1.contains("called off"), "{moved:?}");
    handle.put("k", "after").await.unwrap();
    assert_eq!(
        shown(&cluster, "ap", "fast", "k").await.as_deref(),
        Some("after")
    );
    cluster.stop().await;
}

/// Whoever has ended its reign and restarts does not begin again, and whoever follows and restarts
/// does begin: what is on disk decides.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switchover_is_finished_over_restarts() {
    let mut cluster = start(vec![keyspace("fast", AckLevel::Async, "eu")]).await;
    let handle = cluster.node("eu").keyspace("fast").unwrap();
    for number in 0..20 {
        let put = handle.put(format!("k/{number}"), "before");
        put.timeout(PATIENCE).await.unwrap();
    }
    drop(handle);
    let within = Duration::from_millis(1);
    let begun = cluster
        .node("eu")
        .switch_over(None, region("us"), None, within);
    // Too late to hear how it ends.
    let _ = begun.await;
    cluster.close("eu").await;
    cluster.close("us").await;
    cluster.open("us").await;
    cluster.open("eu").await;
    for number in 0..20 {
        let handle = cluster.node("ap").keyspace("fast").unwrap();
        let put = handle.put(format!("k/{number}"), "after");
        put.timeout(PATIENCE).await.unwrap();
    }
    for number in 0..20 {
        let key = format!("k/{number}");
        assert_eq!(
            shown(&cluster, "eu", "fast", &key).await.as_deref(),
            Some("after")
        );
    }
    for node in REGIONS {
        assert_eq!(
            cluster.node(node).orphans().await.unwrap().len(),
            0,
            "{node}"
        );
    }
    cluster.stop().await;
}
