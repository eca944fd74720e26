//! The changes of a keyspace, as they become visible.
//!
//! **Owns**: taking messages apart, where to go on after each change, going on by itself when a
//! node closes or a connection breaks.
//! **Does not own**: what is told (the server), the channels (`connection`).

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use domicile_proto::{Expiry, Hlc, Operation, PartitionId, Position, ResumeToken, Version, v1};
use futures::stream::{self, Stream};
use tokio::time::Instant;
use tonic::Streaming;

use crate::call::{PAUSE_FIRST, PAUSE_MAX, jittered, kv};
use crate::error::ClientError;
use crate::keyspace::KeyspaceClient;
use crate::options::Retry;
use crate::session::{SessionMark, partition_of};

/// How long a watch tries to go on before it gives up: a restart takes seconds. Doubled, a watcher
/// hears as much later that no node is there.
const RESUME_WITHIN: Duration = Duration::from_secs(30);

/// Where a watch begins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum WatchFrom {
    /// With what becomes visible from now on at the node that answers.
    #[default]
    Now,
    /// With the first write ever; `COMPACTED` if the journal no longer has it.
    First,
    /// With the oldest write that the journal still has.
    Oldest,
    /// With what follows this.
    Token(ResumeToken),
}

/// What one write did to the keys that are watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// In which partition.
    pub partition: PartitionId,
    /// Its place in that partition's history.
    pub position: Position,
    /// The version that it gave to every key it set.
    pub version: Version,
    /// When its home sequenced it.
    pub written_at: Hlc,
    /// Of one write, in its order; those of other keys are left out.
    pub operations: Vec<Operation>,
}

/// A watch being described; [`Watch::start`] begins it.
#[derive(Debug, Clone)]
#[must_use = "a watch does nothing until started"]
pub struct Watch {
    keyspace: KeyspaceClient,
    prefix: Bytes,
    key: Bytes,
    from: WatchFrom,
    resume_within: Duration,
}

impl Watch {
    pub(crate) fn new(keyspace: KeyspaceClient) -> Self {
        Self {
            keyspace,
            prefix: Bytes::new(),
            key: Bytes::new(),
            from: WatchFrom::Now,
            resume_within: RESUME_WITHIN,
        }
    }

    /// Only keys that start with this.
    pub fn prefix(mut self, prefix: impl AsRef<[u8]>) -> Self {
        self.prefix = Bytes::copy_from_slice(prefix.as_ref());
        self
    }

    /// Only this key.
    pub fn key(mut self, key: impl AsRef<[u8]>) -> Self {
        self.key = Bytes::copy_from_slice(key.as_ref());
        self
    }

    /// Where it begins; with what becomes visible from now on if this is not said.
    pub fn from(mut self, from: WatchFrom) -> Self {
        self.from = from;
        self
    }

    /// How long an outage may last before the watch gives up; 30 s by default. Each outage is given
    /// this long.
    pub fn resume_within(mut self, within: Duration) -> Self {
        self.resume_within = within;
        self
    }

    /// Begins it. Everything that becomes visible after this returns is told.
    ///
    /// # Errors
    /// What the server answers; no connection.
    pub async fn start(self) -> Result<Changes, ClientError> {
        let mut outage = None;
        loop {
            match self.open(None).await {
                Ok((messages, seen)) => {
                    return Ok(Changes {
                        watch: self,
                        messages: Some(messages),
                        received: seen.clone(),
                        waiting: VecDeque::new(),
                        behind: Vec::new(),
                        seen,
                        outage: None,
                        is_over: false,
                    });
                }
                Err(error) => Outage::wait(&mut outage, &self, error).await?,
            }
        }
    }

    /// One attempt: the stream behind its first message, and where that says that it begins.
    async fn open(
        &self,
        after: Option<&ResumeToken>,
    ) -> Result<(Streaming<v1::WatchResponse>, ResumeToken), ClientError> {
        let client = self.keyspace.client();
        let (place, channel) = client.current();
        let begun = async {
            let opened = kv(channel).watch(self.request(after)).await;
            let mut messages = opened.map_err(ClientError::from_status)?.into_inner();
            let first = messages.message().await.map_err(ClientError::from_status)?;
            let first = first.ok_or_else(|| unreadable("the stream ended before it began"))?;
            Ok((messages, token_of(&first)?))
        };
        begun.await.map_err(|error: ClientError| {
            client.turn_from(place);
            error.at(client.address(place))
        })
    }

    fn request(&self, after: Option<&ResumeToken>) -> v1::WatchRequest {
        let token = match (&self.from, after) {
            (_, Some(after)) => Some(after),
            (WatchFrom::Token(token), None) => Some(token),
            _ => None,
        };
        let start = match (&self.from, token) {
            (WatchFrom::First, None) => v1::WatchStart::First,
            (WatchFrom::Oldest, None) => v1::WatchStart::Oldest,
            _ => v1::WatchStart::Now,
        };
        let positions = token.into_iter().flat_map(ResumeToken::iter);
        v1::WatchRequest {
            keyspace: self.keyspace.name().to_owned(),
            prefix: self.prefix.clone(),
            key: self.key.clone(),
            start: start.into(),
            positions: positions.map(to_wire).collect(),
        }
    }
}

/// A time without a server.
#[derive(Debug)]
struct Outage {
    until: Instant,
    pause: Duration,
}

impl Outage {
    /// Waits before another attempt.
    ///
    /// # Errors
    /// `error`, if it is none that passes, or has lasted too long.
    async fn wait(
        outage: &mut Option<Self>,
        watch: &Watch,
        error: ClientError,
    ) -> Result<(), ClientError> {
        let now = Instant::now();
        let current = outage.get_or_insert(Self {
            until: now + watch.resume_within,
            pause: PAUSE_FIRST,
        });
        let retries = watch.keyspace.client().options().retry == Retry::UntilDeadline;
        let wait = error.retry_after().unwrap_or(current.pause);
        let wait = jittered(wait.min(PAUSE_MAX));
        if !error.is_repeated() || !retries || now + wait > current.until {
            return Err(error);
        }
        current.pause = current.pause.saturating_mul(2).min(PAUSE_MAX);
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

/// The changes of a watch, one write at a time, in order within a partition.
///
/// It goes on by itself, at the next endpoint, when a node closes or a connection breaks; nothing
/// is skipped and nothing comes twice. Ends with an error, never without one.
#[derive(Debug)]
pub struct Changes {
    watch: Watch,
    messages: Option<Streaming<v1::WatchResponse>>,
    /// As far as messages came.
    received: ResumeToken,
    /// Bounded by one message.
    waiting: VecDeque<Change>,
    /// Seen once `waiting` is empty.
    behind: Vec<(PartitionId, Option<Position>)>,
    /// As far as changes were given out.
    seen: ResumeToken,
    outage: Option<Outage>,
    is_over: bool,
}

impl Changes {
    /// Where to go on after the last change that this gave out. It moves while nothing but other
    /// keys is written, too.
    #[must_use]
    pub fn resume_token(&self) -> &ResumeToken {
        &self.seen
    }

    /// The next change; `None` after an error. It may be given up while it waits without losing
    /// one.
    ///
    /// # Errors
    /// `COMPACTED`: the journal was cut before this was read, and says what it still has.
    /// `SLOW_CONSUMER`: changes were not taken for too long; watch on from the token if that is no
    /// longer so. What is repeated by itself comes only once an outage has lasted too long.
    pub async fn next(&mut self) -> Option<Result<Change, ClientError>> {
        loop {
            if let Some(change) = self.waiting.pop_front() {
                self.seen.set(change.partition, Some(change.position));
                if self.waiting.is_empty() {
                    self.settle();
                }
                return Some(Ok(change));
            }
            if self.is_over {
                return None;
            }
            if let Err(error) = self.receive().await {
                self.is_over = true;
                return Some(Err(error));
            }
        }
    }

    /// The same as a stream.
    pub fn into_stream(self) -> impl Stream<Item = Result<Change, ClientError>> + Send + 'static {
        stream::unfold(self, |mut changes| async {
            let next = changes.next().await?;
            Some((next, changes))
        })
    }

    /// Receives one message, or tries once to be connected again.
    async fn receive(&mut self) -> Result<(), ClientError> {
        let Some(messages) = &mut self.messages else {
            return self.go_on().await;
        };
        let error = match messages.message().await {
            Ok(Some(message)) => return self.take(message),
            Ok(None) => unreadable("the stream ended without a word"),
            Err(status) => ClientError::from_status(status),
        };
        self.messages = None;
        Outage::wait(&mut self.outage, &self.watch, error).await
    }

    async fn go_on(&mut self) -> Result<(), ClientError> {
        match self.watch.open(Some(&self.received)).await {
            Ok((messages, begins)) => {
                self.messages = Some(messages);
                for (partition, position) in begins.iter() {
                    if self.received.get(partition) != Some(position) {
                        let message = format!("{partition} goes on elsewhere than asked");
                        return Err(unreadable(&message));
                    }
                }
                Ok(())
            }
            Err(error) => Outage::wait(&mut self.outage, &self.watch, error).await,
        }
    }

    fn take(&mut self, message: v1::WatchResponse) -> Result<(), ClientError> {
        let positions = positions_of(&message)?;
        self.check_keyspace(positions.iter().map(|(partition, _)| *partition))?;
        let changes = message.changes.into_iter().map(Change::from_wire);
        let changes: VecDeque<Change> = changes.collect::<Result<_, ClientError>>()?;
        self.check_keyspace(changes.iter().map(|change| change.partition))?;
        self.waiting = changes;
        self.outage = None;
        for (partition, position) in &positions {
            self.received.set(*partition, *position);
        }
        self.behind = positions;
        if self.waiting.is_empty() {
            self.settle();
        }
        Ok(())
    }

    fn check_keyspace(
        &self,
        mut partitions: impl Iterator<Item = PartitionId>,
    ) -> Result<(), ClientError> {
        let own = self.received.keyspace();
        match partitions.find(|partition| partition.keyspace != own) {
            Some(other) => Err(unreadable(&format!("{other} is of another keyspace"))),
            None => Ok(()),
        }
    }

    fn settle(&mut self) {
        for (partition, position) in self.behind.drain(..) {
            self.seen.set(partition, position);
        }
    }
}

impl Change {
    fn from_wire(wire: v1::Change) -> Result<Self, ClientError> {
        let position = wire.position.ok_or_else(|| unreadable("no position"))?;
        let SessionMark {
            partition,
            position,
        } = SessionMark::from_wire(&position)?;
        let version = wire.version.parse::<Version>();
        let operations = wire.keys.into_iter().map(|changed| match changed.value {
            Some(value) => Operation::Put {
                key: changed.key,
                value,
                expiry: (changed.expires_at_ms > 0).then_some(Expiry::AtMs(changed.expires_at_ms)),
            },
            None => Operation::Delete { key: changed.key },
        });
        Ok(Self {
            partition,
            position,
            version: version.map_err(|cause| ClientError::unreadable("version", cause))?,
            written_at: Hlc::from_bits(wire.written_at_hlc),
            operations: operations.collect(),
        })
    }
}

fn unreadable(cause: &str) -> ClientError {
    ClientError::unreadable("watch", cause)
}

fn to_wire((partition, position): (PartitionId, Option<Position>)) -> v1::Position {
    match position {
        Some(position) => SessionMark {
            partition,
            position,
        }
        .to_wire(),
        None => v1::Position {
            partition: Bytes::copy_from_slice(&partition.to_bytes()),
            ..v1::Position::default()
        },
    }
}

fn positions_of(
    message: &v1::WatchResponse,
) -> Result<Vec<(PartitionId, Option<Position>)>, ClientError> {
    let read = |wire: &v1::Position| match wire.seq {
        0 => Ok((partition_of(wire)?, None)),
        _ => SessionMark::from_wire(wire).map(|mark| (mark.partition, Some(mark.position))),
    };
    message.positions.iter().map(read).collect()
}

fn token_of(first: &v1::WatchResponse) -> Result<ResumeToken, ClientError> {
    let positions = positions_of(first)?;
    let Some((partition, _)) = positions.first() else {
        return Err(unreadable("no position in the first message"));
    };
    let mut token = ResumeToken::new(partition.keyspace);
    for (partition, position) in positions {
        if partition.keyspace != token.keyspace() {
            return Err(unreadable("positions of several keyspaces"));
        }
        token.set(partition, position);
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use domicile_proto::{Bucket, Epoch, KeyspaceId, NodeId, RegionId, Seq};

    fn partition(keyspace: u32, bucket: u16) -> PartitionId {
        PartitionId {
            keyspace: KeyspaceId::new(keyspace),
            region: RegionId::new(3).unwrap(),
            bucket: Bucket::new(bucket),
        }
    }

    fn at(seq: u64) -> Option<Position> {
        let node = NodeId::new(5).unwrap();
        let epoch = Epoch { counter: 1, node };
        let seq = Seq::new(seq);
        Some(Position { epoch, seq })
    }

    #[test]
    fn where_a_watch_begins_survives_the_wire() {
        let told = |positions: &[(PartitionId, Option<Position>)]| v1::WatchResponse {
            changes: Vec::new(),
            positions: positions.iter().copied().map(to_wire).collect(),
        };
        let begins = [(partition(7, 0), at(9)), (partition(7, 1), None)];
        let token = token_of(&told(&begins)).unwrap();
        assert!(token.iter().eq(begins));
        assert!(token_of(&told(&[])).is_err());
        let mixed = [(partition(7, 0), at(9)), (partition(8, 0), None)];
        assert!(token_of(&told(&mixed)).is_err());
    }

    #[test]
    fn a_change_is_read_or_refused() {
        let wire = v1::Change {
            position: Some(to_wire((partition(7, 0), at(9)))),
            version: "0.1.5.9".to_owned(),
            written_at_ms: 1,
            written_at_hlc: Hlc::at_ms(1).bits(),
            keys: vec![
                v1::ChangedKey {
                    key: "a".into(),
                    value: Some("".into()),
                    expires_at_ms: 5,
                },
                v1::ChangedKey {
                    key: "b".into(),
                    value: None,
                    expires_at_ms: 0,
                },
            ],
        };
        let change = Change::from_wire(wire.clone()).unwrap();
        assert_eq!(Some(change.position), at(9));
        let put = Operation::Put {
            key: "a".into(),
            value: Bytes::new(),
            expiry: Some(Expiry::AtMs(5)),
        };
        let delete = Operation::Delete { key: "b".into() };
        assert_eq!(change.operations, [put, delete]);
        let nowhere = v1::Change {
            position: None,
            ..wire.clone()
        };
        assert!(Change::from_wire(nowhere).is_err());
        let unversioned = v1::Change {
            version: String::new(),
            ..wire
        };
        assert!(Change::from_wire(unversioned).is_err());
    }
}
