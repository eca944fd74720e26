//! This node's part in the control plane: consensus on the map, and messages about leases.
//!
//! **Owns**: starting it, proposing commands, how its messages reach other nodes.
//! **Does not own**: consensus itself (control), what a leader does (`lead`).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use domicile_core::control::{Command, ControlMap, ControlTimes};
use domicile_proto::v1::peer_client::PeerClient;
use domicile_proto::{Keyspace, NodeId, Reason, RegionId, v1};
use domicile_storage::Store;
use domicile_storage::control_log::{ControlLog, Expected};
use domicile_storage::disk::{Disk, OsDisk};
use futures::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tonic::transport::Channel;

use super::lead::LeadInput;
use super::machine::MapMachine;
use super::wire::{decode_results, encode_commands};
use crate::control::{
    Consensus, ControlError, Member, Options, Timings, Transport, TransportError,
};
use crate::driver::lock;
use crate::error::Error;
use crate::options::{ControlOptions, RegionSpec};
use crate::peers::lazy_client;
use crate::topology::Topology;

/// The control log's directory in a data directory.
const CONTROL_DIR: &str = "control";

/// What waits for the leader's task: one ask a node and beat, and promises. Far more than a large
/// cluster has at once; beyond it nodes ask again.
const LEAD_INPUTS_MAX: usize = 4096;

/// The control plane as one node sees it.
pub(crate) struct Plane {
    pub(crate) consensus: Consensus<MapMachine>,
    pub(crate) maps: watch::Receiver<Arc<ControlMap>>,
    pub(crate) times: ControlTimes,
    /// What it costs if the leader is lost with a home.
    pub(crate) election_max: Duration,
    /// Tells this start of the process from others.
    pub(crate) incarnation: u64,
    /// Keyspaces that are made once the cluster can hold them.
    pub(crate) declared: Vec<Keyspace>,
    /// The node of this region that is lost for good.
    pub(crate) replaces: Option<NodeId>,
    pub(crate) lead: mpsc::Sender<LeadInput>,
    pub(crate) clients: Arc<PeerClients>,
}

/// Ways to the nodes of other regions, dialled when first used; regions come and go.
#[derive(Debug, Default)]
pub(crate) struct PeerClients {
    by_region: Mutex<BTreeMap<RegionId, PeerClient<Channel>>>,
}

impl PeerClients {
    pub(crate) fn of(&self, region: RegionId) -> Option<PeerClient<Channel>> {
        lock(&self.by_region).get(&region).cloned()
    }

    /// As of now.
    pub(crate) fn all(&self) -> BTreeMap<RegionId, PeerClient<Channel>> {
        lock(&self.by_region).clone()
    }

    /// Another region, or where one is now.
    pub(crate) fn add(&self, region: &RegionSpec) -> Result<(), Error> {
        if let Some(client) = lazy_client(region)? {
            lock(&self.by_region).insert(region.id, client);
        }
        Ok(())
    }

    pub(crate) fn remove(&self, region: RegionId) {
        lock(&self.by_region).remove(&region);
    }
}

impl Plane {
    /// Takes part in the control plane, with what is on disk of it.
    pub(crate) async fn start(
        options: &ControlOptions,
        topology: &Topology,
        store: &Store,
        (is_created, replaces): (bool, Option<NodeId>),
    ) -> Result<(Self, mpsc::Receiver<LeadInput>), Error> {
        let log = open_log(store, is_created)?;
        let (machine, maps) = MapMachine::new();
        let clients = Arc::new(PeerClients::default());
        for region in topology.peers() {
            clients.add(&region)?;
        }
        let transport = PeerTransport {
            cluster: topology.cluster.to_string(),
            clients: Arc::clone(&clients),
        };
        let member = |region: RegionId| Member {
            region,
            addresses: Vec::new(),
        };
        let regions = topology.regions();
        let founders = regions.iter().map(|region| member(region.id));
        let own = member(topology.own.id);
        let timings = Timings::new(options.rtt_max, options.pace());
        let settings = Options {
            replaces,
            ..Options::new(store.node_id(), own, founders.collect(), timings)
        };
        let started = Consensus::start(settings, log, machine, Arc::new(transport)).await;
        let consensus = started.map_err(|error| unavailable(&error))?;
        let (lead, inputs) = mpsc::channel(LEAD_INPUTS_MAX);
        let plane = Self {
            consensus,
            maps,
            election_max: timings.election_max(),
            times: ControlTimes::of(options.rtt_max, options.haste),
            incarnation: crate::clock::Clock::wall_ms(),
            declared: topology
                .keyspaces()
                .iter()
                .map(|it| (**it).clone())
                .collect(),
            replaces,
            lead,
            clients,
        };
        Ok((plane, inputs))
    }

    /// The map as it is applied here.
    pub(crate) fn map(&self) -> Arc<ControlMap> {
        Arc::clone(&self.maps.borrow())
    }

    /// Puts commands before the map, from any node.
    ///
    /// # Errors
    /// Without a leader in time; the first command that was refused, if all were.
    pub(crate) async fn propose(
        &self,
        commands: &[Command],
        within: Duration,
    ) -> Result<Vec<String>, Error> {
        let proposed = self.consensus.propose(encode_commands(commands), within);
        let answer = proposed.await.map_err(|error| unavailable(&error))?;
        read_results(&answer)
    }
}

pub(super) fn read_results(answer: &[u8]) -> Result<Vec<String>, Error> {
    decode_results(answer).map_err(|error| {
        Error::new(
            Reason::InvalidArgument,
            format!("answer of the control plane: {error}"),
        )
    })
}

pub(super) fn unavailable(error: &ControlError) -> Error {
    Error::new(Reason::NoHome, format!("control plane: {error}"))
}

/// A directory that was never part of a control plane gets its log now. One that was and lacks it
/// has lost its votes: it must return under a new identity.
fn open_log(store: &Store, is_created: bool) -> Result<ControlLog, Error> {
    let dir = store.dir().join(CONTROL_DIR);
    let is_new = is_created || !(is_there(&dir) || store.has_promised());
    let expected = match is_new {
        true => Expected::New,
        false => Expected::Known,
    };
    let disk: Arc<dyn Disk> = Arc::new(OsDisk::new());
    Ok(ControlLog::open(&disk, &dir, store.node_id(), expected)?)
}

fn is_there(dir: &Path) -> bool {
    dir.exists()
}

/// Carries messages of consensus over the peers' doors.
struct PeerTransport {
    cluster: String,
    clients: Arc<PeerClients>,
}

impl Transport for PeerTransport {
    fn send<'a>(
        &'a self,
        to: &'a Member,
        request: Bytes,
        within: Duration,
    ) -> BoxFuture<'a, Result<Bytes, TransportError>> {
        let failed = |problem: String| TransportError { problem };
        let client = self.clients.of(to.region);
        let envelope = v1::ControlEnvelope {
            cluster: self.cluster.clone(),
            message: request,
        };
        let region = to.region;
        Box::pin(async move {
            let mut client = client.ok_or_else(|| failed(format!("no address of {region}")))?;
            let answer = tokio::time::timeout(within, client.control(envelope)).await;
            let answer = answer.map_err(|_| failed(format!("no answer within {within:?}")))?;
            let answer = answer.map_err(|status| failed(status.message().to_owned()))?;
            Ok(answer.into_inner().message)
        })
    }

    fn knows(&self, member: &Member) -> bool {
        self.clients.of(member.region).is_some()
    }
}

impl std::fmt::Debug for Plane {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Plane")
            .field("times", &self.times)
            .finish_non_exhaustive()
    }
}

/// The region of a node, as the map or consensus knows it.
pub(crate) fn region_of(plane: &Plane, node: NodeId) -> Option<RegionId> {
    let known = plane.map().node(node).map(|it| it.region);
    let members = || plane.consensus.members().members;
    known.or_else(|| members().get(&node).map(|member| member.region))
}

pub(super) fn note_refused(refused: &[String]) {
    for why in refused.iter().filter(|why| !why.is_empty()) {
        tracing::debug!(why, "refused by the control plane");
    }
}

/// For how long it is tried to tell the map something.
const TELLING_MAX: Duration = Duration::from_secs(5);

/// Tells the map something about a change of home; it is tried for a while.
pub(super) async fn tell(plane: &Plane, command: Command) -> Result<(), Error> {
    let refused = plane.propose(&[command], TELLING_MAX).await?;
    note_refused(&refused);
    Ok(())
}
