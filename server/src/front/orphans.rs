//! Orphans as messages.
//!
//! **Owns**: what a call about orphans may ask for, the fields of the answers, leaving values out,
//! the end of a stream when the door closes.
//! **Does not own**: what is done (the node), who may have values (the node).

use bytes::Bytes;
use domicile_proto::{Hlc, Operation, Reason, Seq, v1};
use domicile_replication::{
    Error, Node, Orphan, OrphanDiscard, OrphanFileId, OrphanFileStatus, OrphanReplay, OrphanShow,
    OrphanShown, OrphanState, OrphanStream, ReplayOutcome, ReplayStep, orphan_kind,
};
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::watch;
use tonic::Status;

use super::refusal::refuse;

/// Messages of one answer.
pub(super) type Messages<M> = BoxStream<'static, Result<M, Status>>;

fn invalid(field: &str, cause: impl std::fmt::Display) -> Error {
    Error::new(Reason::InvalidArgument, cause.to_string()).with("field", field)
}

fn file_id(text: &str) -> Result<OrphanFileId, Error> {
    OrphanFileId::parse(text).ok_or_else(|| {
        let shown: String = text.chars().take(64).collect();
        let message = format!(
            "invalid orphan file {shown:?}: 16 hex digits, a dash and a number from 1 expected"
        );
        invalid("file", message)
    })
}

/// The orphan files of a node.
pub(super) async fn list(node: &Node) -> Result<v1::ListOrphansResponse, Error> {
    let listing = node.orphan_files().await?;
    Ok(v1::ListOrphansResponse {
        region: node.region().to_string(),
        node: node.node_id().get(),
        files: listing.files.iter().map(file).collect(),
        damaged: listing.damaged,
    })
}

fn file(status: &OrphanFileStatus) -> v1::OrphanFile {
    let (file, counts) = (&status.file, &status.counts);
    let name =
        |name: Option<&domicile_proto::Name>| name.map_or(String::new(), ToString::to_string);
    v1::OrphanFile {
        file: file.id().to_string(),
        partition: Bytes::copy_from_slice(&file.partition.to_bytes()),
        keyspace: name(status.keyspace.as_ref()),
        fork_epoch_counter: file.fork.epoch.map_or(0, |epoch| epoch.counter),
        fork_epoch_node: file.fork.epoch.map_or(0, |epoch| epoch.node.get()),
        fork_seq: file.fork.seq.get(),
        reign_counter: status.reign.counter,
        reign_node: status.reign.node.get(),
        reign_region: name(status.reign_region.as_ref()),
        superseded_by_counter: file.superseded_by.counter,
        superseded_by_node: file.superseded_by.node.get(),
        superseded_by_region: name(status.superseded_by_region.as_ref()),
        sealed_at_ms: file.sealed_at_ms,
        first_seq: file.first_seq().get(),
        last_seq: file.last_seq.get(),
        records: file.records,
        bytes: file.file_bytes,
        open: counts.open,
        replayed: counts.replayed,
        discarded: counts.discarded,
    }
}

/// The records of a file; their values in an export only.
pub(super) async fn show(
    node: &Node,
    request: v1::ShowOrphansRequest,
    draining: watch::Receiver<bool>,
) -> Result<Messages<v1::ShowOrphansResponse>, Error> {
    let values = match &request.export {
        Some(_) => Values::Shown,
        None => Values::Left,
    };
    let call = OrphanShow {
        file: file_id(&request.file)?,
        from: Seq::new(request.from_seq),
        asks_home: request.ask_home,
        export_to: request.export.map(|export| export.place_region),
    };
    let shown = node.show_orphans(call).await?;
    Ok(messages(shown, draining, move |shown| {
        let record = Some(record(&shown, values)?);
        Ok(v1::ShowOrphansResponse { record })
    }))
}

/// Replays open records of a file.
pub(super) async fn replay(
    node: &Node,
    request: v1::ReplayOrphansRequest,
    draining: watch::Receiver<bool>,
) -> Result<Messages<v1::ReplayOrphansResponse>, Error> {
    let file = file_id(&request.file)?;
    if !request.if_unchanged {
        let message = "a replay without if_unchanged: it would undo what was written since";
        return Err(invalid("if_unchanged", message));
    }
    let only = Some(Seq::new(request.seq)).filter(|seq| *seq > Seq::NONE);
    let steps = node.replay_orphans(OrphanReplay { file, only }).await?;
    Ok(messages(steps, draining, |step| Ok(replayed(step))))
}

/// Gives up open records of a file.
pub(super) async fn discard(
    node: &Node,
    request: v1::DiscardOrphansRequest,
    draining: watch::Receiver<bool>,
) -> Result<Messages<v1::DiscardOrphansResponse>, Error> {
    let file = file_id(&request.file)?;
    if !request.confirmed {
        let message = "not confirmed: what is discarded stays discarded";
        return Err(invalid("confirmed", message));
    }
    let bound = |seq| Some(Seq::new(seq)).filter(|seq| *seq > Seq::NONE);
    let call = OrphanDiscard {
        file,
        first: bound(request.first_seq),
        last: bound(request.last_seq),
    };
    let given_up = node.discard_orphans(call).await?;
    Ok(messages(given_up, draining, |shown| {
        let record = Some(record(&shown, Values::Left)?);
        Ok(v1::DiscardOrphansResponse { record })
    }))
}

/// Each answer as a message; an error is the last one.
fn messages<T: Send + 'static, M: Send + 'static>(
    answers: OrphanStream<T>,
    draining: watch::Receiver<bool>,
    message: impl Fn(T) -> Result<M, Error> + Clone + Send + 'static,
) -> Messages<M> {
    let state = Some((answers, draining));
    let stream = futures::stream::unfold(state, move |state| {
        let message = message.clone();
        async move {
            let (mut answers, mut draining) = state?;
            let next = tokio::select! {
                biased;
                // A door that is gone is closing, too.
                _ = draining.wait_for(|draining| *draining) => {
                    Err(Error::new(Reason::Draining, "the node is closing"))
                }
                next = answers.next() => next?,
            };
            match next.and_then(message) {
                Ok(message) => Some((Ok(message), Some((answers, draining)))),
                Err(error) => Some((Err(refuse(&error)), None)),
            }
        }
    });
    stream.boxed()
}

/// Whether values are in the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Values {
    Shown,
    Left,
}

fn record(shown: &OrphanShown, values: Values) -> Result<v1::OrphanRecord, Error> {
    let Orphan {
        position,
        record,
        state,
    } = &shown.orphan;
    let written = record.head.hlc;
    let operations = record.body.operations()?.into_iter();
    Ok(v1::OrphanRecord {
        epoch_counter: position.epoch.counter,
        epoch_node: position.epoch.node.get(),
        seq: position.seq.get(),
        kind: orphan_kind(record)?.to_owned(),
        request_id: id(record.head.request_id),
        written_at_ms: written.wall_ms(),
        level: record.head.level.to_string(),
        state: match state {
            OrphanState::Open => v1::OrphanState::Open,
            OrphanState::Replayed => v1::OrphanState::Replayed,
            OrphanState::Discarded => v1::OrphanState::Discarded,
        }
        .into(),
        superseded: shown.superseded,
        operations: operations
            .map(|it| operation(it, written, values))
            .collect(),
    })
}

fn operation(operation: Operation, written: Hlc, values: Values) -> v1::OrphanOperation {
    match operation {
        Operation::Put { key, value, expiry } => v1::OrphanOperation {
            key,
            is_delete: false,
            value_bytes: value.len() as u64,
            value: (values == Values::Shown).then_some(value),
            expires_at_ms: expiry.map(|expiry| expiry.at_ms(written)),
        },
        Operation::Delete { key } => v1::OrphanOperation {
            key,
            is_delete: true,
            ..v1::OrphanOperation::default()
        },
    }
}

fn replayed(step: ReplayStep) -> v1::ReplayOrphansResponse {
    use v1::ReplayOutcome as Wire;
    let (mut version, mut note) = (None, String::new());
    let outcome = match step.outcome {
        ReplayOutcome::Replayed(at) => {
            version = Some(at);
            Wire::Replayed
        }
        ReplayOutcome::Superseded(at) => {
            version = Some(at);
            Wire::Superseded
        }
        ReplayOutcome::BelowLevel(at) => {
            version = Some(at);
            Wire::BelowLevel
        }
        ReplayOutcome::Changed(at) => {
            version = at;
            Wire::Changed
        }
        ReplayOutcome::Unproven(why) => {
            note = why;
            Wire::Unproven
        }
        ReplayOutcome::Refused(why) => {
            note = why;
            Wire::Refused
        }
        ReplayOutcome::Expired => Wire::Expired,
        ReplayOutcome::NotAWrite => Wire::NotAWrite,
        ReplayOutcome::Decided(state) => {
            note = domicile_replication::orphan_state(state).to_owned();
            Wire::Decided
        }
    };
    v1::ReplayOrphansResponse {
        epoch_counter: step.position.epoch.counter,
        epoch_node: step.position.epoch.node.get(),
        seq: step.position.seq.get(),
        key: step.key,
        request_id: id(step.request_id),
        outcome: outcome.into(),
        version: version.map_or(String::new(), |version| version.to_string()),
        note,
    }
}

fn id(id: domicile_proto::RequestId) -> Bytes {
    Bytes::copy_from_slice(&id.get().to_be_bytes())
}
