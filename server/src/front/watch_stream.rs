//! The messages of one watch.
//!
//! **Owns**: what a watch may ask for, its messages on the wire, its end when the door closes.
//! **Does not own**: the watch and its bounds (the node): HTTP/2 asks for a message when the client
//! has room for one, and what it does not ask for waits there.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use domicile_proto::resume::RESUME_POSITIONS_MAX;
use domicile_proto::{
    Keyspace, Operation, PartitionId, Position, Reason, ResumeToken, limits::check_key, v1,
};
use domicile_replication::{Change, Error, WatchCall, WatchFrom, WatchKeys, WatchMessage};
use domicile_replication::{Node, WatchMessages};
use futures::Stream;
use tokio::sync::watch;
use tonic::Status;

use super::refusal::refuse;
use super::{answer, request};

/// What a watch's messages are polled from.
pub(crate) struct WatchStream {
    messages: WatchMessages,
    closing: Pin<Box<dyn Future<Output = ()> + Send>>,
    is_over: bool,
}

impl WatchStream {
    /// Begins a watch.
    pub(crate) fn new(
        node: &Node,
        message: v1::WatchRequest,
        patience: Duration,
        mut draining: watch::Receiver<bool>,
    ) -> Result<Self, Error> {
        let keyspace = node.policy(&message.keyspace)?;
        let mut call = watch_call(keyspace, message)?;
        call.patience = patience;
        let messages = node.watch(call)?;
        let closing = Box::pin(async move {
            // A door that is gone is closing, too.
            let _ = draining.wait_for(|draining| *draining).await;
        });
        Ok(Self {
            messages,
            closing,
            is_over: false,
        })
    }
}

impl Stream for WatchStream {
    type Item = Result<v1::WatchResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.is_over {
            return Poll::Ready(None);
        }
        // Before the messages, which may never end.
        let ended = match this.closing.as_mut().poll(context) {
            Poll::Ready(()) => Error::new(Reason::Draining, "the node is closing"),
            Poll::Pending => {
                match std::task::ready!(Pin::new(&mut this.messages).poll_next(context)) {
                    Some(Ok(message)) => return Poll::Ready(Some(Ok(response(message)))),
                    Some(Err(error)) => error,
                    None => return Poll::Ready(None),
                }
            }
        };
        this.is_over = true;
        Poll::Ready(Some(Err(refuse(&ended))))
    }
}

fn invalid(field: &str, cause: impl std::fmt::Display) -> Error {
    Error::new(Reason::InvalidArgument, cause.to_string()).with("field", field)
}

fn watch_call(keyspace: Arc<Keyspace>, message: v1::WatchRequest) -> Result<WatchCall, Error> {
    let start = v1::WatchStart::try_from(message.start).map_err(|_| {
        let message = format!("unknown start: {}, expected 0 to 2", message.start);
        invalid("start", message)
    })?;
    let from = match (start, message.positions.is_empty()) {
        (v1::WatchStart::Now, false) => WatchFrom::Token(token(&keyspace, &message.positions)?),
        (v1::WatchStart::Now, true) => WatchFrom::Now,
        (v1::WatchStart::First, true) => WatchFrom::First,
        (v1::WatchStart::Oldest, true) => WatchFrom::Oldest,
        (_, false) => {
            return Err(invalid(
                "start",
                "a start besides positions: one of them only",
            ));
        }
    };
    let keys = match (message.key.is_empty(), message.prefix.is_empty()) {
        (true, _) => WatchKeys::Prefix(message.prefix),
        (false, true) => {
            check_key(&message.key)?;
            WatchKeys::Key(message.key)
        }
        (false, false) => return Err(invalid("key", "a key besides a prefix: one of them only")),
    };
    Ok(WatchCall {
        from,
        keys,
        ..WatchCall::new(keyspace)
    })
}

fn token(keyspace: &Keyspace, wire: &[v1::Position]) -> Result<ResumeToken, Error> {
    if wire.len() > RESUME_POSITIONS_MAX {
        let message = format!("{} positions, limit {RESUME_POSITIONS_MAX}", wire.len());
        return Err(invalid("positions", message));
    }
    let mut token = ResumeToken::new(keyspace.id());
    for each in wire {
        let (partition, position) = position(each)?;
        if partition.keyspace != keyspace.id() {
            let name = &keyspace.name;
            let message = format!("partition {partition} is not of keyspace {name}");
            return Err(invalid("positions", message));
        }
        token.set(partition, position);
    }
    Ok(token)
}

fn position(wire: &v1::Position) -> Result<(PartitionId, Option<Position>), Error> {
    let partition = request::partition("positions", &wire.partition)?;
    if wire.seq == 0 {
        return Ok((partition, None));
    }
    let mark = request::mark("positions", wire)?;
    Ok((partition, Some(mark.position)))
}

fn response(message: WatchMessage) -> v1::WatchResponse {
    let positions = message.positions.into_iter();
    let positions = positions.map(|(partition, position)| match position {
        Some(position) => answer::position(partition, position),
        None => v1::Position {
            partition: Bytes::copy_from_slice(&partition.to_bytes()),
            ..v1::Position::default()
        },
    });
    v1::WatchResponse {
        changes: message.changes.into_iter().map(change).collect(),
        positions: positions.collect(),
    }
}

fn change(change: Change) -> v1::Change {
    let keys = change
        .operations
        .into_iter()
        .map(|operation| match operation {
            Operation::Put { key, value, expiry } => v1::ChangedKey {
                key,
                value: Some(value),
                expires_at_ms: expiry.map_or(0, |expiry| expiry.at_ms(change.written_at)),
            },
            Operation::Delete { key } => v1::ChangedKey {
                key,
                value: None,
                expires_at_ms: 0,
            },
        });
    v1::Change {
        keys: keys.collect(),
        position: Some(answer::position(
            change.partition,
            Position {
                epoch: change.version.epoch,
                seq: change.version.seq,
            },
        )),
        version: change.version.to_string(),
        written_at_ms: change.written_at.wall_ms(),
        written_at_hlc: change.written_at.bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domicile_proto::{Name, RegionId};

    fn call(change: impl FnOnce(&mut v1::WatchRequest)) -> Result<WatchCall, Error> {
        let region = RegionId::new(1).unwrap();
        let keyspace = Keyspace::new(Name::new("users").unwrap(), vec![region], region);
        let mut message = v1::WatchRequest::default();
        change(&mut message);
        watch_call(Arc::new(keyspace), message)
    }

    fn own_position(seq: u64) -> v1::Position {
        let region = RegionId::new(1).unwrap();
        let keyspace = Keyspace::new(Name::new("users").unwrap(), vec![region], region);
        v1::Position {
            partition: keyspace.partitions()[0].to_bytes().to_vec().into(),
            epoch_counter: 1,
            epoch_node: u64::from(seq > 0),
            seq,
        }
    }

    #[test]
    fn a_request_says_which_keys_and_from_where() {
        let plain = call(|_| ()).unwrap();
        assert_eq!(plain.from, WatchFrom::Now);
        assert_eq!(plain.keys, WatchKeys::Prefix(Bytes::new()));
        let one = call(|message| message.key = "a/b".into()).unwrap();
        assert_eq!(one.keys, WatchKeys::Key("a/b".into()));
        let first = call(|message| message.start = v1::WatchStart::First.into()).unwrap();
        assert_eq!(first.from, WatchFrom::First);
        for seq in [0, 7] {
            let resumed = call(|message| message.positions = vec![own_position(seq)]).unwrap();
            let WatchFrom::Token(token) = resumed.from else {
                panic!("{:?}", resumed.from);
            };
            let (_, seen) = token.iter().next().unwrap();
            assert_eq!(seen.map_or(0, |position| position.seq.get()), seq);
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let field = |change: fn(&mut v1::WatchRequest)| {
            let error = call(change).unwrap_err();
            error.metadata().get("field").cloned().unwrap_or_default()
        };
        assert_eq!(field(|message| message.start = 3), "start");
        let both = |message: &mut v1::WatchRequest| {
            message.start = 1;
            message.positions = vec![own_position(1)];
        };
        assert_eq!(field(both), "start");
        let both = |message: &mut v1::WatchRequest| {
            (message.key, message.prefix) = ("a".into(), "b".into());
        };
        assert_eq!(field(both), "key");
        for change in [
            |position: &mut v1::Position| position.partition = vec![1; 7].into(),
            |position: &mut v1::Position| position.partition = vec![1; 8].into(),
            |position: &mut v1::Position| position.epoch_node = 0,
        ] {
            let mut position = own_position(7);
            change(&mut position);
            let error = call(|message| message.positions = vec![position]).unwrap_err();
            assert_eq!(error.metadata()["field"], "positions");
        }
        assert!(call(|message| message.key = vec![0; 2000].into()).is_err());
    }
}
