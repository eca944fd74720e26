//! Tests of the door as a client meets it: a node in this process behind a real port.
//!
//! **Owns**: a served node, calls over HTTP/2.
//! **Does not own**: several regions and processes (the workspace's cluster tests).

use std::collections::BTreeSet;
use std::time::Duration;

use domicile_proto::v1::admin_client::AdminClient;
use domicile_proto::v1::kv_client::KvClient;
use domicile_proto::{AckLevel, Keyspace, Name, OnTimeout, v1};
use domicile_replication::{Detail, Engine, Node, NodeOptions, RegionSpec};
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;

use super::{Door, FrontLimits};

/// Nothing here takes longer unless it hangs.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Served {
    dir: TempDir,
    pub(super) channel: Channel,
    pub(super) node: Node,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

pub(super) async fn served() -> Served {
    let dir = tempfile::tempdir().unwrap();
    let mut options = NodeOptions::single(dir.path());
    let region = options.regions[0].id;
    options.keyspaces.push(Keyspace::new(
        Name::new("users").unwrap(),
        vec![region],
        region,
    ));
    serve(dir, options).await
}

pub(super) async fn serve(dir: TempDir, mut options: NodeOptions) -> Served {
    options.engine = Engine::Memory;
    let node = Node::open(options).await.unwrap();
    let limits = FrontLimits {
        drain_timeout: PATIENCE,
        watch_patience: Duration::from_millis(200),
        ..FrontLimits::default()
    };
    let door = Door::open("127.0.0.1:0".parse().unwrap(), limits)
        .await
        .unwrap();
    let endpoint = format!("http://{}", door.address().unwrap());
    let (stop, stopped) = oneshot::channel();
    let opened = node.clone();
    let task = tokio::spawn(async move {
        let served = door
            .serve(node.clone(), async { stopped.await.unwrap_or(()) })
            .await;
        node.close().await.unwrap();
        served.unwrap();
    });
    let channel = Channel::from_shared(endpoint)
        .unwrap()
        .connect()
        .await
        .unwrap();
    Served {
        dir,
        channel,
        node: opened,
        stop,
        task,
    }
}

impl Served {
    async fn until_cut_off(&self) {
        while self.node.status(Detail::Summary).watches.cut_off == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub(super) fn data(&self) -> &std::path::Path {
        self.dir.path()
    }

    fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone())
    }

    pub(super) async fn close(self) {
        drop(self.channel);
        self.stop.send(()).unwrap();
        tokio::time::timeout(PATIENCE, self.task)
            .await
            .expect("the door closes")
            .unwrap();
    }
}

fn put(key: &str, value: &str) -> v1::PutRequest {
    v1::PutRequest {
        keyspace: "users".to_owned(),
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..v1::PutRequest::default()
    }
}

fn get(key: &str) -> v1::GetRequest {
    let key = key.to_owned().into();
    v1::GetRequest {
        keyspace: "users".to_owned(),
        key,
        options: None,
    }
}

pub(super) fn reason(status: &Status) -> String {
    status
        .get_details_error_info()
        .map(|info| info.reason)
        .unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_written_read_and_compared() {
    let served = served().await;
    let mut kv = served.kv();
    let receipt = kv.put(put("alice/name", "Ada")).await.unwrap().into_inner();
    assert_eq!(
        (receipt.asked.as_str(), receipt.durable_in.as_slice()),
        ("async", &["local".to_owned()][..])
    );
    let read = kv.get(get("alice/name")).await.unwrap().into_inner();
    let entry = read.entry.unwrap();
    assert_eq!(
        (&entry.value[..], &entry.version),
        (&b"Ada"[..], &receipt.version)
    );
    assert_eq!(read.region, "local");
    let compare = |expected_version: &str, value: Option<&'static str>| v1::CompareAndSetRequest {
        keyspace: "users".to_owned(),
        key: "alice/name".into(),
        value: value.map(Into::into),
        expected_version: expected_version.to_owned(),
        ..v1::CompareAndSetRequest::default()
    };
    let conflict = kv
        .compare_and_set(compare("", Some("Eve")))
        .await
        .unwrap_err();
    assert_eq!(
        (conflict.code(), reason(&conflict).as_str()),
        (Code::Aborted, "VERSION_MISMATCH")
    );
    let info = conflict.get_details_error_info().unwrap();
    assert_eq!(info.metadata["current"], receipt.version);
    kv.compare_and_set(compare(&receipt.version, None))
        .await
        .unwrap();
    assert!(
        kv.get(get("alice/name"))
            .await
            .unwrap()
            .into_inner()
            .entry
            .is_none()
    );
    served.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_with_code_reason_and_field() {
    let served = served().await;
    let mut kv = served.kv();
    let nowhere = v1::PutRequest {
        keyspace: "nobody".to_owned(),
        ..put("a", "b")
    };
    let refused = kv.put(nowhere).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::NotFound, "KEYSPACE_NOT_FOUND")
    );
    let refused = kv.put(put("", "b")).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::InvalidArgument, "INVALID_KEY")
    );
    let large = "x".repeat((1 << 20) + 1);
    let refused = kv.put(put("a", &large)).await.unwrap_err();
    assert_eq!(reason(&refused), "VALUE_TOO_LARGE");
    assert_eq!(
        refused.get_details_bad_request().unwrap().field_violations[0].field,
        "value"
    );
    let options = v1::WriteOptions {
        request_id: vec![1; 3].into(),
        ..v1::WriteOptions::default()
    };
    let refused = kv
        .put(v1::PutRequest {
            options: Some(options),
            ..put("a", "b")
        })
        .await;
    let refused = refused.unwrap_err();
    let violations = refused.get_details_bad_request().unwrap().field_violations;
    assert_eq!(violations[0].field, "options.request_id");
    served.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_goes_on_page_by_page_both_ways() {
    let served = served().await;
    let mut kv = served.kv();
    for number in 0..25 {
        kv.put(put(&format!("k{number:02}"), "v")).await.unwrap();
    }
    for reverse in [false, true] {
        let mut scan = v1::ScanRequest {
            keyspace: "users".to_owned(),
            prefix: "k".into(),
            limit: 7,
            reverse,
            ..v1::ScanRequest::default()
        };
        let mut keys = Vec::new();
        for _ in 0..10 {
            let page = kv.scan(scan.clone()).await.unwrap().into_inner();
            assert!(page.entries.len() <= 7);
            keys.extend(page.entries.into_iter().map(|entry| entry.key));
            scan.page_token = page.next_page_token;
            if scan.page_token.is_empty() {
                break;
            }
        }
        let mut expected: Vec<String> = (0..25).map(|number| format!("k{number:02}")).collect();
        if reverse {
            expected.reverse();
        }
        assert_eq!(keys, expected);
    }
    let foreign = v1::ScanRequest {
        keyspace: "users".to_owned(),
        page_token: "not a token".into(),
        ..v1::ScanRequest::default()
    };
    let refused = kv.scan(foreign).await.unwrap_err();
    assert_eq!(
        refused.get_details_bad_request().unwrap().field_violations[0].field,
        "page_token"
    );
    served.close().await;
}

fn streamed(tag: u64, key: String) -> v1::WriteRequest {
    let value = Some(tag.to_string().into());
    let operation = v1::Operation {
        key: key.into(),
        value,
        ..v1::Operation::default()
    };
    let keyspace = "users".to_owned();
    v1::WriteRequest {
        tag,
        keyspace,
        operations: vec![operation],
        options: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_answers_every_write_once_and_goes_on_after_errors() {
    // More than the server holds of one stream, so that its window fills.
    const WRITES: u64 = 20_000;
    let served = served().await;
    let (sender, receiver) = mpsc::channel(64);
    let sending = tokio::spawn(async move {
        for tag in 0..WRITES {
            let key = if tag % 1000 == 7 {
                String::new()
            } else {
                format!("g{}/k{tag}", tag % 16)
            };
            sender.send(streamed(tag, key)).await.unwrap();
        }
    });
    let mut results = served
        .kv()
        .write(ReceiverStream::new(receiver))
        .await
        .unwrap()
        .into_inner();
    let (mut tags, mut refused) = (BTreeSet::new(), 0);
    while let Some(result) = results.message().await.unwrap() {
        assert!(tags.insert(result.tag), "{} was answered twice", result.tag);
        match result.result.unwrap() {
            v1::write_result::Result::Receipt(receipt) => assert!(!receipt.version.is_empty()),
            v1::write_result::Result::Error(error) => {
                assert_eq!(
                    (error.reason.as_str(), result.tag % 1000),
                    ("INVALID_KEY", 7)
                );
                refused += 1;
            }
        }
    }
    sending.await.unwrap();
    assert_eq!((tags.len() as u64, refused), (WRITES, WRITES / 1000));
    let last = served
        .kv()
        .get(get("g15/k19999"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(last.entry.unwrap().value, "19999");
    served.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closing_door_says_so_and_lets_streams_finish() {
    let served = served().await;
    let mut health = HealthClient::new(served.channel.clone());
    let check = HealthCheckRequest {
        service: "domicile.v1.Kv".to_owned(),
    };
    let state = health.check(check.clone()).await.unwrap().into_inner();
    assert_eq!(
        state.status(),
        tonic_health::pb::health_check_response::ServingStatus::Serving
    );
    let mut watch = health.watch(check).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();
    let (sender, receiver) = mpsc::channel(4);
    sender.send(streamed(1, "a".to_owned())).await.unwrap();
    let mut results = served
        .kv()
        .write(ReceiverStream::new(receiver))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(results.message().await.unwrap().unwrap().tag, 1);
    let Served {
        dir: _dir,
        channel,
        node: _node,
        stop,
        task,
    } = served;
    stop.send(()).unwrap();
    let state = watch.message().await.unwrap().unwrap();
    assert_eq!(
        state.status(),
        tonic_health::pb::health_check_response::ServingStatus::NotServing
    );
    // The client has not ended the stream: the server does.
    let ended = results.message().await.unwrap_err();
    assert_eq!(
        (ended.code(), reason(&ended).as_str()),
        (Code::Unavailable, "DRAINING")
    );
    drop((sender, results, watch, health, channel));
    tokio::time::timeout(PATIENCE, task)
        .await
        .expect("the door closes")
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_to_live_is_the_same_request_when_it_is_sent_again() {
    let served = served().await;
    let mut kv = served.kv();
    let options = |id: u8| {
        Some(v1::WriteOptions {
            request_id: vec![id; 16].into(),
            ..v1::WriteOptions::default()
        })
    };
    let request = v1::PutRequest {
        options: options(1),
        ttl_ms: Some(3_600_000),
        ..put("a", "b")
    };
    let first = kv.put(request.clone()).await.unwrap().into_inner();
    let entry = |answer: v1::GetResponse| answer.entry.unwrap();
    let written = entry(kv.get(get("a")).await.unwrap().into_inner());
    let lifetime = written.expires_at_ms.unwrap() - written.written_at_ms;
    assert_eq!(lifetime, 3_600_000);
    // Not in the same millisecond, or a time would do as well.
    let mut later = put("other", "b");
    while later.ttl_ms.is_none() {
        kv.put(later.clone()).await.unwrap();
        let other = entry(kv.get(get("other")).await.unwrap().into_inner());
        later.ttl_ms = (other.written_at_ms > written.written_at_ms).then_some(1);
    }
    let again = kv.put(request.clone()).await.unwrap().into_inner();
    assert_eq!((again.duplicate, &again.version), (true, &first.version));
    let shorter = v1::PutRequest {
        ttl_ms: Some(3_599_999),
        ..request
    };
    let refused = kv.put(shorter).await.unwrap_err();
    assert_eq!(reason(&refused), "REQUEST_ID_REUSED");
    for bad in [0, 315_360_000_001] {
        let refused = kv.put(v1::PutRequest {
            ttl_ms: Some(bad),
            ..put("a", "b")
        });
        let refused = refused.await.unwrap_err();
        let words = format!("{bad}, limits 1 to 315360000000");
        assert!(refused.message().contains(&words), "{refused}");
    }
    let swap = v1::CompareAndSetRequest {
        keyspace: "users".to_owned(),
        key: "a".into(),
        value: Some("c".into()),
        expected_version: first.version,
        expires_at_ms: Some(4_000_000_000_000),
        ..v1::CompareAndSetRequest::default()
    };
    kv.compare_and_set(swap).await.unwrap();
    let swapped = entry(kv.get(get("a")).await.unwrap().into_inner());
    assert_eq!(swapped.expires_at_ms, Some(4_000_000_000_000));
    kv.put(put("a", "for ever")).await.unwrap();
    let kept = entry(kv.get(get("a")).await.unwrap().into_inner());
    assert_eq!(kept.expires_at_ms, None);
    served.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outcomes_status_and_policies_are_told() {
    let served = served().await;
    let mut kv = served.kv();
    let id = vec![7_u8; 16];
    let options = v1::WriteOptions {
        request_id: id.clone().into(),
        ..v1::WriteOptions::default()
    };
    let request = v1::PutRequest {
        options: Some(options),
        ..put("a", "b")
    };
    let first = kv.put(request.clone()).await.unwrap().into_inner();
    let again = kv.put(request).await.unwrap().into_inner();
    assert_eq!((again.duplicate, &again.version), (true, &first.version));
    let ask = |id: Vec<u8>| v1::OutcomeRequest {
        keyspace: "users".to_owned(),
        key: "a".into(),
        request_id: id.into(),
    };
    let known = kv
        .outcome(ask(id))
        .await
        .unwrap()
        .into_inner()
        .receipt
        .unwrap();
    assert_eq!(known.version, first.version);
    assert!(
        kv.outcome(ask(vec![8; 16]))
            .await
            .unwrap()
            .into_inner()
            .receipt
            .is_none()
    );
    let mut admin = AdminClient::new(served.channel.clone());
    let status = admin
        .status(v1::StatusRequest { partitions: true })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (status.region.as_str(), status.keyspaces.len()),
        ("local", 1)
    );
    assert_eq!(status.partitions.len(), 8);
    assert!(
        status
            .partitions
            .iter()
            .all(|partition| partition.role == "home")
    );
    let described = admin
        .list_keyspaces(v1::ListKeyspacesRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(described.keyspaces[0].posture, "single region");
    served.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_is_answered_with_what_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = NodeOptions::single(dir.path());
    // A region that nobody answers for, in a keyspace that waits for it.
    let absent = RegionSpec::new(
        Name::new("absent").unwrap(),
        Some("http://127.0.0.1:1".into()),
    );
    let (here, there) = (options.regions[0].id, absent.id);
    options.regions.push(absent);
    let mut keyspace = Keyspace::new(Name::new("users").unwrap(), vec![here, there], here);
    keyspace.ack = AckLevel::SYNC;
    keyspace.on_timeout = OnTimeout::Block;
    options.keyspaces.push(keyspace);
    let served = serve(dir, options).await;
    let mut request = Request::new(put("a", "b"));
    request.set_timeout(Duration::from_millis(800));
    let unknown = served.kv().put(request).await.unwrap_err();
    let told = (unknown.code(), reason(&unknown));
    assert_eq!(told, (Code::DeadlineExceeded, "INDETERMINATE".to_owned()));
    served.close().await;
}

fn watch(prefix: &str) -> v1::WatchRequest {
    v1::WatchRequest {
        keyspace: "users".to_owned(),
        prefix: prefix.to_owned().into(),
        ..v1::WatchRequest::default()
    }
}

async fn next(messages: &mut Streaming<v1::WatchResponse>) -> v1::WatchResponse {
    let next = tokio::time::timeout(PATIENCE, messages.message()).await;
    let next = next.expect("a message comes within the deadline");
    next.unwrap().expect("the watch goes on")
}

/// The newest of each partition, as a client keeps them.
fn merge(known: &mut Vec<v1::Position>, message: &v1::WatchResponse) {
    for position in &message.positions {
        known.retain(|each| each.partition != position.partition);
        known.push(position.clone());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_tells_changes_and_goes_on_from_positions() {
    let served = served().await;
    let mut kv = served.kv();
    let mut messages = kv.watch(watch("alice/")).await.unwrap().into_inner();
    let (first, mut known) = (next(&mut messages).await, Vec::new());
    merge(&mut known, &first);
    assert_eq!((first.changes.len(), known.len()), (0, 1));
    assert_eq!(known[0].seq, 0, "nothing was written before");
    let receipt = kv.put(put("alice/name", "Ada")).await.unwrap().into_inner();
    let told = next(&mut messages).await;
    merge(&mut known, &told);
    let change = &told.changes[0];
    assert_eq!(change.position, receipt.position);
    assert_eq!(change.version, receipt.version);
    assert_eq!(change.written_at_ms, change.written_at_hlc >> 16);
    let changed = |key: &'static str, value: Option<&'static str>| v1::ChangedKey {
        key: key.into(),
        value: value.map(Into::into),
        expires_at_ms: 0,
    };
    assert_eq!(change.keys, [changed("alice/name", Some("Ada"))]);
    drop(messages);

    let operation = |key: &'static str, value: Option<&'static str>| v1::Operation {
        key: key.into(),
        value: value.map(Into::into),
        ..v1::Operation::default()
    };
    let batch = v1::BatchRequest {
        keyspace: "users".to_owned(),
        operations: vec![
            operation("alice/name", None),
            operation("alice/x", Some("")),
        ],
        options: None,
    };
    kv.batch(batch).await.unwrap();
    let resumed = v1::WatchRequest {
        positions: known.clone(),
        ..watch("alice/")
    };
    let mut messages = kv.watch(resumed).await.unwrap().into_inner();
    assert_eq!(next(&mut messages).await.positions, known);
    let told = next(&mut messages).await;
    let expected = [changed("alice/name", None), changed("alice/x", Some(""))];
    assert_eq!(told.changes[0].keys, expected);
    let one = v1::WatchRequest {
        key: "alice/x".into(),
        start: v1::WatchStart::First.into(),
        ..watch("")
    };
    let mut messages = kv.watch(one).await.unwrap().into_inner();
    next(&mut messages).await;
    assert_eq!(next(&mut messages).await.changes[0].keys, expected[1..]);
    drop(messages);
    served.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_is_refused_with_its_reason() {
    let served = served().await;
    let mut kv = served.kv();
    let nowhere = v1::WatchRequest {
        keyspace: "nobody".to_owned(),
        ..watch("")
    };
    let refused = kv.watch(nowhere).await.unwrap_err();
    assert_eq!(reason(&refused), "KEYSPACE_NOT_FOUND");
    let receipt = kv.put(put("a", "b")).await.unwrap().into_inner();
    let mut beyond = receipt.position.unwrap();
    beyond.seq += 1;
    let positions = |positions| v1::WatchRequest {
        key: "a".into(),
        positions,
        ..watch("")
    };
    let refused = kv.watch(positions(vec![beyond.clone()])).await.unwrap_err();
    let told = (refused.code(), reason(&refused));
    assert_eq!(told, (Code::DataLoss, "SESSION_LOST".to_owned()));
    beyond.partition = vec![1; 3].into();
    let refused = kv.watch(positions(vec![beyond])).await.unwrap_err();
    let violations = refused.get_details_bad_request().unwrap().field_violations;
    assert_eq!(violations[0].field, "positions");
    served.close().await;
}

/// A client that does not read is noticed through the windows of HTTP/2.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_is_cut_off_and_knows_where_to_go_on() {
    const WRITES: usize = 120;
    let served = served().await;
    let mut kv = served.kv();
    let mut messages = kv.watch(watch("g/")).await.unwrap().into_inner();
    let value = "x".repeat(30_000);
    for index in 0..WRITES {
        kv.put(put(&format!("g/{index}"), &value)).await.unwrap();
    }
    // Nothing is asked of the stream until the node has given up on it.
    let (mut known, mut keys) = (Vec::new(), Vec::new());
    let cut_off = tokio::time::timeout(PATIENCE, served.until_cut_off()).await;
    cut_off.expect("the watch is cut off within the deadline");
    let ended = loop {
        match messages.message().await {
            Ok(message) => {
                let message = message.expect("the watch says why it ends");
                merge(&mut known, &message);
                let changes = message.changes.into_iter();
                keys.extend(changes.map(|change| change.keys[0].key.clone()));
            }
            Err(status) => break status,
        }
    };
    let told = (ended.code(), reason(&ended));
    assert_eq!(told, (Code::ResourceExhausted, "SLOW_CONSUMER".to_owned()));
    assert!(keys.len() < WRITES, "everything was told");
    let token = &ended.get_details_error_info().unwrap().metadata["resume_token"];
    let token: domicile_proto::ResumeToken = token.parse().unwrap();
    let (_, seen) = token.iter().next().unwrap();
    assert_eq!(seen.unwrap().seq.get(), known[0].seq);
    let resumed = v1::WatchRequest {
        positions: known,
        ..watch("g/")
    };
    let mut messages = kv.watch(resumed).await.unwrap().into_inner();
    while keys.len() < WRITES {
        let changes = next(&mut messages).await.changes.into_iter();
        keys.extend(changes.map(|change| change.keys[0].key.clone()));
    }
    let expected: Vec<String> = (0..WRITES).map(|index| format!("g/{index}")).collect();
    assert_eq!(keys, expected);
    drop(messages);
    served.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closing_door_ends_watches() {
    let served = served().await;
    let mut messages = served.kv().watch(watch("")).await.unwrap().into_inner();
    next(&mut messages).await;
    let ending = tokio::spawn(async move {
        let ended = messages.message().await.unwrap_err();
        (ended.code(), reason(&ended))
    });
    served.close().await;
    let told = ending.await.unwrap();
    assert_eq!(told, (Code::Unavailable, "DRAINING".to_owned()));
}
