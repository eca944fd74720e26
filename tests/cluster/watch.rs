//! Watches: every change once, in order, from any position on, at any node that holds the keyspace.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use domicile::{
    AckLevel, Change, Changes, Hlc, KeyspaceHandle, Operation, PartitionId, Placement, Receipt,
    ResumeToken, Seq, WatchCall, WatchFrom, WatchKeys,
};
use futures::StreamExt;

use crate::rig::{Cluster, PATIENCE, REGIONS, keyspace, keyspaces, region, until};

const NEAR: Duration = Duration::from_millis(4);

/// How long a watch must stay silent to be believed: many times what a change takes to be told.
const SILENCE: Duration = Duration::from_millis(150);

/// What was acknowledged: of each partition the operations of each record.
pub(crate) type Acked = BTreeMap<PartitionId, BTreeMap<Seq, Vec<Operation>>>;

pub(crate) async fn next(changes: &mut Changes) -> Change {
    let next = tokio::time::timeout(PATIENCE, changes.next()).await;
    let next = next.expect("a change comes within the deadline");
    next.expect("the watch goes on").unwrap()
}

pub(crate) async fn take(changes: &mut Changes, count: usize) -> Vec<Change> {
    let mut taken = Vec::with_capacity(count);
    for _ in 0..count {
        taken.push(next(changes).await);
    }
    taken
}

async fn assert_silent(changes: &mut Changes, why: &str) {
    let told = tokio::time::timeout(SILENCE, changes.next()).await;
    assert!(told.is_err(), "{why}: {told:?}");
}

pub(crate) fn put(key: &str, value: &str) -> Operation {
    Operation::Put {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        expiry: None,
    }
}

fn delete(key: &str) -> Operation {
    let key = key.to_owned().into();
    Operation::Delete { key }
}

pub(crate) fn count(acked: &Acked) -> usize {
    acked.values().map(BTreeMap::len).sum()
}

pub(crate) fn remember(acked: &mut Acked, receipt: &Receipt, operations: Vec<Operation>) {
    let of_partition = acked.entry(receipt.partition).or_default();
    let before = of_partition.insert(receipt.version.seq, operations);
    assert!(before.is_none(), "two writes share {receipt:?}");
}

/// Each acknowledged write once, whole, and in its partition's order; nothing else.
pub(crate) fn assert_exactly(changes: &[Change], acked: &Acked) {
    let mut seen = Acked::new();
    for change in changes {
        let of_partition = seen.entry(change.partition).or_default();
        let last = of_partition.keys().next_back().copied();
        let seq = change.version.seq;
        assert!(last.is_none_or(|last| last < seq), "{seq} after {last:?}");
        assert!(change.written_at > Hlc::ZERO);
        of_partition.insert(seq, change.operations.clone());
    }
    assert_eq!(count(&seen), count(acked));
    assert_eq!(&seen, acked);
}

/// Puts, deletes and batches from several writers at once.
pub(crate) async fn write(handle: &KeyspaceHandle, writers: u32, rounds: u32) -> Acked {
    let writer = |writer: u32| async move {
        let mut acked = Acked::new();
        for round in 0..rounds {
            let key = |part: &str| format!("g{}/{part}", (writer * 7 + round) % 24);
            let operations = match round % 3 {
                0 => vec![put(&key("a"), &format!("{writer}.{round}"))],
                1 => vec![delete(&key("a"))],
                _ => vec![put(&key("a"), "x"), delete(&key("b")), put(&key("a"), "y")],
            };
            let receipt = handle.batch(operations.clone()).await.unwrap();
            remember(&mut acked, &receipt, operations);
        }
        acked
    };
    let mut all = Acked::new();
    for acked in futures::future::join_all((0..writers).map(writer)).await {
        for (partition, records) in acked {
            all.entry(partition).or_default().extend(records);
        }
    }
    all
}

fn spread() -> domicile::Keyspace {
    placed(AckLevel::Async)
}

/// A keyspace with homes in all regions.
fn placed(ack: AckLevel) -> domicile::Keyspace {
    let mut spread = keyspace("spread", ack, "eu");
    spread.placement = Placement::Hash;
    spread
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_comes_once_and_in_order_at_every_node() {
    every_change_comes_once(AckLevel::Async).await;
}

/// Here records wait in the journal until they may be told, each partition's as long as its home's
/// round trips take, while those of others pass.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_of_a_level_that_waits_comes_once_and_in_order() {
    every_change_comes_once(AckLevel::SEMI_SYNC).await;
    every_change_comes_once(AckLevel::SYNC).await;
}

async fn every_change_comes_once(ack: AckLevel) {
    let cluster = Cluster::start(NEAR, vec![placed(ack)]).await;
    let watch = |node: &str| {
        let handle = cluster.node(node).keyspace("spread").unwrap();
        handle.watch().start().unwrap()
    };
    let mut watches = REGIONS.map(watch);
    let handle = cluster.node("eu").keyspace("spread").unwrap();
    let acked = write(&handle, 6, 60).await;
    let homes: BTreeSet<_> = acked.keys().map(|partition| partition.region).collect();
    assert_eq!(homes.len(), 3, "the writes have one home only");
    for changes in &mut watches {
        let taken = take(changes, count(&acked)).await;
        assert_exactly(&taken, &acked);
        assert_silent(changes, "more than was written").await;
    }
    drop(handle);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_one_change_and_values_are_those_that_were_written() {
    let cluster = Cluster::start(NEAR, keyspaces()).await;
    let fast = cluster.node("eu").keyspace("fast").unwrap();
    let mut all = fast.watch().start().unwrap();
    let mut some = fast.watch().prefix("a/x").start().unwrap();
    let mut one = fast.watch().key("a/y").start().unwrap();
    let mut none = fast.watch().prefix("b/").start().unwrap();
    let first = fast.put("a/x1", "1").await.unwrap();
    let batch = vec![
        put("a/x1", "2"),
        put("a/y", "3"),
        delete("a/x2"),
        put("a/yy", "4"),
    ];
    let second = fast.batch(batch.clone()).await.unwrap();

    let taken = take(&mut all, 2).await;
    assert_eq!(taken[0].operations, [put("a/x1", "1")]);
    assert_eq!(taken[0].version, first.version);
    assert_eq!(taken[1].operations, batch);
    assert_eq!(taken[1].position(), second.position());
    let taken = take(&mut some, 2).await;
    assert_eq!(taken[0].operations, [put("a/x1", "1")]);
    assert_eq!(taken[1].operations, [put("a/x1", "2"), delete("a/x2")]);
    assert_eq!(next(&mut one).await.operations, [put("a/y", "3")]);
    assert_silent(&mut none, "another group").await;
    // What is there already is not told: a watch is no scan.
    let mut late = fast.watch().start().unwrap();
    assert_silent(&mut late, "from now on").await;
    drop(fast);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_is_resumed_here_after_a_restart_without_its_engine_and_elsewhere() {
    let mut cluster = Cluster::start(NEAR, vec![spread()]).await;
    let handle = cluster.node("eu").keyspace("spread").unwrap();
    // A token of a watch that was told nothing.
    let unborn = handle.watch().start().unwrap().resume_token().clone();
    let mut acked = write(&handle, 3, 40).await;
    let mut taken = Vec::new();
    let mut token = unborn.clone();
    let resume = |cluster: &Cluster, node: &str, token: &ResumeToken| {
        // Over its text, as programs keep it.
        let token = token.to_string().parse().unwrap();
        let handle = cluster.node(node).keyspace("spread").unwrap();
        handle
            .watch()
            .from(WatchFrom::Token(token))
            .start()
            .unwrap()
    };
    for step in 0..3 {
        // Dropped within a message: each of these asks for less than one carries.
        let mut changes = resume(&cluster, "eu", &token);
        taken.extend(take(&mut changes, 10 + step).await);
        token = changes.resume_token().clone();
    }
    drop(handle);
    for loses_engine in [false, true] {
        cluster.close("eu").await;
        if loses_engine {
            std::fs::remove_dir_all(cluster.data_of("eu").join("engine")).unwrap();
        }
        cluster.open("eu").await;
        cluster.connected("eu").await;
        let mut changes = resume(&cluster, "eu", &token);
        taken.extend(take(&mut changes, 13).await);
        token = changes.resume_token().clone();
    }
    let mut changes = resume(&cluster, "ap", &token);
    taken.extend(take(&mut changes, 17).await);
    let handle = cluster.node("us").keyspace("spread").unwrap();
    for (partition, records) in write(&handle, 3, 30).await {
        acked.entry(partition).or_default().extend(records);
    }
    let left = count(&acked) - taken.len();
    taken.extend(take(&mut changes, left).await);
    assert_exactly(&taken, &acked);
    for node in REGIONS {
        let whole = take(&mut resume(&cluster, node, &unborn), count(&acked)).await;
        assert_exactly(&whole, &acked);
        let handle = cluster.node(node).keyspace("spread").unwrap();
        let mut first = handle.watch().from(WatchFrom::First).start().unwrap();
        assert_exactly(&take(&mut first, count(&acked)).await, &acked);
    }
    drop((handle, changes));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_is_told_only_once_its_level_is_met() {
    let cluster = Cluster::start(Duration::from_millis(10), keyspaces()).await;
    let (eu, us) = (cluster.node("eu"), cluster.node("us"));
    let hasty = eu.keyspace("hasty").unwrap();
    let mut at_home = hasty.watch().start().unwrap();
    let mut at_copy = us.keyspace("hasty").unwrap().watch().start().unwrap();
    cluster.wan.isolate("ap").unwrap();
    hasty.put("k/1", "v").await.unwrap_err();
    let held = || {
        let status = us.status(domicile::Detail::Partitions);
        let mut partitions = status.partitions.into_iter();
        partitions.any(|each| each.keyspace == "hasty" && each.durable_upto.get() > 0)
    };
    until("the other copy holds it durably", held).await;
    assert_silent(&mut at_home, "the level is not met").await;
    assert_silent(&mut at_copy, "the level is not met").await;
    // A watch that begins now begins before it.
    let mut late = hasty.watch().start().unwrap();
    cluster.wan.heal("ap").unwrap();
    for changes in [&mut at_home, &mut at_copy, &mut late] {
        assert_eq!(next(changes).await.operations, [put("k/1", "v")]);
    }
    drop(hasty);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_behind_is_waited_for() {
    let cluster = Cluster::start(NEAR, keyspaces()).await;
    let fast = cluster.node("eu").keyspace("fast").unwrap();
    cluster.wan.isolate("us").unwrap();
    let mut here = fast.watch().start().unwrap();
    fast.put("k/1", "1").await.unwrap();
    next(&mut here).await;
    let token = here.resume_token().clone();
    let there = cluster.node("us").keyspace("fast").unwrap();
    let mut changes = there.watch().from(WatchFrom::Token(token)).start().unwrap();
    fast.put("k/1", "2").await.unwrap();
    assert_silent(&mut changes, "the copy is cut off").await;
    cluster.wan.heal("us").unwrap();
    assert_eq!(next(&mut changes).await.operations, [put("k/1", "2")]);
    drop((fast, there));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_to_other_keys_move_the_token() {
    let cluster = Cluster::start(NEAR, keyspaces()).await;
    let fast = cluster.node("eu").keyspace("fast").unwrap();
    let mut call = WatchCall::new(std::sync::Arc::clone(fast.policy()));
    call.keys = WatchKeys::Prefix("k/seldom".into());
    let mut messages = cluster.node("eu").watch(call).unwrap();
    let first = messages.next().await.unwrap().unwrap();
    assert!(first.changes.is_empty());
    assert_eq!(first.positions.len(), 1, "the prefix holds a whole group");
    let mut last = None;
    for round in 0..50 {
        last = Some(fast.put("k/often", format!("{round}")).await.unwrap());
    }
    let last = last.unwrap();
    let told = async {
        while messages.resume_token().get(last.partition) != Some(Some(last.position())) {
            let message = messages.next().await.unwrap().unwrap();
            assert!(message.changes.is_empty(), "{message:?}");
        }
    };
    tokio::time::timeout(PATIENCE, told).await.unwrap();
    drop(fast);
    cluster.stop().await;
}

/// Bits of journal of many keyspaces between the changes that are watched.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_finds_its_records_among_those_of_others() {
    let mut spaces = keyspaces();
    spaces.push(spread());
    let cluster = Cluster::start(NEAR, spaces).await;
    let (fast, spread) = (
        cluster.node("eu").keyspace("fast").unwrap(),
        cluster.node("eu").keyspace("spread").unwrap(),
    );
    let mut early = spread.watch().start().unwrap();
    let mut acked = Acked::new();
    for round in 0..12 {
        // More than one read of the journal, and in the end more than a file of it.
        let much = vec![round as u8; 400_000];
        fast.put(format!("g{round}/k"), much).await.unwrap();
        for (partition, records) in write(&spread, 2, 5).await {
            acked.entry(partition).or_default().extend(records);
        }
    }
    assert_exactly(&take(&mut early, count(&acked)).await, &acked);
    let mut late = spread.watch().from(WatchFrom::First).start().unwrap();
    assert_exactly(&take(&mut late, count(&acked)).await, &acked);
    let group = format!("g{}/", 3);
    let policy = spread.policy();
    let (partition, key) = (policy.partition_of(group.as_bytes()), group.as_bytes());
    let mut narrow = spread
        .watch()
        .prefix(key)
        .from(WatchFrom::First)
        .start()
        .unwrap();
    let of_group = |operations: &&Vec<Operation>| operations[0].key().starts_with(key);
    let expected = acked.get(&partition).unwrap();
    let expected: Vec<_> = expected.values().filter(of_group).cloned().collect();
    assert!(!expected.is_empty());
    let taken = take(&mut narrow, expected.len()).await;
    let taken: Vec<_> = taken.into_iter().map(|change| change.operations).collect();
    assert_eq!(taken, expected);
    assert_eq!(partition.keyspace, policy.id());
    assert!(policy.regions.contains(&region("ap")));
    drop((fast, spread));
    cluster.stop().await;
}
