//! What waits for the next commit.
//!
//! **Owns**: an open segment per partition, their order, the bound on queued bytes.
//! **Does not own**: chain hashes and places, which exist only once a commit takes the queue.
//!
//! Records sequenced here are wanted at once: a caller waits for their sync. A segment for which
//! nobody waits may be [`CommitUrgency::Soon`]: it goes with the next commit that is wanted, or
//! with others of its kind after [`SOON_INTERVAL`], so that a copy need not sync for every frame.
//!
//! One short lock: a submit holds it for a lookup and a copy of the record's bytes, the committer
//! for a swap of two lists. Nobody holds it during a write or a sync.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use domicile_proto::record::RecordBody;
use domicile_proto::{
    ChainHash, Epoch, PartitionId, Record, RecordHead, Segment, SegmentBuilder, Seq,
};

use crate::error::StoreError;
use crate::journal::cut::Cut;
use crate::journal::rebase::Rebase;

/// Admission ends at the bound ([`CommitQueue::has_room`]); what has a sequence number by then is
/// taken up to four times the bound, since refusing it would leave a hole in its log. The overshoot
/// is what callers between the two checks hold; doubled, a node may hold twice as much.
const SEQUENCED_FACTOR: u64 = 4;

/// How long what nobody waits for may wait for company. It bounds such commits to 250 a second and
/// adds as much to what a copy holds in memory alone; doubled, so is that. At a quarter of it three
/// regions that share a disk spend a fifth of its time on syncs of copies.
pub const SOON_INTERVAL: Duration = Duration::from_millis(4);

/// Bytes at which they are committed nevertheless: a larger frame keeps the disk longer from those
/// who wait for it. At 1 MiB a copy that caught up doubled the p99 of a home on the same disk; a
/// quarter of it would only cost syncs.
const SOON_BYTES_MAX: u64 = 64 << 10;

/// Whether somebody waits for a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CommitUrgency {
    /// Nobody does: within [`SOON_INTERVAL`].
    Soon,
    /// As soon as the disk is free.
    Now,
}

/// A segment of the next commit.
#[derive(Debug)]
pub(crate) enum Work {
    /// Records sequenced here.
    Open {
        builder: SegmentBuilder,
        visible_upto: Seq,
    },
    /// A segment made elsewhere, with its chain hash.
    Whole { segment: Segment, chain: ChainHash },
    /// A log that begins anew.
    Rebase(Rebase),
    /// A log that goes back to a fork.
    Cut(Cut),
}

/// Where one partition's submitted log ends.
#[derive(Debug)]
struct Slot {
    last_seq: Seq,
    /// The place of its open builder in the batch of a generation.
    open: Option<(u64, usize)>,
}

#[derive(Debug, Default)]
struct Inner {
    slots: BTreeMap<PartitionId, Slot>,
    batch: Vec<Work>,
    /// Counts the batches taken: a builder's place is only valid in its own.
    generation: u64,
    queued_bytes: u64,
    /// Bytes taken and not yet durable: they still take memory.
    taken_bytes: u64,
    /// By when the batch is to be taken; `None` while it is empty.
    due: Option<Instant>,
    /// Commits were made by another than the committer, who is to tell of them.
    untold: bool,
    committer: Committer,
    stopping: bool,
}

/// What the committing thread is doing.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Committer {
    #[default]
    Busy,
    WaitsForWork,
    /// There is work, which is not due yet.
    WaitsForTime,
}

/// The queue of the next commit.
#[derive(Debug)]
pub(crate) struct CommitQueue {
    inner: Mutex<Inner>,
    arrived: Condvar,
    bytes_max: u64,
}

impl CommitQueue {
    /// An empty queue of at most `bytes_max`, behind these ends of logs.
    pub(crate) fn new(bytes_max: u64, ends: impl Iterator<Item = (PartitionId, Seq)>) -> Self {
        let slots = ends.map(|(partition, last_seq)| {
            (
                partition,
                Slot {
                    last_seq,
                    open: None,
                },
            )
        });
        let inner = Inner {
            slots: slots.collect(),
            ..Inner::default()
        };
        Self {
            inner: Mutex::new(inner),
            arrived: Condvar::new(),
            bytes_max,
        }
    }

    /// Bytes that wait or are being written.
    pub(crate) fn bytes(&self) -> u64 {
        let inner = self.inner();
        inner.queued_bytes + inner.taken_bytes
    }

    /// Whether so many bytes more fit.
    pub(crate) fn has_room(&self, bytes: u64) -> bool {
        self.bytes() + bytes <= self.bytes_max
    }

    /// Queues a record.
    ///
    /// # Errors
    /// [`StoreError::QueueFull`].
    ///
    /// # Panics
    /// If `seq` is not the one after the partition's last.
    pub(crate) fn submit_record(
        &self,
        partition: PartitionId,
        (epoch, seq): (Epoch, Seq),
        visible_upto: Seq,
        head: &RecordHead,
        body: &RecordBody,
    ) -> Result<(), StoreError> {
        let mut guard = self.inner();
        let inner = &mut *guard;
        let bytes = Record::encoded_len(body) as u64;
        inner.accept(bytes, self.bytes_max * SEQUENCED_FACTOR)?;
        let slot = slot_of(&mut inner.slots, partition, seq);
        slot.last_seq = seq;
        let (generation, batch) = (inner.generation, &mut inner.batch);
        let open = slot.open.filter(|(opened_in, _)| *opened_in == generation);
        if let Some(Work::Open {
            builder,
            visible_upto: upto,
        }) = open.and_then(|(_, index)| batch.get_mut(index))
            && builder.epoch() == epoch
            && builder.has_room()
        {
            builder.push(head, body);
            *upto = visible_upto.max(*upto);
        } else {
            slot.open = Some((generation, batch.len()));
            let mut builder = SegmentBuilder::new(partition, epoch, seq);
            builder.push(head, body);
            batch.push(Work::Open {
                builder,
                visible_upto,
            });
        }
        self.want(guard, CommitUrgency::Now);
        Ok(())
    }

    /// Queues a whole segment.
    ///
    /// # Errors
    /// [`StoreError::QueueFull`].
    ///
    /// # Panics
    /// If the segment does not begin after the partition's last record.
    pub(crate) fn submit_segment(
        &self,
        segment: Segment,
        chain: ChainHash,
        urgency: CommitUrgency,
    ) -> Result<(), StoreError> {
        let mut inner = self.inner();
        let header = *segment.header();
        let limit = self.bytes_max * SEQUENCED_FACTOR;
        inner.accept(segment.bytes().len() as u64, limit)?;
        let slot = slot_of(&mut inner.slots, header.partition, header.first_seq);
        (slot.last_seq, slot.open) = (header.last_seq(), None);
        inner.batch.push(Work::Whole { segment, chain });
        self.want(inner, urgency);
        Ok(())
    }

    /// Queues that a partition's log begins anew. Nothing of it is queued behind.
    ///
    /// # Errors
    /// [`StoreError::QueueFull`].
    pub(crate) fn submit_rebase(&self, rebase: Rebase) -> Result<(), StoreError> {
        let mut inner = self.inner();
        let bytes = rebase.encode().len() as u64;
        inner.accept(bytes, self.bytes_max * SEQUENCED_FACTOR)?;
        let (last_seq, open) = (rebase.seq, None);
        inner
            .slots
            .insert(rebase.partition, Slot { last_seq, open });
        inner.batch.push(Work::Rebase(rebase));
        self.want(inner, CommitUrgency::Now);
        Ok(())
    }

    /// Queues that a partition's log goes back to a fork. Nothing of it is queued behind.
    ///
    /// # Errors
    /// [`StoreError::BadFork`] if more was submitted than is cut; [`StoreError::QueueFull`].
    pub(crate) fn submit_cut(&self, cut: Cut) -> Result<(), StoreError> {
        let mut inner = self.inner();
        let partition = cut.partition;
        let last_seq = inner.slots.get(&partition).map(|slot| slot.last_seq);
        if last_seq != Some(cut.end) {
            let last_seq = last_seq.unwrap_or_default();
            let problem = format!("sealed up to {}, its log ends at {last_seq}", cut.end);
            return Err(StoreError::bad_fork(partition, cut.seq, problem));
        }
        let bytes = cut.encode().len() as u64;
        inner.accept(bytes, self.bytes_max * SEQUENCED_FACTOR)?;
        let (last_seq, open) = (cut.seq, None);
        inner.slots.insert(partition, Slot { last_seq, open });
        inner.batch.push(Work::Cut(cut));
        self.want(inner, CommitUrgency::Now);
        Ok(())
    }

    /// What is queued, if anything, is wanted now.
    pub(crate) fn hasten(&self) {
        let inner = self.inner();
        if inner.due.is_some() {
            self.want(inner, CommitUrgency::Now);
        }
    }

    /// Something was committed, or failed to be, that the committer is to tell of.
    pub(crate) fn tell(&self) {
        let mut inner = self.inner();
        inner.untold = true;
        self.wake(inner, Instant::now());
    }

    /// Takes everything that waits, and leaves `spare`, which is empty, in its place.
    pub(crate) fn take(&self, spare: &mut Vec<Work>) {
        assert!(spare.is_empty(), "{} pieces of work left over", spare.len());
        let mut inner = self.inner();
        std::mem::swap(&mut inner.batch, spare);
        inner.generation += 1;
        inner.due = None;
        inner.taken_bytes += std::mem::take(&mut inner.queued_bytes);
    }

    /// What was taken is durable, or will never be.
    pub(crate) fn taken_is_done(&self) {
        self.inner().taken_bytes = 0;
    }

    /// Waits until something is due or to be told; `false` once the queue is stopped and empty.
    pub(crate) fn wait(&self) -> bool {
        let mut inner = self.inner();
        while !inner.stopping && !inner.untold {
            inner = match inner.due {
                None => {
                    inner.committer = Committer::WaitsForWork;
                    let woken = self.arrived.wait(inner);
                    woken.unwrap_or_else(PoisonError::into_inner)
                }
                Some(due) => {
                    let left = due.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        break;
                    }
                    inner.committer = Committer::WaitsForTime;
                    let woken = self.arrived.wait_timeout(inner, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        inner.committer = Committer::Busy;
        // Here and nowhere else: whoever takes the queue for a flush tells of nothing.
        std::mem::take(&mut inner.untold) || !inner.batch.is_empty()
    }

    /// Ends [`CommitQueue::wait`] once nothing is queued.
    pub(crate) fn stop(&self) {
        self.inner().stopping = true;
        self.arrived.notify_all();
    }

    /// The batch, which is not empty, is to be committed; wakes the committer if that is news.
    fn want(&self, mut inner: MutexGuard<'_, Inner>, urgency: CommitUrgency) {
        let now = Instant::now();
        let is_large = inner.queued_bytes >= SOON_BYTES_MAX;
        let wanted = match urgency {
            CommitUrgency::Now => now,
            CommitUrgency::Soon if is_large => now,
            CommitUrgency::Soon => now + SOON_INTERVAL,
        };
        let due = inner.due.map_or(wanted, |due| due.min(wanted));
        inner.due = Some(due);
        self.wake(inner, due);
    }

    fn wake(&self, mut inner: MutexGuard<'_, Inner>, due: Instant) {
        // A notification is a system call even when nobody waits.
        let is_news = match inner.committer {
            Committer::Busy => false,
            Committer::WaitsForWork => true,
            Committer::WaitsForTime => due <= Instant::now(),
        };
        if is_news {
            inner.committer = Committer::Busy;
        }
        drop(inner);
        if is_news {
            self.arrived.notify_one();
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn accept(&mut self, bytes: u64, limit: u64) -> Result<(), StoreError> {
        let bytes_after = self.queued_bytes + self.taken_bytes + bytes;
        if bytes_after > limit {
            return Err(StoreError::QueueFull {
                bytes: bytes_after,
                limit,
            });
        }
        self.queued_bytes += bytes;
        Ok(())
    }
}

/// The slot of a partition whose next record is `next_seq`.
fn slot_of(
    slots: &mut BTreeMap<PartitionId, Slot>,
    partition: PartitionId,
    next_seq: Seq,
) -> &mut Slot {
    let slot = slots.entry(partition).or_insert(Slot {
        last_seq: Seq::NONE,
        open: None,
    });
    let expected = slot.last_seq.next();
    assert!(
        next_seq == expected,
        "{partition}: {next_seq} submitted where {expected} is next"
    );
    slot
}
