//! The buffer as it stands: its file, and what is kept in it.
//!
//! **Owns**: opening, adding, the rewrite that gives room back, refusing after a failure.
//! **Does not own**: the bytes (`entry`, `frame`), damage (`scan`), that calls come one by one (the
//! node).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use domicile_proto::NodeId;
use domicile_proto::record::RecordBody;

use super::entry::{ACCEPTED_HEAD_BYTES, BufferEvent, BufferNumber, BufferedWrite, NewBuffered};
use super::frame::{FILE_HEAD_BYTES, FileHead};
use super::scan::{End, Scanned, scan};
use crate::disk::{Disk, DiskFile, OpenMode, remove_if_there, replace};
use crate::error::StoreError;
use crate::store::Store;

/// The directory below the data directory.
pub(crate) const BUFFER_DIR: &str = "buffer";
const FILE: &str = "writes";
const UNFINISHED: &str = "writes.new";

/// A file below this is not rewritten: it costs little to read. Doubled, twice that is read at
/// every start.
const REWRITE_BYTES_MIN: u64 = 1 << 20;

/// Events that a rewrite puts in one frame, by their bytes.
const REWRITE_FRAME_BYTES: u64 = 1 << 20;

/// The writes that a node keeps for homes that it cannot reach. One caller at a time.
///
/// - What [`WriteBuffer::add`] returned `Ok` for is durable.
/// - After a failed write or sync nothing is added any more until it is opened anew.
#[derive(Debug)]
pub struct WriteBuffer {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    head: FileHead,
    /// `None`: nothing was ever added.
    file: Option<Arc<dyn DiskFile>>,
    end: u64,
    next: BufferNumber,
    kept: BTreeMap<BufferNumber, Kept>,
    kept_bytes: u64,
    failed: Option<Arc<str>>,
    damaged: Option<String>,
}

#[derive(Debug, Clone)]
struct Kept {
    write: BufferedWrite,
    offset: u64,
}

impl Store {
    /// The writes that this node keeps for homes that it cannot reach.
    ///
    /// # Errors
    /// A file that is another node's, of an unknown version, or whose header is damaged; what the
    /// operating system says.
    pub fn open_write_buffer(&self) -> Result<WriteBuffer, StoreError> {
        WriteBuffer::open(self.disk(), &self.dir().join(BUFFER_DIR), self.node_id())
    }
}

impl WriteBuffer {
    pub(super) fn open(disk: Arc<dyn Disk>, dir: &Path, node: NodeId) -> Result<Self, StoreError> {
        let path = dir.join(FILE);
        let mut buffer = Self {
            disk: Arc::clone(&disk),
            dir: dir.to_owned(),
            head: FileHead {
                node,
                file_number: 1,
                next_write: BufferNumber::FIRST,
            },
            file: None,
            end: 0,
            next: BufferNumber::FIRST,
            kept: BTreeMap::new(),
            kept_bytes: 0,
            failed: None,
            damaged: None,
        };
        if !disk.exists(&path) {
            return Ok(buffer);
        }
        let open = disk.open(&path, OpenMode::ReadWrite);
        let file = open.map_err(|error| StoreError::io("open", &path, error))?;
        let mut events = Vec::new();
        let Scanned {
            head,
            end,
            intact_upto,
        } = scan(&file, &path, node, &mut |event, place| {
            events.push((shown(event), place));
        })?;
        buffer.head = head;
        buffer.next = head.next_write;
        for (event, (offset, len)) in events {
            buffer.apply(event, offset, len);
        }
        match end {
            End::Whole => {}
            End::Torn => {
                let cut = file.set_len(intact_upto).and_then(|()| file.sync_all());
                cut.map_err(|error| StoreError::io("cut", &path, error))?;
            }
            End::Damaged(error) => buffer.damaged = Some(error.to_string()),
        }
        buffer.end = intact_upto;
        buffer.file = Some(file);
        Ok(buffer)
    }

    /// The number that the next write gets.
    #[must_use]
    pub fn next_number(&self) -> BufferNumber {
        self.next
    }

    /// What is kept, oldest first. With [`WriteBuffer::damaged`]: what of it lies before the
    /// damage, settled or not.
    pub fn writes(&self) -> impl Iterator<Item = &BufferedWrite> {
        self.kept.values().map(|kept| &kept.write)
    }

    /// A write that is kept.
    #[must_use]
    pub fn write(&self, number: BufferNumber) -> Option<&BufferedWrite> {
        self.kept.get(&number).map(|kept| &kept.write)
    }

    /// What is wrong with the file: nothing is added, and nothing in it may be sent.
    #[must_use]
    pub fn damaged(&self) -> Option<&str> {
        self.damaged.as_deref()
    }

    /// What a write that is kept does, read from the disk; `None`: it is not kept.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] for bytes that are not what was written; what the operating system
    /// says.
    pub fn body(&self, number: BufferNumber) -> Result<Option<RecordBody>, StoreError> {
        let (Some(kept), Some(file)) = (self.kept.get(&number), &self.file) else {
            return Ok(None);
        };
        let path = self.dir.join(FILE);
        let offset = kept.offset + ACCEPTED_HEAD_BYTES as u64;
        let mut bytes = vec![0; kept.write.bytes as usize - ACCEPTED_HEAD_BYTES];
        let read = file.read_at(&mut bytes, offset);
        read.map_err(|error| StoreError::io("read", &path, error))?;
        let corrupt = |problem: String| StoreError::corrupt(&path, offset, problem);
        let body = RecordBody::from_untrusted(Bytes::from(bytes));
        let (body, _) = body.map_err(|error| corrupt(error.to_string()))?;
        match body.fingerprint() == kept.write.fingerprint {
            true => Ok(Some(body)),
            false => Err(corrupt(format!("write {} is another one", number.get()))),
        }
    }

    /// Adds events, durably: all, or as good as none. Numbers of accepted writes must be the next
    /// ones.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] and [`StoreError::Poisoned`]: nothing was added. Anything else:
    /// nobody knows.
    pub fn add(&mut self, events: &[BufferEvent]) -> Result<(), StoreError> {
        let path = self.dir.join(FILE);
        if let Some(problem) = &self.damaged {
            return Err(StoreError::corrupt(&path, self.end, problem.clone()));
        }
        if let Some(cause) = &self.failed {
            let cause = Arc::clone(cause);
            return Err(StoreError::Poisoned { cause });
        }
        let added = self.append(events, &path).map(|places| {
            for (event, (offset, len)) in events.iter().zip(places) {
                self.apply(shown(event.clone()), offset, len);
            }
        });
        let added = added.and_then(|()| self.give_room_back());
        if let Err(error) = &added {
            self.failed = Some(error.to_string().into());
        }
        added
    }

    fn append(
        &mut self,
        events: &[BufferEvent],
        path: &Path,
    ) -> Result<Vec<(u64, u32)>, StoreError> {
        let file = match &self.file {
            Some(file) => Arc::clone(file),
            None => self.create(path)?,
        };
        let (bytes, places) = self.head.frame(self.end, events);
        let write = file.write_at(&bytes, self.end);
        write.map_err(|error| StoreError::io("write", path, error))?;
        let sync = file.sync_data();
        sync.map_err(|error| StoreError::io("sync", path, error))?;
        self.end += bytes.len() as u64;
        Ok(places)
    }

    fn create(&mut self, path: &Path) -> Result<Arc<dyn DiskFile>, StoreError> {
        let disk = &*self.disk;
        let create = || {
            disk.create_dir_all(&self.dir)?;
            if let Some(above) = self.dir.parent() {
                disk.sync_dir(above)?;
            }
            replace(disk, &self.dir, FILE, UNFINISHED, &self.head.encode())?;
            disk.open(path, OpenMode::ReadWrite)
        };
        let file = create().map_err(|error| StoreError::io("create", path, error))?;
        self.end = FILE_HEAD_BYTES as u64;
        self.file = Some(Arc::clone(&file));
        Ok(file)
    }

    fn apply(&mut self, event: Shown, offset: u64, len: u32) {
        match event {
            Shown::Accepted(mut write) => {
                write.bytes = len.into();
                self.next = self.next.max(write.number.next());
                self.kept_bytes += write.bytes;
                self.kept.insert(write.number, Kept { write, offset });
            }
            Shown::Other(BufferEvent::Refused(number, refused)) => {
                if let Some(kept) = self.kept.get_mut(&number) {
                    kept.write.refused = Some(refused);
                }
            }
            Shown::Other(event) => {
                let BufferEvent::Settled(number) = event else {
                    return;
                };
                if let Some(kept) = self.kept.remove(&number) {
                    self.kept_bytes -= kept.write.bytes;
                }
            }
        }
    }

    /// Writes what is kept into a new file, once half of this one is of no use.
    fn give_room_back(&mut self) -> Result<(), StoreError> {
        if self.end < REWRITE_BYTES_MIN || self.kept_bytes * 2 > self.end {
            return Ok(());
        }
        let head = FileHead {
            file_number: self.head.file_number + 1,
            next_write: self.next,
            ..self.head
        };
        let (unfinished, path) = (self.dir.join(UNFINISHED), self.dir.join(FILE));
        let io = |operation| {
            let path = unfinished.clone();
            move |error| StoreError::io(operation, &path, error)
        };
        remove_if_there(&*self.disk, &unfinished).map_err(io("remove"))?;
        let file = self.disk.open(&unfinished, OpenMode::CreateNew);
        let file = file.map_err(io("create"))?;
        file.write_at(&head.encode(), 0).map_err(io("write"))?;
        let mut end = FILE_HEAD_BYTES as u64;
        let mut moved = BTreeMap::new();
        let mut numbers = self.kept.keys().copied().peekable();
        while numbers.peek().is_some() {
            let mut events = Vec::new();
            let mut bytes = 0;
            while bytes < REWRITE_FRAME_BYTES
                && let Some(number) = numbers.next()
            {
                bytes += self.kept[&number].write.bytes;
                events.extend(self.events_of(number)?);
            }
            let (frame, places) = head.frame(end, &events);
            file.write_at(&frame, end).map_err(io("write"))?;
            end += frame.len() as u64;
            for (event, (offset, _)) in events.iter().zip(places) {
                if let BufferEvent::Accepted(number, _) = event {
                    let write = self.kept[number].write.clone();
                    moved.insert(*number, Kept { write, offset });
                }
            }
        }
        file.sync_all().map_err(io("sync"))?;
        let renamed = self.disk.rename(&unfinished, &path);
        let renamed = renamed.and_then(|()| self.disk.sync_dir(&self.dir));
        let opened = renamed.and_then(|()| self.disk.open(&path, OpenMode::ReadWrite));
        self.file = Some(opened.map_err(|error| StoreError::io("rename", &path, error))?);
        (self.head, self.end, self.kept) = (head, end, moved);
        Ok(())
    }

    /// A write that is kept, as it was told.
    fn events_of(&self, number: BufferNumber) -> Result<Vec<BufferEvent>, StoreError> {
        let (Some(kept), Some(body)) = (self.kept.get(&number), self.body(number)?) else {
            return Ok(Vec::new());
        };
        let write = &kept.write;
        let accepted = NewBuffered {
            partition: write.partition,
            request_id: write.request_id,
            accepted_at_ms: write.accepted_at_ms,
            log_end: write.log_end,
            body,
        };
        let refused = write.refused.clone();
        let refused = refused.map(|refused| BufferEvent::Refused(number, refused));
        let accepted = BufferEvent::Accepted(number, accepted);
        Ok(std::iter::once(accepted).chain(refused).collect())
    }
}

/// An event without the bytes of a write, which stay on the disk.
enum Shown {
    Accepted(BufferedWrite),
    Other(BufferEvent),
}

fn shown(event: BufferEvent) -> Shown {
    match event {
        BufferEvent::Accepted(number, write) => Shown::Accepted(write.kept_as(number, 0)),
        other => Shown::Other(other),
    }
}
