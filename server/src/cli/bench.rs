//! The flags of `domicile bench`.
//!
//! **Owns**: their names, environment variables and help, and turning them into options.
//! **Does not own**: defaults, bounds and the benches themselves (`bench`).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use domicile_replication::{Engine, Haste};

use crate::bench::{
    self, Bench, BenchOptions, CeilingMode, CeilingOptions, Ending, EngineLife, FailoverOptions,
    FailoverPart, Transport, live_engine_life, serve_ceiling,
};
use crate::rig::{ExitOutcome, run_leashed};

/// Measures this machine, this build, and what their figures are worth.
#[derive(Debug, Args)]
pub(crate) struct BenchCommand {
    #[command(subcommand)]
    bench: BenchVerb,
}

#[derive(Debug, Subcommand)]
enum BenchVerb {
    /// What each ack level costs in latency and saves in lost writes, in three regions.
    Acks(BenchFlags),
    /// Durable puts on one region against a bare server that group-commits to one file.
    Throughput(BenchFlags),
    /// Pipelined durable writes on one region.
    Stream(BenchFlags),
    /// Durable puts of a node embedded in this process.
    Embedded(BenchFlags),
    /// From an acknowledgement to its being readable at a copy.
    Lag(BenchFlags),
    /// A copy that was cut off for 300,000 writes catches up.
    CatchUp(BenchFlags),
    /// Memory of the nodes under full load while one copy is away.
    Memory(BenchFlags),
    /// A store of a million keys is opened again.
    Reopen(BenchFlags),
    /// The engines of this build, each in a large store: writes, memory, disk, reads.
    Engines(BenchFlags),
    /// What a change of homes costs: a lost one, a planned one, and none at all.
    Failover(Box<FailoverFlags>),
    #[command(hide = true)]
    EngineLife(EngineLifeFlags),
    #[command(hide = true)]
    CeilingServer(CeilingFlags),
    #[command(hide = true)]
    Leashed(LeashedFlags),
}

#[derive(Debug, Args)]
struct BenchFlags {
    /// Regions, separated by commas; the first is the home.
    #[arg(long, env = "DOMICILE_BENCH_REGIONS", value_delimiter = ',')]
    regions: Vec<String>,
    /// Round trips in ms: "80" for all pairs, or "a:b=66,a:c=64,b:c=146".
    #[arg(long, env = "DOMICILE_BENCH_RTT")]
    rtt: Option<String>,
    /// Writes a second of an open loop; without it the loop is closed.
    #[arg(long, env = "DOMICILE_BENCH_RATE")]
    rate: Option<f64>,
    /// Clients at once; several numbers, separated by commas, make as many rows.
    #[arg(long, env = "DOMICILE_BENCH_CLIENTS", value_delimiter = ',')]
    clients: Vec<usize>,
    /// Send through one stream of writes instead of a call a write (acks).
    #[arg(long)]
    stream: bool,
    /// Writes outstanding in a stream; several numbers make as many rows.
    #[arg(long, env = "DOMICILE_BENCH_OUTSTANDING", value_delimiter = ',')]
    outstanding: Vec<usize>,
    /// Keys written to.
    #[arg(long, env = "DOMICILE_BENCH_KEYS")]
    keys: Option<u32>,
    /// Bytes of a value.
    #[arg(long, env = "DOMICILE_BENCH_VALUE_BYTES")]
    value_bytes: Option<usize>,
    /// Seconds recorded for each row, over all rounds.
    #[arg(long, env = "DOMICILE_BENCH_DURATION", value_parser = seconds)]
    duration: Option<Duration>,
    /// Seconds before each recording.
    #[arg(long, env = "DOMICILE_BENCH_WARMUP", value_parser = seconds)]
    warmup: Option<Duration>,
    /// Turns in which the rows alternate.
    #[arg(long, env = "DOMICILE_BENCH_ROUNDS")]
    rounds: Option<usize>,
    /// Which keys, which values, when the crash comes.
    #[arg(long, env = "DOMICILE_BENCH_SEED")]
    seed: Option<u64>,
    /// Leave out the loss of the home at the end (acks).
    #[arg(long)]
    no_crash: bool,
    /// Keep result.json, histograms and report.html in this directory.
    #[arg(long, env = "DOMICILE_BENCH_OUT")]
    out: Option<PathBuf>,
    /// Keep the servers' data in this directory, which must be empty, instead of a temporary one.
    #[arg(long, env = "DOMICILE_BENCH_DIR")]
    dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct FailoverFlags {
    /// The parts that are measured; all, if none is named.
    #[arg(long, env = "DOMICILE_BENCH_PARTS", value_delimiter = ',')]
    parts: Vec<PartWord>,
    /// How often a home is lost (takeover).
    #[arg(long, env = "DOMICILE_BENCH_RUNS")]
    runs: Option<usize>,
    /// How often the homes are handed on (switchover).
    #[arg(long, env = "DOMICILE_BENCH_SWITCHOVERS")]
    switchovers: Option<usize>,
    /// How soon a silent home is given up.
    #[arg(long, env = "DOMICILE_BENCH_HASTE", default_value = "default")]
    haste: HasteWord,
    /// When writes are acknowledged while homes are lost: async, semi-sync, sync:2 (takeover).
    #[arg(long, env = "DOMICILE_BENCH_ACK")]
    ack: Option<String>,
    /// Partitions of which none is written (idle).
    #[arg(long, env = "DOMICILE_BENCH_IDLE_PARTITIONS")]
    idle_partitions: Option<u32>,
    /// Seconds for which they are watched (idle).
    #[arg(long, env = "DOMICILE_BENCH_IDLE_TIME", value_parser = seconds)]
    idle_time: Option<Duration>,
    #[command(flatten)]
    bench: BenchFlags,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PartWord {
    Takeover,
    Switchover,
    Steady,
    Idle,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum HasteWord {
    Default,
    Aggressive,
}

#[derive(Debug, Args)]
struct CeilingFlags {
    #[arg(long)]
    mode: CeilingWord,
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    data: PathBuf,
}

#[derive(Debug, Args)]
struct EngineLifeFlags {
    #[arg(long)]
    engine: String,
    #[arg(long)]
    keys: u32,
    #[arg(long)]
    value_bytes: usize,
    #[arg(long)]
    seed: u64,
    #[arg(long)]
    data: PathBuf,
    #[arg(long)]
    result: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum CeilingWord {
    Noop,
    Commit,
}

#[derive(Debug, Args)]
struct LeashedFlags {
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// A number of seconds, as a flag gives it.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.trim_end_matches('s').parse::<f64>();
    let time = number
        .ok()
        .and_then(|number| Duration::try_from_secs_f64(number).ok());
    time.ok_or_else(|| format!("{text:?} is no number of seconds"))
}

impl BenchCommand {
    /// Runs the bench to its end.
    ///
    /// # Errors
    /// As [`bench::run`].
    pub(crate) fn run(self) -> anyhow::Result<ExitOutcome> {
        let (bench, flags) = match self.bench {
            BenchVerb::Acks(flags) => (Bench::Acks, flags),
            BenchVerb::Throughput(flags) => (Bench::Throughput, flags),
            BenchVerb::Stream(flags) => (Bench::Stream, flags),
            BenchVerb::Embedded(flags) => (Bench::Embedded, flags),
            BenchVerb::Lag(flags) => (Bench::Lag, flags),
            BenchVerb::CatchUp(flags) => (Bench::CatchUp, flags),
            BenchVerb::Memory(flags) => (Bench::Memory, flags),
            BenchVerb::Reopen(flags) => (Bench::Reopen, flags),
            BenchVerb::Engines(flags) => (Bench::Engines, flags),
            BenchVerb::Failover(flags) => return bench::run(&flags.options()),
            BenchVerb::EngineLife(flags) => {
                live_engine_life(&flags.life()?)?;
                return Ok(ExitOutcome::Pass);
            }
            BenchVerb::CeilingServer(flags) => {
                serve_ceiling(&flags.options())?;
                return Ok(ExitOutcome::Pass);
            }
            BenchVerb::Leashed(flags) => return Err(run_leashed(&flags.arguments).into()),
        };
        bench::run(&flags.options(bench))
    }
}

impl CeilingFlags {
    fn options(self) -> CeilingOptions {
        CeilingOptions {
            mode: match self.mode {
                CeilingWord::Noop => CeilingMode::Noop,
                CeilingWord::Commit => CeilingMode::Commit,
            },
            listen: self.listen,
            data: self.data,
        }
    }
}

impl FailoverFlags {
    fn options(self) -> BenchOptions {
        let defaults = FailoverOptions::default();
        let part = |word: &PartWord| match word {
            PartWord::Takeover => FailoverPart::Takeover,
            PartWord::Switchover => FailoverPart::Switchover,
            PartWord::Steady => FailoverPart::Steady,
            PartWord::Idle => FailoverPart::Idle,
        };
        let failover = FailoverOptions {
            parts: if self.parts.is_empty() {
                defaults.parts
            } else {
                self.parts.iter().map(part).collect()
            },
            takeovers: self.runs.unwrap_or(defaults.takeovers),
            switchovers: self.switchovers.unwrap_or(defaults.switchovers),
            haste: match self.haste {
                HasteWord::Default => Haste::Default,
                HasteWord::Aggressive => Haste::Aggressive,
            },
            ack: self.ack.unwrap_or(defaults.ack),
            idle_partitions: self.idle_partitions.unwrap_or(defaults.idle_partitions),
            idle_time: self.idle_time.unwrap_or(defaults.idle_time),
        };
        BenchOptions {
            failover,
            ..self.bench.options(Bench::Failover)
        }
    }
}

impl EngineLifeFlags {
    fn life(self) -> anyhow::Result<EngineLife> {
        let mut engines = Engine::ALL.into_iter();
        let engine = engines.find(|engine| engine.word() == self.engine);
        let engine = engine.with_context(|| format!("no engine {:?}", self.engine))?;
        Ok(EngineLife {
            engine,
            keys: self.keys,
            value_bytes: self.value_bytes,
            seed: self.seed,
            data: self.data,
            result: self.result,
        })
    }
}

impl BenchFlags {
    fn options(self, bench: Bench) -> BenchOptions {
        let given = |list: Vec<usize>, default: Vec<usize>| {
            if list.is_empty() { default } else { list }
        };
        let defaults = BenchOptions::new(bench);
        BenchOptions {
            bench,
            regions: if self.regions.is_empty() {
                defaults.regions
            } else {
                self.regions
            },
            rtt: self.rtt.unwrap_or(defaults.rtt),
            rate_per_s: self.rate,
            clients: given(self.clients, defaults.clients),
            transport: if self.stream {
                Transport::Stream
            } else {
                Transport::Unary
            },
            outstanding: given(self.outstanding, defaults.outstanding),
            keys: self.keys.unwrap_or(defaults.keys),
            value_bytes: self.value_bytes.unwrap_or(defaults.value_bytes),
            duration: self.duration.unwrap_or(defaults.duration),
            warmup: self.warmup.unwrap_or(defaults.warmup),
            rounds: self.rounds.unwrap_or(defaults.rounds),
            seed: self.seed.unwrap_or(defaults.seed),
            ending: if self.no_crash {
                Ending::Quiet
            } else {
                Ending::Crash
            },
            out: self.out,
            dir: self.dir,
            failover: defaults.failover,
            program: defaults.program,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_numbers_with_or_without_their_unit() {
        assert_eq!(seconds("1.5"), Ok(Duration::from_millis(1500)));
        assert_eq!(seconds("20s"), Ok(Duration::from_secs(20)));
        for text in ["", "-1", "x", "NaN", "1e30"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
