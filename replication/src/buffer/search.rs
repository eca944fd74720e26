//! Whether a write that waits here was done already, by the log that is here.
//!
//! **Owns**: searching the log of a partition for the ids that wait, from where each may be.
//! **Does not own**: when that is asked (the home says so, `send`), the log (storage).
//!
//! Homes remember requests for fifteen minutes and by count, and writes wait longer. But every
//! record carries its id, and this node holds the log: it is searched from shortly before a write
//! was accepted up to its end, and the home then takes the write only if what it has forgotten lies
//! within that.

use std::collections::{BTreeMap, HashMap};

use domicile_proto::{PartitionId, Position, RequestId, Seq};
use domicile_storage::{BufferNumber, BufferedWrite, Store, StoreError};

/// Up to where the log was searched, for the writes up to one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Searched {
    upto: Position,
    numbers_upto: BufferNumber,
}

/// What a search found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// These are in the log, with the same content or with another.
    pub(super) done: Vec<(BufferNumber, Position)>,
    pub(super) reused: Vec<(BufferNumber, Position)>,
    /// Of these the log here cannot tell.
    pub(super) untold: Vec<(BufferNumber, String)>,
    /// Up to where it was searched; `None`: there is no log.
    pub(super) searched: Option<Searched>,
}

impl Searched {
    /// Up to where the log is known not to have a write's id.
    pub(super) fn of(searched: Option<Self>, write: &BufferedWrite) -> Option<Position> {
        let searched = searched.filter(|searched| write.number <= searched.numbers_upto);
        searched.map_or(write.log_end, |searched| Some(searched.upto))
    }
}

/// Searches the log for the ids of writes of one partition, on from where it was before.
///
/// # Errors
/// What the store says; damage of the log.
pub(super) fn search(
    store: &Store,
    partition: PartitionId,
    writes: &[BufferedWrite],
    before: Option<Searched>,
) -> Result<Findings, StoreError> {
    let is_in_log = |at: &Position| {
        let after = store.reach(partition, at.seq.next());
        after.epoch_before == Some(at.epoch)
    };
    // A log that was cut since is another one.
    let before = before.filter(|searched| is_in_log(&searched.upto));
    let oldest = store.reach(partition, Seq::FIRST).oldest;
    let mut findings = Findings::default();
    let mut wanted: HashMap<RequestId, &BufferedWrite> = HashMap::new();
    let mut first: Option<Seq> = None;
    for write in writes {
        let from = Searched::of(before, write).filter(is_in_log);
        let from = from.map_or(Seq::FIRST, |at| at.seq.next());
        if from < oldest {
            let problem = format!(
                "whether it was done already cannot be told: records of {partition} from {from} on \
                 are no longer in the journal here, the oldest is {oldest}"
            );
            findings.untold.push((write.number, problem));
            continue;
        }
        first = Some(first.map_or(from, |first| first.min(from)));
        wanted.insert(write.request_id, write);
    }
    let Some(first) = first else {
        return Ok(findings);
    };
    let mut upto = before.map(|searched| searched.upto);
    let mut found: BTreeMap<BufferNumber, (Position, bool)> = BTreeMap::new();
    let mut next = first;
    for record in store.records(partition, first) {
        let (epoch, seq, record) = record?;
        if seq > next {
            // It was cut meanwhile: the next search begins anew, and says so.
            return Ok(Findings::default());
        }
        next = seq.next();
        let at = Position { epoch, seq };
        upto = Some(at);
        if let Some(write) = wanted.get(&record.head.request_id) {
            let is_same = record.body.fingerprint() == write.fingerprint;
            found.insert(write.number, (at, is_same));
        }
    }
    let numbers_upto = writes.iter().map(|write| write.number).max();
    findings.searched = upto
        .zip(numbers_upto)
        .map(|(upto, numbers_upto)| Searched { upto, numbers_upto });
    for (number, (at, is_same)) in found {
        match is_same {
            true => findings.done.push((number, at)),
            false => findings.reused.push((number, at)),
        }
    }
    Ok(findings)
}
