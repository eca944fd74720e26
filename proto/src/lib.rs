//! The words of Domicile: checked names, positions, codecs and error reasons of every crate.
//!
//! Map:
//! - [`identity`]: who and where: regions, nodes, keyspaces, partitions, request ids
//! - [`position`]: where in a log: sequence numbers, epochs, positions, versions
//! - [`hash`]: the one 64-bit hash of the formats
//! - [`hlc`]: the hybrid logical clock value and the clock that stamps it
//! - [`level`]: acknowledgement levels, what is asked and what is achieved
//! - [`keyspace`]: the validated policy of a keyspace and the route from a key to its partition
//! - [`record`]: one write as bytes
//! - [`expiry`]: when a value ends
//! - [`resume`]: where a watch goes on: one position a partition
//! - [`segment`]: the records of one partition in one group commit as one checksummed block
//! - [`limits`]: the sizes that every door enforces
//! - [`reason`]: stable reason codes of errors
//! - `hostile`: bytes that nobody vouches for, for tests (feature `hostile`)
//! - `wire`: reading fields from bytes that nobody vouches for
//! - `v1`: the generated gRPC messages (feature `grpc`)
//!
//! This crate never does IO, reads no clock and starts no thread.

pub mod expiry;
pub mod hash;
pub mod hlc;
#[cfg(any(test, feature = "hostile"))]
pub mod hostile;
pub mod identity;
pub mod keyspace;
pub mod level;
pub mod limits;
pub mod position;
pub mod reason;
pub mod record;
pub mod resume;
pub mod segment;
#[cfg(feature = "grpc")]
pub mod v1;

mod wire;

#[cfg(test)]
mod fuzz_tests;

pub use expiry::Expiry;
pub use hlc::{Hlc, HlcClock};
pub use identity::{Bucket, KeyspaceId, Name, NodeId, PartitionId, RegionId, RequestId};
pub use keyspace::{BufferLimit, Failover, Keyspace, OnTimeout, Placement, RpoLimit};
pub use level::{Achieved, AckLevel};
pub use position::{Epoch, Position, Seq, Version};
pub use reason::{ErrorKind, Reason};
pub use record::{Operation, OperationRef, Record, RecordHead, RecordKind};
pub use resume::{ResumeToken, ResumeTokenError};
pub use segment::{ChainHash, Segment, SegmentBuilder, SegmentHeader};
pub use wire::WireError;
