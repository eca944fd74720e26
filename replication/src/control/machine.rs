//! What the control plane's log is the history of.
//!
//! **Owns**: the contract between consensus and what it orders commands for.
//! **Does not own**: what a command means.

/// A state that is a pure function of the commands applied to it, in order. Every voter and learner
/// has its own and applies the same commands.
pub trait Machine: Send + 'static {
    /// Applies one committed command; the answer goes to whoever proposed it. A command that makes
    /// no sense is answered, never a panic: it is in the log for ever. Commands may come twice, as
    /// a proposer that got no answer proposes again.
    fn apply(&mut self, command: &[u8]) -> Vec<u8>;

    /// The whole state; at most `SNAPSHOT_BYTES_MAX` (64 MiB).
    fn snapshot(&self) -> Vec<u8>;

    /// Replaces the state by one that [`Machine::snapshot`] gave.
    ///
    /// # Errors
    /// What is wrong with the bytes, in words; the node then leaves the control plane.
    fn restore(&mut self, bytes: &[u8]) -> Result<(), String>;
}
