//! The request ids that a home remembers, read back from the journal's tail at open.
//!
//! **Owns**: one pass over the tail for all partitions homed here.
//! **Does not own**: the table itself (the core).

use std::collections::BTreeMap;

use domicile_core::{REQUESTS_MAX, RememberedRequest};
use domicile_proto::{PartitionId, RecordKind, Seq};
use domicile_storage::{Store, StoreError};

/// Bytes a read of the journal asks for: large enough to stream, small enough to stay in cache.
const READ_BYTES: usize = 1 << 20;

/// The newest requests of each of `tails` (partition, last sequence number).
pub(crate) fn remembered_requests(
    store: &Store,
    tails: &BTreeMap<PartitionId, Seq>,
) -> Result<BTreeMap<PartitionId, Vec<RememberedRequest>>, StoreError> {
    let first_wanted = |last: Seq| Seq::new(last.get().saturating_sub(REQUESTS_MAX as u64) + 1);
    let starts = tails.iter().filter(|(_, last)| **last > Seq::NONE);
    let start = starts
        .filter_map(|(id, last)| store.locate(*id, first_wanted(*last)))
        .min();
    let mut requests: BTreeMap<PartitionId, Vec<RememberedRequest>> = BTreeMap::new();
    let Some(mut place) = start else {
        return Ok(requests);
    };
    let end = store.durable_end();
    while place < end {
        let chunk = store.read(place, end, READ_BYTES)?;
        if chunk.next == place {
            break;
        }
        place = chunk.next;
        for (_, segment) in &chunk.segments {
            let header = segment.header();
            let Some(last) = tails.get(&header.partition) else {
                continue;
            };
            if header.last_seq() < first_wanted(*last) {
                continue;
            }
            let records = segment
                .records()
                .map_err(|source| StoreError::InvalidRecord {
                    partition: header.partition,
                    seq: header.first_seq,
                    source,
                })?;
            let remembered = requests.entry(header.partition).or_default();
            for (seq, record) in records {
                if record.head.kind == RecordKind::Write {
                    remembered.push(RememberedRequest {
                        request_id: record.head.request_id,
                        seq,
                        fingerprint: record.body.fingerprint(),
                        hlc: record.head.hlc,
                        level: record.head.level,
                    });
                }
            }
        }
    }
    Ok(requests)
}
