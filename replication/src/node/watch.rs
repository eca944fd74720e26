//! The watch of a keyspace being described.
//!
//! **Owns**: its builder.
//! **Does not own**: the watch (`watching`).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domicile_proto::Keyspace;

use super::embedded::Node;
use crate::error::Error;
use crate::watching::{Changes, WatchCall, WatchFrom, WatchKeys};

/// A watch being described; [`Watch::start`] begins it.
#[must_use = "a watch does nothing until started"]
pub struct Watch {
    node: Node,
    call: WatchCall,
}

impl Watch {
    pub(super) fn new(node: Node, keyspace: Arc<Keyspace>) -> Self {
        let call = WatchCall::new(keyspace);
        Self { node, call }
    }

    /// Only keys that start with this. One that holds a whole group (with the delimiter after it)
    /// is woken by that group's partition only.
    pub fn prefix(mut self, prefix: impl AsRef<[u8]>) -> Self {
        self.call.keys = WatchKeys::Prefix(Bytes::copy_from_slice(prefix.as_ref()));
        self
    }

    /// Only this key.
    pub fn key(mut self, key: impl AsRef<[u8]>) -> Self {
        self.call.keys = WatchKeys::Key(Bytes::copy_from_slice(key.as_ref()));
        self
    }

    /// Where it begins; with what becomes visible from now on if this is not said.
    pub fn from(mut self, from: WatchFrom) -> Self {
        self.call.from = from;
        self
    }

    /// How long a full buffer may go untaken before the watch is cut off; 10 s by default.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.call.patience = patience;
        self
    }

    /// Begins it. Everything that becomes visible after this call is told. Must be called within a
    /// tokio runtime.
    ///
    /// # Errors
    /// As [`Node::watch`].
    pub fn start(self) -> Result<Changes, Error> {
        Ok(Changes::new(self.node.watch(self.call)?))
    }
}
