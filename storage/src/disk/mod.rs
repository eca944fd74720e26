//! Files as the store sees them: a narrow door to the operating system, and the same door to a disk
//! in memory on which power loss, torn writes and failing syncs happen on request.

mod access;
mod faults;
mod image;
mod memory;
mod os;
mod unreadable;
mod whole;

pub use access::{Disk, DiskFile, DiskLock, LockOutcome, OpenMode};
pub use memory::MemoryDisk;
pub use os::OsDisk;
pub(crate) use unreadable::read_around;
pub(crate) use whole::{read_if_there, remove_if_there, replace};

#[cfg(test)]
mod memory_tests;
