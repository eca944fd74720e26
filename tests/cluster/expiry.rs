//! Keys that end: by one record of their home, everywhere, never before their time.

use std::collections::BTreeMap;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use domicile::{
    AckLevel, Consistency, Entry, Expiry, KeyspaceHandle, NodeOptions, Operation, PartitionId,
    Reason, RequestId, Seq,
};
use domicile_client::{Client, StreamWrite};
use domicile_proto::{Record, RecordKind};
use domicile_server::front::{Door, FrontLimits};
use domicile_storage::{EngineChoice, OsDisk, Store, StoreOptions};
use futures::StreamExt;
use serde_json::Value;

use crate::rig::{Cluster, PATIENCE, REGIONS, keyspace, keyspaces, until, wait_value};

const NEAR: Duration = Duration::from_millis(4);
const HOUR: Duration = Duration::from_secs(3600);

fn at(cluster: &Cluster, node: &str, keyspace: &str) -> KeyspaceHandle {
    cluster.node(node).keyspace(keyspace).unwrap()
}

async fn local(keyspace: &KeyspaceHandle, key: &str) -> Option<Entry> {
    let get = keyspace.get(key).consistency(Consistency::Local);
    get.await.unwrap()
}

async fn until_gone(cluster: &Cluster, node: &str, keyspace: &str, key: &str) {
    let keyspace = at(cluster, node, keyspace);
    let deadline = Instant::now() + PATIENCE;
    while local(&keyspace, key).await.is_some() {
        assert!(Instant::now() < deadline, "{node} still has {key}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

type Log = BTreeMap<PartitionId, Vec<(Seq, Record)>>;

/// The log of a closed node, from its first record.
fn log_of(cluster: &Cluster, node: &str) -> Log {
    let options = StoreOptions {
        engine: EngineChoice::Memory,
        ..StoreOptions::default()
    };
    let disk = Arc::new(OsDisk::new());
    let (store, recovery) = Store::open(disk, &cluster.data_of(node), options).unwrap();
    let mut log = Log::new();
    for each in &recovery.partitions {
        let records = store.records(each.partition, Seq::FIRST);
        let records = records.map(|read| read.map(|(_, seq, record)| (seq, record)));
        log.insert(each.partition, records.collect::<Result<_, _>>().unwrap());
    }
    store.close().unwrap();
    log
}

/// The records by which homes ended keys: the key and when that was.
fn endings(log: &Log) -> Vec<(String, u64)> {
    let records = log.values().flatten();
    let records = records.filter(|(_, record)| record.head.kind == RecordKind::Expiry);
    let mut endings = Vec::new();
    for (_, record) in records {
        for operation in record.body.operations().unwrap() {
            let Operation::Delete { key } = operation else {
                panic!("an expiry deletes: {operation:?}");
            };
            let key = String::from_utf8(key.to_vec()).unwrap();
            endings.push((key, record.head.hlc.wall_ms()));
        }
    }
    endings.sort();
    endings
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_ends_in_every_region_by_one_record_of_its_home() {
    let mut cluster = Cluster::start(NEAR, keyspaces()).await;
    let ttl = Duration::from_millis(1_200);
    let began = Instant::now();
    let mut expires_at_ms = BTreeMap::new();
    for (front, name) in [("eu", "fast"), ("us", "safe")] {
        let keyspace = at(&cluster, front, name);
        let key = format!("{name}/ends");
        keyspace.put(&key, "v").ttl(ttl).await.unwrap();
        let entry = keyspace.get(&key).await.unwrap().unwrap();
        let at_ms = entry.expires_at_ms.unwrap();
        assert_eq!(at_ms - entry.written_at_ms, 1_200);
        let scanned = keyspace.scan(&key).collect().await.unwrap();
        assert_eq!(scanned, [entry]);
        expires_at_ms.insert(key, at_ms);
        // What is written again has the expiry of its last write, or none.
        for (key, again) in [("longer", Some(HOUR)), ("kept", None)] {
            let key = format!("{name}/{key}");
            keyspace.put(&key, "first").ttl(ttl).await.unwrap();
            let put = keyspace.put(&key, "second");
            let put = again.into_iter().fold(put, |put, ttl| put.ttl(ttl));
            put.await.unwrap();
        }
    }
    for name in ["fast", "safe"] {
        let (keyspace, key) = (at(&cluster, "eu", name), format!("{name}/ends"));
        until_gone(&cluster, "eu", name, &key).await;
        assert!(began.elapsed() >= ttl, "ended after {:?}", began.elapsed());
        for node in ["us", "ap"] {
            until_gone(&cluster, node, name, &key).await;
        }
        let longer = keyspace
            .get(format!("{name}/longer"))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            longer.expires_at_ms.unwrap() - longer.written_at_ms,
            3_600_000
        );
        let kept = keyspace.get(format!("{name}/kept")).await.unwrap().unwrap();
        assert_eq!(
            (&kept.value[..], kept.expires_at_ms),
            (&b"second"[..], None)
        );
    }
    for node in REGIONS {
        cluster.close(node).await;
    }
    let home = log_of(&cluster, "eu");
    let ended = endings(&home);
    assert_eq!(ended.len(), 2, "{ended:?}");
    for (key, at_ms) in ended {
        assert!(at_ms >= expires_at_ms[&key], "{key} ended before its time");
    }
    for node in ["us", "ap"] {
        assert_eq!(log_of(&cluster, node), home, "{node}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_a_restart_nor_a_lost_engine_forgets_an_expiry() {
    let mut cluster = Cluster::start(NEAR, keyspaces()).await;
    for is_lost in [false, true] {
        let fast = at(&cluster, "eu", "fast");
        let (soon, later) = (format!("soon/{is_lost}"), format!("later/{is_lost}"));
        let id: RequestId = format!("{:032x}", 1 + u8::from(is_lost)).parse().unwrap();
        fast.put(&later, "v")
            .ttl(HOUR)
            .request_id(id)
            .await
            .unwrap();
        let expected = fast.get(&later).await.unwrap().unwrap();
        fast.put(&soon, "v")
            .ttl(Duration::from_millis(700))
            .await
            .unwrap();
        drop(fast);
        cluster.close("eu").await;
        if is_lost {
            std::fs::remove_dir_all(cluster.data_of("eu").join("engine")).unwrap();
        }
        cluster.open("eu").await;
        cluster.connected("eu").await;
        for node in REGIONS {
            until_gone(&cluster, node, "fast", &soon).await;
        }
        let fast = at(&cluster, "eu", "fast");
        let again = fast
            .put(&later, "v")
            .ttl(HOUR)
            .request_id(id)
            .await
            .unwrap();
        assert!(again.duplicate);
        assert_eq!(fast.get(&later).await.unwrap(), Some(expected));
    }
    cluster.stop().await;
}

/// The index is made of the cells of a snapshot where the log has been cut.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expiry_outlives_the_log_it_was_written_in() {
    let data = tempfile::tempdir().unwrap();
    let options = || {
        let mut options = NodeOptions::single(data.path().join("node"));
        let region = options.regions[0].id;
        let name = domicile::Name::new("users").unwrap();
        let users = domicile::Keyspace::new(name, vec![region], region);
        options.keyspaces.push(users);
        (options.journal_file_bytes, options.journal_keep_bytes) = (1 << 20, 2 << 20);
        options
    };
    let node = domicile::Node::open(options()).await.unwrap();
    let users = node.keyspace("users").unwrap();
    users
        .put("k/1", "v")
        .ttl(Duration::from_secs(8))
        .await
        .unwrap();
    let written = users.get("k/1").await.unwrap();
    for index in 0..120_u8 {
        let key = format!("g{}/k", index % 20);
        users.put(key, vec![index; 50_000]).await.unwrap();
    }
    until("the journal is cut", || {
        let status = node.status(domicile::Detail::Summary);
        status.disk.journal_bytes <= 4 << 20
    })
    .await;
    assert_eq!(users.get("k/1").await.unwrap(), written, "too slow to tell");
    drop(users);
    node.close().await.unwrap();
    std::fs::remove_dir_all(data.path().join("node/engine")).unwrap();
    let node = domicile::Node::open(options()).await.unwrap();
    let users = node.keyspace("users").unwrap();
    let deadline = Instant::now() + PATIENCE;
    while users.get("k/1").await.unwrap().is_some() {
        assert!(Instant::now() < deadline, "the key never ended");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(users.scan("g").collect().await.unwrap().len(), 20);
    node.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_thousand_keys_end_while_writes_go_on() {
    const KEYS: usize = 20_000;
    let spaces = vec![keyspace("fast", AckLevel::Async, "eu")];
    let mut cluster = Cluster::start(NEAR, spaces).await;
    let fast = at(&cluster, "eu", "fast");
    let puts = futures::stream::iter(0..KEYS).map(|index| {
        let put = fast.put(format!("s{index}/token"), vec![7; 40]);
        put.ttl(Duration::from_secs(3)).into_future()
    });
    let receipts: Vec<_> = puts.buffer_unordered(512).collect().await;
    assert!(receipts.iter().all(Result::is_ok));
    let (began, mut slowest, mut writes) = (Instant::now(), Duration::ZERO, 0_u32);
    let copy = at(&cluster, "us", "fast");
    loop {
        for _ in 0..200 {
            let asked = Instant::now();
            fast.put(format!("w{}/k", writes % 64), "v").await.unwrap();
            slowest = slowest.max(asked.elapsed());
            writes += 1;
        }
        let scan = copy.scan("s").consistency(Consistency::Local).limit(1);
        if scan.collect().await.unwrap().is_empty() {
            break;
        }
        assert!(began.elapsed() < 3 * PATIENCE, "keys are left");
    }
    println!(
        "{writes} writes while {KEYS} keys ended, slowest {slowest:?}, {:?}",
        began.elapsed()
    );
    assert!(slowest < Duration::from_secs(2), "a write took {slowest:?}");
    assert_eq!(fast.scan("s").collect().await.unwrap(), []);
    assert_eq!(fast.scan("w").collect().await.unwrap().len(), 64);
    drop((fast, copy));
    for node in REGIONS {
        cluster.close(node).await;
    }
    let log = log_of(&cluster, "eu");
    assert_eq!(endings(&log).len(), KEYS);
    let kinds = log.values().flatten().map(|(_, record)| record.head.kind);
    let records = kinds.filter(|kind| *kind == RecordKind::Expiry).count();
    assert!(records < KEYS / 20, "{records} records");
}

/// A put that is in flight when the time of its key's old value comes wins, and keeps nobody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_that_came_between_wins_alone() {
    let mut cluster = Cluster::start(NEAR, keyspaces()).await;
    let safe = at(&cluster, "eu", "safe");
    let ttl = Duration::from_millis(1_500);
    for key in ["g/again", "g/ends"] {
        safe.put(key, "v").ttl(ttl).await.unwrap();
    }
    cluster.wan.isolate("ap").unwrap();
    let again = tokio::spawn(safe.put("g/again", "again").into_future());
    let in_flight = || {
        let status = cluster.node("eu").status(domicile::Detail::Partitions);
        let records = status.partitions.iter().map(|each| each.in_flight_records);
        records.sum::<u64>()
    };
    until("the put is in flight", || in_flight() == 1).await;
    until("the other key's removal is, too", || in_flight() == 2).await;
    cluster.wan.heal("ap").unwrap();
    again.await.unwrap().unwrap();
    for node in REGIONS {
        until_gone(&cluster, node, "safe", "g/ends").await;
        wait_value(&cluster, node, "safe", "g/again", "again").await;
    }
    drop(safe);
    for node in REGIONS {
        cluster.close(node).await;
    }
    let ended = endings(&log_of(&cluster, "us"));
    assert_eq!(ended.len(), 1, "{ended:?}");
    assert_eq!(ended[0].0, "g/ends");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_is_sent_again_does_not_live_again() {
    let cluster = Cluster::start(NEAR, keyspaces()).await;
    let id: RequestId = "0000000000000000000000000000feed".parse().unwrap();
    let ttl = Duration::from_millis(600);
    let put = |front: &str| {
        let safe = at(&cluster, front, "safe");
        safe.put("k/1", "v").ttl(ttl).request_id(id).into_future()
    };
    let first = put("eu").await.unwrap();
    for front in ["us", "eu"] {
        let again = put(front).await.unwrap();
        assert_eq!((again.duplicate, again.version), (true, first.version));
    }
    until_gone(&cluster, "eu", "safe", "k/1").await;
    let again = put("us").await.unwrap();
    assert_eq!((again.duplicate, again.version), (true, first.version));
    let safe = at(&cluster, "eu", "safe");
    assert_eq!(safe.get("k/1").await.unwrap(), None);
    let other = safe.put("k/1", "v").ttl(HOUR).request_id(id).await;
    assert_eq!(other.unwrap_err().reason(), Reason::RequestIdReused);
    let refused = safe.put("k/2", "v").ttl(Duration::ZERO).await.unwrap_err();
    assert_eq!(refused.reason(), Reason::InvalidArgument);
    assert!(refused.to_string().contains("0, limits 1 to"), "{refused}");
    drop(safe);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_key_of_a_batch_has_its_own_expiry() {
    let cluster = Cluster::start(NEAR, keyspaces()).await;
    let fast = at(&cluster, "us", "fast");
    fast.put("g/deleted", "v").ttl(HOUR).await.unwrap();
    let put = |key: &'static str, expiry| Operation::Put {
        key: key.into(),
        value: "v".into(),
        expiry,
    };
    let batch = fast.batch([
        put("g/soon", Some(Expiry::AfterMs(300))),
        put("g/past", Some(Expiry::AtMs(1))),
        put("g/later", Some(Expiry::AtMs(4_000_000_000_000))),
        put("g/ever", None),
        Operation::Delete {
            key: "g/deleted".into(),
        },
    ]);
    batch.await.unwrap();
    for key in ["g/soon", "g/past"] {
        until_gone(&cluster, "eu", "fast", key).await;
    }
    let rows = fast.scan("g/").collect().await.unwrap();
    let found: Vec<_> = rows
        .iter()
        .map(|row| (&row.key[..], row.expires_at_ms))
        .collect();
    let expected = [
        (&b"g/ever"[..], None),
        (b"g/later", Some(4_000_000_000_000)),
    ];
    assert_eq!(found, expected);
    drop(fast);
    cluster.stop().await;
}

/// A removal that is in the log and not yet visible is not written again when it is tried again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_that_waits_for_its_level_is_one_record() {
    let mut cluster = Cluster::start(NEAR, keyspaces()).await;
    let hasty = at(&cluster, "eu", "hasty");
    hasty
        .put("k/1", "v")
        .ttl(Duration::from_millis(300))
        .await
        .unwrap();
    cluster.wan.isolate("ap").unwrap();
    let tries = || {
        let status = cluster.node("eu").status(domicile::Detail::Partitions);
        let hasty = status.partitions.iter().map(|each| each.in_flight_records);
        hasty.sum::<u64>()
    };
    until("the removal is in flight", || tries() > 0).await;
    // Three times as long as a refused partition rests.
    let rested = Instant::now() + Duration::from_secs(3);
    until("it was tried again", || Instant::now() > rested).await;
    assert!(
        hasty.get("k/1").await.unwrap().is_some(),
        "not covered by its level"
    );
    assert_eq!(tries(), 1);
    cluster.wan.heal("ap").unwrap();
    for node in REGIONS {
        until_gone(&cluster, node, "hasty", "k/1").await;
    }
    drop(hasty);
    for node in REGIONS {
        cluster.close(node).await;
    }
    assert_eq!(endings(&log_of(&cluster, "ap")).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_that_would_lose_too_much_is_made_later() {
    let mut tight = keyspace("tight", AckLevel::Async, "eu");
    tight.max_rpo.writes = Some(4);
    let mut cluster = Cluster::start(NEAR, vec![tight]).await;
    let tight = at(&cluster, "eu", "tight");
    let ttl = Duration::from_millis(2_500);
    let put = tight.put("g/ends", "v").ttl(ttl);
    put.await.unwrap();
    wait_value(&cluster, "us", "tight", "g/ends", "v").await;
    cluster.wan.isolate("eu").unwrap();
    let mut refused = None;
    for _ in 0..20 {
        refused = tight.put("g/other", "v").await.err();
        if refused.is_some() {
            break;
        }
    }
    let refused = refused.expect("nobody else has these writes");
    assert_eq!(refused.reason(), Reason::RpoExceeded, "{refused}");
    let tried = Instant::now() + ttl + Duration::from_secs(2);
    until("the removal was tried", || Instant::now() > tried).await;
    assert!(local(&tight, "g/ends").await.is_some());
    cluster.wan.heal("eu").unwrap();
    for node in REGIONS {
        until_gone(&cluster, node, "tight", "g/ends").await;
    }
    drop(tight);
    for node in REGIONS {
        cluster.close(node).await;
    }
    assert_eq!(endings(&log_of(&cluster, "us")).len(), 1);
}

/// The command line at a door.
struct Terminal {
    endpoint: String,
}

impl Terminal {
    fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_domicile"));
        command.args(words).args(["--endpoint", &self.endpoint]);
        command.output().unwrap()
    }

    fn code(&self, words: &[&str]) -> i32 {
        self.run(words).status.code().unwrap()
    }

    /// The one row that is told.
    fn row(&self, words: &[&str]) -> Value {
        let output = self.run(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        let rows: Value = serde_json::from_slice(&output.stdout).unwrap();
        rows[0].clone()
    }

    fn get(&self, keyspace: &str, key: &str) -> Value {
        self.row(&["kv", "get", keyspace, key, "-o", "json"])
    }
}

fn lifetime_ms(entry: &Value) -> Option<u64> {
    Some(entry["expires_at_ms"].as_u64()? - entry["written_at_ms"].as_u64()?)
}

fn set_show_and_keep(terminal: &Terminal, file: &str) {
    let id = "000000000000000000000000000000aa";
    let put = ["kv", "put", "fast", "g/a", "v", "--ttl", "1h"];
    let put = [&put[..], &["-o", "json", "--request-id", id]].concat();
    let first = terminal.row(&put);
    assert_eq!(first["duplicate"], false);
    assert_eq!(terminal.row(&put)["duplicate"], true);
    let version = first["version"].as_str().unwrap();
    assert_eq!(lifetime_ms(&terminal.get("fast", "g/a")), Some(3_600_000));
    let swap = ["kv", "cas", "fast", "g/a", "w", "--expected", version];
    let swap = [&swap[..], &["--ttl", "2d"]].concat();
    assert_eq!(terminal.code(&swap), 0);
    let swapped = terminal.get("fast", "g/a");
    assert_eq!(lifetime_ms(&swapped), Some(172_800_000));
    assert_eq!(terminal.code(&["kv", "put", "fast", "g/b", "v"]), 0);
    assert_eq!(terminal.get("fast", "g/b")["expires_at_ms"], Value::Null);
    assert_eq!(terminal.code(&["kv", "export", "fast", "--to", file]), 0);
    assert_eq!(terminal.code(&["kv", "import", "semi", file]), 0);
    let imported = terminal.get("semi", "g/a");
    assert_eq!(imported["expires_at_ms"], swapped["expires_at_ms"]);
    assert_eq!(terminal.get("semi", "g/b")["expires_at_ms"], Value::Null);
    let put = |ttl| terminal.code(&["kv", "put", "fast", "g/c", "v", "--ttl", ttl]);
    for bad in ["0ms", "3651d", "soon"] {
        assert_eq!(put(bad), 2, "{bad}");
    }
    assert_eq!(put("50ms"), 0);
    let deadline = Instant::now() + PATIENCE;
    while terminal.code(&["kv", "get", "fast", "g/c"]) != 3 {
        assert!(Instant::now() < deadline, "the key never ended");
    }
}

/// A batch and a stream of the client: each put has its own expiry, and a removal has none.
async fn by_the_client(endpoint: &str) {
    let client = Client::new(endpoint).unwrap();
    let fast = client.keyspace("fast");
    let batch = fast.batch().put("b/1", "v").ttl(HOUR).put("b/2", "v");
    batch
        .put("b/3", "v")
        .expiry(Expiry::AtMs(4_000_000_000_000))
        .await
        .unwrap();
    let refused = fast.batch().delete("b/1").ttl(HOUR).await.unwrap_err();
    assert!(refused.to_string().contains("time to live"), "{refused}");
    let (sender, mut results) = client.write_stream(10).await.unwrap();
    let write = StreamWrite::new(7, "fast").put("b/4", "v").ttl(2 * HOUR);
    sender.send(write.put("b/5", "v")).await.unwrap();
    drop(sender);
    results.next().await.unwrap().unwrap().result.unwrap();
    let rows = fast.scan("b/").page(None).await.unwrap().entries;
    let lifetimes = rows.iter().map(|row| {
        let at_ms = row.expires_at_ms?;
        Some(if at_ms == 4_000_000_000_000 {
            at_ms
        } else {
            at_ms - row.written_at_ms
        })
    });
    let expected = [
        Some(3_600_000),
        None,
        Some(4_000_000_000_000),
        Some(7_200_000),
        None,
    ];
    assert_eq!(lifetimes.collect::<Vec<_>>(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_sets_shows_and_keeps_an_expiry() {
    let cluster = Cluster::start(NEAR, keyspaces()).await;
    let door = Door::open("127.0.0.1:0".parse().unwrap(), FrontLimits::default());
    let door = door.await.unwrap();
    let endpoint = format!("http://{}", door.address().unwrap());
    let terminal = Terminal {
        endpoint: endpoint.clone(),
    };
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let node = cluster.node("us").clone();
    let serving = tokio::spawn(async move {
        door.serve(node, async { stopped.await.unwrap_or(()) })
            .await
    });
    let files = tempfile::tempdir().unwrap();
    let file = files.path().join("rows.jsonl").to_str().unwrap().to_owned();
    let told = tokio::task::spawn_blocking(move || set_show_and_keep(&terminal, &file));
    told.await.unwrap();
    by_the_client(&endpoint).await;
    stop.send(()).unwrap();
    serving.await.unwrap().unwrap();
    cluster.stop().await;
}
