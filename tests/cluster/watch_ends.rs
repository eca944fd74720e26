//! How watches end and what they are refused for: cut journals, slow consumers, bad tokens, limits.

use std::time::Duration;

use domicile::{
    AckLevel, Changes, Detail, Error, KeyspaceHandle, Node, NodeOptions, Reason, ResumeToken, Seq,
    WatchFrom, WatchStatus,
};

use crate::rig::{Cluster, PATIENCE, keyspace, keyspaces, until};
use crate::watch::{Acked, assert_exactly, count, next, put, remember, take, write};

const NEAR: Duration = Duration::from_millis(4);

/// What the journals of these tests may hold.
const KEEP_BYTES: u64 = 4 << 20;

async fn start_with_little_journal() -> Cluster {
    let spaces = vec![
        keyspace("fast", AckLevel::Async, "eu"),
        keyspace("rare", AckLevel::Async, "eu"),
    ];
    Cluster::start_with(NEAR, spaces, |options| {
        options.journal_file_bytes = 1 << 20;
        options.journal_keep_bytes = KEEP_BYTES;
    })
    .await
}

fn watches(node: &Node) -> WatchStatus {
    node.status(Detail::Summary).watches
}

async fn ending(changes: &mut Changes) -> Error {
    let end = async {
        loop {
            match changes.next().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => return error,
                None => panic!("the watch ended without a word"),
            }
        }
    };
    let error = tokio::time::timeout(PATIENCE, end).await;
    let error = error.expect("the watch ends within the deadline");
    assert!(changes.next().await.is_none(), "a watch that ended goes on");
    error
}

fn resume(handle: &KeyspaceHandle, token: &ResumeToken) -> Result<Changes, Error> {
    handle.watch().from(WatchFrom::Token(token.clone())).start()
}

/// 20 MB in one group, until the beginning of its log is cut.
async fn write_until_cut(cluster: &Cluster) {
    let fast = cluster.node("eu").keyspace("fast").unwrap();
    for index in 0..400_u32 {
        let key = format!("g/k{}", index % 40);
        fast.put(key, vec![index as u8; 50_000]).await.unwrap();
    }
    let first = || fast.watch().from(WatchFrom::First).prefix("g/").start();
    until("the first record is cut", || first().is_err()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_before_the_cut_is_told_what_is_the_oldest() {
    let cluster = start_with_little_journal().await;
    let fast = cluster.node("eu").keyspace("fast").unwrap();
    let mut before = fast.watch().prefix("g/").start().unwrap();
    let partition = fast.put("g/first", "1").await.unwrap().partition;
    next(&mut before).await;
    let token = before.resume_token().clone();
    drop(before);
    write_until_cut(&cluster).await;
    let error = resume(&fast.clone(), &token).map(drop);
    // The token speaks of one partition, so it is for that prefix only.
    assert_eq!(error.unwrap_err().reason(), Reason::InvalidArgument);
    let watch = |from| fast.watch().prefix("g/").from(from).start();
    let error = watch(WatchFrom::Token(token)).unwrap_err();
    assert_eq!(error.reason(), Reason::Compacted);
    assert!(!error.is_retryable());
    let facts = error.metadata();
    assert_eq!(facts["partition"], partition.to_string());
    assert_eq!(facts["wanted"], "2");
    let oldest: u64 = facts["oldest"].parse().unwrap();
    assert!(oldest > 2 && error.to_string().contains(&facts["oldest_position"]));
    // What it names is there: the watch that begins there begins with that record or, if the
    // journal was cut once more, with a later one.
    let mut oldest_on = watch(WatchFrom::Oldest).unwrap();
    let first = next(&mut oldest_on).await.version.seq;
    assert!(first >= Seq::new(oldest), "{first} is older than {oldest}");
    let mut last = first;
    while last < Seq::new(401) {
        let seq = next(&mut oldest_on).await.version.seq;
        assert_eq!(seq, last.next());
        last = seq;
    }
    // A partition of which nothing is cut is not concerned.
    let rare = cluster.node("eu").keyspace("rare").unwrap();
    let mut quiet = rare.watch().from(WatchFrom::First).start().unwrap();
    rare.put("k/1", "v").await.unwrap();
    assert_eq!(next(&mut quiet).await.operations, [put("k/1", "v")]);
    drop((fast, rare));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_under_a_watch_ends_it_without_a_gap() {
    let cluster = start_with_little_journal().await;
    let fast = cluster.node("eu").keyspace("fast").unwrap();
    let started = fast.watch().prefix("g/").from(WatchFrom::First);
    let mut changes = started.patience(PATIENCE).start().unwrap();
    // Nothing is taken: the watch stands still with a full buffer while the journal is cut.
    write_until_cut(&cluster).await;
    let mut last = Seq::NONE;
    let error = loop {
        match changes.next().await.expect("the watch says why it ends") {
            Ok(change) => {
                assert_eq!(change.version.seq, last.next());
                last = change.version.seq;
            }
            Err(error) => break error,
        }
    };
    assert_eq!(error.reason(), Reason::Compacted);
    assert!(last > Seq::NONE && last < Seq::new(400), "{last} were told");
    assert_eq!(error.metadata()["wanted"], last.next().to_string());
    let token = changes.resume_token().clone();
    let again = fast.watch().prefix("g/").from(WatchFrom::Token(token));
    assert_eq!(again.start().unwrap_err().reason(), Reason::Compacted);
    drop(fast);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_consumer_is_cut_off_and_goes_on_exactly_where_it_was() {
    let cluster = Cluster::start(NEAR, keyspaces()).await;
    let node = cluster.node("eu");
    let fast = node.keyspace("fast").unwrap();
    let hasty = fast.watch().patience(Duration::from_millis(100));
    let mut changes = hasty.start().unwrap();
    let mut acked = Acked::new();
    let large = "x".repeat(30_000);
    for index in 0..60 {
        let operations = vec![put(&format!("g{index}/k"), &large)];
        let receipt = fast.batch(operations.clone()).await.unwrap();
        remember(&mut acked, &receipt, operations);
        if index == 2 {
            next(&mut changes).await;
        }
    }
    until("it is cut off", || watches(node).cut_off == 1).await;
    until("its place is free", || watches(node).open == 0).await;
    drop(changes);

    // The same again, and this time it is listened to.
    let hasty = fast.watch().from(WatchFrom::First);
    let mut changes = hasty.patience(Duration::from_millis(100)).start().unwrap();
    let mut taken = take(&mut changes, 5).await;
    until("it is cut off", || watches(node).cut_off == 2).await;
    let error = loop {
        match changes.next().await.expect("the watch says why it ends") {
            Ok(change) => taken.push(change),
            Err(error) => break error,
        }
    };
    assert_eq!(error.reason(), Reason::SlowConsumer);
    assert!(error.is_retryable());
    assert!(taken.len() < count(&acked), "it was told everything");
    let token: ResumeToken = error.metadata()["resume_token"].parse().unwrap();
    assert_eq!(&token, changes.resume_token());
    let mut changes = resume(&fast, &token).unwrap();
    let left = count(&acked) - taken.len();
    taken.extend(take(&mut changes, left).await);
    assert_exactly(&taken, &acked);
    drop(fast);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_a_node_ends_its_watches() {
    let mut cluster = Cluster::start(NEAR, keyspaces()).await;
    let fast = cluster.node("eu").keyspace("fast").unwrap();
    let mut changes = fast.watch().start().unwrap();
    fast.put("k/1", "v").await.unwrap();
    next(&mut changes).await;
    cluster.close("eu").await;
    let error = ending(&mut changes).await;
    assert_eq!(error.reason(), Reason::Draining);
    let refused = fast.watch().start().unwrap_err();
    assert_eq!(refused.reason(), Reason::Draining);
    drop(fast);
    cluster.open("eu").await;
    let fast = cluster.node("eu").keyspace("fast").unwrap();
    let mut changes = resume(&fast, changes.resume_token()).unwrap();
    fast.put("k/1", "w").await.unwrap();
    assert_eq!(next(&mut changes).await.operations, [put("k/1", "w")]);
    drop(fast);
    cluster.stop().await;
}

async fn single(change: impl FnOnce(&mut NodeOptions)) -> (Node, tempfile::TempDir) {
    let data = tempfile::tempdir().unwrap();
    let mut options = NodeOptions::single(data.path().join("data"));
    let local = options.regions[0].id;
    for name in ["busy", "quiet"] {
        let name = domicile::Name::new(name).unwrap();
        let keyspace = domicile::Keyspace::new(name, vec![local], local);
        options.keyspaces.push(keyspace);
    }
    change(&mut options);
    (Node::open(options).await.unwrap(), data)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_watches_are_never_woken() {
    let (node, _data) = single(|_| ()).await;
    let (busy, quiet) = (
        node.keyspace("busy").unwrap(),
        node.keyspace("quiet").unwrap(),
    );
    let watch = |index: usize| match index % 2 {
        0 => quiet.watch().start().unwrap(),
        // Of a busy keyspace, but of a partition that rests.
        _ => busy.watch().prefix("rest/").start().unwrap(),
    };
    let mut idle: Vec<Changes> = (0..200).map(watch).collect();
    assert_eq!(watches(&node).open, 200);
    let policy = busy.policy();
    let rests = policy.partition_of(b"rest/");
    let groups = (0..100).map(|index| format!("g{index}/k"));
    let moving = groups.filter(|key| policy.partition_of(key.as_bytes()) != rests);
    for key in moving {
        busy.put(key, "v").await.unwrap();
    }
    assert_eq!(watches(&node).wakeups, 0, "an idle watch was woken");
    quiet.put("k/1", "v").await.unwrap();
    busy.put("rest/1", "v").await.unwrap();
    for changes in &mut idle {
        next(changes).await;
    }
    // One write each: at most once to be told, and once for what else came with it.
    let woken = watches(&node).wakeups;
    assert!((200..=400).contains(&woken), "{woken} wake-ups for 200");
    drop((idle, busy, quiet));
    until("all places are free", || watches(&node).open == 0).await;
    node.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_has_so_many_watches_and_no_more() {
    let (node, _data) = single(|options| options.watches_max = 3).await;
    let quiet = node.keyspace("quiet").unwrap();
    let mut open: Vec<Changes> = (0..3).map(|_| quiet.watch().start().unwrap()).collect();
    let refused = quiet.watch().start().unwrap_err();
    assert_eq!(refused.reason(), Reason::Overloaded);
    assert!(refused.to_string().contains("limit 3"), "{refused}");
    open.pop();
    until("a place is free", || watches(&node).open == 2).await;
    quiet.watch().start().unwrap();
    drop((open, quiet));
    node.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_something_else_are_refused() {
    let cluster = Cluster::start(NEAR, keyspaces()).await;
    let fast = cluster.node("eu").keyspace("fast").unwrap();
    let semi = cluster.node("eu").keyspace("semi").unwrap();
    let acked = write(&fast, 2, 20).await;
    let mut changes = fast.watch().from(WatchFrom::First).start().unwrap();
    take(&mut changes, count(&acked)).await;
    let token = changes.resume_token().clone();
    let reason = |outcome: Result<Changes, Error>| outcome.map(drop).unwrap_err().reason();
    assert_eq!(reason(resume(&semi, &token)), Reason::InvalidArgument);
    let narrow = fast.watch().prefix("k/").start().unwrap();
    assert_eq!(
        reason(resume(&fast, narrow.resume_token())),
        Reason::InvalidArgument
    );

    let (partition, seen) = token.iter().find(|(_, seen)| seen.is_some()).unwrap();
    let seen = seen.unwrap();
    let forged = |counter: u64, seq: u64| {
        let (mut token, mut position) = (token.clone(), seen);
        position.epoch.counter += counter;
        position.seq = Seq::new(seq);
        token.set(partition, Some(position));
        token
    };
    let seq = seen.seq.get();
    // Another history: another reign at a place that this log has, or a place that it never had.
    assert_eq!(reason(resume(&fast, &forged(1, seq))), Reason::SessionLost);
    assert_eq!(
        reason(resume(&fast, &forged(0, seq + 1))),
        Reason::SessionLost
    );
    assert_eq!(
        reason(resume(&fast, &forged(0, u64::MAX))),
        Reason::InvalidArgument
    );
    assert!(resume(&fast, &forged(0, seq - 1)).is_ok());
    // A copy cannot know yet: it waits, and says so once it has what the token claims to have seen.
    let there = cluster.node("us").keyspace("fast").unwrap();
    let mut waits = resume(&there, &forged(1, seq + 1)).unwrap();
    let group = acked[&partition].values().next().unwrap()[0].key().clone();
    fast.put(&group, "1").await.unwrap();
    fast.put(&group, "2").await.unwrap();
    assert_eq!(ending(&mut waits).await.reason(), Reason::SessionLost);
    drop((fast, semi, there));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_may_not_hold_a_keyspace_does_not_watch_it() {
    let cluster = Cluster::start(NEAR, keyspaces()).await;
    let european = cluster.node("ap").keyspace("european").unwrap();
    let refused = european.watch().start().unwrap_err();
    assert_eq!(refused.reason(), Reason::DataResidency);
    assert_eq!(refused.metadata()["held_by"], "eu, us");
    assert_eq!(refused.metadata()["region"], "ap");
    drop(european);
    cluster.stop().await;
}
