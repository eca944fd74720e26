//! A cluster in one process, under tokio's paused clock: a second of waiting costs nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use domicile_proto::{NodeId, RegionId};
use domicile_storage::control_log::{ControlLog, Expected};
use domicile_storage::{Disk, MemoryDisk, StoreError};
use futures::future::BoxFuture;
use tokio::time::Instant;

use super::super::{
    Consensus, ControlError, Machine, Member, Options, Pace, Timings, Transport, TransportError,
};

pub(super) const RTT: Duration = Duration::from_millis(80);
/// Far more than anything takes that comes to an end: in the clock of the test.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Remembers its commands; the answer to one is its place.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Book(pub(super) Vec<u64>);

impl Machine for Book {
    fn apply(&mut self, command: &[u8]) -> Vec<u8> {
        let number = command.try_into().map(u64::from_le_bytes);
        self.0.extend(number);
        self.0.len().to_le_bytes().to_vec()
    }

    fn snapshot(&self) -> Vec<u8> {
        self.0
            .iter()
            .flat_map(|number| number.to_le_bytes())
            .collect()
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), String> {
        let (numbers, rest) = bytes.as_chunks::<8>();
        if !rest.is_empty() {
            return Err(format!("{} bytes are no book", bytes.len()));
        }
        self.0 = numbers
            .iter()
            .map(|number| u64::from_le_bytes(*number))
            .collect();
        Ok(())
    }
}

pub(super) type Node = Consensus<Book>;

/// Who answers where, and which ways are cut.
#[derive(Debug, Default)]
pub(super) struct Network {
    nodes: Mutex<BTreeMap<String, Node>>,
    cut: Mutex<BTreeSet<(String, String)>>,
}

struct Way {
    network: Arc<Network>,
    from: String,
}

impl Network {
    fn is_cut(&self, from: &str, to: &str) -> bool {
        self.cut
            .lock()
            .unwrap()
            .contains(&(from.to_owned(), to.to_owned()))
    }

    pub(super) fn cut(&self, from: &str, to: &str) {
        self.cut
            .lock()
            .unwrap()
            .insert((from.to_owned(), to.to_owned()));
    }

    pub(super) fn heal(&self) {
        self.cut.lock().unwrap().clear();
    }

    async fn carry(self: Arc<Self>, from: String, to: String, request: Bytes) -> Option<Bytes> {
        tokio::time::sleep(RTT / 2).await;
        if self.is_cut(&from, &to) {
            return None;
        }
        let node = self.nodes.lock().unwrap().get(&to).cloned()?;
        let reply = node.answer(request).await.ok()?;
        tokio::time::sleep(RTT / 2).await;
        // What a node that died meanwhile has answered does not come back.
        let is_there = self.nodes.lock().unwrap().contains_key(&to);
        (is_there && !self.is_cut(&to, &from)).then_some(reply)
    }
}

impl Transport for Way {
    fn send<'a>(
        &'a self,
        to: &'a Member,
        request: Bytes,
        within: Duration,
    ) -> BoxFuture<'a, Result<Bytes, TransportError>> {
        let (network, from) = (Arc::clone(&self.network), self.from.clone());
        let carried = tokio::spawn(network.carry(from, to.addresses[0].clone(), request));
        Box::pin(async move {
            if let Ok(Some(reply)) = carried.await {
                return Ok(reply);
            }
            tokio::time::sleep(within).await;
            let problem = "lost".to_owned();
            Err(TransportError { problem })
        })
    }
}

/// One place where a node lives: its disk outlives it.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) member: Member,
    pub(super) id: NodeId,
    pub(super) disk: MemoryDisk,
    pub(super) node: Option<Node>,
    pub(super) replaces: Option<NodeId>,
    known: bool,
}

/// A cluster.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) network: Arc<Network>,
    pub(super) places: Vec<Place>,
    pub(super) pace: Pace,
    pub(super) snapshot_entries: u64,
    founders: Vec<Member>,
    ends: u64,
    written: u64,
}

pub(super) fn address(index: usize) -> String {
    format!("place-{index}")
}

fn member(index: usize) -> Member {
    Member {
        region: RegionId::new(index as u16 + 1).unwrap(),
        addresses: vec![address(index)],
    }
}

/// Ids in another order than the places.
fn fresh_id(index: usize, life: u64) -> NodeId {
    NodeId::new((life + 1) * 1000 + (index as u64 * 7 + 5) % 11).unwrap()
}

impl Cluster {
    pub(super) fn new(size: usize) -> Self {
        let founders: Vec<Member> = (0..size).map(member).collect();
        let mut cluster = Self {
            network: Arc::default(),
            places: Vec::new(),
            pace: Pace::Steady,
            snapshot_entries: 1000,
            founders,
            ends: 0,
            written: 0,
        };
        (0..size).for_each(|index| cluster.add_place(index));
        cluster
    }

    pub(super) fn add_place(&mut self, index: usize) {
        self.places.push(Place {
            member: member(index),
            id: fresh_id(index, 0),
            disk: empty_disk(),
            node: None,
            replaces: None,
            known: false,
        });
    }

    /// A cluster that has founded itself, all nodes at once.
    pub(super) async fn founded(size: usize) -> Self {
        let mut cluster = Self::new(size);
        cluster.start_all().await;
        cluster.leader(None).await;
        cluster
    }

    pub(super) async fn start_all(&mut self) {
        for index in 0..self.places.len() {
            self.start(index).await.unwrap();
        }
    }

    pub(super) fn timings(&self) -> Timings {
        Timings::new(RTT, self.pace)
    }

    pub(super) async fn start(&mut self, index: usize) -> Result<(), ControlError> {
        let log = self.open_log(index)?;
        let timings = self.timings();
        let (founders, snapshot_entries) = (self.founders.clone(), self.snapshot_entries);
        let place = &mut self.places[index];
        let mut options = Options::new(place.id, place.member.clone(), founders, timings);
        options.replaces = place.replaces;
        options.snapshot_entries = snapshot_entries;
        let way = Way {
            network: Arc::clone(&self.network),
            from: address(index),
        };
        let node = Consensus::start(options, log, Book::default(), Arc::new(way)).await?;
        place.node = Some(node.clone());
        self.network
            .nodes
            .lock()
            .unwrap()
            .insert(address(index), node);
        Ok(())
    }

    fn open_log(&mut self, index: usize) -> Result<ControlLog, StoreError> {
        let place = &mut self.places[index];
        let disk: Arc<dyn Disk> = Arc::new(place.disk.clone());
        let expected = if place.known {
            Expected::Known
        } else {
            Expected::New
        };
        let log = ControlLog::open(&disk, Path::new("/data/control"), place.id, expected)?;
        place.known = true;
        Ok(log)
    }

    /// The power of one place fails: what was not synced is gone.
    pub(super) async fn kill(&mut self, index: usize) {
        self.network.nodes.lock().unwrap().remove(&address(index));
        let place = &mut self.places[index];
        self.ends += 1;
        place.disk.freeze_at_operation(0);
        if let Some(node) = place.node.take() {
            node.shutdown().await;
        }
        place.disk = place.disk.power_loss(self.ends);
    }

    /// The disk of one place is lost; what comes in its place has another id.
    pub(super) fn lose_disk(&mut self, index: usize) {
        let place = &mut self.places[index];
        place.disk = empty_disk();
    }

    pub(super) fn renew_id(&mut self, index: usize) -> NodeId {
        self.ends += 1;
        let place = &mut self.places[index];
        place.known = false;
        std::mem::replace(&mut place.id, fresh_id(index, self.ends))
    }

    pub(super) fn running(&self) -> impl Iterator<Item = (usize, &Node)> {
        let places = self.places.iter().enumerate();
        places.filter_map(|(index, place)| Some((index, place.node.as_ref()?)))
    }

    pub(super) fn node(&self, index: usize) -> &Node {
        self.places[index].node.as_ref().unwrap()
    }

    /// Waits for a leader that a quorum confirms, other than `not`.
    pub(super) async fn leader(&self, not: Option<usize>) -> usize {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            for (index, node) in self.running() {
                let leads = node.is_leader() && Some(index) != not;
                if leads && node.confirm_leadership(RTT * 4).await.is_ok() {
                    return index;
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let seen: Vec<_> = self
            .running()
            .map(|(i, node)| (i, node.leader(), node.members().voters))
            .collect();
        panic!("no leader within {PATIENCE:?}: {seen:?}");
    }

    /// Proposes the next number at a place and remembers it.
    pub(super) async fn write(&mut self, index: usize) -> u64 {
        let number = self.written;
        let command = Bytes::copy_from_slice(&number.to_le_bytes());
        self.node(index).propose(command, PATIENCE).await.unwrap();
        self.written += 1;
        number
    }

    pub(super) async fn wait_for(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            let books: Vec<_> = self
                .running()
                .map(|(i, node)| (i, node.read(|b| b.0.len())))
                .collect();
            assert!(
                Instant::now() < deadline,
                "{what}: not within {PATIENCE:?}: {books:?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Every number that was told is in every running book, and all books are equal.
    pub(super) async fn check_books(&self) {
        let newest = |cluster: &Self| {
            cluster
                .running()
                .map(|(_, node)| node.applied().borrow().version)
                .max()
        };
        self.wait_for("equal books", |cluster| {
            let newest = newest(cluster);
            cluster
                .running()
                .all(|(_, node)| Some(node.applied().borrow().version) == newest)
        })
        .await;
        let mut books: Vec<Book> = self
            .running()
            .map(|(_, node)| node.read(Book::clone))
            .collect();
        books.dedup();
        assert_eq!(books.len(), 1, "books differ");
        let mut numbers = books[0].0.clone();
        numbers.dedup();
        assert_eq!(numbers, (0..self.written).collect::<Vec<_>>());
    }

    pub(super) async fn close(&mut self) {
        for index in 0..self.places.len() {
            if self.places[index].node.is_some() {
                self.kill(index).await;
            }
        }
    }
}

pub(super) fn empty_disk() -> MemoryDisk {
    let disk = MemoryDisk::new();
    disk.create_dir_all(Path::new("/data")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk
}
