//! Records that are stored or about to be, but not visible yet.
//!
//! **Owns**: their decoding and checks, what memory they may hold on to, their queue.
//! **Does not own**: when they become visible (the core), the overlay they are folded into.

use std::collections::VecDeque;

use bytes::Bytes;
use domicile_proto::record::RecordBody;
use domicile_proto::{Epoch, Hlc, OperationRef, RecordHead, RecordKind, Seq, Version, WireError};

use super::key::CellKey;

/// How much larger an allocation may be than the part of it that a value keeps alive. At 4 a
/// value costs at most four times its length; at 8 twice that, for a few copies less.
const PIN_FACTOR_MAX: usize = 4;

/// Longest value that is always copied out of its record: an allocation of its own costs less
/// than the shared ownership of the record's. Doubled, more is copied for nothing.
const COPIED_BYTES_MAX: usize = 1024;

/// What a queued record counts for beside its keys and values: its place in the queue with one
/// change (140 bytes), further changes, and the allocations behind them.
const RECORD_OVERHEAD_BYTES: u64 = 256;

/// One change of one key, detached from the buffer it came in.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) key: CellKey,
    pub(super) value: Option<Bytes>,
    pub(super) expires_at_ms: Option<u64>,
}

/// The changes of one record. Most have one, which then needs no list.
#[derive(Debug, Default)]
enum Changes {
    #[default]
    None,
    One(Change),
    Many(Vec<Change>),
}

impl Changes {
    fn push(&mut self, change: Change) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(change),
            Self::One(first) => Self::Many(vec![first, change]),
            Self::Many(mut changes) => {
                changes.push(change);
                Self::Many(changes)
            }
        };
    }

    fn for_each(self, take: impl FnMut(Change)) {
        match self {
            Self::None => {}
            Self::One(change) => std::iter::once(change).for_each(take),
            Self::Many(changes) => changes.into_iter().for_each(take),
        }
    }
}

/// A record, decoded and checked, ready to be queued: nothing after this can fail.
#[derive(Debug)]
pub struct UnappliedRecord {
    hlc: Hlc,
    generation: u32,
    changes: Changes,
    bytes: u64,
}

impl UnappliedRecord {
    /// Decodes a record. `buffer_bytes` is the size of the allocation that `body` is a part of:
    /// what is small in it is copied out, so that a value never keeps a network buffer alive.
    ///
    /// # Errors
    /// A body that is not one of operations, or that does not fit the record's kind.
    pub fn new(
        head: &RecordHead,
        body: &RecordBody,
        buffer_bytes: usize,
    ) -> Result<Self, WireError> {
        check_kind(head.kind, body)?;
        let mut changes = Changes::default();
        let mut content = 0;
        let pinned_bytes = buffer_bytes.max(body.bytes().len());
        body.visit_operations(|operation| {
            let change = detach(operation, head.hlc, body, pinned_bytes);
            content += change.key.len() + change.value.as_ref().map_or(0, Bytes::len);
            changes.push(change);
        })?;
        Ok(Self {
            hlc: head.hlc,
            generation: head.generation,
            changes,
            bytes: RECORD_OVERHEAD_BYTES + content as u64,
        })
    }

    pub(super) fn hlc(&self) -> Hlc {
        self.hlc
    }

    pub(super) fn for_each_change(self, take: impl FnMut(Change)) {
        self.changes.for_each(take);
    }

    pub(super) fn version(&self, epoch: Epoch, seq: Seq) -> Version {
        Version {
            generation: self.generation,
            epoch,
            seq,
        }
    }
}

fn check_kind(kind: RecordKind, body: &RecordBody) -> Result<(), WireError> {
    let bytes = body.bytes();
    if bytes.is_empty() == kind.has_operations() {
        let actual = bytes.len() as u64;
        return Err(WireError::Invalid {
            what: "body length for the kind of record",
            actual,
        });
    }
    Ok(())
}

/// `pinned_bytes` is what a value that is not copied keeps alive.
fn detach(operation: OperationRef<'_>, hlc: Hlc, body: &RecordBody, pinned_bytes: usize) -> Change {
    match operation {
        OperationRef::Put { key, value, expiry } => {
            let is_copied =
                value.len() <= COPIED_BYTES_MAX || pinned_bytes > PIN_FACTOR_MAX * value.len();
            let value = if is_copied {
                Bytes::copy_from_slice(value)
            } else {
                body.bytes().slice_ref(value)
            };
            Change {
                key: CellKey::copy_from_slice(key),
                value: Some(value),
                expires_at_ms: expiry.map(|expiry| expiry.at_ms(hlc)),
            }
        }
        OperationRef::Delete { key } => Change {
            key: CellKey::copy_from_slice(key),
            value: None,
            expires_at_ms: None,
        },
    }
}

/// A queued record with its place.
#[derive(Debug)]
pub(super) struct Unapplied {
    pub(super) epoch: Epoch,
    pub(super) seq: Seq,
    pub(super) record: UnappliedRecord,
}

/// The records of one partition that are not applied, in order. Bounded by the window of the
/// partition's home, which admits no more than it allows to be invisible.
#[derive(Debug)]
pub(super) struct UnappliedQueue {
    records: VecDeque<Unapplied>,
    enqueued_upto: Seq,
    bytes: u64,
}

impl UnappliedQueue {
    pub(super) fn starting_after(enqueued_upto: Seq) -> Self {
        Self {
            records: VecDeque::new(),
            enqueued_upto,
            bytes: 0,
        }
    }

    /// Appends the next record; returns what it counts for.
    pub(super) fn push(&mut self, epoch: Epoch, seq: Seq, record: UnappliedRecord) -> u64 {
        let expected = self.enqueued_upto.next();
        assert!(
            seq == expected,
            "record {seq} enqueued where {expected} is next"
        );
        let bytes = record.bytes;
        self.enqueued_upto = seq;
        self.bytes += bytes;
        self.records.push_back(Unapplied { epoch, seq, record });
        bytes
    }

    /// Moves at most `records_max` records up to `upto` into `slice`; returns what they count for.
    pub(super) fn drain(
        &mut self,
        upto: Seq,
        records_max: usize,
        slice: &mut Vec<Unapplied>,
    ) -> u64 {
        let Some(first) = self.records.front() else {
            return 0;
        };
        let ready = upto.next().since(first.seq).min(self.records.len() as u64) as usize;
        let mut bytes = 0;
        slice.extend(
            self.records
                .drain(..ready.min(records_max))
                .inspect(|unapplied| {
                    bytes += unapplied.record.bytes;
                }),
        );
        self.bytes -= bytes;
        bytes
    }

    pub(super) fn enqueued_upto(&self) -> Seq {
        self.enqueued_upto
    }

    pub(super) fn len(&self) -> u64 {
        self.records.len() as u64
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}
