//! Real processes: killed, and fed from files. Every acknowledged write must be there afterwards.

#![allow(
    clippy::unwrap_used,
    reason = "what cannot go on fails where it stands"
)]

mod backup;
mod import;
mod kill;
mod process;
