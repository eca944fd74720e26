//! Backups between regions: what may leave a node, and what becomes of the copies of a home that
//! was restored.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use domicile::{AckLevel, Name, Node, Reason, Seq};
use domicile_replication::BackupCall;
use domicile_storage::backup::{
    BackupDraft, BackupKeyspace, BackupManifest, BackupNumber, BackupSubject, FileStep, Restore,
    RestorePoint,
};
use domicile_storage::{OsDisk, StoreOptions};

use crate::rig::{Cluster, keyspace, keyspaces, partition, region, until, wait_value};

const NEAR: Duration = Duration::from_millis(4);

/// Files by name.
type Place = BTreeMap<String, Vec<u8>>;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// Reads a whole backup of a node into memory, behind an earlier one if there is one.
fn back_up(node: &Node, place: &mut Place, previous: Option<&BackupManifest>) -> BackupManifest {
    let call = BackupCall {
        known: previous.map_or(Vec::new(), BackupDraft::known),
        ..BackupCall::default()
    };
    let mut source = node.backup(call).unwrap();
    let kept = source.keyspaces().iter().map(|it| BackupKeyspace {
        name: it.name.clone(),
        regions: vec![name("eu")],
        policy: String::new(),
    });
    let subject = BackupSubject {
        created_at_ms: source.created_at_ms(),
        node: node.node_id(),
        cluster: source.cluster().clone(),
        region: node.region().clone(),
        place_region: source.place_region().name.clone(),
        keyspaces: kept.collect(),
    };
    let mut file = String::new();
    let number = previous.map_or(BackupNumber::FIRST, |it| it.number.next());
    let mut draft = BackupDraft::new(subject, number, previous, "token").unwrap();
    while let Some(piece) = source.read_on().unwrap() {
        for step in draft.take(piece).unwrap() {
            match step {
                FileStep::Begin(name) => file = name,
                FileStep::Write(bytes) => place.entry(file.clone()).or_default().extend(bytes),
                FileStep::End => {}
            }
        }
    }
    draft.finish().unwrap()
}

fn restore(data: &Path, manifest: &BackupManifest, place: &Place, point: RestorePoint) {
    let points = manifest.partitions.iter();
    let points = points.map(|it| (it.partition, point)).collect();
    let (disk, options) = (Arc::new(OsDisk::new()), StoreOptions::default());
    let mut restore = Restore::begin(disk, data, options, manifest, &points).unwrap();
    for file in restore.files() {
        restore.begin_file(&file);
        restore.write(&place[&file.name].clone().into()).unwrap();
        restore.end_file().unwrap();
    }
    restore.finish().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_never_outside_the_regions_of_a_keyspace() {
    let cluster = Cluster::start(NEAR, keyspaces()).await;
    let call = |keyspaces: &[&str], region: &str| BackupCall {
        keyspaces: keyspaces.iter().map(|it| (*it).to_owned()).collect(),
        place_region: Some(region.to_owned()),
        known: Vec::new(),
    };
    let eu = cluster.node("eu");
    for refused in [call(&[], "ap"), call(&["fast", "european"], "ap")] {
        let error = eu.backup(refused).map(|_| ()).unwrap_err();
        assert_eq!(error.reason(), Reason::DataResidency, "{error}");
        assert_eq!(error.metadata()["keyspace"], "european");
    }
    let unknown = eu.backup(call(&[], "mars")).map(|_| ()).unwrap_err();
    assert_eq!(unknown.reason(), Reason::RegionNotFound);
    let unknown = eu.backup(call(&["nothing"], "eu")).map(|_| ()).unwrap_err();
    assert_eq!(unknown.reason(), Reason::KeyspaceNotFound);
    drop(eu.backup(call(&["fast"], "ap")).unwrap());
    drop(eu.backup(call(&[], "us")).unwrap());
    // What a node may not hold it does not give, wherever to.
    let ap = cluster.node("ap");
    let refused = ap
        .backup(call(&["european"], "eu"))
        .map(|_| ())
        .unwrap_err();
    assert_eq!(refused.reason(), Reason::DataResidency, "{refused}");
    let held = ap.backup(call(&[], "ap")).unwrap();
    let mut names = held.keyspaces().iter();
    assert!(names.all(|it| it.name.as_str() != "european"));
    // One at a time.
    let second = ap.backup(call(&[], "ap")).map(|_| ()).unwrap_err();
    assert_eq!(second.reason(), Reason::Overloaded, "{second}");
    drop(held);
    drop(ap.backup(call(&[], "ap")).unwrap());
    cluster.stop().await;
}

/// A home restored as it was some writes ago begins a reign of its own. A copy that has those
/// writes keeps them, and is told to follow another history; a copy that has not goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_of_a_restored_home_are_found_diverged_or_go_on() {
    let mut spaces = vec![keyspace("fast", AckLevel::Async, "eu")];
    spaces[0].buckets = 1.try_into().unwrap();
    spaces.push(keyspace("still", AckLevel::Async, "eu"));
    spaces[1].buckets = 1.try_into().unwrap();
    let mut cluster = Cluster::start(NEAR, spaces).await;
    let put = async |cluster: &Cluster, space: &str, value: &str| {
        let space = cluster.node("eu").keyspace(space).unwrap();
        space.put("k/1", value.to_owned()).await.unwrap();
    };
    for round in 0..20 {
        put(&cluster, "fast", &format!("early {round}")).await;
        put(&cluster, "still", "kept").await;
    }
    let mut place = Place::new();
    let manifest = back_up(cluster.node("eu"), &mut place, None);
    for round in 0..5 {
        put(&cluster, "fast", &format!("late {round}")).await;
    }
    for copy in ["us", "ap"] {
        wait_value(&cluster, copy, "fast", "k/1", "late 4").await;
    }
    let before = partition(&cluster, "eu", "fast");
    let lost_upto = before.durable_upto;

    cluster.close("eu").await;
    std::fs::remove_dir_all(cluster.data_of("eu")).unwrap();
    restore(&cluster.data_of("eu"), &manifest, &place, RestorePoint::End);
    cluster.open("eu").await;
    let restored = partition(&cluster, "eu", "fast");
    assert!(restored.durable_upto < lost_upto, "{restored:?}");
    wait_value(&cluster, "eu", "fast", "k/1", "early 19").await;
    let (old, new) = (before.epoch.unwrap(), restored.epoch.unwrap());
    assert_eq!(new.node, cluster.node("eu").node_id());
    assert_eq!(
        (new.counter, new.node == old.node),
        (old.counter + 1, false)
    );

    // The other history grows beyond the old one: by length alone it would seem to follow.
    for round in 0..10 {
        put(&cluster, "fast", &format!("new {round}")).await;
        put(&cluster, "still", "goes on").await;
    }
    for copy in ["us", "ap"] {
        wait_value(&cluster, copy, "still", "k/1", "goes on").await;
        until("the copy is told apart", || {
            let home = partition(&cluster, "eu", "fast");
            let seen = home.copies.iter().find(|it| it.region == copy).unwrap();
            !seen.connected && !home.alarm.is_empty()
        })
        .await;
        // Nothing of it was overwritten.
        let there = partition(&cluster, copy, "fast");
        assert_eq!((there.durable_upto, there.epoch), (lost_upto, Some(old)));
        wait_value(&cluster, copy, "fast", "k/1", "late 4").await;
    }
    // A copy that begins with nothing follows the new history.
    cluster.close("ap").await;
    std::fs::remove_dir_all(cluster.data_of("ap")).unwrap();
    cluster.open("ap").await;
    wait_value(&cluster, "ap", "fast", "k/1", "new 9").await;
    // A second open goes on in the reign that has records by now.
    cluster.close("eu").await;
    cluster.open("eu").await;
    assert_eq!(partition(&cluster, "eu", "fast").epoch, Some(new));
    cluster.stop().await;
}

/// Records that share commits: a point between them is one all the same, and the home goes on
/// there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_home_restored_in_the_midst_of_a_commit_serves_what_was_then() {
    let mut spaces = vec![keyspace("alone", AckLevel::Async, "eu")];
    spaces[0].regions = vec![region("eu")];
    spaces[0].buckets = 1.try_into().unwrap();
    let mut cluster = Cluster::start(NEAR, spaces).await;
    let space = cluster.node("eu").keyspace("alone").unwrap();
    space.put("k/0", "first").await.unwrap();
    let mut place = Place::new();
    let first = back_up(cluster.node("eu"), &mut place, None);
    let writes = (0..60).map(|value| space.put("k/1", value.to_string()).into_future());
    let receipts = futures::future::try_join_all(writes).await.unwrap();
    let values = receipts.iter().enumerate();
    let values = values.map(|(value, it)| (it.version.seq, value.to_string()));
    let values: BTreeMap<Seq, String> = values.collect();
    drop(space);
    let manifest = back_up(cluster.node("eu"), &mut place, Some(&first));
    assert_eq!(manifest.partitions[0].oldest_seq(), Seq::FIRST);
    let mut new_reigns = 0;
    // The last one is the end of a commit for certain.
    for (seq, value) in values.iter().skip(14).step_by(9) {
        cluster.close("eu").await;
        std::fs::remove_dir_all(cluster.data_of("eu")).unwrap();
        restore(
            &cluster.data_of("eu"),
            &manifest,
            &place,
            RestorePoint::Seq(*seq),
        );
        cluster.open("eu").await;
        let space = cluster.node("eu").keyspace("alone").unwrap();
        let found = space.get("k/1").await.unwrap().unwrap();
        assert_eq!(
            (found.version.seq, found.value),
            (*seq, value.clone().into())
        );
        let own = cluster.node("eu").node_id();
        let is_within = found.version.epoch.node == own;
        new_reigns += usize::from(is_within);
        // Restored to the end of a commit, the home's own reign begins with a record of its own.
        let follows = if is_within {
            seq.next()
        } else {
            seq.next().next()
        };
        let next = space.put("k/1", "after").await.unwrap();
        assert_eq!((next.version.seq, next.version.epoch.node), (follows, own));
    }
    assert!(new_reigns > 0, "every point was the end of a commit");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_journal_is_cut_while_a_backup_reads_it() {
    let mut spaces = vec![keyspace("alone", AckLevel::Async, "eu")];
    spaces[0].regions = vec![region("eu")];
    let cluster = Cluster::start_with(NEAR, spaces, |options| {
        options.journal_file_bytes = 1 << 20;
        options.journal_keep_bytes = 2 << 20;
    })
    .await;
    let eu = cluster.node("eu");
    let journal_bytes = || eu.status(domicile::Detail::Summary).disk.journal_bytes;
    let space = eu.keyspace("alone").unwrap();
    let write_much = async || {
        for index in 0..200_u32 {
            let value = vec![index as u8; 50_000];
            let key = format!("g{}/k", index % 40);
            space.put(key, value).await.unwrap();
        }
    };
    write_much().await;
    let mut source = eu.backup(BackupCall::default()).unwrap();
    let first = source.read_on().unwrap();
    assert!(first.is_some(), "nothing to back up");
    let before = journal_bytes();
    write_much().await;
    // The keeper looks every second.
    let began = std::time::Instant::now();
    until("the backup is read to its end", || {
        let is_read = source.read_on().unwrap().is_none();
        is_read && began.elapsed() > Duration::from_millis(1_500)
    })
    .await;
    let grown = journal_bytes() - before;
    assert!(
        grown >= 8 << 20,
        "the journal was cut: it has grown by {grown} bytes"
    );
    drop(source);
    until("the journal is cut", || journal_bytes() <= 4 << 20).await;
    drop(space);
    cluster.stop().await;
}
