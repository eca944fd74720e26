//! The request ids that a home remembers, read back at open from snapshots and the journal's tail.
//!
//! **Owns**: one pass over the tail for all partitions homed here.
//! **Does not own**: the table itself (the core).

use std::collections::BTreeMap;

use domicile_core::{REQUESTS_MAX, RememberedRequest};
use domicile_proto::{PartitionId, Seq};
use domicile_storage::{KeptRequest, Store, StoreError};

/// Bytes a read of the journal asks for: large enough to stream, small enough to stay in cache.
const READ_BYTES: usize = 1 << 20;

/// The newest requests of each of `tails` (partition, last sequence number).
pub(crate) fn remembered_requests(
    store: &Store,
    tails: &BTreeMap<PartitionId, Seq>,
) -> Result<BTreeMap<PartitionId, Vec<RememberedRequest>>, StoreError> {
    let first_wanted = |last: Seq| Seq::new(last.get().saturating_sub(REQUESTS_MAX as u64) + 1);
    let starts = tails.iter().filter(|(_, last)| **last > Seq::NONE);
    // What was cut from the log is in a snapshot, as far as it is remembered.
    let first_there = |id, last| first_wanted(last).max(store.log_start(id));
    let start = starts
        .filter_map(|(id, last)| store.locate(*id, first_there(*id, *last)))
        .min();
    let mut requests: BTreeMap<PartitionId, Vec<RememberedRequest>> = BTreeMap::new();
    for (id, last) in tails {
        let kept = store.snapshot_requests(*id)?;
        let wanted = kept
            .into_iter()
            .filter(|kept| kept.seq >= first_wanted(*last));
        requests.insert(*id, wanted.map(remembered).collect());
    }
    let Some(mut place) = start else {
        return Ok(requests);
    };
    let end = store.durable_end();
    while place < end {
        // Whose the damage is is out of service, or a snapshot stands for it.
        let chunk = store.read_past_damage(place, end, READ_BYTES)?;
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
            let known = requests.entry(header.partition).or_default();
            let covered = known.last().map_or(Seq::NONE, |last| last.seq);
            let records = records.iter().filter(|(seq, _)| *seq > covered);
            let kept = records.filter_map(|(seq, record)| KeptRequest::of(*seq, record));
            known.extend(kept.map(remembered));
        }
    }
    Ok(requests)
}

fn remembered(kept: KeptRequest) -> RememberedRequest {
    let KeptRequest {
        request_id,
        seq,
        fingerprint,
        hlc,
        level,
    } = kept;
    RememberedRequest {
        request_id,
        seq,
        fingerprint,
        hlc,
        level,
    }
}
