//! A cluster of embedded nodes at WAN distance.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use domicile::{
    AckLevel, Consistency, Detail, Keyspace, Name, Node, NodeOptions, OnTimeout, RegionId,
    RegionSpec, Seq,
};
use domicile_replication::node::status::PartitionStatus;
use domicile_server::wan::{Route, Wan};
use tempfile::TempDir;

pub(crate) const REGIONS: [&str; 3] = ["eu", "us", "ap"];

/// How long a condition may take to hold: far above anything that is not broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn region(name: &str) -> RegionId {
    RegionId::of(&Name::new(name).unwrap())
}

pub(crate) fn keyspace(name: &str, ack: AckLevel, home: &str) -> Keyspace {
    let regions = REGIONS.map(region).to_vec();
    let mut keyspace = Keyspace::new(Name::new(name).unwrap(), regions, region(home));
    keyspace.ack = ack;
    keyspace
}

/// The keyspaces of most tests: one per level, homed in `eu`, with a short timeout on the one whose
/// name says so.
pub(crate) fn keyspaces() -> Vec<Keyspace> {
    let mut hasty = keyspace("hasty", AckLevel::SYNC, "eu");
    hasty.ack_timeout = Duration::from_millis(150);
    let mut yielding = hasty.clone();
    yielding.name = Name::new("yielding").unwrap();
    yielding.on_timeout = OnTimeout::Degrade;
    let mut european = keyspace("european", AckLevel::Async, "eu");
    european.regions = vec![region("eu"), region("us")];
    vec![
        keyspace("fast", AckLevel::Async, "eu"),
        keyspace("semi", AckLevel::SEMI_SYNC, "eu"),
        keyspace("safe", AckLevel::SYNC, "eu"),
        hasty,
        yielding,
        european,
    ]
}

pub(crate) struct Cluster {
    nodes: Vec<Option<Node>>,
    options: Vec<NodeOptions>,
    pub(crate) wan: Wan,
    pub(crate) data: TempDir,
}

/// An address that was free a moment ago, on a loopback address of its own: on 127.0.0.1 another
/// test's outgoing connection could take the port before it is bound.
pub(crate) fn free_address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let host = Ipv4Addr::new(127, 77, 7, NEXT.fetch_add(1, Ordering::Relaxed));
    let listener = TcpListener::bind((host, 0)).unwrap();
    listener.local_addr().unwrap()
}

impl Cluster {
    pub(crate) async fn start(rtt: Duration, keyspaces: Vec<Keyspace>) -> Self {
        Self::start_with(rtt, keyspaces, |_| ()).await
    }

    /// Nodes whose options `change` has the last word on.
    pub(crate) async fn start_with(
        rtt: Duration,
        keyspaces: Vec<Keyspace>,
        change: impl Fn(&mut NodeOptions),
    ) -> Self {
        let listen: Vec<SocketAddr> = REGIONS.iter().map(|_| free_address()).collect();
        let address = |name: &str| listen[REGIONS.iter().position(|each| *each == name).unwrap()];
        let pairs = [("eu", "us", rtt), ("eu", "ap", rtt), ("us", "ap", rtt)];
        let wan = Wan::mesh(&pairs, |_, to| Route::to(address(to))).unwrap();
        let data = tempfile::tempdir().unwrap();
        let options_of = |own: &str| {
            let spec = |name: &str| {
                let link = (name != own).then(|| wan.link(own, name).unwrap().address());
                let peer_address = link.map(|address| format!("http://{address}"));
                RegionSpec::new(Name::new(name).unwrap(), peer_address)
            };
            let mut options = NodeOptions {
                region: Name::new(own).unwrap(),
                regions: REGIONS.iter().map(|name| spec(name)).collect(),
                keyspaces: keyspaces.clone(),
                listen: Some(address(own)),
                journal_file_bytes: 4 << 20,
                ..NodeOptions::single(data.path().join(own))
            };
            change(&mut options);
            options
        };
        let options: Vec<NodeOptions> = REGIONS.iter().map(|own| options_of(own)).collect();
        let mut cluster = Self {
            nodes: vec![None, None, None],
            options,
            wan,
            data,
        };
        for name in REGIONS {
            cluster.open(name).await;
        }
        for name in REGIONS {
            cluster.connected(name).await;
        }
        cluster
    }

    fn index(name: &str) -> usize {
        REGIONS.iter().position(|each| *each == name).unwrap()
    }

    pub(crate) fn node(&self, name: &str) -> &Node {
        self.nodes[Self::index(name)]
            .as_ref()
            .expect("the node is open")
    }

    pub(crate) fn data_of(&self, name: &str) -> PathBuf {
        self.data.path().join(name)
    }

    pub(crate) async fn open(&mut self, name: &str) {
        let index = Self::index(name);
        let node = Node::open(self.options[index].clone()).await.unwrap();
        self.nodes[index] = Some(node);
    }

    /// What a node is told when it is opened next.
    pub(crate) fn options_mut(&mut self, name: &str) -> &mut NodeOptions {
        &mut self.options[Self::index(name)]
    }

    pub(crate) async fn close(&mut self, name: &str) {
        let node = self.nodes[Self::index(name)]
            .take()
            .expect("the node is open");
        node.close().await.unwrap();
    }

    /// Waits until a node ships to and receives from every other open one.
    pub(crate) async fn connected(&self, name: &str) {
        let node = self.node(name);
        until("all streams are open", || {
            let status = node.status(domicile::Detail::Summary);
            let others = status
                .peers
                .iter()
                .filter(|peer| self.nodes[Self::index(&peer.region)].is_some());
            others.clone().count() > 0
                && others.clone().all(|peer| peer.connected && peer.receiving)
        })
        .await;
    }

    pub(crate) async fn stop(mut self) {
        for name in REGIONS {
            if self.nodes[Self::index(name)].is_some() {
                self.close(name).await;
            }
        }
    }
}

pub(crate) fn alarms(cluster: &Cluster, node: &str) -> String {
    let partitions = cluster.node(node).status(Detail::Partitions).partitions;
    let shown = partitions
        .iter()
        .filter(|it| it.durable_upto > Seq::NONE || !it.alarm.is_empty());
    let line = |it: &PartitionStatus| {
        let (durable, applied) = (it.durable_upto, it.applied_upto);
        let (partition, home, alarm) = (&it.partition, &it.home_region, &it.alarm);
        format!("{node} {partition} of {home} {durable}/{applied} {alarm}\n")
    };
    let lines: String = shown.map(line).collect();
    let peers = cluster.node(node).status(Detail::Summary).peers;
    let links = peers.iter().map(|it| {
        let (peer, ships, receives) = (&it.region, it.connected, it.receiving);
        format!("{node}-{peer}: {ships}/{receives} {}\n", it.last_error)
    });
    lines + &links.collect::<String>()
}

/// Waits for a condition, with a deadline.
pub(crate) async fn until(what: &str, holds: impl FnMut() -> bool) {
    until_or(what, &RefCell::default(), holds).await;
}

/// Waits for a condition, with a deadline after which what was seen is told.
async fn until_or(what: &str, seen: &RefCell<String>, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        let is_late = Instant::now() >= deadline;
        assert!(
            !is_late,
            "not within {PATIENCE:?}: {what}\n{}",
            seen.borrow()
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Waits until a node shows a value of its own.
pub(crate) async fn wait_value(
    cluster: &Cluster,
    node: &str,
    keyspace: &str,
    key: &str,
    value: &str,
) {
    let handle = cluster.node(node).keyspace(keyspace).unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let entry = handle
            .get(key)
            .consistency(Consistency::Local)
            .await
            .unwrap();
        if entry.is_some_and(|entry| entry.value == value) {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{node} never showed {key} = {value}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What a node says of the first partition of a keyspace.
pub(crate) fn partition(cluster: &Cluster, node: &str, name: &str) -> PartitionStatus {
    let status = cluster.node(node).status(Detail::Partitions);
    let mut partitions = status.partitions.into_iter();
    partitions.find(|each| each.keyspace == name).unwrap()
}

/// All rows of a keyspace as a node itself has them.
async fn rows(node: &Node, name: &str) -> Vec<(Bytes, Bytes)> {
    let space = node.keyspace(name).unwrap();
    let rows = space.scan("").consistency(Consistency::Local).collect();
    let rows = rows.await.unwrap();
    rows.into_iter().map(|it| (it.key, it.value)).collect()
}

/// Waits until every copy has everything, and compares what they show.
pub(crate) async fn until_alike(cluster: &Cluster, name: &str) {
    let home = partition(cluster, "eu", name);
    let seen = RefCell::new(String::new());
    let what = "all copies are readable and have everything";
    until_or(what, &seen, || {
        *seen.borrow_mut() = REGIONS.map(|node| alarms(cluster, node)).concat();
        REGIONS.iter().all(|node| {
            let status = cluster.node(node).status(Detail::Partitions);
            let of = status.partitions.iter().filter(|it| it.keyspace == name);
            let homes = cluster.node("eu").status(Detail::Partitions);
            let homes = homes.partitions.iter().filter(|it| it.keyspace == name);
            of.zip(homes).all(|(it, home)| {
                // What a home says of its copies stays.
                let is_well = it.alarm.is_empty() || it.home_region == *node;
                is_well && it.applied_upto == home.durable_upto
            })
        })
    })
    .await;
    let expected = rows(cluster.node("eu"), name).await;
    assert!(!expected.is_empty(), "{name} is empty");
    for node in ["us", "ap"] {
        assert!(rows(cluster.node(node), name).await == expected, "{node}");
    }
    assert!(partition(cluster, "eu", name).durable_upto >= home.durable_upto);
}
