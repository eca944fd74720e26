//! Pipelined writes: many outstanding on one stream, results in order of completion.
//!
//! **Owns**: the window of outstanding writes and the bound on bytes that wait to be sent.
//! **Does not own**: sending anything twice (the caller has the request ids).
//!
//! ```text
//! send() -> [window: writes] -> [queue: bytes] -> h2 ==> server ==> h2 -> next() frees the window
//! ```

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use domicile_proto::{AckLevel, Expiry, RequestId, v1};
use futures::Stream;
use tokio::sync::{Semaphore, mpsc};
use tonic::Streaming;
use tonic::transport::Channel;

use crate::call::kv;
use crate::error::ClientError;
use crate::keyspace::id_bytes;
use crate::receipt::Receipt;
use crate::request_id::next_request_id;
use crate::write::lifetime;

/// Most unanswered writes on a stream: what the server admits. More would only wait in its socket.
const OUTSTANDING_MAX: usize = 8192;

/// Bytes of writes that wait for the connection: a second of a 64 Mbit/s link. Doubled, a stalled
/// server costs twice the memory.
const QUEUED_BYTES_MAX: usize = 8 << 20;

/// One write for a stream.
#[derive(Debug, Clone)]
pub struct StreamWrite {
    wire: v1::WriteRequest,
}

impl StreamWrite {
    /// An empty write; `tag` comes back with its result.
    #[must_use]
    pub fn new(tag: u64, keyspace: impl Into<String>) -> Self {
        let wire = v1::WriteRequest {
            tag,
            keyspace: keyspace.into(),
            operations: Vec::with_capacity(1),
            options: Some(v1::WriteOptions::default()),
        };
        Self { wire }
    }

    /// Sets a key. Several operations are done all or none; their keys share a group.
    #[must_use]
    pub fn put(mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        let (key, value) = (key.into(), Some(value.into()));
        self.wire.operations.push(v1::Operation {
            key,
            value,
            ..v1::Operation::default()
        });
        self
    }

    /// The value of the put before this ends this long after its home has sequenced it: 1 ms to 10
    /// years. The server refuses it of a removed key.
    #[must_use]
    pub fn ttl(self, ttl: Duration) -> Self {
        self.expiry(Expiry::after(ttl))
    }

    /// When the value of the put before this ends.
    #[must_use]
    pub fn expiry(mut self, expiry: Expiry) -> Self {
        if let Some(operation) = self.wire.operations.last_mut() {
            (operation.ttl_ms, operation.expires_at_ms) = lifetime(Some(expiry));
        }
        self
    }

    /// Removes a key.
    #[must_use]
    pub fn delete(mut self, key: impl Into<Bytes>) -> Self {
        let key = key.into();
        self.wire.operations.push(v1::Operation {
            key,
            ..v1::Operation::default()
        });
        self
    }

    /// Asks for a stronger level than the keyspace's.
    #[must_use]
    pub fn ack(mut self, level: AckLevel) -> Self {
        self.options().ack = level.to_string();
        self
    }

    /// The id under which it is done at most once, instead of a new one.
    #[must_use]
    pub fn request_id(mut self, id: RequestId) -> Self {
        self.options().request_id = id_bytes(id);
        self
    }

    /// Its tag.
    #[must_use]
    pub fn tag(&self) -> u64 {
        self.wire.tag
    }

    fn options(&mut self) -> &mut v1::WriteOptions {
        let options = self.wire.options.get_or_insert_default();
        // A result of a stream is a receipt or an error.
        options.applied_only = true;
        options
    }

    fn bytes(&self) -> usize {
        let sizes =
            self.wire.operations.iter().map(|operation| {
                operation.key.len() + operation.value.as_ref().map_or(0, Bytes::len)
            });
        sizes.sum()
    }
}

/// The result of one write of a stream.
#[derive(Debug)]
pub struct Completed {
    /// The tag that the write was sent with.
    pub tag: u64,
    /// What it was told.
    pub result: Result<Receipt, ClientError>,
}

#[derive(Debug)]
struct Bounds {
    window: Semaphore,
    queue: Semaphore,
}

/// The sending half; clones share the window. Dropping all of them ends the stream once every
/// write is answered.
#[derive(Debug, Clone)]
pub struct WriteSender {
    queue: mpsc::UnboundedSender<(StreamWrite, u32)>,
    bounds: Arc<Bounds>,
}

impl WriteSender {
    /// Sends a write, waiting while the window is full.
    ///
    /// # Errors
    /// The stream has ended; [`WriteReceiver::next`] says why. The write was not sent.
    pub async fn send(&self, mut write: StreamWrite) -> Result<(), ClientError> {
        // A write larger than the queue takes all of it.
        let bytes = u32::try_from(write.bytes().min(QUEUED_BYTES_MAX)).unwrap_or(u32::MAX);
        if write.options().request_id.is_empty() {
            write.options().request_id = id_bytes(next_request_id());
        }
        let closed = |_| ClientError::ended();
        self.bounds.window.acquire().await.map_err(closed)?.forget();
        self.bounds
            .queue
            .acquire_many(bytes)
            .await
            .map_err(closed)?
            .forget();
        let sent = self.queue.send((write, bytes));
        sent.map_err(|_| ClientError::ended())
    }

    /// Writes that may be sent without waiting.
    #[must_use]
    pub fn room(&self) -> usize {
        self.bounds.window.available_permits()
    }
}

/// The receiving half.
#[derive(Debug)]
pub struct WriteReceiver {
    results: Streaming<v1::WriteResult>,
    bounds: Arc<Bounds>,
}

impl WriteReceiver {
    /// The next result, in order of completion; `None` once all senders are dropped and every
    /// write is answered.
    ///
    /// # Errors
    /// The stream broke: what is outstanding may or may not have been done.
    pub async fn next(&mut self) -> Result<Option<Completed>, ClientError> {
        match self.results.message().await {
            Ok(Some(wire)) => {
                self.bounds.window.add_permits(1);
                Ok(Some(completed(wire)))
            }
            Ok(None) => {
                self.close();
                Ok(None)
            }
            Err(status) => {
                self.close();
                Err(ClientError::from_status(status))
            }
        }
    }

    /// Wakes the senders that wait for room which will never come.
    fn close(&self) {
        self.bounds.window.close();
        self.bounds.queue.close();
    }
}

impl Drop for WriteReceiver {
    fn drop(&mut self) {
        self.close();
    }
}

fn completed(wire: v1::WriteResult) -> Completed {
    let result = match wire.result {
        Some(v1::write_result::Result::Receipt(receipt)) => Receipt::from_wire(receipt),
        Some(v1::write_result::Result::Error(error)) => Err(ClientError::from_result(error)),
        None => Err(ClientError::unreadable(
            "result",
            "neither receipt nor error",
        )),
    };
    Completed {
        tag: wire.tag,
        result,
    }
}

/// What tonic pulls requests from: as many as are there go into one frame.
struct Outgoing {
    queue: mpsc::UnboundedReceiver<(StreamWrite, u32)>,
    bounds: Arc<Bounds>,
}

impl Stream for Outgoing {
    type Item = v1::WriteRequest;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = std::task::ready!(self.queue.poll_recv(context));
        Poll::Ready(next.map(|(write, bytes)| {
            self.bounds.queue.add_permits(bytes as usize);
            write.wire
        }))
    }
}

pub(crate) async fn open(
    channel: Channel,
    outstanding_max: usize,
) -> Result<(WriteSender, WriteReceiver), ClientError> {
    let bounds = Arc::new(Bounds {
        window: Semaphore::new(outstanding_max.clamp(1, OUTSTANDING_MAX)),
        queue: Semaphore::new(QUEUED_BYTES_MAX),
    });
    let (sender, queue) = mpsc::unbounded_channel();
    let outgoing = Outgoing {
        queue,
        bounds: Arc::clone(&bounds),
    };
    let opened = kv(channel)
        .write(outgoing)
        .await
        .map_err(ClientError::from_status)?;
    let receiver = WriteReceiver {
        results: opened.into_inner(),
        bounds: Arc::clone(&bounds),
    };
    Ok((
        WriteSender {
            queue: sender,
            bounds,
        },
        receiver,
    ))
}
