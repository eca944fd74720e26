//! What a write was told, what a read found.
//!
//! **Owns**: the checked forms of the answers.
//! **Does not own**: asking (`write`, `read`, `stream`).

use std::time::Duration;

use bytes::Bytes;
use domicile_proto::{AckLevel, PartitionId, Position, RequestId, Version, v1};

use crate::error::ClientError;
use crate::session::SessionMark;

/// What a write was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Where it went.
    pub partition: PartitionId,
    /// Its place there.
    pub position: Position,
    /// The version that its cells have now.
    pub version: Version,
    /// The level asked for.
    pub asked: AckLevel,
    /// The level reached when it was answered.
    pub achieved: AckLevel,
    /// Regions that held it durably then.
    pub durable_in: Vec<String>,
    /// The id it was done under.
    pub request_id: RequestId,
    /// Acknowledged with less than the keyspace's level, in a recorded degraded state.
    pub degraded: bool,
    /// It had been done before; this is its receipt.
    pub duplicate: bool,
}

impl Receipt {
    pub(crate) fn from_wire(wire: v1::WriteResponse) -> Result<Self, ClientError> {
        let mark = mark_of(wire.position.as_ref())?;
        Ok(Self {
            partition: mark.partition,
            position: mark.position,
            version: version_of(&wire.version)?,
            asked: level_of(&wire.asked)?,
            achieved: level_of(&wire.achieved)?,
            durable_in: wire.durable_in,
            request_id: request_of(&wire.request_id)?,
            degraded: wire.degraded,
            duplicate: wire.duplicate,
        })
    }

    /// The mark by which a session reads this write.
    #[must_use]
    pub fn mark(&self) -> SessionMark {
        SessionMark {
            partition: self.partition,
            position: self.position,
        }
    }
}

/// A write that a node keeps for its home, which could not be reached. It is not applied: no read
/// sees it, others may come before it, and its home may still refuse it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// By which the node's buffer names it.
    pub number: u64,
    /// The region whose node keeps it: it is the one to ask for the outcome.
    pub region: String,
    /// When it was accepted, in ms since 1970.
    pub accepted_at_ms: u64,
    /// The id it is done under, once.
    pub request_id: RequestId,
    /// Why its home refused it meanwhile, as a stable reason and in words.
    pub refused: Option<(String, String)>,
}

/// What a write was told that may be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// It is done.
    Applied(Receipt),
    /// ACCEPTED_NOT_APPLIED.
    Accepted(Accepted),
}

impl Written {
    pub(crate) fn from_wire(wire: v1::WriteResponse) -> Result<Self, ClientError> {
        let Some(accepted) = wire.accepted else {
            return Receipt::from_wire(wire).map(Self::Applied);
        };
        let v1::AcceptedNotApplied {
            number,
            accepted_at_ms,
            region,
            refused_reason,
            refused_message,
        } = accepted;
        let is_refused = !refused_reason.is_empty();
        Ok(Self::Accepted(Accepted {
            number,
            region,
            accepted_at_ms,
            request_id: request_of(&wire.request_id)?,
            refused: is_refused.then_some((refused_reason, refused_message)),
        }))
    }

    /// The receipt of a write that is done.
    ///
    /// # Errors
    /// It is kept, which a caller who did not ask for it is never told.
    pub fn applied(self) -> Result<Receipt, ClientError> {
        match self {
            Self::Applied(receipt) => Ok(receipt),
            Self::Accepted(_) => Err(ClientError::unreadable("receipt", "accepted, not applied")),
        }
    }
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// For compare-and-set.
    pub version: Version,
    /// Milliseconds since 1970 when the home sequenced it.
    pub written_at_ms: u64,
    /// Milliseconds since 1970 when it ends; its home removes it within about a second after.
    pub expires_at_ms: Option<u64>,
}

impl Entry {
    pub(crate) fn from_wire(wire: v1::Entry) -> Result<Self, ClientError> {
        Ok(Self {
            version: version_of(&wire.version)?,
            key: wire.key,
            value: wire.value,
            written_at_ms: wire.written_at_ms,
            expires_at_ms: wire.expires_at_ms,
        })
    }
}

/// The answer to a get, with where and how fresh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadAnswer {
    /// The key's cell; `None`: absent.
    pub entry: Option<Entry>,
    /// Up to where the answering node had applied the partition; `None`: nothing yet.
    pub mark: Option<SessionMark>,
    /// How far behind the home that may be.
    pub staleness: Duration,
    /// The region that answered.
    pub region: String,
}

impl ReadAnswer {
    pub(crate) fn from_wire(wire: v1::GetResponse) -> Result<Self, ClientError> {
        Ok(Self {
            entry: wire.entry.map(Entry::from_wire).transpose()?,
            mark: wire
                .position
                .as_ref()
                .map(SessionMark::from_wire)
                .transpose()?,
            staleness: Duration::from_millis(wire.staleness_ms),
            region: wire.region,
        })
    }
}

/// Where the next page of a scan goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageToken(pub(crate) Bytes);

/// One page of a scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Rows in key order.
    pub entries: Vec<Entry>,
    /// `None`: this was the last page.
    pub next: Option<PageToken>,
    /// One mark a partition that was read.
    pub marks: Vec<SessionMark>,
    /// How far behind the homes the rows may be.
    pub staleness: Duration,
    /// The region that answered.
    pub region: String,
}

impl Page {
    pub(crate) fn from_wire(wire: v1::ScanResponse) -> Result<Self, ClientError> {
        let entries = wire.entries.into_iter().map(Entry::from_wire);
        let marks = wire.positions.iter().map(SessionMark::from_wire);
        let next = wire.next_page_token;
        Ok(Self {
            entries: entries.collect::<Result<_, _>>()?,
            next: (!next.is_empty()).then_some(PageToken(next)),
            marks: marks.collect::<Result<_, _>>()?,
            staleness: Duration::from_millis(wire.staleness_ms),
            region: wire.region,
        })
    }
}

fn mark_of(wire: Option<&v1::Position>) -> Result<SessionMark, ClientError> {
    let wire = wire.ok_or_else(|| ClientError::unreadable("receipt", "no position"))?;
    SessionMark::from_wire(wire)
}

fn version_of(text: &str) -> Result<Version, ClientError> {
    text.parse::<Version>()
        .map_err(|cause| ClientError::unreadable("version", cause))
}

fn level_of(text: &str) -> Result<AckLevel, ClientError> {
    text.parse::<AckLevel>()
        .map_err(|cause| ClientError::unreadable("level", cause))
}

fn request_of(bytes: &[u8]) -> Result<RequestId, ClientError> {
    let exact = <[u8; 16]>::try_from(bytes).map_err(|_| {
        ClientError::unreadable("request id", format!("{} bytes, expected 16", bytes.len()))
    })?;
    let id = RequestId::new(u128::from_be_bytes(exact));
    id.map_err(|cause| ClientError::unreadable("request id", cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receipts_are_checked_field_by_field() {
        let position = v1::Position {
            partition: vec![0, 0, 0, 1, 0, 2, 0, 3].into(),
            epoch_counter: 1,
            epoch_node: 9,
            seq: 5,
        };
        let good = v1::WriteResponse {
            position: Some(position),
            version: "0.1.9.5".to_owned(),
            asked: "async".to_owned(),
            achieved: "semi-sync".to_owned(),
            durable_in: vec!["eu".to_owned()],
            request_id: vec![1; 16].into(),
            degraded: false,
            duplicate: true,
            accepted: None,
        };
        let receipt = Receipt::from_wire(good.clone()).unwrap();
        assert_eq!(receipt.version.seq, receipt.position.seq);
        assert_eq!(receipt.achieved, AckLevel::SEMI_SYNC);
        let spoilt: [fn(&mut v1::WriteResponse); 5] = [
            |wire| wire.position = None,
            |wire| wire.version = "5".to_owned(),
            |wire| wire.asked.clear(),
            |wire| wire.achieved = "most".to_owned(),
            |wire| wire.request_id = vec![0; 16].into(),
        ];
        for spoil in spoilt {
            let mut wire = good.clone();
            spoil(&mut wire);
            assert!(
                Receipt::from_wire(wire.clone()).is_err(),
                "{wire:?} was accepted"
            );
        }
    }

    #[test]
    fn what_is_kept_is_no_receipt() {
        let kept = v1::AcceptedNotApplied {
            number: 7,
            accepted_at_ms: 9,
            region: "us".to_owned(),
            ..v1::AcceptedNotApplied::default()
        };
        let wire = v1::WriteResponse {
            request_id: vec![1; 16].into(),
            accepted: Some(kept.clone()),
            ..v1::WriteResponse::default()
        };
        assert!(Receipt::from_wire(wire.clone()).is_err());
        let written = Written::from_wire(wire.clone()).unwrap();
        assert!(written.clone().applied().is_err());
        let Written::Accepted(accepted) = written else {
            panic!("it is applied");
        };
        assert_eq!((accepted.number, accepted.refused), (7, None));
        let refused = v1::AcceptedNotApplied {
            refused_reason: "INVALID_LEVEL".to_owned(),
            ..kept
        };
        let accepted = Some(refused);
        let written = Written::from_wire(v1::WriteResponse { accepted, ..wire });
        assert!(matches!(
            written,
            Ok(Written::Accepted(Accepted {
                refused: Some(_),
                ..
            }))
        ));
    }

    #[test]
    fn fuzz_answers() {
        use prost::Message;
        let version = "0.1.0000000000000001.7".to_owned();
        let position = v1::Position {
            partition: vec![0, 0, 0, 1, 0, 1, 0, 1].into(),
            ..v1::Position::default()
        };
        let write = v1::WriteResponse {
            version: version.clone(),
            position: Some(position.clone()),
            request_id: vec![1; 16].into(),
            ..v1::WriteResponse::default()
        };
        let entry = v1::Entry {
            key: b"key".to_vec().into(),
            version,
            ..v1::Entry::default()
        };
        let get = v1::GetResponse {
            entry: Some(entry.clone()),
            position: Some(position),
            ..v1::GetResponse::default()
        };
        let scan = v1::ScanResponse {
            entries: vec![entry.clone(), entry],
            ..v1::ScanResponse::default()
        };
        let valid = [
            write.encode_to_vec(),
            get.encode_to_vec(),
            scan.encode_to_vec(),
        ];
        crate::fuzz_tests::attack(&valid, &|bytes| {
            let _ = v1::WriteResponse::decode(bytes).map(Written::from_wire);
            let _ = v1::GetResponse::decode(bytes).map(ReadAnswer::from_wire);
            let _ = v1::ScanResponse::decode(bytes).map(Page::from_wire);
        });
    }
}
