//! Nodes whose files were damaged: what is lost is named and fetched again, the rest goes on.

use std::ops::Bound;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use domicile::{AckLevel, Consistency, Detail, Reason};
use domicile_replication::node::status::DiskStatus;
use domicile_storage::engine::{Direction, Engine, RowChange, SledEngine};

use crate::rig::{Cluster, keyspace, partition, until, until_alike};

const NEAR: Duration = Duration::from_millis(4);

/// Above it a journal is cut: four of the test's files.
const KEEP_BYTES: u64 = 4 << 20;

async fn start() -> Cluster {
    let spaces = vec![
        keyspace("wide", AckLevel::Async, "eu"),
        keyspace("own", AckLevel::Async, "us"),
    ];
    Cluster::start_with(NEAR, spaces, |options| {
        options.journal_file_bytes = 1 << 20;
        options.journal_keep_bytes = KEEP_BYTES;
        options.scrub_pause = Duration::from_millis(100);
        options.scrub_bytes_per_s = 1 << 30;
    })
    .await
}

async fn write(cluster: &Cluster, name: &str, keys: u32) {
    let space = cluster.node("eu").keyspace(name).unwrap();
    for index in 0..keys {
        let value = vec![index as u8; 10_000];
        space.put(format!("g{index}/k"), value).await.unwrap();
    }
}

/// The files of a directory, in order.
fn files(dir: &Path, suffix: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let entries = entries.map(|entry| entry.unwrap());
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.retain(|path| path.to_str().unwrap().ends_with(suffix));
    files.sort();
    files
}

/// Overwrites bytes in the middle of a file's used part.
fn damage(path: &Path, at: u64) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&[0xa5; 64], at).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_with_a_damaged_journal_fetches_what_it_lost() {
    let mut cluster = start().await;
    write(&cluster, "wide", 150).await;
    write(&cluster, "own", 50).await;
    until_alike(&cluster, "wide").await;
    cluster.close("ap").await;
    let data = cluster.data_of("ap");
    let journal = files(&data.join("journal"), ".journal");
    assert!(journal.len() > 1, "{journal:?}");
    for at in [300_000, 700_000] {
        damage(&journal[0], at);
    }
    std::fs::remove_dir_all(data.join("engine")).unwrap();
    cluster.open("ap").await;
    write(&cluster, "wide", 20).await;
    for name in ["wide", "own"] {
        until_alike(&cluster, name).await;
    }
    // Once more, over the same damage, now made up for.
    cluster.close("ap").await;
    std::fs::remove_dir_all(data.join("engine")).unwrap();
    cluster.open("ap").await;
    for name in ["wide", "own"] {
        until_alike(&cluster, name).await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_home_with_a_damaged_log_is_out_of_service_and_the_rest_is_not() {
    let mut cluster = start().await;
    let mut one = cluster.node("us").keyspace("own").unwrap();
    one.put("a/k", vec![1; 100_000]).await.unwrap();
    one.put("a/k", vec![2; 100_000]).await.unwrap();
    write(&cluster, "wide", 20).await;
    until_alike(&cluster, "own").await;
    drop(one);
    cluster.close("us").await;
    let data = cluster.data_of("us");
    damage(&files(&data.join("journal"), ".journal")[0], 50_000);
    std::fs::remove_dir_all(data.join("engine")).unwrap();
    cluster.open("us").await;
    one = cluster.node("us").keyspace("own").unwrap();
    let refused = one.put("a/k", "v").await.unwrap_err();
    assert_eq!(refused.reason(), Reason::ChecksumMismatch, "{refused}");
    let refused = one.get("a/k").await.unwrap_err();
    assert_eq!(refused.reason(), Reason::ChecksumMismatch, "{refused}");
    // The copies serve what they have.
    let ap = cluster.node("ap").keyspace("own").unwrap();
    let entry = ap.get("a/k").consistency(Consistency::Local).await.unwrap();
    assert_eq!(entry.unwrap().value, vec![2; 100_000]);
    // Other partitions of the same journal, and of the same keyspace, go on.
    until_alike(&cluster, "wide").await;
    let mut accepted = 0;
    for index in 0..40 {
        accepted += u32::from(one.put(format!("{index}/k"), "v").await.is_ok());
    }
    assert!(accepted > 0, "no partition of the keyspace is in service");
    drop((one, ap));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_is_gone_is_taken_again_or_fetched() {
    let mut cluster = start().await;
    for _ in 0..8 {
        write(&cluster, "wide", 100).await;
    }
    let is_cut = |cluster: &Cluster, node: &str| {
        !files(&cluster.data_of(node).join("snapshots"), ".snapshot").is_empty()
    };
    until("both journals are cut", || {
        is_cut(&cluster, "eu") && is_cut(&cluster, "ap")
    })
    .await;
    until_alike(&cluster, "wide").await;
    // With the engine, and so without need of it: the home takes a new one.
    cluster.close("eu").await;
    let snapshots = cluster.data_of("eu").join("snapshots");
    let gone = files(&snapshots, ".snapshot")[0].clone();
    std::fs::remove_file(&gone).unwrap();
    cluster.open("eu").await;
    let prefix = gone.file_name().unwrap().to_str().unwrap()[..16].to_owned();
    until("a new one is there", || {
        let found = files(&snapshots, ".snapshot");
        found
            .iter()
            .any(|path| path.to_str().unwrap().contains(&prefix))
    })
    .await;
    // Without the engine it was needed: the copy fetches what the home has.
    cluster.close("ap").await;
    let snapshots = cluster.data_of("ap").join("snapshots");
    damage(&files(&snapshots, ".snapshot")[0], 5_000);
    std::fs::remove_dir_all(cluster.data_of("ap").join("engine")).unwrap();
    cluster.open("ap").await;
    until_alike(&cluster, "wide").await;
    assert!(partition(&cluster, "ap", "wide").alarm.is_empty());
    cluster.stop().await;
}

fn disk_of(cluster: &Cluster, node: &str) -> DiskStatus {
    cluster.node(node).status(Detail::Summary).disk
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_found_while_it_still_costs_nothing() {
    let mut cluster = start().await;
    write(&cluster, "wide", 150).await;
    until_alike(&cluster, "wide").await;
    let journal = files(&cluster.data_of("eu").join("journal"), ".journal");
    damage(&journal[0], 300_000);
    until("the home has found it", || {
        let disk = disk_of(&cluster, "eu");
        disk.damage_found > 0
    })
    .await;
    let passes = disk_of(&cluster, "eu").scrub_passes;
    until("and mended it", || {
        disk_of(&cluster, "eu").scrub_passes > passes + 1
    })
    .await;
    // Who lacks what is lost gets the snapshot that stands for it.
    cluster.close("ap").await;
    std::fs::remove_dir_all(cluster.data_of("ap")).unwrap();
    cluster.open("ap").await;
    until_alike(&cluster, "wide").await;
    // And the home itself does not need it any more.
    cluster.close("eu").await;
    std::fs::remove_dir_all(cluster.data_of("eu").join("engine")).unwrap();
    cluster.open("eu").await;
    write(&cluster, "wide", 20).await;
    until_alike(&cluster, "wide").await;
    cluster.stop().await;
}

/// A value changes in the engine, as no write did.
fn change_a_cell(data: &Path) {
    let engine = SledEngine::open(&data.join("engine"), 1 << 20).unwrap();
    let (from, upto) = (Bound::Included(&b"c"[..]), Bound::Excluded(&b"d"[..]));
    let found = engine.scan(from, upto, Direction::Forward, 1).unwrap();
    let (row, value) = found.into_iter().next().unwrap();
    let mut value = value.to_vec();
    *value.last_mut().unwrap() ^= 1;
    let value = value.into();
    engine.apply(vec![RowChange::Set { row, value }]).unwrap();
    engine.sync().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_differs_from_its_home_is_found_and_filled_anew() {
    let mut cluster = start().await;
    write(&cluster, "wide", 40).await;
    until_alike(&cluster, "wide").await;
    until("copies were compared", || {
        disk_of(&cluster, "ap").digests_compared > 0
    })
    .await;
    assert_eq!(disk_of(&cluster, "ap").digests_unequal, 0);
    cluster.close("ap").await;
    change_a_cell(&cluster.data_of("ap"));
    cluster.open("ap").await;
    until("the difference is found", || {
        disk_of(&cluster, "ap").digests_unequal > 0
    })
    .await;
    until_alike(&cluster, "wide").await;
    cluster.stop().await;
}

/// What is wrong at the home must not spread to copies that are right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_home_from_which_its_copies_differ_is_the_one_that_is_wrong() {
    let mut cluster = start().await;
    write(&cluster, "wide", 40).await;
    until_alike(&cluster, "wide").await;
    cluster.close("ap").await;
    cluster.close("eu").await;
    change_a_cell(&cluster.data_of("eu"));
    cluster.open("eu").await;
    let alarms = |cluster: &Cluster, region: &str, text: &str| {
        let status = cluster.node(region).status(Detail::Partitions).partitions;
        let of = status.into_iter().filter(|it| it.keyspace == "wide");
        of.filter(|it| it.alarm.contains(text)).count()
    };
    until("one of two differs", || {
        alarms(&cluster, "us", "others are asked") == 1
    })
    .await;
    // Nobody is wrong before there is a larger side, however many passes go by.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(alarms(&cluster, "us", "damaged"), 0);
    assert_eq!(alarms(&cluster, "eu", "damaged"), 0);
    cluster.open("ap").await;
    until("the home knows that it is wrong", || {
        alarms(&cluster, "eu", "2 copies, which agree") == 1
    })
    .await;
    let eu = cluster.node("eu").keyspace("wide").unwrap();
    let mut refused = 0;
    for index in 0..40_u8 {
        let key = format!("g{index}/k");
        match eu.put(key.clone(), vec![index; 10_000]).await {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.reason(), Reason::ChecksumMismatch, "{error}");
                refused += 1;
            }
        }
        for region in ["us", "ap"] {
            let copy = cluster.node(region).keyspace("wide").unwrap();
            let entry = copy.get(key.clone()).consistency(Consistency::Local).await;
            assert_eq!(
                entry.unwrap().unwrap().value,
                vec![index; 10_000],
                "{region}"
            );
        }
    }
    assert!((1..40).contains(&refused), "{refused} of 40 keys");
    drop(eu);
    // It is remembered: a restart does not make it right.
    cluster.close("eu").await;
    cluster.open("eu").await;
    let status = cluster.node("eu").status(Detail::Partitions).partitions;
    let of = status
        .iter()
        .filter(|it| it.keyspace == "wide" && !it.alarm.is_empty());
    assert_eq!(of.count(), 1, "{status:?}");
    cluster.stop().await;
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_dir(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// An old copy of a home's own directory is intact in every byte, and yet it lost what was
/// acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_home_that_was_set_back_goes_out_of_service() {
    let mut cluster = start().await;
    write(&cluster, "wide", 40).await;
    cluster.close("eu").await;
    let (data, stale) = (cluster.data_of("eu"), cluster.data.path().join("stale"));
    copy_dir(&data, &stale);
    cluster.open("eu").await;
    cluster.connected("eu").await;
    write(&cluster, "wide", 40).await;
    until_alike(&cluster, "wide").await;
    cluster.close("eu").await;
    std::fs::remove_dir_all(&data).unwrap();
    copy_dir(&stale, &data);
    cluster.open("eu").await;
    let eu = cluster.node("eu").keyspace("wide").unwrap();
    until("the home knows that it was set back", || {
        let status = cluster.node("eu").status(Detail::Partitions).partitions;
        let of = status.iter().filter(|it| it.keyspace == "wide");
        of.clone().all(|it| it.alarm.contains("set back"))
    })
    .await;
    let refused = eu.put("g1/k", "v").await.unwrap_err();
    assert_eq!(refused.reason(), Reason::ChecksumMismatch, "{refused}");
    assert!(refused.to_string().contains("set back"), "{refused}");
    // What was acknowledged is at the copies, and served there.
    let us = cluster.node("us").keyspace("wide").unwrap();
    let entry = us.get("g39/k").consistency(Consistency::Local).await;
    assert_eq!(entry.unwrap().unwrap().value, vec![39; 10_000]);
    drop((eu, us));
    cluster.stop().await;
}

/// Without its directory a home comes back empty. It is no new home as long as a copy has its log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_home_that_lost_its_disk_does_not_begin_anew() {
    let mut cluster = start().await;
    write(&cluster, "wide", 40).await;
    until_alike(&cluster, "wide").await;
    cluster.close("eu").await;
    std::fs::remove_dir_all(cluster.data_of("eu")).unwrap();
    cluster.open("eu").await;
    let eu = cluster.node("eu").keyspace("wide").unwrap();
    until("the home knows that it lost its disk", || {
        let status = cluster.node("eu").status(Detail::Partitions).partitions;
        let of = status.iter().filter(|it| it.keyspace == "wide");
        of.clone()
            .all(|it| it.alarm.contains("its directory is new"))
    })
    .await;
    let refused = eu.get("g1/k").await.unwrap_err();
    assert_eq!(refused.reason(), Reason::ChecksumMismatch, "{refused}");
    let us = cluster.node("us").keyspace("wide").unwrap();
    let entry = us.get("g39/k").consistency(Consistency::Local).await;
    assert_eq!(entry.unwrap().unwrap().value, vec![39; 10_000]);
    drop((eu, us));
    cluster.stop().await;
}

/// It came upon the hole before a snapshot stood for it, and goes on once one does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_goes_on_once_the_hole_in_its_homes_log_is_closed() {
    let spaces = vec![keyspace("wide", AckLevel::Async, "eu")];
    let mut cluster = Cluster::start_with(NEAR, spaces, |options| {
        options.journal_file_bytes = 1 << 20;
        options.journal_keep_bytes = 64 << 20;
        options.scrub_pause = Duration::from_secs(4);
        options.scrub_bytes_per_s = 1 << 30;
    })
    .await;
    write(&cluster, "wide", 20).await;
    until_alike(&cluster, "wide").await;
    cluster.close("ap").await;
    write(&cluster, "wide", 150).await;
    let passes = disk_of(&cluster, "eu").scrub_passes;
    until("a pass", || disk_of(&cluster, "eu").scrub_passes > passes).await;
    let journal = files(&cluster.data_of("eu").join("journal"), ".journal");
    damage(&journal[0], 700_000);
    cluster.open("ap").await;
    until("the damage is found", || {
        disk_of(&cluster, "eu").damage_found > 0
    })
    .await;
    until_alike(&cluster, "wide").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_home_whose_snapshots_are_damaged_opens_and_takes_new_ones() {
    let mut cluster = start().await;
    for _ in 0..8 {
        write(&cluster, "wide", 100).await;
    }
    let snapshots = cluster.data_of("eu").join("snapshots");
    until("the journal is cut", || {
        !files(&snapshots, ".snapshot").is_empty()
    })
    .await;
    cluster.close("eu").await;
    for path in files(&snapshots, ".snapshot") {
        // In the requests, which are read when a home opens.
        damage(&path, 4_200);
    }
    cluster.open("eu").await;
    until("all is read again", || {
        disk_of(&cluster, "eu").scrub_passes > 1
    })
    .await;
    cluster.close("eu").await;
    std::fs::remove_dir_all(cluster.data_of("eu").join("engine")).unwrap();
    cluster.open("eu").await;
    write(&cluster, "wide", 100).await;
    until_alike(&cluster, "wide").await;
    cluster.stop().await;
}
