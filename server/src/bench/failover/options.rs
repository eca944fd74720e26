//! What `bench failover` is asked for beside what all benches are.
//!
//! **Owns**: the options, their defaults and their bounds.
//! **Does not own**: flags and environment variables (`cli`).

use std::time::Duration;

use domicile_proto::AckLevel;
use domicile_replication::Haste;
use serde_json::{Value, json};

use crate::rig::{HomesPlan, Rtts};

/// The most times that a home is lost, or handed on, in one run: half a day. Doubled, the history
/// of homes that the nodes keep does not hold a run any more.
const CHANGES_MAX: usize = 256;

/// The most partitions that are idle: ten times those of the promise. Doubled, the map alone
/// takes what a node may hold.
const PARTITIONS_MAX: u32 = 100_000;

/// Regions without which no majority is left when one is lost.
const REGIONS_MIN: usize = 3;

/// A part of the measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailoverPart {
    /// A home is lost, and another region takes over.
    Takeover,
    /// A home is handed on while clients write.
    Switchover,
    /// Puts with agreed homes against puts with static ones.
    Steady,
    /// What many partitions cost of which none is written.
    Idle,
}

impl FailoverPart {
    /// All of them, in their order.
    pub const ALL: [Self; 4] = [Self::Takeover, Self::Switchover, Self::Steady, Self::Idle];

    /// The word for it on a command line.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Takeover => "takeover",
            Self::Switchover => "switchover",
            Self::Steady => "steady",
            Self::Idle => "idle",
        }
    }
}

/// What to measure, and how often.
#[derive(Clone, Debug)]
pub struct FailoverOptions {
    /// The parts that are measured.
    pub parts: Vec<FailoverPart>,
    /// How often a home is lost.
    pub takeovers: usize,
    /// How often a home is handed on.
    pub switchovers: usize,
    /// How soon a silent home is given up.
    pub haste: Haste,
    /// When the writes of takeovers are acknowledged.
    pub ack: String,
    /// Partitions that are idle.
    pub idle_partitions: u32,
    /// For how long that is watched.
    pub idle_time: Duration,
}

impl Default for FailoverOptions {
    fn default() -> Self {
        Self {
            parts: FailoverPart::ALL.to_vec(),
            takeovers: 50,
            switchovers: 50,
            haste: Haste::Default,
            ack: "async".to_owned(),
            idle_partitions: 10_000,
            idle_time: Duration::from_secs(60),
        }
    }
}

impl FailoverOptions {
    /// Checks what can be checked before anything is started.
    ///
    /// # Errors
    /// The first option that cannot be.
    pub(in crate::bench) fn check(&self, regions: usize) -> anyhow::Result<()> {
        let counts = [
            ("--runs", self.takeovers, CHANGES_MAX),
            ("--switchovers", self.switchovers, CHANGES_MAX),
            (
                "--idle-partitions",
                self.idle_partitions as usize,
                PARTITIONS_MAX as usize,
            ),
        ];
        for (what, number, most) in counts {
            anyhow::ensure!(
                (1..=most).contains(&number),
                "{what} is {number}, allowed 1 to {most}"
            );
        }
        anyhow::ensure!(
            regions >= REGIONS_MIN,
            "{regions} regions, at least {REGIONS_MIN} expected: the others must be a majority"
        );
        let level: AckLevel = self.ack.parse()?;
        let copies = regions - 1;
        let needed = level
            .received_needed(copies)
            .max(level.durable_needed(copies));
        anyhow::ensure!(
            needed < copies,
            "--ack {} needs all regions: nothing is acknowledged while one is lost",
            self.ack
        );
        Ok(())
    }

    /// Homes that the regions of these distances agree on.
    pub(super) fn homes(&self, rtts: &Rtts) -> HomesPlan {
        HomesPlan::agreed(rtts, self.haste)
    }

    /// As they are kept with the results.
    pub(super) fn words(&self) -> Value {
        let parts: Vec<&str> = self.parts.iter().map(|part| part.word()).collect();
        json!({
            "parts": parts,
            "takeovers": self.takeovers,
            "switchovers": self.switchovers,
            "haste": format!("{:?}", self.haste).to_lowercase(),
            "ack": self.ack,
            "idle_partitions": self.idle_partitions,
            "idle_s": self.idle_time.as_secs_f64(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_allowed_and_nonsense_is_not() {
        let refused = |change: fn(&mut FailoverOptions)| {
            let mut options = FailoverOptions::default();
            options.check(3).unwrap();
            change(&mut options);
            options.check(3).unwrap_err().to_string()
        };
        assert!(refused(|it| it.takeovers = 0).contains("--runs is 0, allowed 1 to 256"));
        assert!(refused(|it| it.idle_partitions = 1 << 20).contains("--idle-partitions"));
        assert!(refused(|it| it.ack = "sync".to_owned()).contains("needs all regions"));
        assert!(refused(|it| it.ack = "never".to_owned()).contains("never"));
        let two = FailoverOptions::default().check(2).unwrap_err().to_string();
        assert!(two.contains("2 regions, at least 3"), "{two}");
        let two_of_three = FailoverOptions {
            ack: "sync:2".to_owned(),
            ..FailoverOptions::default()
        };
        two_of_three.check(3).unwrap();
    }
}
