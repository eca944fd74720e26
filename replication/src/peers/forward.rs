//! Passing a request on to its home, one hop, within the caller's time.
//!
//! **Owns**: what a failed hop means to the caller.
//! **Does not own**: choosing the home (node), answering there (`door`).

use std::time::Duration;

use bytes::Bytes;
use domicile_core::EarlierTries;
use domicile_proto::v1::{self, forward_request, forward_response, forward_result};
use domicile_proto::{Hlc, Keyspace, PartitionId, Position, Reason, RequestId, Seq};
use tonic::Request;

use super::link::PeerLink;
use super::messages::{partition_of_bytes, read_epoch};
use crate::call::{Direction, Entry, Expected, Precondition};
use crate::driver::PreparedWrite;
use crate::error::Error;
use crate::node::{PartitionRows, PartitionScan};
use crate::receipt::Receipt;

/// A node that answers within this many more milliseconds than the request allows is still heard:
/// its own answer (INDETERMINATE with the position) says more than a cut connection.
const GRACE: Duration = Duration::from_millis(250);

/// Marks a write of which nobody knows what its home made of it: it may be asked for again.
pub(crate) const ANSWER_LOST: &str = "answer_lost";

impl PeerLink {
    /// Has the home do a write.
    pub(crate) async fn forward_write(
        &self,
        keyspace: &Keyspace,
        from: &str,
        write: PreparedWrite,
        timeout: Duration,
    ) -> Result<Receipt, Error> {
        let request_id = write.request_id;
        let precondition = |condition: Precondition| v1::ForwardPrecondition {
            key: condition.key,
            expected_version: match condition.expected {
                Expected::Absent => String::new(),
                Expected::Version(version) => version.to_string(),
            },
        };
        let request = forward_request::Request::Write(v1::ForwardWrite {
            keyspace: keyspace.id().get(),
            body: write.body.bytes().clone(),
            preconditions: write.preconditions.into_iter().map(precondition).collect(),
            ack: write.level.map_or(String::new(), |level| level.to_string()),
            request_id: Bytes::copy_from_slice(&request_id.get().to_be_bytes()),
        });
        // The home may have it: neither done nor undone is all that can be said.
        let unknown = |error: Error| {
            Error::new(Reason::Indeterminate, error.to_string())
                .with("request_id", request_id)
                .with(ANSWER_LOST, true)
                .caused_by(error)
        };
        match self.forward(from, request, timeout).await {
            Ok(forward_response::Response::Receipt(receipt)) => {
                read_receipt(&receipt, keyspace).map_err(unknown)
            }
            Ok(_) => Err(unknown(malformed("receipt"))),
            Err(Hop::NotSent(error)) => Err(error),
            Err(Hop::Lost(error)) => Err(unknown(error)),
        }
    }

    /// Has the home do writes of one partition that were kept here, in this order.
    ///
    /// # Errors
    /// None of them was answered.
    pub(crate) async fn forward_buffered(
        &self,
        keyspace: &Keyspace,
        from: &str,
        partition: PartitionId,
        writes: Vec<PreparedWrite>,
        timeout: Duration,
    ) -> Result<Vec<Result<Receipt, Error>>, Error> {
        let writes = writes.into_iter().map(|write| v1::BufferedForward {
            body: write.body.bytes().clone(),
            request_id: Bytes::copy_from_slice(&write.request_id.get().to_be_bytes()),
            searched_upto: match write.earlier_tries {
                EarlierTries::NotInLogUpto(upto) => upto.map(put_seen),
                EarlierTries::Remembered => None,
            },
        });
        let request = forward_request::Request::Buffered(v1::ForwardBuffered {
            partition: Bytes::copy_from_slice(&partition.to_bytes()),
            writes: writes.collect(),
        });
        let answer = self.forward(from, request, timeout).await;
        match answer.map_err(Hop::into_error)? {
            forward_response::Response::Results(results) => {
                let results = results.results.into_iter();
                let result = |result: v1::ForwardResult| match result.result {
                    Some(forward_result::Result::Receipt(receipt)) => {
                        read_receipt(&receipt, keyspace).map(Ok)
                    }
                    Some(forward_result::Result::Error(error)) => Ok(Err(read_error(error))),
                    None => Err(malformed("result")),
                };
                results.map(result).collect()
            }
            _ => Err(malformed("results")),
        }
    }

    /// Has the home read a key.
    pub(crate) async fn forward_get(
        &self,
        keyspace: &Keyspace,
        from: &str,
        key: Bytes,
        seen: Option<Position>,
        timeout: Duration,
    ) -> Result<PartitionRows, Error> {
        let get = v1::ForwardGet {
            keyspace: keyspace.id().get(),
            key,
            seen: seen.map(put_seen),
        };
        let request = forward_request::Request::Get(get);
        read_rows(
            self.forward(from, request, timeout)
                .await
                .map_err(Hop::into_error)?,
        )
    }

    /// Has the home read a range of one partition.
    pub(crate) async fn forward_scan(
        &self,
        from: &str,
        scan: &PartitionScan,
        seen: Option<Position>,
        timeout: Duration,
    ) -> Result<PartitionRows, Error> {
        let request = forward_request::Request::Scan(v1::ForwardScan {
            partition: Bytes::copy_from_slice(&scan.partition.to_bytes()),
            from: scan.from.clone(),
            upto: scan.upto.clone(),
            after: scan.after.clone(),
            reverse: scan.direction == Direction::Backward,
            limit: scan.limit as u32,
            seen: seen.map(put_seen),
        });
        read_rows(
            self.forward(from, request, timeout)
                .await
                .map_err(Hop::into_error)?,
        )
    }

    /// Asks the home what became of a write.
    pub(crate) async fn forward_outcome(
        &self,
        keyspace: &Keyspace,
        from: &str,
        key: Bytes,
        request_id: RequestId,
        timeout: Duration,
    ) -> Result<Option<Receipt>, Error> {
        let request = forward_request::Request::Outcome(v1::ForwardOutcome {
            keyspace: keyspace.id().get(),
            key,
            request_id: Bytes::copy_from_slice(&request_id.get().to_be_bytes()),
        });
        match self
            .forward(from, request, timeout)
            .await
            .map_err(Hop::into_error)?
        {
            forward_response::Response::Receipt(receipt) => {
                read_receipt(&receipt, keyspace).map(Some)
            }
            forward_response::Response::Unknown(_) => Ok(None),
            _ => Err(malformed("outcome")),
        }
    }

    async fn forward(
        &self,
        from: &str,
        request: forward_request::Request,
        timeout: Duration,
    ) -> Result<forward_response::Response, Hop> {
        let name = &self.spec.name;
        let no_home = |text: String| {
            let error = Error::new(Reason::NoHome, text).with("home", name);
            error.retry_in(Duration::from_millis(200))
        };
        let Some(mut client) = self.forwarding() else {
            return Err(Hop::NotSent(no_home(format!(
                "no address of home region {name} is known"
            ))));
        };
        let message = v1::ForwardRequest {
            hops: 1,
            from_region: from.to_owned(),
            request: Some(request),
        };
        let mut message = Request::new(message);
        message.set_timeout(timeout);
        let answered =
            tokio::time::timeout(timeout.saturating_add(GRACE), client.forward(message)).await;
        let response = match answered {
            Ok(Ok(response)) => response.into_inner().response,
            Ok(Err(status)) if never_sent(&status) => {
                let text = format!("home region {name} cannot be reached: {}", status.message());
                return Err(Hop::NotSent(no_home(text)));
            }
            Ok(Err(status)) => {
                let text = format!(
                    "the answer of home region {name} was lost: {}",
                    status.message()
                );
                return Err(Hop::Lost(no_home(text)));
            }
            Err(_) => {
                let waited_ms = timeout.as_millis();
                let text = format!("home region {name} did not answer within {waited_ms} ms");
                return Err(Hop::Lost(no_home(text)));
            }
        };
        match response {
            Some(forward_response::Response::Error(error)) => Err(Hop::NotSent(read_error(error))),
            Some(response) => Ok(response),
            None => Err(Hop::Lost(malformed("response"))),
        }
    }
}

/// How a hop failed.
enum Hop {
    /// The home did nothing, or answered with an error of its own.
    NotSent(Error),
    /// Sent, and no answer came back.
    Lost(Error),
}

impl Hop {
    fn into_error(self) -> Error {
        match self {
            Self::NotSent(error) | Self::Lost(error) => error,
        }
    }
}

/// Whether the request cannot have reached the peer: there was no connection.
fn never_sent(status: &tonic::Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        if cause.is::<tonic::ConnectError>() {
            return true;
        }
        source = cause.source();
    }
    false
}

fn malformed(what: &str) -> Error {
    Error::new(
        Reason::ChecksumMismatch,
        format!("malformed {what} from a peer"),
    )
}

fn read_error(error: v1::ForwardError) -> Error {
    let reason = Reason::parse(&error.reason).unwrap_or(Reason::InvalidArgument);
    let metadata = error.metadata.into_iter();
    metadata.fold(Error::new(reason, error.message), |error, (key, value)| {
        error.with(&key, value)
    })
}

fn read_receipt(message: &v1::ForwardReceipt, keyspace: &Keyspace) -> Result<Receipt, Error> {
    let regions = keyspace.regions.iter().enumerate();
    let durable = regions.filter(|(index, _)| message.durable_in & (1 << index) != 0);
    let request_id: [u8; 16] = message
        .request_id
        .as_ref()
        .try_into()
        .map_err(|_| malformed("request id"))?;
    Ok(Receipt {
        partition: partition_of_bytes(&message.partition)?,
        version: message.version.parse().map_err(|_| malformed("version"))?,
        asked: message.asked.parse().map_err(|_| malformed("level"))?,
        achieved: message.achieved.parse().map_err(|_| malformed("level"))?,
        durable_in: durable.map(|(_, region)| *region).collect(),
        request_id: RequestId::new(u128::from_be_bytes(request_id))
            .map_err(|_| malformed("request id"))?,
        degraded: message.degraded,
        duplicate: message.duplicate,
    })
}

fn read_rows(response: forward_response::Response) -> Result<PartitionRows, Error> {
    let forward_response::Response::Rows(rows) = response else {
        return Err(malformed("rows"));
    };
    let epoch = read_epoch(rows.epoch_counter, rows.epoch_node);
    let position = epoch.map(|epoch| Position {
        epoch,
        seq: Seq::new(rows.applied_upto),
    });
    let entry = |row: v1::ForwardRow| {
        Ok(Entry {
            key: row.key,
            value: row.value,
            version: row.version.parse().map_err(|_| malformed("version"))?,
            written_at_ms: Hlc::from_bits(row.hlc).wall_ms(),
            expires_at_ms: row.expires_at_ms,
        })
    };
    let entries: Result<Vec<Entry>, Error> = rows.rows.into_iter().map(entry).collect();
    let resume_after = rows.more.then_some(rows.resume_after);
    Ok(PartitionRows {
        entries: entries?,
        resume_after,
        position,
        staleness: Duration::ZERO,
    })
}

fn put_seen(seen: Position) -> v1::SeenMark {
    v1::SeenMark {
        epoch_counter: seen.epoch.counter,
        epoch_node: seen.epoch.node.get(),
        seq: seen.seq.get(),
    }
}

/// What a session has seen, as its read came by way of another node.
pub(crate) fn take_seen(seen: Option<v1::SeenMark>) -> Result<Option<Position>, Error> {
    let Some(seen) = seen else {
        return Ok(None);
    };
    let epoch = read_epoch(seen.epoch_counter, seen.epoch_node);
    let seq = Seq::new(seen.seq);
    let position = epoch.map(|epoch| Position { epoch, seq });
    let missing = || Error::new(Reason::InvalidArgument, "what a session saw names no reign");
    position.ok_or_else(missing).map(Some)
}

#[cfg(test)]
mod tests {
    use domicile_proto::{Name, RegionId};
    use prost::Message;

    use super::*;
    use crate::fuzz_tests::attack;

    #[test]
    fn fuzz_answers_to_forwarded_requests() {
        let region = RegionId::new(1).unwrap();
        let keyspace = Keyspace::new(Name::new("users").unwrap(), vec![region], region);
        let receipt = v1::ForwardReceipt {
            partition: Bytes::from_static(&[0, 0, 0, 1, 0, 1, 0, 1]),
            version: "0.1.0000000000000001.7".to_owned(),
            asked: "sync".to_owned(),
            achieved: "async".to_owned(),
            durable_in: u64::MAX,
            request_id: Bytes::from_static(&[1; 16]),
            ..v1::ForwardReceipt::default()
        };
        let row = v1::ForwardRow {
            key: Bytes::from_static(b"key"),
            value: Bytes::from_static(b"value"),
            version: receipt.version.clone(),
            ..v1::ForwardRow::default()
        };
        assert!(read_receipt(&receipt, &keyspace).is_ok());
        let rows = v1::ForwardRows {
            rows: vec![row.clone(), row],
            ..v1::ForwardRows::default()
        };
        let error = v1::ForwardError {
            reason: "WRONG_HOME".to_owned(),
            message: "elsewhere".to_owned(),
            metadata: [("home".to_owned(), "eu".to_owned())].into(),
        };
        let valid = [
            forward_response::Response::Receipt(receipt),
            forward_response::Response::Rows(rows),
            forward_response::Response::Error(error),
        ];
        let valid = valid.map(|response| {
            let response = Some(response);
            v1::ForwardResponse { response }.encode_to_vec()
        });
        attack(&valid, &|bytes| match v1::ForwardResponse::decode(bytes)
            .map(|message| message.response)
        {
            Ok(Some(forward_response::Response::Receipt(receipt))) => {
                let _ = read_receipt(&receipt, &keyspace);
            }
            Ok(Some(forward_response::Response::Error(error))) => {
                let _ = read_error(error).to_string();
            }
            Ok(Some(response)) => {
                let _ = read_rows(response);
            }
            _ => {}
        });
    }
}
