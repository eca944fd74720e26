//! One partition on this node: its core, the callers that wait on it, and its cells.
//!
//! **Owns**: the lock under which the core steps and records enter the commit queue in order.
//! **Does not own**: carrying out effects (`work`).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use domicile_core::control::Unheard;
use domicile_core::{
    CopyStatus, Effect, LeaseNeed, Moment, Partition, PartitionConfig, PartitionStatus, Role,
    SessionStanding, Standing, Ticket,
};
use domicile_proto::{Epoch, Hlc, Keyspace, NodeId, PartitionId, Position, Reason, RegionId, Seq};
use domicile_storage::cells::PartitionCells;
use domicile_storage::retention::NOTHING;
use tokio::sync::Notify;

use super::arrival_rate::ArrivalRate;
use super::lease::NodeLease;
use super::outbox::Waiter;
use super::signals::{HeldMark, StreamState, lock};
use super::watchers::Watchers;
use crate::clock::Clock;
use crate::error::Error;

/// Segments whose arrival is remembered to tell how fresh the applied state is; beyond it the
/// oldest are forgotten and staleness is overestimated. Twice as many cost twice the memory.
const ARRIVALS_MAX: usize = 1024;

/// One partition on this node.
pub(crate) struct Slot {
    pub(crate) partition: PartitionId,
    keyspace: RwLock<Arc<Keyspace>>,
    /// Where its home is; changes while the node is open.
    home: AtomicU16,
    /// Whether it is this node.
    is_home: AtomicBool,
    /// The region that follows on this home, which has ended its reign; 0: it has not.
    handed_on: AtomicU16,
    /// Held by whoever cuts its log or heals its cells.
    pub(crate) mending: tokio::sync::Mutex<()>,
    /// When this core acknowledged its first write, in ms since 1970; 0: it has not.
    served_ms: AtomicU64,
    lease: Arc<NodeLease>,
    /// Whether reads of the newest need it.
    needs_lease: AtomicBool,
    pub(crate) cells: Arc<PartitionCells>,
    pub(crate) watchers: Watchers,
    state: Mutex<SlotState>,
    reads_open: AtomicBool,
    /// As the state's damage says, for readers.
    is_damaged: AtomicBool,
    applied: Notify,
    readers_waiting: AtomicUsize,
}

/// What changes under the slot's lock.
pub(super) struct SlotState {
    pub(super) core: Partition,
    pub(super) waiters: HashMap<Ticket, Waiter>,
    pub(super) effects: Vec<Effect>,
    pub(super) armed: Option<Moment>,
    pub(super) alarm: Option<String>,
    /// The last segment was refused: beats say nothing about this partition until one is taken.
    pub(super) stalled: bool,
    /// A snapshot is taking the place of everything here: no segment is taken.
    pub(super) installing: bool,
    /// A segment was refused since then.
    pub(super) turned_away: bool,
    /// What the partition has lost here: it is out of service until a snapshot took its place.
    damage: Option<String>,
    /// In which reign the home spoke by whose word the cells are newer than the log, if they are.
    ahead_by: Option<Epoch>,
    pub(super) arrivals: VecDeque<(Seq, Hlc)>,
    pub(super) rate: ArrivalRate,
    /// Copies for which less of the log is kept than they lack.
    kept: BTreeMap<RegionId, Kept>,
    next_ticket: u64,
    fresh_hlc: Hlc,
    fresh_at: Option<Moment>,
}

/// What of the log is kept for a copy that cannot have all that it lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// Nothing: it outran its budget, and needs a snapshot.
    Nothing,
    /// What follows the snapshot that it is sent.
    After(Seq),
}

impl SlotState {
    pub(super) fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket::new(self.next_ticket)
    }

    pub(super) fn held(&self) -> HeldMark {
        if self.damage.is_some() {
            return HeldMark {
                epoch: None,
                received_upto: Seq::NONE,
                durable_upto: Seq::NONE,
                chain: None,
                is_damaged: true,
            };
        }
        let core = &self.core;
        HeldMark {
            epoch: core.epoch(),
            received_upto: core.held_upto(),
            durable_upto: core.durable_upto(),
            chain: core.chain(),
            is_damaged: false,
        }
    }

    pub(super) fn arrived(&mut self, last_seq: Seq, hlc: Option<Hlc>) {
        if self.arrivals.len() == ARRIVALS_MAX {
            self.arrivals.pop_front();
        }
        if let Some(hlc) = hlc {
            self.arrivals.push_back((last_seq, hlc));
        }
    }

    fn refresh(&mut self, applied_upto: Seq, stream: StreamState) {
        while let Some((seq, hlc)) = self.arrivals.front() {
            if *seq > applied_upto {
                break;
            }
            self.fresh_hlc = self.fresh_hlc.max(*hlc);
            self.arrivals.pop_front();
        }
        if applied_upto >= self.core.appended_upto() && !self.stalled && !self.core.is_poisoned() {
            self.fresh_at = self.fresh_at.max(stream.caught_up_at);
        }
    }
}

impl Slot {
    pub(super) fn new(
        keyspace: Arc<Keyspace>,
        core: Partition,
        cells: Arc<PartitionCells>,
        lease: Arc<NodeLease>,
    ) -> Self {
        let PartitionConfig {
            home_region: home,
            lease: need,
            ..
        } = *core.config();
        let is_home = core.role() == Role::Home;
        let state = SlotState {
            core,
            waiters: HashMap::new(),
            effects: Vec::new(),
            armed: None,
            alarm: None,
            stalled: false,
            installing: false,
            turned_away: false,
            damage: None,
            ahead_by: None,
            kept: BTreeMap::new(),
            arrivals: VecDeque::new(),
            rate: ArrivalRate::default(),
            next_ticket: 0,
            fresh_hlc: Hlc::ZERO,
            fresh_at: None,
        };
        Self {
            partition: cells.partition(),
            keyspace: RwLock::new(keyspace),
            home: AtomicU16::new(home.get()),
            is_home: AtomicBool::new(is_home),
            handed_on: AtomicU16::new(0),
            mending: tokio::sync::Mutex::default(),
            served_ms: AtomicU64::new(0),
            lease,
            needs_lease: AtomicBool::new(need > LeaseNeed::Nothing),
            cells,
            watchers: Watchers::default(),
            state: Mutex::new(state),
            reads_open: AtomicBool::new(false),
            is_damaged: AtomicBool::new(false),
            applied: Notify::new(),
            readers_waiting: AtomicUsize::new(0),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, SlotState> {
        lock(&self.state)
    }

    /// The policy that its core was opened with.
    pub(crate) fn keyspace(&self) -> Arc<Keyspace> {
        let keyspace = self.keyspace.read();
        Arc::clone(&keyspace.unwrap_or_else(PoisonError::into_inner))
    }

    /// The reign that its core was opened for.
    pub(crate) fn opened_for(&self) -> Option<Epoch> {
        self.lock().core.config().reign
    }

    /// The region of its home, as far as this node knows.
    pub(crate) fn home(&self) -> RegionId {
        let home = RegionId::new(self.home.load(Ordering::Acquire));
        home.expect("a region's id is not zero")
    }

    /// Another core takes the place of what was here, at the same place or another.
    pub(super) fn take_seat(
        &self,
        state: &mut SlotState,
        keyspace: Arc<Keyspace>,
        core: Partition,
    ) {
        let config = core.config();
        self.close_reads();
        let mut present = self
            .keyspace
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *present = keyspace;
        drop(present);
        self.home.store(config.home_region.get(), Ordering::Release);
        let is_home = core.role() == Role::Home;
        self.is_home.store(is_home, Ordering::Release);
        self.handed_on.store(0, Ordering::Release);
        self.served_ms.store(0, Ordering::Release);
        let needs_lease = config.lease > LeaseNeed::Nothing;
        self.needs_lease.store(needs_lease, Ordering::Release);
        (state.core, state.armed, state.stalled) = (core, None, false);
        state.kept.clear();
    }

    /// Whether this node is its home, as far as it knows: the core knows better.
    pub(crate) fn is_home(&self) -> bool {
        self.is_home.load(Ordering::Acquire)
    }

    pub(super) fn served(&self) {
        if self.served_ms.load(Ordering::Relaxed) == 0 {
            self.served_ms.store(Clock::wall_ms(), Ordering::Release);
        }
    }

    /// When this core acknowledged its first write, in ms since 1970.
    pub(crate) fn served_ms(&self) -> Option<u64> {
        Some(self.served_ms.load(Ordering::Acquire)).filter(|at_ms| *at_ms > 0)
    }

    /// The node that follows, once this home has ended its reign.
    pub(crate) fn handed_to(&self) -> Option<NodeId> {
        self.lock().core.handed_to()
    }

    /// This home has ended its reign: that region follows.
    pub(crate) fn set_handed_on(&self, region: RegionId) {
        self.handed_on.store(region.get(), Ordering::Release);
        self.close_reads();
    }

    /// The region that follows on this home, which has ended its reign.
    pub(crate) fn handed_on(&self) -> Option<RegionId> {
        RegionId::new(self.handed_on.load(Ordering::Acquire)).ok()
    }

    /// Whether the home may answer linearizable reads.
    pub(crate) fn check_reads_open(&self, now: Moment) -> Result<(), Error> {
        let has_lease = !self.needs_lease.load(Ordering::Acquire) || now < self.lease.until();
        if has_lease && self.reads_open.load(Ordering::Acquire) {
            return Ok(());
        }
        // Under the lock, so that a failure that closes reads is not overwritten.
        let mut state = self.lock();
        state.core.renew_lease(self.lease.until());
        self.check_damage(&state)?;
        state.core.read_gate(now)?;
        self.reads_open.store(true, Ordering::Release);
        drop(state);
        Ok(())
    }

    /// Refuses what a damaged partition cannot do.
    pub(super) fn check_damage(&self, state: &SlotState) -> Result<(), Error> {
        let Some(damage) = &state.damage else {
            return Ok(());
        };
        let partition = self.partition;
        let message = format!("{partition} is damaged here and out of service: {damage}");
        Err(Error::new(Reason::ChecksumMismatch, message))
    }

    /// Whether the partition is damaged here and out of service.
    pub(crate) fn is_damaged(&self) -> bool {
        self.is_damaged.load(Ordering::Acquire)
    }

    /// Takes the partition out of service.
    pub(super) fn set_damage(&self, damage: &str) {
        self.close_reads();
        let mut state = self.lock();
        self.is_damaged.store(true, Ordering::Release);
        state.damage = Some(damage.to_owned());
        state.alarm = Some(format!("damaged: {damage}"));
        state.installing = true;
    }

    /// Whether the cells are newer than the log by the word of another reign than this: healed with
    /// what a home said, or filled from its snapshot, that has been succeeded before its log came.
    /// Its successor's log may come to something else there.
    pub(crate) fn is_ahead_of(&self, reign: Option<Epoch>) -> bool {
        let state = self.lock();
        let is_ahead = self.cells.intent_upto() > state.core.appended_upto();
        let is_by_it = reign.is_some() && state.ahead_by == reign;
        is_ahead && !is_by_it && !self.cells.is_wounded()
    }

    /// The cells may be newer than the log from now on, by the word of the home in this reign.
    pub(crate) fn set_ahead_by(&self, reign: Option<Epoch>) {
        self.lock().ahead_by = reign;
    }

    /// A snapshot took the place of what was there.
    pub(super) fn clear_damage(&self) {
        let mut state = self.lock();
        (state.damage, state.alarm) = (None, None);
        self.is_damaged.store(false, Ordering::Release);
    }

    pub(super) fn close_reads(&self) {
        self.reads_open.store(false, Ordering::Release);
    }

    /// Whether the home may say what its log comes to, to a copy that waits to be healed.
    pub(crate) fn check_heal(&self, now: Moment) -> Result<(), Error> {
        let mut state = self.lock();
        state.core.renew_lease(self.lease.until());
        self.check_damage(&state)?;
        Ok(state.core.heal_gate(now)?)
    }

    /// The place up to which a read of `applied_upto` has seen the history.
    pub(crate) fn position(&self, applied_upto: Seq) -> Option<Position> {
        self.lock().core.position(applied_upto)
    }

    /// How the log here stands to what a session has seen.
    pub(crate) fn session_standing(&self, seen: Position) -> SessionStanding {
        self.lock().core.session_standing(seen)
    }

    pub(crate) fn held_mark(&self) -> HeldMark {
        self.lock().held()
    }

    pub(crate) fn epoch(&self) -> Option<Epoch> {
        self.lock().core.epoch()
    }

    pub(crate) fn status(&self, now: Moment) -> (PartitionStatus, Option<String>) {
        let state = self.lock();
        (state.core.status(now), state.alarm.clone())
    }

    /// How far behind its home this copy's applied state may be. Two bounds, the smaller holds: the
    /// age of the last beat that found nothing left to send, and the age of the newest record
    /// applied (everything its home wrote before it is applied too).
    pub(crate) fn staleness(&self, now: Moment, stream: StreamState) -> Duration {
        let mut state = self.lock();
        let applied_upto = self.cells.applied_upto();
        state.refresh(applied_upto, stream);
        let one_way = Duration::from_micros(stream.one_way_us);
        let by_beat = state.fresh_at.map(|at| now.since(at) + one_way);
        let home_now_ms = Clock::wall_ms().saturating_add_signed(stream.skew_ms);
        let by_record = (state.fresh_hlc > Hlc::ZERO)
            .then(|| Duration::from_millis(home_now_ms.saturating_sub(state.fresh_hlc.wall_ms())));
        match (by_beat, by_record) {
            (Some(a), Some(b)) => a.min(b),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => Duration::MAX,
        }
    }

    /// How much the home may have written that was never heard of here.
    pub(crate) fn unheard(&self, now: Moment, stream: StreamState) -> Option<Unheard> {
        let silent = self.staleness(now, stream);
        let a_second = self.lock().rate.most_a_second(now);
        (silent < Duration::MAX).then_some(Unheard { silent, a_second })
    }

    /// How far a copy may show the partition, at its home.
    pub(crate) fn watermark(&self) -> Option<(Epoch, Seq)> {
        let state = self.lock();
        state
            .core
            .epoch()
            .map(|epoch| (epoch, state.core.visible_upto()))
    }

    /// How the home found a copy to stand.
    pub(crate) fn standing(&self, region: RegionId) -> Option<Standing> {
        self.lock().core.standing(region)
    }

    /// The first record that a copy may lack: what follows is not to be deleted here. A copy that
    /// was never heard of lacks everything; at a copy nobody else's is known.
    pub(crate) fn needed_from(&self) -> Seq {
        let lacking = self.lacking();
        let lacking = lacking.into_iter().map(|(_, seq)| seq);
        lacking.min().unwrap_or(NOTHING)
    }

    /// The first record that each copy lacks, as far as it is kept for it.
    pub(crate) fn lacking(&self) -> Vec<(RegionId, Seq)> {
        let state = self.lock();
        let status = state.core.status(Moment::START);
        let from = |copy: &CopyStatus| match state.kept.get(&copy.region) {
            Some(Kept::Nothing) => NOTHING,
            Some(Kept::After(seq)) => copy.durable_upto.max(*seq).next(),
            // What it lacks is gone; the rest is kept from when it is sent a snapshot.
            None if copy.standing == Standing::Behind => NOTHING,
            None => copy.durable_upto.next(),
        };
        let copies = status.copies.iter();
        copies.map(|copy| (copy.region, from(copy))).collect()
    }

    /// Nothing is kept for a copy any more: it outran its budget.
    pub(crate) fn outrun(&self, region: RegionId) {
        self.lock().kept.insert(region, Kept::Nothing);
    }

    /// A copy is sent a snapshot: what follows it is kept.
    pub(crate) fn keep_after_snapshot(&self, region: RegionId, seq: Seq) {
        self.lock().kept.insert(region, Kept::After(seq));
    }

    /// A copy follows the log: what it lacks is kept.
    pub(crate) fn keep_all(&self, region: RegionId) {
        self.lock().kept.remove(&region);
    }

    /// Whether nothing is kept for a copy, so that only a snapshot will help it.
    pub(crate) fn is_outrun(&self, region: RegionId) -> bool {
        self.lock().kept.get(&region) == Some(&Kept::Nothing)
    }

    /// Whether everything that was received is on disk.
    pub(crate) fn is_quiet(&self) -> bool {
        let state = self.lock();
        state.core.appended_upto() == state.core.durable_upto()
    }

    pub(crate) fn set_alarm(&self, alarm: Option<String>) {
        self.lock().alarm = alarm;
    }

    /// Takes back an alarm that begins so, and no other.
    pub(crate) fn clear_alarm(&self, beginning: &str) {
        let mut state = self.lock();
        state.alarm.take_if(|alarm| alarm.starts_with(beginning));
    }

    pub(super) fn forget_arrivals(&self) {
        let mut state = self.lock();
        state.arrivals.clear();
        (state.fresh_hlc, state.fresh_at) = (Hlc::ZERO, None);
    }

    pub(super) fn set_installing(&self, installing: bool) {
        let mut state = self.lock();
        state.installing = installing || state.damage.is_some();
    }

    pub(super) fn try_close_intake(&self) -> bool {
        let mut state = self.lock();
        let is_closed = !std::mem::replace(&mut state.installing, true);
        if is_closed {
            state.turned_away = false;
        }
        is_closed
    }

    /// Whether a segment was refused while nothing was taken, which is forgotten with this.
    pub(super) fn take_turned_away(&self) -> bool {
        std::mem::take(&mut self.lock().turned_away)
    }

    /// The last record that the home is known to have had: what it has told of, be it here or not.
    pub(crate) fn home_upto(&self) -> Seq {
        self.lock().core.home_upto()
    }

    /// The policy that its core was opened with.
    pub(crate) fn config(&self) -> PartitionConfig {
        self.lock().core.config().clone()
    }

    /// Up to where records are visible here.
    pub(crate) fn visible_upto(&self) -> Seq {
        self.lock().core.visible_upto()
    }

    /// Whether callers wait for their writes.
    pub(crate) fn has_waiters(&self) -> bool {
        !self.lock().waiters.is_empty()
    }

    pub(super) fn wake_readers(&self) {
        self.watchers.wake();
        if self.readers_waiting.load(Ordering::Acquire) > 0 {
            self.applied.notify_waiters();
        }
    }

    /// Waits until everything up to `seq` is applied. The caller bounds the time.
    pub(crate) async fn wait_applied(&self, seq: Seq) {
        self.readers_waiting.fetch_add(1, Ordering::AcqRel);
        let counted = CountedReader(&self.readers_waiting);
        loop {
            let mut notified = std::pin::pin!(self.applied.notified());
            notified.as_mut().enable();
            if self.cells.applied_upto() >= seq {
                break;
            }
            notified.await;
        }
        drop(counted);
    }
}

/// Keeps the count right when a waiting read is dropped.
struct CountedReader<'slot>(&'slot AtomicUsize);

impl Drop for CountedReader<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
