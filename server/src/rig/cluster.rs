//! Some regions on this machine: a server process each, at their distances from each other.
//!
//! **Owns**: processes, links and directories of a run, and losing a region.
//! **Does not own**: load and judgement (`bench`, `demo`), what delays bytes (`wan`).
//!
//! ```text
//! client of a ---> a  == link a->b, one-way delay each way ==>  b <--- client of b
//!                  a  <== link b->a ==                          b
//! ```
//! A client is local to its region: the way between them has no delay.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use domicile_proto::v1::Consistency;
use serde::Serialize;

use super::door::Door;
use super::echo::{Echo, measure_round_trips};
use super::ports::free_addresses;
use super::process::Process;
use super::rtts::Rtts;
use super::settings::{HomesPlan, KeyspacePlan, ServerPlan, settings};
use super::stop::Stop;
use crate::wan::{Route, Wan};

/// How long a server may take until it answers and has all its peers. A fresh one takes a second;
/// one with a million keys some seconds. Doubled, a server that hangs is reported twice as late.
const READY_MAX: Duration = Duration::from_secs(30);

/// How long a server may take to end when asked: the node waits 5 s for writes in flight.
const PATIENCE: Duration = Duration::from_secs(15);

/// How often readiness is asked for. Doubled, a start takes that much longer.
const POLL: Duration = Duration::from_millis(25);

/// Round trips measured on each link: at 80 ms they take under a second, all links at once.
const ECHOES: usize = 8;

/// What to start.
#[derive(Clone, Debug)]
pub struct ClusterPlan {
    /// The regions and their distances.
    pub rtts: Rtts,
    /// The keyspaces, in all regions.
    pub keyspaces: Vec<KeyspacePlan>,
    /// Whether homes may change.
    pub homes: HomesPlan,
    /// The program that serves; `None`: this one.
    pub program: Option<PathBuf>,
    /// The directory of everything that the run writes.
    pub dir: PathBuf,
}

/// A round trip between two regions, as configured and as measured.
#[derive(Clone, Debug, Serialize)]
pub struct MeasuredRtt {
    /// The region that dials.
    pub from: String,
    /// The region that is dialled.
    pub to: String,
    /// What the link was asked for, in ms.
    pub nominal_ms: f64,
    /// The shortest that was measured, in ms.
    pub min_ms: f64,
    /// Half were within this, in ms.
    pub p50_ms: f64,
}

/// When a region was lost.
#[derive(Clone, Copy, Debug)]
pub struct Crash {
    /// When the process was killed.
    pub at: Instant,
    /// How long after that all its links were cut.
    pub links_cut_after: Duration,
}

/// Running regions. Dropping it kills them.
#[derive(Debug)]
pub struct Cluster {
    rtts: Rtts,
    program: Option<PathBuf>,
    // Before the links, so that servers are gone when those are reset.
    servers: BTreeMap<String, Server>,
    wan: Wan,
    measured: Vec<MeasuredRtt>,
}

#[derive(Debug)]
struct Server {
    process: Option<Process>,
    client_address: SocketAddr,
    data: PathBuf,
    settings: PathBuf,
    log: PathBuf,
}

impl Cluster {
    /// Opens the links, measures them, starts the servers and waits until they all are connected.
    ///
    /// # Errors
    /// Something cannot be started, a server ends or is not ready in time, or the user interrupts.
    pub fn start(plan: &ClusterPlan, stop: &Stop) -> anyhow::Result<Self> {
        let regions = plan.rtts.regions();
        let pairs: Vec<_> = plan.rtts.pairs().collect();
        let wan = Wan::mesh(&pairs, |_, _| Route::later())?;
        let measured = measure(&wan, &plan.rtts)?;
        let addresses = free_addresses(regions.len() * 2).context("no free port")?;
        let mut servers = BTreeMap::new();
        for (region, pair) in regions.iter().zip(addresses.chunks(2)) {
            let peers = plan.rtts.others(region).map(|other| {
                let link = wan.link(region, other)?;
                Ok((other.to_owned(), link.address()))
            });
            let server = ServerPlan {
                region: region.clone(),
                data: plan.dir.join(region).join("data"),
                client_address: pair[0],
                peer_address: pair[1],
                peers: peers.collect::<anyhow::Result<_>>()?,
            };
            for (other, _) in &server.peers {
                wan.link(other, region)?.set_target(server.peer_address);
            }
            let text = settings(&server, &plan.keyspaces, plan.homes);
            servers.insert(region.clone(), Server::prepare(&server, &text)?);
        }
        let mut cluster = Self {
            rtts: plan.rtts.clone(),
            program: plan.program.clone(),
            servers,
            wan,
            measured,
        };
        for region in regions {
            cluster.start_server(region)?;
        }
        cluster.wait_until_connected(stop)?;
        if matches!(plan.homes, HomesPlan::Agreed { .. }) {
            cluster.wait_until_homed(&plan.keyspaces, stop)?;
        }
        Ok(cluster)
    }

    /// Waits until every region reads its own rows of every keyspace at their home: the regions
    /// have agreed on it, and it has its lease.
    fn wait_until_homed(&self, keyspaces: &[KeyspacePlan], stop: &Stop) -> anyhow::Result<()> {
        let since = Instant::now();
        for region in self.rtts.regions() {
            let door = Door::new(&self.endpoint(region)?)?;
            for keyspace in keyspaces {
                let key = bytes::Bytes::from(format!("{region}-probe"));
                let read = || door.get(&keyspace.name, key.clone(), Consistency::Home);
                while let Err(error) = read() {
                    let name = &keyspace.name;
                    anyhow::ensure!(
                        since.elapsed() < READY_MAX,
                        "{name} has no home in {region} after {READY_MAX:?}: {error:#}"
                    );
                    stop.sleep(POLL)?;
                }
            }
        }
        Ok(())
    }

    /// The regions and their distances.
    #[must_use]
    pub fn rtts(&self) -> &Rtts {
        &self.rtts
    }

    /// The links between them.
    #[must_use]
    pub fn wan(&self) -> &Wan {
        &self.wan
    }

    /// The round trips as measured before the servers started.
    #[must_use]
    pub fn measured_rtts(&self) -> &[MeasuredRtt] {
        &self.measured
    }

    /// Where clients of a region go, as an address to connect to.
    ///
    /// # Errors
    /// There is no such region.
    pub fn endpoint(&self, region: &str) -> anyhow::Result<String> {
        Ok(format!("http://{}", self.server(region)?.client_address))
    }

    /// Where a region keeps its data.
    ///
    /// # Errors
    /// There is no such region.
    pub fn data(&self, region: &str) -> anyhow::Result<&Path> {
        Ok(&self.server(region)?.data)
    }

    /// The process of a region, unless it is down.
    ///
    /// # Errors
    /// There is no such region.
    pub fn pid(&self, region: &str) -> anyhow::Result<Option<u32>> {
        Ok(self.server(region)?.process.as_ref().map(Process::pid))
    }

    /// Kills the process of a region without warning.
    ///
    /// # Errors
    /// There is no such region.
    pub fn kill(&mut self, region: &str) -> anyhow::Result<()> {
        if let Some(mut process) = self.server_mut(region)?.process.take() {
            process.kill();
        }
        Ok(())
    }

    /// Stops the process of a region where it is, as a machine that is suspended.
    ///
    /// # Errors
    /// There is no such region.
    pub fn pause(&self, region: &str) -> anyhow::Result<()> {
        if let Some(process) = &self.server(region)?.process {
            process.signal_stop();
        }
        Ok(())
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// There is no such region.
    pub fn unpause(&self, region: &str) -> anyhow::Result<()> {
        if let Some(process) = &self.server(region)?.process {
            process.signal_continue();
        }
        Ok(())
    }

    /// Kills the process of a region and cuts all its links, at one instant: bytes on their way
    /// are gone with it.
    ///
    /// # Errors
    /// There is no such region.
    pub fn lose(&mut self, region: &str) -> anyhow::Result<Crash> {
        let process = self.server_mut(region)?.process.take();
        let at = Instant::now();
        if let Some(process) = &process {
            process.signal_kill();
        }
        self.wan.isolate(region)?;
        let links_cut_after = at.elapsed();
        drop(process);
        Ok(Crash {
            at,
            links_cut_after,
        })
    }

    /// Asks the server of a region to end, and waits for it.
    ///
    /// # Errors
    /// There is no such region, or its server had to be killed.
    pub fn terminate(&mut self, region: &str) -> anyhow::Result<()> {
        if let Some(mut process) = self.server_mut(region)?.process.take() {
            process.terminate(PATIENCE)?;
        }
        Ok(())
    }

    /// Starts the server of a region that is down, on its data.
    ///
    /// # Errors
    /// There is no such region, it is running, or it cannot be started.
    pub fn start_server(&mut self, region: &str) -> anyhow::Result<()> {
        let name = format!("server of {region}");
        let program = self.program.clone();
        let server = self.server_mut(region)?;
        anyhow::ensure!(server.process.is_none(), "{name} is running");
        let settings = server.settings.display().to_string();
        let arguments = ["serve", "--config", &settings];
        let process = match program {
            Some(program) => Process::start_program(&program, &name, &arguments, &server.log),
            None => Process::start(&name, &arguments, &server.log),
        };
        let process = process.with_context(|| format!("cannot start the {name}"))?;
        server.process = Some(process);
        Ok(())
    }

    /// Waits until a server answers, and says how long that took.
    ///
    /// # Errors
    /// It ends or takes too long, or the user interrupts.
    pub fn wait_until_ready(&mut self, region: &str, stop: &Stop) -> anyhow::Result<Duration> {
        self.wait_for(region, stop, |_| true)
    }

    /// Waits until every running server is connected with every other, both ways.
    ///
    /// # Errors
    /// One ends or takes too long, or the user interrupts.
    pub fn wait_until_connected(&mut self, stop: &Stop) -> anyhow::Result<()> {
        let running: Vec<String> = self.running().map(str::to_owned).collect();
        for region in &running {
            self.wait_for(region, stop, |status| {
                let mut peers = status.peers.iter();
                peers.all(|peer| {
                    !running.contains(&peer.region) || (peer.connected && peer.receiving)
                })
            })?;
        }
        Ok(())
    }

    /// The regions whose server runs.
    pub fn running(&self) -> impl Iterator<Item = &str> {
        let running = self.servers.iter();
        let running = running.filter(|(_, server)| server.process.is_some());
        running.map(|(region, _)| region.as_str())
    }

    fn wait_for(
        &mut self,
        region: &str,
        stop: &Stop,
        mut holds: impl FnMut(&domicile_proto::v1::StatusResponse) -> bool,
    ) -> anyhow::Result<Duration> {
        let (endpoint, since) = (self.endpoint(region)?, Instant::now());
        let door = Door::new(&endpoint)?;
        loop {
            let server = self.server_mut(region)?;
            let process = server.process.as_mut();
            process
                .with_context(|| format!("the server of {region} is down"))?
                .check()?;
            let status = door.status();
            if status.as_ref().is_ok_and(&mut holds) {
                return Ok(since.elapsed());
            }
            if since.elapsed() > READY_MAX {
                let words = server.process.as_ref().map(Process::last_words);
                anyhow::bail!(
                    "the server of {region} is not ready after {READY_MAX:?}: {}\n{}",
                    status.map_or_else(|error| error.to_string(), |_| "no peers".to_owned()),
                    words.unwrap_or_default()
                );
            }
            stop.sleep(POLL)?;
        }
    }

    fn server(&self, region: &str) -> anyhow::Result<&Server> {
        self.servers
            .get(region)
            .with_context(|| format!("unknown region {region:?}"))
    }

    fn server_mut(&mut self, region: &str) -> anyhow::Result<&mut Server> {
        self.servers
            .get_mut(region)
            .with_context(|| format!("unknown region {region:?}"))
    }
}

impl Server {
    fn prepare(plan: &ServerPlan, text: &str) -> anyhow::Result<Self> {
        let dir = plan.data.parent().unwrap_or(&plan.data);
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let path = dir.join("serve.toml");
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self {
            process: None,
            client_address: plan.client_address,
            data: plan.data.clone(),
            log: dir.join("serve.log"),
            settings: path,
        })
    }
}

/// Measures every link while echoes stand where the servers will.
fn measure(wan: &Wan, rtts: &Rtts) -> anyhow::Result<Vec<MeasuredRtt>> {
    let mut links = Vec::new();
    for from in rtts.regions() {
        for to in rtts.others(from) {
            let (echo, link) = (Echo::start()?, wan.link(from, to)?);
            link.set_target(echo.address());
            links.push((from.as_str(), to, echo, link.address()));
        }
    }
    std::thread::scope(|scope| {
        let measuring: Vec<_> = links
            .iter()
            .map(|(from, to, _, address)| {
                let timed = scope.spawn(|| measure_round_trips(*address, ECHOES));
                (*from, *to, timed)
            })
            .collect();
        let measured = measuring.into_iter().map(|(from, to, timed)| {
            let times = timed.join().expect("timing round trips does not panic");
            let mut times = times.with_context(|| format!("no echo from {from} to {to}"))?;
            times.sort_unstable();
            let ms = |time: Duration| time.as_secs_f64() * 1000.0;
            Ok(MeasuredRtt {
                from: from.to_owned(),
                to: to.to_owned(),
                nominal_ms: ms(rtts.between(from, to)),
                min_ms: ms(times[0]),
                p50_ms: ms(times[times.len() / 2]),
            })
        });
        measured.collect()
    })
}
