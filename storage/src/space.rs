//! Room on the device: writes are refused while there is too little, before a commit meets the end.
//!
//! **Owns**: the low-water mark, the reserve, the verdict and when it is taken back.
//! **Does not own**: when the room is looked at (the node's keeper), who is refused (the caller).
//!
//! ```text
//! free   |--refuse, give the reserve up--|--------as before--------|--accept, reserve again-->
//!        0                           low water                2 x low water
//! ```
//! What is queued when the verdict falls is still committed: the low-water mark is several journal
//! files, and the reserve is given up for it.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::disk::{Disk, OpenMode, remove_if_there};
use crate::error::StoreError;
use crate::store::Store;

/// Room that is held back in a data directory, and given up when there is no other.
const RESERVE_FILE: &str = "reserve";

/// The low-water mark in journal files: one being written, one made ahead, one for what is queued,
/// one for a flush of the engine. Doubled, a node stops with twice as much room left.
const LOW_WATER_FILES: u64 = 4;

/// How much more room than the low-water mark ends a refusal: at 1 it would begin again at once.
const RESUME_FACTOR: u64 = 2;

/// The verdict.
#[derive(Debug, Default)]
pub(crate) struct Space {
    is_low: AtomicBool,
    /// As of the last look.
    free_bytes: AtomicU64,
}

/// What a look at the device found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpaceReport {
    /// Bytes that may still be written, the reserve not counted.
    pub free_bytes: u64,
    /// Below it writes are refused.
    pub low_water_bytes: u64,
    /// Whether they are refused now.
    pub is_low: bool,
    /// Whether that is news.
    pub has_changed: bool,
}

impl Store {
    /// Looks how much room there is, and refuses writes or accepts them again. To be called every
    /// second or so: what may be written in between is to fit into the low-water mark.
    ///
    /// # Errors
    /// What the operating system says; the last verdict stays.
    pub fn look_at_space(&self) -> Result<SpaceReport, StoreError> {
        let free_bytes = self.free_bytes()?;
        let low_water_bytes = self.low_water_bytes();
        let space = self.space();
        let was_low = space.is_low.load(Ordering::Relaxed);
        let is_low = match was_low {
            true => free_bytes < RESUME_FACTOR * low_water_bytes,
            false => free_bytes < low_water_bytes,
        };
        space.free_bytes.store(free_bytes, Ordering::Relaxed);
        space.is_low.store(is_low, Ordering::Release);
        let reserve = self.dir().join(RESERVE_FILE);
        let disk = self.disk();
        let kept = match is_low {
            true => remove_if_there(&*disk, &reserve),
            // While it is being made it takes room: only where plenty is left.
            false if free_bytes >= RESUME_FACTOR * low_water_bytes => {
                keep(&*disk, &reserve, self.files().file_bytes())
            }
            false => Ok(()),
        };
        kept.map_err(|error| StoreError::io("reserve room in", &reserve, error))?;
        Ok(SpaceReport {
            free_bytes,
            low_water_bytes,
            is_low,
            has_changed: is_low != was_low,
        })
    }

    /// Whether a write may be begun.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`] while there is too little room.
    pub fn check_space(&self) -> Result<(), StoreError> {
        if !self.space().is_low.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(StoreError::NoSpace {
            path: self.dir().to_owned(),
            free_bytes: self.space().free_bytes.load(Ordering::Relaxed),
            limit: self.low_water_bytes(),
            resume_bytes: RESUME_FACTOR * self.low_water_bytes(),
        })
    }

    fn low_water_bytes(&self) -> u64 {
        LOW_WATER_FILES * self.files().file_bytes()
    }
}

fn keep(disk: &dyn Disk, path: &Path, bytes: u64) -> io::Result<()> {
    if disk.exists(path) {
        return Ok(());
    }
    disk.open(path, OpenMode::CreateNew)?.allocate(bytes)
}
