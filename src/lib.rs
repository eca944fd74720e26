//! Domicile: a multi-region key-value store in which every key has a home region.
//!
//! Writes are sequenced and acknowledged in the key's home region at local-disk speed and shipped
//! to the other regions as checksummed log segments. What the loss of a region may cost (RPO) is
//! chosen per keyspace: `async`, `semi-sync` or `sync`.
//!
//! ```
//! # #[tokio::main] async fn main() -> Result<(), domicile::Error> {
//! # let directory = tempfile::tempdir().expect("a temporary directory");
//! # let data = directory.path().join("data");
//! let node = domicile::Node::builder(data).keyspace("users", |_| {}).open().await?;
//! let users = node.keyspace("users")?;
//! let receipt = users.put("alice/name", "Ada").await?;
//! assert_eq!(receipt.achieved, domicile::AckLevel::Async);
//! let entry = users.get("alice/name").await?.expect("just written");
//! assert_eq!(entry.value, "Ada");
//! let renamed = users.put("alice/name", "Augusta").if_version(entry.version).await;
//! assert!(renamed.is_ok());
//! assert_eq!(users.scan("alice/").collect().await?.len(), 1);
//! let mut changes = users.watch().prefix("alice/").start()?;
//! users.delete("alice/name").await?;
//! let change = changes.next().await.expect("a watch goes on")?;
//! assert_eq!(change.operations, [domicile::Operation::Delete { key: "alice/name".into() }]);
//! node.close().await?;
//! # Ok(()) }
//! ```
//!
//! Map:
//! - this file: the embedded API, re-exported
//! - `main.rs`: the `domicile` binary (feature `cli`)
//!
//! This crate never contains logic of its own.

pub use domicile_proto::{
    AckLevel, BufferLimit, ErrorKind, Expiry, Failover, Hlc, Keyspace, KeyspaceId, Name, NodeId,
    OnTimeout, Operation, PartitionId, Placement, Position, Reason, RegionId, RequestId,
    ResumeToken, ResumeTokenError, RpoLimit, Seq, Version,
};
pub use domicile_replication::node::{
    KeptWrite, KeyspaceHandle, Node, NodeBuilder, Read, Scan, Watch, Write,
};
pub use domicile_replication::{
    Accepted, BufferNumber, BufferPage, BufferStanding, BufferedWrite, RefusedWrite, Unapplied,
    Written,
};
pub use domicile_replication::{
    Alteration, Change, Changes, Consistency, ControlOptions, Detail, Direction, Engine, Entry,
    Error, Expected, Forwarding, GivenUp, Haste, HomeChange, NodeOptions, NodeStatus, OperatorWord,
    OrphanRecord, Precondition, ReadAnswer, ReadCall, Receipt, RegionSpec, ScanCall, ScanPage,
    SessionMark, Switchover, VersionedPolicy, WatchCall, WatchFrom, WatchKeys, WatchMessage,
    WatchMessages, WatchStatus, WriteCall,
};
pub use domicile_replication::{
    Orphan, OrphanCounts, OrphanDiscard, OrphanFile, OrphanFileId, OrphanFileStatus, OrphanFork,
    OrphanListing, OrphanNumber, OrphanReplay, OrphanShow, OrphanShown, OrphanState, OrphanStream,
    ReplayOutcome, ReplayStep, orphan_kind, orphan_state,
};
