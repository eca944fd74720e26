//! Reading the log's file from its beginning: what is in it, where it ends, what is damaged.
//!
//! **Owns**: telling a torn tail, which is cut, from damage, which is not.
//! **Does not own**: the bytes of a frame, cutting.
//!
//! A write that the loss of power interrupted ends early, or lacks whole sectors, which then read
//! as zeros: the file had nothing there before. Nothing was written behind it. Any other frame that
//! does not match its checksum is damage, also the last one: its entries may have been told.

use std::path::Path;

use domicile_proto::NodeId;

use super::contents::{Contents, OutOfOrder};
use super::frame::{
    FRAME_HEADER_BYTES, Frame, FrameHeader, HEADER_BYTES, HEADER_MAGIC, VERSION, header,
};
use crate::error::StoreError;

/// What a disk writes whole, or not at all; see the disk in memory.
const SECTOR_BYTES: usize = 512;

/// What a file holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Scanned {
    pub(super) contents: Contents,
    /// Bytes of intact frames; behind them lies a torn one, or nothing.
    pub(super) end: usize,
}

/// Reads a whole file that is `node`'s.
///
/// # Errors
/// [`StoreError::Corrupt`] with the place, [`StoreError::ForeignNode`],
/// [`StoreError::UnknownFormat`].
pub(super) fn scan(bytes: &[u8], node: NodeId, path: &Path) -> Result<Scanned, StoreError> {
    check_header(bytes, node, path)?;
    let (mut contents, mut end) = (Contents::default(), HEADER_BYTES);
    while end < bytes.len() {
        let corrupt = |problem: String| StoreError::corrupt(path, end as u64, problem);
        let rest = &bytes[end..];
        let found = FrameHeader::decode(rest, end as u64);
        let Some((header, body)) = found.and_then(|header| Some((header, header.body(rest)?)))
        else {
            if is_torn(bytes, end, found) {
                break;
            }
            return Err(corrupt("a frame does not match its checksum".to_owned()));
        };
        let frame = header.decode_body(body).map_err(corrupt)?;
        replay(&mut contents, frame).map_err(|OutOfOrder { expected, actual }| {
            corrupt(format!("{actual} where {expected} is due"))
        })?;
        end += header.frame_bytes();
    }
    Ok(Scanned { contents, end })
}

fn replay(contents: &mut Contents, frame: Frame) -> Result<(), OutOfOrder> {
    match frame {
        Frame::Append { committed, entries } => {
            contents.check_append(&entries)?;
            contents.append(entries);
            contents.committed = committed.or(contents.committed);
        }
        Frame::Truncate { from } => {
            contents.check_truncate(from)?;
            contents.truncate(from);
        }
        Frame::Purge { upto } => contents.purge(upto),
    }
    Ok(())
}

/// Whether the bytes from `at` on, which are no intact frame, are what an interrupted write leaves.
fn is_torn(bytes: &[u8], at: usize, found: Option<FrameHeader>) -> bool {
    let offsets = at + 1..bytes.len().saturating_sub(FRAME_HEADER_BYTES - 1);
    let followed = offsets.into_iter().any(|offset| {
        let later = &bytes[offset..];
        FrameHeader::decode(later, offset as u64)
            .is_some_and(|later_header| later_header.body(later).is_some())
    });
    if followed {
        return false;
    }
    // Without a header nobody knows where the frame was to end.
    let needed = found.map_or(FRAME_HEADER_BYTES, FrameHeader::frame_bytes);
    let until = bytes
        .len()
        .min(found.map_or(bytes.len(), |header| at + header.frame_bytes()));
    bytes.len() - at < needed || has_blank_sector(bytes, at, until)
}

/// Whether a sector of the file is zeros throughout, as far as it lies between the two.
fn has_blank_sector(bytes: &[u8], from: usize, until: usize) -> bool {
    let mut at = from;
    while at < until {
        let sector_end = ((at / SECTOR_BYTES + 1) * SECTOR_BYTES).min(until);
        if bytes[at..sector_end].iter().all(|byte| *byte == 0) {
            return true;
        }
        at = sector_end;
    }
    false
}

fn check_header(bytes: &[u8], node: NodeId, path: &Path) -> Result<(), StoreError> {
    let corrupt = |problem: String| StoreError::corrupt(path, 0, problem);
    let Some(found) = bytes.first_chunk::<HEADER_BYTES>() else {
        return Err(corrupt(format!("control log of {} bytes", bytes.len())));
    };
    if found[..4] != HEADER_MAGIC {
        return Err(corrupt(format!("bad magic {:02x?}", &found[..4])));
    }
    let [.., c0, c1, c2, c3] = *found;
    if u32::from_le_bytes([c0, c1, c2, c3]) != crc32fast::hash(&found[..HEADER_BYTES - 4]) {
        return Err(corrupt("checksum mismatch of the header".to_owned()));
    }
    let actual = u16::from_le_bytes([found[4], found[5]]);
    if actual != VERSION {
        return Err(StoreError::UnknownFormat {
            what: "control log",
            path: path.to_owned(),
            actual: actual.into(),
            supported: VERSION.into(),
        });
    }
    if found[..] == header(node) {
        return Ok(());
    }
    let [_, _, _, _, _, _, _, _, id @ .., _, _, _, _] = *found;
    let actual = NodeId::new(u64::from_le_bytes(id));
    let actual = actual.map_err(|_| corrupt("written by node 0".to_owned()))?;
    if actual == node {
        return Err(corrupt("flags that this build does not know".to_owned()));
    }
    Err(StoreError::ForeignNode {
        path: path.to_owned(),
        actual,
        expected: node,
    })
}
