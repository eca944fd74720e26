//! Reading the buffer's file from its beginning: what is intact, a torn end, damage.
//!
//! **Owns**: telling an end that was never told of from damage.
//! **Does not own**: what the events come to (`file`), cutting the end (`file`).

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use domicile_proto::NodeId;

use super::entry::BufferEvent;
use super::frame::{
    FILE_HEAD_BYTES, FRAME_END_BYTES, FRAME_HEAD_BYTES, FRAME_MAGIC, FileHead, Placed,
};
use crate::disk::DiskFile;
use crate::error::StoreError;

/// Bytes looked through at once for an intact frame behind a damaged one.
const LOOK_BYTES: usize = 1 << 20;

/// How the file ends.
#[derive(Debug)]
pub(super) enum End {
    /// With an intact frame.
    Whole,
    /// With bytes that were never told of.
    Torn,
    /// An intact frame lies behind a damaged one.
    Damaged(StoreError),
}

/// What was read: up to where the file is intact, and what follows.
#[derive(Debug)]
pub(super) struct Scanned {
    pub(super) head: FileHead,
    pub(super) end: End,
    pub(super) intact_upto: u64,
}

/// Reads a file; each event of an intact frame is given to `found` with its place.
///
/// # Errors
/// A header that is damaged or another's; what the operating system says.
pub(super) fn scan(
    file: &Arc<dyn DiskFile>,
    path: &Path,
    node: NodeId,
    found: &mut dyn FnMut(BufferEvent, (u64, u32)),
) -> Result<Scanned, StoreError> {
    let io = |error| StoreError::io("read", path, error);
    let len = file.len().map_err(io)?;
    let mut bytes = vec![0; len.min(FILE_HEAD_BYTES as u64) as usize];
    file.read_at(&mut bytes, 0).map_err(io)?;
    let head = FileHead::decode(&bytes, node, path)?;
    let mut offset = FILE_HEAD_BYTES as u64;
    while offset < len {
        match read_frame(&**file, &head, offset, len).map_err(io)? {
            Ok((events, next)) => {
                for (event, place) in events {
                    found(event, place);
                }
                offset = next;
            }
            Err(problem) => {
                let end = match intact_behind(&**file, &head, offset, len).map_err(io)? {
                    None => End::Torn,
                    Some(at) => {
                        let problem = format!("{problem}; an intact frame follows at {at}");
                        End::Damaged(StoreError::corrupt(path, offset, problem))
                    }
                };
                return Ok(Scanned {
                    head,
                    end,
                    intact_upto: offset,
                });
            }
        }
    }
    Ok(Scanned {
        head,
        end: End::Whole,
        intact_upto: offset,
    })
}

/// The frame at `offset` and where the next begins, or what is wrong with it.
fn read_frame(
    file: &dyn DiskFile,
    head: &FileHead,
    offset: u64,
    len: u64,
) -> std::io::Result<Result<(Vec<Placed>, u64), String>> {
    let left = len - offset;
    if left < (FRAME_HEAD_BYTES + FRAME_END_BYTES) as u64 {
        return Ok(Err(format!("{left} bytes, less than a frame")));
    }
    let mut first = [0; FRAME_HEAD_BYTES];
    file.read_at(&mut first, offset)?;
    let whole = match FileHead::frame_len(&first) {
        Ok((events, _)) => FRAME_HEAD_BYTES + events + FRAME_END_BYTES,
        Err(problem) => return Ok(Err(problem)),
    };
    if whole as u64 > left {
        return Ok(Err(format!("frame of {whole} bytes, {left} are there")));
    }
    let mut bytes = vec![0; whole];
    file.read_at(&mut bytes, offset)?;
    let events = head.open_frame(offset, Bytes::from(bytes));
    Ok(events.map(|events| (events, offset + whole as u64)))
}

/// Where the first intact frame lies behind `damaged`.
fn intact_behind(
    file: &dyn DiskFile,
    head: &FileHead,
    damaged: u64,
    len: u64,
) -> std::io::Result<Option<u64>> {
    let mut from = damaged + 1;
    while from < len {
        // A magic that lies across two looks is whole in one of them.
        let mut bytes = vec![0; (len - from).min((LOOK_BYTES + FRAME_MAGIC.len()) as u64) as usize];
        file.read_at(&mut bytes, from)?;
        let places = bytes.windows(FRAME_MAGIC.len()).enumerate();
        for (place, _) in places.filter(|(_, window)| *window == FRAME_MAGIC) {
            let at = from + place as u64;
            if read_frame(file, head, at, len)?.is_ok() {
                return Ok(Some(at));
            }
        }
        from += LOOK_BYTES as u64;
    }
    Ok(None)
}
