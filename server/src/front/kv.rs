//! The Kv service: each method is a check, a call of the node and an answer.
//!
//! **Owns**: which message becomes which call, what a call takes from the budget.
//! **Does not own**: the checks (`request`), the answers (`answer`), the streams (`write_stream`,
//! `watch_stream`).
//!
//! A handler does nothing but what its call needs: no task, no span, no copy of a value.

use std::time::Duration;

use bytes::Bytes;
use domicile_proto::limits::check_key;
use domicile_proto::v1::kv_server::Kv;
use domicile_proto::{Operation, v1};
use domicile_replication::{Error, Node, Precondition, ReadCall};
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use super::budget::Budget;
use super::limits::FrontLimits;
use super::refusal::refuse;
use super::request::Lifetime;
use super::watch_stream::WatchStream;
use super::write_stream::WriteStream;
use super::{answer, deadline, request};

type Answer<T> = Result<Response<T>, Status>;

/// The Kv service of a node.
pub(crate) struct KvService {
    node: Node,
    budget: Budget,
    watch_patience: Duration,
    draining: watch::Receiver<bool>,
}

/// A write as it came, beside the keyspace's name and its deadline.
struct Asked {
    operations: Vec<Operation>,
    preconditions: Vec<Precondition>,
    options: Option<v1::WriteOptions>,
}

impl KvService {
    pub(crate) fn new(node: Node, limits: &FrontLimits, draining: watch::Receiver<bool>) -> Self {
        Self {
            node,
            budget: Budget::new(limits.in_flight_bytes_max),
            watch_patience: limits.watch_patience,
            draining,
        }
    }

    async fn write_one(
        &self,
        keyspace: &str,
        asked: Asked,
        timeout: Option<Duration>,
    ) -> Answer<v1::WriteResponse> {
        let written = self.write_checked(keyspace, asked, timeout).await;
        written.map(Response::new).map_err(|error| refuse(&error))
    }

    async fn write_checked(
        &self,
        keyspace: &str,
        asked: Asked,
        timeout: Option<Duration>,
    ) -> Result<v1::WriteResponse, Error> {
        let keyspace = self.node.policy(keyspace)?;
        let _share = self.budget.take(bytes_of(&asked.operations))?;
        let mut call = request::write_call(keyspace, asked.operations, asked.options, timeout)?;
        call.preconditions = asked.preconditions;
        let written = self.node.write(call).await?;
        Ok(answer::written(&self.node, &written))
    }

    async fn read(
        &self,
        message: v1::GetRequest,
        timeout: Option<Duration>,
    ) -> Result<v1::GetResponse, Error> {
        let keyspace = self.node.policy(&message.keyspace)?;
        check_key(&message.key)?;
        let (consistency, forwarding) = request::read_options(message.options)?;
        let key = message.key;
        let call = ReadCall {
            keyspace,
            key,
            consistency,
            timeout,
            forwarding,
        };
        Ok(answer::read(&self.node, self.node.read(call).await?))
    }

    async fn page(
        &self,
        mut message: v1::ScanRequest,
        timeout: Option<Duration>,
    ) -> Result<v1::ScanResponse, Error> {
        let keyspace = self.node.policy(&message.keyspace)?;
        let call = request::scan_call(keyspace, &mut message, timeout)?;
        let page = self.node.scan(call).await?;
        Ok(answer::page(&self.node, &message, page))
    }

    async fn known_outcome(
        &self,
        message: v1::OutcomeRequest,
    ) -> Result<v1::OutcomeResponse, Error> {
        let keyspace = self.node.policy(&message.keyspace)?;
        check_key(&message.key)?;
        let id = request::request_id("request_id", &message.request_id)?;
        if let Some(kept) = self.node.buffered_of(&keyspace, id) {
            let receipt = Some(answer::kept(&self.node, kept));
            return Ok(v1::OutcomeResponse { receipt });
        }
        let receipt = self.node.outcome(&keyspace, message.key, id).await?;
        let receipt = receipt.map(|receipt| answer::receipt(&self.node, &receipt));
        Ok(v1::OutcomeResponse { receipt })
    }
}

/// Bytes of keys and values.
pub(crate) fn bytes_of(operations: &[Operation]) -> usize {
    let sizes = operations.iter().map(|operation| match operation {
        Operation::Put { key, value, .. } => key.len() + value.len(),
        Operation::Delete { key } => key.len(),
    });
    sizes.sum()
}

fn one(
    key: Bytes,
    value: Option<Bytes>,
    lifetime: Lifetime,
    options: Option<v1::WriteOptions>,
) -> Result<Asked, Status> {
    let operation = request::single(key, value, lifetime).map_err(|error| refuse(&error))?;
    Ok(Asked {
        operations: vec![operation],
        preconditions: Vec::new(),
        options,
    })
}

#[tonic::async_trait]
impl Kv for KvService {
    type WriteStream = WriteStream;
    type WatchStream = WatchStream;

    async fn get(&self, request: Request<v1::GetRequest>) -> Answer<v1::GetResponse> {
        let timeout = deadline::of(request.metadata());
        let read = self.read(request.into_inner(), timeout).await;
        read.map(Response::new).map_err(|error| refuse(&error))
    }

    async fn put(&self, request: Request<v1::PutRequest>) -> Answer<v1::WriteResponse> {
        let timeout = deadline::of(request.metadata());
        let v1::PutRequest {
            keyspace,
            key,
            value,
            options,
            ttl_ms,
            expires_at_ms,
        } = request.into_inner();
        let lifetime = Lifetime {
            ttl_ms,
            expires_at_ms,
        };
        let asked = one(key, Some(value), lifetime, options)?;
        self.write_one(&keyspace, asked, timeout).await
    }

    async fn delete(&self, request: Request<v1::DeleteRequest>) -> Answer<v1::WriteResponse> {
        let timeout = deadline::of(request.metadata());
        let v1::DeleteRequest {
            keyspace,
            key,
            options,
        } = request.into_inner();
        let asked = one(key, None, Lifetime::default(), options)?;
        self.write_one(&keyspace, asked, timeout).await
    }

    async fn compare_and_set(
        &self,
        request: Request<v1::CompareAndSetRequest>,
    ) -> Answer<v1::WriteResponse> {
        let timeout = deadline::of(request.metadata());
        let message = request.into_inner();
        let expected = request::expected_version(&message.expected_version);
        let expected = expected.map_err(|error| refuse(&error))?;
        let condition = Precondition {
            key: message.key.clone(),
            expected,
        };
        let lifetime = Lifetime {
            ttl_ms: message.ttl_ms,
            expires_at_ms: message.expires_at_ms,
        };
        let mut asked = one(message.key, message.value, lifetime, message.options)?;
        asked.preconditions.push(condition);
        self.write_one(&message.keyspace, asked, timeout).await
    }

    async fn batch(&self, request: Request<v1::BatchRequest>) -> Answer<v1::WriteResponse> {
        let timeout = deadline::of(request.metadata());
        let v1::BatchRequest {
            keyspace,
            operations,
            options,
        } = request.into_inner();
        let (operations, preconditions) =
            request::operations(operations).map_err(|error| refuse(&error))?;
        let asked = Asked {
            operations,
            preconditions,
            options,
        };
        self.write_one(&keyspace, asked, timeout).await
    }

    async fn scan(&self, request: Request<v1::ScanRequest>) -> Answer<v1::ScanResponse> {
        let timeout = deadline::of(request.metadata());
        let page = self.page(request.into_inner(), timeout).await;
        page.map(Response::new).map_err(|error| refuse(&error))
    }

    async fn write(
        &self,
        request: Request<Streaming<v1::WriteRequest>>,
    ) -> Answer<Self::WriteStream> {
        let (node, budget) = (self.node.clone(), self.budget.clone());
        let requests = request.into_inner();
        let stream = WriteStream::new(node, requests, budget, self.draining.clone());
        Ok(Response::new(stream))
    }

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Answer<Self::WatchStream> {
        let message = request.into_inner();
        let (patience, draining) = (self.watch_patience, self.draining.clone());
        let stream = WatchStream::new(&self.node, message, patience, draining);
        stream.map(Response::new).map_err(|error| refuse(&error))
    }

    async fn outcome(&self, request: Request<v1::OutcomeRequest>) -> Answer<v1::OutcomeResponse> {
        let outcome = self.known_outcome(request.into_inner()).await;
        outcome.map(Response::new).map_err(|error| refuse(&error))
    }
}
