//! The flags of `domicile demo`, and its verbs for a second terminal.
//!
//! **Owns**: their names and help, and turning them into options.
//! **Does not own**: defaults and the demo itself (`demo`).

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::bench::seconds;
use crate::demo::{self, Chaos, DemoOptions};
use crate::rig::ExitOutcome;

/// Three regions on this machine: what each ack level costs, and what it loses with a region.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct DemoCommand {
    #[command(subcommand)]
    verb: Option<DemoVerb>,
    /// Regions, separated by commas; the last is the one that is lost.
    #[arg(long, env = "DOMICILE_DEMO_REGIONS", value_delimiter = ',')]
    regions: Vec<String>,
    /// Round trips in ms: "80" for all pairs, or "a:b=66,a:c=64,b:c=146".
    #[arg(long, env = "DOMICILE_DEMO_RTT")]
    rtt: Option<String>,
    /// Keep everything in this directory, which must be empty, instead of a temporary one.
    #[arg(long, env = "DOMICILE_DEMO_DIR")]
    dir: Option<PathBuf>,
    /// Seconds from start to end, about.
    #[arg(long, env = "DOMICILE_DEMO_DURATION", value_parser = seconds)]
    duration: Option<Duration>,
    /// Which keys, which values, when the region is lost.
    #[arg(long, env = "DOMICILE_DEMO_SEED")]
    seed: Option<u64>,
}

#[derive(Debug, Subcommand)]
enum DemoVerb {
    /// Lists the regions of the running demo and their links.
    Ls(Running),
    /// Kills the server of a region without warning.
    Kill(OneRegion),
    /// Starts the server of a region that was killed.
    Restart(OneRegion),
    /// Cuts the links of a region, or those between two.
    Cut(OneOrTwo),
    /// Heals the links of a region, or those between two.
    Heal(OneOrTwo),
    /// Changes the round trip between two regions.
    Rtt(TwoAndTime),
}

#[derive(Debug, Args)]
struct Running {
    /// The directory of the running demo, which it prints at its start.
    #[arg(long, env = "DOMICILE_DEMO_DIR")]
    dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct OneRegion {
    /// The region.
    region: String,
    #[command(flatten)]
    running: Running,
}

#[derive(Debug, Args)]
struct OneOrTwo {
    /// The region.
    region: String,
    /// The other end; without it all links of the region.
    other: Option<String>,
    #[command(flatten)]
    running: Running,
}

#[derive(Debug, Args)]
struct TwoAndTime {
    /// One region.
    region: String,
    /// The other.
    other: String,
    /// The new round trip in ms.
    ms: f64,
    #[command(flatten)]
    running: Running,
}

impl DemoCommand {
    /// Runs the demo to its end, or tells a running one what to do.
    ///
    /// # Errors
    /// As [`demo::run`] and [`demo::tell`].
    pub(crate) fn run(self) -> anyhow::Result<ExitOutcome> {
        let (chaos, running) = match self.verb {
            None => return demo::run(&self.options()),
            Some(DemoVerb::Ls(running)) => (Chaos::Ls, running),
            Some(DemoVerb::Kill(of)) => (Chaos::Kill(of.region), of.running),
            Some(DemoVerb::Restart(of)) => (Chaos::Restart(of.region), of.running),
            Some(DemoVerb::Cut(of)) => (Chaos::Cut(of.region, of.other), of.running),
            Some(DemoVerb::Heal(of)) => (Chaos::Heal(of.region, of.other), of.running),
            Some(DemoVerb::Rtt(of)) => (Chaos::Rtt(of.region, of.other, of.ms), of.running),
        };
        demo::tell(&chaos, running.dir.as_deref())
    }

    fn options(self) -> DemoOptions {
        let defaults = DemoOptions::default();
        DemoOptions {
            // The default distances are for the default regions.
            rtt: self.rtt.unwrap_or_else(|| {
                if self.regions.is_empty() {
                    defaults.rtt
                } else {
                    "80".to_owned()
                }
            }),
            regions: if self.regions.is_empty() {
                defaults.regions
            } else {
                self.regions
            },
            dir: self.dir,
            duration: self.duration.unwrap_or(defaults.duration),
            seed: self.seed.unwrap_or(defaults.seed),
        }
    }
}
