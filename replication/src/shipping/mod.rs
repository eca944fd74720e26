//! A stream of segments from a home to a copy: both of its ends.
//!
//! ```text
//!   home                                              copy
//!   journal -> cursor -> frame (zstd?) === WAN ===> checks -> core -> store
//!   core <- ack            <============ WAN === received at once, durable after fdatasync
//! ```

mod attach;
mod compression;
mod cursor;
mod pace;
mod receiver;
mod shipper;

pub(crate) use receiver::Receiver;
pub(crate) use shipper::{PROTOCOL, run as run_shipper};
