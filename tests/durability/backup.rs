//! Backups through the real binary: taken beside writers, restored, served again.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::process::Server;

/// Bounds the writers of a test, whatever the time.
const WRITES_MAX: usize = 50_000;

fn domicile(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_domicile"));
    command.args(arguments).output().unwrap()
}

fn done(arguments: &[&str]) -> String {
    let output = domicile(arguments);
    let talk = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {talk}");
    String::from_utf8(output.stdout).unwrap()
}

fn refused(arguments: &[&str], code: i32) -> String {
    let output = domicile(arguments);
    let talk = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {talk}");
    talk
}

fn create(server: &Server, place: &str, more: &[&str]) -> String {
    let endpoint = format!("http://{}", server.client);
    let first = ["backup", "create", "--to", place, "--endpoint", &endpoint];
    done(&[&first, more].concat())
}

fn rows(place: &str, more: &[&str]) -> Vec<serde_json::Value> {
    let first = ["backup", "list", "--from", place, "-o", "json"];
    serde_json::from_str(&done(&[&first, more].concat())).unwrap()
}

/// Restores into the data directory of a server to be.
fn restore(place: &str, directory: &Path, more: &[&str]) -> String {
    let data = directory.join("data");
    let data = data.to_str().unwrap();
    let first = ["backup", "restore", "--from", place, "--data", data];
    done(&[&first, more].concat())
}

fn export(server: &Server) -> BTreeMap<String, String> {
    let endpoint = format!("http://{}", server.client);
    let text = done(&[
        "kv",
        "export",
        "users",
        "-o",
        "jsonl",
        "--endpoint",
        &endpoint,
    ]);
    let rows = text.lines().map(|line| {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        let field = |name: &str| row[name].as_str().unwrap().to_owned();
        (field("key"), field("value"))
    });
    rows.collect()
}

async fn put(server: &Server, keys: std::ops::Range<u32>, value: &str) {
    let users = server.connect().keyspace("users");
    for key in keys {
        users
            .put(format!("k{key:04}/x"), value.to_owned())
            .await
            .unwrap();
    }
}

/// Restores, serves what was restored, compares, and writes on.
fn check_restored(
    server: &Server,
    runtime: &tokio::runtime::Runtime,
    place: &str,
    more: &[&str],
    expected: &BTreeMap<String, String>,
) {
    let directory = tempfile::tempdir().unwrap();
    restore(place, directory.path(), more);
    let data = directory.path().join("data");
    done(&["verify", data.to_str().unwrap()]);
    let restored = Server::start(directory.path());
    let found = export(&restored);
    assert!(
        found == *expected,
        "{more:?}: {} of {} rows",
        found.len(),
        expected.len()
    );
    runtime.block_on(async {
        let node = |server: &Server| {
            let client = server.connect();
            async move { client.status_of_partitions().await.unwrap() }
        };
        let (before, after) = (node(server).await, node(&restored).await);
        assert_ne!(before.node, after.node);
        put(&restored, 0..1, "goes on").await;
        for partition in &after.partitions {
            let is_own = partition.epoch_node == after.node;
            assert!(is_own && partition.epoch_counter == 2, "{partition:?}");
        }
    });
    restored.kill();
}

#[test]
fn a_node_is_backed_up_beside_writers_and_restored_to_any_time_since() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("place");
    let place = place.to_str().unwrap();
    let server = Server::start(directory.path());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(put(&server, 0..200, "one"));
    // Segments that are larger than a piece of a backup, in its snapshots and behind them.
    let large = "x".repeat(1 << 20);
    runtime.block_on(put(&server, 0..3, &large));

    // Beside a writer that does not stop.
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let _within = runtime.enter();
    let users = server.connect().keyspace("users");
    let writer = runtime.spawn(async move {
        let mut written = 0;
        while !stopped.load(Ordering::Relaxed) && written < WRITES_MAX {
            let value = format!("{written}");
            users.put("busy/x", value).await.unwrap();
            written += 1;
        }
        written
    });
    create(&server, place, &[]);
    create(
        &server,
        &format!("file://{place}"),
        &["--region", "eu", "--keyspace", "users"],
    );
    stop.store(true, Ordering::Relaxed);
    assert!(
        runtime.block_on(writer).unwrap() > 10,
        "the writer was kept from writing"
    );

    runtime.block_on(put(&server, 100..300, "two"));
    runtime.block_on(put(&server, 300..303, &large));
    let at_two = export(&server);
    create(&server, place, &[]);
    let newest = rows(place, &[])[2]["newest_time"]
        .as_str()
        .unwrap()
        .to_owned();
    runtime.block_on(put(&server, 0..300, "three"));
    create(&server, place, &[]);
    let at_three = export(&server);

    let listed = rows(place, &[]);
    assert_eq!(listed.len(), 4, "{listed:?}");
    assert_eq!(listed[3]["keyspaces"], serde_json::json!(["users"]));
    let partitions = rows(place, &["--partitions"]);
    let of_last = partitions.iter().filter(|it| it["backup"] == 4);
    assert_eq!(of_last.clone().count(), 8, "{partitions:?}");
    done(&["backup", "check", "--from", place]);

    for (more, expected) in [
        (vec![], &at_three),
        (vec!["--backup", "3"], &at_two),
        (vec!["--at-time", newest.as_str()], &at_two),
    ] {
        check_restored(&server, &runtime, place, &more, expected);
    }
    server.kill();
}

/// A create that must be refused.
fn refused_create(server: &Server, place: &str, more: &[&str], code: i32) -> String {
    let endpoint = format!("http://{}", server.client);
    let first = ["backup", "create", "--to", place, "--endpoint", &endpoint];
    refused(&[&first, more].concat(), code)
}

#[test]
fn what_was_not_finished_is_no_backup_and_what_cannot_be_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("place");
    let place_text = place.to_str().unwrap();
    let server = Server::start(directory.path());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(put(&server, 0..100, "one"));
    create(&server, place_text, &[]);
    // A backup whose manifest was not written does not exist; the earlier one is as good as before.
    std::fs::create_dir_all(place.join("data/0000000002-dead")).unwrap();
    std::fs::write(place.join("data/0000000002-dead/x.snapshot"), b"half").unwrap();
    let listed = domicile(&["backup", "list", "--from", place_text]);
    let talk = String::from_utf8_lossy(&listed.stderr).into_owned();
    assert!(
        listed.status.success() && talk.contains("data/0000000002-dead"),
        "{talk}"
    );
    done(&["backup", "check", "--from", place_text]);

    // Residency, and what cannot be.
    let other = directory.path().join("other");
    let data = other.to_str().unwrap();
    let first = ["backup", "restore", "--from", place_text, "--data", data];
    let with = |more: &[&'static str]| [&first[..], more].concat();
    assert!(refused_create(&server, place_text, &["--region", "mars"], 3).contains("mars"));
    assert!(refused_create(&server, place_text, &["--keyspace", "nothing"], 3).contains("nothing"));
    assert!(refused(&with(&["--region", "us"]), 7).contains("users"));
    assert!(refused(&with(&["--at-time", "1000"]), 2).contains("from record"));
    assert!(refused(&with(&["--at", "nonsense=4"]), 3).contains("nonsense"));
    assert!(refused(&with(&["--backup", "9"]), 3).contains("0000000009"));
    assert!(!other.exists(), "a restore that was refused left something");
    let unreachable = ["backup", "list", "--from", "s3://bucket"];
    assert!(refused(&unreachable, 2).contains("s3"));

    server.kill();
}

#[test]
fn damage_is_named_and_nothing_is_half_restored() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("place");
    let place_text = place.to_str().unwrap();
    let server = Server::start(directory.path());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(put(&server, 0..100, "one"));
    create(&server, place_text, &[]);
    let other = directory.path().join("other");
    let data = other.to_str().unwrap();
    let first = ["backup", "restore", "--from", place_text, "--data", data];
    let with = |more: &[&'static str]| [&first[..], more].concat();
    // One flipped bit in each file: named by check and by restore, and nothing can be opened.
    let files: Vec<_> = std::fs::read_dir(place.join("data"))
        .unwrap()
        .map(|it| it.unwrap().path())
        .flat_map(|it| std::fs::read_dir(it).unwrap())
        .map(|it| it.unwrap().path())
        .collect();
    assert!(files.len() >= 8, "{files:?}");
    for file in &files[..2] {
        let whole = std::fs::read(file).unwrap();
        let mut damaged = whole.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        std::fs::write(file, damaged).unwrap();
        let name = file.file_name().unwrap().to_str().unwrap();
        assert!(refused(&["backup", "check", "--from", place_text], 8).contains(name));
        assert!(refused(&with(&[]), 8).contains(name));
        assert!(refused(&["verify", data], 4).contains("unfinished restore"));
        std::fs::write(file, whole).unwrap();
    }
    // The same directory takes the whole one.
    done(&with(&[]));
    done(&["verify", data]);
    assert!(refused(&with(&[]), 2).contains("not empty"));

    // A damaged manifest is named; only a new beginning gets past it.
    let manifest = place.join("manifests/0000000001.manifest");
    let mut bytes = std::fs::read(&manifest).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&manifest, bytes).unwrap();
    assert!(refused(&["backup", "list", "--from", place_text], 8).contains("0000000001.manifest"));
    assert!(refused_create(&server, place_text, &[], 8).contains("--full"));
    create(&server, place_text, &["--full"]);
    done(&["backup", "check", "--from", place_text]);
    server.kill();
}
