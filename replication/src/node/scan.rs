//! Reads of a range: pages merged from the partitions that the range touches.
//!
//! **Owns**: choosing the partitions, merging their rows in key order, where the next page starts.
//! **Does not own**: reading one partition here (storage) or elsewhere (peers).

use std::ops::Bound;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use domicile_proto::{Keyspace, PartitionId, Position, Reason};

use super::interior::{NodeCore, Route, TIMEOUT_DEFAULT};
use super::read::entry_of;
use crate::call::{Direction, Entry, Forwarding, ScanCall, ScanPage, SessionMark};
use crate::driver::Slot;
use crate::error::Error;

/// Most rows a page. Its entries are held in memory once a partition.
const ROWS_MAX: usize = 10_000;

/// Fewest rows asked of each partition when a page is merged from several: few rows are spread
/// unevenly.
const SHARE_ROWS_MIN: usize = 32;

/// Of its even share of a page a partition is asked for five quarters: the page ends where the
/// first partition has no more, and what the others have beyond is read again for the next one.
/// With 1,000 rows of eight partitions a page is full nearly always; at twice the share half of
/// what is read is for nothing.
const SHARE_QUARTERS: usize = 5;

/// A range of one partition.
#[derive(Debug, Clone)]
pub(crate) struct PartitionScan {
    pub(crate) partition: PartitionId,
    /// Inclusive; empty: from the first.
    pub(crate) from: Bytes,
    /// Exclusive; empty: to the last.
    pub(crate) upto: Bytes,
    /// Strictly after this in the direction of the scan; empty: from the bounds.
    pub(crate) after: Bytes,
    pub(crate) direction: Direction,
    pub(crate) limit: usize,
}

/// Rows of one partition.
#[derive(Debug)]
pub(crate) struct PartitionRows {
    pub(crate) entries: Vec<Entry>,
    pub(crate) resume_after: Option<Bytes>,
    pub(crate) position: Option<Position>,
    pub(crate) staleness: Duration,
}

impl NodeCore {
    /// Reads one page.
    pub(crate) async fn scan(&self, call: ScanCall) -> Result<ScanPage, Error> {
        self.check_residency(&call.keyspace)?;
        if !(1..=ROWS_MAX).contains(&call.limit) {
            let message = format!("scan limit {}: 1 to {ROWS_MAX}", call.limit);
            return Err(Error::new(Reason::InvalidArgument, message));
        }
        let (from, upto) = bounds(&call);
        let partitions = partitions_of(&call.keyspace, &call.prefix);
        let share = match partitions.len() {
            0 | 1 => call.limit,
            several => (SHARE_QUARTERS * call.limit / (4 * several))
                .max(SHARE_ROWS_MIN)
                .min(call.limit),
        };
        let mut parts = Vec::with_capacity(partitions.len());
        for partition in partitions {
            let scan = PartitionScan {
                partition,
                from: from.clone(),
                upto: upto.clone(),
                after: call.resume_after.clone().unwrap_or_default(),
                direction: call.direction,
                limit: share,
            };
            parts.push((partition, self.scan_partition(&call, &scan).await?));
        }
        Ok(merge(parts, call.direction, call.limit))
    }

    async fn scan_partition(
        &self,
        call: &ScanCall,
        scan: &PartitionScan,
    ) -> Result<PartitionRows, Error> {
        let timeout = call.timeout.unwrap_or(TIMEOUT_DEFAULT);
        if self
            .may_answer(scan.partition, &call.consistency, timeout)
            .await?
            && let Some(slot) = self.driver.slot(scan.partition)
        {
            return self.scan_slot(&slot, scan);
        }
        match self.route(scan.partition, call.forwarding)? {
            Route::Here(slot) => self.scan_slot(&slot, scan),
            Route::There(link) => {
                let from = self.topology.own.name.as_str();
                let seen = call.consistency.seen_of(scan.partition);
                link.forward_scan(from, scan, seen, timeout).await
            }
        }
    }

    /// Reads a range of a partition homed here, for a peer.
    pub(crate) fn scan_partition_at_home(
        &self,
        scan: &PartitionScan,
        seen: Option<Position>,
    ) -> Result<PartitionRows, Error> {
        if !(1..=ROWS_MAX).contains(&scan.limit) {
            let message = format!("scan limit {}: 1 to {ROWS_MAX}", scan.limit);
            return Err(Error::new(Reason::InvalidArgument, message));
        }
        match self.route(scan.partition, Forwarding::LocalOnly)? {
            Route::Here(slot) => {
                slot.check_reads_open(self.clock.now())?;
                seen.map_or(Ok(()), |seen| self.check_session(&slot, seen))?;
                self.scan_slot(&slot, scan)
            }
            Route::There(_) => Err(Error::new(Reason::WrongHome, "the home is another region")),
        }
    }

    fn scan_slot(&self, slot: &Slot, scan: &PartitionScan) -> Result<PartitionRows, Error> {
        let staleness = self.staleness(slot);
        let inclusive = |key: &'_ Bytes| !key.is_empty();
        let mut from = match inclusive(&scan.from) {
            true => Bound::Included(&scan.from[..]),
            false => Bound::Unbounded,
        };
        let mut upto = match inclusive(&scan.upto) {
            true => Bound::Excluded(&scan.upto[..]),
            false => Bound::Unbounded,
        };
        if !scan.after.is_empty() {
            match scan.direction {
                Direction::Forward if scan.after >= scan.from => {
                    from = Bound::Excluded(&scan.after[..]);
                }
                Direction::Backward if scan.upto.is_empty() || scan.after < scan.upto => {
                    upto = Bound::Excluded(&scan.after[..]);
                }
                _ => {}
            }
        }
        let read = slot.cells.scan(from, upto, scan.direction, scan.limit)?;
        let entries = read
            .rows
            .into_iter()
            .filter_map(|(key, cell)| entry_of(key, cell));
        Ok(PartitionRows {
            entries: entries.collect(),
            resume_after: read.resume_after,
            position: slot.position(read.applied_upto),
            staleness,
        })
    }
}

/// The tightest bounds of a call: its own and those of its prefix.
fn bounds(call: &ScanCall) -> (Bytes, Bytes) {
    let prefix_end = end_of_prefix(&call.prefix);
    let from = call.from.clone().max(call.prefix.clone());
    let upto = match (call.upto.is_empty(), prefix_end.is_empty()) {
        (true, _) => prefix_end,
        (false, true) => call.upto.clone(),
        (false, false) => call.upto.clone().min(prefix_end),
    };
    (from, upto)
}

/// The first key after all that start with `prefix`; empty if there is none.
fn end_of_prefix(prefix: &Bytes) -> Bytes {
    let keep = prefix.iter().rposition(|byte| *byte != 0xff);
    let Some(keep) = keep else {
        return Bytes::new();
    };
    let mut end = BytesMut::from(&prefix[..keep]);
    end.put_u8(prefix[keep] + 1);
    end.freeze()
}

/// The partitions that keys with this prefix can be in: one, if the prefix holds a whole group.
pub(crate) fn partitions_of(keyspace: &Keyspace, prefix: &[u8]) -> Vec<PartitionId> {
    if prefix.contains(&keyspace.delimiter) {
        return vec![keyspace.partition_of(prefix)];
    }
    keyspace.partitions()
}

/// One page out of the parts. A part that was cut short is known only up to where it was cut, so no
/// row beyond the nearest cut may be told.
fn merge(parts: Vec<(PartitionId, PartitionRows)>, direction: Direction, limit: usize) -> ScanPage {
    let earlier = |a: &Bytes, b: &Bytes| match direction {
        Direction::Forward => a.cmp(b),
        Direction::Backward => b.cmp(a),
    };
    let cuts = parts
        .iter()
        .filter_map(|(_, part)| part.resume_after.clone());
    let horizon = cuts.min_by(|a, b| earlier(a, b));
    let staleness = parts
        .iter()
        .map(|(_, part)| part.staleness)
        .max()
        .unwrap_or_default();
    let mark = |(partition, part): &(PartitionId, PartitionRows)| {
        let position = part.position?;
        Some(SessionMark {
            partition: *partition,
            position,
        })
    };
    let positions = parts.iter().filter_map(mark).collect();
    let mut entries: Vec<Entry> = parts
        .into_iter()
        .flat_map(|(_, part)| part.entries)
        .collect();
    entries.sort_unstable_by(|a, b| earlier(&a.key, &b.key));
    if let Some(horizon) = &horizon {
        entries.retain(|entry| earlier(&entry.key, horizon).is_le());
    }
    let overflows = entries.len() > limit;
    entries.truncate(limit);
    let resume_after = match entries.last() {
        Some(last) if overflows => Some(last.key.clone()),
        _ => horizon,
    };
    ScanPage {
        entries,
        resume_after,
        positions,
        staleness,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_the_first_key_after_it() {
        let end = |prefix: &'static [u8]| end_of_prefix(&Bytes::from_static(prefix));
        assert_eq!(end(b"abc"), Bytes::from_static(b"abd"));
        assert_eq!(end(b"ab\xff"), Bytes::from_static(b"ac"));
        assert_eq!(end(b"\xff\xff"), Bytes::new());
        assert_eq!(end(b""), Bytes::new());
    }

    #[test]
    fn a_cut_part_hides_what_lies_beyond_its_cut() {
        let version: domicile_proto::Version = "0.1.1.1".parse().unwrap();
        let entry = |key: &'static str| Entry {
            key: Bytes::from_static(key.as_bytes()),
            value: Bytes::new(),
            version,
            written_at_ms: 0,
            expires_at_ms: None,
        };
        let part = |bucket, keys: &[&'static str], cut: Option<&'static str>| {
            let partition = PartitionId {
                keyspace: domicile_proto::KeyspaceId::new(1),
                region: domicile_proto::RegionId::new(1).unwrap(),
                bucket: domicile_proto::Bucket::new(bucket),
            };
            let rows = PartitionRows {
                entries: keys.iter().map(|key| entry(key)).collect(),
                resume_after: cut.map(|cut| Bytes::from_static(cut.as_bytes())),
                position: None,
                staleness: Duration::ZERO,
            };
            (partition, rows)
        };
        let keys = |page: &ScanPage| -> Vec<Bytes> {
            page.entries.iter().map(|entry| entry.key.clone()).collect()
        };
        let parts = vec![part(0, &["a", "c"], Some("c")), part(1, &["b", "d"], None)];
        let page = merge(parts, Direction::Forward, 10);
        assert_eq!(keys(&page), ["a", "b", "c"]);
        assert_eq!(page.resume_after, Some(Bytes::from_static(b"c")));
        let parts = vec![part(0, &["c", "a"], None), part(1, &["d", "b"], Some("b"))];
        let page = merge(parts, Direction::Backward, 2);
        assert_eq!(keys(&page), ["d", "c"]);
        assert_eq!(page.resume_after, Some(Bytes::from_static(b"c")));
    }
}
