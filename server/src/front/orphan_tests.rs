//! Tests of orphans through the door: a node in this process whose log was cut before.
//!
//! **Owns**: a served node with one orphan file, calls about it, hostile ones among them.
//! **Does not own**: how logs come to be cut, and a home elsewhere (the workspace's cluster tests).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domicile_proto::v1::admin_client::AdminClient;
use domicile_proto::{
    Epoch, Keyspace, Name, NodeId, Operation, PartitionId, Reason, RequestId, Seq, v1,
};
use domicile_replication::{
    Detail, Engine, Node, NodeOptions, OrphanDiscard, OrphanFileId, WatchCall, WatchFrom, WatchKeys,
};
use domicile_storage::{CutPlan, EngineChoice, OsDisk, Store, StoreOptions};
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use super::door_tests::{Served, reason, serve, served};

/// When the tests' logs were cut.
const SEALED_AT_MS: u64 = 1_795_000_000_000;

/// Records after the fork: more than answers that wait.
const ORPHANS: u128 = 40;

fn id(number: u128) -> RequestId {
    RequestId::new(number).unwrap()
}

fn options(dir: &tempfile::TempDir) -> NodeOptions {
    let mut options = NodeOptions::single(dir.path());
    options.engine = Engine::Memory;
    let region = options.regions[0].id;
    let name = Name::new("users").unwrap();
    options
        .keyspaces
        .push(Keyspace::new(name, vec![region], region));
    options
}

/// A node that wrote `g/0` before the fork, `g/1` to `g/39` and the batch `g/0`, `g/40` after it.
async fn orphaned() -> (Served, String) {
    orphaned_with(|_| ()).await
}

/// The same; `change` has the last word on the options of the one that is served.
async fn orphaned_with(change: impl Fn(&mut NodeOptions)) -> (Served, String) {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(options(&dir)).await.unwrap();
    let space = node.keyspace("users").unwrap();
    let before = space.put("g/0", "before").request_id(id(1000)).await;
    let (partition, fork) = before.map(|it| (it.partition, it.position().seq)).unwrap();
    for number in 1..ORPHANS {
        let put = space.put(format!("g/{number}"), format!("value {number}"));
        put.request_id(id(number)).await.unwrap();
    }
    let put = |key: &'static str| Operation::Put {
        key: key.into(),
        value: "batch".into(),
        expiry: None,
    };
    let batch = space.batch([put("g/0"), put("g/40")]);
    batch.request_id(id(ORPHANS)).await.unwrap();
    node.close().await.unwrap();
    drop((space, node));
    let path = dir.path().to_owned();
    let cut = tokio::task::spawn_blocking(move || cut(&path, partition, fork));
    let file = cut.await.unwrap().to_string();
    let mut options = options(&dir);
    change(&mut options);
    (serve(dir, options).await, file)
}

fn cut(dir: &std::path::Path, partition: PartitionId, fork: Seq) -> OrphanFileId {
    let options = StoreOptions {
        engine: EngineChoice::Memory,
        ..StoreOptions::default()
    };
    let (store, _) = Store::open(Arc::new(OsDisk::new()), dir, options).unwrap();
    let plan = CutPlan {
        superseded_by: Epoch {
            counter: 77,
            node: NodeId::new(7).unwrap(),
        },
        now_ms: SEALED_AT_MS,
    };
    let report = store.cut(partition, fork, plan).unwrap();
    store.close().unwrap();
    report.orphans.unwrap().id()
}

impl Served {
    fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel.clone())
    }
}

async fn all<M>(messages: Streaming<M>) -> Vec<M> {
    let mut messages = messages;
    let mut all = Vec::new();
    while let Some(message) = messages.message().await.unwrap() {
        all.push(message);
    }
    all
}

fn show(file: &str) -> v1::ShowOrphansRequest {
    v1::ShowOrphansRequest {
        file: file.to_owned(),
        ask_home: true,
        ..v1::ShowOrphansRequest::default()
    }
}

fn replay(file: &str, seq: u64) -> v1::ReplayOrphansRequest {
    v1::ReplayOrphansRequest {
        file: file.to_owned(),
        seq,
        if_unchanged: true,
    }
}

fn discard(file: &str, first_seq: u64, last_seq: u64) -> v1::DiscardOrphansRequest {
    v1::DiscardOrphansRequest {
        file: file.to_owned(),
        first_seq,
        last_seq,
        confirmed: true,
    }
}

async fn list(served: &Served) -> v1::ListOrphansResponse {
    let mut admin = served.admin();
    let list = admin.list_orphans(v1::ListOrphansRequest {}).await;
    list.unwrap().into_inner()
}

async fn records(served: &Served, request: v1::ShowOrphansRequest) -> Vec<v1::OrphanRecord> {
    let shown = served.admin().show_orphans(request).await.unwrap();
    let shown = all(shown.into_inner()).await;
    shown.into_iter().filter_map(|it| it.record).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_are_listed_and_shown_without_values_and_exported_with_them() {
    let (served, file) = orphaned().await;
    let list = list(&served).await;
    assert_eq!((list.region.as_str(), list.damaged.len()), ("local", 0));
    let [listed] = &list.files[..] else {
        panic!("one file expected: {:?}", list.files);
    };
    assert_eq!((&listed.file, listed.keyspace.as_str()), (&file, "users"));
    assert_eq!((listed.records, listed.open), (40, 40));
    assert_eq!(
        (listed.fork_seq, listed.first_seq, listed.last_seq),
        (1, 2, 41)
    );
    assert_eq!(
        (
            listed.superseded_by_counter,
            listed.superseded_by_region.as_str()
        ),
        (77, "")
    );
    assert_eq!(listed.sealed_at_ms, SEALED_AT_MS);

    let shown = records(&served, show(&file)).await;
    assert_eq!(shown.len(), 40);
    let (first, last) = (&shown[0], &shown[39]);
    assert_eq!((first.seq, first.kind.as_str()), (2, "put"));
    assert_eq!(
        first.request_id,
        Bytes::copy_from_slice(&1_u128.to_be_bytes())
    );
    assert_eq!(
        (first.level.as_str(), first.superseded),
        ("async", Some(false))
    );
    assert_eq!(first.operations[0].key, "g/1");
    assert_eq!((last.kind.as_str(), last.operations.len()), ("batch", 2));
    let values = |shown: &[v1::OrphanRecord]| {
        let operations = shown.iter().flat_map(|it| &it.operations);
        let values = operations.filter_map(|it| it.value.clone());
        values.collect::<Vec<_>>()
    };
    assert_eq!(values(&shown), Vec::<Bytes>::new());
    assert_eq!(first.operations[0].value_bytes, "value 1".len() as u64);

    let from = v1::ShowOrphansRequest {
        from_seq: 41,
        ask_home: false,
        export: Some(v1::OrphanExport::default()),
        ..show(&file)
    };
    let exported = records(&served, from).await;
    assert_eq!((exported.len(), exported[0].superseded), (1, None));
    assert_eq!(values(&exported), ["batch", "batch"]);
    let beyond = v1::ShowOrphansRequest {
        from_seq: u64::MAX,
        ..show(&file)
    };
    assert_eq!(records(&served, beyond).await.len(), 0);
    served.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_are_replayed_once_and_the_rest_is_discarded() {
    let (served, file) = orphaned().await;
    let space = served.node.keyspace("users").unwrap();
    // Since the fork: one key is written, one is written and removed, one write is sent again.
    space.put("g/2", "since").await.unwrap();
    space.put("g/3", "since").await.unwrap();
    space.delete("g/3").await.unwrap();
    space.put("g/4", "value 4").request_id(id(4)).await.unwrap();
    // An id that is another write's now.
    space.put("g/5x", "other").request_id(id(5)).await.unwrap();
    let mut admin = served.admin();
    let steps = admin.replay_orphans(replay(&file, 0)).await.unwrap();
    let steps = all(steps.into_inner()).await;
    assert_eq!(steps.len(), 40);
    for step in &steps {
        let expected = match step.seq {
            3 | 4 => v1::ReplayOutcome::Changed,
            5 => v1::ReplayOutcome::Superseded,
            6 => v1::ReplayOutcome::Refused,
            _ => v1::ReplayOutcome::Replayed,
        };
        assert_eq!(step.outcome(), expected, "{step:?}");
    }
    assert_eq!(steps[0].key, "g/1");
    let value = |key: &'static str| {
        let read = space.get(key);
        async move { read.await.unwrap().map(|entry| entry.value) }
    };
    for (key, expected) in [
        ("g/0", Some("batch")),
        ("g/1", Some("value 1")),
        ("g/2", Some("since")),
        ("g/3", None),
        ("g/5", None),
        ("g/40", Some("batch")),
    ] {
        assert_eq!(value(key).await, expected.map(Bytes::from), "{key}");
    }
    let decided = all(admin
        .replay_orphans(replay(&file, 2))
        .await
        .unwrap()
        .into_inner())
    .await;
    assert_eq!(decided[0].outcome(), v1::ReplayOutcome::Decided);
    assert_eq!(decided[0].note, "replayed");
    let open = || served.node.status(Detail::Summary).keyspaces[0].orphans_open;
    assert_eq!(open(), 3);

    let given_up = admin.discard_orphans(discard(&file, 0, 4)).await.unwrap();
    let given_up = all(given_up.into_inner()).await;
    let record = given_up[0].record.as_ref().unwrap();
    assert_eq!(
        (given_up.len(), record.seq, record.state()),
        (2, 3, v1::OrphanState::Discarded)
    );
    assert!(record.operations[0].value.is_none());
    assert_eq!(open(), 1);
    let list = admin.list_orphans(v1::ListOrphansRequest {}).await.unwrap();
    let file = &list.into_inner().files[0];
    assert_eq!((file.open, file.replayed, file.discarded), (1, 37, 2));
    served.close().await;
}

/// Whoever decides of orphans does so alone; one who takes no answers is not waited for at the end.
#[tokio::test(flavor = "multi_thread")]
async fn one_at_once_decides_and_a_closing_door_ends_it() {
    let (served, file) = orphaned().await;
    let id = OrphanFileId::parse(&file).unwrap();
    for (first, last) in (2..=40).map(|seq| (seq, seq)).step_by(2) {
        let given_up = served
            .admin()
            .discard_orphans(discard(&file, first, last))
            .await;
        assert_eq!(all(given_up.unwrap().into_inner()).await.len(), 1);
    }
    let all_of_it = OrphanDiscard {
        file: id,
        first: None,
        last: None,
    };
    // Answers to 16 of 20 wait, and the rest of the work for them.
    let held = served.node.discard_orphans(all_of_it).await.unwrap();
    for refused in [
        served
            .admin()
            .discard_orphans(discard(&file, 0, 0))
            .await
            .err(),
        served.admin().replay_orphans(replay(&file, 0)).await.err(),
    ] {
        let refused = refused.unwrap();
        let told = (refused.code(), reason(&refused));
        assert_eq!(told, (Code::ResourceExhausted, "OVERLOADED".to_owned()));
    }
    served.close().await;
    drop(held);
}

/// A key that is absent may have been removed since the fork: without the log nobody can tell.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_journal_no_longer_tells_is_left_open() {
    let (served, file) = orphaned_with(|options| {
        options.journal_file_bytes = 64 << 10;
        options.journal_keep_bytes = 0;
    })
    .await;
    let space = served.node.keyspace("users").unwrap();
    let policy = Arc::clone(space.policy());
    let whole = || {
        let from = WatchFrom::First;
        let keys = WatchKeys::Key("g/0".into());
        let call = WatchCall::new(Arc::clone(&policy));
        served.node.watch(WatchCall { from, keys, ..call })
    };
    for number in 0_u64.. {
        match whole() {
            Err(error) if error.reason() == Reason::Compacted => break,
            other => drop(other.unwrap()),
        }
        assert!(number < 5_000, "the journal is never cut");
        let put = space.put(format!("g/{}", 100 + number % 100), vec![7; 16 << 10]);
        put.await.unwrap();
        if number > 1_000 {
            // The keeper looks once a second, however fast the disk is.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    let steps = served
        .admin()
        .replay_orphans(replay(&file, 0))
        .await
        .unwrap();
    for step in all(steps.into_inner()).await {
        assert_eq!(step.outcome(), v1::ReplayOutcome::Unproven, "{step:?}");
        assert!(
            step.note.contains("no longer in the journal here"),
            "{}",
            step.note
        );
    }
    // What is there has a version, which tells by itself.
    let before = space.get("g/0").await.unwrap().unwrap();
    assert_eq!(before.value, "before");
    let open = served.node.status(Detail::Summary).keyspaces[0].orphans_open;
    assert_eq!(open, 40);
    served.close().await;
}

fn field(status: &Status) -> String {
    use tonic_types::StatusExt;
    let violations = status
        .get_details_bad_request()
        .map(|it| it.field_violations);
    violations.map_or(String::new(), |violations| violations[0].field.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_call_about_orphans_is_said() {
    let (served, file) = orphaned().await;
    let mut admin = served.admin();
    let long = "f".repeat(1 << 20);
    for bad in [
        "",
        "-",
        "../../etc/passwd",
        "0000000100020003-0",
        "é-1",
        &long,
    ] {
        let refused = [
            admin.show_orphans(show(bad)).await.err(),
            admin.replay_orphans(replay(bad, 0)).await.err(),
            admin.discard_orphans(discard(bad, 0, 0)).await.err(),
        ];
        for refused in refused {
            let refused = refused.unwrap();
            assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
            assert_eq!(field(&refused), "file");
            assert!(refused.message().len() < 300, "{}", refused.message().len());
        }
    }
    let absent = "0000000100020003-1";
    let missing = admin.show_orphans(show(absent)).await.unwrap_err();
    let told = (missing.code(), reason(&missing));
    assert_eq!(told, (Code::NotFound, "ORPHANS_NOT_FOUND".to_owned()));
    let next_file = file.replace("-1", "-2");
    let missing = admin.replay_orphans(replay(&next_file, 0)).await;
    assert_eq!(missing.unwrap_err().code(), Code::NotFound);
    served.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_meant_is_refused_and_nothing_is_done() {
    let (served, file) = orphaned().await;
    let mut admin = served.admin();
    let bare = v1::ReplayOrphansRequest {
        if_unchanged: false,
        ..replay(&file, 0)
    };
    let refused = admin.replay_orphans(bare).await.unwrap_err();
    assert_eq!(field(&refused), "if_unchanged");
    for seq in [1, 42, u64::MAX] {
        let refused = admin.replay_orphans(replay(&file, seq)).await.unwrap_err();
        assert_eq!(field(&refused), "seq", "{seq}");
        assert!(
            refused.message().contains("the file has 2 to 41"),
            "{}",
            refused.message()
        );
    }
    let unasked = v1::DiscardOrphansRequest {
        confirmed: false,
        ..discard(&file, 0, 0)
    };
    let refused = admin.discard_orphans(unasked).await.unwrap_err();
    assert_eq!(field(&refused), "confirmed");
    for (first, last) in [(1, 0), (0, 42), (9, 8), (u64::MAX, u64::MAX)] {
        let refused = admin.discard_orphans(discard(&file, first, last)).await;
        assert_eq!(
            field(&refused.unwrap_err()),
            "first_seq",
            "{first} to {last}"
        );
    }
    let export = v1::ShowOrphansRequest {
        export: Some(v1::OrphanExport {
            place_region: "mars".to_owned(),
        }),
        ..show(&file)
    };
    let refused = admin.show_orphans(export).await.unwrap_err();
    assert_eq!(reason(&refused), "REGION_NOT_FOUND");
    // Nothing of all that was done.
    let shown = records(&served, show(&file)).await;
    assert!(shown.iter().all(|it| it.state() == v1::OrphanState::Open));
    served.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_orphans_says_so_and_a_damaged_file_is_named() {
    let served = served().await;
    assert!(list(&served).await.files.is_empty());
    served.close().await;

    let (served, file) = orphaned().await;
    let id = OrphanFileId::parse(&file).unwrap();
    let name = format!(
        "{}-{:010}.orphans",
        file.split('-').next().unwrap(),
        id.number.get()
    );
    let path = served.data().join("orphans").join(name);
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.len() - 5;
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let mut shown = served
        .admin()
        .show_orphans(show(&file))
        .await
        .unwrap()
        .into_inner();
    let ended = loop {
        match shown.message().await {
            Ok(message) => assert!(message.is_some(), "it ends without a word"),
            Err(status) => break status,
        }
    };
    assert_eq!(
        (ended.code(), reason(&ended).as_str()),
        (Code::DataLoss, "CHECKSUM_MISMATCH")
    );
    std::fs::write(&path, b"DOMO").unwrap();
    let list = list(&served).await;
    assert_eq!((list.files.len(), list.damaged.len()), (0, 1));
    served.close().await;
}
