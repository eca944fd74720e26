//! A keyspace to work with: calls as builders that are awaited.
//!
//! **Owns**: the embedded API's shape.
//! **Does not own**: the calls' execution.

use std::future::IntoFuture;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domicile_proto::{AckLevel, Expiry, Keyspace, Operation, Reason, RequestId, Version};
use futures::Stream;

use super::embedded::Node;
use super::watch::Watch;
use crate::buffer::{Unapplied, Written};
use crate::call::{
    Consistency, Direction, Entry, Expected, Forwarding, Precondition, ReadCall, ScanCall,
    WriteCall,
};
use crate::error::Error;
use crate::receipt::Receipt;

type Future<T> = Pin<Box<dyn std::future::Future<Output = Result<T, Error>> + Send>>;

/// Rows that a scan reads ahead.
const SCAN_PAGE_ROWS: usize = 1000;

/// One keyspace of a node. Cheap to clone.
#[derive(Clone)]
pub struct KeyspaceHandle {
    node: Node,
    keyspace: Arc<Keyspace>,
}

impl KeyspaceHandle {
    pub(super) fn new(node: Node, keyspace: Arc<Keyspace>) -> Self {
        Self { node, keyspace }
    }

    /// Its policy.
    #[must_use]
    pub fn policy(&self) -> &Arc<Keyspace> {
        &self.keyspace
    }

    /// Sets a key.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Write {
        let key = Bytes::copy_from_slice(key.as_ref());
        self.batch([Operation::Put {
            key,
            value: value.into(),
            expiry: None,
        }])
    }

    /// Removes a key.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Write {
        self.batch([Operation::Delete {
            key: Bytes::copy_from_slice(key.as_ref()),
        }])
    }

    /// Applies operations of one group, all or none.
    pub fn batch(&self, operations: impl IntoIterator<Item = Operation>) -> Write {
        let operations = operations.into_iter().collect();
        let call = WriteCall::new(Arc::clone(&self.keyspace), operations);
        Write {
            node: self.node.clone(),
            call,
        }
    }

    /// Reads a key.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Read {
        let call = ReadCall {
            keyspace: Arc::clone(&self.keyspace),
            key: Bytes::copy_from_slice(key.as_ref()),
            consistency: Consistency::Home,
            timeout: None,
            forwarding: Forwarding::Allowed,
        };
        Read {
            node: self.node.clone(),
            call,
        }
    }

    /// Reads all keys that start with `prefix`, in order.
    pub fn scan(&self, prefix: impl AsRef<[u8]>) -> Scan {
        let call = ScanCall {
            keyspace: Arc::clone(&self.keyspace),
            from: Bytes::new(),
            upto: Bytes::new(),
            prefix: Bytes::copy_from_slice(prefix.as_ref()),
            direction: Direction::Forward,
            limit: SCAN_PAGE_ROWS,
            resume_after: None,
            consistency: Consistency::Home,
            timeout: None,
            forwarding: Forwarding::Allowed,
        };
        Scan {
            node: self.node.clone(),
            call,
            rows_left: usize::MAX,
        }
    }

    /// Watches all keys; the builder narrows it. History is not kept for watches: how far back one
    /// may begin is how much journal the node has.
    pub fn watch(&self) -> Watch {
        Watch::new(self.node.clone(), Arc::clone(&self.keyspace))
    }
}

/// A write being described; await it to do it.
#[must_use = "a write does nothing until awaited"]
pub struct Write {
    node: Node,
    call: WriteCall,
}

impl Write {
    /// Asks for a level stronger than the keyspace's.
    pub fn ack(mut self, level: AckLevel) -> Self {
        self.call.level = Some(level);
        self
    }

    /// The values it sets end this long after their home has sequenced them: 1 ms to 10 years. They
    /// are removed within about a second after, never before.
    pub fn ttl(self, ttl: Duration) -> Self {
        self.expiry(Expiry::after(ttl))
    }

    /// When the values it sets end. Without, they stay, whatever an earlier write of the keys said.
    pub fn expiry(mut self, expiry: Expiry) -> Self {
        for operation in &mut self.call.operations {
            if let Operation::Put { expiry: set, .. } = operation {
                *set = Some(expiry);
            }
        }
        self
    }

    /// Only if the (first) key's value has this version.
    pub fn if_version(self, version: Version) -> Self {
        self.expect(Expected::Version(version))
    }

    /// Only if the (first) key has no value.
    pub fn if_absent(self) -> Self {
        self.expect(Expected::Absent)
    }

    fn expect(mut self, expected: Expected) -> Self {
        if let Some(first) = self.call.operations.first() {
            let key = first.key().clone();
            self.call.preconditions.push(Precondition { key, expected });
        }
        self
    }

    /// Done at most once under this id, however often it is sent.
    pub fn request_id(mut self, id: RequestId) -> Self {
        self.call.request_id = Some(id);
        self
    }

    /// How long to wait for the level; 30 s by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.call.timeout = Some(timeout);
        self
    }

    /// Refuses with `WRONG_HOME` instead of forwarding.
    pub fn local_only(mut self) -> Self {
        self.call.forwarding = Forwarding::LocalOnly;
        self
    }

    /// Keeps it here if its home cannot be reached, where the keyspace's failover is `buffer`.
    pub fn or_kept(mut self) -> KeptWrite {
        self.call.unapplied = Unapplied::Kept;
        KeptWrite(self)
    }
}

impl IntoFuture for Write {
    type Output = Result<Receipt, Error>;
    type IntoFuture = Future<Receipt>;

    fn into_future(self) -> Self::IntoFuture {
        let writing = self.node.write(self.call);
        Box::pin(async move { writing.await?.applied() })
    }
}

/// A write that may be kept for its home instead of being done; await it to do it.
#[must_use = "a write does nothing until awaited"]
pub struct KeptWrite(Write);

impl IntoFuture for KeptWrite {
    type Output = Result<Written, Error>;
    type IntoFuture = Future<Written>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.0.node.write(self.0.call))
    }
}

/// A read being described; await it to do it.
#[must_use = "a read does nothing until awaited"]
pub struct Read {
    node: Node,
    call: ReadCall,
}

impl Read {
    /// How fresh it must be; linearizable by default.
    pub fn consistency(mut self, consistency: Consistency) -> Self {
        self.call.consistency = consistency;
        self
    }

    /// How long to wait; 30 s by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.call.timeout = Some(timeout);
        self
    }

    /// Refuses with `WRONG_HOME` instead of forwarding.
    pub fn local_only(mut self) -> Self {
        self.call.forwarding = Forwarding::LocalOnly;
        self
    }
}

impl IntoFuture for Read {
    type Output = Result<Option<Entry>, Error>;
    type IntoFuture = Future<Option<Entry>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { Ok(self.node.read(self.call).await?.entry) })
    }
}

/// A scan being described; [`Scan::rows`] streams it, [`Scan::collect`] gathers it.
#[must_use = "a scan does nothing until its rows are asked for"]
pub struct Scan {
    node: Node,
    call: ScanCall,
    rows_left: usize,
}

impl Scan {
    /// At most this many rows.
    pub fn limit(mut self, rows: usize) -> Self {
        self.rows_left = rows;
        self
    }

    /// From the last key to the first.
    pub fn reverse(mut self) -> Self {
        self.call.direction = Direction::Backward;
        self
    }

    /// From this key on (inclusive).
    pub fn from(mut self, key: impl AsRef<[u8]>) -> Self {
        self.call.from = Bytes::copy_from_slice(key.as_ref());
        self
    }

    /// Before this key (exclusive).
    pub fn upto(mut self, key: impl AsRef<[u8]>) -> Self {
        self.call.upto = Bytes::copy_from_slice(key.as_ref());
        self
    }

    /// How fresh it must be; linearizable by default.
    pub fn consistency(mut self, consistency: Consistency) -> Self {
        self.call.consistency = consistency;
        self
    }

    /// The rows, page by page.
    pub fn rows(self) -> impl Stream<Item = Result<Entry, Error>> + Send {
        let pages = futures::stream::try_unfold(Some(self), |scan| async move {
            let Some(mut scan) = scan else {
                return Ok(None);
            };
            if scan.rows_left == 0 {
                return Ok(None);
            }
            scan.call.limit = scan.rows_left.min(SCAN_PAGE_ROWS);
            let page = scan.node.scan(scan.call.clone()).await?;
            scan.rows_left -= page.entries.len().min(scan.rows_left);
            let entries = futures::stream::iter(page.entries.into_iter().map(Ok));
            let rest = page.resume_after.map(|after| {
                scan.call.resume_after = Some(after);
                scan
            });
            Ok::<_, Error>(Some((entries, rest)))
        });
        futures::TryStreamExt::try_flatten(pages)
    }

    /// All rows at once.
    ///
    /// # Errors
    /// As [`Node::scan`].
    pub async fn collect(self) -> Result<Vec<Entry>, Error> {
        if self.rows_left == 0 {
            let message = "scan limit 0: at least 1";
            return Err(Error::new(Reason::InvalidArgument, message));
        }
        futures::TryStreamExt::try_collect(self.rows()).await
    }
}
