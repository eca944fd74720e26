//! What a collector asks a node for over HTTP: `/metrics` in numbers, `/healthz` in a word.
//!
//! docs/metrics.md lists every metric; a test compares it with what a node answers.

mod door;
mod page;

#[cfg(test)]
mod tests;

pub(crate) use door::HttpDoor;
