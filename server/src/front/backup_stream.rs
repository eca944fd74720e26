//! The pieces of one backup on their way to who asked for it.
//!
//! **Owns**: how many wait, how long for a reader that takes none, the end when the door closes.
//! **Does not own**: whether it may be given and what it is (the node), the messages (`backup`).

use std::time::Duration;

use domicile_proto::Reason;
use domicile_proto::v1;
use domicile_proto::v1::backup_response::Piece;
use domicile_replication::{BackupCall, BackupSource, Error, Node};
use tokio::sync::{mpsc, watch};
use tonic::Status;

use super::posture;
use super::refusal::refuse;
use crate::backup::{end_from_wire, response_of};

/// Pieces between the reader of the disk and the connection, about 256 KiB each.
const PIECES_MAX: usize = 4;

/// How long a reader may take no piece before the backup is given up: the journal is kept for it
/// meanwhile. Doubled, one that hangs keeps it twice as long.
const SILENCE_MAX: Duration = Duration::from_secs(30);

type Pieces = mpsc::Sender<Result<v1::BackupResponse, Status>>;

/// Begins a backup; its messages.
///
/// # Errors
/// As [`Node::backup`].
pub(super) fn begin(
    node: &Node,
    request: v1::BackupRequest,
    draining: watch::Receiver<bool>,
) -> Result<mpsc::Receiver<Result<v1::BackupResponse, Status>>, Error> {
    let invalid = |error: String| Error::new(Reason::InvalidArgument, error).with("field", "known");
    let known = request.known.iter().map(end_from_wire);
    let call = BackupCall {
        keyspaces: request.keyspaces,
        place_region: Some(request.place_region).filter(|name| !name.is_empty()),
        known: known.collect::<Result<_, _>>().map_err(invalid)?,
    };
    let source = node.backup(call)?;
    let subject = v1::BackupResponse {
        piece: Some(Piece::Subject(subject(node, &source))),
        crc32: 0,
    };
    let (pieces, receiver) = mpsc::channel(PIECES_MAX);
    tokio::spawn(async move {
        if let Err(error) = send(source, subject, &pieces, draining).await {
            tracing::warn!(%error, "a backup was not taken to its end");
            // A reader that has gone away needs no reason.
            drop(pieces.try_send(Err(refuse(&error))));
        }
    });
    Ok(receiver)
}

async fn send(
    mut source: BackupSource,
    subject: v1::BackupResponse,
    pieces: &Pieces,
    draining: watch::Receiver<bool>,
) -> Result<(), Error> {
    let mut next = Some(subject);
    while let Some(message) = next {
        let sent = tokio::time::timeout(SILENCE_MAX, pieces.send(Ok(message))).await;
        match sent {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(Error::new(Reason::Draining, "its reader has gone away")),
            Err(_) => {
                let message = format!("no piece was taken for {SILENCE_MAX:?}");
                return Err(Error::new(Reason::SlowConsumer, message));
            }
        }
        if *draining.borrow() {
            return Err(Error::new(Reason::Draining, "the node is closing"));
        }
        let read = tokio::task::spawn_blocking(move || {
            let piece = source.read_on();
            (source, piece)
        });
        let (back, piece) = read.await.map_err(|error| {
            Error::new(Reason::StorePoisoned, format!("reading panicked: {error}"))
        })?;
        source = back;
        next = piece?.map(response_of);
    }
    Ok(())
}

fn subject(node: &Node, source: &BackupSource) -> v1::BackupSubject {
    let keyspaces = source.keyspaces().iter();
    v1::BackupSubject {
        cluster: source.cluster().to_string(),
        region: node.region().to_string(),
        node: node.node_id().get(),
        place_region: source.place_region().name.to_string(),
        created_at_ms: source.created_at_ms(),
        keyspaces: keyspaces.map(|it| posture::describe(node, it)).collect(),
    }
}
