//! A backup read from a store that goes on writing.
//!
//! **Owns**: with what each partition begins, where the backup ends, that its log has no gap.
//! **Does not own**: keeping the journal meanwhile and who may have it (the node), the files
//! (`draft`).
//!
//! ```text
//! each partition: goes on behind its known end, or: snapshot taken, sent | end = durable end
//! one pass over the journal up to the end: the segments of all of them
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use domicile_proto::{ChainHash, PartitionId, Seq};

use crate::error::StoreError;
use crate::journal::Place;
use crate::snapshot::{OutgoingSnapshot, SnapshotHeader, SnapshotPlan};
use crate::store::Store;

/// Bytes of a piece, about: what a backup holds in memory. A segment is never cut in two, so one
/// may be as long as a segment.
const PIECE_BYTES: usize = 256 << 10;

/// How far an earlier backup has a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownEnd {
    /// Which partition.
    pub partition: PartitionId,
    /// Its last record there.
    pub seq: Seq,
    /// The hash over the history up to it.
    pub chain: ChainHash,
}

/// Where a partition ends in a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupEnd {
    /// Which partition.
    pub partition: PartitionId,
    /// Its last record.
    pub seq: Seq,
    /// The hash over the history up to it.
    pub chain: ChainHash,
}

/// What a backup is read as, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupPiece {
    /// A partition begins anew with this snapshot, whose bytes follow.
    Snapshot {
        /// What it is of.
        header: SnapshotHeader,
        /// When the newest record in it was written, or later, in ms since 1970.
        oldest_ms: u64,
    },
    /// The next bytes of that snapshot, from the first one of its file on.
    Bytes(Bytes),
    /// A partition begins anew without a snapshot: its log is there from the first record.
    Empty(PartitionId),
    /// Whole segments, of any partition, in the order of the journal.
    Segments(Bytes),
    /// Nothing follows; each partition must have come to here.
    End(Vec<BackupEnd>),
}

/// How far the log of a partition was read.
#[derive(Debug, Clone, Copy)]
struct Reading {
    /// What lies before it is no part of this log.
    place: Place,
    seq: Seq,
    chain: ChainHash,
    /// It must be read up to here at least.
    seq_min: Seq,
}

/// Reads one backup.
pub struct BackupReader {
    store: Arc<Store>,
    known: BTreeMap<PartitionId, KnownEnd>,
    plan: SnapshotPlan,
    waiting: VecDeque<PartitionId>,
    sending: Option<(OutgoingSnapshot, u64)>,
    has_flushed: bool,
    readings: BTreeMap<PartitionId, Reading>,
    /// Where to read on, and up to where, once all partitions have begun.
    pass: Option<(Place, Place)>,
    is_done: bool,
}

impl BackupReader {
    /// Of these partitions; those that an earlier backup has go on behind it if the journal still
    /// does. Files of the journal must not be deleted while it is read.
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        partitions: impl IntoIterator<Item = PartitionId>,
        known: &[KnownEnd],
        plan: SnapshotPlan,
    ) -> Self {
        Self {
            store,
            known: known.iter().map(|it| (it.partition, *it)).collect(),
            plan,
            waiting: partitions.into_iter().collect(),
            sending: None,
            has_flushed: false,
            readings: BTreeMap::new(),
            pass: None,
            is_done: false,
        }
    }

    /// The next piece; `None` behind [`BackupPiece::End`]. `pace` is told of the bytes of a
    /// snapshot that is being taken, may wait, and says whether to go on.
    ///
    /// # Errors
    /// [`StoreError::NotInBackup`] for a partition that has no state to be shown now,
    /// [`StoreError::Corrupt`] for damage, [`StoreError::Closed`] once `pace` said to stop, what
    /// the engine or the operating system says.
    pub fn read_on(
        &mut self,
        pace: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Option<BackupPiece>, StoreError> {
        loop {
            if let Some((snapshot, at)) = &mut self.sending {
                let bytes = snapshot.read(*at, PIECE_BYTES)?;
                *at += bytes.len() as u64;
                if !bytes.is_empty() {
                    return Ok(Some(BackupPiece::Bytes(bytes)));
                }
                self.sending = None;
            }
            if let Some(partition) = self.waiting.pop_front() {
                match self.begin(partition, pace)? {
                    Some(piece) => return Ok(Some(piece)),
                    None => continue,
                }
            }
            if self.is_done {
                return Ok(None);
            }
            return self.read_segments().map(Some);
        }
    }

    /// Finds out with what a partition begins.
    fn begin(
        &mut self,
        partition: PartitionId,
        pace: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Option<BackupPiece>, StoreError> {
        let Some(tail) = self.store.tail(partition) else {
            return Ok(None);
        };
        if let Some(known) = self.known.get(&partition)
            && self.store.log_start(partition) <= known.seq.next()
            && self.store.chain_at(partition, known.seq)? == Some(known.chain)
        {
            self.read_from(partition, known.seq, known.chain);
            return Ok(None);
        }
        let snapshot = self.snapshot(partition, pace)?;
        let Some(snapshot) = snapshot else {
            if self.store.log_start(partition) > Seq::FIRST {
                let problem = "its log was cut and no snapshot of it can be taken now";
                return Err(not_in_backup(partition, problem));
            }
            self.read_from(partition, Seq::NONE, ChainHash::START);
            return Ok(Some(BackupPiece::Empty(partition)));
        };
        let header = *snapshot.header();
        if header.newest_seq > tail.last_seq {
            let (newest, last) = (header.newest_seq, tail.last_seq);
            let problem = format!(
                "its snapshot shows a state from record {newest} on, its log ends at {last}"
            );
            return Err(not_in_backup(partition, problem));
        }
        if self.store.log_start(partition) > header.seq.next() {
            return Err(not_in_backup(partition, "its log was cut meanwhile"));
        }
        let oldest_ms = self.written_at(&header)?;
        self.read_from(partition, header.seq, header.chain);
        self.sending = Some((snapshot, 0));
        Ok(Some(BackupPiece::Snapshot { header, oldest_ms }))
    }

    /// The newest snapshot, taken now if there is anything newer than the last one.
    fn snapshot(
        &mut self,
        partition: PartitionId,
        pace: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Option<OutgoingSnapshot>, StoreError> {
        if !self.has_flushed {
            self.store.flush_once()?;
            self.has_flushed = true;
        }
        let mut goes_on = true;
        let mut pace = |bytes| {
            goes_on = pace(bytes);
            goes_on
        };
        self.store.snapshot(partition, self.plan, &mut pace)?;
        if !goes_on {
            return Err(StoreError::Closed);
        }
        self.store.outgoing_snapshot(partition)
    }

    /// When the newest record in a snapshot was written; when it was taken, if the journal does not
    /// have that record any more.
    fn written_at(&self, header: &SnapshotHeader) -> Result<u64, StoreError> {
        let (partition, newest) = (header.partition, header.newest_seq);
        if self.store.log_start(partition) > newest {
            return Ok(header.taken_at_ms);
        }
        let mut records = self.store.records(partition, newest);
        let written = records.next().transpose()?;
        Ok(written.map_or(header.taken_at_ms, |(_, _, record)| {
            record.head.hlc.wall_ms()
        }))
    }

    fn read_from(&mut self, partition: PartitionId, seq: Seq, chain: ChainHash) {
        let place = self.store.locate(partition, seq.next());
        let reading = Reading {
            place: place.unwrap_or(self.store.journal_start()),
            seq,
            chain,
            seq_min: Seq::NONE,
        };
        self.readings.insert(partition, reading);
    }

    fn read_segments(&mut self) -> Result<BackupPiece, StoreError> {
        let (mut cursor, upto) = match self.pass {
            Some(pass) => pass,
            None => self.begin_pass(),
        };
        let mut found = BytesMut::new();
        while cursor < upto && found.len() < PIECE_BYTES {
            let chunk = self.store.read_past_damage(cursor, upto, PIECE_BYTES)?;
            if chunk.next == cursor {
                cursor = upto;
            } else {
                cursor = chunk.next;
            }
            for (place, segment) in &chunk.segments {
                let header = segment.header();
                let Some(reading) = self.readings.get_mut(&header.partition) else {
                    continue;
                };
                if *place < reading.place || header.last_seq() <= reading.seq {
                    continue;
                }
                if (header.first_seq, header.previous) != (reading.seq.next(), reading.chain) {
                    let (found, after) = (header.first_seq, reading.seq);
                    let problem = format!("its log goes on with {found} behind {after} meanwhile");
                    return Err(not_in_backup(header.partition, problem));
                }
                (reading.seq, reading.chain) = (header.last_seq(), segment.chain());
                found.extend_from_slice(segment.bytes());
            }
        }
        self.pass = Some((cursor, upto));
        if found.is_empty() {
            self.end()
        } else {
            Ok(BackupPiece::Segments(found.freeze()))
        }
    }

    /// From where the first of them has to be read, up to what is durable by now.
    fn begin_pass(&mut self) -> (Place, Place) {
        for (partition, reading) in &mut self.readings {
            let tail = self.store.tail(*partition);
            reading.seq_min = tail.map_or(Seq::NONE, |tail| tail.last_seq);
        }
        let upto = self.store.durable_end();
        let behind = self.readings.values().filter(|it| it.seq < it.seq_min);
        let from = behind.map(|it| it.place).min();
        (from.map_or(upto, |from| from.min(upto)), upto)
    }

    fn end(&mut self) -> Result<BackupPiece, StoreError> {
        self.is_done = true;
        let mut ends = Vec::new();
        for (partition, reading) in &self.readings {
            if reading.seq < reading.seq_min {
                let (found, wanted) = (reading.seq, reading.seq_min);
                let problem =
                    format!("records of {partition} behind {found} up to {wanted} are damaged");
                return Err(StoreError::corrupt(self.store.dir(), 0, problem));
            }
            ends.push(BackupEnd {
                partition: *partition,
                seq: reading.seq,
                chain: reading.chain,
            });
        }
        Ok(BackupPiece::End(ends))
    }
}

fn not_in_backup(partition: PartitionId, problem: impl Into<String>) -> StoreError {
    StoreError::NotInBackup {
        partition,
        problem: problem.into(),
    }
}
