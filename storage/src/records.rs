//! The records of one partition, read from the journal.
//!
//! **Owns**: the walk over segments, the filter, the chain hash at a place.
//! **Does not own**: the bytes (journal); what the records are read for.

use std::collections::VecDeque;

use domicile_proto::{ChainHash, Epoch, PartitionId, Record, Segment, Seq};

use crate::error::StoreError;
use crate::journal::Place;
use crate::store::Store;

/// Bytes read at once: 1 MiB. Less costs calls, more only holds more memory.
const CHUNK_BYTES: usize = 1 << 20;

/// An iterator over the durable records of a partition, in order. After an error it ends.
#[derive(Debug)]
pub struct RecordScan<'store> {
    store: &'store Store,
    partition: PartitionId,
    next_seq: Seq,
    /// Records that are damaged are passed over.
    passes_holes: bool,
    cursor: Place,
    upto: Place,
    ready: VecDeque<(Epoch, Seq, Record)>,
}

impl<'store> RecordScan<'store> {
    pub(crate) fn new(store: &'store Store, partition: PartitionId, from: Seq) -> Self {
        let next_seq = from.max(store.log_start(partition));
        let upto = store.durable_end();
        let cursor = store.locate(partition, next_seq).unwrap_or(upto);
        Self {
            store,
            partition,
            next_seq,
            passes_holes: false,
            cursor,
            upto,
            ready: VecDeque::new(),
        }
    }

    /// Passes over records that are damaged instead of ending with an error.
    pub(crate) fn pass_holes(mut self) -> Self {
        self.passes_holes = true;
        self
    }

    fn fill(&mut self) -> Result<(), StoreError> {
        while self.ready.is_empty() && self.cursor < self.upto {
            let chunk = self
                .store
                .read_past_damage(self.cursor, self.upto, CHUNK_BYTES)?;
            if chunk.next == self.cursor {
                self.cursor = self.upto;
                return Ok(());
            }
            self.cursor = chunk.next;
            for (_, segment) in &chunk.segments {
                let header = segment.header();
                if header.partition != self.partition || header.last_seq() < self.next_seq {
                    continue;
                }
                if header.first_seq > self.next_seq && !self.passes_holes {
                    let (partition, lost) = (self.partition, self.next_seq);
                    let problem = format!("records of {partition} from {lost} on are damaged");
                    return Err(StoreError::corrupt(self.store.dir(), 0, problem));
                }
                let epoch = segment.header().epoch;
                let records = segment
                    .records()
                    .map_err(|source| StoreError::InvalidRecord {
                        partition: self.partition,
                        seq: segment.header().first_seq,
                        source,
                    })?;
                for (seq, record) in records {
                    if seq >= self.next_seq {
                        self.next_seq = seq.next();
                        self.ready.push_back((epoch, seq, record));
                    }
                }
            }
        }
        Ok(())
    }
}

/// The chain hash after the segment that ends with `seq`, if there is one. That segment itself may
/// have been cut from the log: the next one names its hash.
pub(crate) fn chain_at(
    store: &Store,
    partition: PartitionId,
    seq: Seq,
) -> Result<Option<ChainHash>, StoreError> {
    if let Some(segment) = find_segment(store, partition, seq)? {
        let ends_there = segment.header().last_seq() == seq;
        return Ok(ends_there.then(|| segment.chain()));
    }
    let next = find_segment(store, partition, seq.next())?;
    let begins_there = next.filter(|segment| segment.header().first_seq == seq.next());
    Ok(begins_there.map(|segment| segment.header().previous))
}

/// The durable segment that holds `seq`, if the journal still has it.
pub(crate) fn find_segment(
    store: &Store,
    partition: PartitionId,
    seq: Seq,
) -> Result<Option<Segment>, StoreError> {
    let upto = store.durable_end();
    let mut cursor = store.locate(partition, seq).unwrap_or(upto);
    while cursor < upto {
        let chunk = store.read_past_damage(cursor, upto, CHUNK_BYTES)?;
        let of_partition = |(_, segment): &&(Place, Segment)| {
            segment.header().partition == partition && segment.header().last_seq() >= seq
        };
        if let Some((_, segment)) = chunk.segments.iter().find(of_partition) {
            let is_it = segment.header().first_seq <= seq;
            return Ok(is_it.then(|| segment.clone()));
        }
        if chunk.next == cursor {
            break;
        }
        cursor = chunk.next;
    }
    Ok(None)
}

impl Iterator for RecordScan<'_> {
    type Item = Result<(Epoch, Seq, Record), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ready.is_empty()
            && let Err(error) = self.fill()
        {
            self.cursor = self.upto;
            return Some(Err(error));
        }
        self.ready.pop_front().map(Ok)
    }
}
