//! One write as bytes: encoded once, at the home, and never re-encoded.
//!
//! **Owns**: the byte layout of a record and of the operations in it.
//! **Does not own**: its place in the log (the segment that carries it says).
//!
//! ```text
//! length u32 | kind u8 | level u8 | flags u16 | hlc u64 | generation u32 | request id u128 | body
//! body of a write: count u16, then per operation:
//!   code u8 | flags u8 | key length u16 | value length u32 | [expiry, ms u64] | key | value
//!   flags of a put: 0 no expiry, 1 expiry is a time since 1970, 2 expiry counts from the stamp
//! body of a mark: code u8
//! ```
//! All little-endian; `length` counts the bytes after itself.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::expiry::Expiry;
use crate::hlc::Hlc;
use crate::identity::RequestId;
use crate::level::AckLevel;
use crate::limits::{
    BATCH_OPERATIONS_MAX, RECORD_BYTES_MAX, VALUE_BYTES_MAX, check_key, check_len, check_value,
};
use crate::wire::{Reader, WireError};

const WHAT: &str = "record";

/// Bytes of a record before its body, the length field included: the sum of the layout above.
pub const RECORD_HEAD_BYTES: usize = 36;

/// Bytes of the length field, which does not count itself.
const RECORD_LEN_BYTES: usize = 4;

/// An operation's flags when it carries a time at which the value ends.
const FLAG_EXPIRES_AT: u8 = 1;
/// An operation's flags when it carries a time to live, counted from the record's own stamp.
const FLAG_EXPIRES_AFTER: u8 = 2;
const CODE_PUT: u8 = 1;
// Codes are part of the format: a new operation takes the next one.
const CODE_DELETE: u8 = 2;

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RecordKind {
    /// One or more operations that take effect together.
    Write,
    /// From here on writes were acknowledged with less than the keyspace's level.
    DegradeBegin,
    /// The keyspace's level holds again.
    DegradeEnd,
    /// The home removes a key whose time has come. Nobody asked for it: its id is not remembered.
    Expiry,
    /// A home begins its reign behind the records of an older one.
    ReignBegin,
    /// The last record of a reign: its home has handed on. Its id names the node that follows.
    ReignEnd,
}

impl RecordKind {
    /// Whether its body has operations; that of a mark is empty.
    #[must_use]
    pub fn has_operations(self) -> bool {
        matches!(self, Self::Write | Self::Expiry)
    }

    fn to_byte(self) -> u8 {
        match self {
            Self::Write => 1,
            Self::DegradeBegin => 2,
            Self::DegradeEnd => 3,
            Self::Expiry => 4,
            Self::ReignBegin => 5,
            Self::ReignEnd => 6,
        }
    }

    fn from_byte(byte: u8) -> Result<Self, WireError> {
        match byte {
            1 => Ok(Self::Write),
            2 => Ok(Self::DegradeBegin),
            3 => Ok(Self::DegradeEnd),
            4 => Ok(Self::Expiry),
            5 => Ok(Self::ReignBegin),
            6 => Ok(Self::ReignEnd),
            _ => Err(WireError::Invalid {
                what: "record kind",
                actual: byte.into(),
            }),
        }
    }
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Sets the key's value.
    Put {
        /// The key.
        key: Bytes,
        /// Its new value.
        value: Bytes,
        /// When it ends; without, an earlier expiry of the key is gone.
        expiry: Option<Expiry>,
    },
    /// Removes the key.
    Delete {
        /// The key.
        key: Bytes,
    },
}

impl Operation {
    /// The key it changes.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }

    fn encoded_len(&self) -> usize {
        match self {
            Self::Put { key, value, expiry } => {
                8 + expiry.map_or(0, |_| 8) + key.len() + value.len()
            }
            Self::Delete { key } => 8 + key.len(),
        }
    }

    fn encode(&self, buffer: &mut BytesMut) {
        let (code, key, value, expiry) = match self {
            Self::Put { key, value, expiry } => (CODE_PUT, key, &value[..], *expiry),
            Self::Delete { key } => (CODE_DELETE, key, &[][..], None),
        };
        let (flags, expiry_ms) = match expiry {
            None => (0, None),
            Some(Expiry::AtMs(at_ms)) => (FLAG_EXPIRES_AT, Some(at_ms)),
            Some(Expiry::AfterMs(ttl_ms)) => (FLAG_EXPIRES_AFTER, Some(ttl_ms)),
        };
        buffer.put_u8(code);
        buffer.put_u8(flags);
        buffer.put_u16_le(key.len() as u16);
        buffer.put_u32_le(value.len() as u32);
        if let Some(expiry_ms) = expiry_ms {
            buffer.put_u64_le(expiry_ms);
        }
        buffer.put_slice(key);
        buffer.put_slice(value);
    }
}

/// One change of one key, where it lies in a record's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperationRef<'a> {
    /// Sets the key's value.
    Put {
        /// The key.
        key: &'a [u8],
        /// Its new value.
        value: &'a [u8],
        /// When it ends; without, an earlier expiry of the key is gone.
        expiry: Option<Expiry>,
    },
    /// Removes the key.
    Delete {
        /// The key.
        key: &'a [u8],
    },
}

impl<'a> OperationRef<'a> {
    fn decode(reader: &mut Reader<'a>) -> Result<Self, WireError> {
        let code = reader.u8()?;
        let flags = reader.u8()?;
        let key_len = usize::from(reader.u16()?);
        let value_len = reader.u32()? as usize;
        check_len("value", value_len, VALUE_BYTES_MAX)?;
        let expiry = match flags {
            0 => None,
            FLAG_EXPIRES_AT => Some(Expiry::AtMs(reader.u64()?)),
            FLAG_EXPIRES_AFTER => Some(Expiry::AfterMs(reader.u64()?)),
            _ => {
                return Err(WireError::Invalid {
                    what: "operation flags",
                    actual: flags.into(),
                });
            }
        };
        expiry.map_or(Ok(()), Expiry::check)?;
        let key = reader.take(key_len)?;
        check_key(key)?;
        let value = reader.take(value_len)?;
        match code {
            CODE_PUT => Ok(Self::Put { key, value, expiry }),
            CODE_DELETE if value_len == 0 && expiry.is_none() => Ok(Self::Delete { key }),
            _ => Err(WireError::Invalid {
                what: "operation code",
                actual: code.into(),
            }),
        }
    }
}

/// The body of a record, encoded before the record has a place, outside every lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordBody(Bytes);

impl RecordBody {
    /// Encodes operations that take effect together.
    ///
    /// # Errors
    /// A key, value, count or total outside [`crate::limits`].
    pub fn encode(operations: &[Operation]) -> Result<Self, WireError> {
        if operations.is_empty() {
            return Err(WireError::Invalid {
                what: "number of operations",
                actual: 0,
            });
        }
        if operations.len() > BATCH_OPERATIONS_MAX {
            let actual = operations.len() as u64;
            return Err(WireError::Invalid {
                what: "number of operations",
                actual,
            });
        }
        for operation in operations {
            check_key(operation.key())?;
            if let Operation::Put { value, expiry, .. } = operation {
                check_value(value)?;
                expiry.map_or(Ok(()), Expiry::check)?;
            }
        }
        let len = 2 + operations.iter().map(Operation::encoded_len).sum::<usize>();
        check_len(WHAT, len + RECORD_HEAD_BYTES, RECORD_BYTES_MAX)?;
        let mut buffer = BytesMut::with_capacity(len);
        buffer.put_u16_le(operations.len() as u16);
        operations
            .iter()
            .for_each(|operation| operation.encode(&mut buffer));
        assert!(
            buffer.len() == len,
            "encoded {} bytes, computed {len}",
            buffer.len()
        );
        Ok(Self(buffer.freeze()))
    }

    /// Takes bytes that another node encoded, and checks all of them.
    ///
    /// # Errors
    /// Bytes that are not those of a write's body.
    pub fn from_untrusted(bytes: Bytes) -> Result<(Self, Vec<Operation>), WireError> {
        check_len(WHAT, bytes.len() + RECORD_HEAD_BYTES, RECORD_BYTES_MAX)?;
        if bytes.is_empty() {
            return Err(WireError::Truncated {
                what: "record body",
                actual: 0,
                needed: 2,
            });
        }
        let body = Self(bytes);
        let operations = body.operations()?;
        Ok((body, operations))
    }

    /// The body of a mark, which is empty.
    #[must_use]
    pub fn mark() -> Self {
        Self(Bytes::new())
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// A hash of the content, by which a reused request id with another payload is told.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        crate::hash::hash64(&self.0)
    }

    /// The operations; keys and values share this body's allocation. A mark has none.
    ///
    /// # Errors
    /// Bytes that are not those of a body.
    pub fn operations(&self) -> Result<Vec<Operation>, WireError> {
        let mut operations = Vec::new();
        self.visit_operations(|operation| {
            operations.push(match operation {
                OperationRef::Put { key, value, expiry } => Operation::Put {
                    key: self.0.slice_ref(key),
                    value: self.0.slice_ref(value),
                    expiry,
                },
                OperationRef::Delete { key } => Operation::Delete {
                    key: self.0.slice_ref(key),
                },
            });
        })?;
        Ok(operations)
    }

    /// Shows the operations in order, without an allocation. A mark has none.
    ///
    /// # Errors
    /// Bytes that are not those of a body: some operations may have been shown by then.
    pub fn visit_operations<'a>(
        &'a self,
        mut visit: impl FnMut(OperationRef<'a>),
    ) -> Result<(), WireError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let mut reader = Reader::new("record body", &self.0);
        let count = usize::from(reader.u16()?);
        if count == 0 || count > BATCH_OPERATIONS_MAX {
            return Err(WireError::Invalid {
                what: "number of operations",
                actual: count as u64,
            });
        }
        for _ in 0..count {
            visit(OperationRef::decode(&mut reader)?);
        }
        if reader.remaining() != 0 {
            let actual = reader.remaining() as u64;
            return Err(WireError::Invalid {
                what: "bytes after the last operation",
                actual,
            });
        }
        Ok(())
    }
}

/// What is known of a record beside its place and its operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHead {
    /// What it is.
    pub kind: RecordKind,
    /// The level promised to its writer.
    pub level: AckLevel,
    /// When the home sequenced it.
    pub hlc: Hlc,
    /// The generation of its group.
    pub generation: u32,
    /// Under which id it was asked for.
    pub request_id: RequestId,
}

/// A record: head and body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The head.
    pub head: RecordHead,
    /// The body.
    pub body: RecordBody,
}

impl Record {
    /// Bytes it takes in a segment.
    #[must_use]
    pub fn encoded_len(body: &RecordBody) -> usize {
        RECORD_HEAD_BYTES + body.0.len()
    }

    /// Appends head and body to a buffer.
    pub fn encode(buffer: &mut BytesMut, head: &RecordHead, body: &RecordBody) {
        let len = Self::encoded_len(body);
        assert!(
            len <= RECORD_BYTES_MAX,
            "record of {len} bytes, limit {RECORD_BYTES_MAX}"
        );
        buffer.put_u32_le((len - RECORD_LEN_BYTES) as u32);
        buffer.put_u8(head.kind.to_byte());
        buffer.put_u8(head.level.to_byte());
        buffer.put_u16_le(0);
        buffer.put_u64_le(head.hlc.bits());
        buffer.put_u32_le(head.generation);
        buffer.put_u128_le(head.request_id.get());
        buffer.put_slice(&body.0);
    }

    /// Takes one record off the front of `payload`.
    ///
    /// # Errors
    /// Bytes that are not those of a record; the body is not looked into.
    pub fn decode_front(payload: &mut Bytes) -> Result<Self, WireError> {
        let mut reader = Reader::new(WHAT, payload);
        let len = reader.u32()? as usize;
        check_len(WHAT, len, RECORD_BYTES_MAX)?;
        let mut inner = Reader::new(WHAT, reader.take(len)?);
        let kind = RecordKind::from_byte(inner.u8()?)?;
        let level = inner.u8()?;
        let level = AckLevel::from_byte(level).ok_or(WireError::Invalid {
            what: "record level",
            actual: level.into(),
        })?;
        let flags = inner.u16()?;
        if flags != 0 {
            return Err(WireError::Invalid {
                what: "record flags",
                actual: flags.into(),
            });
        }
        let hlc = Hlc::from_bits(inner.u64()?);
        let generation = inner.u32()?;
        let request_id = RequestId::new(inner.u128()?).map_err(|_| WireError::Invalid {
            what: "request id",
            actual: 0,
        })?;
        let mut body = payload.split_to(RECORD_LEN_BYTES + len);
        body.advance(RECORD_HEAD_BYTES);
        let body = RecordBody(body);
        Ok(Self {
            head: RecordHead {
                kind,
                level,
                hlc,
                generation,
                request_id,
            },
            body,
        })
    }
}
