//! The bytes of the log's file: its header and its frames.
//!
//! **Owns**: their layout and checks.
//! **Does not own**: which frame is torn and which damaged (scan).
//!
//! ```text
//! header  magic "DCLG" u32 | version u16 | zeros u16 | node u64 | crc32 of bytes 0..16
//! frame   magic "DCLF" u32 | kind u8 | zeros 3 | offset u64 | body bytes u32 | crc32 of the body
//!           | crc32 of bytes 0..24 | body | "FLCD" u32
//! body    1 append    committed (25) | entries u32 | per entry: id (24), bytes u32, payload
//!         2 truncate  first index that is dropped u64
//!         3 purge     id (24) of the last entry that is dropped
//! id      term u64 | leader u64, 0: nobody | index u64
//! committed: 1 and an id, or 25 zeros
//! ```
//! Little-endian. The offset is the frame's place in the file, so that a frame inside a payload is
//! never taken for one of the log; the last four bytes are not zeros, so that a frame whose last
//! sector was not written is told from one that is damaged.

use bytes::{Buf, BufMut, Bytes};
use domicile_proto::NodeId;

use super::entry::{Entry, EntryId, LogIndex, PAYLOAD_BYTES_MAX, Term};

pub(super) const HEADER_MAGIC: [u8; 4] = *b"DCLG";
pub(super) const VERSION: u16 = 1;
/// Bytes of the file's header: the layout above.
pub(super) const HEADER_BYTES: usize = 20;
const FRAME_MAGIC: [u8; 4] = *b"DCLF";
/// Bytes of a frame before its body: the layout above.
pub(super) const FRAME_HEADER_BYTES: usize = 28;
const TRAILER: [u8; 4] = *b"FLCD";
/// Bytes of an id: the layout above.
const ID_BYTES: usize = 24;
/// Bytes of an entry around its payload: the layout above.
pub(super) const ENTRY_HEADER_BYTES: usize = ID_BYTES + 4;

/// One change of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    /// Entries behind the last one, and what was known to be committed then.
    Append {
        committed: Option<EntryId>,
        entries: Vec<Entry>,
    },
    /// Everything from here on is dropped.
    Truncate { from: LogIndex },
    /// Everything up to here is covered by a snapshot.
    Purge { upto: EntryId },
}

/// The header of a file that is `node`'s.
pub(super) fn header(node: NodeId) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES);
    bytes.put_slice(&HEADER_MAGIC);
    bytes.put_u16_le(VERSION);
    bytes.put_u16_le(0);
    bytes.put_u64_le(node.get());
    let crc = crc32fast::hash(&bytes);
    bytes.put_u32_le(crc);
    bytes
}

impl Frame {
    /// Its bytes at this place of the file.
    pub(super) fn encode(&self, offset: u64) -> Vec<u8> {
        let (kind, body) = self.body();
        let mut bytes = Vec::with_capacity(FRAME_HEADER_BYTES + body.len() + TRAILER.len());
        bytes.put_slice(&FRAME_MAGIC);
        bytes.put_u8(kind);
        bytes.put_bytes(0, 3);
        bytes.put_u64_le(offset);
        bytes.put_u32_le(u32::try_from(body.len()).expect("bounded by the log's largest file"));
        bytes.put_u32_le(crc32fast::hash(&body));
        let crc = crc32fast::hash(&bytes);
        bytes.put_u32_le(crc);
        bytes.put_slice(&body);
        bytes.put_slice(&TRAILER);
        bytes
    }

    fn body(&self) -> (u8, Vec<u8>) {
        let mut body = Vec::new();
        match self {
            Self::Append { committed, entries } => {
                put_committed(&mut body, *committed);
                body.put_u32_le(u32::try_from(entries.len()).expect("held in memory"));
                for entry in entries {
                    put_id(&mut body, entry.id);
                    body.put_u32_le(u32::try_from(entry.payload.len()).expect("checked before"));
                    body.put_slice(&entry.payload);
                }
                (1, body)
            }
            Self::Truncate { from } => {
                body.put_u64_le(from.get());
                (2, body)
            }
            Self::Purge { upto } => {
                put_id(&mut body, *upto);
                (3, body)
            }
        }
    }
}

/// The frame at a place: its kind and where its body lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHeader {
    kind: u8,
    body_bytes: usize,
    body_crc: u32,
}

impl FrameHeader {
    /// The header of a frame that says that it lies at `offset`; `None` for any other bytes.
    pub(super) fn decode(bytes: &[u8], offset: u64) -> Option<Self> {
        let (mut fields, rest) = bytes.split_at_checked(FRAME_HEADER_BYTES - 4)?;
        let crc = crc32fast::hash(fields);
        let (mut stored, _) = rest.split_at_checked(4)?;
        if fields[..4] != FRAME_MAGIC || stored.get_u32_le() != crc {
            return None;
        }
        fields.advance(4);
        let kind = fields.get_u8();
        fields.advance(3);
        let at = fields.get_u64_le();
        let body_bytes = usize::try_from(fields.get_u32_le()).ok()?;
        (at == offset).then(|| Self {
            kind,
            body_bytes,
            body_crc: fields.get_u32_le(),
        })
    }

    /// Bytes of the whole frame.
    pub(super) fn frame_bytes(self) -> usize {
        FRAME_HEADER_BYTES + self.body_bytes + TRAILER.len()
    }

    /// The intact body behind the header at the beginning of `bytes`.
    pub(super) fn body(self, bytes: &[u8]) -> Option<&[u8]> {
        let frame = bytes.get(FRAME_HEADER_BYTES..self.frame_bytes())?;
        let body = frame.strip_suffix(&TRAILER)?;
        (crc32fast::hash(body) == self.body_crc).then_some(body)
    }

    /// What an intact body says.
    ///
    /// # Errors
    /// What is wrong with it: whoever wrote its checksum wrote nonsense.
    pub(super) fn decode_body(self, body: &[u8]) -> Result<Frame, String> {
        let mut fields = body;
        let frame = match self.kind {
            1 => take_append(&mut fields)?,
            2 => Frame::Truncate {
                from: LogIndex::new(fields.try_get_u64_le().map_err(|_| short("truncation"))?),
            },
            3 => Frame::Purge {
                upto: take_id(&mut fields)?,
            },
            kind => return Err(format!("frame of unknown kind {kind}")),
        };
        if !fields.is_empty() {
            return Err(format!("{} bytes behind the end of a frame", fields.len()));
        }
        Ok(frame)
    }
}

fn take_append(fields: &mut &[u8]) -> Result<Frame, String> {
    let committed = take_committed(fields)?;
    let count = fields.try_get_u32_le().map_err(|_| short("append"))? as usize;
    let limit = fields.len() / ENTRY_HEADER_BYTES;
    if count > limit {
        return Err(format!("{count} entries where {limit} fit"));
    }
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        let id = take_id(fields)?;
        let len = fields.try_get_u32_le().map_err(|_| short("entry"))? as usize;
        if len > PAYLOAD_BYTES_MAX {
            return Err(format!(
                "payload too large: {len} bytes, limit {PAYLOAD_BYTES_MAX}"
            ));
        }
        let (payload, rest) = fields
            .split_at_checked(len)
            .ok_or_else(|| short("payload"))?;
        *fields = rest;
        let payload = Bytes::copy_from_slice(payload);
        entries.push(Entry { id, payload });
    }
    Ok(Frame::Append { committed, entries })
}

fn short(what: &str) -> String {
    format!("{what} ends too early")
}

fn put_committed(bytes: &mut Vec<u8>, committed: Option<EntryId>) {
    bytes.put_u8(u8::from(committed.is_some()));
    match committed {
        Some(id) => put_id(bytes, id),
        None => bytes.put_bytes(0, ID_BYTES),
    }
}

fn take_committed(fields: &mut &[u8]) -> Result<Option<EntryId>, String> {
    let known = fields.try_get_u8().map_err(|_| short("append"))?;
    let id = take_id(fields)?;
    match known {
        0 => Ok(None),
        1 => Ok(Some(id)),
        other => Err(format!("committed mark of kind {other}")),
    }
}

fn put_id(bytes: &mut Vec<u8>, id: EntryId) {
    bytes.put_u64_le(id.term.get());
    bytes.put_u64_le(id.leader.map_or(0, NodeId::get));
    bytes.put_u64_le(id.index.get());
}

fn take_id(fields: &mut &[u8]) -> Result<EntryId, String> {
    if fields.len() < ID_BYTES {
        return Err(short("id"));
    }
    Ok(EntryId {
        term: Term::new(fields.get_u64_le()),
        leader: NodeId::new(fields.get_u64_le()).ok(),
        index: LogIndex::new(fields.get_u64_le()),
    })
}
