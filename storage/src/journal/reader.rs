//! Reading segments by cursor: what shipping and catching up live on.
//!
//! **Owns**: the walk over frames and files, the bound of one read.
//! **Does not own**: cursors (each reader's), the durable end (the committer's).

use bytes::Bytes;
use domicile_proto::Segment;
use domicile_proto::segment::SEGMENT_HEADER_BYTES;
use domicile_proto::{SegmentHeader, WireError};

use super::Place;
use super::cut::{CUT_HEAD_BYTES, CUT_MAGIC, Cut};
use super::files::{FileSet, JournalFile};
use super::frame::{FRAME_HEADER_BYTES, FRAME_MAGIC, FrameHeader};
use super::header::FILE_HEADER_BYTES;
use super::rebase::{REBASE_HEAD_BYTES, REBASE_MAGIC, Rebase};
use crate::error::StoreError;

/// Least bytes of one read: a frame's header and a segment's, so that every read gets anywhere.
const READ_BYTES_MIN: u64 = (FRAME_HEADER_BYTES + SEGMENT_HEADER_BYTES) as u64;

/// Segments of a part of the journal.
#[derive(Debug, Clone)]
pub struct JournalChunk {
    /// Whole segments with their places, in order; they share one allocation.
    pub segments: Vec<(Place, Segment)>,
    /// Where to read on.
    pub next: Place,
}

/// What a pass over one buffer came to.
enum Pass {
    /// Everything in it was read.
    Whole,
    /// The file ends here.
    FileEnd,
    /// The thing at the cursor has so many bytes, of which some are missing.
    Short(u64),
}

/// Reads whole segments from `from` up to `upto`, about `bytes_max` at most, one at least.
///
/// # Errors
/// [`StoreError::NoSuchPlace`] for a cursor that is no place; [`StoreError::Corrupt`] for damage;
/// what the operating system says.
pub(crate) fn read(
    files: &FileSet,
    from: Place,
    upto: Place,
    bytes_max: u64,
) -> Result<JournalChunk, StoreError> {
    let mut chunk = JournalChunk {
        segments: Vec::new(),
        next: from,
    };
    let mut wanted = bytes_max.max(READ_BYTES_MIN);
    while chunk.next < upto {
        let file = files.get(chunk.next.file)?;
        chunk.next.offset = chunk.next.offset.max(FILE_HEADER_BYTES);
        let is_last = chunk.next.file == upto.file;
        let limit = if is_last { upto.offset } else { file.len };
        let left = limit.saturating_sub(chunk.next.offset);
        if left == 0 && is_last {
            break;
        }
        let mut buffer = vec![0; left.min(wanted) as usize];
        if left > 0 {
            // A file whose making was interrupted may be shorter than its own header block.
            file.read(&mut buffer, chunk.next.offset)?;
        }
        let passed = match pass(files, &file, buffer.into(), &mut chunk) {
            // What is before the damage is given first; the next read finds it at once.
            Err(StoreError::Corrupt { .. }) if !chunk.segments.is_empty() => break,
            passed => passed?,
        };
        match passed {
            Pass::FileEnd if is_last && chunk.next < upto => {
                let problem = "zeros before the durable end";
                return Err(StoreError::corrupt(&file.path, chunk.next.offset, problem));
            }
            Pass::FileEnd if !is_last => {
                chunk.next = Place {
                    file: chunk.next.file.next(),
                    offset: FILE_HEADER_BYTES,
                };
            }
            Pass::Short(bytes) if bytes > limit.saturating_sub(chunk.next.offset) => {
                let problem = format!("{bytes} bytes announced, {left} left");
                return Err(StoreError::corrupt(&file.path, chunk.next.offset, problem));
            }
            Pass::Short(bytes) => wanted = wanted.max(bytes),
            Pass::FileEnd | Pass::Whole => {}
        }
        if !chunk.segments.is_empty() {
            break;
        }
    }
    Ok(chunk)
}

/// Takes what is whole off `buffer`, which lies at the chunk's cursor.
fn pass(
    files: &FileSet,
    file: &JournalFile,
    mut buffer: Bytes,
    chunk: &mut JournalChunk,
) -> Result<Pass, StoreError> {
    let ends_file = |len: usize, next: Place| next.offset + len as u64 >= file.len;
    loop {
        let at = chunk.next;
        if buffer.len() < FRAME_HEADER_BYTES {
            return Ok(match (buffer.is_empty(), ends_file(buffer.len(), at)) {
                (_, true) => Pass::FileEnd,
                (true, false) => Pass::Whole,
                (false, false) => Pass::Short(READ_BYTES_MIN.min(file.len - at.offset)),
            });
        }
        if buffer.starts_with(&FRAME_MAGIC) || buffer[..4] == [0; 4] {
            let bytes = buffer.split_to(FRAME_HEADER_BYTES);
            let bytes = bytes
                .first_chunk()
                .expect("as many bytes as were split off");
            match FrameHeader::decode(bytes, files.node(), at) {
                Ok(Some(_)) => chunk.next.offset += FRAME_HEADER_BYTES as u64,
                Ok(None) => return Ok(Pass::FileEnd),
                Err(problem) => return Err(StoreError::corrupt(&file.path, at.offset, problem)),
            }
            continue;
        }
        if let Some(len) = turn_len(&buffer) {
            if len > buffer.len() {
                return Ok(Pass::Short(len as u64));
            }
            // For readers of records it is only a gap: where the log begins is the index's to say,
            // and what is void the store's.
            let corrupt = |problem| StoreError::corrupt(&file.path, at.offset, problem);
            take_turn(&mut buffer).map_err(corrupt)?;
            chunk.next.offset += len as u64;
            continue;
        }
        match Segment::decode_front(&mut buffer) {
            Ok(segment) => {
                chunk.next.offset += segment.bytes().len() as u64;
                chunk.segments.push((at, segment));
            }
            Err(WireError::Truncated { .. }) => {
                let needed = SegmentHeader::decode(&buffer);
                let needed = needed.map_or(SEGMENT_HEADER_BYTES, |header| header.segment_len());
                return Ok(Pass::Short(needed as u64));
            }
            Err(WireError::BadMagic { .. }) if chunk.segments.is_empty() => {
                return Err(StoreError::NoSuchPlace { place: at });
            }
            Err(error) => {
                return Err(StoreError::corrupt(
                    &file.path,
                    at.offset,
                    error.to_string(),
                ));
            }
        }
    }
}

/// The bytes of an entry that is no segment; `None` if none is at the front of `buffer`.
fn turn_len(buffer: &Bytes) -> Option<usize> {
    if buffer.starts_with(&REBASE_MAGIC) {
        return Some(Rebase::len_of(buffer).unwrap_or(REBASE_HEAD_BYTES));
    }
    let is_cut = buffer.starts_with(&CUT_MAGIC);
    is_cut.then(|| Cut::len_of(buffer).unwrap_or(CUT_HEAD_BYTES))
}

/// Takes such an entry off the front of `buffer`.
fn take_turn(buffer: &mut Bytes) -> Result<(), String> {
    match buffer.starts_with(&CUT_MAGIC) {
        true => Cut::decode_front(buffer).map(drop),
        false => Rebase::decode_front(buffer).map(drop),
    }
}
