//! What is told of a write that waits for its home: accepted, refused, settled.
//!
//! **Owns**: the events and their bytes.
//! **Does not own**: the frames around them (`frame`).
//!
//! ```text
//! accepted u8 1 | number u64 | partition 8 | request id 16 | accepted at, ms since 1970, u64
//!   | log end: counter u64, node u64 (0: none), seq u64 | body length u32 | body
//! settled  u8 2 | number u64
//! refused  u8 3 | number u64 | reason length u16 | reason | message length u16 | message
//! ```
//! Little-endian, but for the request id, which is as on the wire.

use bytes::{Buf, BufMut, Bytes};
use domicile_proto::record::RecordBody;
use domicile_proto::{Epoch, NodeId, PartitionId, Position, RequestId, Seq};

// The numbers are part of the format: a new event takes the next one.
/// The first byte of an accepted write.
const ACCEPTED: u8 = 1;
/// Of one that is settled.
const SETTLED: u8 = 2;
/// Of one that was refused.
const REFUSED: u8 = 3;

/// Bytes of an accepted write before its body: the layout above.
pub(super) const ACCEPTED_HEAD_BYTES: usize = 1 + 8 + 8 + 16 + 8 + 24 + 4;

/// Bytes of a reason or a message that are kept: what people read of it. Doubled, a thousand
/// refused writes take a megabyte more.
const TEXT_BYTES_MAX: usize = 1024;

/// By which a buffered write is named: grows with each, and is never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BufferNumber(u64);

impl BufferNumber {
    /// Of the first write.
    pub const FIRST: Self = Self(1);

    /// The write of this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Of the write behind it.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A write that is to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewBuffered {
    /// Where it belongs.
    pub partition: PartitionId,
    /// The id under which it is done at most once.
    pub request_id: RequestId,
    /// When it was accepted, in ms since 1970.
    pub accepted_at_ms: u64,
    /// Where the log of its partition ended here, or some way before: if the write was done by
    /// another way, it is behind that. `None`: nothing was in the log.
    pub log_end: Option<Position>,
    /// What it does.
    pub body: RecordBody,
}

impl NewBuffered {
    /// Bytes that it will take on disk.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        (ACCEPTED_HEAD_BYTES + self.body.bytes().len()) as u64
    }

    /// What is held in memory of it once it is kept.
    #[must_use]
    pub fn kept_as(&self, number: BufferNumber, bytes: u64) -> BufferedWrite {
        BufferedWrite {
            number,
            partition: self.partition,
            request_id: self.request_id,
            accepted_at_ms: self.accepted_at_ms,
            log_end: self.log_end,
            fingerprint: self.body.fingerprint(),
            bytes,
            refused: None,
        }
    }
}

/// Why a home refused a write for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedWrite {
    /// The stable reason.
    pub reason: String,
    /// In words.
    pub message: String,
}

/// A write that is kept, without its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BufferedWrite {
    /// Its name.
    pub number: BufferNumber,
    /// Where it belongs.
    pub partition: PartitionId,
    /// The id under which it is done at most once.
    pub request_id: RequestId,
    /// When it was accepted, in ms since 1970.
    pub accepted_at_ms: u64,
    /// As in [`NewBuffered`].
    pub log_end: Option<Position>,
    /// A hash of what it does, as the home remembers it.
    pub fingerprint: u64,
    /// Bytes that it takes on disk.
    pub bytes: u64,
    /// Why its home refused it; `None`: it waits.
    pub refused: Option<RefusedWrite>,
}

/// What is added to the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BufferEvent {
    /// A write is kept from now on, under this number.
    Accepted(BufferNumber, NewBuffered),
    /// It is done, or given up: it is not kept any more.
    Settled(BufferNumber),
    /// Its home refused it for good: it is kept, and not sent again.
    Refused(BufferNumber, RefusedWrite),
}

impl BufferEvent {
    pub(super) fn encode(&self, buffer: &mut Vec<u8>) {
        match self {
            Self::Accepted(number, write) => {
                let end = write.log_end;
                buffer.put_u8(ACCEPTED);
                buffer.put_u64_le(number.get());
                buffer.put_slice(&write.partition.to_bytes());
                buffer.put_u128(write.request_id.get());
                buffer.put_u64_le(write.accepted_at_ms);
                buffer.put_u64_le(end.map_or(0, |end| end.epoch.counter));
                buffer.put_u64_le(end.map_or(0, |end| end.epoch.node.get()));
                buffer.put_u64_le(end.map_or(0, |end| end.seq.get()));
                let body = write.body.bytes();
                buffer.put_u32_le(u32::try_from(body.len()).expect("a record is below 4 GiB"));
                buffer.put_slice(body);
            }
            Self::Settled(number) => {
                buffer.put_u8(SETTLED);
                buffer.put_u64_le(number.get());
            }
            Self::Refused(number, refused) => {
                buffer.put_u8(REFUSED);
                buffer.put_u64_le(number.get());
                put_text(buffer, &refused.reason);
                put_text(buffer, &refused.message);
            }
        }
    }

    /// Takes one event off the front.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub(super) fn decode(bytes: &mut Bytes) -> Result<Self, String> {
        need(bytes, 9)?;
        let kind = bytes.get_u8();
        let number = BufferNumber(bytes.get_u64_le());
        if number < BufferNumber::FIRST {
            return Err("a write of number 0".to_owned());
        }
        match kind {
            ACCEPTED => Ok(Self::Accepted(number, take_accepted(bytes)?)),
            SETTLED => Ok(Self::Settled(number)),
            REFUSED => {
                let (reason, message) = (take_text(bytes)?, take_text(bytes)?);
                Ok(Self::Refused(number, RefusedWrite { reason, message }))
            }
            other => Err(format!("event of kind {other}, expected 1 to 3")),
        }
    }
}

fn take_accepted(bytes: &mut Bytes) -> Result<NewBuffered, String> {
    need(bytes, ACCEPTED_HEAD_BYTES - 9)?;
    let mut partition = [0; PartitionId::BYTES];
    bytes.copy_to_slice(&mut partition);
    let partition = PartitionId::from_bytes(partition).map_err(|error| error.to_string())?;
    let request_id = RequestId::new(bytes.get_u128()).map_err(|error| error.to_string())?;
    let accepted_at_ms = bytes.get_u64_le();
    let (counter, node) = (bytes.get_u64_le(), bytes.get_u64_le());
    let seq = Seq::new(bytes.get_u64_le());
    let node = NodeId::new(node).ok();
    let log_end = node.map(|node| Position {
        epoch: Epoch { counter, node },
        seq,
    });
    let len = bytes.get_u32_le() as usize;
    need(bytes, len)?;
    let body = RecordBody::from_untrusted(bytes.split_to(len));
    let (body, _) = body.map_err(|error| error.to_string())?;
    Ok(NewBuffered {
        partition,
        request_id,
        accepted_at_ms,
        log_end,
        body,
    })
}

fn need(bytes: &Bytes, needed: usize) -> Result<(), String> {
    let actual = bytes.remaining();
    match actual < needed {
        true => Err(format!("event of {actual} bytes, {needed} needed")),
        false => Ok(()),
    }
}

fn put_text(buffer: &mut Vec<u8>, text: &str) {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    buffer.put_u16_le(u16::try_from(end).expect("a kept text is at most 1,024 bytes"));
    buffer.put_slice(&text.as_bytes()[..end]);
}

fn take_text(bytes: &mut Bytes) -> Result<String, String> {
    need(bytes, 2)?;
    let len = usize::from(bytes.get_u16_le());
    need(bytes, len)?;
    let text = String::from_utf8(bytes.split_to(len).to_vec());
    text.map_err(|error| format!("text that is no UTF-8: {error}"))
}
