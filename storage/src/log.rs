//! The durable log of partitions, as its readers ask for it.
//!
//! **Owns**: the questions: where a record is, where a log begins and ends, what lies between.
//! **Does not own**: the index and the tails (journal), walking over records (`records`).

use domicile_proto::{ChainHash, Hlc, PartitionId, Seq};

use crate::error::StoreError;
use crate::journal::{JournalChunk, PartitionTail, Place, probe, reader};
use crate::records::RecordScan;
use crate::store::Store;

impl Store {
    /// Before everything that the journal still has.
    #[must_use]
    pub fn journal_start(&self) -> Place {
        self.files().start()
    }

    /// Everything before it is durable. It only grows.
    #[must_use]
    pub fn durable_end(&self) -> Place {
        self.published().end
    }

    /// Reads whole segments from `from` up to `upto`, at most the durable end: about `bytes_max`,
    /// one segment at least; none of them was cut, or is of a log that began anew since. Nothing
    /// more is there if the result's `next` has reached `upto`.
    ///
    /// # Errors
    /// [`StoreError::NoSuchPlace`] for a cursor that is no place, [`StoreError::Corrupt`] for
    /// damage, what the operating system says.
    pub fn read(
        &self,
        from: Place,
        upto: Place,
        bytes_max: usize,
    ) -> Result<JournalChunk, StoreError> {
        let upto = upto.min(self.durable_end());
        let mut at = from;
        loop {
            let mut chunk = reader::read(self.files(), at, upto, bytes_max as u64)?;
            let is_last = chunk.segments.is_empty() || chunk.next >= upto;
            self.drop_void(&mut chunk);
            if is_last || !chunk.segments.is_empty() {
                return Ok(chunk);
            }
            at = chunk.next;
        }
    }

    /// Takes out what was cut, and what lies before the snapshot that a log began anew with, which
    /// may be of an earlier record: nobody is shown it as a part of the log.
    fn drop_void(&self, chunk: &mut JournalChunk) {
        let published = self.published();
        let (cuts, index) = (&published.cuts, &published.index);
        chunk.segments.retain(|(place, segment)| {
            let header = segment.header();
            let begins_at = index.begins_at(header.partition);
            let is_old = begins_at.is_some_and(|begins_at| *place < begins_at);
            !is_old && !cuts.is_void(header.partition, *place, header.first_seq)
        });
    }

    /// As [`Store::read`], but damage is passed over: nothing, and where to read on behind it.
    /// Whose it was is noticed by the gap.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn read_past_damage(
        &self,
        from: Place,
        upto: Place,
        bytes_max: usize,
    ) -> Result<JournalChunk, StoreError> {
        match self.read(from, upto, bytes_max) {
            Err(error) if error.is_damage() => Ok(JournalChunk {
                segments: Vec::new(),
                next: self.skip_damage(from)?,
            }),
            read => read,
        }
    }

    /// Where to read on if [`Store::read`] found damage at `from`: what is whole behind it, before
    /// the durable end, or that end.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn skip_damage(&self, from: Place) -> Result<Place, StoreError> {
        let end = self.durable_end();
        let behind = probe::behind_damage(self.files(), from)?;
        Ok(behind.next.map_or(end, |next| next.min(end)))
    }

    /// A place at or before the segment that holds `seq`, or, if it is not durable yet, before
    /// where it will be. `None` if the partition has no durable record at or before it.
    #[must_use]
    pub fn locate(&self, partition: PartitionId, seq: Seq) -> Option<Place> {
        self.published().index.locate(partition, seq)
    }

    /// The first record of a partition that the journal still has; the one after its last if it has
    /// none.
    #[must_use]
    pub fn log_start(&self, partition: PartitionId) -> Seq {
        let published = self.published();
        let after_last = published.tails.end_of(partition).0.next();
        published.index.first_seq(partition).unwrap_or(after_last)
    }

    /// When a durable record was sequenced, or one shortly before it; `None` if the journal has
    /// it not.
    ///
    /// # Errors
    /// As [`Store::read`].
    pub fn written_at(&self, partition: PartitionId, seq: Seq) -> Result<Option<Hlc>, StoreError> {
        let segment = crate::records::find_segment(self, partition, seq)?;
        Ok(segment.and_then(|segment| segment.first_hlc()))
    }

    /// The durable end of a partition's log; `None` if it has no record.
    #[must_use]
    pub fn tail(&self, partition: PartitionId) -> Option<PartitionTail> {
        self.published().tails.get(partition).cloned()
    }

    /// The chain hash of a partition's log after `seq`; `None` if no durable segment ends with it.
    ///
    /// # Errors
    /// As [`Store::read`].
    pub fn chain_at(
        &self,
        partition: PartitionId,
        seq: Seq,
    ) -> Result<Option<ChainHash>, StoreError> {
        match self.tail(partition) {
            None => Ok(None),
            Some(tail) if tail.last_seq == seq => Ok(Some(tail.chain)),
            Some(_) => crate::records::chain_at(self, partition, seq),
        }
    }

    /// The durable records of a partition from `from` on.
    #[must_use]
    pub fn records(&self, partition: PartitionId, from: Seq) -> RecordScan<'_> {
        RecordScan::new(self, partition, from)
    }
}
