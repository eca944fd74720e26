//! A segment from elsewhere whose every record has been read.
//!
//! **Owns**: the one decoding of it, and that nothing about its content can fail afterwards.
//! **Does not own**: whether it continues the partition's log (the core decides).

use domicile_proto::{AckLevel, ChainHash, RecordHead, RecordKind, Segment, SegmentHeader, Seq};

use crate::cells::UnappliedRecord;
use crate::error::StoreError;

/// A segment that is ready to be queued.
#[derive(Debug)]
pub struct CheckedSegment {
    segment: Segment,
    chain: ChainHash,
    levels: Vec<AckLevel>,
    ends_reign: bool,
    records: Vec<UnappliedRecord>,
}

impl CheckedSegment {
    /// Reads every record. `buffer_bytes` is the size of the allocation that the segment is a part
    /// of: what is small in it is copied out, so that a value never keeps a network buffer alive.
    ///
    /// # Errors
    /// [`StoreError::InvalidRecord`]: its checksums hold and yet it is not records; a faulty build
    /// wrote it.
    pub fn new(segment: Segment, buffer_bytes: usize) -> Result<Self, StoreError> {
        let first_seq = segment.header().first_seq;
        let (mut levels, mut ends_reign) = (Vec::new(), false);
        let records = unapplied_records(&segment, first_seq, buffer_bytes, |head| {
            ends_reign |= head.kind == RecordKind::ReignEnd;
            if !levels.contains(&head.level) {
                levels.push(head.level);
            }
        })?;
        let chain = segment.chain();
        Ok(Self {
            segment,
            chain,
            levels,
            ends_reign,
            records,
        })
    }

    /// The different levels that its records' callers asked for.
    #[must_use]
    pub fn levels(&self) -> &[AckLevel] {
        &self.levels
    }

    /// Whether one of its records is the end of a reign, for which nobody asked and all wait.
    #[must_use]
    pub fn ends_reign(&self) -> bool {
        self.ends_reign
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &SegmentHeader {
        self.segment.header()
    }

    /// The hash of the history that ends with it.
    #[must_use]
    pub fn chain(&self) -> ChainHash {
        self.chain
    }

    /// When its first record was sequenced.
    #[must_use]
    pub fn first_hlc(&self) -> Option<domicile_proto::Hlc> {
        self.segment.first_hlc()
    }

    pub(crate) fn into_parts(self) -> (Segment, ChainHash, Vec<UnappliedRecord>) {
        (self.segment, self.chain, self.records)
    }
}

/// The records of a segment from `from` on, ready to be queued; `seen` is shown each of their
/// heads. `buffer_bytes` is the size of the allocation that the segment is a part of.
///
/// # Errors
/// [`StoreError::InvalidRecord`].
pub(crate) fn unapplied_records(
    segment: &Segment,
    from: Seq,
    buffer_bytes: usize,
    mut seen: impl FnMut(&RecordHead),
) -> Result<Vec<UnappliedRecord>, StoreError> {
    let header = segment.header();
    let partition = header.partition;
    let invalid = |seq, source| StoreError::InvalidRecord {
        partition,
        seq,
        source,
    };
    let records = segment
        .records()
        .map_err(|source| invalid(header.first_seq, source))?;
    let records = records.into_iter().filter(|(seq, _)| *seq >= from);
    let decoded = records.map(|(seq, record)| {
        seen(&record.head);
        UnappliedRecord::new(&record.head, &record.body, buffer_bytes)
            .map_err(|source| invalid(seq, source))
    });
    decoded.collect()
}
