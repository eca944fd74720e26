//! What an operator decided of the records of one orphan file.
//!
//! **Owns**: the file of decisions, appended to; the state of each record.
//! **Does not own**: doing what was decided (the caller).
//!
//! ```text
//! per decision: magic "DODE" u32 | state u16 (1 open, 2 replayed, 3 discarded) | zeros u16
//!   | first seq u64 | last seq u64 | decided at, ms since 1970, u64
//!   | crc32 of partition (8), number of the orphan file, offset of the decision, all before
//! ```
//! Little-endian. The last decision about a record counts; without one it is open. Each is synced
//! before the next is written: a damaged one at the end was never told of, one before is damage.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::{Buf, BufMut};
use domicile_proto::Seq;

use super::format::OrphanFile;
use crate::disk::{Disk, OpenMode, read_if_there};
use crate::error::StoreError;

const MAGIC: [u8; 4] = *b"DODE";
/// Bytes of a decision: the layout above.
const DECISION_BYTES: usize = 36;
/// Where the checksum lies.
const CRC_AT: usize = 32;

/// Decisions about one file at most; each is read whenever the file is listed. Doubled, that takes
/// twice as long, and twice the 36 MiB.
const DECISIONS_MAX: usize = 1 << 20;

/// The operation that an error names if nobody knows whether a decision is durable.
pub(super) const SYNC: &str = "sync";

/// What became of an orphan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OrphanState {
    /// Nothing yet.
    #[default]
    Open,
    /// It was written again, through its home.
    Replayed,
    /// It is given up.
    Discarded,
}

impl OrphanState {
    // The numbers are part of the format: a new state takes the next one.
    fn number(self) -> u16 {
        match self {
            Self::Open => 1,
            Self::Replayed => 2,
            Self::Discarded => 3,
        }
    }

    fn of_number(number: u16) -> Option<Self> {
        [Self::Open, Self::Replayed, Self::Discarded]
            .into_iter()
            .find(|state| state.number() == number)
    }
}

/// The states of a file's records.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Decisions {
    /// First and last record, none of which is open; they do not overlap.
    ranges: BTreeMap<Seq, (Seq, OrphanState)>,
    count: usize,
}

impl Decisions {
    pub(super) fn state_of(&self, seq: Seq) -> OrphanState {
        let before = self.ranges.range(..=seq).next_back();
        let found = before.filter(|(_, (last, _))| seq <= *last);
        found.map_or(OrphanState::Open, |(_, (_, state))| *state)
    }

    /// How many records are in a state that is not open.
    pub(super) fn count_of(&self, wanted: OrphanState) -> u64 {
        let ranges = self.ranges.iter();
        let ranges = ranges.filter(|(_, (_, state))| *state == wanted);
        ranges
            .map(|(first, (last, _))| last.since(*first) + 1)
            .sum()
    }

    fn decide(&mut self, first: Seq, last: Seq, state: OrphanState) {
        self.count += 1;
        let overlapping = self.ranges.range(..=last);
        let overlapping: Vec<(Seq, (Seq, OrphanState))> = overlapping
            .filter(|(_, (upto, _))| *upto >= first)
            .map(|(from, range)| (*from, *range))
            .collect();
        for (from, (upto, before)) in overlapping {
            self.ranges.remove(&from);
            if from < first {
                let left = Seq::new(first.get() - 1);
                self.ranges.insert(from, (left, before));
            }
            if upto > last {
                self.ranges.insert(last.next(), (upto, before));
            }
        }
        if state != OrphanState::Open {
            self.ranges.insert(first, (last, state));
        }
    }
}

/// Reads the decisions about `file`; none without a file of them.
///
/// # Errors
/// [`StoreError::Corrupt`] with the offset of the damage; what the operating system says.
pub(super) fn read(
    disk: &dyn Disk,
    path: &Path,
    file: &OrphanFile,
) -> Result<Decisions, StoreError> {
    let bytes_max = (DECISIONS_MAX * DECISION_BYTES) as u64;
    let bytes = read_if_there(disk, path, bytes_max);
    let bytes = bytes.map_err(|error| StoreError::io("read", path, error))?;
    let bytes = bytes.unwrap_or_default();
    let mut decisions = Decisions::default();
    let mut damage = None;
    for (index, bytes) in bytes.chunks(DECISION_BYTES).enumerate() {
        let offset = (index * DECISION_BYTES) as u64;
        match (decode(bytes, offset, file), damage.take()) {
            (Ok(_), Some((at, problem))) => {
                let problem = format!("{problem}; an intact decision follows at {offset}");
                return Err(StoreError::corrupt(path, at, problem));
            }
            (Ok((first, last, state)), None) => decisions.decide(first, last, state),
            (Err(problem), before) => damage = before.or(Some((offset, problem))),
        }
    }
    match damage {
        // Two of them were never under way at once.
        Some((at, problem)) if bytes.len() as u64 > at + DECISION_BYTES as u64 => {
            Err(StoreError::corrupt(path, at, problem))
        }
        _ => Ok(decisions),
    }
}

/// Adds a decision, durably.
///
/// # Errors
/// [`StoreError::NoSuchOrphans`] for records that the file has not, or too many decisions; as
/// [`read`]. After a sync that failed nobody may count on it.
pub(super) fn append(
    disk: &dyn Disk,
    path: &Path,
    file: &OrphanFile,
    records: (Seq, Seq),
    decided: (OrphanState, u64),
) -> Result<(), StoreError> {
    let ((first, last), (state, now_ms)) = (records, decided);
    let no_such = |problem: String| StoreError::NoSuchOrphans {
        partition: file.partition,
        number: file.number,
        problem,
    };
    if first < file.first_seq() || last > file.last_seq || first > last {
        let (from, upto) = (file.first_seq(), file.last_seq);
        let problem = format!("records {first} to {last}, it has {from} to {upto}");
        return Err(no_such(problem));
    }
    let before = read(disk, path, file)?;
    if before.count >= DECISIONS_MAX {
        let problem = format!("{} decisions, limit {DECISIONS_MAX}", before.count);
        return Err(no_such(problem));
    }
    let offset = (before.count * DECISION_BYTES) as u64;
    let is_new = !disk.exists(path);
    let mode = if is_new {
        OpenMode::CreateNew
    } else {
        OpenMode::ReadWrite
    };
    let write = || {
        let opened = disk.open(path, mode)?;
        // What an end left of an earlier one would look like damage behind this one.
        opened.set_len(offset)?;
        opened.write_at(&encode(first, last, state, now_ms, offset, file), offset)?;
        Ok(opened)
    };
    let opened = write().map_err(|error| StoreError::io("write", path, error))?;
    let sync = || match path.parent().filter(|_| is_new) {
        Some(dir) => opened.sync_all().and_then(|()| disk.sync_dir(dir)),
        None => opened.sync_all(),
    };
    sync().map_err(|error| StoreError::io(SYNC, path, error))
}

fn encode(
    first: Seq,
    last: Seq,
    state: OrphanState,
    now_ms: u64,
    offset: u64,
    file: &OrphanFile,
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(DECISION_BYTES);
    bytes.put_slice(&MAGIC);
    bytes.put_u16_le(state.number());
    bytes.put_u16_le(0);
    bytes.put_u64_le(first.get());
    bytes.put_u64_le(last.get());
    bytes.put_u64_le(now_ms);
    let crc = checksum(&bytes, offset, file);
    bytes.put_u32_le(crc);
    bytes
}

fn checksum(fields: &[u8], offset: u64, file: &OrphanFile) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&file.partition.to_bytes());
    hasher.update(&file.number.get().to_le_bytes());
    hasher.update(&offset.to_le_bytes());
    hasher.update(fields);
    hasher.finalize()
}

fn decode(bytes: &[u8], offset: u64, file: &OrphanFile) -> Result<(Seq, Seq, OrphanState), String> {
    if bytes.len() < DECISION_BYTES {
        return Err(format!("decision of {} bytes", bytes.len()));
    }
    let (mut fields, mut crc) = bytes.split_at(CRC_AT);
    let (stored, computed) = (crc.get_u32_le(), checksum(fields, offset, file));
    if stored != computed {
        return Err(format!(
            "checksum mismatch of a decision: stored {stored:#010x}, computed {computed:#010x}"
        ));
    }
    if fields[..4] != MAGIC {
        return Err(format!("bad magic of a decision: {:02x?}", &fields[..4]));
    }
    fields.advance(4);
    let (number, zeros) = (fields.get_u16_le(), fields.get_u16_le());
    let (first, last) = (Seq::new(fields.get_u64_le()), Seq::new(fields.get_u64_le()));
    let state = OrphanState::of_number(number).filter(|_| zeros == 0);
    let is_inside = first >= file.first_seq() && first <= last && last <= file.last_seq;
    let state = state.filter(|_| is_inside);
    let state = state.ok_or_else(|| {
        format!("decision {number}, flags {zeros:#x}, about records {first} to {last}")
    })?;
    Ok((first, last, state))
}

#[cfg(test)]
mod tests {
    use domicile_proto::{Bucket, ChainHash, Epoch, KeyspaceId, NodeId, PartitionId, RegionId};

    use super::*;
    use crate::disk::MemoryDisk;
    use crate::journal::OrphanNumber;
    use crate::orphans::OrphanFork;

    const PATH: &str = "/orphans/x.decisions";

    fn file() -> OrphanFile {
        let epoch = Epoch {
            counter: 1,
            node: NodeId::new(2).unwrap(),
        };
        OrphanFile {
            node: NodeId::new(7).unwrap(),
            partition: PartitionId {
                keyspace: KeyspaceId::new(1),
                region: RegionId::new(2).unwrap(),
                bucket: Bucket::new(3),
            },
            number: OrphanNumber::FIRST,
            fork: OrphanFork {
                epoch: Some(epoch),
                seq: Seq::new(10),
                chain: ChainHash::START,
            },
            last_seq: Seq::new(20),
            last_chain: ChainHash::START,
            superseded_by: epoch,
            sealed_at_ms: 1,
            segments: 1,
            records: 10,
            file_bytes: 1,
        }
    }

    fn disk() -> MemoryDisk {
        let disk = MemoryDisk::new();
        disk.create_dir_all(Path::new("/orphans")).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        disk
    }

    fn decide(
        disk: &MemoryDisk,
        first: u64,
        last: u64,
        state: OrphanState,
    ) -> Result<(), StoreError> {
        let records = (Seq::new(first), Seq::new(last));
        append(disk, Path::new(PATH), &file(), records, (state, 5))
    }

    fn states(disk: &MemoryDisk) -> Result<Vec<OrphanState>, StoreError> {
        let decisions = read(disk, Path::new(PATH), &file())?;
        let states = (11..=20).map(|seq| decisions.state_of(Seq::new(seq)));
        Ok(states.collect())
    }

    #[test]
    fn the_last_decision_about_a_record_counts() {
        use OrphanState::{Discarded as D, Open as O, Replayed as R};
        let disk = disk();
        assert_eq!(states(&disk).unwrap(), [O; 10]);
        decide(&disk, 11, 20, D).unwrap();
        decide(&disk, 13, 15, R).unwrap();
        decide(&disk, 15, 16, O).unwrap();
        decide(&disk, 19, 20, R).unwrap();
        assert_eq!(states(&disk).unwrap(), [D, D, R, R, O, O, D, D, R, R]);
        let decisions = read(&disk, Path::new(PATH), &file()).unwrap();
        assert_eq!(decisions.count_of(D), 4);
        assert_eq!(decisions.count_of(R), 4);
        let outside = [(10, 12), (12, 21), (13, 12)];
        for (first, last) in outside {
            let refused = decide(&disk, first, last, R).unwrap_err().to_string();
            assert!(refused.ends_with("it has 11 to 20"), "{refused}");
        }
    }

    #[test]
    fn the_layout_is_pinned() {
        let bytes = encode(
            Seq::new(11),
            Seq::new(12),
            OrphanState::Discarded,
            5,
            72,
            &file(),
        );
        let golden = [
            &b"DODE\x03\0\0\0\x0b\0\0\0\0\0\0\0\x0c\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0"[..],
            &[0xe7, 0x18, 0xd3, 0x12],
        ];
        assert_eq!(bytes, golden.concat(), "{:02x?}", &bytes[32..]);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped, 72, &file()).is_err(), "bit {bit}");
        }
        assert!(decode(&bytes, 36, &file()).is_err(), "elsewhere");
    }

    #[test]
    fn an_end_at_every_operation_keeps_what_was_told() {
        let prepared = || {
            let disk = disk();
            decide(&disk, 11, 14, OrphanState::Replayed).unwrap();
            decide(&disk, 11, 12, OrphanState::Discarded).unwrap();
            disk
        };
        let whole = prepared();
        let (before, were) = (whole.operations(), states(&whole).unwrap());
        decide(&whole, 13, 20, OrphanState::Discarded).unwrap();
        let (operations, will_be) = (whole.operations() - before, states(&whole).unwrap());
        for dies_at in 1..=operations {
            let disk = prepared();
            disk.freeze_at_operation(disk.operations() + dies_at);
            let told = decide(&disk, 13, 20, OrphanState::Discarded);
            let ends = (0..16).map(|seed| disk.power_loss(seed));
            for left in ends.chain([disk.crash()]) {
                let found = states(&left).unwrap();
                let is_one = found == will_be || (told.is_err() && found == were);
                assert!(is_one, "{found:?} at {dies_at}");
                decide(&left, 20, 20, OrphanState::Replayed).unwrap();
                assert_eq!(states(&left).unwrap()[9], OrphanState::Replayed);
            }
        }
    }

    #[test]
    fn damage_before_the_end_is_named_and_a_torn_end_is_not() {
        let disk = disk();
        for seq in 11..=13 {
            decide(&disk, seq, seq, OrphanState::Discarded).unwrap();
        }
        let flip = |offset: u64| {
            let left = disk.crash();
            let open = left.open(Path::new(PATH), OpenMode::ReadWrite).unwrap();
            let mut byte = [0];
            open.read_at(&mut byte, offset).unwrap();
            open.write_at(&[byte[0] ^ 1], offset).unwrap();
            left
        };
        let damaged = states(&flip(40)).unwrap_err().to_string();
        assert!(damaged.contains("x.decisions at offset 36"), "{damaged}");
        let torn = states(&flip(80)).unwrap();
        assert_eq!(
            torn[..3],
            [
                OrphanState::Discarded,
                OrphanState::Discarded,
                OrphanState::Open
            ]
        );
    }
}
