//! A log's tail on its way into an orphan file, before it is cut.
//!
//! **Owns**: copying the segments as they are, the order of writes that makes the file whole or
//! absent.
//! **Does not own**: the bytes (`format`), when the log is cut (`cut`).
//!
//! The tail is copied segment by segment, and never held as a whole. What was sealed before and not
//! cut since is replaced at once: its records are still in the log.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use domicile_proto::{ChainHash, Epoch, PartitionId, Segment, Seq};

use super::cut::CutPlan;
use super::format::{
    HEADER_BYTES, ORPHAN_DIR, OrphanFile, OrphanFork, path_of, sealed_path_of, sealing_path_of,
};
use crate::disk::{Disk, DiskFile, OpenMode, remove_if_there};
use crate::error::StoreError;
use crate::journal::cut::Cut;
use crate::planted::{Bug, is_planted};
use crate::store::Store;

/// Bytes of the journal read at once: 1 MiB. Less costs calls, more only holds more memory.
const CHUNK_BYTES: usize = 1 << 20;

/// Bytes written between two syncs: a commit meanwhile queues behind no more. Doubled, it may wait
/// twice as long; halved, a tail is synced twice as often.
const SYNC_BYTES: u64 = 1 << 20;

/// Seals what `cut` will take from its partition's log: durable when it returns.
///
/// # Errors
/// [`StoreError::Corrupt`] if the tail cannot be read whole; what the operating system says, no
/// room above all. Nothing is changed then, and nothing is left behind.
pub(super) fn seal(store: &Store, cut: &Cut, plan: CutPlan) -> Result<OrphanFile, StoreError> {
    let dir = make_dir(&*store.disk(), store.dir())?;
    let mut writer = Writer::begin(store.disk(), &dir, cut)?;
    let upto = store.durable_end();
    let start = store.journal_start();
    let mut cursor = store.locate(cut.partition, cut.seq.next()).unwrap_or(start);
    while writer.last_seq < cut.end && cursor < upto {
        let chunk = store.read(cursor, upto, CHUNK_BYTES)?;
        for (place, segment) in &chunk.segments {
            let header = segment.header();
            if header.partition == cut.partition && header.first_seq > cut.seq {
                let path = place.file.path(store.files().dir());
                let damaged = |problem| StoreError::corrupt(&path, place.offset, problem);
                writer.check(segment).map_err(damaged)?;
                writer.push(segment)?;
            }
        }
        if chunk.next == cursor {
            break;
        }
        cursor = chunk.next;
    }
    if writer.last_seq != cut.end {
        let problem = format!(
            "records of {} after {} up to {} are missing",
            cut.partition, writer.last_seq, cut.end
        );
        return Err(StoreError::corrupt(store.files().dir(), 0, problem));
    }
    let epoch: Option<Epoch> = cut.reigns.last().map(|(epoch, _)| *epoch);
    writer.finish(OrphanFile {
        node: store.node_id(),
        partition: cut.partition,
        number: cut.number,
        fork: OrphanFork {
            epoch,
            seq: cut.seq,
            chain: cut.chain,
        },
        last_seq: cut.end,
        last_chain: ChainHash::START,
        superseded_by: plan.superseded_by,
        sealed_at_ms: plan.now_ms,
        segments: 0,
        records: cut.end.since(cut.seq),
        file_bytes: 0,
    })
}

fn make_dir(disk: &dyn Disk, data: &Path) -> Result<PathBuf, StoreError> {
    let dir = data.join(ORPHAN_DIR);
    let made = disk.create_dir_all(&dir).and_then(|()| disk.sync_dir(data));
    made.map_err(|error| StoreError::io("create", &dir, error))?;
    Ok(dir)
}

/// An orphan file being written.
struct Writer {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    partition: PartitionId,
    unfinished: PathBuf,
    file: Arc<dyn DiskFile>,
    at: u64,
    synced_upto: u64,
    segments: u64,
    last_seq: Seq,
    chain: ChainHash,
    is_finished: bool,
}

impl Writer {
    fn begin(disk: Arc<dyn Disk>, dir: &Path, cut: &Cut) -> Result<Self, StoreError> {
        let unfinished = sealing_path_of(dir, cut.partition);
        let opened = remove_if_there(&*disk, &unfinished)
            .and_then(|()| disk.open(&unfinished, OpenMode::CreateNew));
        let file = opened.map_err(|error| StoreError::io("seal", &unfinished, error))?;
        Ok(Self {
            disk,
            dir: dir.to_owned(),
            partition: cut.partition,
            unfinished,
            file,
            at: HEADER_BYTES,
            synced_upto: HEADER_BYTES,
            segments: 0,
            last_seq: cut.seq,
            chain: cut.chain,
            is_finished: false,
        })
    }

    /// Whether a segment continues what was written.
    fn check(&self, segment: &Segment) -> Result<(), String> {
        let header = segment.header();
        let expected = self.last_seq.next();
        if header.first_seq == expected && header.previous == self.chain {
            return Ok(());
        }
        let (partition, first, previous) = (self.partition, header.first_seq, header.previous);
        Err(format!(
            "segment {first} of {partition} continues chain {previous}, the tail goes on at \
             {expected} with {}",
            self.chain
        ))
    }

    fn push(&mut self, segment: &Segment) -> Result<(), StoreError> {
        let io = |error| StoreError::io("seal", &self.unfinished, error);
        self.file.write_at(segment.bytes(), self.at).map_err(io)?;
        self.at += segment.bytes().len() as u64;
        if self.at - self.synced_upto >= SYNC_BYTES {
            self.file.sync_data().map_err(io)?;
            self.synced_upto = self.at;
        }
        self.segments += 1;
        (self.last_seq, self.chain) = (segment.header().last_seq(), segment.chain());
        Ok(())
    }

    /// Makes the file durable under its name; segments, bytes and hash are those that were written.
    fn finish(mut self, header: OrphanFile) -> Result<OrphanFile, StoreError> {
        let header = OrphanFile {
            last_chain: self.chain,
            segments: self.segments,
            file_bytes: self.at,
            ..header
        };
        let mut path = sealed_path_of(&self.dir, self.partition);
        if is_planted(Bug::SealTwice) {
            path = path_of(&self.dir, self.partition, header.number);
        }
        let finish = || {
            if is_planted(Bug::CutBeforeSealed) {
                self.file.write_at(&header.encode(), 0)?;
                return self.disk.rename(&self.unfinished, &path);
            }
            // The segments are durable before a header says that they are all there.
            self.file.sync_data()?;
            self.file.write_at(&header.encode(), 0)?;
            self.file.sync_all()?;
            self.disk.rename(&self.unfinished, &path)?;
            self.disk.sync_dir(&self.dir)
        };
        finish().map_err(|error| StoreError::io("seal", &path, error))?;
        self.is_finished = true;
        Ok(header)
    }
}

impl Drop for Writer {
    /// What was given up takes no room.
    fn drop(&mut self) {
        if !self.is_finished {
            // If that fails as well, the next attempt removes it.
            remove_if_there(&*self.disk, &self.unfinished).ok();
        }
    }
}
