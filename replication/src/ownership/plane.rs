//! This node's part in the control plane: consensus on the map, and messages about leases.
//!
//! **Owns**: starting it, proposing commands, how its messages reach other nodes.
//! **Does not own**: consensus itself (control), what a leader does (`lead`).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
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
use crate::error::Error;
use crate::options::ControlOptions;
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
    /// Tells this start of the process from others.
    pub(crate) incarnation: u64,
    /// Keyspaces that are made once the cluster can hold them.
    pub(crate) declared: Vec<Keyspace>,
    /// The node of this region that is lost for good.
    pub(crate) replaces: Option<NodeId>,
    pub(crate) lead: mpsc::Sender<LeadInput>,
    pub(crate) clients: BTreeMap<RegionId, PeerClient<Channel>>,
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
        let clients = clients(topology)?;
        let transport = PeerTransport {
            cluster: topology.cluster.to_string(),
            clients: clients.clone(),
        };
        let member = |region: RegionId| Member {
            region,
            addresses: Vec::new(),
        };
        let founders = topology.regions.iter().map(|region| member(region.id));
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

fn clients(topology: &Topology) -> Result<BTreeMap<RegionId, PeerClient<Channel>>, Error> {
    let mut clients = BTreeMap::new();
    for region in topology.peers() {
        if let Some(client) = lazy_client(region)? {
            clients.insert(region.id, client);
        }
    }
    Ok(clients)
}

/// Carries messages of consensus over the peers' doors.
struct PeerTransport {
    cluster: String,
    clients: BTreeMap<RegionId, PeerClient<Channel>>,
}

impl Transport for PeerTransport {
    fn send<'a>(
        &'a self,
        to: &'a Member,
        request: Bytes,
        within: Duration,
    ) -> BoxFuture<'a, Result<Bytes, TransportError>> {
        let failed = |problem: String| TransportError { problem };
        let client = self.clients.get(&to.region).cloned();
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
pub(super) fn region_of(plane: &Plane, node: NodeId) -> Option<RegionId> {
    let known = plane.map().node(node).map(|it| it.region);
    let members = || plane.consensus.members().members;
    known.or_else(|| members().get(&node).map(|member| member.region))
}
