//! From messages to calls: what is on the wire is checked before the node sees it.
//!
//! **Owns**: the fields of requests, their defaults and what is wrong with them.
//! **Does not own**: limits of keys and values (the node checks them as it encodes).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domicile_proto::{
    AckLevel, Epoch, Expiry, Keyspace, NodeId, Operation, PartitionId, Position, Reason, RequestId,
    Seq, Version, v1,
};
use domicile_replication::{
    Consistency, Direction, Error, Expected, Forwarding, Precondition, ScanCall, SessionMark,
    Unapplied, WriteCall,
};

use super::page_token;

/// Rows a page that sets no limit.
const PAGE_ROWS_DEFAULT: usize = 1000;

/// Most rows a page: keys and framing of that many rows fit a message beside their values.
/// Doubled, small rows alone could fill one.
const PAGE_ROWS_MAX: usize = 10_000;

/// Marks of a session: partitions of a few keyspaces. Doubled, one request costs twice the checks.
const SESSION_MARKS_MAX: usize = 4096;

fn invalid(field: &str, cause: impl std::fmt::Display) -> Error {
    Error::new(Reason::InvalidArgument, cause.to_string()).with("field", field)
}

/// A write of one key; without a value it is removed.
pub(crate) fn single(
    key: Bytes,
    value: Option<Bytes>,
    lifetime: Lifetime,
) -> Result<Operation, Error> {
    let expiry = lifetime.expiry()?;
    match (value, expiry) {
        (Some(value), expiry) => Ok(Operation::Put { key, value, expiry }),
        (None, None) => Ok(Operation::Delete { key }),
        (None, Some(_)) => Err(invalid("ttl_ms", "a removed key has no time to live")),
    }
}

/// How long a value is to live, as the messages say it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Lifetime {
    pub(crate) ttl_ms: Option<u64>,
    pub(crate) expires_at_ms: Option<u64>,
}

impl Lifetime {
    fn expiry(self) -> Result<Option<Expiry>, Error> {
        let expiry = match (self.ttl_ms, self.expires_at_ms) {
            (None, None) => return Ok(None),
            (Some(ttl_ms), None) => Expiry::AfterMs(ttl_ms),
            (None, Some(at_ms)) => Expiry::AtMs(at_ms),
            (Some(_), Some(_)) => {
                return Err(invalid("ttl_ms", "both ttl_ms and expires_at_ms"));
            }
        };
        expiry.check().map_err(|cause| invalid("ttl_ms", cause))?;
        Ok(Some(expiry))
    }
}

/// A write of any number of keys.
pub(crate) fn write_call(
    keyspace: Arc<Keyspace>,
    operations: Vec<Operation>,
    options: Option<v1::WriteOptions>,
    timeout: Option<Duration>,
) -> Result<WriteCall, Error> {
    let mut call = WriteCall::new(keyspace, operations);
    call.timeout = timeout;
    call.unapplied = Unapplied::Kept;
    if let Some(options) = options {
        call.level = level(&options.ack)?;
        call.request_id = optional_id(&options.request_id)?;
        call.forwarding = forwarding(options.local_only);
        if options.applied_only {
            call.unapplied = Unapplied::Refused;
        }
    }
    Ok(call)
}

/// The operations of a batch or stream write, with the conditions beside them.
pub(crate) fn operations(
    wire: Vec<v1::Operation>,
) -> Result<(Vec<Operation>, Vec<Precondition>), Error> {
    let mut operations = Vec::with_capacity(wire.len());
    let mut preconditions = Vec::new();
    for operation in wire {
        let v1::Operation {
            key,
            value,
            condition,
            ttl_ms,
            expires_at_ms,
        } = operation;
        let lifetime = Lifetime {
            ttl_ms,
            expires_at_ms,
        };
        if let Some(expected) = condition.map(expected).transpose()?.flatten() {
            preconditions.push(Precondition {
                key: key.clone(),
                expected,
            });
        }
        operations.push(single(key, value, lifetime)?);
    }
    Ok((operations, preconditions))
}

fn expected(condition: v1::operation::Condition) -> Result<Option<Expected>, Error> {
    use v1::operation::Condition;
    match condition {
        Condition::IfVersion(text) => Ok(Some(Expected::Version(version(
            "operations.if_version",
            &text,
        )?))),
        Condition::IfAbsent(true) => Ok(Some(Expected::Absent)),
        Condition::IfAbsent(false) => Ok(None),
    }
}

/// The condition of a compare-and-set: no version means that the key must be absent.
pub(crate) fn expected_version(text: &str) -> Result<Expected, Error> {
    if text.is_empty() {
        return Ok(Expected::Absent);
    }
    version("expected_version", text).map(Expected::Version)
}

fn version(field: &str, text: &str) -> Result<Version, Error> {
    text.parse::<Version>()
        .map_err(|cause| invalid(field, cause))
}

fn level(text: &str) -> Result<Option<AckLevel>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    let level = text.parse::<AckLevel>();
    level
        .map(Some)
        .map_err(|cause| invalid("options.ack", cause))
}

fn optional_id(bytes: &[u8]) -> Result<Option<RequestId>, Error> {
    if bytes.is_empty() {
        return Ok(None);
    }
    request_id("options.request_id", bytes).map(Some)
}

/// A request id: 16 bytes, most significant first.
pub(crate) fn request_id(field: &str, bytes: &[u8]) -> Result<RequestId, Error> {
    let exact = <[u8; 16]>::try_from(bytes).map_err(|_| {
        invalid(
            field,
            format!("request id of {} bytes, expected 16", bytes.len()),
        )
    })?;
    RequestId::new(u128::from_be_bytes(exact)).map_err(|cause| invalid(field, cause))
}

/// What a read may say beside its keys.
pub(crate) fn read_options(
    options: Option<v1::ReadOptions>,
) -> Result<(Consistency, Forwarding), Error> {
    let Some(options) = options else {
        return Ok((Consistency::Home, Forwarding::Allowed));
    };
    let forwarding = forwarding(options.local_only);
    let level = v1::Consistency::try_from(options.consistency).map_err(|_| {
        let message = format!(
            "unknown consistency: {}, expected 0 to 3",
            options.consistency
        );
        invalid("options.consistency", message)
    })?;
    let consistency = match level {
        v1::Consistency::Home => Consistency::Home,
        v1::Consistency::Local => Consistency::Local,
        v1::Consistency::Bounded => Consistency::Bounded(Duration::from_millis(options.bound_ms)),
        v1::Consistency::Session => Consistency::Session(session(&options.session)?),
    };
    Ok((consistency, forwarding))
}

fn session(wire: &[v1::Position]) -> Result<Vec<SessionMark>, Error> {
    if wire.len() > SESSION_MARKS_MAX {
        let message = format!(
            "session of {} positions, limit {SESSION_MARKS_MAX}",
            wire.len()
        );
        return Err(invalid("options.session", message));
    }
    wire.iter().map(session_mark).collect()
}

fn session_mark(wire: &v1::Position) -> Result<SessionMark, Error> {
    mark("options.session", wire)
}

/// A partition: 8 bytes.
pub(crate) fn partition(field: &str, bytes: &[u8]) -> Result<PartitionId, Error> {
    let exact = <[u8; PartitionId::BYTES]>::try_from(bytes).map_err(|_| {
        let message = format!("partition of {} bytes, expected 8", bytes.len());
        invalid(field, message)
    })?;
    PartitionId::from_bytes(exact).map_err(|cause| invalid(field, cause))
}

/// A place in a partition's history.
pub(crate) fn mark(field: &str, wire: &v1::Position) -> Result<SessionMark, Error> {
    let partition = partition(field, &wire.partition)?;
    let node = NodeId::new(wire.epoch_node).map_err(|cause| invalid(field, cause))?;
    let epoch = Epoch {
        counter: wire.epoch_counter,
        node,
    };
    Ok(SessionMark {
        partition,
        position: Position {
            epoch,
            seq: Seq::new(wire.seq),
        },
    })
}

/// A page of a scan.
pub(crate) fn scan_call(
    keyspace: Arc<Keyspace>,
    scan: &mut v1::ScanRequest,
    timeout: Option<Duration>,
) -> Result<ScanCall, Error> {
    let limit = match scan.limit as usize {
        0 => PAGE_ROWS_DEFAULT,
        rows if rows <= PAGE_ROWS_MAX => rows,
        _ => {
            let message = format!("page of {} rows, limit {PAGE_ROWS_MAX}", scan.limit);
            return Err(invalid("limit", message));
        }
    };
    let resume_after = page_token::decode(scan)?;
    let (consistency, forwarding) = read_options(scan.options.take())?;
    Ok(ScanCall {
        keyspace,
        from: scan.from.clone(),
        upto: scan.upto.clone(),
        prefix: scan.prefix.clone(),
        direction: if scan.reverse {
            Direction::Backward
        } else {
            Direction::Forward
        },
        limit,
        resume_after,
        consistency,
        timeout,
        forwarding,
    })
}

fn forwarding(local_only: bool) -> Forwarding {
    if local_only {
        Forwarding::LocalOnly
    } else {
        Forwarding::Allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domicile_proto::{Name, RegionId};

    fn keyspace() -> Arc<Keyspace> {
        let region = RegionId::new(1).unwrap();
        Arc::new(Keyspace::new(
            Name::new("users").unwrap(),
            vec![region],
            region,
        ))
    }

    fn field_of(error: &Error) -> &str {
        assert_eq!(error.reason(), Reason::InvalidArgument);
        &error.metadata()["field"]
    }

    #[test]
    fn write_options_are_read_or_refused_by_name() {
        let options = v1::WriteOptions {
            ack: "sync:2".to_owned(),
            request_id: vec![1; 16].into(),
            local_only: true,
            applied_only: true,
        };
        let call = |options| write_call(keyspace(), vec![], Some(options), None);
        let read = call(options.clone()).unwrap();
        assert_eq!(read.level, "sync:2".parse().ok());
        assert_eq!(read.request_id.unwrap().get(), u128::from_be_bytes([1; 16]));
        assert_eq!(read.forwarding, Forwarding::LocalOnly);
        assert_eq!(read.unapplied, Unapplied::Refused);
        let bare = call(v1::WriteOptions::default()).unwrap();
        assert_eq!((bare.level, bare.request_id), (None, None));
        assert_eq!(bare.unapplied, Unapplied::Kept, "as the policy says");
        let refused = call(v1::WriteOptions {
            ack: "most".to_owned(),
            ..options.clone()
        });
        assert_eq!(field_of(&refused.unwrap_err()), "options.ack");
        for bad in [vec![1; 15], vec![1; 17], vec![0; 16]] {
            let refused = call(v1::WriteOptions {
                request_id: bad.into(),
                ..options.clone()
            });
            assert_eq!(field_of(&refused.unwrap_err()), "options.request_id");
        }
    }

    #[test]
    fn conditions_stand_beside_their_operations() {
        use v1::operation::Condition;
        let operation = |key: &'static str, value: Option<&'static str>, condition| v1::Operation {
            key: key.into(),
            value: value.map(Into::into),
            condition,
            ..v1::Operation::default()
        };
        let (operations, conditions) = operations(vec![
            operation("a/1", Some("x"), None),
            operation(
                "a/2",
                None,
                Some(Condition::IfVersion("0.1.9.7".to_owned())),
            ),
            operation("a/3", Some(""), Some(Condition::IfAbsent(true))),
            operation("a/4", Some("y"), Some(Condition::IfAbsent(false))),
        ])
        .unwrap();
        assert!(matches!(operations[1], Operation::Delete { .. }));
        assert!(matches!(&operations[2], Operation::Put { value, .. } if value.is_empty()));
        let keys: Vec<&Bytes> = conditions.iter().map(|condition| &condition.key).collect();
        assert_eq!(keys, ["a/2", "a/3"]);
        assert_eq!(conditions[1].expected, Expected::Absent);
        let bad = operation("a", None, Some(Condition::IfVersion("7".to_owned())));
        let refused = super::operations(vec![bad]).unwrap_err();
        assert_eq!(field_of(&refused), "operations.if_version");
    }

    #[test]
    fn a_lifetime_is_given_one_way_and_within_its_bounds() {
        let put = |ttl_ms, expires_at_ms| {
            let lifetime = Lifetime {
                ttl_ms,
                expires_at_ms,
            };
            single("k".into(), Some("v".into()), lifetime).map(|operation| match operation {
                Operation::Put { expiry, .. } => expiry,
                Operation::Delete { .. } => panic!("a value was given"),
            })
        };
        assert_eq!(put(None, None).unwrap(), None);
        assert_eq!(put(Some(1), None).unwrap(), Some(Expiry::AfterMs(1)));
        assert_eq!(put(None, Some(0)).unwrap(), Some(Expiry::AtMs(0)));
        for refused in [
            put(Some(0), None),
            put(Some(u64::MAX), None),
            put(Some(1), Some(1)),
        ] {
            assert_eq!(field_of(&refused.unwrap_err()), "ttl_ms");
        }
        let lifetime = Lifetime {
            ttl_ms: Some(1),
            ..Lifetime::default()
        };
        let refused = single("k".into(), None, lifetime).unwrap_err();
        assert_eq!(field_of(&refused), "ttl_ms");
    }

    #[test]
    fn read_options_are_read_or_refused_by_name() {
        let mark = v1::Position {
            partition: vec![0, 0, 0, 1, 0, 2, 0, 3].into(),
            epoch_counter: 1,
            epoch_node: 9,
            seq: 5,
        };
        let read = |change: &dyn Fn(&mut v1::ReadOptions)| {
            let mut options = v1::ReadOptions {
                consistency: v1::Consistency::Session.into(),
                session: vec![mark.clone()],
                ..v1::ReadOptions::default()
            };
            change(&mut options);
            read_options(Some(options))
        };
        let (consistency, _) = read(&|_| ()).unwrap();
        assert!(matches!(consistency, Consistency::Session(marks) if marks.len() == 1));
        let (consistency, _) = read(&|options| {
            options.consistency = v1::Consistency::Bounded.into();
            options.bound_ms = 50;
        })
        .unwrap();
        assert_eq!(consistency, Consistency::Bounded(Duration::from_millis(50)));
        let refused = read(&|options| options.consistency = 4).unwrap_err();
        assert_eq!(field_of(&refused), "options.consistency");
        let refused = read(&|options| options.session[0].partition.truncate(7)).unwrap_err();
        assert_eq!(field_of(&refused), "options.session");
        let refused = read(&|options| options.session = vec![mark.clone(); 4097]).unwrap_err();
        assert_eq!(field_of(&refused), "options.session");
    }

    #[test]
    fn a_page_has_a_size() {
        let rows = |limit| {
            let mut scan = v1::ScanRequest {
                limit,
                ..v1::ScanRequest::default()
            };
            scan_call(keyspace(), &mut scan, None).map(|call| call.limit)
        };
        assert_eq!(rows(0).unwrap(), 1000);
        assert_eq!(rows(10_000).unwrap(), 10_000);
        assert_eq!(field_of(&rows(10_001).unwrap_err()), "limit");
    }

    #[test]
    fn fuzz_requests() {
        use prost::Message;
        let operation = |condition| v1::Operation {
            key: Bytes::from_static(b"alice/1"),
            value: Some(Bytes::from_static(b"value")),
            condition,
            ttl_ms: Some(5),
            expires_at_ms: None,
        };
        let version = "0.1.0000000000000001.7".to_owned();
        let condition = v1::operation::Condition::IfVersion(version);
        let batch = v1::BatchRequest {
            operations: vec![operation(None), operation(Some(condition))],
            options: Some(v1::WriteOptions {
                ack: "sync:2".to_owned(),
                request_id: Bytes::from_static(&[1; 16]),
                ..v1::WriteOptions::default()
            }),
            ..v1::BatchRequest::default()
        };
        crate::fuzz_tests::attack(&[batch.encode_to_vec()], &|bytes| {
            let Ok(batch) = v1::BatchRequest::decode(bytes) else {
                return;
            };
            let Ok((operations, _)) = operations(batch.operations) else {
                return;
            };
            let _ = write_call(keyspace(), operations, batch.options, None);
        });
        let scan = v1::ScanRequest {
            from: Bytes::from_static(b"a"),
            prefix: Bytes::from_static(b"al"),
            limit: 10,
            ..v1::ScanRequest::default()
        };
        let position = v1::Position {
            partition: Bytes::from_static(&[0, 0, 0, 1, 0, 1, 0, 1]),
            ..v1::Position::default()
        };
        let valid = [scan.encode_to_vec(), position.encode_to_vec()];
        crate::fuzz_tests::attack(&valid, &|bytes| {
            if let Ok(mut scan) = v1::ScanRequest::decode(bytes) {
                let _ = scan_call(keyspace(), &mut scan, None);
            }
            if let Ok(position) = v1::Position::decode(bytes) {
                let _ = mark("after", &position);
            }
        });
    }
}
