//! What the demo is asked for.
//!
//! **Owns**: the options, their defaults and their bounds.
//! **Does not own**: flags (`cli`).

use std::path::PathBuf;
use std::time::Duration;

/// The shortest demo: below it no level is measured for a second.
const DURATION_MIN: Duration = Duration::from_secs(30);

/// The longest: a demo ends by itself.
const DURATION_MAX: Duration = Duration::from_secs(3600);

/// The options.
#[derive(Clone, Debug)]
pub struct DemoOptions {
    /// The regions; the last is the home that is compared and lost.
    pub regions: Vec<String>,
    /// Their round trips: see [`Rtts::parse`](crate::rig::Rtts::parse).
    pub rtt: String,
    /// Where everything is kept; `None`: a temporary directory.
    pub dir: Option<PathBuf>,
    /// From start to end, about.
    pub duration: Duration,
    /// Which keys, which values, when the region is lost.
    pub seed: u64,
}

impl Default for DemoOptions {
    fn default() -> Self {
        Self {
            regions: ["us-east", "us-west", "eu-west"]
                .map(str::to_owned)
                .to_vec(),
            rtt: "us-east:us-west=66,us-east:eu-west=64,us-west:eu-west=146".to_owned(),
            dir: None,
            duration: Duration::from_secs(70),
            seed: 1,
        }
    }
}

impl DemoOptions {
    /// Checks what can be checked before anything is started.
    ///
    /// # Errors
    /// The first option that cannot be, with its bounds.
    pub fn check(&self) -> anyhow::Result<()> {
        let duration = self.duration;
        anyhow::ensure!(
            (DURATION_MIN..=DURATION_MAX).contains(&duration),
            "--duration is {duration:?}, allowed {DURATION_MIN:?} to {DURATION_MAX:?}"
        );
        let regions = self.regions.len();
        anyhow::ensure!(
            regions >= 2,
            "{regions} regions, at least 2: one is lost and one is left"
        );
        Ok(())
    }
}
