//! What an operator asks of orphans, and what is answered.
//!
//! **Owns**: the plain structs, the stream of answers.
//! **Does not own**: doing it (`list`, `show`, `replay`, `discard`).

use std::time::Duration;

use bytes::Bytes;
use domicile_proto::{
    Epoch, Name, Operation, Position, Record, RecordKind, RequestId, Seq, Version, WireError,
};
use domicile_storage::{Orphan, OrphanCounts, OrphanFile, OrphanFileId, OrphanState};
use tokio::sync::mpsc;

use crate::error::Error;
use crate::node::NodeCore;

/// Answers that wait for who asked; the work pauses meanwhile. Twice as many hold twice the memory,
/// which values of up to 1 MiB may fill.
const ANSWERS_MAX: usize = 16;

/// How long who asked may take no answer before the work ends: nobody else can decide of orphans
/// meanwhile. Doubled, one that hangs keeps others from it twice as long.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// The orphan files of a node.
#[derive(Debug, Clone, Default)]
pub struct OrphanListing {
    /// Those that are intact, by partition and number.
    pub files: Vec<OrphanFileStatus>,
    /// What is wrong with the others.
    pub damaged: Vec<String>,
}

/// An orphan file and what became of its records.
#[derive(Debug, Clone)]
pub struct OrphanFileStatus {
    /// What its header says.
    pub file: OrphanFile,
    /// The keyspace's name; `None` if this node does not know it any more.
    pub keyspace: Option<Name>,
    /// The reign in which its first record was written.
    pub reign: Epoch,
    /// The region of that reign; `None` if it is not known.
    pub reign_region: Option<Name>,
    /// The region of the reign for which the log was cut; `None` if it is not known.
    pub superseded_by_region: Option<Name>,
    /// What became of its records.
    pub counts: OrphanCounts,
}

/// Which records to show, and what for.
#[derive(Debug, Clone)]
pub struct OrphanShow {
    /// Of which file.
    pub file: OrphanFileId,
    /// From this record on; [`Seq::NONE`]: all.
    pub from: Seq,
    /// Whether the home is asked which of the open ones a client has sent again.
    pub asks_home: bool,
    /// The region in which the values will lie, if they are taken elsewhere; empty: this one.
    pub export_to: Option<String>,
}

/// A record as it is shown.
#[derive(Debug, Clone)]
pub struct OrphanShown {
    /// The record, its place and what became of it.
    pub orphan: Orphan,
    /// Whether the home knows its request, which a client sent again; `None`: not asked, or the
    /// home could not be reached.
    pub superseded: Option<bool>,
}

/// Which records to write again.
#[derive(Debug, Clone, Copy)]
pub struct OrphanReplay {
    /// Of which file.
    pub file: OrphanFileId,
    /// This one; `None`: all that are open.
    pub only: Option<Seq>,
}

/// Which records to give up.
#[derive(Debug, Clone, Copy)]
pub struct OrphanDiscard {
    /// Of which file.
    pub file: OrphanFileId,
    /// From this one on (inclusive); `None`: from the first. What is not open stays what it is.
    pub first: Option<Seq>,
    /// Up to this one (inclusive); `None`: up to the last.
    pub last: Option<Seq>,
}

/// What came of one record.
#[derive(Debug, Clone)]
pub struct ReplayStep {
    /// Where it was in the log.
    pub position: Position,
    /// Its first key; empty for a mark.
    pub key: Bytes,
    /// Its request.
    pub request_id: RequestId,
    /// What became of it.
    pub outcome: ReplayOutcome,
}

/// What came of replaying one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplayOutcome {
    /// It was written under its id, its level is met, and it is decided so.
    Replayed(Version),
    /// The home had its request already: from a client, or from a replay that was broken off. Its
    /// level is met, and it is decided as replayed.
    Superseded(Version),
    /// A key has been written since the fork; it stays open. With the key's version if it has a
    /// value.
    Changed(Option<Version>),
    /// A key is absent, and it cannot be told whether it was since the fork; it stays open. With
    /// why.
    Unproven(String),
    /// It was written with less than its level, in a degraded state; it stays open: run again.
    BelowLevel(Version),
    /// Its values have ended meanwhile; it stays open.
    Expired,
    /// It is no client's write: a mark, or a removal that its home made; it stays open.
    NotAWrite,
    /// The home refuses it; it stays open. With why.
    Refused(String),
    /// It was decided before, and nothing was done.
    Decided(OrphanState),
}

/// Answers as they come. Dropping it ends the work behind the answer that is under way.
#[derive(Debug)]
pub struct OrphanStream<T> {
    answers: mpsc::Receiver<Result<T, Error>>,
}

impl<T> OrphanStream<T> {
    pub(super) fn new() -> (mpsc::Sender<Result<T, Error>>, Self) {
        let (sender, answers) = mpsc::channel(ANSWERS_MAX);
        (sender, Self { answers })
    }

    /// The next one; `None` behind the last, also of an error.
    pub async fn next(&mut self) -> Option<Result<T, Error>> {
        self.answers.recv().await
    }
}

/// Tells who asked; whether that was taken. A node that closes waits for nobody.
pub(super) async fn tell<T>(
    node: &NodeCore,
    answers: &mpsc::Sender<Result<T, Error>>,
    answer: Result<T, Error>,
) -> bool {
    tokio::select! {
        biased;
        sent = answers.send(answer) => sent.is_ok(),
        () = tokio::time::sleep(SILENCE_MAX) => false,
        () = node.closed() => false,
    }
}

/// What a record is, in a word.
///
/// # Errors
/// A body that cannot be read.
pub fn orphan_kind(record: &Record) -> Result<&'static str, WireError> {
    Ok(match record.head.kind {
        RecordKind::Write => match record.body.operations()?.as_slice() {
            [Operation::Put { .. }] => "put",
            [Operation::Delete { .. }] => "delete",
            _ => "batch",
        },
        RecordKind::Expiry => "expiry",
        RecordKind::DegradeBegin => "degrade-begin",
        RecordKind::DegradeEnd => "degrade-end",
        RecordKind::ReignBegin => "reign-begin",
        _ => "unknown",
    })
}
