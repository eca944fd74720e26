//! The list of cuts on disk: where they stand in the journal, before the journal is read.
//!
//! **Owns**: the list and its file, replaced whole; which cut that was begun has happened.
//! **Does not own**: what a cut makes void (`journal`), what is done about it (`settle`).
//!
//! ```text
//! envelope of magic "DOMC" around: cuts u32
//!   | per cut: partition (8) | number u64 | fork seq u64 | last seq that is cut u64
//!             | stage u32 (1 begun, 2 settled) | file u64 | offset u64
//! ```
//! Little-endian. A cut is begun here before its entry is written to the journal, with the place
//! behind which it will stand. The entry decides: one that is not there never happened. A cut is
//! settled once no snapshot holds what it took and its orphan file has its name.

use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut};
use domicile_proto::{NodeId, PartitionId, Seq};

use crate::disk::{self, Disk};
use crate::envelope::Envelope;
use crate::error::StoreError;
use crate::journal::cuts::{CutMark, Cuts};
use crate::journal::files::FileSet;
use crate::journal::rebase::Entry;
use crate::journal::scan::{self, Scanned};
use crate::journal::{FileNumber, OrphanNumber, Place};
use crate::planted::{Bug, is_planted};

/// The file in a data directory.
const LEDGER_FILE: &str = "cuts";
const UNFINISHED_FILE: &str = "cuts.new";
const ENVELOPE: Envelope = Envelope {
    what: "list of cuts",
    magic: *b"DOMC",
    version: 1,
};
/// Bytes of each cut: the layout above.
const CUT_BYTES: usize = PartitionId::BYTES + 24 + 4 + 16;
// Stages are part of the format: a new one takes the next number.
const STAGE_BEGUN: u32 = 1;
// As above.
const STAGE_SETTLED: u32 = 2;

/// Longest file that is believed: a quarter of a million cuts in one journal. Doubled, a damaged
/// length takes twice the memory before it is noticed.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// How far a cut has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It is about to be written behind the mark's place.
    Begun,
    /// It is in the journal, at the mark's place.
    Written,
    /// And nothing of it is left to be done here.
    Settled,
}

/// The cuts of one directory.
#[derive(Debug)]
pub(crate) struct Ledger {
    dir: PathBuf,
    node: NodeId,
    cuts: Vec<(CutMark, Stage)>,
}

impl Ledger {
    /// The cuts of `dir`, which is `node`'s and has these journal files: of those that were begun,
    /// the ones that happened.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] and its kin; what the operating system says.
    pub(crate) fn open(
        disk: &dyn Disk,
        dir: &Path,
        node: NodeId,
        files: &FileSet,
    ) -> Result<Self, StoreError> {
        let mut ledger = Self::read(disk, dir, node)?;
        if is_planted(Bug::IgnoreCut) {
            ledger.cuts.clear();
        }
        ledger.resolve(files)?;
        Ok(ledger)
    }

    fn read(disk: &dyn Disk, dir: &Path, node: NodeId) -> Result<Self, StoreError> {
        let path = dir.join(LEDGER_FILE);
        let bytes = disk::read_if_there(disk, &path, FILE_BYTES_MAX);
        let bytes = bytes.map_err(|error| StoreError::io("read", &path, error))?;
        let cuts = bytes.map(|bytes| decode(&bytes, node, &path)).transpose()?;
        Ok(Self {
            dir: dir.to_owned(),
            node,
            cuts: cuts.unwrap_or_default(),
        })
    }

    /// Finds the cuts that were begun in the journal, and forgets those that are not there, or
    /// whose file was deleted with all that they cut.
    fn resolve(&mut self, files: &FileSet) -> Result<(), StoreError> {
        let start = files.start();
        self.forget_before(start.file);
        let begun = self.cuts.iter().filter(|(_, stage)| *stage == Stage::Begun);
        let Some(from) = begun.map(|(mark, _)| mark.place.max(start)).min() else {
            return Ok(());
        };
        let mut found: Vec<CutMark> = Vec::new();
        scan::scan(files, from, None, &mut |scanned| {
            // Damage is the replay's to judge: whose it is matters more than this cut.
            if let Scanned::Frame(frame) = scanned {
                let cuts = frame.entries.iter().filter_map(|(_, entry)| match entry {
                    Entry::Cut(cut) => Some(cut.mark(frame.place)),
                    Entry::Segment(_) | Entry::Rebase(_) => None,
                });
                found.extend(cuts);
            }
            Ok(())
        })?;
        for (mark, stage) in &mut self.cuts {
            let is_it = |other: &&CutMark| {
                (other.partition, other.number, other.seq)
                    == (mark.partition, mark.number, mark.seq)
            };
            if *stage == Stage::Begun
                && let Some(found) = found.iter().find(is_it)
            {
                (*mark, *stage) = (*found, Stage::Written);
            }
        }
        self.cuts.retain(|(_, stage)| *stage != Stage::Begun);
        Ok(())
    }

    /// Those that are in the journal.
    pub(crate) fn cuts(&self) -> Cuts {
        let mut cuts = Cuts::default();
        for (mark, stage) in &self.cuts {
            if *stage != Stage::Begun {
                cuts.add(*mark);
            }
        }
        cuts
    }

    /// Those of which something is left to be done.
    pub(crate) fn unsettled(&self) -> Vec<CutMark> {
        let written = self.cuts.iter().filter(|(_, it)| *it == Stage::Written);
        written.map(|(mark, _)| *mark).collect()
    }

    /// The highest number of a partition's cuts.
    pub(super) fn last_number(&self, partition: PartitionId) -> Option<OrphanNumber> {
        let own = self.cuts.iter().filter(|(it, _)| it.partition == partition);
        own.map(|(mark, _)| mark.number).max()
    }

    /// Notes, durably, that a cut is about to be written behind `mark`'s place, instead of any that
    /// was begun before.
    ///
    /// # Errors
    /// What the operating system says: nothing is cut then.
    pub(super) fn begin(&mut self, disk: &dyn Disk, mark: CutMark) -> Result<(), StoreError> {
        let is_other = |(other, stage): &(CutMark, Stage)| {
            other.partition != mark.partition || *stage != Stage::Begun
        };
        self.cuts.retain(is_other);
        self.cuts.push((mark, Stage::Begun));
        self.write(disk)
    }

    /// The cut that was begun is in the journal, in the frame at `mark`'s place.
    pub(super) fn written(&mut self, mark: CutMark) {
        let mut cuts = self.cuts.iter_mut();
        let begun = cuts.find(|(it, stage)| {
            (it.partition, it.number) == (mark.partition, mark.number) && *stage == Stage::Begun
        });
        if let Some(begun) = begun {
            *begun = (mark, Stage::Written);
        }
    }

    /// Nothing of a cut is left to be done.
    ///
    /// # Errors
    /// What the operating system says: it is then settled again.
    pub(super) fn settle(&mut self, disk: &dyn Disk, mark: CutMark) -> Result<(), StoreError> {
        self.set_stage(mark, Stage::Settled);
        let written = self.write(disk);
        if written.is_err() {
            self.set_stage(mark, Stage::Written);
        }
        written
    }

    fn set_stage(&mut self, mark: CutMark, now: Stage) {
        let own = self.cuts.iter_mut().filter(|(it, _)| *it == mark);
        own.for_each(|(_, stage)| *stage = now);
    }

    /// Forgets cuts in files before `first`; they leave the file when it is written next.
    pub(super) fn forget_before(&mut self, first: FileNumber) {
        // One that was begun stands behind its place, maybe in a later file.
        self.cuts
            .retain(|(mark, stage)| mark.place.file >= first || *stage == Stage::Begun);
    }

    fn write(&self, disk: &dyn Disk) -> Result<(), StoreError> {
        let bytes = encode(self.node, &self.cuts);
        disk::replace(disk, &self.dir, LEDGER_FILE, UNFINISHED_FILE, &bytes)
            .map_err(|error| StoreError::io("write", &self.dir.join(LEDGER_FILE), error))
    }
}

fn encode(node: NodeId, cuts: &[(CutMark, Stage)]) -> Vec<u8> {
    let mut list = Vec::with_capacity(4 + CUT_BYTES * cuts.len());
    list.put_u32_le(cuts.len() as u32);
    for (mark, stage) in cuts {
        list.put_slice(&mark.partition.to_bytes());
        list.put_u64_le(mark.number.get());
        list.put_u64_le(mark.seq.get());
        list.put_u64_le(mark.end.get());
        list.put_u32_le(match stage {
            // One that is written stands at its place, and is found there again.
            Stage::Begun | Stage::Written => STAGE_BEGUN,
            Stage::Settled => STAGE_SETTLED,
        });
        list.put_u64_le(mark.place.file.get());
        list.put_u64_le(mark.place.offset);
    }
    ENVELOPE.seal(node, &list)
}

fn decode(bytes: &[u8], node: NodeId, path: &Path) -> Result<Vec<(CutMark, Stage)>, StoreError> {
    let corrupt = |problem: String| StoreError::corrupt(path, 0, problem);
    let mut list = ENVELOPE.open(bytes, node, path)?;
    let count = list.try_get_u32_le().unwrap_or(u32::MAX) as usize;
    if list.len() != CUT_BYTES * count {
        let left = list.len();
        return Err(corrupt(format!("{count} cuts in {left} bytes")));
    }
    let cuts = list.chunks_exact(CUT_BYTES).map(|cut| {
        let decoded = decode_cut(cut);
        decoded.ok_or_else(|| corrupt(format!("impossible cut {cut:02x?}")))
    });
    cuts.collect()
}

fn decode_cut(mut cut: &[u8]) -> Option<(CutMark, Stage)> {
    let mut partition = [0; PartitionId::BYTES];
    cut.copy_to_slice(&mut partition);
    let partition = PartitionId::from_bytes(partition).ok()?;
    let number = OrphanNumber::new(cut.get_u64_le())?;
    let (seq, end) = (Seq::new(cut.get_u64_le()), Seq::new(cut.get_u64_le()));
    let stage = match cut.get_u32_le() {
        STAGE_BEGUN => Stage::Begun,
        STAGE_SETTLED => Stage::Settled,
        _ => return None,
    };
    let file = cut.get_u64_le();
    let place = Place {
        file: FileNumber::new(file),
        offset: cut.get_u64_le(),
    };
    let mark = CutMark {
        partition,
        number,
        seq,
        end,
        place,
    };
    (seq < end && end < Seq::new(u64::MAX) && file > 0).then_some((mark, stage))
}

#[cfg(test)]
mod tests {
    use domicile_proto::{Bucket, KeyspaceId, RegionId};
    use proptest::prelude::*;

    use super::*;

    fn cut(stage: Stage) -> (CutMark, Stage) {
        let mark = CutMark {
            partition: PartitionId {
                keyspace: KeyspaceId::new(1),
                region: RegionId::new(2).unwrap(),
                bucket: Bucket::new(3),
            },
            number: OrphanNumber::FIRST,
            seq: Seq::new(5),
            end: Seq::new(9),
            place: Place {
                file: FileNumber::new(2),
                offset: 0x1000,
            },
        };
        (mark, stage)
    }

    #[test]
    fn the_bytes_are_those_that_docs_storage_says() {
        let (node, path) = (NodeId::new(7).unwrap(), Path::new("/cuts"));
        let cuts = [cut(Stage::Begun), cut(Stage::Settled)];
        let bytes = encode(node, &cuts);
        let of_cut = |stage: u8| {
            [
                &b"\0\0\0\x01\0\x02\0\x03\x01\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0"[..],
                &b"\x09\0\0\0\0\0\0\0"[..],
                &[stage, 0, 0, 0],
                &b"\x02\0\0\0\0\0\0\0\0\x10\0\0\0\0\0\0"[..],
            ]
            .concat()
        };
        let golden = [
            &b"DOMC\x01\0\0\0\x07\0\0\0\0\0\0\0\x02\0\0\0"[..],
            &of_cut(1),
            &of_cut(2),
        ];
        assert_eq!(bytes[..bytes.len() - 4], golden.concat());
        assert_eq!(decode(&bytes, node, path).unwrap(), cuts);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped, node, path).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len], node, path).is_err(), "cut at {len}");
        }
    }

    proptest! {
        /// Whoever can write a checksum can write anything before it.
        #[test]
        fn no_bytes_make_the_decoder_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            count in 0..4_u32,
        ) {
            let (node, path) = (NodeId::new(7).unwrap(), Path::new("/cuts"));
            let _ = decode(&bytes, node, path);
            let mut list = bytes;
            list.resize(CUT_BYTES * count as usize, 1);
            let list = [&count.to_le_bytes()[..], &list].concat();
            if let Ok(cuts) = decode(&ENVELOPE.seal(node, &list), node, path) {
                prop_assert_eq!(encode(node, &cuts), ENVELOPE.seal(node, &list));
            }
        }
    }
}
