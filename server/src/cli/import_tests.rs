//! Tests of import and export against a real node behind its door.
//!
//! **Owns**: a node with a door on a free port, files full of rows.
//! **Does not own**: processes and signals (the workspace's cluster tests).

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use clap::Parser;
use domicile_client::Client;
use domicile_proto::{Keyspace, Name, Reason};
use domicile_replication::{Engine, Node, NodeOptions};
use futures::TryStreamExt;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::arguments::{Arguments, Verb};
use super::import::{ImportFlags, Ledger, Report, Settled};
use super::import_rows::{Placed, Row};
use crate::front::{Door, FrontLimits};

/// Nothing here takes longer unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// A served node; everything ends with it.
struct Served {
    dir: TempDir,
    endpoint: String,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Served {
    async fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut options = NodeOptions::single(dir.path().join("data"));
        let region = options.regions[0].id;
        options.engine = Engine::Memory;
        options.keyspaces.push(Keyspace::new(
            Name::new("users").unwrap(),
            vec![region],
            region,
        ));
        let node = Node::open(options).await.unwrap();
        let address = "127.0.0.1:0".parse().unwrap();
        let door = Door::open(address, FrontLimits::default()).await.unwrap();
        let endpoint = format!("http://{}", door.address().unwrap());
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let served = door
                .serve(node.clone(), async { stopped.await.unwrap_or(()) })
                .await;
            node.close().await.unwrap();
            served.unwrap();
        });
        Self {
            dir,
            endpoint,
            stop,
            task,
        }
    }

    async fn close(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap();
    }

    fn file(&self, name: &str, text: &str) -> std::path::PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn flags(&self, file: &Path, more: &[&str]) -> ImportFlags {
        let file = file.to_str().unwrap();
        let line = [
            "domicile",
            "kv",
            "import",
            "users",
            file,
            "--endpoint",
            &self.endpoint,
        ];
        let parsed = Arguments::try_parse_from(line.iter().chain(more)).unwrap();
        match parsed.verb {
            Verb::Kv(command) => command.into_import().unwrap(),
            _ => unreachable!("the line says kv import"),
        }
    }

    async fn rows(&self) -> Vec<(String, String)> {
        let scan = Client::new(&self.endpoint)
            .unwrap()
            .keyspace("users")
            .scan("")
            .page_rows(7);
        let rows: Vec<_> = scan.rows().try_collect().await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        rows.iter()
            .map(|row| (text(&row.key), text(&row.value)))
            .collect()
    }
}

fn jsonl(rows: std::ops::Range<u32>) -> String {
    rows.fold(String::new(), |mut text, row| {
        writeln!(text, "{{\"key\":\"k{row:05}\",\"value\":\"v{row}\"}}").unwrap();
        text
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_arrive_and_bad_ones_are_told_by_line() {
    let served = Served::open().await;
    let text = format!("{}{{\"key\":\"\"}}\n{}", jsonl(0..300), jsonl(300..500));
    let file = served.file("rows.jsonl", &text);
    let report = served
        .flags(&file, &["--outstanding", "64"])
        .import()
        .await
        .unwrap();
    assert_eq!(
        report,
        Report {
            imported: 500,
            before: 0,
            bad: 1
        }
    );
    let rows = served.rows().await;
    assert_eq!(rows.len(), 500);
    assert_eq!(rows[41], ("k00041".to_owned(), "v41".to_owned()));
    // Complete: nothing is left to resume, and the same file can be imported again.
    assert!(
        !served
            .dir
            .path()
            .join("rows.jsonl.domicile-import")
            .exists()
    );
    let stopped = served
        .flags(&file, &["--on-bad-row", "stop"])
        .import()
        .await
        .unwrap_err();
    assert!(
        stopped.to_string().contains("rows.jsonl:301: "),
        "{stopped}"
    );
    served.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_goes_on_where_it_stopped() {
    let served = Served::open().await;
    let text = format!("{}oops\n{}", jsonl(0..200), jsonl(200..250));
    let file = served.file("rows.jsonl", &text);
    let stopped = served
        .flags(&file, &["--on-bad-row", "stop"])
        .import()
        .await
        .unwrap_err();
    assert!(stopped.to_string().contains(":201: "), "{stopped}");
    assert!(
        served
            .dir
            .path()
            .join("rows.jsonl.domicile-import")
            .exists()
    );
    let report = served.flags(&file, &[]).import().await.unwrap();
    assert_eq!((report.before + report.imported, report.bad), (250, 1));
    assert!(report.before <= 200, "{report:?}");
    assert_eq!(served.rows().await.len(), 250);
    served.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_sent_twice_is_done_once() {
    let served = Served::open().await;
    let file = served.file("rows.jsonl", &jsonl(0..50));
    let flags = served.flags(&file, &[]);
    assert_eq!(flags.import().await.unwrap().imported, 50);
    let users = Client::new(&served.endpoint).unwrap().keyspace("users");
    let before = users.get("k00007").await.unwrap().unwrap();
    // Nothing is left of the first run but the ids, which the home remembers.
    assert_eq!(flags.import().await.unwrap().imported, 50);
    assert_eq!(
        users.get("k00007").await.unwrap().unwrap().version,
        before.version
    );
    served.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn csv_goes_in_and_out() {
    let served = Served::open().await;
    let file = served.file("rows.csv", "key,value\na,\"1,\"\"1\"\"\"\nb,2\n");
    assert_eq!(served.flags(&file, &[]).import().await.unwrap().imported, 2);
    let to = served.dir.path().join("out.csv");
    let to = to.to_str().unwrap();
    let endpoint = served.endpoint.as_str();
    let line = [
        "domicile",
        "kv",
        "export",
        "users",
        "--to",
        to,
        "-o",
        "csv",
        "--endpoint",
        endpoint,
    ];
    let Verb::Kv(export) = Arguments::try_parse_from(line).unwrap().verb else {
        unreachable!("the line says kv export")
    };
    export.run().await.unwrap();
    let written = std::fs::read_to_string(to).unwrap();
    let lines: Vec<&str> = written.lines().collect();
    assert_eq!(lines.len(), 3);
    assert!(lines[0].starts_with("key,value,") && lines[1].starts_with("a,\"1,\"\"1\"\"\","));
    served.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_keyspace_makes_every_row_bad() {
    let served = Served::open().await;
    let file = served.file("rows.jsonl", &jsonl(0..3));
    let mut flags = served.flags(&file, &[]);
    flags.keyspace = "nobody".to_owned();
    assert_eq!(
        flags.import().await.unwrap(),
        Report {
            imported: 0,
            before: 0,
            bad: 3
        }
    );
    served.close().await;
}

/// Sent again from a checkpoint, the same row must be the same write: its expiry is a time.
#[tokio::test(flavor = "multi_thread")]
async fn rows_are_imported_with_their_expiry() {
    let served = Served::open().await;
    let at_ms = 4_000_000_000_000;
    let text = format!(
        "key,value,version,written_at_ms,expires_at_ms\na,1,x,7,{at_ms}\nb,2,x,7,\nc,3,x,7,1\n"
    );
    let file = served.file("rows.csv", &text);
    for _ in 0..2 {
        let report = served.flags(&file, &["--restart"]).import().await.unwrap();
        assert_eq!((report.imported, report.bad), (3, 0));
    }
    let keyspace = Client::new(&served.endpoint).unwrap().keyspace("users");
    let expiry = async |key: &str| {
        keyspace
            .get(key)
            .await
            .unwrap()
            .map(|row| row.expires_at_ms)
    };
    assert_eq!(expiry("a").await, Some(Some(at_ms)));
    assert_eq!(expiry("b").await, Some(None));
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while expiry("c").await.is_some() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "its time has passed"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    served.close().await;
}

fn placed(number: u64) -> Placed {
    let row = Row {
        key: format!("k{number}").into(),
        value: "v".into(),
        expires_at_ms: None,
    };
    Placed {
        number,
        line: number + 1,
        row: Ok(row),
    }
}

/// An error as a server gives it.
async fn refused(reason: Reason) -> domicile_client::ClientError {
    match reason {
        Reason::KeyspaceNotFound => {
            let served = Served::open().await;
            let client = Client::new(&served.endpoint).unwrap();
            let error = client.keyspace("nobody").put("k", "v").await.unwrap_err();
            served.close().await;
            error
        }
        _ => {
            let options = domicile_client::ClientOptions {
                retry: domicile_client::Retry::Never,
                ..domicile_client::ClientOptions::endpoints(["http://127.0.0.1:1"])
            };
            Client::with_options(options)
                .unwrap()
                .status()
                .await
                .unwrap_err()
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_sends_again_what_may_succeed_and_drops_what_cannot() {
    let mut ledger = Ledger::starting_at(2);
    assert_eq!(ledger.admit(placed(1)), Ok(None));
    for number in 2..6 {
        assert_eq!(ledger.admit(placed(number)), Ok(Some(number)));
    }
    assert_eq!(ledger.settle(3, Ok(())), Settled::Done);
    assert_eq!(ledger.done_upto(), 2);
    let unreachable = refused(Reason::NoHome).await;
    assert!(matches!(
        ledger.settle(2, Err(unreachable)),
        Settled::Again(_)
    ));
    assert_eq!(ledger.settle(2, Ok(())), Settled::Done);
    assert_eq!(ledger.done_upto(), 4);
    let never = refused(Reason::KeyspaceNotFound).await;
    let Settled::Bad(line, told) = ledger.settle(4, Err(never)) else {
        panic!("row 4 is bad")
    };
    ledger.skip(4);
    assert!(
        line == 5 && told.contains("KEYSPACE_NOT_FOUND"),
        "{line}: {told}"
    );
    assert_eq!(ledger.settle(4, Ok(())), Settled::Done);
    assert!(!ledger.is_settled());
    ledger.settle(5, Ok(()));
    assert!(ledger.is_settled() && ledger.done_upto() == 6);
}
