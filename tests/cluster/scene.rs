//! Three real servers, clients of each keyspace in each region, and what must hold in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use domicile_proto::v1::{Entry, PartitionStatus, WriteResponse};
use domicile_server::rig::{
    Cluster, ClusterPlan, Door, HomePlan, HomesPlan, KeyspacePlan, Rtts, Stop,
};
use tempfile::TempDir;

pub(crate) const REGIONS: [&str; 3] = ["ap", "eu", "us"];

/// Async, and one that waits for another region.
const SPACES: [&str; 2] = ["fast", "semi"];

/// How long a condition may take to hold: far above anything that is not broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// Three servers, at home in `eu`, and a client of each keyspace in each region.
pub(crate) struct Scene {
    pub(crate) cluster: Cluster,
    writers: Vec<JoinHandle<Vec<Acked>>>,
    halt: Arc<AtomicBool>,
    _dir: TempDir,
}

/// A write that was acknowledged. Nobody else writes its key, and nobody writes it twice.
#[derive(Debug, Clone)]
pub(crate) struct Acked {
    pub(crate) space: &'static str,
    /// Through whose server.
    pub(crate) region: &'static str,
    key: String,
    value: Bytes,
    partition: Bytes,
    /// The reign in which it was written.
    pub(crate) reign: (u64, u64),
    /// When it was asked for, and answered.
    pub(crate) begun: Instant,
    pub(crate) at: Instant,
}

/// What was acknowledged, and which of it is an orphan in the end.
pub(crate) struct Ended {
    pub(crate) acked: Vec<Acked>,
    pub(crate) orphaned: Vec<Acked>,
}

impl Acked {
    fn new(
        (space, region): (&'static str, &'static str),
        (key, value): (String, Bytes),
        begun: Instant,
        response: WriteResponse,
    ) -> Self {
        let position = response.position.expect("a receipt names its place");
        Self {
            space,
            region,
            key,
            value,
            partition: position.partition,
            reign: (position.epoch_counter, position.epoch_node),
            begun,
            at: Instant::now(),
        }
    }
}

/// Writes until it is told to stop, with a pause after each write; what was acknowledged.
fn write(
    endpoint: &str,
    (space, region): (&'static str, &'static str),
    pace: Duration,
    halt: &AtomicBool,
) -> Vec<Acked> {
    let door = Door::new(endpoint).unwrap();
    let mut acked = Vec::new();
    for number in 0..100_000 {
        if halt.load(Ordering::Acquire) {
            break;
        }
        let begun = Instant::now();
        let (key, value) = (
            format!("{region}-{number}/k"),
            Bytes::from(number.to_string()),
        );
        match door.put(space, Bytes::from(key.clone()), value.clone()) {
            Ok(response) => {
                acked.push(Acked::new((space, region), (key, value), begun, response));
                thread::sleep(pace);
            }
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
    acked
}

impl Scene {
    pub(crate) fn start(pace: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let regions = REGIONS.map(str::to_owned);
        let keyspace = |name: &str, ack: &str| KeyspacePlan {
            name: name.to_owned(),
            ack: ack.to_owned(),
            home: HomePlan::Pinned("eu".to_owned()),
            buckets: None,
        };
        let plan = ClusterPlan {
            rtts: Rtts::parse(&regions, "20").unwrap(),
            keyspaces: vec![keyspace("fast", "async"), keyspace("semi", "semi-sync")],
            homes: HomesPlan::Agreed {
                rtt_max_ms: 40,
                is_aggressive: true,
            },
            program: Some(PathBuf::from(env!("CARGO_BIN_EXE_domicile"))),
            dir: dir.path().to_owned(),
        };
        let cluster = Cluster::start(&plan, &Stop::default()).unwrap();
        let halt = Arc::new(AtomicBool::new(false));
        let mut writers = Vec::new();
        for space in SPACES {
            for region in REGIONS {
                let endpoint = cluster.endpoint(region).unwrap();
                let halt = Arc::clone(&halt);
                let writer = move || write(&endpoint, (space, region), pace, &halt);
                writers.push(thread::spawn(writer));
            }
        }
        Self {
            cluster,
            writers,
            halt,
            _dir: dir,
        }
    }

    pub(crate) fn wait(&self, ms: u64) {
        thread::sleep(Duration::from_millis(ms));
    }

    pub(crate) fn door(&self, region: &str) -> Door {
        Door::new(&self.cluster.endpoint(region).unwrap()).unwrap()
    }

    /// Waits until every region writes through each of these regions' servers.
    pub(crate) fn until_written(&self, at: &[&str]) {
        let since = Instant::now();
        for region in at {
            let door = self.door(region);
            for space in SPACES {
                for number in 0..8 {
                    let key = Bytes::from(format!("probe-{region}-{number}/k"));
                    while let Err(error) = door.put(space, key.clone(), Bytes::from("probe")) {
                        assert!(since.elapsed() < PATIENCE, "{region} {space}: {error:#}");
                        thread::sleep(Duration::from_millis(50));
                    }
                }
            }
        }
    }

    /// Writes large values that do not compress through a region's server; each is acknowledged.
    pub(crate) fn write_bulk(
        &self,
        region: &'static str,
        writes: u32,
        bytes_each: usize,
    ) -> Vec<Acked> {
        let door = self.door(region);
        let mut state = 1_u64;
        let mut byte = || {
            // xorshift64
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        let writes = (0..writes).map(|number| {
            let value: Bytes = (0..bytes_each).map(|_| byte()).collect();
            let (key, begun) = (format!("bulk-{number}/k"), Instant::now());
            let put = door.put("fast", Bytes::from(key.clone()), value.clone());
            Acked::new(("fast", region), (key, value), begun, put.unwrap())
        });
        writes.collect()
    }

    /// All is well again, everybody stops: what was acknowledged is there, or it is listed where
    /// it was alone; one home a partition, equal copies, and no home that outlived its successor.
    pub(crate) fn conclude(mut self, others: Vec<Acked>) -> Ended {
        for region in REGIONS {
            self.cluster.wan().heal(region).unwrap();
            self.cluster.unpause(region).unwrap();
            if self.cluster.pid(region).unwrap().is_none() {
                self.cluster.start_server(region).unwrap();
            }
        }
        self.cluster.wait_until_connected(&Stop::default()).unwrap();
        self.until_written(&REGIONS);
        self.halt.store(true, Ordering::Release);
        let mut acked = others;
        for writer in std::mem::take(&mut self.writers) {
            acked.extend(writer.join().unwrap());
        }
        check_reigns(&acked);
        let doors = REGIONS.map(|region| self.door(region));
        let mut orphaned = Vec::new();
        for space in SPACES {
            let acked: Vec<&Acked> = acked.iter().filter(|it| it.space == space).collect();
            assert!(acked.len() > 20, "{space}: {}", acked.len());
            orphaned.extend(account(&doors, space, &acked));
        }
        check_homes(&doors);
        Ended { acked, orphaned }
    }
}

/// No home acknowledges what it was asked for after its successor had acknowledged something.
fn check_reigns(acked: &[Acked]) {
    let mut first: BTreeMap<(&Bytes, (u64, u64)), &Acked> = BTreeMap::new();
    for it in acked {
        let earliest = first.entry((&it.partition, it.reign)).or_insert(it);
        if it.at < earliest.at {
            *earliest = it;
        }
    }
    for it in acked {
        let later = first.range((&it.partition, it.reign)..);
        let mut later = later.filter(|((of, reign), _)| **of == it.partition && *reign > it.reign);
        if let Some((_, later)) = later.find(|(_, later)| it.begun > later.at) {
            panic!("{it:?} was acknowledged after {later:?}");
        }
    }
}

/// Waits until everybody knows of the same one home of each partition, and it acts as one.
fn check_homes(doors: &[Door; 3]) {
    let since = Instant::now();
    loop {
        let seen = doors.each_ref().map(|door| {
            let status = door.status_of_partitions().unwrap();
            let by_id = status.partitions.into_iter();
            by_id
                .map(|it| (it.partition.clone(), it))
                .collect::<BTreeMap<Bytes, PartitionStatus>>()
        });
        let said = |it: &PartitionStatus| {
            (
                it.home_region.clone(),
                it.epoch_counter,
                it.epoch_node,
                it.appended_upto,
            )
        };
        let wrong = seen[0].keys().find(|partition| {
            let all = seen.each_ref().map(|it| &it[*partition]);
            let homes = REGIONS.iter().zip(all).filter(|(_, it)| it.role == "home");
            let homes: Vec<&str> = homes.map(|(region, _)| *region).collect();
            let is_agreed = all.iter().all(|it| said(it) == said(all[0]));
            !(is_agreed && homes == [all[0].home_region.as_str()])
        });
        let Some(wrong) = wrong else {
            assert_eq!(seen[0].len(), 16);
            return;
        };
        let all = seen.each_ref().map(|it| &it[wrong]);
        assert!(since.elapsed() < PATIENCE, "{all:?}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// Every acknowledged write is there, everywhere; one that is not is among the orphans, and none of
/// those that another region had to have. All regions have the same. Those that are orphans.
fn account(doors: &[Door; 3], space: &str, acked: &[&Acked]) -> Vec<Acked> {
    let since = Instant::now();
    loop {
        let mut orphans = BTreeSet::new();
        for door in doors {
            let found = door.orphans(space).unwrap();
            orphans.extend(found.into_iter().map(|(key, _)| key));
        }
        let rows = doors.each_ref().map(|door| {
            // A copy that waits to be healed answers no reads: then the rows differ.
            let rows = door.rows_here(space).unwrap_or_default().into_iter();
            rows.map(|row| (row.key.clone(), row))
                .collect::<BTreeMap<Bytes, Entry>>()
        });
        let (mut wrong, mut orphaned) = (Vec::new(), Vec::new());
        for it in acked {
            let is_orphan = orphans.contains(it.key.as_bytes());
            let seen = rows.each_ref().map(|rows| rows.get(it.key.as_bytes()));
            let is_there = seen
                .iter()
                .all(|row| row.is_some_and(|row| row.value == it.value));
            let is_gone = seen.iter().all(Option::is_none);
            match is_there {
                true => {}
                false if is_gone && is_orphan && space == "fast" => orphaned.push((*it).clone()),
                false => wrong.push((&it.key, it.reign, is_orphan, seen.map(|row| row.is_some()))),
            }
        }
        let are_equal = rows.iter().all(|it| *it == rows[0]);
        if wrong.is_empty() && are_equal {
            return orphaned;
        }
        let is_late = since.elapsed() >= PATIENCE;
        assert!(!is_late, "{space}: equal: {are_equal}, {wrong:?}");
        thread::sleep(Duration::from_millis(100));
    }
}
