//! The bare servers as child processes.
//!
//! **Owns**: starting them and waiting until they answer.
//! **Does not own**: what they do (`ceiling`).

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::ceiling::CeilingMode;
use crate::rig::{Process, Stop, free_addresses};

/// How long one may take to listen; it allocates a file first. Doubled, a server that cannot is
/// reported twice as late.
const READY_MAX: Duration = Duration::from_secs(20);

/// How often that is looked for.
const POLL: Duration = Duration::from_millis(20);

/// A running bare server. Dropping it kills it.
#[derive(Debug)]
pub(super) struct BareServer {
    address: SocketAddr,
    _process: Process,
}

impl BareServer {
    /// Starts one with its files in `dir`, which must exist.
    ///
    /// # Errors
    /// It cannot be started, ends, or does not listen in time.
    pub(super) fn start(mode: CeilingMode, dir: &Path, stop: &Stop) -> anyhow::Result<Self> {
        let address = free_addresses(1)?[0];
        let (listen, data) = (address.to_string(), dir.display().to_string());
        let word = mode.word();
        let arguments = [
            "bench",
            "ceiling-server",
            "--mode",
            word,
            "--listen",
            &listen,
            "--data",
            &data,
        ];
        let name = format!("bare server ({word})");
        let log = dir.join(format!("ceiling-{word}.log"));
        let mut process = Process::start(&name, &arguments, &log)
            .with_context(|| format!("cannot start the {name}"))?;
        let until = Instant::now() + READY_MAX;
        while TcpStream::connect(address).is_err() {
            process.check()?;
            anyhow::ensure!(
                Instant::now() < until,
                "the {name} does not listen after {READY_MAX:?}"
            );
            stop.sleep(POLL)?;
        }
        Ok(Self {
            address,
            _process: process,
        })
    }

    /// Where it listens.
    #[must_use]
    pub(super) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}
