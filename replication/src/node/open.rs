//! Opening a node: recover, build the partitions, start threads and tasks.
//!
//! **Owns**: the order in which things start, so that nothing is served before it is recovered.
//! **Does not own**: recovery itself (storage), what the tasks do (driver, shipping, peers).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use domicile_core::{Input, Moment, Recovered};
use domicile_proto::{Epoch, NodeId, PartitionId, Reason, RegionId, Seq};
use domicile_storage::disk::OsDisk;
use domicile_storage::{CommitThread, OnDamage, RecoveredPartition, Recovery, Store, StoreOptions};
use tokio::sync::{Semaphore, mpsc, watch};

use super::digests::run_digests;
use super::expiry::run_expiry;
use super::interior::{CopyBudget, NodeCore, Scrubbing};
use super::keeper::run_keeper;
use super::scrub::run_scrub;
use crate::backup::BackupTurn;
use crate::bootstrap::{SENT_MAX, Wanted, run_bootstrapper};
use crate::buffer::{Buffer, run_keeping, run_sending};
use crate::clock::Clock;
use crate::driver::{Driver, remembered_requests};
use crate::error::Error;
use crate::options::NodeOptions;
use crate::orphans::OrphanTally;
use crate::ownership::{
    LeadInput, Ownership, Plane, Seat, Seats, blocking, config_of, handed_on, link_of, open_core,
    run_accounts, run_degrading, run_enrolment, run_lead, run_leases, run_mender, run_regions,
    run_seating, run_switchovers, was_wounded_again,
};
use crate::peers::{Links, PeerListener};
use crate::shipping::run_shipper;
use crate::topology::Topology;
use crate::watching::WatchCount;

/// How often the flusher looks whether the overlay wants flushing. The overlay takes seconds to
/// fill, so this only has to be well below that.
const FLUSH_POLL: Duration = Duration::from_millis(50);

/// A node flushes once it has been quiet for this long, so that a restart has nothing to replay. A
/// busy one does not: a key that is written again and again would be given to the engine each time.
const FLUSH_QUIET: Duration = Duration::from_secs(10);

/// While nothing is written the engine may tidy up as often as this: what it begins takes about as
/// long.
const TIDY_QUIET: Duration = Duration::from_secs(1);

/// After a flush that failed the next one waits this long.
const FLUSH_RETRY: Duration = Duration::from_secs(1);

/// What is said of a copy whose cells are newer than its log, by the word of nobody knows whom.
pub(crate) const AHEAD: &str = "its cells are newer than its log: it ended before that came";

/// What ends with the node.
pub(super) struct Threads {
    pub(super) commit: CommitThread,
    pub(super) flusher: JoinHandle<()>,
    pub(super) keeper: JoinHandle<()>,
    pub(super) scrub: JoinHandle<()>,
    pub(super) digests: JoinHandle<()>,
}

/// Opens everything. Must be called within a runtime.
pub(super) async fn open(options: NodeOptions) -> Result<(Arc<NodeCore>, Threads, Opened), Error> {
    let topology = Topology::new(&options)?;
    let listener = match options.listen {
        Some(address) => Some(PeerListener::bind(address).await?),
        None => None,
    };
    let peer_address = listener.as_ref().map(|listener| listener.address);
    // Less than what is being written and made ahead would cut and flush without end.
    let journal_keep_bytes = options
        .journal_keep_bytes
        .max(2 * options.journal_file_bytes);
    let (bytes, age) = (options.copy_keep_bytes, options.copy_keep);
    let copy_budget = CopyBudget { bytes, age };
    let watches = WatchCount::new(options.watches_max);
    let scrubbing = scrubbing(&options);
    let store_options = store_options(&options);
    let data = options.data.clone();
    let opened = blocking(move || Store::open(Arc::new(OsDisk::new()), &data, store_options));
    let (store, recovery) = opened.await?;
    report(&recovery);
    let plane = plane(&options, &topology, &store, recovery.created).await?;
    let seats = seats(&topology, plane.as_ref().map(|(plane, _)| &**plane));
    let (driver, damage, uncovered) = seated(store, recovery, &topology, seats).await?;
    let driver = Arc::new(driver);
    let store = Arc::clone(&driver.store);
    let (buffer, jobs) = blocking(move || Ok(Buffer::open(&store))).await?;
    let links = links(&topology, &driver)?;
    let core = Arc::new(NodeCore {
        topology,
        clock: Arc::clone(&driver.clock),
        store: Arc::clone(&driver.store),
        driver: Arc::clone(&driver),
        links,
        started: Instant::now(),
        journal_keep_bytes,
        copy_budget,
        uncovered: Mutex::new(uncovered),
        damage,
        digests: Mutex::default(),
        digest_rounds: Mutex::default(),
        digest_answers: Mutex::default(),
        scrubbing,
        wanted: Wanted::default(),
        snapshots_sent: Arc::new(Semaphore::new(SENT_MAX)),
        backup_turn: BackupTurn::default(),
        buffer,
        orphan_tally: OrphanTally::default(),
        ownership: Ownership::default(),
        plane: plane.as_ref().map(|(plane, _)| Arc::clone(plane)),
        watches,
        closed: watch::Sender::new(false),
    });
    let threads = start_threads(&core)?;
    start_tasks(&core, listener);
    tokio::spawn(run_keeping(Arc::clone(&core), jobs));
    tokio::spawn(run_sending(Arc::clone(&core)));
    if let Some((plane, inputs)) = plane {
        start_ownership(&core, plane, inputs);
    }
    Ok((core, threads, Opened { peer_address }))
}

/// This node's part in the control plane, if homes are agreed on; the regions are those of its map.
async fn plane(
    options: &NodeOptions,
    topology: &Topology,
    store: &Store,
    is_created: bool,
) -> Result<Option<(Arc<Plane>, mpsc::Receiver<LeadInput>)>, Error> {
    let Some(control) = &options.control else {
        return Ok(None);
    };
    let how = (is_created, options.replaces);
    let (plane, inputs) = Plane::start(control, topology, store, how).await?;
    for region in topology.follow(&plane.map()).added {
        plane.clients.add(&region)?;
    }
    Ok(Some((Arc::new(plane), inputs)))
}

fn scrubbing(options: &NodeOptions) -> Scrubbing {
    Scrubbing {
        bytes_per_s: options.scrub_bytes_per_s,
        pause: options.scrub_pause,
        ..Scrubbing::default()
    }
}

/// What lets homes change.
fn start_ownership(core: &Arc<NodeCore>, plane: Arc<Plane>, inputs: mpsc::Receiver<LeadInput>) {
    let maps = plane.maps.clone();
    tokio::spawn(run_seating(Arc::clone(core), maps));
    tokio::spawn(run_switchovers(Arc::clone(core), Arc::clone(&plane)));
    tokio::spawn(run_lead(Arc::clone(core), Arc::clone(&plane), inputs));
    tokio::spawn(run_enrolment(Arc::clone(core), Arc::clone(&plane)));
    tokio::spawn(run_degrading(Arc::clone(core), Arc::clone(&plane)));
    tokio::spawn(run_accounts(Arc::clone(core), Arc::clone(&plane)));
    tokio::spawn(run_regions(Arc::clone(core), Arc::clone(&plane)));
    tokio::spawn(run_leases(Arc::clone(core), plane));
}

/// Who is home of what; with a control plane, of the keyspaces that its map has.
fn seats(topology: &Topology, plane: Option<&Plane>) -> Seats {
    let Some(plane) = plane else {
        return Seats::Static;
    };
    let map = plane.map();
    topology.forget_keyspaces();
    for keyspace in map.keyspaces() {
        topology.learn(Arc::clone(keyspace));
    }
    Seats::Map(map)
}

/// A store with its partitions as they are to be seated.
async fn seated(
    store: Arc<Store>,
    recovery: Recovery,
    topology: &Topology,
    seats: Seats,
) -> Result<Found, Error> {
    let held = topology.partitions();
    let peers = topology.peers().into_iter().map(|region| region.id);
    let peers: Vec<RegionId> = peers.collect();
    let own = topology.own.id;
    let recover = move || recover(store, recovery, &held, &peers, own, &seats);
    let recovered = tokio::task::spawn_blocking(recover).await;
    recovered
        .map_err(|error| Error::new(Reason::StorePoisoned, format!("recovery panicked: {error}")))?
}

/// A link to every peer.
fn links(topology: &Topology, driver: &Driver) -> Result<Links, Error> {
    let links = Links::default();
    for spec in topology.peers() {
        links.add(link_of(&spec, driver)?);
    }
    Ok(links)
}

fn start_tasks(core: &Arc<NodeCore>, listener: Option<PeerListener>) {
    let driver = &core.driver;
    for slot in driver.slots() {
        driver.input(&slot, Input::Tick);
    }
    for slot in driver
        .slots()
        .filter(|slot| slot.is_damaged() && !slot.is_home())
    {
        core.wanted.want(slot.partition, Seq::FIRST);
    }
    tokio::spawn(run_timers(Arc::clone(core)));
    tokio::spawn(run_bootstrapper(Arc::clone(core)));
    for slot in driver.slots() {
        if core.store.wound(slot.partition).is_some()
            && let Some(closed) = driver.close_intake(&slot)
        {
            // Until it is healed.
            closed.stay();
        }
    }
    tokio::spawn(run_mender(Arc::clone(core)));
    tokio::spawn(run_expiry(Arc::clone(core)));
    if let Some(listener) = listener {
        tokio::spawn(listener.serve(Arc::clone(core)));
    }
    for link in core.links.all() {
        tokio::spawn(run_shipper(Arc::clone(core), link));
    }
}

/// What is known only once the node is open.
pub(super) struct Opened {
    pub(super) peer_address: Option<std::net::SocketAddr>,
}

/// Its cores, what is damaged, and what the engine lacks.
type Found = (Driver, Damage, Vec<PartitionId>);

type Held = [(Arc<domicile_proto::Keyspace>, PartitionId)];

fn recover(
    store: Arc<Store>,
    recovery: Recovery,
    held: &Held,
    peers: &[RegionId],
    own: RegionId,
    seats: &Seats,
) -> Result<Found, Error> {
    let damaged = Damage::found(&recovery);
    let found = recovery
        .partitions
        .into_iter()
        .map(|each| (each.partition, each));
    let mut found: BTreeMap<PartitionId, RecoveredPartition> = found.collect();
    let place = (own, recovery.node_id);
    let seated = held.iter().filter_map(|(keyspace, partition)| {
        let seat = seats.of(keyspace, *partition, place)?;
        let last = found.get(partition).map(|each| each.epoch);
        let is_holder = seat.keyspace.regions.contains(&own);
        is_holder.then(|| (*partition, seat.beside(last)))
    });
    let seated: Vec<(PartitionId, Seat)> = seated.collect();
    // Whatever ended while the node was away is over here too.
    let floors = seated
        .iter()
        .filter_map(|(partition, seat)| Some((*partition, seat.floor?)));
    store.promise_all(&floors.collect::<Vec<_>>())?;
    let homed = seated.iter().filter(|(_, seat)| seat.is_here);
    let last_seq = |id: &PartitionId| found.get(id).map_or(Seq::NONE, |each| each.last_seq);
    let tails = homed
        .map(|(partition, _)| (*partition, last_seq(partition)))
        .collect();
    let mut requests = remembered_requests(&store, &tails)?;
    let clock = Arc::new(Clock::new());
    let newest = requests.values().flatten().map(|request| request.hlc).max();
    newest.map(|hlc| clock.observe(hlc));
    let driver = Driver::new(clock, store, peers);
    for (partition, seat) in seated {
        let damage = damaged.of(partition, found.contains_key(&partition));
        let recovered = Recovered {
            requests: requests.remove(&partition).unwrap_or_default(),
            promised: driver.store.promised(partition),
            handed_to: handed_on(&driver.store, partition, &seat)?,
            ..recovered_state(found.remove(&partition), &seat, recovery.node_id)
        };
        let config = config_of(partition, own, &seat);
        let core = open_core(config, recovered, &seat, Moment::START)?;
        let slot = driver.add(Arc::clone(&seat.keyspace), core);
        let is_ahead = !seat.is_here && seat.epoch.is_some() && slot.is_ahead_of(None);
        if is_ahead && damage.is_none() && !was_wounded_again(&driver.store, partition) {
            driver.quarantine(&slot, AHEAD);
        }
        if let Some(damage) = damage {
            let is_home = seat.is_here;
            tracing::error!(%partition, damage, is_home, "a partition is damaged");
            driver.quarantine(&slot, damage);
        }
    }
    if matches!(seats, Seats::Static) {
        // Else the map may yet tell of them.
        show_unconfigured(&driver, &found);
    }
    let out_of_service = driver.slots().filter(|slot| slot.is_damaged());
    let out_of_service: Vec<PartitionId> = out_of_service.map(|slot| slot.partition).collect();
    // Before anything is flushed: a later checkpoint would lie behind the damage.
    driver.store.condemn(&out_of_service)?;
    let uncovered = driver.store.uncovered();
    Ok((driver, damaged, uncovered))
}

fn store_options(options: &NodeOptions) -> StoreOptions {
    StoreOptions {
        journal_file_bytes: options.journal_file_bytes,
        engine_cache_bytes: options.engine_cache_bytes,
        overlay_bytes_max: options.overlay_bytes_max,
        engine: options.engine.choice(),
        stall_max: options.stall_max,
        on_damage: OnDamage::Quarantine,
        ..StoreOptions::default()
    }
}

/// Nobody will say of the last records of partitions that are not configured that they are visible;
/// until they are in the engine they would keep the journal.
fn show_unconfigured(driver: &Driver, found: &BTreeMap<PartitionId, RecoveredPartition>) {
    for (partition, each) in found {
        tracing::warn!(%partition, "the journal holds a partition that is not configured");
        driver.store.cells(*partition).advance(each.last_seq);
    }
}

/// What recovery found damaged.
#[derive(Debug, Default)]
pub(crate) struct Damage {
    damaged: BTreeMap<PartitionId, String>,
    unknown: Option<String>,
}

impl Damage {
    fn found(recovery: &Recovery) -> Self {
        let damaged = recovery.damaged.iter();
        let unknown = recovery.unknown_damage.as_ref();
        Self {
            damaged: damaged.map(|(id, it)| (*id, it.to_string())).collect(),
            unknown: unknown.map(|damage| damage.to_string()),
        }
    }

    /// What a partition has lost, or may have: what may have held records of anybody may have held
    /// all of those of one of which nothing was found.
    pub(crate) fn of(&self, partition: PartitionId, is_found: bool) -> Option<&String> {
        let damage = self.damaged.get(&partition).or(self.unknown.as_ref());
        damage.filter(|_| !is_found)
    }
}

fn recovered_state(found: Option<RecoveredPartition>, seat: &Seat, node: NodeId) -> Recovered {
    let is_home = seat.is_here;
    let assigned = seat.epoch.filter(|_| is_home);
    match found {
        Some(found) => Recovered {
            epoch: assigned.or(Some(reign_after(found.epoch, is_home, node))),
            epoch_history: found.epoch_history,
            last_seq: found.last_seq,
            chain: found.chain,
            visible_upto: found.visible_upto,
            ..Recovered::default()
        },
        // A home's first reign. Homes are static, so nobody else mints one for this partition.
        None => Recovered {
            epoch: assigned.or(is_home.then_some(Epoch { counter: 1, node })),
            ..Recovered::default()
        },
    }
}

/// In which reign a log goes on that ends in `last`. A reign is its minter's: a home that finds
/// another node's was made of that one's backup, which may lack its last records, so it begins its
/// own. Copies that have those records are then known to be of another history. It is minted anew
/// at every open until its first record is durable, and the same each time.
fn reign_after(last: Epoch, is_home: bool, node: NodeId) -> Epoch {
    if !is_home || last.node == node {
        return last;
    }
    Epoch {
        counter: last.counter.saturating_add(1),
        node,
    }
}

fn report(recovery: &Recovery) {
    let Recovery {
        node_id,
        created,
        replayed_records,
        restored_cells,
        elapsed,
        ..
    } = recovery;
    let elapsed_ms = elapsed.as_millis() as u64;
    tracing::info!(
        node = %node_id, created, replayed_records, restored_cells, elapsed_ms,
        "store opened"
    );
    if let Some(torn) = &recovery.torn_tail {
        tracing::warn!(
            ?torn,
            "an unfinished commit at the end of the journal was cut off"
        );
    }
    if let Some(why) = &recovery.engine_rebuilt {
        tracing::warn!(%why, "the engine was rebuilt from the journal");
    }
}

fn start_threads(core: &Arc<NodeCore>) -> Result<Threads, Error> {
    let sink: Arc<dyn domicile_storage::CommitSink> = Arc::clone(&core.driver) as _;
    let commit = CommitThread::spawn(Arc::clone(&core.store), sink)?;
    let start = |name: &str, run: fn(&NodeCore)| {
        let node = Arc::clone(core);
        let spawned = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || run(&node));
        spawned.map_err(|error| {
            Error::new(
                Reason::StorePoisoned,
                format!("cannot start thread {name}: {error}"),
            )
        })
    };
    Ok(Threads {
        commit,
        flusher: start("domicile-flush", run_flusher)?,
        keeper: start("domicile-keep", run_keeper)?,
        scrub: start("domicile-scrub", run_scrub)?,
        digests: start("domicile-digest", run_digests)?,
    })
}

fn run_flusher(core: &NodeCore) {
    let closed = core.closed.subscribe();
    let mut quiet_since = Instant::now();
    let (mut seen, mut tidied) = (0, Instant::now());
    while !*closed.borrow() {
        let unflushed = core.store.unflushed_records();
        if unflushed != seen {
            (seen, quiet_since) = (unflushed, Instant::now());
        }
        let is_quiet = unflushed > 0 && quiet_since.elapsed() >= FLUSH_QUIET;
        if core.store.needs_flush() || is_quiet {
            if let Err(error) = core.store.flush_once() {
                tracing::error!(%error, "flushing cells into the engine failed; it is tried again");
                std::thread::sleep(FLUSH_RETRY);
            }
            core.driver.room.notify_waiters();
        } else if unflushed == 0 && quiet_since.max(tidied).elapsed() >= TIDY_QUIET {
            if let Err(error) = core.store.tidy_engine() {
                tracing::warn!(%error, "the engine stays as it is");
            }
            tidied = Instant::now();
        } else {
            std::thread::sleep(FLUSH_POLL);
        }
    }
}

async fn run_timers(core: Arc<NodeCore>) {
    let driver = Arc::clone(&core.driver);
    let closed = core.closed();
    let mut closed = std::pin::pin!(closed);
    loop {
        let earlier = driver.timers.earlier.notified();
        let wait = driver.timers.next().map(|at| at.since(driver.clock.now()));
        tokio::select! {
            () = &mut closed => return driver.answer_all("the node is closed"),
            () = earlier => continue,
            () = tokio::time::sleep(wait.unwrap_or(Duration::from_secs(3600))) => driver.tick(),
        }
    }
}
