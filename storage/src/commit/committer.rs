//! One commit: what is queued becomes a frame, the frame becomes durable, its end becomes known.
//!
//! **Owns**: chain hashes, the frame's bytes, what is published after the sync.
//! **Does not own**: the file (writer), who is told (the thread's sink).

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use domicile_proto::{ChainHash, Epoch, PartitionId, Seq};

use super::queue::{CommitQueue, Work};
use super::stall::Stalls;
use super::statistics::CommitStatistic;
use crate::error::StoreError;
use crate::journal::Place;
use crate::journal::cut::Cut;
use crate::journal::cuts::Cuts;
use crate::journal::files::FileSet;
use crate::journal::frame::FRAME_HEADER_BYTES;
use crate::journal::index::JournalIndex;
use crate::journal::rebase::{Entry, Rebase};
use crate::journal::scan::LastFrame;
use crate::journal::tails::Tails;
use crate::journal::writer::JournalWriter;
use crate::orphans::Wound;
use crate::planted::{Bug, is_planted};

/// The frame's buffer is kept for the next one up to this size, 4 MiB; a larger one was a burst.
const BUFFER_BYTES_KEPT: usize = 4 << 20;

/// A sync that takes longer is told of: a healthy disk needs milliseconds. Halved, a disk under
/// somebody else's load fills the log.
const SLOW_SYNC: Duration = Duration::from_secs(1);

/// A segment that is durable now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// Whose records.
    pub partition: PartitionId,
    /// Written in which reign.
    pub epoch: Epoch,
    /// The first record.
    pub first_seq: Seq,
    /// The last record.
    pub last_seq: Seq,
    /// The hash of the history up to it.
    pub chain: ChainHash,
    /// Where the segment lies.
    pub place: Place,
    /// Its bytes.
    pub bytes: u64,
}

/// What is durable, as everyone but the committer sees it.
#[derive(Debug)]
pub(crate) struct Published {
    /// Everything before it is durable.
    pub(crate) end: Place,
    pub(crate) last: Option<LastFrame>,
    pub(crate) tails: Tails,
    pub(crate) index: JournalIndex,
    /// Partitions whose log began anew there and whose cells are not those of its snapshot yet.
    pub(crate) unfilled: BTreeMap<PartitionId, Place>,
    /// Which segments of the journal are void.
    pub(crate) cuts: Cuts,
    /// Partitions whose log was cut and whose cells are not those of the fork yet.
    pub(crate) wounds: BTreeMap<PartitionId, Wound>,
}

impl Published {
    /// A journal in which nothing was read yet.
    pub(crate) fn starting_at(start: Place) -> Self {
        Self {
            end: start,
            last: None,
            tails: Tails::default(),
            index: JournalIndex::default(),
            unfilled: BTreeMap::new(),
            cuts: Cuts::default(),
            wounds: BTreeMap::new(),
        }
    }

    /// Lets a partition's log begin anew, as the frame at `place` says.
    pub(crate) fn rebase(&mut self, rebase: &Rebase, place: Place) {
        self.tails.insert(rebase.partition, rebase.tail());
        let first_seq = rebase.seq.next();
        self.index.rebase(rebase.partition, first_seq, place);
    }

    /// Lets a partition's log go back to a fork, as the frame at `place` says.
    pub(crate) fn cut(&mut self, cut: &Cut, place: Place) {
        self.cuts.add(cut.mark(place));
        self.tails.turn_back(cut);
        self.index.cut(cut.partition, cut.seq, place);
    }

    /// The first place that is still to be read again for what is not in the cells: there is a
    /// rebase or a cut that they are not those of.
    pub(crate) fn unsettled_from(&self) -> Option<Place> {
        let wounds = self.wounds.values().map(Wound::first_place);
        self.unfilled.values().copied().chain(wounds).min()
    }
}

/// The one that commits.
#[derive(Debug)]
pub(crate) struct Committer {
    writer: JournalWriter,
    /// The ends of all logs, those of a commit under way included.
    chains: BTreeMap<PartitionId, ChainHash>,
    work: Vec<Work>,
    entries: Vec<(Entry, ChainHash)>,
    frame: Vec<u8>,
    /// Commits made for a flush, of which the one who commits next is to tell.
    untold: Vec<Committed>,
}

impl Committer {
    pub(crate) fn new(writer: JournalWriter, tails: &Tails) -> Self {
        let chains = tails
            .iter()
            .map(|(partition, tail)| (partition, tail.chain))
            .collect();
        Self {
            writer,
            chains,
            work: Vec::new(),
            entries: Vec::new(),
            frame: Vec::new(),
            untold: Vec::new(),
        }
    }

    /// Leaves it to the next caller of [`Committer::take_untold`] to tell of these.
    pub(crate) fn leave_untold(&mut self, committed: Vec<Committed>) {
        self.untold.extend(committed);
    }

    /// What is still to be told of, oldest first.
    pub(crate) fn take_untold(&mut self) -> Vec<Committed> {
        std::mem::take(&mut self.untold)
    }

    /// Commits what is queued; empty if nothing is.
    ///
    /// # Errors
    /// What the disk says. What was queued is then lost to this process, durable or not: the
    /// caller poisons the store.
    pub(crate) fn commit(
        &mut self,
        queue: &CommitQueue,
        files: &FileSet,
        published: &Mutex<Published>,
        statistic: &CommitStatistic,
        stalls: &Stalls,
    ) -> Result<Vec<Committed>, StoreError> {
        queue.take(&mut self.work);
        if self.work.is_empty() {
            return Ok(Vec::new());
        }
        self.finish_entries();
        let frame_bytes = self.frame.len() as u64;
        let entries = self.entries.len() as u32;
        let (writer, frame) = (&mut self.writer, &mut self.frame);
        let (place, sync) = stalls
            .commit
            .watch(|| write_and_sync(writer, files, frame, entries))?;
        if sync > SLOW_SYNC {
            let sync_ms = sync.as_millis() as u64;
            tracing::warn!(sync_ms, "the disk is slow to sync");
        }
        let committed = self.publish(place, published);
        queue.taken_is_done();
        let records = committed
            .iter()
            .map(|each| each.last_seq.since(each.first_seq) + 1)
            .sum();
        statistic.note(records, frame_bytes, sync);
        if self.frame.capacity() > BUFFER_BYTES_KEPT {
            self.frame = Vec::new();
        }
        Ok(committed)
    }

    /// Turns the work into entries and the frame's bytes.
    fn finish_entries(&mut self) {
        self.frame.clear();
        self.frame.resize(FRAME_HEADER_BYTES, 0);
        for work in self.work.drain(..) {
            let partition = work.partition();
            let end = self.chains.entry(partition).or_insert(ChainHash::START);
            let (segment, chain) = match work {
                Work::Open {
                    builder,
                    visible_upto,
                } => {
                    let segment = builder.finish(*end, visible_upto);
                    let chain = segment.chain();
                    (segment, chain)
                }
                Work::Whole { segment, chain } => {
                    let previous = segment.header().previous;
                    assert!(
                        previous == *end,
                        "{partition}: a segment that continues {previous} was stored on {end}"
                    );
                    (segment, chain)
                }
                Work::Rebase(rebase) => {
                    *end = rebase.chain;
                    self.frame.extend_from_slice(&rebase.encode());
                    self.entries.push((Entry::Rebase(rebase), *end));
                    continue;
                }
                Work::Cut(cut) => {
                    *end = cut.chain;
                    self.frame.extend_from_slice(&cut.encode());
                    self.entries.push((Entry::Cut(cut), *end));
                    continue;
                }
            };
            *end = chain;
            self.frame.extend_from_slice(segment.bytes());
            self.entries.push((Entry::Segment(segment), chain));
        }
    }

    fn publish(&mut self, frame_place: Place, published: &Mutex<Published>) -> Vec<Committed> {
        let mut committed = Vec::with_capacity(self.entries.len());
        let mut place = frame_place;
        place.offset += FRAME_HEADER_BYTES as u64;
        let mut published = published.lock().unwrap_or_else(PoisonError::into_inner);
        for (entry, chain) in self.entries.drain(..) {
            let segment = match entry {
                Entry::Segment(segment) => segment,
                Entry::Rebase(rebase) => {
                    place.offset += rebase.encode().len() as u64;
                    published.rebase(&rebase, frame_place);
                    published.unfilled.insert(rebase.partition, frame_place);
                    continue;
                }
                Entry::Cut(cut) => {
                    place.offset += cut.encode().len() as u64;
                    published.cut(&cut, frame_place);
                    continue;
                }
            };
            let header = segment.header();
            let (first_seq, bytes) = (header.first_seq, segment.bytes().len() as u64);
            published.tails.advance(&segment, chain);
            published
                .index
                .note(header.partition, first_seq, frame_place);
            committed.push(Committed {
                partition: header.partition,
                epoch: header.epoch,
                first_seq,
                last_seq: header.last_seq(),
                chain,
                place,
                bytes,
            });
            place.offset += bytes;
        }
        published.end = self.writer.end();
        published.last = self.writer.last();
        committed
    }
}

/// Writes a frame and makes it durable; where it is, and how long the sync took.
fn write_and_sync(
    writer: &mut JournalWriter,
    files: &FileSet,
    frame: &mut [u8],
    entries: u32,
) -> Result<(Place, Duration), StoreError> {
    let place = writer.make_room(files, frame.len() as u64)?;
    writer.append(files, frame, entries)?;
    let began = Instant::now();
    let synced = writer.sync();
    if !is_planted(Bug::AckBeforeSync) {
        synced?;
    }
    Ok((place, began.elapsed()))
}

impl Work {
    fn partition(&self) -> PartitionId {
        match self {
            Self::Open { builder, .. } => builder.partition(),
            Self::Whole { segment, .. } => segment.header().partition,
            Self::Rebase(rebase) => rebase.partition,
            Self::Cut(cut) => cut.partition,
        }
    }
}
