//! Writes that were accepted for a home that cannot be reached, kept until it can.
//!
//! **Owns**: the file that keeps them, its format, its recovery; which of them are still kept.
//! **Does not own**: when a write is kept, in what order they are sent, what their home says (the
//! node).
//!
//! ```text
//! <data>/buffer/writes        what was accepted, and what became of it; appended to
//! <data>/buffer/writes.new    the next one, before it takes its place
//!
//! accept:  one frame | fdatasync | told
//! settle:  one frame | fdatasync
//! rewrite: writes.new whole | synced | renamed | directory synced      once half of it is settled
//! ```
//! A frame is begun only once the one before it is synced. One that is damaged with an intact one
//! behind it was told of: the buffer is then out of service, and never taken for an empty one. One
//! that is damaged at the end was not, and is cut off. What keeps its length but not its bytes on
//! the very last frame cannot be told from that: the price of appending without a second sync.

mod entry;
mod file;
mod frame;
mod scan;

#[cfg(test)]
mod tests;

pub use entry::{BufferEvent, BufferNumber, BufferedWrite, NewBuffered, RefusedWrite};
pub(crate) use file::BUFFER_DIR;
pub use file::WriteBuffer;
