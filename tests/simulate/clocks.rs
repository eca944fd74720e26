//! The clocks of one machine, each wrong in its own way.
//!
//! **Owns**: true time to boot clock and wall clock, and back.
//! **Does not own**: true time (the queue).

/// The wall at true time 0, in ms since 1970.
const WALL_MS: i64 = 1_700_000_000_000;

/// One machine's clocks.
#[derive(Debug, Clone)]
pub(crate) struct Clocks {
    boot_offset_us: u64,
    /// How much faster than true both run, in millionths.
    drift_ppm: i64,
    /// What was added to the wall.
    wall_offset_ms: i64,
}

impl Clocks {
    pub(crate) fn new(boot_offset_us: u64, drift_ppm: i64, wall_offset_ms: i64) -> Self {
        Self {
            boot_offset_us,
            drift_ppm,
            wall_offset_ms,
        }
    }

    /// The boot clock.
    pub(crate) fn boot_us(&self, true_us: u64) -> u64 {
        let elapsed = i128::from(true_us);
        let drift = elapsed * i128::from(self.drift_ppm) / 1_000_000;
        self.boot_offset_us + (elapsed + drift) as u64
    }

    /// When in true time the boot clock will have reached `boot_us`.
    pub(crate) fn true_us(&self, boot_us: u64) -> u64 {
        let elapsed = i128::from(boot_us.saturating_sub(self.boot_offset_us));
        let true_us = elapsed * 1_000_000 / i128::from(1_000_000 + self.drift_ppm);
        true_us as u64 + 1
    }

    /// The wall.
    pub(crate) fn wall_ms(&self, true_us: u64) -> u64 {
        let elapsed_ms = (self.boot_us(true_us) - self.boot_offset_us) / 1000;
        (WALL_MS + elapsed_ms as i64 + self.wall_offset_ms) as u64
    }

    /// Somebody sets the wall.
    pub(crate) fn jump_wall(&mut self, by_ms: i64) {
        self.wall_offset_ms += by_ms;
    }
}
