//! A node's part in the control plane.
//!
//! **Owns**: starting, asking the leader wherever it is, stopping.
//! **Does not own**: what commands mean (machine), how messages travel (transport).

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use domicile_proto::NodeId;
use domicile_proto::v1::control_reply::Reply;
use domicile_proto::v1::control_request::Request;
use domicile_proto::v1::{ControlJoin, ControlPropose, ControlRemove};
use domicile_storage::control_log::{ControlLog, Term};
use openraft::SnapshotPolicy;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::answer::{answer, propose_here};
use super::calls::{Calls, unexpected};
use super::confirm::{Confirmed, Rounds};
use super::core::{Core, RaftHandle, stopped};
use super::election::Elections;
use super::error::ControlError;
use super::formation;
use super::leadership::Leadership;
use super::log::{DurableLog, check_covered};
use super::machine::Machine;
use super::member::{Leader, Member, Members};
use super::membership::{admit, dismiss};
use super::network::Network;
use super::options::Options;
use super::raft::Raft;
use super::state::{Applied, State};
use super::transport::Transport;
use super::wire::{check_command, put_member};

/// Entries that stay in the log behind a snapshot, for followers that are a little behind: half of
/// what is between two snapshots.
const KEEP_SHARE: u64 = 2;

/// Most entries in one message; their bytes are bounded, too.
const MESSAGE_ENTRIES_MAX: u64 = 300;

/// A chunk of a snapshot: a megabyte, a quarter of the largest message.
const CHUNK_BYTES: u64 = 1 << 20;

/// One node's part in the control plane; clones are the same one. [`Consensus::shutdown`] ends it.
#[derive(Debug)]
pub struct Consensus<M> {
    core: Arc<Core>,
    state: State<M>,
    rounds: Rounds,
    tasks: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl<M> Clone for Consensus<M> {
    fn clone(&self) -> Self {
        Self {
            core: Arc::clone(&self.core),
            state: self.state.clone(),
            rounds: self.rounds.clone(),
            tasks: Arc::clone(&self.tasks),
        }
    }
}

impl<M: Machine> Consensus<M> {
    /// Takes part: as what the log says or, with an empty one, by founding or joining a cluster in
    /// the background. Messages are to be given to [`Consensus::answer`] from now on.
    ///
    /// # Errors
    /// [`ControlError::Settings`]; [`ControlError::Store`], [`ControlError::Malformed`] and
    /// [`ControlError::Stopped`] if what is on disk is not right: the node must not vote.
    pub async fn start(
        options: Options,
        log: ControlLog,
        machine: M,
        transport: Arc<dyn Transport>,
    ) -> Result<Self, ControlError> {
        options.check()?;
        if log.node() != options.node {
            let (actual, expected) = (log.node(), options.node);
            let problem = format!("control log of {actual} for {expected}");
            return Err(ControlError::Settings { problem });
        }
        let opened = tokio::task::spawn_blocking(move || {
            let state = State::open(log.snapshots(), machine)?;
            check_covered(&log, state.last())?;
            Ok::<_, ControlError>((state, DurableLog::new(log)))
        });
        let opened = opened.await.map_err(|error| ControlError::Stopped {
            cause: error.to_string(),
        });
        let (state, log) = opened??;
        let (calls, muted) = (
            Calls::new(options.node, transport),
            Arc::new(AtomicBool::new(false)),
        );
        let network = Network {
            calls: calls.clone(),
            muted: Arc::clone(&muted),
            pause: options.timings.interval,
        };
        let config = Arc::new(config(&options)?);
        let raft = Raft::new(options.node.get(), config, network, log, state.clone()).await;
        let core = Arc::new(Core {
            raft: RaftHandle(raft.map_err(|fatal| stopped(&fatal))?),
            calls,
            timings: options.timings,
            muted,
            changes: tokio::sync::Mutex::new(()),
            promised: Mutex::new(None),
            options,
        });
        let (rounds, confirming) = Rounds::new(Arc::clone(&core));
        let tasks = vec![
            tokio::spawn(confirming),
            tokio::spawn(watch_over(Arc::clone(&core))),
            tokio::spawn(formation::run(Arc::clone(&core))),
        ];
        Ok(Self {
            core,
            state,
            rounds,
            tasks: Arc::new(Mutex::new(tasks)),
        })
    }

    /// Answers a message of another node.
    ///
    /// # Errors
    /// [`ControlError::Malformed`] and [`ControlError::TooLarge`]: whoever sent it is faulty.
    pub async fn answer(&self, request: Bytes) -> Result<Bytes, ControlError> {
        Box::pin(answer(&self.core, &request)).await
    }

    /// Has a command ordered and applied; the answer is the leader's machine's. From any node: it
    /// is forwarded to the leader, one hop, and while there is none it waits. A command may be
    /// applied twice, or after this has failed.
    ///
    /// # Errors
    /// [`ControlError::TooLarge`]; [`ControlError::NotLeader`] and [`ControlError::Unavailable`] if
    /// no leader was found in time; [`ControlError::Indeterminate`]; [`ControlError::Stopped`].
    pub async fn propose(&self, command: Bytes, within: Duration) -> Result<Bytes, ControlError> {
        check_command(&command)?;
        let hop_max = self.core.timings.lease + self.core.timings.campaign();
        let proposed = self.at_leader(within, hop_max, |leader, hop| {
            let (core, command) = (&self.core, command.clone());
            async move {
                let Some(leader) = leader else {
                    return propose_here(core, command, hop).await;
                };
                let within_ms = hop.as_millis() as u32;
                let request = Request::Propose(ControlPropose { command, within_ms });
                match ask_leader(core, &leader, request, hop).await? {
                    Reply::Proposed(proposed) => Ok(proposed.answer),
                    other => Err(unexpected(&other)),
                }
            }
        });
        Box::pin(proposed).await
    }

    /// As [`Consensus::propose`], but only while this node leads: it is not forwarded.
    ///
    /// # Errors
    /// [`ControlError::NotLeader`]; otherwise as [`Consensus::propose`].
    pub async fn propose_as_leader(
        &self,
        command: Bytes,
        within: Duration,
    ) -> Result<Bytes, ControlError> {
        Box::pin(propose_here(&self.core, command, within)).await
    }

    /// Confirms that this node leads, and that all that was committed before this call is applied
    /// here. Callers at the same time share a round, which begins after the last of them called.
    /// What it says and does not say stands in `confirm`.
    ///
    /// # Errors
    /// [`ControlError::NotLeader`]; [`ControlError::Unavailable`] without a quorum in time;
    /// [`ControlError::Stopped`].
    pub async fn confirm_leadership(&self, within: Duration) -> Result<Confirmed, ControlError> {
        self.rounds.join(&self.core, within).await
    }

    /// How far commands are applied here, and every change of it.
    #[must_use]
    pub fn applied(&self) -> watch::Receiver<Applied> {
        self.state.applied()
    }

    /// Looks at the machine; nothing is applied meanwhile. What is seen may be behind the leader's.
    pub fn read<T>(&self, look: impl FnOnce(&M) -> T) -> T {
        self.state.read(look)
    }

    /// The leader as this node knows it.
    #[must_use]
    pub fn leader(&self) -> Option<Leader> {
        self.core.leader()
    }

    /// Whether this node believes that it leads; it may have been succeeded.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.leader()
            .is_some_and(|leader| leader.node == self.core.node())
    }

    /// The highest term that this node knows.
    #[must_use]
    pub fn term(&self) -> Term {
        Term::new(self.core.metrics().current_term)
    }

    /// Who votes and who follows, as far as this node knows.
    #[must_use]
    pub fn members(&self) -> Members {
        self.core.members()
    }

    /// Why this node has left consensus, if it has.
    #[must_use]
    pub fn stopped(&self) -> Option<String> {
        self.core
            .metrics()
            .running_state
            .err()
            .map(|fatal| fatal.to_string())
    }

    /// Makes a node a voter once it has the log, in the place of `replaces` if that is given: one
    /// that lost its disk. The node must be running. From any node.
    ///
    /// # Errors
    /// [`ControlError::RegionTaken`] if the region has another voter that is not replaced;
    /// otherwise as [`Consensus::propose`]. All but the former may be repeated.
    pub async fn add_voter(
        &self,
        node: NodeId,
        member: Member,
        replaces: Option<NodeId>,
        within: Duration,
    ) -> Result<(), ControlError> {
        let added = self.at_leader(within, within, |leader, hop| {
            let (core, member) = (&self.core, &member);
            async move {
                let Some(leader) = leader else {
                    return admit(core, node, member, replaces, hop).await;
                };
                let request = Request::Join(ControlJoin {
                    member: Some(put_member(node.get(), Some(member))),
                    replaces: replaces.map_or(0, NodeId::get),
                    within_ms: hop.as_millis() as u32,
                });
                changed(ask_leader(core, &leader, request, hop).await?)
            }
        });
        Box::pin(added).await
    }

    /// Lets a node be a voter, and a member, no longer; also the leader, which then steps down.
    /// From any node.
    ///
    /// # Errors
    /// [`ControlError::LastVoter`]; otherwise as [`Consensus::propose`], and may be repeated.
    pub async fn remove_voter(&self, node: NodeId, within: Duration) -> Result<(), ControlError> {
        let removed = self.at_leader(within, within, |leader, hop| {
            let core = &self.core;
            async move {
                let Some(leader) = leader else {
                    return dismiss(core, node, hop).await;
                };
                let request = Request::Remove(ControlRemove {
                    node: node.get(),
                    within_ms: hop.as_millis() as u32,
                });
                changed(ask_leader(core, &leader, request, hop).await?)
            }
        });
        Box::pin(removed).await
    }

    /// Ends this node's part, here and for good; the others elect another leader if this one led.
    pub async fn shutdown(&self) {
        let tasks = {
            let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *tasks)
        };
        for task in &tasks {
            task.abort();
        }
        // Its result says that it has ended, which is what was asked for.
        let _ = self.core.raft.0.shutdown().await;
        for task in tasks {
            let _ = task.await;
        }
    }

    /// Runs `attempt` with the leader (`None`: here) until it is done or time is up. What was not
    /// taken by a leader is tried again, and what may have been, too: commands may come twice.
    async fn at_leader<T, F>(
        &self,
        within: Duration,
        hop_max: Duration,
        mut attempt: impl FnMut(Option<Leader>, Duration) -> F,
    ) -> Result<T, ControlError>
    where
        F: Future<Output = Result<T, ControlError>>,
    {
        let deadline = Instant::now() + within;
        let mut maybe_done = false;
        loop {
            let hop = deadline
                .saturating_duration_since(Instant::now())
                .min(hop_max);
            let leader = self.core.leader();
            let error = match leader {
                Some(leader) if leader.node == self.core.node() => attempt(None, hop).await,
                Some(leader) => {
                    maybe_done = true;
                    attempt(Some(leader), hop).await
                }
                None => Err(self.core.not_leader()),
            };
            let error = match error {
                Err(error @ ControlError::NotLeader { .. }) => error,
                Err(error @ ControlError::Unavailable { .. }) => error,
                Err(error @ ControlError::Indeterminate { .. }) => {
                    maybe_done = true;
                    error
                }
                decided => return decided,
            };
            if let Some(cause) = self.stopped() {
                return Err(ControlError::Stopped { cause });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(match error {
                    ControlError::Unavailable { .. } if maybe_done => {
                        ControlError::Indeterminate { within }
                    }
                    other => other,
                });
            }
            tokio::time::sleep(self.core.timings.look().min(left)).await;
        }
    }
}

async fn ask_leader(
    core: &Core,
    leader: &Leader,
    request: Request,
    within: Duration,
) -> Result<Reply, ControlError> {
    let member = leader.member.as_ref().ok_or_else(|| core.not_leader())?;
    core.calls
        .ask(Some(leader.node), member, request, within)
        .await
}

fn changed(reply: Reply) -> Result<(), ControlError> {
    match reply {
        Reply::Changed(_) => Ok(()),
        other => Err(unexpected(&other)),
    }
}

/// Looks at openraft's state again and again: elections, and this node's own leadership.
async fn watch_over(core: Arc<Core>) {
    let mut elections = Elections::new(Arc::clone(&core));
    let mut leadership = Leadership::new(Arc::clone(&core));
    loop {
        tokio::time::sleep(core.timings.look()).await;
        let view = match core.view().await {
            Ok(view) => view,
            Err(error) => {
                tracing::warn!(node = %core.node(), %error, "consensus has ended here");
                return;
            }
        };
        elections.look(&view).await;
        leadership.look(&view).await;
    }
}

fn config(options: &Options) -> Result<openraft::Config, ControlError> {
    let timings = &options.timings;
    let millis = |duration: Duration| duration.as_millis() as u64;
    let config = openraft::Config {
        cluster_name: "domicile".to_owned(),
        heartbeat_interval: millis(timings.interval),
        // With elections of its own switched off this is what a vote may take.
        election_timeout_min: millis(timings.interval) + 1,
        // And this for how long a leader that was heard is not deposed.
        election_timeout_max: millis(timings.lease),
        enable_elect: false,
        install_snapshot_timeout: millis(timings.chunk()),
        max_payload_entries: MESSAGE_ENTRIES_MAX,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(options.snapshot_entries),
        snapshot_max_chunk_size: CHUNK_BYTES,
        max_in_snapshot_log_to_keep: options.snapshot_entries / KEEP_SHARE,
        replication_lag_threshold: options.snapshot_entries * 2,
        ..openraft::Config::default()
    };
    config.validate().map_err(|error| ControlError::Settings {
        problem: error.to_string(),
    })
}
