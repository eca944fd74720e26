//! Nodes that go away and come back: catch-up, recovery, the engine's loss.

use std::path::Path;
use std::time::{Duration, Instant};

use domicile::{ErrorKind, Reason};

use crate::rig::{Cluster, PATIENCE, keyspaces, until, wait_value};

const NEAR: Duration = Duration::from_millis(4);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_was_away_catches_up() {
    let mut cluster = Cluster::start(NEAR, keyspaces()).await;
    let fast = cluster.node("eu").keyspace("fast").unwrap();
    fast.put("k/0", "0").await.unwrap();
    cluster.close("us").await;
    let writes = (0..2_000).map(|n| fast.put(format!("g{}/k", n % 50), format!("{n}")));
    for result in futures::future::join_all(writes.map(std::future::IntoFuture::into_future)).await
    {
        result.unwrap();
    }
    fast.put("last/k", "done").await.unwrap();
    cluster.open("us").await;
    for group in 0..50 {
        let key = format!("g{group}/k");
        let at_home = fast.get(&key).await.unwrap().unwrap();
        let value = String::from_utf8(at_home.value.to_vec()).unwrap();
        wait_value(&cluster, "us", "fast", &key, &value).await;
    }
    wait_value(&cluster, "us", "fast", "last/k", "done").await;
    wait_value(&cluster, "ap", "fast", "last/k", "done").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_engine_can_be_deleted_with_nothing_lost() {
    let mut cluster = Cluster::start(NEAR, keyspaces()).await;
    let safe = cluster.node("eu").keyspace("safe").unwrap();
    let mut versions = Vec::new();
    for index in 0..100 {
        versions.push(
            safe.put(format!("g{index}/k"), format!("v{index}"))
                .await
                .unwrap()
                .version,
        );
    }
    safe.delete("g7/k").await.unwrap();
    for node in ["eu", "us"] {
        cluster.close(node).await;
        let engine = cluster.data_of(node).join("engine");
        assert!(
            engine.is_dir(),
            "{} is not where the engine is",
            engine.display()
        );
        std::fs::remove_dir_all(engine).unwrap();
        cluster.open(node).await;
    }
    cluster.connected("eu").await;
    for node in ["eu", "us"] {
        let handle = cluster.node(node).keyspace("safe").unwrap();
        for (index, version) in versions.iter().enumerate() {
            let entry = handle.get(format!("g{index}/k")).await.unwrap();
            assert_eq!(
                entry.map(|entry| entry.version),
                (index != 7).then_some(*version)
            );
        }
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_home_remembers_request_ids_and_waits_before_it_reads() {
    let mut cluster = Cluster::start(NEAR, keyspaces()).await;
    let id: domicile::RequestId = "0000000000000000000000000000beef".parse().unwrap();
    let safe = cluster.node("eu").keyspace("safe").unwrap();
    let first = safe.put("k/1", "v").request_id(id).await.unwrap();
    drop(safe);
    cluster.close("eu").await;
    cluster.wan.isolate("eu").unwrap();
    cluster.open("eu").await;
    let safe = cluster.node("eu").keyspace("safe").unwrap();
    // Cut off, it cannot know that all it holds was visible; stale data would be worse than none.
    match safe.get("k/1").await {
        Ok(entry) => assert_eq!(entry.unwrap().version, first.version),
        Err(error) => assert_eq!(error.kind(), ErrorKind::NoHome, "{error:?}"),
    }
    cluster.wan.heal("eu").unwrap();
    cluster.connected("eu").await;
    let deadline = Instant::now() + PATIENCE;
    while safe.get("k/1").await.is_err() {
        assert!(Instant::now() < deadline, "reads never opened");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let again = safe.put("k/1", "v").request_id(id).await.unwrap();
    assert!(again.duplicate);
    assert_eq!(again.version, first.version);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_open_names_the_holder() {
    let cluster = Cluster::start(NEAR, keyspaces()).await;
    let second = domicile::Node::builder(cluster.data_of("eu")).open().await;
    let error = second.err().expect("a second open succeeded");
    assert_eq!(error.reason(), Reason::DirectoryLocked);
    let text = error.to_string();
    assert!(
        text.contains(&std::process::id().to_string()),
        "does not name the holder: {text}"
    );
    until("the first is unharmed", || {
        cluster
            .node("eu")
            .status(domicile::Detail::Summary)
            .poisoned
            .is_empty()
    })
    .await;
    cluster
        .node("eu")
        .keyspace("fast")
        .unwrap()
        .put("k/1", "v")
        .await
        .unwrap();
    cluster.stop().await;
}

/// Copies a directory with everything in it.
fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Regression: the home then wrote the same places of the same reign again, and took the copies'
/// marks, which were about other records, for acknowledgements of these.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_home_set_back_to_a_backup_counts_no_copy_of_the_other_history() {
    let mut cluster = Cluster::start(NEAR, keyspaces()).await;
    let (data, backup) = (cluster.data_of("eu"), cluster.data.path().join("backup"));
    let at_eu = |cluster: &Cluster, name: &str| cluster.node("eu").keyspace(name).unwrap();
    for name in ["fast", "hasty"] {
        let before = at_eu(&cluster, name).put("k/0", "in both").await;
        before.unwrap();
    }
    cluster.close("eu").await;
    copy_directory(&data, &backup);
    cluster.open("eu").await;
    cluster.connected("eu").await;
    for name in ["fast", "hasty"] {
        let after = at_eu(&cluster, name).put("k/1", "after the backup").await;
        after.unwrap();
        wait_value(&cluster, "us", name, "k/1", "after the backup").await;
    }
    cluster.close("eu").await;
    std::fs::remove_dir_all(&data).unwrap();
    copy_directory(&backup, &data);
    // As long again before the copies say what they hold: only the hashes tell the two apart.
    cluster.wan.isolate("eu").unwrap();
    cluster.open("eu").await;
    let instead = at_eu(&cluster, "fast").put("k/1", "instead").await;
    instead.unwrap();
    let unmet = at_eu(&cluster, "hasty").put("k/1", "instead").await;
    assert_eq!(unmet.unwrap_err().kind(), ErrorKind::Indeterminate);
    cluster.wan.heal("eu").unwrap();
    until("the copies' other history is noticed", || {
        let status = cluster.node("eu").status(domicile::Detail::Partitions);
        let alarms = status.partitions.iter().map(|each| &each.alarm);
        let noticed = alarms.filter(|alarm| alarm.contains("CopyDiverged"));
        noticed.count() == 2
    })
    .await;
    let unmet = at_eu(&cluster, "hasty")
        .put("k/2", "no copy holds it")
        .await;
    assert_eq!(unmet.unwrap_err().kind(), ErrorKind::Indeterminate);
    for name in ["fast", "hasty"] {
        wait_value(&cluster, "us", name, "k/1", "after the backup").await;
    }
    cluster.stop().await;
}

/// Regression: writers that waited for a level when their node was closed were never answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_answers_whoever_still_waits() {
    let mut cluster = Cluster::start(NEAR, keyspaces()).await;
    cluster.wan.isolate("eu").unwrap();
    let safe = cluster.node("eu").keyspace("safe").unwrap();
    let waiting = tokio::spawn(async move { safe.put("k/1", "never acknowledged").await });
    until("the write is in flight", || {
        let status = cluster.node("eu").status(domicile::Detail::Partitions);
        status
            .partitions
            .iter()
            .any(|each| each.in_flight_records > 0)
    })
    .await;
    cluster.close("eu").await;
    let answer = tokio::time::timeout(PATIENCE, waiting).await;
    let error = answer.expect("answered").unwrap().expect_err("not acked");
    // It is durable at home, so nothing that says "not written" would be true.
    assert_eq!(error.kind(), ErrorKind::Indeterminate, "{error}");
    cluster.stop().await;
}
