//! Appending frames: one write and one sync each.
//!
//! **Owns**: where the next frame goes, its number, the roll to the next file.
//! **Does not own**: what is in it (the committer), what happens after a failure (the store is
//! poisoned: this writer is never used again).

use super::Place;
use super::files::{FileSet, JournalFile};
use super::frame::{CommitNumber, FRAME_HEADER_BYTES, FrameHeader};
use super::header::FILE_HEADER_BYTES;
use super::scan::LastFrame;
use crate::error::StoreError;
use crate::planted::{Bug, is_planted};

/// The end of a journal.
#[derive(Debug)]
pub(crate) struct JournalWriter {
    file: JournalFile,
    offset: u64,
    last: Option<LastFrame>,
}

impl JournalWriter {
    /// A writer that goes on at `end`, behind the frame `last`.
    ///
    /// # Errors
    /// What the operating system says.
    pub(crate) fn open(
        files: &FileSet,
        end: Place,
        last: Option<LastFrame>,
    ) -> Result<Self, StoreError> {
        let file = files.get(end.file)?;
        let offset = end.offset.max(FILE_HEADER_BYTES);
        Ok(Self { file, offset, last })
    }

    /// Where the next frame goes, unless it has to go into the next file.
    pub(crate) fn end(&self) -> Place {
        Place {
            file: self.file.number,
            offset: self.offset,
        }
    }

    /// The last frame written.
    pub(crate) fn last(&self) -> Option<LastFrame> {
        self.last
    }

    /// Makes sure that a frame of `frame_bytes` fits where the result says.
    ///
    /// # Errors
    /// What the operating system says.
    pub(crate) fn make_room(
        &mut self,
        files: &FileSet,
        frame_bytes: u64,
    ) -> Result<Place, StoreError> {
        if self.offset + frame_bytes > self.file.len {
            self.file = files.roll(FILE_HEADER_BYTES + frame_bytes)?;
            self.offset = FILE_HEADER_BYTES;
        }
        Ok(self.end())
    }

    /// Writes a frame and syncs it. `frame` has room for the header in front; the entries behind
    /// are `entries` in number.
    ///
    /// # Errors
    /// What the operating system says; the frame may then be there or not.
    pub(crate) fn append(
        &mut self,
        files: &FileSet,
        frame: &mut [u8],
        entries: u32,
    ) -> Result<(), StoreError> {
        let place = self.end();
        let number = self
            .last
            .map_or(CommitNumber::FIRST, |last| last.number.next());
        let len = (frame.len() - FRAME_HEADER_BYTES) as u32;
        let left = self.file.len - self.offset;
        assert!(
            frame.len() as u64 <= left,
            "frame of {} bytes, {left} left",
            frame.len()
        );
        let header = FrameHeader {
            number,
            len,
            entries,
        };
        frame[..FRAME_HEADER_BYTES].copy_from_slice(&header.encode(files.node(), place));
        let written = self.file.handle.write_at(frame, self.offset);
        written.map_err(|error| StoreError::io("write", &self.file.path, error))?;
        self.last = Some(LastFrame { place, number });
        self.offset += frame.len() as u64;
        Ok(())
    }

    /// Makes what was appended durable.
    ///
    /// # Errors
    /// What the operating system says; never to be tried again.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        if is_planted(Bug::SkipSync) {
            return Ok(());
        }
        let synced = self.file.handle.sync_data();
        synced.map_err(|error| StoreError::io("sync", &self.file.path, error))
    }
}
