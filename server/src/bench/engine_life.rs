//! The life of a large store with one engine: filled, overwritten, opened again, read.
//!
//! **Owns**: what is done in which order and for how long, and the times.
//! **Does not own**: which engines, memory as seen from outside, targets, tables (`engines`).
//!
//! It has a process of its own, so that memory is that of one engine.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use domicile_proto::{Keyspace, Name, Operation};
use domicile_replication::node::KeyspaceHandle;
use domicile_replication::{Engine, Node, NodeOptions, WriteCall, Written};
use futures::{StreamExt, pin_mut};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use super::disk_use::{DiskUse, PeakOfDisk, device_bytes_read, drop_page_cache};
use super::recorder::Latencies;
use crate::rig::{Keys, Random};

/// Writes outstanding: what keeps the disk busy. Doubled, nothing is faster.
const OUTSTANDING: usize = 4096;

/// The longest that filling or overwriting may take; what is written by then is what is measured.
const LOAD_MAX: Duration = Duration::from_secs(900);

/// How often a load looks at the time, in writes.
const LOOK_EVERY: u32 = 1024;

/// Keys of the hot set: their cells fit in every cache.
const HOT_KEYS: u32 = 10_000;

/// How long hot reads are counted, and scans: twice as long changes the last digit.
const READ_TIME: Duration = Duration::from_secs(8);

/// Hot reads, should they be faster: twice as many change the last digit, too.
const HOT_READS: u32 = 1 << 20;

/// Cold reads: a p99 of 200.
const COLD_READS: u32 = 20_000;

/// How long they may take.
const COLD_MAX: Duration = Duration::from_secs(30);

/// For how long nothing on the disk may have changed after the overwrites, until it is measured:
/// the work behind the writers is then done. The keeper of the journal tries again after 10 s.
const REST: Duration = Duration::from_secs(15);

/// How long that may take: more than a round of snapshots of the largest store measured here.
const REST_MAX: Duration = Duration::from_secs(240);

/// The engine's cache while reads are to be cold: the least that a configuration takes.
const COLD_CACHE_BYTES: u64 = 1 << 20;

const KEYSPACE: &str = "bench";

/// What to do.
#[derive(Clone, Debug)]
pub struct EngineLife {
    /// With which engine.
    pub engine: Engine,
    /// Keys.
    pub keys: u32,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Which values, in which order.
    pub seed: u64,
    /// The data directory.
    pub data: PathBuf,
    /// The file that the figures are written to, when all of them are there.
    pub result: PathBuf,
}

/// What came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct EngineFigures {
    pub(super) engine: String,
    /// Keys written: fewer than asked if there was no time.
    pub(super) keys: u32,
    pub(super) puts_per_s: f64,
    pub(super) first_tenth_per_s: f64,
    pub(super) last_tenth_per_s: f64,
    pub(super) overwrites: u32,
    pub(super) overwrites_per_s: f64,
    /// Bytes of keys and values.
    pub(super) live_bytes: u64,
    /// As soon as the last overwrite is answered for: merges and snapshots are behind.
    pub(super) disk_loaded: DiskUse,
    /// Once they have caught up.
    pub(super) disk: DiskUse,
    /// How long that took, in seconds.
    pub(super) rest_s: f64,
    /// The most at any time until then, looked at each second.
    pub(super) disk_peak_bytes: u64,
    pub(super) close_s: f64,
    /// Until the first read is answered.
    pub(super) reopen_s: f64,
    pub(super) hot_reads_per_s: f64,
    pub(super) scan_rows: u64,
    pub(super) scan_rows_per_s: f64,
    pub(super) cold_reads: u64,
    pub(super) cold_p50_ms: f64,
    pub(super) cold_p99_ms: f64,
    /// Bytes that the device was asked for, for each cold read: 0 means that they were not cold.
    pub(super) cold_device_bytes_per_read: f64,
    /// The most memory held, in KiB; known from outside.
    #[serde(default)]
    pub(super) resident_kib_max: u64,
}

/// Lives it and writes the figures.
///
/// # Errors
/// A directory that is in use, a write or read that fails.
pub fn live_engine_life(life: &EngineLife) -> anyhow::Result<()> {
    let runtime = Runtime::new()?;
    let figures = runtime.block_on(live(life))?;
    let unfinished = life.result.with_extension("unfinished");
    std::fs::write(&unfinished, serde_json::to_vec(&figures)?)?;
    std::fs::rename(unfinished, &life.result)?;
    Ok(())
}

#[allow(
    clippy::print_stderr,
    reason = "the log of a process of its own, which its owner shows"
)]
fn say(text: &str) {
    eprintln!("{text}");
}

async fn live(life: &EngineLife) -> anyhow::Result<EngineFigures> {
    let rows = Rows::new(life);
    let peak = PeakOfDisk::watch(&life.data)?;
    let (node, handle) = open(life, None).await?;
    say("filling");
    let filled = put(&node, &rows, life.keys, |number| rows.index(number)).await?;
    let written = filled.count;
    anyhow::ensure!(written >= 10, "{written} keys are written in {LOAD_MAX:?}");
    say("overwriting");
    let mut random = Random::new(life.seed);
    let overwritten = put(&node, &rows, written, |_| rows.index(random.below(written))).await?;
    let disk_loaded = DiskUse::of(&life.data)?;
    say("resting");
    let (disk, rested) = rest(&life.data).await?;
    let disk_peak_bytes = peak.stop().max(disk_loaded.all_bytes);
    let began = Instant::now();
    node.close().await?;
    drop((node, handle));
    let close_s = began.elapsed().as_secs_f64();
    let began = Instant::now();
    let (node, handle) = open(life, None).await?;
    rows.read(&handle, rows.index(0)).await?;
    let reopen_s = began.elapsed().as_secs_f64();
    say("reading what is hot");
    let hot_reads_per_s = read_hot(&handle, &rows, written).await?;
    say("scanning");
    let (scan_rows, scan_rows_per_s) = scan(&handle).await?;
    node.close().await?;
    drop((node, handle));
    say("reading what is cold");
    let (cold, cold_device_bytes_per_read) = read_cold(life, &rows, written).await?;
    let in_ms = |share| cold.quantile(share).as_secs_f64() * 1e3;
    Ok(EngineFigures {
        engine: life.engine.word().to_owned(),
        keys: written,
        puts_per_s: filled.per_s(0, 10),
        first_tenth_per_s: filled.per_s(0, 1),
        last_tenth_per_s: filled.per_s(9, 10),
        overwrites: overwritten.count,
        overwrites_per_s: overwritten.per_s(0, 10),
        live_bytes: u64::from(written) * rows.values.write_bytes(),
        disk_loaded,
        disk,
        rest_s: rested.as_secs_f64(),
        disk_peak_bytes,
        close_s,
        reopen_s,
        hot_reads_per_s,
        scan_rows,
        scan_rows_per_s,
        cold_reads: cold.count(),
        cold_p50_ms: in_ms(0.5),
        cold_p99_ms: in_ms(0.99),
        cold_device_bytes_per_read,
        resident_kib_max: 0,
    })
}

/// Waits until what is on the disk no longer changes; what that is and how long it took.
async fn rest(data: &Path) -> anyhow::Result<(DiskUse, Duration)> {
    let began = Instant::now();
    let (mut disk, mut since) = (DiskUse::of(data)?, began);
    while since.elapsed() < REST && began.elapsed() < REST_MAX {
        tokio::time::sleep(REST / 30).await;
        let found = DiskUse::of(data)?;
        if found != disk {
            (disk, since) = (found, Instant::now());
        }
    }
    Ok((disk, since - began))
}

async fn open(
    life: &EngineLife,
    cache_bytes: Option<u64>,
) -> anyhow::Result<(Node, KeyspaceHandle)> {
    let mut options = NodeOptions::single(&life.data);
    options.engine = life.engine;
    options.engine_cache_bytes = cache_bytes.unwrap_or(options.engine_cache_bytes);
    let region = options.regions.first().context("a node has a region")?.id;
    let keyspace = Keyspace::new(Name::new(KEYSPACE)?, vec![region], region);
    options.keyspaces = vec![keyspace.validate()?];
    let node = Node::open(options).await?;
    let handle = node.keyspace(KEYSPACE)?;
    Ok((node, handle))
}

/// Keys and values that are made as they are needed: a list of millions would count as memory of
/// the engine.
struct Rows {
    count: u32,
    step: u64,
    values: Keys,
}

impl Rows {
    fn new(life: &EngineLife) -> Self {
        Self {
            count: life.keys,
            step: scattering_step(life.keys),
            values: Keys::new(1, life.value_bytes, life.seed),
        }
    }

    /// The key that is written as the `number`th: all over the order of keys, each once.
    fn index(&self, number: u32) -> u32 {
        (u64::from(number) * self.step % u64::from(self.count)) as u32
    }

    fn key(index: u32) -> Bytes {
        format!("key-{index:012}").into()
    }

    async fn read(&self, handle: &KeyspaceHandle, index: u32) -> anyhow::Result<()> {
        let entry = handle.get(Self::key(index)).await?;
        let entry = entry.with_context(|| format!("key {index} is gone"))?;
        let number = self.values.number_of(index, &entry.value);
        anyhow::ensure!(number.is_some(), "key {index} has a value of another");
        Ok(())
    }
}

/// A number near the golden section of `count` that has no factor in common with it: its multiples
/// visit all numbers below `count`, far from each other.
fn scattering_step(count: u32) -> u64 {
    let common = |mut a: u64, mut b: u64| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let count = u64::from(count.max(1));
    let near = (count as f64 * 0.618_033_988_75) as u64;
    let steps = near.max(1)..=count.max(near + 1);
    let mut steps = steps.filter(|step| common(*step, count) == 1);
    steps.next().unwrap_or(1)
}

/// When each tenth of a load was answered for.
struct Loaded {
    count: u32,
    tenths: [Duration; 11],
}

impl Loaded {
    /// Writes a second between two tenths.
    fn per_s(&self, from: usize, upto: usize) -> f64 {
        let time = self.tenths[upto].saturating_sub(self.tenths[from]);
        f64::from(self.count) * (upto - from) as f64 / 10.0 / time.as_secs_f64()
    }
}

/// Writes `count` times, pipelined, at level async.
async fn put(
    node: &Node,
    rows: &Rows,
    count: u32,
    mut index_of: impl FnMut(u32) -> u32,
) -> anyhow::Result<Loaded> {
    let keyspace = node.policy(KEYSPACE)?;
    let (results, mut answers) = mpsc::unbounded_channel();
    let began = Instant::now();
    // When each thousand or so was answered for: tenths of what there was time for.
    let mut times = vec![Duration::ZERO];
    let (mut submitted, mut answered) = (0, 0);
    let note = |answered: u32, times: &mut Vec<Duration>| {
        if answered.is_multiple_of(LOOK_EVERY) {
            times.push(began.elapsed());
        }
    };
    while submitted < count {
        if submitted % LOOK_EVERY == 0 && began.elapsed() > LOAD_MAX {
            break;
        }
        if (submitted - answered) as usize >= OUTSTANDING {
            let answer = answers.recv().await;
            answered += check(answer)?;
            note(answered, &mut times);
        }
        if !node.has_room() {
            node.room().await;
        }
        let index = index_of(submitted);
        let operation = Operation::Put {
            key: Rows::key(index),
            value: rows.values.value(index, u64::from(submitted) + 1),
            expiry: None,
        };
        let call = WriteCall::new(Arc::clone(&keyspace), vec![operation]);
        node.write_tagged(call, submitted.into(), &results);
        submitted += 1;
    }
    while answered < submitted {
        answered += check(answers.recv().await)?;
        note(answered, &mut times);
    }
    times.push(began.elapsed());
    let tenth = |tenth: usize| times[(times.len() - 1) * tenth / 10];
    Ok(Loaded {
        count: submitted,
        tenths: std::array::from_fn(tenth),
    })
}

fn check(
    answer: Option<(u64, Result<Written, domicile_replication::Error>)>,
) -> anyhow::Result<u32> {
    let (_, result) = answer.context("the node is gone")?;
    result?;
    Ok(1)
}

async fn read_hot(handle: &KeyspaceHandle, rows: &Rows, written: u32) -> anyhow::Result<f64> {
    let hot = HOT_KEYS.min(written);
    for _ in 0..2 {
        for number in 0..hot {
            rows.read(handle, rows.index(number)).await?;
        }
    }
    let (mut random, mut reads) = (Random::new(1), 0_u32);
    let began = Instant::now();
    while began.elapsed() < READ_TIME && reads < HOT_READS {
        for _ in 0..LOOK_EVERY {
            let index = rows.index(random.below(hot));
            let entry = handle.get(Rows::key(index)).await?;
            anyhow::ensure!(entry.is_some(), "key {index} is gone");
        }
        reads += LOOK_EVERY;
    }
    Ok(f64::from(reads) / began.elapsed().as_secs_f64())
}

async fn scan(handle: &KeyspaceHandle) -> anyhow::Result<(u64, f64)> {
    let began = Instant::now();
    let stream = handle.scan("key-").rows();
    pin_mut!(stream);
    let mut rows = 0;
    while let Some(row) = stream.next().await {
        row?;
        rows += 1;
        if rows % u64::from(LOOK_EVERY) == 0 && began.elapsed() > READ_TIME {
            break;
        }
    }
    Ok((rows, rows as f64 / began.elapsed().as_secs_f64()))
}

/// Reads keys at random, each from the disk as far as the system lets itself be told.
async fn read_cold(
    life: &EngineLife,
    rows: &Rows,
    written: u32,
) -> anyhow::Result<(Latencies, f64)> {
    let (node, handle) = open(life, Some(COLD_CACHE_BYTES)).await?;
    drop_page_cache(&life.data)?;
    let (mut random, mut latencies) = (Random::new(life.seed ^ 1), Latencies::new());
    let (began, before) = (Instant::now(), device_bytes_read());
    for _ in 0..COLD_READS {
        let index = rows.index(random.below(written));
        let since = Instant::now();
        rows.read(&handle, index).await?;
        latencies.record(since.elapsed());
        if began.elapsed() > COLD_MAX {
            break;
        }
    }
    let device_bytes = device_bytes_read().saturating_sub(before) as f64;
    node.close().await?;
    let per_read = device_bytes / latencies.count().max(1) as f64;
    Ok((latencies, per_read))
}

/// The figures in a file, once they are there.
pub(super) fn figures_in(path: &Path) -> anyhow::Result<Option<EngineFigures>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_written_once_and_far_from_the_one_before() {
        for count in [1, 2, 3, 10, 1000, 99_991, 1_000_000] {
            let step = scattering_step(count);
            let mut seen = vec![false; count as usize];
            for number in 0..count {
                seen[(u64::from(number) * step % u64::from(count)) as usize] = true;
            }
            assert!(seen.iter().all(|seen| *seen), "{count} with {step}");
            let far = step.min(u64::from(count) - step.min(count.into()));
            assert!(
                count < 1000 || far > u64::from(count) / 4,
                "{step} of {count}"
            );
        }
    }

    #[test]
    fn a_small_life_has_all_its_figures() {
        for engine in [Engine::Sled, Engine::Fjall] {
            if !engine.is_built() {
                continue;
            }
            let directory = tempfile::tempdir().unwrap();
            let life = EngineLife {
                engine,
                keys: 20_000,
                value_bytes: 128,
                seed: 1,
                data: directory.path().join("data"),
                result: directory.path().join("figures.json"),
            };
            assert!(figures_in(&life.result).unwrap().is_none());
            live_engine_life(&life).unwrap();
            let figures = figures_in(&life.result).unwrap().unwrap();
            assert_eq!((figures.keys, figures.overwrites), (20_000, 20_000));
            assert_eq!(figures.live_bytes, 20_000 * 144);
            assert_eq!(figures.cold_reads, u64::from(COLD_READS));
            assert!(figures.scan_rows == 20_000, "{figures:?}");
            assert!(figures.disk.all_bytes > figures.live_bytes, "{figures:?}");
            assert!(
                figures.disk.all_bytes <= figures.disk_peak_bytes,
                "{figures:?}"
            );
            assert!(figures.last_tenth_per_s > 0.0 && figures.hot_reads_per_s > 0.0);
        }
    }
}
