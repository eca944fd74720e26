//! Watches: the changes of a keyspace, from a position on, out of this node's own journal.
//!
//! ```text
//!   partition shows more, or has more durable
//!        |  signal (one a watch, coalesced)
//!        v
//!   pump: room in the outlet? -> cursor: read the journal, keep what is visible and wanted
//!        |                                                     (nothing is held between reads)
//!        v
//!   outlet: few messages, bounded -> stream: whoever watches
//! ```
//!
//! A watch does not pin the journal: what is cut before it is read is told as `COMPACTED`.

mod beginning;
mod call;
mod changes;
mod count;
mod cursor;
mod cursor_read;
mod outlet;
mod pump;

pub use call::{Change, WatchCall, WatchFrom, WatchKeys, WatchMessage};
pub use changes::Changes;
pub(crate) use count::WatchCount;
pub use count::WatchStatus;
pub use outlet::WatchMessages;
