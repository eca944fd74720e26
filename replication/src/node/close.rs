//! Closing a node: refuse, drain, end, release.
//!
//! **Owns**: the order and the bound of it.
//! **Does not own**: refusing (driver), flushing (storage).

use std::sync::Arc;
use std::time::Duration;

use domicile_proto::Reason;
use tokio::time::Instant;

use super::interior::NodeCore;
use super::open::Threads;
use crate::error::Error;

/// How long writes in flight may take to be answered. Those that wait for a dead copy are answered
/// INDETERMINATE by their own timeout or by the end of the node, whichever is first.
const DRAIN_MAX: Duration = Duration::from_secs(5);

const DRAIN_POLL: Duration = Duration::from_millis(2);

/// Ends a node in order. Every acknowledged write is on disk before; this only makes reopening
/// quick and lets callers hear their answers.
pub(super) async fn close(core: Arc<NodeCore>, threads: Threads) -> Result<(), Error> {
    core.driver.begin_closing();
    let deadline = Instant::now() + DRAIN_MAX;
    while core.driver.slots().any(|slot| slot.has_waiters()) && Instant::now() < deadline {
        tokio::time::sleep(DRAIN_POLL).await;
    }
    core.closed.send_replace(true);
    if let Some(plane) = &core.plane {
        plane.consensus.shutdown().await;
    }
    let (store, buffered) = (Arc::clone(&core.store), Arc::clone(&core));
    let ended = tokio::task::spawn_blocking(move || {
        threads.commit.stop();
        drop(threads.flusher.join());
        drop(threads.keeper.join());
        drop(threads.scrub.join());
        drop(threads.digests.join());
        buffered.buffer.shut();
        store.close()
    });
    match ended.await {
        Ok(closed) => Ok(closed?),
        Err(error) => Err(Error::new(
            Reason::StorePoisoned,
            format!("closing panicked: {error}"),
        )),
    }
}
