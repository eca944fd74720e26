//! Put, delete, compare-and-set and batch as builders that are awaited.
//!
//! **Owns**: what a write may say beside its operations, and which method carries it.
//! **Does not own**: repeating it (`call`), pipelining (`stream`).

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use domicile_proto::{AckLevel, Expiry, RequestId, Version, v1};

use crate::call::call;
use crate::error::ClientError;
use crate::keyspace::{KeyspaceClient, id_bytes};
use crate::receipt::{Receipt, Written};
use crate::request_id::next_request_id;

type Pending<T> = Pin<Box<dyn Future<Output = Result<T, ClientError>> + Send>>;

/// What every write may say beside its operations.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wishes {
    level: Option<AckLevel>,
    request_id: Option<RequestId>,
    local_only: bool,
    may_be_kept: bool,
    timeout: Option<Duration>,
}

impl Wishes {
    pub(crate) fn to_wire(&self) -> v1::WriteOptions {
        v1::WriteOptions {
            ack: self
                .level
                .map_or_else(String::new, |level| level.to_string()),
            request_id: id_bytes(self.request_id.unwrap_or_else(next_request_id)),
            local_only: self.local_only,
            applied_only: !self.may_be_kept,
        }
    }
}

macro_rules! wishes {
    ($builder:ty) => {
        impl $builder {
            /// Asks for a stronger level than the keyspace's.
            pub fn ack(mut self, level: AckLevel) -> Self {
                self.wishes.level = Some(level);
                self
            }

            /// The id under which it is done at most once; without, a new one is made.
            pub fn request_id(mut self, id: RequestId) -> Self {
                self.wishes.request_id = Some(id);
                self
            }

            /// Its deadline, over all attempts.
            pub fn timeout(mut self, timeout: Duration) -> Self {
                self.wishes.timeout = Some(timeout);
                self
            }

            /// Refuse with WRONG_HOME instead of forwarding it to the key's home.
            pub fn local_only(mut self) -> Self {
                self.wishes.local_only = true;
                self
            }

            /// Where the keyspace's failover is `buffer` and the home cannot be reached, let the
            /// node keep it until it can. Await that to hear which it was.
            pub fn or_kept(mut self) -> OrKept<Self> {
                self.wishes.may_be_kept = true;
                OrKept(self)
            }
        }

        impl IntoFuture for OrKept<$builder> {
            type Output = Result<Written, ClientError>;
            type IntoFuture = Pending<Written>;

            fn into_future(self) -> Self::IntoFuture {
                Box::pin(self.0.send_or_keep())
            }
        }

        impl IntoFuture for $builder {
            type Output = Result<Receipt, ClientError>;
            type IntoFuture = Pending<Receipt>;

            fn into_future(self) -> Self::IntoFuture {
                Box::pin(self.send())
            }
        }
    };
}

/// A write that may be kept for its home instead of being done; await it.
#[derive(Debug, Clone)]
#[must_use = "a write is sent when awaited"]
pub struct OrKept<W>(W);

/// What must hold of a key before it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    Version(Version),
    Absent,
}

/// A write of one key; await it.
#[derive(Debug, Clone)]
#[must_use = "a write is sent when awaited"]
pub struct Write {
    keyspace: KeyspaceClient,
    key: Bytes,
    value: Option<Bytes>,
    condition: Option<Condition>,
    expiry: Option<Expiry>,
    wishes: Wishes,
}

wishes!(Write);

impl Write {
    pub(crate) fn new(keyspace: KeyspaceClient, key: Bytes, value: Option<Bytes>) -> Self {
        Self {
            keyspace,
            key,
            value,
            condition: None,
            expiry: None,
            wishes: Wishes::default(),
        }
    }

    /// The value ends this long after its home has sequenced it: 1 ms to 10 years. It is removed
    /// within about a second after, never before. Says nothing of a delete.
    pub fn ttl(self, ttl: Duration) -> Self {
        self.expiry(Expiry::after(ttl))
    }

    /// When the value ends. Without, it stays, whatever an earlier write of the key said.
    pub fn expiry(mut self, expiry: Expiry) -> Self {
        self.expiry = Some(expiry);
        self
    }

    /// Only if the key has this version.
    pub fn if_version(mut self, version: Version) -> Self {
        self.condition = Some(Condition::Version(version));
        self
    }

    /// Only if the key is absent.
    pub fn if_absent(mut self) -> Self {
        self.condition = Some(Condition::Absent);
        self
    }

    /// Sends it and waits for its receipt; the same as awaiting it, without a box.
    ///
    /// # Errors
    /// What the server answers; INDETERMINATE if it was sent and no answer came.
    pub async fn send(self) -> Result<Receipt, ClientError> {
        self.send_or_keep().await?.applied()
    }

    async fn send_or_keep(self) -> Result<Written, ClientError> {
        let Self {
            keyspace,
            key,
            value,
            condition,
            expiry,
            wishes,
        } = self;
        let (ttl_ms, expires_at_ms) = lifetime(expiry.filter(|_| value.is_some()));
        let (client, timeout) = (keyspace.client(), wishes.timeout);
        let options = Some(wishes.to_wire());
        let name = keyspace.name().to_owned();
        let answer = match (condition, value) {
            (None, Some(value)) => {
                let request = v1::PutRequest {
                    keyspace: name,
                    key,
                    value,
                    options,
                    ttl_ms,
                    expires_at_ms,
                };
                call(client, request, timeout).await?
            }
            (None, None) => {
                let request = v1::DeleteRequest {
                    keyspace: name,
                    key,
                    options,
                };
                call(client, request, timeout).await?
            }
            (Some(condition), value) => {
                let expected_version = match condition {
                    Condition::Version(version) => version.to_string(),
                    Condition::Absent => String::new(),
                };
                let request = v1::CompareAndSetRequest {
                    keyspace: name,
                    key,
                    value,
                    expected_version,
                    options,
                    ttl_ms,
                    expires_at_ms,
                };
                call(client, request, timeout).await?
            }
        };
        written(&keyspace, answer)
    }
}

/// Several operations of one group, all or none; await it.
#[derive(Debug, Clone)]
#[must_use = "a batch is sent when awaited"]
pub struct Batch {
    keyspace: KeyspaceClient,
    operations: Vec<v1::Operation>,
    wishes: Wishes,
}

wishes!(Batch);

impl Batch {
    pub(crate) fn new(keyspace: KeyspaceClient) -> Self {
        Self {
            keyspace,
            operations: Vec::new(),
            wishes: Wishes::default(),
        }
    }

    /// Sets a key.
    pub fn put(self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Self {
        self.operation(key, Some(value.into()), None)
    }

    /// The value of the put before this ends this long after its home has sequenced it: 1 ms to 10
    /// years. The server refuses it of a removed key.
    pub fn ttl(self, ttl: Duration) -> Self {
        self.expiry(Expiry::after(ttl))
    }

    /// When the value of the put before this ends.
    pub fn expiry(mut self, expiry: Expiry) -> Self {
        if let Some(operation) = self.operations.last_mut() {
            (operation.ttl_ms, operation.expires_at_ms) = lifetime(Some(expiry));
        }
        self
    }

    /// Removes a key.
    pub fn delete(self, key: impl AsRef<[u8]>) -> Self {
        self.operation(key, None, None)
    }

    /// Sets a key (or removes it: `None`) if its version is `expected` (`None`: if it is absent).
    pub fn compare_and_set(
        self,
        key: impl AsRef<[u8]>,
        expected: Option<Version>,
        value: Option<Bytes>,
    ) -> Self {
        let condition = expected.map_or(v1::operation::Condition::IfAbsent(true), |version| {
            v1::operation::Condition::IfVersion(version.to_string())
        });
        self.operation(key, value, Some(condition))
    }

    /// Sends it and waits for its receipt; the same as awaiting it, without a box.
    ///
    /// # Errors
    /// What the server answers; INDETERMINATE if it was sent and no answer came.
    pub async fn send(self) -> Result<Receipt, ClientError> {
        self.send_or_keep().await?.applied()
    }

    async fn send_or_keep(self) -> Result<Written, ClientError> {
        let request = v1::BatchRequest {
            keyspace: self.keyspace.name().to_owned(),
            operations: self.operations,
            options: Some(self.wishes.to_wire()),
        };
        let answer = call(self.keyspace.client(), request, self.wishes.timeout).await?;
        written(&self.keyspace, answer)
    }

    fn operation(
        mut self,
        key: impl AsRef<[u8]>,
        value: Option<Bytes>,
        condition: Option<v1::operation::Condition>,
    ) -> Self {
        let key = Bytes::copy_from_slice(key.as_ref());
        self.operations.push(v1::Operation {
            key,
            value,
            condition,
            ..v1::Operation::default()
        });
        self
    }
}

/// What a write was told; a session has seen what was applied.
fn written(keyspace: &KeyspaceClient, answer: v1::WriteResponse) -> Result<Written, ClientError> {
    let written = Written::from_wire(answer)?;
    if let Written::Applied(receipt) = &written {
        keyspace.observe(&[receipt.mark()]);
    }
    Ok(written)
}

/// The fields `ttl_ms` and `expires_at_ms` of a message.
pub(crate) fn lifetime(expiry: Option<Expiry>) -> (Option<u64>, Option<u64>) {
    match expiry {
        None => (None, None),
        Some(Expiry::AfterMs(ttl_ms)) => (Some(ttl_ms), None),
        Some(Expiry::AtMs(at_ms)) => (None, Some(at_ms)),
    }
}
