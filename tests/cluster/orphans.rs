//! What a home had alone, in its operator's hands: shown, written again once, given up.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use domicile::{
    AckLevel, Error, Keyspace, Node, Operation, OrphanDiscard, OrphanFileId, OrphanFileStatus,
    OrphanReplay, OrphanShow, OrphanShown, OrphanState, OrphanStream, Reason, ReplayOutcome,
    RequestId, Seq,
};

use crate::rig::{Cluster, PATIENCE, keyspace, region};
use crate::takeover::{put_at_last, start, until_local, value_at};

const NAME: &str = "fast";

fn id(number: u128) -> RequestId {
    RequestId::new(0x0dd << 64 | number).unwrap()
}

fn put(key: &str, value: &'static str) -> Operation {
    Operation::Put {
        key: key.to_owned().into(),
        value: value.into(),
        expiry: None,
    }
}

fn delete(key: &str) -> Operation {
    Operation::Delete {
        key: key.to_owned().into(),
    }
}

/// Writes under an id at a node; whether its home knew the id.
async fn write(node: &Node, number: u128, operations: Vec<Operation>) -> Result<bool, Error> {
    let written = node
        .keyspace(NAME)?
        .batch(operations)
        .request_id(id(number));
    let receipt = written.timeout(Duration::from_secs(5)).await?;
    Ok(receipt.duplicate)
}

async fn all<T>(stream: Result<OrphanStream<T>, Error>) -> Vec<T> {
    let (mut stream, mut all) = (stream.unwrap(), Vec::new());
    while let Some(next) = stream.next().await {
        all.push(next.unwrap());
    }
    all
}

/// In `eu` and `us` only, at home in `eu`.
fn european() -> Keyspace {
    let mut keyspace = keyspace(NAME, AckLevel::Async, "eu");
    keyspace.regions = vec![region("eu"), region("us")];
    keyspace
}

/// The one orphan file of a node, once it is there.
async fn until_sealed(node: &Node) -> OrphanFileStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let listing = node.orphan_files().await.unwrap();
        assert!(listing.damaged.is_empty(), "{:?}", listing.damaged);
        match &listing.files[..] {
            [] => {}
            [file] => return file.clone(),
            more => panic!("one file expected: {more:?}"),
        }
        assert!(Instant::now() < deadline, "no orphan file");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn counts(node: &Node) -> (u64, u64, u64) {
    let counts = node.orphan_files().await.unwrap().files[0].counts;
    (counts.open, counts.replayed, counts.discarded)
}

fn show(file: OrphanFileId) -> OrphanShow {
    OrphanShow {
        file,
        from: Seq::NONE,
        asks_home: true,
        export_to: None,
    }
}

async fn replay(node: &Node, file: OrphanFileId) -> BTreeMap<RequestId, ReplayOutcome> {
    let steps = all(node.replay_orphans(OrphanReplay { file, only: None }).await).await;
    let steps = steps
        .into_iter()
        .map(|step| (step.request_id, step.outcome));
    steps.collect()
}

/// What the home that is cut off writes alone.
async fn write_alone(eu: &Node) {
    let alone: [Vec<Operation>; 10] = [
        vec![put("g/new", "first")],
        vec![put("g/new", "second")],
        vec![put("g/old", "orphan")],
        vec![delete("g/gone")],
        vec![put("g/changed", "orphan")],
        vec![put("g/removed", "orphan")],
        vec![put("g/deleted", "orphan")],
        vec![put("g/retried", "orphan")],
        vec![put("g/b1", "orphan"), put("g/b2", "orphan")],
        vec![put("g/b3", "orphan"), put("g/changed", "orphan")],
    ];
    for (number, operations) in (1..).zip(alone) {
        let duplicate = write(eu, number, operations).await.unwrap();
        assert!(!duplicate, "{number}");
    }
    let ended = eu.keyspace(NAME).unwrap().put("g/ended", "orphan");
    let ended = ended.ttl(Duration::from_millis(1)).request_id(id(11));
    ended.await.unwrap();
}

/// What the new home writes since the fork.
async fn write_since(us: &Node) {
    for (number, operations) in (21..).zip([
        vec![put("g/changed", "us")],
        vec![put("g/removed", "us")],
        vec![delete("g/removed")],
        vec![delete("g/deleted")],
    ]) {
        write(us, number, operations).await.unwrap();
    }
    let retried = write(us, 8, vec![put("g/retried", "orphan")]).await;
    assert!(!retried.unwrap(), "the new home never had it");
}

/// A home that was cut off, and is a copy again.
async fn returned() -> (Cluster, OrphanFileStatus) {
    let cluster = start(vec![european()]).await;
    put_at_last(&cluster, "us", NAME, "g/before").await;
    for (number, key) in (31..).zip(["g/old", "g/gone", "g/deleted"]) {
        let written = write(cluster.node("eu"), number, vec![put(key, "before")]);
        written.await.unwrap();
        until_local(&cluster, "us", NAME, key, Some("before")).await;
    }
    cluster.wan.isolate("eu").unwrap();
    write_alone(cluster.node("eu")).await;
    put_at_last(&cluster, "us", NAME, "g/after").await;
    write_since(cluster.node("us")).await;
    cluster.wan.heal("eu").unwrap();
    let file = until_sealed(cluster.node("eu")).await;
    until_local(&cluster, "eu", NAME, "g/retried", Some("orphan")).await;
    (cluster, file)
}

fn by_id(shown: &[OrphanShown], number: u128) -> &OrphanShown {
    let mut found = shown
        .iter()
        .filter(|it| it.orphan.record.head.request_id == id(number));
    let one = found.next().unwrap();
    assert!(found.next().is_none(), "{number} is there twice");
    one
}

fn check_first(outcomes: &BTreeMap<RequestId, ReplayOutcome>) {
    use ReplayOutcome as Outcome;
    let came = |number| &outcomes[&id(number)];
    for number in [1, 2, 3, 4, 9] {
        let is_back = matches!(came(number), Outcome::Replayed(_) | Outcome::Superseded(_));
        assert!(is_back, "{number}: {:?}", came(number));
    }
    assert!(matches!(came(5), Outcome::Changed(Some(_))), "{outcomes:?}");
    assert_eq!(
        (came(6), came(7)),
        (&Outcome::Changed(None), &Outcome::Changed(None))
    );
    assert!(matches!(came(8), Outcome::Superseded(_)), "{outcomes:?}");
    assert!(
        matches!(came(10), Outcome::Changed(Some(_))),
        "{outcomes:?}"
    );
    assert_eq!(came(11), &Outcome::Expired);
}

async fn check_values(cluster: &Cluster) {
    for (key, expected) in [
        ("g/new", Some("second")),
        ("g/old", Some("orphan")),
        ("g/gone", None),
        ("g/changed", Some("us")),
        ("g/removed", None),
        ("g/deleted", None),
        ("g/retried", Some("orphan")),
        ("g/b1", Some("orphan")),
        ("g/b2", Some("orphan")),
        ("g/b3", None),
        ("g/ended", None),
    ] {
        let value = value_at(cluster, "us", NAME, key).await;
        assert_eq!(value.as_deref(), expected, "{key}");
        until_local(cluster, "eu", NAME, key, expected).await;
    }
}

/// Where the home has the last replayed values.
async fn versions(cluster: &Cluster) -> Vec<domicile::Version> {
    let space = cluster.node("us").keyspace(NAME).unwrap();
    let mut versions = Vec::new();
    for key in ["g/new", "g/old", "g/b1", "g/retried"] {
        versions.push(space.get(key).await.unwrap().unwrap().version);
    }
    versions
}

/// What a replay that was broken off behind its first answer and the next one have done.
async fn replay_in_two(cluster: &Cluster, file: OrphanFileId) {
    let (eu, call) = (cluster.node("eu"), OrphanReplay { file, only: None });
    let mut broken = eu.replay_orphans(call).await.unwrap();
    broken.next().await.unwrap().unwrap();
    drop(broken);
    let deadline = Instant::now() + PATIENCE;
    let steps = loop {
        match eu.replay_orphans(call).await {
            Ok(steps) => break all(Ok(steps)).await,
            Err(error) => assert_eq!(error.reason(), Reason::Overloaded),
        }
        assert!(Instant::now() < deadline, "the turn is never given back");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let steps = steps
        .into_iter()
        .map(|step| (step.request_id, step.outcome));
    let mut outcomes: BTreeMap<RequestId, ReplayOutcome> = steps.collect();
    // What the one that was broken off has done is decided, and not told again.
    let shown = all(eu.show_orphans(show(file)).await).await;
    for number in [1, 2, 3, 4, 8, 9] {
        let state = by_id(&shown, number).orphan.state;
        assert_eq!(state, OrphanState::Replayed, "{number}");
        let version = versions(cluster).await[0];
        let done = || match number {
            8 => ReplayOutcome::Superseded(version),
            _ => ReplayOutcome::Replayed(version),
        };
        outcomes.entry(id(number)).or_insert_with(done);
    }
    check_first(&outcomes);
}

/// A client sends again what was replayed, at the home and elsewhere.
async fn retry(cluster: &Cluster) {
    for node in ["us", "eu"] {
        for (number, key, value) in [(1, "g/new", "first"), (3, "g/old", "orphan")] {
            let retried = write(cluster.node(node), number, vec![put(key, value)]).await;
            assert!(retried.unwrap(), "the home knows what was replayed");
        }
    }
}

/// Each orphan comes back once, however often it is replayed and whoever sends it again; what was
/// written since stays; the rest is given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphans_come_back_once_where_nothing_changed_and_the_rest_is_given_up() {
    let (cluster, status) = returned().await;
    let (eu, file) = (cluster.node("eu"), status.file.id());
    assert_eq!(status.keyspace.as_ref().unwrap().as_str(), NAME);
    assert_eq!(status.reign_region.as_ref().unwrap().as_str(), "eu");
    assert_eq!(status.superseded_by_region.unwrap().as_str(), "us");
    let records = status.counts.records();
    assert_eq!(records, status.file.records);
    assert_eq!(counts(eu).await, (records, 0, 0));
    assert!(records >= 11, "{records}");
    let shown = all(eu.show_orphans(show(file)).await).await;
    assert_eq!(shown.len() as u64, records);
    for number in 1..=11 {
        let expected = Some(number == 8);
        assert_eq!(by_id(&shown, number).superseded, expected, "{number}");
    }

    replay_in_two(&cluster, file).await;
    check_values(&cluster).await;
    let (before, open) = (versions(&cluster).await, records - 6);
    assert_eq!(counts(eu).await, (open, 6, 0));
    let again = replay(eu, file).await;
    assert_eq!(again.len() as u64, open);
    assert!(
        !again.contains_key(&id(2)) && again.contains_key(&id(5)),
        "{again:?}"
    );
    retry(&cluster).await;
    assert_eq!(versions(&cluster).await, before);
    check_values(&cluster).await;

    let rest = |first, last| OrphanDiscard { file, first, last };
    let beyond = rest(None, Some(status.file.last_seq.next()));
    let refused = eu.discard_orphans(beyond).await.unwrap_err();
    assert_eq!(refused.reason(), Reason::InvalidArgument);
    let given_up = all(eu.discard_orphans(rest(None, None)).await).await;
    assert_eq!(given_up.len() as u64, open);
    let discarded = |it: &OrphanShown| it.orphan.state == OrphanState::Discarded;
    assert!(given_up.iter().all(discarded));
    assert_eq!(counts(eu).await, (0, 6, open));
    let none = all(eu.discard_orphans(rest(None, None)).await).await;
    assert!(none.is_empty() && replay(eu, file).await.is_empty());
    check_values(&cluster).await;
    cluster.stop().await;
}

/// One record at a time, the later one first: the earlier one of the same key is history then. And
/// values go nowhere where the keyspace may not be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_orphan_is_replayed_alone_and_values_stay_where_they_may_be() {
    let (cluster, status) = returned().await;
    let (eu, file) = (cluster.node("eu"), status.file.id());
    let shown = all(eu.show_orphans(show(file)).await).await;
    let one = |number| by_id(&shown, number).orphan.position.seq;
    for (number, comes_back) in [(2, true), (1, false), (2, false)] {
        let only = Some(one(number));
        let steps = all(eu.replay_orphans(OrphanReplay { file, only }).await).await;
        let [step] = &steps[..] else {
            panic!("one step expected: {steps:?}");
        };
        let is_back = matches!(step.outcome, ReplayOutcome::Replayed(_));
        assert_eq!(is_back, comes_back, "{number}: {:?}", step.outcome);
    }
    assert_eq!(
        value_at(&cluster, "us", NAME, "g/new").await.as_deref(),
        Some("second")
    );
    let open = eu.status(domicile::Detail::Summary).keyspaces[0].orphans_open;
    assert_eq!((open, 1), (counts(eu).await.0, counts(eu).await.1));
    let only = Some(status.file.last_seq.next());
    let refused = eu
        .replay_orphans(OrphanReplay { file, only })
        .await
        .unwrap_err();
    assert_eq!(refused.reason(), Reason::InvalidArgument);

    let export = |region: &str| OrphanShow {
        export_to: Some(region.to_owned()),
        ..show(file)
    };
    for (place, reason) in [
        ("ap", Reason::DataResidency),
        ("mars", Reason::RegionNotFound),
    ] {
        let refused = eu.show_orphans(export(place)).await.unwrap_err();
        assert_eq!(refused.reason(), reason, "{place}");
    }
    for place in ["", "eu", "us"] {
        assert_eq!(
            all(eu.show_orphans(export(place)).await).await.len(),
            shown.len()
        );
    }
    // Only the node that holds them has them.
    let elsewhere = cluster
        .node("us")
        .show_orphans(show(file))
        .await
        .unwrap_err();
    assert_eq!(elsewhere.reason(), Reason::OrphansNotFound);
    cluster.stop().await;
}
