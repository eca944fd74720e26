//! A node's numbers in the OpenMetrics text format.
//!
//! **Owns**: names, units and labels of the metrics; the one place that names prometheus-client.
//! **Does not own**: the numbers (the node's status), what they mean to people (docs/metrics.md).
//!
//! A page is made of one status, so that its numbers are of one moment. Labels are names of
//! regions and keyspaces, of which there are few; none carries a key.

use std::fmt;
use std::time::Duration;

use domicile_replication::{BufferStanding, NodeStatus, PeerStatus};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

/// The page of a status.
pub(super) fn render(status: NodeStatus) -> String {
    let mut registry = Registry::with_prefix("domicile");
    registry.register_collector(Box::new(Numbers(status)));
    let mut page = String::new();
    text::encode(&mut page, &registry).expect("a string takes all text");
    page
}

#[derive(Debug)]
struct Numbers(NodeStatus);

impl Collector for Numbers {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        let status = &self.0;
        node(&mut page, status)?;
        disk(&mut page, status)?;
        memory(&mut page, status)?;
        peers(&mut page, status)?;
        lag(&mut page, status)?;
        keyspaces(&mut page, status)?;
        buffered(&mut page, status)
    }
}

fn node(page: &mut Page<'_>, status: &NodeStatus) -> fmt::Result {
    let labels = [
        ("cluster", status.cluster.clone()),
        ("region", status.region.clone()),
        ("node", status.node.to_string()),
        ("version", status.version.to_owned()),
    ];
    page.info("node", "Which node answers", &labels)?;
    let uptime = seconds(status.uptime);
    page.gauge(
        "uptime",
        "Time since the node was opened",
        Some(Unit::Seconds),
        uptime,
    )?;
    let poisoned = f64::from(u8::from(!status.poisoned.is_empty()));
    page.gauge(
        "poisoned",
        "1 once a failed write or sync made the node refuse writes",
        None,
        poisoned,
    )?;
    let watches = &status.watches;
    page.gauge("watches", "Open watches", None, number(watches.open))?;
    page.gauge(
        "watches_limit",
        "Watches admitted at once",
        None,
        number(watches.open_max),
    )?;
    page.counter(
        "watch_wakeups",
        "Times that a watch was woken",
        None,
        number(watches.wakeups),
    )?;
    page.counter(
        "watches_cut_off",
        "Watches cut off as their consumers were slow",
        None,
        number(watches.cut_off),
    )
}

fn disk(page: &mut Page<'_>, status: &NodeStatus) -> fmt::Result {
    let disk = &status.disk;
    let bytes = || Some(Unit::Bytes);
    page.gauge(
        "disk_free",
        "Bytes free on the device of the data directory",
        bytes(),
        number(disk.free_bytes),
    )?;
    page.gauge(
        "journal",
        "Bytes of journal files",
        bytes(),
        number(disk.journal_bytes),
    )?;
    page.gauge(
        "engine",
        "Bytes of the engine's files",
        bytes(),
        number(disk.engine_bytes),
    )?;
    page.counter("commits", "Group commits", None, number(disk.commits))?;
    page.counter(
        "commit_records",
        "Records in group commits",
        None,
        number(disk.records),
    )?;
    page.counter(
        "commit",
        "Bytes written by group commits",
        bytes(),
        number(disk.commit_bytes),
    )?;
    page.times(
        "fsync_duration",
        "Duration of fdatasync, one a group commit",
        disk.fsync_sum,
        &disk.fsync_counts,
    )?;
    page.counter(
        "flushes",
        "Flushes of cells into the engine",
        None,
        number(disk.flushes),
    )?;
    page.counter(
        "flush_failures",
        "Flushes that failed and were tried again",
        None,
        number(disk.flush_failures),
    )
}

fn memory(page: &mut Page<'_>, status: &NodeStatus) -> fmt::Result {
    let memory = &status.memory;
    let bytes = || Some(Unit::Bytes);
    page.gauge(
        "overlay",
        "Bytes of cells that the engine does not have yet",
        bytes(),
        number(memory.overlay_bytes),
    )?;
    page.gauge(
        "unapplied",
        "Bytes of records that are not visible yet",
        bytes(),
        number(memory.unapplied_bytes),
    )?;
    page.gauge(
        "commit_queue",
        "Bytes of records that wait for the disk",
        bytes(),
        number(memory.commit_queue_bytes),
    )?;
    page.gauge(
        "resident_memory",
        "Resident memory of the process; 0 where it cannot be told",
        bytes(),
        number(memory.resident_bytes),
    )
}

fn peers(page: &mut Page<'_>, status: &NodeStatus) -> fmt::Result {
    let each = |value: &dyn Fn(&PeerStatus) -> f64| each_peer(status, value);
    let flag = |is: bool| f64::from(u8::from(is));
    page.gauges(
        "link_up",
        "1 while this node ships to the peer",
        None,
        &each(&|peer| flag(peer.connected)),
    )?;
    page.gauges(
        "receiving",
        "1 while the peer ships to this node",
        None,
        &each(&|peer| flag(peer.receiving)),
    )?;
    page.gauges(
        "rtt",
        "Round trip to the peer by the last beat; 0 before the first",
        Some(Unit::Seconds),
        &each(&|peer| peer.rtt_us as f64 / 1e6),
    )?;
    page.gauges(
        "clock_skew",
        "Wall clock of the peer minus that of this node",
        Some(Unit::Seconds),
        &each(&|peer| peer.clock_skew_ms as f64 / 1e3),
    )?;
    page.counters(
        "shipped_records",
        "Records shipped to the peer",
        None,
        &each(&|peer| number(peer.shipped_records)),
    )?;
    page.counters(
        "shipped",
        "Bytes shipped to the peer",
        Some(Unit::Bytes),
        &each(&|peer| number(peer.shipped_bytes)),
    )
}

/// What a peer lacks of this node's writes, and this node of the peer's.
fn lag(page: &mut Page<'_>, status: &NodeStatus) -> fmt::Result {
    let each = |value: &dyn Fn(&PeerStatus) -> f64| each_peer(status, value);
    page.gauges(
        "replication_lag_records",
        "Writes acknowledged here and not durable at the peer",
        None,
        &each(&|peer| number(peer.at_risk.writes)),
    )?;
    page.gauges(
        "replication_lag",
        "Bytes acknowledged here and not durable at the peer",
        Some(Unit::Bytes),
        &each(&|peer| number(peer.at_risk.bytes)),
    )?;
    page.gauges(
        "replication_lag",
        "Age of the oldest write not durable at the peer",
        Some(Unit::Seconds),
        &each(&|peer| seconds(peer.at_risk.age)),
    )?;
    let known = status.peers.iter().filter_map(|peer| {
        let staleness = peer.staleness?;
        Some((("peer", peer.region.clone()), seconds(staleness)))
    });
    let known: Rows = known.collect();
    page.gauges(
        "staleness",
        "How stale the peer's partitions may be here; grows without beats, absent before the first",
        Some(Unit::Seconds),
        &known,
    )
}

fn each_peer(status: &NodeStatus, value: &dyn Fn(&PeerStatus) -> f64) -> Rows {
    let peers = status.peers.iter();
    peers
        .map(|peer| (("peer", peer.region.clone()), value(peer)))
        .collect()
}

fn keyspaces(page: &mut Page<'_>, status: &NodeStatus) -> fmt::Result {
    let each = |value: &dyn Fn(&_) -> f64| -> Rows {
        let keyspaces = status.keyspaces.iter();
        keyspaces
            .map(|each| (("keyspace", each.name.clone()), value(each)))
            .collect()
    };
    page.gauges(
        "home_partitions",
        "Partitions at home here",
        None,
        &each(&|it| f64::from(it.homes_here)),
    )?;
    page.gauges(
        "degraded_partitions",
        "Partitions at home here that acknowledge with less than their level",
        None,
        &each(&|it| f64::from(it.degraded_partitions)),
    )?;
    let damaged = each(&|it| {
        let partitions = status.partitions.iter();
        let damaged = partitions.filter(|each| each.damaged && each.keyspace == it.name);
        damaged.count() as f64
    });
    page.gauges(
        "damaged_partitions",
        "Partitions out of service here, as part of them is lost",
        None,
        &damaged,
    )?;
    page.gauges(
        "orphans_open",
        "Records here that a new home never had, neither replayed nor discarded",
        None,
        &each(&|it| number(it.orphans_open)),
    )?;
    page.gauges(
        "rpo_at_risk_records",
        "Writes acknowledged here and not durable in the best copy",
        None,
        &each(&|it| number(it.at_risk.writes)),
    )?;
    page.gauges(
        "rpo_at_risk",
        "Bytes acknowledged here and not durable in the best copy",
        Some(Unit::Bytes),
        &each(&|it| number(it.at_risk.bytes)),
    )?;
    page.gauges(
        "rpo_at_risk",
        "Age of the oldest write not durable in the best copy",
        Some(Unit::Seconds),
        &each(&|it| seconds(it.at_risk.age)),
    )
}

/// Writes that are kept for homes that cannot be reached.
fn buffered(page: &mut Page<'_>, status: &NodeStatus) -> fmt::Result {
    let each = |value: &dyn Fn(&BufferStanding) -> f64| -> Rows {
        let keyspaces = status.keyspaces.iter();
        keyspaces
            .map(|each| (("keyspace", each.name.clone()), value(&each.buffered)))
            .collect()
    };
    page.gauges(
        "buffered_writes",
        "Writes accepted here and not applied, which wait for their home",
        None,
        &each(&|it| number(it.waiting)),
    )?;
    page.gauges(
        "buffered_refused_writes",
        "Writes accepted here that their home refused, kept for an operator",
        None,
        &each(&|it| number(it.refused)),
    )?;
    page.gauges(
        "buffered",
        "Bytes on disk of writes that are kept for their home",
        Some(Unit::Bytes),
        &each(&|it| number(it.bytes)),
    )?;
    page.gauges(
        "buffered_age",
        "Age of the oldest write that waits for its home",
        Some(Unit::Seconds),
        &each(&|it| seconds(it.age)),
    )
}

/// Samples of one metric: its one label, its value.
type Rows = Vec<((&'static str, String), f64)>;

struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn info(&mut self, name: &str, help: &str, labels: &[(&str, String)]) -> fmt::Result {
        let help = sentence(help);
        let mut metric = self
            .0
            .encode_descriptor(name, &help, None, MetricType::Info)?;
        metric.encode_info(&labels)
    }

    fn gauge(&mut self, name: &str, help: &str, unit: Option<Unit>, value: f64) -> fmt::Result {
        let help = sentence(help);
        let mut metric = self
            .0
            .encode_descriptor(name, &help, unit.as_ref(), MetricType::Gauge)?;
        metric.encode_gauge(&value)
    }

    fn counter(&mut self, name: &str, help: &str, unit: Option<Unit>, value: f64) -> fmt::Result {
        let help = sentence(help);
        let mut metric =
            self.0
                .encode_descriptor(name, &help, unit.as_ref(), MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, f64>(&value, None)
    }

    fn gauges(&mut self, name: &str, help: &str, unit: Option<Unit>, rows: &Rows) -> fmt::Result {
        let help = sentence(help);
        let mut metric = self
            .0
            .encode_descriptor(name, &help, unit.as_ref(), MetricType::Gauge)?;
        for (label, value) in rows {
            metric
                .encode_family(&std::slice::from_ref(label))?
                .encode_gauge(value)?;
        }
        Ok(())
    }

    fn counters(&mut self, name: &str, help: &str, unit: Option<Unit>, rows: &Rows) -> fmt::Result {
        let help = sentence(help);
        let mut metric =
            self.0
                .encode_descriptor(name, &help, unit.as_ref(), MetricType::Counter)?;
        for (label, value) in rows {
            let labels = [label.clone()];
            let mut sample = metric.encode_family(&labels)?;
            sample.encode_counter::<NoLabelSet, _, f64>(value, None)?;
        }
        Ok(())
    }

    /// `counts`: how many took at most so long and longer than the one before.
    fn times(
        &mut self,
        name: &str,
        help: &str,
        sum: Duration,
        counts: &[(Duration, u64)],
    ) -> fmt::Result {
        let buckets = counts.iter().map(|(bound, count)| match *bound {
            Duration::MAX => (f64::INFINITY, *count),
            bound => (seconds(bound), *count),
        });
        let buckets: Vec<_> = buckets.collect();
        let count = counts.iter().map(|(_, count)| count).sum();
        let help = sentence(help);
        let unit = Unit::Seconds;
        let mut metric =
            self.0
                .encode_descriptor(name, &help, Some(&unit), MetricType::Histogram)?;
        metric.encode_histogram::<NoLabelSet>(seconds(sum), count, &buckets, None)
    }
}

/// Help texts end with a full stop, as those of other programs do.
fn sentence(help: &str) -> String {
    format!("{help}.")
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

/// Exact up to 2^53, which counts of bytes do not reach.
fn number(count: u64) -> f64 {
    count as f64
}
