//! openraft's own suite over our log and our state, on a disk in memory.

use std::path::Path;
use std::sync::Arc;

use domicile_proto::NodeId;
use domicile_storage::Disk;
use domicile_storage::control_log::{ControlLog, Expected};
use openraft::testing::{StoreBuilder, Suite};

use super::super::log::DurableLog;
use super::super::raft::{StorageError, TypeConfig};
use super::super::state::State;
use super::rig::{Book, empty_disk};

struct Fresh;

impl StoreBuilder<TypeConfig, DurableLog, State<Book>> for Fresh {
    async fn build(&self) -> Result<((), DurableLog, State<Book>), StorageError> {
        let disk: Arc<dyn Disk> = Arc::new(empty_disk());
        let (dir, node) = (Path::new("/data/control"), NodeId::new(1).unwrap());
        let log = ControlLog::open(&disk, dir, node, Expected::New).unwrap();
        let state = State::open(log.snapshots(), Book::default()).unwrap();
        Ok(((), DurableLog::new(log), state))
    }
}

#[test]
fn openrafts_suite_passes() {
    Suite::test_all(Fresh).unwrap();
}
