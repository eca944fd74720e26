//! The log of one partition on one node, as it really is.
//!
//! **Owns**: which records are on disk, which were only in memory, which were cut.
//! **Does not own**: the store's own view, with which this is compared.

use domicile_proto::{ChainHash, Epoch, Seq};

/// Records of one reign, one after the other: a segment, or a part of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) epoch: Epoch,
    pub(crate) first: Seq,
    pub(crate) last: Seq,
    pub(crate) chain: ChainHash,
}

impl Piece {
    pub(crate) fn has(&self, epoch: Epoch, seq: Seq) -> bool {
        self.epoch == epoch && self.first <= seq && seq <= self.last
    }

    fn upto(self, seq: Seq) -> Option<Self> {
        let last = self.last.min(seq);
        (self.first <= last).then_some(Self { last, ..self })
    }

    fn after(self, seq: Seq) -> Option<Self> {
        let first = self.first.max(seq.next());
        (first <= self.last).then_some(Self { first, ..self })
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Log {
    pub(crate) durable: Vec<Piece>,
    pub(crate) memory: Vec<Piece>,
    /// In memory when the process ended, and never on disk.
    pub(crate) lost: Vec<Piece>,
    /// And when.
    pub(crate) cut: Vec<(u64, Piece)>,
    /// A cut has begun, after this record.
    pub(crate) cutting: Option<Seq>,
    /// A snapshot up to this record is taking its place.
    pub(crate) installing: Option<Seq>,
    /// On disk when a snapshot took its place.
    pub(crate) replaced: Vec<Piece>,
    /// What lies before was replaced by a snapshot.
    pub(crate) base: Seq,
}

impl Log {
    pub(crate) fn last_seq(&self) -> Seq {
        self.durable.last().map_or(self.base, |piece| piece.last)
    }

    pub(crate) fn has_durable(&self, epoch: Epoch, seq: Seq) -> bool {
        self.durable.iter().rev().any(|piece| piece.has(epoch, seq))
    }

    /// Whether it was on disk at some time.
    pub(crate) fn had_durable(&self, epoch: Epoch, seq: Seq) -> bool {
        let cut = self.cut.iter().map(|(_, piece)| piece);
        let gone = cut.chain(&self.replaced);
        self.has_durable(epoch, seq) || { gone }.any(|piece| piece.has(epoch, seq))
    }

    /// Whether it was here at some time, at least in memory.
    pub(crate) fn had(&self, epoch: Epoch, seq: Seq) -> bool {
        let rest = self.memory.iter().chain(&self.lost);
        self.had_durable(epoch, seq) || { rest }.any(|piece| piece.has(epoch, seq))
    }

    pub(crate) fn has_lost(&self, epoch: Epoch, seq: Seq) -> bool {
        self.lost.iter().any(|piece| piece.has(epoch, seq))
    }

    /// More is durable.
    pub(crate) fn commit(&mut self, piece: Piece) {
        self.durable.push(piece);
        self.memory = self
            .memory
            .iter()
            .filter_map(|it| it.after(piece.last))
            .collect();
    }

    /// What is in memory will not be durable.
    pub(crate) fn forget_memory(&mut self) {
        self.lost.append(&mut self.memory);
    }

    pub(crate) fn cut_after(&mut self, fork: Seq, at_us: u64) {
        let gone = self.durable.iter().filter_map(|piece| piece.after(fork));
        self.cut.extend(gone.map(|piece| (at_us, piece)));
        self.durable = self
            .durable
            .iter()
            .filter_map(|piece| piece.upto(fork))
            .collect();
        self.base = self.base.min(fork);
    }
}
