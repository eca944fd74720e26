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
use domicile_proto::SegmentHeader;

use super::files::{FileSet, JournalFile};
use super::frame::{
    CommitNumber, FRAME_HEADER_BYTES, FRAME_MAGIC, Frame, FrameHeader, Lost, decode_entries,
    salvage_entries,
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

/// What a scan comes by.
#[derive(Debug)]
pub(crate) enum Scanned {
    /// A whole frame, or what is left of one.
    Frame(Frame),
    /// What is not left of it.
    Damage(Damage),
}

/// Something that was durable and is not what it was.
#[derive(Debug)]
pub(crate) struct Damage {
    /// Where, and how it was noticed.
    pub(crate) error: StoreError,
    /// Which segment; `None` if it cannot be told, and records of any partition may be missing.
    pub(crate) segment: Option<SegmentHeader>,
    /// The damaged frame, or where the first one would be.
    pub(crate) place: Place,
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

/// Visits every frame from `from`, which is the beginning of a frame or an end, in order, and the
/// damage to what was durable between them.
///
/// # Errors
/// [`StoreError::Corrupt`] for a file that cannot be read at all; what `visit` returns.
pub(crate) fn scan(
    files: &FileSet,
    from: Place,
    before: Option<LastFrame>,
    visit: &mut dyn FnMut(Scanned) -> Result<(), StoreError>,
) -> Result<ScanEnd, StoreError> {
    let last_file = files
        .last()
        .ok_or(StoreError::NoSuchPlace { place: from })?;
    let starts_anew = from
        <= Place {
            file: FileNumber::FIRST,
            offset: FILE_HEADER_BYTES,
        };
    let mut order = Order {
        last: before,
        starts_anew,
    };
    let mut end = from;
    let mut number = from.file;
    let finish = |end, order: Order, torn, unfinished_file| ScanEnd {
        end,
        last: order.last,
        torn,
        unfinished_file,
    };
    while number <= last_file {
        let opened = files.get(number);
        if let (Err(StoreError::Corrupt { problem, .. }), true) =
            (&opened, number == last_file && number > from.file)
        {
            let (torn, unfinished) = unfinished_file(files, number, order.last, problem)?;
            return Ok(finish(end, order, Some(torn), Some(unfinished)));
        }
        let at = if number == from.file { from.offset } else { 0 };
        let mut file = FileScan::new(opened?, files, at.max(FILE_HEADER_BYTES));
        let torn = file.visit_all(&mut order, number == last_file, visit)?;
        end = Place {
            file: number,
            offset: file.at,
        };
        if torn.is_some() {
            return Ok(finish(end, order, torn, None));
        }
        number = number.next();
    }
    Ok(finish(end, order, None, None))
}

/// Commits are numbered without holes, except where damage has made one.
struct Order {
    last: Option<LastFrame>,
    /// The next one is the first of all.
    starts_anew: bool,
}

impl Order {
    fn check(&mut self, path: &Path, frame: &Frame) -> Result<(), StoreError> {
        let expected = match self.last {
            Some(last) => last.number.next(),
            None if self.starts_anew => CommitNumber::FIRST,
            // Read from a checkpoint on, or behind damage, the number is taken as it is.
            None => frame.number,
        };
        if frame.number != expected {
            let problem = format!("commit {}, {} expected", frame.number.get(), expected.get());
            return Err(StoreError::corrupt(path, frame.place.offset, problem));
        }
        self.last = Some(LastFrame {
            place: frame.place,
            number: frame.number,
        });
        self.starts_anew = false;
        Ok(())
    }

    fn lose(&mut self) {
        (self.last, self.starts_anew) = (None, false);
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
    let rest = scan.rest(0, last)?;
    scan.file.check_readable(0)?;
    match rest {
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

pub(super) enum Found {
    Frame(Frame),
    End,
    Damage { offset: u64, problem: String },
}

pub(super) enum Rest {
    Zeros,
    Remains { upto: u64 },
    Frame { offset: u64 },
}

/// What the end of frames in a file means.
enum Verdict {
    End,
    Torn(TornTail),
    Damage {
        error: StoreError,
        /// The next intact frame of the file.
        goes_on_at: Option<u64>,
    },
}

/// One file being read.
pub(super) struct FileScan<'files> {
    files: &'files FileSet,
    pub(super) file: JournalFile,
    at: u64,
    chunk: Bytes,
    chunk_at: u64,
}

impl<'files> FileScan<'files> {
    pub(super) fn new(file: JournalFile, files: &'files FileSet, at: u64) -> Self {
        Self {
            files,
            file,
            at,
            chunk: Bytes::new(),
            chunk_at: 0,
        }
    }

    /// What lies at the present offset; moves behind it if it is a frame.
    pub(super) fn next(&mut self) -> Result<Found, StoreError> {
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

    /// Visits what is left of the file; the torn tail, if it ends with one.
    fn visit_all(
        &mut self,
        order: &mut Order,
        is_last_file: bool,
        visit: &mut dyn FnMut(Scanned) -> Result<(), StoreError>,
    ) -> Result<Option<TornTail>, StoreError> {
        loop {
            let damage = match self.next()? {
                Found::Frame(frame) => {
                    self.check_order(&frame, order, visit)?;
                    visit(Scanned::Frame(frame))?;
                    continue;
                }
                Found::End => None,
                Found::Damage { offset, problem } => Some((offset, problem)),
            };
            match self.judge(order.last, damage, is_last_file)? {
                Verdict::End => return Ok(None),
                Verdict::Torn(torn) => return Ok(Some(torn)),
                Verdict::Damage { error, goes_on_at } => {
                    let goes_on_at = goes_on_at.unwrap_or(self.file.len);
                    self.visit_damage(error, goes_on_at, order, visit)?;
                }
            }
        }
    }

    /// Commits that are missing before a frame are damage like any other.
    fn check_order(
        &self,
        frame: &Frame,
        order: &mut Order,
        visit: &mut dyn FnMut(Scanned) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let Err(error) = order.check(&self.file.path, frame) else {
            return Ok(());
        };
        order.lose();
        visit(Scanned::Damage(Damage {
            error,
            segment: None,
            place: frame.place,
        }))?;
        order.check(&self.file.path, frame)
    }

    /// Visits what is left of a damaged frame, and the damage; moves behind it.
    fn visit_damage(
        &mut self,
        error: StoreError,
        goes_on_at: u64,
        order: &mut Order,
        visit: &mut dyn FnMut(Scanned) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let place = Place {
            file: self.file.number,
            offset: self.at,
        };
        let Some((frame, lost)) = self.salvage(place)? else {
            self.at = goes_on_at;
            order.lose();
            let segment = None;
            return visit(Scanned::Damage(Damage {
                error,
                segment,
                place,
            }));
        };
        self.check_order(&frame, order, visit)?;
        self.at = frame.end.offset;
        // The first one is what was noticed, with what follows it.
        let mut noticed = Some(error);
        for (place, header, problem) in lost {
            let own = || StoreError::corrupt(&self.file.path, place.offset, problem);
            let error = noticed.take().unwrap_or_else(own);
            let segment = Some(header);
            visit(Scanned::Damage(Damage {
                error,
                segment,
                place,
            }))?;
        }
        visit(Scanned::Frame(frame))
    }

    /// The intact header of a frame at `offset`.
    pub(super) fn header_at(&mut self, offset: u64) -> Result<Option<FrameHeader>, StoreError> {
        let place = Place {
            file: self.file.number,
            offset,
        };
        if self.file.len.saturating_sub(offset) < FRAME_HEADER_BYTES as u64 {
            return Ok(None);
        }
        let head = self.bytes(offset, FRAME_HEADER_BYTES as u64)?;
        let head = head.first_chunk().expect("as many bytes as were asked for");
        Ok(FrameHeader::decode(head, self.files.node(), place)
            .ok()
            .flatten())
    }

    /// What is left of a frame whose own header and whose entries' headers are intact.
    fn salvage(&mut self, place: Place) -> Result<Option<(Frame, Vec<Lost>)>, StoreError> {
        let left = self.file.len.saturating_sub(self.at);
        let Some(header) = self.header_at(self.at)? else {
            return Ok(None);
        };
        let whole = FRAME_HEADER_BYTES as u64 + u64::from(header.len);
        if whole > left {
            return Ok(None);
        }
        let body = self.bytes(self.at, whole)?.slice(FRAME_HEADER_BYTES..);
        let Some((entries, lost)) = salvage_entries(&header, place, body) else {
            return Ok(None);
        };
        let frame = Frame {
            place,
            number: header.number,
            entries,
            buffer_bytes: self.chunk.len(),
            end: Place {
                offset: place.offset + whole,
                ..place
            },
        };
        Ok(Some((frame, lost)))
    }

    /// The verdict on the end of the file, or the damage, at the present offset.
    fn judge(
        &mut self,
        last: Option<LastFrame>,
        damage: Option<(u64, String)>,
        is_last_file: bool,
    ) -> Result<Verdict, StoreError> {
        let rest = self.rest(self.at + u64::from(damage.is_some()), last)?;
        let (offset, problem) = match (damage, &rest) {
            (None, Rest::Zeros) => return Ok(Verdict::End),
            (Some(damage), _) => damage,
            (None, _) => (self.at, "zeros where a frame should be".to_owned()),
        };
        if let Rest::Frame { offset: intact } = rest {
            let problem = format!("{problem}; an intact frame follows at offset {intact}");
            return Ok(Verdict::Damage {
                error: StoreError::corrupt(&self.file.path, offset, problem),
                goes_on_at: Some(intact),
            });
        }
        if !is_last_file {
            let problem = format!("{problem}; a further file follows");
            return Ok(Verdict::Damage {
                error: StoreError::corrupt(&self.file.path, offset, problem),
                goes_on_at: None,
            });
        }
        // What a power loss tore was never acknowledged; what a device lost may have been.
        self.file.check_readable(self.at)?;
        let upto = match rest {
            Rest::Remains { upto } => upto,
            Rest::Zeros | Rest::Frame { .. } => self.at + 1,
        };
        let place = Place {
            file: self.file.number,
            offset: self.at,
        };
        let (path, bytes) = (self.file.path.clone(), upto - self.at);
        Ok(Verdict::Torn(TornTail {
            path,
            place,
            bytes,
            problem,
        }))
    }

    /// What is left in the file from `from`: a frame later than `last`, other bytes, nothing.
    pub(super) fn rest(&mut self, from: u64, last: Option<LastFrame>) -> Result<Rest, StoreError> {
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
    pub(super) fn bytes(&mut self, offset: u64, len: u64) -> Result<Bytes, StoreError> {
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
