//! From a journal and whatever engine is there to cells that are whole.
//!
//! **Owns**: the replay, what it reports.
//! **Does not own**: the verdict on damage (journal scan), identity and lock (opening).
//!
//! The engine's checkpoint says from where to read; without one everything is read. A record above
//! the engine's applied mark is folded again, which changes nothing if the engine had it already.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use domicile_proto::{ChainHash, PartitionId, Segment, SegmentHeader, Seq};

use crate::cells::{CellStore, PartitionCells, read_filled};
use crate::checkpoint;
use crate::commit::Published;
use crate::engine::EngineError;
use crate::error::StoreError;
use crate::incoming::unapplied_records;
use crate::journal::cut::Cut;
use crate::journal::cuts::Cuts;
use crate::journal::files::FileSet;
use crate::journal::frame::Frame;
use crate::journal::probe;
use crate::journal::rebase::{Entry, Rebase};
use crate::journal::scan::{self, Damage, ScanEnd, Scanned};
use crate::journal::{OrphanNumber, Place};
use crate::options::OnDamage;
use crate::orphans::{self, Found};
pub use crate::recovered::{RecoveredPartition, Recovery};
use crate::snapshot::{SnapshotOrigin, SnapshotSet, fill_again};

/// A replay that came to the journal's end.
#[derive(Debug)]
pub(crate) struct Replayed {
    pub(crate) published: Published,
    pub(crate) end: ScanEnd,
    pub(crate) partitions: Vec<RecoveredPartition>,
    pub(crate) damaged: Vec<(PartitionId, StoreError)>,
    pub(crate) unknown_damage: Option<StoreError>,
    /// The place that the engine's checkpoint replays from.
    pub(crate) replay_from: Place,
    /// Cells that the engine was given from snapshots before.
    pub(crate) restored_cells: u64,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
}

/// Reads what the cells do not hold yet and folds what is known to be visible. `lost_snapshots` are
/// those that the engine would have needed, each with what is wrong with it.
///
/// # Errors
/// [`StoreError::Corrupt`] for damage in the journal; [`StoreError::Engine`] for an engine that
/// fails or contradicts the journal.
pub(crate) fn replay(
    files: &FileSet,
    cells: &CellStore,
    snapshots: &mut SnapshotSet,
    on_damage: OnDamage,
    lost_snapshots: BTreeMap<PartitionId, StoreError>,
    cuts: &Cuts,
    orphans: &[(PartitionId, OrphanNumber)],
) -> Result<Replayed, StoreError> {
    let (replay_from, mut published) = checkpoint::load_or_begin(files, cells)?;
    let checkpoint_end = published.end;
    let filled = read_filled(&**cells.engine())?;
    for (partition, place) in &filled {
        published.index.forget_before_place(*partition, *place);
    }
    let Found { healed_upto, lost } = orphans::find(cells, cuts, &filled, orphans, &mut published)?;
    let lost = lost.into_iter().map(|(partition, problem)| {
        let problem = format!("{partition}: {problem}");
        (partition, StoreError::corrupt(files.dir(), 0, problem))
    });
    let misfits = lost_snapshots.into_iter().chain(lost).collect();
    let ends = probe::check_end(files, published.end, published.last)?;
    if let (probe::KnownEnd::Damaged(error), OnDamage::Refuse) = (ends, on_damage) {
        return Err(error);
    }
    // Read from the checkpoint's end on, the number of the next commit is known.
    let before = published.last.filter(|_| replay_from == published.end);
    let mut replay = Replay {
        files,
        cells,
        snapshots,
        published,
        filled,
        rebased: BTreeMap::new(),
        healed_upto,
        on_damage,
        damage: None,
        misfits,
        suspects: None,
        holes: BTreeSet::new(),
        checkpoint_end,
        handles: BTreeMap::new(),
        records: 0,
        bytes: 0,
    };
    let mut end = scan::scan(files, replay_from, before, &mut |found| replay.take(found))?;
    end.last = end.last.or(replay.published.last);
    replay.published.end = end.end;
    replay.published.last = end.last;
    let partitions = replay.finish()?;
    let Replay {
        published,
        misfits,
        suspects,
        records,
        bytes,
        ..
    } = replay;
    Ok(Replayed {
        published,
        end,
        partitions,
        damaged: misfits.into_iter().collect(),
        unknown_damage: suspects.map(|suspects| suspects.error),
        replay_from,
        restored_cells: 0,
        records,
        bytes,
    })
}

/// A part of the journal of which nobody can tell whose it was.
struct Suspects {
    error: StoreError,
    /// Partitions whose log went on behind it without a gap.
    cleared: BTreeSet<PartitionId>,
}

struct Replay<'a> {
    files: &'a FileSet,
    cells: &'a CellStore,
    snapshots: &'a mut SnapshotSet,
    published: Published,
    /// Where the log last began anew with a snapshot that the engine has, of each partition.
    filled: BTreeMap<PartitionId, Place>,
    /// Where each log last began anew, by what was replayed.
    rebased: BTreeMap<PartitionId, (Seq, ChainHash)>,
    /// How new cells may be that were healed, of each partition.
    healed_upto: BTreeMap<PartitionId, Seq>,
    /// What does not continue a partition's log; a log that begins anew later makes up for it.
    misfits: BTreeMap<PartitionId, StoreError>,
    /// What may have been anybody's.
    suspects: Option<Suspects>,
    /// Partitions that lack a segment which something else stands for.
    holes: BTreeSet<PartitionId>,
    on_damage: OnDamage,
    /// The last damage that was seen.
    damage: Option<String>,
    /// The end of what the engine's checkpoint knew.
    checkpoint_end: Place,
    handles: BTreeMap<PartitionId, Arc<PartitionCells>>,
    records: u64,
    bytes: u64,
}

impl Replay<'_> {
    fn take(&mut self, found: Scanned) -> Result<(), StoreError> {
        match found {
            Scanned::Frame(frame) => self.take_frame(frame),
            Scanned::Damage(damage) if self.on_damage == OnDamage::Refuse => Err(damage.error),
            Scanned::Damage(damage) => {
                self.take_damage(damage);
                Ok(())
            }
        }
    }

    fn take_damage(&mut self, damage: Damage) {
        let Damage {
            error,
            segment,
            place,
        } = damage;
        self.damage = Some(error.to_string());
        tracing::error!(%error, ?segment, "the journal is damaged");
        match segment {
            Some(header) => {
                let partition = header.partition;
                let is_void = self.is_void(partition, place, header.first_seq);
                if !is_void && self.is_covered(&header) {
                    self.holes.insert(partition);
                } else if !is_void {
                    self.misfits.entry(partition).or_insert(error);
                }
            }
            // What the checkpoint knew of, it knew the ends of: a gap before them shows by itself.
            None if place < self.checkpoint_end => {}
            None => {
                self.suspects = Some(Suspects {
                    error,
                    cleared: BTreeSet::new(),
                });
            }
        }
    }

    /// Whether a segment counts for nothing: its log began anew or went back behind it.
    fn is_void(&self, partition: PartitionId, place: Place, first_seq: Seq) -> bool {
        let filled = self.filled.get(&partition);
        let is_replaced = filled.is_some_and(|filled| place < *filled);
        is_replaced || self.published.cuts.is_void(partition, place, first_seq)
    }

    /// Whether a snapshot or the checkpoint stands for a segment.
    fn is_covered(&self, header: &SegmentHeader) -> bool {
        header.last_seq() <= self.published.tails.end_of(header.partition).0
    }

    fn take_frame(&mut self, frame: Frame) -> Result<(), StoreError> {
        for (place, entry) in &frame.entries {
            match entry {
                Entry::Segment(segment) => {
                    self.take_segment(*place, &frame, segment)?;
                }
                Entry::Rebase(rebase) => self.take_rebase(*place, &frame, rebase)?,
                Entry::Cut(cut) => self.take_cut(*place, &frame, cut),
            }
        }
        let behind_checkpoint = frame.end > self.published.end;
        if behind_checkpoint {
            self.published.end = frame.end;
            self.published.last = Some(scan::LastFrame {
                place: frame.place,
                number: frame.number,
            });
        }
        // A checkpoint behind damage would forget it: it is noted first, at the end.
        let is_sound = self.damage.is_none() && self.misfits.is_empty();
        if behind_checkpoint && is_sound && self.cells.needs_flush() {
            self.flush()?;
        }
        Ok(())
    }

    fn take_segment(
        &mut self,
        place: Place,
        frame: &Frame,
        segment: &Segment,
    ) -> Result<(), StoreError> {
        let (partition, first_seq) = (segment.header().partition, segment.header().first_seq);
        let is_void = self.is_void(partition, frame.place, first_seq);
        if is_void || self.misfits.contains_key(&partition) {
            return Ok(());
        }
        self.bytes += segment.bytes().len() as u64;
        let followed = self.follow(frame.place, segment);
        if let Err(problem) = followed.and_then(|()| self.check_fold(segment)) {
            let path = place.file.path(self.files.dir());
            let misfit = StoreError::corrupt(&path, place.offset, problem);
            self.misfits.insert(partition, misfit);
            return Ok(());
        }
        if let Some(suspects) = &mut self.suspects {
            suspects.cleared.insert(partition);
        }
        if self.published.wounds.contains_key(&partition) {
            // Folded once the cells are healed.
            return Ok(());
        }
        self.fold(segment, frame.buffer_bytes)
    }

    /// A log goes back to a fork; what it cuts was passed over before.
    fn take_cut(&mut self, place: Place, frame: &Frame, cut: &Cut) {
        let partition = cut.partition;
        let is_replaced = self
            .filled
            .get(&partition)
            .is_some_and(|it| frame.place < *it);
        if is_replaced || self.misfits.contains_key(&partition) {
            return;
        }
        let checked = match self.published.cuts.knows(partition, frame.place) {
            true => {
                let Published { tails, cuts, .. } = &self.published;
                orphans::check_cut(tails, cuts, cut, frame.place)
            }
            false => Err(format!(
                "a cut of {partition} that the list of cuts does not name"
            )),
        };
        if let Err(problem) = checked {
            let path = place.file.path(self.files.dir());
            let misfit = StoreError::corrupt(&path, place.offset, problem);
            self.misfits.insert(partition, misfit);
            return;
        }
        if let Some(suspects) = &mut self.suspects {
            suspects.cleared.insert(partition);
        }
        if frame.end > self.published.end {
            // Otherwise the checkpoint has what the log came to since.
            self.published.cut(cut, frame.place);
        }
    }

    /// Behind damage a segment may be in the log of the checkpoint and lack what the cells need.
    fn check_fold(&self, segment: &Segment) -> Result<(), String> {
        let header = segment.header();
        if self.published.wounds.contains_key(&header.partition) {
            return Ok(());
        }
        let next = self
            .cells
            .partition(header.partition)
            .enqueued_upto()
            .next();
        if self.on_damage == OnDamage::Refuse || header.first_seq <= next {
            return Ok(());
        }
        let (partition, first) = (header.partition, header.first_seq);
        Err(format!(
            "{partition} goes on at {first}, its cells end before {next}"
        ))
    }

    /// A log begins anew. The engine has the snapshot's cells, or gets them now.
    fn take_rebase(
        &mut self,
        place: Place,
        frame: &Frame,
        rebase: &Rebase,
    ) -> Result<(), StoreError> {
        let frame_place = frame.place;
        let partition = rebase.partition;
        let filled = self.filled.get(&partition);
        if filled.is_some_and(|filled| frame_place < *filled) {
            return Ok(());
        }
        self.misfits.remove(&partition);
        if let Some(suspects) = &mut self.suspects {
            suspects.cleared.insert(partition);
        }
        let is_filled = filled == Some(&frame_place);
        if !is_filled || frame.end > self.published.end {
            // Otherwise the checkpoint has what the log came to since.
            self.published.rebase(rebase, frame_place);
        }
        if !is_filled {
            let cells = self.cells.partition(partition);
            let engine = self.cells.engine();
            let filled = fill_again(&**engine, &cells, self.snapshots, rebase, frame_place);
            let lost = match filled {
                Ok(Some(_)) => None,
                Ok(None) => Some("missing".to_owned()),
                // Whatever was filled is not marked as such, and nobody reads it.
                Err(error) if self.tolerates(&error) => Some(error.to_string()),
                Err(error) => return Err(error),
            };
            if let Some(lost) = lost {
                let path = place.file.path(self.files.dir());
                let seq = rebase.seq;
                let problem = format!("{partition} begins anew after {seq}, its snapshot: {lost}");
                let misfit = StoreError::corrupt(&path, place.offset, problem);
                self.misfits.insert(partition, misfit);
                return Ok(());
            }
            self.filled.insert(partition, frame_place);
            if self.published.wounds.remove(&partition).is_some() {
                self.cells.partition(partition).mend();
            }
        }
        self.rebased.insert(partition, (rebase.seq, rebase.chain));
        Ok(())
    }

    /// A snapshot that was received takes the place of the last one where the log last began anew
    /// with it. Where that was before, it is of no use yet, and the last one is.
    fn adopt_received(&mut self) -> Result<(), StoreError> {
        for (partition, began) in std::mem::take(&mut self.rebased) {
            let received = self.snapshots.received(partition);
            let is_its = received.is_some_and(|it| (it.seq, it.chain) == began);
            if is_its && !self.misfits.contains_key(&partition) {
                self.files.lower_covered(partition, began.0)?;
                self.snapshots.adopt(partition)?;
            }
        }
        Ok(())
    }

    /// Whether an error is about one partition's snapshot, and the others may go on.
    fn tolerates(&self, error: &StoreError) -> bool {
        let is_damage = match error {
            StoreError::Engine(error) => matches!(error, EngineError::Corrupt { .. }),
            error => error.is_damage(),
        };
        is_damage && self.on_damage == OnDamage::Quarantine
    }

    /// Moves tail and index. A segment before the checkpoint's end is in both already; one that a
    /// snapshot covers is in the tail, and in the index for whoever lacks it.
    fn follow(&mut self, frame_place: Place, segment: &Segment) -> Result<(), String> {
        let header = segment.header();
        let (last_seq, chain) = self.published.tails.end_of(header.partition);
        if self.holes.remove(&header.partition) {
            // Behind a hole the log begins anew for whoever lacks it.
            let index = &mut self.published.index;
            index.rebase(header.partition, header.first_seq, frame_place);
        }
        if header.last_seq() <= last_seq {
            let index = &mut self.published.index;
            index.note(header.partition, header.first_seq, frame_place);
        }
        if header.last_seq() < last_seq {
            return Ok(());
        }
        if header.last_seq() == last_seq {
            return match segment.chain() == chain {
                true => Ok(()),
                false => Err(format!(
                    "chain of {} is not the engine's {chain}",
                    header.partition
                )),
            };
        }
        self.published.tails.check(segment)?;
        self.published.tails.advance(segment, segment.chain());
        let index = &mut self.published.index;
        index.note(header.partition, header.first_seq, frame_place);
        Ok(())
    }

    fn fold(&mut self, segment: &Segment, buffer_bytes: usize) -> Result<(), StoreError> {
        let header = segment.header();
        let partition = header.partition;
        let cells = self
            .handles
            .entry(partition)
            .or_insert_with(|| self.cells.partition(partition));
        let next = cells.enqueued_upto().next();
        if header.last_seq() >= next {
            if header.first_seq > next {
                let detail = format!(
                    "replay of {partition} begins at {}, the cells end before {next}",
                    header.first_seq
                );
                return Err(EngineError::Corrupt {
                    what: "replay place",
                    detail,
                }
                .into());
            }
            let records = unapplied_records(segment, next, buffer_bytes, |_| ())?;
            self.records += records.len() as u64;
            cells.enqueue_all(header.epoch, next, records);
        }
        let tail = self.published.tails.get(partition);
        cells.advance(
            tail.map_or(Seq::NONE, |tail| tail.visible_upto)
                .min(header.last_seq()),
        );
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        let cells = self.cells;
        let applied = |partition| cells.partition(partition).applied_upto();
        let start = self.files.start();
        let node = self.files.node();
        let (rows, _) = checkpoint::compute(node, &mut self.published, &applied, start);
        cells.flush_once(rows)?;
        Ok(())
    }

    /// Whose log did not go on behind what cannot be told apart may have lost its end.
    fn condemn_suspects(&mut self) {
        let Some(suspects) = &self.suspects else {
            return;
        };
        let (path, offset, problem) = match &suspects.error {
            StoreError::Corrupt {
                path,
                offset,
                problem,
            } => (path, *offset, problem),
            _ => return,
        };
        for (partition, _) in self.published.tails.iter() {
            if !suspects.cleared.contains(&partition) {
                let error = StoreError::corrupt(path, offset, problem.as_str());
                self.misfits.entry(partition).or_insert(error);
            }
        }
    }

    /// The engine's cells are no newer than what is known to have been.
    fn check_marks(&self, intents: &BTreeMap<PartitionId, Seq>) -> Result<(), StoreError> {
        for (partition, intent) in intents {
            let (last_seq, _) = self.published.tails.end_of(*partition);
            let received = self.snapshots.get(*partition);
            let received = received.filter(|it| it.origin == SnapshotOrigin::Received);
            // The rest of the log of what was received elsewhere is still to come, and that of what
            // cells were healed with.
            let to_come = received.map_or(Seq::NONE, |it| it.newest_seq);
            let healed_upto = self.healed_upto.get(partition).copied().unwrap_or_default();
            let known_upto = last_seq.max(to_come).max(healed_upto);
            let is_excused = self.misfits.contains_key(partition)
                || self.published.wounds.contains_key(partition);
            if *intent > known_upto && !is_excused {
                let detail = format!("{partition} up to {intent}, the journal up to {last_seq}");
                return Err(EngineError::Corrupt {
                    what: "mark",
                    detail,
                }
                .into());
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<Vec<RecoveredPartition>, StoreError> {
        self.adopt_received()?;
        if self.on_damage == OnDamage::Refuse
            && let Some((_, misfit)) = std::mem::take(&mut self.misfits).pop_first()
        {
            return Err(misfit);
        }
        self.condemn_suspects();
        let marks = self.cells.marks().iter();
        let intents: BTreeMap<PartitionId, Seq> = marks
            .map(|marks| marks.partition)
            .map(|id| (id, self.cells.partition(id).intent_upto()))
            .collect();
        self.check_marks(&intents)?;
        let mut partitions = Vec::new();
        for (partition, tail) in self.published.tails.iter() {
            let cells = self.cells.partition(partition);
            let wound = self.published.wounds.get_mut(&partition);
            let is_wounded = wound.is_some();
            if let Some(damage) = &self.damage
                && cells.enqueued_upto() != tail.last_seq
                && !is_wounded
            {
                let problem = format!("{partition} lacks records: {damage}");
                let misfit = StoreError::corrupt(self.files.dir(), 0, problem);
                self.misfits.entry(partition).or_insert(misfit);
            }
            if self.misfits.contains_key(&partition) {
                continue;
            }
            if cells.enqueued_upto() != tail.last_seq && !is_wounded {
                let (found, expected) = (cells.enqueued_upto(), tail.last_seq);
                let detail =
                    format!("{partition} replayed up to {found}, its log up to {expected}");
                return Err(EngineError::Corrupt {
                    what: "replay place",
                    detail,
                }
                .into());
            }
            let mut intent = intents.get(&partition).copied().unwrap_or_default();
            if let Some(wound) = &wound {
                // What was cut was visible; what took its place need not be.
                intent = intent.min(wound.shown_upto());
            }
            let visible_upto = tail.visible_upto.max(intent).min(tail.last_seq);
            if let Some(wound) = wound {
                wound.visible_upto = visible_upto;
            }
            cells.advance(visible_upto);
            partitions.push(RecoveredPartition {
                partition,
                epoch: tail.epoch,
                last_seq: tail.last_seq,
                chain: tail.chain,
                applied_upto: cells.applied_upto(),
                visible_upto: visible_upto.max(cells.applied_upto()),
                epoch_history: tail.epoch_history.clone(),
            });
        }
        for partition in self.misfits.keys() {
            self.cells.partition(*partition).close();
        }
        Ok(partitions)
    }
}
