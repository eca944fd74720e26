//! Writes that wait for a home that cannot be reached: kept where they were taken, done once, in
//! order, when it can.

use std::time::{Duration, Instant};

use bytes::Bytes;
use domicile::{
    Accepted, AckLevel, BufferLimit, BufferNumber, Changes, Consistency, Detail, Error, Failover,
    Keyspace, KeyspaceHandle, Operation, Reason, RequestId, WatchFrom, Written,
};

use crate::rig::{Cluster, PATIENCE, keyspace, region, until, wait_value};
use crate::takeover::{put_at_last, start, value_at};
use crate::watch::next;

/// What a caller waits who expects to be told that a write is kept.
const TIMEOUT: Duration = Duration::from_secs(4);

const RTT: Duration = Duration::from_millis(10);

fn kept(limit: BufferLimit) -> Keyspace {
    Keyspace {
        failover: Failover::Buffer(limit),
        ..keyspace("kept", AckLevel::Async, "eu")
    }
}

fn id(number: u128) -> RequestId {
    RequestId::new(7_000_000 + number).unwrap()
}

fn accepted(written: Written) -> Accepted {
    match written {
        Written::Accepted(accepted) => accepted,
        Written::Applied(receipt) => panic!("it was applied at {}", receipt.position()),
    }
}

async fn keep(
    space: &KeyspaceHandle,
    key: &str,
    value: impl Into<Bytes>,
    number: u128,
) -> Result<Written, Error> {
    let put = space.put(key, value).request_id(id(number));
    put.timeout(TIMEOUT).or_kept().await
}

/// How many writes wait at a node, and how many were refused by their home.
fn standing(cluster: &Cluster, node: &str) -> (u64, u64) {
    let status = cluster.node(node).status(Detail::Summary);
    let mut keyspaces = status.keyspaces.into_iter();
    let kept = keyspaces.find(|it| it.name == "kept").unwrap().buffered;
    (kept.waiting, kept.refused)
}

async fn until_sent(cluster: &Cluster, node: &str) {
    until("all that is kept is sent", || {
        standing(cluster, node).0 == 0
    })
    .await;
}

/// Waits until a node has no connection with another, so that nothing is tried for long.
async fn until_apart(cluster: &Cluster, node: &str, from: &str) {
    until("the connection is given up", || {
        let status = cluster.node(node).status(Detail::Summary);
        let mut peers = status.peers.into_iter();
        !peers.find(|peer| peer.region == from).unwrap().connected
    })
    .await;
}

/// The home is cut off. What is written elsewhere is accepted, not applied, and survives a restart
/// of the node that keeps it; nobody takes over; once the home is back all of it is done there, in
/// order, each once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_wait_out_a_home_that_is_cut_off() {
    let mut cluster = start(vec![kept(BufferLimit::default())]).await;
    put_at_last(&cluster, "us", "kept", "group/before").await;
    wait_value(&cluster, "us", "kept", "group/before", "us").await;
    let home = cluster.node("eu").keyspace("kept").unwrap();
    let mut watched = home.watch().prefix("group/").start().unwrap();
    cluster.wan.isolate("eu").unwrap();
    let cut_off = Instant::now();
    let us = cluster.node("us").keyspace("kept").unwrap();
    let mut numbers = Vec::new();
    for number in 0..20_u128 {
        let key = format!("group/{number}");
        let told = keep(&us, &key, number.to_string(), 2 * number).await;
        numbers.push(accepted(told.unwrap()).number);
        let told = keep(&us, "group/same", number.to_string(), 2 * number + 1).await;
        numbers.push(accepted(told.unwrap()).number);
    }
    assert!(numbers.is_sorted(), "{numbers:?}");
    check_refusals(&us).await;
    check_repeated(&us, numbers[0]).await;
    assert_eq!(standing(&cluster, "us"), (40, 0));

    cluster.close("us").await;
    cluster.open("us").await;
    assert_eq!(standing(&cluster, "us"), (40, 0), "after a restart");
    let node = cluster.node("us");
    let policy = node.policy("kept").unwrap();
    let waits = node.buffered_of(&policy, id(39)).unwrap();
    assert_eq!((waits.number, waits.refused), (numbers[39], None));
    // Behind what waits, without another try.
    let us = cluster.node("us").keyspace("kept").unwrap();
    let started = Instant::now();
    let behind = accepted(keep(&us, "group/same", "last", 40).await.unwrap());
    assert!(behind.number > numbers[39]);
    assert!(
        started.elapsed() < Duration::from_millis(900),
        "it was tried"
    );
    // Twice as long as it takes to succeed a home where that is to be.
    tokio::time::sleep_until((cut_off + Duration::from_secs(4)).into()).await;
    let changes = cluster.node("ap").home_changes().unwrap();
    assert_eq!(changes, [], "somebody took over");

    cluster.wan.heal("eu").unwrap();
    until_sent(&cluster, "us").await;
    let told = value_at(&cluster, "eu", "kept", "group/same").await;
    assert_eq!(told.as_deref(), Some("last"));
    home.put("group/end", "end").await.unwrap();
    let pair = |key: &str, value: &str| (format!("group/{key}"), value.to_owned());
    let each = |number: u32| {
        let number = number.to_string();
        [pair(&number, &number), pair("same", &number)]
    };
    let mut expected: Vec<_> = (0..20).flat_map(each).collect();
    expected.extend([pair("same", "last"), pair("end", "end")]);
    assert_eq!(told_upto(&mut watched, "end").await, expected);
    let policy = cluster.node("us").policy("kept").unwrap();
    for number in 0..=40 {
        let outcome = cluster
            .node("us")
            .outcome(&policy, "group/0".into(), id(number));
        assert!(outcome.await.unwrap().is_some(), "{number} is not known");
    }
    let changes = cluster.node("us").home_changes().unwrap();
    assert_eq!(changes, [], "somebody took over");
    cluster.stop().await;
}

/// What a watch told up to a value, which ends it: key and value of each write.
async fn told_upto(changes: &mut Changes, end: &str) -> Vec<(String, String)> {
    let mut told = Vec::new();
    loop {
        told.push(told_one(changes).await);
        if told.last().unwrap().1 == end {
            return told;
        }
    }
}

/// Sent again, as after a lost answer, it is the same write; and nobody reads what is not applied.
async fn check_repeated(space: &KeyspaceHandle, number: BufferNumber) {
    let again = keep(space, "group/0", "0", 0).await.unwrap();
    assert_eq!(accepted(again).number, number);
    let reused = keep(space, "group/0", "other", 0).await.unwrap_err();
    assert_eq!(reused.reason(), Reason::RequestIdReused, "{reused}");
    let local = space.get("group/0").consistency(Consistency::Local).await;
    assert_eq!(local.unwrap(), None);
}

/// What cannot wait is refused, and says why.
async fn check_refusals(space: &KeyspaceHandle) {
    let not_kept = |error: &Error| error.metadata().get("not_kept").cloned();
    let put = || space.put("group/odd", "x").timeout(Duration::from_secs(1));
    let conditional = put().if_absent().or_kept().await.unwrap_err();
    assert_eq!(conditional.reason(), Reason::NoHome, "{conditional}");
    assert!(not_kept(&conditional).unwrap().contains("conditions"));
    let stronger = put().ack(AckLevel::SYNC).or_kept().await.unwrap_err();
    assert!(not_kept(&stronger).unwrap().contains("level"), "{stronger}");
    let local = put().local_only().or_kept().await.unwrap_err();
    assert!(not_kept(&local).unwrap().contains("passed on"), "{local}");
    let plain = put().await.unwrap_err();
    assert!(not_kept(&plain).unwrap().contains("applied or refused"));
}

/// A write reached its home, the answer was lost with the link, and the client's retry elsewhere is
/// kept. By the time the link is back its home has forgotten the request, and has written the key
/// anew: the retry changes nothing. One that never arrived is done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_its_home_has_forgotten_is_not_done_again() {
    let cluster = Cluster::start(RTT, vec![kept(BufferLimit::default())]).await;
    let home = cluster.node("eu").keyspace("kept").unwrap();
    let watch = home.watch().key("g/r").from(WatchFrom::First);
    home.put("g/r", "first").request_id(id(1)).await.unwrap();
    cluster.wan.isolate("eu").unwrap();
    until_apart(&cluster, "us", "eu").await;
    let us = cluster.node("us").keyspace("kept").unwrap();
    accepted(keep(&us, "g/r", "first", 1).await.unwrap());
    accepted(keep(&us, "g/never", "once", 2).await.unwrap());
    home.put("g/r", "second").await.unwrap();
    forget(&home, "x".to_owned()).await;
    let policy = cluster.node("eu").policy("kept").unwrap();
    let outcome = cluster
        .node("eu")
        .outcome(&policy, "g/r".into(), id(1))
        .await;
    assert_eq!(outcome.unwrap(), None, "its home still remembers it");
    cluster.wan.heal("eu").unwrap();
    until_sent(&cluster, "us").await;
    assert_eq!(standing(&cluster, "us"), (0, 0), "one was refused");
    home.put("g/r", "end").await.unwrap();
    let told = told_upto(&mut watch.start().unwrap(), "end").await;
    let values: Vec<&str> = told.iter().map(|(_, value)| value.as_str()).collect();
    assert_eq!(values, ["first", "second", "end"]);
    let never = value_at(&cluster, "eu", "kept", "g/never").await;
    assert_eq!(never.as_deref(), Some("once"));
    cluster.stop().await;
}

/// What its home refuses for good is kept with the reason, and does not stop what is behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_its_home_refuses_stays_visible() {
    let mut cluster = Cluster::start(RTT, vec![kept(BufferLimit::default())]).await;
    let home = cluster.node("eu").keyspace("kept").unwrap();
    cluster.wan.isolate("eu").unwrap();
    home.put("g/a", "at home").request_id(id(1)).await.unwrap();
    until_apart(&cluster, "us", "eu").await;
    let us = cluster.node("us").keyspace("kept").unwrap();
    let reused = accepted(keep(&us, "g/a", "elsewhere", 1).await.unwrap());
    accepted(keep(&us, "g/b", "behind", 2).await.unwrap());
    cluster.wan.heal("eu").unwrap();
    until_sent(&cluster, "us").await;
    let value = value_at(&cluster, "eu", "kept", "g/b").await;
    assert_eq!(value.as_deref(), Some("behind"));
    cluster.close("us").await;
    cluster.open("us").await;
    assert_eq!(standing(&cluster, "us"), (0, 1));
    let us = cluster.node("us");
    let page = us.buffered(None, BufferNumber::new(0), 10);
    assert_eq!(
        (page.writes.len(), page.is_cut, page.damaged.as_str()),
        (1, false, "")
    );
    assert_eq!(page.writes[0].number, reused.number);
    let why = page.writes[0].refused.clone().unwrap();
    assert_eq!(why.reason, "REQUEST_ID_REUSED", "{}", why.message);
    let (_, operations) = us.buffered_operations(reused.number).await.unwrap();
    assert!(matches!(&operations[..], [Operation::Put { value, .. }] if value == "elsewhere"));
    // It does not stand in the way of later ones.
    let space = us.keyspace("kept").unwrap();
    space.put("g/c", "later").await.unwrap();
    let all = (BufferNumber::FIRST, BufferNumber::new(u64::MAX));
    assert_eq!(us.discard_buffered(all.0, all.1, true).await.unwrap(), 1);
    let nothing = us.discard_buffered(all.0, all.1, true).await.unwrap_err();
    assert_eq!(nothing.reason(), Reason::BufferedNotFound);
    assert_eq!(standing(&cluster, "us"), (0, 0));
    cluster.stop().await;
}

/// Beyond its limits a node refuses as it would without a buffer, and says what the limit is. What
/// it keeps stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_buffer_refuses_and_keeps_what_it_has() {
    let limit = BufferLimit {
        bytes: 8 << 20,
        age: Duration::from_secs(60),
    };
    let hasty = Keyspace {
        failover: Failover::Buffer(BufferLimit {
            age: Duration::from_millis(50),
            ..limit
        }),
        ..keyspace("hasty", AckLevel::Async, "eu")
    };
    let cluster = Cluster::start(RTT, vec![kept(limit), hasty]).await;
    cluster.wan.isolate("eu").unwrap();
    until_apart(&cluster, "us", "eu").await;
    let us = cluster.node("us").keyspace("kept").unwrap();
    let value = Bytes::from(vec![7; 1 << 20]);
    for number in 0..7 {
        accepted(keep(&us, "g/large", value.clone(), number).await.unwrap());
    }
    let full = keep(&us, "g/large", value.clone(), 7).await.unwrap_err();
    assert_eq!(full.reason(), Reason::BufferFull);
    assert!(full.to_string().ends_with("limit 8388608"), "{full}");
    // A small one still fits.
    accepted(keep(&us, "g/small", "fits", 8).await.unwrap());
    let space = cluster.node("us").keyspace("hasty").unwrap();
    let put = |value: &'static str| space.put("g/k", value).timeout(TIMEOUT).or_kept();
    accepted(put("first").await.unwrap());
    tokio::time::sleep(Duration::from_millis(100)).await;
    let old = put("second").await.unwrap_err();
    assert_eq!(old.reason(), Reason::BufferFull);
    assert!(old.to_string().ends_with("ms, limit 50"), "{old}");
    assert_eq!(standing(&cluster, "us"), (8, 0));
    cluster.wan.heal("eu").unwrap();
    until_sent(&cluster, "us").await;
    let value = value_at(&cluster, "eu", "kept", "g/small").await;
    assert_eq!(value.as_deref(), Some("fits"));
    cluster.stop().await;
}

/// Only nodes of the keyspace's regions keep its writes: nothing of one is on another's disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_are_kept_in_the_keyspaces_regions_only() {
    const CANARY: &str = "canary-3f1c77";
    let space = Keyspace {
        regions: vec![region("us"), region("ap")],
        failover: Failover::Buffer(BufferLimit::default()),
        ..keyspace("kept", AckLevel::Async, "us")
    };
    let cluster = Cluster::start(RTT, vec![space]).await;
    cluster.wan.isolate("us").unwrap();
    until_apart(&cluster, "ap", "us").await;
    let at = |node: &str| cluster.node(node).keyspace("kept").unwrap();
    let outside = keep(&at("eu"), "g/k", CANARY, 1).await.unwrap_err();
    assert_eq!(outside.reason(), Reason::DataResidency, "{outside}");
    accepted(keep(&at("ap"), "g/k", CANARY, 1).await.unwrap());
    let holds = |node: &str| {
        let file = cluster.data_of(node).join("buffer").join("writes");
        let bytes = std::fs::read(file).unwrap_or_default();
        bytes
            .windows(CANARY.len())
            .any(|it| it == CANARY.as_bytes())
    };
    assert_eq!((holds("ap"), holds("eu")), (true, false));
    cluster.wan.heal("us").unwrap();
    until_sent(&cluster, "ap").await;
    wait_value(&cluster, "us", "kept", "g/k", CANARY).await;
    cluster.stop().await;
}

/// Writers that never stop: once the home is back what waits is sent although more and more comes,
/// and they write there themselves again. Each value comes once, in each writer's order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_who_never_stop_come_back_to_their_home() {
    const WRITERS: usize = 8;
    let cluster = Cluster::start(RTT, vec![kept(BufferLimit::default())]).await;
    let home = cluster.node("eu").keyspace("kept").unwrap();
    let mut watched = home.watch().prefix("g/").start().unwrap();
    cluster.wan.isolate("eu").unwrap();
    until_apart(&cluster, "us", "eu").await;
    let space = cluster.node("us").keyspace("kept").unwrap();
    let writer = |writer: usize| {
        let space = space.clone();
        async move {
            let (mut kept, mut applied) = (0_u32, 0_u32);
            while applied < 20 {
                let value = (kept + applied).to_string();
                let put = space.put(format!("g/{writer}"), value).timeout(TIMEOUT);
                match put.or_kept().await.unwrap() {
                    Written::Accepted(_) => kept += 1,
                    Written::Applied(_) => applied += 1,
                }
            }
            (kept, applied)
        }
    };
    let writers: Vec<_> = (0..WRITERS)
        .map(|each| tokio::spawn(writer(each)))
        .collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    cluster.wan.heal("eu").unwrap();
    let mut told = Vec::new();
    for writer in writers {
        let ended = tokio::time::timeout(PATIENCE, writer).await;
        told.push(ended.expect("they are never applied").unwrap());
    }
    assert_eq!(standing(&cluster, "us"), (0, 0));
    home.put("g/end", "end").await.unwrap();
    let mut next = vec![0; WRITERS];
    for (key, value) in told_upto(&mut watched, "end").await {
        if value == "end" {
            break;
        }
        let writer: usize = key.trim_start_matches("g/").parse().unwrap();
        assert_eq!(value, next[writer].to_string(), "of writer {writer}");
        next[writer] += 1;
    }
    let all: Vec<u32> = told.iter().map(|(kept, applied)| kept + applied).collect();
    assert_eq!(next, all);
    assert!(told.iter().all(|(kept, _)| *kept > 0), "{told:?}");
    cluster.stop().await;
}

/// The next key and value that a watch tells.
async fn told_one(changes: &mut Changes) -> (String, String) {
    let mut operations = next(changes).await.operations;
    let Some(Operation::Put { key, value, .. }) = operations.pop() else {
        panic!("no put");
    };
    let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    (text(key), text(value))
}

/// Its home has forgotten the request, and the log here was replaced by a snapshot: nobody can tell
/// whether it was done already. It is not sent, and an operator sees why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_log_tells_is_left_to_an_operator() {
    let spaces = vec![kept(BufferLimit::default())];
    let cluster = Cluster::start_with(RTT, spaces, |options| {
        options.journal_file_bytes = 1 << 20;
        options.journal_keep_bytes = 4 << 20;
        options.copy_keep_bytes = 2 << 20;
    });
    let cluster = cluster.await;
    let home = cluster.node("eu").keyspace("kept").unwrap();
    cluster.wan.isolate("eu").unwrap();
    until_apart(&cluster, "us", "eu").await;
    let us = cluster.node("us").keyspace("kept").unwrap();
    accepted(keep(&us, "g/r", "kept", 1).await.unwrap());
    forget(&home, "x".repeat(100)).await;
    until("the journal is cut", || {
        let status = cluster.node("eu").status(Detail::Summary);
        status.disk.journal_bytes <= 6 << 20
    })
    .await;
    cluster.wan.heal("eu").unwrap();
    until_sent(&cluster, "us").await;
    assert_eq!(standing(&cluster, "us"), (0, 1));
    let page = cluster.node("us").buffered(None, BufferNumber::new(0), 10);
    let why = page.writes[0].refused.clone().unwrap();
    assert_eq!(why.reason, "COMPACTED", "{}", why.message);
    assert_eq!(value_at(&cluster, "eu", "kept", "g/r").await, None);
    us.put("g/r", "anew").await.unwrap();
    cluster.stop().await;
}

/// Writes more than a home remembers the requests of.
async fn forget(home: &KeyspaceHandle, value: String) {
    for _ in 0..130 {
        let fill = (0..512).map(|_| home.put("g/fill", value.clone()).into_future());
        for filled in futures::future::join_all(fill).await {
            filled.unwrap();
        }
    }
}
