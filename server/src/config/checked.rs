//! The configuration as checked: what it holds cannot be wrong.
//!
//! **Owns**: defaults and ranges of single values, how the parts fit together.
//! **Does not own**: regions and keyspaces (`regions`, `keyspaces`), the file (`given`).

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use domicile_proto::{Name, NodeId};
use domicile_replication::{ControlOptions, Engine, Haste, NodeOptions, RegionSpec, VOTERS_MIN};

use super::error::{ConfigError, Faults};
use super::given::{ClusterGiven, Given, LimitsGiven, LogGiven, NodeGiven};
use super::{keyspaces, regions};
use crate::front::FrontLimits;

/// How logs look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object a line.
    Json,
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogOptions {
    /// Directives as in `RUST_LOG`.
    pub filter: String,
    /// How it looks.
    pub format: LogFormat,
}

/// Everything that `serve` must be told.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node.
    pub node: NodeOptions,
    /// Where clients dial in.
    pub listen_client: SocketAddr,
    /// Where metrics and health are asked for; `None`: nowhere.
    pub listen_http: Option<SocketAddr>,
    /// What the client door admits.
    pub limits: FrontLimits,
    /// The log.
    pub log: LogOptions,
}

impl Config {
    pub(super) fn check(given: &Given, mut faults: Faults) -> Result<Self, ConfigError> {
        let name = given.cluster.name.as_deref().unwrap_or("domicile");
        let cluster = faults.check("cluster.name", Name::new(name));
        let region = regions::own(given, &mut faults);
        let regions = regions::check(given, region.as_ref(), &mut faults);
        let keyspaces = keyspaces::check(given, &regions, &mut faults);
        let listen_client = address(
            "node.listen_client",
            given
                .node
                .listen_client
                .as_deref()
                .unwrap_or("127.0.0.1:7400"),
            &mut faults,
        );
        let listen = listen_peer(&given.node, &regions, &mut faults);
        let listen_http = listen_http(&given.node, &mut faults);
        let ports = [
            ("node.listen_client", listen_client),
            ("node.listen_peer", listen),
            ("node.listen_http", listen_http),
        ];
        tell_ports_apart(&ports, &mut faults);
        let control = control(&given.cluster, regions.len(), &mut faults);
        let replaces = given.node.replaces.as_deref();
        let replaces = replaces.map(|text| {
            let id = NodeId::parse(text);
            let expected = format!("{text:?}, expected n and 16 hexadecimal digits");
            faults.check("node.replaces", id.ok_or(expected))
        });
        let limits = limits(&given.limits, &mut faults);
        let log = log(&given.log, &mut faults);
        let node = node_options(&given.node, &mut faults);
        let watches = given.limits.watches_max;
        let watches = within("limits.watches_max", watches, 0..=100_000, &mut faults);
        let parts = (|| {
            let node = node?;
            let node = NodeOptions {
                watches_max: watches.map_or(node.watches_max, |most| most as usize),
                cluster: cluster?,
                region: region?,
                regions,
                keyspaces,
                control,
                replaces: replaces.flatten(),
                listen,
                ..node
            };
            Some(Self {
                node,
                listen_client: listen_client?,
                listen_http,
                limits,
                log,
            })
        })();
        faults.unless(parts)
    }
}

/// Round trips: none below a millisecond matters, and none on earth takes a second.
const RTT_MAX_MS: RangeInclusive<u64> = 1..=1000;

/// Farther apart than any two regions of the large clouds but one or two pairs.
const RTT_MAX_MS_DEFAULT: u64 = 200;

/// How homes are agreed on, if they are.
fn control(given: &ClusterGiven, regions: usize, faults: &mut Faults) -> Option<ControlOptions> {
    let rtt_ms = within("cluster.rtt_max_ms", given.rtt_max_ms, RTT_MAX_MS, faults);
    let haste = match given.haste.as_deref() {
        None | Some("default") => Haste::Default,
        Some("aggressive") => Haste::Aggressive,
        Some(word) => {
            let expected = format_args!("{word:?}, expected default or aggressive");
            faults.note("cluster.haste", expected);
            Haste::Default
        }
    };
    match given.homes.as_deref() {
        None | Some("static") => return None,
        Some("agreed") if regions < VOTERS_MIN => faults.note(
            "cluster.homes",
            format_args!("agreed needs {VOTERS_MIN} regions, there are {regions}"),
        ),
        Some("agreed") => {}
        Some(word) => {
            let expected = format_args!("{word:?}, expected static or agreed");
            faults.note("cluster.homes", expected);
        }
    }
    Some(ControlOptions {
        rtt_max: Duration::from_millis(rtt_ms.unwrap_or(RTT_MAX_MS_DEFAULT)),
        haste,
    })
}

/// Fastest scrub: more than any disk reads, so a slip of a digit is noticed.
const SCRUB_BYTES_PER_S_MAX: u64 = 10 << 30;

/// Between passes: a tenth of a second, for tests, to a year.
const SCRUB_PAUSE_MS: RangeInclusive<u64> = 100..=31_536_000_000;

/// How long a commit may take: a second, which busy disks need now and then, to ten minutes.
const STALL_MAX_MS: RangeInclusive<u64> = 1_000..=600_000;

/// How long the log may be kept for a copy: a minute to ten years.
const COPY_KEEP_MS: RangeInclusive<u64> = 60_000..=315_360_000_000;

fn engine(given: Option<&str>, faults: &mut Faults) -> Option<Engine> {
    let Some(word) = given else {
        return Some(Engine::default());
    };
    let found = Engine::ALL.into_iter().find(|each| each.word() == word);
    match found {
        Some(engine) if engine.is_built() => return found,
        Some(_) => {
            let feature = format_args!(
                "{word:?} is not in this build, which lacks the cargo feature `{word}`"
            );
            faults.note("node.engine", feature);
        }
        None => {
            let known = Engine::ALL.map(Engine::word).join(", ");
            faults.note(
                "node.engine",
                format_args!("{word:?}, expected one of {known}"),
            );
        }
    }
    None
}

/// The options that need no other part; names and lists are filled in by the caller.
fn node_options(given: &NodeGiven, faults: &mut Faults) -> Option<NodeOptions> {
    let data = given.data.as_deref().unwrap_or("domicile-data");
    if data.is_empty() {
        faults.note("node.data", "empty, a path expected");
    }
    let mut options = NodeOptions::single(PathBuf::from(data));
    options.engine = engine(given.engine.as_deref(), faults)?;
    sizes(given, &mut options, faults);
    paces(given, &mut options, faults);
    Some(options)
}

fn sizes(given: &NodeGiven, options: &mut NodeOptions, faults: &mut Faults) {
    const MIB: u64 = 1 << 20;
    let mut bytes = |key, value: Option<u64>, range: RangeInclusive<u64>, field: &mut u64| {
        if let Some(value) = within(key, value, range, faults) {
            *field = value;
        }
    };
    let NodeOptions {
        engine_cache_bytes,
        overlay_bytes_max,
        journal_file_bytes,
        journal_keep_bytes,
        copy_keep_bytes,
        ..
    } = options;
    let cache = given.engine_cache_bytes;
    bytes(
        "node.engine_cache_bytes",
        cache,
        MIB..=MIB << 20,
        engine_cache_bytes,
    );
    let overlay = given.overlay_bytes_max;
    bytes(
        "node.overlay_bytes_max",
        overlay,
        MIB..=MIB << 16,
        overlay_bytes_max,
    );
    let journal = given.journal_file_bytes;
    bytes(
        "node.journal_file_bytes",
        journal,
        MIB..=4096 * MIB,
        journal_file_bytes,
    );
    let keep = given.journal_keep_bytes;
    bytes(
        "node.journal_keep_bytes",
        keep,
        MIB..=MIB << 24,
        journal_keep_bytes,
    );
    let keep = given.copy_keep_bytes;
    bytes(
        "node.copy_keep_bytes",
        keep,
        MIB..=MIB << 24,
        copy_keep_bytes,
    );
}

fn paces(given: &NodeGiven, options: &mut NodeOptions, faults: &mut Faults) {
    let keep_ms = within(
        "node.copy_keep_ms",
        given.copy_keep_ms,
        COPY_KEEP_MS,
        faults,
    );
    options.copy_keep = keep_ms.map_or(options.copy_keep, Duration::from_millis);
    let stall_ms = within(
        "node.stall_max_ms",
        given.stall_max_ms,
        STALL_MAX_MS,
        faults,
    );
    options.stall_max = stall_ms.map_or(options.stall_max, Duration::from_millis);
    let (key, given_rate) = ("node.scrub_bytes_per_s", given.scrub_bytes_per_s);
    let rate = within(key, given_rate, 0..=SCRUB_BYTES_PER_S_MAX, faults);
    options.scrub_bytes_per_s = rate.unwrap_or(options.scrub_bytes_per_s);
    let pause_ms = within(
        "node.scrub_pause_ms",
        given.scrub_pause_ms,
        SCRUB_PAUSE_MS,
        faults,
    );
    options.scrub_pause = pause_ms.map_or(options.scrub_pause, Duration::from_millis);
}

fn listen_peer(
    given: &NodeGiven,
    regions: &[RegionSpec],
    faults: &mut Faults,
) -> Option<SocketAddr> {
    match given.listen_peer.as_deref() {
        Some(text) => address("node.listen_peer", text, faults),
        None if regions.len() > 1 => address("node.listen_peer", "127.0.0.1:7401", faults),
        None => None,
    }
}

fn listen_http(given: &NodeGiven, faults: &mut Faults) -> Option<SocketAddr> {
    match given.listen_http.as_deref().unwrap_or("127.0.0.1:7480") {
        "" => None,
        text => address("node.listen_http", text, faults),
    }
}

/// Each listener has an address of its own.
fn tell_ports_apart(ports: &[(&str, Option<SocketAddr>)], faults: &mut Faults) {
    for (index, (key, address)) in ports.iter().enumerate() {
        let Some(address) = address.filter(|address| address.port() != 0) else {
            continue;
        };
        let same = ports[..index]
            .iter()
            .find(|(_, other)| *other == Some(address));
        if let Some((other, _)) = same {
            faults.note(key, format_args!("{address} is {other}, too"));
        }
    }
}

fn limits(given: &LimitsGiven, faults: &mut Faults) -> FrontLimits {
    let mut limits = FrontLimits::default();
    let connections = given.connections_max;
    if let Some(value) = within("limits.connections_max", connections, 1..=100_000, faults) {
        limits.connections_max = value as usize;
    }
    if let Some(value) = within("limits.calls_max", given.calls_max, 1..=100_000, faults) {
        limits.calls_max = value as u32;
    }
    let bytes = given.in_flight_bytes_max;
    if let Some(value) = within(
        "limits.in_flight_bytes_max",
        bytes,
        8 << 20..=1 << 40,
        faults,
    ) {
        limits.in_flight_bytes_max = value as usize;
    }
    let drain_ms = given.drain_timeout_ms;
    if let Some(value) = within("limits.drain_timeout_ms", drain_ms, 0..=600_000, faults) {
        limits.drain_timeout = Duration::from_millis(value);
    }
    limits
}

/// What is logged if nothing is said. Elections of the control plane are told by ourselves;
/// openraft warns of each of their usual steps.
const LOG_FILTER: &str = "info,openraft=error";

fn log(given: &LogGiven, faults: &mut Faults) -> LogOptions {
    let filter = given.filter.as_deref().unwrap_or(LOG_FILTER).to_owned();
    let parsed = filter.parse::<tracing_subscriber::filter::Targets>();
    faults.check("log.filter", parsed);
    let format = match given.format.as_deref() {
        None | Some("text") => LogFormat::Text,
        Some("json") => LogFormat::Json,
        Some(other) => {
            faults.note(
                "log.format",
                format_args!("{other:?}, expected text or json"),
            );
            LogFormat::Text
        }
    };
    LogOptions { filter, format }
}

fn address(key: &str, text: &str, faults: &mut Faults) -> Option<SocketAddr> {
    let parsed = text.parse::<SocketAddr>();
    if parsed.is_err() {
        faults.note(
            key,
            format_args!("{text:?}, expected address:port such as 127.0.0.1:7400"),
        );
    }
    parsed.ok()
}

fn within(
    key: &str,
    value: Option<u64>,
    range: RangeInclusive<u64>,
    faults: &mut Faults,
) -> Option<u64> {
    let value = value?;
    if !range.contains(&value) {
        let (least, most) = (range.start(), range.end());
        faults.note(key, format_args!("{value}, expected {least} to {most}"));
        return None;
    }
    Some(value)
}

#[cfg(test)]
#[path = "checked_tests.rs"]
mod tests;
