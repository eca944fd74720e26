//! What the engine remembers of the journal, so that opening need not read all of it.
//!
//! **Owns**: the rows of tails and of the replay place.
//! **Does not own**: the index's rows (journal), the marks of the cells (cells).
//!
//! ```text
//! m | "journal"              -> version u16 | node u64 | end (16) | replay from (16)
//!                               | last frame (16) | its commit number u64 | crc32 of all before
//! t | partition (8) | j      -> epoch counter, epoch node, last seq, chain, visible upto: u64 each
//!                               | per reign: epoch counter, epoch node, first seq: u64 each
//! ```
//! Little-endian but for places. All rows are of one moment: the journal up to `end`.

use std::ops::Bound;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use domicile_proto::{ChainHash, Epoch, NodeId, PartitionId, Seq};

use crate::cells::{CellStore, Checkpoint};
use crate::commit::Published;
use crate::engine::{Direction, Engine, EngineError, RowChange};
use crate::error::StoreError;
use crate::journal::Place;
use crate::journal::files::FileSet;
use crate::journal::frame::CommitNumber;
use crate::journal::index::JournalIndex;
use crate::journal::scan::LastFrame;
use crate::journal::tails::{PartitionTail, Tails};

const JOURNAL_ROW: &[u8] = b"mjournal";
const TAG_TAIL: u8 = b't';
const SUFFIX_TAIL: u8 = b'j';
const VERSION: u16 = 1;
/// Bytes of the journal row: the layout above.
const JOURNAL_ROW_BYTES: usize = 2 + 8 + 3 * Place::BYTES + 8 + 4;
/// Bytes of a tail row before its reigns: the layout above.
const TAIL_BYTES: usize = 40;
/// Rows read at once; more would only hold more in memory.
const PAGE_ROWS: usize = 1024;

/// What the rows say.
#[derive(Debug)]
pub(crate) struct LoadedCheckpoint {
    /// Where to begin reading.
    pub(crate) replay_from: Place,
    /// The journal as it was.
    pub(crate) published: Published,
}

/// The rows for the journal as it is, and the place that they replay from; takes the index's
/// unsaved entries. `applied` are the applied marks of all partitions, read before `published` was
/// locked; `start` is where the journal begins.
pub(crate) fn compute(
    node: NodeId,
    published: &mut Published,
    applied: &dyn Fn(PartitionId) -> Seq,
    start: Place,
) -> (Checkpoint, Place) {
    let mut replay_from = published.end;
    let unsettled = published.unsettled_from();
    replay_from = unsettled.map_or(replay_from, |place| replay_from.min(place));
    let mut rows = Vec::new();
    let cut_to_nothing = published.cuts.partitions();
    let cut_to_nothing = cut_to_nothing.filter(|id| published.tails.get(*id).is_none());
    rows.extend(cut_to_nothing.map(|partition| RowChange::Remove {
        row: tail_row(partition),
    }));
    for (partition, tail) in published.tails.iter() {
        let applied = applied(partition);
        if applied < tail.last_seq {
            let first = published.index.locate(partition, applied.next());
            replay_from = replay_from.min(first.unwrap_or(start));
        }
        rows.push(tail_change(partition, tail));
    }
    rows.extend(published.index.take_unsaved());
    rows.push(journal_change(
        node,
        published.end,
        replay_from,
        published.last,
    ));
    (Checkpoint { rows }, replay_from)
}

/// The rows of an engine whose cells are those of snapshots: the journal is to be read from
/// `start`, and partitions are there up to these tails.
pub(crate) fn rows_to_replay_from(
    node: NodeId,
    start: Place,
    tails: &[(PartitionId, PartitionTail)],
) -> Vec<RowChange> {
    let tails = tails
        .iter()
        .map(|(partition, tail)| tail_change(*partition, tail));
    let journal = journal_change(node, start, start, None);
    tails.chain(std::iter::once(journal)).collect()
}

fn tail_change(partition: PartitionId, tail: &PartitionTail) -> RowChange {
    RowChange::Set {
        row: tail_row(partition),
        value: encode_tail(tail),
    }
}

fn journal_change(
    node: NodeId,
    end: Place,
    replay_from: Place,
    last: Option<LastFrame>,
) -> RowChange {
    RowChange::Set {
        row: Bytes::from_static(JOURNAL_ROW),
        value: encode_journal(node, end, replay_from, last),
    }
}

/// Whether an engine has the rows.
///
/// # Errors
/// What the engine says.
pub(crate) fn is_there(engine: &dyn Engine) -> Result<bool, EngineError> {
    Ok(engine.get(JOURNAL_ROW)?.is_some())
}

/// The applied mark of every partition that has a tail.
pub(crate) fn applied_marks(cells: &CellStore, published: &Published) -> Vec<(PartitionId, Seq)> {
    let partitions = published.tails.iter().map(|(partition, _)| partition);
    partitions
        .map(|partition| (partition, cells.partition(partition).applied_upto()))
        .collect()
}

/// Reads the rows; `None` if there are none.
///
/// # Errors
/// What the engine says; [`EngineError::Corrupt`] and [`EngineError::UnknownFormat`] for rows that
/// are not those of this node and version.
pub(crate) fn load(
    engine: &dyn Engine,
    node: NodeId,
) -> Result<Option<LoadedCheckpoint>, EngineError> {
    let Some(value) = engine.get(JOURNAL_ROW)? else {
        return Ok(None);
    };
    let (end, replay_from, last) = decode_journal(&value, node)?;
    let index = JournalIndex::load(engine)?;
    let tails = load_tails(engine)?;
    let published = Published {
        end,
        last,
        tails,
        index,
        ..Published::starting_at(end)
    };
    Ok(Some(LoadedCheckpoint {
        replay_from,
        published,
    }))
}

/// The place to read from, and what is known of the journal before.
///
/// # Errors
/// As [`load`]; [`StoreError::Engine`] for an engine that is older than the journal.
pub(crate) fn load_or_begin(
    files: &FileSet,
    cells: &CellStore,
) -> Result<(Place, Published), StoreError> {
    let loaded = load(&**cells.engine(), files.node())?;
    let start = files.start();
    let anew = || LoadedCheckpoint {
        replay_from: start,
        published: Published::starting_at(start),
    };
    let LoadedCheckpoint {
        replay_from,
        mut published,
    } = loaded.unwrap_or_else(anew);
    if replay_from.file < start.file {
        // The engine is older than the snapshots for which the journal was cut.
        let detail = format!("{replay_from}, the journal begins with file {}", start.file);
        return Err(EngineError::Corrupt {
            what: "replay place",
            detail,
        }
        .into());
    }
    published.index.forget_before(start.file);
    Ok((replay_from, published))
}

fn encode_journal(node: NodeId, end: Place, replay_from: Place, last: Option<LastFrame>) -> Bytes {
    let mut buffer = BytesMut::with_capacity(JOURNAL_ROW_BYTES);
    buffer.put_u16_le(VERSION);
    buffer.put_u64_le(node.get());
    buffer.put_slice(&end.to_bytes());
    buffer.put_slice(&replay_from.to_bytes());
    buffer.put_slice(&last.map_or([0; Place::BYTES], |last| last.place.to_bytes()));
    buffer.put_u64_le(last.map_or(0, |last| last.number.get()));
    let crc = crc32fast::hash(&buffer);
    buffer.put_u32_le(crc);
    buffer.freeze()
}

fn decode_journal(
    value: &Bytes,
    node: NodeId,
) -> Result<(Place, Place, Option<LastFrame>), EngineError> {
    let damage = |detail: String| EngineError::Corrupt {
        what: "journal row",
        detail,
    };
    let version = value.clone().try_get_u16_le().unwrap_or(0);
    if version != VERSION {
        let (actual, supported) = (version.into(), VERSION.into());
        return Err(EngineError::UnknownFormat { actual, supported });
    }
    if value.len() != JOURNAL_ROW_BYTES {
        return Err(damage(format!(
            "{} bytes instead of {JOURNAL_ROW_BYTES}",
            value.len()
        )));
    }
    let (fields, mut crc) = value.split_at(JOURNAL_ROW_BYTES - 4);
    let (stored, computed) = (crc.get_u32_le(), crc32fast::hash(fields));
    if stored != computed {
        return Err(damage(format!(
            "checksum {stored:#010x}, computed {computed:#010x}"
        )));
    }
    let mut fields = &fields[2..];
    let found = fields.get_u64_le();
    if found != node.get() {
        return Err(damage(format!(
            "engine of node {found:016x} in a directory of {node}"
        )));
    }
    let mut place = || {
        let (place, rest) = fields.split_at(Place::BYTES);
        fields = rest;
        Place::from_bytes(place)
    };
    let (end, replay_from, last) = (place(), place(), place());
    let number = CommitNumber::new(fields.get_u64_le());
    match (end, replay_from) {
        (Some(end), Some(replay_from)) if replay_from <= end => Ok((
            end,
            replay_from,
            last.map(|place| LastFrame { place, number }),
        )),
        _ => Err(damage(format!("replay from {replay_from:?} up to {end:?}"))),
    }
}

fn tail_row(partition: PartitionId) -> Bytes {
    [&[TAG_TAIL][..], &partition.to_bytes(), &[SUFFIX_TAIL]]
        .concat()
        .into()
}

fn encode_tail(tail: &PartitionTail) -> Bytes {
    let mut buffer = BytesMut::with_capacity(TAIL_BYTES + 24 * tail.epoch_history.len());
    buffer.put_u64_le(tail.epoch.counter);
    buffer.put_u64_le(tail.epoch.node.get());
    buffer.put_u64_le(tail.last_seq.get());
    buffer.put_u64_le(tail.chain.bits());
    buffer.put_u64_le(tail.visible_upto.get());
    for (epoch, first_seq) in &tail.epoch_history {
        buffer.put_u64_le(epoch.counter);
        buffer.put_u64_le(epoch.node.get());
        buffer.put_u64_le(first_seq.get());
    }
    buffer.freeze()
}

fn decode_tail(mut value: &[u8]) -> Option<PartitionTail> {
    let fits = value.len() > TAIL_BYTES && (value.len() - TAIL_BYTES).is_multiple_of(24);
    if !fits {
        return None;
    }
    let epoch = |value: &mut &[u8]| {
        let counter = value.get_u64_le();
        Some(Epoch {
            counter,
            node: NodeId::new(value.get_u64_le()).ok()?,
        })
    };
    let tail_epoch = epoch(&mut value)?;
    // There is a record after every one.
    let last_seq = Some(value.get_u64_le()).filter(|seq| *seq < u64::MAX);
    let last_seq = Seq::new(last_seq?);
    let chain = ChainHash::from_bits(value.get_u64_le());
    let visible_upto = Seq::new(value.get_u64_le());
    let mut epoch_history = Vec::with_capacity(value.len() / 24);
    while value.has_remaining() {
        epoch_history.push((epoch(&mut value)?, Seq::new(value.get_u64_le())));
    }
    Some(PartitionTail {
        epoch: tail_epoch,
        last_seq,
        chain,
        visible_upto,
        epoch_history,
    })
}

fn load_tails(engine: &dyn Engine) -> Result<Tails, EngineError> {
    let mut tails = Tails::default();
    let mut from = Bytes::from_static(&[TAG_TAIL]);
    loop {
        let upto = [TAG_TAIL + 1];
        let upto = Bound::Excluded(&upto[..]);
        let page = engine.scan(Bound::Excluded(&from), upto, Direction::Forward, PAGE_ROWS)?;
        for (row, value) in &page {
            let Some((partition, [SUFFIX_TAIL])) = row[1..].split_first_chunk() else {
                continue;
            };
            let tail = PartitionId::from_bytes(*partition)
                .ok()
                .zip(decode_tail(value));
            let Some((partition, tail)) = tail else {
                let detail = format!("row {row:02x?} with {} bytes", value.len());
                return Err(EngineError::Corrupt {
                    what: "tail row",
                    detail,
                });
            };
            tails.insert(partition, tail);
        }
        match page.last() {
            Some((last, _)) if page.len() == PAGE_ROWS => from = last.clone(),
            _ => return Ok(tails),
        }
    }
}

#[cfg(test)]
mod tests {
    use domicile_proto::{Bucket, KeyspaceId, RegionId};

    use super::*;
    use crate::engine::MemoryEngine;
    use crate::journal::FileNumber;

    fn node(id: u64) -> NodeId {
        NodeId::new(id).unwrap()
    }

    fn partition(bucket: u16) -> PartitionId {
        let region = RegionId::new(7).unwrap();
        PartitionId {
            keyspace: KeyspaceId::new(1),
            region,
            bucket: Bucket::new(bucket),
        }
    }

    fn place(file: u64, offset: u64) -> Place {
        Place {
            file: FileNumber::new(file),
            offset,
        }
    }

    fn published(partitions: u16) -> Published {
        let (mut tails, mut index) = (Tails::default(), JournalIndex::default());
        for bucket in 0..partitions {
            let seq = Seq::new(u64::from(bucket) + 10);
            let epoch = Epoch {
                counter: 3,
                node: node(2),
            };
            let older = Epoch {
                counter: 1,
                node: node(1),
            };
            let tail = PartitionTail {
                epoch,
                last_seq: seq,
                chain: ChainHash::from_bits(77),
                visible_upto: Seq::new(5),
                epoch_history: vec![(older, Seq::FIRST), (epoch, Seq::new(4))],
            };
            tails.insert(partition(bucket), tail);
            index.note(
                partition(bucket),
                Seq::FIRST,
                place(1, 4096 + u64::from(bucket) * 100),
            );
        }
        let last = LastFrame {
            place: place(2, 5000),
            number: CommitNumber::new(9),
        };
        Published {
            end: place(2, 6000),
            last: Some(last),
            tails,
            index,
            ..Published::starting_at(place(2, 6000))
        }
    }

    #[test]
    fn rows_bring_everything_back() {
        for partitions in [0, 1, 1500] {
            let engine = MemoryEngine::new();
            let mut published = published(partitions);
            let unapplied = partition(partitions.saturating_sub(1));
            let applied = |id| {
                if id == unapplied {
                    Seq::new(4)
                } else {
                    Seq::new(9999)
                }
            };
            engine
                .apply(
                    compute(node(6), &mut published, &applied, Place::START)
                        .0
                        .rows,
                )
                .unwrap();
            let loaded = load(&engine, node(6)).unwrap().unwrap();
            let replay_from = match partitions {
                0 => published.end,
                _ => place(1, 4096 + u64::from(partitions - 1) * 100),
            };
            assert_eq!(loaded.replay_from, replay_from);
            assert_eq!(loaded.published.end, published.end);
            assert_eq!(loaded.published.last, published.last);
            assert!(loaded.published.tails.iter().eq(published.tails.iter()));
            assert_eq!(
                loaded.published.tails.iter().count(),
                usize::from(partitions)
            );
        }
    }

    #[test]
    fn rows_of_another_node_or_with_damage_are_refused() {
        let engine = MemoryEngine::new();
        assert!(load(&engine, node(6)).unwrap().is_none());
        engine
            .apply(
                compute(node(6), &mut published(2), &|_| Seq::NONE, Place::START)
                    .0
                    .rows,
            )
            .unwrap();
        let error = load(&engine, node(7)).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("engine of node 0000000000000006"),
            "{error}"
        );
        let value = engine.get(JOURNAL_ROW).unwrap().unwrap();
        for bit in 0..value.len() * 8 {
            let mut flipped = value.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(
                decode_journal(&flipped.into(), node(6)).is_err(),
                "bit {bit}"
            );
        }
        let row = tail_row(partition(1));
        let value = engine.get(&row).unwrap().unwrap().slice(1..);
        engine.apply(vec![RowChange::Set { row, value }]).unwrap();
        assert!(load(&engine, node(6)).unwrap_err().is_cured_by_rebuild());
    }
}
