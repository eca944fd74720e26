//! What a bench is asked for.
//!
//! **Owns**: the options, their defaults and their bounds.
//! **Does not own**: flags and environment variables (`cli`).

use std::path::PathBuf;
use std::time::Duration;

use super::failover::FailoverOptions;
use super::load::Shape;
use super::pace::Pace;
use crate::rig::{RttError, Rtts, VALUE_BYTES_DEFAULT};

/// Keys of a load unless asked otherwise, the number that every published figure here is for.
pub const KEYS_DEFAULT: u32 = 100_000;

/// Keys of a store that is opened again, and of those that engines are compared with: the promise
/// about opening is for a million.
pub const MANY_KEYS_DEFAULT: u32 = 1_000_000;

/// The most keys: a gigabyte of them in memory. Doubled, the client needs more than the servers.
const KEYS_MAX: u32 = 10_000_000;

/// The most writes a client keeps outstanding: what a stream accepts. Doubled, the servers refuse.
const OUTSTANDING_MAX: usize = 8192;

/// The longest one measurement: an hour. Doubled, its list of acknowledged writes is cut anyway.
const DURATION_MAX: Duration = Duration::from_secs(3600);

/// Which measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bench {
    /// What each ack level costs and loses, in three regions.
    Acks,
    /// Puts on one region against a bare server.
    Throughput,
    /// Pipelined writes on one region.
    Stream,
    /// Writes of an embedded node.
    Embedded,
    /// From an acknowledgement to its being readable at a copy.
    Lag,
    /// A copy that was cut off catches up.
    CatchUp,
    /// What nodes hold in memory while a copy is away.
    Memory,
    /// A large store is opened again.
    Reopen,
    /// The engines, each in a large store.
    Engines,
    /// What a change of homes costs.
    Failover,
}

impl Bench {
    /// The word for it on a command line.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Acks => "acks",
            Self::Throughput => "throughput",
            Self::Stream => "stream",
            Self::Embedded => "embedded",
            Self::Lag => "lag",
            Self::CatchUp => "catch-up",
            Self::Memory => "memory",
            Self::Reopen => "reopen",
            Self::Engines => "engines",
            Self::Failover => "failover",
        }
    }
}

/// Whether a run ends with the loss of the home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Kill it under load and count what is lost.
    Crash,
    /// Only stop.
    Quiet,
}

/// How the writes of `acks` are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// One call a write.
    Unary,
    /// One stream of writes.
    Stream,
}

/// All options of all benches; each uses its own.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// Which measurement.
    pub bench: Bench,
    /// The regions; the first is the home.
    pub regions: Vec<String>,
    /// Their round trips: see [`Rtts::parse`].
    pub rtt: String,
    /// Writes a second of an open loop; `None`: a closed loop.
    pub rate_per_s: Option<f64>,
    /// Clients at once; several numbers make as many rows.
    pub clients: Vec<usize>,
    /// How `acks` sends.
    pub transport: Transport,
    /// Writes outstanding in a stream; several numbers make as many rows.
    pub outstanding: Vec<usize>,
    /// Keys written to.
    pub keys: u32,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Recorded time of each row, over all its rounds.
    pub duration: Duration,
    /// Time before each recording.
    pub warmup: Duration,
    /// Turns in which the rows alternate, so that a noisy moment spoils no single one.
    pub rounds: usize,
    /// Which keys, which values, when the crash comes.
    pub seed: u64,
    /// Whether `acks` ends with a crash.
    pub ending: Ending,
    /// Where result.json, the histograms and report.html go.
    pub out: Option<PathBuf>,
    /// Where the servers keep their data meanwhile; `None`: a temporary directory.
    pub dir: Option<PathBuf>,
    /// What `failover` is asked for besides.
    pub failover: FailoverOptions,
    /// The program that serves in `failover`; `None`: this one.
    pub program: Option<PathBuf>,
}

impl BenchOptions {
    /// The defaults of a bench.
    #[must_use]
    pub fn new(bench: Bench) -> Self {
        let clients = match bench {
            Bench::Throughput | Bench::Embedded => vec![1, 64, 256],
            Bench::Failover => vec![1, 64],
            _ => vec![64],
        };
        let outstanding = match bench {
            Bench::Stream => vec![256, 1024, 4096],
            _ => vec![4096],
        };
        Self {
            bench,
            regions: ["a", "b", "c"].map(str::to_owned).to_vec(),
            rtt: "80".to_owned(),
            rate_per_s: None,
            clients,
            transport: Transport::Unary,
            outstanding,
            keys: match bench {
                Bench::Reopen | Bench::Engines => MANY_KEYS_DEFAULT,
                _ => KEYS_DEFAULT,
            },
            value_bytes: VALUE_BYTES_DEFAULT,
            duration: match bench {
                Bench::Memory => Duration::from_secs(60),
                Bench::Failover => Duration::from_secs(24),
                _ => Duration::from_secs(9),
            },
            warmup: Duration::from_secs(1),
            rounds: match bench {
                // Two medians that are compared to 2 % need many turns.
                Bench::Failover => 12,
                _ => 3,
            },
            seed: 1,
            ending: Ending::Crash,
            out: None,
            dir: None,
            failover: FailoverOptions::default(),
            program: None,
        }
    }

    /// Checks what can be checked before anything is started.
    ///
    /// # Errors
    /// The first option that cannot be, with its bounds.
    pub fn check(&self) -> anyhow::Result<()> {
        self.rtts()?;
        let within = |what: &str, number: usize, most: usize| {
            anyhow::ensure!(
                (1..=most).contains(&number),
                "{what} is {number}, allowed 1 to {most}"
            );
            Ok(())
        };
        within("--keys", self.keys as usize, KEYS_MAX as usize)?;
        within("--value-bytes", self.value_bytes, 1 << 20)?;
        within("--rounds", self.rounds, 100)?;
        within("number of --clients", self.clients.len(), 16)?;
        within("number of --outstanding", self.outstanding.len(), 16)?;
        for clients in &self.clients {
            within("--clients", *clients, OUTSTANDING_MAX)?;
        }
        for outstanding in &self.outstanding {
            within("--outstanding", *outstanding, OUTSTANDING_MAX)?;
        }
        if self.bench == Bench::Failover {
            self.failover.check(self.regions.len())?;
        }
        let duration = self.duration;
        anyhow::ensure!(
            duration > Duration::ZERO && duration + self.warmup <= DURATION_MAX,
            "--duration is {duration:?}, allowed above 0 and, with --warmup, to {DURATION_MAX:?}"
        );
        Ok(())
    }

    /// The distances asked for.
    ///
    /// # Errors
    /// [`RttError`].
    pub fn rtts(&self) -> Result<Rtts, RttError> {
        Rtts::parse(&self.regions, &self.rtt)
    }

    /// The first region, in which the load is at home.
    #[must_use]
    pub fn home(&self) -> &str {
        self.regions.first().map_or("", String::as_str)
    }

    /// The pace asked for.
    #[must_use]
    pub fn pace(&self) -> Pace {
        self.rate_per_s
            .map_or(Pace::Closed, |rate_per_s| Pace::Open { rate_per_s })
    }

    /// One shape for each row of a level.
    #[must_use]
    pub fn shapes(&self) -> Vec<Shape> {
        match self.transport {
            Transport::Unary => {
                let clients = self.clients.iter();
                clients.map(|&clients| Shape::Unary { clients }).collect()
            }
            Transport::Stream => {
                let windows = self.outstanding.iter();
                windows
                    .map(|&outstanding| Shape::Stream { outstanding })
                    .collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_allowed_and_nonsense_is_not() {
        let refused = |change: fn(&mut BenchOptions)| {
            let mut options = BenchOptions::new(Bench::Acks);
            options.check().unwrap();
            change(&mut options);
            options.check().unwrap_err().to_string()
        };
        assert!(refused(|o| o.clients = vec![0]).contains("--clients is 0, allowed 1 to 8192"));
        assert!(refused(|o| o.clients.clear()).contains("number of --clients is 0"));
        assert!(refused(|o| o.outstanding = vec![9000]).contains("9000"));
        assert!(refused(|o| o.keys = 0).contains("--keys is 0"));
        assert!(refused(|o| o.duration = Duration::ZERO).contains("--duration is 0ns"));
        assert!(refused(|o| o.rtt = "x".to_owned()).contains("invalid round trip"));
    }
}
