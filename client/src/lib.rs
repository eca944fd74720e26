//! The Rust client of Domicile: keys, pipelined writes and status over gRPC.
//!
//! ```no_run
//! # async fn example() -> Result<(), domicile_client::ClientError> {
//! let client = domicile_client::Client::new("http://127.0.0.1:7400")?;
//! let users = client.keyspace("users").session();
//! let receipt = users.put("alice/name", "Ada").await?;
//! let entry = users.get("alice/name").await?;
//! assert_eq!(entry.map(|entry| entry.version), Some(receipt.version));
//! # Ok(())
//! # }
//! ```
//!
//! Map:
//! - `options`: where to connect, and every limit that tonic leaves open
//! - `connection`: the client itself, its channels, which of them is in use
//! - `call`: one call from its deadline to its answer: attempts, back-off, what an error means
//! - `keyspace`: the handle of a keyspace
//! - `write`: put, delete, compare-and-set and batch as builders
//! - `read`: get and scan as builders
//! - `stream`: pipelined writes
//! - `watch`: changes as they become visible, going on by itself
//! - `backup`: a backup of a node, piece by piece
//! - `orphans`: what a node answers about its orphans
//! - `session`: the positions that a session must not read before
//! - `receipt`: what a write was told, what a read found
//! - `request_id`: ids under which a write is done at most once
//! - `error`: what went wrong, and what the caller can do next
//!
//! This crate never sends a write without a request id and never calls a write failed that may
//! have been done.

mod backup;
mod call;
mod connection;
mod error;
mod keyspace;
mod options;
mod orphans;
mod read;
mod receipt;
mod request_id;
mod session;
mod stream;
mod watch;
mod write;

#[cfg(test)]
mod fuzz_tests;

pub use backup::BackupPieces;
pub use connection::Client;
pub use domicile_proto::{ResumeToken, v1};
pub use error::ClientError;
pub use keyspace::KeyspaceClient;
pub use options::{ClientOptions, Retry};
pub use orphans::OrphanAnswers;
pub use read::{Consistency, Get, Scan};
pub use receipt::{Accepted, Entry, Page, PageToken, ReadAnswer, Receipt, Written};
pub use request_id::next_request_id;
pub use session::{Session, SessionMark};
pub use stream::{Completed, StreamWrite, WriteReceiver, WriteSender};
pub use watch::{Change, Changes, Watch, WatchFrom};
pub use write::{Batch, OrKept, Write};
