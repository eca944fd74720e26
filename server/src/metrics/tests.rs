//! A node that is asked over HTTP, as a collector does.
//!
//! **Owns**: what the page says, that docs/metrics.md says the same, what a connection may do.
//! **Does not own**: the numbers' meaning (replication's tests of its status).

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::Bytes;
use domicile_proto::{Keyspace, Name, RegionId};
use domicile_replication::{Engine, Node, NodeOptions, RegionSpec};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::HttpDoor;

struct Asked {
    _dir: TempDir,
    node: Node,
    address: SocketAddr,
    closing: watch::Sender<bool>,
}

/// A node with a peer that does not answer and a keyspace that is at home here.
async fn asked() -> Asked {
    let dir = tempfile::tempdir().unwrap();
    let mut options = NodeOptions::single(dir.path());
    options.engine = Engine::Memory;
    options.listen = Some("127.0.0.1:0".parse().unwrap());
    let own = options.regions[0].id;
    let other = RegionId::new(own.get() ^ 1).unwrap();
    options.regions.push(RegionSpec {
        id: other,
        name: Name::new("elsewhere").unwrap(),
        peer_address: Some("http://127.0.0.1:1".to_owned()),
        is_witness: false,
    });
    let name = Name::new("users").unwrap();
    let keyspace = Keyspace::new(name, vec![own, other], own);
    options.keyspaces.push(keyspace);
    let node = Node::open(options).await.unwrap();
    let door = HttpDoor::open("127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    let address = door.address();
    let (closing, watched) = watch::channel(false);
    tokio::spawn(door.serve(node.clone(), watched));
    Asked {
        _dir: dir,
        node,
        address,
        closing,
    }
}

impl Asked {
    async fn send(&self, request: &str) -> String {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        // The port may have closed already on what is too large.
        let _ = socket.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    async fn get(&self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nhost: here\r\n\r\n");
        self.send(&request).await
    }

    async fn page(&self) -> String {
        let answer = self.get("/metrics").await;
        let (head, page) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(head.contains("application/openmetrics-text"), "{head}");
        assert!(page.ends_with("# EOF\n"), "{page}");
        page.to_owned()
    }
}

fn sample(page: &str, name: &str) -> f64 {
    let found = page
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value = found.unwrap_or_else(|| panic!("no sample {name} in {page}"));
    value.parse().unwrap()
}

/// Of each metric: type, unit, labels, meaning.
type Described = BTreeMap<String, [String; 4]>;

/// What a page says of its metrics, by the names of their samples.
fn described(page: &str) -> Described {
    let mut metrics: Described = BTreeMap::new();
    let mut help = String::new();
    let mut last = String::new();
    for line in page.lines().filter(|line| *line != "# EOF") {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest
                .split_once(' ')
                .unwrap()
                .1
                .trim_end_matches('.')
                .to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            last = match kind {
                "counter" => format!("{name}_total"),
                "info" => format!("{name}_info"),
                _ => name.to_owned(),
            };
            let row = [kind.to_owned(), String::new(), String::new(), help.clone()];
            assert!(metrics.insert(last.clone(), row).is_none(), "{last} twice");
        } else if let Some(rest) = line.strip_prefix("# UNIT ") {
            metrics.get_mut(&last).unwrap()[1] = rest.split_once(' ').unwrap().1.to_owned();
        } else {
            assert!(line.starts_with(&last), "{line} below {last}");
            let labels = line
                .split_once('{')
                .map_or("", |(_, rest)| rest.split_once('}').unwrap().0);
            let names = labels
                .split(',')
                .filter_map(|label| Some(label.split_once('=')?.0));
            let names: Vec<_> = names.filter(|name| *name != "le").collect();
            metrics.get_mut(&last).unwrap()[2] = names.join(", ");
        }
    }
    metrics
}

/// What docs/metrics.md says.
fn documented() -> Described {
    let page = include_str!("../../../docs/metrics.md");
    let rows = page.lines().filter_map(|line| {
        let cells: Vec<_> = line
            .strip_prefix("| `")?
            .split('|')
            .map(str::trim)
            .collect();
        let [name, kind, unit, labels, meaning, ""] = cells[..] else {
            panic!("{line}");
        };
        let row = [kind, unit, labels, meaning].map(str::to_owned);
        Some((name.trim_end_matches('`').to_owned(), row))
    });
    rows.collect()
}

#[tokio::test]
async fn the_page_of_the_metrics_says_what_a_scrape_has() {
    let asked = asked().await;
    let (mut scraped, documented) = (described(&asked.page().await), documented());
    // The peer has never sent a beat, so that there is no sample whose label could be read.
    let staleness = scraped.get_mut("domicile_staleness_seconds").unwrap();
    assert_eq!(staleness[2], "");
    staleness[2] = "peer".to_owned();
    let mut missing = String::new();
    for (name, row) in &scraped {
        assert!(name.starts_with("domicile_"), "{name}");
        let [kind, unit, labels, meaning] = row;
        if documented.get(name) != Some(row) {
            missing += &format!("| `{name}` | {kind} | {unit} | {labels} | {meaning} |\n");
        }
    }
    assert!(missing.is_empty(), "docs/metrics.md lacks\n{missing}");
    assert!(
        documented.keys().eq(scraped.keys()),
        "docs/metrics.md has metrics that are no more"
    );
}

#[tokio::test]
async fn a_scrape_counts_what_was_written() {
    let asked = asked().await;
    let before = asked.page().await;
    let users = asked.node.keyspace("users").unwrap();
    for _ in 0..3 {
        users
            .put(
                Bytes::from_static(b"secret-key"),
                Bytes::from_static(b"value"),
            )
            .await
            .unwrap();
    }
    let page = asked.page().await;
    let counted = |name| sample(&page, name) - sample(&before, name);
    assert_eq!(counted("domicile_commit_records_total"), 3.0);
    let commits = counted("domicile_commits_total");
    assert!((1.0..=3.0).contains(&commits), "{commits}");
    assert_eq!(counted("domicile_fsync_duration_seconds_count"), commits);
    assert_eq!(
        counted("domicile_fsync_duration_seconds_bucket{le=\"+Inf\"}"),
        commits
    );
    assert!(counted("domicile_fsync_duration_seconds_sum") > 0.0);
    assert!(counted("domicile_commit_bytes_total") > 0.0);
    assert!(sample(&page, "domicile_disk_free_bytes") > 0.0);
    let of_peer = |name: &str| sample(&page, &format!("domicile_{name}{{peer=\"elsewhere\"}}"));
    assert_eq!(
        (of_peer("link_up"), of_peer("replication_lag_records")),
        (0.0, 3.0)
    );
    assert!(of_peer("replication_lag_seconds") > 0.0);
    let of_users = |name: &str| sample(&page, &format!("domicile_{name}{{keyspace=\"users\"}}"));
    assert_eq!(
        (of_users("home_partitions"), of_users("rpo_at_risk_records")),
        (8.0, 3.0)
    );
    assert_eq!(
        (
            of_users("damaged_partitions"),
            sample(&page, "domicile_poisoned")
        ),
        (0.0, 0.0)
    );
    assert!(!page.contains("secret-key"), "a label carries a key");
}

#[tokio::test]
async fn health_follows_the_node() {
    let asked = asked().await;
    let answer = asked.get("/healthz").await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok\n"),
        "{answer}"
    );
    asked.closing.send_replace(true);
    let answer = asked.get("/healthz").await;
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.ends_with("closing\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn other_requests_are_refused() {
    let asked = asked().await;
    let starts = |answer: String, code: &str| {
        assert!(answer.starts_with(&format!("HTTP/1.1 {code}")), "{answer}");
    };
    starts(asked.get("/keys").await, "404");
    starts(
        asked
            .send("POST /metrics HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n")
            .await,
        "405",
    );
    let many = "x: y\r\n".repeat(100);
    starts(
        asked
            .send(&format!("GET /metrics HTTP/1.1\r\n{many}\r\n"))
            .await,
        "431",
    );
    let long = "y".repeat(20 << 10);
    let answer = asked
        .send(&format!("GET /metrics HTTP/1.1\r\nx: {long}\r\n\r\n"))
        .await;
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    starts(asked.get("/healthz").await, "200");
}
