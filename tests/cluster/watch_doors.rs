//! Watches through the doors: the client that goes on at another node, the command line.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use domicile::{AckLevel, KeyspaceHandle, Node, Operation};
use domicile_client::{Client, ClientOptions, WatchFrom};
use domicile_server::front::{Door, FrontLimits};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::rig::{Cluster, PATIENCE, keyspace, keyspaces};
use crate::watch::{Acked, count, remember, write};

const NEAR: Duration = Duration::from_millis(4);

/// The client port of a node.
struct Port {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Port {
    async fn open(node: &Node) -> Self {
        let address = "127.0.0.1:0".parse().unwrap();
        let door = Door::open(address, FrontLimits::default()).await.unwrap();
        let address = door.address().unwrap();
        let (stop, stopped) = oneshot::channel();
        let node = node.clone();
        let task = tokio::spawn(async move {
            let stopped = async { stopped.await.unwrap_or(()) };
            door.serve(node, stopped).await.unwrap();
        });
        Self {
            address,
            stop,
            task,
        }
    }

    fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    async fn close(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap();
    }
}

async fn take(changes: &mut domicile_client::Changes, wanted: usize) -> Acked {
    let mut taken = Acked::new();
    for _ in 0..wanted {
        let next = tokio::time::timeout(PATIENCE, changes.next()).await;
        let next = next.expect("a change comes within the deadline");
        let change = next.expect("the watch goes on").unwrap();
        let records = taken.entry(change.partition).or_default();
        let last = records.keys().next_back().copied();
        assert!(last.is_none_or(|last| last < change.position.seq));
        assert_eq!(change.version.seq, change.position.seq);
        records.insert(change.position.seq, change.operations);
    }
    taken
}

fn join(all: &mut Acked, more: Acked) {
    for (partition, records) in more {
        let known = all.entry(partition).or_default();
        for (seq, operations) in records {
            assert!(known.insert(seq, operations).is_none(), "{seq} came twice");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_goes_on_at_the_next_node_when_one_closes() {
    let mut cluster = Cluster::start(NEAR, vec![keyspace("fast", AckLevel::Async, "us")]).await;
    let (eu, us) = (
        Port::open(cluster.node("eu")).await,
        Port::open(cluster.node("us")).await,
    );
    let options = ClientOptions::endpoints([eu.endpoint(), us.endpoint()]);
    let client = Client::connect(options).await.unwrap();
    let mut changes = client.keyspace("fast").watch().start().await.unwrap();
    let unborn = changes.resume_token().clone();
    let fast = cluster.node("us").keyspace("fast").unwrap();
    let mut acked = write(&fast, 3, 20).await;
    // In the middle, with messages under way.
    let mut taken = take(&mut changes, 25).await;
    let token = changes.resume_token().clone();
    eu.close().await;
    cluster.close("eu").await;
    join(&mut acked, write(&fast, 3, 20).await);
    let left = count(&acked) - count(&taken);
    join(&mut taken, take(&mut changes, left).await);
    assert_eq!(taken, acked);

    let from = |token| WatchFrom::Token(token);
    let again = client.keyspace("fast").watch().from(from(token));
    let rest = take(&mut again.start().await.unwrap(), count(&acked) - 25).await;
    assert!(rest.iter().all(|(id, records)| {
        records
            .iter()
            .all(|(seq, operations)| acked[id][seq] == *operations)
    }));
    let whole = client.keyspace("fast").watch().from(from(unborn));
    let whole = take(&mut whole.start().await.unwrap(), count(&acked)).await;
    assert_eq!(whole, acked);

    // Without any node left it gives up after the time that it was given.
    let hasty = client.keyspace("fast").watch();
    let hasty = hasty.resume_within(Duration::from_millis(300));
    let mut hasty = hasty.start().await.unwrap();
    us.close().await;
    let error = tokio::time::timeout(PATIENCE, hasty.next()).await;
    let error = error.expect("it gives up").expect("with an error");
    assert!(error.unwrap_err().is_retryable());
    assert!(hasty.next().await.is_none());
    drop(fast);
    cluster.stop().await;
}

fn domicile(port: &Port, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_domicile"));
    command.args(["kv", "watch"]).args(arguments);
    command.args(["--endpoint", &port.endpoint()]);
    command
}

async fn run(port: &Port, arguments: &[&str]) -> Output {
    let mut command = domicile(port, arguments);
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = tokio::time::timeout(PATIENCE, output).await;
    output.expect("the command ends").unwrap().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The token that a watch ended with.
fn token_in(talk: &str) -> String {
    let token = talk.split("--from ").nth(1);
    let token = token.unwrap_or_else(|| panic!("no token in {talk:?}"));
    token.split_whitespace().next().unwrap().to_owned()
}

/// A watch that has begun.
async fn begin(mut command: Command) -> (Child, BufReader<std::process::ChildStderr>) {
    let begun = tokio::task::spawn_blocking(move || {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = child.spawn().unwrap();
        let mut talk = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        talk.read_line(&mut line).unwrap();
        assert!(line.contains("watching fast"), "{line}");
        (child, talk)
    });
    let begun = tokio::time::timeout(PATIENCE, begun).await;
    begun.expect("the watch begins").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_prints_a_line_a_key_and_goes_on_from_its_token() {
    let cluster = Cluster::start(NEAR, keyspaces()).await;
    let port = Port::open(cluster.node("eu")).await;
    let fast = cluster.node("eu").keyspace("fast").unwrap();
    fast.put("k/before", "0").await.unwrap();
    let (child, mut talk) = begin(domicile(&port, &["fast", "k/", "-o", "jsonl"])).await;
    let receipt = fast.put("k/1", "one").await.unwrap();
    fast.put("other/1", "x").await.unwrap();
    let mut acked = Acked::new();
    let batch = vec![
        Operation::Delete { key: "k/1".into() },
        crate::watch::put("k/2", "two"),
    ];
    let written = fast.batch(batch.clone()).await.unwrap();
    remember(&mut acked, &written, batch);
    let lines = tokio::task::spawn_blocking(move || {
        let mut child = child;
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let lines: Vec<String> = (0..3).map(|_| lines.next().unwrap().unwrap()).collect();
        let pid = child.id().to_string();
        let sent = Command::new("kill").args(["-INT", &pid]).status();
        assert!(sent.unwrap().success());
        let code = child.wait().unwrap();
        let mut last = String::new();
        std::io::Read::read_to_string(&mut talk, &mut last).unwrap();
        (lines, code, last)
    });
    let lines = tokio::time::timeout(PATIENCE, lines).await;
    let (lines, code, last) = lines.expect("three lines come").unwrap();
    assert!(code.success(), "{code}: {last}");
    let rows = lines.iter().map(|line| serde_json::from_str(line).unwrap());
    let rows: Vec<serde_json::Value> = rows.collect();
    assert_eq!(rows[0]["key"], "k/1");
    assert_eq!(rows[0]["operation"], "put");
    assert_eq!(rows[0]["value"], "one");
    assert_eq!(rows[0]["version"], receipt.version.to_string());
    assert_eq!(rows[1]["operation"], "delete");
    assert!(rows[1]["value"].is_null());
    assert_eq!(rows[2]["key"], "k/2");
    assert_eq!(rows[1]["position"], rows[2]["position"]);

    goes_on(&port, &fast, &token_in(&last)).await;
    port.close().await;
    drop(fast);
    cluster.stop().await;
}

async fn goes_on(port: &Port, fast: &KeyspaceHandle, token: &str) {
    fast.put("k/3", "three").await.unwrap();
    fast.put("k/3", "four").await.unwrap();
    let output = run(
        port,
        &["fast", "k/", "--from", token, "--limit", "2", "-o", "raw"],
    )
    .await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "three\nfour\n");
    let output = run(
        port,
        &["fast", "k/", "--from-start", "--limit", "3", "-o", "json"],
    )
    .await;
    let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    // The third line is of a write of two keys.
    assert_eq!(rows.as_array().unwrap().len(), 4);
    assert_eq!(rows[0]["key"], "k/before");
    let token = token_in(&text(&output.stderr));
    let human = ["fast", "k/", "--from", &token, "--limit", "1"];
    let output = run(port, &human).await;
    assert!(text(&output.stdout).starts_with("k/3\tput\tthree\t"));
    let output = run(
        port,
        &["fast", "--key", "k/2", "--from-oldest", "--limit", "1"],
    )
    .await;
    assert!(text(&output.stdout).starts_with("k/2\tput\ttwo\t"));

    for (arguments, exit) in [
        (&["nothing"][..], 3),
        (&["fast", "--from", "0102"], 2),
        (&["fast", "--from", &token], 2),
        (&["fast", "--limit", "0"], 2),
    ] {
        let output = run(port, arguments).await;
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(exit), "{arguments:?}: {said}");
        assert!(said.contains("error"), "{said}");
    }
}
