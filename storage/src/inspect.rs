//! What lies in a data directory that is not in use, entry by entry, damage included.
//!
//! **Owns**: walking over everything that can still be read.
//! **Does not own**: the verdict (`verify`), repair (opening, scrub, a copy).

use std::path::Path;
use std::sync::Arc;

use domicile_proto::{ChainHash, Epoch, PartitionId, Record, SegmentHeader, Seq};

use crate::disk::Disk;
use crate::error::StoreError;
use crate::journal::rebase::Entry;
use crate::journal::scan::{self, Scanned};
use crate::journal::{OrphanNumber, Place, TornTail};
use crate::options::OnDamage;
use crate::orphans::Ledger;
use crate::snapshot::{SnapshotHeader, SnapshotSet};
use crate::verify::{hold, journal_files};

/// One thing in a data directory.
#[derive(Debug)]
pub enum Inspected {
    /// The last snapshot of a partition.
    Snapshot(SnapshotHeader),
    /// A segment of the journal.
    Segment {
        /// Where it is.
        place: Place,
        /// In which group commit.
        commit: u64,
        /// What it says of itself.
        header: SegmentHeader,
        /// The hash of the history that ends with it.
        chain: ChainHash,
        /// Its records with their places; empty if they cannot be read although its checksums hold.
        records: Vec<(Seq, Record)>,
    },
    /// A partition's log that begins anew at a snapshot.
    Rebase {
        /// Where it is.
        place: Place,
        /// Whose log.
        partition: PartitionId,
        /// The reign of the snapshot's last record.
        epoch: Epoch,
        /// That record.
        seq: Seq,
        /// The hash of the history up to it.
        chain: ChainHash,
    },
    /// A partition's log that goes back to a fork. The segments that it makes void are not shown:
    /// an orphan file has them.
    Cut {
        /// Where it is.
        place: Place,
        /// Whose log.
        partition: PartitionId,
        /// The reign of the last record that stays; `None` if none does.
        epoch: Option<Epoch>,
        /// That record.
        seq: Seq,
        /// The hash of the history up to it.
        chain: ChainHash,
        /// The last record that is cut.
        end: Seq,
        /// Which orphan file of the partition has what is cut.
        orphans: OrphanNumber,
    },
    /// Something that was durable and is not what it was.
    Damage {
        /// Where it is.
        place: Place,
        /// Whose; `None` if it cannot be told.
        partition: Option<PartitionId>,
        /// What is wrong.
        error: StoreError,
    },
    /// The remains of a commit that was never acknowledged.
    Torn(TornTail),
}

/// Shows everything in `dir` to `visit`, snapshots first, then the journal in order. The directory
/// must not be open: its lock is taken meanwhile.
///
/// # Errors
/// [`StoreError::Locked`]; [`StoreError::NotAStore`]; a file that cannot be read at all; what
/// `visit` returns.
pub fn inspect(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    visit: &mut dyn FnMut(Inspected) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let (node, _held) = hold(disk, dir)?;
    let files = journal_files(disk, dir, node)?;
    let ledger = Ledger::open(&**disk, dir, node, &files)?;
    let (mut snapshots, _) = SnapshotSet::find(Arc::clone(disk), dir, node, OnDamage::Quarantine)?;
    for mark in ledger.unsettled() {
        snapshots.set_aside(mark.partition, mark.seq);
    }
    for header in snapshots.iter() {
        visit(Inspected::Snapshot(*header))?;
    }
    let cuts = ledger.cuts();
    let end = scan::scan(&files, files.start(), None, &mut |found| match found {
        Scanned::Damage(damage) => visit(Inspected::Damage {
            place: damage.place,
            partition: damage.segment.map(|header| header.partition),
            error: damage.error,
        }),
        Scanned::Frame(frame) => {
            for (place, entry) in frame.entries {
                if let Entry::Segment(segment) = &entry
                    && let header = segment.header()
                    && cuts.is_void(header.partition, place, header.first_seq)
                {
                    continue;
                }
                visit(shown(place, frame.number.get(), entry))?;
            }
            Ok(())
        }
    })?;
    match end.torn {
        Some(torn) => visit(Inspected::Torn(torn)),
        None => Ok(()),
    }
}

fn shown(place: Place, commit: u64, entry: Entry) -> Inspected {
    match entry {
        Entry::Segment(segment) => Inspected::Segment {
            place,
            commit,
            header: *segment.header(),
            chain: segment.chain(),
            records: segment.records().unwrap_or_default(),
        },
        Entry::Rebase(rebase) => Inspected::Rebase {
            place,
            partition: rebase.partition,
            epoch: rebase.tail().epoch,
            seq: rebase.seq,
            chain: rebase.chain,
        },
        Entry::Cut(cut) => Inspected::Cut {
            place,
            partition: cut.partition,
            epoch: cut.tail().map(|tail| tail.epoch),
            seq: cut.seq,
            chain: cut.chain,
            end: cut.end,
            orphans: cut.number,
        },
    }
}
