//! What an operator does with the writes that are kept here: look, and give up.
//!
//! **Owns**: pages, who may be given up.
//! **Does not own**: how that is asked and shown (server), the file (storage).

use std::sync::Arc;

use domicile_proto::{KeyspaceId, Operation, Reason, RequestId};
use domicile_storage::{BufferEvent, BufferNumber, BufferedWrite};

use super::call::BufferPage;
use crate::error::Error;
use crate::node::NodeCore;
use crate::ownership::blocking;

impl NodeCore {
    /// Writes that are kept here, behind `after`, of one keyspace or of all.
    pub(crate) fn buffered(
        &self,
        keyspace: Option<KeyspaceId>,
        after: BufferNumber,
        limit: usize,
    ) -> BufferPage {
        let standing = self.buffer.standing();
        let writes = standing.from(after.next());
        let meant = |write: &&BufferedWrite| {
            keyspace.is_none_or(|keyspace| write.partition.keyspace == keyspace)
        };
        let mut writes: Vec<_> = writes.filter(meant).take(limit + 1).cloned().collect();
        let is_cut = writes.len() > limit;
        writes.truncate(limit);
        BufferPage {
            writes,
            is_cut,
            damaged: self.buffer.damaged(),
        }
    }

    /// One of them, with what it does.
    pub(crate) async fn buffered_operations(
        self: &Arc<Self>,
        number: BufferNumber,
    ) -> Result<(BufferedWrite, Vec<Operation>), Error> {
        let write = self.buffer.standing().of_number(number).cloned();
        let write = write.ok_or_else(|| no_such(number))?;
        let reading = Arc::clone(self);
        let bodies = blocking(move || Ok(reading.buffer.bodies(&[number]))).await?;
        let body = bodies.into_iter().next().transpose()?.flatten();
        let body = body.ok_or_else(|| no_such(number))?;
        Ok((write, body.operations()?))
    }

    /// A write that is kept here under this id.
    pub(crate) fn buffered_of(
        &self,
        keyspace: KeyspaceId,
        request_id: RequestId,
    ) -> Option<BufferedWrite> {
        let found = self.buffer.of_id(request_id);
        found.filter(|write| write.partition.keyspace == keyspace)
    }

    /// Gives some of them up. One that is on its way to its home may be done nevertheless.
    pub(crate) async fn discard_buffered(
        &self,
        (first, last): (BufferNumber, BufferNumber),
        refused_only: bool,
    ) -> Result<u64, Error> {
        let given_up: Vec<BufferEvent> = {
            let standing = self.buffer.standing();
            let writes = standing
                .from(first)
                .take_while(|write| write.number <= last);
            let writes = writes.filter(|write| write.refused.is_some() || !refused_only);
            writes
                .map(|write| BufferEvent::Settled(write.number))
                .collect()
        };
        if given_up.is_empty() {
            return Err(no_such(first));
        }
        let count = given_up.len() as u64;
        for events in given_up.chunks(EVENTS_MAX) {
            self.buffer.tell(events.to_vec()).await?;
        }
        Ok(count)
    }
}

/// Writes given up with one sync: 9 bytes each.
const EVENTS_MAX: usize = 65_536;

fn no_such(number: BufferNumber) -> Error {
    let message = format!("no write of number {} is kept here", number.get());
    Error::new(Reason::BufferedNotFound, message)
}
