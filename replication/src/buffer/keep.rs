//! Keeping writes: one task adds to the file, for everybody who waits at the moment.
//!
//! **Owns**: the group commit of the buffer, the numbers, which id is kept already.
//! **Does not own**: who may have a write kept (`accept`), the file (storage).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use domicile_proto::record::RecordBody;
use domicile_proto::{BufferLimit, Keyspace, KeyspaceId, PartitionId, Reason, RequestId, Seq};
use domicile_storage::retention::NOTHING;
use domicile_storage::{
    BufferEvent, BufferNumber, BufferedWrite, NewBuffered, RefusedWrite, Store, StoreError,
    WriteBuffer,
};
use tokio::sync::{Notify, mpsc, oneshot};

use super::call::Accepted;
use super::standing::{BufferStanding, Standing};
use crate::clock::Clock;
use crate::driver::lock;
use crate::error::Error;
use crate::node::NodeCore;
use crate::ownership::blocking;

/// Jobs that may wait for the disk; further callers wait in line. Doubled, a stalled disk holds
/// twice as many writes in memory.
const JOBS_MAX: usize = 1024;

/// Jobs that one sync makes durable. Doubled, the first of them waits for twice as many.
const BATCH_JOBS_MAX: usize = 256;

/// Their bytes: a frame holds the largest write besides. Tripled, it would not.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// How soon it is looked again whether anything waits. Doubled, a first write may wait that much
/// longer to be sent.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The writes that this node keeps for homes that it cannot reach.
pub(crate) struct Buffer {
    jobs: mpsc::Sender<Job>,
    standing: Mutex<Standing>,
    /// How many wait: most nodes have none, and ask nothing else.
    waiting: AtomicUsize,
    file: Mutex<Option<WriteBuffer>>,
    /// Why the file is out of service; `None`: it is not.
    out_of_service: Mutex<Option<(Reason, String)>>,
    /// The partitions whose home takes what waits, just now.
    draining: Mutex<BTreeSet<PartitionId>>,
    /// Told when writes come or go, or a partition does not drain any more.
    changed: Notify,
}

/// Whether a partition's home takes what waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Draining {
    /// It took the last message.
    GoesOn,
    /// It did not, or nothing is on its way.
    Stands,
}

/// What the task is asked for.
pub(crate) enum Job {
    /// Keep a write.
    Keep(Box<KeepJob>),
    /// Add what became of some.
    Tell {
        events: Vec<BufferEvent>,
        reply: oneshot::Sender<Result<(), Error>>,
    },
}

pub(crate) struct KeepJob {
    keyspace: Arc<Keyspace>,
    limit: BufferLimit,
    write: NewBuffered,
    reply: oneshot::Sender<Result<Accepted, Error>>,
}

impl Buffer {
    /// What is kept already. One that cannot be read is out of service: the node is not.
    pub(crate) fn open(store: &Store) -> (Self, mpsc::Receiver<Job>) {
        let mut standing = Standing::default();
        let (file, damaged) = match store.open_write_buffer() {
            Ok(file) => {
                let damaged = file.damaged().unwrap_or_default().to_owned();
                file.writes()
                    .for_each(|write| standing.insert(write.clone()));
                (Some(file), damaged)
            }
            Err(error) => (None, error.to_string()),
        };
        if !damaged.is_empty() {
            tracing::error!(damaged, "the buffer of writes is out of service");
        }
        let damaged = Some(damaged).filter(|damaged| !damaged.is_empty());
        let out_of_service = damaged.map(|damaged| (Reason::ChecksumMismatch, damaged));
        let (jobs, taken) = mpsc::channel(JOBS_MAX);
        let buffer = Self {
            jobs,
            waiting: AtomicUsize::new(standing.waiting()),
            standing: Mutex::new(standing),
            file: Mutex::new(file),
            out_of_service: Mutex::new(out_of_service),
            draining: Mutex::default(),
            changed: Notify::new(),
        };
        (buffer, taken)
    }

    /// Why the file is out of service: nothing is added, and nothing in it is sent. Empty: it is
    /// not.
    pub(crate) fn damaged(&self) -> String {
        let out_of_service = self.out_of_service();
        out_of_service.map_or(String::new(), |(_, why)| why)
    }

    fn out_of_service(&self) -> Option<(Reason, String)> {
        lock(&self.out_of_service).clone()
    }

    /// Whether writes of the partition wait here: later ones wait behind them.
    pub(crate) fn has_waiting(&self, partition: PartitionId) -> bool {
        self.waiting.load(Ordering::Acquire) > 0 && self.standing().has_waiting(partition)
    }

    /// From which record on the log of a partition is needed, to tell whether what waits was done
    /// already.
    pub(crate) fn log_needed_from(&self, partition: PartitionId) -> Seq {
        if self.waiting() == 0 {
            return NOTHING;
        }
        self.standing().searched_from(partition).unwrap_or(NOTHING)
    }

    /// How many writes wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    /// What is kept, by keyspace.
    pub(crate) fn standings(&self) -> BTreeMap<KeyspaceId, BufferStanding> {
        self.standing().standings(Clock::wall_ms())
    }

    /// A write that is kept under this id.
    pub(crate) fn of_id(&self, id: RequestId) -> Option<BufferedWrite> {
        self.standing().of_id(id).cloned()
    }

    pub(super) fn set_draining(&self, partition: PartitionId, draining: Draining) {
        let mut all = lock(&self.draining);
        match draining {
            Draining::GoesOn => all.insert(partition),
            Draining::Stands => all.remove(&partition),
        };
        drop(all);
        self.changed.notify_waiters();
    }

    fn is_draining(&self, partition: PartitionId) -> bool {
        let all = lock(&self.draining);
        all.contains(&partition)
    }

    /// Until writes come or go.
    pub(super) async fn until_changed(&self) {
        let changed = self.changed.notified();
        // One that comes between the look and the wait is seen by the next look.
        let _ = tokio::time::timeout(LOOK_AGAIN, changed).await;
    }

    /// While the home takes what waits of a partition, waits until nothing does: were all that
    /// comes meanwhile kept, too, there would be no end of it. Whether nothing waits.
    pub(super) async fn drained(&self, partition: PartitionId, patience: Duration) -> bool {
        let draining = async {
            loop {
                let mut changed = std::pin::pin!(self.changed.notified());
                changed.as_mut().enable();
                if !self.has_waiting(partition) || !self.is_draining(partition) {
                    return;
                }
                changed.await;
            }
        };
        let _ = tokio::time::timeout(patience, draining).await;
        !self.has_waiting(partition)
    }

    pub(super) fn standing(&self) -> MutexGuard<'_, Standing> {
        lock(&self.standing)
    }

    /// What writes that are kept do, read from the disk.
    /// `None`: not kept any more.
    pub(super) fn bodies(
        &self,
        numbers: &[BufferNumber],
    ) -> Vec<Result<Option<RecordBody>, StoreError>> {
        let file = lock(&self.file);
        let Some(file) = &*file else {
            return Vec::new();
        };
        numbers.iter().map(|number| file.body(*number)).collect()
    }

    /// Keeps a write: on disk when this returns.
    ///
    /// # Errors
    /// `BUFFER_FULL`, `REQUEST_ID_REUSED`, a file out of service: it is not kept. `INDETERMINATE`:
    /// the disk failed, nobody knows.
    pub(super) async fn keep(
        &self,
        keyspace: Arc<Keyspace>,
        limit: BufferLimit,
        write: NewBuffered,
    ) -> Result<Accepted, Error> {
        if let Some((reason, why)) = self.out_of_service() {
            let message = format!(
                "the home cannot be reached, and the buffer of writes is out of service: {why}"
            );
            return Err(Error::new(reason, message));
        }
        let request_id = write.request_id;
        let (reply, kept) = oneshot::channel();
        let job = KeepJob {
            keyspace,
            limit,
            write,
            reply,
        };
        let sent = self.jobs.send(Job::Keep(Box::new(job))).await;
        sent.map_err(|_| closing())?;
        let ended = || {
            let message = "the node ended before the write was kept";
            Err(Error::new(Reason::Indeterminate, message).with("request_id", request_id))
        };
        kept.await.unwrap_or_else(|_| ended())
    }

    /// Adds what became of some: on disk when this returns.
    pub(super) async fn tell(&self, events: Vec<BufferEvent>) -> Result<(), Error> {
        if events.is_empty() {
            return Ok(());
        }
        let (reply, told) = oneshot::channel();
        let sent = self.jobs.send(Job::Tell { events, reply }).await;
        sent.map_err(|_| closing())?;
        told.await.unwrap_or_else(|_| Err(closing()))
    }

    fn add(&self, events: &[BufferEvent]) -> Result<(), StoreError> {
        let mut file = lock(&self.file);
        let added = match &mut *file {
            Some(file) => file.add(events),
            None => return Err(StoreError::Closed),
        };
        if let Err(error) = &added {
            tracing::error!(%error, "the buffer of writes is out of service until a restart");
            let why = (Reason::StorePoisoned, error.to_string());
            lock(&self.out_of_service).get_or_insert(why);
        }
        added
    }

    /// Nothing is added from now on, nor on its way to the disk.
    pub(crate) fn shut(&self) {
        *lock(&self.file) = None;
    }

    fn next_number(&self) -> BufferNumber {
        let file = lock(&self.file);
        let next = file.as_ref().map(WriteBuffer::next_number);
        next.unwrap_or(BufferNumber::FIRST)
    }

    /// Takes what the file has into the index.
    fn take_in(&self, events: &[BufferEvent], bytes: &[u64]) {
        let mut standing = self.standing();
        for (event, bytes) in events.iter().zip(bytes) {
            match event {
                BufferEvent::Accepted(number, write) => {
                    standing.insert(write.kept_as(*number, *bytes));
                }
                other => standing.apply(other),
            }
        }
        self.waiting.store(standing.waiting(), Ordering::Release);
        drop(standing);
        self.changed.notify_waiters();
    }
}

fn closing() -> Error {
    Error::new(Reason::Draining, "the node is closing")
}

/// Adds to the file until the node ends: whatever waits while the disk is busy goes together.
pub(crate) async fn run_keeping(core: Arc<NodeCore>, mut jobs: mpsc::Receiver<Job>) {
    let closed = core.closed();
    let mut closed = std::pin::pin!(closed);
    loop {
        let first = tokio::select! {
            biased;
            () = &mut closed => return,
            job = jobs.recv() => match job {
                Some(job) => job,
                None => return,
            },
        };
        let mut batch = Batch::default();
        let (mut next, mut taken) = (Some(first), 0);
        while let Some(job) = next {
            batch.take(job, &core.buffer);
            taken += 1;
            let has_room = taken < BATCH_JOBS_MAX && batch.bytes_new < BATCH_BYTES_MAX;
            next = has_room.then(|| jobs.try_recv().ok()).flatten();
        }
        batch.commit(&core).await;
    }
}

/// What one sync makes durable, and who waits for it.
#[derive(Default)]
struct Batch {
    events: Vec<BufferEvent>,
    bytes: Vec<u64>,
    bytes_new: usize,
    coming: BTreeMap<KeyspaceId, u64>,
    ids: HashMap<RequestId, (Accepted, u64)>,
    next: Option<BufferNumber>,
    kept: Vec<(Accepted, oneshot::Sender<Result<Accepted, Error>>)>,
    told: Vec<oneshot::Sender<Result<(), Error>>>,
}

impl Batch {
    fn take(&mut self, job: Job, buffer: &Buffer) {
        match job {
            Job::Tell { events, reply } => {
                self.bytes.extend(events.iter().map(|_| 0));
                self.events.extend(events);
                self.told.push(reply);
            }
            Job::Keep(job) => self.keep(*job, buffer),
        }
    }

    fn keep(&mut self, job: KeepJob, buffer: &Buffer) {
        let KeepJob {
            keyspace,
            limit,
            write,
            reply,
        } = job;
        let fingerprint = write.body.fingerprint();
        let known = buffer.of_id(write.request_id);
        if let Some(refused) = known.as_ref().and_then(|known| known.refused.as_ref()) {
            return drop(reply.send(Err(refused_before(refused))));
        }
        let known = known.map(|known| {
            let accepted = Accepted {
                number: known.number,
                partition: known.partition,
                request_id: known.request_id,
                accepted_at_ms: known.accepted_at_ms,
            };
            (accepted, known.fingerprint)
        });
        if let Some((accepted, before)) = known.or(self.ids.get(&write.request_id).copied()) {
            // Kept before: told once what is there is on disk, which one on its way is with this.
            match before == fingerprint {
                true => self.kept.push((accepted, reply)),
                false => drop(reply.send(Err(reused(&accepted)))),
            }
            return;
        }
        let bytes = write.disk_bytes();
        let coming = self.coming.entry(keyspace.id()).or_default();
        let checked =
            buffer
                .standing()
                .check_room(&keyspace, limit, (*coming, bytes), write.accepted_at_ms);
        if let Err(error) = checked {
            return drop(reply.send(Err(error)));
        }
        *coming += bytes;
        let number = self.next.unwrap_or_else(|| buffer.next_number());
        self.next = Some(number.next());
        let accepted = Accepted {
            number,
            partition: write.partition,
            request_id: write.request_id,
            accepted_at_ms: write.accepted_at_ms,
        };
        self.ids.insert(write.request_id, (accepted, fingerprint));
        self.kept.push((accepted, reply));
        self.bytes_new += bytes as usize;
        self.bytes.push(bytes);
        self.events.push(BufferEvent::Accepted(number, write));
    }

    async fn commit(self, core: &Arc<NodeCore>) {
        let events = Arc::new(self.events);
        let added = match events.is_empty() {
            true => Ok(()),
            false => {
                let (core, events) = (Arc::clone(core), Arc::clone(&events));
                blocking(move || Ok(core.buffer.add(&events))).await
            }
            .and_then(|added| Ok(added?)),
        };
        let buffer = &core.buffer;
        if added.is_ok() {
            buffer.take_in(&events, &self.bytes);
        }
        for (accepted, reply) in self.kept {
            let told = added.as_ref().map(|()| accepted);
            let told = told.map_err(|error| not_kept(error, &accepted));
            drop(reply.send(told));
        }
        for reply in self.told {
            let failed = |error: &Error| Error::new(error.reason(), error.to_string());
            drop(reply.send(added.as_ref().copied().map_err(failed)));
        }
    }
}

fn refused_before(refused: &RefusedWrite) -> Error {
    let reason = Reason::parse(&refused.reason).unwrap_or(Reason::InvalidArgument);
    let message = format!(
        "it was kept here, and its home refused it: {}",
        refused.message
    );
    Error::new(reason, message)
}

fn reused(kept: &Accepted) -> Error {
    let message = format!(
        "request id was used for another content, which is kept here as number {}",
        kept.number.get()
    );
    Error::new(Reason::RequestIdReused, message)
}

/// A write that the disk may have, or may not.
fn not_kept(error: &Error, write: &Accepted) -> Error {
    let message = format!("the home cannot be reached, and keeping the write failed: {error}");
    // A file that takes nothing has nothing of it; an earlier try may have reached the home.
    let reason = match error.reason() {
        reason @ (Reason::ChecksumMismatch | Reason::Draining) => reason,
        _ => Reason::Indeterminate,
    };
    Error::new(reason, message).with("request_id", write.request_id)
}
