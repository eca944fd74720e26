//! `serve`: a node with its doors, from the first check to the last fsync.
//!
//! **Owns**: the flags, the order of opening and closing, the ready line, the signals.
//! **Does not own**: the configuration (`config`), the door (`front`), the node.
//!
//! Opening: configuration, log, ports (taken or not is known at once), data directory, ready.
//! Closing, at the first SIGTERM or SIGINT: the door closes in order, then the node. At the second,
//! the process ends at once: what was acknowledged is durable all the same.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Context;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args};
use domicile_proto::ErrorKind;
use domicile_replication::Node;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};

use super::failure::Failure;
use super::logs;
use crate::config::{Config, Layers, LogFormat, Origin, Override};
use crate::front::Door;
use crate::metrics::HttpDoor;

/// The flags of `serve`; each is stronger than its variable, and that than the file.
#[derive(Debug, Args)]
pub(crate) struct ServeFlags {
    /// The configuration file; docs/configuration.md lists its keys.
    #[arg(long, short, env = "DOMICILE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The cluster's name.
    #[arg(long, env = "DOMICILE_CLUSTER", value_name = "NAME")]
    cluster: Option<String>,
    /// Whether homes are static or agreed.
    #[arg(long, env = "DOMICILE_HOMES", value_name = "WORD")]
    homes: Option<String>,
    /// The largest round trip between regions, in ms.
    #[arg(long, env = "DOMICILE_RTT_MAX_MS", value_name = "MS")]
    rtt_max_ms: Option<String>,
    /// How soon a silent home is given up: default or aggressive.
    #[arg(long, env = "DOMICILE_HASTE", value_name = "WORD")]
    haste: Option<String>,
    /// Which of the regions this node is.
    #[arg(long, env = "DOMICILE_REGION", value_name = "NAME")]
    region: Option<String>,
    /// This node is a witness: it votes and holds no data, as its region's entry says.
    #[arg(long, env = "DOMICILE_WITNESS", num_args = 0..=1, default_missing_value = "true",
          value_name = "BOOL")]
    witness: Option<String>,
    /// The node of this region whose disk is lost, as `status` or its log named it: this one takes
    /// its place, and it must never come back.
    #[arg(long, env = "DOMICILE_REPLACES", value_name = "NODE")]
    replaces: Option<String>,
    /// The data directory.
    #[arg(long, env = "DOMICILE_DATA", value_name = "DIR")]
    data: Option<String>,
    /// Where clients dial in.
    #[arg(long, env = "DOMICILE_LISTEN_CLIENT", value_name = "ADDRESS:PORT")]
    listen_client: Option<String>,
    /// Where other regions dial in.
    #[arg(long, env = "DOMICILE_LISTEN_PEER", value_name = "ADDRESS:PORT")]
    listen_peer: Option<String>,
    /// Where metrics and health are asked for; empty: nowhere.
    #[arg(long, env = "DOMICILE_LISTEN_HTTP", value_name = "ADDRESS:PORT")]
    listen_http: Option<String>,
    /// What serves the cells: sled or memory.
    #[arg(long, env = "DOMICILE_ENGINE", value_name = "ENGINE")]
    engine: Option<String>,
    /// The engine's cache.
    #[arg(long, env = "DOMICILE_ENGINE_CACHE_BYTES", value_name = "BYTES")]
    engine_cache_bytes: Option<String>,
    /// Cells in memory that the engine does not have yet.
    #[arg(long, env = "DOMICILE_OVERLAY_BYTES_MAX", value_name = "BYTES")]
    overlay_bytes_max: Option<String>,
    /// Size of a journal file.
    #[arg(long, env = "DOMICILE_JOURNAL_FILE_BYTES", value_name = "BYTES")]
    journal_file_bytes: Option<String>,
    /// Size of the journal above which what nobody needs of it is deleted.
    #[arg(long, env = "DOMICILE_JOURNAL_KEEP_BYTES", value_name = "BYTES")]
    journal_keep_bytes: Option<String>,
    /// Bytes of the journal kept for a copy that lacks them; above it, it needs a snapshot.
    #[arg(long, env = "DOMICILE_COPY_KEEP_BYTES", value_name = "BYTES")]
    copy_keep_bytes: Option<String>,
    /// Age of the oldest write kept for a copy that lacks it.
    #[arg(long, env = "DOMICILE_COPY_KEEP_MS", value_name = "MS")]
    copy_keep_ms: Option<String>,
    /// How long a commit may take before the node counts as failed.
    #[arg(long, env = "DOMICILE_STALL_MAX_MS", value_name = "MS")]
    stall_max_ms: Option<String>,
    /// How fast what was written long ago is read again; 0: not at all.
    #[arg(long, env = "DOMICILE_SCRUB_BYTES_PER_S", value_name = "BYTES")]
    scrub_bytes_per_s: Option<String>,
    /// How long between two such passes.
    #[arg(long, env = "DOMICILE_SCRUB_PAUSE_MS", value_name = "MS")]
    scrub_pause_ms: Option<String>,
    /// Clients at once.
    #[arg(long, env = "DOMICILE_CONNECTIONS_MAX", value_name = "COUNT")]
    connections_max: Option<String>,
    /// Calls at once on a connection.
    #[arg(long, env = "DOMICILE_CALLS_MAX", value_name = "COUNT")]
    calls_max: Option<String>,
    /// Bytes of unanswered writes.
    #[arg(long, env = "DOMICILE_IN_FLIGHT_BYTES_MAX", value_name = "BYTES")]
    in_flight_bytes_max: Option<String>,
    /// Watches at once on the node.
    #[arg(long, env = "DOMICILE_WATCHES_MAX", value_name = "COUNT")]
    watches_max: Option<String>,
    /// What calls may take once the node closes.
    #[arg(long, env = "DOMICILE_DRAIN_TIMEOUT_MS", value_name = "MS")]
    drain_timeout_ms: Option<String>,
    /// What is logged, as in RUST_LOG.
    #[arg(long, env = "DOMICILE_LOG_FILTER", value_name = "DIRECTIVES")]
    log_filter: Option<String>,
    /// How the log looks: text or json.
    #[arg(long, env = "DOMICILE_LOG_FORMAT", value_name = "FORMAT")]
    log_format: Option<String>,
}

/// Which flag sets which key.
const KEYS: [(&str, &str); 28] = [
    ("cluster", "cluster.name"),
    ("homes", "cluster.homes"),
    ("rtt_max_ms", "cluster.rtt_max_ms"),
    ("haste", "cluster.haste"),
    ("region", "node.region"),
    ("witness", "node.witness"),
    ("replaces", "node.replaces"),
    ("data", "node.data"),
    ("listen_client", "node.listen_client"),
    ("listen_peer", "node.listen_peer"),
    ("listen_http", "node.listen_http"),
    ("engine", "node.engine"),
    ("engine_cache_bytes", "node.engine_cache_bytes"),
    ("overlay_bytes_max", "node.overlay_bytes_max"),
    ("journal_file_bytes", "node.journal_file_bytes"),
    ("journal_keep_bytes", "node.journal_keep_bytes"),
    ("copy_keep_bytes", "node.copy_keep_bytes"),
    ("copy_keep_ms", "node.copy_keep_ms"),
    ("stall_max_ms", "node.stall_max_ms"),
    ("scrub_bytes_per_s", "node.scrub_bytes_per_s"),
    ("scrub_pause_ms", "node.scrub_pause_ms"),
    ("connections_max", "limits.connections_max"),
    ("calls_max", "limits.calls_max"),
    ("in_flight_bytes_max", "limits.in_flight_bytes_max"),
    ("watches_max", "limits.watches_max"),
    ("drain_timeout_ms", "limits.drain_timeout_ms"),
    ("log_filter", "log.filter"),
    ("log_format", "log.format"),
];

/// The configuration that the flags, variables and the file amount to, not yet checked.
pub(crate) fn layers(matches: &ArgMatches) -> anyhow::Result<Layers> {
    let file = matches.get_one::<PathBuf>("config");
    let overrides = KEYS.iter().filter_map(|(flag, key)| {
        let value = matches.get_one::<String>(flag)?.clone();
        let origin = match matches.value_source(flag)? {
            ValueSource::EnvVariable => Origin::Environment,
            _ => Origin::Flag,
        };
        Some(Override { key, value, origin })
    });
    Ok(Layers::load(
        file.map(PathBuf::as_path),
        &overrides.collect::<Vec<_>>(),
    )?)
}

/// Runs a node until it is told to stop.
pub(crate) async fn run(matches: &ArgMatches) -> anyhow::Result<()> {
    let config = layers(matches)?.check()?;
    logs::start(&config.log)?;
    let mut signals = Signals::new()?;
    let (stop, stopped) = oneshot::channel();
    tokio::select! {
        ended = serve(config, stopped) => ended,
        () = signals.twice(stop) => {
            let message = "told to stop twice: ended without draining";
            Err(Failure::new(ErrorKind::Unavailable, message).into())
        }
    }
}

async fn serve(config: Config, stopped: oneshot::Receiver<()>) -> anyhow::Result<()> {
    let door = Door::open(config.listen_client, config.limits).await?;
    let http = match config.listen_http {
        Some(address) => Some(HttpDoor::open(address).await?),
        None => None,
    };
    let data = config.node.data.clone();
    let opened = Node::open(config.node).await;
    let node = opened.with_context(|| format!("cannot open {}", data.display()))?;
    let address = door.address()?;
    let peer = node
        .peer_address()
        .map_or_else(|| "-".to_owned(), |peer| peer.to_string());
    let (region, id, data) = (node.region(), node.node_id(), data.display());
    match config.log.format {
        LogFormat::Text => writeln!(
            io::stderr().lock(),
            "domicile ready: region={region} node={id} client={address} peer={peer} data={data}"
        )?,
        LogFormat::Json => {
            tracing::info!(%region, node = %id, client = %address, %peer, %data, "domicile ready");
        }
    }
    let (closing, watched) = watch::channel(false);
    let asked = http.map(|http| tokio::spawn(http.serve(node.clone(), watched)));
    let served = door
        .serve(node.clone(), async {
            // A sender that is gone means the same as its message.
            let _ = stopped.await;
            closing.send_replace(true);
            tracing::info!("closing");
        })
        .await;
    if let Some(asked) = asked {
        asked.abort();
    }
    let closed = node.close().await;
    served?;
    closed?;
    tracing::info!("closed");
    Ok(())
}

/// The two signals that mean "stop".
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self {
            terminate,
            interrupt,
        })
    }

    /// Passes the first one on; returns at the second.
    async fn twice(&mut self, stop: oneshot::Sender<()>) {
        self.next().await;
        // A node that is closing on its own has no ear for it.
        let _ = stop.send(());
        self.next().await;
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Command, FromArgMatches};

    fn parse(line: &str) -> ArgMatches {
        let command = ServeFlags::augment_args(Command::new("serve"));
        let matches = command.try_get_matches_from(line.split(' ')).unwrap();
        assert!(ServeFlags::from_arg_matches(&matches).is_ok());
        matches
    }

    #[test]
    fn every_flag_sets_its_key() {
        for (flag, key) in KEYS {
            let known = crate::config::KEYS.iter().find(|known| known.name == key);
            let sample = known.unwrap().sample();
            let line = format!("serve --{}={sample}", flag.replace('_', "-"));
            let effective = layers(&parse(&line)).unwrap().effective();
            let set = effective.iter().find(|each| each.key == key).unwrap();
            assert_eq!(
                (set.value.as_str(), set.origin),
                (sample, Origin::Flag),
                "{flag}"
            );
        }
        let flags = ServeFlags::augment_args(Command::new("serve"));
        // All but the file itself.
        assert_eq!(flags.get_arguments().count(), KEYS.len() + 1);
    }

    #[tokio::test]
    async fn a_bad_configuration_is_refused_before_anything_is_opened() {
        let refused = run(&parse("serve --region=EU --engine=rocks"))
            .await
            .unwrap_err();
        let told = refused.to_string();
        assert!(
            told.contains("node.region") && told.contains("node.engine"),
            "{told}"
        );
    }
}
