//! The peer service: streams of segments and forwarded requests that other nodes send here.
//!
//! **Owns**: turning messages into calls and answers into messages.
//! **Does not own**: what a stream does (shipping), what a call does (node).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domicile_proto::record::RecordBody;
use domicile_proto::v1::peer_server::Peer;
use domicile_proto::v1::{self, forward_request, forward_response};
use domicile_proto::{AckLevel, KeyspaceId, Reason, RequestId, Seq};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::forward::take_seen;
use super::kept;
use super::messages::{partition_of_bytes, row_of_cell};
use crate::bootstrap::{CHUNKS_MAX, SnapshotSource};
use crate::buffer::Unapplied;
use crate::call::{
    Consistency, Direction, Entry, Expected, Forwarding, Precondition, ReadCall, SessionMark,
    WriteCall,
};
use crate::error::Error;
use crate::node::{NodeCore, PartitionScan};
use crate::ownership::{HEAL_KEYS_MAX, Plane, answer_promises, answer_renewal, blocking};
use crate::receipt::Receipt;
use crate::shipping::Receiver;

/// Answers between the receiver and the connection. Acks are coalesced, so few are ever waiting.
const ANSWERS_MAX: usize = 64;

/// The service on the peer port.
pub(super) struct PeerService {
    node: Arc<NodeCore>,
}

impl PeerService {
    pub(super) fn new(node: Arc<NodeCore>) -> Self {
        Self { node }
    }

    /// The control plane here, for a node of the same cluster.
    fn plane(&self, cluster: &str) -> Result<&Arc<Plane>, Status> {
        let own = &self.node.topology.cluster;
        if cluster != own.as_str() {
            let text = format!("cluster {cluster:?}, this is {own:?}");
            return Err(Status::failed_precondition(text));
        }
        let plane = self.node.plane.as_ref();
        plane.ok_or_else(|| Status::failed_precondition("homes are static here"))
    }

    /// What this home has of keys whose records were cut from a copy's log.
    async fn cells(&self, request: v1::ReadCellsRequest) -> Result<v1::ReadCellsResponse, Status> {
        let (actual, limit) = (request.keys.len(), HEAL_KEYS_MAX);
        if actual > limit {
            return Err(Status::invalid_argument(format!(
                "{actual} keys, limit {limit}"
            )));
        }
        let partition = partition_of_bytes(&request.partition);
        let partition = partition.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let topology = &self.node.topology;
        let region = topology.region_named(&request.region).map(|spec| spec.id);
        let slot = self
            .node
            .driver
            .slot(partition)
            .filter(|slot| slot.is_home());
        let (Some(region), Some(slot)) = (region, slot) else {
            let text = format!("this is not the home of {partition}");
            return Err(Status::failed_precondition(text));
        };
        if !slot.keyspace().regions.contains(&region) {
            let (keyspace, region) = (&slot.keyspace().name, &request.region);
            let text = format!("keyspace {keyspace} may not be in region {region}");
            return Err(Status::permission_denied(text));
        }
        let gate = slot.check_heal(self.node.clock.now());
        gate.map_err(|error| Status::unavailable(error.to_string()))?;
        let seq_min = Seq::new(request.seq_min);
        let store = Arc::clone(&self.node.store);
        let read = blocking(move || store.cells_at_end(partition, &request.keys)).await;
        let (cells, at) = read.map_err(|error| Status::internal(error.to_string()))?;
        if at < seq_min {
            let text = format!("{partition} ends at {at} here, asked from {seq_min}");
            return Err(Status::unavailable(text));
        }
        let rows = cells.into_iter();
        let rows = rows.filter_map(|(key, cell)| Some(row_of_cell((key, cell?))));
        Ok(v1::ReadCellsResponse {
            applied_upto: at.get(),
            rows: rows.collect(),
        })
    }

    async fn answer(
        &self,
        request: v1::ForwardRequest,
        timeout: Option<Duration>,
    ) -> Result<forward_response::Response, Error> {
        if request.hops != 1 {
            let message = format!("forwarded {} times, limit 1", request.hops);
            return Err(Error::new(Reason::WrongHome, message));
        }
        let from = self
            .node
            .topology
            .region_named(&request.from_region)
            .map(|region| region.id);
        let Some(from) = from else {
            let message = format!("region {:?} is not a peer here", request.from_region);
            return Err(Error::new(Reason::RegionNotFound, message));
        };
        if let Some(keyspace) = request
            .request
            .as_ref()
            .and_then(|each| self.keyspace_asked(each))
            && !keyspace.regions.contains(&from)
        {
            let (name, region) = (&keyspace.name, &request.from_region);
            let message = format!("keyspace {name} may not be handled in region {region}");
            return Err(Error::new(Reason::DataResidency, message));
        }
        let missing = || Error::new(Reason::InvalidArgument, "an empty forward request");
        match request.request.ok_or_else(missing)? {
            forward_request::Request::Write(write) => {
                let receipt = self.node.write(self.write_call(write, timeout)?).await?;
                let keyspace = self.keyspace_of(&receipt)?;
                Ok(forward_response::Response::Receipt(receipt_message(
                    &receipt,
                    &keyspace.regions,
                )))
            }
            forward_request::Request::Buffered(writes) => {
                kept::answer(&self.node, writes, timeout).await
            }
            forward_request::Request::Get(get) => self.get(get, timeout).await,
            forward_request::Request::Scan(scan) => self.scan(&scan),
            forward_request::Request::Outcome(outcome) => {
                let keyspace = self.keyspace(outcome.keyspace)?;
                let request_id = read_request_id(&outcome.request_id)?;
                let known = self
                    .node
                    .outcome_here(&keyspace, &outcome.key, request_id)?;
                Ok(match known {
                    None => forward_response::Response::Unknown(true),
                    Some(receipt) => forward_response::Response::Receipt(receipt_message(
                        &receipt,
                        &keyspace.regions,
                    )),
                })
            }
        }
    }

    /// The keyspace that a request is about, if there is such a one.
    fn keyspace_asked(
        &self,
        request: &forward_request::Request,
    ) -> Option<Arc<domicile_proto::Keyspace>> {
        let id = match request {
            forward_request::Request::Write(write) => KeyspaceId::new(write.keyspace),
            forward_request::Request::Get(get) => KeyspaceId::new(get.keyspace),
            forward_request::Request::Outcome(outcome) => KeyspaceId::new(outcome.keyspace),
            forward_request::Request::Buffered(writes) => {
                partition_of_bytes(&writes.partition).ok()?.keyspace
            }
            forward_request::Request::Scan(scan) => {
                partition_of_bytes(&scan.partition).ok()?.keyspace
            }
        };
        self.node.topology.keyspace(id)
    }

    fn keyspace(&self, id: u32) -> Result<Arc<domicile_proto::Keyspace>, Error> {
        let id = KeyspaceId::new(id);
        let found = self.node.topology.keyspace(id);
        found.ok_or_else(|| Error::new(Reason::KeyspaceNotFound, format!("no keyspace {id}")))
    }

    fn keyspace_of(&self, receipt: &Receipt) -> Result<Arc<domicile_proto::Keyspace>, Error> {
        self.keyspace(receipt.partition.keyspace.get())
    }

    fn write_call(
        &self,
        write: v1::ForwardWrite,
        timeout: Option<Duration>,
    ) -> Result<WriteCall, Error> {
        let keyspace = self.keyspace(write.keyspace)?;
        let (_, operations) = RecordBody::from_untrusted(write.body)?;
        let level = match write.ack.as_str() {
            "" => None,
            text => Some(read_level(text)?),
        };
        let preconditions = write.preconditions.into_iter().map(read_precondition);
        Ok(WriteCall {
            keyspace,
            operations,
            preconditions: preconditions.collect::<Result<_, _>>()?,
            level,
            request_id: Some(read_request_id(&write.request_id)?),
            timeout,
            forwarding: Forwarding::LocalOnly,
            unapplied: Unapplied::Refused,
        })
    }

    async fn get(
        &self,
        get: v1::ForwardGet,
        timeout: Option<Duration>,
    ) -> Result<forward_response::Response, Error> {
        let keyspace = self.keyspace(get.keyspace)?;
        let partition = keyspace.partition_of(&get.key);
        let call = ReadCall {
            keyspace,
            key: get.key,
            consistency: match take_seen(get.seen)? {
                None => Consistency::Home,
                Some(position) => Consistency::Session(vec![SessionMark {
                    partition,
                    position,
                }]),
            },
            timeout,
            forwarding: Forwarding::LocalOnly,
        };
        let answer = self.node.read(call).await?;
        Ok(forward_response::Response::Rows(v1::ForwardRows {
            rows: answer.entry.into_iter().map(row_message).collect(),
            more: false,
            resume_after: Bytes::new(),
            applied_upto: answer.position.map_or(0, |position| position.seq.get()),
            epoch_counter: answer.position.map_or(0, |position| position.epoch.counter),
            epoch_node: answer
                .position
                .map_or(0, |position| position.epoch.node.get()),
        }))
    }

    fn scan(&self, scan: &v1::ForwardScan) -> Result<forward_response::Response, Error> {
        let direction = if scan.reverse {
            Direction::Backward
        } else {
            Direction::Forward
        };
        let scanned = PartitionScan {
            partition: partition_of_bytes(&scan.partition)?,
            from: scan.from.clone(),
            upto: scan.upto.clone(),
            after: scan.after.clone(),
            direction,
            limit: scan.limit as usize,
        };
        let seen = take_seen(scan.seen)?;
        let rows = self.node.scan_partition_at_home(&scanned, seen)?;
        Ok(forward_response::Response::Rows(v1::ForwardRows {
            rows: rows.entries.into_iter().map(row_message).collect(),
            more: rows.resume_after.is_some(),
            resume_after: rows.resume_after.unwrap_or_default(),
            applied_upto: rows.position.map_or(0, |position| position.seq.get()),
            epoch_counter: rows.position.map_or(0, |position| position.epoch.counter),
            epoch_node: rows
                .position
                .map_or(0, |position| position.epoch.node.get()),
        }))
    }
}

#[tonic::async_trait]
impl Peer for PeerService {
    type ShipStream = ReceiverStream<Result<v1::CopyFrame, Status>>;
    type FetchSnapshotStream = ReceiverStream<Result<v1::SnapshotChunk, Status>>;

    async fn fetch_snapshot(
        &self,
        request: Request<v1::FetchSnapshotRequest>,
    ) -> Result<Response<Self::FetchSnapshotStream>, Status> {
        let source = SnapshotSource::new(Arc::clone(&self.node), request.into_inner())?;
        let (chunks, stream) = mpsc::channel(CHUNKS_MAX);
        tokio::spawn(source.run(chunks));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn ship(
        &self,
        request: Request<Streaming<v1::ShipFrame>>,
    ) -> Result<Response<Self::ShipStream>, Status> {
        let (answers, stream) = mpsc::channel(ANSWERS_MAX);
        let receiver = Receiver::new(Arc::clone(&self.node), answers);
        tokio::spawn(receiver.run(request.into_inner()));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn read_cells(
        &self,
        request: Request<v1::ReadCellsRequest>,
    ) -> Result<Response<v1::ReadCellsResponse>, Status> {
        self.cells(request.into_inner()).await.map(Response::new)
    }

    async fn control(
        &self,
        request: Request<v1::ControlEnvelope>,
    ) -> Result<Response<v1::ControlEnvelope>, Status> {
        let v1::ControlEnvelope { cluster, message } = request.into_inner();
        let plane = self.plane(&cluster)?;
        let answered = plane.consensus.answer(message).await;
        let message = answered.map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(Response::new(v1::ControlEnvelope { cluster, message }))
    }

    async fn renew_lease(
        &self,
        request: Request<v1::RenewLeaseRequest>,
    ) -> Result<Response<v1::RenewLeaseResponse>, Status> {
        let request = request.into_inner();
        let plane = self.plane(&request.cluster)?;
        let answered = answer_renewal(&self.node, plane, request).await;
        let answer = answered.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(Response::new(answer))
    }

    async fn ask_promises(
        &self,
        request: Request<v1::AskPromisesRequest>,
    ) -> Result<Response<v1::AskPromisesResponse>, Status> {
        let request = request.into_inner();
        self.plane(&request.cluster)?;
        let answered = answer_promises(&self.node, request).await;
        let answer = answered.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(Response::new(answer))
    }

    async fn forward(
        &self,
        request: Request<v1::ForwardRequest>,
    ) -> Result<Response<v1::ForwardResponse>, Status> {
        let timeout = timeout_of(&request);
        let answer = self.answer(request.into_inner(), timeout).await;
        let response =
            answer.unwrap_or_else(|error| forward_response::Response::Error(error_message(&error)));
        Ok(Response::new(v1::ForwardResponse {
            response: Some(response),
        }))
    }
}

/// The caller's remaining time, from the header that gRPC carries it in.
fn timeout_of<T>(request: &Request<T>) -> Option<Duration> {
    let text = request.metadata().get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number.saturating_mul(3600))),
        "M" => Some(Duration::from_secs(number.saturating_mul(60))),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Reason::InvalidArgument, message)
}

fn read_level(text: &str) -> Result<AckLevel, Error> {
    text.parse()
        .map_err(|e: domicile_proto::level::AckLevelError| invalid(e.to_string()))
}

pub(super) fn read_request_id(bytes: &[u8]) -> Result<RequestId, Error> {
    let array: Result<[u8; 16], _> = bytes.try_into();
    let array =
        array.map_err(|_| invalid(format!("request id of {} bytes, 16 expected", bytes.len())))?;
    RequestId::new(u128::from_be_bytes(array)).map_err(|error| invalid(error.to_string()))
}

fn read_precondition(message: v1::ForwardPrecondition) -> Result<Precondition, Error> {
    let expected = match message.expected_version.as_str() {
        "" => Expected::Absent,
        text => {
            let version = text.parse();
            Expected::Version(
                version
                    .map_err(|e: domicile_proto::position::VersionError| invalid(e.to_string()))?,
            )
        }
    };
    Ok(Precondition {
        key: message.key,
        expected,
    })
}

pub(super) fn error_message(error: &Error) -> v1::ForwardError {
    let metadata = error.metadata().clone().into_iter();
    v1::ForwardError {
        reason: error.reason().to_string(),
        message: error.to_string(),
        metadata: metadata.collect::<HashMap<_, _>>(),
    }
}

pub(super) fn receipt_message(
    receipt: &Receipt,
    regions: &[domicile_proto::RegionId],
) -> v1::ForwardReceipt {
    let bit = |region| {
        regions
            .iter()
            .position(|each| each == region)
            .map_or(0, |at| 1 << at)
    };
    v1::ForwardReceipt {
        partition: Bytes::copy_from_slice(&receipt.partition.to_bytes()),
        version: receipt.version.to_string(),
        asked: receipt.asked.to_string(),
        achieved: receipt.achieved.to_string(),
        durable_in: receipt
            .durable_in
            .iter()
            .map(bit)
            .fold(0, |bits, bit: u64| bits | bit),
        degraded: receipt.degraded,
        duplicate: receipt.duplicate,
        request_id: Bytes::copy_from_slice(&receipt.request_id.get().to_be_bytes()),
    }
}

fn row_message(entry: Entry) -> v1::ForwardRow {
    v1::ForwardRow {
        key: entry.key,
        value: entry.value,
        version: entry.version.to_string(),
        hlc: domicile_proto::Hlc::at_ms(entry.written_at_ms).bits(),
        expires_at_ms: entry.expires_at_ms,
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::fuzz_tests::attack;

    #[test]
    fn fuzz_forwarded_requests() {
        let put = domicile_proto::Operation::Put {
            key: Bytes::from_static(b"key"),
            value: Bytes::from_static(b"value"),
            expiry: None,
        };
        let write = v1::ForwardWrite {
            keyspace: 7,
            body: RecordBody::encode(&[put]).unwrap().bytes().clone(),
            preconditions: vec![v1::ForwardPrecondition {
                key: Bytes::from_static(b"key"),
                expected_version: "0.1.0000000000000001.7".to_owned(),
            }],
            ack: "semi-sync:2".to_owned(),
            request_id: Bytes::from_static(&[1; 16]),
        };
        let scan = v1::ForwardScan {
            partition: Bytes::from_static(&[0, 0, 0, 1, 0, 1, 0, 1]),
            limit: 7,
            ..v1::ForwardScan::default()
        };
        let valid = [
            forward_request::Request::Write(write),
            forward_request::Request::Scan(scan),
        ];
        let valid = valid.map(|request| {
            let request = Some(request);
            let hops = 1;
            let from_region = "eu".to_owned();
            v1::ForwardRequest {
                hops,
                from_region,
                request,
            }
            .encode_to_vec()
        });
        attack(&valid, &|bytes| {
            let request = v1::ForwardRequest::decode(bytes).map(|message| message.request);
            match request {
                Ok(Some(forward_request::Request::Write(write))) => {
                    let _ = RecordBody::from_untrusted(write.body);
                    let _ = (read_level(&write.ack), read_request_id(&write.request_id));
                    let read = write.preconditions.into_iter().map(read_precondition);
                    let _ = read.collect::<Result<Vec<_>, _>>();
                }
                Ok(Some(forward_request::Request::Scan(scan))) => {
                    let _ = partition_of_bytes(&scan.partition);
                }
                _ => {}
            }
        });
    }
}
