//! Writes that are kept for their homes, as messages.
//!
//! **Owns**: what a call about them may ask for, the fields of the answers, that lists have no
//! values.
//! **Does not own**: keeping and sending (the node).

use bytes::Bytes;
use domicile_proto::{Expiry, Operation, Reason, v1};
use domicile_replication::{BufferNumber, BufferedWrite, Error, Node};

/// Rows of a page that sets no limit.
const ROWS_DEFAULT: usize = 1000;

/// Most of them: with the longest reasons they still fit a message once. Doubled, they may not.
const ROWS_MAX: usize = 5000;

fn invalid(field: &str, message: impl Into<String>) -> Error {
    Error::new(Reason::InvalidArgument, message).with("field", field)
}

/// A page of what is kept.
pub(super) fn list(
    node: &Node,
    request: &v1::ListBufferedRequest,
) -> Result<v1::ListBufferedResponse, Error> {
    let limit = match request.limit as usize {
        0 => ROWS_DEFAULT,
        rows if rows <= ROWS_MAX => rows,
        rows => {
            return Err(invalid(
                "limit",
                format!("page of {rows} rows, limit {ROWS_MAX}"),
            ));
        }
    };
    let keyspace = match request.keyspace.as_str() {
        "" => None,
        name => Some(node.policy(name)?),
    };
    let after = BufferNumber::new(request.after.min(u64::MAX - 1));
    let page = node.buffered(keyspace.as_deref(), after, limit);
    Ok(v1::ListBufferedResponse {
        region: node.region().to_string(),
        node: node.node_id().get(),
        writes: page.writes.iter().map(|write| row(node, write)).collect(),
        more: page.is_cut,
        damaged: page.damaged,
    })
}

fn row(node: &Node, write: &BufferedWrite) -> v1::BufferedWrite {
    let keyspaces = node.keyspaces();
    let mut keyspaces = keyspaces.iter();
    let keyspace = keyspaces.find(|keyspace| keyspace.id() == write.partition.keyspace);
    let refused = write.refused.clone();
    let (reason, message) = refused.map_or_else(Default::default, |it| (it.reason, it.message));
    v1::BufferedWrite {
        number: write.number.get(),
        keyspace: keyspace.map_or(String::new(), |keyspace| keyspace.name.to_string()),
        partition: Bytes::copy_from_slice(&write.partition.to_bytes()),
        request_id: Bytes::copy_from_slice(&write.request_id.get().to_be_bytes()),
        accepted_at_ms: write.accepted_at_ms,
        bytes: write.bytes,
        refused_reason: reason,
        refused_message: message,
    }
}

/// One write with what it does.
pub(super) async fn show(
    node: &Node,
    request: v1::ShowBufferedRequest,
) -> Result<v1::ShowBufferedResponse, Error> {
    let number = BufferNumber::new(request.number);
    let (write, operations) = node.buffered_operations(number).await?;
    Ok(v1::ShowBufferedResponse {
        write: Some(row(node, &write)),
        operations: operations.into_iter().map(operation).collect(),
    })
}

fn operation(operation: Operation) -> v1::BufferedOperation {
    let (key, value, expiry) = match operation {
        Operation::Put { key, value, expiry } => (key, Some(value), expiry),
        Operation::Delete { key } => (key, None, None),
    };
    let (ttl_ms, expires_at_ms) = match expiry {
        None => (None, None),
        Some(Expiry::AfterMs(ttl_ms)) => (Some(ttl_ms), None),
        Some(Expiry::AtMs(at_ms)) => (None, Some(at_ms)),
    };
    v1::BufferedOperation {
        key,
        value,
        ttl_ms,
        expires_at_ms,
    }
}

/// Gives some of them up.
pub(super) async fn discard(
    node: &Node,
    request: v1::DiscardBufferedRequest,
) -> Result<v1::DiscardBufferedResponse, Error> {
    if !request.confirmed {
        let message = "not confirmed: what is discarded is never applied";
        return Err(invalid("confirmed", message));
    }
    let (first, last) = (request.first, request.last);
    if first == 0 || first > last {
        return Err(invalid("first", format!("writes {first} to {last}: none")));
    }
    let numbers = (BufferNumber::new(first), BufferNumber::new(last));
    let discarded = node.discard_buffered(numbers.0, numbers.1, request.refused_only);
    Ok(v1::DiscardBufferedResponse {
        discarded: discarded.await?,
    })
}
