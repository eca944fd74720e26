//! Files as the store sees them: a narrow door to the operating system, and the same door to a disk
//! in memory on which power loss, torn writes and failing syncs happen on request.

mod access;
mod faults;
mod image;
mod memory;
mod os;

pub use access::{Disk, DiskFile, DiskLock, LockOutcome, OpenMode};
pub use memory::MemoryDisk;
pub use os::OsDisk;

#[cfg(test)]
mod memory_tests;
