//! A client of the library that writes without end, and keeps what it was told.
//!
//! **Owns**: its thread, its keys and values, its list.
//! **Does not own**: following the home, which the library does; what is made of the list
//! (`account`).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use domicile_client::{Client, ClientOptions};
use domicile_proto::NodeId;

/// How long a write may take: it waits out a takeover and is then answered.
const WRITE_MAX: Duration = Duration::from_secs(30);

/// Between an answer and the next write: each of several clients leaves the processors to the
/// regions, which share them. It is the finest that a gap is measured to.
const REST: Duration = Duration::from_millis(1);

/// After an error, so that a node that is gone is not asked in a busy loop.
const REST_AFTER_ERROR: Duration = Duration::from_millis(20);

/// Different errors that are told apart: a few are enough to find their cause.
const ERRORS_MAX: usize = 16;

/// The most writes of one writer: 56 bytes of list each. No part writes a tenth of it.
const WRITES_MAX: u64 = 1_000_000;

/// How long a thread that looks at a list waits between two looks.
const POLL: Duration = Duration::from_millis(5);

/// What to write, and where.
#[derive(Clone, Debug)]
pub(super) struct WriterPlan {
    /// Where it connects, in order of preference.
    pub(super) endpoints: Vec<String>,
    /// The keyspace written to.
    pub(super) keyspace: String,
    /// What its keys begin with; no other writer's do.
    pub(super) prefix: String,
    /// Bytes of a value.
    pub(super) value_bytes: usize,
}

impl WriterPlan {
    /// The key of a write: each has its own, so that no later one hides that it is lost.
    pub(super) fn key(&self, number: u64) -> Bytes {
        Bytes::from(format!("{}{number:012}", self.prefix))
    }

    /// Its value, unlike every other's.
    pub(super) fn value(&self, number: u64) -> Bytes {
        let (stamp, width) = (self.key(number), self.value_bytes);
        let stamp = String::from_utf8_lossy(&stamp);
        Bytes::from(format!("{stamp:-<width$}"))
    }
}

/// An acknowledged write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// Which.
    pub(super) number: u64,
    /// When its answer was there.
    pub(super) at: Instant,
    /// The node that had sequenced it, as its position says.
    pub(super) home: NodeId,
    /// It had been done before, and a successor of that node may have answered for it.
    pub(super) is_duplicate: bool,
}

impl Told {
    /// Whether `home` itself has acknowledged it.
    pub(super) fn is_by(&self, home: NodeId) -> bool {
        self.home == home && !self.is_duplicate
    }
}

/// All that a writer was told.
#[derive(Debug)]
pub(super) struct Wrote {
    pub(super) plan: WriterPlan,
    /// In the order of its answers, which is that of its writes.
    pub(super) acked: Vec<Told>,
    /// Writes of which it does not know what became, by what it was told.
    pub(super) errors: BTreeMap<String, u64>,
}

type List = Arc<Mutex<Vec<Told>>>;

/// A writer at work. Dropping it ends it.
pub(super) struct Writer {
    plan: WriterPlan,
    list: List,
    halt: Arc<AtomicBool>,
    thread: Option<JoinHandle<anyhow::Result<BTreeMap<String, u64>>>>,
}

impl Writer {
    /// Begins to write.
    ///
    /// # Errors
    /// No thread.
    pub(super) fn start(plan: WriterPlan) -> anyhow::Result<Self> {
        let (list, halt) = (List::default(), Arc::new(AtomicBool::new(false)));
        let work = (plan.clone(), Arc::clone(&list), Arc::clone(&halt));
        let thread = thread::Builder::new()
            .name(format!("writer-{}", plan.prefix))
            .spawn(move || {
                let (plan, list, halt) = work;
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .context("no runtime for a writer")?;
                runtime.block_on(write(&plan, &list, &halt))
            })
            .context("no thread for a writer")?;
        Ok(Self {
            plan,
            list,
            halt,
            thread: Some(thread),
        })
    }

    /// Waits until it was told something that `holds`; whether that was in time.
    pub(super) fn wait_told(&self, within: Duration, holds: impl Fn(&Told) -> bool) -> bool {
        let (until, mut seen) = (Instant::now() + within, 0);
        while Instant::now() < until {
            {
                let list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
                if list[seen..].iter().any(&holds) {
                    return true;
                }
                seen = list.len();
            }
            thread::sleep(POLL);
        }
        false
    }

    /// Ends it once its write is answered, and says what it was told.
    ///
    /// # Errors
    /// It could not begin.
    pub(super) fn end(mut self) -> anyhow::Result<Wrote> {
        self.halt.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("a writer ends once")?;
        let errors = thread.join().expect("a writer does not panic")?;
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Wrote {
            plan: self.plan.clone(),
            acked: std::mem::take(&mut *list),
            errors,
        })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.halt.store(true, Ordering::Relaxed);
        // Not joined: its write may wait for as long as a write may, and the run ends.
        drop(self.thread.take());
    }
}

async fn write(
    plan: &WriterPlan,
    list: &List,
    halt: &AtomicBool,
) -> anyhow::Result<BTreeMap<String, u64>> {
    let client = Client::with_options(ClientOptions {
        timeout: WRITE_MAX,
        ..ClientOptions::endpoints(plan.endpoints.clone())
    })?;
    let keyspace = client.keyspace(plan.keyspace.clone());
    let mut errors = BTreeMap::new();
    for number in 0..WRITES_MAX {
        if halt.load(Ordering::Relaxed) {
            break;
        }
        let put = keyspace.put(plan.key(number), plan.value(number));
        match put.send().await {
            Ok(receipt) => {
                let at = Instant::now();
                let home = receipt.position.epoch.node;
                let told = Told {
                    number,
                    at,
                    home,
                    is_duplicate: receipt.duplicate,
                };
                let mut list = list.lock().unwrap_or_else(PoisonError::into_inner);
                list.push(told);
            }
            Err(error) => {
                let text = format!("{}: {error}", error.reason_text());
                let is_known = errors.contains_key(&text) || errors.len() < ERRORS_MAX;
                let text = if is_known { text } else { "others".to_owned() };
                *errors.entry(text).or_default() += 1;
                tokio::time::sleep(REST_AFTER_ERROR).await;
            }
        }
        tokio::time::sleep(REST).await;
    }
    Ok(errors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_differ_from_write_to_write() {
        let plan = WriterPlan {
            endpoints: Vec::new(),
            keyspace: "k".to_owned(),
            prefix: "r7-door-".to_owned(),
            value_bytes: 128,
        };
        assert_eq!(plan.key(3), "r7-door-000000000003");
        assert_eq!(plan.value(3).len(), 128);
        assert!(plan.value(3).starts_with(&plan.key(3)));
        assert_ne!(plan.value(3), plan.value(4));
    }
}
