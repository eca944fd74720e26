//! A few records of an orphan file on their way back to their home, no key of two of them.
//!
//! **Owns**: whether a record's keys are unchanged, the conditions under which it is written, what
//! an answer of the home means for it.
//! **Does not own**: the order of windows, what is decided (`replay`), the write path (node).
//!
//! - Present, its version at or before the fork: unchanged, and its version is the condition.
//! - Present, written by a record of this file that was replayed before: the same.
//! - Absent: unchanged if nobody else touched it since the fork, as the log says; that it is absent
//!   is the condition. Put and removed again by others between the look and the write, a few
//!   milliseconds apart, it passes for untouched.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use domicile_proto::{
    ErrorKind, Keyspace, Operation, Position, Reason, RecordKind, RequestId, Version,
};
use domicile_storage::{Orphan, OrphanFile};

use super::call::ReplayOutcome;
use super::touches::{KeyHash, Touches, fork_of};
use crate::call::{Consistency, Expected, Forwarding, Precondition, ReadCall, WriteCall};
use crate::clock::Clock;
use crate::error::Error;
use crate::node::NodeCore;
use crate::receipt::Receipt;

/// A record of the file that was replayed, the last that touched a key.
#[derive(Debug, Clone)]
pub(super) struct Replayed {
    pub(super) key: Bytes,
    pub(super) request_id: RequestId,
    /// Where the home has it; `None`: in a run before this one, to be asked.
    pub(super) at: Option<Position>,
}

/// What all records of one file have in common.
pub(super) struct Replaying {
    pub(super) node: Arc<NodeCore>,
    pub(super) file: OrphanFile,
    pub(super) keyspace: Arc<Keyspace>,
    /// By the keys that they touched.
    pub(super) replayed: BTreeMap<KeyHash, Replayed>,
}

/// A record that may be written again, as the home knows it.
pub(super) struct Looked {
    orphan: Orphan,
    operations: Vec<Operation>,
    /// Where the home has its request.
    known: Option<Receipt>,
    keys: Vec<Key>,
}

struct Key {
    key: Bytes,
    version: Option<Version>,
    /// Up to where the home had applied its log.
    as_of: Option<Position>,
}

/// A look that was enough, or one that goes on.
pub(super) enum Look {
    Over(Orphan, ReplayOutcome),
    GoesOn(Looked),
}

impl Looked {
    /// Up to where the log has to be followed for it; `None`: nowhere.
    pub(super) fn follow_upto(&self) -> Option<Position> {
        let absent = self.keys.iter().filter(|key| key.version.is_none());
        absent.filter_map(|key| key.as_of).max()
    }
}

impl Replaying {
    /// What the home knows of a record and its keys.
    ///
    /// # Errors
    /// The home does not answer; a body that cannot be read.
    pub(super) async fn look(&self, orphan: Orphan) -> Result<Look, Error> {
        let head = &orphan.record.head;
        let operations = orphan.record.body.operations()?;
        let Some(first) = operations
            .first()
            .filter(|_| head.kind == RecordKind::Write)
        else {
            return Ok(Look::Over(orphan, ReplayOutcome::NotAWrite));
        };
        let (key, id) = (first.key().clone(), head.request_id);
        let known = self.node.outcome(&self.keyspace, key, id).await?;
        let mut looked = Looked {
            orphan,
            operations,
            known,
            keys: Vec::new(),
        };
        if looked.known.is_some() {
            return Ok(Look::GoesOn(looked));
        }
        if has_ended(&looked) {
            return Ok(Look::Over(looked.orphan, ReplayOutcome::Expired));
        }
        for operation in &looked.operations {
            let key = operation.key();
            if looked.keys.iter().any(|known| known.key == key) {
                continue;
            }
            let read = self.node.read(ReadCall {
                keyspace: Arc::clone(&self.keyspace),
                key: key.clone(),
                consistency: Consistency::Home,
                timeout: None,
                forwarding: Forwarding::Allowed,
            });
            let answer = read.await?;
            if answer.partition != self.file.partition {
                let (own, now) = (self.file.partition, answer.partition);
                let why = format!("its key belonged to partition {own} and belongs to {now} now");
                return Ok(Look::Over(looked.orphan, ReplayOutcome::Unproven(why)));
            }
            looked.keys.push(Key {
                key: key.clone(),
                version: answer.entry.map(|entry| entry.version),
                as_of: answer.position,
            });
        }
        Ok(Look::GoesOn(looked))
    }

    /// Writes a record if its keys are unchanged, and waits for its level.
    ///
    /// # Errors
    /// The home does not answer, or may have it: the next run finds out.
    pub(super) async fn write(
        &self,
        looked: Looked,
        touches: &Touches,
    ) -> Result<(Orphan, ReplayOutcome), Error> {
        let conditions = match &looked.known {
            Some(receipt) => Ok(never(&looked, receipt)),
            None => self.conditions(&looked, touches).await?,
        };
        let preconditions = match conditions {
            Ok(preconditions) => preconditions,
            Err(outcome) => return Ok((looked.orphan, outcome)),
        };
        let call = WriteCall {
            preconditions,
            request_id: Some(looked.orphan.record.head.request_id),
            ..WriteCall::new(Arc::clone(&self.keyspace), looked.operations)
        };
        let outcome = match self.node.write(call).await {
            Ok(receipt) if receipt.degraded => ReplayOutcome::BelowLevel(receipt.version),
            Ok(receipt) if receipt.duplicate => ReplayOutcome::Superseded(receipt.version),
            Ok(receipt) => ReplayOutcome::Replayed(receipt.version),
            Err(error) if error.reason() == Reason::VersionMismatch => {
                let current = error.metadata().get("current");
                ReplayOutcome::Changed(current.and_then(|text| text.parse().ok()))
            }
            Err(error) if error.kind() == ErrorKind::Invalid => {
                ReplayOutcome::Refused(error.to_string())
            }
            Err(error) => return Err(error),
        };
        Ok((looked.orphan, outcome))
    }

    /// What must hold of its keys; the inner error: they are not what they were at the fork.
    async fn conditions(
        &self,
        looked: &Looked,
        touches: &Touches,
    ) -> Result<Result<Vec<Precondition>, ReplayOutcome>, Error> {
        let mut conditions = Vec::new();
        for Key { key, version, .. } in &looked.keys {
            let hash = KeyHash::of(key);
            let (since, expected) = match version {
                Some(version) => {
                    let at = Position {
                        epoch: version.epoch,
                        seq: version.seq,
                    };
                    let since = Some(at).filter(|_| Some(at) > fork_of(&self.file));
                    (since, Expected::Version(*version))
                }
                None => match touches.last_of(hash) {
                    Ok(since) => (since, Expected::Absent),
                    Err(gap) => return Ok(Err(ReplayOutcome::Unproven(gap.to_owned()))),
                },
            };
            if let Some(at) = since
                && !self.is_own(hash, at).await?
            {
                return Ok(Err(ReplayOutcome::Changed(*version)));
            }
            let key = key.clone();
            conditions.push(Precondition { key, expected });
        }
        Ok(Ok(conditions))
    }

    /// Whether a record of the home is one of this file, replayed before.
    async fn is_own(&self, key: KeyHash, at: Position) -> Result<bool, Error> {
        let Some(replayed) = self.replayed.get(&key) else {
            return Ok(false);
        };
        if let Some(known) = replayed.at {
            return Ok(known == at);
        }
        let (key, id) = (replayed.key.clone(), replayed.request_id);
        let known = self.node.outcome(&self.keyspace, key, id).await?;
        Ok(known.is_some_and(|receipt| receipt.position() == at))
    }
}

/// Conditions that never hold, for a request that the home knows: those of a known one are not
/// looked at, and one that it has forgotten meanwhile is not written again.
fn never(looked: &Looked, receipt: &Receipt) -> Vec<Precondition> {
    let key = looked.operations[0].key();
    let both = [Expected::Absent, Expected::Version(receipt.version)];
    let condition = |expected| Precondition {
        key: key.clone(),
        expected,
    };
    both.map(condition).to_vec()
}

/// Whether nothing would be left of it: all that it did was to set values that have ended.
fn has_ended(looked: &Looked) -> bool {
    let (written, now_ms) = (looked.orphan.record.head.hlc, Clock::wall_ms());
    looked.operations.iter().all(|operation| match operation {
        Operation::Put {
            expiry: Some(expiry),
            ..
        } => expiry.at_ms(written) <= now_ms,
        _ => false,
    })
}
