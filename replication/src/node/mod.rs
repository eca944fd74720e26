//! The node: the embedded database, and what the server's doors stand on.

mod builder;
mod chase;
mod close;
mod decide;
mod digest_round;
mod digests;
mod embedded;
mod expiry;
mod failover;
mod handle;
mod homes;
mod interior;
mod keeper;
mod keyspaces;
mod open;
mod read;
mod regions;
mod request_id;
mod scan;
mod scrub;
mod session;
pub mod status;
mod watch;
mod write;

pub use builder::NodeBuilder;
pub use embedded::Node;
pub use failover::FailoverPlan;
pub use handle::{KeptWrite, KeyspaceHandle, Read, Scan, Write};
pub use homes::{GivenUp, HomeChange, OrphanRecord, Switchover, orphan_state};
pub(crate) use interior::NodeCore;
pub use keyspaces::{Alteration, VersionedPolicy};
pub(crate) use open::AHEAD;
pub(crate) use scan::{PartitionRows, PartitionScan, partitions_of};
pub use watch::Watch;
pub(crate) use write::{CheckedWrite, one_partition};
