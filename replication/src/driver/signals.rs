//! What wakes the tasks of a stream: the home's shipper and the copy's ack sender.
//!
//! **Owns**: the marks that wait to be told to the other side, coalesced per partition.
//! **Does not own**: the streams (shipping).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use domicile_core::{Moment, Urgency};
use domicile_proto::{ChainHash, Epoch, PartitionId, Seq};
use tokio::sync::Notify;

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The home's side: there is something to ship to one peer.
#[derive(Debug, Default)]
pub(crate) struct ShipSignal {
    /// Something became durable, or a watermark moved.
    pub(crate) news: Notify,
    /// Something became durable that a caller waits to see shipped.
    pub(crate) hurry: Notify,
    is_urgent: AtomicBool,
    watermarks: Mutex<BTreeMap<PartitionId, (Epoch, Seq)>>,
    digests: Mutex<BTreeMap<PartitionId, PartitionDigest>>,
}

/// The cells of a partition in one number, and of which history they are the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PartitionDigest {
    pub(crate) epoch: Epoch,
    pub(crate) seq: Seq,
    pub(crate) chain: ChainHash,
    pub(crate) digest: u64,
    /// Whoever differs is wrong: nobody else is asked.
    pub(crate) is_final: bool,
}

impl ShipSignal {
    /// Something became durable.
    pub(crate) fn ship(&self, urgency: Urgency) {
        if urgency == Urgency::Now {
            self.is_urgent.store(true, Ordering::Release);
            self.hurry.notify_one();
        }
        self.news.notify_one();
    }

    /// Whether a caller waits for what became durable since the last call. To be asked before the
    /// durable end is read, so that what is urgent after it is heard of again.
    pub(crate) fn take_urgent(&self) -> bool {
        self.is_urgent.swap(false, Ordering::AcqRel)
    }

    /// A watermark moved; it rides on the next segment or beat.
    pub(crate) fn watermark(&self, partition: PartitionId, epoch: Epoch, visible_upto: Seq) {
        lock(&self.watermarks).insert(partition, (epoch, visible_upto));
    }

    /// A digest of a partition that rests; it rides on the next beat.
    pub(crate) fn digest(&self, partition: PartitionId, digest: PartitionDigest) {
        lock(&self.digests).insert(partition, digest);
    }

    pub(crate) fn take_digests(&self) -> BTreeMap<PartitionId, PartitionDigest> {
        std::mem::take(&mut *lock(&self.digests))
    }

    pub(crate) fn take_watermarks(&self) -> BTreeMap<PartitionId, (Epoch, Seq)> {
        std::mem::take(&mut *lock(&self.watermarks))
    }

    pub(crate) fn has_watermarks(&self) -> bool {
        !lock(&self.watermarks).is_empty()
    }
}

/// What a copy holds of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HeldMark {
    pub(crate) epoch: Option<Epoch>,
    pub(crate) received_upto: Seq,
    pub(crate) durable_upto: Seq,
    pub(crate) chain: Option<ChainHash>,
    /// Its log is damaged there: nothing of it counts, and only a snapshot helps.
    pub(crate) is_damaged: bool,
}

/// What the copy knows of the stream from one home region.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct StreamState {
    /// When the last beat arrived that said everything durable had been sent before it.
    pub(crate) caught_up_at: Option<Moment>,
    /// Half the measured round trip, subtracted from arrival to estimate when the home spoke.
    pub(crate) one_way_us: u64,
    /// The home's wall clock minus ours, in ms.
    pub(crate) skew_ms: i64,
    /// Whether a stream is open.
    pub(crate) receiving: bool,
}

/// The copy's side: there is something to acknowledge to one home region.
#[derive(Debug, Default)]
pub(crate) struct SourceSignal {
    pub(crate) notify: Notify,
    /// Raised by every new stream: an older one must neither take acks nor speak for the link.
    generation: AtomicU64,
    acks: Mutex<BTreeMap<PartitionId, HeldMark>>,
    is_urgent: AtomicBool,
    digests: Mutex<BTreeMap<PartitionId, PartitionDigest>>,
    stream: Mutex<StreamState>,
}

impl SourceSignal {
    /// There is something to say of a partition.
    pub(crate) fn ack(&self, partition: PartitionId, mark: HeldMark, urgency: Urgency) {
        let mut acks = lock(&self.acks);
        let is_first = acks.is_empty();
        acks.insert(partition, mark);
        drop(acks);
        if urgency == Urgency::Now {
            self.is_urgent.store(true, Ordering::Release);
        }
        // Whoever has been woken for one that is not urgent looks after the others itself.
        if is_first || urgency == Urgency::Now {
            self.notify.notify_one();
        }
    }

    /// How urgent what waits to be said is; `None` if nothing does.
    pub(crate) fn waiting(&self) -> Option<Urgency> {
        let waits = !lock(&self.acks).is_empty();
        let is_urgent = self.is_urgent.load(Ordering::Acquire);
        waits.then_some(if is_urgent {
            Urgency::Now
        } else {
            Urgency::Soon
        })
    }

    /// A new stream begins; its number.
    pub(crate) fn begin_stream(&self) -> u64 {
        let number = self.generation.fetch_add(1, Ordering::AcqRel) + 1;
        self.notify.notify_waiters();
        number
    }

    /// The stream is to end, so that a new one begins with what is held then.
    pub(crate) fn end_stream(&self) {
        self.begin_stream();
        self.notify.notify_one();
    }

    /// Whether no newer stream has begun.
    pub(crate) fn is_current(&self, number: u64) -> bool {
        self.generation.load(Ordering::Acquire) == number
    }

    pub(crate) fn take_acks(&self) -> BTreeMap<PartitionId, HeldMark> {
        self.is_urgent.store(false, Ordering::Release);
        std::mem::take(&mut *lock(&self.acks))
    }

    /// What the home's digest was compared with.
    pub(crate) fn answer_digest(&self, partition: PartitionId, digest: PartitionDigest) {
        lock(&self.digests).insert(partition, digest);
        self.notify.notify_one();
    }

    pub(crate) fn take_digests(&self) -> BTreeMap<PartitionId, PartitionDigest> {
        std::mem::take(&mut *lock(&self.digests))
    }

    pub(crate) fn stream(&self) -> StreamState {
        *lock(&self.stream)
    }

    pub(crate) fn update_stream(&self, update: impl FnOnce(&mut StreamState)) {
        update(&mut lock(&self.stream));
    }
}
