//! Where each partition's log ends.
//!
//! **Owns**: the tails of all partitions, the check that a segment continues one.
//! **Does not own**: which segment is right (the core decides before it is stored).

use std::collections::BTreeMap;

use domicile_proto::{ChainHash, Epoch, PartitionId, Segment, Seq};

use super::cut::Cut;

/// Reigns remembered of a partition. A fork older than the oldest of 1,024 changes of home cannot
/// be found any more; doubled, a tail takes 48 KiB of memory and engine instead of 24.
pub(crate) const EPOCH_HISTORY_MAX: usize = 1024;

/// The durable end of one partition's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionTail {
    /// The reign of the last record.
    pub epoch: Epoch,
    /// The last record.
    pub last_seq: Seq,
    /// The hash over the history up to it.
    pub chain: ChainHash,
    /// Up to where a home said that records are visible.
    pub visible_upto: Seq,
    /// Every reign with its first record.
    pub epoch_history: Vec<(Epoch, Seq)>,
}

/// The tails of all partitions.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tails {
    partitions: BTreeMap<PartitionId, PartitionTail>,
}

impl Tails {
    pub(crate) fn get(&self, partition: PartitionId) -> Option<&PartitionTail> {
        self.partitions.get(&partition)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (PartitionId, &PartitionTail)> {
        self.partitions.iter().map(|(id, tail)| (*id, tail))
    }

    pub(crate) fn insert(&mut self, partition: PartitionId, tail: PartitionTail) {
        self.partitions.insert(partition, tail);
    }

    pub(crate) fn remove(&mut self, partition: PartitionId) {
        self.partitions.remove(&partition);
    }

    /// Lets a log end as it did after a cut.
    pub(crate) fn turn_back(&mut self, cut: &Cut) {
        match cut.tail() {
            Some(tail) => self.insert(cut.partition, tail),
            None => self.remove(cut.partition),
        }
    }

    /// The last record and the hash up to it.
    pub(crate) fn end_of(&self, partition: PartitionId) -> (Seq, ChainHash) {
        let tail = self.partitions.get(&partition);
        tail.map_or((Seq::NONE, ChainHash::START), |tail| {
            (tail.last_seq, tail.chain)
        })
    }

    /// Checks that a segment continues its partition's log.
    ///
    /// # Errors
    /// What does not fit.
    pub(crate) fn check(&self, segment: &Segment) -> Result<(), String> {
        let header = segment.header();
        let (last_seq, chain) = self.end_of(header.partition);
        let partition = header.partition;
        if header.first_seq != last_seq.next() {
            let (actual, expected) = (header.first_seq, last_seq.next());
            return Err(format!(
                "segment of {partition} begins at {actual}, {expected} expected"
            ));
        }
        if header.previous != chain {
            let actual = header.previous;
            return Err(format!(
                "segment {} of {partition} continues chain {actual}, the log has {chain}",
                header.first_seq
            ));
        }
        Ok(())
    }

    /// Lets a partition's log begin with a segment, if it has none yet: what was before it is in a
    /// snapshot.
    pub(crate) fn begin_with(&mut self, segment: &Segment) {
        let header = segment.header();
        let before = header.first_seq.get().saturating_sub(1);
        self.partitions
            .entry(header.partition)
            .or_insert_with(|| PartitionTail {
                epoch: header.epoch,
                last_seq: Seq::new(before),
                chain: header.previous,
                visible_upto: Seq::NONE,
                epoch_history: vec![(header.epoch, header.first_seq)],
            });
    }

    /// Moves the tail behind a segment that continues the log; `chain` is the hash of the segment.
    pub(crate) fn advance(&mut self, segment: &Segment, chain: ChainHash) {
        let header = segment.header();
        let (epoch, first_seq, last_seq) = (header.epoch, header.first_seq, header.last_seq());
        let new = || PartitionTail {
            epoch,
            last_seq: Seq::NONE,
            chain: ChainHash::START,
            visible_upto: Seq::NONE,
            epoch_history: vec![(epoch, first_seq)],
        };
        let tail = self.partitions.entry(header.partition).or_insert_with(new);
        if tail.epoch != epoch {
            if tail.epoch_history.len() >= EPOCH_HISTORY_MAX {
                tail.epoch_history.remove(0);
            }
            tail.epoch_history.push((epoch, first_seq));
        }
        let visible_upto = tail.visible_upto.max(header.visible_upto);
        (tail.epoch, tail.last_seq, tail.chain) = (epoch, last_seq, chain);
        tail.visible_upto = visible_upto;
    }
}

#[cfg(test)]
mod tests {
    use domicile_proto::record::RecordBody;
    use domicile_proto::{
        AckLevel, Bucket, Hlc, KeyspaceId, NodeId, RecordHead, RecordKind, RegionId, RequestId,
        SegmentBuilder,
    };

    use super::*;

    fn epoch(counter: u64) -> Epoch {
        Epoch {
            counter,
            node: NodeId::new(1).unwrap(),
        }
    }

    fn segment(first: u64, counter: u64, previous: ChainHash, visible: u64) -> Segment {
        let region = RegionId::new(7).unwrap();
        let id = PartitionId {
            keyspace: KeyspaceId::new(1),
            region,
            bucket: Bucket::new(0),
        };
        let mut builder = SegmentBuilder::new(id, epoch(counter), Seq::new(first));
        let head = RecordHead {
            kind: RecordKind::DegradeBegin,
            level: AckLevel::Async,
            hlc: Hlc::ZERO,
            generation: 0,
            request_id: RequestId::new(1).unwrap(),
        };
        builder.push(&head, &RecordBody::mark());
        builder.push(&head, &RecordBody::mark());
        builder.finish(previous, Seq::new(visible))
    }

    #[test]
    fn a_tail_follows_its_segments_and_remembers_reigns() {
        let mut tails = Tails::default();
        let mut chain = ChainHash::START;
        for (first, counter, visible) in [(1, 1, 0), (3, 1, 2), (5, 4, 0)] {
            let segment = segment(first, counter, chain, visible);
            tails.check(&segment).unwrap();
            chain = segment.chain();
            tails.advance(&segment, chain);
        }
        let (_, tail) = tails.iter().next().unwrap();
        assert_eq!(
            (tail.last_seq, tail.chain, tail.epoch),
            (Seq::new(6), chain, epoch(4))
        );
        assert_eq!(tail.visible_upto, Seq::new(2));
        assert_eq!(
            tail.epoch_history,
            [(epoch(1), Seq::new(1)), (epoch(4), Seq::new(5))]
        );
        let gap = tails.check(&segment(8, 4, chain, 0)).unwrap_err();
        assert!(gap.ends_with("begins at 8, 7 expected"), "{gap}");
        let fork = tails
            .check(&segment(7, 4, ChainHash::from_bits(9), 0))
            .unwrap_err();
        assert!(fork.contains("continues chain 0000000000000009"), "{fork}");
    }
}
