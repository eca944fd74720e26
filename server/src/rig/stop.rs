//! The wish of the user to end early.
//!
//! **Owns**: turning an interrupt into a flag that every wait looks at.
//! **Does not own**: cleaning up, which the guards of the run do when it returns.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How often a waiting thread looks at the flag: a delay nobody notices. Doubled, an interrupt is
/// answered twice as late; halved, nothing is gained.
const POLL: Duration = Duration::from_millis(20);

/// What a wait says when it was interrupted.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// Set once by Ctrl-C or SIGTERM; shared by all parts of a run.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// A flag that follows the signals of this process. Without a listener (no thread, no runtime)
    /// the signals keep their default action.
    #[must_use]
    pub fn on_signals() -> Self {
        let stop = Self::default();
        let flag = stop.clone();
        let listening = thread::Builder::new().name("signals".to_owned());
        // Detached: it waits for a signal that may never come, and ends with the process.
        let _ = listening.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .build();
            if let Ok(runtime) = runtime {
                runtime.block_on(flag.listen());
            }
        });
        stop
    }

    async fn listen(&self) {
        use tokio::signal::unix::{SignalKind, signal};
        let Ok(mut terminate) = signal(SignalKind::terminate()) else {
            return;
        };
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        self.set();
    }

    /// Asks every part of the run to end.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the run shall end.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// An error if the run shall end.
    ///
    /// # Errors
    /// [`Interrupted`].
    pub fn check(&self) -> Result<(), Interrupted> {
        if self.is_set() {
            return Err(Interrupted);
        }
        Ok(())
    }

    /// Waits on a thread.
    ///
    /// # Errors
    /// [`Interrupted`], as soon as that is known.
    pub fn sleep(&self, time: Duration) -> Result<(), Interrupted> {
        let until = Instant::now() + time;
        loop {
            self.check()?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(POLL));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_flag_ends_a_wait() {
        let stop = Stop::default();
        assert!(stop.sleep(Duration::from_millis(1)).is_ok());
        stop.clone().set();
        assert!(stop.sleep(Duration::from_secs(3600)).is_err());
    }
}
