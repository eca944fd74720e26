//! How a run ended, when it ran to its end.
//!
//! **Owns**: the two ends.
//! **Does not own**: the exit codes (the command line).

/// Whether everything that was promised held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum ExitOutcome {
    /// It did.
    Pass,
    /// Something did not; it has been said what.
    Fail,
}

impl ExitOutcome {
    /// The outcome of a check.
    pub fn of(holds: impl FnOnce() -> bool) -> Self {
        if holds() { Self::Pass } else { Self::Fail }
    }
}
