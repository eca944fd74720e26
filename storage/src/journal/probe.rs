//! Looking at one place of the journal: what is there, and where to read on.
//!
//! **Owns**: the end that a checkpoint knows, the way around damage.
//! **Does not own**: reading a file (`scan`), what the damage means (recovery, scrub).

use domicile_proto::SegmentHeader;
use domicile_proto::segment::SEGMENT_HEADER_BYTES;

use super::Place;
use super::files::FileSet;
use super::frame::FRAME_HEADER_BYTES;
use super::header::FILE_HEADER_BYTES;
use super::scan::{FileScan, Found, LastFrame, Rest};
use crate::error::StoreError;

/// What is known of something damaged, and where to read on behind it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BehindDamage {
    /// The damaged segment, if its header is intact.
    pub(crate) segment: Option<SegmentHeader>,
    /// What follows it in its frame, or the next intact frame; `None` if there is none.
    pub(crate) next: Option<Place>,
}

/// What is at `place`, where something is damaged, and where to read on.
///
/// # Errors
/// What the operating system says.
pub(crate) fn behind_damage(files: &FileSet, place: Place) -> Result<BehindDamage, StoreError> {
    let mut file = FileScan::new(files.get(place.file)?, files, place.offset);
    let mut offset = place.offset;
    if file.header_at(offset)?.is_some() {
        offset += FRAME_HEADER_BYTES as u64;
    }
    let left = file.file.len.saturating_sub(offset);
    if left >= SEGMENT_HEADER_BYTES as u64 {
        let bytes = file.bytes(offset, SEGMENT_HEADER_BYTES as u64)?;
        if let Ok(header) = SegmentHeader::decode(&bytes)
            && (header.segment_len() as u64) < left
        {
            offset += header.segment_len() as u64;
            return Ok(BehindDamage {
                segment: Some(header),
                next: Some(Place { offset, ..place }),
            });
        }
    }
    let mut number = place.file;
    let mut at = place.offset + 1;
    let mut next = None;
    while next.is_none() && files.last().is_some_and(|last| number <= last) {
        let mut file = FileScan::new(files.get(number)?, files, at);
        if let Rest::Frame { offset } = file.rest(at, None)? {
            next = Some(Place {
                file: number,
                offset,
            });
        }
        (number, at) = (number.next(), FILE_HEADER_BYTES);
    }
    Ok(BehindDamage {
        segment: None,
        next,
    })
}

/// What is where a checkpoint says that the journal ended.
#[derive(Debug)]
pub(crate) enum KnownEnd {
    /// The frame that it names.
    There,
    /// A damaged frame.
    Damaged(StoreError),
}

/// Whether the frame that `last` names is there and ends where `end` says.
///
/// # Errors
/// [`StoreError::Corrupt`] if it is not: the journal has lost what it once held.
pub(crate) fn check_end(
    files: &FileSet,
    end: Place,
    last: Option<LastFrame>,
) -> Result<KnownEnd, StoreError> {
    let lost = |place: Place, what: &str| {
        let path = place.file.path(files.dir());
        StoreError::corrupt(&path, place.offset, format!("journal ends before {what}"))
    };
    if files.last().is_none_or(|file| file < end.file) {
        return Err(lost(end, "the end that the engine knows"));
    }
    let Some(last) = last else {
        return Ok(KnownEnd::There);
    };
    let mut file = FileScan::new(files.get(last.place.file)?, files, last.place.offset);
    match file.next()? {
        Found::Frame(frame)
            if frame.number == last.number && (frame.end == end || frame.end.file < end.file) =>
        {
            Ok(KnownEnd::There)
        }
        // What it held is known; only whoever needs its bytes has lost something.
        Found::Damage { offset, problem } => Ok(KnownEnd::Damaged(StoreError::corrupt(
            &file.file.path,
            offset,
            problem,
        ))),
        _ => Err(lost(last.place, "a commit that the engine knows")),
    }
}
