//! A load of writes on one node: what is written, how fast, and what came of it.
//!
//! **Owns**: the plan, the pace, the clock of the run and the tally of its writes.
//! **Does not own**: the calls (`unary`, `stream`) nor the histograms (`recorder`).
//!
//! ```text
//! closed loop: each client writes again as soon as it is answered; time counts from the call
//! open loop:   writes fall due at fixed times, whoever is free takes the next; time counts from
//!              when it fell due, so a stall is charged to every write that it delayed
//! ```
//!
//! One thread runs the whole load, because client and servers share the processors of a machine.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use domicile_proto::Seq;
use domicile_proto::v1::kv_client::KvClient;
use tokio::task::LocalSet;
use tonic::transport::{Channel, Endpoint};

use super::pace::{Pace, Pacer};
use super::recorder::{Errors, Latencies};
use super::{stream, unary};
use crate::rig::{Ack, Keys, Random, Stop};

/// The most acknowledged writes that a load keeps a list of: 128 MiB of them. A load that reaches
/// it ends early. Doubled, the list alone takes a quarter GiB.
const ACKS_MAX: usize = 4_000_000;

/// How long after its end a load waits for answers: longer than any node's `ack_timeout` default,
/// so that what is unanswered then is lost. Doubled, a dead node is noticed twice as late.
const DRAIN_MAX: Duration = Duration::from_secs(8);

/// How long a connection may take, on loopback.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Clients that share a connection, which is cheaper than one each: their calls share packets.
/// Doubled, 256 clients wait for two connections' turns instead of four's.
const CLIENTS_PER_CONNECTION: usize = 64;

/// How the writes are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One call a write, by so many clients at once.
    Unary {
        /// Clients, or the most calls outstanding in an open loop.
        clients: usize,
    },
    /// One stream of writes.
    Stream {
        /// The most writes without an answer.
        outstanding: usize,
    },
}

impl Shape {
    /// A few words for a table.
    #[must_use]
    pub fn label(self) -> String {
        match self {
            Self::Unary { clients: 1 } => "unary, 1 client".to_owned(),
            Self::Unary { clients } => format!("unary, {clients} clients"),
            Self::Stream { outstanding } => format!("stream, {outstanding} outstanding"),
        }
    }
}

/// Whether a load remembers each write that was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    /// For a comparison with what survives.
    Keep,
    /// Only latencies and counts.
    Discard,
}

/// In which order a load writes to its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Each key as likely as any other.
    Random,
    /// One after the other, from the first.
    Sequential,
}

/// What to do.
#[derive(Clone, Debug)]
pub struct LoadPlan {
    /// The node's address, "http://127.0.0.1:7400".
    pub endpoint: String,
    /// The keyspace written to.
    pub keyspace: String,
    /// The keys and values written.
    pub keys: Arc<Keys>,
    /// The number of the next write; shared by loads whose values must differ.
    pub numbers: Arc<AtomicU64>,
    /// The number after the last write: the load ends there, if not earlier.
    pub numbers_end: u64,
    /// Which key comes next.
    pub order: Order,
    /// How the writes are sent.
    pub shape: Shape,
    /// When.
    pub pace: Pace,
    /// Time before anything is recorded.
    pub warmup: Duration,
    /// Time that is recorded.
    pub duration: Duration,
    /// Which keys, in which order.
    pub seed: u64,
    /// Whether acknowledged writes are listed.
    pub acks: Acks,
    /// The zero of all times in the list.
    pub epoch: Instant,
    /// Ends the load early, as its end would.
    pub halt: Arc<AtomicBool>,
    /// Ends the run.
    pub stop: Stop,
}

impl LoadPlan {
    /// A closed loop of unlimited writes in random order, whose list of writes is not kept.
    #[must_use]
    pub fn new(endpoint: String, keyspace: String, keys: Arc<Keys>, shape: Shape) -> Self {
        Self {
            endpoint,
            keyspace,
            keys,
            numbers: Arc::new(AtomicU64::new(1)),
            numbers_end: u64::MAX,
            order: Order::Random,
            shape,
            pace: Pace::Closed,
            warmup: Duration::ZERO,
            duration: Duration::from_secs(1),
            seed: 1,
            acks: Acks::Discard,
            epoch: Instant::now(),
            halt: Arc::default(),
            stop: Stop::default(),
        }
    }

    /// Whether no further write shall begin because all are begun, or the run ends.
    pub(super) fn is_written(&self) -> bool {
        self.numbers.load(Ordering::Relaxed) >= self.numbers_end || self.stop.is_set()
    }
}

/// One second of a load.
#[derive(Clone, Debug)]
pub struct Second {
    /// Since the start, warm-up included.
    pub since_start: Duration,
    /// Writes acknowledged in it.
    pub acked: u64,
    /// How long they took.
    pub latencies: Latencies,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct LoadResult {
    /// How long the writes took that were begun (or fell due) in the recorded time.
    pub latencies: Latencies,
    /// Writes acknowledged in the recorded time.
    pub acked: u64,
    /// The recorded time.
    pub time: Duration,
    /// Failed writes of that time by reason.
    pub errors: Errors,
    /// All acknowledged writes, warm-up included, if asked for.
    pub acks: Vec<Ack>,
}

impl LoadResult {
    /// Writes acknowledged a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.acked as f64 / self.time.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

/// A write that was begun.
#[derive(Clone, Copy, Debug)]
pub(super) struct Issued {
    pub(super) key: u32,
    pub(super) number: u64,
    /// When its time began to count.
    pub(super) since: Instant,
}

/// What a write was answered.
#[derive(Debug)]
pub(super) enum Answer {
    Acked { seq: Seq },
    Failed { reason: String },
}

/// What all clients of a load share; one thread holds it.
pub(super) struct Running<'a> {
    pub(super) plan: &'a LoadPlan,
    pub(super) pacer: Arc<Pacer>,
    started: Instant,
    tally: RefCell<Tally>,
}

struct Tally {
    latencies: Latencies,
    second: Latencies,
    acked: u64,
    errors: Errors,
    acks: Vec<Ack>,
}

impl Running<'_> {
    pub(super) fn record_from(&self) -> Instant {
        self.started + self.plan.warmup
    }

    pub(super) fn ends_at(&self) -> Instant {
        self.record_from() + self.plan.duration
    }

    /// Whether no further write shall begin.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        now >= self.ends_at() || self.plan.halt.load(Ordering::Relaxed) || self.plan.is_written()
    }

    /// A write to a key drawn from `random`, begun at `since`.
    pub(super) fn issue(plan: &LoadPlan, random: &mut Random, since: Instant) -> (Issued, Bytes) {
        let number = plan.numbers.fetch_add(1, Ordering::Relaxed);
        let key = match plan.order {
            Order::Random => random.below(plan.keys.count()),
            Order::Sequential => (number % u64::from(plan.keys.count())) as u32,
        };
        (Issued { key, number, since }, plan.keys.value(key, number))
    }

    pub(super) fn answered(&self, issued: Issued, answer: Answer) {
        let now = Instant::now();
        let tally = &mut *self.tally.borrow_mut();
        let recorded = issued.since >= self.record_from();
        match answer {
            Answer::Acked { seq } => {
                let latency = now.duration_since(issued.since);
                tally.second.record(latency);
                if recorded {
                    tally.latencies.record(latency);
                }
                if now >= self.record_from() && now < self.ends_at() {
                    tally.acked += 1;
                }
                if self.plan.acks == Acks::Keep {
                    tally.acks.push(Ack {
                        key: issued.key,
                        number: issued.number,
                        seq,
                        at: now.duration_since(self.plan.epoch),
                    });
                    if tally.acks.len() >= ACKS_MAX {
                        self.plan.halt.store(true, Ordering::Relaxed);
                    }
                }
            }
            Answer::Failed { reason } => {
                if recorded {
                    *tally.errors.entry(reason).or_default() += 1;
                }
            }
        }
    }

    async fn report_seconds(&self, observe: &mut dyn FnMut(Second)) {
        let second = Duration::from_secs(1);
        let mut ticks = tokio::time::interval_at((self.started + second).into(), second);
        loop {
            ticks.tick().await;
            let tally = &mut *self.tally.borrow_mut();
            let latencies = std::mem::take(&mut tally.second);
            observe(Second {
                since_start: self.started.elapsed(),
                acked: latencies.count(),
                latencies,
            });
        }
    }
}

/// Runs a load to its end on this thread, which must not belong to a runtime.
///
/// # Errors
/// No connection. Failed writes are counted, not returned.
pub fn run_load(plan: &LoadPlan, observe: &mut dyn FnMut(Second)) -> anyhow::Result<LoadResult> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no runtime for the load")?;
    let local = LocalSet::new();
    let result = local.block_on(&runtime, drive(plan, observe));
    // Calls without an answer go with the runtime.
    result
}

async fn drive(plan: &LoadPlan, observe: &mut dyn FnMut(Second)) -> anyhow::Result<LoadResult> {
    let connections = match plan.shape {
        Shape::Unary { clients } => clients.div_ceil(CLIENTS_PER_CONNECTION),
        Shape::Stream { .. } => 1,
    };
    let mut channels = Vec::new();
    for _ in 0..connections {
        channels.push(connect(&plan.endpoint).await?);
    }
    let started = Instant::now();
    let pacer = Pacer::start(plan.pace, started)?;
    let tally = RefCell::new(Tally {
        latencies: Latencies::new(),
        second: Latencies::new(),
        acked: 0,
        errors: Errors::new(),
        acks: Vec::new(),
    });
    let running = Rc::new(Running {
        plan,
        pacer,
        started,
        tally,
    });
    let writing = async {
        match plan.shape {
            Shape::Unary { clients } => unary::run(&running, &channels, clients).await,
            Shape::Stream { outstanding } => stream::run(&running, &channels[0], outstanding).await,
        }
    };
    let ending = async {
        // The clients see the end themselves; this wakes those that wait for their turn.
        while !running.is_over(Instant::now()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        running.pacer.end();
        tokio::time::sleep(DRAIN_MAX).await;
    };
    let unanswered = tokio::select! {
        unanswered = writing => unanswered,
        () = ending => Err(anyhow::anyhow!("UNANSWERED")),
        () = running.report_seconds(observe) => Ok(()),
    };
    running.pacer.end();
    let time = running.started.elapsed().saturating_sub(plan.warmup);
    let mut tally = running.tally.replace(Tally {
        latencies: Latencies::new(),
        second: Latencies::new(),
        acked: 0,
        errors: Errors::new(),
        acks: Vec::new(),
    });
    if let Err(error) = unanswered {
        *tally.errors.entry(error.to_string()).or_default() += 1;
    }
    Ok(LoadResult {
        latencies: tally.latencies,
        acked: tally.acked,
        time: time.min(plan.duration),
        errors: tally.errors,
        acks: tally.acks,
    })
}

/// A connection to a node.
pub(super) async fn connect(endpoint: &str) -> anyhow::Result<Channel> {
    Endpoint::from_shared(endpoint.to_owned())?
        .tcp_nodelay(true)
        .connect_timeout(CONNECT_TIMEOUT)
        .connect()
        .await
        .with_context(|| format!("no connection to {endpoint}"))
}

/// A client on a connection.
pub(super) fn client(channel: &Channel) -> KvClient<Channel> {
    KvClient::new(channel.clone())
}
