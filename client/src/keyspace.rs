//! The handle of a keyspace.
//!
//! **Owns**: its name, its session, the entry points to the builders.
//! **Does not own**: what the builders send (`write`, `read`).

use std::sync::Arc;

use bytes::Bytes;
use domicile_proto::{RequestId, Version, v1};

use crate::call::call;
use crate::connection::Client;
use crate::error::ClientError;
use crate::read::{Get, Scan};
use crate::receipt::Written;
use crate::session::{Session, SessionMark};
use crate::watch::Watch;
use crate::write::{Batch, Write};

/// A keyspace of a cluster. Clones share the connection and the session.
#[derive(Debug, Clone)]
pub struct KeyspaceClient {
    client: Client,
    name: Arc<str>,
    session: Option<Session>,
}

impl KeyspaceClient {
    pub(crate) fn new(client: Client, name: String) -> Self {
        Self {
            client,
            name: name.into(),
            session: None,
        }
    }

    /// A handle with a session of its own: its reads see its writes and never go back.
    #[must_use]
    pub fn session(&self) -> Self {
        self.with_session(Session::new())
    }

    /// A handle that takes part in `session`.
    #[must_use]
    pub fn with_session(&self, session: Session) -> Self {
        Self {
            session: Some(session),
            ..self.clone()
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sets a key.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Write {
        Write::new(self.clone(), owned(key), Some(value.into()))
    }

    /// Removes a key.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Write {
        Write::new(self.clone(), owned(key), None)
    }

    /// Sets a key (or removes it: `None`) if its version is `expected` (`None`: if it is absent).
    pub fn compare_and_set(
        &self,
        key: impl AsRef<[u8]>,
        expected: Option<Version>,
        value: Option<Bytes>,
    ) -> Write {
        let write = Write::new(self.clone(), owned(key), value);
        match expected {
            Some(version) => write.if_version(version),
            None => write.if_absent(),
        }
    }

    /// Several operations of one group, all or none.
    pub fn batch(&self) -> Batch {
        Batch::new(self.clone())
    }

    /// Reads a key.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Get {
        Get::new(self.clone(), owned(key))
    }

    /// Reads the keys that start with `prefix` (all, if it is empty), in key order.
    pub fn scan(&self, prefix: impl AsRef<[u8]>) -> Scan {
        Scan::new(self.clone(), owned(prefix))
    }

    /// Watches all keys; the builder narrows it. History is not kept for watches: how far back one
    /// may begin is how much journal the answering node has.
    pub fn watch(&self) -> Watch {
        Watch::new(self.clone())
    }

    /// What became of a write: its receipt as of now; that the node that is asked keeps it; or
    /// `None` if it is neither kept there nor among those that the key's home remembers.
    ///
    /// # Errors
    /// No answer, or the keyspace does not exist.
    pub async fn outcome(
        &self,
        key: impl AsRef<[u8]>,
        request_id: RequestId,
    ) -> Result<Option<Written>, ClientError> {
        let request = v1::OutcomeRequest {
            keyspace: self.name.to_string(),
            key: owned(key),
            request_id: id_bytes(request_id),
        };
        let answer = call(&self.client, request, None).await?;
        answer.receipt.map(Written::from_wire).transpose()
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// The session's marks; none without a session.
    pub(crate) fn marks(&self) -> Option<Vec<SessionMark>> {
        self.session.as_ref().map(Session::marks)
    }

    pub(crate) fn observe(&self, marks: &[SessionMark]) {
        if let Some(session) = &self.session {
            marks.iter().for_each(|mark| session.observe(*mark));
        }
    }
}

pub(crate) fn id_bytes(request_id: RequestId) -> Bytes {
    Bytes::copy_from_slice(&request_id.get().to_be_bytes())
}

fn owned(bytes: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(bytes.as_ref())
}
