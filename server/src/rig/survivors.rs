//! What the surviving regions have of a keyspace, once nothing arrives any more.
//!
//! **Owns**: waiting until they are quiet, reading their rows, reading their journals.
//! **Does not own**: the comparison with what was acknowledged (`ledger`).
//!
//! There are two answers, because a copy does not show a write before it knows that the write met
//! its level: what a survivor *holds* is in its journal, and a successor of the lost home would
//! have it; what it *shows* a reader now may end one message of the lost home earlier.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use domicile_proto::{KeyspaceId, Name, Operation, Seq, Version};
use domicile_storage::disk::OsDisk;
use domicile_storage::engine::Direction;
use domicile_storage::{EngineChoice, PartitionCells, Store, StoreOptions};

use super::door::Door;
use super::keys::Keys;
use super::ledger::{Held, Holdings};
use super::stop::Stop;

/// The pause between two readings that must agree. In it everything that a proxy or a socket could
/// still deliver arrives, as the links of the lost region are cut. Doubled, a run takes as much
/// longer.
const PAUSE: Duration = Duration::from_millis(200);

/// The most readings of one survivor: 10 s and what the readings take. Doubled, a survivor that
/// never comes to rest is reported twice as late.
const READINGS_MAX: usize = 50;

/// Rows read at once; more would only hold more in memory.
const PAGE_ROWS: usize = 1024;

/// The rows that a server shows its readers, read again until two readings agree.
///
/// # Errors
/// No answer, a row that cannot be, no rest, or an interrupt.
pub fn shown_when_quiet(
    endpoint: &str,
    keyspace: &str,
    keys: &Keys,
    stop: &Stop,
) -> anyhow::Result<Holdings> {
    let door = Door::new(endpoint)?;
    let mut before = None;
    for _ in 0..READINGS_MAX {
        let mut holdings = Holdings::new();
        for row in door.rows_here(keyspace)? {
            let version: Version = row.version.parse()?;
            add(&mut holdings, keys, &row.key, Some(&row.value), version.seq);
        }
        if before.as_ref() == Some(&holdings) {
            return Ok(holdings);
        }
        before = Some(holdings);
        stop.sleep(PAUSE)?;
    }
    anyhow::bail!("{endpoint} is not quiet after {READINGS_MAX} readings")
}

/// What the journal in `data` holds of a keyspace, and the snapshots for which it was cut. Its
/// server must have ended.
///
/// # Errors
/// Journal or snapshots cannot be read.
pub fn held_in_journal(data: &Path, keyspace: &Name, keys: &Keys) -> anyhow::Result<Holdings> {
    let options = StoreOptions {
        // The journal alone decides; the engine only serves it.
        engine: EngineChoice::Memory,
        ..StoreOptions::default()
    };
    let opened = Store::open(Arc::new(OsDisk::new()), data, options);
    let (store, recovery) = opened.with_context(|| format!("cannot open {}", data.display()))?;
    let mut holdings = Holdings::new();
    for recovered in &recovery.partitions {
        if recovered.partition.keyspace != KeyspaceId::of(keyspace) {
            continue;
        }
        let start = store.log_start(recovered.partition);
        if start > Seq::FIRST {
            add_cells(&mut holdings, keys, &store.cells(recovered.partition))?;
        }
        for record in store.records(recovered.partition, start) {
            let (_, seq, record) = record?;
            for operation in record.body.operations()? {
                match &operation {
                    Operation::Put { key, value, .. } => {
                        add(&mut holdings, keys, key, Some(value), seq);
                    }
                    Operation::Delete { key } => add(&mut holdings, keys, key, None, seq),
                }
            }
        }
    }
    store.close()?;
    Ok(holdings)
}

/// What was restored and replayed: the last visible write of each key.
fn add_cells(holdings: &mut Holdings, keys: &Keys, cells: &PartitionCells) -> anyhow::Result<()> {
    let mut after: Option<Bytes> = None;
    loop {
        let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let page = cells.scan(from, Bound::Unbounded, Direction::Forward, PAGE_ROWS)?;
        for (key, cell) in &page.rows {
            add(holdings, keys, key, cell.value.as_deref(), cell.version.seq);
        }
        match page.resume_after {
            Some(key) => after = Some(key),
            None => return Ok(()),
        }
    }
}

/// Later writes come later, so the last one of a key stays.
fn add(holdings: &mut Holdings, keys: &Keys, key: &[u8], value: Option<&[u8]>, seq: Seq) {
    if let Some(index) = keys.index_of(key) {
        let number = value.and_then(|value| keys.number_of(index, value));
        holdings.insert(index, Held { number, seq });
    }
}

/// What several survivors have, by region.
pub type Survivors = BTreeMap<String, Holdings>;
