//! Reading again what was written long ago, before it is needed.
//!
//! **Owns**: one pass over the journal and the snapshots, what it finds, how a hole is closed.
//! **Does not own**: when and how fast (the node), damage found at open (`recovery`).
//!
//! The state of a partition is in its cells, so damage to the journal behind them costs nothing
//! yet: a snapshot taken now stands for what is lost, and the log begins anew behind it for whoever
//! lacks it. Damage to a snapshot is mended by another one.

use std::collections::BTreeMap;

use domicile_proto::{ChainHash, PartitionId, Seq};

use crate::error::StoreError;
use crate::journal::Place;
use crate::journal::probe;
use crate::store::Store;

/// Bytes read at once. Doubled, one read keeps the disk from a commit for twice as long.
const CHUNK_BYTES: usize = 256 << 10;

/// Something that is not what was written.
#[derive(Debug)]
pub struct ScrubDamage {
    /// Where, and how it was noticed.
    pub error: StoreError,
    /// Whose, and up to which record; `None` if it cannot be told.
    pub lost: Option<(PartitionId, Seq)>,
    /// Where it is.
    pub place: Place,
}

/// What a pass came to.
#[derive(Debug, Default)]
pub struct ScrubReport {
    /// Bytes that were read.
    pub bytes: u64,
    /// Segments whose checksums and hashes hold.
    pub segments: u64,
    /// The damage, in the order of places.
    pub damage: Vec<ScrubDamage>,
}

impl Store {
    /// Reads the whole journal up to what is durable now and checks every checksum, and that each
    /// segment continues the one before it. `pace` is told the bytes read so far, may wait, and
    /// says whether to go on.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn scrub_journal(
        &self,
        pace: &mut dyn FnMut(u64) -> bool,
    ) -> Result<ScrubReport, StoreError> {
        let end = self.durable_end();
        let mut report = ScrubReport::default();
        let mut ends: BTreeMap<PartitionId, (Seq, ChainHash)> = BTreeMap::new();
        let mut at = self.journal_start();
        while at < end && pace(report.bytes) {
            let chunk = match self.read(at, end, CHUNK_BYTES) {
                // A file that was cut meanwhile is no loss.
                Err(_) if at < self.journal_start() => {
                    at = self.journal_start();
                    continue;
                }
                Err(error) if error.is_damage() => {
                    let behind = probe::behind_damage(self.files(), at)?;
                    let error = self.named(error, at);
                    let lost = behind.segment.map(|it| (it.partition, it.last_seq()));
                    let is_void = behind.segment.is_some_and(|it| {
                        let cuts = &self.published().cuts;
                        cuts.is_void(it.partition, at, it.first_seq)
                    });
                    if is_void {
                        // An orphan file has it.
                        at = behind.next.map_or(end, |next| next.min(end));
                        continue;
                    }
                    report.damage.push(ScrubDamage {
                        error,
                        lost,
                        place: at,
                    });
                    at = behind.next.map_or(end, |next| next.min(end));
                    continue;
                }
                read => read?,
            };
            for (place, segment) in &chunk.segments {
                let (header, chain) = (segment.header(), segment.chain());
                report.bytes += segment.bytes().len() as u64;
                report.segments += 1;
                let before = ends.insert(header.partition, (header.last_seq(), chain));
                let misfit = before.is_some_and(|(seq, chain)| {
                    let follows = header.first_seq == seq.next();
                    // A log may begin anew at a snapshot; otherwise there are no gaps.
                    let is_gap = header.first_seq > seq.next()
                        && header.first_seq != self.log_start(header.partition);
                    is_gap || (follows && header.previous != chain)
                });
                if misfit {
                    let path = place.file.path(self.files().dir());
                    let problem = format!("segment {} does not continue", header.first_seq);
                    report.damage.push(ScrubDamage {
                        error: StoreError::corrupt(&path, place.offset, problem),
                        lost: Some((header.partition, header.last_seq())),
                        place: *place,
                    });
                }
            }
            if chunk.next == at {
                break;
            }
            at = chunk.next;
        }
        Ok(report)
    }

    /// Damage with its file.
    fn named(&self, error: StoreError, at: Place) -> StoreError {
        match error {
            StoreError::NoSuchPlace { .. } => {
                let path = at.file.path(self.files().dir());
                StoreError::corrupt(&path, at.offset, "no frame where one was written")
            }
            error => error,
        }
    }

    /// Reads the last snapshot of a partition to its end, if there is one. Others may be taken
    /// meanwhile: what was opened stays readable, replaced or not.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] for damage, after which it counts as missing: take another one. What
    /// the operating system says.
    pub fn scrub_snapshot(
        &self,
        partition: PartitionId,
        pace: &mut dyn FnMut(u64) -> bool,
    ) -> Result<(), StoreError> {
        let (header, reader) = {
            let snapshots = self.snapshots();
            let Some(header) = snapshots.get(partition).copied() else {
                return Ok(());
            };
            // Under the lock: one that is replaced before it is open would not be there.
            (header, snapshots.read(&header))
        };
        let checked = reader.and_then(|mut reader| {
            while pace(reader.offset()) && reader.next()?.is_some() {}
            Ok(())
        });
        if matches!(checked, Err(StoreError::Corrupt { .. })) {
            let _one = self.hold_snapshots();
            let mut snapshots = self.snapshots();
            if snapshots.get(partition) != Some(&header) {
                // A sound one took its place.
                return Ok(());
            }
            snapshots.forget(partition);
        }
        checked
    }

    /// Lets a partition's log begin behind a hole at `place` for whoever lacks it: a snapshot has
    /// every record of the hole.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn close_hole(&self, partition: PartitionId, place: Place) -> Result<(), StoreError> {
        self.check_open()?;
        let end = self.durable_end();
        let mut at = self.skip_damage(place)?;
        while at < end {
            let chunk = self.read_past_damage(at, end, CHUNK_BYTES)?;
            let mut segments = chunk.segments.iter();
            if let Some((found, segment)) =
                segments.find(|(_, it)| it.header().partition == partition)
            {
                let (first_seq, mut published) = (segment.header().first_seq, self.published());
                published.index.rebase(partition, first_seq, *found);
                return Ok(());
            }
            if chunk.next == at {
                break;
            }
            at = chunk.next;
        }
        // Nothing of it follows: whoever lacks anything lacks what is lost.
        let mut published = self.published();
        let next = published.tails.end_of(partition).0.next();
        let behind = published.end;
        published.index.rebase(partition, next, behind);
        Ok(())
    }
}
