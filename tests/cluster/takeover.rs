//! Homes that are agreed on: a lost one is succeeded, and what it had alone is kept and counted.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU8;
use std::time::{Duration, Instant};

use domicile::{
    AckLevel, Consistency, ControlOptions, Error, Haste, Keyspace, Reason, Receipt, RequestId,
    SessionMark,
};

use crate::rig::{Cluster, PATIENCE, REGIONS, alarms, keyspace, until};

const RTT: Duration = Duration::from_millis(10);

/// Durable at home and in one more region.
const SYNC_IN_TWO: AckLevel = AckLevel::Sync {
    quorum: NonZeroU8::new(2),
};

pub(crate) async fn start(keyspaces: Vec<Keyspace>) -> Cluster {
    let control = ControlOptions {
        rtt_max: 2 * RTT,
        haste: Haste::Aggressive,
    };
    let agreed = |options: &mut domicile::NodeOptions| options.control = Some(control);
    Cluster::start_with(RTT, keyspaces, agreed).await
}

/// Puts a key at a node until that works: the cluster forms, or a home is succeeded.
pub(crate) async fn put_at_last(
    cluster: &Cluster,
    node: &str,
    keyspace: &str,
    key: &str,
) -> Duration {
    let started = Instant::now();
    loop {
        let put = async {
            let keyspace = cluster.node(node).keyspace(keyspace)?;
            keyspace
                .put(key, node.to_owned())
                .timeout(Duration::from_secs(1))
                .await
        };
        let error = match put.await {
            Ok(_) => return started.elapsed(),
            Err(error) => error,
        };
        assert!(
            started.elapsed() < PATIENCE,
            "{keyspace} at {node}: {error}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What a client was told of its writes.
#[derive(Default)]
struct Ledger {
    acked: BTreeMap<RequestId, String>,
    unknown: BTreeSet<RequestId>,
    /// Where the last of them was acknowledged.
    seen: Option<SessionMark>,
}

impl Ledger {
    /// Writes to a home that nobody else can reach, until it refuses.
    async fn fill(&mut self, cluster: &Cluster, node: &str, keyspace: &str, wait: Duration) {
        let handle = cluster.node(node).keyspace(keyspace).unwrap();
        let end = Instant::now() + wait;
        for number in 0.. {
            if Instant::now() >= end {
                return;
            }
            let id = RequestId::new(u128::from(u64::MAX) + number).unwrap();
            let key = format!("alone/{number}");
            let put = handle.put(key.clone(), "lost").request_id(id);
            match put.timeout(Duration::from_millis(300)).await {
                Ok(receipt) => {
                    self.acked.insert(id, key);
                    self.seen = Some(mark_of(&receipt));
                }
                Err(error) if error.reason() == Reason::Indeterminate => {
                    self.unknown.insert(id);
                }
                Err(_) => {}
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn mark_of(receipt: &Receipt) -> SessionMark {
    SessionMark {
        partition: receipt.partition,
        position: receipt.position(),
    }
}

/// What a session that has seen this reads at a node.
async fn in_session(
    cluster: &Cluster,
    node: &str,
    keyspace: &str,
    (key, seen): (&str, SessionMark),
) -> Result<bool, Error> {
    let keyspace = cluster.node(node).keyspace(keyspace)?;
    let read = keyspace.get(key);
    let read = read.consistency(Consistency::Session(vec![seen]));
    Ok(read.await?.is_some())
}

/// A session that saw what was lost is told so, with the range, and gets nothing older instead;
/// one that saw only what was kept goes on.
async fn check_sessions(cluster: &Cluster, node: &str, kept: SessionMark, lost: SessionMark) {
    let read = in_session(cluster, node, "fast", ("alone/kept", kept)).await;
    assert!(read.unwrap(), "at {node}");
    let read = in_session(cluster, node, "fast", ("alone/kept", lost)).await;
    let error = read.expect_err("a history without what was seen is not to be read");
    assert_eq!(error.reason(), Reason::SessionLost, "at {node}: {error}");
    let told = |key| error.metadata().get(key).cloned();
    let fork: u64 = told("fork").unwrap().parse().unwrap();
    assert_eq!(told("lost_from"), Some((fork + 1).to_string()));
    assert_eq!(told("lost_upto"), Some(lost.position.seq.to_string()));
    assert!(fork >= kept.position.seq.get() && fork < lost.position.seq.get());
}

pub(crate) async fn value_at(
    cluster: &Cluster,
    node: &str,
    keyspace: &str,
    key: &str,
) -> Option<String> {
    let keyspace = cluster.node(node).keyspace(keyspace).unwrap();
    let answer = keyspace.get(key).await.unwrap();
    let value = answer.map(|entry| entry.value);
    value.map(|value| String::from_utf8(value.to_vec()).unwrap())
}

/// The requests that are orphans at a node, each listed once, by keyspace.
async fn orphans_at(cluster: &Cluster, node: &str) -> BTreeMap<String, BTreeSet<RequestId>> {
    let mut found = BTreeMap::<String, BTreeSet<RequestId>>::new();
    let keyspaces = cluster.node(node).keyspaces();
    for record in cluster.node(node).orphans().await.unwrap() {
        let id = record.file.partition.keyspace;
        let keyspace = keyspaces.iter().find(|it| it.id() == id).unwrap();
        let ids = found.entry(keyspace.name.to_string()).or_default();
        let is_new = ids.insert(record.orphan.record.head.request_id);
        assert!(is_new, "an orphan that is listed twice");
    }
    found
}

/// Waits until all that a client was told of is listed; what is, by keyspace.
async fn until_listed(
    cluster: &Cluster,
    node: &str,
    keyspace: &str,
    ledger: &Ledger,
) -> BTreeMap<String, BTreeSet<RequestId>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = orphans_at(cluster, node).await;
        let listed = found.get(keyspace).cloned().unwrap_or_default();
        if ledger.acked.keys().all(|id| listed.contains(id)) {
            return found;
        }
        let seen = || REGIONS.map(|node| alarms(cluster, node)).concat();
        let is_late = Instant::now() >= deadline;
        assert!(!is_late, "orphans so far: {found:?}\n{}", seen());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Every write that was acknowledged is an orphan, and no other is but those of an unknown fate.
fn check_orphans(ledger: &Ledger, orphans: &BTreeSet<RequestId>) {
    let acked: BTreeSet<RequestId> = ledger.acked.keys().copied().collect();
    assert!(acked.is_subset(orphans), "{acked:?} in {orphans:?}");
    let others: BTreeSet<_> = orphans.difference(&acked).copied().collect();
    assert!(others.is_subset(&ledger.unknown), "{others:?}");
}

/// The home is cut off and goes on for as long as its lease lets it. What it acknowledged alone is
/// gone at its successor, listed as orphans once it is back, and counted: exactly as many.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_lost_home_acknowledged_alone_is_listed_and_counted() {
    let levels = [
        ("fast", AckLevel::Async),
        ("semi", AckLevel::SEMI_SYNC),
        ("safe", SYNC_IN_TWO),
    ];
    let keyspaces = levels.map(|(name, ack)| keyspace(name, ack, "eu"));
    let mut cluster = start(keyspaces.to_vec()).await;
    for (name, _) in levels {
        put_at_last(&cluster, "us", name, "before").await;
        for node in REGIONS {
            until_local(&cluster, node, name, "before", Some("us")).await;
        }
    }
    let kept = cluster.node("eu").keyspace("fast").unwrap();
    let kept = mark_of(&kept.put("alone/kept", "eu").await.unwrap());
    for node in REGIONS {
        until_local(&cluster, node, "fast", "alone/kept", Some("eu")).await;
    }
    cluster.wan.isolate("eu").unwrap();
    let mut ledgers: Vec<Ledger> = levels.iter().map(|_| Ledger::default()).collect();
    let wait = Duration::from_millis(1500);
    for (ledger, (name, _)) in ledgers.iter_mut().zip(levels) {
        // One after the other: only the first is within the lease.
        ledger.fill(&cluster, "eu", name, wait / 3).await;
    }
    for (name, _) in levels {
        put_at_last(&cluster, "us", name, "after").await;
        assert_eq!(
            value_at(&cluster, "ap", name, "before").await.as_deref(),
            Some("us")
        );
    }
    assert!(!ledgers[0].acked.is_empty(), "nothing was written alone");
    for key in ledgers[0].acked.values() {
        assert_eq!(value_at(&cluster, "us", "fast", key).await, None);
    }
    assert!(ledgers[1].acked.is_empty() && ledgers[2].acked.is_empty());
    let lost = ledgers[0].seen.unwrap();
    check_sessions(&cluster, "us", kept, lost).await;
    check_sessions(&cluster, "ap", kept, lost).await;

    cluster.wan.heal("eu").unwrap();
    let found = until_listed(&cluster, "eu", "fast", &ledgers[0]).await;
    for (ledger, (name, _)) in ledgers.iter().zip(levels) {
        check_orphans(ledger, &found.get(name).cloned().unwrap_or_default());
    }
    // What the other levels have alone was never acknowledged: it is kept, and no loss.
    let orphans = found["fast"].len();
    until("the report counts what was lost", || {
        let changes = cluster.node("us").home_changes().unwrap();
        let counted: u64 = changes.iter().filter_map(|it| it.actual_writes).sum();
        counted == orphans as u64
    })
    .await;
    let changes = cluster.node("ap").home_changes().unwrap();
    assert!(changes.iter().all(|it| it.from.0 == "eu" && !it.is_planned));
    // The one that was home follows, and shows nothing of what it had alone.
    for key in ledgers[0].acked.values() {
        until_local(&cluster, "eu", "fast", key, None).await;
    }
    put_at_last(&cluster, "eu", "fast", "again").await;
    until_local(&cluster, "eu", "fast", "again", Some("eu")).await;
    check_sessions(&cluster, "eu", kept, lost).await;
    for name in REGIONS {
        cluster.close(name).await;
    }
}

/// A request that is with the home when that is lost goes to its successor as soon as there is
/// one. Regression: it waited until the connection was given up, up to six seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_under_way_to_a_lost_home_goes_to_its_successor() {
    let cluster = start(vec![keyspace("fast", AckLevel::Async, "eu")]).await;
    put_at_last(&cluster, "us", "fast", "before").await;
    for node in REGIONS {
        until_local(&cluster, node, "fast", "before", Some("us")).await;
    }
    cluster.wan.isolate("eu").unwrap();
    let lost = Instant::now();
    for node in ["us", "ap"] {
        let handle = cluster.node(node).keyspace("fast").unwrap();
        let put = handle.put(node, "after").timeout(PATIENCE);
        let get = handle.get("before").timeout(PATIENCE);
        let (put, get) = tokio::join!(put, get);
        put.unwrap();
        assert!(get.unwrap().is_some());
    }
    // A connection is given up after four seconds at the earliest, a lease ends in half of one.
    let took = lost.elapsed();
    assert!(took < Duration::from_millis(3500), "{took:?}");
    cluster.stop().await;
}

/// What a node has of a key; `None`: it answers no reads now.
async fn local(cluster: &Cluster, node: &str, keyspace: &str, key: &str) -> Option<Option<String>> {
    let handle = cluster.node(node).keyspace(keyspace).unwrap();
    let read = handle.get(key).consistency(Consistency::Local).await;
    let value = read.ok()?.map(|entry| entry.value);
    Some(value.map(|value| String::from_utf8(value.to_vec()).unwrap()))
}

pub(crate) async fn until_local(
    cluster: &Cluster,
    node: &str,
    keyspace: &str,
    key: &str,
    expected: Option<&str>,
) {
    let deadline = Instant::now() + PATIENCE;
    let expected = Some(expected.map(str::to_owned));
    loop {
        let value = local(cluster, node, keyspace, key).await;
        if value == expected {
            return;
        }
        assert!(Instant::now() < deadline, "{key} at {node}: {value:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The home is taken by one, then by the next, before the first is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_home_is_lost_twice_before_the_first_one_is_back() {
    let cluster = start(vec![keyspace("fast", AckLevel::Async, "eu")]).await;
    put_at_last(&cluster, "us", "fast", "before").await;
    for node in REGIONS {
        until_local(&cluster, node, "fast", "before", Some("us")).await;
    }
    cluster.wan.isolate("eu").unwrap();
    let mut first = Ledger::default();
    first
        .fill(&cluster, "eu", "fast", Duration::from_millis(300))
        .await;
    put_at_last(&cluster, "us", "fast", "second").await;
    // Back, and the second is gone at once: the first may not have caught up.
    cluster.wan.heal("eu").unwrap();
    let second = cluster.node("us").home_changes().unwrap();
    let home = second.last().unwrap().to.0.clone();
    cluster.wan.isolate(&home).unwrap();
    let left = REGIONS.into_iter().find(|it| *it != "eu" && *it != home);
    put_at_last(&cluster, left.unwrap(), "fast", "third").await;
    cluster.wan.heal(&home).unwrap();
    for node in REGIONS {
        put_at_last(&cluster, node, "fast", &format!("end/{node}")).await;
    }
    for node in REGIONS {
        for key in ["end/eu", "end/us", "end/ap", "before"] {
            let expected = key.strip_prefix("end/").unwrap_or("us");
            until_local(&cluster, node, "fast", key, Some(expected)).await;
        }
    }
    // Either the first home was chosen again with what it had, and all have it, or nobody has it
    // and it is listed.
    let deadline = Instant::now() + PATIENCE;
    while let Some((id, key)) = first.acked.pop_first() {
        loop {
            let orphans = orphans_at(&cluster, "eu").await;
            let is_orphan = orphans.get("fast").is_some_and(|ids| ids.contains(&id));
            let expected = Some((!is_orphan).then(|| "lost".to_owned()));
            let mut others = Vec::new();
            for node in REGIONS {
                let value = local(&cluster, node, "fast", &key).await;
                others.extend((value != expected).then_some((node, value)));
            }
            if others.is_empty() {
                break;
            }
            let seen = || REGIONS.map(|node| alarms(&cluster, node)).concat();
            let is_late = Instant::now() >= deadline;
            assert!(!is_late, "{key}, not {expected:?}: {others:?}\n{}", seen());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    cluster.stop().await;
}

/// A node that was down while its home was taken, and one that restarts, are what the map says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn homes_are_kept_over_restarts() {
    let mut cluster = start(vec![keyspace("safe", AckLevel::SYNC, "eu")]).await;
    put_at_last(&cluster, "us", "safe", "a").await;
    cluster.close("eu").await;
    // Two of three are left: the level asks for all regions, so nothing can be acknowledged.
    let safe = cluster.node("us").keyspace("safe").unwrap();
    let refused = safe.put("b", "v").timeout(Duration::from_secs(1)).await;
    assert!(refused.is_err(), "{refused:?}");
    cluster.open("eu").await;
    put_at_last(&cluster, "eu", "safe", "c").await;
    for node in ["us", "ap"] {
        cluster.close(node).await;
        cluster.open(node).await;
        put_at_last(&cluster, node, "safe", node).await;
    }
    for node in REGIONS {
        assert_eq!(
            value_at(&cluster, node, "safe", "a").await.as_deref(),
            Some("us")
        );
    }
    cluster.stop().await;
}
