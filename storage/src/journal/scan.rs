//! Reading a journal from a frame to its end, and telling a torn tail from corruption.
//!
//! **Owns**: the order of frames, the verdict on damage.
//! **Does not own**: what the segments mean (store), the cut (files).
//!
//! ```text
//! frame N   frame N+1   ????????   000000    damage, nothing intact behind: torn tail, never acked
//! frame N   ?????????   frame N+2            damage, a frame behind it: N+1 was synced: corruption
//! frame N   000000000   frame N+2            the same
//! ```
//! A frame is only written once the one before it is synced, and a file is only begun once the one
//! before it is whole. So whatever stands before something intact was durable.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::files::{FileSet, JournalFile};
use super::frame::{
    CommitNumber, FRAME_HEADER_BYTES, FRAME_MAGIC, Frame, FrameHeader, decode_entries,
};
use super::header::FILE_HEADER_BYTES;
use super::{FileNumber, Place};
use crate::error::StoreError;

/// Bytes read at once: 1 MiB. Less costs calls, more only holds more memory.
const CHUNK_BYTES: u64 = 1 << 20;

/// The remains of a commit that never was, at the journal's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornTail {
    /// In which file.
    pub path: PathBuf,
    /// Where the remains begin.
    pub place: Place,
    /// How far they reach.
    pub bytes: u64,
    /// How they were noticed.
    pub problem: String,
}

/// What a scan found.
#[derive(Debug)]
pub(crate) struct ScanEnd {
    /// Where the next frame goes once the torn tail is cut.
    pub(crate) end: Place,
    /// The last frame, or the one given to the scan.
    pub(crate) last: Option<LastFrame>,
    pub(crate) torn: Option<TornTail>,
    /// The torn tail is a whole file in which nothing was ever committed.
    pub(crate) unfinished_file: Option<FileNumber>,
}

/// The frame after which a scan begins or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LastFrame {
    pub(crate) place: Place,
    pub(crate) number: CommitNumber,
}

/// Visits every frame from `from`, which is the beginning of a frame or an end, in order.
///
/// # Errors
/// [`StoreError::Corrupt`] for damage to what was durable; what `visit` returns.
pub(crate) fn scan(
    files: &FileSet,
    from: Place,
    before: Option<LastFrame>,
    visit: &mut dyn FnMut(Frame) -> Result<(), StoreError>,
) -> Result<ScanEnd, StoreError> {
    let last_file = files
        .last()
        .ok_or(StoreError::NoSuchPlace { place: from })?;
    let starts_anew = from
        <= Place {
            file: FileNumber::FIRST,
            offset: FILE_HEADER_BYTES,
        };
    let mut last = before;
    let mut end = from;
    let mut number = from.file;
    while number <= last_file {
        let opened = files.get(number);
        if let (Err(StoreError::Corrupt { problem, .. }), true) =
            (&opened, number == last_file && number > from.file)
        {
            let (torn, unfinished) = unfinished_file(files, number, last, problem)?;
            return Ok(ScanEnd {
                end,
                last,
                torn: Some(torn),
                unfinished_file: Some(unfinished),
            });
        }
        let at = if number == from.file { from.offset } else { 0 };
        let mut file = FileScan::new(opened?, files, at.max(FILE_HEADER_BYTES));
        let damage = loop {
            match file.next()? {
                Found::Frame(frame) => {
                    let place = frame.place;
                    check_order(&file.file.path, &frame, last, starts_anew)?;
                    let commit = frame.number;
                    last = Some(LastFrame {
                        place,
                        number: commit,
                    });
                    visit(frame)?;
                }
                Found::End => break None,
                Found::Damage { offset, problem } => break Some((offset, problem)),
            }
        };
        end = Place {
            file: number,
            offset: file.at,
        };
        if let Some(torn) = file.judge(last, damage, number == last_file)? {
            return Ok(ScanEnd {
                end,
                last,
                torn: Some(torn),
                unfinished_file: None,
            });
        }
        number = number.next();
    }
    Ok(ScanEnd {
        end,
        last,
        torn: None,
        unfinished_file: None,
    })
}

/// Commits are numbered without holes.
fn check_order(
    path: &Path,
    frame: &Frame,
    last: Option<LastFrame>,
    starts_anew: bool,
) -> Result<(), StoreError> {
    let expected = match last {
        Some(last) => last.number.next(),
        None if starts_anew => CommitNumber::FIRST,
        // Read from a checkpoint on, the first number is taken as it is.
        None => frame.number,
    };
    if frame.number != expected {
        let problem = format!("commit {}, {} expected", frame.number.get(), expected.get());
        return Err(StoreError::corrupt(path, frame.place.offset, problem));
    }
    Ok(())
}

/// Whether the frame that `last` names is there and ends where `end` says.
///
/// # Errors
/// [`StoreError::Corrupt`] if it is not: the journal has lost what it once held.
pub(crate) fn check_end(
    files: &FileSet,
    end: Place,
    last: Option<LastFrame>,
) -> Result<(), StoreError> {
    let lost = |place: Place, what: &str| {
        let path = place.file.path(files.dir());
        StoreError::corrupt(&path, place.offset, format!("journal ends before {what}"))
    };
    if files.last().is_none_or(|file| file < end.file) {
        return Err(lost(end, "the end that the engine knows"));
    }
    let Some(last) = last else { return Ok(()) };
    let mut file = FileScan::new(files.get(last.place.file)?, files, last.place.offset);
    match file.next()? {
        Found::Frame(frame)
            if frame.number == last.number && (frame.end == end || frame.end.file < end.file) =>
        {
            Ok(())
        }
        _ => Err(lost(last.place, "a commit that the engine knows")),
    }
}

/// The last file's header is damaged. A file is only used once its header is durable, so either
/// the file was never used, or it is corrupt.
fn unfinished_file(
    files: &FileSet,
    number: FileNumber,
    last: Option<LastFrame>,
    problem: &str,
) -> Result<(TornTail, FileNumber), StoreError> {
    let file = files.open_unchecked(number)?;
    let path = file.path.clone();
    let mut scan = FileScan::new(file, files, 0);
    match scan.rest(0, last)? {
        Rest::Frame { .. } => Err(StoreError::corrupt(&path, 0, problem)),
        Rest::Zeros => Ok((0, problem.to_owned())),
        Rest::Remains { upto } => Ok((upto, problem.to_owned())),
    }
    .map(|(bytes, problem)| {
        let place = Place {
            file: number,
            offset: 0,
        };
        (
            TornTail {
                path,
                place,
                bytes,
                problem,
            },
            number,
        )
    })
}

enum Found {
    Frame(Frame),
    End,
    Damage { offset: u64, problem: String },
}

enum Rest {
    Zeros,
    Remains { upto: u64 },
    Frame { offset: u64 },
}

/// One file being read.
struct FileScan<'files> {
    files: &'files FileSet,
    file: JournalFile,
    at: u64,
    chunk: Bytes,
    chunk_at: u64,
}

impl<'files> FileScan<'files> {
    fn new(file: JournalFile, files: &'files FileSet, at: u64) -> Self {
        Self {
            files,
            file,
            at,
            chunk: Bytes::new(),
            chunk_at: 0,
        }
    }

    /// What lies at the present offset; moves behind it if it is a frame.
    fn next(&mut self) -> Result<Found, StoreError> {
        let left = self.file.len.saturating_sub(self.at);
        if left < FRAME_HEADER_BYTES as u64 {
            return Ok(Found::End);
        }
        let place = Place {
            file: self.file.number,
            offset: self.at,
        };
        let bytes = self.bytes(self.at, FRAME_HEADER_BYTES as u64)?;
        let bytes = bytes
            .first_chunk()
            .expect("as many bytes as were asked for");
        let header = match FrameHeader::decode(bytes, self.files.node(), place) {
            Ok(Some(header)) => header,
            Ok(None) => return Ok(Found::End),
            Err(problem) => {
                return Ok(Found::Damage {
                    offset: self.at,
                    problem,
                });
            }
        };
        let whole = FRAME_HEADER_BYTES as u64 + u64::from(header.len);
        if whole > left || header.entries == 0 {
            let entries = header.entries;
            let problem = format!("frame of {whole} bytes and {entries} entries, {left} left");
            return Ok(Found::Damage {
                offset: self.at,
                problem,
            });
        }
        let body = self.bytes(self.at, whole)?.slice(FRAME_HEADER_BYTES..);
        let buffer_bytes = self.chunk.len();
        match decode_entries(&header, place, body) {
            Ok(entries) => {
                self.at += whole;
                let end = Place {
                    offset: self.at,
                    ..place
                };
                let number = header.number;
                Ok(Found::Frame(Frame {
                    place,
                    number,
                    entries,
                    buffer_bytes,
                    end,
                }))
            }
            Err((into, problem)) => {
                let offset = self.at + FRAME_HEADER_BYTES as u64 + into;
                Ok(Found::Damage { offset, problem })
            }
        }
    }

    /// The verdict on the end of the file, or the damage, at the present offset.
    fn judge(
        &mut self,
        last: Option<LastFrame>,
        damage: Option<(u64, String)>,
        is_last_file: bool,
    ) -> Result<Option<TornTail>, StoreError> {
        let rest = self.rest(self.at + u64::from(damage.is_some()), last)?;
        let (offset, problem) = match (damage, &rest) {
            (None, Rest::Zeros) => return Ok(None),
            (Some(damage), _) => damage,
            (None, _) => (self.at, "zeros where a frame should be".to_owned()),
        };
        if let Rest::Frame { offset: intact } = rest {
            let problem = format!("{problem}; an intact frame follows at offset {intact}");
            return Err(StoreError::corrupt(&self.file.path, offset, problem));
        }
        if !is_last_file {
            let problem = format!("{problem}; a further file follows");
            return Err(StoreError::corrupt(&self.file.path, offset, problem));
        }
        let upto = match rest {
            Rest::Remains { upto } => upto,
            Rest::Zeros | Rest::Frame { .. } => self.at + 1,
        };
        let place = Place {
            file: self.file.number,
            offset: self.at,
        };
        let (path, bytes) = (self.file.path.clone(), upto - self.at);
        Ok(Some(TornTail {
            path,
            place,
            bytes,
            problem,
        }))
    }

    /// What is left in the file from `from`: a frame later than `last`, other bytes, nothing.
    fn rest(&mut self, from: u64, last: Option<LastFrame>) -> Result<Rest, StoreError> {
        let mut remains_upto = None;
        let mut at = from;
        while at < self.file.len {
            let chunk = self.bytes(at, CHUNK_BYTES.min(self.file.len - at))?;
            if let Some(back) = chunk.iter().rev().position(|byte| *byte != 0) {
                remains_upto = Some(at + (chunk.len() - back) as u64);
                if let Some(offset) = self.find_frame(&chunk, at, last) {
                    return Ok(Rest::Frame { offset });
                }
            }
            let step = chunk.len() as u64;
            // Chunks overlap, so that a header across their border is seen whole.
            let overlap = FRAME_HEADER_BYTES as u64 - 1;
            at += if at + step < self.file.len {
                step - overlap.min(step - 1)
            } else {
                step
            };
        }
        Ok(remains_upto.map_or(Rest::Zeros, |upto| Rest::Remains { upto }))
    }

    fn find_frame(&self, chunk: &Bytes, at: u64, last: Option<LastFrame>) -> Option<u64> {
        let candidates = chunk.windows(FRAME_HEADER_BYTES).enumerate();
        let mut candidates = candidates.filter(|(_, bytes)| bytes.starts_with(&FRAME_MAGIC));
        candidates.find_map(|(index, bytes)| {
            let offset = at + index as u64;
            let place = Place {
                file: self.file.number,
                offset,
            };
            let header = FrameHeader::decode(bytes.first_chunk()?, self.files.node(), place);
            let later =
                header.ok().flatten()?.number > last.map_or(CommitNumber::new(0), |l| l.number);
            later.then_some(offset)
        })
    }

    /// `len` bytes at `offset`, which lie within the file.
    fn bytes(&mut self, offset: u64, len: u64) -> Result<Bytes, StoreError> {
        let inside =
            offset >= self.chunk_at && offset + len <= self.chunk_at + self.chunk.len() as u64;
        if !inside {
            let read = len.max(CHUNK_BYTES.min(self.file.len - offset));
            let mut buffer = vec![0; read as usize];
            self.file.read(&mut buffer, offset)?;
            self.chunk = buffer.into();
            self.chunk_at = offset;
        }
        let from = (offset - self.chunk_at) as usize;
        Ok(self.chunk.slice(from..from + len as usize))
    }
}
